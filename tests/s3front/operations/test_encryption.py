"""SSE-S3 and SSE-C through every operation that knows them; a bucket's default; what is refused, and by which code."""

from __future__ import annotations

import base64
import hashlib
import logging
import re

import pytest

from appliance import limits
from appliance.encryption import customer_key
from s3front import encryption
from tests.rows import rows
from tests.s3front.box import Box

PREFIX = "x-amz-server-side-encryption"
SSE_S3 = {PREFIX: "AES256"}
RAW, OTHER = bytes(range(32)), bytes(range(32, 64))
SIZES = [0, 1, limits.INLINE_MAX, 5000, limits.GATHER_MAX + 1, limits.MIB + 5]
DEFAULT = (
    b"<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm>"
    b"</ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>"
)


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def customer(raw: bytes = RAW, prefix: str = PREFIX) -> dict[str, str]:
    return {
        f"{prefix}-customer-algorithm": "AES256",
        f"{prefix}-customer-key": base64.b64encode(raw).decode(),
        f"{prefix}-customer-key-md5": md5(raw),
    }


def source(raw: bytes = RAW) -> dict[str, str]:
    return customer(raw, "x-amz-copy-source-server-side-encryption")


SSE_C = customer()
WAYS: dict[str, dict[str, str]] = {"plain": {}, "box": SSE_S3, "customer": SSE_C}


def shown(headers: dict[str, str]) -> dict[str, str]:
    """What an answer says of encryption."""
    return {name: value for name, value in headers.items() if name.startswith(PREFIX)}


EXPECTED: dict[str, dict[str, str]] = {
    "plain": {},
    "box": SSE_S3,
    "customer": {f"{PREFIX}-customer-algorithm": "AES256", f"{PREFIX}-customer-key-md5": md5(RAW)},
}


@rows("size", SIZES)
@rows("way", list(WAYS))
def test_what_is_put_is_got_with_its_headers(box: Box, way: str, size: int) -> None:
    body = hashlib.shake_128(b"x").digest(size)
    key = WAYS[way] if way == "customer" else {}
    put = box.send("PUT", "/b/k", headers=WAYS[way], body=body)
    assert (put.status, shown(put.headers)) == (200, EXPECTED[way])
    for method in ("GET", "HEAD"):
        got = box.send(method, "/b/k", headers=key)
        assert (got.status, shown(got.headers)) == (200, EXPECTED[way])
        assert got.headers["etag"] == put.headers["etag"]
        assert got.body == (body if method == "GET" else b"")
    if size > 1:
        part = box.send("GET", "/b/k", headers={**key, "range": "bytes=1-"})
        assert (part.status, part.body) == (206, body[1:])
    plain = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
    assert (put.headers["etag"] == plain) == (way != "customer"), "an SSE-C object's MD5 is not told"
    assert re.fullmatch(r'"[0-9a-f]{32}"', put.headers["etag"])
    attributes = box.send("GET", "/b/k", "attributes=", headers={**key, "x-amz-object-attributes": "ObjectSize"})
    assert (attributes.status, shown(attributes.headers)) == (200, EXPECTED[way])


def test_equal_bodies_under_one_key_have_equal_etags(box: Box) -> None:
    tags = [
        box.send("PUT", f"/b/{name}", headers=customer(raw), body=b"same").headers["etag"]
        for name, raw in (("one", RAW), ("two", RAW), ("three", OTHER))
    ]
    assert tags[0] == tags[1] != tags[2]


def changed(**values: str | None) -> dict[str, str]:
    """SSE-C's headers with some of them replaced or taken away."""
    headers = dict(SSE_C)
    for name, value in values.items():
        full = f"{PREFIX}-customer-{name.replace('_', '-')}"
        if value is None:
            del headers[full]
        else:
            headers[full] = value
    return headers


@rows(
    "headers,code",
    [
        (changed(algorithm=None), "InvalidArgument"),
        (changed(algorithm="AES192"), "InvalidEncryptionAlgorithmError"),
        (changed(key=None), "InvalidArgument"),
        (changed(key="not base64"), "InvalidArgument"),
        (changed(key=base64.b64encode(RAW[:31]).decode()), "InvalidArgument"),
        (changed(key_md5=None), "InvalidArgument"),
        (changed(key_md5=md5(OTHER)), "InvalidArgument"),
        (changed(key_md5="AAAA"), "InvalidArgument"),
        (changed(key_md5="*"), "InvalidArgument"),
        (SSE_C | SSE_S3, "InvalidArgument"),
        (SSE_C | {PREFIX: "aws:kms"}, "InvalidArgument"),
        ({PREFIX: "aes:kms"}, "InvalidArgument"),
        ({PREFIX: ""}, "InvalidArgument"),
        (SSE_S3 | {f"{PREFIX}-aws-kms-key-id": "k"}, "InvalidArgument"),
        (SSE_S3 | {f"{PREFIX}-context": "e30="}, "InvalidArgument"),
        ({f"{PREFIX}-aws-kms-key-id": "k"}, "InvalidArgument"),
        ({PREFIX: "aws:kms"}, "NotImplemented"),
        ({PREFIX: "aws:kms:dsse"}, "NotImplemented"),
    ],
)
@rows("method,query", [("PUT", ""), ("POST", "uploads=")])
def test_what_cannot_be_asked_for(box: Box, method: str, query: str, headers: dict[str, str], code: str) -> None:
    answer = box.send(method, "/b/k", query, headers=headers, body=b"" if query else b"x")
    assert (answer.status, answer.code) == (501 if code == "NotImplemented" else 400, code)
    assert box.send("GET", "/b/k").code == "NoSuchKey"
    assert base64.b64encode(RAW) not in answer.body, "no error repeats a key"


def test_a_bucket_key_means_nothing_without_kms(box: Box) -> None:
    headers = {f"{PREFIX}-bucket-key-enabled": "true"}
    assert shown(box.send("PUT", "/b/k", headers=headers, body=b"x").headers) == {}
    assert shown(box.send("PUT", "/b/k", headers=headers | SSE_S3, body=b"x").headers) == SSE_S3


@rows("method,query", [("GET", ""), ("HEAD", ""), ("GET", "attributes=")])
def test_reading_needs_the_right_key(box: Box, method: str, query: str) -> None:
    asked = {"x-amz-object-attributes": "ETag"} if query else {}
    box.send("PUT", "/b/c", headers=SSE_C, body=b"x" * 5000)
    box.send("PUT", "/b/box", headers=SSE_S3, body=b"x")
    box.send("PUT", "/b/plain", body=b"x")
    tried: list[tuple[str, dict[str, str], int, str]] = [
        ("c", {}, 400, "InvalidRequest"),
        ("c", customer(OTHER), 400, "InvalidRequest"),
        ("c", changed(key_md5=None), 400, "InvalidArgument"),
        ("c", SSE_C, 200, ""),
        ("box", SSE_C, 400, "InvalidRequest"),
        ("plain", SSE_C, 400, "InvalidRequest"),
        ("box", SSE_S3, 400, "InvalidArgument"),
        ("plain", SSE_S3, 400, "InvalidArgument"),
        ("none", SSE_C, 404, "NoSuchKey"),
    ]
    for key, headers, status, code in tried:
        answer = box.send(method, f"/b/{key}", query, headers=headers | asked)
        expected = "" if method == "HEAD" else code
        assert (key, answer.status, answer.code) == (key, status, expected)


def test_a_part_that_is_not_there_is_said_without_a_key(box: Box) -> None:
    box.send("PUT", "/b/c", headers=SSE_C, body=b"x")
    with_key = box.send("GET", "/b/c", "partNumber=2", headers=SSE_C)
    assert box.send("GET", "/b/c", "partNumber=2").code == with_key.code != "InvalidRequest"


# ---------------------------------------------------------------------- copies


@pytest.mark.slow
@rows("size", [0, 700, 5000, limits.GATHER_MAX + 7])
@rows("to", list(WAYS))
@rows("origin", list(WAYS))
def test_every_copy_between_every_two(box: Box, origin: str, to: str, size: int) -> None:
    body = hashlib.shake_128(b"y").digest(size)
    put = box.send("PUT", "/b/from", headers={**WAYS[origin], "x-amz-meta-a": "1"}, body=body)
    wanted = customer(OTHER) if to == "customer" else WAYS[to]
    opens = source() if origin == "customer" else {}
    answer = box.send("PUT", "/b/to", headers={"x-amz-copy-source": "/b/from", **wanted, **opens})
    assert answer.status == 200
    kept = "box" if origin == "box" and to == "plain" else to
    expected = EXPECTED[kept] | ({f"{PREFIX}-customer-key-md5": md5(OTHER)} if kept == "customer" else {})
    assert shown(answer.headers) == expected
    got = box.send("GET", "/b/to", headers=customer(OTHER) if to == "customer" else {})
    assert (got.status, got.body, shown(got.headers), got.headers["x-amz-meta-a"]) == (200, body, expected, "1")
    plain = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
    assert (got.headers["etag"] == plain) == (to != "customer")
    assert got.headers["etag"].strip('"').encode() in answer.body
    if origin == "customer":
        for wrong, code in (({}, "InvalidRequest"), (source(OTHER), "InvalidRequest")):
            refused = box.send("PUT", "/b/to", headers={"x-amz-copy-source": "/b/from", **wanted, **wrong})
            assert (refused.status, refused.code) == (400, code)
    else:
        refused = box.send("PUT", "/b/to", headers={"x-amz-copy-source": "/b/from", **source()})
        assert (refused.status, refused.code) == (400, "InvalidRequest")
    assert put.headers["etag"] == box.send("HEAD", "/b/from", headers=WAYS[origin] if opens else {}).headers["etag"]


def test_a_copy_onto_itself_may_change_encryption(box: Box) -> None:
    box.send("PUT", "/b/k", body=b"x" * 3000)
    itself = {"x-amz-copy-source": "/b/k"}
    assert box.send("PUT", "/b/k", headers=itself).code == "InvalidRequest"
    assert box.send("PUT", "/b/k", headers=itself | SSE_S3).status == 200
    assert box.send("PUT", "/b/k", headers=itself | SSE_S3).code == "InvalidRequest"
    assert box.send("PUT", "/b/k", headers=itself | SSE_C).status == 200
    assert box.send("PUT", "/b/k", headers=itself | source() | customer(OTHER)).status == 200
    assert box.send("GET", "/b/k", headers=customer(OTHER)).body == b"x" * 3000


# ---------------------------------------------------------------------- multipart


def begin(box: Box, headers: dict[str, str]) -> str:
    answer = box.send("POST", "/b/m", "uploads=", headers=headers)
    assert answer.status == 200, answer.body
    found = re.search(rb"<UploadId>(.+)</UploadId>", answer.body)
    assert found is not None
    return found[1].decode()


def finish(box: Box, upload: str, tags: list[str], headers: dict[str, str]) -> tuple[int, str, dict[str, str]]:
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{tag}</ETag></Part>" for number, tag in enumerate(tags, 1)
    )
    document = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    answer = box.send("POST", "/b/m", f"uploadId={upload}", headers=headers, body=document)
    return answer.status, answer.code, answer.headers


@rows("origin,way", [("plain", "box"), ("box", "customer"), ("customer", "plain"), ("customer", "customer")])
def test_an_upload_of_a_part_and_a_copied_part(box: Box, origin: str, way: str) -> None:
    first = hashlib.shake_128(b"z").digest(limits.PART_SIZE_MIN)
    box.send("PUT", "/b/from", headers=customer(OTHER) if origin == "customer" else WAYS[origin], body=b"source" * 100)
    key = WAYS[way] if way == "customer" else {}
    upload = begin(box, WAYS[way])
    part = box.send("PUT", "/b/m", f"partNumber=1&uploadId={upload}", headers=key, body=first)
    assert (part.status, shown(part.headers)) == (200, EXPECTED[way])
    opens = source(OTHER) if origin == "customer" else {}
    headers = {"x-amz-copy-source": "/b/from", "x-amz-copy-source-range": "bytes=1-200"} | opens | key
    copied = box.send("PUT", "/b/m", f"partNumber=2&uploadId={upload}", headers=headers)
    assert (copied.status, shown(copied.headers)) == (200, EXPECTED[way]), copied.body
    tag = re.search(rb"&quot;(\w+)&quot;", copied.body)
    assert tag is not None
    status, _, answered = finish(box, upload, [part.headers["etag"], tag[1].decode()], key)
    assert (status, shown(answered)) == (200, EXPECTED[way])
    got = box.send("GET", "/b/m", headers=key)
    assert got.body == first + (b"source" * 100)[1:201]
    assert shown(got.headers) == EXPECTED[way]


def test_parts_tell_their_checksums_only_to_those_with_the_key(box: Box) -> None:
    upload = begin(box, SSE_C | {"x-amz-checksum-algorithm": "SHA256"})
    digest = base64.b64encode(hashlib.sha256(b"x").digest()).decode()
    sent = SSE_C | {"x-amz-checksum-sha256": digest}
    assert box.send("PUT", "/b/m", f"partNumber=1&uploadId={upload}", headers=sent, body=b"x").status == 200
    listed = box.send("GET", "/b/m", f"uploadId={upload}")
    assert listed.status == 200
    assert b"<Size>1</Size>" in listed.body
    assert digest.encode() not in listed.body
    assert digest.encode() in box.send("GET", "/b/m", f"uploadId={upload}", headers=SSE_C).body
    assert box.send("GET", "/b/m", f"uploadId={upload}", headers=customer(OTHER)).code == "InvalidRequest"


def test_a_repeated_completion_answers_as_the_first_did(box: Box) -> None:
    """Encryption, and the checksum, which says much of the bytes: to those with the key."""
    for way, headers in WAYS.items():
        key = headers if way == "customer" else {}
        upload = begin(box, headers)
        part = box.send("PUT", "/b/m", f"partNumber=1&uploadId={upload}", headers=key, body=b"x")
        tags = [part.headers["etag"]]
        for _ in range(2):
            status, _, answered = finish(box, upload, tags, key)
            assert (status, shown(answered)) == (200, EXPECTED[way]), way
        if way == "customer":
            for other in ({}, customer(OTHER)):
                assert finish(box, upload, tags, other)[:2] == (400, "InvalidRequest")


def test_every_part_needs_the_uploads_key(box: Box) -> None:
    upload = begin(box, SSE_C)
    where = f"partNumber=1&uploadId={upload}"
    for headers, code in (
        ({}, "InvalidRequest"),
        (customer(OTHER), "InvalidRequest"),
        (changed(key_md5="AAAAAAAAAAAAAAAAAAAAAA=="), "InvalidArgument"),
        (SSE_S3, "InvalidArgument"),
    ):
        for extra in ({}, {"x-amz-copy-source": "/b/none"}):
            refused = box.send("PUT", "/b/m", where, headers=headers | extra, body=b"" if extra else b"x")
            assert (refused.status, refused.code) == (400, code)
    part = box.send("PUT", "/b/m", where, headers=SSE_C, body=b"x")
    assert finish(box, upload, [part.headers["etag"]], customer(OTHER))[:2] == (400, "InvalidRequest")
    assert finish(box, upload, [part.headers["etag"]], {})[:2] == (400, "InvalidRequest")
    assert finish(box, upload, [part.headers["etag"]], SSE_C)[0] == 200
    upload = begin(box, {})
    refused = box.send("PUT", "/b/m", f"partNumber=1&uploadId={upload}", headers=SSE_C, body=b"x")
    assert (refused.status, refused.code) == (400, "InvalidRequest")
    part = box.send("PUT", "/b/m", f"partNumber=1&uploadId={upload}", body=b"x")
    assert finish(box, upload, [part.headers["etag"]], SSE_C)[:2] == (400, "InvalidRequest")


# ---------------------------------------------------------------------- a bucket's default


def test_a_default_is_for_what_asks_for_nothing(box: Box) -> None:
    assert box.send("GET", "/b", "encryption=").code == "ServerSideEncryptionConfigurationNotFoundError"
    assert box.send("DELETE", "/b", "encryption=").status == 204
    box.send("PUT", "/b/before", body=b"x")
    assert box.send("PUT", "/b", "encryption=", body=DEFAULT).status == 200
    document = box.send("GET", "/b", "encryption=")
    assert document.status == 200
    assert b"<SSEAlgorithm>AES256</SSEAlgorithm>" in document.body
    assert b"<BucketKeyEnabled>false</BucketKeyEnabled>" in document.body
    assert shown(box.send("PUT", "/b/k", body=b"x").headers) == SSE_S3
    assert shown(box.send("PUT", "/b/c", headers=SSE_C, body=b"x").headers) == EXPECTED["customer"]
    assert shown(box.send("POST", "/b/m", "uploads=").headers) == SSE_S3
    assert shown(box.send("PUT", "/b/copy", headers={"x-amz-copy-source": "/b/before"}).headers) == SSE_S3
    assert shown(box.send("GET", "/b/copy").headers) == SSE_S3
    assert shown(box.send("GET", "/b/before").headers) == {}
    assert box.send("DELETE", "/b", "encryption=").status == 204
    assert shown(box.send("PUT", "/b/after", body=b"x").headers) == {}
    assert shown(box.send("GET", "/b/k").headers) == SSE_S3
    assert box.send("GET", "/b", "encryption=").code == "ServerSideEncryptionConfigurationNotFoundError"


RULE = b"<Rule><ApplyServerSideEncryptionByDefault>%b</ApplyServerSideEncryptionByDefault>%b</Rule>"
AES = b"<SSEAlgorithm>AES256</SSEAlgorithm>"


@rows(
    "content,status,code",
    [
        (b"", 400, "MalformedXML"),
        (b"<Rule/>", 400, "MalformedXML"),
        (RULE % (b"", b""), 400, "MalformedXML"),
        (RULE % (AES, b"") * 2, 400, "MalformedXML"),
        (RULE % (AES + AES, b""), 400, "MalformedXML"),
        (RULE % (AES, b"<BucketKeyEnabled>yes</BucketKeyEnabled>"), 400, "MalformedXML"),
        (RULE % (AES, b"<Unknown/>"), 400, "MalformedXML"),
        (RULE % (AES + b"<Unknown/>", b""), 400, "MalformedXML"),
        (RULE % (b"<SSEAlgorithm>AES512</SSEAlgorithm>", b""), 400, "MalformedXML"),
        (RULE % (AES + b"<KMSMasterKeyID>k</KMSMasterKeyID>", b""), 400, "InvalidArgument"),
        (
            RULE % (b"<SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>k</KMSMasterKeyID>", b""),
            501,
            "NotImplemented",
        ),
    ],
)
def test_a_default_that_cannot_be(box: Box, content: bytes, status: int, code: str) -> None:
    root = b"ServerSideEncryptionConfiguration"
    answer = box.send("PUT", "/b", "encryption=", body=b"<%b>%b</%b>" % (root, content, root))
    assert (answer.status, answer.code) == (status, code)
    assert box.send("GET", "/b", "encryption=").status == 404


def test_a_bucket_key_of_a_default_is_shown_again(box: Box) -> None:
    document = DEFAULT.replace(b"</Rule>", b"<BucketKeyEnabled>true</BucketKeyEnabled></Rule>")
    assert box.send("PUT", "/b", "encryption=", body=document).status == 200
    assert b"<BucketKeyEnabled>true</BucketKeyEnabled>" in box.send("GET", "/b", "encryption=").body


def test_no_log_and_no_answer_repeats_a_customers_key(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    """At the most talkative level, in success and in every kind of failure."""
    caplog.set_level(logging.DEBUG)
    answers = [
        box.send("PUT", "/b/k", headers=SSE_C, body=b"x" * 5000),
        box.send("GET", "/b/k", headers=SSE_C),
        box.send("GET", "/b/k", headers=customer(OTHER)),
        box.send("GET", "/b/none", headers=SSE_C),
        box.send("GET", "/none/k", headers=SSE_C),
        box.send("PUT", "/b/k", headers=SSE_C | {"content-md5": md5(b"y")}, body=b"x"),
        box.send("PUT", "/b/k", headers=changed(key_md5="AAAA"), body=b"x"),
        box.send("PUT", "/b/c", headers={"x-amz-copy-source": "/b/k"} | source(OTHER)),
        box.send("POST", "/b/m", "uploads=", headers=SSE_C),
    ]
    for raw in (RAW, OTHER):
        shown = (raw.hex(), repr(raw)[2:-1], base64.b64encode(raw).decode())
        for text in (caplog.text, *(f"{answer.headers}{answer.body!r}" for answer in answers)):
            assert not any(form in text for form in shown)
    assert "Customer(...)" in repr(encryption.Customer(RAW, b""))
    assert RAW.hex() not in repr(encryption.Sealing(customer_key(RAW), encryption.Customer(RAW, b"")))
