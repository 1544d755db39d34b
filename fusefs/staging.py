"""A file's bytes on their way from memory to devices, uncommitted.

A chunk is hashed and written in one thread, one after the other; so several chunks of one file are under way at once,
each in a thread of its own: while one is written, another one is hashed.  Measured on two busy cores: 250 -> 320 MiB/s
of a long write, with the same CPU.  What a writer completes meanwhile is added, so that they stay several.

Deliberately unknown here: which bytes, when, and what a commit makes of the chunks (`writeback`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio

from appliance.errors import Code, StoreError
from appliance.limits import CHUNK_SIZE, GATHER_MAX, MIB
from appliance.model import DataKey, NewChunk
from fusefs.dirty import Gathering, Segment, gather, halve
from fusefs.handles import File

if TYPE_CHECKING:
    from appliance.store import ObjectStore

AT_ONCE: Final = 3  # chunks of a file: more only take buffers from others
EARLY_COMMIT: Final = 32 * MIB  # of staged bytes of a file that S3 sees already: keeps one commit's rows few
SPLIT_MIN: Final = 256 * 1024  # below this a refused chunk is not tried in halves


class Staging:
    """Of one file, under its lock."""

    def __init__(
        self,
        store: ObjectStore,
        file: File,
        token: int,
        owner: int,
        staged: Callable[[NewChunk | None], object],
        *,
        grows: bool = False,
    ) -> None:
        """`token` claims the first bytes, `owner` has what became of them: 0 if no commit takes them yet, then what
        could not be staged is dirty again.  `staged` is told of each chunk as soon as it is made, in any order, and of
        the end.  If it `grows` there is more to come while it runs."""
        self.token = token
        self._grows = grows
        self._store = store
        self._file = file
        self._owner = owner
        self._staged = staged
        self._key: DataKey | None = None
        self._tokens = {token}  # of all that was added
        self._waiting: list[Gathering] = []  # the next one last
        self._done: list[Segment] = []
        self._settled = False
        self._error: Exception | None = None
        self._nursery: trio.Nursery | None = None
        self._workers = 0
        self._ended = False
        self._watchers = trio.lowlevel.ParkingLot()

    async def everything(self) -> None:
        """All that is dirty in memory."""
        await self.run(gather(self._file.overlay.claim(self.token, only_memory=True), CHUNK_SIZE))

    async def run(self, gatherings: list[Gathering]) -> list[Segment]:
        """What was staged, in file order, with what was added before and meanwhile.  Raises what one of them met first,
        when none is under way any more."""
        self.add(gatherings)
        try:
            self._key = await self._store.data_key() if self._file.sealed else None
            if len(self._waiting) > 1 or self._grows:
                async with trio.open_nursery() as self._nursery:
                    self._begin()
            elif self._waiting:
                self._workers = 1
                await self._work()
        finally:
            self._ended = True
            if self._owner == 0:
                for token in self._tokens:
                    self._file.overlay.unclaim(token)
                self._file.scan_at = 0
            self._staged(None)
            self._watchers.unpark_all()
        if self._error is not None:
            raise self._error
        return sorted(self._done, key=lambda segment: segment.start)

    @property
    def takes_more(self) -> bool:
        """Whether chunks can be added: nothing failed, and nobody waits for the file."""
        return not self._ended and self._error is None and not self._file.lock.wanted()

    def add(self, gatherings: list[Gathering]) -> None:
        """More, behind the others.  What is not claimed by our token needs one of its own, for it may lie over what is
        under way: which must not take its place.  Leaves the list empty: memory that was staged is not kept."""
        self._tokens.update(gathering.token for gathering in gatherings)
        self._waiting[:0] = gatherings[::-1]
        gatherings.clear()
        if self._nursery is not None:
            self._begin()

    def _begin(self) -> None:
        assert self._nursery is not None
        for _ in range(min(AT_ONCE - self._workers, len(self._waiting))):
            self._workers += 1
            self._nursery.start_soon(self._work)

    async def progress(self) -> None:
        """Until another chunk has left memory, or nothing is under way any more."""
        await self._watchers.park()

    async def _work(self) -> None:
        try:
            while self._waiting and self._error is None:
                await self._stage(self._waiting.pop())
                self._watchers.unpark_all()
        except Exception as error:
            self._error = self._error or error
        self._workers -= 1
        self._ended = not self._workers

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
        self._file.staged.append(chunk)
        self._file.overlay.stage(gathering.token, gathering.placements, chunk, self._owner)
        self._staged(chunk)
        self._done += [Segment(start, end, chunk, skip, self._owner) for start, end, skip in gathering.placements]


def whole_chunks(file: File, token: int) -> list[Gathering]:
    """What is complete of it, claimed by `token`."""
    taken = []
    for start, end in file.overlay.runs(CHUNK_SIZE):
        taken += file.overlay.claim(token, start, end, only_memory=True)
        file.scan_at = 0
    return gather(taken, CHUNK_SIZE)


def is_commit_due(file: File) -> bool:
    """Whether a file that S3 sees has so much on devices that it must not wait for a sync."""
    seen = file.base is not None or file.create is None
    return seen and not file.orphan and sum(chunk.length for chunk in file.staged) >= EARLY_COMMIT
