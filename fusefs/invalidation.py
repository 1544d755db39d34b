"""H5: what the kernel may have cached of an S3 change is made invalid before the change is answered.

The store calls `changed` after every commit, with those changes that were not the mount's own: the kernel made the
others.  Names and attributes that the kernel may hold (`Inodes` knows) are invalidated, and the store delays the S3
answer until that is done, and whatever else S3 would show of it; when the kernel holds none, nothing waits.

What the kernel may hold of a name: the inode that it had; that there was none; and, while a request of its own changes
the name and until it has taken in the answer, whatever it had before (`changing`).

The kernel has to wait for the directory's lock, which it holds itself until this loop has answered some request.  So it
is only ever asked from a worker thread, and no request that holds such a lock may wait for an answer to S3: it waits
for the batch at most (`Ticket.wait_done`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Collection, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import trio

from appliance.model import Change
from fusefs import tree
from fusefs.handles import File
from fusefs.inodes import ROOT, Inodes
from fusefs.writeback import WriteBack

if TYPE_CHECKING:
    from appliance.store import ObjectStore

log = logging.getLogger(__name__)

INVALIDATION_TIMEOUT: Final = 30.0  # seconds that an S3 answer waits for the kernel: longer than a slow device's write
THREADS_MAX: Final = 100  # in the kernel at once; each may wait for a directory of its own
IDLE_STEP: Final = 0.005  # seconds between two looks when stopping
NO_PARENT: Final = 0  # of a bucket, in a Change: the mount's root is not in the catalogue


class Kernel(Protocol):
    """Calls into the kernel that may block: only from worker threads.  No signal reaches one that waits there for what
    this loop would answer, not even the one that kills us: the mount's guard ends it (guard.py).  `asked`, `arrived`
    and `give` are the loop's: see there (mount.KernelCalls)."""

    def forget_name(self, parent: int, name: bytes) -> None: ...
    def forget_attributes(self, inode: int) -> None: ...
    def asked(self) -> int: ...
    def arrived(self) -> bytes | memoryview: ...
    def give(self, inode: int, data: bytes) -> None: ...
    def write_back(self, inode: int, offset: int) -> None: ...


async def write_back(kernel: Kernel, file: File, offset: int) -> None:
    """What the kernel has of the file from `offset` on arrives as writes.  Not waited for when the mount ends, as
    nobody takes them in any more."""
    await trio.to_thread.run_sync(kernel.write_back, file.inode, offset, abandon_on_cancel=True)


class Round:
    """Names and inodes that the kernel is being asked to forget."""

    __slots__ = ("done", "inodes", "names")

    def __init__(self, names: Sequence[tuple[int, bytes]], inodes: Sequence[int]) -> None:
        self.names = frozenset(names)
        self.inodes = frozenset(inodes)
        self.done = trio.Event()


class Changing:
    """`Invalidation.changing`."""

    __slots__ = ("_names", "_of")

    def __init__(self, of: Invalidation, names: Sequence[tuple[int, bytes]]) -> None:
        self._of = of
        self._names = names

    def __enter__(self) -> None:
        under_way = self._of.under_way
        for name in self._names:
            under_way[name] = under_way.get(name, 0) + 1

    def __exit__(self, *exc: object) -> None:
        under_way = self._of.under_way
        for name in self._names:
            left = under_way[name] - 1
            if left:
                under_way[name] = left
            else:
                del under_way[name]
        self._of.changed_by_kernel(self._names)


class Invalidation:
    """What the other door changed.  `epoch` rises with every change of a name or node, also the mount's own."""

    def __init__(self, store: ObjectStore, inodes: Inodes, files: WriteBack, kernel: Kernel) -> None:
        self.store = store
        self.inodes = inodes
        self.files = files
        self.kernel = kernel
        self.epoch = 0
        self._closing = False
        self._rounds: set[Round] = set()
        self.under_way: dict[tuple[int, bytes], int] = {}  # names that requests are changing -> how many do
        self._limiter = trio.CapacityLimiter(THREADS_MAX)
        self._unwatch = store.watch(self.changed)

    def changing(self, *names: tuple[int, bytes]) -> Changing:
        """Inside, a request of the kernel changes these (directory, name): until it has heard the answer, it may hold
        what they were before."""
        return Changing(self, names)

    def changed_by_kernel(self, names: Sequence[tuple[int, bytes]]) -> None:
        """The end of `changing`."""
        self.epoch += 1
        now = time.monotonic()
        for name in names:
            self.inodes.answered.add(name, now)

    def unshadowed(self, parent: int, name: bytes) -> None:
        """A directory left: a file of the same name loses its alias.  The kernel holds `parent` until it is answered,
        so nobody waits here (pyfuse3's own thread for this ends with the first mount)."""
        self.epoch += 1
        if self.store.entry(parent, name, False) is not None:
            self.forget([(parent, tree.to_mount(name, True))], [])

    def changed(self, changes: Sequence[Change]) -> Awaitable[None] | None:
        """The store's listener.  None when there is nothing to wait for: the common case costs a few look-ups."""
        self.epoch += 1
        if self._closing:
            return None
        names: list[tuple[int, bytes]] = []
        inodes: list[int] = []
        others: set[Round] = set()
        for change in changes:
            parent = change.parent if change.parent != NO_PARENT else ROOT
            if self.inodes.take_cached(change.node):  # also of a file that the kernel knows by another name
                inodes.append(change.node)
            file = self.files.get(change.node)
            if file is not None:
                self.files.unlinked(file)
            if parent in self.inodes:
                if self.inodes.take_cached(parent):
                    inodes.append(parent)
                names += self._stale_names(parent, change)
            if self._rounds:
                others |= self._rounds_of(parent, change)
        return self._begin(names, inodes, others) if names or inodes or others else None

    def forget(self, names: Sequence[tuple[int, bytes]], inodes: Sequence[int]) -> None:
        """What the kernel was told did not happen.  Nobody waits."""
        self.epoch += 1
        trio.lowlevel.spawn_system_task(self._begin, names, inodes)

    async def forget_file(self, file: File) -> None:
        """The kernel looks the file up again once nobody has it open: of a file that it writes to it believes only its
        own size.  Where it found the file last is noted of new ones and in buckets with a quota or versions."""
        place = file.place or await self.store.place_of(file.inode)
        if place is not None and not file.orphan:
            parent, name = place
            await self._begin([(parent, tree.to_mount(name)), (parent, tree.to_mount(name, True))], [])

    async def close(self) -> None:
        """No more; returns when those under way are done."""
        self._closing = True
        self._unwatch()
        while self._rounds:  # noqa: ASYNC110 - nobody waits for some of them, and new ones may begin
            await trio.sleep(IDLE_STEP)

    def _stale_names(self, parent: int, change: Change) -> list[tuple[int, bytes]]:
        """The names of `change`, plain and alias, that the kernel may hold, present or absent."""
        known = change.node in self.inodes
        if change.directory:  # a file of the same name changes places with its alias
            beside = self.store.entry(parent, change.name, False)
            known = known or (beside is not None and beside.node.id in self.inodes)
        return [name for name in _shown(parent, change) if self._may_hold(name) or known]

    def _may_hold(self, name: tuple[int, bytes]) -> bool:
        absent, answered = self.inodes.absent.take(name), self.inodes.answered.take(name)
        return absent or answered or name in self.under_way

    def _rounds_of(self, parent: int, change: Change) -> set[Round]:
        """Those under way that already forget something of it: what they were begun for is stale until they are
        done."""
        shown = _shown(parent, change)
        return {
            one
            for one in self._rounds
            if parent in one.inodes or change.node in one.inodes or not one.names.isdisjoint(shown)
        }

    def _begin(
        self, names: Sequence[tuple[int, bytes]], inodes: Sequence[int], others: Collection[Round] = ()
    ) -> Coroutine[Any, Any, None]:
        """Under way from this moment, not from the first time that the task runs."""
        begun = None
        if names or inodes:
            begun = Round(names, inodes)
            self._rounds.add(begun)
        return self._invalidate(begun, others)

    async def _invalidate(self, begun: Round | None, others: Collection[Round]) -> None:
        """Waits no longer than `INVALIDATION_TIMEOUT`: the kernel may hold the directory for a request that a device
        keeps waiting."""
        with trio.move_on_after(INVALIDATION_TIMEOUT) as waiting:
            if begun is not None:
                work = _Work(self.kernel, begun, self._rounds)
                await trio.to_thread.run_sync(work.run, abandon_on_cancel=True, limiter=self._limiter)
                work.end()
            for other in others:
                await other.done.wait()
        if waiting.cancelled_caught:
            log.warning("the kernel took more than %g s to forget what S3 changed", INVALIDATION_TIMEOUT)


class _Work:
    """A round in its thread."""

    def __init__(self, kernel: Kernel, begun: Round, rounds: set[Round]) -> None:
        self._kernel = kernel
        self._round = begun
        self._rounds = rounds
        self._token = trio.lowlevel.current_trio_token()

    def run(self) -> None:
        """Blocks as long as the kernel likes."""
        try:
            for parent, name in self._round.names:
                self._kernel.forget_name(parent, name)
            for inode in self._round.inodes:
                self._kernel.forget_attributes(inode)
        finally:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self.end)  # also when nobody waits any more

    def end(self) -> None:
        """On the loop; again does no harm."""
        self._rounds.discard(self._round)
        self._round.done.set()


def _shown(parent: int, change: Change) -> list[tuple[int, bytes]]:
    """What the changed name is called in the mount."""
    return [(parent, tree.to_mount(change.name)), (parent, tree.to_mount(change.name, True))]
