"""Versions through the S3 door, over the real store: ids, delete markers, statuses and headers as AWS gives them."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterator

import pytest

from appliance.verbs import objects
from tests.s3front.box import Answer, Box
from tests.s3front.operations.golden import same

NEVER = "00000000000000ff"
VERSION, MARKER = "x-amz-version-id", "x-amz-delete-marker"


@pytest.fixture(scope="module")
def shared() -> Iterator[Box]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objects, "BUCKET_NAME_MIN", 1)  # the box has a bucket b
        with Box(real=True) as one:
            yield one


@pytest.fixture
def box(shared: Box, request: pytest.FixtureRequest) -> Box:
    """The box, its bucket `versions` new."""
    for key, version in re.findall(r"<Key>(.*?)</Key><VersionId>(.*?)</VersionId>", listing(shared)):
        shared.send("DELETE", f"/versions/{key}", f"versionId={version}")
    shared.send("DELETE", "/versions")
    assert shared.send("PUT", "/versions").status == 200
    return shared


def listing(box: Box, query: str = "") -> str:
    return box.send("GET", "/versions", f"versions=&{query}".rstrip("&")).body.decode()


def state(box: Box, status: str) -> Answer:
    document = f"<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>"
    return box.send("PUT", "/versions", "versioning=", body=document.encode())


def put(box: Box, content: bytes, key: str = "k") -> str:
    return box.send("PUT", f"/versions/{key}", body=content).headers.get(VERSION, "")


def test_the_state_of_a_bucket(box: Box) -> None:
    same("GetBucketVersioning", box.send("GET", "/versions", "versioning=").body)
    for status in ("Enabled", "Suspended", "Enabled"):
        assert state(box, status).status == 200
        assert f"<Status>{status}</Status>".encode() in box.send("GET", "/versions", "versioning=").body
    for document, code in (
        ("", "MissingRequestBodyError"),
        ("<VersioningConfiguration/>", "IllegalVersioningConfigurationException"),
        ("<VersioningConfiguration><Status>On</Status></VersioningConfiguration>", "MalformedXML"),
        ("<VersioningConfiguration><State>Enabled</State></VersioningConfiguration>", "MalformedXML"),
        (
            "<VersioningConfiguration><Status>Suspended</Status><MfaDelete>Enabled</MfaDelete></VersioningConfiguration>",
            "NotImplemented",
        ),
    ):
        assert box.send("PUT", "/versions", "versioning=", body=document.encode()).code == code, document
    assert b"<Status>Enabled</Status>" in box.send("GET", "/versions", "versioning=").body


def test_every_write_is_a_version(box: Box) -> None:
    assert put(box, b"before") == ""
    state(box, "Enabled")
    first, second = put(box, b"one"), put(box, b"two")
    assert first < second
    for query, content, version in (
        ("", b"two", second),
        (f"versionId={second}", b"two", second),
        (f"versionId={first}", b"one", first),
        ("versionId=null", b"before", "null"),
    ):
        for method in ("GET", "HEAD"):
            answer = box.send(method, "/versions/k", query)
            assert (answer.status, answer.headers[VERSION]) == (200, version), query
            assert answer.body == (content if method == "GET" else b"")
    assert box.send("GET", "/versions/k", f"versionId={NEVER}").code == "NoSuchVersion"
    state(box, "Suspended")
    assert put(box, b"three") == ""
    assert box.send("GET", "/versions/k").headers[VERSION] == "null"
    assert box.send("GET", "/versions/k", "versionId=null").body == b"three"
    ids = re.findall("<VersionId>(.*?)</VersionId><IsLatest>(.*?)</IsLatest>", listing(box))
    assert ids == [("null", "true"), (second, "false"), (first, "false")]


def test_delete_markers(box: Box) -> None:
    state(box, "Enabled")
    content = put(box, b"content")
    gone = box.send("DELETE", "/versions/k")
    marker = gone.headers[VERSION]
    assert (gone.status, gone.headers[MARKER]) == (204, "true")
    assert marker > content
    for method in ("GET", "HEAD"):
        answer = box.send(method, "/versions/k")
        assert (answer.status, answer.headers[MARKER], answer.headers[VERSION]) == (404, "true", marker)
        answer = box.send(method, "/versions/k", f"versionId={marker}")
        assert (answer.status, answer.headers[MARKER], answer.headers[VERSION]) == (405, "true", marker)
        assert (answer.headers["allow"], "last-modified" in answer.headers) == ("DELETE", True)
    assert box.send("GET", "/versions/k", "attributes=", {"x-amz-object-attributes": "ETag"}).status == 404
    copy = {"x-amz-copy-source": f"/versions/k?versionId={marker}"}
    assert box.send("PUT", "/versions/copy", headers=copy).code == "InvalidRequest"
    assert b"<Contents>" not in box.send("GET", "/versions").body
    assert box.send("DELETE", "/versions").code == "BucketNotEmpty"
    lifted = box.send("DELETE", "/versions/k", f"versionId={marker}")
    assert (lifted.headers[MARKER], lifted.headers[VERSION]) == ("true", marker)
    assert box.send("GET", "/versions/k").body == b"content"
    for _ in range(2):  # what is not there is gone
        last = box.send("DELETE", "/versions/k", f"versionId={content}")
        assert (last.status, last.headers[VERSION], MARKER in last.headers) == (204, content, False)
    assert box.send("GET", "/versions/k").status == 404
    assert box.send("DELETE", "/versions").status == 204


def test_copies_name_both_versions(box: Box) -> None:
    state(box, "Enabled")
    first, second = put(box, b"one"), put(box, b"two")
    back = box.send("PUT", "/versions/k", headers={"x-amz-copy-source": f"/versions/k?versionId={first}"})
    assert back.status == 200
    assert back.headers["x-amz-copy-source-version-id"] == first
    assert back.headers[VERSION] > second
    assert box.send("GET", "/versions/k").body == b"one"
    plain = box.send("PUT", "/b/k", headers={"x-amz-copy-source": f"/versions/k?versionId={second}"})
    assert (plain.headers["x-amz-copy-source-version-id"], VERSION in plain.headers) == (second, False)
    assert box.send("GET", "/b/k").body == b"two"
    upload = re.findall("<UploadId>(.*?)</UploadId>", box.send("POST", "/versions/m", "uploads=").body.decode())[0]
    part = box.send(
        "PUT",
        "/versions/m",
        f"partNumber=1&uploadId={upload}",
        {"x-amz-copy-source": f"/versions/k?versionId={second}"},
    )
    assert part.headers["x-amz-copy-source-version-id"] == second
    etag = re.findall("<ETag>(.*?)</ETag>", part.body.decode())[0]
    document = (
        f"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
    )
    done = box.send("POST", "/versions/m", f"uploadId={upload}", body=document.encode())
    assert box.send("GET", "/versions/m", f"versionId={done.headers[VERSION]}").body == b"two"
    for source, code in (
        (f"/versions/k?versionId={NEVER}", "NoSuchVersion"),
        ("/versions/k?versionId=", "InvalidArgument"),
        ("/versions/k?versionId=x", "InvalidArgument"),
    ):
        assert box.send("PUT", "/versions/x", headers={"x-amz-copy-source": source}).code == code


def test_many_at_once(box: Box) -> None:
    state(box, "Enabled")
    first, second = put(box, b"one"), put(box, b"two")

    def delete(*targets: tuple[str, str]) -> str:
        objects = "".join(
            f"<Object><Key>{key}</Key>{f'<VersionId>{version}</VersionId>' if version else ''}</Object>"
            for key, version in targets
        )
        body = f"<Delete>{objects}</Delete>".encode()
        digest = {"content-md5": b64encode(hashlib.md5(body).digest()).decode()}
        return box.send("POST", "/versions", "delete=", digest, body).body.decode()

    answer = delete(("k", first), ("k", ""), ("k", NEVER), ("k", "odd"))
    marker = re.findall("<DeleteMarkerVersionId>(.*?)</DeleteMarkerVersionId>", answer)
    assert answer.endswith(
        f"<Deleted><Key>k</Key><VersionId>{first}</VersionId></Deleted>"
        "<Deleted><Key>k</Key><DeleteMarker>true</DeleteMarker>"
        f"<DeleteMarkerVersionId>{marker[0]}</DeleteMarkerVersionId></Deleted>"
        f"<Deleted><Key>k</Key><VersionId>{NEVER}</VersionId></Deleted>"
        "<Error><Key>k</Key><VersionId>odd</VersionId><Code>NoSuchVersion</Code>"
        "<Message>The specified version does not exist.</Message></Error></DeleteResult>"
    )
    answer = delete(("k", marker[0]))
    assert f"<VersionId>{marker[0]}</VersionId><DeleteMarker>true</DeleteMarker>" in answer
    assert box.send("GET", "/versions/k").headers[VERSION] == second


def test_markers_of_a_listing(box: Box) -> None:
    state(box, "Enabled")
    versions = [put(box, b"x", "a") for _ in range(3)]
    put(box, b"x", "b")
    box.send("DELETE", "/versions/b")
    page = listing(box, "max-keys=2")
    assert f"<NextKeyMarker>a</NextKeyMarker><NextVersionIdMarker>{versions[1]}</NextVersionIdMarker>" in page
    rest = listing(box, f"key-marker=a&version-id-marker={versions[1]}")
    assert re.findall("<(Version|DeleteMarker)><Key>(.)</Key>", rest) == [
        ("Version", "a"),
        ("DeleteMarker", "b"),
        ("Version", "b"),
    ]
    assert re.findall("<Key>(.)</Key>", listing(box, "key-marker=a")) == ["b", "b"]
    assert "<Key>" not in listing(box, "max-keys=0")
    for query in ("version-id-marker=x", f"version-id-marker={NEVER}", "key-marker=a&version-id-marker=x"):
        assert box.send("GET", "/versions", f"versions=&{query}").code == "InvalidArgument", query


def test_a_renamed_object_leaves_its_versions_behind(box: Box) -> None:
    """As where the mount renames a file: a new version of the new key, a delete marker over the old one."""

    def rename(old: str, new: str) -> Answer:
        return box.send("PUT", f"/versions/{new}", "renameObject=", headers={"x-amz-rename-source": f"/versions/{old}"})

    def read(key: str, version: str = "") -> bytes:
        return box.send("GET", f"/versions/{key}", f"versionId={version}" if version else "").body

    state(box, "Enabled")
    first, second = put(box, b"one"), put(box, b"two")
    there = put(box, b"there", "new")
    assert rename("k", "new").status == 200
    hidden = box.send("GET", "/versions/k")
    assert (hidden.status, hidden.headers[MARKER]) == (404, "true")
    now = box.send("GET", "/versions/new")
    assert now.body == b"two"
    assert now.headers[VERSION] not in (first, second, there)
    assert [read("k", first), read("k", second), read("new", there)] == [b"one", b"two", b"there"]
    box.send("DELETE", "/versions/k", f"versionId={hidden.headers[VERSION]}")
    assert read("k") == b"two"
    state(box, "Suspended")
    assert rename("new", "other").status == 200
    assert (read("other"), box.send("GET", "/versions/other").headers[VERSION]) == (b"two", "null")
    put(box, b"null", "third")
    assert rename("other", "third").status == 200
    assert read("third") == b"two"
    assert listing(box, "prefix=third").count("<Version>") == 1  # null gave way to null
