"""Rooms for what arrives: never the same for two, used again, and no more than there are."""

from __future__ import annotations

import weakref
from mmap import mmap

import pytest
import trio
import trio.testing

from appliance.device.buffers import aligned
from fusefs.arriving import AT_ONCE, IDLE, ROOM, ROOMS, Arrivals


class Receiver:
    """What the compiled part does."""

    def __init__(self) -> None:
        self.offered: int | None = None
        self.came: int = 0
        self.made: list[weakref.ref[mmap]] = []
        self.arrivals = Arrivals(self.make, lambda: b"without", self.in_room, self.offer)

    def make(self, length: int) -> memoryview:
        memory = aligned(length)
        assert isinstance(memory.obj, mmap)
        self.made.append(weakref.ref(memory.obj))
        return memory

    @property
    def memory(self) -> list[mmap]:
        """What was made and not given back."""
        return [memory for made in self.made if (memory := made()) is not None]

    def in_room(self) -> int:
        taken, self.came = self.came, 0
        return taken

    def offer(self, address: int | None) -> None:
        self.offered = address

    def receive(self, count: int) -> bytes | memoryview:
        if self.offered is not None:
            self.came = count
        return self.arrivals()


def test_a_room_is_used_again_when_nobody_looks_into_it() -> None:
    receiver = Receiver()
    for number in range(3 * ROOMS):
        got = receiver.receive(number + 1)
        assert isinstance(got, memoryview)
        assert len(got) == number + 1
        got[0] = number % 256
    assert len(receiver.memory) == 1, "one is with us, one offered"


@pytest.mark.slow
def test_who_has_a_view_keeps_the_room() -> None:
    receiver = Receiver()
    kept = []
    for number in range(ROOMS):
        got = receiver.receive(ROOM)
        assert isinstance(got, memoryview)
        got[:] = bytes([number + 1]) * ROOM
        kept.append(got[number : number + 1])
        del got
    assert len(receiver.memory) * AT_ONCE == ROOMS
    assert receiver.offered is None
    assert receiver.receive(ROOM) == b"without"
    assert [view[0] for view in kept] == list(range(1, ROOMS + 1))
    del kept[5]
    assert receiver.receive(ROOM) == b"without", "but another is offered now"
    assert isinstance(receiver.receive(ROOM), memoryview)


def test_what_is_not_needed_is_given_back() -> None:
    receiver = Receiver()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receiver.arrivals.run)
            kept = [receiver.receive(ROOM) for _ in range(ROOMS)]
            assert receiver.offered is None
            late = kept[-1]
            kept.clear()
            await trio.sleep(1.5 * IDLE)
            assert len(receiver.memory) * AT_ONCE == ROOMS, "they were needed a while ago"
            for _ in range(3):  # little is written, again and again
                assert len(receiver.receive(ROOM)) in (ROOM, len(b"without"))
                await trio.sleep(IDLE)
            assert len(receiver.memory) == 2, "what is used, and what somebody looks into"
            assert isinstance(late, memoryview)
            late[:] = b"x" * ROOM
            assert receiver.offered is not None
            await trio.sleep(2 * IDLE)
            assert receiver.offered is None, "nothing that is gone is written to"
            assert len(receiver.memory) == 1
            del late
            await trio.sleep(IDLE)
            assert receiver.memory == []
            assert receiver.receive(ROOM) == b"without"
            assert len(receiver.receive(ROOM)) == ROOM, "as in the beginning"
            await trio.sleep(3 * IDLE)
            assert receiver.memory == [], "and again"
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
