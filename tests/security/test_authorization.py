"""Every route under every right: what each operation asks for, and that nobody gets in who was not let in.

Rules 1, 11 and 18.  The routes are those of the table itself, so that an operation that is added is asked too: as a
stranger, as somebody who may do exactly what it declares, and as somebody who may do everything but that.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from appliance.access.actions import OBJECT_ACTIONS, OF_VERSION
from appliance.authority import Action
from appliance.model import AccessKey
from s3front.operations.table import Operation, router
from s3front.router import Level, Route
from tests.s3front.box import KEY, Answer, Box

STRANGER = "AKIASTRANGER"
ROUTES: list[tuple[Route, Operation]] = router().names()
WITHOUT_BUCKET = {"ListBuckets", "CreateBucket"}  # anybody with a key may ask for his own
DELETION = b"<Delete><Object><Key>k</Key></Object></Delete>"
ALLOWED_BESIDE = {"GetObjectAttributes": {Action.GET_OBJECT}}  # S3's "Required permissions" name two


@pytest.fixture
def box() -> Box:
    return box_with_a_stranger()


def box_with_a_stranger() -> Box:
    one = Box()
    one.run(one.store.put_access_key, AccessKey(STRANGER, "stranger", "str", 0, b"sealed-9"))
    one.run(one.store.create_bucket, "theirs", "str")
    one.send("PUT", "/b/k", body=b"content")
    return one


def asked(box: Box, route: Route, operation: Operation, who: str, version: str = "") -> Answer:
    """The route, as `who` (a key; empty: anonymous) would ask for it."""
    path = {Level.SERVICE: "/", Level.BUCKET: "/b", Level.OBJECT: "/b/k"}[route.level]
    query = f"{route.query}={'2' if route.query == 'list-type' else ''}" if route.query else ""
    if route.query == "uploadId":
        query = "partNumber=1&uploadId=none"
    if version:
        query = "&".join(filter(None, (query, f"versionId={version}")))
    headers = {"x-amz-copy-source": "/b/k"} if route.header else {}
    body = b""
    if operation.name == "DeleteObjects":
        body = DELETION
        headers["content-md5"] = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    if operation.name == "CreateBucket":
        path = "/b-new"
    return box.send(route.method, path, query, headers, body, key=who or KEY, sign=bool(who))


def denied(answer: Answer) -> bool:
    """For the route, or for the one key of its document."""
    return answer.status == 403 or b"<Code>AccessDenied</Code>" in answer.body


def set_policy(box: Box, *statements: dict[str, Any]) -> None:
    whole = {"Resource": ["arn:aws:s3:::b", "arn:aws:s3:::b/*"], "Principal": "*", "Effect": "Allow"}
    document = {"Version": "2012-10-17", "Statement": [{**whole, **statement} for statement in statements]}
    answer = box.send("PUT", "/b", "policy=", body=json.dumps(document).encode())
    assert answer.status == 204, answer.body


def needed(route: Route, operation: Operation, version: str = "") -> list[str]:
    """The actions that IAM would name."""
    actions = {operation.action} | ALLOWED_BESIDE.get(operation.name, set())
    if version:
        actions = {OF_VERSION.get(action, action) for action in actions}
    if route.header:
        actions.add(Action.GET_OBJECT)
    return sorted(action.value for action in actions)


def in_a_bucket() -> Iterator[tuple[Route, Operation, str]]:
    """Every route to a bucket and what is in it, and those to one version of an object."""
    for route, operation in ROUTES:
        if operation.name in WITHOUT_BUCKET:
            continue
        yield route, operation, ""
        if operation.action in OF_VERSION and route.level is Level.OBJECT and not route.header:
            yield route, operation, "null"


def test_no_stranger_does_anything_in_a_bucket_of_others(box: Box) -> None:
    """Rule 11, and the default: what nobody allowed is denied, whoever signs, and nothing is read before that."""
    for (route, operation, version), who in itertools.product(in_a_bucket(), (STRANGER, "")):
        answer = asked(box, route, operation, who, version)
        assert (answer.status, answer.code) == (403, "" if route.method == "HEAD" else "AccessDenied"), (route, who)
    assert box.send("GET", "/b/k").body == b"content"
    assert box.send("GET", "/b", "policy=").code == "NoSuchBucketPolicy"


def test_anonymous_requests_have_no_buckets_of_their_own(box: Box) -> None:
    for route, operation in ROUTES:
        if operation.name in WITHOUT_BUCKET:
            assert asked(box, route, operation, "").code == "AccessDenied", route


@pytest.mark.slow
def test_an_anonymous_policy_opens_what_it_names_to_every_way_of_asking() -> None:
    """Rule 1: the last kind of authentication.  An Allow for everybody is one for requests without any signature; a
    Deny for everybody stops every signature too."""
    for route, operation, version in in_a_bucket():
        box = box_with_a_stranger()
        set_policy(box, {"Action": "s3:*"})
        assert not denied(asked(box, route, operation, "", version)), route
        box = box_with_a_stranger()
        set_policy(box, {"Action": "s3:*", "Effect": "Deny"}, {"Action": "s3:*"})
        for who in ("", STRANGER):
            assert denied(asked(box, route, operation, who, version)), (route, who)


@pytest.mark.slow
def test_each_operation_needs_its_own_action_and_no_other() -> None:
    """An operation that asked for another's action would open with that one, or stay shut with its own."""
    for route, operation, version in in_a_bucket():
        own = needed(route, operation, version)
        box = box_with_a_stranger()
        set_policy(box, {"Action": own})
        assert not denied(asked(box, route, operation, STRANGER, version)), (route, own)
        for one in own:
            box = box_with_a_stranger()
            set_policy(box, {"NotAction": one})
            assert denied(asked(box, route, operation, STRANGER, version)), (route, one)


def test_the_level_of_an_action_is_that_of_its_route() -> None:
    """A policy for `bucket/*` must reach what names a key, and one for the bucket what does not."""
    by_document = {"DeleteObjects", "PostObject"}  # the key is in the request's body
    for route, operation in ROUTES:
        if operation.name not in by_document:
            assert (operation.action in OBJECT_ACTIONS) == (route.level is Level.OBJECT), (route, operation.action)


def test_no_combination_of_settings_opens_a_bucket(box: Box) -> None:
    """Rule 18: every combination of ownership, public-access block and versioning, without a grant: shut."""
    ownerships = ("", "BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter")
    switches = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    for ownership, on, acl in itertools.product(ownerships, (False, True), ("", "private")):
        if ownership:
            body = f"<OwnershipControls><Rule><ObjectOwnership>{ownership}</ObjectOwnership></Rule></OwnershipControls>"
            assert box.send("PUT", "/b", "ownershipControls=", body=body.encode()).status == 200
        else:
            assert box.send("DELETE", "/b", "ownershipControls=").status == 204
        said = "".join(f"<{name}>{str(on).lower()}</{name}>" for name in switches)
        block = f"<PublicAccessBlockConfiguration>{said}</PublicAccessBlockConfiguration>".encode()
        assert box.send("PUT", "/b", "publicAccessBlock=", body=block).status == 200
        if acl and ownership != "BucketOwnerEnforced":
            assert box.send("PUT", "/b", "acl=", {"x-amz-acl": acl}).status == 200
        for who, method, path in itertools.product((STRANGER, ""), ("GET", "PUT", "DELETE"), ("/b", "/b/k", "/b/none")):
            answer = box.send(method, path, key=who or KEY, sign=bool(who))
            if (method, path) == ("PUT", "/b"):
                assert answer.code in ("AccessDenied", "InvalidBucketName", "BucketAlreadyExists")
            else:
                assert answer.code == "AccessDenied", (ownership, on, acl, who, method, path)
        assert box.send("GET", "/b/k").body == b"content"


def test_a_keys_own_bounds_are_not_widened_by_any_grant(box: Box) -> None:
    """Rule 9: a read-only key of a user writes nowhere, and one for a bucket reads no other, though all are public."""
    box.run(box.store.put_access_key, AccessKey("AKIAREADS", "x", "str", 0, b"s1", read_only=True))
    box.run(box.store.put_access_key, AccessKey("AKIABOUND", "x", "str", 0, b"s2", buckets=("theirs",)))
    set_policy(box, {"Action": "s3:*"})
    assert box.send("GET", "/b/k", key="AKIAREADS").status == 200
    assert box.send("PUT", "/b/k", body=b"x", key="AKIAREADS").code == "AccessDenied"
    assert box.send("GET", "/b/k", key="AKIABOUND").code == "AccessDenied"
    assert box.send("PUT", "/theirs/k", body=b"x", key="AKIABOUND").status == 200


def test_a_policy_with_only_a_deny_allows_nothing(box: Box) -> None:
    """Rule 9."""
    set_policy(box, {"Effect": "Deny", "Action": "s3:DeleteObject"})
    for who in (STRANGER, ""):
        assert box.send("GET", "/b/k", key=who or KEY, sign=bool(who)).code == "AccessDenied"
