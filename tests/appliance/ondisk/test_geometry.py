"""The zones of a device, for every size."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.errors import Code, StoreError
from appliance.limits import GIB, KIB, MIB, TIB
from appliance.ondisk import geometry
from appliance.ondisk.geometry import SLOT, UNIT, plan, round_up, slot_offsets
from tests.rows import rows

sizes = st.integers(geometry.SIZE_MIN, 100 * GIB) | st.integers(geometry.SIZE_MIN, 30 * TIB)


@given(size=sizes, journal=st.booleans())
@example(size=64 * MIB, journal=True)
@example(size=64 * MIB, journal=False)
@example(size=64 * MIB + 1, journal=True)
def test_zones_follow_each_other_and_fit(size: int, journal: bool) -> None:
    zones = plan(size, journal=journal)
    slots = zones.slots()
    assert zones.is_sound()
    assert slots[0] == MIB
    assert slots[1] + SLOT <= zones.ring_start
    assert zones.ring_start + zones.ring_length <= zones.pages_start < zones.pages_end <= slots[2]
    assert size - (slots[3] + SLOT) >= MIB + 5 * 4096  # the backup partition table and to spare
    assert all(offset % SLOT == 0 for offset in slots)
    assert (zones.ring_length > 0) == journal
    assert zones.ring_length <= size // 8
    assert (zones.pages_end - zones.pages_start) >= size * 3 // 4


@given(size=sizes, journal=st.booleans(), data=st.data())
def test_regions_partition_the_pages(size: int, journal: bool, data: st.DataObject) -> None:
    zones = plan(size, journal=journal)
    count = zones.regions()
    assert zones.region_bounds(0)[0] == zones.pages_start
    assert zones.region_bounds(count - 1)[1] == zones.pages_end
    index = data.draw(st.integers(0, count - 1))
    lo, hi = zones.region_bounds(index)
    assert lo < hi <= lo + zones.region_size
    if index + 1 < count:
        assert zones.region_bounds(index + 1)[0] == hi
    assert zones.region_of(lo) == zones.region_of(hi - 1) == index
    offset = data.draw(st.integers(lo, hi - 1))
    assert zones.region_of(offset) == index


@rows(
    ("size", "region", "ring"),
    [
        (64 * MIB, 16 * MIB, 8 * MIB),
        (256 * MIB, 16 * MIB, 32 * MIB),
        (GIB - 1, 16 * MIB, 64 * MIB),
        (GIB, 64 * MIB, 64 * MIB),
        (64 * GIB - 1, 64 * MIB, 655 * MIB),
        (64 * GIB, GIB, 655 * MIB),
        (200 * GIB, GIB, GIB),
        (10 * TIB, GIB, GIB),
    ],
)
def test_defaults(size: int, region: int, ring: int) -> None:
    zones = plan(size, journal=True)
    assert (zones.region_size, zones.ring_length) == (region, ring)


def test_too_small_a_device_is_refused_with_both_sizes() -> None:
    with pytest.raises(StoreError) as caught:
        plan(64 * MIB - 1, journal=False)
    assert caught.value.code is Code.WRONG_DEVICE
    assert "67,108,863" in caught.value.message
    assert "64 MiB" in caught.value.message


@rows("ring", [0, 4096, 64 * KIB - 4096, 64 * KIB + 1, 33 * MIB])
def test_impossible_journal_lengths(ring: int) -> None:
    with pytest.raises(StoreError) as caught:
        plan(64 * MIB, journal=True, ring_length=ring)
    assert caught.value.code is Code.INVALID_ARGUMENT


@rows("region", [0, 4 * MIB, 8 * MIB + UNIT, -8 * MIB])
def test_impossible_region_sizes(region: int) -> None:
    with pytest.raises(StoreError) as caught:
        plan(64 * MIB, journal=True, region_size=region)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_chosen_lengths_are_taken() -> None:
    zones = plan(64 * MIB, journal=True, ring_length=256 * KIB, region_size=8 * MIB)
    assert (zones.ring_length, zones.region_size) == (256 * KIB, 8 * MIB)
    assert zones.pages_start == 3 * MIB


@given(count=st.integers(0, 1 << 50), unit=st.integers(1, 1 << 20))
def test_round_up_is_the_least_multiple(count: int, unit: int) -> None:
    rounded = round_up(count, unit)
    assert rounded % unit == 0
    assert 0 <= rounded - count < unit


def test_slots_lie_at_both_ends() -> None:
    assert slot_offsets(64 * MIB) == (MIB, MIB + SLOT, 62 * MIB, 62 * MIB + SLOT)
    assert slot_offsets(65 * MIB - 1) == slot_offsets(64 * MIB)
