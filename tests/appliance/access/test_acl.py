"""Grants: who gets what by which list, canned lists written out, ownership of what is uploaded."""

from __future__ import annotations

import itertools

from appliance.access import acl, blocks
from appliance.access.acl import ALL_USERS, AUTHENTICATED_USERS, FULL_CONTROL, LOG_DELIVERY, READ, READ_ACP, WRITE
from appliance.model import Grant

OWNER, OTHER = Grant(FULL_CONTROL, user="own"), "oth"


def test_a_permission_is_given_to_whom_the_list_names() -> None:
    rows = [
        ((), "own", READ, False), (acl.NOBODY, "own", READ, False), ((OWNER,), "own", WRITE, True),
        ((OWNER,), OTHER, READ, False), ((OWNER,), None, READ, False),
        ((Grant(READ, user=OTHER),), OTHER, READ, True), ((Grant(READ, user=OTHER),), OTHER, WRITE, False),
        ((Grant(READ, user=OTHER),), OTHER, READ_ACP, False),
        ((Grant(FULL_CONTROL, user=OTHER),), OTHER, READ_ACP, True),
        ((Grant(READ, group=ALL_USERS),), None, READ, True), ((Grant(READ, group=ALL_USERS),), OTHER, READ, True),
        ((Grant(READ, group=ALL_USERS),), None, WRITE, False),
        ((Grant(READ, group=AUTHENTICATED_USERS),), None, READ, False),
        ((Grant(READ, group=AUTHENTICATED_USERS),), OTHER, READ, True),
        ((Grant(FULL_CONTROL, group=LOG_DELIVERY),), OTHER, READ, False),
        ((Grant(FULL_CONTROL, group=LOG_DELIVERY),), None, READ, False),
    ]  # fmt: skip
    assert not [row for row in rows if acl.permits(*row[:3]) != row[3]]


def test_ignored_public_grants_give_nothing() -> None:
    for group, user in itertools.product((ALL_USERS, AUTHENTICATED_USERS), (None, OTHER)):
        assert not acl.permits((Grant(FULL_CONTROL, group=group),), user, READ, ignore_public=True)
    assert acl.permits((Grant(READ, user=OTHER),), OTHER, READ, ignore_public=True)


def test_canned_lists_are_written_out() -> None:
    everybody, known = Grant(READ, group=ALL_USERS), Grant(READ, group=AUTHENTICATED_USERS)
    rows: list[tuple[str, str, acl.Grants]] = [
        ("private", "own", (OWNER,)),
        ("public-read", "own", (everybody, OWNER)),
        ("public-read-write", "own", (everybody, Grant(WRITE, group=ALL_USERS), OWNER)),
        ("authenticated-read", "own", (known, OWNER)),
        ("aws-exec-read", "own", (OWNER,)),
        ("log-delivery-write", "own", (Grant(WRITE, group=LOG_DELIVERY), Grant(READ_ACP, group=LOG_DELIVERY), OWNER)),
        ("bucket-owner-read", "own", (OWNER, Grant(READ, user=OTHER))),
        ("bucket-owner-full-control", "own", (OWNER, Grant(FULL_CONTROL, user=OTHER))),
        ("bucket-owner-read", OTHER, (Grant(FULL_CONTROL, user=OTHER),)),
    ]
    assert {name for name, _, _ in rows} == acl.CANNED
    for name, owner, wanted in rows:
        assert acl.canned(name, owner, OTHER) == wanted, name
        assert acl.public(acl.canned(name, owner, OTHER)) == (name in acl.PUBLIC_CANNED), name


def test_the_default_list_is_stored_as_nothing_and_an_empty_one_is_not() -> None:
    for grants in ((OWNER,), (), (Grant(READ, group=ALL_USERS), OWNER)):
        assert acl.shown(acl.kept(grants, "own"), "own") == grants
        assert acl.parse(acl.encode(acl.kept(grants, "own"))) == acl.kept(grants, "own")
    assert acl.kept((OWNER,), "own") == ()
    assert acl.kept((), "own") == acl.NOBODY


def test_an_upload_belongs_to_whom_the_controls_say() -> None:
    full = acl.OWNER_FULL_CONTROL
    rows = [
        (blocks.ENFORCED, "w", "", "b"), (blocks.ENFORCED, "w", full, "b"), (blocks.PREFERRED, "w", "", "w"),
        (blocks.PREFERRED, "w", full, "b"), (blocks.PREFERRED, "w", "private", "w"), (blocks.WRITER, "w", full, "w"),
        (blocks.WRITER, "", "", "b"), (blocks.WRITER, "b", "", "b"),
    ]  # fmt: skip
    for ownership, writer, canned, wanted in rows:
        assert blocks.object_owner(ownership, writer, "b", canned) == wanted, (ownership, writer, canned)


def test_what_is_stored_is_read_back() -> None:
    assert blocks.parse(None) == blocks.OPEN
    for switches in itertools.product((False, True), repeat=4):
        block = blocks.PublicAccessBlock(*switches)
        assert blocks.parse(blocks.encode(block)) == block
    assert blocks.parse_ownership(None) == blocks.WRITER
    assert [blocks.parse_ownership(name.encode()) for name in blocks.OWNERSHIPS] == list(blocks.OWNERSHIPS)
