"""CopyObject and UploadPartCopy."""

from __future__ import annotations

import base64
import hashlib
import stat
from functools import partial
from typing import cast

import msgspec
import pytest

from appliance.limits import GATHER_MAX
from appliance.model import Node
from appliance.store import ObjectStore
from appliance.verbs import objects
from s3front import checksums
from s3front.dates import NS, http_date
from tests.rows import rows
from tests.s3front.box import Box
from tests.s3front.memory_store import NOW_NS
from tests.s3front.operations.golden import same

SECOND = NOW_NS // NS
META = {"x-amz-meta-a": "1", "content-type": "text/plain", "cache-control": "no-cache"}


@pytest.fixture
def full(box: Box) -> Box:
    box.send("PUT", "/b/dir/s%20%2B%C3%A9", headers=META, body=b"source")
    return box


SOURCE = "/b/dir/s%20%2B%C3%A9"


@pytest.mark.parametrize("source", [SOURCE, SOURCE[1:], SOURCE + "?versionId=null", "/b/dir%2Fs+%2B%C3%A9"])
def test_bytes_and_metadata_are_copied(full: Box, source: str) -> None:
    answer = full.send("PUT", "/b/t", headers={"x-amz-copy-source": source, "x-amz-meta-b": "ignored"})
    assert answer.status == 200
    same("copy_object", answer.body)
    got = full.send("GET", "/b/t")
    assert got.body == b"source"
    assert {name: got.headers[name] for name in META} == META
    assert "x-amz-meta-b" not in got.headers


def test_metadata_can_be_replaced(full: Box) -> None:
    headers = {"x-amz-copy-source": SOURCE, "x-amz-metadata-directive": "REPLACE", "x-amz-meta-b": "2"}
    assert full.send("PUT", "/b/t", headers=headers).status == 200
    got = full.send("GET", "/b/t", headers={"x-amz-checksum-mode": "ENABLED"})
    assert got.headers["x-amz-meta-b"] == "2"
    assert "x-amz-meta-a" not in got.headers
    assert got.headers["content-type"] == "binary/octet-stream"
    assert "x-amz-checksum-crc64nvme" in got.headers  # it is of the bytes


@pytest.mark.parametrize("how", ["shared", "sealed"])
def test_what_the_mount_said_of_the_source_holds_for_its_copy_unless_the_metadata_is_replaced(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a copy would open to everybody on the mount what was closed."""
    xattrs = {"user.x": b"1", "trusted.x": b"2", "system.posix_acl_access": b"3"}
    sealing = {"x-amz-server-side-encryption": "AES256"} if how == "sealed" else {}
    monkeypatch.setattr(objects, "BUCKET_NAME_MIN", 1)
    with Box(real=True) as box:
        box.send("PUT", "/b/s", body=b"source", headers={"x-amz-meta-a": "1"})
        bucket = box.store.bucket("b")
        node = box.run(box.store.look_up, bucket, b"s")
        attributes = msgspec.structs.replace(node.attributes, xattrs=xattrs)
        said = {"mode": 0o104750, "uid": 1000, "gid": 100, "mtime_ns": 5, "atime_ns": 6}
        box.run(partial(cast(ObjectStore, box.store).set_attributes, node.id, 1, attributes=attributes, **said))

        def copied(**headers: str) -> Node:
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            assert box.send("PUT", "/b/t", headers={"x-amz-copy-source": "/b/s"} | sealing | headers).status == 200
            found: Node = box.run(box.store.look_up, bucket, b"t")
            return found

        for changes in (
            {},
            {"x_amz_acl": "public-read"},
            {"x_amz_tagging_directive": "REPLACE", "x_amz_tagging": "a=b"},
        ):
            made = copied(**changes)
            shown = (stat.S_IMODE(made.mode), made.uid, made.gid, made.mtime_ns)
            assert shown == (0o750, 1000, 100, 5), changes  # set-user-ID was never the copier's to give
            assert made.attributes.xattrs.keys() == xattrs.keys() - {"trusted.x"}, changes
            assert made.attributes.user["a"] == "1", changes
        made = copied(x_amz_metadata_directive="REPLACE", x_amz_meta_mode="100600")
        assert (stat.S_IMODE(made.mode), made.uid, made.gid) == (0o600, 0, 0)
        assert made.mtime_ns != 5
        assert not made.attributes.xattrs


def test_onto_itself_only_with_a_change(full: Box) -> None:
    answer = full.send("PUT", SOURCE, headers={"x-amz-copy-source": SOURCE})
    assert (answer.status, answer.code) == (400, "InvalidRequest")
    for change in (
        {"x-amz-metadata-directive": "REPLACE", "x-amz-meta-a": "9"},
        {"x-amz-storage-class": "STANDARD_IA"},
        {"x-amz-website-redirect-location": "/x"},
    ):
        assert full.send("PUT", SOURCE, headers={"x-amz-copy-source": SOURCE} | change).status == 200
    got = full.send("HEAD", SOURCE)
    assert got.headers["x-amz-storage-class"] == "STANDARD_IA"
    assert got.headers["x-amz-website-redirect-location"] == "/x"
    assert got.headers["x-amz-meta-a"] == "9"


@rows(
    ("headers", "status", "code"),
    [
        ({"x-amz-copy-source": "/b/none"}, 404, "NoSuchKey"),
        ({"x-amz-copy-source": "/none/k"}, 404, "NoSuchBucket"),
        ({"x-amz-copy-source": "/b"}, 400, "InvalidArgument"),
        ({"x-amz-copy-source": "/b/"}, 400, "InvalidArgument"),
        ({"x-amz-copy-source": ""}, 400, "InvalidArgument"),
        ({"x-amz-copy-source": "/b/%zz"}, 400, "InvalidArgument"),
        ({"x-amz-copy-source": "/b/%ff"}, 400, "InvalidArgument"),
        ({"x-amz-copy-source": "/b/" + "a" * 1025}, 400, "KeyTooLongError"),
        ({"x-amz-copy-source": SOURCE + "?versionId=7"}, 400, "InvalidArgument"),
        ({"x-amz-copy-source": SOURCE + "?versionId=" + "7" * 16}, 404, "NoSuchVersion"),
        ({"x-amz-copy-source": SOURCE, "x-amz-metadata-directive": "MERGE"}, 400, "InvalidArgument"),
        ({"x-amz-copy-source": SOURCE, "x-amz-tagging-directive": "UPDATE"}, 400, "InvalidArgument"),
        ({"x-amz-copy-source": SOURCE, "x-amz-acl": "publik"}, 400, "InvalidArgument"),
        ({"x-amz-copy-source": SOURCE, "x-amz-copy-source-if-match": '"x"'}, 412, "PreconditionFailed"),
        ({"x-amz-copy-source": SOURCE, "x-amz-copy-source-if-none-match": "*"}, 412, "PreconditionFailed"),
        (
            {"x-amz-copy-source": SOURCE, "x-amz-copy-source-if-modified-since": http_date(SECOND).decode()},
            412,
            "PreconditionFailed",
        ),
        ({"x-amz-copy-source": SOURCE, "if-match": '"x"'}, 404, "NoSuchKey"),
    ],
)
def test_what_is_not_copied(full: Box, headers: dict[str, str], status: int, code: str) -> None:
    answer = full.send("PUT", "/b/t", headers=headers)
    assert (answer.status, answer.code) == (status, code)
    assert full.send("GET", "/b/t").status == 404


def test_between_buckets(full: Box) -> None:
    full.run(full.store.create_bucket, "second", "owner")
    assert full.send("PUT", "/second/t", headers={"x-amz-copy-source": SOURCE}).status == 200
    assert full.send("GET", "/second/t").body == b"source"
    assert full.send("PUT", "/none/t", headers={"x-amz-copy-source": SOURCE}).code == "NoSuchBucket"


def upload(box: Box, headers: dict[str, str] | None = None) -> str:
    body = box.send("POST", "/b/t", "uploads=", headers=headers).body.decode()
    return body.partition("<UploadId>")[2].partition("<")[0]


def test_a_part_is_copied(full: Box) -> None:
    number = upload(full)
    whole = full.send("PUT", "/b/t", f"partNumber=1&uploadId={number}", headers={"x-amz-copy-source": SOURCE})
    same("upload_part_copy", whole.body)
    headers = {"x-amz-copy-source": SOURCE, "x-amz-copy-source-range": "bytes=1-3"}
    part = full.send("PUT", "/b/t", f"partNumber=1&uploadId={number}", headers=headers)
    etag = part.body.decode().partition("&quot;")[2].partition("&quot;")[0]
    assert len(etag) == 32
    assert etag != hashlib.md5(b"source", usedforsecurity=False).hexdigest()
    document = (
        f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    )
    done = full.send("POST", "/b/t", f"uploadId={number}", body=document.encode())
    assert done.status == 200
    assert full.send("GET", "/b/t").body == b"our"


@rows(
    ("headers", "query", "code"),
    [
        ({"x-amz-copy-source-range": "bytes=0-6"}, "", "InvalidRange"),
        ({"x-amz-copy-source-range": "bytes=0-"}, "", "InvalidArgument"),
        ({"x-amz-copy-source-range": "bytes=3-1"}, "", "InvalidArgument"),
        ({"x-amz-copy-source-if-match": '"x"'}, "", "PreconditionFailed"),
        ({}, "partNumber=0", "InvalidArgument"),
        ({}, "partNumber=10001", "InvalidArgument"),
        ({}, "uploadId=other", "NoSuchUpload"),
    ],
)
def test_a_part_that_is_not_copied(full: Box, headers: dict[str, str], query: str, code: str) -> None:
    number = upload(full)
    parameters = {"partNumber": "1", "uploadId": number} | dict([query.split("=")] if query else [])
    wire = "&".join(f"{name}={value}" for name, value in parameters.items())
    assert full.send("PUT", "/b/t", wire, headers={"x-amz-copy-source": SOURCE} | headers).code == code


def test_a_copy_gets_the_checksum_that_it_asks_for(box: Box) -> None:
    for size in (5, GATHER_MAX + 9):
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        box.send("PUT", "/b/source", body=data, headers={"x-amz-checksum-crc32": b64("CRC32", data)})
        mode = {"x-amz-checksum-mode": "ENABLED"}
        for algorithm in ("SHA1", "CRC32", "CRC64NVME"):
            asked = {"x-amz-copy-source": "/b/source", "x-amz-checksum-algorithm": algorithm}
            done = box.send("PUT", "/b/copy", headers=asked)
            value = b64(algorithm, data)
            assert f"<Checksum{algorithm}>{value}</Checksum{algorithm}>" in done.body.decode()
            shown = box.send("HEAD", "/b/copy", headers=mode).headers
            assert shown[f"x-amz-checksum-{algorithm.lower()}"] == value
            upload = box.send("POST", "/b/made", "uploads=", headers={"x-amz-checksum-algorithm": algorithm})
            number = upload.body.decode().partition("<UploadId>")[2].partition("<")[0]
            query = f"partNumber=1&uploadId={number}"
            ranged = {"x-amz-copy-source": "/b/source", "x-amz-copy-source-range": "bytes=1-3"}
            part = box.send("PUT", "/b/made", query, headers=ranged).body.decode()
            assert f"<Checksum{algorithm}>{b64(algorithm, data[1:4])}</Checksum{algorithm}>" in part
            etag = part.partition("&quot;")[2].partition("&quot;")[0]
            parts = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
            document = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
            whole = box.send("POST", "/b/made", f"uploadId={number}", body=document).body.decode()
            assert f"<Checksum{algorithm}>" in whole
    refused = {"x-amz-copy-source": "/b/source", "x-amz-checksum-algorithm": "MD4"}
    assert box.send("PUT", "/b/copy", headers=refused).code == "InvalidRequest"


def b64(algorithm: str, data: bytes) -> str:
    return base64.b64encode(checksums.digest(algorithm, data)).decode()
