"""Uploads in parts: create, upload, list, complete, abort, and the attributes of what was made."""

from __future__ import annotations

import base64
import hashlib
import zlib

import pytest

from appliance.limits import MIB, PART_SIZE_MIN
from s3front import checksums
from tests.rows import rows
from tests.s3front.box import Answer, Box
from tests.s3front.operations.golden import same

BIG = bytes(range(256)) * (PART_SIZE_MIN // 256)
CRC32 = {"x-amz-checksum-algorithm": "CRC32"}


def create(box: Box, headers: dict[str, str] | None = None) -> str:
    body = box.send("POST", "/b/k", "uploads=", headers=headers).body.decode()
    return body.partition("<UploadId>")[2].partition("<")[0]


def part(box: Box, upload: str, number: int, body: bytes, headers: dict[str, str] | None = None) -> Answer:
    return box.send("PUT", "/b/k", f"partNumber={number}&uploadId={upload}", headers=headers, body=body)


def complete(box: Box, upload: str, parts: list[tuple[int, str, str]], headers: dict[str, str] | None = None) -> Answer:
    rows = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag>{more}</Part>" for n, e, more in parts)
    document = f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()
    return box.send("POST", "/b/k", f"uploadId={upload}", headers=headers, body=document)


def crc32(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")


def b64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def test_parts_become_an_object(box: Box) -> None:
    made = box.send("POST", "/b/k", "uploads=", headers={"content-type": "a/b", "x-amz-meta-a": "1"})
    same("create_multipart_upload", made.body)
    upload = made.body.decode().partition("<UploadId>")[2].partition("<")[0]
    bodies = {3: BIG, 7: BIG + b"more", 9: b"last"}  # unequal, with gaps
    etags = {n: part(box, upload, n, body).headers["etag"] for n, body in reversed(bodies.items())}
    assert box.send("GET", "/b/k").status == 404
    done = complete(box, upload, [(n, etags[n], "") for n in bodies])
    assert done.status == 200
    same("complete_multipart_upload", done.body)
    digest = hashlib.md5(
        b"".join(hashlib.md5(body, usedforsecurity=False).digest() for body in bodies.values()), usedforsecurity=False
    ).hexdigest()
    got = box.send("GET", "/b/k")
    assert got.body == b"".join(bodies.values())
    assert got.headers["etag"] == f'"{digest}-3"'
    assert (got.headers["content-type"], got.headers["x-amz-meta-a"]) == ("a/b", "1")
    for number, body in enumerate(bodies.values(), 1):
        one = box.send("GET", "/b/k", f"partNumber={number}")
        assert (one.status, one.body, one.headers["x-amz-mp-parts-count"]) == (206, body, "3")
    assert box.send("HEAD", "/b/k", "partNumber=4").status == 400
    assert box.send("GET", "/b/k", "partNumber=4").code == "InvalidPart"
    assert box.send("GET", "/b/k", "partNumber=0").code == "InvalidArgument"
    assert box.send("GET", "/b/k", "partNumber=1", headers={"range": "bytes=0-1"}).code == "InvalidRequest"
    assert part(box, upload, 1, b"late").code == "NoSuchUpload"


def test_a_completion_whose_answer_was_lost_can_be_repeated(box: Box) -> None:
    upload = create(box)
    etag = part(box, upload, 1, b"x").headers["etag"]
    first = complete(box, upload, [(1, etag, "")])
    assert complete(box, upload, [(1, etag, "")]).body == first.body
    box.send("PUT", "/b/k", body=b"something else")
    assert complete(box, upload, [(1, etag, "")]).code == "NoSuchUpload"
    assert complete(box, "other", [(1, etag, "")]).code == "NoSuchUpload"


def test_what_is_not_completed(box: Box) -> None:
    upload = create(box)
    big = part(box, upload, 1, BIG).headers["etag"]
    small = part(box, upload, 2, b"small").headers["etag"]
    last = part(box, upload, 3, b"last").headers["etag"]
    for parts, code in (
        ([(1, big, ""), (2, small, ""), (3, last, "")], "EntityTooSmall"),
        ([(2, small, ""), (1, big, "")], "InvalidPartOrder"),
        ([(1, big, ""), (3, last, ""), (1, big, "")], "InvalidPartOrder"),
        ([(1, big, ""), (1, small, "")], "InvalidPart"),
        ([(1, small, "")], "InvalidPart"),
        ([(1, "", "")], "InvalidPart"),
        ([(1, "x" * 32, "")], "InvalidPart"),
        ([(4, last, "")], "InvalidPart"),
        ([(0, last, "")], "MalformedXML"),
        ([(10001, last, "")], "MalformedXML"),
        ([], "MalformedXML"),
        ([(1, big, "<Size>1</Size>")], "MalformedXML"),
        ([(1, big, "<ChecksumCRC64NVME>AAAAAAAAAAA=</ChecksumCRC64NVME>")], "InvalidPart"),
    ):
        answer = complete(box, upload, parts)
        assert (answer.status, answer.code) == (400, code), parts
    for headers, code in (
        ({"x-amz-mp-object-size": "5"}, "InvalidRequest"),
        ({"x-amz-checksum-crc64nvme": "AAAAAAAAAAA="}, "BadDigest"),
        ({"x-amz-checksum-sha256": b64(bytes(32))}, "InvalidRequest"),
        ({"x-amz-checksum-sha256": "bad"}, "BadDigest"),
        ({"if-match": '"x"'}, "NoSuchKey"),
    ):
        assert complete(box, upload, [(1, big, ""), (3, last, "")], headers).code == code, headers
    assert box.send("POST", "/b/k", f"uploadId={upload}").code == "MalformedXML"
    assert complete(box, "other", [(1, "1234", "")]).code == "NoSuchUpload"
    assert box.send("GET", "/b/k").status == 404
    headers = {"x-amz-mp-object-size": str(len(BIG) + 4), "if-none-match": "*"}
    assert complete(box, upload, [(1, big, ""), (3, last, "")], headers).status == 200
    again = create(box)
    etag = part(box, again, 1, b"x").headers["etag"]
    assert complete(box, again, [(1, etag, "")], {"if-none-match": "*"}).code == "PreconditionFailed"


def test_a_composite_checksum(box: Box) -> None:
    upload = create(box, CRC32)
    parts = []
    for number, body in ((1, BIG), (2, b"last")):
        sent = part(box, upload, number, body, {"x-amz-checksum-crc32": b64(crc32(body))})
        assert sent.headers["x-amz-checksum-crc32"] == b64(crc32(body))
        parts.append((number, sent.headers["etag"], f"<ChecksumCRC32>{b64(crc32(body))}</ChecksumCRC32>"))
    wrong = [(n, e, f"<ChecksumCRC32>{b64(bytes(4))}</ChecksumCRC32>") for n, e, _ in parts]
    assert complete(box, upload, wrong).code == "InvalidPart"
    assert complete(box, upload, parts, {"x-amz-checksum-type": "FULL_OBJECT"}).code == "InvalidRequest"
    whole = b64(crc32(crc32(BIG) + crc32(b"last"))) + "-2"
    assert complete(box, upload, parts, {"x-amz-checksum-crc32": b64(bytes(4)) + "-2"}).code == "BadDigest"
    done = complete(box, upload, parts, {"x-amz-checksum-crc32": whole})
    assert f"<ChecksumCRC32>{whole}</ChecksumCRC32><ChecksumType>COMPOSITE</ChecksumType>" in done.body.decode()
    head = box.send("HEAD", "/b/k", headers={"x-amz-checksum-mode": "ENABLED"})
    assert head.headers["x-amz-checksum-crc32"] == whole
    attributes = box.send(
        "GET",
        "/b/k",
        "attributes=",
        headers={"x-amz-object-attributes": "ETag,Checksum,ObjectParts,StorageClass,ObjectSize"},
    )
    same("get_object_attributes", attributes.body)
    for number, body in ((1, BIG), (2, b"last")):
        one = box.send("GET", "/b/k", f"partNumber={number}", headers={"x-amz-checksum-mode": "ENABLED"})
        assert one.headers["x-amz-checksum-crc32"] == b64(crc32(body))
        assert one.headers["x-amz-checksum-type"] == "COMPOSITE"
    ranged = box.send("GET", "/b/k", headers={"x-amz-checksum-mode": "ENABLED", "range": "bytes=0-9"})
    assert "x-amz-checksum-crc32" not in ranged.headers
    box.send("PUT", "/b/copy", headers={"x-amz-copy-source": "/b/k"})
    box.send("PUT", "/b/renewed", headers={"x-amz-copy-source": "/b/k", "x-amz-metadata-directive": "REPLACE"})
    for name in ("copy", "renewed"):
        one = box.send("GET", f"/b/{name}", "partNumber=2", headers={"x-amz-checksum-mode": "ENABLED"})
        assert one.headers["x-amz-checksum-crc32"] == b64(crc32(b"last"))


ALL = {
    "CRC32": "x-amz-checksum-crc32",
    "CRC32C": "x-amz-checksum-crc32c",
    "CRC64NVME": "x-amz-checksum-crc64nvme",
    "SHA1": "x-amz-checksum-sha1",
    "SHA256": "x-amz-checksum-sha256",
}


@pytest.mark.slow
@rows("algorithm", ALL)
def test_every_algorithm_on_objects_and_on_parts(double: Box, algorithm: str) -> None:
    header, mode = ALL[algorithm], {"x-amz-checksum-mode": "ENABLED"}
    values = [b64(checksums.digest(algorithm, body)) for body in (BIG, b"last", BIG + b"last")]
    assert double.send("PUT", "/b/k", headers={header: values[0]}, body=b"last").code == "BadDigest"
    assert double.send("PUT", "/b/k", headers={header: values[1]}, body=b"last").headers[header] == values[1]
    assert double.send("HEAD", "/b/k", headers=mode).headers[header] == values[1]
    kinds = {"CRC64NVME": ["FULL_OBJECT"], "SHA1": ["COMPOSITE"], "SHA256": ["COMPOSITE"]}
    for kind in kinds.get(algorithm, ["COMPOSITE", "FULL_OBJECT"]):
        upload = create(double, {"x-amz-checksum-algorithm": algorithm, "x-amz-checksum-type": kind})
        assert part(double, upload, 1, b"last", {header: values[0]}).code == "BadDigest"
        sent = [
            part(double, upload, number, body, {header: value}).headers
            for number, body, value in ((1, BIG, values[0]), (2, b"last", values[1]))
        ]
        assert [one[header] for one in sent] == values[:2]
        done = complete(double, upload, [(n, one["etag"], "") for n, one in enumerate(sent, 1)])
        pieces = b"".join(map(base64.b64decode, values[:2]))
        joined = f"{b64(checksums.digest(algorithm, pieces))}-2" if kind == "COMPOSITE" else values[2]
        assert f"<Checksum{algorithm}>{joined}</Checksum{algorithm}>" in done.body.decode()
        head = double.send("HEAD", "/b/k", headers=mode).headers
        assert (head[header], head["x-amz-checksum-type"]) == (joined, kind)
        names = {"x-amz-object-attributes": "ObjectParts"}
        attributes = double.send("GET", "/b/k", "attributes=", headers=names).body.decode()
        assert [f"<Checksum{algorithm}>{v}</Checksum{algorithm}>" in attributes for v in values] == [True, True, False]


@pytest.mark.parametrize("said", [True, False])
def test_a_checksum_of_the_whole_object(box: Box, said: bool) -> None:
    upload = create(box, CRC32 | {"x-amz-checksum-type": "FULL_OBJECT"} if said else None)
    parts = []
    for number, body in ((1, BIG), (2, b"last")):
        sent = part(box, upload, number, body, {"x-amz-checksum-crc32": b64(crc32(body))})
        parts.append((number, sent.headers["etag"], ""))
    whole = b64(crc32(BIG + b"last"))
    done = complete(box, upload, parts, {"x-amz-checksum-crc32": whole})
    assert f"<ChecksumCRC32>{whole}</ChecksumCRC32><ChecksumType>FULL_OBJECT</ChecksumType>" in done.body.decode()


@rows(
    ("headers", "code"),
    [
        ({"x-amz-checksum-algorithm": "MD4"}, "InvalidRequest"),
        ({"x-amz-checksum-algorithm": "SHA256", "x-amz-checksum-type": "FULL_OBJECT"}, "InvalidRequest"),
        ({"x-amz-checksum-algorithm": "CRC64NVME", "x-amz-checksum-type": "COMPOSITE"}, "InvalidRequest"),
        ({"x-amz-checksum-type": "COMPOSITE"}, "InvalidRequest"),
        ({"x-amz-tagging": "a?=b"}, "InvalidTag"),
        ({"x-amz-storage-class": "x"}, "InvalidStorageClass"),
    ],
)
def test_an_upload_that_is_not_begun(box: Box, headers: dict[str, str], code: str) -> None:
    assert box.send("POST", "/b/k", "uploads=", headers=headers).code == code


def test_parts_keep_to_the_uploads_checksum(box: Box) -> None:
    made = box.send("POST", "/b/k", "uploads=", headers={"x-amz-checksum-algorithm": "SHA256"})
    assert made.headers["x-amz-checksum-algorithm"] == "SHA256"
    assert made.headers["x-amz-checksum-type"] == "COMPOSITE"
    upload = made.body.decode().partition("<UploadId>")[2].partition("<")[0]
    assert part(box, upload, 1, b"x", {"x-amz-checksum-crc32": b64(crc32(b"x"))}).code == "InvalidRequest"
    unsaid = part(box, upload, 1, b"x")  # computed for the client
    assert unsaid.headers["x-amz-checksum-sha256"] == b64(hashlib.sha256(b"x").digest())


@rows("number", ["0", "10001", "x", "", "-1", "1.0", "%C2%B2"])
def test_a_part_number_is_one_to_ten_thousand(box: Box, number: str) -> None:
    answer = box.send("PUT", "/b/k", f"partNumber={number}&uploadId={create(box)}", body=b"x")
    assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_a_part_replaces_and_any_size_goes(box: Box) -> None:
    upload = create(box)
    part(box, upload, 1, b"old")
    etag = part(box, upload, 1, bytes(3 * MIB)).headers["etag"]
    assert complete(box, upload, [(1, etag, "")]).status == 200
    assert len(box.send("GET", "/b/k").body) == 3 * MIB


def test_the_list_of_parts(box: Box) -> None:
    upload = create(box, CRC32)
    for number in (1, 2, 5):
        part(box, upload, number, b"x" * number)
    same("list_parts", box.send("GET", "/b/k", f"uploadId={upload}").body)
    page = box.send("GET", "/b/k", f"uploadId={upload}&max-parts=1&part-number-marker=1").body
    assert b"<PartNumber>2</PartNumber>" in page
    assert page.count(b"<Part>") == 1
    assert b"<NextPartNumberMarker>2</NextPartNumberMarker>" in page
    assert b"<IsTruncated>true</IsTruncated>" in page
    assert b"<Part>" not in box.send("GET", "/b/k", f"uploadId={upload}&max-parts=0").body
    assert box.send("GET", "/b/k", f"uploadId={upload}&max-parts=x").code == "InvalidArgument"
    assert box.send("GET", "/b/other", f"uploadId={upload}").code == "NoSuchUpload"


def test_an_aborted_upload_is_gone(box: Box) -> None:
    upload = create(box)
    part(box, upload, 1, b"x")
    assert box.send("DELETE", "/b/k", f"uploadId={upload}").status == 204
    for method in ("DELETE", "GET"):
        assert box.send(method, "/b/k", f"uploadId={upload}").code == "NoSuchUpload"
    assert box.send("DELETE", "/b").status == 204


def test_uploads_keep_no_bucket_but_go_with_no_object_left_behind(box: Box) -> None:
    upload = create(box)
    part(box, upload, 1, b"x")
    box.send("PUT", "/b/other", body=b"x")
    assert box.send("DELETE", "/b").code == "BucketNotEmpty"
    assert box.send("GET", "/b/k", f"uploadId={upload}").status == 200
    box.send("DELETE", "/b/other")
    assert box.send("DELETE", "/b").status == 204
    assert box.send("HEAD", "/b").status == 404


def test_a_part_named_twice_in_a_row_counts_once(box: Box) -> None:
    upload = create(box)
    first = part(box, upload, 1, b"first").headers["etag"]
    second = part(box, upload, 1, b"second").headers["etag"]
    done = complete(box, upload, [(1, first, ""), (1, second, "")])
    assert done.status == 200
    assert b"-1&quot;</ETag>" in done.body
    assert box.send("GET", "/b/k").body == b"second"


@pytest.mark.slow
def test_ten_thousand_parts(double: Box) -> None:
    """The longest document there is, with checksums."""
    upload = create(double)

    async def fill() -> str:
        found = double.store.upload(double.store.bucket("b"), b"k", upload)
        body = double.store.body(bytes(PART_SIZE_MIN // 5))
        etag = hashlib.md5(b"x", usedforsecurity=False).hexdigest()
        for number in range(1, 10_001):
            await double.store.put_part(found, number, body, etag)
        return etag

    # the parts are under 5 MiB: the document is read whole, then the first part is refused
    double.store._keep = lambda body: 0  # type: ignore[method-assign]  # no bytes
    etag = double.run(fill)
    checksum = f"<ChecksumSHA256>{b64(bytes(32))}</ChecksumSHA256>"
    answer = complete(double, upload, [(n, f"&quot;{etag}&quot;", checksum) for n in range(1, 10_001)])
    assert (answer.status, answer.code) == (400, "EntityTooSmall")


@pytest.mark.parametrize("names", ["", "Etag", "ETag,Nothing"])
def test_attributes_are_named(box: Box, names: str) -> None:
    box.send("PUT", "/b/k", body=b"x")
    answer = box.send("GET", "/b/k", "attributes=", headers={"x-amz-object-attributes": names} if names else None)
    assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_attributes_of_a_plain_object(box: Box) -> None:
    box.send("PUT", "/b/k", body=b"hello")
    headers = {"x-amz-object-attributes": "ObjectParts, Checksum,ObjectSize"}
    answer = box.send("GET", "/b/k", "attributes=", headers=headers)
    assert answer.headers["last-modified"]
    assert b"<ObjectParts>" not in answer.body
    assert b"<ChecksumCRC64NVME>M3eFcAZSQlc=</ChecksumCRC64NVME>" in answer.body
    assert b"<ObjectSize>5</ObjectSize>" in answer.body
    assert box.send("GET", "/b/none", "attributes=", headers=headers).code == "NoSuchKey"
    assert box.send("GET", "/b/k", "attributes=", headers=headers | {"if-match": "x"}).code == "PreconditionFailed"
    for name in ("x-amz-max-parts", "x-amz-part-number-marker"):
        assert box.send("GET", "/b/k", "attributes=", headers=headers | {name: "x"}).code == "InvalidArgument"
