"""Reads of committed bytes that are answered by the thread that has read them from the device.

Otherwise an answer of 1 MiB is copied once more, waits for the loop, and is handed to the kernel by the loop's thread,
which nobody else can use meanwhile: that was what bounded a long read.  Here the loop only plans the read (which takes
no wait), and hears of its end.  What memory has is answered at once, without a task.

Whatever is not that simple is for the usual handler: bytes that are not committed, a node that was replaced, an error.
The usual handler is asked also when a thread could not read: it says what went wrong (`failure`: reading it once more
would count every bad copy twice), or finds the bytes elsewhere, if they were written since.

Deliberately unknown here: requests and replies (`extra`).
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING

import outcome
import trio

from appliance.errors import StoreError
from appliance.model import Node
from fusefs.handles import DirectoryHandle, FileHandle
from fusefs.observed import UNDER_WAY, operation
from fusefs.permits import READ, WRITE, Permits
from fusefs.streams import LONG, Streams
from fusefs.unexpected import UNEXPECTED

if TYPE_CHECKING:
    from appliance.store import ObjectStore


class DirectReads:
    """One mount's.  `reads(handle, start, end)` is told of each read that is taken."""

    def __init__(self, store: ObjectStore, permits: Permits, reads: Callable[[FileHandle, int, int], object]) -> None:
        self._store = store
        self._permits = permits
        self._reads = reads
        self._under_way = 0
        self._idle = trio.Event()
        self._observed = operation("read")
        self._failures: dict[tuple[FileHandle, int, int], tuple[Node, StoreError]] = {}  # nobody was told yet
        self.streams: Streams | None = None  # where the compiled part is there

    def read(
        self,
        handle: FileHandle | DirectoryHandle | None,
        start: int,
        size: int,
        reply: Callable[[bytes | memoryview], object],
        again: Callable[[], None],
        take: Callable[[int, int], object],
    ) -> bytes | bool:
        """The bytes; True if `reply` is or will be called with them in a thread, or else `again` on the loop, or if
        `take` has taken it (`streams`); False if the usual handler must be asked."""
        begun = perf_counter()
        if not isinstance(handle, FileHandle):
            return False
        file = handle.file
        base, end = file.base, min(start + size, file.size)
        if file.overlay or base is None or not start < end <= base.size:
            return False
        reader = None
        try:
            self._permits.require(WRITE if handle.writable else READ, file.bucket)
            self._reads(handle, start, end)
            if (
                self.streams is not None
                and end - start >= LONG
                and not handle.ours
                and self.streams.take(handle, base, start, end, take)
            ):
                return True
            reader = self._store.reader(base, start, end - start)
        except Exception as error:  # the usual handler is asked: out of here nothing would be an answer
            UNEXPECTED.met("a direct read", self._observed, error)
            if reader is not None:
                reader.close()
            return False
        data = reader.ready()
        if data is not None:
            reader.close()
            self._observed.ended(perf_counter() - begun)
            self._observed.bytes += len(data)
            return data

        def done(result: outcome.Outcome[None]) -> None:
            reader.close()
            self._ended()
            if isinstance(result, outcome.Error):
                if isinstance(result.error, StoreError):
                    self._failures[handle, start, end] = base, result.error
                UNEXPECTED.met("a direct read's thread", self._observed, result.error)
                again()
            else:
                self._observed.ended(perf_counter() - begun)
                self._observed.bytes += end - start

        UNDER_WAY.requests += 1
        self._under_way += 1
        try:
            reader.start(reply, done)
        except trio.ClosedResourceError:  # so is the store: nobody will be called
            self._ended()
            reader.close()
            return False
        return True

    def failure(self, handle: FileHandle, start: int, end: int) -> StoreError | None:
        """What a thread met that was to read this, once; None as well if other bytes are there now."""
        if not self._failures:
            return None
        base, error = self._failures.pop((handle, start, end), (None, None))
        if error is None or base is not handle.file.base or handle.file.overlay:
            return None
        error.add_note(f"inode {handle.file.inode}, bytes {start} to {end}")
        return error

    def closed(self, handle: FileHandle) -> None:
        """The program has closed it."""
        if self.streams is not None:
            self.streams.close(handle)

    def _ended(self) -> None:
        """The loop has heard of an answer, or nobody will be called."""
        UNDER_WAY.requests -= 1
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()

    async def idle(self) -> None:
        """All are answered: the session may end."""
        while self._under_way:
            self._idle = trio.Event()
            await self._idle.wait()
        if self.streams is not None:
            await self.streams.idle()
