"""PutObject, GetObject, HeadObject, DeleteObject."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance import limits
from appliance.errors import Code, StoreError
from s3front.dates import NS, http_date
from tests.effort import examples
from tests.rows import rows
from tests.s3front.box import Box
from tests.s3front.memory_store import NOW_NS

SECOND = NOW_NS // NS


def md5(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def test_an_object_goes_in_and_comes_out(box: Box) -> None:
    put = box.send("PUT", "/b/dir/k", headers={"Content-Type": "text/plain", "x-amz-meta-a": "1"}, body=b"hello")
    assert (put.status, put.body, put.headers["etag"]) == (200, b"", md5(b"hello"))
    assert put.headers["x-amz-checksum-crc64nvme"] == "M3eFcAZSQlc="
    assert put.headers["x-amz-checksum-type"] == "FULL_OBJECT"
    got = box.send("GET", "/b/dir/k")
    assert (got.status, got.body) == (200, b"hello")
    for name, value in {
        "content-length": "5",
        "content-type": "text/plain",
        "etag": md5(b"hello"),
        "last-modified": http_date(SECOND).decode(),
        "accept-ranges": "bytes",
        "x-amz-meta-a": "1",
    }.items():
        assert got.headers[name] == value
    assert "x-amz-checksum-crc64nvme" not in got.headers
    head = box.send("HEAD", "/b/dir/k")
    ids = ("x-amz-request-id", "x-amz-id-2")
    assert head.body == b""
    assert {n: v for n, v in head.headers.items() if n not in ids} == {
        n: v for n, v in got.headers.items() if n not in ids
    }


SIZES = [0, 1, limits.INLINE_MAX, limits.GATHER_MAX, limits.GATHER_MAX + 1, limits.MIB, limits.MIB + 1, 3_000_001]


@rows("size", SIZES)
@rows("pieces", [1, 7])
def test_every_size_takes_its_way(box: Box, size: int, pieces: int) -> None:
    body = hashlib.shake_128(b"seed").digest(size)
    put = box.send("PUT", "/b/k", body=body, pieces=pieces)
    assert (put.status, put.headers["etag"]) == (200, md5(body))
    got = box.send("GET", "/b/k")
    assert (got.status, got.body, got.headers["content-length"]) == (200, body, str(size))
    if size > 10:
        part = box.send("GET", "/b/k", headers={"range": f"bytes=5-{size - 3}"})
        assert (part.status, part.body) == (206, body[5 : size - 2])
        assert part.headers["content-range"] == f"bytes 5-{size - 3}/{size}"


@pytest.mark.parametrize(("damaged_from", "status", "code"), [(0, 500, "InternalError")])
def test_damage_at_the_start_of_a_stream_is_answered(double: Box, damaged_from: int, status: int, code: str) -> None:
    double.send("PUT", "/b/k", body=bytes(3 * limits.MIB))
    double.store.damaged_from = damaged_from
    answer = double.send("GET", "/b/k")
    assert (answer.status, answer.code) == (status, code)
    assert double.seen[-1][5] == code


def test_damage_further_on_breaks_the_stream_off(double: Box) -> None:
    """H3: never a wrong byte, and never a full answer that is not one."""
    double.send("PUT", "/b/k", body=bytes(3 * limits.MIB))
    double.store.damaged_from = limits.MIB
    with pytest.raises(StoreError) as caught:
        double.send("GET", "/b/k")
    assert caught.value.code is Code.DAMAGED
    assert double.seen[-1][5] == "StoreError"
    assert double.store.open_readers == 0


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(0, 40), st.text("bytes=0123456789-, ", max_size=16).map(lambda tail: "bytes=" + tail))
def test_no_range_breaks_get(size: int, value: str) -> None:
    box = Box()
    box.send("PUT", "/b/k", body=bytes(range(size)))
    answer = box.send("GET", "/b/k", headers={"range": value})
    assert answer.status in (200, 206, 416)
    if answer.status == 206:
        first, last = answer.headers["content-range"].removeprefix("bytes ").partition("/")[0].split("-")
        assert answer.body == bytes(range(size))[int(first) : int(last) + 1]


def test_a_range_beyond_the_end_is_416(box: Box) -> None:
    box.send("PUT", "/b/k", body=b"hello")
    answer = box.send("GET", "/b/k", headers={"range": "bytes=5-"})
    assert (answer.status, answer.code, answer.headers["content-range"]) == (416, "InvalidRange", "bytes */5")
    assert b"<ActualObjectSize>5</ActualObjectSize>" in answer.body
    answer = box.send("HEAD", "/b/k", headers={"range": "bytes=1-2"})
    assert (answer.status, answer.headers["content-length"]) == (206, "2")


def test_conditional_reads(box: Box) -> None:
    box.send("PUT", "/b/k", headers={"cache-control": "max-age=5", "content-type": "a/b"}, body=b"hello")
    for headers in ({"if-none-match": md5(b"hello")}, {"if-modified-since": http_date(SECOND).decode()}):
        for method in ("GET", "HEAD"):
            answer = box.send(method, "/b/k", headers=headers)
            assert (answer.status, answer.body) == (304, b"")
            assert answer.headers["etag"] == md5(b"hello")
            assert answer.headers["cache-control"] == "max-age=5"
            assert "content-length" not in answer.headers
    answer = box.send("GET", "/b/k", headers={"if-match": '"x"'})
    assert (answer.status, answer.code) == (412, "PreconditionFailed")
    assert b"<Condition>If-Match</Condition>" in answer.body
    answer = box.send("GET", "/b/k", headers={"range": "bytes=0-1", "if-range": '"x"'})
    assert (answer.status, answer.body) == (200, b"hello")
    answer = box.send("GET", "/b/k", headers={"range": "bytes=0-1", "if-range": md5(b"hello")})
    assert (answer.status, answer.body) == (206, b"he")


def test_conditional_writes(box: Box) -> None:
    assert box.send("PUT", "/b/k", headers={"if-match": '"x"'}, body=b"1").code == "NoSuchKey"
    assert box.send("PUT", "/b/k", headers={"if-none-match": "*"}, body=b"1").status == 200
    assert box.send("PUT", "/b/k", headers={"if-none-match": "*"}, body=b"2").code == "PreconditionFailed"
    assert box.send("PUT", "/b/k", headers={"if-match": '"x"'}, body=b"2").status == 412
    old, new = http_date(SECOND - 1).decode(), http_date(SECOND).decode()
    assert box.send("PUT", "/b/k", headers={"if-unmodified-since": old}, body=b"2").status == 412
    assert box.send("GET", "/b/k").body == b"1"
    assert box.send("PUT", "/b/k", headers={"if-unmodified-since": new}, body=b"2").status == 200
    assert box.send("PUT", "/b/none", headers={"if-unmodified-since": old}, body=b"2").status == 200
    assert box.send("PUT", "/b/k", headers={"if-match": md5(b"2")}, body=b"3").status == 200
    assert box.send("DELETE", "/b/k", headers={"if-match": md5(b"2")}).status == 412
    assert box.send("DELETE", "/b/k", headers={"x-amz-if-match-size": "2"}).status == 412
    assert box.send("DELETE", "/b/k", headers={"if-unmodified-since": old}).status == 412
    assert box.send("DELETE", "/b/k", headers={"if-match": md5(b"3"), "x-amz-if-match-size": "1"}).status == 204
    assert box.send("GET", "/b/k").status == 404


def test_a_refused_write_names_its_condition(box: Box) -> None:
    """s3fs takes a 412 for "exists already" only if it says If-None-Match."""
    box.send("PUT", "/b/k", body=b"1")
    for method, name, value, named in (
        ("PUT", "if-none-match", "*", b"If-None-Match"),
        ("PUT", "if-match", '"x"', b"If-Match"),
        ("DELETE", "if-match", '"x"', b"If-Match"),
        ("DELETE", "x-amz-if-match-size", "2", b"X-Amz-If-Match-Size"),
    ):
        answer = box.send(method, "/b/k", headers={name: value}, body=b"2" if method == "PUT" else b"")
        assert answer.status == 412
        assert b"<Condition>" + named + b"</Condition>" in answer.body, answer.body


def test_deleting_nothing_succeeds(box: Box) -> None:
    answer = box.send("DELETE", "/b/none")
    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.headers


def test_overridden_headers(box: Box) -> None:
    box.send("PUT", "/b/k", headers={"content-type": "a/b", "cache-control": "x"}, body=b"hello")
    query = "response-content-disposition=attachment%3B%20filename%3D%22%C3%A9%22&response-content-type=text%2Fplain"
    answer = box.send("GET", "/b/k", query)
    assert answer.headers["content-disposition"] == 'attachment; filename="é"'
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["cache-control"] == "x"


@rows("evil", ["a%0D%0ASet-Cookie:%20x", "a%0Ab", "a%00", "a%7F"])
def test_no_override_begins_a_new_header(box: Box, evil: str) -> None:
    """SECURITY rule 13."""
    box.send("PUT", "/b/k", body=b"hello")
    answer = box.send("GET", "/b/k", f"response-content-type={evil}")
    assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_checksums_are_verified_stored_and_shown(box: Box) -> None:
    right = base64.b64encode(zlib.crc32(b"hello").to_bytes(4, "big")).decode()
    put = box.send("PUT", "/b/k", headers={"x-amz-checksum-crc32": right}, body=b"hello")
    assert put.headers["x-amz-checksum-crc32"] == right
    got = box.send("HEAD", "/b/k", headers={"x-amz-checksum-mode": "ENABLED"})
    assert (got.headers["x-amz-checksum-crc32"], got.headers["x-amz-checksum-type"]) == (right, "FULL_OBJECT")
    part = box.send("GET", "/b/k", headers={"x-amz-checksum-mode": "ENABLED", "range": "bytes=0-1"})
    assert "x-amz-checksum-crc32" not in part.headers  # it is not of these bytes
    for headers, code in (
        ({"x-amz-checksum-crc32": "AAAAAA=="}, "BadDigest"),
        ({"x-amz-checksum-crc32": "AAAA"}, "BadDigest"),
        ({"content-md5": base64.b64encode(bytes(16)).decode()}, "BadDigest"),
        ({"content-md5": "x"}, "InvalidDigest"),
    ):
        for body in (b"other", bytes(limits.GATHER_MAX + 1)):
            answer = box.send("PUT", "/b/k", headers=headers, body=body)
            assert (answer.status, answer.code) == (400, code)
    answer = box.send("PUT", "/b/k", body=b"other", payload=hashlib.sha256(b"another").hexdigest())
    assert answer.code == "XAmzContentSHA256Mismatch"
    assert box.send("GET", "/b/k").body == b"hello"


def test_a_refused_put_is_refused_before_its_body(box: Box) -> None:
    for headers, code in (
        ({"x-amz-tagging": "a=b&a=b"}, "InvalidArgument"),
        ({"x-amz-storage-class": "x"}, "InvalidStorageClass"),
        ({"content-length": str(5 * limits.GIB + 1)}, "EntityTooLarge"),
    ):
        assert box.send("PUT", "/b/k", headers=headers, body=b"", payload="UNSIGNED-PAYLOAD").code == code
    assert box.send("PUT", "/b/k", headers={"x-amz-meta-a": "x" * 2048}).code == "MetadataTooLarge"
    assert box.send("GET", "/b/k").status == 404


def test_the_storage_class_is_kept(box: Box) -> None:
    box.send("PUT", "/b/k", headers={"x-amz-storage-class": "STANDARD_IA"}, body=b"x")
    assert box.send("HEAD", "/b/k").headers["x-amz-storage-class"] == "STANDARD_IA"
    assert b"<StorageClass>STANDARD_IA</StorageClass>" in box.send("GET", "/b").body


def test_a_fast_bucket_answers_opaque_etags(box: Box) -> None:
    async def fast() -> None:
        await box.store.create_bucket("fast", "owner", etag="fast")

    box.run(fast)
    first, second = (box.send("PUT", "/fast/k", body=b"same").headers["etag"] for _ in range(2))
    assert first != second
    assert "-" in first
    assert box.send("GET", "/fast/k").headers["etag"] == second


def test_trailing_slash_keys_are_objects(box: Box) -> None:
    assert box.send("PUT", "/b/d/", body=b"").status == 200
    assert box.send("GET", "/b/d").status == 404
    assert box.send("GET", "/b/d/").status == 200


def test_a_missing_bucket_or_key(box: Box) -> None:
    for method in ("GET", "PUT", "DELETE"):
        assert box.send(method, "/none/k").code == "NoSuchBucket"
    assert box.send("GET", "/b/k").code == "NoSuchKey"
    assert box.send("HEAD", "/b/k").status == 404


def framed(body: bytes, checksum: bytes, *, size: int = 65_536) -> bytes:
    """aws-chunked, unsigned, with a CRC32 trailer."""
    chunks = [body[start : start + size] for start in range(0, len(body), size)]
    wire = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return wire + b"0\r\nx-amz-checksum-crc32:" + base64.b64encode(checksum) + b"\r\n\r\n"


@pytest.mark.parametrize("size", [0, 5, limits.GATHER_MAX, limits.GATHER_MAX + 1, 2_000_000])
@pytest.mark.parametrize("pieces", [1, 5])
def test_a_streamed_upload_with_a_trailer(box: Box, size: int, pieces: int) -> None:
    """Nothing is visible before the last check (SECURITY rule 3)."""
    body = hashlib.shake_128(b"seed").digest(size)
    crc = zlib.crc32(body).to_bytes(4, "big")
    headers = {
        "content-encoding": "gzip,aws-chunked",
        "x-amz-decoded-content-length": str(size),
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    payload = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    wrong = framed(body, bytes(4) if any(crc) else b"1234")
    for wire, code in (
        (wrong, "BadDigest"),
        (framed(body, crc)[:-6], "MalformedTrailerError"),
        (framed(body + b"x", crc), "IncompleteBody"),
    ):
        answer = box.send("PUT", "/b/k", headers=headers, body=wire, payload=payload, pieces=pieces)
        assert answer.status == 400, code
        assert box.send("GET", "/b/k").status == 404
    answer = box.send("PUT", "/b/k", headers=headers, body=framed(body, crc), payload=payload, pieces=pieces)
    assert (answer.status, answer.headers["x-amz-checksum-crc32"]) == (200, base64.b64encode(crc).decode())
    got = box.send("GET", "/b/k")
    assert (got.body, got.headers["content-encoding"]) == (body, "gzip")


def test_an_object_replaced_meanwhile_is_looked_up_again(double: Box) -> None:
    double.send("PUT", "/b/k", body=b"x" * 100)
    upload = double.send("POST", "/b/t", "uploads=").body.decode().partition("<UploadId>")[2].partition("<")[0]
    source = {"x-amz-copy-source": "/b/k"}
    for method, path, query, headers in (
        ("GET", "/b/k", "", None),
        ("PUT", "/b/t", "", source),
        ("PUT", "/b/t", f"partNumber=1&uploadId={upload}", source),
    ):
        double.store.overtaken = 3
        assert double.send(method, path, query, headers).status == 200
        double.store.overtaken = 1000
        answer = double.send(method, path, query, headers)
        assert (answer.status, answer.code) == (503, "SlowDown")
        double.store.overtaken = 0


def test_an_object_has_no_torrent(box: Box) -> None:
    box.send("PUT", "/b/k", body=b"x")
    answer = box.send("GET", "/b/k", "torrent=")
    assert (answer.status, answer.code) == (404, "NoSuchKey")
