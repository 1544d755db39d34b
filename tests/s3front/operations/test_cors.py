"""Cross-origin requests through the door: the rules kept, the preflight, and what every other answer carries."""

from __future__ import annotations

import pytest

from s3front import cors
from tests.s3front.box import Answer, Box

DOCUMENT = b"""<CORSConfiguration><CORSRule><ID>r</ID>
<AllowedMethod>GET</AllowedMethod><AllowedMethod>PUT</AllowedMethod>
<AllowedOrigin>https://*.org</AllowedOrigin><AllowedHeader>x-amz-*</AllowedHeader><ExposeHeader>ETag</ExposeHeader>
<MaxAgeSeconds>60</MaxAgeSeconds></CORSRule></CORSConfiguration>"""
ORIGIN = {"origin": "https://a.org"}
ASKED = ORIGIN | {"access-control-request-method": "PUT", "access-control-request-headers": "x-amz-date"}
VARY = "Origin, Access-Control-Request-Headers, Access-Control-Request-Method"


@pytest.fixture
def box(box: Box) -> Box:
    box.send("PUT", "/b/k", body=b"content")
    assert box.send("PUT", "/b", "cors=", body=DOCUMENT).status == 200
    return box


def preflight(box: Box, path: str, headers: dict[str, str]) -> Answer:
    return box.send("OPTIONS", path, headers=headers, sign=False)


def test_the_configuration(box: Box) -> None:
    assert box.send("GET", "/b", "cors=").body == cors.document(cors.parse(DOCUMENT))
    assert box.send("PUT", "/b", "cors=", body=b"<CORSConfiguration/>").code == "MalformedXML"
    assert box.send("PUT", "/b", "cors=", body=b"").code == "MalformedXML"
    assert box.send("PUT", "/none", "cors=", body=DOCUMENT).code == "NoSuchBucket"
    assert box.send("GET", "/b", "cors=").status == 200
    for _ in range(2):
        assert box.send("DELETE", "/b", "cors=").status == 204
        assert box.send("GET", "/b", "cors=").code == "NoSuchCORSConfiguration"


def test_a_preflight_needs_no_signature_and_no_object(box: Box) -> None:
    for path in ("/b", "/b/", "/b/k", "/b/none"):
        answer = preflight(box, path, ASKED)
        assert answer.status == 200
        assert answer.body == b""
        assert answer.headers["access-control-allow-origin"] == "https://a.org"
        assert answer.headers["access-control-allow-methods"] == "GET, PUT"
        assert answer.headers["access-control-allow-headers"] == "x-amz-date"
        assert answer.headers["access-control-max-age"] == "60"
        assert answer.headers["vary"] == VARY


def test_a_preflight_tells_a_stranger_nothing(box: Box) -> None:
    box.run(box.store.create_bucket, "second", "owner")
    without = [preflight(box, path, ASKED) for path in ("/second", "/second/k", "/none", "/none/k", "/")]
    for answer in without:
        assert (answer.status, answer.code) == (403, "AccessForbidden")
        assert b"CORS is not enabled for this bucket" in answer.body
    for headers, status, code in (
        ({}, 400, "BadRequest"),
        (ORIGIN, 400, "BadRequest"),
        (ASKED | {"origin": "https://a.com"}, 403, "AccessForbidden"),
        (ASKED | {"access-control-request-method": "DELETE"}, 403, "AccessForbidden"),
        (ASKED | {"access-control-request-headers": "x-amz-date, x-other"}, 403, "AccessForbidden"),
    ):
        answer = preflight(box, "/b/k", headers)
        assert (answer.status, answer.code) == (status, code)
        assert "access-control-allow-origin" not in answer.headers
    assert (
        b"<Method>DELETE</Method><ResourceType>OBJECT</ResourceType>"
        in preflight(box, "/b/k", ASKED | {"access-control-request-method": "DELETE"}).body
    )
    assert preflight(box, "/b/%zz", ASKED).status == 200
    assert preflight(box, "/%zz", ASKED).code == "InvalidURI"


def test_every_answer_of_the_bucket_is_shared(box: Box) -> None:
    for method, path, how, status in (
        ("GET", "/b/k", {}, 200),
        ("HEAD", "/b/k", {}, 200),
        ("GET", "/b/none", {}, 404),
        ("GET", "/b", {}, 200),
        ("PUT", "/b/new", {}, 200),
        ("GET", "/b/k", {"sign": False}, 403),
        ("GET", "/b/k", {"key": "AKIANOBODY"}, 403),
    ):
        answer = box.send(method, path, headers=ORIGIN, **how)
        shared = method != "HEAD"
        assert answer.status == status
        assert answer.headers.get("access-control-allow-origin") == ("https://a.org" if shared else None)
        assert answer.headers.get("access-control-expose-headers") == ("ETag" if shared else None)
        assert answer.headers["vary"] == VARY
        assert not box.send(method, path, **how).headers.keys() & {"vary", "access-control-allow-origin"}
    answer = box.send("GET", "/b/k", headers={"origin": "https://a.com"})
    assert (answer.status, answer.headers["vary"]) == (200, VARY)
    assert "access-control-allow-origin" not in answer.headers


def test_a_bucket_without_rules_is_shared_with_nobody(box: Box) -> None:
    box.run(box.store.create_bucket, "second", "owner")
    for path in ("/second", "/none", "/", "/second/%zz"):
        assert not box.send("GET", path, headers=ORIGIN).headers.keys() & {"vary", "access-control-allow-origin"}
