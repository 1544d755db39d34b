"""Every action by every kind of principal, against a table written by hand: default deny."""

from __future__ import annotations

import pytest

from appliance.authority import (
    MOUNT,
    OPERATOR,
    READ_ACTIONS,
    Action,
    Principal,
    Standing,
    authorize,
    principal_of,
    visible,
)
from appliance.errors import Code, StoreError
from appliance.model import AccessKey

ANONYMOUS = None
FULL = Principal("TCFULL", "default")
READER = Principal("TCREAD", "default", read_only=True)
BOUND = Principal("TCBOUND", "default", buckets=("mine",))
BOUND_READER = Principal("TCBOTH", "default", read_only=True, buckets=("mine",))
READING_MOUNT = Principal("", "default", read_only=True, standing=Standing.MOUNT)

PRINCIPALS: dict[str, Principal | None] = {
    "anonymous": ANONYMOUS,
    "full": FULL,
    "reader": READER,
    "bound": BOUND,
    "bound reader": BOUND_READER,
    "mount": MOUNT,
    "reading mount": READING_MOUNT,
    "operator": OPERATOR,
}

READ = {"full", "reader", "operator"}
READ_MINE = READ | {"bound", "bound reader"}
WRITE = {"full", "operator"}
WRITE_MINE = WRITE | {"bound"}

# action -> who may, on (no bucket, the bucket "mine", the bucket "other")
Row = tuple[set[str], set[str], set[str]]
READS = """
    GetBucketLocation GetAccelerateConfiguration GetAnalyticsConfiguration GetBucketAbac GetBucketAcl GetBucketCORS
    GetBucketLogging GetBucketNotification GetBucketObjectLockConfiguration GetBucketOwnershipControls GetBucketPolicy
    GetBucketPolicyStatus GetBucketPublicAccessBlock GetBucketRequestPayment GetBucketTagging GetBucketVersioning
    GetBucketWebsite GetEncryptionConfiguration GetIntelligentTieringConfiguration GetInventoryConfiguration
    GetLifecycleConfiguration GetMetricsConfiguration GetReplicationConfiguration
    ListBucket ListBucketVersions ListBucketMultipartUploads ListMultipartUploadParts
    GetObject GetObjectVersion GetObjectAttributes GetObjectVersionAttributes GetObjectAcl GetObjectVersionAcl
    GetObjectTagging GetObjectVersionTagging GetObjectRetention GetObjectLegalHold GetObjectTorrent
    GetObjectVersionTorrent
"""
WRITES = """
    CreateBucket DeleteBucket PutAccelerateConfiguration PutAnalyticsConfiguration PutBucketAbac PutBucketAcl
    PutBucketCORS PutBucketLogging PutBucketNotification PutBucketObjectLockConfiguration PutBucketOwnershipControls
    PutBucketPolicy DeleteBucketPolicy PutBucketPublicAccessBlock PutBucketRequestPayment PutBucketTagging
    PutBucketVersioning PutBucketWebsite DeleteBucketWebsite PutEncryptionConfiguration
    PutIntelligentTieringConfiguration PutInventoryConfiguration PutLifecycleConfiguration PutMetricsConfiguration
    PutReplicationConfiguration
    PutObject DeleteObject DeleteObjectVersion PutObjectAcl PutObjectVersionAcl PutObjectTagging
    PutObjectVersionTagging DeleteObjectTagging DeleteObjectVersionTagging PutObjectRetention
    BypassGovernanceRetention PutObjectLegalHold RestoreObject UpdateObjectEncryption AbortMultipartUpload
"""
TABLE: dict[Action, Row] = {
    Action.LIST_ALL_MY_BUCKETS: (READ_MINE, {"operator"}, {"operator"}),
    **{Action("s3:" + name): ({"operator"}, READ_MINE, READ) for name in READS.split()},
    **{Action("s3:" + name): ({"operator"}, WRITE_MINE, WRITE) for name in WRITES.split()},
    Action.MOUNT_READ: (
        {"operator"},
        {"operator", "mount", "reading mount"},
        {"operator", "mount", "reading mount"},
    ),
    Action.MOUNT_WRITE: ({"operator"}, {"operator", "mount"}, {"operator", "mount"}),
    Action.ADMIN: ({"operator"}, {"operator"}, {"operator"}),
    Action.METRICS: ({"operator"}, {"operator"}, {"operator"}),
}


def allowed(principal: Principal | None, action: Action, bucket: str | None) -> bool:
    try:
        authorize(principal, action, bucket)
    except StoreError as error:
        if error.code is not Code.ACCESS_DENIED:
            raise
        return False
    return True


def test_the_table_has_every_action() -> None:
    assert set(TABLE) == set(Action)


def test_every_action_by_every_principal() -> None:
    for action, row in TABLE.items():
        for bucket, expected in zip((None, "mine", "other"), row, strict=True):
            found = {who for who, principal in PRINCIPALS.items() if allowed(principal, action, bucket)}
            assert found == expected, (action, bucket)


def test_an_anonymous_request_may_do_nothing() -> None:
    assert not any(allowed(None, action, bucket) for action in Action for bucket in (None, "mine"))


def test_no_restriction_widens_what_a_key_may_do() -> None:
    """Rule 18: an option combination never turns authorisation off."""
    for action in Action:
        for bucket in (None, "mine", "other"):
            for principal in (READER, BOUND, BOUND_READER):
                assert allowed(principal, action, bucket) <= allowed(FULL, action, bucket)
            assert allowed(BOUND_READER, action, bucket) <= allowed(READER, action, bucket)
            assert allowed(BOUND_READER, action, bucket) <= allowed(BOUND, action, bucket)


def test_a_read_only_key_reads_and_nothing_else() -> None:
    assert {action for action in Action if allowed(READER, action, "mine") or allowed(READER, action, None)} == (
        READ_ACTIONS
    )


def test_a_refusal_says_nothing_of_its_reason_to_the_client() -> None:
    with pytest.raises(StoreError) as caught:
        authorize(BOUND, Action.GET_OBJECT, "other")
    assert caught.value.message == Code.ACCESS_DENIED.value
    assert "other" in caught.value.cause


def test_a_principal_carries_its_keys_bounds() -> None:
    key = AccessKey("TCX", "x", "anna", 0, b"sealed", True, ("mine",))
    assert principal_of(key) == Principal("TCX", "anna", True, ("mine",))
    assert visible(principal_of(key), "mine")
    assert not visible(principal_of(key), "other")
    assert visible(FULL, "other")
