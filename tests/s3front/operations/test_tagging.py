"""Tags of objects and buckets through the door: set, read, replaced, taken along, counted."""

from __future__ import annotations

import pytest

from s3front import tagging
from tests.s3front.box import Box

TAGS = {"a": "1", "b": "2 +"}
DOCUMENT = tagging.document(TAGS)
SOURCE = {"x-amz-copy-source": "/b/k"}


@pytest.fixture
def box(box: Box) -> Box:
    box.send("PUT", "/b/k", headers={"x-amz-meta-m": "kept"}, body=b"content")
    return box


def tags(box: Box, path: str) -> dict[str, str]:
    answer = box.send("GET", path, "tagging=")
    assert answer.status == 200, answer
    return tagging.parse(answer.body, tagging.BUCKET_TAGS_MAX)


def test_an_objects_tags(box: Box) -> None:
    before = box.send("HEAD", "/b/k").headers
    assert tags(box, "/b/k") == {}
    assert "x-amz-tagging-count" not in before
    assert box.send("PUT", "/b/k", "tagging=", body=DOCUMENT).status == 200
    assert tags(box, "/b/k") == TAGS
    for method in ("GET", "HEAD"):
        after = box.send(method, "/b/k").headers
        assert after["x-amz-tagging-count"] == "2"
        assert (after["etag"], after["last-modified"]) == (before["etag"], before["last-modified"])
        assert after["x-amz-meta-m"] == "kept"
    assert box.send("PUT", "/b/k", "tagging=", body=tagging.document({"c": ""})).status == 200
    assert tags(box, "/b/k") == {"c": ""}
    for _ in range(2):
        assert box.send("DELETE", "/b/k", "tagging=").status == 204
        assert tags(box, "/b/k") == {}
    assert box.send("GET", "/b/k").body == b"content"


def test_tags_are_given_with_the_object(box: Box) -> None:
    header = {"x-amz-tagging": "b=2+%2B&a=1"}
    box.send("PUT", "/b/put", headers=header, body=b"x")
    assert tags(box, "/b/put") == TAGS
    box.send("PUT", "/b/put", body=b"x")
    assert tags(box, "/b/put") == {}
    made = box.send("POST", "/b/large", "uploads=", headers=header).body.decode()
    upload = made.partition("<UploadId>")[2].partition("<")[0]
    etag = box.send("PUT", "/b/large", f"partNumber=1&uploadId={upload}", body=b"x").headers["etag"]
    parts = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
    document = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    assert box.send("POST", "/b/large", f"uploadId={upload}", body=document).status == 200
    assert tags(box, "/b/large") == TAGS


def test_a_copy_takes_tags_along_unless_told_otherwise(box: Box) -> None:
    box.send("PUT", "/b/k", "tagging=", body=DOCUMENT)
    other = {"x-amz-tagging": "c=3"}
    replace = {"x-amz-tagging-directive": "REPLACE"}
    fresh = {"x-amz-metadata-directive": "REPLACE", "x-amz-meta-n": "new"}
    for headers, expected, meta in (
        ({}, TAGS, "x-amz-meta-m"),
        (other, TAGS, "x-amz-meta-m"),
        (fresh, TAGS, "x-amz-meta-n"),
        (replace, {}, "x-amz-meta-m"),
        (replace | other, {"c": "3"}, "x-amz-meta-m"),
        (replace | other | fresh, {"c": "3"}, "x-amz-meta-n"),
    ):
        assert box.send("PUT", "/b/copy", headers=SOURCE | headers).status == 200
        assert tags(box, "/b/copy") == expected, headers
        assert meta in box.send("HEAD", "/b/copy").headers
    assert box.send("PUT", "/b/k", headers=SOURCE | replace | other).code == "InvalidRequest"
    assert tags(box, "/b/k") == TAGS


def test_what_is_refused_changes_nothing(box: Box) -> None:
    box.send("PUT", "/b/k", "tagging=", body=DOCUMENT)
    box.send("PUT", "/b", "tagging=", body=DOCUMENT)
    many = tagging.document({f"k{number}": "" for number in range(51)})
    for path, query, body, code in (
        ("/b/k", "tagging=", tagging.document({f"k{number}": "" for number in range(11)}), "InvalidTag"),
        ("/b", "tagging=", many, "InvalidTag"),
        ("/b/k", "tagging=", b"", "MalformedXML"),
        ("/b", "tagging=", b"<Tagging><TagSet><Tag/></TagSet></Tagging>", "MalformedXML"),
        ("/b/none", "tagging=", DOCUMENT, "NoSuchKey"),
        ("/b/k", "tagging=&versionId=7", DOCUMENT, "InvalidArgument"),
        ("/none/k", "tagging=", DOCUMENT, "NoSuchBucket"),
        ("/b/k", "tagging=", b" " * 300_000 + DOCUMENT, "MaxMessageLengthExceeded"),
    ):
        assert box.send("PUT", path, query, body=body).code == code, (path, query)
    assert tags(box, "/b/k") == tags(box, "/b") == TAGS
    for method in ("GET", "DELETE"):
        assert box.send(method, "/b/none", "tagging=").code == "NoSuchKey"


def test_a_buckets_tags(box: Box) -> None:
    assert box.send("GET", "/b", "tagging=").code == "NoSuchTagSet"
    assert box.send("PUT", "/b", "tagging=", body=tagging.document({f"k{n}": "" for n in range(50)})).status == 204
    assert len(tags(box, "/b")) == 50
    assert box.send("PUT", "/b", "tagging=", body=DOCUMENT).status == 204
    assert tags(box, "/b") == TAGS
    for _ in range(2):
        assert box.send("DELETE", "/b", "tagging=").status == 204
        assert box.send("GET", "/b", "tagging=").code == "NoSuchTagSet"
    box.send("PUT", "/b", "tagging=", body=DOCUMENT)
    box.send("PUT", "/b", "tagging=", body=tagging.document({}))
    assert box.send("GET", "/b", "tagging=").code == "NoSuchTagSet"
