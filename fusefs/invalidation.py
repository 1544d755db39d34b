"""H5: what the kernel may have cached of an S3 change is made invalid before the change is answered.

The store calls `changed` after every commit.  Changes that the mount itself asked for are left out: the kernel made
them.  Of the rest, names and attributes that the kernel may hold (`Inodes` knows) are invalidated, and the store
delays the S3 answer until that is done; when the kernel holds none, nothing waits.

The kernel may have to wait for a lock that is held until this loop answers some request: so it is only ever asked from
a worker thread.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
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

INVALIDATION_TIMEOUT: Final = 5.0  # seconds that an S3 answer waits for the kernel
IDLE_STEP: Final = 0.005  # seconds between two looks when stopping
NO_PARENT: Final = 0  # of a bucket, in a Change: the mount's root is not in the catalogue


class Kernel(Protocol):
    """Calls into the kernel that may block: only from worker threads."""

    def forget_name(self, parent: int, name: bytes) -> None: ...
    def forget_attributes(self, inode: int) -> None: ...


class Invalidation:
    """What the other door changed.  `epoch` rises with every change of a name or node, also the mount's own."""

    def __init__(self, store: ObjectStore, inodes: Inodes, files: WriteBack, kernel: Kernel) -> None:
        self.store = store
        self.inodes = inodes
        self.files = files
        self.kernel = kernel
        self.epoch = 0
        self._closing = False
        self._under_way: set[object] = set()
        self._own: Counter[tuple[int, bytes, bool]] = Counter()
        self._unwatch = store.watch(self.changed)

    @contextmanager
    def ours(self, *names: tuple[int, bytes, bool]) -> Iterator[None]:
        """Inside, a command of the mount changes these (directory, name, is a directory), each once."""
        self._own.update(names)
        try:
            yield
        finally:
            self.epoch += 1
            self._own.subtract(names)
            for name in names:
                if self._own[name] <= 0:
                    del self._own[name]

    def unshadowed(self, parent: int, name: bytes) -> None:
        """A directory left: a file of the same name loses its alias.  The kernel holds `parent` until it is answered,
        so nobody waits here (pyfuse3's own thread for this ends with the first mount)."""
        self.epoch += 1
        if self.store.entry(parent, name, False) is not None:
            trio.lowlevel.spawn_system_task(self._begin, [(parent, tree.to_mount(name, True))], [])

    def changed(self, changes: Sequence[Change]) -> Awaitable[None] | None:
        """The store's listener.  None when there is nothing to wait for: the common case costs a few look-ups."""
        self.epoch += 1
        if self._closing:
            return None
        names: list[tuple[int, bytes]] = []
        inodes: list[int] = []
        for change in changes:
            parent = change.parent if change.parent != NO_PARENT else ROOT
            if parent not in self.inodes or self._is_ours(change):
                continue
            if self.inodes.take_cached(parent):
                inodes.append(parent)
            names += self._stale_names(parent, change)
            if self.inodes.take_cached(change.node):
                inodes.append(change.node)
            file = self.files.get(change.node)
            if file is not None:
                self.files.unlinked(file)
        return self._begin(names, inodes) if names or inodes else None

    async def forget_file(self, file: File) -> None:
        """The kernel looks the file up again once nobody has it open: of a file that it writes to it believes only its
        own size.  Where it found the file last is known of new ones and in buckets with a quota or versions."""
        if file.place is not None and not file.orphan:
            parent, name = file.place
            await self._begin([(parent, tree.to_mount(name)), (parent, tree.to_mount(name, True))], [])

    async def close(self) -> None:
        """No more; returns when those under way are done."""
        self._closing = True
        self._unwatch()
        while self._under_way:  # noqa: ASYNC110 - worker threads end them, which have no event to set
            await trio.sleep(IDLE_STEP)

    def _is_ours(self, change: Change) -> bool:
        """A second change of the same name in the same moment is the other door's."""
        made = self.files.names.get(change.parent, {}).get(change.name)
        if made is not None and made.create is None and change.node != made.inode and not change.directory:
            return True  # the commit that makes the file
        key = (change.parent, change.name, change.directory)
        if self._own.get(key, 0) > 0:
            self._own[key] -= 1
            return True
        return False

    def _stale_names(self, parent: int, change: Change) -> list[tuple[int, bytes]]:
        """The names of `change`, plain and alias, that the kernel may hold, present or absent."""
        known = change.node in self.inodes
        plain, alias = tree.to_mount(change.name), tree.to_mount(change.name, True)
        if change.directory:  # a file of the same name changes places with its alias
            beside = self.store.entry(parent, change.name, False)
            known = known or (beside is not None and beside.node.id in self.inodes)
        return [(parent, name) for name in (plain, alias) if self.inodes.take_absent(parent, name) or known]

    def _begin(self, names: list[tuple[int, bytes]], inodes: list[int]) -> Coroutine[Any, Any, None]:
        """Under way from this moment, not from the first time that the task runs."""
        token = object()
        self._under_way.add(token)
        return self._invalidate(token, names, inodes)

    async def _invalidate(self, token: object, names: list[tuple[int, bytes]], inodes: list[int]) -> None:
        """Waits no longer than `INVALIDATION_TIMEOUT`: the kernel may hold the directory for a request that itself
        waits for this answer (rmdir of a bucket beside a PUT into it)."""

        def invalidate() -> None:
            try:
                for parent, name in names:
                    self.kernel.forget_name(parent, name)
                for inode in inodes:
                    self.kernel.forget_attributes(inode)
            finally:
                self._under_way.discard(token)

        with trio.move_on_after(INVALIDATION_TIMEOUT) as waiting:
            await trio.to_thread.run_sync(invalidate, abandon_on_cancel=True)
        if waiting.cancelled_caught:
            log.warning("the kernel took more than %g s to forget %d names", INVALIDATION_TIMEOUT, len(names))
