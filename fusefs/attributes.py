"""Nodes as the kernel sees them.

The kernel may cache what it is told for a long time, because every S3 change is invalidated before it is acknowledged
(H5) and everything else passes through the kernel itself.
"""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Final

import pyfuse3

from appliance.model import UNOWNED, BodyKind, Node, type_shown_row
from fusefs.handles import File
from fusefs.ownership import Ownership

if TYPE_CHECKING:
    from appliance.store import ObjectStore

TIMEOUT: Final = 60.0  # seconds for names, attributes and absent names
WRITTEN_TIMEOUT: Final = 1.0  # for the attributes of a file that a program writes: the kernel counts no blocks
BLOCK_SIZE: Final = 4096
IO_SIZE: Final = 1 << 20  # st_blksize: cp and cat then ask for 1 MiB at a time


type_shown = tuple[int, int, int, int, int, int, int, int, int, int, int]
"""What stat(2) shows of a node: inode, mode, owner, group, links, size, blocks of 512 bytes, then the times of access,
of change and of change of the inode in nanoseconds, and a device's number."""

_EMPTY: Final = int(BodyKind.EMPTY)
_MAP: Final = int(BodyKind.MAP)
_DEVICES: Final = frozenset({stat.S_IFCHR, stat.S_IFBLK})


def answer(shown: type_shown, timeout: float = TIMEOUT) -> pyfuse3.EntryAttributes:
    """The same as pyfuse3 hands it to the kernel, which may keep it for `timeout` seconds."""
    entry = pyfuse3.EntryAttributes()
    (
        entry.st_ino,
        entry.st_mode,
        entry.st_uid,
        entry.st_gid,
        entry.st_nlink,
        entry.st_size,
        entry.st_blocks,
        entry.st_atime_ns,
        entry.st_mtime_ns,
        entry.st_ctime_ns,
        entry.st_rdev,
    ) = shown
    entry.st_blksize = IO_SIZE
    entry.entry_timeout = entry.attr_timeout = timeout
    return entry


def of_node(store: ObjectStore, node: Node, ownership: Ownership) -> type_shown:
    """A node as it is in the catalogue."""
    kind = node.kind
    if kind == _EMPTY:
        held = 0
    elif kind == _MAP:
        held = allocated(store, node)
    else:
        held = node.size
    mode, uid, gid = ownership.of(node) if node.flags & UNOWNED else (node.mode, node.uid, node.gid)
    number = node.ref if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else 0
    times = node.atime_ns, node.mtime_ns, node.ctime_ns
    return (node.id, mode, uid, gid, node.links, node.size, blocks(held), *times, number)


def is_partial(row: type_shown_row) -> bool:
    """Whether a listing's row lacks something that the node has: which bytes are holes, or a device's number."""
    return row[7] == _MAP or stat.S_IFMT(row[2]) in _DEVICES


def of_row(row: type_shown_row, ownership: Ownership) -> type_shown:
    """What a listing's row shows."""
    _, inode, mode, uid, gid, links, size, kind, atime_ns, mtime_ns, ctime_ns, flags, _ = row
    if flags & UNOWNED:
        mode, uid, gid = ownership.instead(mode)
    held = -(-size // BLOCK_SIZE) * (BLOCK_SIZE // 512) if kind != _EMPTY else 0
    return inode, mode, uid, gid, links, size, held, atime_ns, mtime_ns, ctime_ns, 0


def of_file(store: ObjectStore, file: File) -> type_shown:
    """A file as memory has it.  While somebody may write it, it has a block: the kernel may have bytes that never came
    here yet, or keep what it was told when there were none (until a close: fuse_flush, fs/fuse/file.c), and who meets
    bytes and no blocks, as tar(1) with --sparse, takes them all for zeros."""
    committed = 0 if file.base is None else _committed(store, file, file.base)
    held = blocks(min(file.size, committed + file.overlay.bytes_held()) or bool(file.writers))
    times = file.atime_ns, file.mtime_ns, file.ctime_ns
    return (file.inode, file.mode, file.uid, file.gid, file.links, file.size, held, *times, 0)


def _committed(store: ObjectStore, file: File, base: Node) -> int:
    """Bytes of the committed file that are in no hole of memory's.  What lies between those is asked for, not what they
    take away: the catalogue may have them already, before memory has heard of it."""
    holes = [hole for hole in file.overlay.holes() if hole.start < base.size]  # in order
    if not holes:
        return allocated(store, base)
    starts = [0, *(hole.end for hole in holes)]
    ends = [*(hole.start for hole in holes), base.size]
    return sum(store.allocated(base, start, end) for start, end in zip(starts, ends, strict=True) if start < end)


def allocated(store: ObjectStore, node: Node) -> int:
    """Bytes of the node that are not holes.  Exact for a map when the store can tell; otherwise its size."""
    if node.kind == _EMPTY:
        return 0
    if node.kind == _MAP:
        ask = getattr(store, "allocated", None)
        if ask is not None:
            return int(ask(node))
    return node.size


def blocks(count: int) -> int:
    """st_blocks of `count` bytes: units of 512, whole file system blocks."""
    return -(-count // BLOCK_SIZE) * (BLOCK_SIZE // 512)
