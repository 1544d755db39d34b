"""fsync(2) of little that was written, answered by the thread that made it durable.

A database's page is synced in less time than it takes to begin a task, to wake the loop when the record is durable and
to have it find the task again.  Here the loop submits the commit; the writer's thread answers the kernel when the
barrier is over (H1), and the loop hears of it with the COMMIT, which many share, or when somebody waits for it.  To
wake it each time took as long as the program needs for its next write, which it then came late for.

Of who syncs each write the commit is submitted *early*, when the write has arrived: the kernel hands it over because
it was asked to sync, and its next request is the fsync, which finds the barrier on its way.  Only with each tick of its
clock it first says the file's new times, and they are in the same commit.  It is no other commit than
the age of what is written may bring at any time (H8), and who stops syncing wastes one.

Whatever is not that simple is for the usual handler: a file of which a commit or a change of names is under way, more
than a few KiB, anything that was refused or has failed.  It is asked also when the commit fails: it says what went
wrong, or tries it again.

Deliberately unknown here: requests and replies (`extra`), what a commit is made of (`writeback`).
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Final

from fusefs.handles import DirectoryHandle, File, FileHandle
from fusefs.observed import UNDER_WAY, operation
from fusefs.pending import Pending
from fusefs.permits import READ, WRITE, Permits
from fusefs.unexpected import UNEXPECTED
from fusefs.writeback import WriteBack

if TYPE_CHECKING:
    from appliance.store import Ticket

STEADY: Final = 4  # fsyncs in a row that had one write each: the next write will likely have its own


class DirectSyncs:
    """One mount's."""

    def __init__(self, files: WriteBack, pending: Pending, permits: Permits) -> None:
        self._files = files
        self._pending = pending
        self._permits = permits
        self._tickets: set[Ticket] = set()  # the loop was not told of them
        self._observed = operation("fsync")

    def written(self, file: File, now_ns: int) -> None:
        """After each write, at `now_ns`: the commit of one that is likely synced next is submitted."""
        file.unsynced += 1
        ticked, file.written_ns = file.written_ns != now_ns, now_ns
        if file.steady < STEADY:
            return
        if file.unsynced > 1:
            file.steady = 0
        elif not ticked:
            self._begin(file)

    def timed(self, file: File) -> None:
        """The kernel has said its times: after `written`, if a tick was in between."""
        if file.unsynced == 1 and file.steady >= STEADY:
            self._begin(file)

    def _begin(self, file: File) -> None:
        if self._pending.waiting or not file.dirty:
            return
        try:
            file.early = self._files.submit_little(file)
        except Exception as error:  # it stays dirty, and the bytes have arrived
            UNEXPECTED.met("an early commit", self._observed, error)

    def sync(
        self, handle: FileHandle | DirectoryHandle | None, reply: Callable[[], object], again: Callable[[], None]
    ) -> bool:
        """Whether `reply` will be called, in a thread or at once, when all that was written is durable, or else `again`
        on the loop; if not the usual handler must be asked."""
        begun = perf_counter()
        if not isinstance(handle, FileHandle):
            return False
        file = handle.file
        file.steady = file.steady + 1 if file.unsynced == 1 else 0
        file.unsynced, early, file.early = 0, file.early, None
        try:
            if self._pending.waiting or not self._permits.known(WRITE if handle.writable else READ, file.bucket.id):
                return False
            ticket = early if early is not None and file.is_all_in(early) else self._files.submit_little(file)
        except Exception as error:  # the usual handler is asked: out of here nothing would be an answer
            UNEXPECTED.met("a direct fsync", self._observed, error)
            return False
        if ticket is None:
            return False
        ended = begun

        def answer() -> None:
            nonlocal ended
            reply()
            ended = perf_counter()

        def told(replied: bool) -> None:
            UNDER_WAY.requests -= 1
            self._tickets.discard(ticket)
            if replied:
                self._observed.ended(ended - begun)
            else:
                again()

        UNDER_WAY.requests += 1
        self._tickets.add(ticket)
        self._pending.synced(file.inode)  # before the program knows: what it does with the name next waits
        ticket.call(answer, told)
        return True

    async def idle(self) -> None:
        """All are answered: the session may end."""
        while self._tickets:
            await next(iter(self._tickets)).stands()
