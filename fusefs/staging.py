"""A file's bytes on their way from memory to devices, uncommitted.

A chunk is copied, hashed and written in one thread, one after the other; so several chunks of one file are under way at
once, each in a thread of its own: while one is written, another one is hashed.  Measured on two busy cores: 250 -> 320
MiB/s of a long write, with the same CPU.

Deliberately unknown here: which bytes, when, and what a commit makes of the chunks (`writeback`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from appliance.errors import Code, StoreError
from appliance.limits import GATHER_MAX
from appliance.model import DataKey, NewChunk
from fusefs.dirty import Gathering, Segment, halve
from fusefs.handles import File

if TYPE_CHECKING:
    from appliance.store import ObjectStore

AT_ONCE: Final = 3  # chunks of a file: more only take buffers from others
SPLIT_MIN: Final = 256 * 1024  # below this a refused chunk is not tried in halves


class Staging:
    """Of one file, under its lock.  `staged(gathering, chunk)` is told of each chunk as soon as it is made, in any
    order; its bytes are for `owner`."""

    def __init__(
        self, store: ObjectStore, file: File, owner: int, staged: Callable[[Gathering, NewChunk], object]
    ) -> None:
        self._store = store
        self._file = file
        self._owner = owner
        self._staged = staged
        self._key: DataKey | None = None
        self._waiting: list[Gathering] = []  # the next one last
        self._done: list[Segment] = []
        self._settled = False
        self._error: Exception | None = None

    async def run(self, gatherings: list[Gathering]) -> list[Segment]:
        """What was staged, in file order.  Raises what one of them met first, when none is under way any more."""
        self._key = await self._store.data_key() if self._file.sealed else None
        self._waiting = gatherings[::-1]
        if len(gatherings) == 1:
            await self._work()
        elif gatherings:
            async with trio.open_nursery() as nursery:
                for _ in range(min(len(gatherings), AT_ONCE)):
                    nursery.start_soon(self._work)
        if self._error is not None:
            raise self._error
        return sorted(self._done, key=lambda segment: segment.start)

    async def _work(self) -> None:
        try:
            while self._waiting and self._error is None:
                await self._stage(self._waiting.pop())
        except Exception as error:
            self._error = self._error or error

    async def _stage(self, gathering: Gathering) -> None:
        pieces = gathering.pieces
        size = sum(map(len, pieces))
        if self._owner == 0 and self._file.orphan and size <= GATHER_MAX:
            pieces = [*pieces, memoryview(bytes(GATHER_MAX + 1 - size))]  # so long that it leaves memory
        try:
            chunk = await self._store.stage(self._file.bucket, pieces, self._key)
        except StoreError as error:
            if error.code is Code.NO_SPACE and not self._settled:  # what was removed before may leave room
                await self._store.settle()
                self._settled = True
                self._waiting.append(gathering)
                return
            if error.code is not Code.NO_SPACE or size <= SPLIT_MIN:
                raise
            self._waiting.extend(reversed(halve(gathering)))  # perhaps only no run so long
            return
        self._staged(gathering, chunk)
        self._done += [Segment(start, end, chunk, skip, self._owner) for start, end, skip in gathering.placements]
