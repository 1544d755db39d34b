"""The free map against a set of units, with regions loaded and forgotten at every moment."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from appliance.errors import Code, StoreError
from appliance.limits import GIB, MIB
from appliance.space import free_map
from appliance.space.free_map import UNIT, FreeMap
from tests.effort import examples

REGION = 16 * UNIT


class Claims:
    """What isn't free, as the owner of a free map knows it."""

    def __init__(self) -> None:
        self.extents: dict[int, int] = {}
        self.loads: list[tuple[int, int]] = []

    def load(self, low: int, high: int) -> Iterable[tuple[int, int]]:
        self.loads.append((low, high))
        return [(offset, length) for offset, length in reversed(self.extents.items()) if low <= offset < high]


class FreeMapMachine(RuleBasedStateMachine):
    """Reserve, release and claim in any order.  The pages begin and end in the middle of a region."""

    def __init__(self) -> None:
        super().__init__()
        # So small that lists come and go, and with few enough regions that `reserve` never gives up unseen runs.
        self.patch = mock.patch.multiple(free_map, LOADED_MAX=4, SIZE_CLASSES=(2 * UNIT, 5 * UNIT), HIDDEN_MAX=8)
        self.patch.start()

    def teardown(self) -> None:
        self.patch.stop()

    @initialize(
        start=st.integers(0, 20),
        length=st.integers(1, 7 * 16),
        used=st.lists(st.tuples(st.integers(0, 130), st.integers(1, 16)), max_size=30),
    )
    def begin(self, start: int, length: int, used: list[tuple[int, int]]) -> None:
        self.free = set(range(start, start + length))
        self.claims = Claims()
        self.start = start
        by_region: dict[int, int] = {}
        for first, count in used:
            units = set(range(first, first + count))
            if units <= self.free and first // 16 == (first + count - 1) // 16:
                self.free -= units
                self.claims.extents[first * UNIT] = count * UNIT
                region = first // 16 - start // 16
                by_region[region] = by_region.get(region, 0) + count * UNIT
        self.map = FreeMap(start * UNIT, (start + length) * UNIT, REGION, by_region, self.claims.load)

    def fits(self, count: int) -> bool:
        """True if `count` free units follow one another inside one region."""
        return any(
            all(first + i in self.free for i in range(count)) and first // 16 == (first + count - 1) // 16
            for first in self.free
        )

    @rule(count=st.integers(1, 17))
    def reserve(self, count: int) -> None:
        fits = self.fits(count)
        offset = self.map.reserve(count * UNIT)
        assert (offset is not None) == fits
        if offset is not None:
            assert offset % UNIT == 0
            first = offset // UNIT
            units = set(range(first, first + count))
            assert units <= self.free, "I6: not free"
            assert first // 16 == (first + count - 1) // 16, "straddles a region"
            self.free -= units
            self.claims.extents[offset] = count * UNIT

    @precondition(lambda self: self.claims.extents)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(sorted(self.claims.extents)))
        length = self.claims.extents.pop(offset)
        self.map.release(offset, length)
        self.free |= set(range(offset // UNIT, (offset + length) // UNIT))

    @precondition(lambda self: self.free)
    @rule(data=st.data(), count=st.integers(1, 4))
    def claim(self, data: st.DataObject, count: int) -> None:
        first = data.draw(st.sampled_from(sorted(self.free)))
        units = set(range(first, first + count))
        if units <= self.free and first // 16 == (first + count - 1) // 16:
            self.map.claim(first * UNIT, count * UNIT)
            self.free -= units
            self.claims.extents[first * UNIT] = count * UNIT

    @rule()
    def forget(self) -> None:
        """As if other regions had pushed the lists out."""
        while any(region not in self.map._active for region in self.map._lists):
            self.map._evict()

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "map"):
            assert self.map.free == len(self.free) * UNIT
            statistics = self.map.statistics()
            assert statistics["free"] == sum(self.map._free)
            assert statistics["loaded"] <= 4
            assert (self.map.largest() > 0) == bool(self.free)


TestFreeMap = FreeMapMachine.TestCase
TestFreeMap.settings = settings(max_examples=examples(40), stateful_step_count=40, deadline=None)


@pytest.mark.slow
def test_free_map_at_length() -> None:
    run_state_machine_as_test(
        FreeMapMachine, settings=settings(max_examples=examples(500), stateful_step_count=80, deadline=None)
    )


def empty(start: int, end: int, region_size: int = GIB) -> tuple[FreeMap, Claims]:
    claims = Claims()
    return FreeMap(start, end, region_size, {}, claims.load), claims


def reserve(free: FreeMap, claims: Claims, length: int) -> int:
    offset = free.reserve(length)
    assert offset is not None
    claims.extents[offset] = length
    return offset


def test_extents_reserved_one_after_the_other_are_neighbours() -> None:
    free, claims = empty(0, 4 * GIB)
    offsets = [reserve(free, claims, 4 * MIB + UNIT) for _ in range(20)]
    assert all(b - a == 4 * MIB + UNIT for a, b in itertools.pairwise(offsets))


def test_size_classes_have_regions_of_their_own() -> None:
    free, claims = empty(0, 4 * GIB)
    regions = {reserve(free, claims, length) // GIB for length in (UNIT, 128 * 1024, 4 * MIB)}
    assert len(regions) == 3


def test_a_device_with_one_region_serves_all_classes() -> None:
    free, claims = empty(0, 64 * MIB)
    assert len({reserve(free, claims, length) for length in (UNIT, 128 * 1024, 4 * MIB)}) == 3


def test_the_search_goes_on_from_the_last_find_and_around_the_end() -> None:
    free, claims = empty(0, 8 * UNIT, 8 * UNIT)
    for _ in range(8):
        reserve(free, claims, UNIT)
    for unit in (0, 1, 2, 4, 6, 7):
        free.release(unit * UNIT, claims.extents.pop(unit * UNIT))
    assert [reserve(free, claims, 2 * UNIT) // UNIT for _ in range(2)] == [0, 6]
    free.release(0, claims.extents.pop(0))
    assert reserve(free, claims, 2 * UNIT) == 0


def test_a_search_in_vain_is_remembered() -> None:
    claims = Claims()
    claims.extents = {unit * UNIT: UNIT for unit in range(0, 64, 2)}
    free = FreeMap(0, 64 * UNIT, 16 * UNIT, dict.fromkeys(range(4), 8 * UNIT), claims.load)
    assert free.largest() == 8 * UNIT, "an upper bound before anything is loaded"
    assert free.reserve(2 * UNIT) is None
    assert free.largest() == UNIT
    assert len(claims.loads) == 4
    free._evict()
    assert free.reserve(2 * UNIT) is None
    assert len(claims.loads) == 4


def test_release_into_an_unloaded_region_loads_nothing() -> None:
    claims = Claims()
    claims.extents = {0: MIB, GIB: MIB}
    free = FreeMap(0, 2 * GIB, GIB, {0: MIB, 1: MIB}, claims.load)
    del claims.extents[GIB]
    free.release(GIB, MIB)
    assert claims.loads == []
    assert free.free == 2 * GIB - MIB


def test_a_run_hidden_by_small_releases_is_found_before_giving_up() -> None:
    claims = Claims()
    units = 4096
    claims.extents = {unit * UNIT: UNIT for unit in range(units)}
    free = FreeMap(0, units * UNIT, units * UNIT, {0: units * UNIT}, claims.load)
    assert free.reserve(8 * MIB) is None
    for offset in list(claims.extents):
        del claims.extents[offset]
        free.release(offset, UNIT)
    assert free.largest() == UNIT
    assert free.reserve(8 * MIB) == 0


@pytest.mark.parametrize(("offset", "length"), [(0, UNIT), (16 * UNIT, UNIT), (8 * UNIT, 4 * UNIT)])
def test_releasing_what_is_free_fails_i7(offset: int, length: int) -> None:
    free, claims = empty(0, 64 * UNIT, 64 * UNIT)
    free.claim(10 * UNIT, 4 * UNIT)
    claims.extents[10 * UNIT] = 4 * UNIT
    with pytest.raises(AssertionError, match="I7"):
        free.release(offset, length)


def test_claiming_what_is_not_free_fails_i7() -> None:
    free, _ = empty(0, 64 * UNIT, 64 * UNIT)
    free.claim(0, 4 * UNIT)
    for offset, length in ((0, UNIT), (3 * UNIT, 2 * UNIT)):
        with pytest.raises(AssertionError, match="I7"):
            free.claim(offset, length)


def test_claims_that_disagree_with_the_count_fail_i7() -> None:
    claims = Claims()
    claims.extents = {0: 2 * UNIT}
    free = FreeMap(0, 64 * UNIT, 64 * UNIT, {0: UNIT}, claims.load)
    with pytest.raises(AssertionError, match="I7"):
        free.reserve(UNIT)


@pytest.mark.parametrize("used", [{0: 65 * UNIT}, {1: UNIT}, {-1: UNIT}])
def test_a_catalogue_that_claims_too_much_is_damaged(used: dict[int, int]) -> None:
    with pytest.raises(StoreError) as caught:
        FreeMap(0, 64 * UNIT, 64 * UNIT, used, Claims().load)
    assert caught.value.code is Code.DAMAGED


def test_a_device_without_pages_reserves_nothing() -> None:
    free, _ = empty(4 * UNIT, 4 * UNIT)
    assert (free.size, free.free, free.reserve(UNIT)) == (0, 0, None)
