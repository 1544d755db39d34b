"""The names of a mount made, moved and removed: mkdir, symlink, mknod, link, unlink, rmdir, rename.

Each first looks at what is there (`Names`), then tells the store, and keeps what memory holds in step: files that no
commit has taken yet have their name here alone, and what an open file loses with its last name is its place, not its
bytes.  Whether the mount may do it was asked before (`guarded`); what a process may, the kernel has decided.
"""

from __future__ import annotations

import errno
import stat
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileNameT, FlagT, FUSEError, InodeT, ModeT, RequestContext

from appliance.authority import Action
from appliance.model import IMPLIED, NO_ATTRIBUTES, Attributes, Entry
from fusefs import acl, changes, tree
from fusefs.handles import File
from fusefs.inodes import ROOT, Inodes
from fusefs.invalidation import Invalidation
from fusefs.names import Names, bucket_name
from fusefs.permits import Permits
from fusefs.times import clock_ns
from fusefs.writeback import WriteBack

if TYPE_CHECKING:
    from appliance.store import ObjectStore


SPECIAL: Final = (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR, stat.S_IFBLK)


class Entries:
    """What a mount does to its names."""

    def __init__(
        self,
        store: ObjectStore,
        permits: Permits,
        inodes: Inodes,
        names: Names,
        files: WriteBack,
        invalidation: Invalidation,
    ) -> None:
        self.store = store
        self.permits = permits
        self.inodes = inodes
        self.names = names
        self.files = files
        self.invalidation = invalidation

    # ------------------------------------------------------------------ making
    async def mkdir(self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext) -> EntryAttributes:
        """mkdir(2); in the root, a bucket."""
        if parent_inode == ROOT:
            self.permits.require(Action.MOUNT_WRITE, new_bucket := bucket_name(name))
            with self.invalidation.changing((ROOT, name)):
                bucket = await self.store.create_bucket(new_bucket, self.permits.principal.owner, announce=False)
            mode = stat.S_IFDIR | stat.S_IMODE(mode) & ~ctx.umask
            node = await self.store.set_attributes(bucket.root, clock_ns(), mode=mode, uid=ctx.uid, gid=ctx.gid)
            return self.names.looked_up(ROOT, Entry(name, True, node))
        new = self.names.new(parent_inode, name)
        gid, mode, attributes = self._inherit(parent_inode, ctx, stat.S_IFDIR | stat.S_IMODE(mode))
        with self.invalidation.changing((parent_inode, name)):
            entry = await self.store.make_directory(parent_inode, new, mode, ctx.uid, gid, clock_ns(), attributes)
        return self.names.looked_up(parent_inode, entry)

    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """symlink(2)."""
        new = self.names.new(parent_inode, name)
        gid, *_ = self._inherit(parent_inode, ctx, 0)
        with self.invalidation.changing((parent_inode, name)):
            entry = await self.store.make_symlink(parent_inode, new, target, ctx.uid, gid, clock_ns())
        return self.names.looked_up(parent_inode, entry)

    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        """mknod(2), durable when it returns."""
        if not stat.S_ISREG(mode):
            if stat.S_IFMT(mode) not in SPECIAL:
                raise FUSEError(errno.EINVAL)
            new = self.names.new(parent_inode, name)
            gid, mode, attributes = self._inherit(parent_inode, ctx, mode)
            with self.invalidation.changing((parent_inode, name)):
                entry = await self.store.make_special(
                    parent_inode, new, mode, rdev, ctx.uid, gid, clock_ns(), attributes
                )
            return self.names.looked_up(parent_inode, entry)
        file = self.new_file(parent_inode, name, mode, ctx)
        await self.files.make_durable(file)
        return self.names.looked_up(parent_inode, file)

    async def link(self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT) -> EntryAttributes:
        """link(2)."""
        new = self.names.new(new_parent_inode, new_name)
        file = self.files.get(inode)
        if file is not None and file.nameless:
            return await self._name(file, new_parent_inode, new)
        if file is not None:
            await self.files.make_durable(file)
        with self.invalidation.changing((new_parent_inode, new_name)):
            entry = await self.store.make_link(inode, new_parent_inode, new, clock_ns())
        if file is not None:
            self.files.renamed(file)
        return self.names.looked_up(new_parent_inode, entry)

    def _inherit(self, parent: int, ctx: RequestContext, mode: int) -> tuple[int, int, Attributes]:
        """(group, mode, attributes) of what is made: the group of a set-group-ID directory (inode(7)); its default
        access control list, or else the process's umask (acl(5))."""
        node = self.names.node(parent)
        gid, attributes = ctx.gid, NO_ATTRIBUTES
        if changes.has_list(node) and acl.DEFAULT.decode() in node.attributes.xattrs:
            attributes, mode = changes.inherited(node.attributes, mode)
        else:
            mode &= ~ctx.umask
        if node.mode & stat.S_ISGID:
            gid = node.gid
            if stat.S_ISDIR(mode):
                mode |= stat.S_ISGID
        return gid, mode, attributes

    def new_file(self, parent: int, name: bytes, mode: int, ctx: RequestContext, *, absent: bool = False) -> File:
        """An uncommitted file under `name`; `absent` as of `Names.new`."""
        new = self.names.new(parent, name, absent=absent)
        file = self.files.add(self._file(parent, mode, ctx, (parent, new)))
        self.files.touch(file)
        self.invalidation.epoch += 1
        return file

    def new_nameless(self, parent: int, mode: int, ctx: RequestContext) -> File:
        """open(2) with O_TMPFILE: a file that goes with its last handle, unless link(2) gives it a name before."""
        if parent == ROOT:
            raise FUSEError(errno.EPERM)
        file = self._file(parent, mode, ctx, None)
        file.orphan = True
        return self.files.add(file)

    def _file(self, parent: int, mode: int, ctx: RequestContext, name: tuple[int, bytes] | None) -> File:
        bucket = self.names.bucket_of(parent)
        gid, mode, attributes = self._inherit(parent, ctx, mode)
        inode = self.store.new_node_id()
        assert inode != ROOT
        file = File(inode, bucket, mode=mode, uid=ctx.uid, gid=gid, now_ns=clock_ns(), name=name)
        if attributes is not NO_ATTRIBUTES:
            file.attributes, file.attributes_changed = attributes, True
        return file

    async def _name(self, file: File, parent: int, name: bytes) -> EntryAttributes:
        """The first name of a file that has none, durable when it returns, with all that was written before."""
        if file.bucket.id != self.names.bucket_id(parent):
            raise FUSEError(errno.EXDEV)
        await trio.to_thread.run_sync(self.invalidation.kernel.write_back, file.inode, 0)
        self.files.name(file, parent, name)
        self.invalidation.epoch += 1
        await self.files.make_durable(file)
        return self.names.looked_up(parent, file)

    # ------------------------------------------------------------------ removing and moving
    async def unlink(self, parent_inode: InodeT, name: FileNameT) -> None:
        """unlink(2)."""
        if parent_inode == ROOT:
            raise FUSEError(errno.EISDIR)
        found = self.names.existing(parent_inode, name)
        file = found if isinstance(found, File) else self.files.get(found.node.id)
        with self.invalidation.changing((parent_inode, name)):
            if file is not None and file.base is None and await self._drop_uncommitted(file):
                return
            if isinstance(found, Entry):
                if found.directory:
                    raise FUSEError(errno.EISDIR)
                stored = found.name
            else:
                stored = _file_name(found, name)
            await self._keep(parent_inode)
            await self.store.unlink(parent_inode, stored, clock_ns())
        self.invalidation.epoch += 1
        if file is not None:
            self.files.unlinked(file)

    async def rmdir(self, parent_inode: InodeT, name: FileNameT) -> None:
        """rmdir(2); in the root, of a bucket."""
        if parent_inode == ROOT:
            bucket = self.store.bucket(bucket_name(name))
            self.permits.require(Action.MOUNT_WRITE, bucket)
            self.names.check_empty(bucket.root)
            with self.invalidation.changing((ROOT, name)):
                await self.store.delete_bucket(bucket.name, announce=False)
            return
        found = self.names.existing(parent_inode, name)
        if not isinstance(found, Entry) or not found.directory:
            raise FUSEError(errno.ENOTDIR)
        if self.files.names.get(found.node.id):
            raise FUSEError(errno.ENOTEMPTY)
        await self._keep(parent_inode)
        with self.invalidation.changing((parent_inode, name)):
            await self.store.remove_directory(parent_inode, found.name, clock_ns())
        self.invalidation.epoch += 1
        self.invalidation.unshadowed(parent_inode, found.name)

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
    ) -> None:
        """renameat2(2), within one bucket."""
        if ROOT in (parent_inode_old, parent_inode_new):
            raise FUSEError(errno.EPERM)
        if flags & ~(pyfuse3.RENAME_EXCHANGE | pyfuse3.RENAME_NOREPLACE):
            raise FUSEError(errno.EINVAL)
        if self.names.bucket_id(parent_inode_old) != self.names.bucket_id(parent_inode_new):
            raise FUSEError(errno.EXDEV)
        source = self.names.existing(parent_inode_old, name_old)
        target = self.names.find(parent_inode_new, name_new)
        exchange = bool(flags & pyfuse3.RENAME_EXCHANGE)
        directory = isinstance(source, Entry) and source.directory
        if target is None:
            if exchange:
                raise FUSEError(errno.ENOENT)
            new = self.names.new(parent_inode_new, name_new, absent=True)
        else:
            if flags & pyfuse3.RENAME_NOREPLACE:
                raise FUSEError(errno.EEXIST)
            onto = isinstance(target, Entry) and target.directory
            if directory != onto and not exchange:
                raise FUSEError(errno.EISDIR if onto else errno.ENOTDIR)
            if directory != onto and self._has_twin(parent_inode_new, target, name_new, directory):
                raise FUSEError(errno.EINVAL)  # two of one name there: the one of the source's kind would be taken
            if onto and isinstance(target, Entry) and not exchange and self.files.names.get(target.node.id):
                raise FUSEError(errno.ENOTEMPTY)
            new = target.name if isinstance(target, Entry) else _file_name(target, name_new)
        stored = source.name if isinstance(source, Entry) else _file_name(source, name_old)
        moved, replaced = self.names.file(source), self.names.file(target)
        if moved is not None and moved is replaced:
            return  # rename(2): two names of one file, nothing happens
        commit = None
        if moved is not None:  # new bytes before the new name: a crash leaves the old file or the whole new one
            commit = await self.files.commit(moved)
            if moved.base is not None or len(moved.pending) != 1:
                await self.files.make_durable(moved)  # otherwise its one commit fails together with the rename
        if replaced is not None and exchange:
            await self.files.make_durable(replaced)
        await self._keep(parent_inode_old)
        async with AsyncExitStack() as stack:
            stack.enter_context(self.invalidation.changing((parent_inode_old, name_old), (parent_inode_new, name_new)))
            if replaced is not None and replaced.base is None:
                # no commit of it may come over what is moved there; and if nothing is, it stays as it is
                await stack.enter_async_context(replaced.lock)
            await self.store.rename(
                parent_inode_old,
                stored,
                directory,
                parent_inode_new,
                new,
                clock_ns(),
                replace=not flags & pyfuse3.RENAME_NOREPLACE,
                exchange=exchange,
            )
        if replaced is not None and not exchange:  # before anybody else has its lock
            self.files.unlinked(replaced)
        if commit is not None:
            await self.files.wait(commit)
        for changed in (moved, replaced):
            if changed is not None and changed.base is not None and not changed.orphan:
                self.files.renamed(changed)
        self._placed(source, (parent_inode_new, new))
        if exchange:
            self._placed(target, (parent_inode_old, stored))
        self.invalidation.epoch += 1
        if directory:
            self.invalidation.unshadowed(parent_inode_old, stored)
        if exchange and isinstance(target, Entry) and target.directory:
            self.invalidation.unshadowed(parent_inode_new, new)

    def _has_twin(self, parent: int, found: Entry | File, shown: bytes, directory: bool) -> bool:
        """Whether in a directory something of the given kind has the name of what was `found` there, too."""
        name = found.name if isinstance(found, Entry) else _file_name(found, shown)
        uncommitted = not directory and name in self.files.names.get(parent, {})
        return uncommitted or self.store.entry(parent, name, directory) is not None

    async def _keep(self, directory: int) -> None:
        """A directory that exists only because keys lie below it must not vanish under a program that removes its last
        entry: it becomes one of its own."""
        if self.names.node(directory).flags & IMPLIED:
            await self.store.set_attributes(directory, clock_ns())

    async def _drop_uncommitted(self, file: File) -> bool:
        """Drops a file that no commit has taken yet; otherwise waits until the commit is durable.  True if dropped."""
        if not file.pending and not file.lock.locked():
            if file.name is not None:
                self.files.times.touched(file.name[0], clock_ns())
            self.files.unlinked(file)
            self.invalidation.epoch += 1
            return True
        await self.files.make_durable(file)
        return False

    def _placed(self, found: Entry | File | None, place: tuple[int, bytes]) -> None:
        """A file has another name from now on."""
        file = self.names.file(found)
        if file is not None:
            file.place = place
        inode = file.inode if file is not None else found.node.id if isinstance(found, Entry) else 0
        if self.inodes.place(inode) is not None:
            self.inodes.placed(inode, place)


def _file_name(file: File, name: bytes) -> bytes:
    """The catalogue name of an uncommitted file."""
    if file.name is not None:
        return file.name[1]
    target = tree.from_mount(name)
    assert isinstance(target, tree.Name)
    return target.name
