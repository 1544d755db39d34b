"""What a request changes of a file in memory, and whether it may: nothing here suspends."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from pyfuse3 import EntryAttributes, SetattrFields

from appliance import settings
from appliance.errors import Code, StoreError
from appliance.limits import FILE_SIZE_MAX
from appliance.model import NO_ATTRIBUTES, Attributes, Node
from fusefs import acl, xattrs
from fusefs.handles import File

if TYPE_CHECKING:
    from appliance.store import ObjectStore


def set_attributes(file: File, attr: EntryAttributes, fields: SetattrFields, now_ns: int) -> bool:
    """setattr(2)'s mode, owner and times.  False if nothing is other than it was: what the kernel stamped in the same
    tick as we did (`clock_ns`)."""
    before = file.mtime_ns, file.ctime_ns
    if fields.update_mode:
        file.mode = stat.S_IFMT(file.mode) | stat.S_IMODE(attr.st_mode)
        known = file.current_attributes() if file.attributes is not None or has_list(file.base) else None
        changed = None if known is None else with_mode(known, file.mode)
        if changed is not None:
            file.attributes, file.attributes_changed = changed, True
    if fields.update_uid:
        file.uid = attr.st_uid
    if fields.update_gid:
        file.gid = attr.st_gid
    if (fields.update_uid or fields.update_gid) and not fields.update_mode:
        drop_privileges(file)
    if fields.update_atime:
        file.atime_ns = attr.st_atime_ns
    if fields.update_mtime:
        file.mtime_ns = attr.st_mtime_ns
    file.ctime_ns = attr.st_ctime_ns if fields.update_ctime else now_ns
    return (file.mtime_ns, file.ctime_ns) != before or not is_kernels_own(fields)


def is_kernels_own(fields: SetattrFields) -> bool:
    """Whether this may be what the kernel tells of a file on its own: after a removal or a replacement, too, it says
    when the file was changed (fuse_flush_times, fs/fuse/dir.c), and keeps an error for who calls syncfs(2) next."""
    asked = fields.update_atime or fields.update_mode or fields.update_uid or fields.update_gid or fields.update_size
    return fields.update_ctime and not asked


def has_list(node: Node | None) -> bool:
    """Whether the node may have an access control list: a look at its packed bytes."""
    return node is not None and acl.MARK in node.packed


def with_mode(attributes: Attributes, mode: int) -> Attributes | None:
    """After a change of the mode: its access control list is changed alike.  None if it has none."""
    entries = xattrs.list_of(attributes, acl.ACCESS)
    return None if entries is None else xattrs.with_list(attributes, acl.ACCESS, acl.with_mode(entries, mode))


def inherited(attributes: Attributes, mode: int) -> tuple[Attributes, int]:
    """(attributes, mode) of what is made with `mode` in a directory that has these: its default list is inherited."""
    default = xattrs.list_of(attributes, acl.DEFAULT)
    assert default is not None
    access, mode = acl.inherited(default, mode)
    made = xattrs.with_list(NO_ATTRIBUTES, acl.ACCESS, access)
    if stat.S_ISDIR(mode):
        made = xattrs.with_list(made, acl.DEFAULT, default)
    return made, mode


def drop_privileges(file: File) -> None:
    """A change of content or owner clears set-user-ID, and set-group-ID of an executable (chown(2), write(2))."""
    file.mode = unprivileged(file.mode)


def unprivileged(mode: int) -> int:
    """Without set-user-ID, and without set-group-ID where the group may execute."""
    mode &= ~stat.S_ISUID
    return mode & ~stat.S_ISGID if mode & stat.S_IXGRP else mode


def require_size(size: int) -> None:
    """Raises TOO_LARGE for a size that no file may have."""
    if size > FILE_SIZE_MAX:
        raise StoreError(Code.TOO_LARGE)


def require_unlocked(store: ObjectStore, file: File) -> None:
    """Raises LOCKED: who opens a retained file to write is told at once, not when it is closed."""
    if not store.versioned(file.bucket.id):
        return
    try:
        node = store.node(file.inode)  # as the catalogue has it: S3 may have locked it since
    except StoreError as error:
        if file.base is not None or error.code is not Code.NO_SUCH_NODE:
            raise
        return  # none of it is there yet
    store.require_unlocked(node)


def is_unretained(file: File) -> bool:
    """Whether the bucket's default retention is still to be given to what the last writer made."""
    if settings.LOCK not in file.bucket.settings or file.begins:
        return False
    # what a commit under way makes of it is not known yet: the catalogue gives nothing twice
    return file.base is None or bool(file.pending) or not file.base.attributes.retention_mode
