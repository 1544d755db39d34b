"""The pyfuse3 shell: unwrap a request, call the store, wrap the answer.

Every handler is wrapped by `answered`, most by way of `reading`, `writing` and `handling`, which ask whether it may:
only FUSEError leaves, because pyfuse3 ends the mount on anything else.  A handler that finds what it needs in memory
never suspends, so an answer and what it was made from are one moment: an S3 change comes before or after, never
between (H4, H5).

What is where: `Names` finds and answers, `WriteBack` keeps what is not committed, `Invalidation` hears of the other
door.  Permissions are the kernel's (`default_permissions`).
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Final

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
    XAttrNameT,
)

from appliance.authority import MOUNT, Action, Principal
from appliance.errors import StoreError
from appliance.model import Entry
from fusefs import attributes, changes, past, tree
from fusefs.answered import BeingRemoved, answered
from fusefs.direct import DirectReads
from fusefs.dirents import ByPyfuse3, Packed, Page
from fusefs.entries import Entries
from fusefs.guarded import finding, handling, reading, writing
from fusefs.handles import DirectoryHandle, File, FileHandle
from fusefs.inodes import ROOT, Inodes
from fusefs.invalidation import Invalidation, Kernel
from fusefs.listing import is_at_hand, list_buckets, list_directory, seek, warm
from fusefs.metadata import Metadata
from fusefs.names import Names
from fusefs.ownership import ROOTS, Ownership
from fusefs.pending import Change, Pending
from fusefs.permits import Permits
from fusefs.places import Positions
from fusefs.prefetch import SMALL, Prefetch
from fusefs.ranges import Ranges
from fusefs.reading import committed_now, read
from fusefs.space import space_at
from fusefs.syncing import DirectSyncs
from fusefs.times import clock_ns
from fusefs.writeback import WriteBack

if TYPE_CHECKING:
    from appliance.store import ObjectStore

NAMELESS: Final = b"/"  # what the kernel calls a file that is opened with O_TMPFILE (vfs_tmpfile, fs/namei.c)
GIVE_MAX: Final = 16 << 10  # bytes of a file that the kernel is given when it is opened to be read
GIVEN_NOT: Final = os.O_ACCMODE | os.O_TRUNC | os.O_DIRECT
FORGET_STEP: Final = 1_024  # inodes forgotten between two turns of the others: 2 ms
SUID_SGID: Final = stat.S_ISUID | stat.S_ISGID


class Operations(pyfuse3.Operations):
    """One mount.  `principal` is who acts in it, and owns the buckets that mkdir makes."""

    supports_dot_lookup = True
    enable_writeback_cache = True
    enable_acl = False

    def __init__(
        self,
        store: ObjectStore,
        kernel: Kernel,
        *,
        principal: Principal = MOUNT,
        durable_close: bool = False,
        ownership: Ownership = ROOTS,
    ) -> None:
        super().__init__()
        self.store = store
        self.permits = Permits(principal)
        self.inodes = Inodes(attributes.TIMEOUT)
        self.files = WriteBack(store, durable_close=durable_close, ownership=ownership)
        self.pending = Pending(store, self.files)
        self.names = Names(store, self.inodes, self.files, self.pending, self.permits)
        self.invalidation = Invalidation(store, self.inodes, self.files, kernel)
        self.pending.failed = self._failed
        self._unwatch_hidden = store.watch_hidden(self._hide)
        self.entries = Entries(store, self.permits, self.inodes, self.names, self.files, self.invalidation)
        self.metadata = Metadata(store, self.permits, self.inodes, self.names, self.files, self.invalidation)
        self._kernel = kernel
        self.prefetch: Prefetch | None = None
        self.direct = DirectReads(store, self.permits, self._reads)
        self.syncs = DirectSyncs(self.files, self.pending, self.permits)
        self.ranges = Ranges(store, self.files, kernel)
        self.handles: dict[int, FileHandle | DirectoryHandle] = {}
        self.positions = Positions()
        self._numbers = count(1)
        self._started_ns = clock_ns()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The background: ends only by cancellation."""
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.files.run)
                nursery.start_soon(self.pending.run)
                if self.prefetch is not None:
                    nursery.start_soon(self.prefetch.run)
                if self.direct.streams is not None:
                    nursery.start_soon(self.direct.streams.run)
                task_status.started()
        finally:
            self._unwatch_hidden()

    # ------------------------------------------------------------------ names
    @finding
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        if name in (b".", b".."):  # who has an inode's number and no name (NFS)
            inode = parent_inode if name == b"." else self.names.parent(parent_inode)
            return self._root() if inode == ROOT else await self.names.again(inode)
        found = self.names.find(parent_inode, name)
        if found is None:
            return self._absent(parent_inode, name)
        return self.names.looked_up(parent_inode, found)

    @answered
    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for at, (inode, lookups) in enumerate(inode_list, 1):  # tens of thousands when the kernel needs memory
            if self.inodes.forget(inode, lookups):
                self.names.past.forget(inode)
            if at % FORGET_STEP == 0:
                await trio.lowlevel.checkpoint()

    @writing
    async def mkdir(self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        return await self.entries.mkdir(parent_inode, name, mode, ctx)

    @writing
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return await self.entries.symlink(parent_inode, name, target, ctx)

    @writing
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return await self.entries.mknod(parent_inode, name, mode, rdev, ctx)

    @writing
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        return await self.entries.link(inode, new_parent_inode, new_name)

    @writing
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self.entries.unlink(parent_inode, name)

    @writing
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        await self.entries.rmdir(parent_inode, name)

    @writing
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        await self.entries.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    @reading
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        node = self.names.node(inode)
        self.metadata.accessed(node)
        return FileNameT(node.data)

    # ------------------------------------------------------------------ attributes
    @reading
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        if inode == ROOT:
            return self._root()
        try:
            answer = self.names.told(inode)
            file = self.files.get(inode)
            if file is not None and file.writers:
                answer.attr_timeout = attributes.WRITTEN_TIMEOUT
            return answer
        except FUSEError as error:
            removed = self._removed(inode) if error.errno == errno.ESTALE else None
            if removed is None:
                raise
            return removed

    @writing
    async def setattr(
        self, inode: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: FileHandleT | None, ctx: RequestContext
    ) -> EntryAttributes:
        if inode == ROOT:
            raise FUSEError(errno.EPERM)
        now_ns = clock_ns()
        file = self.files.get(inode)
        by_kernel = changes.is_kernels_own(fields)
        if file is None:
            try:
                node = self.names.node(inode)
                file = self._found(inode) if stat.S_ISREG(node.mode) else None
            except (FUSEError, BeingRemoved) as error:
                gone = isinstance(error, BeingRemoved) or error.errno == errno.ESTALE
                if gone and by_kernel:
                    return attributes.answer((inode, stat.S_IFREG, 0, 0, 0, 0, 0, 0, 0, 0, 0), 0)
                raise
        if file is None:
            await self.metadata.set_node(node, attr, fields)
            return self.names.told(inode)
        try:
            if fields.update_atime:
                self.files.times.read.pop(inode, None)
            if fields.update_size:
                changes.require_unlocked(self.store, file)
                changes.require_size(attr.st_size)
                file.require_key()
                if attr.st_size < file.size:
                    await self.ranges.shorten(file, attr.st_size)
                else:
                    await self.files.promise(file, attr.st_size)
                self.files.truncate(file, attr.st_size, now_ns)
                changes.drop_privileges(file)
            if changes.set_attributes(file, attr, fields, now_ns) and not file.orphan:
                self.files.touch(file)
            self.invalidation.epoch += 1
            if by_kernel:
                self.syncs.timed(file)
            if not file.writers or (fields.update_size and fh is None):
                # nobody's close will commit it, or none of who truncates it by its name (of ftruncate we are given the
                # handle): S3 does not see the longer file for as long as others write it
                await self.files.commit(file)
                if not file.writers:
                    file.begins = True  # the next change is another version, though readers keep the file in memory
            return self.names.told(inode)
        finally:
            self.files.let_go(file)

    @reading
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        return True  # default_permissions: the kernel has already decided

    @answered
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        return space_at(self.store, self.names, self._kernel.asked() or ROOT)

    # ------------------------------------------------------------------ extended attributes
    @reading
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        return await self.metadata.get(inode, name)

    @reading
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        return self.metadata.names_of(inode, ctx.uid)

    @writing
    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        await self.metadata.put(inode, name, value, ctx)

    @writing
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        await self.metadata.remove(inode, name)

    # ------------------------------------------------------------------ files
    @writing
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        if name == NAMELESS:
            file = self.entries.new_nameless(parent_inode, stat.S_IFREG | stat.S_IMODE(mode), ctx)
            return self._open(file, flags), self.names.looked_up(parent_inode, file)
        found = None if parent_inode == ROOT else self.names.find(parent_inode, name)
        if found is None:
            file = self.entries.new_file(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode), ctx, absent=True)
        elif flags & os.O_EXCL:
            raise FUSEError(errno.EEXIST)
        elif isinstance(found, Entry):
            if not stat.S_ISREG(found.node.mode):
                raise FUSEError(errno.EISDIR if found.directory else errno.EEXIST)
            file = self.files.of_node(found.node, self.names.bucket_of(parent_inode))
            file.place = (parent_inode, found.name)
        else:
            file = found
        return self._open(file, flags), self.names.looked_up(parent_inode, file)

    @reading
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self.permits.require(Action.MOUNT_WRITE, self.names.bucket_of(inode))
            self.names.require_present(inode)
        file = self.files.get(inode)
        if file is None:
            file = self._found(inode)
            if not flags & GIVEN_NOT and 0 < file.size <= GIVE_MAX and self.inodes.first_opened(inode):
                self._give(file)
        return self._open(file, flags, ours=self.prefetch is not None and self.prefetch.asks(ctx.pid))

    @handling
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        handle = self._file_handle(fh)
        file = handle.file
        end = min(off + size, file.size)
        failure = self.direct.failure(handle, off, end)
        if failure is not None:
            raise failure
        self._reads(handle, off, end)
        if off >= end:
            return b""
        return await read(self.store, file, off, end)

    def read_directly(
        self,
        fh: int,
        start: int,
        size: int,
        reply: Callable[[bytes | memoryview], object],
        again: Callable[[], None],
        take: Callable[[int, int], object],
    ) -> bytes | bool:
        """As `read`, of what is committed, but answered by the thread that has read it (`direct`)."""
        return self.direct.read(self.handles.get(fh), start, size, reply, again, take)

    def _reads(self, handle: FileHandle, start: int, end: int) -> None:
        """A program has asked for these bytes of a file, or we have."""
        if not handle.unseen:
            self.metadata.accessed(handle.file)
        if self.prefetch is not None and 0 < end - start <= SMALL and not handle.direct and not handle.ours:
            self.prefetch.missed(handle.file, start, end)

    @handling
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        handle = self._file_handle(fh)
        file = handle.file
        data = buf or self._kernel.arrived()
        size = len(data)
        if file.error is not None:
            self.files.report(file)
        try:
            changes.require_size(off + size)
            await self.files.make_room(file)
            if off + size > file.size:
                await self.files.promise(file, off + size)
                if self.prefetch is not None and not handle.direct:
                    self.prefetch.grown(file, size)
            self.files.write(file, off, data, now_ns := clock_ns())
        except StoreError as error:
            if self.files.promises.refuse(handle, error):
                return size
            raise
        if file.mode & SUID_SGID:
            changes.drop_privileges(file)
        self.syncs.written(file, now_ns)
        return size

    @handling
    async def flush(self, fh: FileHandleT) -> None:
        handle = self._file_handle(fh)
        file = handle.file
        if self.prefetch is not None and not handle.ours:
            await self.prefetch.closed(file, written=handle.writable)
        if not handle.writable:
            if not handle.unseen:
                self.metadata.accessed(file)  # most bytes are read from the kernel's cache without a request
            return
        if file.misled:
            await self.invalidation.forget_file(file)
        if self.files.durable_close:
            await self.files.make_durable(file, late=True)
        else:
            await self.files.commit(file)
            self.files.report(file)
        self.files.promises.report(file)

    @handling
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        file = self._file_handle(fh).file
        await self.files.make_durable(file, late=True)
        await self.pending.named(file.inode)
        self.pending.synced(file.inode)
        self.files.promises.report(file)

    def sync_directly(self, fh: int, reply: Callable[[], object], again: Callable[[], None]) -> bool:
        """As `fsync`, of little, but answered by the thread that made it durable (`syncing`)."""
        return self.syncs.sync(self.handles.get(fh), reply, again)

    @handling
    async def lseek(self, fh: int, offset: int, whence: int) -> int:
        """SEEK_DATA and SEEK_HOLE; the kernel does the others (lseek(2))."""
        return await self.ranges.seek(self._file_handle(fh).file, offset, whence)

    @handling
    async def fallocate(self, fh: int, mode: int, offset: int, length: int) -> None:
        """fallocate(2); what the kernel asks for: COLLAPSE_RANGE, INSERT_RANGE and UNSHARE_RANGE it refuses itself."""
        handle = self._file_handle(fh)
        await self.ranges.allocate(handle.file, mode, offset, length)
        changes.drop_privileges(handle.file)

    @handling
    async def copy_file_range(
        self, fh: int, offset_in: int, fh_out: int, offset_out: int, length: int, flags: int
    ) -> int:
        """copy_file_range(2): how many bytes; EOPNOTSUPP where the kernel shall copy them."""
        source, target = self._file_handle(fh), self._file_handle(fh_out)
        if flags or not target.writable:
            raise FUSEError(errno.EINVAL if flags else errno.EBADF)
        self.permits.require(Action.MOUNT_WRITE, target.file.bucket)
        changes.drop_privileges(target.file)
        return await self.ranges.copy(source.file, offset_in, target.file, offset_out, length)

    @answered
    async def release(self, fh: FileHandleT) -> None:
        handle = self._file_handle(fh)
        file = handle.file
        try:
            if handle.writable:  # pages of a shared mapping arrive after the last close(2)
                file.done = file.writers == 1
                if file.done and not file.orphan and changes.is_unretained(file):
                    self.files.touch(file)
                await self.files.commit(file)
        finally:
            del self.handles[fh]
            self.direct.closed(handle)
            if self.prefetch is not None and handle.writable:
                self.prefetch.leave(file)
            file.opens -= 1
            file.writers -= handle.writable
            if not file.writers:
                file.begins = file.done = True  # the next writer's first change is another version
                file.refused, file.misled = None, False
            self.files.let_go(file)

    # ------------------------------------------------------------------ directories
    @reading
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        number = next(self._numbers)
        # ESTALE for one that is gone: the kernel looks its path up again
        node = self.names.node(inode) if inode != ROOT else None
        places = self.positions.opened(inode)
        self.handles[number] = DirectoryHandle(inode, self.names.bucket_id(inode), node, places)
        return FileHandleT(number)

    @handling
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        """What pyfuse3 asks where the compiled part is missing."""
        await self._list(fh, start_id, ByPyfuse3(token))

    @handling
    async def readdirplus(self, fh: int, start: int, size: int) -> bytes:
        """A reply of at most `size` bytes.  Waits only where `is_at_hand` says no."""
        page = Packed(size)
        await self._list(fh, start, page)
        return page.packed()

    def is_at_hand(self, fh: int, start: int) -> bool:
        """Whether a directory's entries from there on can be given without waiting for anything."""
        handle = self.handles.get(fh)
        if not isinstance(handle, DirectoryHandle):
            return False
        return handle.inode == ROOT or handle.inode in self.names.past or is_at_hand(handle, start)

    async def _list(self, fh: int, start: int, page: Page) -> None:
        handle = self.handles[fh]
        assert isinstance(handle, DirectoryHandle)
        if handle.inode == ROOT:
            list_buckets(self.names, start, page)
        elif handle.inode in self.names.past:
            self.names.past.list(handle.inode, handle.older, start, page)
        else:
            if handle.node is not None and start == 0:
                self.metadata.accessed(handle.node)
            if start == 0 or start != handle.cookie:
                await seek(self.names, handle, start)
            if handle.cold:
                await warm(self.names, handle)
            list_directory(self.names, handle, self.invalidation.epoch, page)

    @answered
    async def releasedir(self, fh: FileHandleT) -> None:
        handle = self.handles.pop(fh)
        assert isinstance(handle, DirectoryHandle)
        if handle.bare:
            self.names.bare.pop(handle.inode, None)
        self.positions.closed(handle.inode)

    @handling
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        handle = self.handles[fh]
        assert isinstance(handle, DirectoryHandle)
        await self.pending.make_durable()
        self.pending.report(handle.inode)

    # ------------------------------------------------------------------ answering
    def _hide(self) -> None:
        """What was synced in some bucket can be shown no more."""
        for bucket in self.store.buckets():
            if self.store.is_hidden(bucket.id):
                self.permits.close(bucket)

    def _failed(self, change: Change) -> None:
        """The kernel knows what did not happen."""
        names = [(parent, tree.to_mount(name.removesuffix(b"/"))) for parent, name in change.rows]
        self.invalidation.forget(names, [node.id for node in change.nodes])

    def _absent(self, parent: int, name: bytes) -> EntryAttributes:
        unwatched = parent == ROOT or name == past.NAME or parent in self.names.past  # no change of these is told
        if unwatched or not self.inodes.absent_given(parent, name, time.monotonic()):
            raise FUSEError(errno.ENOENT)
        answer = EntryAttributes()
        answer.st_ino = InodeT(0)
        answer.entry_timeout = attributes.TIMEOUT
        return answer

    def _root(self) -> EntryAttributes:
        links = 2 + sum(self.permits.allows(Action.MOUNT_READ, bucket) for bucket in self.store.buckets())
        began = self._started_ns
        mode = stat.S_IFDIR | 0o755
        return attributes.answer((ROOT, mode, os.geteuid(), os.getegid(), links, 0, 0, began, began, began, 0))

    # ------------------------------------------------------------------ files
    def _open(self, file: File, flags: int, *, ours: bool = False) -> FileInfo:
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        try:
            file.require_key()
            if writable or flags & os.O_TRUNC:
                changes.require_unlocked(self.store, file)
            if flags & os.O_TRUNC and file.size:
                self.files.truncate(file, 0, clock_ns())
                changes.drop_privileges(file)
                writable = True  # its close commits
        except StoreError:
            self.files.let_go(file)
            raise
        file.opens += 1
        file.writers += writable
        file.done = not file.writers
        number = next(self._numbers)
        self.handles[number] = FileHandle(
            file, writable, direct=bool(flags & os.O_DIRECT), ours=ours, unseen=bool(flags & os.O_NOATIME)
        )
        # keep_cache: an S3 PUT makes a new node, so a node's bytes change through this mount alone
        return FileInfo(fh=FileHandleT(number), keep_cache=True)

    def _found(self, inode: int) -> File:
        """The file of an inode that no memory holds yet.  ESTALE when its key has another version by now."""
        node = self.names.node(inode)
        if not stat.S_ISREG(node.mode):
            raise FUSEError(errno.EISDIR if stat.S_ISDIR(node.mode) else errno.EINVAL)
        place = self.names.require_current(inode)
        file = self.files.of_node(node, self.names.bucket_of(inode))
        file.place = place
        return file

    def _give(self, file: File) -> None:
        """The bytes of a small file that nobody has open, if memory has them: the kernel needs not ask.  It has none
        that are newer: who wrote them has closed the file, and with that they came here."""
        if file.base is not None and file.base.customers:
            return
        try:
            data = committed_now(self.store, file, 0, file.size)
        except StoreError:
            return  # who reads them meets the same, and is told
        if data is not None:
            self._kernel.give(file.inode, data)

    def _file_handle(self, fh: int) -> FileHandle:
        handle = self.handles[fh]
        assert isinstance(handle, FileHandle)
        return handle

    def _removed(self, inode: int) -> EntryAttributes | None:
        """What is told of a directory that somebody has open though it is gone; None when nobody has."""
        for handle in self.handles.values():
            if isinstance(handle, DirectoryHandle) and handle.inode == inode and handle.node is not None:
                answer = self.names.attributes(handle.node)
                answer.st_nlink = 0
                return answer
        return None
