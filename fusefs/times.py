"""Times that only memory knows: when a file was read, and when a directory changed without a commit.

Access times follow relatime (mount(8)): reading moves the access time of what was not read since it last changed, or
not for a day.  That never makes anybody wait: the new time is kept here, shown by stat(2), and committed with many
others in the background, making no version and no other LastModified.  A crash may lose some.

A directory changes when a file is made in it and removed before any commit heard of it: what it lost is the directory's
to tell, so that is kept here too.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import trio

from appliance.errors import Code, StoreError

if TYPE_CHECKING:
    from appliance.store import ObjectStore

log = logging.getLogger(__name__)

DAY_NS: Final = 86_400 * 10**9
COARSE: Final = 5  # clock_gettime(2): CLOCK_REALTIME_COARSE
INTERVAL: Final = 20.0  # seconds between two commits of what is kept here
KEPT_MAX: Final = 8_192  # above, it is committed at once
STEP: Final = 64  # nodes of one command: their rows come whole, with inline bytes, into the journal


def clock_ns() -> int:
    """The clock of inode times, in nanoseconds since the epoch: the kernel's own, which steps some milliseconds at a
    time and never leads the one with which it stamps what it writes (current_time, fs/inode.c).  By a finer one of
    ours, what came first would look later."""
    return time.clock_gettime_ns(COARSE)


class Times:
    """What is not committed.  `read` and `changed` map an inode to nanoseconds since the epoch."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self.read: dict[int, int] = {}
        self.changed: dict[int, int] = {}
        self.stale_ns = clock_ns() - DAY_NS  # an access time before this moves at the next read
        self._due = trio.Event()

    def is_due(self, atime_ns: int, mtime_ns: int, ctime_ns: int) -> bool:
        """Whether reading moves this access time."""
        return atime_ns <= mtime_ns or atime_ns <= ctime_ns or atime_ns < self.stale_ns

    def accessed(self, inode: int, now_ns: int) -> None:
        """It was read."""
        self.read[inode] = now_ns
        self._bound()

    def touched(self, directory: int, now_ns: int) -> None:
        """A name in it came and went."""
        self.changed[directory] = now_ns
        self._bound()

    def _bound(self) -> None:
        if len(self.read) + len(self.changed) >= KEPT_MAX:
            self._due.set()

    async def run(self) -> None:
        """The background: ends only by cancellation."""
        while True:
            self._due = trio.Event()
            with trio.move_on_after(INTERVAL):
                await self._due.wait()
            self.stale_ns = clock_ns() - DAY_NS
            await self.commit()

    async def commit(self) -> None:
        """Everything kept at this moment is durable.  What fails is logged, and forgotten: it is not worth a retry."""
        inodes = list(self.read.keys() | self.changed.keys())
        for start in range(0, len(inodes), STEP):
            times = [(inode, self.read.get(inode, 0), self.changed.get(inode, 0)) for inode in inodes[start:][:STEP]]
            await self._commit(times)
            for inode, read, changed in times:  # shown until here, unless they have moved on
                if self.read.get(inode) == read:
                    del self.read[inode]
                if self.changed.get(inode) == changed:
                    del self.changed[inode]

    async def _commit(self, times: list[tuple[int, int, int]]) -> None:
        """One by one where the row of one is damaged: the others have nothing to do with that."""
        try:
            await self._store.set_times(times)
        except StoreError as error:
            if error.code is Code.DAMAGED and len(times) > 1:
                for each in times:
                    await self._commit([each])
                return
            log.warning("times of %d inodes are lost: %r", len(times), error)
