"""Rules 1 and 5 for forms: a signed policy opens PostObject on its bucket and nothing else, and no defect opens even
that.  Every route by both versions of the signature by every way to fail, through the real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from s3front.operations import table
from s3front.router import ABSENT, Level, Route
from s3front.verified import SignedRequest
from tests.s3front.posting import BOUNDARY, Part, multipart, policy_text, signed_v2, signed_v4, v4_conditions
from tests.s3front.signing import KEY_ID, NOW, REGION, SECRET
from tests.security.served import BUCKET, OTHER, READER_ID, SCOPED_ID, Reply, ServedBox

pytestmark = pytest.mark.slow

FILE: Part = ("file", b"content of a form")
Sign = Callable[..., list[Part]]


@pytest.fixture(scope="module")
def box() -> Iterator[ServedBox]:
    with ServedBox() as one:
        one.put(b"mine", b"mine")
        yield one


def version_4(expires: float = NOW + 60, bucket: str = BUCKET, **how: Any) -> list[Part]:
    text = policy_text([{"bucket": bucket}, ["starts-with", "$key", "form/"], *v4_conditions()], expires)
    key_id, secret = how.pop("key_id", KEY_ID), how.pop("secret", SECRET)
    return signed_v4(text, key_id, secret, how.pop("region", REGION), how.pop("at", NOW), **how)


def version_2(expires: float = NOW + 60, bucket: str = BUCKET, **how: Any) -> list[Part]:
    text = policy_text([{"bucket": bucket}, ["starts-with", "$key", "form/"]], expires)
    return signed_v2(text, how.get("key_id", KEY_ID), how.get("secret", SECRET))


KINDS: dict[str, Sign] = {"version 4": version_4, "version 2": version_2}
DEFECTS: dict[str, dict[str, Any]] = {
    "bad signature": {"secret": SECRET[:-1] + "x"},
    "unknown key": {"key_id": "TCNOBODYNOBODY123456"},
    "expired policy": {"expires": NOW},
    "another bucket's policy": {"bucket": OTHER},
    "a key that may only read": {"key_id": READER_ID},
}
ONLY_4: dict[str, dict[str, Any]] = {
    "wrong region": {"region": "mars-1"},
    "wrong service": {"service": "ec2"},
    "wrong date": {"date": "20200101"},
    "from the future": {"at": NOW + 901},
    "older than a week": {"at": NOW - 604_801},
}


def send(box: ServedBox, route: Route, parts: list[Part], bucket: str = BUCKET) -> Reply:
    path = {Level.SERVICE: "/", Level.BUCKET: f"/{bucket}", Level.OBJECT: f"/{bucket}/mine"}[route.level]
    query = f"{route.query}=1".encode() if route.query else b""
    headers = [(b"host", b"box"), (b"content-type", b"multipart/form-data; boundary=" + BOUNDARY)]
    if route.header:
        headers.append((route.header, f"/{bucket}/mine".encode()))
    body = multipart([("key", "form/${filename}"), *parts, FILE])
    return box.ask(SignedRequest(route.method, path.encode(), query, headers), body)


HERE = Route("POST", Level.BUCKET)
ROUTES = [*(route for route, _ in table.router().names()), *(Route(*place) for place in ABSENT)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_form_opens_one_route(box: ServedBox, kind: str) -> None:
    sign = KINDS[kind]
    with box.unchanged():
        for route in ROUTES:
            if (route.method, route.level, route.query) != ("POST", Level.BUCKET, ""):
                reply = send(box, route, sign())
                assert reply.status in (400, 403, 405, 501), (route, reply)
    assert send(box, HERE, sign()).status == 204
    assert send(box, HERE, sign(key_id=SCOPED_ID)).status == 204
    stored = box.run(lambda: box.store.look_up(box.store.bucket(BUCKET), b"form/a.txt"))
    assert stored.size == len(FILE[1])


@pytest.mark.parametrize("kind", KINDS)
def test_no_defect_opens_any_route(box: ServedBox, kind: str) -> None:
    sign = KINDS[kind]
    defects = DEFECTS | ONLY_4 if kind == "version 4" else DEFECTS
    with box.unchanged():
        for name, how in defects.items():
            for route in (HERE, Route("POST", Level.OBJECT), Route("POST", Level.BUCKET, "delete")):
                assert send(box, route, sign(**how)).status in (400, 403, 405), (name, route)
        scoped = sign(key_id=SCOPED_ID, bucket=OTHER)
        assert send(box, HERE, scoped, OTHER).code == "AccessDenied"


def test_each_field_left_out_or_altered_closes_the_form(box: ServedBox) -> None:
    with box.unchanged():
        for sign in KINDS.values():
            parts = sign()
            for index, (name, value) in enumerate(parts):
                left_out = [*parts[:index], *parts[index + 1 :]]
                altered = [*parts[:index], (name, f"{value!s}x"), *parts[index + 1 :]]
                twice = [*parts, (name, value)]
                for changed in (left_out, altered, twice) if sign is version_4 else (left_out, twice):
                    assert send(box, HERE, changed).status in (400, 403), (name, changed)
        for stranger in ("acl", "x-amz-meta-a", "success_action_redirect", "x-amz-storage-class", "tagging", "bucket"):
            parts = [*version_4(), (stranger, "public-read")]
            assert send(box, HERE, parts).code in ("AccessDenied", "MalformedXML"), stranger
