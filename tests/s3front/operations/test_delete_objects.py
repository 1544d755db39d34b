"""DeleteObjects."""

from __future__ import annotations

import base64
import hashlib

import pytest

from s3front import xml
from tests.rows import rows
from tests.s3front.box import SCOPED, Answer, Box
from tests.s3front.operations.golden import same


def delete(box: Box, document: str | bytes, **options: str) -> Answer:
    body = document if isinstance(document, bytes) else document.encode()
    digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    return box.send("POST", "/b", "delete=", headers={"content-md5": digest}, body=body, **options)  # type: ignore[arg-type]


def objects(*keys: str, more: str = "") -> str:
    rows = "".join(f"<Object><Key>{xml.escape(key)}</Key></Object>" for key in keys)
    return f'<Delete xmlns="{xml.NAMESPACE}">{rows}{more}</Delete>'


def test_each_key_has_its_outcome(box: Box) -> None:
    for key in ("a", "c%26d", "kept"):
        box.send("PUT", f"/b/{key}", body=b"x")
    document = (
        "<Delete><Object><Key>a</Key></Object><Object><Key>none</Key><VersionId>null</VersionId></Object>"
        "<Object><Key>c&amp;d</Key></Object><Object><Key>kept</Key><VersionId>v7</VersionId></Object>"
        "<Object><Key>kept</Key><ETag>&quot;other&quot;</ETag></Object><Object><Key>kept</Key><Size>2</Size></Object>"
        f"<Object><Key>{'k' * 1025}</Key></Object></Delete>"
    )
    answer = delete(box, document)
    assert answer.status == 200
    same("delete_objects", answer.body.replace(b"k" * 1025, b"LONG"))
    assert box.send("GET", "/b/a").status == 404
    assert box.send("GET", "/b/kept").status == 200


def test_quiet_mentions_failures_only(box: Box) -> None:
    box.send("PUT", "/b/a", body=b"x")
    answer = delete(box, objects("a", "k" * 1025, more="<Quiet>true</Quiet>"))
    assert b"<Deleted>" not in answer.body
    assert answer.body.count(b"<Error>") == 1
    assert box.send("GET", "/b/a").status == 404


@pytest.mark.slow
def test_a_thousand_keys_and_no_more(box: Box) -> None:
    answer = delete(box, objects(*(f"k{n}" for n in range(1000))))
    assert answer.body.count(b"<Deleted>") == 1000
    assert delete(box, objects(*(f"k{n}" for n in range(1001)))).code == "MalformedXML"
    assert delete(box, objects()).code == "MalformedXML"


@rows(
    "document",
    [
        "<Delete><Object><Key>a</Key><Kye>b</Kye></Object></Delete>",
        "<Delete><Object/></Delete>",
        "<Delete><Object><Key></Key></Object></Delete>",
        "<Delete><Object><Key>a</Key></Object><Quiet>yes</Quiet></Delete>",
        "<Delete><Object><Key>a</Key></Object><Bypass/></Delete>",
        '<!DOCTYPE Delete [<!ENTITY e SYSTEM "file:///etc/passwd">]><Delete><Object><Key>&e;</Key></Object></Delete>',
        "<Delete><Object><Key>a</Key></Object>",
    ],
)
def test_a_document_that_is_not_understood_deletes_nothing(box: Box, document: str) -> None:
    box.send("PUT", "/b/a", body=b"x")
    answer = delete(box, document)
    assert (answer.status, answer.code) == (400, "MalformedXML")
    assert box.send("GET", "/b/a").status == 200


def test_the_document_needs_a_digest_and_keeps_it(box: Box) -> None:
    body = objects("a").encode()
    answer = box.send("POST", "/b", "delete=", body=body)
    assert (answer.status, answer.code) == (400, "InvalidRequest")
    wrong = base64.b64encode(bytes(16)).decode()
    assert box.send("POST", "/b", "delete=", headers={"content-md5": wrong}, body=body).code == "BadDigest"
    assert delete(box, b"").code == "MissingRequestBodyError"
    assert delete(box, b"<Delete>" + b" " * (1 << 20) + b"</Delete>").status == 400


def test_keys_in_the_document_are_taken_literally(box: Box) -> None:
    """SECURITY rule 6: no second decoding, and never another bucket."""
    for key in ("a%252Fb", "a%2Fb"):
        box.send("PUT", f"/b/{key}", body=b"x")
    delete(box, objects("a%2Fb", "../other/k", "/other/k"), key=SCOPED)
    assert box.send("GET", "/b/a%252Fb").status == 404
    assert box.send("GET", "/b/a%2Fb").status == 200
