"""Superblocks: what is encoded comes back; what is damaged is found; the right one of several is chosen."""

from __future__ import annotations

from itertools import chain

import msgspec
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import Code, StoreError
from appliance.limits import MIB
from appliance.ondisk import superblock
from appliance.ondisk.damaged import DamagedError
from appliance.ondisk.geometry import SLOT, plan
from appliance.ondisk.superblock import Member, SnapshotPointer, Superblock, choose, decode, encode
from tests.appliance.ondisk.samples import SUPERBLOCK, flips
from tests.rows import rows

u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)
uuids = st.binary(min_size=16, max_size=16)
tiers = st.sampled_from(("blaze", "bulk"))
members = st.builds(
    Member,
    id=u32,
    uuid=uuids,
    tier=tiers,
    size=u64,
    journal=st.booleans(),
    state=st.sampled_from(("online", "missing", "failed")),
    hint=st.text(max_size=80),
)
snapshots = st.builds(
    SnapshotPointer, u64, u64, st.lists(st.tuples(u32, u64, u64, uuids), max_size=3).map(lambda pages: tuple(pages))
)
superblocks = st.builds(
    Superblock,
    compatible=u64,
    read_only_features=u64,
    generation=u64,
    pool=uuids,
    device=uuids,
    device_id=u32,
    geometry=st.builds(plan, st.integers(64 * MIB, 1 << 46), journal=st.booleans()),
    tier=tiers,
    state=st.sampled_from(("clean", "open", "failed")),
    epoch=u64,
    ring_tail_seq=u64,
    ring_tail_offset=u64,
    applied_seq=u64,
    created_ns=st.integers(-(1 << 63), (1 << 63) - 1),
    pool_name=st.text(max_size=60),
    copies=st.integers(1, 3),
    members=st.lists(members, max_size=20).map(lambda each: tuple(each)),
    snapshot=st.none() | snapshots,
)


def resealed(slot: bytes, offset: int, replacement: bytes) -> bytes:
    """`slot` as a program would have written it that puts `replacement` at `offset`."""
    content = bytearray(slot[: -superblock.DIGEST])
    content[offset : offset + len(replacement)] = replacement
    return bytes(content) + blake3(content).digest()


@given(superblocks)
def test_round_trip(sb: Superblock) -> None:
    slot = encode(sb)
    assert len(slot) == SLOT
    assert decode(slot) == sb


@pytest.mark.slow
def test_every_flipped_bit_is_found() -> None:
    slot = encode(SUPERBLOCK)
    head_and_body, tail = range(2048 * 8), range((SLOT - 64) * 8, SLOT * 8)
    between = range(2048 * 8, (SLOT - 64) * 8, 997)
    for damaged in flips(slot, chain(head_and_body, between, tail)):
        with pytest.raises(DamagedError):
            decode(damaged)


@rows("length", [0, 8, SLOT - 1, SLOT + 1])
def test_a_slot_of_another_length_is_none(length: int) -> None:
    with pytest.raises(DamagedError):
        decode(encode(SUPERBLOCK)[:length].ljust(length, b"\0"))


def test_an_unknown_version_is_named() -> None:
    for version, told in ((1, "an older version of Tierce: it has format 1"), (3, "a newer version of Tierce")):
        slot = resealed(encode(SUPERBLOCK), 8, version.to_bytes(4, "little"))
        with pytest.raises(StoreError, match=told) as caught:
            decode(slot)
        assert caught.value.code is Code.OLD_FORMAT


def test_an_unknown_incompatible_feature_is_named() -> None:
    with pytest.raises(StoreError) as caught:
        decode(encode(msgspec.structs.replace(SUPERBLOCK, incompatible=1 << 9)))
    assert caught.value.code is Code.OLD_FORMAT
    assert "0x200" in caught.value.message


def test_other_unknown_features_are_no_reason_to_refuse() -> None:
    assert not SUPERBLOCK.read_only
    sb = decode(encode(msgspec.structs.replace(SUPERBLOCK, compatible=1 << 40, read_only_features=4)))
    assert sb.read_only


def test_what_a_later_program_adds_to_the_body_is_ignored() -> None:
    slot = encode(SUPERBLOCK)
    length = int.from_bytes(slot[12:16], "little")
    body = slot[superblock.BODY_OFFSET : superblock.BODY_OFFSET + length]
    longer = body[:-1] + b',"colour":"blue"}'
    slot = resealed(slot, superblock.BODY_OFFSET, longer)
    slot = resealed(slot, 12, len(longer).to_bytes(4, "little"))
    assert decode(slot) == SUPERBLOCK


@rows(
    ("offset", "replacement"),
    [
        (12, b"\xff\xff\xff\xff"),  # body length
        (12, b"\x05\0\0\0"),  # cut body
        (80, bytes(8)),  # size
        (88, bytes(8)),  # region size
        (88, b"\1\0\0\1\0\0\0\0"),
        (96, bytes(8)),  # ring start
        (104, b"\xff" * 8),  # ring length
        (112, b"\xff" * 8),  # pages start
        (120, bytes(8)),  # pages end
        (120, b"\xff" * 8),
        (168, b"\0\x20\0\0"),  # allocation unit
        (176, b"\2"),  # tier
        (177, b"\3"),  # state
        (superblock.BODY_OFFSET, b"["),
    ],
)
def test_a_whole_slot_of_nonsense_is_damaged(offset: int, replacement: bytes) -> None:
    with pytest.raises(DamagedError):
        decode(resealed(encode(SUPERBLOCK), offset, replacement))


def test_the_highest_undamaged_generation_wins() -> None:
    old, new, newest = (encode(msgspec.structs.replace(SUPERBLOCK, generation=n)) for n in (8, 9, 10))
    torn = newest[: SLOT // 2] + new[SLOT // 2 :]
    torn = torn[:-1] + bytes([torn[-1] ^ 1])
    chosen = choose([old, torn, new, bytes(SLOT)])
    assert chosen is not None
    assert chosen.generation == 9


def test_none_is_chosen_from_nothing() -> None:
    assert choose([]) is None
    assert choose([bytes(SLOT), b"", b"\xff" * SLOT]) is None


def test_a_newest_slot_of_an_unknown_version_is_not_passed_over() -> None:
    later = msgspec.structs.replace(SUPERBLOCK, generation=SUPERBLOCK.generation + 1)
    slots = [encode(SUPERBLOCK), resealed(encode(later), 8, b"\3\0\0\0")]
    with pytest.raises(StoreError) as caught:
        choose(slots)
    assert caught.value.code is Code.OLD_FORMAT
    earlier = msgspec.structs.replace(SUPERBLOCK, generation=1)
    assert choose([encode(SUPERBLOCK), resealed(encode(earlier), 8, b"\2\0\0\0")]) == SUPERBLOCK


def test_a_torn_update_leaves_a_whole_superblock() -> None:
    """Whatever subset of the writes since the last flush arrives, the old or the new one is chosen (WRITE_ORDER)."""
    old, new = encode(SUPERBLOCK), encode(msgspec.structs.replace(SUPERBLOCK, generation=SUPERBLOCK.generation + 1))
    torn = new[:4096] + old[4096:]
    stable = [old] * 4
    for pair in superblock.WRITE_ORDER:
        for first in (old, torn, new):
            for second in (old, torn, new):
                slots = list(stable)
                slots[pair[0]], slots[pair[1]] = first, second
                chosen = choose(slots)
                assert chosen is not None
                assert encode(chosen) in (old, new)
                assert encode(chosen) == new or new not in slots
        for index in pair:
            stable[index] = new
    assert stable == [new] * 4


def test_pairs_lie_at_both_ends() -> None:
    assert sorted(chain.from_iterable(superblock.WRITE_ORDER)) == [0, 1, 2, 3]
    for pair in superblock.WRITE_ORDER:
        assert min(pair) < 2 <= max(pair)


def test_too_many_devices_are_refused() -> None:
    member = Member(1, bytes(16), "bulk", 1 << 40, journal=False, hint="x" * 100)
    assert len(encode(msgspec.structs.replace(SUPERBLOCK, members=(member,) * 250))) == SLOT
    with pytest.raises(StoreError) as caught:
        encode(msgspec.structs.replace(SUPERBLOCK, members=(member,) * 400))
    assert caught.value.code is Code.TOO_LARGE
