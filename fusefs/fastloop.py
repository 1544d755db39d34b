"""Several FUSE requests per pass of the trio loop, with stock pyfuse3.

pyfuse3 waits for /dev/fuse once per request, by `trio.lowlevel.wait_readable` under a `trio.Lock`, both looked up in
its module global `trio` (the hook that its own asyncio support uses).  Two passes of the loop per request are what
bounds a Python file system. The namespace put there instead has a `wait_readable` that returns at once while a request
is ready, at most `BURST` times in a row, so that the rest of the process gets its turn, and a lock that does not yield
when nobody else wants it. Measured: getattr 25 → 20 us, create + write + close 189 → 114 us, four readers 37,000 →
142,000 reads/s.
"""

from __future__ import annotations

import select
import types
from collections.abc import Callable
from typing import Final

from fusefs import interposed as interposed  # before pyfuse3, which binds to it: whoever opens files comes by here

# isort: split
import pyfuse3
import trio

BURST: Final = 32


class Lock:
    """A mutual exclusion without a checkpoint when it is free.  First come, first served."""

    __slots__ = ("_held", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    def locked(self) -> bool:
        """Whether somebody holds it."""
        return self._held

    async def __aenter__(self) -> None:
        while self._held:
            await self._waiting.park()
        self._held = True

    async def __aexit__(self, *exc: object) -> None:
        self._held = False
        self._waiting.unpark()


class Turn:
    """Whose turn it is to read requests.  As `Lock`, but one at most is woken at a time.

    Who reads answers what memory has and is back before anybody who was woken has run; to wake another for each request
    would cost a pass of the loop each.  The one that was woken takes over if the reader waits for something else.
    """

    __slots__ = ("_held", "_waiting", "_woken")

    def __init__(self) -> None:
        self._held = False
        self._woken = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._held:
            try:
                await self._waiting.park()
            finally:
                self._woken = False
        self._held = True

    async def __aexit__(self, *exc: object) -> None:
        self._held = False
        if not self._woken and self._waiting:
            self._woken = True
            self._waiting.unpark()


class _Poller:
    """The state of the one session that a process can have."""

    def __init__(self, first: Callable[[], bool] | None) -> None:
        self.first = first
        self.descriptor = -1
        self.poll: Callable[[int], list[tuple[int, int]]] = lambda timeout: []
        self.burst = 0

    async def wait_readable(self, descriptor: int) -> None:
        """Returns when `descriptor` is readable."""
        if self.first is not None:
            if self.first():
                return
            self.first = None
        if descriptor != self.descriptor:
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            self.descriptor, self.poll, self.burst = descriptor, poller.poll, 0
        if self.burst < BURST and self.poll(0):
            self.burst += 1
            return
        self.burst = 0
        await trio.lowlevel.wait_readable(descriptor)


def install(first: Callable[[], bool] | None = None) -> None:
    """Gives pyfuse3 the namespace.  `first`, if any, is called instead of waiting until it returns False."""
    lowlevel = types.SimpleNamespace(**{name: getattr(trio.lowlevel, name) for name in trio.lowlevel.__dict__})
    lowlevel.wait_readable = _Poller(first).wait_readable
    namespace = types.SimpleNamespace(**{name: getattr(trio, name) for name in trio.__dict__})
    namespace.lowlevel = lowlevel
    namespace.Lock = Turn
    vars(pyfuse3)["trio"] = namespace
