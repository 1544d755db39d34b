"""The allocator beside a catalogue of rows that changes at COMMITs, not at the allocator's calls."""

from __future__ import annotations

import contextlib
import threading
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
from appliance.space import free_map
from appliance.space.allocator import Allocator
from appliance.space.free_map import UNIT
from tests.effort import examples

REGION = 16 * UNIT
SIZE = 5 * REGION
DEVICES = (1, 2)
Extent = tuple[int, int, int]


class AllocatorMachine(RuleBasedStateMachine):
    """Every extent is in one of: free, reserved, row, pending.  Rows move at COMMIT; the calls follow as separate
    steps, and at every step between any region may be loaded."""

    def __init__(self) -> None:
        super().__init__()
        # Lists come and go, and no run stays hidden: five regions a device.
        self.patch = mock.patch.multiple(free_map, LOADED_MAX=4, HIDDEN_MAX=5)
        self.patch.start()
        self.rows: dict[tuple[int, int], int] = {}  # what a reader of the catalogue sees
        self.free = {(device, unit) for device in DEVICES for unit in range(SIZE // UNIT)}
        self.reserved: dict[tuple[int, int], int] = {}
        self.standing: dict[tuple[int, int], int] = {}  # durable, COMMIT not done
        self.committed: dict[tuple[int, int], int] = {}  # COMMIT is done, `commit` not yet called
        self.stood: dict[tuple[int, int], int] = {}  # the same, of those that stood before it
        self.freeing: dict[tuple[int, int], int] = {}  # begin_free called, COMMIT not done
        self.freed: dict[tuple[int, int], int] = {}  # COMMIT is done, `release` not yet called
        self.allocator = Allocator(contextlib.nullcontext(), ceiling=1.0)

    def teardown(self) -> None:
        self.patch.stop()

    def load(self, device: int, low: int, high: int) -> Iterable[tuple[int, int]]:
        return [
            (offset, length)
            for (where, offset), length in self.rows.items()
            if where == device and low <= offset < high
        ]

    @initialize(rows=st.sets(st.tuples(st.sampled_from(DEVICES), st.integers(0, SIZE // UNIT // 4 - 1))))
    def begin(self, rows: set[tuple[int, int]]) -> None:
        used: dict[int, dict[int, int]] = {device: {} for device in DEVICES}
        for device, number in rows:
            offset = number * 4 * UNIT
            self.rows[device, offset] = 3 * UNIT
            self.free -= self.units(device, offset, 3 * UNIT)
            used[device][offset // REGION] = used[device].get(offset // REGION, 0) + 3 * UNIT
        for device in DEVICES:
            self.allocator.add(device, 0, SIZE, REGION, used[device], self.load)

    @staticmethod
    def units(device: int, offset: int, length: int) -> set[tuple[int, int]]:
        return {(device, unit) for unit in range(offset // UNIT, (offset + length) // UNIT)}

    def take(self, data: st.DataObject, extents: dict[tuple[int, int], int]) -> list[Extent]:
        keys = data.draw(st.lists(st.sampled_from(sorted(extents)), unique=True, min_size=1, max_size=4))
        return [(*key, extents.pop(key)) for key in keys]

    @rule(device=st.sampled_from(DEVICES), count=st.integers(1, 8), urgent=st.booleans())
    def reserve(self, device: int, count: int, urgent: bool) -> None:
        free = {unit for where, unit in self.free if where == device}
        starts = [unit for unit in free if unit % 16 + count <= 16 and all(unit + i in free for i in range(count))]
        if not starts:
            with pytest.raises(StoreError) as caught:
                self.allocator.reserve(device, count * UNIT, urgent=urgent)
            assert caught.value.code is Code.NO_SPACE
            return
        offset = self.allocator.reserve(device, count * UNIT, urgent=urgent)
        units = self.units(device, offset, count * UNIT)
        assert units <= self.free, "I5, I6: not free"
        self.free -= units
        self.reserved[device, offset] = count * UNIT

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def divide(self, data: st.DataObject) -> None:
        [(device, offset, length)] = self.take(data, {key: self.reserved[key] for key in [min(self.reserved)]})
        del self.reserved[device, offset]
        parts = data.draw(
            st.lists(st.integers(1, 3).map(lambda n: n * UNIT), max_size=4).filter(lambda p: sum(p) <= length)
        )
        position = offset
        for start, part in zip(self.allocator.divide(device, offset, parts), parts, strict=True):
            assert start == position
            self.reserved[device, start] = part
            position += part
        self.free |= self.units(device, position, offset + length - position)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def forfeit(self, data: st.DataObject) -> None:
        for device, offset, length in self.take(data, self.reserved):
            self.allocator.forfeit(device, offset)
            self.free |= self.units(device, offset, length)

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def stand(self, data: st.DataObject) -> None:
        for device, offset, length in self.take(data, self.reserved):
            self.allocator.stand(device, offset)
            self.standing[device, offset] = length

    @rule(data=st.data())
    def begin_free(self, data: st.DataObject) -> None:
        live = {
            key: n
            for key, n in (self.rows | self.standing).items()
            if key not in self.freeing and key not in self.committed
        }
        if live:
            extents = self.take(data, live)
            self.allocator.begin_free(extents)
            self.freeing |= {(device, offset): length for device, offset, length in extents}

    @precondition(lambda self: self.freeing)
    @rule(data=st.data())
    def cancel_free(self, data: st.DataObject) -> None:
        self.allocator.cancel_free(self.take(data, self.freeing))

    @rule(data=st.data(), everything=st.booleans())
    def sqlite_commit(self, data: st.DataObject, everything: bool) -> None:
        """New rows appear and freed rows vanish for every reader at once; no call is made."""
        chosen = set(self.reserved) if everything else {key for key in self.reserved if data.draw(st.booleans())}
        for key in chosen:
            self.committed[key] = self.rows[key] = self.reserved.pop(key)
        self.stood |= self.standing
        self.rows |= self.standing
        self.standing = {}
        for key in self.freeing:
            del self.rows[key]
        self.freed |= self.freeing
        self.freeing = {}

    @precondition(lambda self: self.committed)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        for device, offset, _ in self.take(data, self.committed):
            self.allocator.commit(device, offset)

    @precondition(lambda self: self.stood)
    @rule()
    def commit_stood(self) -> None:
        for device, offset in self.stood:
            self.allocator.commit(device, offset)
        self.stood = {}

    @precondition(lambda self: self.freed.keys() - self.stood.keys())
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        freed = {key: length for key, length in self.freed.items() if key not in self.stood}
        extents = self.take(data, freed)
        for device, offset, _ in extents:
            del self.freed[device, offset]
        self.allocator.release(extents)
        for extent in extents:
            self.free |= self.units(*extent)

    @rule(device=st.sampled_from(DEVICES), region=st.integers(0, 4))
    def load_region(self, device: int, region: int) -> None:
        """The list is built anew, which asserts that what load tells agrees with the count."""
        regions = self.allocator._devices[device].free_map
        runs = regions._lists.pop(region, None)
        rebuilt = regions._list(region)
        if runs is not None:
            assert (rebuilt.offsets, rebuilt.lengths) == (runs.offsets, runs.lengths)
        expected = {unit for where, unit in self.free if where == device and unit // 16 == region}
        assert {
            unit
            for offset, length in zip(rebuilt.offsets, rebuilt.lengths, strict=True)
            for unit in range(offset // UNIT, (offset + length) // UNIT)
        } == expected

    @invariant()
    def counts_agree(self) -> None:
        for device in self.allocator._devices:
            assert self.allocator.free(device) == UNIT * sum(where == device for where, _ in self.free)
            held = self.reserved | self.committed
            assert self.allocator.reserved(device) == sum(n for (where, _), n in held.items() if where == device)
            held = self.freeing | self.freed
            assert self.allocator.pending(device) == sum(n for (where, _), n in held.items() if where == device)


TestAllocator = AllocatorMachine.TestCase
TestAllocator.settings = settings(max_examples=examples(40), stateful_step_count=40, deadline=None)


@pytest.mark.slow
def test_allocator_at_length() -> None:
    run_state_machine_as_test(
        AllocatorMachine, settings=settings(max_examples=examples(500), stateful_step_count=80, deadline=None)
    )


def no_rows(device: int, low: int, high: int) -> Iterable[tuple[int, int]]:
    return ()


@pytest.fixture
def allocator() -> Allocator:
    allocator = Allocator(threading.Lock())
    allocator.add(1, 0, 100 * UNIT, 100 * UNIT, {}, no_rows)
    return allocator


def code_of(allocator: Allocator, length: int, *, background: bool = False, urgent: bool = False) -> Code | None:
    try:
        allocator.reserve(1, length, background=background, urgent=urgent)
    except StoreError as error:
        return error.code
    return None


def test_background_stops_first_then_foreground_and_urgent_takes_all(allocator: Allocator) -> None:
    allocator.reserve(1, 94 * UNIT)
    assert code_of(allocator, 2 * UNIT, background=True) is Code.NO_SPACE
    assert code_of(allocator, UNIT, background=True) is None
    assert code_of(allocator, UNIT, background=True) is Code.NO_SPACE
    assert code_of(allocator, 2 * UNIT) is None
    assert code_of(allocator, UNIT) is Code.NO_SPACE
    assert code_of(allocator, 3 * UNIT, urgent=True) is None
    assert code_of(allocator, UNIT, urgent=True) is Code.NO_SPACE


def test_what_is_kept_is_for_urgent_ones_wherever_it_is_free(allocator: Allocator) -> None:
    allocator.add(2, 0, 100 * UNIT, 100 * UNIT, {}, no_rows)
    spare = allocator.spare()
    allocator.keep(spare - 2 * UNIT)
    assert code_of(allocator, 3 * UNIT) is Code.NO_SPACE
    offset = allocator.reserve(1, 2 * UNIT)
    assert code_of(allocator, UNIT) is Code.NO_SPACE
    assert code_of(allocator, UNIT, urgent=True) is None
    allocator.forfeit(1, offset)
    allocator.fence(2)
    assert allocator.spare() == 100 * UNIT - UNIT, "what takes no writes does not count"
    assert code_of(allocator, UNIT) is Code.NO_SPACE
    allocator.keep(0)
    assert code_of(allocator, UNIT) is None


def test_a_fenced_device_takes_no_reservation_but_ends_those_it_has(allocator: Allocator) -> None:
    offset = allocator.reserve(1, UNIT)
    other = allocator.reserve(1, UNIT)
    allocator.fence(1)
    assert code_of(allocator, UNIT) is Code.UNAVAILABLE
    allocator.commit(1, offset)
    allocator.forfeit(1, other)
    assert allocator.free(1) == 99 * UNIT
    assert allocator.reserved(1) == 0


def test_a_removed_device_is_unavailable_and_late_releases_pass(allocator: Allocator) -> None:
    offset = allocator.reserve(1, UNIT)
    allocator.commit(1, offset)
    allocator.begin_free([(1, offset, UNIT)])
    allocator.remove(1)
    allocator.release([(1, offset, UNIT)])
    assert code_of(allocator, UNIT) is Code.UNAVAILABLE


def test_claimed_extents_are_held_until_forfeited(allocator: Allocator) -> None:
    allocator.claim(1, 0, 50 * UNIT)
    assert allocator.held(1) == [(0, 50 * UNIT)]
    assert allocator.reserve(1, 10 * UNIT) == 50 * UNIT
    allocator.forfeit(1, 0)
    assert allocator.free(1) == 90 * UNIT


def test_a_page_made_and_freed_in_one_batch_must_be_forfeited_i4(allocator: Allocator) -> None:
    offset = allocator.reserve(1, UNIT)
    with pytest.raises(AssertionError, match="I4"):
        allocator.begin_free([(1, offset, UNIT)])


def test_releasing_twice_fails(allocator: Allocator) -> None:
    offset = allocator.reserve(1, UNIT)
    allocator.commit(1, offset)
    allocator.begin_free([(1, offset, UNIT)])
    allocator.release([(1, offset, UNIT)])
    with pytest.raises(AssertionError):
        allocator.release([(1, offset, UNIT)])
    with pytest.raises(AssertionError):
        allocator.forfeit(1, offset)
