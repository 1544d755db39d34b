"""Object lock through the S3 door, over the real store: what is retained or held stays."""

from __future__ import annotations

import hashlib
import sqlite3
import time
from base64 import b64encode
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

from appliance.verbs import base, objects
from tests.s3front.box import Answer, Box

LATER, LATEST = "2140-01-01T00:00:00.000Z", "2150-06-01T12:00:00.250Z"
VERSION = "x-amz-version-id"
BYPASS = {"x-amz-bypass-governance-retention": "true"}
_numbers = count(1)


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "BUCKET_NAME_MIN", 1)  # the box has a bucket b
        with Box(real=True, now=time.time()) as one:
            yield one


@pytest.fixture
def bucket(box: Box) -> str:
    """The path of a new one with object lock."""
    path = f"/locked-{next(_numbers)}"
    assert box.send("PUT", path, headers={"x-amz-bucket-object-lock-enabled": "true"}).status == 200
    return path


def database_of(box: Box) -> Path:
    assert box._real is not None
    return box._real.database


def put(box: Box, bucket: str, key: str = "k", headers: dict[str, str] | None = None, body: bytes = b"x") -> str:
    answer = box.send("PUT", f"{bucket}/{key}", headers=headers, body=body)
    assert answer.status == 200, answer.body
    return answer.headers[VERSION]


def lock(mode: str, until: str) -> dict[str, str]:
    return {"x-amz-object-lock-mode": mode, "x-amz-object-lock-retain-until-date": until}


def retain(box: Box, bucket: str, mode: str, until: str, headers: dict[str, str] | None = None) -> Answer:
    document = f"<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>"
    return box.send("PUT", f"{bucket}/k", "retention=", headers, document.encode())


def hold(box: Box, bucket: str, status: str, query: str = "") -> Answer:
    document = f"<LegalHold><Status>{status}</Status></LegalHold>"
    return box.send("PUT", f"{bucket}/k", f"legal-hold={query}", body=document.encode())


def configure(box: Box, bucket: str, content: str) -> Answer:
    document = f"<ObjectLockConfiguration>{content}</ObjectLockConfiguration>"
    return box.send("PUT", bucket, "object-lock=", body=document.encode())


def rule(content: str) -> str:
    enabled = "<ObjectLockEnabled>Enabled</ObjectLockEnabled>"
    return f"{enabled}<Rule><DefaultRetention>{content}</DefaultRetention></Rule>"


def test_a_bucket_locks_only_with_versions_and_for_ever(box: Box, bucket: str) -> None:
    assert box.send("GET", "/b", "object-lock=").code == "ObjectLockConfigurationNotFoundError"
    assert b"<ObjectLockEnabled>Enabled</ObjectLockEnabled></" in box.send("GET", bucket, "object-lock=").body
    assert b"<Status>Enabled</Status>" in box.send("GET", bucket, "versioning=").body
    suspend = b"<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>"
    answer = box.send("PUT", bucket, "versioning=", body=suspend)
    assert (answer.status, answer.code) == (409, "InvalidBucketState")
    plain = "/plain"
    box.send("PUT", plain)
    enabled = "<ObjectLockEnabled>Enabled</ObjectLockEnabled>"
    assert configure(box, plain, enabled).code == "InvalidBucketState"
    box.send("PUT", plain, "versioning=", body=suspend)
    assert configure(box, plain, enabled).code == "InvalidBucketState"
    box.send("PUT", plain, "versioning=", body=suspend.replace(b"Suspended", b"Enabled"))
    assert configure(box, plain, enabled).status == 200
    with sqlite3.connect(database_of(box)) as connection:  # how late it is outlives a restart (SECURITY rule 16)
        ((seen,),) = connection.execute("SELECT value FROM meta WHERE name='seen_ns'").fetchall()
    assert 0 <= time.time_ns() - seen < 60 * 10**9
    headers = {"x-amz-bucket-object-lock-enabled": "maybe"}
    assert box.send("PUT", "/other", headers=headers).code == "InvalidArgument"


def test_documents_that_are_none(box: Box, bucket: str) -> None:
    for content, code in (
        ("", "MalformedXML"),
        ("<ObjectLockEnabled>Disabled</ObjectLockEnabled>", "MalformedXML"),
        ("<ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule/>", "MalformedXML"),
        (rule("<Mode>GOVERNANCE</Mode>"), "MalformedXML"),
        (rule("<Mode>governance</Mode><Days>1</Days>"), "MalformedXML"),
        (rule("<Days>1</Days>"), "MalformedXML"),
        (rule("<Mode>GOVERNANCE</Mode><Days>1</Days><Years>1</Years>"), "MalformedXML"),
        (rule("<Mode>GOVERNANCE</Mode><Day>1</Day>"), "MalformedXML"),
        (rule("<Mode>GOVERNANCE</Mode><Days>one</Days>"), "MalformedXML"),
        (rule("<Mode>GOVERNANCE</Mode><Days>0</Days>"), "InvalidRetentionPeriod"),
        (rule("<Mode>GOVERNANCE</Mode><Years>-1</Years>"), "InvalidRetentionPeriod"),
        (rule("<Mode>GOVERNANCE</Mode><Years>101</Years>"), "InvalidRetentionPeriod"),
        (rule("<Mode>GOVERNANCE</Mode><Days>9999999999999</Days>"), "InvalidRetentionPeriod"),
    ):
        assert configure(box, bucket, content).code == code, content
    put(box, bucket)
    for mode, until, code in (
        ("governance", LATER, "MalformedXML"),
        ("GOVERNANCE", "2140-01-01", "MalformedXML"),
        ("GOVERNANCE", "later", "MalformedXML"),
        ("GOVERNANCE", "9999-12-31T00:00:00Z", "MalformedXML"),
        ("GOVERNANCE", "2020-01-01T00:00:00Z", "InvalidArgument"),
    ):
        assert retain(box, bucket, mode, until).code == code, (mode, until)
    assert box.send("PUT", f"{bucket}/k", "retention=", body=b"<Retention><Modus/></Retention>").code == "MalformedXML"
    assert hold(box, bucket, "on").code == "MalformedXML"
    for headers in (
        {"x-amz-object-lock-mode": "GOVERNANCE"},
        {"x-amz-object-lock-retain-until-date": LATER},
        lock("governance", LATER),
        lock("GOVERNANCE", "then"),
        lock("GOVERNANCE", "2020-01-01T00:00:00Z"),
        {"x-amz-object-lock-legal-hold": "on"},
    ):
        assert box.send("PUT", f"{bucket}/k", headers=headers, body=b"y").code == "InvalidArgument", headers
        assert box.send("POST", f"{bucket}/k", "uploads=", headers).code == "InvalidArgument", headers
    assert box.send("GET", f"{bucket}/k").body == b"x"
    for query in ("retention=", "legal-hold="):
        assert box.send("GET", f"{bucket}/k", query).code == "NoSuchObjectLockConfiguration"


def test_a_bucket_without_lock_takes_none(box: Box) -> None:
    box.send("PUT", "/b/k", body=b"x")
    for method, query, body in (
        ("GET", "retention=", b""),
        ("GET", "legal-hold=", b""),
        ("PUT", "retention=", b"<Retention/>"),
        ("PUT", "legal-hold=", b"<LegalHold><Status>ON</Status></LegalHold>"),
    ):
        assert box.send(method, "/b/k", query, body=body).code == "InvalidRequest", query
    for headers in (lock("COMPLIANCE", LATER), {"x-amz-object-lock-legal-hold": "ON"}):
        assert box.send("PUT", "/b/new", headers=headers, body=b"y").code == "InvalidRequest"
        assert box.send("POST", "/b/new", "uploads=", headers).code == "InvalidRequest"
        copy = {"x-amz-copy-source": "/b/k", **headers}
        assert box.send("PUT", "/b/new", headers=copy).code == "InvalidRequest"
    assert box.send("GET", "/b/new").status == 404


def test_governance(box: Box, bucket: str) -> None:
    version = put(box, bucket)
    assert retain(box, bucket, "GOVERNANCE", LATEST).headers[VERSION] == version
    shown = box.send("HEAD", f"{bucket}/k").headers
    assert shown["x-amz-object-lock-mode"] == "GOVERNANCE"
    assert shown["x-amz-object-lock-retain-until-date"] == LATEST
    assert LATEST.encode() in box.send("GET", f"{bucket}/k", f"retention=&versionId={version}").body
    gone = box.send("DELETE", f"{bucket}/k", f"versionId={version}")
    assert (gone.status, gone.code) == (403, "AccessDenied")
    marker = box.send("DELETE", f"{bucket}/k").headers[VERSION]  # hiding it is no deletion
    assert box.send("DELETE", f"{bucket}/k", f"versionId={version}").status == 403
    assert box.send("DELETE", f"{bucket}/k", f"versionId={marker}").status == 204
    assert box.send("GET", f"{bucket}/k").body == b"x"
    assert retain(box, bucket, "GOVERNANCE", LATER).code == "AccessDenied"
    assert box.send("PUT", f"{bucket}/k", "retention=", body=b"<Retention/>").code == "AccessDenied"
    assert retain(box, bucket, "GOVERNANCE", LATER, BYPASS).status == 200
    assert box.send("PUT", f"{bucket}/k", "retention=", BYPASS, b"<Retention/>").status == 200
    assert retain(box, bucket, "GOVERNANCE", LATER).status == 200
    assert box.send("DELETE", f"{bucket}/k", f"versionId={version}", BYPASS).status == 204


def test_what_is_locked_is_not_renamed_nor_replaced_by_what_is(box: Box, bucket: str) -> None:
    put(box, bucket, headers=lock("GOVERNANCE", LATER))
    put(box, bucket, "free", body=b"free")

    def rename(old: str, new: str) -> Answer:
        return box.send("PUT", f"{bucket}/{new}", "renameObject=", headers={"x-amz-rename-source": f"{bucket}/{old}"})

    for old, new in (("k", "new"), ("free", "k")):
        assert (rename(old, new).status, rename(old, new).code) == (403, "AccessDenied")
    assert box.send("GET", f"{bucket}/k").body == b"x"
    assert box.send("GET", f"{bucket}/new").status == 404
    assert configure(box, bucket, rule("<Mode>GOVERNANCE</Mode><Days>2</Days>")).status == 200
    assert rename("free", "new").status == 200
    assert box.send("HEAD", f"{bucket}/new").headers["x-amz-object-lock-mode"] == "GOVERNANCE"


@pytest.mark.slow
def test_compliance_and_holds(box: Box, bucket: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for clock in ("now", "monotonic_ns"):  # by which retentions end: they stand still until all was asked
            patch.setattr(base, clock, partial(int, getattr(base, clock)()))
        soon = time.time() + 0.01
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(soon)) + f".{int(soon % 1 * 1000):03}Z"
        version = put(box, bucket, headers=lock("COMPLIANCE", moment) | {"x-amz-object-lock-legal-hold": "ON"})
        assert box.send("GET", f"{bucket}/k").headers["x-amz-object-lock-legal-hold"] == "ON"
        for until, headers in ((moment, BYPASS), (LATER, {})):
            assert retain(box, bucket, "GOVERNANCE", until, headers).code == "AccessDenied"
        assert hold(box, bucket, "OFF").status == 200
        assert box.send("DELETE", f"{bucket}/k", f"versionId={version}", BYPASS).code == "AccessDenied"
        assert hold(box, bucket, "ON", f"&versionId={version}").status == 200
        assert b"<Status>ON</Status>" in box.send("GET", f"{bucket}/k", "legal-hold=").body
    while time.time() < soon:  # the retention ends, the hold does not
        assert box.send("DELETE", f"{bucket}/k", f"versionId={version}", BYPASS).code == "AccessDenied"
    assert box.send("DELETE", f"{bucket}/k", f"versionId={version}").code == "AccessDenied"
    assert hold(box, bucket, "OFF").status == 200
    assert box.send("DELETE", f"{bucket}/k", f"versionId={version}").status == 204


def test_the_default_is_given_to_what_is_new(box: Box, bucket: str) -> None:
    put(box, bucket, "before")
    assert configure(box, bucket, rule("<Mode>COMPLIANCE</Mode><Days>2</Days>")).status == 200
    assert b"<Days>2</Days>" in box.send("GET", bucket, "object-lock=").body
    assert "x-amz-object-lock-mode" not in box.send("HEAD", f"{bucket}/before").headers
    put(box, bucket, "own", lock("GOVERNANCE", LATER))
    put(box, bucket)
    box.send("PUT", f"{bucket}/copy", headers={"x-amz-copy-source": f"{bucket}/own"})
    upload = box.send("POST", f"{bucket}/parts", "uploads=").body.decode().split("<UploadId>")[1].split("<")[0]
    etag = box.send("PUT", f"{bucket}/parts", f"partNumber=1&uploadId={upload}", body=b"p").headers["etag"]
    part = f"<Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part>"
    document = f"<CompleteMultipartUpload>{part}</CompleteMultipartUpload>".encode()
    assert box.send("POST", f"{bucket}/parts", f"uploadId={upload}", body=document).status == 200
    for key, mode in (("own", "GOVERNANCE"), ("k", "COMPLIANCE"), ("copy", "COMPLIANCE"), ("parts", "COMPLIANCE")):
        assert box.send("HEAD", f"{bucket}/{key}").headers["x-amz-object-lock-mode"] == mode, key


def test_a_copy_inherits_no_lock(box: Box, bucket: str) -> None:
    held = lock("GOVERNANCE", LATER) | {"x-amz-object-lock-legal-hold": "ON", "x-amz-storage-class": "STANDARD_IA"}
    put(box, bucket, "source", held)
    for extra in (
        {},
        {"x-amz-metadata-directive": "REPLACE"},
        {"x-amz-tagging-directive": "REPLACE", "x-amz-tagging": "a=b"},
        {"x-amz-storage-class": "STANDARD"},
    ):
        for target in (f"{bucket}/copy", "/b/copy"):
            copy = {"x-amz-copy-source": f"{bucket}/source", **extra}
            assert box.send("PUT", target, headers=copy).status == 200, extra
            shown = box.send("HEAD", target).headers
            assert not [name for name in shown if name.startswith("x-amz-object-lock")], extra
    copy = {"x-amz-copy-source": f"{bucket}/source", **lock("COMPLIANCE", LATEST)}
    assert box.send("PUT", f"{bucket}/copy", headers=copy).status == 200
    assert box.send("HEAD", f"{bucket}/copy").headers["x-amz-object-lock-retain-until-date"] == LATEST


def test_many_at_once(box: Box, bucket: str) -> None:
    held, free = put(box, bucket, "held", lock("GOVERNANCE", LATER)), put(box, bucket, "free")
    objects = "".join(
        f"<Object><Key>{key}</Key><VersionId>{version}</VersionId></Object>"
        for key, version in (("held", held), ("free", free))
    )
    body = f"<Delete>{objects}</Delete>".encode()
    digest = {"content-md5": b64encode(hashlib.md5(body).digest()).decode()}
    answer = box.send("POST", bucket, "delete=", digest, body).body.decode()
    assert f"<Error><Key>held</Key><VersionId>{held}</VersionId><Code>AccessDenied</Code>" in answer
    assert f"<Deleted><Key>free</Key><VersionId>{free}</VersionId></Deleted>" in answer
    answer = box.send("POST", bucket, "delete=", digest | BYPASS, body).body.decode()
    assert "<Error>" not in answer
    assert box.send("GET", f"{bucket}/held").status == 404


def test_a_delete_marker_cannot_be_locked(box: Box, bucket: str) -> None:
    put(box, bucket)
    marker = box.send("DELETE", f"{bucket}/k").headers[VERSION]
    document = f"<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>{LATER}</RetainUntilDate></Retention>"
    for method, query, body in (
        ("GET", "retention", b""),
        ("PUT", "retention", document.encode()),
        ("GET", "legal-hold", b""),
        ("PUT", "legal-hold", b"<LegalHold><Status>ON</Status></LegalHold>"),
    ):
        assert box.send(method, f"{bucket}/k", f"{query}=&versionId={marker}", body=body).status == 405, query
        assert box.send(method, f"{bucket}/k", f"{query}=", body=body).status == 404, query
