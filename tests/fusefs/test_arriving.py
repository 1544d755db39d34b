"""Rooms for what arrives: never the same for two, used again, and no more than there are."""

from __future__ import annotations

from appliance.device.buffers import aligned
from fusefs.arriving import AT_ONCE, ROOM, ROOMS, Arrivals


class Receiver:
    """What the compiled part does."""

    def __init__(self) -> None:
        self.offered: int | None = None
        self.came: int = 0
        self.memory: list[memoryview] = []
        self.arrivals = Arrivals(self.make, lambda: b"without", self.in_room, self.offer)

    def make(self, length: int) -> memoryview:
        self.memory.append(aligned(length))
        return self.memory[-1]

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
