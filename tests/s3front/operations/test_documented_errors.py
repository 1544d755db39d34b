"""Every operation's documented errors, by AWS's codes and statuses, in S3's form: the routing table, walked.

The rows are those of documented_errors.py.  All are asked of one box: an error changes nothing, and afterwards all is
there as it was.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.errors import Code, StoreError
from appliance.verbs import base, objects
from s3front.errors import ERRORS
from s3front.operations.table import Operation, router
from s3front.router import Level, Route
from tests.s3front.box import KEY, Answer, Box
from tests.s3front.memory_store import NOW_NS
from tests.s3front.operations.documented_errors import (
    ANYBODY,
    BASE,
    ELSEWHERE,
    GENERAL_ONLY,
    LATER,
    OWN,
    Row,
    customer,
    general,
)
from tests.s3front.operations.people import OTHER, introduce
from tests.security.test_documents import DOCUMENTS

TESTS = Path(__file__).parents[2]
BUCKETS = ("/b", "/versions", "/locked", "/enforced", "/closed", "/public", "/with.dot")


def md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


def found(pattern: bytes, answer: Answer) -> str:
    match = re.search(pattern, answer.body)
    assert match is not None, answer
    return match[1].decode()


def scene(box: Box) -> dict[str, str]:
    """Makes what the rows speak of; the ids by name."""

    def do(method: str, path: str, query: str = "", body: bytes = b"", who: str = KEY, **headers: str) -> Answer:
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = box.send(method, path, query, {"content-md5": md5(body), **fields}, body, key=who)
        assert answer.status in (200, 204), (method, path, query, answer)
        return answer

    introduce(box)
    do("PUT", "/b/k", body=b"content")
    do("PUT", "/b/sealed", body=b"sealed", **{name: value for name, value in customer(b"one").items() if value})
    do("PUT", "/b/once", body=b"x")
    do("PUT", "/b/renamed", "renameObject=", x_amz_rename_source="/b/once", x_amz_client_token="once")
    do("PUT", "/others", who=OTHER)
    do("PUT", "/others/k", body=b"x", who=OTHER)
    do("PUT", "/with.dot")
    do("PUT", "/enforced", x_amz_object_ownership="BucketOwnerEnforced")
    do("PUT", "/enforced/k", body=b"x")
    do("PUT", "/closed")
    do("PUT", "/closed/k", body=b"x")
    block = "<BlockPublicAcls>true</BlockPublicAcls><BlockPublicPolicy>true</BlockPublicPolicy>"
    block = f"<PublicAccessBlockConfiguration>{block}</PublicAccessBlockConfiguration>"
    do("PUT", "/closed", "publicAccessBlock=", block.encode())
    do("PUT", "/public", x_amz_acl="public-read-write")
    do("PUT", "/public/k", body=b"x", x_amz_acl="public-read")
    do("PUT", "/versions")
    do("PUT", "/versions", "versioning=", DOCUMENTS["PutBucketVersioning"].encode())
    do("PUT", "/versions/k", body=b"x")
    do("PUT", "/locked", x_amz_bucket_object_lock_enabled="true")
    for key in ("k", "free"):
        do("PUT", f"/locked/{key}", body=b"x")
    lock = {"x-amz-object-lock-mode": "COMPLIANCE", "x-amz-object-lock-retain-until-date": LATER}
    held = do("PUT", "/locked/held", body=b"x", **lock, x_amz_object_lock_legal_hold="ON")
    ids = {
        "held": held.headers["x-amz-version-id"],
        "marker": do("DELETE", "/versions/k").headers["x-amz-version-id"],
        "locked_marker": do("DELETE", "/locked/k").headers["x-amz-version-id"],
    }
    for name, path, numbers in (("upload", "/b/m", (1, 2)), ("taken", "/b/k", (1,))):
        ids[name] = found(rb"<UploadId>([^<]+)", do("POST", path, "uploads="))
        for number in numbers:
            do("PUT", path, f"partNumber={number}&uploadId={ids[name]}", b"part")
    return ids


def ask(box: Box, ids: dict[str, str], route: Route, operation: Operation, row: Row) -> Answer:
    """The operation's own request, but for what the row gives."""

    def named(text: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda match: ids[match[1]], text)

    usual = {Level.SERVICE: "/", Level.BUCKET: "/b", Level.OBJECT: "/b/k"}[route.level]
    document = DOCUMENTS.get(operation.name, "").encode()
    path, query, headers, body = BASE.get(operation.name, (usual, "", {}, b""))
    path = path if row.path is None else row.path
    query = named(query if row.query is None else row.query)
    if route.query and not re.search(rf"(^|&){route.query}=", query):
        query = f"{route.query}={'2' if route.query == 'list-type' else ''}" + (f"&{query}" if query else "")
    given = row.body if row.body is not None else body or document
    content = given.encode() if isinstance(given, str) else given
    fields = {"content-md5": md5(content), **headers, **row.headers} if content else {**headers, **row.headers}
    kept = {name: named(value) for name, value in fields.items() if value is not None}
    return box.send(
        route.method, path, query, kept, content, key=row.who or KEY, sign=bool(row.who), payload=row.payload
    )


def state(box: Box) -> list[object]:
    """All that is there, as it is shown."""
    shown: list[object] = [box.store.buckets()]
    for path in BUCKETS:
        for query in ("versions=", "uploads=", "acl=", "policy=", "tagging="):
            shown.append(re.sub(rb"<(RequestId|HostId)>[^<]*", b"", box.send("GET", path, query).body))
    return shown


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setattr(base, "time", SimpleNamespace(time_ns=lambda: NOW_NS))
    monkeypatch.setattr(objects, "BUCKET_NAME_MIN", 1)  # the box has a bucket b
    with Box(real=True) as one:
        yield one


def wrong(row: Row, method: str, answer: Answer) -> str:
    """What is not as documented; empty if nothing is."""
    status, _, code = row.error.partition(" ")
    if answer.status != int(status):
        return f"{answer.status} {answer.code}"
    if method == "HEAD" or not code:  # RFC 9110 §15.4.5: 304 has no content
        return "a body" if answer.body else ""
    if answer.code != code:
        return f"{answer.status} {answer.code}"
    if not answer.headers.get("content-type", "").startswith("application/xml"):
        return "no XML"
    form = rb"<\?xml [^>]*>\s*<Error><Code>\w+</Code><Message>[^<]+</Message>.*<RequestId>[^<]+</RequestId>.*</Error>"
    return "" if re.fullmatch(form, answer.body, re.S) else "not S3's form"


def test_every_operation_has_its_rows_or_says_why_not() -> None:
    served = {operation.name for _, operation in router().names()}
    assert not set(OWN) & set(GENERAL_ONLY)
    assert set(OWN) | set(GENERAL_ONLY) == served
    assert set(BASE) | set(ANYBODY) <= served
    assert all(OWN.values())


def test_every_code_of_this_door_has_a_row_or_a_test_elsewhere() -> None:
    rows = [row for route, one in router().names() for row in general(route, one) + OWN.get(one.name, [])]
    met = {row.error.partition(" ")[2] for row in rows} - {""}
    assert met & set(ELSEWHERE) == set()
    assert met | set(ELSEWHERE) == set(ERRORS)
    for code, test in ELSEWHERE.items():
        assert re.search(rf"\b{code}\b", (TESTS / test).read_text()), (code, test)


def test_a_store_that_cannot_serve_answers_in_s3s_words(double: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    for code, error in (
        (Code.UNAVAILABLE, "503 ServiceUnavailable"),
        (Code.READ_ONLY, "503 ServiceUnavailable"),
        (Code.CONFLICT, "409 OperationAborted"),
        (Code.DAMAGED, "500 InternalError"),
        (Code.IO_ERROR, "500 InternalError"),
        (Code.NO_SPACE, "507 InsufficientStorage"),
        (Code.QUOTA_EXCEEDED, "403 QuotaExceeded"),
    ):

        async def fail(*_: object, code: Code = code) -> None:
            raise StoreError(code)

        monkeypatch.setattr(double.store, "look_up", fail)
        assert wrong(Row(error), "GET", double.send("GET", "/b/k")) == "", code
        assert wrong(Row(error), "HEAD", double.send("HEAD", "/b/k")) == "", code


@pytest.mark.slow
def test_the_rows_own_requests_succeed_but_for_what_they_change(box: Box) -> None:
    """Otherwise a row might meet its error by an accident.  What reads comes first, and what deletes last."""
    ids = scene(box)
    failures = []
    methods = ["GET", "HEAD", "PUT", "POST", "DELETE"]
    late = {"UploadPart", "RenameObject"}  # after the copy of the same part; after all that reads its source

    def turn(one: tuple[Route, Operation]) -> tuple[int, bool]:
        return methods.index(one[0].method), one[1].name in late

    for route, operation in sorted(router().names(), key=turn):
        answer = ask(box, ids, route, operation, Row(""))
        unset = [row for row in OWN.get(operation.name, []) if row == Row(row.error)]  # there is nothing to read
        if operation.name != "PostObject" and (answer.status < 300) is bool(unset):  # a form is every row's own
            failures.append(f"{operation.name}: {answer}")
    assert not failures, "\n".join(failures)


@pytest.mark.slow
def test_every_operation_answers_its_documented_errors(box: Box) -> None:
    ids = scene(box)
    before = state(box)
    failures = []
    for route, operation in router().names():
        for row in general(route, operation) + OWN.get(operation.name, []):
            answer = ask(box, ids, route, operation, row)
            difference = wrong(row, route.method, answer)
            if difference:
                failures.append(f"{operation.name}: {difference} instead of {row}")
    assert not failures, "\n".join(failures)
    assert state(box) == before
