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

import msgspec
import pyfuse3
from pyfuse3 import EntryAttributes, FileNameT, FlagT, FUSEError, InodeT, ModeT, RequestContext

from appliance.authority import Action
from appliance.model import IMPLIED, NO_ATTRIBUTES, Attributes, BodyKind, Bucket, Entry, Node, pack_attributes
from fusefs import acl, changes, past, tree
from fusefs.handles import File
from fusefs.inodes import ROOT, Inodes
from fusefs.invalidation import Invalidation, write_back
from fusefs.names import Names, bucket_name
from fusefs.pending import GONE, Pending
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
        self.pending: Pending = names.pending
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
        now_ns, number = clock_ns(), self.store.new_node_id()
        with self.invalidation.changing((parent_inode, name)):
            early = self._early(parent_inode, name)
            ticket = self.store.make_directory(parent_inode, new, mode, ctx.uid, gid, now_ns, attributes, node=number)
            if early is None:
                entry = await ticket
            else:
                made = _made(number, mode, ctx.uid, gid, now_ns, early, b"", parent_inode)
                entry = Entry(new, True, msgspec.structs.replace(made, packed=pack_attributes(attributes)))
                touched = self.pending.touched(parent_inode, now_ns, 1)
                self.pending.add(early, ticket, {(parent_inode, new + b"/"): number}, [touched, entry.node])
        return self.names.looked_up(parent_inode, entry)

    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        """symlink(2)."""
        new = self.names.new(parent_inode, name)
        gid, *_ = self._inherit(parent_inode, ctx, 0)
        now_ns, number = clock_ns(), self.store.new_node_id()
        with self.invalidation.changing((parent_inode, name)):
            bucket = self._early(parent_inode, name)
            ticket = self.store.make_symlink(parent_inode, new, target, ctx.uid, gid, now_ns, node=number)
            if bucket is None:
                entry = await ticket
            else:
                entry = Entry(new, False, _made(number, stat.S_IFLNK | 0o777, ctx.uid, gid, now_ns, bucket, target, 0))
                touched = self.pending.touched(parent_inode, now_ns)
                self.pending.add(bucket, ticket, {(parent_inode, new): number}, [touched, entry.node])
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
        await write_back(self.invalidation.kernel, file, 0)
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
        bucket = None if self._is_synced(found) else self._early(parent_inode, name)
        if bucket is not None and self._is_only_name(found, file):
            with self.invalidation.changing((parent_inode, name)):
                self._unlink_early(bucket, parent_inode, name, found, file)
            return
        with self.invalidation.changing((parent_inode, name)):
            if file is not None and file.base is None and await self._drop_uncommitted(file):
                return
            if isinstance(found, Entry) and found.directory:
                raise FUSEError(errno.EISDIR)
            await self._keep(parent_inode)
            await self.store.unlink(parent_inode, _stored(found, name), clock_ns())
        self.invalidation.epoch += 1
        if file is not None:
            self.files.unlinked(file)

    def _unlink_early(self, bucket: Bucket, parent: int, name: bytes, found: Entry | File, file: File | None) -> None:
        """`name` is all there is of it."""
        if file is not None and file.base is None and not file.pending:
            self._drop(file)
            return
        self._keep_early(bucket, parent)
        now_ns = clock_ns()
        ticket = self.store.unlink(parent, name, now_ns)
        nodes = [self.pending.touched(parent, now_ns), *self._without_name(found, file, now_ns)]
        self.pending.add(bucket, ticket, {(parent, name): GONE}, nodes)

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
        early = self._early(parent_inode, name)
        inside = [] if early is None else self.pending.entries(found.node.id, None, 2)
        if any(entry.name for entry in inside):  # more than the object `d/`
            raise FUSEError(errno.ENOTEMPTY)
        if early is not None and not inside and self._stands_alone(parent_inode, name):
            self._keep_early(early, parent_inode)
            now_ns = clock_ns()
            with self.invalidation.changing((parent_inode, name)):
                ticket = self.store.remove_directory(parent_inode, name, now_ns)
                nodes = [self.pending.touched(parent_inode, now_ns, -1), msgspec.structs.replace(found.node, links=0)]
                self.pending.add(early, ticket, {(parent_inode, name + b"/"): GONE}, nodes)
            return
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
        self.names.require_present(parent_inode_new)
        source = self.names.existing(parent_inode_old, name_old)
        target = self.names.find(parent_inode_new, name_new)
        if target is not None and name_new == past.NAME:
            raise FUSEError(errno.EROFS)
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
            new = _stored(target, name_new)
        stored = _stored(source, name_old)
        moved, replaced = self.names.file(source), self.names.file(target)
        if moved is not None and moved is replaced:
            return  # rename(2): two names of one file, nothing happens
        commit, epoch = None, self.invalidation.epoch
        if moved is not None:  # new bytes before the new name: a crash leaves the old file or the whole new one
            commit = await self.files.commit(moved)
            if moved.base is not None or len(moved.pending) != 1:
                await self.files.make_durable(moved)  # otherwise its one commit fails together with the rename
        late = exchange or directory or self._is_synced(source)
        bucket = None if late else self._early(parent_inode_old, name_old, name_new)
        if bucket is not None and epoch == self.invalidation.epoch and self._is_movable(moved, target, replaced):
            old, onto_new = (parent_inode_old, name_old), (parent_inode_new, name_new)
            self._rename_early(bucket, source, old, moved, target, onto_new, replaced)
            return
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
        name = _stored(found, shown)
        uncommitted = not directory and name in self.files.names.get(parent, {})
        return uncommitted or self.pending.entry(parent, name, directory) is not None

    def _rename_early(
        self,
        bucket: Bucket,
        source: Entry | File,
        old: tuple[int, bytes],
        moved: File | None,
        target: Entry | File | None,
        new: tuple[int, bytes],
        replaced: File | None,
    ) -> None:
        """A file takes the name `new`; what it replaces has no other."""
        self._keep_early(bucket, old[0])
        now_ns = clock_ns()
        number = _number(source)
        with self.invalidation.changing(old, new):
            ticket = self.store.rename(old[0], old[1], False, new[0], new[1], now_ns)
            nodes = [self.pending.touched(directory, now_ns) for directory in {old[0], new[0]}]
            if moved is None or moved.base is not None:
                nodes.append(msgspec.structs.replace(self.pending.node(number), ctime_ns=now_ns))
            if target is not None:
                nodes += self._without_name(target, replaced, now_ns)
            if moved is not None:
                moved.ctime_ns = now_ns
                self.files.moved(moved)
            self.pending.add(bucket, ticket, {old: GONE, new: number}, nodes)
        self._placed(source, new)

    def _without_name(self, found: Entry | File, file: File | None, now_ns: int) -> list[Node]:
        """What its node is without its only name; of a file in memory, no commit will follow."""
        nodes = []
        if isinstance(found, Entry) and (file is None or file.base is not None):
            nodes.append(msgspec.structs.replace(self.pending.node(found.node.id), links=0, ctime_ns=now_ns))
        if file is not None:
            file.ctime_ns = now_ns
            self.files.unlinked(file, last=True)
        return nodes

    # ------------------------------------------------------------------ answering before the barrier
    def _early(self, parent: int, *names: bytes) -> Bucket | None:
        """The bucket, if a change of these names in it may be answered before its barrier."""
        if any(name.startswith(tree.PREFIX) or not name.isascii() for name in names):
            return None  # aliases, and what may be quoted
        bucket = self.names.bucket_of(parent)
        return bucket if self.pending.accepts(bucket) else None

    def _is_synced(self, found: Entry | File) -> bool:
        return self.pending.is_synced(_number(found))

    def _is_only_name(self, found: Entry | File, file: File | None) -> bool:
        """Whether what was found is no directory, has one name, and no commit of it is being built."""
        if file is not None and file.lock.locked():
            return False
        return isinstance(found, File) or (not found.directory and self.pending.node(found.node.id).links == 1)

    def _is_movable(self, moved: File | None, target: Entry | File | None, replaced: File | None) -> bool:
        """Whether nothing is in the way of a file's new name."""
        if moved is not None and (moved.dirty or moved.lock.locked()):
            return False
        if replaced is not None and replaced.base is None:  # its bytes are nowhere else, should the rename fail
            return False
        return target is None or self._is_only_name(target, replaced)

    def _stands_alone(self, parent: int, name: bytes) -> bool:
        """Whether no file is beside the directory of this name."""
        return name not in self.files.names.get(parent, {}) and self.pending.entry(parent, name, False) is None

    def _keep_early(self, bucket: Bucket, directory: int) -> None:
        """As `_keep`."""
        node = self.pending.node(directory)
        if node.flags & IMPLIED:
            now_ns = clock_ns()
            ticket = self.store.set_attributes(directory, now_ns)
            self.pending.add(bucket, ticket, {}, [msgspec.structs.replace(node, flags=node.flags & ~IMPLIED)])

    async def _keep(self, directory: int) -> None:
        """A directory that exists only because keys lie below it must not vanish under a program that removes its last
        entry: it becomes one of its own."""
        if self.names.node(directory).flags & IMPLIED:
            await self.store.set_attributes(directory, clock_ns())

    async def _drop_uncommitted(self, file: File) -> bool:
        """Drops a file that no commit has taken yet; otherwise waits until the commit is durable.  True if dropped."""
        if not file.pending and not file.lock.locked():
            self._drop(file)
            return True
        await self.files.make_durable(file)
        return False

    def _drop(self, file: File) -> None:
        """No commit has taken it."""
        if file.name is not None:
            self.files.times.touched(file.name[0], clock_ns())
        self.files.unlinked(file)
        self.invalidation.epoch += 1

    def _placed(self, found: Entry | File | None, place: tuple[int, bytes]) -> None:
        """A file has another name from now on."""
        file = self.names.file(found)
        if file is not None:
            file.place = place
        inode = file.inode if file is not None else found.node.id if isinstance(found, Entry) else 0
        if self.inodes.place(inode) is not None:
            self.inodes.placed(inode, place)


def _made(number: int, mode: int, uid: int, gid: int, now_ns: int, bucket: Bucket, target: bytes, parent: int) -> Node:
    """A directory or symbolic link as its command makes it."""
    times, links = (now_ns, now_ns, now_ns, now_ns), 2 if stat.S_ISDIR(mode) else 1
    return Node(
        number, mode, uid, gid, links, len(target), *times, 0, "", BodyKind.EMPTY, parent, target, 0, b"", bucket.id
    )


def _number(found: Entry | File) -> int:
    """The inode of what was found."""
    return found.inode if isinstance(found, File) else found.node.id


def _stored(found: Entry | File, name: bytes) -> bytes:
    """The catalogue name of what was found under `name`."""
    if isinstance(found, Entry):
        return found.name
    if found.name is not None:
        return found.name[1]
    target = tree.from_mount(name)
    assert isinstance(target, tree.Name)
    return target.name
