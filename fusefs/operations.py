"""The pyfuse3 shell: unwrap a request, call the store, wrap the answer.

Every handler is wrapped by `answered`: only FUSEError leaves, because pyfuse3 ends the mount on anything else.  A handler that finds
what it needs in memory never suspends, so an answer and what it was made from are one moment: an S3 change comes before or
after, never between (H4, H5).

Names: `tree` maps the catalogue's to the mount's.  In one directory a directory is found before a file of the same name; files not
yet committed are found in `WriteBack.names`.  What the kernel may have cached is in `Inodes`; `changed` invalidates it, from a worker
thread, because the kernel may hold a lock that is released only by an answer of this loop.

Permissions are the kernel's (`default_permissions`).
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import stat
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any, Final, ParamSpec, Protocol, TypeVar

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

from appliance.errors import Code, StoreError
from appliance.limits import FILE_SIZE_MAX, NAME_MAX
from appliance.model import IMPLIED, Attributes, Bucket, Change, Entry, NewChunk, Node
from fusefs import attributes, tree, xattrs
from fusefs.errors import to_errno
from fusefs.handles import DirectoryHandle, File, FileHandle
from fusefs.inodes import ROOT, Inodes
from fusefs.writeback import WriteBack

if TYPE_CHECKING:
    from appliance.store import ObjectStore

log = logging.getLogger(__name__)

BUCKET_TIMEOUT: Final = 0.0  # buckets come and go without a Change: the kernel asks each time
INVALIDATION_TIMEOUT: Final = 5.0  # seconds an S3 answer waits for the kernel
LIST_STEP: Final = 256  # entries per call of the store: about one reply of 32 KiB
FILES_MAX: Final = 1 << 40  # statfs: there is no fixed number of inodes
SUID_SGID: Final = stat.S_ISUID | stat.S_ISGID

P = ParamSpec("P")
R = TypeVar("R")


class Kernel(Protocol):
    """Calls into the kernel that may block: only from worker threads."""

    def forget_name(self, parent: int, name: bytes) -> None: ...
    def forget_attributes(self, inode: int) -> None: ...
    def forget_name_later(self, parent: int, name: bytes) -> None:
        """Returns at once; may be called from the loop."""


def answered(handler: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
    """Nothing but FUSEError gets out."""

    @functools.wraps(handler)
    async def answer(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(*args, **kwargs)
        except FUSEError:
            raise
        except StoreError as error:
            number = to_errno(error.code)
            if number == errno.EIO:
                log.error("%s: %r", handler.__name__, error)
            raise FUSEError(number) from None
        except Exception:
            log.exception("%s failed", handler.__name__)
            raise FUSEError(errno.EIO) from None

    return answer


class Operations(pyfuse3.Operations):
    """One mount.  `owner` owns the buckets that mkdir makes."""

    supports_dot_lookup = False
    enable_writeback_cache = True
    enable_acl = False

    def __init__(
        self, store: ObjectStore, kernel: Kernel, *, owner: str = "default", durable_close: bool = False
    ) -> None:
        super().__init__()
        self.store = store
        self.kernel = kernel
        self.owner = owner
        self.inodes = Inodes()
        self.files = WriteBack(store, durable_close=durable_close)
        self.invalidating: set[object] = set()  # invalidations under way
        self.closing = False
        self._handles: dict[int, FileHandle | DirectoryHandle] = {}
        self._numbers = count(1)
        self._own: Counter[tuple[int, bytes, bool]] = Counter()  # names that our own commands are changing
        self._epoch = 0  # rises with every change of a name or node
        self._started_ns = time.time_ns()
        store.watch(self.changed)

    # ------------------------------------------------------------------ names
    @answered
    async def lookup(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> EntryAttributes:
        found = self._resolve(parent_inode, name)
        if found is None:
            return self._absent(parent_inode, name)
        return self._found(parent_inode, found)

    @answered
    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, lookups in inode_list:
            self.inodes.forget(inode, lookups)

    @answered
    async def mkdir(self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        if parent_inode == ROOT:
            bucket = await self.store.create_bucket(_bucket_name(name), self.owner)
            node = await self.store.set_attributes(
                bucket.root, time.time_ns(), mode=stat.S_IFDIR | stat.S_IMODE(mode), uid=ctx.uid, gid=ctx.gid
            )
            return self._found(ROOT, Entry(name, True, node))
        new = self._new_name(parent_inode, name)
        gid, mode = self._inherit(parent_inode, ctx.gid, mode)
        with self._ours((parent_inode, new, True)):
            entry = await self.store.make_directory(
                parent_inode, new, stat.S_IFDIR | stat.S_IMODE(mode), ctx.uid, gid, time.time_ns()
            )
        return self._made(parent_inode, entry)

    @answered
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        new = self._new_name(parent_inode, name)
        gid, _ = self._inherit(parent_inode, ctx.gid, 0)
        with self._ours((parent_inode, new, False)):
            entry = await self.store.make_symlink(parent_inode, new, target, ctx.uid, gid, time.time_ns())
        return self._made(parent_inode, entry)

    @answered
    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        if not stat.S_ISREG(mode):
            raise FUSEError(errno.EPERM)  # mknod(2): the file system does not support nodes of this type
        file = self._new_file(parent_inode, name, mode, ctx)
        await self.files.make_durable(file)
        return self._found(parent_inode, file)

    @answered
    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        new = self._new_name(new_parent_inode, new_name)
        file = self.files.get(inode)
        if file is not None:
            await self.files.make_durable(file)
        with self._ours((new_parent_inode, new, False)):
            entry = await self.store.make_link(inode, new_parent_inode, new, time.time_ns())
        if file is not None:
            file.base = entry.node
        return self._made(new_parent_inode, entry)

    @answered
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        if parent_inode == ROOT:
            raise FUSEError(errno.EISDIR)
        found = self._existing(parent_inode, name)
        file = found if isinstance(found, File) else self.files.get(found.node.id)
        if file is not None and file.base is None and await self._drop_uncommitted(file):
            return
        if isinstance(found, Entry):
            if found.directory:
                raise FUSEError(errno.EISDIR)
            stored = found.name
        else:
            assert isinstance(named := tree.from_mount(name), tree.Name)
            stored = named.name
        await self._keep(parent_inode)
        with self._ours((parent_inode, stored, False)):
            await self.store.unlink(parent_inode, stored, time.time_ns())
        self._epoch += 1
        if file is not None:
            self.files.unlinked(file)

    @answered
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        if parent_inode == ROOT:
            bucket = self.store.bucket(_bucket_name(name))
            self._check_empty(bucket.root)
            await self.store.delete_bucket(bucket.name)
            return
        found = self._existing(parent_inode, name)
        if not isinstance(found, Entry) or not found.directory:
            raise FUSEError(errno.ENOTDIR)
        if self.files.names.get(found.node.id):
            raise FUSEError(errno.ENOTEMPTY)
        await self._keep(parent_inode)
        with self._ours((parent_inode, found.name, True)):
            await self.store.remove_directory(parent_inode, found.name, time.time_ns())
        self._epoch += 1
        self._unshadow(parent_inode, found.name)

    @answered
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        if ROOT in (parent_inode_old, parent_inode_new):
            raise FUSEError(errno.EPERM)
        if flags & ~(pyfuse3.RENAME_EXCHANGE | pyfuse3.RENAME_NOREPLACE):
            raise FUSEError(errno.EINVAL)
        if self._bucket_id(parent_inode_old) != self._bucket_id(parent_inode_new):
            raise FUSEError(errno.EXDEV)
        source = self._existing(parent_inode_old, name_old)
        target = self._resolve(parent_inode_new, name_new)
        exchange = bool(flags & pyfuse3.RENAME_EXCHANGE)
        directory = isinstance(source, Entry) and source.directory
        if target is None:
            if exchange:
                raise FUSEError(errno.ENOENT)
            new = self._new_name(parent_inode_new, name_new)
        else:
            if flags & pyfuse3.RENAME_NOREPLACE:
                raise FUSEError(errno.EEXIST)
            onto = isinstance(target, Entry) and target.directory
            if directory != onto:
                raise FUSEError(errno.EINVAL if exchange else errno.EISDIR if onto else errno.ENOTDIR)
            if onto and isinstance(target, Entry) and not exchange and self.files.names.get(target.node.id):
                raise FUSEError(errno.ENOTEMPTY)
            new = target.name if isinstance(target, Entry) else _file_name(target, name_new)
        stored = source.name if isinstance(source, Entry) else _file_name(source, name_old)
        moved, replaced = self._file(source), self._file(target)
        if moved is not None and moved is replaced:
            return  # rename(2): two names of one file, nothing happens
        commit = None
        if moved is not None:  # new bytes before the new name: a crash leaves the old file or the whole new one
            commit = await self.files.commit(moved)
            if moved.base is not None or len(moved.pending) != 1:
                await self.files.make_durable(moved)  # otherwise its one commit fails together with the rename
        if replaced is not None:
            if exchange:
                await self.files.make_durable(replaced)
            elif replaced.base is None and await self._drop_uncommitted(replaced):
                replaced = None
        await self._keep(parent_inode_old)
        with self._ours((parent_inode_old, stored, directory), (parent_inode_new, new, directory)):
            await self.store.rename(
                parent_inode_old,
                stored,
                directory,
                parent_inode_new,
                new,
                time.time_ns(),
                replace=not flags & pyfuse3.RENAME_NOREPLACE,
                exchange=exchange,
            )
        if commit is not None:
            await self.files.wait(commit)
        self._epoch += 1
        if replaced is not None and not exchange:
            self.files.unlinked(replaced)
        if directory:
            self._unshadow(parent_inode_old, stored)

    @answered
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        return FileNameT(self._node(inode).data)

    # ------------------------------------------------------------------ attributes
    @answered
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        if inode == ROOT:
            return self._root()
        return self._told(inode)

    @answered
    async def setattr(
        self, inode: InodeT, attr: EntryAttributes, fields: SetattrFields, fh: FileHandleT | None, ctx: RequestContext
    ) -> EntryAttributes:
        if inode == ROOT:
            raise FUSEError(errno.EPERM)
        now_ns = time.time_ns()
        file = self.files.get(inode)
        if file is None:
            node = self._node(inode)
            if not stat.S_ISREG(node.mode):
                await self.store.set_attributes(
                    inode,
                    now_ns,
                    mode=stat.S_IFMT(node.mode) | stat.S_IMODE(attr.st_mode) if fields.update_mode else None,
                    uid=attr.st_uid if fields.update_uid else None,
                    gid=attr.st_gid if fields.update_gid else None,
                    atime_ns=attr.st_atime_ns if fields.update_atime else None,
                    mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
                )
                self._epoch += 1
                return self._told(inode)
            file = self.files.of_node(node, self._bucket_id(inode))
        try:
            if fields.update_size:
                if attr.st_size > FILE_SIZE_MAX:
                    raise FUSEError(errno.EFBIG)
                self.files.truncate(file, attr.st_size, now_ns)
                _drop_privileges(file)
            self._set_attributes(file, attr, fields, now_ns)
            if not file.writers:  # nobody's close will commit it
                await self.files.commit(file)
            return self._told(inode)
        finally:
            self.files.let_go(file)

    @answered
    async def access(self, inode: InodeT, mode: ModeT, ctx: RequestContext) -> bool:
        return True  # default_permissions: the kernel has already decided

    @answered
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        total, available = self.store.space()
        answer = StatvfsData()
        answer.f_bsize = answer.f_frsize = attributes.BLOCK_SIZE
        answer.f_blocks = total // attributes.BLOCK_SIZE
        answer.f_bfree = answer.f_bavail = available // attributes.BLOCK_SIZE
        answer.f_files = answer.f_ffree = answer.f_favail = FILES_MAX
        answer.f_namemax = NAME_MAX
        return answer

    # ------------------------------------------------------------------ extended attributes
    @answered
    async def getxattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> bytes:
        if not name.startswith(xattrs.USER) or inode == ROOT:  # security.capability: asked at every first write
            raise FUSEError(pyfuse3.ENOATTR)
        file = self.files.get(inode)
        if name == xattrs.ETAG and file is not None and (file.pending or file.base is None):
            await self.files.make_durable(file)  # the other door shows this ETag only then (H2)
        value = xattrs.get(*self._attributes(inode), name)
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value

    @answered
    async def listxattr(self, inode: InodeT, ctx: RequestContext) -> Sequence[XAttrNameT]:
        if inode == ROOT:
            return []
        return [XAttrNameT(name) for name in xattrs.names(self._attributes(inode)[0])]

    @answered
    async def setxattr(self, inode: InodeT, name: XAttrNameT, value: bytes, ctx: RequestContext) -> None:
        if not name.startswith(xattrs.USER) or inode == ROOT:
            raise FUSEError(errno.EOPNOTSUPP)
        held, _ = self._attributes(inode)
        await self._put_attributes(inode, xattrs.put(held, name, value))

    @answered
    async def removexattr(self, inode: InodeT, name: XAttrNameT, ctx: RequestContext) -> None:
        if not name.startswith(xattrs.USER) or inode == ROOT:
            raise FUSEError(pyfuse3.ENOATTR)
        held, _ = self._attributes(inode)
        left = xattrs.remove(held, name)
        if left is None:
            raise FUSEError(pyfuse3.ENOATTR)
        await self._put_attributes(inode, left)

    # ------------------------------------------------------------------ files
    @answered
    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        found = None if parent_inode == ROOT else self._resolve(parent_inode, name)
        if found is None:
            file = self._new_file(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode), ctx)
        elif flags & os.O_EXCL:
            raise FUSEError(errno.EEXIST)
        elif isinstance(found, Entry):
            if not stat.S_ISREG(found.node.mode):
                raise FUSEError(errno.EISDIR if found.directory else errno.EEXIST)
            file = self.files.of_node(found.node, self._bucket_id(parent_inode))
        else:
            file = found
        info = self._open(file, flags)
        return info, self._found(parent_inode, file)

    @answered
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        file = self.files.get(inode)
        if file is None:
            node = self._node(inode)
            if not stat.S_ISREG(node.mode):
                raise FUSEError(errno.EISDIR if stat.S_ISDIR(node.mode) else errno.EINVAL)
            file = self.files.of_node(node, self._bucket_id(inode))
        return self._open(file, flags)

    @answered
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        file = self._file_handle(fh).file
        end = min(off + size, file.size)
        if off >= end:
            return b""
        if not file.overlay:
            return await self._committed(file, off, end)
        parts = []
        while off < end:  # the overlay may have changed during each wait
            start, stop, segment = next(file.overlay.pieces(off, end))
            if segment is None:
                parts.append(await self._committed(file, start, stop))
            elif segment.source is None:
                parts.append(bytes(stop - start))
            elif isinstance(segment.source, NewChunk):
                at = segment.skip + start - segment.start
                parts.append(await self._staged(segment.source, at, stop - start))
            else:
                parts.append(bytes(segment.view()[start - segment.start : stop - segment.start]))
            off = stop
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @answered
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        file = self._file_handle(fh).file
        if file.error is not None:
            self.files.report(file)
        if off + len(buf) > FILE_SIZE_MAX:
            raise FUSEError(errno.EFBIG)
        await self.files.make_room(file)
        self.files.write(file, off, buf, time.time_ns())
        if file.mode & SUID_SGID:
            _drop_privileges(file)
        return len(buf)

    @answered
    async def flush(self, fh: FileHandleT) -> None:
        handle = self._file_handle(fh)
        if not handle.writable:
            return
        if self.files.durable_close:
            await self.files.make_durable(handle.file)
            return
        await self.files.commit(handle.file)
        self.files.report(handle.file)

    @answered
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        await self.files.make_durable(self._file_handle(fh).file)

    @answered
    async def release(self, fh: FileHandleT) -> None:
        handle = self._file_handle(fh)
        file = handle.file
        try:
            if handle.writable:  # pages of a shared mapping arrive after the last close(2)
                await self.files.commit(file)
        finally:
            del self._handles[fh]
            file.opens -= 1
            file.writers -= handle.writable
            self.files.let_go(file)

    # ------------------------------------------------------------------ directories
    @answered
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        number = next(self._numbers)
        self._handles[number] = DirectoryHandle(inode, self._bucket_id(inode))
        return FileHandleT(number)

    @answered
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        handle = self._handles[fh]
        assert isinstance(handle, DirectoryHandle)
        if handle.inode == ROOT:
            self._list_buckets(start_id, token)
        else:
            self._list(handle, start_id, token)

    @answered
    async def releasedir(self, fh: FileHandleT) -> None:
        del self._handles[fh]

    @answered
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await self.store.settle()

    # ------------------------------------------------------------------ the other door
    def changed(self, changes: Sequence[Change]) -> Awaitable[None] | None:
        """Called after an S3 commit and before its answer: what the kernel may have cached of it is made invalid (H5).

        Returns None when the kernel knows nothing of it: the common case costs a few dict look-ups.
        """
        self._epoch += 1
        if self.closing:
            return None
        names: list[tuple[int, bytes]] = []
        inodes: list[int] = []
        for change in changes:
            parent = change.parent
            if parent not in self.inodes or self._is_ours(change):
                continue
            if self.inodes.take_cached(parent):
                inodes.append(parent)
            names += self._stale_names(parent, change)
            if change.node in self.inodes and self.inodes.take_cached(change.node):
                inodes.append(change.node)
            file = self.files.get(change.node) if change.node else None
            if file is not None:
                self.files.unlinked(file)
        return self._invalidate(names, inodes) if names or inodes else None

    def _stale_names(self, parent: int, change: Change) -> list[tuple[int, bytes]]:
        """The names of `change`, plain and alias, that the kernel may hold, present or absent."""
        plain, alias = tree.to_mount(change.name), tree.to_mount(change.name, True)
        stale = []
        if self.inodes.take_absent(parent, plain) or change.node in self.inodes:
            stale.append((parent, plain))
        if change.directory:  # a file of the same name changes places with its alias
            beside = self.store.entry(parent, change.name, False)
            if beside is not None and beside.node.id in self.inodes:
                stale += [(parent, plain), (parent, alias)]
            elif self.inodes.take_absent(parent, alias):
                stale.append((parent, alias))
        elif self.inodes.take_absent(parent, alias) or change.node in self.inodes:
            stale.append((parent, alias))
        return stale

    @contextmanager
    def _ours(self, *names: tuple[int, bytes, bool]) -> Iterator[None]:
        """The kernel asked for the changes of these names itself and needs no telling."""
        self._own.update(names)
        try:
            yield
        finally:
            self._own.subtract(names)
            for name in names:
                if self._own[name] <= 0:
                    del self._own[name]

    def _is_ours(self, change: Change) -> bool:
        """Each command announces a name once: a second change of it in the same moment is the other door's."""
        key = (change.parent, change.name, change.directory)
        if self._own.get(key, 0) > 0:
            self._own[key] -= 1
            return True
        if change.directory or change.gone:
            return False
        made = self.files.names.get(change.parent, {}).get(change.name)
        return made is not None and made.create is None and change.node != made.inode

    async def _invalidate(self, names: list[tuple[int, bytes]], inodes: list[int]) -> None:
        """In a worker thread.  Waits no longer than `INVALIDATION_TIMEOUT`: the kernel may hold the directory for a
        request that itself waits for this answer (rmdir of a bucket beside a PUT into it)."""
        token = object()
        self.invalidating.add(token)

        def invalidate() -> None:
            try:
                for parent, name in names:
                    self.kernel.forget_name(parent, name)
                for inode in inodes:
                    self.kernel.forget_attributes(inode)
            finally:
                self.invalidating.discard(token)

        with trio.move_on_after(INVALIDATION_TIMEOUT) as waiting:
            await trio.to_thread.run_sync(invalidate, abandon_on_cancel=True)
        if waiting.cancelled_caught:
            log.warning("the kernel took more than %g s to forget %d names", INVALIDATION_TIMEOUT, len(names))

    # ------------------------------------------------------------------ resolving
    def _resolve(self, parent: int, name: bytes) -> Entry | File | None:
        """What the mount's `name` is in `parent`.  Plain: no suspension."""
        if parent == ROOT:
            bucket = self._bucket_by_name(name)
            return None if bucket is None else Entry(name, True, self.store.node(bucket.root))
        target = tree.from_mount(name)
        if target is None:
            return None
        if isinstance(target, tree.Digest):
            stored = self._find_digest(parent, name, target)
            if stored is None:
                return None
        else:
            stored = target.name
        directory = self.store.entry(parent, stored, True)
        if directory is not None and not target.shadowed:
            return directory
        if directory is None and target.shadowed:
            return None
        uncommitted = self.files.names.get(parent)
        if uncommitted is not None and stored in uncommitted:
            return uncommitted[stored]
        return self.store.entry(parent, stored, False)

    def _existing(self, parent: int, name: bytes) -> Entry | File:
        found = self._resolve(parent, name)
        if found is None:
            raise FUSEError(errno.ENOENT)
        return found

    def _find_digest(self, parent: int, alias: bytes, target: tree.Digest) -> bytes | None:
        after = (target.start, False)
        while True:
            entries = self.store.entries(parent, after, LIST_STEP)
            for entry in entries:
                if not entry.name.startswith(target.start):
                    return None
                if tree.digest(entry.name) == target.digest and tree.to_mount(entry.name, target.shadowed) == alias:
                    return entry.name
            if len(entries) < LIST_STEP:
                return None
            after = (entries[-1].name, entries[-1].directory)

    def _new_name(self, parent: int, name: bytes) -> bytes:
        """The catalogue name for something that is about to be made as `name`."""
        if parent == ROOT:
            raise FUSEError(errno.EPERM)
        target = tree.from_mount(name)
        if not isinstance(target, tree.Name):
            raise FUSEError(errno.EINVAL)  # reserved names are made by nobody
        if self._resolve(parent, name) is not None:
            raise FUSEError(errno.EEXIST)
        if target.shadowed and self.store.entry(parent, target.name, True) is None:
            raise FUSEError(errno.EINVAL)
        return target.name

    def _file(self, found: Entry | File | None) -> File | None:
        if isinstance(found, Entry):
            return None if found.directory else self.files.get(found.node.id)
        return found

    def _node(self, inode: int) -> Node:
        try:
            return self.store.node(inode)
        except StoreError as error:
            if error.code is Code.NO_SUCH_NODE:
                raise FUSEError(errno.ESTALE) from None  # the kernel looks the name up again
            raise

    def _bucket_id(self, inode: int) -> int:
        bucket = self.inodes.bucket(inode)
        if bucket is None:
            raise FUSEError(errno.ESTALE)
        return bucket

    def _bucket_by_name(self, name: bytes) -> Bucket | None:
        try:
            return self.store.bucket(name.decode("ascii"))
        except (UnicodeDecodeError, StoreError):
            return None

    # ------------------------------------------------------------------ answering
    def _found(self, parent: int, found: Entry | File) -> EntryAttributes:
        """The answer to a lookup: the kernel counts it."""
        if parent == ROOT:
            assert isinstance(found, Entry)
            bucket = self._bucket_by_name(found.name)
            assert bucket is not None
            self.inodes.looked_up(found.node.id, bucket.id)
            answer = attributes.of_node(self.store, found.node)
            answer.entry_timeout = BUCKET_TIMEOUT
            return answer
        file = self._file(found)
        bucket_id = self._bucket_id(parent)
        if file is not None:
            self.inodes.looked_up(file.inode, bucket_id)
            return self._of_file(file)
        assert isinstance(found, Entry)
        self.inodes.looked_up(found.node.id, bucket_id)
        return self._of_node(found.node)

    def _made(self, parent: int, entry: Entry) -> EntryAttributes:
        self._epoch += 1
        return self._found(parent, entry)

    def _absent(self, parent: int, name: bytes) -> EntryAttributes:
        if parent == ROOT or not self.inodes.absent_given(parent, name, time.monotonic(), attributes.TIMEOUT):
            raise FUSEError(errno.ENOENT)
        answer = EntryAttributes()
        answer.st_ino = InodeT(0)
        answer.entry_timeout = attributes.TIMEOUT
        return answer

    def _told(self, inode: int) -> EntryAttributes:
        """The answer to getattr and setattr."""
        file = self.files.get(inode)
        answer = self._of_file(file) if file is not None else self._of_node(self._node(inode))
        self.inodes.attributes_given(inode)
        return answer

    def _of_file(self, file: File) -> EntryAttributes:
        held = attributes.allocated(self.store, file.base) if file.base is not None else 0
        return attributes.entry_attributes(
            inode=file.inode,
            mode=file.mode,
            uid=file.uid,
            gid=file.gid,
            links=file.links,
            size=file.size,
            blocks=attributes.blocks(min(file.size, held + file.overlay.bytes_held())),
            atime_ns=file.atime_ns,
            mtime_ns=file.mtime_ns,
            ctime_ns=file.ctime_ns,
        )

    def _of_node(self, node: Node) -> EntryAttributes:
        """A committed node; a directory with uncommitted files has changed since, and changes again with their commit."""
        answer = attributes.of_node(self.store, node)
        uncommitted = self.files.names.get(node.id)
        if uncommitted:
            newest = max(answer.st_mtime_ns, *(file.made_ns for file in uncommitted.values()))
            answer.st_mtime_ns = answer.st_ctime_ns = newest
            answer.attr_timeout = 0.0
        return answer

    def _root(self) -> EntryAttributes:
        return attributes.entry_attributes(
            inode=ROOT,
            mode=stat.S_IFDIR | 0o755,
            uid=os.geteuid(),
            gid=os.getegid(),
            links=1,
            size=0,
            blocks=0,
            atime_ns=self._started_ns,
            mtime_ns=self._started_ns,
            ctime_ns=self._started_ns,
        )

    # ------------------------------------------------------------------ listing
    def _list_buckets(self, start: int, token: ReaddirToken) -> None:
        # cookies are root nodes' numbers: stable whatever is made or removed meanwhile
        for bucket in sorted(self.store.buckets(), key=lambda bucket: bucket.root):
            if bucket.root <= start:
                continue
            answer = attributes.of_node(self.store, self.store.node(bucket.root))
            answer.entry_timeout = BUCKET_TIMEOUT
            if not pyfuse3.readdir_reply(token, FileNameT(bucket.label), answer, bucket.root):
                return
            self.inodes.looked_up(bucket.root, bucket.id)

    def _list(self, handle: DirectoryHandle, start: int, token: ReaddirToken) -> None:
        """Uncommitted files first, as of the first call; then the catalogue's entries after the last one given."""
        if start == 0:
            handle.given.clear()
            handle.rest = []
            handle.pending = tuple(self.files.names.get(handle.inode, {}).values())
        elif start > len(handle.given):
            raise FUSEError(errno.EINVAL)
        if start < len(handle.given):  # seekdir(3)
            del handle.given[start:]
            handle.rest = []
        early = len(handle.pending)
        for number in range(start, early):
            file = handle.pending[number]
            name = file.name[1] if file.name is not None else None
            if name is not None and not file.orphan:
                shadowed = self.store.entry(handle.inode, name, True) is not None
                if not pyfuse3.readdir_reply(
                    token, FileNameT(tree.to_mount(name, shadowed)), self._of_file(file), number + 1
                ):
                    return
                self.inodes.looked_up(file.inode, handle.bucket)
            handle.given.append((name or b"", False))
        shown = {file.inode for file in handle.pending}
        names = {name for name, _ in handle.given[:early]}
        while True:
            if handle.epoch != self._epoch or not handle.rest:
                after = handle.given[-1] if len(handle.given) > early else None
                handle.epoch = self._epoch
                handle.rest = self.store.entries(handle.inode, after, LIST_STEP)
                handle.whole = len(handle.rest) < LIST_STEP
                if not handle.rest:
                    return
            directories = {entry.name for entry in handle.rest if entry.directory}
            last = handle.rest[-1]
            reach = last.name + b"/" if last.directory else last.name
            for index, entry in enumerate(handle.rest):
                if not entry.directory and entry.node.id in shown and entry.name in names:
                    handle.given.append((entry.name, False))
                    continue
                shadowed = not entry.directory and (
                    entry.name in directories
                    if handle.whole or entry.name + b"/" <= reach
                    else self.store.entry(handle.inode, entry.name, True) is not None
                )
                answer = self._of_file(file) if (file := self._file(entry)) is not None else self._of_node(entry.node)
                if not pyfuse3.readdir_reply(
                    token, FileNameT(tree.to_mount(entry.name, shadowed)), answer, len(handle.given) + 1
                ):
                    handle.rest = handle.rest[index:]
                    return
                handle.given.append((entry.name, entry.directory))
                self.inodes.looked_up(entry.node.id, handle.bucket)
            handle.rest = []
            if handle.whole:
                return

    def _check_empty(self, directory: int) -> None:
        if self.files.names.get(directory) or self.store.entries(directory, None, 1):
            raise FUSEError(errno.ENOTEMPTY)

    async def _keep(self, directory: int) -> None:
        """A directory that exists only because keys lie below it must not vanish under a program that removes its last
        entry: it becomes one of its own."""
        if self._node(directory).flags & IMPLIED:
            await self.store.set_attributes(directory, time.time_ns())

    def _unshadow(self, parent: int, name: bytes) -> None:
        """A directory left: a file of that name loses its alias."""
        if self.store.entry(parent, name, False) is not None:
            self.kernel.forget_name_later(parent, tree.to_mount(name, True))

    # ------------------------------------------------------------------ files
    def _inherit(self, parent: int, gid: int, mode: int) -> tuple[int, int]:
        """Group and mode of what is made in a set-group-ID directory (inode(7))."""
        node = self._node(parent)
        if not node.mode & stat.S_ISGID:
            return gid, mode
        return node.gid, mode | stat.S_ISGID if stat.S_ISDIR(mode) else mode

    def _new_file(self, parent: int, name: bytes, mode: int, ctx: RequestContext) -> File:
        """An uncommitted file under `name`."""
        new = self._new_name(parent, name)
        bucket_id = self._bucket_id(parent)
        bucket = next((bucket for bucket in self.store.buckets() if bucket.id == bucket_id), None)
        if bucket is None:
            raise FUSEError(errno.ENOENT)
        gid, mode = self._inherit(parent, ctx.gid, mode)
        inode = self.store.new_node_id()
        assert inode != ROOT
        file = File(inode, bucket, mode=mode, uid=ctx.uid, gid=gid, now_ns=time.time_ns(), name=(parent, new))
        self.files.add(file)
        self.files.touch(file)
        self._epoch += 1
        return file

    def _open(self, file: File, flags: int) -> FileInfo:
        writable = flags & os.O_ACCMODE != os.O_RDONLY
        if flags & os.O_TRUNC and file.size:
            self.files.truncate(file, 0, time.time_ns())
            writable = True  # its close commits
        file.opens += 1
        file.writers += writable
        number = next(self._numbers)
        self._handles[number] = FileHandle(file, writable)
        # keep_cache: an S3 PUT makes a new node, so a node's bytes change through this mount alone
        return FileInfo(fh=FileHandleT(number), keep_cache=True)

    def _file_handle(self, fh: int) -> FileHandle:
        handle = self._handles[fh]
        assert isinstance(handle, FileHandle)
        return handle

    async def _committed(self, file: File, start: int, end: int) -> bytes:
        """[start, end) of the committed map; zeros beyond its end.  A base that upkeep has moved is read afresh, once."""
        for fresh in (False, True):
            if file.base is None:
                return bytes(end - start)
            if fresh:
                base = self.store.node(file.inode)
                if base == file.base:
                    break
                file.base = base
            stop = min(end, file.base.size)
            if stop <= start:
                return bytes(end - start)
            try:
                with self.store.reader(file.base, start, stop - start) as reader:
                    data = reader.ready()
                    if data is None:
                        data = await reader.read()
            except StoreError as caught:
                error = caught
                continue
            return data + bytes(end - stop) if stop < end else data
        raise error

    async def _staged(self, chunk: NewChunk, start: int, length: int) -> bytes:
        if chunk.data:
            return chunk.data[start : start + length]
        return await self.store.read_staged(chunk, start, length)

    async def _drop_uncommitted(self, file: File) -> bool:
        """Drops a file that no commit has taken yet; otherwise waits until the commit is durable.  True if dropped."""
        if not file.pending and not file.lock.locked():
            self.files.unlinked(file)
            self._epoch += 1
            return True
        await self.files.make_durable(file)
        return False

    def _set_attributes(self, file: File, attr: EntryAttributes, fields: SetattrFields, now_ns: int) -> None:
        if fields.update_mode:
            file.mode = stat.S_IFMT(file.mode) | stat.S_IMODE(attr.st_mode)
        if fields.update_uid:
            file.uid = attr.st_uid
        if fields.update_gid:
            file.gid = attr.st_gid
        if (fields.update_uid or fields.update_gid) and not fields.update_mode:
            _drop_privileges(file)
        if fields.update_atime:
            file.atime_ns = attr.st_atime_ns
        if fields.update_mtime:
            file.mtime_ns = attr.st_mtime_ns
        file.ctime_ns = attr.st_ctime_ns if fields.update_ctime else now_ns
        if not file.orphan:
            self.files.touch(file)
        self._epoch += 1

    def _attributes(self, inode: int) -> tuple[Attributes, str]:
        file = self.files.get(inode)
        if file is not None:
            return file.current_attributes(), "" if file.base is None else file.base.etag
        node = self._node(inode)
        return node.attributes, node.etag

    async def _put_attributes(self, inode: int, changed: Attributes) -> None:
        file = self.files.get(inode)
        if file is None:
            await self.store.set_attributes(inode, time.time_ns(), attributes=changed)
            return
        file.attributes, file.attributes_changed = changed, True
        if not file.orphan:
            self.files.touch(file)
        if not file.writers:
            await self.files.commit(file)


def _drop_privileges(file: File) -> None:
    """A change of content or owner clears set-user-ID, and set-group-ID of an executable (chown(2), write(2))."""
    file.mode &= ~stat.S_ISUID
    if file.mode & stat.S_IXGRP:
        file.mode &= ~stat.S_ISGID


def _bucket_name(name: bytes) -> str:
    try:
        return name.decode("ascii")
    except UnicodeDecodeError:
        raise FUSEError(errno.EINVAL) from None


def _file_name(file: File, name: bytes) -> bytes:
    """The catalogue name of an uncommitted file."""
    if file.name is not None:
        return file.name[1]
    target = tree.from_mount(name)
    assert isinstance(target, tree.Name)
    return target.name
