"""Cross-origin resource sharing: a bucket's rules, which of them meets a request, and the headers it grants (pure).

A rule names origins, methods and request headers; the first rule that allows all of what is asked decides.  In an
origin and in a header one "*" stands for any run of characters.  A browser asks first (the preflight, s3front/app.py
routes it before any authentication, for a browser never signs it) and again sends Origin with the request itself: both
are answered from the same rules.

Sources: Amazon S3 User Guide, "Elements of a CORS configuration" and "How does Amazon S3 evaluate the CORS
configuration"; Fetch Standard, "CORS protocol".  Not known here: which bucket, and whether the request may do what it
wants; a grant here only lets a browser see the answer.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from s3front import xml
from s3front.errors import S3Error
from s3front.xml import Element

RULES_MAX: Final = 100
ID_MAX: Final = 255
DOCUMENT_MAX: Final = 64 * 1024  # AWS's bound
METHODS: Final = ("GET", "PUT", "HEAD", "POST", "DELETE")
MAX_AGE_MAX: Final = 2**31 - 1

ORIGIN: Final = b"origin"
REQUEST_METHOD: Final = b"access-control-request-method"
REQUEST_HEADERS: Final = b"access-control-request-headers"
# What the answer depends on, for caches: another origin may be answered otherwise.
VARY: Final = (b"vary", b"Origin, Access-Control-Request-Headers, Access-Control-Request-Method")


class Rule(NamedTuple):
    """One CORSRule.  `max_age` in seconds, None if not said."""

    id: str
    origins: tuple[str, ...]
    methods: tuple[str, ...]
    headers: tuple[str, ...]
    exposed: tuple[str, ...]
    max_age: int | None


class Grant(NamedTuple):
    """A rule that allows a request, and the origin to name in the answer: the request's own, or "*"."""

    rule: Rule
    origin: str


def parse(document: bytes) -> tuple[Rule, ...]:
    """The rules of a CORSConfiguration.  Raises MalformedXML, InvalidRequest (methods, wildcards, counts)."""
    tree = xml.parse(document, "CORSConfiguration", DOCUMENT_MAX).only("CORSRule")
    if not tree.children:
        raise xml.malformed("There are no rules.")
    if len(tree.children) > RULES_MAX:
        raise S3Error(
            "InvalidRequest", f"The number of CORS rules should not exceed allowed limit of {RULES_MAX} rules."
        )
    return tuple(_rule(child) for child in tree.children)


@functools.lru_cache(maxsize=1024)
def of_bucket(stored: bytes) -> tuple[Rule, ...]:
    """The rules of a bucket's stored document, which was checked when it was put."""
    return parse(stored)


def document(rules: Sequence[Rule]) -> bytes:
    """The CORSConfiguration of the rules."""
    return xml.document("CORSConfiguration", "".join(_written(rule) for rule in rules))


def find(rules: Sequence[Rule], origin: str, method: str, headers: Sequence[str] = ()) -> Grant | None:
    """The first rule that allows this origin, this method and every one of these headers (lower case); None without."""
    for rule in rules:
        if method in rule.methods:
            allowed = next((pattern for pattern in rule.origins if _matches(pattern, origin)), None)
            if allowed is not None and all(_one_matches(rule.headers, name) for name in headers):
                return Grant(rule, "*" if allowed == "*" else origin)
    return None


def preflight(rules: Sequence[Rule], headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The headers that answer a preflight.  Raises BadRequest (nothing is asked), AccessForbidden."""
    origin, method = headers.get(ORIGIN), headers.get(REQUEST_METHOD)
    if origin is None:
        raise S3Error("BadRequest", "Insufficient information. Origin request header needed.")
    if method is None or method.decode("latin-1") not in METHODS:
        said = "null" if method is None else method.decode("latin-1")
        raise S3Error("BadRequest", f"Invalid Access-Control-Request-Method: {said}")
    asked = [name for part in _text(headers.get(REQUEST_HEADERS, b"")).split(",") if (name := part.strip().lower())]
    if not rules:
        raise forbidden("CORSResponse: CORS is not enabled for this bucket.", method)
    grant = find(rules, _text(origin), method.decode("latin-1"), asked)
    if grant is None:
        raise forbidden(
            "CORSResponse: This CORS request is not allowed. This is usually because the evalution of Origin, request "
            "method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the "
            "resource's CORS spec.",
            method,
        )
    granted = _granted(grant)
    if asked:
        granted.append((b"access-control-allow-headers", ", ".join(asked).encode("latin-1")))
    return granted


def actual(rules: Sequence[Rule], method: str, headers: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """The headers to add to the answer of a request that has an Origin, whatever that answer is.

    Access-Control-Request-Method beside a method that is no OPTIONS counts for the method (as ceph/s3-tests has it).
    """
    wanted = headers.get(REQUEST_METHOD)
    grant = find(rules, _text(headers[ORIGIN]), method if wanted is None else _text(wanted))
    return [VARY] if grant is None else _granted(grant)


def forbidden(message: str, method: bytes) -> S3Error:
    """AccessForbidden, with what was asked."""
    return S3Error("AccessForbidden", message, details=(("Method", _text(method)),))


def _granted(grant: Grant) -> list[tuple[bytes, bytes]]:
    rule = grant.rule
    headers = [
        (b"access-control-allow-origin", grant.origin.encode("latin-1")),
        (b"access-control-allow-methods", ", ".join(rule.methods).encode("ascii")),
    ]
    if rule.exposed:
        headers.append((b"access-control-expose-headers", ", ".join(rule.exposed).encode("latin-1")))
    if rule.max_age is not None:
        headers.append((b"access-control-max-age", b"%d" % rule.max_age))
    if grant.origin != "*":  # the Fetch Standard forbids the two together
        headers.append((b"access-control-allow-credentials", b"true"))
    headers.append(VARY)
    return headers


def _matches(pattern: str, text: str) -> bool:
    """Whether `text` is `pattern`, in which one "*" may stand for any run of characters."""
    start, star, end = pattern.partition("*")
    if not star:
        return text == pattern
    return len(text) >= len(start) + len(end) and text.startswith(start) and text.endswith(end)


def _one_matches(patterns: Sequence[str], header: str) -> bool:
    return any(_matches(pattern.lower(), header) for pattern in patterns)


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _rule(child: Element) -> Rule:
    child.only("ID", "AllowedOrigin", "AllowedMethod", "AllowedHeader", "ExposeHeader", "MaxAgeSeconds")
    number = child.get("ID") or ""
    if len(number) > ID_MAX:
        raise S3Error("InvalidRequest", f"A CORS rule's ID must not exceed {ID_MAX} characters.")
    origins, methods = _texts(child, "AllowedOrigin"), _texts(child, "AllowedMethod")
    if not origins or not methods:
        raise xml.malformed("A CORSRule needs AllowedOrigin and AllowedMethod.")
    for method in methods:
        if method not in METHODS:
            raise S3Error(
                "InvalidRequest", f"Found unsupported HTTP method in CORS config. Unsupported method is {method}"
            )
    headers, exposed = _texts(child, "AllowedHeader"), _texts(child, "ExposeHeader")
    for name, values in (("AllowedOrigin", origins), ("AllowedHeader", headers)):
        for value in values:
            if value.count("*") > 1:
                raise S3Error("InvalidRequest", f'{name} "{value}" can not have more than one wildcard.')
    for value in exposed:
        if "*" in value:
            raise S3Error(
                "InvalidRequest",
                f'ExposeHeader "{value}" contains wildcard. We currently do not support wildcard for ExposeHeader.',
            )
    return Rule(number, origins, methods, headers, exposed, _max_age(child))


def _texts(child: Element, name: str) -> tuple[str, ...]:
    """The texts of all children of that name: each one line of latin-1, for it may become a header."""
    found = []
    for element in child.all(name):
        text = element.text.strip()
        if element.children or not text or not text.isprintable() or any(character > "\xff" for character in text):
            raise xml.malformed(f"{name} is not a line of text.")
        found.append(text)
    return tuple(found)


def _max_age(child: Element) -> int | None:
    text = child.get("MaxAgeSeconds")
    if text is None:
        return None
    text = text.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MAX_AGE_MAX):
        raise xml.malformed("MaxAgeSeconds is not a number of seconds.")
    return int(text)


def _written(rule: Rule) -> str:
    many = (
        ("AllowedMethod", rule.methods),
        ("AllowedOrigin", rule.origins),
        ("AllowedHeader", rule.headers),
        ("ExposeHeader", rule.exposed),
    )
    texts = "".join(xml.element(name, value) for name, values in many for value in values)
    age = "" if rule.max_age is None else f"<MaxAgeSeconds>{rule.max_age}</MaxAgeSeconds>"
    return f"<CORSRule>{xml.optional('ID', rule.id)}{texts}{age}</CORSRule>"
