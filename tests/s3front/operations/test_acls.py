"""ACLs, ownership controls and public-access blocks as clients set them, and what others may do then."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.access.acl import ALL_USERS, AUTHENTICATED_USERS
from appliance.verbs import objects
from s3front import grants as grants_module
from s3front.errors import S3Error
from tests.rows import rows
from tests.s3front.box import KEY, Box
from tests.s3front.memory_store import MemoryStore
from tests.s3front.operations.people import (
    OTHER,
    THIRD,
    acl_document,
    ask,
    grants,
    introduce,
    policy,
    put_policy,
    status,
)


@pytest.fixture
def people(box: Box) -> Box:
    """The box with two more users."""
    return introduce(box)


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
        ({}, acl_document("owner", ("<Name>oth</Name>", "READ")), "MalformedACLError"),
        ({}, acl_document("owner", ("<EmailAddress>x@y</EmailAddress>", "READ")), "UnresolvableGrantByEmailAddress"),
        ({}, acl_document("owner", *[ONE] * 101), "MalformedACLError"),
        ({}, b"<AccessControlPolicy/>", "MalformedACLError"),
        ({}, f"<AccessControlPolicy>{TWO}{TWO}</AccessControlPolicy>".encode(), "MalformedACLError"),
        ({}, b"<Tagging/>", "MalformedACLError"),
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
    for granted in (*tries, "FULL_CONTROL"):
        document = acl_document("owner", ("<ID>oth</ID>", granted))
        assert people.send("PUT", "/b", "acl=", body=document).status == 200
        for permission, (method, path, query) in tries.items():
            body = document if query and method == "PUT" else b""
            assert (status(people, OTHER, method, path, query, body) == 200) == (
                granted in (permission, "FULL_CONTROL")
            )
            assert status(people, THIRD, method, path, query, body) == 403
    for granted in ("READ", "WRITE", "READ_ACP", "WRITE_ACP", "FULL_CONTROL"):
        document = acl_document("owner", ("<ID>oth</ID>", granted))
        assert people.send("PUT", "/b/k", "acl=", body=document).status == 200
        assert (status(people, OTHER, "GET", "/b/k") == 200) == (granted in ("READ", "FULL_CONTROL"))
        assert (status(people, OTHER, "GET", "/b/k", "acl=") == 200) == (granted in ("READ_ACP", "FULL_CONTROL"))
        assert (status(people, OTHER, "PUT", "/b/k", "acl=", document) == 200) == (
            granted in ("WRITE_ACP", "FULL_CONTROL")
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


@given(st.text("idurm=\",@ aé\\'", max_size=30))
def test_any_header_of_grants_is_understood_or_refused(text: str) -> None:
    store = MemoryStore()
    try:
        asked = grants_module.from_headers(store, {b"x-amz-grant-read": text.encode()}, "own", "own")  # type: ignore[arg-type]
    except S3Error as error:
        if error.code not in ("InvalidArgument", "UnresolvableGrantByEmailAddress"):
            raise
    else:
        assert asked == ()  # nobody is known here: only nothing can be granted


@pytest.mark.slow
def test_each_version_has_a_list_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "BUCKET_NAME_MIN", 1)
    with Box(real=True) as box:  # the double keeps no versions
        check_versions(introduce(box))


def check_versions(people: Box) -> None:
    configuration = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>"
    assert people.send("PUT", "/b", "versioning=", body=configuration).status == 200
    old, new = (people.send("PUT", "/b/k", body=body).headers["x-amz-version-id"] for body in (b"old", b"new"))
    assert people.send("PUT", "/b/k", f"acl=&versionId={old}", {"x-amz-acl": "public-read"}).status == 200
    assert len(grants(people.send("GET", "/b/k", f"acl=&versionId={old}"))) == 2
    assert len(grants(people.send("GET", "/b/k", "acl="))) == 1
    queries = (f"versionId={old}", f"versionId={new}", "")
    assert [status(people, "", "GET", "/b/k", query) for query in queries] == [200, 403, 403]
    put_policy(people, policy(action="s3:GetObject"))  # the current one; a version that is named has its own action
    assert [status(people, OTHER, "GET", "/b/k", query) for query in queries] == [200, 403, 200]
    put_policy(people, policy(action="s3:GetObjectVersion"))
    assert [status(people, OTHER, "GET", "/b/k", query) for query in queries] == [200, 200, 403]
    assert status(people, OTHER, "DELETE", "/b/k", f"versionId={new}") == 403
    put_policy(people, policy(action="s3:DeleteObject"))
    assert status(people, OTHER, "DELETE", "/b/k", f"versionId={new}") == 403
    assert status(people, OTHER, "DELETE", "/b/k") == 204
    put_policy(people, policy(action="s3:DeleteObjectVersion"))
    assert status(people, OTHER, "DELETE", "/b/k", f"versionId={new}") == 204


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
    assert b"<ID>oth</ID>" not in people.send("GET", "/b").body
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
