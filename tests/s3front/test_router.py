"""Routing: a table, and nothing beside it."""

from __future__ import annotations

import pytest

from s3front.errors import S3Error
from s3front.operations import table
from s3front.operations.unset_configuration import UNSET
from s3front.router import ABSENT, SUBRESOURCES, Level
from tests.rows import rows

ROUTER = table.router()
COPY = {b"x-amz-copy-source": b"/b/k"}
B, O, S = Level.BUCKET, Level.OBJECT, Level.SERVICE


def find(method: str, level: Level, query: str = "", headers: dict[bytes, bytes] | None = None) -> str:
    parameters = dict(pair.partition("=")[::2] for pair in query.split("&")) if query else {}
    return ROUTER.find(method, level, parameters, headers or {}).name


@rows(
    ("method", "level", "query", "headers", "name"),
    [
        ("GET", S, "", {}, "ListBuckets"),
        ("GET", S, "x-id=ListBuckets", {}, "ListBuckets"),
        ("PUT", B, "", {}, "CreateBucket"),
        ("HEAD", B, "", {}, "HeadBucket"),
        ("DELETE", B, "", {}, "DeleteBucket"),
        ("GET", B, "location", {}, "GetBucketLocation"),
        ("GET", B, "", {}, "ListObjects"),
        ("GET", B, "prefix=a&delimiter=/", {}, "ListObjects"),
        ("GET", B, "list-type=2&prefix=a", {}, "ListObjectsV2"),
        ("GET", B, "versions", {}, "ListObjectVersions"),
        ("GET", B, "uploads", {}, "ListMultipartUploads"),
        ("POST", B, "delete", {}, "DeleteObjects"),
        ("GET", O, "", {}, "GetObject"),
        ("GET", O, "partNumber=2", {}, "GetObject"),
        ("GET", O, "versionId=null&response-content-type=a", {}, "GetObject"),
        ("GET", O, "X-Amz-Signature=ab", {}, "GetObject"),
        ("HEAD", O, "", {}, "HeadObject"),
        ("GET", O, "attributes", {}, "GetObjectAttributes"),
        ("PUT", O, "", {}, "PutObject"),
        ("PUT", O, "x-id=PutObject", {}, "PutObject"),
        ("PUT", O, "", COPY, "CopyObject"),
        ("PUT", O, "x-id=CopyObject", COPY, "CopyObject"),
        ("DELETE", O, "", {}, "DeleteObject"),
        ("POST", O, "uploads", {}, "CreateMultipartUpload"),
        ("PUT", O, "partNumber=1&uploadId=u", {}, "UploadPart"),
        ("PUT", O, "partNumber=1&uploadId=u", COPY, "UploadPartCopy"),
        ("POST", O, "uploadId=u", {}, "CompleteMultipartUpload"),
        ("POST", O, "uploadId=u", COPY, "CompleteMultipartUpload"),
        ("DELETE", O, "uploadId=u", {}, "AbortMultipartUpload"),
        ("GET", O, "uploadId=u", {}, "ListParts"),
        ("GET", O, "acl", {}, "GetObjectAcl"),
        ("GET", B, "acl", {}, "GetBucketAcl"),
    ],
)
def test_a_request_finds_its_operation(
    method: str, level: Level, query: str, headers: dict[bytes, bytes], name: str
) -> None:
    assert find(method, level, query, headers) == name


def test_every_served_route_finds_itself() -> None:
    for route, operation in ROUTER.names():
        assert (
            ROUTER.find(
                route.method, route.level, {route.query: ""} if route.query else {}, COPY if route.header else {}
            )
            == operation
        )
    assert {o.name for _, o in ROUTER.names()} == {o.name for o in table.OPERATIONS}


@rows("method", ["GET", "HEAD", "PUT", "POST", "DELETE"])
@rows("level", list(Level))
@rows("name", sorted(SUBRESOURCES))
def test_a_subresource_is_never_taken_for_the_plain_operation(method: str, level: Level, name: str) -> None:
    """`PUT /b/k?tagging` must not replace k, `DELETE /b?policy` must not delete b."""
    plain = {operation.name for route, operation in ROUTER.names() if not route.query}
    outcome, status = "", 0
    try:
        outcome = find(method, level, name)
    except S3Error as error:
        outcome, status = error.code, error.status
    assert outcome not in plain
    if (method, level, name) in ABSENT:
        assert (outcome, status) == ("NotImplemented", 501)
    elif status:
        assert (outcome, status) in {("NotImplemented", 501), ("MethodNotAllowed", 405)}


@rows("method", ["PATCH", "get", "OPTIONS", "TRACE", "", "PROPFIND"])
def test_an_unknown_method_is_refused(method: str) -> None:
    for level in Level:
        for query in ("", "acl", "uploads"):
            with pytest.raises(S3Error) as caught:
                find(method, level, query)
            assert caught.value.status in (405, 501)


def test_two_subresources_are_refused() -> None:
    with pytest.raises(S3Error, match="Conflicting query string parameters: acl,policy") as caught:
        find("GET", B, "policy&acl")
    assert caught.value.code == "InvalidArgument"


def test_unset_configurations_are_reads() -> None:
    from appliance.authority import READ_ACTIONS

    assert all(unset.route.method == "GET" and unset.action in READ_ACTIONS for unset in UNSET)
