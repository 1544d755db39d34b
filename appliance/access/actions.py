"""S3's actions by their IAM names, then the house's own.

Source: "Actions, resources, and condition keys for Amazon S3" (Service Authorization Reference).  What a route does is
one of these; an operation on a named version has an action of its own where IAM has one.  `OTHER_S3_ACTIONS` are those
of the same reference that no route needs: a policy may name them, as it may on AWS, and they match nothing.
"""

from __future__ import annotations

import enum
from typing import Final


class Action(enum.Enum):
    """What a request does, for authorisation."""

    __hash__ = object.__hash__  # members are singletons; Enum's own is a call of Python in every look-up

    # the service
    LIST_ALL_MY_BUCKETS = "s3:ListAllMyBuckets"
    # a bucket
    CREATE_BUCKET = "s3:CreateBucket"
    DELETE_BUCKET = "s3:DeleteBucket"
    LIST_BUCKET = "s3:ListBucket"  # also HeadBucket
    LIST_BUCKET_VERSIONS = "s3:ListBucketVersions"
    LIST_BUCKET_MULTIPART_UPLOADS = "s3:ListBucketMultipartUploads"
    # a bucket's settings.  Where IAM has no Delete… the Put… covers it: lifecycle, CORS, encryption, tagging, …
    GET_BUCKET_LOCATION = "s3:GetBucketLocation"
    GET_ACCELERATE_CONFIGURATION = "s3:GetAccelerateConfiguration"
    PUT_ACCELERATE_CONFIGURATION = "s3:PutAccelerateConfiguration"
    GET_ANALYTICS_CONFIGURATION = "s3:GetAnalyticsConfiguration"
    PUT_ANALYTICS_CONFIGURATION = "s3:PutAnalyticsConfiguration"
    GET_BUCKET_ABAC = "s3:GetBucketAbac"
    PUT_BUCKET_ABAC = "s3:PutBucketAbac"
    GET_BUCKET_ACL = "s3:GetBucketAcl"
    PUT_BUCKET_ACL = "s3:PutBucketAcl"
    GET_BUCKET_CORS = "s3:GetBucketCORS"
    PUT_BUCKET_CORS = "s3:PutBucketCORS"
    GET_BUCKET_LOGGING = "s3:GetBucketLogging"
    PUT_BUCKET_LOGGING = "s3:PutBucketLogging"
    GET_BUCKET_NOTIFICATION = "s3:GetBucketNotification"
    PUT_BUCKET_NOTIFICATION = "s3:PutBucketNotification"
    GET_BUCKET_OBJECT_LOCK_CONFIGURATION = "s3:GetBucketObjectLockConfiguration"
    PUT_BUCKET_OBJECT_LOCK_CONFIGURATION = "s3:PutBucketObjectLockConfiguration"
    GET_BUCKET_OWNERSHIP_CONTROLS = "s3:GetBucketOwnershipControls"
    PUT_BUCKET_OWNERSHIP_CONTROLS = "s3:PutBucketOwnershipControls"
    GET_BUCKET_POLICY = "s3:GetBucketPolicy"
    PUT_BUCKET_POLICY = "s3:PutBucketPolicy"
    DELETE_BUCKET_POLICY = "s3:DeleteBucketPolicy"
    GET_BUCKET_POLICY_STATUS = "s3:GetBucketPolicyStatus"
    GET_BUCKET_PUBLIC_ACCESS_BLOCK = "s3:GetBucketPublicAccessBlock"
    PUT_BUCKET_PUBLIC_ACCESS_BLOCK = "s3:PutBucketPublicAccessBlock"
    GET_BUCKET_REQUEST_PAYMENT = "s3:GetBucketRequestPayment"
    PUT_BUCKET_REQUEST_PAYMENT = "s3:PutBucketRequestPayment"
    GET_BUCKET_TAGGING = "s3:GetBucketTagging"
    PUT_BUCKET_TAGGING = "s3:PutBucketTagging"
    GET_BUCKET_VERSIONING = "s3:GetBucketVersioning"
    PUT_BUCKET_VERSIONING = "s3:PutBucketVersioning"
    GET_BUCKET_WEBSITE = "s3:GetBucketWebsite"
    PUT_BUCKET_WEBSITE = "s3:PutBucketWebsite"
    DELETE_BUCKET_WEBSITE = "s3:DeleteBucketWebsite"
    GET_ENCRYPTION_CONFIGURATION = "s3:GetEncryptionConfiguration"
    PUT_ENCRYPTION_CONFIGURATION = "s3:PutEncryptionConfiguration"
    GET_INTELLIGENT_TIERING_CONFIGURATION = "s3:GetIntelligentTieringConfiguration"
    PUT_INTELLIGENT_TIERING_CONFIGURATION = "s3:PutIntelligentTieringConfiguration"
    GET_INVENTORY_CONFIGURATION = "s3:GetInventoryConfiguration"
    PUT_INVENTORY_CONFIGURATION = "s3:PutInventoryConfiguration"
    GET_LIFECYCLE_CONFIGURATION = "s3:GetLifecycleConfiguration"
    PUT_LIFECYCLE_CONFIGURATION = "s3:PutLifecycleConfiguration"
    GET_METRICS_CONFIGURATION = "s3:GetMetricsConfiguration"
    PUT_METRICS_CONFIGURATION = "s3:PutMetricsConfiguration"
    GET_REPLICATION_CONFIGURATION = "s3:GetReplicationConfiguration"
    PUT_REPLICATION_CONFIGURATION = "s3:PutReplicationConfiguration"
    # an object
    GET_OBJECT = "s3:GetObject"  # also HeadObject and the source of a copy
    GET_OBJECT_VERSION = "s3:GetObjectVersion"
    GET_OBJECT_ATTRIBUTES = "s3:GetObjectAttributes"
    GET_OBJECT_VERSION_ATTRIBUTES = "s3:GetObjectVersionAttributes"
    PUT_OBJECT = "s3:PutObject"  # also the target of a copy and every step of an upload but its abort
    DELETE_OBJECT = "s3:DeleteObject"
    DELETE_OBJECT_VERSION = "s3:DeleteObjectVersion"
    GET_OBJECT_ACL = "s3:GetObjectAcl"
    GET_OBJECT_VERSION_ACL = "s3:GetObjectVersionAcl"
    PUT_OBJECT_ACL = "s3:PutObjectAcl"
    PUT_OBJECT_VERSION_ACL = "s3:PutObjectVersionAcl"
    GET_OBJECT_TAGGING = "s3:GetObjectTagging"
    GET_OBJECT_VERSION_TAGGING = "s3:GetObjectVersionTagging"
    PUT_OBJECT_TAGGING = "s3:PutObjectTagging"
    PUT_OBJECT_VERSION_TAGGING = "s3:PutObjectVersionTagging"
    DELETE_OBJECT_TAGGING = "s3:DeleteObjectTagging"
    DELETE_OBJECT_VERSION_TAGGING = "s3:DeleteObjectVersionTagging"
    GET_OBJECT_RETENTION = "s3:GetObjectRetention"
    PUT_OBJECT_RETENTION = "s3:PutObjectRetention"
    BYPASS_GOVERNANCE_RETENTION = "s3:BypassGovernanceRetention"
    GET_OBJECT_LEGAL_HOLD = "s3:GetObjectLegalHold"
    PUT_OBJECT_LEGAL_HOLD = "s3:PutObjectLegalHold"
    GET_OBJECT_TORRENT = "s3:GetObjectTorrent"
    GET_OBJECT_VERSION_TORRENT = "s3:GetObjectVersionTorrent"
    RESTORE_OBJECT = "s3:RestoreObject"
    UPDATE_OBJECT_ENCRYPTION = "s3:UpdateObjectEncryption"
    ABORT_MULTIPART_UPLOAD = "s3:AbortMultipartUpload"
    LIST_MULTIPART_UPLOAD_PARTS = "s3:ListMultipartUploadParts"
    # the mount
    MOUNT_READ = "tierce:MountRead"
    MOUNT_WRITE = "tierce:MountWrite"
    # the box
    ADMIN = "tierce:Admin"  # pools, devices, users, keys
    METRICS = "tierce:Metrics"


MOUNT_ACTIONS: Final = frozenset({Action.MOUNT_READ, Action.MOUNT_WRITE})
BOX_ACTIONS: Final = frozenset({Action.ADMIN, Action.METRICS})
S3_ACTIONS: Final = frozenset(Action) - MOUNT_ACTIONS - BOX_ACTIONS
READ_ACTIONS: Final = frozenset(action for action in S3_ACTIONS if action.value.startswith(("s3:Get", "s3:List")))
# Their resource is `bucket/key`; that of all others is the bucket.
OBJECT_ACTIONS: Final = frozenset(
    action for action in S3_ACTIONS if "Object" in action.value and "Bucket" not in action.value
) | {Action.BYPASS_GOVERNANCE_RETENTION, Action.ABORT_MULTIPART_UPLOAD, Action.LIST_MULTIPART_UPLOAD_PARTS}

# What an operation that names a version asks for instead (IAM: "to … a specific version of an object").
OF_VERSION: Final[dict[Action, Action]] = {
    Action.GET_OBJECT: Action.GET_OBJECT_VERSION,
    Action.GET_OBJECT_ATTRIBUTES: Action.GET_OBJECT_VERSION_ATTRIBUTES,
    Action.DELETE_OBJECT: Action.DELETE_OBJECT_VERSION,
    Action.GET_OBJECT_ACL: Action.GET_OBJECT_VERSION_ACL,
    Action.PUT_OBJECT_ACL: Action.PUT_OBJECT_VERSION_ACL,
    Action.GET_OBJECT_TAGGING: Action.GET_OBJECT_VERSION_TAGGING,
    Action.PUT_OBJECT_TAGGING: Action.PUT_OBJECT_VERSION_TAGGING,
    Action.DELETE_OBJECT_TAGGING: Action.DELETE_OBJECT_VERSION_TAGGING,
    Action.GET_OBJECT_TORRENT: Action.GET_OBJECT_VERSION_TORRENT,
}

_OTHERS: Final = """
    CreateBucketMetadataTableConfiguration DeleteBucketMetadataTableConfiguration
    GetBucketMetadataTableConfiguration UpdateBucketMetadataAnnotationTableConfiguration
    UpdateBucketMetadataInventoryTableConfiguration UpdateBucketMetadataJournalTableConfiguration
    GetObjectVersionForReplication InitiateReplication ObjectOwnerOverrideToBucketOwner PauseReplication
    ReplicateDelete ReplicateObject ReplicateTags
    GetObjectAnnotation PutObjectAnnotation DeleteObjectAnnotation ListObjectAnnotations
    ListTagsForResource TagResource UntagResource
"""
OTHER_S3_ACTIONS: Final = frozenset("s3:" + name for name in _OTHERS.split())
