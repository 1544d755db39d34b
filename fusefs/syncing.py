"""fsync(2) of little that was written, answered by the thread that made it durable.

A database's page is synced in less time than it takes to begin a task, to wake the loop when the record is durable and
to have it find the task again.  Here the loop submits the commit as the request comes in; the writer's thread answers
the kernel when the barrier is over (H1), and the loop hears of it while the program is already at its next write.

Whatever is not that simple is for the usual handler: a file of which a commit or a change of names is under way, more
than a few KiB, anything that was refused or has failed.  It is asked also when the commit fails: it says what went
wrong, or tries it again.

Deliberately unknown here: requests and replies (`extra`), what a commit is made of (`writeback`).
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from fusefs.handles import DirectoryHandle, FileHandle
from fusefs.observed import operation
from fusefs.pending import Pending
from fusefs.permits import READ, WRITE, Permits
from fusefs.threaded import InThreads
from fusefs.unexpected import UNEXPECTED
from fusefs.writeback import WriteBack


class DirectSyncs:
    """One mount's."""

    def __init__(self, files: WriteBack, pending: Pending, permits: Permits) -> None:
        self._files = files
        self._pending = pending
        self._permits = permits
        self._under_way = InThreads()
        self._observed = operation("fsync")

    def sync(
        self, handle: FileHandle | DirectoryHandle | None, reply: Callable[[], object], again: Callable[[], None]
    ) -> bool:
        """Whether `reply` will be called in a thread when all that was written is durable, or else `again` on the loop;
        if not the usual handler must be asked."""
        begun = perf_counter()
        if not isinstance(handle, FileHandle) or self._pending.waiting:
            return False
        file = handle.file

        def told(replied: bool) -> None:
            self._under_way.ended()
            if replied:
                self._observed.ended(perf_counter() - begun)
            else:
                again()

        try:
            if not self._permits.known(WRITE if handle.writable else READ, file.bucket.id):
                return False
            if not self._files.submit_little(file, reply, told):
                return False
        except Exception as error:  # the usual handler is asked: out of here nothing would be an answer
            UNEXPECTED.met("a direct fsync", self._observed, error)
            return False
        self._under_way.begun()
        self._pending.synced(file.inode)  # before the program knows: what it does with the name next waits
        return True

    async def idle(self) -> None:
        """All are answered: the session may end."""
        await self._under_way.idle()
