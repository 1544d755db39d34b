"""RenameObject through the door: one step, conditions of both sides, tokens, and what is refused."""

from __future__ import annotations

import pytest

from s3front.dates import http_date
from tests.s3front.box import READER, Box
from tests.s3front.memory_store import NOW_NS

SECOND = NOW_NS // 1_000_000_000
QUERY = "renameObject="


@pytest.fixture
def box(box: Box) -> Box:
    box.send("PUT", "/b/d/k", headers={"x-amz-meta-m": "kept", "x-amz-tagging": "a=1"}, body=b"content")
    return box


def source(path: str, headers: dict[str, str] | None = None) -> dict[str, str]:
    return {"x-amz-rename-source": path} | (headers or {})


def test_an_object_gets_another_key(box: Box) -> None:
    before = box.send("HEAD", "/b/d/k").headers
    for old, path, new in (
        ("/b/d/k", "/b/d/k", "/b/other/place/k"),
        ("/b/other/place/k", "b/other/place/k", "/b/k"),
        ("/b/k", "k", "/b/d/k%20%C3%A9"),
        ("/b/d/k%20%C3%A9", "/b/d/k%20%C3%A9", "/b/d/k"),
    ):
        answer = box.send("PUT", new, QUERY, headers=source(path))
        assert (answer.status, answer.body) == (200, b"")
        assert box.send("GET", old).code == "NoSuchKey"
        after = box.send("GET", new)
        assert after.body == b"content"
        for name in ("etag", "last-modified", "x-amz-meta-m", "x-amz-tagging-count"):
            assert after.headers[name] == before[name]
    assert box.send("PUT", "/b/d/k", QUERY, headers=source("/b/d/k")).status == 200
    box.send("PUT", "/b/there", body=b"gone")
    assert box.send("PUT", "/b/there", QUERY, headers=source("/b/d/k")).status == 200
    assert box.send("GET", "/b/there").body == b"content"
    assert box.send("GET", "/b", "list-type=2").body.count(b"<Key>") == 1


def test_what_is_not_renamed(box: Box) -> None:
    etag = box.send("HEAD", "/b/d/k").headers["etag"]
    other = box.send("PUT", "/b/there", body=b"other").headers["etag"]
    past, future = (http_date(SECOND + change).decode() for change in (-9, 9))
    prefix = "x-amz-rename-source-if-"
    for target, headers, code in (
        ("/b/new", {}, "InvalidArgument"),
        ("/b/new", source(""), "InvalidArgument"),
        ("/b/new", source("/b/"), "InvalidArgument"),
        ("/b/new", source("/b/%zz"), "InvalidArgument"),
        ("/b/new", source("/second/k"), "InvalidRequest"),
        ("/b/new", source("/b/none"), "NoSuchKey"),
        ("/b/new", source("/b/" + "k" * 1025), "KeyTooLongError"),
        ("/none/new", source("/none/k"), "NoSuchBucket"),
        ("/b/there", source("/b/d/k", {"if-none-match": "*"}), "PreconditionFailed"),
        ("/b/there", source("/b/d/k", {"if-match": etag}), "PreconditionFailed"),
        ("/b/new", source("/b/d/k", {"if-match": etag}), "NoSuchKey"),
        ("/b/there", source("/b/d/k", {"if-modified-since": future}), "PreconditionFailed"),
        ("/b/new", source("/b/d/k", {"if-modified-since": past}), "PreconditionFailed"),
        ("/b/there", source("/b/d/k", {"if-unmodified-since": past}), "PreconditionFailed"),
        ("/b/new", source("/b/d/k", {prefix + "match": other}), "PreconditionFailed"),
        ("/b/new", source("/b/d/k", {prefix + "none-match": etag}), "PreconditionFailed"),
        ("/b/new", source("/b/d/k", {prefix + "none-match": "*"}), "PreconditionFailed"),
        ("/b/new", source("/b/d/k", {prefix + "modified-since": future}), "PreconditionFailed"),
        ("/b/new", source("/b/d/k", {prefix + "unmodified-since": past}), "PreconditionFailed"),
        ("/b/new", source("/b/d/k", {"x-amz-client-token": "a b"}), "InvalidArgument"),
        ("/b/new", source("/b/d/k", {"x-amz-client-token": "a" * 65}), "InvalidArgument"),
    ):
        assert box.send("PUT", target, QUERY, headers=headers).code == code, (target, headers)
    assert box.send("PUT", "/b/new", QUERY, headers=source("/b/d/k"), key=READER).code == "AccessDenied"
    assert box.send("GET", "/b/d/k").body == b"content"
    assert box.send("GET", "/b/there").body == b"other"
    assert box.send("GET", "/b/new").code == "NoSuchKey"
    held = {"if-match": other, "if-modified-since": past, prefix + "match": etag, prefix + "unmodified-since": future}
    assert box.send("PUT", "/b/there", QUERY, headers=source("/b/d/k", held)).status == 200


def test_a_token_makes_a_repetition_harmless(box: Box) -> None:
    token = {"x-amz-client-token": "once"}
    for _ in range(3):
        assert box.send("PUT", "/b/new", QUERY, headers=source("/b/d/k", token)).status == 200
    assert box.send("GET", "/b/new").body == b"content"
    assert box.send("PUT", "/b/other", QUERY, headers=source("/b/new", token)).code == "IdempotencyParameterMismatch"
    assert box.send("PUT", "/b/new", QUERY, headers=source("/b/d/k")).code == "NoSuchKey"
    again = {"x-amz-client-token": "twice"}
    assert box.send("PUT", "/b/x", QUERY, headers=source("/b/none", again)).code == "NoSuchKey"
    box.send("PUT", "/b/none", body=b"now there")
    assert box.send("PUT", "/b/x", QUERY, headers=source("/b/none", again)).status == 200  # a failure is no answer


def test_a_source_that_is_replaced_meanwhile_is_looked_up_again(double: Box) -> None:
    double.send("PUT", "/b/k", body=b"x")
    double.store.overtaken = 3
    assert double.send("PUT", "/b/new", QUERY, headers=source("/b/k")).status == 200
    double.store.overtaken = 100
    assert double.send("PUT", "/b/k", QUERY, headers=source("/b/new")).code == "SlowDown"
