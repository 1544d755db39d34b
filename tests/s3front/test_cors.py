"""CORS rules: the document, which rule meets what, and the headers that it grants."""

from __future__ import annotations

import pytest

from s3front import cors
from s3front.cors import Rule
from s3front.errors import S3Error

DOCUMENT = b"""<CORSConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
  <CORSRule>
    <ID>first</ID><AllowedMethod>GET</AllowedMethod><AllowedMethod>PUT</AllowedMethod>
    <AllowedOrigin>https://*.example.org</AllowedOrigin><AllowedOrigin>http://localhost</AllowedOrigin>
    <AllowedHeader>x-amz-*</AllowedHeader><AllowedHeader>Content-Type</AllowedHeader>
    <ExposeHeader>ETag</ExposeHeader><ExposeHeader>x-amz-request-id</ExposeHeader>
    <MaxAgeSeconds>300</MaxAgeSeconds>
  </CORSRule>
  <CORSRule><AllowedMethod>GET</AllowedMethod><AllowedOrigin>*</AllowedOrigin></CORSRule>
</CORSConfiguration>"""
RULES = cors.parse(DOCUMENT)


def test_a_document_is_read_and_written() -> None:
    first = Rule(
        "first",
        ("https://*.example.org", "http://localhost"),
        ("GET", "PUT"),
        ("x-amz-*", "Content-Type"),
        ("ETag", "x-amz-request-id"),
        300,
    )
    assert (first, Rule("", ("*",), ("GET",), (), (), None)) == RULES
    assert cors.of_bucket(cors.document(RULES)) == RULES


def test_the_first_rule_that_allows_everything_decides() -> None:
    for origin, method, headers, rule, said in (
        ("https://a.example.org", "GET", (), 0, "https://a.example.org"),
        ("https://.example.org", "GET", (), 0, "https://.example.org"),
        ("https://example.org", "GET", (), 1, "*"),
        ("https://a.example.org", "HEAD", (), None, ""),
        ("https://a.example.org", "PUT", ("x-amz-date", "content-type"), 0, "https://a.example.org"),
        ("https://a.example.org", "GET", ("authorization",), None, ""),
        ("http://localhost", "PUT", (), 0, "http://localhost"),
        ("http://localhost:80", "PUT", (), None, ""),
        ("HTTP://LOCALHOST", "PUT", (), None, ""),
        ("anybody", "GET", (), 1, "*"),
        ("anybody", "PUT", (), None, ""),
    ):
        grant = cors.find(RULES, origin, method, headers)
        if rule is None:
            assert grant is None, (origin, method, headers)
        else:
            assert grant == (RULES[rule], said), (origin, method, headers)


def test_a_wildcard_stands_for_any_run_but_never_overlaps() -> None:
    for pattern, good, bad in (
        ("start*end", ("startend", "start12end"), ("starend", "0startend", "startend0")),
        ("*.get", (".get", "foo.get"), ("get", "foo.get.put")),
        ("aa*aa", ("aaaa", "aaxaa"), ("aaa", "aa")),
    ):
        rules = (Rule("", (pattern,), ("GET",), (), (), None),)
        for origin in good:
            assert cors.find(rules, origin, "GET"), (pattern, origin)
        for origin in bad:
            assert not cors.find(rules, origin, "GET"), (pattern, origin)


def test_a_preflight() -> None:
    asked = {
        b"origin": b"https://a.example.org",
        b"access-control-request-method": b"PUT",
        b"access-control-request-headers": b"X-Amz-Date, content-type",
    }
    assert cors.preflight(RULES, asked) == [
        (b"access-control-allow-origin", b"https://a.example.org"),
        (b"access-control-allow-methods", b"GET, PUT"),
        (b"access-control-expose-headers", b"ETag, x-amz-request-id"),
        (b"access-control-max-age", b"300"),
        (b"access-control-allow-credentials", b"true"),
        cors.VARY,
        (b"access-control-allow-headers", b"x-amz-date, content-type"),
    ]
    assert cors.preflight(RULES, {b"origin": b"x", b"access-control-request-method": b"GET"}) == [
        (b"access-control-allow-origin", b"*"),
        (b"access-control-allow-methods", b"GET"),
        cors.VARY,
    ]
    for rules, headers, code in (
        (RULES, {}, "BadRequest"),
        (RULES, {b"access-control-request-method": b"GET"}, "BadRequest"),
        (RULES, {b"origin": b"x"}, "BadRequest"),
        (RULES, {b"origin": b"x", b"access-control-request-method": b"PATCH"}, "BadRequest"),
        (RULES, {b"origin": b"x", b"access-control-request-method": b"PUT"}, "AccessForbidden"),
        ((), {b"origin": b"x", b"access-control-request-method": b"GET"}, "AccessForbidden"),
    ):
        with pytest.raises(S3Error) as caught:
            cors.preflight(rules, headers)
        assert caught.value.code == code, headers


def test_an_actual_request_is_answered_anyway() -> None:
    assert (b"access-control-allow-origin", b"*") in cors.actual(RULES, "GET", {b"origin": b"x"})
    assert cors.actual(RULES, "PUT", {b"origin": b"x"}) == [cors.VARY]
    asked = {b"origin": b"x", b"access-control-request-method": b"GET"}
    assert (b"access-control-allow-methods", b"GET") in cors.actual(RULES, "PUT", asked)


def test_what_is_no_configuration() -> None:
    def rule(content: str) -> bytes:
        return f"<CORSConfiguration><CORSRule>{content}</CORSRule></CORSConfiguration>".encode()

    origin, method = "<AllowedOrigin>*</AllowedOrigin>", "<AllowedMethod>GET</AllowedMethod>"
    whole = f"<CORSRule>{origin}{method}</CORSRule>"
    for document, code in (
        (b"", "MalformedXML"),
        (b"<CORSConfiguration/>", "MalformedXML"),
        (rule(origin), "MalformedXML"),
        (rule(method), "MalformedXML"),
        (rule(origin + method + "<Else/>"), "MalformedXML"),
        (rule(origin + method + "<ID>a</ID><ID>b</ID>"), "MalformedXML"),
        (rule(origin + method + f"<ID>{'a' * 256}</ID>"), "InvalidRequest"),
        (rule(origin + method + "<MaxAgeSeconds>-1</MaxAgeSeconds>"), "MalformedXML"),
        (rule(origin + method + "<MaxAgeSeconds>1e3</MaxAgeSeconds>"), "MalformedXML"),
        (rule(method + "<AllowedOrigin>a\nb</AllowedOrigin>"), "MalformedXML"),
        (rule(method + "<AllowedOrigin>http://*.*</AllowedOrigin>"), "InvalidRequest"),
        (rule(origin + "<AllowedMethod>PATCH</AllowedMethod>"), "InvalidRequest"),
        (rule(origin + "<AllowedMethod>get</AllowedMethod>"), "InvalidRequest"),
        (rule(origin + method + "<AllowedHeader>*-*</AllowedHeader>"), "InvalidRequest"),
        (rule(origin + method + "<ExposeHeader>x-*</ExposeHeader>"), "InvalidRequest"),
        (f"<CORSConfiguration>{whole * 101}</CORSConfiguration>".encode(), "InvalidRequest"),
        (b" " * (64 * 1024) + f"<CORSConfiguration>{whole}</CORSConfiguration>".encode(), "MaxMessageLengthExceeded"),
    ):
        with pytest.raises(S3Error) as caught:
            cors.parse(document)
        assert caught.value.code == code, document[:200]
    assert len(cors.parse(f"<CORSConfiguration>{whole * 100}</CORSConfiguration>".encode())) == 100
