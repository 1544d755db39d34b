"""The way of every request: authenticate, locate, route, authorize, operate, respond."""

from __future__ import annotations

import logging
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import s3front
from appliance.errors import Code, StoreError
from s3front.app import S3Middleware
from s3front.errors import ERRORS, STORE_CODES, from_store
from s3front.request import parse_copy_source
from s3front.router import Level
from s3front.target import decode_once, parse_query
from s3front.transfer import ClientGone
from tests.rows import rows
from tests.s3front.box import EMPTY, HOST, KEY, READER, SCOPED, Answer, Box


@pytest.fixture
def box() -> Box:
    return Box()


# ------------------------------------------------------------------------------------------------ the form of an error
def test_an_error_is_s3s_xml(box: Box) -> None:
    answer = box.send("GET", "/b/a%3Cb")
    request_id = answer.headers["x-amz-request-id"]
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/xml"
    assert answer.body.decode() == (
        '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code>'
        "<Message>The specified key does not exist.</Message><Key>a&lt;b</Key>"
        f"<Resource>/b/a%3Cb</Resource><RequestId>{request_id}</RequestId></Error>"
    )


def test_an_error_names_what_is_not_there(box: Box) -> None:
    def named(answer: Answer, code: str, element: str) -> str | None:
        assert answer.code == code
        return ET.fromstring(answer.body).findtext(element)

    copy = {"x-amz-copy-source": "/b/source"}
    assert named(box.send("GET", "/b/k%2Fk"), "NoSuchKey", "Key") == "k/k"
    assert named(box.send("GET", "/none"), "NoSuchBucket", "BucketName") == "none"
    assert named(box.send("PUT", "/b/k", headers=copy), "NoSuchKey", "Key") == "source"
    assert named(box.send("PUT", "/b/k", headers={"if-match": '"x"'}, body=b"x"), "NoSuchKey", "Key") == "k"
    copy = {"x-amz-copy-source": "/nowhere/source"}
    assert named(box.send("PUT", "/b/k", headers=copy), "NoSuchBucket", "BucketName") == "nowhere"


def test_an_error_about_an_odd_name_can_be_read(box: Box) -> None:
    answer = box.send("PUT", "/%00%01bucket")
    assert ET.fromstring(answer.body).findtext("Code") == "InvalidBucketName"
    assert ET.fromstring(answer.body).findtext("BucketName") == "\ufffd\ufffdbucket"


def test_head_has_no_body_even_for_an_error(box: Box) -> None:
    answer = box.send("HEAD", "/b/missing")
    assert (answer.status, answer.body) == (404, b"")


def test_every_answer_has_its_own_ids(box: Box) -> None:
    answers = [box.send("GET", "/"), box.send("GET", "/"), box.send("GET", "/none"), box.send("GET", "/", sign=False)]
    ids = [answer.headers["x-amz-request-id"] for answer in answers]
    assert len(set(ids)) == 4
    assert all(len(one) == 16 for one in ids)
    assert all(answer.headers["x-amz-id-2"] for answer in answers)


def test_an_unknown_exception_is_an_internal_error_and_logged(box: Box, caplog: pytest.LogCaptureFixture) -> None:
    box.store.fail = RuntimeError("secret detail")
    with caplog.at_level(logging.ERROR, "tierce.s3"):
        answer = box.send("GET", "/b/k")
    assert (answer.status, answer.code) == (500, "InternalError")
    assert b"secret detail" not in answer.body
    assert "secret detail" in caplog.text
    assert answer.headers["x-amz-request-id"] in caplog.text


@rows("code", list(Code))
def test_every_code_of_the_store_has_an_answer(box: Box, code: Code) -> None:
    box.store.fail = StoreError(code, cause="device 3, offset 4096")
    answer = box.send("GET", "/b/k")
    expected = STORE_CODES.get(code, "InternalError")
    assert (answer.status, answer.code) == (ERRORS[expected][0], expected)
    assert b"device 3" not in answer.body


def test_every_code_of_the_table_is_somebodys_answer() -> None:
    """A code that nobody raises says of an operation what it does not do."""
    said = "".join(path.read_text() for path in Path(s3front.__file__).parent.rglob("*.py") if path.name != "errors.py")
    assert [code for code in ERRORS if f'"{code}"' not in said and code not in STORE_CODES.values()] == []


def test_the_stores_own_words_help_where_they_can() -> None:
    assert from_store(StoreError(Code.INVALID_ARGUMENT, "3 copies need 3 devices")).message == "3 copies need 3 devices"
    assert from_store(StoreError(Code.NO_SUCH_KEY, "node 17")).message == "The specified key does not exist."


# ---------------------------------------------------------------------------------------------------- who may do what
REQUESTS = [
    ("GET", "/", ""),
    ("GET", "/b", ""),
    ("PUT", "/new-bucket", ""),
    ("DELETE", "/b", ""),
    ("GET", "/b/k", ""),
    ("PUT", "/b/k", ""),
    ("DELETE", "/b/k", ""),
    ("POST", "/b/k", "uploads="),
    ("POST", "/b", "delete="),
    ("GET", "/b", "acl="),
    ("PUT", "/b", "policy="),
    ("PATCH", "/b/k", ""),
]


@rows(("method", "path", "query"), REQUESTS)
def test_anonymous_requests_are_refused_before_anything_else(box: Box, method: str, path: str, query: str) -> None:
    answer = box.send(method, path, query, sign=False)
    assert answer.status == 403
    if method != "HEAD":
        assert answer.code == "AccessDenied"
    assert [bucket.name for bucket in box.store.buckets()] == ["b"]


@rows(("method", "path", "query"), REQUESTS)
def test_an_unknown_key_is_refused_everywhere(box: Box, method: str, path: str, query: str) -> None:
    answer = box.send(method, path, query, key="AKIANOBODY")
    assert (answer.status, answer.code) == (403, "InvalidAccessKeyId")


@rows(("method", "path", "query"), [r for r in REQUESTS if r[0] in ("PUT", "DELETE", "POST") and r[2] != "policy="])
def test_a_read_only_key_writes_nothing(box: Box, method: str, path: str, query: str) -> None:
    answer = box.send(method, path, query, key=READER)
    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert box.send("GET", "/b", key=READER).status == 200


def test_a_scoped_key_cannot_tell_other_buckets_from_none(box: Box) -> None:
    trio.run(box.store.create_bucket, "other", "owner")
    answers = [box.send("GET", path, key=SCOPED) for path in ("/other", "/nobodys", "/other/k", "/nobodys/k")]
    assert {(a.status, a.code) for a in answers} == {(403, "AccessDenied")}
    assert box.send("GET", "/b", key=SCOPED).status == 200
    assert b"<Name>other</Name>" not in box.send("GET", "/", key=SCOPED).body


@pytest.mark.parametrize("escape", ["%6fther", "b%2F..%2Fother", "..%2Fother", "b/../../other"])
def test_no_spelling_of_a_bucket_gets_past_authorisation(box: Box, escape: str) -> None:
    """SECURITY rule 6: what is authorised and what is acted on is the same decoded string."""
    trio.run(box.store.create_bucket, "other", "owner")
    assert box.send("PUT", "/other/k", body=b"theirs").status == 200
    answer = box.send("GET", f"/{escape}/k", key=SCOPED)
    assert answer.code in ("AccessDenied", "NoSuchKey")
    assert b"theirs" not in answer.body


def test_a_copy_needs_the_right_to_read_its_source(box: Box) -> None:
    trio.run(box.store.create_bucket, "other", "owner")
    box.send("PUT", "/other/k", body=b"theirs")
    for source in ("/other/k", "other/k", "%2Fother/k", "%6Fther/k"):
        answer = box.send("PUT", "/b/stolen", headers={"x-amz-copy-source": source}, key=SCOPED)
        assert answer.status in (400, 403), source
    assert box.send("GET", "/b/stolen").status == 404


def test_an_unsigned_copy_source_is_refused(box: Box) -> None:
    fields = {"host": HOST, "x-amz-date": "20231114T221320Z", "x-amz-content-sha256": EMPTY}
    fields["authorization"] = box.authorization("PUT", "/b/k2", "", fields, KEY)
    box.send("PUT", "/b/k", body=b"x")
    wire = [(n.encode(), v.encode()) for n, v in fields.items()]
    answer = box.raw("PUT", "/b/k2", "", [*wire, (b"x-amz-copy-source", b"/b/k"), (b"content-length", b"0")])
    assert (answer.status, answer.code) == (403, "AccessDenied")
    assert box.send("GET", "/b/k2").status == 404


def test_the_expected_owner_is_compared(box: Box) -> None:
    assert box.send("GET", "/b", headers={"x-amz-expected-bucket-owner": "owner"}).status == 200
    answer = box.send("GET", "/b", headers={"x-amz-expected-bucket-owner": "111122223333"})
    assert (answer.status, answer.code) == (403, "AccessDenied")
    box.send("PUT", "/b/k", body=b"x")
    answer = box.send(
        "PUT", "/b/k2", headers={"x-amz-copy-source": "b/k", "x-amz-source-expected-bucket-owner": "somebody"}
    )
    assert answer.code == "AccessDenied"


def test_guessing_is_slowed_down_and_success_is_not(box: Box) -> None:
    """SECURITY rule 4."""
    delays = []

    async def request(key: str) -> float:
        fields = {"host": HOST, "x-amz-date": "20231114T221320Z", "x-amz-content-sha256": EMPTY}
        fields["authorization"] = box.authorization("GET", "/b", "", fields, key)
        scope = {
            "type": "http", "method": "GET", "raw_path": b"/b", "query_string": b"", "client": ("192.0.2.9", 1),
            "headers": [(n.encode(), v.encode()) for n, v in fields.items()], "extensions": {},
        }  # fmt: skip

        async def ignore(*_: object) -> None:
            return None

        before = trio.current_time()
        await box.app(scope, ignore, ignore)
        return trio.current_time() - before

    async def main() -> None:
        delays.extend([await request("AKIANOBODY") for _ in range(14)])
        assert await request(KEY) == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert delays[0] == 0
    assert delays[-1] > delays[-3] > 0


# -------------------------------------------------------------------------------------------------------- the target
@rows(
    ("path", "code"),
    [
        ("/b/%", "InvalidURI"),
        ("/b/%4", "InvalidURI"),
        ("/b/%zz", "InvalidURI"),
        ("/b/%ff", "InvalidURI"),
        ("/b/%ed%a0%80", "InvalidURI"),  # a surrogate is not UTF-8
        ("/%ff/k", "InvalidURI"),
        ("/b/" + "a" * 1025, "KeyTooLongError"),
        ("/b/" + "%C3%A9" * 513, "KeyTooLongError"),
        ("//k", "InvalidBucketName"),
        ("/none/k", "NoSuchBucket"),
        ("/B/k", "NoSuchBucket"),
    ],
)
def test_a_path_that_names_nothing(box: Box, path: str, code: str) -> None:
    answer = box.send("GET", path)
    assert (answer.status, answer.code) == (ERRORS[code][0], code)


@pytest.mark.parametrize(
    ("wire", "key"),
    [
        ("/b/a%2Fb", b"a/b"),
        ("/b/a/b", b"a/b"),
        ("/b/a%252Fb", b"a%2Fb"),
        ("/b/%2e%2e/x", b"../x"),
        ("/b/../x", b"../x"),
        ("/b//x", b"/x"),
        ("/b/a//b/", b"a//b/"),
        ("/b/a+b", b"a+b"),
        ("/b/a%20b", b"a b"),
        ("/b/%00", b"\x00"),
        ("/b/%C3%A9", "é".encode()),
        ("/b/%0D%0AX-Evil:%201", b"\r\nX-Evil: 1"),
        ("/b/" + "a" * 1024, b"a" * 1024),
    ],
)
def test_a_key_is_decoded_exactly_once(box: Box, wire: str, key: bytes) -> None:
    assert box.send("PUT", wire, body=b"content").status == 200
    (listed,) = trio.run(box.store.list_objects, box.store.bucket("b")).objects
    assert listed.key == key
    assert box.send("GET", wire).body == b"content"


def test_decoding() -> None:
    assert decode_once(b"%2525") == b"%25"
    assert parse_query(b"a=1&b&c=%26+%2B&a=2&&=x") == {"a": "1", "b": "", "c": "& +"}
    source = parse_copy_source(b"/b/a%2520b%3Fc?versionId=null")
    assert (source.bucket_name, source.key) == ("b", b"a%20b?c")
    assert parse_copy_source(b"b/a+b%2Bc").key == b"a b+c", "s5cmd writes a space as a plus, and AWS reads it so"


def test_virtual_hosts_and_paths_name_the_same_bucket() -> None:
    box = Box(domain="S3.Example.org")
    box.send("PUT", "/b/k", body=b"x")
    for host in ("b.s3.example.org", "B.S3.EXAMPLE.ORG:9000"):
        assert box.send("GET", "/k", headers={"host": host}).body == b"x"
        assert b"<Key>k</Key>" in box.send("GET", "/", headers={"host": host}).body
    for host in ("s3.example.org", "example.org", "b.s3.example.com", "[::1]:9000", "192.0.2.1"):
        assert box.send("GET", "/b/k", headers={"host": host}).body == b"x"
    assert box.send("GET", "/k", headers={"host": "other.s3.example.org"}).code == "NoSuchBucket"


def test_null_is_the_only_version(box: Box) -> None:
    box.send("PUT", "/b/k", body=b"x")
    for version, code in (
        ("null", ""),
        ("00000000000000ff", "NoSuchVersion"),
        ("abc", "InvalidArgument"),
        ("", "InvalidArgument"),
    ):
        assert box.send("GET", "/b/k", f"versionId={version}").code == code, version


# -------------------------------------------------------------------------------------------------------- what is seen
def test_what_is_observed(box: Box) -> None:
    box.send("PUT", "/b/k", body=b"x" * 1000)
    box.send("GET", "/b/k")
    box.send("HEAD", "/b/k")
    box.send("GET", "/b/none")
    box.send("GET", "/", sign=False)
    seen = [(name, status, bytes_in, code) for name, status, _, bytes_in, _, code in box.seen]
    assert seen == [
        ("PutObject", 200, 1000, ""),
        ("GetObject", 200, 0, ""),
        ("HeadObject", 200, 0, ""),
        ("GetObject", 404, 0, "NoSuchKey"),
        ("ListBuckets", 403, 0, "AccessDenied"),
    ]
    assert [bytes_out for *_, bytes_out, _ in box.seen[:3]] == [0, 1000, 0]
    assert all(0 <= seconds < 60 for _, _, seconds, *_ in box.seen)


def test_a_client_that_leaves_within_its_body_changes_nothing(box: Box) -> None:
    for size in (1000, 1_000_000):
        fields = {"host": HOST, "x-amz-date": "20231114T221320Z", "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
        fields["authorization"] = box.authorization("PUT", "/b/k", "", fields, KEY)
        scope: dict[str, Any] = {
            "type": "http", "method": "PUT", "raw_path": b"/b/k", "query_string": b"", "client": None,
            "headers": [(n.encode(), v.encode()) for n, v in fields.items()]
            + [(b"content-length", b"%d" % size)], "extensions": {},
        }  # fmt: skip
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": b"x" * 500, "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive(messages: list[dict[str, Any]] = messages) -> dict[str, Any]:
            return messages.pop(0)

        async def send(message: dict[str, Any]) -> None:
            raise AssertionError(message)

        with pytest.raises(ClientGone):
            trio.run(box.app, scope, receive, send)
        assert box.seen[-1][:2] == ("PutObject", 499)
        assert box.store.open_ingests == 0
    assert box.send("GET", "/b/k").status == 404


# ---------------------------------------------------------------------------------------------------------- lifespan
def test_lifespan_and_reserved_hosts_belong_to_the_inner_application(box: Box) -> None:
    reached = []

    async def inner(scope: dict[str, Any], receive: Any, send: Any) -> None:
        reached.append(scope["type"])
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 299, "headers": []})
            await send({"type": "http.response.body", "body": b"console"})

    app = S3Middleware(inner, box.app, ["Console.Example.org"])
    hosts = {b"console.example.org": 299, b"console.example.org:9000": 299, b"s3.example.org": 403, b"": 403}
    for host, status in hosts.items():
        assert box.raw("GET", "/b/k", "", [(b"host", host)], app=app).status == status
    assert box.raw("GET", "/health", "", [(b"host", b"x")], app=S3Middleware(inner, box.app)).status == 404
    trio.run(app, {"type": "lifespan"}, _nothing, _nothing)
    assert reached == ["http", "http", "lifespan"]


async def _nothing(*_: object) -> None:
    return None


def test_alone_the_application_answers_lifespan(box: Box) -> None:
    messages = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    sent = []

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message["type"])

    trio.run(box.app, {"type": "lifespan"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_levels_are_named_for_people() -> None:
    answer: Answer = Box().send("DELETE", "/")
    assert (answer.status, answer.code) == (405, "MethodNotAllowed")
    assert Level.SERVICE.name.encode() in answer.body
