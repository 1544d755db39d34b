"""What every operation answers about what is not there: the routing table, walked.

Source: Amazon S3 API Reference, "Error responses": NoSuchBucket, NoSuchKey, NoSuchUpload and NoSuchVersion, all 404.
"""

from __future__ import annotations

import base64
import hashlib

from s3front.operations.table import Operation, router
from s3front.router import Level, Route
from tests.s3front.box import Answer, Box
from tests.security.test_documents import DOCUMENTS

NEEDS_NONE = {"ListBuckets", "CreateBucket"}
MAKES = {"PutObject", "CreateMultipartUpload", "CopyObject"}  # a key that is not there is what they want
SUCCEEDS = {"DeleteObject"}  # deleting nothing succeeds
LOCKED = {"GetObjectRetention", "PutObjectRetention", "GetObjectLegalHold", "PutObjectLegalHold"}  # no lock, no answer
VERSIONED = {
    "GetObject", "HeadObject", "GetObjectAcl", "PutObjectAcl", "GetObjectTagging", "PutObjectTagging",
    "DeleteObjectTagging", "GetObjectAttributes",
}  # fmt: skip


def ask(box: Box, route: Route, operation: Operation, bucket: str, version: str = "") -> Answer:
    path = f"/{bucket}" if route.level is Level.BUCKET else f"/{bucket}/none"
    query = f"{route.query}={'2' if route.query == 'list-type' else ''}" if route.query else ""
    if route.query == "uploadId":
        query = "uploadId=none" if operation.name != "UploadPart" and not route.header else "partNumber=1&uploadId=none"
    if version:
        query = "&".join(filter(None, (query, f"versionId={version}")))
    body = DOCUMENTS.get(operation.name, "").encode()
    headers = {"content-md5": base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()}
    if route.header:
        headers[route.header.decode()] = "/b/k"
    if operation.name == "RenameObject":
        headers["x-amz-rename-source"] = f"/{bucket}/none"
    if operation.name == "GetObjectAttributes":
        headers["x-amz-object-attributes"] = "ETag"
    return box.send(route.method, path, query, headers, body)


def test_every_operation_says_what_is_not_there() -> None:
    box = Box()
    box.send("PUT", "/b/k", body=b"content")
    for route, operation in router().names():
        name = operation.name
        if name in NEEDS_NONE or name == "PostObject":  # a form names its key in its body
            continue
        answer = ask(box, route, operation, "no-such-bucket")
        assert answer.status == 404, (name, answer.body)
        assert answer.code == ("" if route.method == "HEAD" else "NoSuchBucket"), name
        if route.level is not Level.OBJECT or name in MAKES | SUCCEEDS | LOCKED:
            continue
        answer = ask(box, route, operation, "b")
        assert answer.status == 404, (name, answer.body)
        wanted = "NoSuchUpload" if route.query == "uploadId" else "NoSuchKey"
        assert answer.code == ("" if route.method == "HEAD" else wanted), name


def test_every_operation_on_a_version_says_that_it_is_not_there() -> None:
    box = Box()
    box.send("PUT", "/b/none", body=b"content")
    found = set()
    for route, operation in router().names():
        if operation.name in VERSIONED and not route.header:
            found.add(operation.name)
            answer = ask(box, route, operation, "b", "00000000000000ff")
            assert answer.status == 404, (operation.name, answer.body)
            assert answer.code == ("" if route.method == "HEAD" else "NoSuchVersion"), operation.name
    assert found == VERSIONED
