"""What comes with large writes, without a copy: where it lies when the kernel has written it is where devices take it
from.

The compiled part (extra.c) reads the bytes of a large write into a *room* that was offered to it: a MiB of aligned
memory in huge pages, used again as soon as nobody looks at what is in it.  Fresh memory for each would cost a GiB 0.1 s
of CPU for the kernel to make and take away; and into aligned memory for the device it would be copied, another 0.15 s.
What is kept for long or for many files at once is more than there are rooms: then it comes as `bytes`, and is copied.

A view of a room keeps it: who has one need not know that there are rooms.  What was not needed for IDLE goes back to
the system, all of it where nothing large was written: a box that was given one large file does not keep 96 MiB for it.

Deliberately unknown here: requests, files, devices.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from sys import getrefcount
from typing import Final

import trio

from appliance.limits import MIB
from fusefs import interposed

ROOM: Final = MIB  # the largest write, extra.c
ROOMS: Final = 96  # what one file may have in memory (writeback.FILE_MEMORY_MAX), and the writes that wait
AT_ONCE: Final = 8  # are made, and given back
IDLE: Final = 30.0  # seconds: who copies many files pauses between them, and new memory costs as much as a copy of it

_Room: Final = ctypes.c_char * ROOM
_FREE: Final = 3  # references to a room that only we know: of the list, of the loop over it, of the count


class Arrivals:
    """Of the one session that a process can have.  For the loop's thread; views may be dropped in any."""

    def __init__(
        self,
        memory: Callable[[int], memoryview],
        arrived: Callable[[], bytes],
        in_room: Callable[[], int],
        offer: Callable[[int | None], object],
    ) -> None:
        """`memory` is made by so many bytes.  `arrived` gives the bytes of a write that came without a room, `in_room`
        how many came into it, each once; `offer` an address, None to withdraw it."""
        self._memory = memory
        self._arrived = arrived
        self._in_room = in_room
        self._offer = offer
        self._rooms: list[ctypes.Array[ctypes.c_char]] = []
        self._offered = memoryview(b"")
        self._reached = 0  # so many of the first were needed since the last `tick`
        self._made = trio.Event()
        self._next()

    def __call__(self) -> bytes | memoryview:
        """What came with the write that was taken in last, if its handler was given nothing; each once."""
        count = self._in_room()
        if not count:
            if not self._offered:
                self._next()
            return self._arrived()
        taken = self._offered[:count]
        self._next()
        return taken

    def _next(self) -> None:
        """Offers another room, if one is free.  Those that were used last come first: they are in caches."""
        number = 0
        for room in self._rooms:
            number += 1
            if getrefcount(room) == _FREE:
                break
        else:
            if len(self._rooms) >= ROOMS:
                self._offered = memoryview(b"")
                self._offer(None)
                self._reached = ROOMS
                return
            memory = self._memory(AT_ONCE * ROOM)
            self._rooms += [_Room.from_buffer(memory, number * ROOM) for number in range(AT_ONCE)]
            room = self._rooms[-AT_ONCE]
            number += 1
            self._made.set()
        self._offered = memoryview(room).cast("B")
        self._offer(ctypes.addressof(room))
        self._reached = max(self._reached, number)

    async def run(self) -> None:
        """Gives back what is not needed.  Ends only by cancellation."""
        while True:
            await self._made.wait()
            while self._rooms:
                await trio.sleep(IDLE)
                self.tick()
            self._made = trio.Event()

    def tick(self) -> None:
        """IDLE has gone by.  Between two requests: a room that was written to is taken before its request waits."""
        reached, self._reached = self._reached, 0
        if not reached:
            self._offered = memoryview(b"")
            self._offer(None)
        for start in range(len(self._rooms) - AT_ONCE, reached - 1, -AT_ONCE):
            if all(getrefcount(self._rooms[number]) < _FREE for number in range(start, start + AT_ONCE)):
                del self._rooms[start : start + AT_ONCE]


_kept: list[Arrivals] = []  # the compiled part has the address of a room, whatever becomes of a mount


def arrivals(memory: Callable[[int], memoryview]) -> Arrivals | Callable[[], bytes]:
    """Those of the compiled part; without it pyfuse3's handlers are given all bytes."""
    library = interposed.library
    if library is None:
        return bytes
    if not _kept:
        _kept.append(
            Arrivals(
                memory,
                interposed.Arrived(("extra_arrived", library)),
                interposed.InRoom(("extra_in_room", library)),
                interposed.Offer(("extra_offer", library)),
            )
        )
    return _kept[0]
