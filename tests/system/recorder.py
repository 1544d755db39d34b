"""A file system of a few files that are disks, which logs every write and every flush in the order in which they came.

    python -m tests.system.recorder MOUNTPOINT LOG SIZE NAME...

With loop devices over its files a daemon works on real block devices, through the kernel's block layer, and one log has
what all of them were told: so any moment can be made again on copies (`Log`), as dm-log-writes and QEMU's blklogwrites
do it for one device each.  A request is logged before it is answered: what a client was told is in the log already.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pyfuse3
import trio

HEAD: Final = struct.Struct("<BBQI")  # kind, disk, offset, length; the bytes of a write follow
WRITE: Final = 1
FLUSH: Final = 2


class Entry(NamedTuple):
    """One line of the log; `end` is where the log ended with it."""

    kind: int
    disk: int
    offset: int
    data: bytes
    end: int


def entries(path: Path) -> Iterator[Entry]:
    """The log, in order."""
    with path.open("rb") as log:
        while head := log.read(HEAD.size):
            kind, disk, offset, length = HEAD.unpack(head)
            yield Entry(kind, disk, offset, log.read(length), log.tell())


class Disks(pyfuse3.Operations):
    """Inode 2 is the first disk."""

    def __init__(self, directory: Path, log: Path, size: int, names: Sequence[str]) -> None:
        super().__init__()
        self.size = size
        self.names = [name.encode() for name in names]
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self.disks = []
        for name in names:
            disk = os.open(directory / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.ftruncate(disk, size)
            self.disks.append(disk)

    async def getattr(self, inode: Any, ctx: Any = None) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        root = inode == pyfuse3.ROOT_INODE
        entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o700 if root else stat.S_IFREG | 0o600)
        entry.st_size = 0 if root else self.size
        entry.st_blocks = entry.st_size // 512
        return entry

    async def lookup(self, parent_inode: Any, name: Any, ctx: Any) -> pyfuse3.EntryAttributes:
        if name not in self.names:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(2 + self.names.index(name))

    async def setattr(self, inode: Any, attr: Any, fields: Any, fh: Any, ctx: Any) -> pyfuse3.EntryAttributes:
        return await self.getattr(inode)

    async def open(self, inode: Any, flags: Any, ctx: Any) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode - 2), direct_io=True)

    async def read(self, fh: Any, off: int, size: int) -> bytes:
        return os.pread(self.disks[fh], size, off)

    async def write(self, fh: Any, off: int, buf: bytes) -> int:
        os.write(self.log, HEAD.pack(WRITE, fh, off, len(buf)) + buf)
        assert os.pwrite(self.disks[fh], buf, off) == len(buf)
        return len(buf)

    async def fsync(self, fh: Any, datasync: bool) -> None:
        os.write(self.log, HEAD.pack(FLUSH, fh, 0, 0))

    async def flush(self, fh: Any) -> None:
        """close(2) of somebody: nothing is flushed by it."""

    async def release(self, fh: Any) -> None:
        """Nothing is kept for an open file."""


def main(point: str, log: str, size: str, *names: str) -> None:
    """Serves until it is unmounted."""
    backing = Path(log).parent / "backing"
    backing.mkdir()
    pyfuse3.init(Disks(backing, Path(log), int(size), names), point, {"fsname=recorder", "default_permissions"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
