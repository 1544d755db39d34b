"""Bucket policies as clients set them, and what others may do then; whose buckets are listed; races."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from appliance.model import NO_ATTRIBUTES, AccessKey, Attributes, Bucket, Node
from tests.rows import rows
from tests.s3front.box import KEY, Box
from tests.s3front.operations.people import (
    OTHER,
    THIRD,
    ask,
    introduce,
    policy,
    put_policy,
    status,
)


@pytest.fixture
def people(box: Box) -> Box:
    """The box with two more users."""
    return introduce(box)


# ------------------------------------------------------------------------------------------------------------ policies
def test_a_policy_is_kept_to_the_byte_and_goes(people: Box) -> None:
    body = b'{ "Version": "2012-10-17",\n"Statement": ' + json.dumps(json.loads(policy())["Statement"]).encode() + b"}"
    assert people.send("GET", "/b", "policy=").code == "NoSuchBucketPolicy"
    assert people.send("PUT", "/b", "policy=", body=body).status == 204
    answer = people.send("GET", "/b", "policy=")
    assert (answer.headers["content-type"], answer.body) == ("application/json", body)
    for _ in range(2):
        assert people.send("DELETE", "/b", "policy=").status == 204
    assert people.send("GET", "/b", "policy=").code == "NoSuchBucketPolicy"


@rows(
    ("body", "code"),
    [
        (b"", "MissingRequestBodyError"), (b"<x/>", "MalformedPolicy"),
        (policy(Condition={"X": {}}), "MalformedPolicy"),
        (policy(Resource="arn:aws:s3:::other/*"), "MalformedPolicy"), (policy(Resources="x"), "MalformedPolicy"),
        (policy(Sid="x" * 20_480), "MalformedPolicy"),
    ],
)  # fmt: skip
def test_a_policy_that_is_not_understood_changes_nothing(people: Box, body: bytes, code: str) -> None:
    put_policy(people, policy())
    answer = people.send("PUT", "/b", "policy=", body=body)
    assert (answer.status, answer.code) == (400, code)
    assert people.send("GET", "/b", "policy=").status == 200


def test_a_policy_lets_others_in_and_keeps_them_out(people: Box) -> None:
    people.send("PUT", "/b/k", body=b"content")
    assert [status(people, who, "GET", "/b/k") for who in (KEY, OTHER, "")] == [200, 403, 403]
    put_policy(people, policy(action="s3:GetObject"))
    assert [status(people, who, "GET", "/b/k") for who in (KEY, OTHER, "")] == [200, 200, 200]
    assert [status(people, who, "PUT", "/b/n", body=b"x") for who in (OTHER, "")] == [403, 403]
    assert [status(people, who, "GET", "/b") for who in (OTHER, "")] == [403, 403]
    put_policy(people, policy(), policy("Deny", "s3:DeleteObject"), policy("Deny", "s3:GetObject", {"AWS": "thi"}))
    assert [status(people, who, "GET", "/b/k") for who in (KEY, OTHER, THIRD, "")] == [200, 200, 403, 200]
    assert [status(people, who, "DELETE", "/b/k") for who in (KEY, OTHER, "")] == [403, 403, 403]
    put_policy(people, policy("Deny"))
    assert [status(people, KEY, "GET", path) for path in ("/b/k", "/b")] == [403, 403]
    assert people.send("DELETE", "/b", "policy=").status == 204  # nobody locks himself out
    assert status(people, KEY, "GET", "/b/k") == 200


def test_a_policy_is_its_bucket_owners_alone(people: Box) -> None:
    """AWS: 403 without the permission; with it, but of another account, 405."""
    for method, body in (("GET", b""), ("PUT", policy("Deny")), ("DELETE", b"")):
        people.send("DELETE", "/b", "policy=")
        assert [status(people, who, method, "/b", "policy=", body) for who in (OTHER, "")] == [403, 403]
        put_policy(people, policy())
        assert [status(people, who, method, "/b", "policy=", body) for who in (OTHER, "")] == [405, 405]
        assert status(people, KEY, "GET", "/b", "policy=") == 200


def test_what_is_not_there_is_told_to_those_who_may_list(people: Box) -> None:
    put_policy(people, policy(action="s3:GetObject"))
    assert [ask(people, who, "GET", "/b/none").code for who in (KEY, OTHER, "")] == ["NoSuchKey"] + ["AccessDenied"] * 2
    put_policy(people, policy(action="s3:ListBucket", Condition={"StringLike": {"s3:prefix": "pub/*"}}))
    assert [status(people, OTHER, "HEAD", path) for path in ("/b/pub/x", "/b/private/x")] == [404, 403]
    assert [status(people, OTHER, "GET", "/b", query) for query in ("prefix=pub%2Fa", "prefix=", "")] == [200, 403, 403]


def test_conditions_see_headers_query_address_and_user(people: Box) -> None:
    def when(action: str, operator: str, key: str, value: object) -> None:
        put_policy(people, policy(action=action, Condition={operator: {key: value}}))

    people.send("PUT", "/b/k", body=b"x")
    when("s3:PutObject", "StringEquals", "s3:x-amz-acl", "bucket-owner-full-control")
    assert status(people, OTHER, "PUT", "/b/n", body=b"x") == 403
    assert status(people, OTHER, "PUT", "/b/n", body=b"x", x_amz_acl="bucket-owner-full-control") == 200
    when("s3:ListBucket", "NumericLessThanEquals", "s3:max-keys", 5)
    assert [status(people, OTHER, "GET", "/b", query) for query in ("max-keys=5", "max-keys=6", "")] == [200, 403, 403]
    when("s3:GetObject", "IpAddress", "aws:SourceIp", "192.0.2.0/24")
    assert status(people, "", "GET", "/b/k") == 200
    when("s3:GetObject", "NotIpAddress", "aws:SourceIp", "192.0.2.0/24")
    assert status(people, "", "GET", "/b/k") == 403
    when("s3:GetObject", "StringLike", "aws:Referer", "http://example.org/*")
    assert status(people, "", "GET", "/b/k", referer="http://example.org/page") == 200
    assert status(people, "", "GET", "/b/k", referer="http://example.com/page") == 403
    when("s3:GetObject", "StringEquals", "aws:username", "other")
    assert [status(people, who, "GET", "/b/k") for who in (OTHER, THIRD, "")] == [200, 403, 403]
    when("s3:GetObject", "Bool", "aws:SecureTransport", "true")
    assert status(people, OTHER, "GET", "/b/k") == 403
    when("s3:GetObject", "DateLessThan", "aws:CurrentTime", "2030-01-01T00:00:00Z")
    assert status(people, OTHER, "GET", "/b/k") == 200
    when("s3:GetObject", "StringEquals", "s3:authType", "REST-HEADER")
    assert [status(people, who, "GET", "/b/k") for who in (OTHER, "")] == [200, 403]
    when("s3:GetObject", "StringNotEquals", "s3:ExistingObjectTag/team", "red")
    assert status(people, OTHER, "GET", "/b/k") == 200


def test_conditions_see_tags_that_are_there_and_tags_that_come(people: Box) -> None:
    def tagged(value: str) -> bytes:
        return f"<Tagging><TagSet><Tag><Key>team</Key><Value>{value}</Value></Tag></TagSet></Tagging>".encode()

    for key, team in (("r", "red"), ("b", "blue")):
        people.send("PUT", f"/b/{key}", body=b"x", headers={"x-amz-tagging": f"team={team}"})
    existing = {"StringEquals": {"s3:ExistingObjectTag/team": "red"}}
    put_policy(people, policy(action=["s3:GetObject", "s3:GetObjectTagging"], Condition=existing))
    assert [status(people, OTHER, "GET", path) for path in ("/b/r", "/b/b")] == [200, 403]
    assert [status(people, OTHER, "GET", path, "tagging=") for path in ("/b/r", "/b/b")] == [200, 403]
    coming = {"StringEquals": {"s3:RequestObjectTag/team": "red"}}
    put_policy(people, policy(action=["s3:PutObject", "s3:PutObjectTagging"], Condition=coming))
    assert status(people, OTHER, "PUT", "/b/n", body=b"x", x_amz_tagging="team=red") == 200
    assert status(people, OTHER, "PUT", "/b/n", body=b"x", x_amz_tagging="team=blue") == 403
    assert status(people, OTHER, "PUT", "/b/n", body=b"x") == 403
    assert status(people, OTHER, "PUT", "/b/r", "tagging=", body=tagged("red")) == 200
    assert status(people, OTHER, "PUT", "/b/r", "tagging=", body=tagged("blue")) == 403
    put_policy(people, policy(action="s3:PutObject"))  # what a header asks for is asked of the policy too
    assert status(people, OTHER, "PUT", "/b/n", body=b"x", x_amz_tagging="team=red") == 403


def test_a_copy_needs_both_ends(people: Box) -> None:
    people.run(people.store.create_bucket, "theirs", "oth")
    for key in ("pub/k", "private/k"):
        people.send("PUT", f"/b/{key}", body=b"x")
    copy = {"x_amz_copy_source": "/b/pub/k"}
    assert ask(people, OTHER, "PUT", "/theirs/n", "", b"", **copy).code == "AccessDenied"
    put_policy(people, policy(action="s3:GetObject", Resource="arn:aws:s3:::b/pub/*"))
    assert status(people, OTHER, "PUT", "/theirs/n", "", b"", **copy) == 200
    assert status(people, OTHER, "PUT", "/theirs/n", x_amz_copy_source="/b/private/k") == 403
    assert status(people, OTHER, "PUT", "/b/n", "", b"", **copy) == 403
    put_policy(
        people, policy(Condition={"StringLike": {"s3:x-amz-copy-source": "b/pub/*"}}), policy(action="s3:GetObject")
    )
    assert status(people, OTHER, "PUT", "/b/n", "", b"", **copy) == 200
    assert status(people, OTHER, "PUT", "/b/n", x_amz_copy_source="/b/private%2Fk") == 403


def test_each_key_of_a_deletion_is_judged(people: Box) -> None:
    for key in ("pub/k", "private/k"):
        people.send("PUT", f"/b/{key}", body=b"x")
    put_policy(people, policy(action="s3:DeleteObject", Resource="arn:aws:s3:::b/pub/*"))
    listed = "".join(f"<Object><Key>{key}</Key></Object>" for key in ("pub/k", "private/k"))
    body = f"<Delete>{listed}</Delete>".encode()
    answer = ask(people, OTHER, "POST", "/b", "delete=", body, x_amz_checksum_crc32="")
    answer = ask(people, OTHER, "POST", "/b", "delete=", body, content_md5=_md5(body))
    assert answer.status == 200
    assert b"<Deleted><Key>pub/k</Key></Deleted>" in answer.body
    assert b"<Error><Key>private/k</Key><Code>AccessDenied</Code>" in answer.body
    assert [status(people, KEY, "HEAD", path) for path in ("/b/pub/k", "/b/private/k")] == [404, 200]


def _md5(body: bytes) -> str:
    import base64
    import hashlib

    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def test_what_a_header_asks_for_is_asked_of_the_policy(people: Box) -> None:
    """A bypass of governance, for each key of a deletion too; the comparison of an ETag; attributes are read too."""
    bypass = {"x_amz_bypass_governance_retention": "True"}
    body = b"<Delete><Object><Key>k</Key></Object></Delete>"
    people.send("PUT", "/b/k", body=b"x")
    put_policy(people, policy(action=["s3:DeleteObject", "s3:PutObject", "s3:GetObjectAttributes"]))
    assert status(people, OTHER, "DELETE", "/b/k", "", b"", **bypass) == 403
    listed = ask(people, OTHER, "POST", "/b", "delete=", body, content_md5=_md5(body), **bypass)
    assert b"<Code>AccessDenied</Code>" in listed.body
    assert status(people, OTHER, "PUT", "/b/k", "", b"y", if_match='"x"') == 403
    assert status(people, OTHER, "GET", "/b/k", "attributes=", x_amz_object_attributes="ETag") == 403
    more = ["s3:BypassGovernanceRetention", "s3:GetObject", "s3:PutObject", "s3:Delete*", "s3:GetObjectAttributes"]
    put_policy(people, policy(action=more))
    assert status(people, OTHER, "PUT", "/b/k", "", b"y", if_match='"x"') == 412
    assert status(people, OTHER, "GET", "/b/k", "attributes=", x_amz_object_attributes="ETag") == 200
    assert status(people, OTHER, "DELETE", "/b/k", "", b"", **bypass) == 204


def test_the_version_that_is_judged_is_the_one_that_is_meant(people: Box) -> None:
    """Not one that only the query names: a copy reads the version of its source, a deletion those of its document."""
    people.run(people.store.create_bucket, "theirs", "oth")
    people.send("PUT", "/b/k", body=b"x")
    copy: dict[str, Any] = {"x_amz_copy_source": "/b/k?versionId=null"}
    for allowed, query, expected in (
        ("null", "", 200),
        ("null", "versionId=0000000000000001", 200),
        ("0000000000000001", "", 403),
        ("0000000000000001", "versionId=0000000000000001", 403),
    ):
        put_policy(people, policy(action="s3:GetObjectVersion", Condition={"StringEquals": {"s3:VersionId": allowed}}))
        assert status(people, OTHER, "PUT", "/theirs/n", query, **copy) == expected, (allowed, query)
    kept = policy("Deny", "s3:DeleteObjectVersion", Condition={"StringEquals": {"s3:VersionId": "null"}})
    put_policy(people, policy(action="s3:DeleteObjectVersion"), kept)
    listed = b"<Delete><Object><Key>k</Key><VersionId>null</VersionId></Object></Delete>"
    answer = ask(people, OTHER, "POST", "/b", "delete=", listed, content_md5=_md5(listed))
    assert b"<Code>AccessDenied</Code>" in answer.body


def test_a_denied_acl_or_tag_does_not_come_with_a_new_object_either(people: Box) -> None:
    """By headers with the object, or by the copy of an object that has it."""
    people.run(people.store.create_bucket, "theirs", "oth")
    ask(people, OTHER, "PUT", "/theirs/k", "", b"x", x_amz_tagging="clean=yes")
    copy: dict[str, Any] = {"x_amz_copy_source": "/theirs/k"}
    put_policy(people, policy(action="s3:PutObject"))
    assert status(people, OTHER, "PUT", "/b/k", x_amz_acl="public-read") == 200, "it is his own"
    assert status(people, OTHER, "PUT", "/b/k", **copy) == 403
    assert status(people, OTHER, "PUT", "/b/k", x_amz_tagging_directive="REPLACE", **copy) == 200
    put_policy(people, policy(action=["s3:PutObject", "s3:PutObjectTagging"]), policy("Deny", ["s3:PutObjectAcl"]))
    assert status(people, OTHER, "PUT", "/b/k", **copy) == 200
    everyone = "uri=http://acs.amazonaws.com/groups/global/AllUsers"
    ways: list[dict[str, Any]] = [{"x_amz_acl": "public-read"}, {"x_amz_grant_read": everyone}]
    for asked in ways:
        assert status(people, OTHER, "PUT", "/b/k", **asked) == 403
        assert status(people, OTHER, "PUT", "/b/k", **asked, **copy) == 403
        assert status(people, OTHER, "POST", "/b/k", "uploads=", **asked) == 403


def test_who_may_only_write_learns_nothing_by_conditions(people: Box) -> None:
    people.send("PUT", "/b/k", body=b"x")
    put_policy(people, policy(action=["s3:PutObject", "s3:DeleteObject"]))
    ways: list[dict[str, Any]] = [
        {"if_unmodified_since": "Mon, 01 Jan 1990 00:00:00 GMT"},
        {"x_amz_if_match_size": "7"},
        {"x_amz_if_match_last_modified_time": "Mon, 01 Jan 1990 00:00:00 GMT"},
    ]
    for guess in ways:
        assert status(people, OTHER, "DELETE", "/b/k", **guess) == 403, guess
    for element in ("<ETag>x</ETag>", "<Size>7</Size>"):
        body = f"<Delete><Object><Key>k</Key>{element}</Object></Delete>".encode()
        answer = ask(people, OTHER, "POST", "/b", "delete=", body, content_md5=_md5(body))
        assert b"<Code>AccessDenied</Code>" in answer.body, element


def test_a_copy_source_where_nothing_is_copied_means_nothing_to_a_condition(people: Box) -> None:
    people.send("PUT", "/b/k", body=b"x")
    put_policy(people, policy(Condition={"StringLike": {"s3:x-amz-copy-source": "b/*"}}))
    named: dict[str, Any] = {"x_amz_copy_source": "/b/k"}
    assert [status(people, who, "GET", "/b/k", **named) for who in (KEY, OTHER)] == [200, 403]
    assert status(people, OTHER, "POST", "/b/n", "uploads=", **named) == 403


def test_an_upload_is_its_initiators_to_end(people: Box) -> None:
    put_policy(people, policy(action="s3:PutObject"))
    begun = ask(people, OTHER, "POST", "/b/k", "uploads=")
    upload = re.search(r"<UploadId>(.*?)</UploadId>", begun.body.decode())
    assert upload
    query = f"uploadId={upload[1]}"
    listed = ask(people, OTHER, "GET", "/b/k", query).body.decode()
    assert "<Initiator><ID>oth</ID><DisplayName>Other One</DisplayName></Initiator>" in listed
    assert "<Owner><ID>oth</ID>" in listed
    assert status(people, THIRD, "GET", "/b/k", query) == 403
    assert status(people, THIRD, "DELETE", "/b/k", query) == 403
    assert status(people, OTHER, "DELETE", "/b/k", query) == 204


# ------------------------------------------------------------------------------------------------------------- buckets
def test_everyone_lists_his_own_buckets(people: Box) -> None:
    assert status(people, OTHER, "PUT", "/theirs") == 200
    assert b"<Name>theirs</Name>" in ask(people, OTHER, "GET", "/").body
    assert b"<Name>b</Name>" not in ask(people, OTHER, "GET", "/").body
    assert b"<Name>theirs</Name>" not in ask(people, KEY, "GET", "/").body
    assert b"<Owner><ID>oth</ID><DisplayName>Other One</DisplayName></Owner>" in ask(people, OTHER, "GET", "/").body
    assert ask(people, OTHER, "PUT", "/theirs").code == "BucketAlreadyOwnedByYou"
    assert ask(people, KEY, "PUT", "/theirs").code == "BucketAlreadyExists"
    assert status(people, KEY, "DELETE", "/theirs") == 403


def test_a_second_creation_changes_no_list() -> None:
    box = Box(region="us-east-1")
    assert box.send("PUT", "/one-bucket").status == 200
    assert box.send("PUT", "/one-bucket").status == 200
    assert box.send("PUT", "/one-bucket", headers={"x-amz-acl": "public-read"}).code == "BucketAlreadyExists"
    assert box.send("PUT", "/two-bucket", headers={"x-amz-acl": "public-read"}).status == 200
    assert box.send("PUT", "/two-bucket").code == "BucketAlreadyExists"
    assert box.send("PUT", "/two-bucket", headers={"x-amz-acl": "public-read"}).status == 200


# --------------------------------------------------------------------------------------------------------------- races
def test_an_object_that_takes_the_place_of_a_shared_one_is_judged_anew(
    double: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between judging and reading somebody puts a private object where a public one was: nobody gets to see it."""
    double.run(double.store.put_access_key, AccessKey(OTHER, "other", "oth", 0, b"sealed-4"))
    double.send("PUT", "/b/k", body=b"shown", headers={"x-amz-acl": "public-read"})
    assert status(double, OTHER, "GET", "/b/k") == 200
    store, looks = double.store, 0
    look_up_version = store.look_up_version

    async def overtaken(bucket: Bucket, key: bytes, version_id: str) -> Node:
        nonlocal looks
        node = await look_up_version(bucket, key, version_id)
        looks += 1
        await store.put_object(bucket, key, store.small_body(b"secret"), "etag", NO_ATTRIBUTES)
        return node

    monkeypatch.setattr(store, "look_up_version", overtaken)
    answer = ask(double, OTHER, "GET", "/b/k")
    assert looks
    assert (answer.status, answer.code) == (403, "AccessDenied")


def test_a_list_that_was_understood_for_anothers_object_is_not_given_to_it(
    double: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between reading the list and storing it somebody else puts an object there, whose list it would be."""
    double.send("PUT", "/b/k", body=b"mine")
    store, change_attributes = double.store, double.store.change_attributes

    async def overtaken(bucket: Bucket, key: bytes, change: Any, *, version_id: str = "") -> Node:
        await store.put_object(bucket, key, store.small_body(b"theirs"), "etag", Attributes(owner="oth"))
        return await change_attributes(bucket, key, change, version_id=version_id)

    monkeypatch.setattr(store, "change_attributes", overtaken)
    answer = double.send("PUT", "/b/k", "acl=", {"x-amz-acl": "public-read"})
    assert (answer.status, answer.code) == (409, "OperationAborted")
    assert ask(double, "", "GET", "/b/k").status == 403
