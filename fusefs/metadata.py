"""What is said of an inode, beside its bytes and names: mode, owner, times, extended attributes, access control lists.

A file's are kept in memory and committed with it.  The mode and the
access control list are one thing: a change of either changes both (`acl`).
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
import pyfuse3
from pyfuse3 import EntryAttributes, FUSEError, RequestContext, SetattrFields, XAttrNameT

from appliance.model import IMPLIED, UNOWNED, Attributes, Node
from fusefs import acl, changes, xattrs
from fusefs.handles import File
from fusefs.inodes import PAST, ROOT, Inodes
from fusefs.invalidation import Invalidation
from fusefs.names import Names
from fusefs.permits import Permits
from fusefs.times import clock_ns
from fusefs.writeback import WriteBack

if TYPE_CHECKING:
    from appliance.store import ObjectStore


class Metadata:
    """The attributes of a mount's inodes."""

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
        self.lists = False  # the kernel enforces access control lists

    # ------------------------------------------------------------------ extended attributes
    async def get(self, inode: int, name: bytes) -> bytes:
        """getxattr(2)."""
        value = None
        if inode == ROOT:
            pass
        elif name in acl.NAMES:  # asked for every inode by whoever is not its owner, and by ls(1)
            if self.lists and self._may_have_list(inode):
                value = xattrs.get(self.attributes(inode), name)
        elif name.startswith(xattrs.OURS):
            file = self.files.get(inode)
            if file is not None and (file.pending or file.base is None):
                await self.files.make_durable(file)  # the other door shows them only then (H2)
            value = xattrs.shown(self.names.node(inode), name)
        elif name.startswith(xattrs.KEPT):  # not security.capability, which is asked at every first write
            value = xattrs.get(self.attributes(inode), name)
        if value is None:
            raise FUSEError(pyfuse3.ENOATTR)
        return value

    def names_of(self, inode: int, uid: int) -> Sequence[XAttrNameT]:
        """listxattr(2), for a process of user `uid`."""
        if inode == ROOT:
            return []
        return [
            XAttrNameT(name)
            for name in xattrs.names(self.attributes(inode))
            if not name.startswith(xattrs.TRUSTED) or uid == 0
        ]

    async def put(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        """setxattr(2)."""
        if inode == ROOT:
            raise FUSEError(errno.EOPNOTSUPP)
        if self.lists and name in acl.NAMES:
            await self._put_list(inode, name, acl.parse(value), ctx)
        elif name.startswith(xattrs.KEPT):
            await self._change(inode, xattrs.put(self.attributes(inode), name, value))
        else:
            raise FUSEError(errno.EOPNOTSUPP)

    async def remove(self, inode: int, name: bytes) -> None:
        """removexattr(2)."""
        kept = name.startswith(xattrs.KEPT) or (self.lists and name in acl.NAMES)
        left = xattrs.remove(self.attributes(inode), name) if kept and inode != ROOT else None
        if left is not None:
            await self._change(inode, left)
        elif name not in acl.NAMES:  # to have no list is what was asked for
            raise FUSEError(pyfuse3.ENOATTR)

    def attributes(self, inode: int) -> Attributes:
        """What clients said, with what is not committed yet."""
        file = self.files.get(inode)
        return self.names.node(inode).attributes if file is None else file.current_attributes()

    # ------------------------------------------------------------------ access control lists
    def _may_have_list(self, inode: int) -> bool:
        """A look at packed bytes, which most inodes do not even have."""
        file = self.files.get(inode)
        if file is not None and file.attributes is not None:
            return True
        node = self.names.node(inode) if file is None else file.base
        return node is not None and acl.MARK in node.packed

    async def _put_list(self, inode: int, name: bytes, entries: Sequence[acl.Entry], ctx: RequestContext) -> None:
        attributes = xattrs.with_list(self.attributes(inode), name, entries)
        if name == acl.DEFAULT:
            await self._change(inode, attributes)
            return
        file = self.files.get(inode)
        known = self.names.node(inode) if file is None else file
        mode = known.mode & ~0o777 | acl.mode_of(entries)
        if mode & stat.S_ISGID and ctx.uid != 0 and known.gid not in (ctx.gid, *_groups(ctx.pid)):
            mode &= ~stat.S_ISGID  # chmod(2): of a group that the process is not in
        await self._change(inode, attributes, mode)

    async def _change(self, inode: int, changed: Attributes, mode: int | None = None) -> None:
        now_ns = clock_ns()
        file = self.files.get(inode)
        if file is None:
            uid = gid = None
            if mode is not None:  # of what nobody has owned yet, the shown owner becomes its own
                _, uid, gid = self.files.ownership.of(self.names.node(inode))
            await self.store.set_attributes(inode, now_ns, mode=mode, uid=uid, gid=gid, attributes=changed)
            self.invalidation.epoch += 1
            return
        file.attributes, file.attributes_changed = changed, True
        file.ctime_ns = now_ns
        if mode is not None:
            file.mode = mode
        self.invalidation.epoch += 1
        if not file.orphan:
            self.files.touch(file)
        if not file.writers:
            await self.files.commit(file)

    # ------------------------------------------------------------------ mode, owner, times
    async def set_node(self, node: Node, attr: EntryAttributes, fields: SetattrFields) -> None:
        """setattr(2) of what is no file; answered before it is durable, as changes of names are (`pending`)."""
        mtime_ns = attr.st_mtime_ns if fields.update_mtime else None
        mode = stat.S_IFMT(node.mode) | stat.S_IMODE(attr.st_mode) if fields.update_mode else None
        attributes = None
        if mode is not None and acl.MARK in node.packed:
            attributes = changes.with_mode(node.attributes, mode)
        if stat.S_ISDIR(node.mode):
            shown, _ = self.names.changed_ns(node)
            if mtime_ns is None and shown != node.mtime_ns:  # known to memory alone, which what is set now overrules
                mtime_ns = shown
        elif mode is None and (fields.update_uid or fields.update_gid):
            mode = changes.unprivileged(node.mode)
        uid = attr.st_uid if fields.update_uid else None
        gid = attr.st_gid if fields.update_gid else None
        if node.flags & UNOWNED and (mode, uid, gid) != (None, None, None):  # what was shown becomes its own
            shown_mode, shown_uid, shown_gid = self.files.ownership.of(node)
            mode = shown_mode if mode is None else mode
            uid, gid = shown_uid if uid is None else uid, shown_gid if gid is None else gid
        now_ns = clock_ns()
        atime_ns = attr.st_atime_ns if fields.update_atime else None
        pending, bucket = self.names.pending, self.names.bucket_of(node.id)
        early = attributes is None and not node.flags & UNOWNED and pending.accepts(bucket)
        ticket = self.store.set_attributes(
            node.id,
            now_ns,
            mode=mode,
            uid=uid,
            gid=gid,
            atime_ns=atime_ns,
            mtime_ns=mtime_ns,
            attributes=attributes,
        )
        if early:
            changed = msgspec.structs.replace(
                node,
                mode=node.mode if mode is None else mode,
                uid=node.uid if uid is None else uid,
                gid=node.gid if gid is None else gid,
                atime_ns=node.atime_ns if atime_ns is None else atime_ns,
                mtime_ns=node.mtime_ns if mtime_ns is None else mtime_ns,
                ctime_ns=now_ns,
                flags=node.flags & ~IMPLIED,
            )
            pending.add(bucket, ticket, {}, [changed])
        else:
            await ticket
        if fields.update_atime:
            self.files.times.read.pop(node.id, None)
        self.invalidation.epoch += 1

    # ------------------------------------------------------------------ access times
    def accessed(self, found: File | Node) -> None:
        """A file was read, a directory listed, a symbolic link followed: its access time moves by relatime."""
        times = self.files.times
        if isinstance(found, File):
            if times.is_due(found.atime_ns, found.mtime_ns, found.ctime_ns):
                found.atime_ns = self._accessed_now(found.inode) or found.atime_ns
            return
        is_directory = stat.S_ISDIR(found.mode)
        mtime_ns, ctime_ns = self.names.changed_ns(found) if is_directory else (found.mtime_ns, found.ctime_ns)
        if times.is_due(times.read.get(found.id, found.atime_ns), mtime_ns, ctime_ns):
            self._accessed_now(found.id)

    def _accessed_now(self, inode: int) -> int:
        """The new access time; 0 where nothing may be changed."""
        if self.permits.principal.read_only or self.inodes.place(inode) == PAST:
            return 0
        now_ns = clock_ns()
        self.files.times.accessed(inode, now_ns)
        self.invalidation.epoch += 1
        return now_ns


def _groups(pid: int) -> set[int]:
    """Supplementary groups of a process; none if it is gone, or in another PID namespace."""
    try:
        return set(pyfuse3.get_sup_groups(pid))
    except (OSError, ValueError, RuntimeError):
        return set()
