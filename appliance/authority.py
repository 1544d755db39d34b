"""Who may do what: the one `authorize` that every verb of every door passes (H6).

Default deny: what no rule below allows is refused, and no rule depends on a configuration option, so that no
combination of options can turn it off.  Pure: it knows neither how a principal was authenticated nor what an action
does.

The rules, in AWS's order ("How Amazon S3 authorizes a request"):

1. the bounds of the key that signed (read-only, some buckets), which nothing can widen;
2. an explicit Deny of the bucket's policy, for everyone.  Only the bucket's owner may always read, replace and remove
   the policy, so that nobody locks himself out;
3. for what is said and read of an object, its owner; then the policy, if the object is the bucket owner's own; then the
   object's ACL.  The bucket's owner has no right to what others own in his bucket, but to remove it;
4. for all else the bucket's owner, the policy, the bucket's ACL.

ACLs count unless the bucket's ownership is enforced; public grants and public policies as far as its public-access
block lets them.  Every user is the whole of an account: what an account gives its own users in IAM does not exist here,
so a user needs nothing but the right of an owner or a grant by one.

A bucket without a policy and an ACL, asked by its owner, costs two comparisons.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final

from appliance import settings
from appliance.access import acl, blocks, policy
from appliance.access.actions import MOUNT_ACTIONS, READ_ACTIONS, S3_ACTIONS, Action
from appliance.access.patterns import Values
from appliance.access.policy import Caller, Effect
from appliance.errors import Code, StoreError
from appliance.model import AccessKey, Attributes, Bucket, Frozen

__all__ = [
    "MOUNT",
    "OPERATOR",
    "READ_ACTIONS",
    "Action",
    "Asked",
    "Principal",
    "Standing",
    "authorize",
    "owns_plainly",
    "principal_of",
    "visible",
]


class Standing(enum.Enum):
    """How a principal came to the box.  It bounds what any key can grant."""

    KEY = "key"  # an access key through the S3 door: S3's actions
    MOUNT = "mount"  # a process behind the mount, whose permissions the kernel checks: the mount's actions
    OPERATOR = "operator"  # whoever may write to the daemon's control socket: everything


class Principal(Frozen, frozen=True):
    """Who acts.  `owner` is the canonical id of the user whose key it is.  `buckets` empty: every bucket."""

    key_id: str
    owner: str
    read_only: bool = False
    buckets: tuple[str, ...] = ()
    standing: Standing = Standing.KEY


MOUNT: Final = Principal("", "default", standing=Standing.MOUNT)
OPERATOR: Final = Principal("", "default", standing=Standing.OPERATOR)


def no_values(key: str) -> Sequence[str] | None:
    """A request that no condition can be about."""
    return None


class Asked(Frozen, frozen=True):
    """What a request asks for, beside its action: what policies and ACLs decide by.

    `existing` is what is known of the object at the key, None while nothing is there; `initiator` is who began the
    upload that is spoken of; `name` is that of the principal's user; `making`: the action is part of making an object.
    """

    key: bytes | None = None
    existing: Attributes | None = None
    initiator: str = ""
    making: bool = False
    name: str = ""
    values: Values = no_values


NOTHING_MORE: Final = Asked()
_KEY: Final = Standing.KEY
_IN_BUCKETS: Final = S3_ACTIONS - {Action.LIST_ALL_MY_BUCKETS}

# Settings that change who may do what.  A bucket that has none of them is its owner's alone.
DECIDING: Final = frozenset({settings.POLICY, settings.ACL})
_OF_THE_POLICY: Final = frozenset({Action.GET_BUCKET_POLICY, Action.PUT_BUCKET_POLICY, Action.DELETE_BUCKET_POLICY})
# What belongs to the object's owner, who need not be the bucket's.
OBJECT_OWNERS: Final = frozenset(
    {*acl.OBJECT_ACTIONS, Action.GET_OBJECT_ATTRIBUTES, Action.GET_OBJECT_VERSION_ATTRIBUTES}
)
_INITIATORS: Final = frozenset({Action.ABORT_MULTIPART_UPLOAD, Action.LIST_MULTIPART_UPLOAD_PARTS})


def principal_of(key: AccessKey) -> Principal:
    """Who holds this key.  Only a door that has verified a signature by it may ask."""
    return Principal(key.id, key.owner, key.read_only, key.buckets)


def authorize(
    principal: Principal | None, action: Action, bucket: Bucket | str | None, asked: Asked = NOTHING_MORE
) -> None:
    """Returns if `principal` may do `action` on `bucket`, else raises StoreError ACCESS_DENIED.

    `principal` None is an anonymous request.  `bucket` as a mere name (or None: no bucket) is one that is not looked up
    yet, or does not exist: then only what the key itself may do is asked, and anonymous may nothing.
    """
    if (  # what nearly every request is: a key without bounds, before its bucket is looked up
        principal is not None
        and type(bucket) is str
        and not principal.read_only
        and not principal.buckets
        and principal.standing is _KEY
        and action in _IN_BUCKETS
    ):
        return
    if not _within_bounds(principal, action, bucket) or not (
        not isinstance(bucket, Bucket) or owns_plainly(principal, bucket) or _judge(principal, action, bucket, asked)
    ):
        name = bucket.name if isinstance(bucket, Bucket) else bucket
        raise StoreError(
            Code.ACCESS_DENIED, cause=f"{principal.key_id if principal else 'anonymous'} {action.value} {name or '-'}"
        )


def visible(principal: Principal, bucket: str) -> bool:
    """Whether the key may be used on this bucket at all."""
    return not principal.buckets or bucket in principal.buckets


def owns_plainly(principal: Principal | None, bucket: Bucket) -> bool:
    """Whether the principal owns the bucket and nothing else decides: no policy and no ACL, hence no objects of
    others.  Who did not come by a key is bounded by his standing alone."""
    if principal is None:
        return False
    if principal.owner == bucket.owner and (not bucket.settings or DECIDING.isdisjoint(bucket.settings)):
        return True
    return principal.standing is not Standing.KEY


def _within_bounds(principal: Principal | None, action: Action, bucket: Bucket | str | None) -> bool:
    """Whether the principal's own standing and key leave room for it."""
    if principal is None:
        return isinstance(bucket, Bucket) and action in S3_ACTIONS and action is not Action.LIST_ALL_MY_BUCKETS
    if principal.standing is Standing.OPERATOR:
        return True
    if principal.read_only and action not in READ_ACTIONS and action is not Action.MOUNT_READ:
        return False
    if action is Action.LIST_ALL_MY_BUCKETS:
        return principal.standing is Standing.KEY and bucket is None
    if bucket is None or not visible(principal, bucket.name if isinstance(bucket, Bucket) else bucket):
        return False
    if principal.standing is Standing.MOUNT:
        return action in MOUNT_ACTIONS
    return action in S3_ACTIONS


def _judge(principal: Principal | None, action: Action, bucket: Bucket, asked: Asked) -> bool:
    """Policy, ownership, ACLs."""
    who = principal.owner if principal is not None else None
    owner = who == bucket.owner
    block = blocks.parse(bucket.settings.get(settings.PUBLIC_ACCESS_BLOCK))
    said = _policy_says(who, owner, action, bucket, asked, block)
    if said is Effect.DENY:
        return owner and action in _OF_THE_POLICY
    if asked.making and action is Action.PUT_OBJECT_ACL:
        return True  # with whom a new object is shared is its maker's to say, unless a policy denies it
    acls_count = blocks.parse_ownership(bucket.settings.get(settings.OWNERSHIP)) != blocks.ENFORCED
    if action in OBJECT_OWNERS and asked.existing is not None:
        return _judge_object(who, action, bucket, asked.existing, said, acls_count, block.ignore_public_acls)
    if owner or said is Effect.ALLOW:
        return True
    if action in _INITIATORS and asked.initiator and asked.initiator == who:
        return True
    if asked.making and action is Action.PUT_OBJECT_TAGGING:
        action = Action.PUT_OBJECT  # no list gives the right to tag; but who may put an object may put it with its tags
    permission = acl.BUCKET_ACTIONS.get(action)
    body = bucket.settings.get(settings.ACL)
    if permission is None or body is None or not acls_count:
        return False
    return acl.permits(acl.parse(body), who, permission, ignore_public=block.ignore_public_acls)


def _policy_says(
    who: str | None, owner: bool, action: Action, bucket: Bucket, asked: Asked, block: blocks.PublicAccessBlock
) -> Effect:
    """The policy's word after the public-access block.  A policy that cannot be read denies."""
    body = bucket.settings.get(settings.POLICY)
    if body is None:
        return Effect.NONE
    try:
        document = policy.parse(body)
    except StoreError:  # of a version that knew more than this one: whoever wrote it may replace it
        return Effect.DENY
    resource = bucket.name if asked.key is None else f"{bucket.name}/{asked.key.decode('utf-8', 'backslashreplace')}"
    said = document.evaluate(Caller(who or "", asked.name), action.value, resource, asked.values)
    if said is Effect.ALLOW and not owner and block.restrict_public_buckets and document.public:
        return Effect.NONE
    return said


def _judge_object(
    who: str | None,
    action: Action,
    bucket: Bucket,
    existing: Attributes,
    said: Effect,
    acls_count: bool,
    ignore_public: bool,
) -> bool:
    """What is the object owner's to give."""
    if not acls_count or not existing.owner or existing.owner == bucket.owner:
        if who == bucket.owner or said is Effect.ALLOW:
            return True
    elif who == existing.owner:
        return True
    permission = acl.OBJECT_ACTIONS.get(action)
    return (
        permission is not None
        and acls_count
        and acl.permits(existing.acl, who, permission, ignore_public=ignore_public)
    )
