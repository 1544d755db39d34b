"""Foreign clients against the real daemon: boto3, awscli, rclone, s3cmd; and their bytes through the mount."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from appliance.limits import MIB
from tests.system.box import BIN, Box, clean_environment, digest

pytestmark = [pytest.mark.system, pytest.mark.slow]


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    """S3's error code."""
    return error.value.response["Error"]["Code"]


def run(*words: str | Path, environment: dict[str, str]) -> str:
    """A client's output; fails with it if the client does."""
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def files(root: Path) -> dict[str, str]:
    """Digest of every file below, by relative path."""
    return {str(path.relative_to(root)): digest(path.read_bytes()) for path in root.rglob("*") if path.is_file()}


# ---------------------------------------------------------------------------------------------------------- boto3


@pytest.mark.parametrize("size", [0, 1, 2048, 2049, 65_536, 131_072, 131_073, 5 * MIB, 9 * MIB + 1])
def test_boto3_puts_and_gets(box: Box, bucket: str, size: int) -> None:
    client, body = box.s3(), os.urandom(size)
    put = client.put_object(Bucket=bucket, Key="dir/k", Body=body, Metadata={"colour": "blue"}, ContentType="x/y")
    assert put["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    got = client.get_object(Bucket=bucket, Key="dir/k")
    assert digest(got["Body"].read()) == digest(body)
    assert (got["Metadata"], got["ContentType"], got["ContentLength"]) == ({"colour": "blue"}, "x/y", size)
    assert digest((box.mount / bucket / "dir" / "k").read_bytes()) == digest(body)
    if size > 10:
        part = client.get_object(Bucket=bucket, Key="dir/k", Range=f"bytes={size // 2}-{size - 2}")
        assert part["Body"].read() == body[size // 2 : size - 1]
    client.delete_object(Bucket=bucket, Key="dir/k")
    with pytest.raises(ClientError) as error:
        client.get_object(Bucket=bucket, Key="dir/k")
    assert code(error) == "NoSuchKey"
    assert not (box.mount / bucket / "dir" / "k").exists()


def test_boto3_lists(box: Box, bucket: str) -> None:
    client = box.s3()
    keys = sorted([f"a/{n:03}" for n in range(25)] + ["b", "c/d/e", "ä"], key=str.encode)
    for key in keys:
        client.put_object(Bucket=bucket, Key=key, Body=b"x")
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 7})
    assert [item["Key"] for page in pages for item in page.get("Contents", [])] == keys
    level = client.list_objects_v2(Bucket=bucket, Delimiter="/")
    assert [item["Prefix"] for item in level["CommonPrefixes"]] == ["a/", "c/"]
    assert [item["Key"] for item in level["Contents"]] == ["b", "ä"]
    gone = client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys]})
    assert len(gone["Deleted"]) == len(keys)
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_boto3_uploads_in_parts(box: Box, bucket: str) -> None:
    client, body = box.s3(), os.urandom(23 * MIB + 5)
    config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=6 * MIB)
    client.upload_fileobj(io.BytesIO(body), bucket, "big", Config=config)
    assert client.head_object(Bucket=bucket, Key="big")["ETag"].endswith('-4"')
    sink = io.BytesIO()
    client.download_fileobj(bucket, "big", sink, Config=config)
    assert digest(sink.getvalue()) == digest(body)
    assert digest((box.mount / bucket / "big").read_bytes()) == digest(body)


def test_boto3_aborts_an_upload(box: Box, bucket: str) -> None:
    client = box.s3()
    upload = client.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    client.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=os.urandom(6 * MIB))
    assert [item["Key"] for item in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["k"]
    client.abort_multipart_upload(Bucket=bucket, Key="k", UploadId=upload)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=bucket)
    assert client.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_boto3_copies(box: Box, bucket: str) -> None:
    client, body = box.s3(), os.urandom(3 * MIB)
    client.put_object(Bucket=bucket, Key="from", Body=body, Metadata={"a": "1"})
    client.copy_object(Bucket=bucket, Key="to", CopySource={"Bucket": bucket, "Key": "from"})
    client.delete_object(Bucket=bucket, Key="from")
    got = client.get_object(Bucket=bucket, Key="to")
    assert (digest(got["Body"].read()), got["Metadata"]) == (digest(body), {"a": "1"})


def test_boto3_presigns(box: Box, bucket: str) -> None:
    client = box.s3()
    put = client.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
    with urllib.request.urlopen(urllib.request.Request(put, data=b"presigned", method="PUT")) as answer:
        assert answer.status == 200
    get = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
    with urllib.request.urlopen(get) as answer:
        assert answer.read() == b"presigned"
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(get.replace("/k?", "/other?"))
    with error.value as refused:
        assert refused.code == 403


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_boto3_checksums_are_verified_and_kept(box: Box, bucket: str, algorithm: str) -> None:
    client, body = box.s3(), os.urandom(200_000)
    put = client.put_object(Bucket=bucket, Key="k", Body=body, ChecksumAlgorithm=algorithm)  # type: ignore[arg-type]
    head = client.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    name = f"Checksum{algorithm}"
    assert put[name] == head[name]  # type: ignore[literal-required]
    wrong = base64.b64encode(hashlib.sha256(b"another").digest()).decode()
    with pytest.raises(ClientError) as error:
        client.put_object(Bucket=bucket, Key="k2", Body=body, ChecksumSHA256=wrong)
    assert code(error) == "BadDigest"
    with pytest.raises(ClientError) as error:
        client.head_object(Bucket=bucket, Key="k2")
    assert code(error) == "404"


def test_boto3_writes_on_condition(box: Box, bucket: str) -> None:
    client = box.s3()
    first = client.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    with pytest.raises(ClientError) as error:
        client.put_object(Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*")
    assert code(error) == "PreconditionFailed"
    client.put_object(Bucket=bucket, Key="k", Body=b"3", IfMatch=first)
    with pytest.raises(ClientError) as error:
        client.put_object(Bucket=bucket, Key="k", Body=b"4", IfMatch=first)
    assert code(error) == "PreconditionFailed"
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"3"


def test_a_wrong_secret_is_refused(box: Box, bucket: str) -> None:
    real = box.facts["secret_key"]
    try:
        box.facts["secret_key"] = "wrong"
        with pytest.raises(ClientError) as error:
            box.s3().list_objects_v2(Bucket=bucket)
        assert code(error) == "SignatureDoesNotMatch"
    finally:
        box.facts["secret_key"] = real


# ---------------------------------------------------------------------------------------------------------- awscli


def aws(box: Box, tmp_path: Path, *words: str | Path) -> str:
    """`aws --endpoint-url …`."""
    environment = clean_environment() | {
        "HOME": str(tmp_path),
        "AWS_ACCESS_KEY_ID": box.facts["access_key"],
        "AWS_SECRET_ACCESS_KEY": box.facts["secret_key"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/dev/null",
    }
    return run(BIN / "aws", "--endpoint-url", box.endpoint, *words, environment=environment)


def test_awscli_copies_and_syncs(box: Box, bucket: str, tree: Path, tmp_path: Path) -> None:
    aws(box, tmp_path, "s3", "sync", "--quiet", tree, f"s3://{bucket}/tree")
    assert files(box.mount / bucket / "tree") == files(tree)
    aws(box, tmp_path, "s3", "sync", "--quiet", f"s3://{bucket}/tree", tmp_path / "back")
    assert files(tmp_path / "back") == files(tree)
    assert aws(box, tmp_path, "s3", "sync", tree, f"s3://{bucket}/tree") == "", "nothing is left to do"
    biggest = max(tree.rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    aws(box, tmp_path, "s3", "cp", "--quiet", biggest, f"s3://{bucket}/big")
    aws(box, tmp_path, "s3", "cp", "--quiet", f"s3://{bucket}/big", f"s3://{bucket}/big2")
    assert digest((box.mount / bucket / "big2").read_bytes()) == digest(biggest.read_bytes())
    assert "big2" in aws(box, tmp_path, "s3", "ls", f"s3://{bucket}/")
    aws(box, tmp_path, "s3", "rm", "--quiet", "--recursive", f"s3://{bucket}/")
    assert files(box.mount / bucket) == {}


# ---------------------------------------------------------------------------------------------------------- rclone


def rclone(box: Box, tmp_path: Path, *words: str | Path) -> str:
    """`rclone …` with a remote called box:."""
    environment = clean_environment() | {
        "RCLONE_CONFIG": str(tmp_path / "rclone.conf"),
        "RCLONE_CONFIG_BOX_TYPE": "s3",
        "RCLONE_CONFIG_BOX_PROVIDER": "Other",
        "RCLONE_CONFIG_BOX_ENDPOINT": box.endpoint,
        "RCLONE_CONFIG_BOX_ACCESS_KEY_ID": box.facts["access_key"],
        "RCLONE_CONFIG_BOX_SECRET_ACCESS_KEY": box.facts["secret_key"],
        "RCLONE_CONFIG_BOX_CHUNK_SIZE": "5Mi",
        "RCLONE_CONFIG_BOX_UPLOAD_CUTOFF": "8Mi",
    }
    (tmp_path / "rclone.conf").touch()
    return run(BIN / "rclone", "--retries", "1", *words, environment=environment)


def test_rclone_syncs_both_ways(box: Box, bucket: str, tree: Path, tmp_path: Path) -> None:
    remote = f"box:{bucket}/tree"
    rclone(box, tmp_path, "sync", tree, remote)
    rclone(box, tmp_path, "check", tree, remote)
    rclone(box, tmp_path, "check", "--download", tree, remote)
    assert files(box.mount / bucket / "tree") == files(tree)
    for path in tree.rglob("*"):
        if path.is_file():
            through_mount = box.mount / bucket / "tree" / path.relative_to(tree)
            assert through_mount.stat().st_mtime_ns == path.stat().st_mtime_ns, "rclone's mtime is the mount's"
    rclone(box, tmp_path, "sync", remote, tmp_path / "back")
    assert files(tmp_path / "back") == files(tree)
    next(path for path in tree.rglob("*") if path.is_file()).unlink()
    rclone(box, tmp_path, "sync", tree, remote)
    rclone(box, tmp_path, "check", tree, remote)


# ---------------------------------------------------------------------------------------------------------- s3cmd


def s3cmd(box: Box, tmp_path: Path, *words: str | Path) -> str:
    """`s3cmd …`."""
    host = box.endpoint.removeprefix("http://")
    (tmp_path / "s3cfg").write_text(
        f"[default]\naccess_key = {box.facts['access_key']}\nsecret_key = {box.facts['secret_key']}\n"
        f"host_base = {host}\nhost_bucket = {host}\nuse_https = False\nbucket_location = us-east-1\n"
    )
    environment = clean_environment() | {"PYTHONWARNINGS": "ignore"}
    return run(BIN / "s3cmd", "-c", tmp_path / "s3cfg", "--no-progress", *words, environment=environment)


def test_s3cmd_puts_lists_and_gets(box: Box, bucket: str, tmp_path: Path) -> None:
    body = os.urandom(17 * MIB)
    (tmp_path / "file").write_bytes(body)
    s3cmd(box, tmp_path, "put", tmp_path / "file", f"s3://{bucket}/d/file")
    assert f"s3://{bucket}/d/file" in s3cmd(box, tmp_path, "ls", "--recursive", f"s3://{bucket}")
    s3cmd(box, tmp_path, "get", f"s3://{bucket}/d/file", tmp_path / "back")
    assert digest((tmp_path / "back").read_bytes()) == digest(body)
    assert digest((box.mount / bucket / "d" / "file").read_bytes()) == digest(body)
    s3cmd(box, tmp_path, "cp", f"s3://{bucket}/d/file", f"s3://{bucket}/copy")
    s3cmd(box, tmp_path, "del", f"s3://{bucket}/d/file")
    assert s3cmd(box, tmp_path, "ls", "--recursive", f"s3://{bucket}").split()[-1] == f"s3://{bucket}/copy"
