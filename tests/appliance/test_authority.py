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
TABLE: dict[Action, tuple[set[str], set[str], set[str]]] = {
    Action.LIST_ALL_MY_BUCKETS: (READ_MINE, {"operator"}, {"operator"}),
    Action.CREATE_BUCKET: ({"operator"}, WRITE_MINE, WRITE),
    Action.DELETE_BUCKET: ({"operator"}, WRITE_MINE, WRITE),
    Action.GET_BUCKET_LOCATION: ({"operator"}, READ_MINE, READ),
    Action.GET_BUCKET_CONFIGURATION: ({"operator"}, READ_MINE, READ),
    Action.PUT_BUCKET_CONFIGURATION: ({"operator"}, WRITE_MINE, WRITE),
    Action.LIST_BUCKET: ({"operator"}, READ_MINE, READ),
    Action.LIST_BUCKET_VERSIONS: ({"operator"}, READ_MINE, READ),
    Action.LIST_BUCKET_MULTIPART_UPLOADS: ({"operator"}, READ_MINE, READ),
    Action.GET_OBJECT: ({"operator"}, READ_MINE, READ),
    Action.GET_OBJECT_ATTRIBUTES: ({"operator"}, READ_MINE, READ),
    Action.GET_OBJECT_TAGGING: ({"operator"}, READ_MINE, READ),
    Action.GET_OBJECT_ACL: ({"operator"}, READ_MINE, READ),
    Action.LIST_MULTIPART_UPLOAD_PARTS: ({"operator"}, READ_MINE, READ),
    Action.PUT_OBJECT: ({"operator"}, WRITE_MINE, WRITE),
    Action.PUT_OBJECT_TAGGING: ({"operator"}, WRITE_MINE, WRITE),
    Action.PUT_OBJECT_ACL: ({"operator"}, WRITE_MINE, WRITE),
    Action.DELETE_OBJECT: ({"operator"}, WRITE_MINE, WRITE),
    Action.ABORT_MULTIPART_UPLOAD: ({"operator"}, WRITE_MINE, WRITE),
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


@pytest.mark.parametrize("action", Action, ids=lambda action: action.value)
@pytest.mark.parametrize("who", PRINCIPALS)
def test_every_action_by_every_principal(action: Action, who: str) -> None:
    for bucket, expected in zip((None, "mine", "other"), TABLE[action], strict=True):
        assert allowed(PRINCIPALS[who], action, bucket) == (who in expected), (who, action, bucket)


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
