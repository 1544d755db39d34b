"""Who may do what: the one `authorize` that every verb of every door passes (H6).

Default deny: what no rule below allows is refused, and no rule depends on a configuration option, so that no
combination of options can turn it off.  Pure: it knows neither how a principal was authenticated nor what an action
does.
"""

from __future__ import annotations

import enum
from typing import Final

from appliance.errors import Code, StoreError
from appliance.model import AccessKey, Frozen


class Action(enum.Enum):
    """S3's actions by their IAM names ("Actions, resources, and condition keys for S3"), then the house's own."""

    # the service
    LIST_ALL_MY_BUCKETS = "s3:ListAllMyBuckets"
    # a bucket
    CREATE_BUCKET = "s3:CreateBucket"
    DELETE_BUCKET = "s3:DeleteBucket"
    GET_BUCKET_LOCATION = "s3:GetBucketLocation"
    GET_BUCKET_CONFIGURATION = "s3:GetBucketConfiguration"  # any Get…Configuration that has no line of its own
    PUT_BUCKET_CONFIGURATION = "s3:PutBucketConfiguration"
    LIST_BUCKET = "s3:ListBucket"  # also HeadBucket
    LIST_BUCKET_VERSIONS = "s3:ListBucketVersions"
    LIST_BUCKET_MULTIPART_UPLOADS = "s3:ListBucketMultipartUploads"
    # an object
    GET_OBJECT = "s3:GetObject"  # also HeadObject and the source of a copy
    GET_OBJECT_ATTRIBUTES = "s3:GetObjectAttributes"
    GET_OBJECT_TAGGING = "s3:GetObjectTagging"
    GET_OBJECT_ACL = "s3:GetObjectAcl"
    PUT_OBJECT = "s3:PutObject"  # also the target of a copy and every step of an upload but its abort
    PUT_OBJECT_TAGGING = "s3:PutObjectTagging"
    PUT_OBJECT_ACL = "s3:PutObjectAcl"
    DELETE_OBJECT = "s3:DeleteObject"
    ABORT_MULTIPART_UPLOAD = "s3:AbortMultipartUpload"
    LIST_MULTIPART_UPLOAD_PARTS = "s3:ListMultipartUploadParts"
    # the mount
    MOUNT_READ = "tierce:MountRead"
    MOUNT_WRITE = "tierce:MountWrite"
    # the box
    ADMIN = "tierce:Admin"  # pools, devices, keys
    METRICS = "tierce:Metrics"


READ_ACTIONS: Final = frozenset(
    {
        Action.LIST_ALL_MY_BUCKETS,
        Action.GET_BUCKET_LOCATION,
        Action.GET_BUCKET_CONFIGURATION,
        Action.LIST_BUCKET,
        Action.LIST_BUCKET_VERSIONS,
        Action.LIST_BUCKET_MULTIPART_UPLOADS,
        Action.GET_OBJECT,
        Action.GET_OBJECT_ATTRIBUTES,
        Action.GET_OBJECT_TAGGING,
        Action.GET_OBJECT_ACL,
        Action.LIST_MULTIPART_UPLOAD_PARTS,
    }
)
MOUNT_ACTIONS: Final = frozenset({Action.MOUNT_READ, Action.MOUNT_WRITE})
BOX_ACTIONS: Final = frozenset({Action.ADMIN, Action.METRICS})
S3_ACTIONS: Final = frozenset(Action) - MOUNT_ACTIONS - BOX_ACTIONS


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
