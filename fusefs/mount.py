"""One mounted file system: mount, serve on the trio loop, unmount.

pyfuse3 keeps its session in module globals: a process has at most one mount.  Serving is shielded from cancellation: a
cancelled `run` first makes the kernel give up its dirty pages (they arrive as ordinary writes), commits and waits for
the barrier, and only then takes the mount away, so that a clean stop loses nothing (RELIABILITY: forward progress).

Whoever starts it may be root (mount(2) by `handshake`, `allow_other` allowed) or an ordinary user (fusermount3).
Everything that the user can put right is a StoreError that says how.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from fusefs import interposed  # before pyfuse3, which binds to it

# isort: split
import pyfuse3
import trio

from appliance import connections, mountpoints
from appliance.authority import MOUNT, Principal
from appliance.errors import Code, StoreError
from appliance.mountpoints import FILE_SYSTEM, Mounted
from fusefs import extra, fastloop
from fusefs.arriving import Arrivals, arrivals
from fusefs.guarding import Guarding
from fusefs.handshake import Handshake
from fusefs.operations import Operations
from fusefs.ownership import ROOTS, Ownership
from fusefs.prefetch import Prefetch
from fusefs.reads import Reads
from fusefs.streams import Streams

if TYPE_CHECKING:
    from appliance.store import ObjectStore

log = logging.getLogger(__name__)

TASKS_MAX: Final = 64  # requests in work at once
RETURN_TIMEOUT: Final = 5.0  # seconds for our threads to come back from the kernel when the mount is ended
FLUSH_TIMEOUT: Final = 30.0  # seconds for the kernel's dirty pages when stopping

_libc: Final = ctypes.CDLL(None, use_errno=True)


class KernelCalls:
    """pyfuse3's notifications.  What the kernel does not know any more is no error."""

    def __init__(self, memory: Callable[[int], memoryview]) -> None:
        """`memory` that devices take as it lies, by so many bytes."""
        self.arrived = arrivals(memory)
        self._changed = threading.Condition()
        self._inside = 0

    @contextmanager
    def _call(self) -> Iterator[None]:
        with self._changed:
            self._inside += 1
        try:
            yield
        except OSError as error:
            _unless_unknown(error)
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def are_back(self, timeout: float) -> bool:
        """Whether every call has returned, after at most so many seconds.  No task waits for a thread that was
        abandoned there, but it looks at the session once more when it comes back.  Blocks."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._inside, timeout)

    def forget_name(self, parent: int, name: bytes) -> None:
        """Blocks while the kernel works in `parent`."""
        with self._call():
            pyfuse3.invalidate_entry(pyfuse3.InodeT(parent), pyfuse3.FileNameT(name))

    def forget_attributes(self, inode: int) -> None:
        """Attributes only: the bytes of a node never change through another door."""
        with self._call():
            pyfuse3.invalidate_inode(pyfuse3.InodeT(inode), attr_only=True)

    def asked(self) -> int:
        """The inode of the statfs request that is being answered; 0 where the compiled part is missing."""
        return extra.asked(interposed.library)

    def give(self, inode: int, data: bytes) -> None:
        """Puts a file's first bytes into the kernel's cache.  It waits for who has those pages locked, as who reads
        them from us does: so only while nobody has the file open, or has been answered that he has."""
        try:
            pyfuse3.notify_store(pyfuse3.InodeT(inode), 0, data)
        except OSError as error:
            _unless_unknown(error)

    def write_back(self, inode: int, offset: int) -> None:
        """Blocks while the inode's dirty pages arrive as writes, and forgets its pages."""
        with self._call():
            extra.write_back(interposed.library, inode, offset)


class Mount:
    """The mount at `point`.  `run` it in a nursery; it ends by `close`, by cancellation, or when somebody unmounts."""

    def __init__(
        self,
        store: ObjectStore,
        point: Path,
        *,
        allow_other: bool = True,
        durable_close: bool = False,
        principal: Principal = MOUNT,
        descriptor: int | None = None,
        control: int | None = None,
        ownership: Ownership = ROOTS,
    ) -> None:
        """`principal` is who acts in it, within what the kernel permits.  `descriptor`: the /dev/fuse of a mount that
        was made for us, and `control` its control file (connections.opened); whoever made it also takes it away.
        `ownership` of what came through S3 and says none."""
        self._made_for_us = descriptor
        self._control = control
        self.point = point
        self._kernel = KernelCalls(store.memory)
        self.operations = Operations(
            store, self._kernel, principal=principal, durable_close=durable_close, ownership=ownership
        )
        self.prefetch = self.operations.prefetch = Prefetch(point)
        if interposed.library is not None and interposed.has_reads(interposed.library):
            self.operations.direct.streams = Streams(store, Reads(interposed.library))
        self._allow_other = allow_other
        self._guarding = Guarding(point)
        self._tasks: trio.Nursery | None = None  # of handlers that pyfuse3 does not run
        self._ended = trio.Event()
        self._closed = trio.Event()

    @property
    def lacks(self) -> str:
        """What the mount cannot do because the compiled part is not there; usually nothing."""
        return interposed.LOST if not extra.is_in_place(interposed.library) else ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Mounts, says started, serves.  Raises UNAVAILABLE or INVALID_ARGUMENT with what to do."""
        places: list[Mounted] = []
        if self._made_for_us is None:
            places = await trio.to_thread.run_sync(prepare, self.point)
        try:
            by_hand = self._mount()
        except BaseException:
            self._closed.set()
            raise
        extra.check(interposed.library)
        try:
            await self._begin_guard()
            async with trio.open_nursery() as nursery:
                shielded = trio.CancelScope(shield=True)
                await nursery.start(partial(self._in_scope, shielded))
                await trio.to_thread.run_sync(raise_read_ahead, self.point)
                log.info("mounted at %s", self.point)
                for place, why in await trio.to_thread.run_sync(mountpoints.revive, self.point, places):
                    log.warning("%s could not be mounted again: %s", place, why)
                task_status.started()
                try:
                    await self._ended.wait()
                finally:
                    with trio.CancelScope(shield=True):
                        await self._stop()
                    shielded.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self.operations.direct.idle()
                await self.operations.syncs.idle()
            try:
                if by_hand and self._made_for_us is None and self._is_alone():
                    take_away(self.point)
            finally:  # whatever becomes of the place, nobody serves it any more
                if by_hand:  # otherwise libfuse unmounts, but not what is ended: it takes that for unmounted
                    self._guarding.end()
                    with trio.CancelScope(shield=True):
                        if not await trio.to_thread.run_sync(self._kernel.are_back, RETURN_TIMEOUT):
                            log.warning("threads still wait in the kernel for the mount, which is not served any more")
                pyfuse3.close(unmount=not by_hand)
                self._guarding.end()
                self._closed.set()
            log.info("unmounted from %s", self.point)

    async def _begin_guard(self) -> None:
        """Who ends the mount if we die while our threads wait for it: on its guard before anything is answered."""
        try:
            if self._control is None:
                found = mountpoints.at(self.point)
                if found is None or found.type != FILE_SYSTEM:
                    return  # somebody was quick
                self._control = mountpoints.control(found)
            await self._guarding.begin(self._control)
        except OSError as error:
            log.warning(
                "%s: if the daemon is killed while the kernel writes, the mount may hang instead of answering "
                "ENOTCONN: nobody guards it (%s); it needs root, or `mount -t fusectl fusectl %s` by root",
                self.point,
                error,
                connections.PLACE,
            )

    def _mount(self) -> bool:
        """Begins the session; true if mount(2) was called here, so that unmounting is also ours."""
        options = {"default_permissions"} | ({"allow_other"} if self._allow_other else set())
        read_only = self.operations.permits.principal.read_only  # known to access(2), statvfs(3) and mount(8)
        if not self._allow_other:
            self.operations.names.belong(os.geteuid(), os.getegid())  # nobody else can enter, root neither
        extra.install(interposed.library, self.operations, self._start)
        if os.geteuid() == 0 or self._made_for_us is not None:
            # where nobody else can enter, lists would tell nobody anything, and cost a request for each open
            lists = self.operations.metadata.lists = self._allow_other
            handshake = Handshake(self.point, options, self._made_for_us, lists=lists, read_only=read_only)
            fastloop.install(handshake.step)
            pyfuse3.init(self.operations, handshake.path, {"fsname=tierce"})
            return True
        fastloop.install()
        options |= {"fsname=tierce", "subtype=tierce"} | ({"ro"} if read_only else set())
        try:
            pyfuse3.init(self.operations, str(self.point), options)
        except RuntimeError as error:  # libfuse has printed its own reason
            raise StoreError(Code.UNAVAILABLE, _refusal(self.point), cause=str(error)) from None
        return False

    def _is_alone(self) -> bool:
        """Whether it is mounted, and nowhere else: otherwise it stays as it is, without an answer, until the next
        daemon mounts it again in all its places."""
        found = mountpoints.at(self.point)
        return found is not None and found.type == FILE_SYSTEM and not mountpoints.bound(found)

    async def close(self) -> None:
        """Unmounts, in use or not; returns when it is done."""
        self._ended.set()
        await self._closed.wait()

    async def settle(self) -> None:
        """What the kernel holds of closed files, and what we do, is durable."""
        await trio.to_thread.run_sync(flush_kernel, self.point, abandon_on_cancel=True)
        await self.operations.files.commit_all()
        await self.operations.pending.make_durable()

    async def unmount(self) -> None:
        """For an operator.  Raises IN_USE while a program works in it or it has further places, UNAVAILABLE."""
        found = mountpoints.at(self.point)
        if found is not None:
            others = [place.point for place in mountpoints.bound(found)]
            if others:
                raise StoreError(Code.IN_USE, f"also mounted at {', '.join(others)}: unmount these first")
            await self.settle()
            if self._made_for_us is not None:
                raise StoreError(Code.UNAVAILABLE, f"the service may not unmount: as root, umount {self.point}")
            await self.prefetch.quiet()
            await trio.to_thread.run_sync(partial(take_away, self.point, lazy=False))
        await self.close()

    async def _in_scope(self, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None]) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                self._tasks = nursery
                await nursery.start(self.operations.run)
                nursery.start_soon(self._serve)
                nursery.start_soon(self._guarding.run)
                if isinstance(self._kernel.arrived, Arrivals):
                    nursery.start_soon(self._kernel.arrived.run)
                task_status.started()

    def _start(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        assert self._tasks is not None, "requests come while the mount is served"
        self._tasks.start_soon(work, *arguments)

    async def _serve(self) -> None:
        # tasks that wait cost less than tasks that come and go
        await pyfuse3.main(min_tasks=TASKS_MAX, max_tasks=TASKS_MAX)
        self._ended.set()  # unmounted from outside, or terminated by _stop

    async def _stop(self) -> None:
        """The kernel's pages, then ours, then the requests and invalidations under way."""
        await self.prefetch.close()
        with trio.move_on_after(FLUSH_TIMEOUT) as waiting:
            await trio.to_thread.run_sync(flush_kernel, self.point, abandon_on_cancel=True)
        if waiting.cancelled_caught:
            log.warning("%s: the kernel's dirty pages did not arrive in %g s", self.point, FLUSH_TIMEOUT)
        await self.operations.files.commit_all()
        await self.operations.pending.make_durable()
        await self.operations.invalidation.close()
        pyfuse3.terminate()


def prepare(point: Path) -> list[Mounted]:
    """Checks that `point` can be mounted on; takes away a dead mount of ours; makes a missing directory.  The further
    places that the dead mount had.

    Raises IN_USE, UNAVAILABLE or INVALID_ARGUMENT, saying what to do.
    """
    if not os.path.exists("/dev/fuse"):
        raise StoreError(Code.UNAVAILABLE, "/dev/fuse is missing: load the kernel module with `modprobe fuse`")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise StoreError(Code.UNAVAILABLE, "/dev/fuse is not accessible: add this user to the group that owns it")
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        raise StoreError(Code.UNAVAILABLE, "fusermount3 is missing: install the package fuse3")
    if mountpoints.at(point) is not None:
        places = mountpoints.bury(point, take_away)
        log.warning("%s: a dead mount of an earlier run is taken away", point)
        return places
    try:
        mode = os.stat(point).st_mode
    except FileNotFoundError:
        os.makedirs(point)
        return []
    except OSError as error:
        raise StoreError(Code.INVALID_ARGUMENT, f"{point}: {error.strerror}") from None
    if not stat.S_ISDIR(mode):
        raise StoreError(Code.INVALID_ARGUMENT, f"{point} is not a directory: the mount needs an empty one")
    if os.listdir(point):
        raise StoreError(Code.INVALID_ARGUMENT, f"{point} is not empty: its files would be hidden by the mount")
    return []


def take_away(point: Path, *, lazy: bool = True) -> None:
    """Lazily: at once, also a dead mount or one in use.  Raises UNAVAILABLE, IN_USE (EBUSY)."""
    if os.geteuid() == 0:
        try:
            (mountpoints.detach if lazy else mountpoints.unmount)(point)
        except OSError as error:
            code = Code.IN_USE if error.errno == errno.EBUSY else Code.UNAVAILABLE
            raise StoreError(code, f"cannot unmount {point}: {error.strerror}") from None
        return
    words = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", str(point)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        code = Code.IN_USE if "busy" in done.stderr else Code.UNAVAILABLE
        raise StoreError(code, f"cannot unmount {point}: {done.stderr.strip()}")


def flush_kernel(point: Path) -> None:
    """syncfs(2): the kernel hands over its dirty pages.  Blocks while they are written: never on the loop."""
    try:
        descriptor = os.open(point, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return  # unmounted from outside: there are none
    try:
        _libc.syncfs(descriptor)
    finally:
        os.close(descriptor)


def raise_read_ahead(point: Path) -> None:
    """As mountpoints.raise_read_ahead, if we may: a service's premount step does it otherwise.  Blocks until the mount
    answers."""
    found = mountpoints.at(point)
    if found is None or os.geteuid() != 0:
        return
    try:
        os.statvfs(point)
    except OSError:
        return  # unmounted from outside
    try:
        mountpoints.raise_read_ahead(found)
    except OSError as error:
        log.info("%s: read-ahead stays as it is: %s", point, error.strerror)


def _refusal(point: Path) -> str:
    return (
        f"fusermount3 refused to mount {point}: the directory must belong to this user, and in a container "
        "/dev/fuse and SYS_ADMIN must be given to it"
    )


def _unless_unknown(error: OSError) -> None:
    if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOSYS):
        log.warning("the kernel refused an invalidation: %s", error)
