"""ListBuckets, CreateBucket, HeadBucket, DeleteBucket, GetBucketLocation and the unset configurations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3front.operations.create_bucket import valid_name
from s3front.operations.unset_configuration import UNSET, Unset
from s3front.router import Level
from tests.rows import rows
from tests.s3front.box import Box
from tests.s3front.operations.golden import same


def constraint(region: str) -> bytes:
    return (
        '<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
    ).encode()


def test_the_list_of_buckets(box: Box) -> None:
    box.run(box.store.create_bucket, "another-bucket", "owner")
    same("list_buckets", box.send("GET", "/").body)


def test_the_list_pages(box: Box) -> None:
    for name in ("bb", "bc", "c"):
        box.run(box.store.create_bucket, name, "owner")
    first = box.send("GET", "/", "max-buckets=2&prefix=b").body.decode()
    assert "<Name>b</Name>" in first
    assert "<Name>bc</Name>" not in first
    token = first.partition("<ContinuationToken>")[2].partition("<")[0]
    second = box.send("GET", "/", f"continuation-token={token}&max-buckets=2&prefix=b").body.decode()
    assert "<Name>bc</Name>" in second
    assert "<Name>c</Name>" not in second
    assert "<ContinuationToken>" not in second
    assert b"<Name>" not in box.send("GET", "/", "bucket-region=mars").body
    for bad in ("max-buckets=0", "max-buckets=x", "continuation-token=!", "continuation-token="):
        assert box.send("GET", "/", bad).code == "InvalidArgument"


def test_a_bucket_is_made_and_goes(box: Box) -> None:
    answer = box.send("PUT", "/new-bucket", body=constraint("eu-test-1"))
    assert (answer.status, answer.headers["location"]) == (200, "/new-bucket")
    assert box.send("PUT", "/new-bucket/").code == "BucketAlreadyOwnedByYou"
    head = box.send("HEAD", "/new-bucket")
    assert (head.status, head.headers["x-amz-bucket-region"]) == (200, "eu-test-1")
    box.send("PUT", "/new-bucket/k", body=b"x")
    answer = box.send("DELETE", "/new-bucket")
    assert (answer.status, answer.code) == (409, "BucketNotEmpty")
    box.send("DELETE", "/new-bucket/k")
    assert box.send("DELETE", "/new-bucket").status == 204
    assert box.send("DELETE", "/new-bucket").code == "NoSuchBucket"
    assert box.send("HEAD", "/new-bucket").status == 404


def test_making_ones_own_bucket_again_succeeds_in_the_oldest_region() -> None:
    box = Box(region="us-east-1")
    assert box.send("PUT", "/ours").status == 200
    box.send("PUT", "/ours/k", body=b"x")
    assert box.send("PUT", "/ours").status == 200
    assert box.send("GET", "/ours/k").body == b"x"
    box.run(box.store.create_bucket, "theirs", "somebody else")
    assert box.send("PUT", "/theirs").code == "BucketAlreadyExists"


def test_anothers_bucket_is_not_ours(box: Box) -> None:
    box.run(box.store.create_bucket, "theirs", "somebody")
    answer = box.send("PUT", "/theirs")
    assert (answer.status, answer.code) == (409, "BucketAlreadyExists")


@rows(
    ("body", "code"),
    [
        (constraint("us-west-2"), "IllegalLocationConstraintException"),
        (constraint("x").replace(b"Constraint", b"Constrain"), "MalformedXML"),
        (b"<CreateBucketConfiguration><Bucket/></CreateBucketConfiguration>", "NotImplemented"),
        (b"<Other/>", "MalformedXML"),
        (b"x", "MalformedXML"),
        (b"<!DOCTYPE a><CreateBucketConfiguration/>", "MalformedXML"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_not_understood(box: Box, body: bytes, code: str) -> None:
    assert box.send("PUT", "/new-bucket", body=body).code == code
    assert box.send("HEAD", "/new-bucket").status == 404


@pytest.mark.parametrize("body", [b"", constraint(""), b"<CreateBucketConfiguration/>"])
def test_a_configuration_may_say_nothing(box: Box, body: bytes) -> None:
    assert box.send("PUT", "/new-bucket", body=body).status == 200


@rows(
    "name",
    [
        "ab",
        "a" * 64,
        "Abc",
        "a_b",
        "-abc",
        "abc-",
        "a..b",
        ".abc",
        "192.168.0.1",
        "xn--abc",
        "abc-s3alias",
        "a b",
        "é-é",
    ],
)
def test_names_that_no_bucket_has(box: Box, name: str) -> None:
    assert not valid_name(name)


@rows("name", ["abc", "a-b", "a.b", "1.2.3", "a" * 63, "a--b", "0ab"])
def test_names_that_a_bucket_may_have(name: str) -> None:
    assert valid_name(name)


@given(st.text("ab1.-", min_size=1, max_size=70))
def test_a_valid_name_is_also_a_host_and_a_directory(name: str) -> None:
    if valid_name(name):
        assert 3 <= len(name) <= 63
        assert all(label for label in name.split("."))
        assert name not in (".", "..")


def test_an_invalid_name_is_refused(box: Box) -> None:
    answer = box.send("PUT", "/Upper_Case")
    assert (answer.status, answer.code) == (400, "InvalidBucketName")


def test_the_location() -> None:
    assert Box().send("GET", "/b", "location=").body.endswith(b'2006-03-01/">eu-test-1</LocationConstraint>')
    assert Box(region="us-east-1").send("GET", "/b", "location=").body.endswith(b'2006-03-01/"></LocationConstraint>')


@pytest.mark.parametrize("unset", UNSET, ids=lambda unset: unset.name)
def test_a_configuration_is_unset(box: Box, unset: Unset) -> None:
    path = "/b"
    if unset.route.level is Level.OBJECT:
        path = "/b/k"
        assert box.send("GET", path, f"{unset.route.query}=").code == "NoSuchKey"
        box.send("PUT", path, body=b"x")
    answer = box.send("GET", path, f"{unset.route.query}=")
    if unset.error:
        assert (answer.status, answer.code) == (404, unset.error)
        assert b"<BucketName>b</BucketName>" in answer.body
    else:
        same(unset.name, answer.body)
    assert box.send("GET", path.replace("/b", "/none"), f"{unset.route.query}=").code == "NoSuchBucket"


@rows("query", ["replication"])
def test_setting_a_configuration_changes_nothing(box: Box, query: str) -> None:
    answer = box.send("PUT", "/b", f"{query}=", body=b"<x/>")
    assert (answer.status, answer.code) == (501, "NotImplemented")
    box.send("PUT", "/b/k", body=b"kept")
    box.send("PUT", "/b/k", "tagging=", body=b"<Tagging/>")
    assert box.send("GET", "/b/k").body == b"kept"
