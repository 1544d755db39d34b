"""What policies, ACLs, ownership and public-access blocks add to or take from the right of a bucket's owner."""

from __future__ import annotations

import json
from typing import Any

from appliance import settings
from appliance.access import acl, blocks
from appliance.access.blocks import PublicAccessBlock
from appliance.authority import MOUNT, OPERATOR, Action, Asked, Principal, authorize, owns_plainly
from appliance.errors import StoreError
from appliance.model import Attributes, Bucket, Grant

OWNER, OTHER, THIRD = Principal("K1", "own"), Principal("K2", "oth"), Principal("K3", "thi")
READER = Principal("K4", "own", read_only=True)
ELSEWHERE = Principal("K5", "oth", buckets=("another",))
PEOPLE: dict[str, Principal | None] = {"owner": OWNER, "other": OTHER, "third": THIRD, "nobody": None}

GET, PUT, LIST, DELETE = Action.GET_OBJECT, Action.PUT_OBJECT, Action.LIST_BUCKET, Action.DELETE_OBJECT
GET_ACL, PUT_ACL, GET_POLICY, TAGS = (
    Action.GET_OBJECT_ACL, Action.PUT_OBJECT_ACL, Action.GET_BUCKET_POLICY, Action.GET_OBJECT_TAGGING,
)  # fmt: skip
EVERYBODY, KNOWN = Grant("READ", group=acl.ALL_USERS), Grant("READ", group=acl.AUTHENTICATED_USERS)


def bucket(**documents: bytes) -> Bucket:
    names = {
        "policy": settings.POLICY, "acl": settings.ACL, "block": settings.PUBLIC_ACCESS_BLOCK,
        "ownership": settings.OWNERSHIP, "versioning": settings.VERSIONING,
    }  # fmt: skip
    return Bucket(1, "p", "box", 0, 1, "own", settings={names[name]: body for name, body in documents.items()})


def policy(effect: str = "Allow", action: object = "s3:*", principal: object = "*", **more: Any) -> bytes:
    statement = {
        "Effect": effect, "Principal": principal, "Action": action,
        "Resource": ["arn:aws:s3:::box", "arn:aws:s3:::box/*"],
    }  # fmt: skip
    return json.dumps({"Version": "2012-10-17", "Statement": [{**statement, **more}]}).encode()


def lists(*grants: Grant) -> bytes:
    return acl.encode(grants)


def block(**switches: bool) -> bytes:
    return blocks.encode(PublicAccessBlock(**switches))


def who_may(action: Action, box: Bucket, existing: Attributes | None = None, **asked: Any) -> set[str]:
    return {
        name for name, principal in PEOPLE.items()
        if allowed(principal, action, box, Asked(key=b"k", existing=existing, **asked))
    }  # fmt: skip


def allowed(principal: Principal | None, action: Action, box: Bucket, asked: Asked) -> bool:
    try:
        authorize(principal, action, box, asked)
    except StoreError:
        return False
    return True


ALL, USERS, OWN = {"owner", "other", "third", "nobody"}, {"owner", "other", "third"}, {"owner"}
NOTHING = Attributes()
THEIRS = Attributes(owner="oth")
SHARED = Attributes(owner="oth", acl=(Grant("READ", user="own"), Grant("FULL_CONTROL", user="oth")))
OPEN = Attributes(acl=(EVERYBODY, Grant("FULL_CONTROL", user="own")))
ENFORCED = blocks.ENFORCED.encode()

# (bucket, action, the object that is there, who may)
ROWS: list[tuple[Bucket, Action, Attributes | None, set[str]]] = [
    # ownership alone
    (bucket(), GET, NOTHING, OWN), (bucket(), PUT, None, OWN), (bucket(), Action.PUT_BUCKET_POLICY, None, OWN),
    (bucket(versioning=b"Enabled"), GET, NOTHING, OWN),
    # policies
    (bucket(policy=policy()), GET, NOTHING, ALL), (bucket(policy=policy()), PUT, None, ALL),
    (bucket(policy=policy(action="s3:GetObject")), PUT, None, OWN),
    (bucket(policy=policy(principal={"AWS": "oth"})), GET, NOTHING, {"owner", "other"}),
    (bucket(policy=policy("Deny")), GET, NOTHING, set()), (bucket(policy=policy("Deny")), PUT, None, set()),
    (bucket(policy=policy("Deny")), GET_POLICY, None, OWN),
    (bucket(policy=policy("Deny")), Action.DELETE_BUCKET_POLICY, None, OWN),
    (bucket(policy=policy("Deny")), Action.PUT_BUCKET_ACL, None, set()),
    (bucket(policy=policy("Deny", principal={"AWS": "oth"}), acl=lists(EVERYBODY)), LIST, None, ALL - {"other"}),
    (bucket(policy=b"{}"), GET, OPEN, set()), (bucket(policy=b"{}"), GET_POLICY, None, OWN),  # unreadable: denies
    # the bucket's ACL
    (bucket(acl=lists(EVERYBODY)), LIST, None, ALL), (bucket(acl=lists(KNOWN)), LIST, None, USERS),
    (bucket(acl=lists(EVERYBODY)), GET, NOTHING, OWN), (bucket(acl=lists(EVERYBODY)), PUT, None, OWN),
    (bucket(acl=lists(Grant("WRITE", group=acl.ALL_USERS))), PUT, None, ALL),
    (bucket(acl=lists(Grant("WRITE", user="oth"))), DELETE, NOTHING, {"owner", "other"}),
    (bucket(acl=lists(Grant("FULL_CONTROL", user="oth"))), Action.PUT_BUCKET_ACL, None, {"owner", "other"}),
    (bucket(acl=lists(Grant("FULL_CONTROL", user="oth"))), Action.PUT_BUCKET_POLICY, None, OWN),
    (bucket(acl=lists(Grant("FULL_CONTROL", user="oth"))), Action.DELETE_BUCKET, None, OWN),
    (bucket(acl=lists(Grant("READ_ACP", user="oth"))), Action.GET_BUCKET_ACL, None, {"owner", "other"}),
    (bucket(acl=lists(Grant("READ_ACP", user="oth"))), LIST, None, OWN),
    (bucket(acl=acl.encode(acl.NOBODY)), LIST, None, OWN),
    # objects and their owners
    (bucket(acl=lists()), GET, OPEN, ALL), (bucket(acl=lists()), GET_ACL, OPEN, OWN), (bucket(), GET, OPEN, ALL),
    (bucket(acl=lists()), GET, THEIRS, {"other"}), (bucket(acl=lists()), PUT_ACL, THEIRS, {"other"}),
    (bucket(acl=lists()), GET, SHARED, {"owner", "other"}), (bucket(acl=lists()), GET_ACL, SHARED, {"other"}),
    (bucket(acl=lists()), DELETE, THEIRS, OWN), (bucket(acl=lists()), TAGS, THEIRS, OWN),
    (bucket(policy=policy()), GET, THEIRS, {"other"}),  # the bucket owner's policy is about his own objects
    (bucket(policy=policy("Deny")), GET, THEIRS, set()),
    # enforced ownership: no ACL counts, every object is the bucket owner's
    (bucket(acl=lists(EVERYBODY), ownership=ENFORCED), LIST, None, OWN),
    (bucket(acl=lists(), ownership=ENFORCED), GET, OPEN, OWN),
    (bucket(acl=lists(), ownership=ENFORCED), GET, THEIRS, OWN),
    (bucket(policy=policy(), ownership=ENFORCED), GET, THEIRS, ALL),
    # public-access blocks
    (bucket(acl=lists(EVERYBODY), block=block(ignore_public_acls=True)), LIST, None, OWN),
    (bucket(acl=lists(KNOWN), block=block(ignore_public_acls=True)), LIST, None, OWN),
    (bucket(acl=lists(Grant("READ", user="oth")), block=block(ignore_public_acls=True)), LIST, None,
     {"owner", "other"}),
    (bucket(acl=lists(), block=block(ignore_public_acls=True)), GET, OPEN, OWN),
    (bucket(acl=lists(EVERYBODY), block=block(block_public_acls=True)), LIST, None, ALL),
    (bucket(policy=policy(), block=block(restrict_public_buckets=True)), GET, NOTHING, OWN),
    (bucket(policy=policy(principal={"AWS": "oth"}), block=block(restrict_public_buckets=True)), GET, NOTHING,
     {"owner", "other"}),
    (bucket(policy=policy(), block=block(block_public_policy=True)), GET, NOTHING, ALL),
]  # fmt: skip


def test_who_may_what() -> None:
    wrong = []
    for box, action, existing, wanted in ROWS:
        found = who_may(action, box, existing)
        if found != wanted:
            wrong.append((box.settings, action, existing, found, wanted))
    assert not wrong


def test_whoever_began_an_upload_may_end_it_unless_denied() -> None:
    for action in (Action.ABORT_MULTIPART_UPLOAD, Action.LIST_MULTIPART_UPLOAD_PARTS):
        assert who_may(action, bucket(acl=lists()), initiator="oth") == {"owner", "other"}
        assert who_may(action, bucket(acl=lists()), initiator="") == OWN
        assert who_may(action, bucket(policy=policy("Deny", principal={"AWS": "oth"})), initiator="oth") == OWN
    assert who_may(PUT, bucket(acl=lists()), initiator="oth") == OWN


def test_an_object_is_tagged_as_it_is_made_by_whoever_may_make_it() -> None:
    by_list = bucket(acl=lists(Grant("WRITE", user="oth")))
    assert who_may(Action.PUT_OBJECT_TAGGING, by_list, making=True) == {"owner", "other"}
    assert who_may(Action.PUT_OBJECT_TAGGING, by_list, NOTHING) == OWN  # an object that is there
    by_policy = bucket(policy=policy(action="s3:PutObject"))
    assert who_may(Action.PUT_OBJECT_TAGGING, by_policy, making=True) == OWN


def test_no_grant_widens_a_key() -> None:
    open_to_all = bucket(policy=policy(), acl=lists(EVERYBODY))
    assert not allowed(READER, PUT, open_to_all, Asked(key=b"k"))
    assert allowed(READER, GET, open_to_all, Asked(key=b"k", existing=NOTHING))
    assert not allowed(ELSEWHERE, GET, open_to_all, Asked(key=b"k", existing=NOTHING))
    for action in (Action.ADMIN, Action.METRICS, Action.MOUNT_READ, Action.MOUNT_WRITE, Action.LIST_ALL_MY_BUCKETS):
        assert who_may(action, open_to_all) == set(), action


def test_conditions_see_the_request() -> None:
    box = bucket(policy=policy(Condition={"StringEquals": {"s3:ExistingObjectTag/team": "red"}}))
    tags = {"s3:existingobjecttag/team": ("red",)}
    assert who_may(GET, box, NOTHING) == OWN
    assert who_may(GET, box, NOTHING, values=tags.get) == ALL


def test_an_owner_alone_is_let_in_at_once_and_only_he() -> None:
    assert owns_plainly(OWNER, bucket())
    assert owns_plainly(OWNER, bucket(versioning=b"Enabled"))
    assert not owns_plainly(OWNER, bucket(acl=lists()))
    assert not owns_plainly(OWNER, bucket(policy=policy()))
    assert not owns_plainly(OTHER, bucket())
    assert not owns_plainly(None, bucket())
    assert owns_plainly(MOUNT, bucket(policy=policy("Deny")))
    assert owns_plainly(OPERATOR, bucket(policy=policy("Deny")))
