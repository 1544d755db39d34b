"""Each rule of the house's security, as a test named after the lesson: what befell others must not befell here.

The rules are numbered; a section is a rule.  Everything runs at the level of the whole door: real signatures, the real
gate, the real store (served.py).  What goes on below, function by function, is in tests/s3front/test_gate.py,
test_sigv4.py, test_aws_chunked.py, test_head.py, test_connection.py, test_xml.py, tests/appliance/test_credentials.py
and test_authority.py.  Attacks on the framing of requests and bodies (rules 3 and 13) are in test_wire.py.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from s3front import xml
from s3front.app import S3Middleware, s3_app
from s3front.operations import table
from s3front.router import ABSENT, Level, Route
from s3front.verified import SignedRequest
from tests.s3front.signing import KEY_ID, NOW, REGION, SECRET, sign_by_header, sign_by_query
from tests.security.served import BUCKET, OTHER, READER_ID, SCOPED_ID, Reply, ServedBox, wire

pytestmark = pytest.mark.slow  # in all: most talk to real sockets or run real programs

DAY = 86_400
CONTENT = b"what lies under the key mine"


@pytest.fixture(scope="module")
def box() -> Iterator[ServedBox]:
    with ServedBox() as one:
        one.put(b"mine", CONTENT)
        one.put(b"theirs", b"of others", OTHER)
        yield one


# ------------------------------------------------------------------ rule 1: one authentication gate, for every route
ROUTES = [route for route, _ in table.router().names()]
ABSENT_ROUTES = [Route(method, level, query) for method, level, query in ABSENT]
UNKNOWN_ROUTES = [Route(method, level) for method in ("PATCH", "TRACE") for level in Level]

Make = Callable[..., SignedRequest]
Expected = tuple[int, str]


def by_header(method: str, path: str, query: str, headers: dict[str, str], **how: Any) -> SignedRequest:
    return sign_by_header(method, path, query, headers=headers, **how)


def by_query(method: str, path: str, query: str, headers: dict[str, str], **how: Any) -> SignedRequest:
    return sign_by_query(method, path, query, headers=headers, **how)


def by_word(word: str, trailer: bool = False) -> Make:
    def make(method: str, path: str, query: str, headers: dict[str, str], **how: Any) -> SignedRequest:
        headers = {**headers, "x-amz-decoded-content-length": "4"}
        if trailer:
            headers["x-amz-trailer"] = "x-amz-checksum-crc32"
        return sign_by_header(method, path, query, headers=headers, payload=word, **how)

    return make


KINDS: dict[str, Make] = {
    "header": by_header,
    "query": by_query,
    "unsigned payload": by_word("UNSIGNED-PAYLOAD"),
    "streaming signed": by_word("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
    "streaming signed trailer": by_word("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", trailer=True),
    "streaming unsigned trailer": by_word("STREAMING-UNSIGNED-PAYLOAD-TRAILER", trailer=True),
}
# Defect -> (how it is signed, (status, code) by header, (status, code) by query)
MALFORMED = ((400, "AuthorizationHeaderMalformed"), (400, "AuthorizationQueryParametersError"))
DEFECTS: dict[str, tuple[dict[str, Any], Expected, Expected]] = {
    "bad signature": ({"secret": SECRET[:-1] + "x"}, (403, "SignatureDoesNotMatch"), (403, "SignatureDoesNotMatch")),
    "unknown key": ({"key_id": "TCNOBODYNOBODY123456"}, (403, "InvalidAccessKeyId"), (403, "InvalidAccessKeyId")),
    "expired": ({"at": NOW - 4000}, (403, "RequestTimeTooSkewed"), (403, "AccessDenied")),
    "from the future": ({"at": NOW + 1000}, (403, "RequestTimeTooSkewed"), (403, "AccessDenied")),
    "wrong region": ({"region": "mars-1"}, *MALFORMED),
    "wrong service": ({"service": "ec2"}, *MALFORMED),
    "wrong date": ({}, *MALFORMED),
}


def target(route: Route, bucket: str) -> tuple[str, str, dict[str, str]]:
    """(path, query, headers) that lead to the route."""
    path = {Level.SERVICE: "/", Level.BUCKET: f"/{bucket}", Level.OBJECT: f"/{bucket}/mine"}[route.level]
    query = f"{route.query}={'2' if route.query == 'list-type' else ''}" if route.query else ""
    if route.query == "uploadId":
        query = "partNumber=1&uploadId=none"
    return path, query, {route.header.decode(): f"/{bucket}/mine"} if route.header else {}


def with_another_date(request: SignedRequest) -> SignedRequest:
    """The day in the credential is not that of the request."""
    day, before = time.strftime("%Y%m%d", time.gmtime(NOW)).encode(), b"20200101"
    headers = [(n, v.replace(b"/" + day + b"/", b"/" + before + b"/")) for n, v in request.headers]
    query = request.query.replace(b"%2F" + day + b"%2F", b"%2F" + before + b"%2F")
    return request._replace(headers=headers, query=query)


_sources = itertools.count(1)


def into_the_application(box: ServedBox, requests: list[SignedRequest]) -> list[tuple[int, str]]:
    """(status, code) of each, asked in the server's loop.  Every one comes from another address, so that none waits for
    the guesses of the others; a body that is asked for is a failure of the gate, and so is nothing of it ever sent."""

    async def one(request: SignedRequest) -> tuple[int, str]:
        found: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            found.append(message)

        number = next(_sources)
        scope = {
            "type": "http", "method": request.method, "raw_path": request.path, "query_string": request.query,
            "headers": list(request.headers), "scheme": "http", "extensions": {},
            "client": (f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1),
        }  # fmt: skip
        await box.app(scope, receive, send)
        return found[0]["status"], Reply(0, {}, found[-1].get("body", b"")).code

    async def every() -> list[tuple[int, str]]:
        return [await one(request) for request in requests]

    return box.run(every)


@pytest.mark.parametrize("kind", KINDS)
def test_no_route_opens_to_a_defective_authentication(box: ServedBox, kind: str) -> None:
    routes = ROUTES + (ABSENT_ROUTES + UNKNOWN_ROUTES if kind in ("header", "query") else [])
    cases = list(itertools.product(routes, DEFECTS))
    requests = []
    for route, defect in cases:
        path, query, headers = target(route, BUCKET)
        request = KINDS[kind](route.method, path, query, headers, **DEFECTS[defect][0])
        requests.append(with_another_date(request) if defect == "wrong date" else request)
    with box.unchanged():
        answers = into_the_application(box, requests)
    for (route, defect), (status, code) in zip(cases, answers, strict=True):
        _, wanted, by_query_wanted = DEFECTS[defect]
        if kind == "query":
            wanted = by_query_wanted
        assert (status, code) == (wanted[0], "" if route.method == "HEAD" else wanted[1]), (route, defect)


@pytest.mark.parametrize("kind", KINDS)
def test_every_route_opens_to_the_right_signature(box: ServedBox, kind: str) -> None:
    """The table's other column: without it a gate that refuses all would pass.  The bucket cannot exist, so nothing
    that is asked here happens."""
    requests = []
    for route in ROUTES:
        path, query, headers = target(route, "No_Such_Bucket")
        requests.append(KINDS[kind](route.method, path, query, headers))
    for route, (status, code) in zip(ROUTES, into_the_application(box, requests), strict=True):
        if route.level is Level.SERVICE:
            assert status == 200, route
        elif route.method != "HEAD":
            assert code in ("NoSuchBucket", "InvalidBucketName"), (route, code)
        else:
            assert status == 404, route


NAMELESS = {
    "none": (b"", [], b""),
    "signature version 2": (b"", [(b"authorization", b"AWS %b:c2lnbmF0dXJl" % KEY_ID.encode())], b""),
    "signature version 2 in the query": (b"AWSAccessKeyId=%b&Expires=1900000000&Signature=" % KEY_ID.encode(), [], b""),
    "basic": (b"", [(b"authorization", b"Basic " + base64.b64encode(f"{KEY_ID}:{SECRET}".encode()))], b""),
    "bearer": (b"", [(b"authorization", b"Bearer " + SECRET.encode())], b""),
    "post form": (
        b"",
        [(b"content-type", b"multipart/form-data; boundary=x")],
        b"--x\r\n".join(
            b'Content-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % field
            for field in ((b"key", b"k"), (b"policy", b"e30="), (b"file", b"data"))
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", NAMELESS)
def test_no_route_opens_to_anonymous_or_to_what_is_not_understood(box: ServedBox, kind: str) -> None:
    query, headers, body = NAMELESS[kind]
    requests = []
    for route in ROUTES + ABSENT_ROUTES + UNKNOWN_ROUTES:
        path, own, extra = target(route, BUCKET)
        both = b"&".join(part for part in (own.encode(), query) if part)
        fields = [(b"host", b"box"), *headers, *((n.encode(), v.encode()) for n, v in extra.items())]
        requests.append(SignedRequest(route.method, path.encode(), both, fields))
    with box.unchanged():
        for status, code in into_the_application(box, requests):
            assert status in (400, 403)
            assert code in ("", "AccessDenied", "InvalidRequest", "InvalidArgument", "MalformedPOSTRequest")
        form = SignedRequest("POST", b"/" + BUCKET.encode(), b"", [(b"host", b"box"), *headers])
        assert box.ask(form, body).status in (400, 403)


def test_two_authentications_in_one_request_are_refused(box: ServedBox) -> None:
    signed = sign_by_header("GET", f"/{BUCKET}/mine")
    presigned = sign_by_query("GET", f"/{BUCKET}/mine")
    answer = box.ask(presigned._replace(headers=signed.headers))
    assert (answer.status, answer.code) == (400, "InvalidArgument")


# ------------------------------------------------------------------ rule 2: every x-amz-* header present is signed
SMUGGLED = [
    ("x-amz-copy-source", f"/{OTHER}/theirs"),
    ("x-amz-meta-owner", "somebody"),
    ("x-amz-acl", "private"),
    ("x-amz-storage-class", "STANDARD_IA"),
    ("x-amz-website-redirect-location", "http://evil.example/"),
    ("x-amz-metadata-directive", "REPLACE"),
    ("x-amz-checksum-crc32", "AAAAAA=="),
    ("x-amz-decoded-content-length", "1"),
    ("x-amz-anything-that-comes-later", "x"),
    ("X-Amz-Copy-Source-Range", "bytes=0-1"),
]


@pytest.mark.parametrize("sign", [sign_by_header, sign_by_query])
def test_unsigned_copy_source_is_refused(box: ServedBox, sign: Make) -> None:
    """Three servers copied what the signer of a plain PUT never named: his URL read other objects of his."""
    request = sign("PUT", f"/{BUCKET}/stolen")
    extra = [(b"x-amz-copy-source", f"/{OTHER}/theirs".encode())]
    with box.unchanged():
        answer = box.ask(request._replace(headers=[*request.headers, *extra]))
    assert (answer.status, answer.code) == (403, "AccessDenied")


@pytest.mark.parametrize("sign", [sign_by_header, sign_by_query])
@pytest.mark.parametrize(("name", "value"), SMUGGLED)
def test_no_unsigned_amz_header_is_believed(box: ServedBox, sign: Make, name: str, value: str) -> None:
    request = sign("PUT", f"/{BUCKET}/new")
    with box.unchanged():
        answer = box.raw(wire(request, extra=[f"{name}: {value}".encode()]))
    assert (answer.status, answer.code) == (403, "AccessDenied")


# ------------------------------------------------------------------ rule 4: comparison, and guessing
def test_signatures_are_compared_in_constant_time(box: ServedBox, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: Any, other: Any) -> bool:
        compared.append((one, other))
        return real(one, other)

    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", compare)
    request = sign_by_header("GET", f"/{BUCKET}/mine", secret="x" * 40)
    assert box.ask(request).code == "SignatureDoesNotMatch"
    assert compared
    sent = dict(request.headers)[b"authorization"].rpartition(b"=")[2]
    assert all(other == sent and len(one) == 64 for one, other in compared)


# ------------------------------------------------------------------ rule 5: time
@pytest.mark.parametrize("at", [NOW - 901, NOW + 901, NOW - DAY, NOW - 10 * 365 * DAY])
def test_a_request_of_another_time_is_refused(box: ServedBox, at: int) -> None:
    answer = box.ask(sign_by_header("GET", f"/{BUCKET}/mine", at=at))
    assert (answer.status, answer.code) == (403, "RequestTimeTooSkewed")


@pytest.mark.parametrize("at", [NOW - 900, NOW, NOW + 900])
def test_a_clock_fifteen_minutes_off_is_forgiven(box: ServedBox, at: int) -> None:
    assert box.ask(sign_by_header("GET", f"/{BUCKET}/mine", at=at)).body == CONTENT


@pytest.mark.parametrize(
    ("at", "expires", "status"),
    [(NOW, 1, 200), (NOW - 1, 1, 200), (NOW - 2, 1, 403), (NOW - 604_800, 604_800, 200), (NOW - 604_801, 604_800, 403),
     (NOW, 604_801, 403), (NOW, 0, 403), (NOW, -1, 403), (NOW + 901, 3600, 403)],
)  # fmt: skip
def test_a_presigned_url_lives_as_long_as_it_says_and_a_week_at_most(
    box: ServedBox, at: int, expires: int, status: int
) -> None:
    assert box.ask(sign_by_query("GET", f"/{BUCKET}/mine", at=at, expires=expires)).status == status


# ------------------------------------------------------------------ rule 6: keys are opaque
TRICKS = [
    ("/../{other}/theirs", b"../{other}/theirs"),
    ("/%2e%2e/{other}/theirs", b"../{other}/theirs"),
    ("/..%2F{other}%2Ftheirs", b"../{other}/theirs"),
    ("/%252e%252e/{other}/theirs", b"%2e%2e/{other}/theirs"),
    ("/..;/{other}/theirs", b"..;/{other}/theirs"),
    ("/.%00./{other}/theirs", b".\x00./{other}/theirs"),
    ("/a%00", b"a\x00"),
    ("/..%5C..%5C{other}", b"..\\..\\{other}"),
    ("//etc/passwd", b"/etc/passwd"),
    ("/%2Fetc%2Fpasswd", b"/etc/passwd"),
    ("/./mine", b"./mine"),
    ("/mine/", b"mine/"),
    ("/%C0%AE%C0%AE", None),  # an overlong dot is not UTF-8
    ("/%u002e", None),
    ("/a%0d%0aSet-Cookie:%20x", b"a\r\nSet-Cookie: x"),
    ("/" + "k" * 1024, b"k" * 1024),
    ("/" + "%6B" * 1024, b"k" * 1024),
    ("/" + "k" * 1025, None),
    ("/" + "%C3%A9" * 513, None),
]


@pytest.mark.parametrize(("path", "key"), TRICKS, ids=[path[:24] for path, _ in TRICKS])
def test_a_key_is_never_a_path(box: ServedBox, path: str, key: bytes | None) -> None:
    """A key that looks like a way out is a key; what is stored is what was decoded once, in the bucket it named."""
    path = f"/{BUCKET}" + path.replace("{other}", OTHER)
    wanted = None if key is None else key.replace(b"{other}", OTHER.encode())
    with box.unchanged():
        answer = box.ask(sign_by_header("PUT", path, body=b"trick"), b"trick")
        if wanted is None:
            assert (answer.status, answer.code) in ((400, "InvalidURI"), (400, "KeyTooLongError"))
            return
        assert answer.status == 200

        async def look() -> bytes:
            node = await box.store.look_up(box.store.bucket(BUCKET), wanted)
            return bytes(await box.store.reader(node).read())

        assert box.run(look) == b"trick"
        assert box.ask(sign_by_header("GET", path)).body == b"trick"
        assert box.ask(sign_by_header("GET", f"/{OTHER}/theirs")).body == b"of others"
        assert box.ask(sign_by_header("DELETE", path)).status == 204


@pytest.mark.parametrize(
    "path",
    [f"/{OTHER}/theirs", f"/{BUCKET}%2F..%2F{OTHER}/theirs", f"/%6ff-others/../{OTHER}/theirs", f"//{OTHER}/theirs",
     f"/{BUCKET};/../{OTHER}/theirs", f"/{OTHER.upper()}/theirs", f"/{OTHER}%00/theirs", f"/{OTHER}./theirs"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_is_authorised_is_what_is_acted_on(box: ServedBox, path: str, method: str) -> None:
    """A key bound to one bucket reaches no other by any spelling; and cannot tell others from none."""
    with box.unchanged():
        answer = box.ask(sign_by_header(method, path, key_id=SCOPED_ID))
    assert answer.code in ("AccessDenied", "InvalidBucketName")
    assert b"of others" not in answer.body


@pytest.mark.parametrize(
    "source",
    [f"/{OTHER}/theirs", f"{OTHER}/theirs", f"%2F{OTHER}/theirs", f"{OTHER}%2Ftheirs", f"/{BUCKET}/../{OTHER}/theirs",
     f"/{BUCKET}%2F..%2F{OTHER}/theirs", f"//{OTHER}/theirs"],
)  # fmt: skip
def test_a_copy_reads_only_what_its_maker_may_read(box: ServedBox, source: str) -> None:
    with box.unchanged():
        for query in ("", "uploadId=none&partNumber=1"):
            request = sign_by_header(
                "PUT", f"/{BUCKET}/stolen", query, headers={"x-amz-copy-source": source}, key_id=SCOPED_ID
            )
            assert box.ask(request).status in (400, 403, 404)


def delete_objects(box: ServedBox, keys: list[str], key_id: str = KEY_ID) -> Reply:
    rows = "".join(f"<Object><Key>{xml.escape(key)}</Key></Object>" for key in keys)
    return post_xml(box, f"/{BUCKET}", "delete=", f"<Delete>{rows}</Delete>".encode(), key_id)


def post_xml(box: ServedBox, path: str, query: str, body: bytes, key_id: str = KEY_ID, method: str = "POST") -> Reply:
    digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    return box.ask(sign_by_header(method, path, query, headers={"Content-MD5": digest}, body=body, key_id=key_id), body)


def test_keys_in_a_document_are_checked_like_keys_in_a_url(box: ServedBox) -> None:
    with box.unchanged():
        odd = [f"../{OTHER}/theirs", f"%2e%2e/{OTHER}/theirs", "m%69ne", "k" * 1025, "/mine", f"/{OTHER}/theirs"]
        answer = delete_objects(box, odd)
        assert answer.status == 200
        assert answer.body.count(b"<Deleted>") == len(odd) - 1  # nothing had these names; deleting nothing succeeds
        assert b"<Code>KeyTooLongError</Code>" in answer.body
        assert delete_objects(box, ["mine"], READER_ID).code == "AccessDenied"
        assert delete_objects(box, [""]).code == "MalformedXML"


# ------------------------------------------------------------------ rule 10: no default credentials, sealed at rest
@pytest.mark.parametrize(
    ("key_id", "secret"),
    [("minioadmin", "minioadmin"), ("admin", "admin"), ("root", ""), ("test", "test"), ("AKIAIOSFODNN7EXAMPLE", SECRET),
     ("rustfsadmin", "rustfsadmin"), ("tierce", "tierce"), ("default", "default"), (KEY_ID, ""),
     (KEY_ID.lower(), SECRET)],
)  # fmt: skip
def test_no_default_credentials(box: ServedBox, key_id: str, secret: str) -> None:
    request = sign_by_header("GET", "/", key_id=key_id, secret=secret or "x")
    (status, code) = into_the_application(box, [request])[0]
    assert (status, code) in ((403, "InvalidAccessKeyId"), (403, "SignatureDoesNotMatch"))


def test_a_new_pool_has_no_key_at_all() -> None:
    with ServedBox() as fresh:
        ids = {key.id for key in fresh.store.access_keys()}
        assert ids == {KEY_ID, SCOPED_ID, READER_ID}  # those that this test's own box made

        async def remove() -> None:
            for key_id in ids:
                await fresh.store.remove_access_key(key_id)

        good = sign_by_header("GET", "/")
        assert into_the_application(fresh, [good]) == [(200, "")]
        fresh.run(remove)
        assert into_the_application(fresh, [good]) == [(403, "InvalidAccessKeyId")]


def test_secrets_lie_sealed_on_every_device_and_in_the_catalogue(box: ServedBox) -> None:
    box.run(box.store.settle)
    devices = list(box.call(lambda: [device.media for device in box._devices]))
    for media in devices:
        held = bytearray(4 << 20)
        for offset in range(0, media.size, len(held)):
            view = memoryview(held)[: min(len(held), media.size - offset)]
            media.read_into(offset, view)
            assert SECRET.encode() not in bytes(view)
    for name in ("catalogue.db", "catalogue.db-wal"):
        path = box._directory / name
        assert SECRET.encode() not in (path.read_bytes() if path.exists() else b"")
    assert (box._directory / "master.key").stat().st_mode & 0o077 == 0


def test_no_secret_in_any_answer(box: ServedBox) -> None:
    for request in (
        sign_by_header("GET", "/"),
        sign_by_header("GET", f"/{BUCKET}", "acl="),
        sign_by_header("GET", "/", secret="y" * 40),
        sign_by_header("GET", f"/{BUCKET}/none"),
    ):
        assert SECRET.encode() not in box.ask(request).body
    assert SECRET not in repr(box.store.access_keys())


# ------------------------------------------------------------------ rule 12: documents
def bombs() -> dict[str, bytes]:
    """Documents under the root that the caller formats in."""
    laughs = b"".join(b'<!ENTITY l%d "%b">' % (n, b"&l%d;" % (n - 1) * 10) for n in range(1, 10))
    return {
        "billion laughs": b'<!DOCTYPE %(root)b [<!ENTITY l0 "lol">' + laughs + b"]><%(root)b>&l9;</%(root)b>",
        "external entity": b'<!DOCTYPE %(root)b [<!ENTITY x SYSTEM "file:///etc/passwd">]><%(root)b>&x;</%(root)b>',
        "external subset": b'<!DOCTYPE %(root)b SYSTEM "http://127.0.0.1:1/x.dtd"><%(root)b/>',
        "parameter entity": b'<!DOCTYPE %(root)b [<!ENTITY %% p SYSTEM "file:///etc/passwd">%%p;]><%(root)b/>',
        "empty doctype": b"<!DOCTYPE %(root)b><%(root)b/>",
        "in utf-16": ('<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE x [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
                      "<x>&x;</x>").encode("utf-16").replace(b"%", b"%%"),
        "in utf-7": b'<?xml version="1.0" encoding="UTF-7"?><%(root)b/>',
        "processing instruction": b'<?php echo 1 ?><%(root)b/>',
        "too deep": b"<%(root)b>" * 100 + b"</%(root)b>" * 100,
        "undefined entity": b"<%(root)b>&nope;</%(root)b>",
        "unknown element": b"<%(root)b><Retention>forever</Retention></%(root)b>",
        "another namespace": b'<%(root)b xmlns="http://evil.example/"/>',
        "another namespace inside": b'<%(root)b><x:Object xmlns:x="http://evil.example/"><Key>mine</Key></x:Object></%(root)b>',
        "wrong root": b"<html><body/></html>",
        "no document": b"key=value",
        "nul": b"<%(root)b>\x00</%(root)b>",
        "cut": b"<%(root)b><Object>",
        "two roots": b"<%(root)b/><%(root)b/>",
    }  # fmt: skip


PLACES = {
    "Delete": ("POST", f"/{BUCKET}", "delete="),
    "CreateBucketConfiguration": ("PUT", "/a-new-bucket", ""),
    "CompleteMultipartUpload": ("POST", f"/{BUCKET}/mine", "uploadId=none"),
}


@pytest.mark.parametrize("bomb", bombs())
@pytest.mark.parametrize("root", PLACES)
def test_no_document_type_entity_or_unknown_element_passes(box: ServedBox, root: str, bomb: str) -> None:
    method, path, query = PLACES[root]
    body = bombs()[bomb] % {b"root": root.encode()}
    with box.unchanged():
        began = time.process_time()  # the server's too
        answer = post_xml(box, path, query, body, method=method)
        assert time.process_time() - began < 2
    assert (answer.status, answer.code) == (400, "MalformedXML")
    assert b"root:" not in answer.body


@pytest.mark.parametrize("root", PLACES)
def test_documents_are_bounded(box: ServedBox, root: str) -> None:
    method, path, query = PLACES[root]
    with box.unchanged():
        for size in ((1 << 20) + 1, (2 << 20) + 1):
            body = f"<{root}>".encode().ljust(size, b" ")
            answer = post_xml(box, path, query, body, method=method)
            assert answer.code in ("EntityTooLarge", "MaxMessageLengthExceeded", "MalformedXML")
            assert answer.status == 400
        thousand = "".join(f"<Object><Key>{n}</Key></Object>" for n in range(1001))
        answer = post_xml(box, f"/{BUCKET}", "delete=", f"<Delete>{thousand}</Delete>".encode())
        assert (answer.status, answer.code) == (400, "MalformedXML")


def test_text_between_elements_does_not_cost_quadratic_time() -> None:
    document = b"<Delete>" + b"y" * 400_000 + b"<b/>z" * 63_000 + b"</Delete>"
    began = time.process_time()
    assert len(xml.parse(document, "Delete").children) == 63_000
    assert time.process_time() - began < 1.5


# ------------------------------------------------------------------ rule 17: symbolic links are never resolved
AIMS = (b"/etc/passwd", b"mine", b"../" + OTHER.encode() + b"/theirs", b"link", b"/proc/self/environ")


@pytest.mark.parametrize("aim", AIMS)
def test_a_symbolic_link_of_the_mount_is_never_followed(box: ServedBox, aim: bytes) -> None:
    """Through this door a link is what it says, or nothing; never what it names."""
    secret = {b"/etc/passwd": b"root:", b"mine": CONTENT}.get(aim, b"of others")

    async def link() -> None:
        root = box.store.bucket(BUCKET).root
        await box.store.make_symlink(root, b"link", aim, 0, 0, NOW)

    async def unlink() -> None:
        await box.store.unlink(box.store.bucket(BUCKET).root, b"link", NOW)

    box.run(link)
    try:
        for request in (
            sign_by_header("GET", f"/{BUCKET}/link"),
            sign_by_header("GET", f"/{BUCKET}/link/"),
            sign_by_header("GET", f"/{BUCKET}/link/theirs"),
            sign_by_header("GET", f"/{BUCKET}/link", headers={"Range": "bytes=0-3"}),
            sign_by_header("HEAD", f"/{BUCKET}/link"),
        ):
            answer = box.ask(request)
            assert answer.status in (200, 206, 404)
            assert secret not in answer.body
        copied = box.ask(sign_by_header("PUT", f"/{BUCKET}/copied", headers={"x-amz-copy-source": f"/{BUCKET}/link"}))
        if copied.status == 200:
            assert secret not in box.ask(sign_by_header("GET", f"/{BUCKET}/copied")).body
            box.ask(sign_by_header("DELETE", f"/{BUCKET}/copied"))
        put = box.ask(sign_by_header("PUT", f"/{BUCKET}/link", body=b"over"), b"over")
        assert put.status == 200  # replaces the link, not what it names
        assert box.ask(sign_by_header("GET", f"/{BUCKET}/mine")).body == CONTENT
    finally:
        box.run(unlink)


# ------------------------------------------------------------------ rule 18: no option turns authentication off
def test_no_combination_of_options_turns_authentication_off(box: ServedBox) -> None:
    """Every option of the application, in every combination; anonymous is refused in all of them."""
    options: dict[str, list[Any]] = {
        "region": ["us-east-1", "", REGION],
        "domain": [None, "s3.example.org", ""],
        "observe": [None, lambda *_: None],
        "clock": [lambda: NOW, lambda: 0.0],
    }
    anonymous = SignedRequest("GET", f"/{BUCKET}/mine".encode(), b"", [(b"host", b"s3.example.org")])
    empty = anonymous._replace(headers=[*anonymous.headers, (b"authorization", b"")])
    served = box.app
    try:
        for values in itertools.product(*options.values()):
            chosen = dict(zip(options, values, strict=True))
            box.app = s3_app(box.store, unseal=lambda key: "", **chosen)
            for status, _ in into_the_application(box, [anonymous, empty]):
                assert status in (400, 403), chosen
            box.app = S3Middleware(_unreachable, box.app, ("admin.example.org",))  # type: ignore[assignment]
            for status, _ in into_the_application(box, [anonymous, empty]):
                assert status in (400, 403), chosen
    finally:
        box.app = served


async def _unreachable(*_: object) -> None:
    raise AssertionError("the inner application has its own host only")
