"""ListObjects, ListObjectsV2, ListObjectVersions, ListMultipartUploads."""

from __future__ import annotations

import re
import urllib.parse
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.model import NO_ATTRIBUTES
from s3front import tokens
from s3front.errors import S3Error
from tests.effort import examples
from tests.rows import rows
from tests.s3front.box import Box, boto
from tests.s3front.operations.golden import same

NS = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def fill(box: Box, *keys: str) -> None:
    async def put() -> None:
        bucket = box.store.bucket("b")
        for key in keys:
            await box.store.create_upload(bucket, key.encode(), NO_ATTRIBUTES, "owner")
            await box.store.put_object(bucket, key.encode(), box.store.small_body(b"x"), "e" * 32, NO_ATTRIBUTES)

    box.run(put)


def keys(body: bytes, path: str = "Contents", leaf: str = "Key") -> list[str]:
    return [node.findtext(NS + leaf) or "" for node in ET.fromstring(body).findall(NS + path)]


def walk(box: Box, kind: str, **parameters: str) -> tuple[list[str], list[str]]:
    """Every page, as a client would ask for them."""
    objects: list[str] = []
    prefixes: list[str] = []
    path, query = "/b", dict(parameters)
    query |= {"2": {"list-type": "2"}, "1": {}, "versions": {"versions": ""}, "uploads": {"uploads": ""}}[kind]
    for _ in range(200):
        answer = box.send("GET", path, urllib.parse.urlencode(query, quote_via=urllib.parse.quote))
        assert answer.status == 200, answer.body
        rows = {"versions": "Version", "uploads": "Upload"}.get(kind, "Contents")
        objects += keys(answer.body, rows)
        prefixes += keys(answer.body, "CommonPrefixes", "Prefix")
        root = ET.fromstring(answer.body)
        if root.findtext(NS + "IsTruncated") != "true":
            return objects, prefixes
        if kind == "2":
            query["continuation-token"] = root.findtext(NS + "NextContinuationToken") or ""
        elif kind == "1":
            query["marker"] = root.findtext(NS + "NextMarker") or objects[-1]
        elif kind == "versions":
            query["key-marker"] = root.findtext(NS + "NextKeyMarker") or ""
            query["version-id-marker"] = root.findtext(NS + "NextVersionIdMarker") or ""
        else:
            query["key-marker"] = root.findtext(NS + "NextKeyMarker") or ""
            query["upload-id-marker"] = root.findtext(NS + "NextUploadIdMarker") or ""
    raise AssertionError("the listing never ends")


def test_the_form_of_each_listing(box: Box) -> None:
    fill(box, "a&b", "d/1", "d/2", "é")
    same("list_objects", box.send("GET", "/b", "delimiter=%2F&marker=&max-keys=2").body)
    same("list_objects_v2", box.send("GET", "/b", "list-type=2&fetch-owner=true&start-after=a").body)
    same("list_objects_v2_url", box.send("GET", "/b", "list-type=2&encoding-type=url&delimiter=%2F").body)
    same("list_object_versions", box.send("GET", "/b", "versions=&prefix=d%2F&max-keys=1").body)
    same("list_multipart_uploads", box.send("GET", "/b", "uploads=&delimiter=%2F").body)


def test_an_empty_bucket(box: Box) -> None:
    same("list_objects_v2_empty", box.send("GET", "/b", "list-type=2").body)
    assert box.send("GET", "/none", "list-type=2").code == "NoSuchBucket"


keys_of_a_bucket = st.lists(st.text("ab/", min_size=1, max_size=5), max_size=12, unique=True)


@settings(max_examples=examples(80), deadline=None)
@given(
    keys_of_a_bucket,
    st.sampled_from(["", "a", "a/", "/"]),
    st.sampled_from(["", "/", "b", "a/"]),
    st.integers(1, 4),
    st.sampled_from(["1", "2", "versions", "uploads"]),
)
def test_pages_join_to_the_whole(names: list[str], prefix: str, delimiter: str, limit: int, kind: str) -> None:
    box = Box()
    fill(box, *names)
    matching = sorted((n for n in names if n.startswith(prefix)), key=str.encode)
    cut = {n: n.find(delimiter, len(prefix)) if delimiter else -1 for n in matching}
    whole = [n for n in matching if cut[n] < 0]
    prefixes = sorted({n[: cut[n] + len(delimiter)] for n in matching if cut[n] >= 0})
    parameters = {"prefix": prefix, "delimiter": delimiter}
    parameters["max-uploads" if kind == "uploads" else "max-keys"] = str(limit)
    assert walk(box, kind, **parameters) == (whole, prefixes)


@rows(("asked", "said", "given"), [("0", "0", 0), ("1", "1", 1), ("5000", "1000", 3), ("", "1000", 3)])
def test_how_many(box: Box, asked: str, said: str, given: int) -> None:
    fill(box, "a", "b", "c")
    for kind in ("", "list-type=2&"):
        answer = box.send("GET", "/b", f"{kind}max-keys={asked}")
        assert len(keys(answer.body)) == given
        root = ET.fromstring(answer.body)
        assert root.findtext(NS + "MaxKeys") == said
        assert root.findtext(NS + "IsTruncated") == ("true" if 0 < given < 3 else "false")
        if kind:
            assert root.findtext(NS + "KeyCount") == str(given)


@rows(
    "query",
    [
        "max-keys=-1",
        "max-keys=x",
        "max-keys=99999999999",
        "max-keys=%C2%B2",
        "encoding-type=base64",
        "list-type=3",
        "list-type=2&continuation-token=abc",
        "list-type=2&continuation-token=%C3%A9",
        "list-type=2&continuation-token=" + "A" * 3000,
        "uploads=&max-uploads=x",
    ],
)
def test_arguments_that_make_no_sense(box: Box, query: str) -> None:
    answer = box.send("GET", "/b", query)
    assert (answer.status, answer.code) == (400, "InvalidArgument")


def test_an_empty_token_is_the_beginning(box: Box) -> None:
    box.send("PUT", "/b/k", body=b"x")
    body = box.send("GET", "/b", "list-type=2&continuation-token=").body
    assert b"<ContinuationToken></ContinuationToken>" in body
    assert b"<Key>k</Key>" in body


def test_a_query_that_is_not_utf_8(box: Box) -> None:
    assert box.send("GET", "/b", "prefix=%FF").code == "InvalidURI"


@given(st.binary(max_size=1024))
def test_tokens_are_opaque_and_reversible(place: bytes) -> None:
    text = place.decode("utf-8", "ignore").encode()
    token = tokens.encode(text)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert tokens.decode(token, "t") == text


@given(st.text(max_size=40))
def test_no_token_breaks_the_decoder(token: str) -> None:
    code = ""
    try:
        tokens.decode(token, "t")
    except S3Error as error:
        code = error.code
    assert code in ("", "InvalidArgument")


odd_keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@pytest.mark.slow
@settings(max_examples=examples(60), deadline=None)
@given(st.lists(odd_keys, min_size=1, max_size=5, unique=True))
def test_any_key_is_listed_by_url_encoding(names: list[str]) -> None:
    """boto3 asks for encoding-type=url by itself and decodes; control characters and all come back."""
    box = Box()
    fill(box, *names)
    with boto(box) as client:
        found = [entry["Key"] for entry in client.list_objects_v2(Bucket="b")["Contents"]]
    assert found == sorted(names, key=str.encode)


def test_control_characters_without_url_encoding_are_references(box: Box) -> None:
    fill(box, "a\x01\r\n<b")
    assert b"<Key>a&#x1;&#xd;&#xa;&lt;b</Key>" in box.send("GET", "/b", "list-type=2").body


def test_the_first_version_leaves_its_prefix_as_it_is(box: Box) -> None:
    """Under encoding-type=url: boto3 asks for it by itself and decodes every element of this version but Prefix."""
    query = "encoding-type=url&prefix=a%0A%25"
    assert b"<Prefix>a&#xa;%</Prefix>" in box.send("GET", "/b", query).body
    assert b"<Prefix>a%0A%25</Prefix>" in box.send("GET", "/b", query + "&list-type=2").body
