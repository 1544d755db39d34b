"""Nodes as the kernel sees them.

The kernel may cache what it is told for a long time, because every S3 change is invalidated before it is acknowledged
(H5) and everything else passes through the kernel itself.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

import pyfuse3

from appliance.model import BodyKind, Node
from fusefs.handles import File
from fusefs.ownership import Ownership

if TYPE_CHECKING:
    from appliance.store import ObjectStore

TIMEOUT: Final = 60.0  # seconds for names, attributes and absent names
BLOCK_SIZE: Final = 4096
IO_SIZE: Final = 1 << 20  # st_blksize: cp and cat then ask for 1 MiB at a time


def entry_attributes(
    *,
    inode: int,
    mode: int,
    uid: int,
    gid: int,
    links: int,
    size: int,
    blocks: int,
    atime_ns: int,
    mtime_ns: int,
    ctime_ns: int,
) -> pyfuse3.EntryAttributes:
    """The kernel's struct.  `blocks` counts 512 bytes."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(inode)
    entry.st_mode = pyfuse3.ModeT(mode)
    entry.st_uid = uid
    entry.st_gid = gid
    entry.st_nlink = links
    entry.st_size = size
    entry.st_blocks = blocks
    entry.st_blksize = IO_SIZE
    entry.st_atime_ns = atime_ns
    entry.st_mtime_ns = mtime_ns
    entry.st_ctime_ns = ctime_ns
    entry.entry_timeout = TIMEOUT
    entry.attr_timeout = TIMEOUT
    return entry


def of_node(store: ObjectStore, node: Node, ownership: Ownership) -> pyfuse3.EntryAttributes:
    """A node as it is in the catalogue."""
    mode, uid, gid = ownership.of(node)
    answer = entry_attributes(
        inode=node.id,
        mode=mode,
        uid=uid,
        gid=gid,
        links=node.links,
        size=node.size,
        blocks=blocks(allocated(store, node)),
        atime_ns=node.atime_ns,
        mtime_ns=node.mtime_ns,
        ctime_ns=node.ctime_ns,
    )
    if stat.S_ISCHR(node.mode) or stat.S_ISBLK(node.mode):
        answer.st_rdev = node.ref
    return answer


def of_file(store: ObjectStore, file: File) -> pyfuse3.EntryAttributes:
    """A file as memory has it."""
    committed = 0 if file.base is None else allocated(store, file.base)
    if committed and file.base is not None:
        for hole in file.overlay.holes():
            if hole.start < file.base.size:
                committed -= store.allocated(file.base, hole.start, min(hole.end, file.base.size))
    return entry_attributes(
        inode=file.inode,
        mode=file.mode,
        uid=file.uid,
        gid=file.gid,
        links=file.links,
        size=file.size,
        blocks=blocks(min(file.size, committed + file.overlay.bytes_held())),
        atime_ns=file.atime_ns,
        mtime_ns=file.mtime_ns,
        ctime_ns=file.ctime_ns,
    )


def allocated(store: ObjectStore, node: Node) -> int:
    """Bytes of the node that are not holes.  Exact for a map when the store can tell; otherwise its size."""
    if node.kind == BodyKind.EMPTY:
        return 0
    if node.kind == BodyKind.MAP:
        ask = getattr(store, "allocated", None)
        if ask is not None:
            return int(ask(node))
    return node.size


def blocks(count: int) -> int:
    """st_blocks of `count` bytes: units of 512, whole file system blocks."""
    return -(-count // BLOCK_SIZE) * (BLOCK_SIZE // 512)
