"""Access control lists: grants to users and groups, canned lists, and which actions a permission gives (pure).

A list belongs to a bucket or to an object.  An object's empty tuple is the default: its owner may everything, nobody
else anything.  A list that really grants nothing to nobody is `NOBODY`, so that the two differ.  An owner needs no
grant: S3's owners act by their own account's right, and a list only adds others.

A bucket's list is kept as a setting: JSON of its grants.

Source: Amazon S3 User Guide, "Access control list (ACL) overview" (permissions, mapping, canned ACLs).
"""

from __future__ import annotations

import functools
from typing import Final

import msgspec

from appliance.access.actions import Action
from appliance.model import Grant

Grants = tuple[Grant, ...]

FULL_CONTROL: Final = "FULL_CONTROL"
READ: Final = "READ"
WRITE: Final = "WRITE"
READ_ACP: Final = "READ_ACP"
WRITE_ACP: Final = "WRITE_ACP"
PERMISSIONS: Final = (FULL_CONTROL, READ, WRITE, READ_ACP, WRITE_ACP)

ALL_USERS: Final = "http://acs.amazonaws.com/groups/global/AllUsers"
AUTHENTICATED_USERS: Final = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
LOG_DELIVERY: Final = "http://acs.amazonaws.com/groups/s3/LogDelivery"
GROUPS: Final = (ALL_USERS, AUTHENTICATED_USERS, LOG_DELIVERY)
PUBLIC_GROUPS: Final = frozenset({ALL_USERS, AUTHENTICATED_USERS})

NOBODY: Final[Grants] = (Grant(""),)
"""A list without grants, told apart from no list."""

PRIVATE: Final = "private"
PUBLIC_READ: Final = "public-read"
PUBLIC_READ_WRITE: Final = "public-read-write"
AUTHENTICATED_READ: Final = "authenticated-read"
OWNER_READ: Final = "bucket-owner-read"
OWNER_FULL_CONTROL: Final = "bucket-owner-full-control"

# What is granted beside the owner's own FULL_CONTROL; the two of the bucket's owner are made in `canned`.
_GROUP_GRANTS: Final[dict[str, Grants]] = {
    PRIVATE: (),
    PUBLIC_READ: (Grant(READ, group=ALL_USERS),),
    PUBLIC_READ_WRITE: (Grant(READ, group=ALL_USERS), Grant(WRITE, group=ALL_USERS)),
    AUTHENTICATED_READ: (Grant(READ, group=AUTHENTICATED_USERS),),
    "aws-exec-read": (),  # the grantee is Amazon EC2, which never calls here
    "log-delivery-write": (Grant(WRITE, group=LOG_DELIVERY), Grant(READ_ACP, group=LOG_DELIVERY)),
    OWNER_READ: (),
    OWNER_FULL_CONTROL: (),
}
CANNED: Final = frozenset(_GROUP_GRANTS)
PUBLIC_CANNED: Final = frozenset({PUBLIC_READ, PUBLIC_READ_WRITE, AUTHENTICATED_READ})

# What each permission gives.  Where an action is in no list, no ACL can give it: a policy must.
BUCKET_ACTIONS: Final[dict[Action, str]] = {
    Action.LIST_BUCKET: READ,
    Action.LIST_BUCKET_VERSIONS: READ,
    Action.LIST_BUCKET_MULTIPART_UPLOADS: READ,
    Action.PUT_OBJECT: WRITE,
    Action.DELETE_OBJECT: WRITE,
    Action.GET_BUCKET_ACL: READ_ACP,
    Action.PUT_BUCKET_ACL: WRITE_ACP,
}
OBJECT_ACTIONS: Final[dict[Action, str]] = {
    Action.GET_OBJECT: READ,
    Action.GET_OBJECT_VERSION: READ,
    Action.GET_OBJECT_TORRENT: READ,
    Action.GET_OBJECT_VERSION_TORRENT: READ,
    Action.GET_OBJECT_ACL: READ_ACP,
    Action.GET_OBJECT_VERSION_ACL: READ_ACP,
    Action.PUT_OBJECT_ACL: WRITE_ACP,
    Action.PUT_OBJECT_VERSION_ACL: WRITE_ACP,
}


def canned(name: str, owner: str, bucket_owner: str) -> Grants:
    """A canned list, written out.  `owner` is that of what the list is for: the bucket itself or the object.

    Groups come first, then the owner, then the bucket's owner.
    """
    grants = (*_GROUP_GRANTS[name], Grant(FULL_CONTROL, user=owner))
    if bucket_owner != owner:
        if name == OWNER_READ:
            grants += (Grant(READ, user=bucket_owner),)
        elif name == OWNER_FULL_CONTROL:
            grants += (Grant(FULL_CONTROL, user=bucket_owner),)
    return grants


def shown(grants: Grants, owner: str) -> Grants:
    """The list as a client sees it: groups first."""
    if not grants:
        return (Grant(FULL_CONTROL, user=owner),)
    return tuple(sorted((grant for grant in grants if grant.permission), key=lambda grant: not grant.group))


def kept(grants: Grants, owner: str) -> Grants:
    """The list as it is stored: nothing for the default one."""
    if grants == (Grant(FULL_CONTROL, user=owner),):
        return ()
    return grants or NOBODY


def permits(grants: Grants, user: str | None, permission: str, *, ignore_public: bool = False) -> bool:
    """Whether the list gives the permission to the user (None: anonymous)."""
    for grant in grants:
        if grant.permission not in (permission, FULL_CONTROL):
            continue
        if grant.group:
            open_to = grant.group == ALL_USERS or (grant.group == AUTHENTICATED_USERS and user is not None)
            if open_to and not ignore_public:
                return True
        elif grant.user == user:
            return True
    return False


def public(grants: Grants) -> bool:
    """Whether everybody gets something by the list.  Whoever has any account of S3's counts as everybody."""
    return any(grant.group in PUBLIC_GROUPS for grant in grants)


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Grants)


def encode(grants: Grants) -> bytes:
    """A bucket's list as its setting is stored."""
    return _encoder.encode(grants)


@functools.lru_cache(maxsize=256)
def parse(body: bytes) -> Grants:
    """The reverse of `encode`."""
    return _decoder.decode(body)
