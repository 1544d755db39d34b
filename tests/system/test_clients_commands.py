"""Command lines that speak S3 against the real daemon: what their users type, and the bytes through the mount."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.limits import MIB
from tests.system.box import BIN, Box, digest, is_mounted
from tests.system.clients import Clients, files

pytestmark = [pytest.mark.system, pytest.mark.slow]


def biggest(tree: Path) -> Path:
    """The largest file of a tree."""
    return max((path for path in tree.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


# ---------------------------------------------------------------------------------------------------------- awscli


def test_awscli_copies_and_syncs(box: Box, clients: Clients, bucket: str, tree: Path, tmp_path: Path) -> None:
    aws = clients.aws
    aws("s3", "sync", "--quiet", tree, f"s3://{bucket}/tree")
    assert files(box.mount / bucket / "tree") == files(tree)
    aws("s3", "sync", "--quiet", f"s3://{bucket}/tree", tmp_path / "back")
    assert files(tmp_path / "back") == files(tree)
    assert aws("s3", "sync", tree, f"s3://{bucket}/tree") == "", "nothing is left to do"
    aws("s3", "cp", "--quiet", biggest(tree), f"s3://{bucket}/big")
    aws("s3", "cp", "--quiet", f"s3://{bucket}/big", f"s3://{bucket}/big2")  # large enough for UploadPartCopy
    assert digest((box.mount / bucket / "big2").read_bytes()) == digest(biggest(tree).read_bytes())
    assert "big2" in aws("s3", "ls", f"s3://{bucket}/")
    aws("s3", "mv", "--quiet", f"s3://{bucket}/big2", f"s3://{bucket}/big3")
    summary = aws("s3", "ls", "--recursive", "--summarize", f"s3://{bucket}/big")
    assert "Total Objects: 2" in summary
    aws("s3", "rm", "--quiet", "--recursive", f"s3://{bucket}/")
    assert files(box.mount / bucket) == {}


def test_awscli_streams_and_checksums(box: Box, clients: Clients, bucket: str) -> None:
    body = os.urandom(9 * MIB)
    clients.aws("s3", "cp", "-", f"s3://{bucket}/stream", stdin=body)
    assert digest((box.mount / bucket / "stream").read_bytes()) == digest(body)
    assert clients.aws("s3", "cp", f"s3://{bucket}/stream", "-").encode("utf-8", "surrogateescape") == body
    for algorithm in ("CRC64NVME", "CRC32", "CRC32C", "SHA1", "SHA256"):
        clients.aws("s3", "cp", "-", f"s3://{bucket}/{algorithm}", "--checksum-algorithm", algorithm, stdin=body)
        head = box.s3().head_object(Bucket=bucket, Key=algorithm, ChecksumMode="ENABLED")
        assert head["ContentLength"] == len(body)
        assert f"Checksum{algorithm}" in head
    url = clients.aws("s3", "presign", f"s3://{bucket}/stream").strip()
    assert clients.curl(url).encode("utf-8", "surrogateescape") == body


def test_awscli_makes_buckets_and_looks_around(clients: Clients, tmp_path: Path) -> None:
    """The questions that programs built on it ask before they do anything."""
    aws, bucket = clients.aws, "awscli-looks-around"
    aws("s3", "mb", f"s3://{bucket}")
    (tmp_path / "body").write_bytes(b"x" * 100)
    aws("s3api", "put-object", "--bucket", bucket, "--key", "k", "--body", tmp_path / "body", "--metadata", "a=b")
    names = aws("s3api", "list-buckets", "--prefix", "awscli-", "--max-buckets", "1", "--query", "Buckets[].Name")
    assert json.loads(names) == [bucket]
    at = ("--bucket", bucket)
    assert json.loads(aws("s3api", "get-bucket-location", *at)) == {"LocationConstraint": None}
    assert aws("s3api", "get-bucket-versioning", *at) == ""
    grants = json.loads(aws("s3api", "get-bucket-acl", *at))["Grants"]
    assert [grant["Permission"] for grant in grants] == ["FULL_CONTROL"]
    for command, unset in (
        ("get-object-lock-configuration", "ObjectLockConfigurationNotFoundError"),
        ("get-bucket-lifecycle-configuration", "NoSuchLifecycleConfiguration"),
    ):
        assert unset in aws("s3api", command, *at, fails=True), command
    versions = json.loads(aws("s3api", "list-object-versions", *at))["Versions"]
    assert [(item["Key"], item["VersionId"], item["IsLatest"]) for item in versions] == [("k", "null", True)]
    assert json.loads(aws("s3api", "get-object-tagging", *at, "--key", "k"))["TagSet"] == []
    attributes = ("--object-attributes", "ETag", "Checksum", "ObjectSize", "StorageClass")
    assert json.loads(aws("s3api", "get-object-attributes", *at, "--key", "k", *attributes))["ObjectSize"] == 100
    assert "NoSuchKey" in aws("s3api", "get-object", *at, "--key", "none", tmp_path / "none", fails=True)
    assert "BucketNotEmpty" in aws("s3", "rb", f"s3://{bucket}", fails=True)
    aws("s3", "rb", "--force", f"s3://{bucket}")
    assert bucket not in aws("s3", "ls")


# ---------------------------------------------------------------------------------------------------------- rclone


def test_rclone_syncs_both_ways(box: Box, clients: Clients, bucket: str, tree: Path, tmp_path: Path) -> None:
    rclone, remote = clients.rclone, f"box:{bucket}/tree"
    rclone("sync", tree, remote)
    rclone("check", tree, remote)
    rclone("check", "--download", tree, remote)
    assert files(box.mount / bucket / "tree") == files(tree)
    for path in tree.rglob("*"):
        if path.is_file():
            through_mount = box.mount / bucket / "tree" / path.relative_to(tree)
            assert through_mount.stat().st_mtime_ns == path.stat().st_mtime_ns, "rclone's mtime is the mount's"
    rclone("sync", remote, tmp_path / "back")
    assert files(tmp_path / "back") == files(tree)
    next(path for path in tree.rglob("*") if path.is_file()).unlink()
    rclone("sync", "--checksum", tree, remote)
    rclone("check", tree, remote)
    assert "Transferred" not in rclone("sync", "--checksum", "--verbose", tree, remote), "nothing is left to do"


def test_rclone_moves_streams_and_cleans_up(box: Box, clients: Clients, bucket: str, tree: Path) -> None:
    rclone, remote = clients.rclone, f"box:{bucket}"
    body = os.urandom(13 * MIB + 1)
    rclone("rcat", f"{remote}/stream", stdin=body)  # parts of a stream whose length nobody knows
    assert digest((box.mount / bucket / "stream").read_bytes()) == digest(body)
    part = rclone("cat", "--offset", "5242000", "--count", "2000", f"{remote}/stream")
    assert part.encode("utf-8", "surrogateescape") == body[5_242_000:][:2000]
    rclone("copyto", "--s3-copy-cutoff", "6Mi", f"{remote}/stream", f"{remote}/copy")  # UploadPartCopy
    rclone("moveto", f"{remote}/copy", f"{remote}/d/moved")
    assert digest((box.mount / bucket / "d" / "moved").read_bytes()) == digest(body)
    listed = json.loads(rclone("lsjson", "--recursive", "--hash", "--metadata", remote))
    assert {item["Path"]: item["Size"] for item in listed if not item["IsDir"]} == {
        "stream": len(body),
        "d/moved": len(body),
    }
    upload = box.s3().create_multipart_upload(Bucket=bucket, Key="left")["UploadId"]
    box.s3().upload_part(Bucket=bucket, Key="left", UploadId=upload, PartNumber=1, Body=b"x")
    rclone("backend", "cleanup", remote, "-o", "max-age=0s")
    assert "Uploads" not in box.s3().list_multipart_uploads(Bucket=bucket)
    rclone("copy", "--transfers", "8", tree, f"{remote}/tree")
    assert files(box.mount / bucket / "tree") == files(tree)
    rclone("purge", f"{remote}/tree")
    rclone("touch", f"{remote}/touched")
    rclone("delete", remote)
    assert rclone("size", "--json", remote) == '{"count":0,"bytes":0,"sizeless":0}\n'
    rclone("mkdir", "box:rclone-made")
    rclone("rmdir", "box:rclone-made")
    assert not (box.mount / "rclone-made").exists()


@contextlib.contextmanager
def rclone_mounted(clients: Clients, remote: str, point: Path) -> Iterator[None]:
    """rclone's mount of a bucket: S3 seen as files from the other side."""
    point.mkdir()
    process = subprocess.Popen(
        [BIN / "rclone", "mount", remote, point, "--vfs-cache-mode", "writes", "--vfs-write-back", "0"],
        env=clients.environment(**clients.rclone_environment()),
    )
    try:
        deadline = time.monotonic() + 120
        while not is_mounted(point):
            assert process.poll() is None, "rclone's mount ended"
            assert time.monotonic() < deadline, "rclone does not mount"
            time.sleep(0.05)
        yield
        subprocess.run(["fusermount3", "-u", point], check=True)
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()
        if is_mounted(point):
            subprocess.run(["fusermount3", "-u", "-z", point], check=False)


def test_rclone_mounts_a_bucket(box: Box, clients: Clients, bucket: str, tree: Path, tmp_path: Path) -> None:
    with rclone_mounted(clients, f"box:{bucket}", tmp_path / "mnt"):
        subprocess.run(["cp", "-r", tree, tmp_path / "mnt" / "tree"], check=True)
        deadline = time.monotonic() + 120
        while files(box.mount / bucket / "tree") != files(tree):  # rclone uploads what was closed in the background
            assert time.monotonic() < deadline, "rclone has not uploaded everything"
            time.sleep(0.1)
        subprocess.run(["mv", tmp_path / "mnt" / "tree" / "dir 0", tmp_path / "mnt" / "moved"], check=True)
        (tmp_path / "mnt" / "moved" / "new").write_text("new\n")
        assert files(tmp_path / "mnt" / "tree") == files(box.mount / bucket / "tree")
        while not (box.mount / bucket / "moved" / "new").exists():  # what is on its way at its end stays in its cache
            assert time.monotonic() < deadline, "rclone has not uploaded everything"
            time.sleep(0.1)
    wanted = files(tree)
    moved = {name.removeprefix("dir 0/"): text for name, text in wanted.items() if name.startswith("dir 0/")}
    assert files(box.mount / bucket / "tree") == {n: t for n, t in wanted.items() if not n.startswith("dir 0/")}
    assert files(box.mount / bucket / "moved") == moved | {"new": digest(b"new\n")}


# ---------------------------------------------------------------------------------------------------------- s3cmd


def test_s3cmd_puts_lists_and_gets(box: Box, clients: Clients, bucket: str, tree: Path, tmp_path: Path) -> None:
    s3cmd = clients.s3cmd
    body = os.urandom(17 * MIB)
    (tmp_path / "file").write_bytes(body)
    s3cmd("put", tmp_path / "file", f"s3://{bucket}/d/file")
    assert f"s3://{bucket}/d/file" in s3cmd("ls", "--recursive", f"s3://{bucket}")
    s3cmd("get", f"s3://{bucket}/d/file", tmp_path / "back")
    assert digest((tmp_path / "back").read_bytes()) == digest(body)
    assert digest((box.mount / bucket / "d" / "file").read_bytes()) == digest(body)
    s3cmd("cp", f"s3://{bucket}/d/file", f"s3://{bucket}/copy")
    s3cmd("del", f"s3://{bucket}/d/file")
    assert s3cmd("ls", "--recursive", f"s3://{bucket}").split()[-1] == f"s3://{bucket}/copy"
    assert "File size: 17825792" in s3cmd("info", f"s3://{bucket}/copy")
    assert "Location:  us-east-1" in s3cmd("info", f"s3://{bucket}")

    s3cmd("sync", "--multipart-chunk-size-mb=5", f"{tree}/", f"s3://{bucket}/tree/")
    assert files(box.mount / bucket / "tree") == files(tree)
    assert s3cmd("sync", f"{tree}/", f"s3://{bucket}/tree/") == "", "nothing is left to do"
    s3cmd("sync", f"s3://{bucket}/tree/", f"{tmp_path}/synced/")
    assert files(tmp_path / "synced") == files(tree)
    s3cmd("modify", "--add-header=Cache-Control: max-age=60", f"s3://{bucket}/copy")
    assert box.s3().head_object(Bucket=bucket, Key="copy")["CacheControl"] == "max-age=60"
    s3cmd("mv", f"s3://{bucket}/copy", f"s3://{bucket}/moved")
    assert s3cmd("du", f"s3://{bucket}/moved").split()[0] == str(len(body))
    s3cmd("del", "--recursive", "--force", f"s3://{bucket}/")
    s3cmd("rb", f"s3://{bucket}")
    assert f"s3://{bucket}" not in s3cmd("ls").split()


# ---------------------------------------------------------------------------------------------------------- s5cmd


def test_s5cmd_copies_by_many_workers(box: Box, clients: Clients, tree: Path, tmp_path: Path) -> None:
    s5cmd, bucket = clients.s5cmd, "s5cmd-workers"
    s5cmd("mb", f"s3://{bucket}")
    s5cmd("cp", "--part-size", "5", f"{tree}/*", f"s3://{bucket}/tree/")
    assert files(box.mount / bucket / "tree") == files(tree)
    s5cmd("cp", f"s3://{bucket}/tree/*", f"{tmp_path}/back/")
    assert files(tmp_path / "back") == files(tree)
    assert s5cmd("sync", "--size-only", f"{tree}/", f"s3://{bucket}/tree/") == "", "nothing is left to do"
    assert len(s5cmd("ls", f"s3://{bucket}/tree/*file-*").splitlines()) == 9
    assert "9 objects" in s5cmd("du", f"s3://{bucket}/*")
    commands = "".join(f"cp s3://{bucket}/tree/dir\\ 1/ärger/file-1 s3://{bucket}/run/{n}\n" for n in range(50))
    s5cmd("run", stdin=commands.encode())
    assert [path.read_bytes() for path in (box.mount / bucket / "run").iterdir()] == [
        (tree / "dir 1" / "ärger" / "file-1").read_bytes()
    ] * 50
    body = os.urandom(11 * MIB)
    s5cmd("pipe", f"s3://{bucket}/piped", stdin=body)
    assert s5cmd("cat", f"s3://{bucket}/piped").encode("utf-8", "surrogateescape") == body
    s5cmd("mv", f"s3://{bucket}/piped", f"s3://{bucket}/moved")
    assert json.loads(s5cmd("head", f"s3://{bucket}/moved"))["size"] == len(body)
    assert clients.curl(s5cmd("presign", f"s3://{bucket}/moved").strip()).encode("utf-8", "surrogateescape") == body
    s5cmd("rm", f"s3://{bucket}/*")
    s5cmd("rb", f"s3://{bucket}")
    assert not (box.mount / bucket).exists()


# ---------------------------------------------------------------------------------------------------------- restic


def test_restic_backs_up_prunes_and_restores(
    box: Box, clients: Clients, bucket: str, tree: Path, tmp_path: Path
) -> None:
    def restic(*words: str | Path) -> str:
        return clients.restic(bucket, *words)

    restic("init")
    restic("backup", "--quiet", "--tag", "first", tree)
    first = files(tree)
    changed = biggest(tree)
    changed.write_bytes(os.urandom(3 * MIB) + changed.read_bytes()[:MIB])
    (tree / "more").write_bytes(os.urandom(5 * MIB))
    restic("backup", "--quiet", "--tag", "second", tree)
    assert len(json.loads(restic("snapshots", "--json"))) == 2
    restic("check", "--read-data")
    restic("restore", "latest", "--tag", "first", "--target", tmp_path / "first")
    assert files(tmp_path / "first" / tree.relative_to("/")) == first
    restic("forget", "--tag", "second", "--keep-last", "1", "--prune")
    restic("forget", "--tag", "first", "--group-by", "", "--keep-tag", "second", "--prune")
    restic("check", "--read-data")
    restic("restore", "latest", "--target", tmp_path / "second")
    assert files(tmp_path / "second" / tree.relative_to("/")) == files(tree)
    packs = list((box.mount / bucket / "repository" / "data").rglob("*"))
    assert all(digest(pack.read_bytes()) == pack.name for pack in packs if pack.is_file()), "packs are named by content"
    assert not (box.mount / bucket / "repository" / "locks").exists(), "no lock is left"


# ---------------------------------------------------------------------------------------------------------- curl


def test_curl_uploads_by_presigned_url_as_browsers_do(box: Box, clients: Clients, bucket: str, tmp_path: Path) -> None:
    body = os.urandom(7 * MIB + 3)
    (tmp_path / "body").write_bytes(body)
    client = box.s3()
    put = client.generate_presigned_url(
        "put_object", Params={"Bucket": bucket, "Key": "d/ä b.bin", "ContentType": "image/png"}, ExpiresIn=60
    )
    # A browser adds headers of its own; what was signed it must repeat.
    browser = ("-H", "Origin: https://site.example", "-H", "User-Agent: Mozilla/5.0", "-H", "Accept: */*")
    clients.curl("-T", tmp_path / "body", "-H", "Content-Type: image/png", *browser, put)
    assert digest((box.mount / bucket / "d" / "ä b.bin").read_bytes()) == digest(body)
    assert client.head_object(Bucket=bucket, Key="d/ä b.bin")["ContentType"] == "image/png"
    assert "403" in clients.curl("-T", tmp_path / "body", "-H", "Content-Type: text/html", put, fails=True)
    get = client.generate_presigned_url(
        "get_object",
        Params={"Bucket": bucket, "Key": "d/ä b.bin", "ResponseContentDisposition": 'attachment; filename="b.bin"'},
        ExpiresIn=60,
    )
    clients.curl("-o", tmp_path / "back", "-D", tmp_path / "headers", get)
    assert digest((tmp_path / "back").read_bytes()) == digest(body)
    assert 'attachment; filename="b.bin"' in (tmp_path / "headers").read_text()
    clients.curl("-o", tmp_path / "range", "-r", "1000-1999", get)
    assert (tmp_path / "range").read_bytes() == body[1000:2000]


def test_curl_posts_a_form_from_another_site(box: Box, clients: Clients, bucket: str, tmp_path: Path) -> None:
    """A browser's upload: the preflight that its site's script causes, then the form, the policy's fields first."""
    site = "https://site.example"
    client, body = box.s3(), os.urandom(3 * MIB + 1)
    (tmp_path / "body").write_bytes(body)
    rule = {"AllowedOrigins": [site], "AllowedMethods": ["PUT", "POST"], "AllowedHeaders": ["*"]}
    client.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [rule]})  # type: ignore[list-item]
    asking = ("-H", f"Origin: {site}", "-H", "Access-Control-Request-Method: PUT", "-X", "OPTIONS")
    allowed = clients.curl(
        "-i", *asking, "-H", "Access-Control-Request-Headers: content-type", f"{box.endpoint}/{bucket}/k"
    )
    assert f"access-control-allow-origin: {site}" in allowed.lower()
    other = ("-H", "Origin: https://other.example", *asking[2:])
    assert "403" in clients.curl(*other, f"{box.endpoint}/{bucket}/k", fails=True)

    form = client.generate_presigned_post(
        bucket,
        "up/${filename}",
        Fields={"Content-Type": "image/png", "success_action_status": "201"},
        Conditions=[
            ["starts-with", "$key", "up/"],
            {"Content-Type": "image/png"},
            {"success_action_status": "201"},
            ["content-length-range", 1, 4 * MIB],
        ],
    )
    fields = [word for name, value in form["fields"].items() for word in ("-F", f"{name}={value}")]
    file = ("-F", f"file=@{tmp_path}/body;filename=ä.png")
    answer = clients.curl("-i", "-H", f"Origin: {site}", *fields, *file, form["url"])
    assert "HTTP/1.1 201 " in answer
    assert f"access-control-allow-origin: {site}" in answer.lower()
    assert digest((box.mount / bucket / "up" / "ä.png").read_bytes()) == digest(body)
    (tmp_path / "body").write_bytes(bytes(5 * MIB))
    assert "400" in clients.curl(*fields, "-F", f"file=@{tmp_path}/body", form["url"], fails=True)
    assert [path.name for path in (box.mount / bucket / "up").iterdir()] == ["ä.png"]


def test_versions_as_clients_see_them(box: Box, clients: Clients, bucket: str, tmp_path: Path) -> None:
    """Overwritten, deleted, listed and brought back by awscli and rclone."""
    aws, at = clients.aws, ("--bucket", bucket)
    aws("s3api", "put-bucket-versioning", *at, "--versioning-configuration", "Status=Enabled")
    assert json.loads(aws("s3api", "get-bucket-versioning", *at)) == {"Status": "Enabled"}
    for body in (b"first", b"second"):
        aws("s3", "cp", "-", f"s3://{bucket}/k", stdin=body)
    clients.rclone("deletefile", f"box:{bucket}/k")
    assert not (box.mount / bucket / "k").exists()
    listed = json.loads(aws("s3api", "list-object-versions", *at))
    assert [(item["Key"], item["IsLatest"]) for item in listed["DeleteMarkers"]] == [("k", True)]
    second, first = (item["VersionId"] for item in listed["Versions"])
    aws("s3api", "get-object", *at, "--key", "k", "--version-id", first, tmp_path / "first")
    assert (tmp_path / "first").read_bytes() == b"first"
    assert len(clients.rclone("lsf", "--s3-versions", f"box:{bucket}").splitlines()) == 2
    aws("s3api", "delete-object", *at, "--key", "k", "--version-id", listed["DeleteMarkers"][0]["VersionId"])
    assert (box.mount / bucket / "k").read_bytes() == b"second"
    copied = aws("s3api", "copy-object", *at, "--key", "k", "--copy-source", f"{bucket}/k?versionId={first}")
    assert json.loads(copied)["CopySourceVersionId"] == first
    assert (box.mount / bucket / "k").read_bytes() == b"first"
    clients.rclone("backend", "cleanup-hidden", f"box:{bucket}")
    left = json.loads(aws("s3api", "list-object-versions", *at))["Versions"]
    assert [item["IsLatest"] for item in left] == [True]
    assert second not in [item["VersionId"] for item in left]


def test_curl_signs_by_itself(box: Box, clients: Clients, bucket: str, tmp_path: Path) -> None:
    """curl --aws-sigv4: a client that sends little more than the signature."""
    sign = ("--aws-sigv4", "aws:amz:us-east-1:s3", "--user", f"{box.facts['access_key']}:{box.facts['secret_key']}")
    unsigned = ("-H", "x-amz-content-sha256: UNSIGNED-PAYLOAD")
    (tmp_path / "body").write_bytes(b"by curl")
    clients.curl(*sign, *unsigned, "-T", tmp_path / "body", f"{box.endpoint}/{bucket}/k")
    assert (box.mount / bucket / "k").read_bytes() == b"by curl"
    assert clients.curl(*sign, *unsigned, f"{box.endpoint}/{bucket}/k") == "by curl"
    clients.curl(*sign, *unsigned, "-X", "DELETE", f"{box.endpoint}/{bucket}/k")
    assert not (box.mount / bucket / "k").exists()
