"""boto3 against the real daemon, and its bytes through the mount."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import urllib.error
import urllib.request
from pathlib import Path

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

from appliance.limits import MIB
from tests.system.box import Box, digest
from tests.system.clients import files

pytestmark = [pytest.mark.system, pytest.mark.slow]


def code(error: pytest.ExceptionInfo[ClientError]) -> str:
    """S3's error code."""
    return error.value.response["Error"]["Code"]


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


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
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


def test_boto3_pages_through_buckets(box: Box) -> None:
    client = box.s3()
    names = [f"paged-{number}" for number in range(5)]
    for name in names:
        client.create_bucket(Bucket=name)
        assert client.head_bucket(Bucket=name)["BucketRegion"] == "us-east-1"
        assert client.get_bucket_location(Bucket=name)["LocationConstraint"] is None
    pages = list(client.get_paginator("list_buckets").paginate(Prefix="paged-", PaginationConfig={"PageSize": 2}))
    assert [item["Name"] for page in pages for item in page["Buckets"]] == names
    assert [len(page["Buckets"]) for page in pages] == [2, 2, 1]


def test_boto3_resources_and_waiters(box: Box, bucket: str, tree: Path, tmp_path: Path) -> None:
    """The object-oriented face: ten threads move a tree, waiters wait, a collection is deleted in batches."""
    session = boto3.Session(box.facts["access_key"], box.facts["secret_key"], region_name="us-east-1")
    s3 = session.resource("s3", endpoint_url=box.endpoint)
    try:
        ours = s3.Bucket(bucket)
        ours.wait_until_exists()
        config = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=10)
        for path in tree.rglob("*"):
            if path.is_file():
                ours.upload_file(str(path), f"tree/{path.relative_to(tree)}", Config=config)
        assert files(box.mount / bucket / "tree") == files(tree)
        for item in ours.objects.filter(Prefix="tree/"):
            back = tmp_path / "back" / item.key
            back.parent.mkdir(parents=True, exist_ok=True)
            ours.download_file(item.key, str(back), Config=config)
        assert files(tmp_path / "back" / "tree") == files(tree)
        copy = ours.Object("copy")
        copy.copy({"Bucket": bucket, "Key": "tree/dir 2/ärger/file-8"}, Config=config)
        copy.wait_until_exists()
        assert copy.content_length == 20_000_000
        ours.objects.all().delete()
        copy.wait_until_not_exists()
        ours.delete()
        ours.wait_until_not_exists()
    finally:
        s3.meta.client.close()
