"""Policies, ACLs, ownership controls and public-access blocks as clients set them, and what others may do then."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from appliance.access.acl import ALL_USERS, AUTHENTICATED_USERS
from appliance.model import NO_ATTRIBUTES, AccessKey, Bucket, Node, User
from tests.rows import rows
from tests.s3front.box import KEY, Answer, Box

OTHER, THIRD = "AKIAOTHER", "AKIATHIRD"
OWNER_USER = User("owner", "main", "The Owner", "main@example.org", 1)
OTHER_USER = User("oth", "other", "Other One", "other@example.org", 1)
XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'


@pytest.fixture
def people(box: Box) -> Box:
    """The box with two more users."""
    for user in (OWNER_USER, OTHER_USER, User("thi", "third", "Third", "", 1)):
        box.run(box.store.put_user, user)
    box.run(box.store.put_access_key, AccessKey(OTHER, "other", "oth", 0, b"sealed-4"))
    box.run(box.store.put_access_key, AccessKey(THIRD, "third", "thi", 0, b"sealed-5"))
    return box


def ask(box: Box, who: str, method: str, path: str, query: str = "", body: bytes = b"", **headers: str) -> Answer:
    """`who` is a key, or empty for anonymous."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return box.send(method, path, query, fields, body, key=who or KEY, sign=bool(who))


def status(box: Box, who: str, method: str, path: str, query: str = "", body: bytes = b"", **headers: str) -> int:
    return ask(box, who, method, path, query, body, **headers).status


def policy(effect: str = "Allow", action: object = "s3:*", principal: object = "*", **more: Any) -> bytes:
    statement = {
        "Effect": effect, "Principal": principal, "Action": action, "Resource": ["arn:aws:s3:::b", "arn:aws:s3:::b/*"],
    }  # fmt: skip
    return json.dumps({"Version": "2012-10-17", "Statement": [{**statement, **more}]}).encode()


def put_policy(box: Box, *documents: bytes) -> None:
    statements = [json.loads(document)["Statement"][0] for document in documents]
    body = json.dumps({"Version": "2012-10-17", "Statement": statements}).encode()
    answer = box.send("PUT", "/b", "policy=", body=body)
    assert (answer.status, answer.code) == (204, "")


def grants(answer: Answer) -> list[tuple[str, str]]:
    """(grantee, permission) in order."""
    assert answer.status == 200, answer.body
    found = re.findall(r"<Grantee [^>]*>(.*?)</Grantee><Permission>(\w+)</Permission>", answer.body.decode())
    return [(re.sub(r".*<(?:ID|URI)>(.*?)</.*", r"\1", grantee), permission) for grantee, permission in found]


def acl_document(owner: str, *rows: tuple[str, str]) -> bytes:
    listed = "".join(
        f"<Grant><Grantee {XSI} xsi:type='x'>{grantee}</Grantee><Permission>{permission}</Permission></Grant>"
        for grantee, permission in rows
    )
    return (
        f'<AccessControlPolicy xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>{owner}</ID></Owner>'
        f"<AccessControlList>{listed}</AccessControlList></AccessControlPolicy>"
    ).encode()


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


# ---------------------------------------------------------------------------------------------------------------- ACLs
def test_the_default_lists_say_what_is_true(people: Box) -> None:
    people.send("PUT", "/b/k", body=b"x")
    for path in ("/b", "/b/k"):
        answer = people.send("GET", path, "acl=")
        assert grants(answer) == [("owner", "FULL_CONTROL")]
        assert b"<Owner><ID>owner</ID><DisplayName>The Owner</DisplayName></Owner>" in answer.body


def test_a_canned_list_is_written_out_and_counts(people: Box) -> None:
    everybody, known = (ALL_USERS, "READ"), (AUTHENTICATED_USERS, "READ")
    own = ("owner", "FULL_CONTROL")
    for name, wanted, readers in (
        ("public-read", [everybody, own], [200, 200]),
        ("authenticated-read", [known, own], [200, 403]),
        ("private", [own], [403, 403]),
    ):
        assert people.send("PUT", "/b", "acl=", {"x-amz-acl": name}).status == 200
        assert grants(people.send("GET", "/b", "acl=")) == wanted
        assert [status(people, who, "GET", "/b") for who in (OTHER, "")] == readers
        assert people.send("PUT", "/b/k", headers={"x-amz-acl": name}, body=b"x").status == 200
        assert grants(people.send("GET", "/b/k", "acl=")) == wanted
        assert [status(people, who, "GET", "/b/k") for who in (OTHER, "")] == readers
        assert people.send("PUT", "/b/k2", body=b"x").status == 200
        assert people.send("PUT", "/b/k2", "acl=", {"x-amz-acl": name}).status == 200
        assert grants(people.send("GET", "/b/k2", "acl=")) == wanted


def test_an_acl_leaves_bytes_etag_and_date(people: Box) -> None:
    people.send("PUT", "/b/k", body=b"content", headers={"x-amz-meta-a": "b"})
    before = people.send("GET", "/b/k")
    assert people.send("PUT", "/b/k", "acl=", {"x-amz-acl": "public-read"}).status == 200
    after = people.send("GET", "/b/k")
    same = ("etag", "last-modified", "x-amz-meta-a", "content-length")
    assert after.body == before.body
    assert {name: after.headers.get(name) for name in same} == {name: before.headers.get(name) for name in same}


def test_grants_by_headers_and_documents_name_users_and_groups(people: Box) -> None:
    headers = {
        "x-amz-grant-read": 'id="oth", uri="http://acs.amazonaws.com/groups/global/AllUsers"',
        "x-amz-grant-full-control": "emailAddress=Main@Example.org,id=thi",
    }
    wanted = [(ALL_USERS, "READ"), ("oth", "READ"), ("owner", "FULL_CONTROL"), ("thi", "FULL_CONTROL")]
    for path in ("/b", "/b/k"):
        people.send("PUT", "/b/k", body=b"x")
        assert people.send("PUT", path, "acl=", headers).status == 200
        assert grants(people.send("GET", path, "acl=")) == wanted
        document = acl_document(
            "owner", ("<ID>oth</ID><DisplayName>?</DisplayName>", "READ"), (f"<URI>{ALL_USERS}</URI>", "WRITE"),
            ("<EmailAddress>other@example.org</EmailAddress>", "WRITE_ACP"),
        )  # fmt: skip
        assert people.send("PUT", path, "acl=", body=document).status == 200
        assert grants(people.send("GET", path, "acl=")) == [(ALL_USERS, "WRITE"), ("oth", "READ"), ("oth", "WRITE_ACP")]
        assert people.send("PUT", path, "acl=", body=acl_document("owner")).status == 200
        assert grants(people.send("GET", path, "acl=")) == []  # the owner needs no grant
        assert status(people, KEY, "GET", path, "acl=") == 200
    assert people.send("PUT", "/b/n", headers=headers, body=b"x").status == 200
    assert grants(people.send("GET", "/b/n", "acl=")) == wanted
    assert people.send("PUT", "/new-bucket", headers=headers).status == 200
    assert grants(people.send("GET", "/new-bucket", "acl=")) == wanted


ONE = ("<ID>oth</ID>", "READ")
TWO = "<Owner><ID>owner</ID></Owner>"


@rows(
    ("headers", "body", "code"),
    [
        ({}, b"", "MissingSecurityHeader"),
        ({"x-amz-acl": "publik"}, b"", "InvalidArgument"),
        ({"x-amz-acl": "private", "x-amz-grant-read": "id=oth"}, b"", "InvalidRequest"),
        ({"x-amz-acl": "private"}, acl_document("owner", ONE), "UnexpectedContent"),
        ({"x-amz-grant-read": "id=nobody"}, b"", "InvalidArgument"),
        ({"x-amz-grant-read": "oth"}, b"", "InvalidArgument"),
        ({"x-amz-grant-read": 'id="oth'}, b"", "InvalidArgument"),
        ({"x-amz-grant-read": "name=oth"}, b"", "InvalidArgument"),
        ({"x-amz-grant-read": "uri=http://example.org/everybody"}, b"", "InvalidArgument"),
        ({"x-amz-grant-read": "emailaddress=x@example.org"}, b"", "UnresolvableGrantByEmailAddress"),
        ({"x-amz-grant-read": ",".join(["id=oth"] * 101)}, b"", "InvalidArgument"),
        ({}, acl_document("oth", ONE), "AccessDenied"),
        ({}, acl_document("owner", ("<ID>nobody</ID>", "READ")), "InvalidArgument"),
        ({}, acl_document("owner", ("<ID>oth</ID>", "READS")), "MalformedACLError"),
        ({}, acl_document("owner", ("<ID>oth</ID><URI>x</URI>", "READ")), "MalformedACLError"),
        ({}, acl_document("owner", ("", "READ")), "MalformedACLError"),
        ({}, acl_document("owner", ("<Name>oth</Name>", "READ")), "MalformedXML"),
        ({}, acl_document("owner", ("<EmailAddress>x@y</EmailAddress>", "READ")), "UnresolvableGrantByEmailAddress"),
        ({}, acl_document("owner", *[ONE] * 101), "MalformedACLError"),
        ({}, b"<AccessControlPolicy/>", "MalformedACLError"),
        ({}, f"<AccessControlPolicy>{TWO}{TWO}</AccessControlPolicy>".encode(), "MalformedACLError"),
        ({}, b"<Tagging/>", "MalformedXML"),
    ],
)
def test_a_list_that_means_nothing_changes_nothing(
    people: Box, headers: dict[str, str], body: bytes, code: str
) -> None:
    people.send("PUT", "/b/k", body=b"x", headers={"x-amz-acl": "public-read"})
    for path in ("/b", "/b/k"):
        answer = people.send("PUT", path, "acl=", headers, body)
        assert (answer.code, answer.status) == (code, 403 if code == "AccessDenied" else 400)
    assert grants(people.send("GET", "/b", "acl=")) == [("owner", "FULL_CONTROL")]
    assert len(grants(people.send("GET", "/b/k", "acl="))) == 2


def test_each_permission_gives_its_own(people: Box) -> None:
    people.send("PUT", "/b/k", body=b"x")
    tries = {
        "READ": ("GET", "/b", ""), "WRITE": ("PUT", "/b/new", ""), "READ_ACP": ("GET", "/b", "acl="),
        "WRITE_ACP": ("PUT", "/b", "acl="),
    }  # fmt: skip
    for given in (*tries, "FULL_CONTROL"):
        document = acl_document("owner", ("<ID>oth</ID>", given))
        assert people.send("PUT", "/b", "acl=", body=document).status == 200
        for permission, (method, path, query) in tries.items():
            body = document if query and method == "PUT" else b""
            assert (status(people, OTHER, method, path, query, body) == 200) == (given in (permission, "FULL_CONTROL"))
            assert status(people, THIRD, method, path, query, body) == 403
    for given in ("READ", "WRITE", "READ_ACP", "WRITE_ACP", "FULL_CONTROL"):
        document = acl_document("owner", ("<ID>oth</ID>", given))
        assert people.send("PUT", "/b/k", "acl=", body=document).status == 200
        assert (status(people, OTHER, "GET", "/b/k") == 200) == (given in ("READ", "FULL_CONTROL"))
        assert (status(people, OTHER, "GET", "/b/k", "acl=") == 200) == (given in ("READ_ACP", "FULL_CONTROL"))
        assert (status(people, OTHER, "PUT", "/b/k", "acl=", document) == 200) == (
            given in ("WRITE_ACP", "FULL_CONTROL")
        )


def test_what_others_put_is_theirs(people: Box) -> None:
    people.send("PUT", "/b", "acl=", {"x-amz-acl": "public-read-write"})
    assert status(people, OTHER, "PUT", "/b/k", body=b"theirs") == 200
    assert [status(people, who, "GET", "/b/k") for who in (KEY, OTHER, THIRD, "")] == [403, 200, 403, 403]
    answer = ask(people, OTHER, "GET", "/b/k", "acl=")
    assert grants(answer) == [("oth", "FULL_CONTROL")]
    assert b"<Owner><ID>oth</ID><DisplayName>Other One</DisplayName></Owner>" in answer.body
    listed = people.send("GET", "/b").body.decode()
    assert "<Owner><ID>oth</ID><DisplayName>Other One</DisplayName></Owner>" in listed
    assert status(people, OTHER, "PUT", "/b/k", body=b"x", x_amz_acl="bucket-owner-full-control") == 200
    assert grants(ask(people, KEY, "GET", "/b/k", "acl=")) == [("oth", "FULL_CONTROL"), ("owner", "FULL_CONTROL")]
    assert status(people, KEY, "GET", "/b/k") == 200
    people.send("PUT", "/b", "acl=", {"x-amz-acl": "private"})
    assert status(people, OTHER, "PUT", "/b/k", body=b"x") == 403
    assert status(people, OTHER, "GET", "/b/k") == 200  # still theirs
    assert status(people, KEY, "DELETE", "/b/k") == 204


def test_neither_owner_nor_list_is_copied(people: Box) -> None:
    people.send("PUT", "/b", "acl=", {"x-amz-acl": "public-read-write"})
    ask(people, OTHER, "PUT", "/b/k", body=b"x", x_amz_acl="public-read")
    assert people.send("PUT", "/b/copy", headers={"x-amz-copy-source": "/b/k"}).status == 200
    assert grants(people.send("GET", "/b/copy", "acl=")) == [("owner", "FULL_CONTROL")]
    headers = {"x-amz-copy-source": "/b/k", "x-amz-acl": "public-read"}
    assert people.send("PUT", "/b/copy", headers=headers).status == 200
    assert grants(people.send("GET", "/b/copy", "acl=")) == [(ALL_USERS, "READ"), ("owner", "FULL_CONTROL")]


def test_a_list_asked_for_is_given_whatever_the_source_has(people: Box) -> None:
    people.send("PUT", "/b/k", body=b"x", headers={"x-amz-acl": "public-read"})
    headers = {"x-amz-copy-source": "/b/k", "x-amz-acl": "public-read", "x-amz-metadata-directive": "REPLACE"}
    assert people.send("PUT", "/b/copy", headers=headers).status == 200
    assert status(people, "", "GET", "/b/copy") == 200


def test_who_may_put_by_a_list_may_put_with_tags(people: Box) -> None:
    people.send("PUT", "/b", "acl=", {"x-amz-acl": "public-read-write"})
    assert status(people, "", "PUT", "/b/k", body=b"x", x_amz_tagging="a=b") == 200
    assert b"<Key>a</Key>" in people.send("GET", "/b/k", "tagging=").body
    tags = b"<Tagging><TagSet/></Tagging>"
    assert [status(people, who, "PUT", "/b/k", "tagging=", tags) for who in (OTHER, "")] == [403, 403]


def test_anonymous_uploads_are_the_bucket_owners(people: Box) -> None:
    people.send("PUT", "/b", "acl=", {"x-amz-acl": "public-read-write"})
    assert status(people, "", "PUT", "/b/k", body=b"x") == 200
    assert [status(people, who, "GET", "/b/k") for who in (KEY, OTHER, "")] == [200, 403, 403]
    assert people.send("GET", "/b/k", "response-content-type=text%2Fplain").status == 200
    put_policy(people, policy(action="s3:GetObject"))
    answer = ask(people, "", "GET", "/b/k", "response-content-type=text%2Fplain")
    assert (answer.status, answer.code) == (400, "InvalidRequest")  # nobody signed for it


def test_anonymous_requests_hear_of_buckets_that_are_not_there_and_nothing_else(people: Box) -> None:
    assert ask(people, "", "GET", "/nowhere/k").code == "NoSuchBucket"
    for method, path, query in (
        ("GET", "/", ""), ("PUT", "/new-bucket", ""), ("GET", "/b", ""), ("GET", "/b/none", ""), ("DELETE", "/b", ""),
        ("GET", "/b", "policy="), ("PATCH", "/b", ""), ("PUT", "/b", "abac="),
    ):  # fmt: skip
        assert ask(people, "", method, path, query).code == "AccessDenied", (method, path, query)


# ------------------------------------------------------------------------------------- ownership, public-access blocks
def ownership(value: str) -> bytes:
    return f"<OwnershipControls><Rule><ObjectOwnership>{value}</ObjectOwnership></Rule></OwnershipControls>".encode()


def test_ownership_controls_come_and_go(people: Box) -> None:
    assert people.send("GET", "/b", "ownershipControls=").code == "OwnershipControlsNotFoundError"
    for value in ("BucketOwnerPreferred", "ObjectWriter", "BucketOwnerEnforced"):
        assert people.send("PUT", "/b", "ownershipControls=", body=ownership(value)).status == 200
        assert ownership(value)[19:-20] in people.send("GET", "/b", "ownershipControls=").body
    for body in (b"", b"<OwnershipControls/>", ownership("Mine"), ownership("ObjectWriter").replace(b"Rule", b"Role")):
        answer = people.send("PUT", "/b", "ownershipControls=", body=body)
        assert (answer.status, answer.code) == (400, "MalformedXML")
    for _ in range(2):
        assert people.send("DELETE", "/b", "ownershipControls=").status == 204
    assert people.send("GET", "/b", "ownershipControls=").code == "OwnershipControlsNotFoundError"
    created = {"x-amz-object-ownership": "BucketOwnerPreferred"}
    assert people.send("PUT", "/new-bucket", headers=created).status == 200
    assert b"BucketOwnerPreferred" in people.send("GET", "/new-bucket", "ownershipControls=").body
    assert people.send("PUT", "/bad-bucket", headers={"x-amz-object-ownership": "Mine"}).code == "InvalidArgument"


def test_enforced_ownership_ends_lists(people: Box) -> None:
    people.send("PUT", "/b", "acl=", {"x-amz-acl": "public-read-write"})
    ask(people, OTHER, "PUT", "/b/old", body=b"theirs", x_amz_acl="public-read")
    refused = people.send("PUT", "/b", "ownershipControls=", body=ownership("BucketOwnerEnforced"))
    assert (refused.status, refused.code) == (400, "InvalidBucketAclWithObjectOwnership")
    people.send("PUT", "/b", "acl=", {"x-amz-acl": "private"})
    assert people.send("PUT", "/b", "ownershipControls=", body=ownership("BucketOwnerEnforced")).status == 200
    assert [status(people, who, "GET", "/b/old") for who in (KEY, OTHER, "")] == [200, 403, 403]
    assert grants(people.send("GET", "/b/old", "acl=")) == [("owner", "FULL_CONTROL")]
    put_policy(people, policy())
    for path, query in (("/b/k", ""), ("/b", "acl="), ("/b/old", "acl=")):
        for name in ("private", "public-read"):
            answer = ask(people, OTHER, "PUT", path, query, x_amz_acl=name)
            assert (answer.status, answer.code) == (400, "AccessControlListNotSupported")
        assert status(people, OTHER, "PUT", path, query, x_amz_acl="bucket-owner-full-control") == 200
    answer = people.send("PUT", "/b", "acl=", body=acl_document("owner", ("<ID>owner</ID>", "FULL_CONTROL")))
    assert answer.status == 200
    assert grants(ask(people, OTHER, "GET", "/b/k", "acl=")) == [("owner", "FULL_CONTROL")]
    headers = {"x-amz-object-ownership": "BucketOwnerEnforced", "x-amz-acl": "public-read"}
    assert people.send("PUT", "/new-bucket", headers=headers).code == "InvalidBucketAclWithObjectOwnership"


def test_preferred_ownership_is_the_writers_choice(people: Box) -> None:
    people.send("PUT", "/b", "acl=", {"x-amz-acl": "public-read-write"})
    people.send("PUT", "/b", "ownershipControls=", body=ownership("BucketOwnerPreferred"))
    for name, wanted in (("bucket-owner-full-control", b"owner"), ("private", b"oth"), ("", b"oth")):
        headers = {"x_amz_acl": name} if name else {}
        assert status(people, OTHER, "PUT", "/b/k", body=b"x", **headers) == 200
        who = KEY if wanted == b"owner" else OTHER
        assert b"<Owner><ID>%b</ID>" % wanted in ask(people, who, "GET", "/b/k", "acl=").body


def block(**switches: bool) -> bytes:
    rows = "".join(f"<{name}>{str(value).lower()}</{name}>" for name, value in switches.items())
    return f"<PublicAccessBlockConfiguration>{rows}</PublicAccessBlockConfiguration>".encode()


def test_public_access_blocks_come_and_go(people: Box) -> None:
    assert people.send("GET", "/b", "publicAccessBlock=").code == "NoSuchPublicAccessBlockConfiguration"
    body = block(BlockPublicAcls=True, RestrictPublicBuckets=False)
    assert people.send("PUT", "/b", "publicAccessBlock=", body=body).status == 200
    shown = people.send("GET", "/b", "publicAccessBlock=").body
    assert re.findall(rb"<(\w+)>(true|false)", shown) == [
        (b"BlockPublicAcls", b"true"), (b"IgnorePublicAcls", b"false"), (b"BlockPublicPolicy", b"false"),
        (b"RestrictPublicBuckets", b"false"),
    ]  # fmt: skip
    for bad in (b"", block(BlockPublicAcl=True), block(BlockPublicAcls=True).replace(b"true", b"yes")):
        answer = people.send("PUT", "/b", "publicAccessBlock=", body=bad)
        assert (answer.status, answer.code) == (400, "MalformedXML")
    for _ in range(2):
        assert people.send("DELETE", "/b", "publicAccessBlock=").status == 204
    assert people.send("GET", "/b", "publicAccessBlock=").code == "NoSuchPublicAccessBlockConfiguration"


def test_a_block_refuses_what_would_be_public(people: Box) -> None:
    body = block(BlockPublicAcls=True, BlockPublicPolicy=True)
    assert people.send("PUT", "/b", "publicAccessBlock=", body=body).status == 200
    people.send("PUT", "/b/k", body=b"x")
    for name in ("public-read", "public-read-write", "authenticated-read"):
        for path, query in (("/b", "acl="), ("/b/k", "acl="), ("/b/n", "")):
            assert people.send("PUT", path, query, {"x-amz-acl": name}).code == "AccessDenied"
        copy = {"x-amz-acl": name, "x-amz-copy-source": "/b/k"}
        assert people.send("PUT", "/b/n", headers=copy).code == "AccessDenied"
        assert people.send("POST", "/b/n", "uploads=", {"x-amz-acl": name}).code == "AccessDenied"
    assert people.send("PUT", "/b/n", headers={"x-amz-acl": "private"}, body=b"x").status == 200
    assert people.send("PUT", "/b", "policy=", body=policy()).code == "AccessDenied"
    assert people.send("PUT", "/b", "policy=", body=policy(principal={"AWS": "oth"})).status == 204


def test_a_block_ignores_what_is_public(people: Box) -> None:
    people.send("PUT", "/b", "acl=", {"x-amz-acl": "public-read"})
    people.send("PUT", "/b/k", body=b"x", headers={"x-amz-acl": "public-read"})
    assert [status(people, OTHER, "GET", path) for path in ("/b", "/b/k")] == [200, 200]
    people.send("PUT", "/b", "publicAccessBlock=", body=block(IgnorePublicAcls=True))
    assert [status(people, OTHER, "GET", path) for path in ("/b", "/b/k")] == [403, 403]
    put_policy(people, policy())
    assert [status(people, who, "GET", "/b/k") for who in (OTHER, "")] == [200, 200]
    people.send("PUT", "/b", "publicAccessBlock=", body=block(RestrictPublicBuckets=True, IgnorePublicAcls=True))
    assert [status(people, who, "GET", "/b/k") for who in (KEY, OTHER, "")] == [200, 403, 403]


def test_the_status_says_whether_everybody_is_let_in(people: Box) -> None:
    def public() -> bool:
        return b"<IsPublic>true</IsPublic>" in people.send("GET", "/b", "policyStatus=").body

    assert not public()
    for name in ("public-read", "authenticated-read"):
        people.send("PUT", "/b", "acl=", {"x-amz-acl": name})
        assert public()
    people.send("PUT", "/b", "publicAccessBlock=", body=block(IgnorePublicAcls=True))
    assert not public()
    put_policy(people, policy())
    assert public()
    put_policy(people, policy(Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/32"}}))
    assert not public()


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
