"""Replies to a request for a directory's entries: the sinks into which `listing` and `past` put them.

`Packed` is the reply as the kernel reads it, for the handler of our own (`extra`); `ByPyfuse3` goes through pyfuse3 and
a C struct per entry, where the compiled part is missing.  Either is FUSE_READDIRPLUS: an entry comes with what a lookup
would have answered, and counts as one, unless it is `bare`: then it is a name, an inode number and a type, and whoever
wants more looks it up (a node of 0 in struct fuse_direntplus: fuse_direntplus_link, fs/fuse/readdir.c).

Knows nothing of what the entries are.
"""

from __future__ import annotations

import struct
from typing import Final, Protocol

import pyfuse3
from pyfuse3 import FileNameT, ReaddirToken

from fusefs import attributes
from fusefs.attributes import IO_SIZE, TIMEOUT, type_shown

# linux/fuse.h: fuse_entry_out with its fuse_attr, then fuse_dirent without the name
ENTRY: Final = struct.Struct("<QQQQII QQQqqqIIIIIIIIII QQII")
BARE: Final = struct.Struct("<128x QQII")  # the same of an entry without its node
SECOND: Final = 10**9
_PADDING: Final = tuple(bytes(-length & 7) for length in range(8))


class Page(Protocol):
    """One reply."""

    bare_allowed: bool  # whether there is `bare`
    most: int  # entries, at first

    def add(self, name: bytes, shown: type_shown, cookie: int, timeout: float = TIMEOUT, /) -> bool:
        """One entry with its attributes; False, and not, when there is no room.  `cookie` is the place after it."""

    def bare(self, name: bytes, inode: int, mode: int, cookie: int, /) -> bool:
        """One entry without."""


class Packed:
    """A reply of at most `size` bytes."""

    __slots__ = ("_parts", "_room", "most")

    bare_allowed = True

    def __init__(self, size: int) -> None:
        self._room = size
        self.most = size // (ENTRY.size + 8) + 1
        self._parts: list[bytes] = []

    def add(self, name: bytes, shown: type_shown, cookie: int, timeout: float = TIMEOUT, /) -> bool:
        length = len(name)
        room = self._room - ENTRY.size - (length + 7 & ~7)
        if room < 0:
            return False
        self._room = room
        inode, mode, uid, gid, links, size, blocks, atime_ns, mtime_ns, ctime_ns, number = shown
        valid = int(timeout)
        self._parts += (
            ENTRY.pack(
                inode, 0, valid, valid, 0, 0,
                inode, size, blocks,
                atime_ns // SECOND, mtime_ns // SECOND, ctime_ns // SECOND,
                atime_ns % SECOND, mtime_ns % SECOND, ctime_ns % SECOND,
                mode, links, uid, gid, number, IO_SIZE, 0,
                inode, cookie, length, mode >> 12,
            ),
            name,
            _PADDING[length & 7],
        )  # fmt: skip
        return True

    def bare(self, name: bytes, inode: int, mode: int, cookie: int, /) -> bool:
        length = len(name)
        room = self._room - BARE.size - (length + 7 & ~7)
        if room < 0:
            return False
        self._room = room
        self._parts += (BARE.pack(inode, cookie, length, mode >> 12), name, _PADDING[length & 7])
        return True

    def packed(self) -> bytes:
        """All of it."""
        return b"".join(self._parts)


class ByPyfuse3:
    """A reply of pyfuse3's, which knows its own room."""

    __slots__ = ("_token", "most")

    bare_allowed = False

    def __init__(self, token: ReaddirToken) -> None:
        self._token = token
        self.most = 256  # about 32 KiB, which is what it mostly has

    def add(self, name: bytes, shown: type_shown, cookie: int, timeout: float = TIMEOUT, /) -> bool:
        return pyfuse3.readdir_reply(self._token, FileNameT(name), attributes.answer(shown, timeout), cookie)

    def bare(self, name: bytes, inode: int, mode: int, cookie: int, /) -> bool:
        raise AssertionError("pyfuse3 has no entries without attributes")
