"""Who may do what: the one `authorize` that every verb of every door passes (H6).

Default deny: what no rule below allows is refused, and no rule depends on a configuration option, so that no
combination of options can turn it off.  Pure: it knows neither how a principal was authenticated nor what an action
does.
"""

from __future__ import annotations

import enum
from typing import Final

from appliance.access.actions import MOUNT_ACTIONS, READ_ACTIONS, S3_ACTIONS, Action
from appliance.errors import Code, StoreError
from appliance.model import AccessKey, Frozen

__all__ = [
    "MOUNT",
    "OPERATOR",
    "READ_ACTIONS",
    "Action",
    "Principal",
    "Standing",
    "authorize",
    "principal_of",
    "visible",
]


class Standing(enum.Enum):
    """How a principal came to the box.  It bounds what any key can grant."""

    KEY = "key"  # an access key through the S3 door: S3's actions
    MOUNT = "mount"  # a process behind the mount, whose permissions the kernel checks: the mount's actions
    OPERATOR = "operator"  # whoever may write to the daemon's control socket: everything


class Principal(Frozen, frozen=True):
    """Who acts.  `buckets` empty: every bucket."""

    key_id: str
    owner: str
    read_only: bool = False
    buckets: tuple[str, ...] = ()
    standing: Standing = Standing.KEY


MOUNT: Final = Principal("", "default", standing=Standing.MOUNT)
OPERATOR: Final = Principal("", "default", standing=Standing.OPERATOR)


def principal_of(key: AccessKey) -> Principal:
    """Who holds this key.  Only a door that has verified a signature by it may ask."""
    return Principal(key.id, key.owner, key.read_only, key.buckets)


def authorize(principal: Principal | None, action: Action, bucket: str | None) -> None:
    """Returns if `principal` may do `action` on `bucket` (None: on no bucket), else raises StoreError ACCESS_DENIED.

    `principal` None is an anonymous request.
    """
    if not _allows(principal, action, bucket):
        raise StoreError(
            Code.ACCESS_DENIED, cause=f"{principal.key_id if principal else 'anonymous'} {action.value} {bucket or '-'}"
        )


def visible(principal: Principal, bucket: str) -> bool:
    """Whether a listing of all buckets shows this one to the principal."""
    return not principal.buckets or bucket in principal.buckets


def _allows(principal: Principal | None, action: Action, bucket: str | None) -> bool:
    if principal is None:
        return False
    if principal.standing is Standing.OPERATOR:
        return True
    if principal.read_only and action not in READ_ACTIONS and action is not Action.MOUNT_READ:
        return False
    if action is Action.LIST_ALL_MY_BUCKETS:
        return principal.standing is Standing.KEY and bucket is None
    if bucket is None or not visible(principal, bucket):
        return False
    if principal.standing is Standing.MOUNT:
        return action in MOUNT_ACTIONS
    return action in S3_ACTIONS
