"""Directories, a reply at a time.

The kernel asks for a directory in pieces of some 32 KiB and may come back to any cookie that it was given, also through
another handle: its NFS server opens the directory anew for each piece.  So a cookie stands for a name: it is a digest
of it, and going on means going on after that name, wherever it sorts now and whether or not it is still there.  The
names that cookies stand for are remembered as long as the directory is open, and for some time after (`Positions`);
one that is remembered no more is looked for.  (Cookies of the root are the buckets' roots.)

Names come in the catalogue's order; the files that no commit has taken yet, as of the first reply, are merged into it,
so a commit between two replies moves nothing.  Nothing is copied when a directory is opened, and one of any length
costs what is asked of it.  Each entry comes with its attributes (readdirplus) and counts as a lookup.
"""

from __future__ import annotations

import errno
import stat
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final
from zlib import crc32

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileNameT, FUSEError, InodeT, ReaddirToken

from appliance.authority import Action
from appliance.model import Entry
from fusefs import tree
from fusefs.handles import DirectoryHandle, File
from fusefs.inodes import ROOT
from fusefs.names import Names

LIST_STEP: Final = 256  # entries per call of the store: about one reply
SEEK_STEP: Final = 1_024  # entries looked through for a forgotten cookie, between two other requests
KEPT_MAX: Final = 65_536  # names whose cookies are remembered after their directories were closed
SELF: Final = 1  # the cookie of "."
PARENT: Final = 2  # of ".."


def cookie_of(row: bytes) -> int:
    """The cookie of a row name (a directory's ends with "/"): 62 bits, above those of "." and "..".

    Forwards and backwards, CRC-32 is as good as one of 64 bits.  Two of a million names have one cookie in one of ten
    million directories; who comes back to it is then led to one of the two, while going on from a reply never asks."""
    return PARENT + 1 + ((crc32(row) << 32 | crc32(row[::-1])) >> 2)


class Positions:
    """Which names cookies stand for, by directory."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[int, dict[int, bytes]]] = {}  # directory -> (handles, names by cookie)
        self._closed: OrderedDict[int, dict[int, bytes]] = OrderedDict()  # least lately closed first
        self._kept = 0  # names in `_closed`

    def opened(self, handle: DirectoryHandle) -> None:
        """The handle knows what others of its directory know."""
        handles, names = self._open.get(handle.inode, (0, None))
        if names is None:
            names = self._closed.pop(handle.inode, {})
            self._kept -= len(names)
        self._open[handle.inode] = handles + 1, names
        handle.positions = names

    def closed(self, handle: DirectoryHandle) -> None:
        """Somebody may still come back, through another handle."""
        handles, names = self._open.pop(handle.inode)
        if handles > 1:
            self._open[handle.inode] = handles - 1, names
        elif names:
            self._closed[handle.inode] = names
            self._kept += len(names)
            while self._kept > KEPT_MAX:
                _, forgotten = self._closed.popitem(last=False)
                self._kept -= len(forgotten)


def _dot(token: ReaddirToken, name: bytes, inode: int, cookie: int) -> bool:
    """ "." or "..", which count as no lookup (fs/fuse/readdir.c, fuse_direntplus_link)."""
    answer = EntryAttributes()
    answer.st_ino = InodeT(inode)
    answer.st_mode = pyfuse3.ModeT(stat.S_IFDIR)
    return pyfuse3.readdir_reply(token, FileNameT(name), answer, cookie)


def _dots(token: ReaddirToken, inode: int, parent: int, start: int) -> bool:
    """False when the reply is full."""
    if start < SELF and not _dot(token, b".", inode, SELF):
        return False
    return start >= PARENT or _dot(token, b"..", parent, PARENT)


def list_buckets(names: Names, start: int, token: ReaddirToken) -> None:
    """The mount's root."""
    if not _dots(token, ROOT, ROOT, start):
        return
    for bucket in sorted(names.store.buckets(), key=lambda bucket: bucket.root):
        if bucket.root <= start or not names.permits.allows(Action.MOUNT_READ, bucket):
            continue
        answer = names.attributes(names.pending.node(bucket.root))
        if not pyfuse3.readdir_reply(token, FileNameT(bucket.label), answer, bucket.root):
            return
        names.inodes.looked_up(bucket.root, bucket.id)


async def seek(names: Names, handle: DirectoryHandle, start: int) -> None:
    """The next reply begins after cookie `start`.  EINVAL for one that stands for no name (any more)."""
    handle.rest, handle.rows, handle.at, handle.whole = [], [], 0, False
    if start == 0 or not handle.begun:
        handle.begun = True
        handle.pending = sorted(names.files.names.get(handle.inode, {}).items())
    if start <= PARENT:
        handle.after, handle.cookie = None, start
        return
    found = handle.positions.get(start)
    if found is None:
        found = next((name for name, _ in handle.pending if cookie_of(name) == start), None)
    after: tuple[bytes, bool] | None = None
    while found is None:
        entries = names.pending.entries(handle.inode, after, SEEK_STEP)
        for entry in entries:
            if cookie_of(_row(entry)) == start:
                found = _row(entry)
        if not entries:
            raise FUSEError(errno.EINVAL)
        after = (entries[-1].name, entries[-1].directory)
        await trio.lowlevel.checkpoint()
    handle.positions[start] = handle.after = found
    handle.cookie = start


def list_directory(names: Names, handle: DirectoryHandle, epoch: int, token: ReaddirToken) -> None:
    """A directory of a bucket, from where `seek` or the last reply left it.

    `epoch` rises with every change of a name or node: entries read under an older one are read again.
    """
    if handle.cookie < PARENT:
        if not _dots(token, handle.inode, handle.parent, handle.cookie):
            return
        handle.cookie = PARENT
    reply, positions = pyfuse3.readdir_reply, handle.positions
    for row, found in _following(names, handle, epoch):
        cookie = cookie_of(row)
        if isinstance(found, Entry):
            shown = tree.to_mount(found.name) if found.directory else _shown(names, handle, row)
            answer = names.attributes(names.file(found) or found.node)
            inode = found.node.id
        else:
            shown, answer, inode = _shown(names, handle, row), names.attributes(found), found.inode
        if not reply(token, FileNameT(shown), answer, cookie):
            return
        names.known(handle.inode, inode, found)
        positions[cookie] = handle.after = row
        handle.cookie = cookie


def _following(names: Names, handle: DirectoryHandle, epoch: int) -> Iterator[tuple[bytes, Entry | File]]:
    """(row name, what it names) after where the handle is; where it is moves only between two of them."""
    pending = bisect_right(handle.pending, handle.after, key=lambda item: item[0]) if handle.after is not None else 0
    if handle.epoch != epoch:
        handle.rest, handle.rows, handle.at, handle.whole, handle.epoch = [], [], 0, False, epoch
    while True:
        if handle.at == len(handle.rest) and not handle.whole:
            _refill(names, handle)
        entry, row = None, None
        if handle.at < len(handle.rest):
            entry, row = handle.rest[handle.at], handle.rows[handle.at]
        if pending < len(handle.pending) and (row is None or handle.pending[pending][0] <= row):
            name, file = handle.pending[pending]
            pending += 1
            if name == row and entry is not None:  # committed meanwhile
                yield name, entry
                handle.at += 1
            elif file.name == (handle.inode, name):
                yield name, file
            else:  # committed and not read, moved or gone
                now = names.pending.entry(handle.inode, name, False)
                if now is not None:
                    yield name, now
        elif entry is None or row is None:
            return
        else:
            yield row, entry
            handle.at += 1


def _refill(names: Names, handle: DirectoryHandle) -> None:
    """The catalogue's entries after where the handle is."""
    after = None
    if handle.after is not None:
        directory = handle.after.endswith(b"/")
        after = (handle.after.removesuffix(b"/"), directory)
    handle.rest, handle.at = names.pending.entries(handle.inode, after, LIST_STEP), 0
    handle.rows = [_row(entry) for entry in handle.rest]
    handle.whole = len(handle.rest) < LIST_STEP
    handle.directories = {entry.name for entry in handle.rest if entry.directory}


def _row(entry: Entry) -> bytes:
    return entry.name + b"/" if entry.directory else entry.name


def _shown(names: Names, handle: DirectoryHandle, row: bytes) -> bytes:
    """A file's name in the mount: beside a directory of the same name it has an alias."""
    if handle.at < len(handle.rows) and (handle.whole or row + b"/" <= handle.rows[-1]):
        shadowed = row in handle.directories  # its directory would be among these ...
    else:
        shadowed = names.pending.entry(handle.inode, row, True) is not None  # ... or comes later
    return tree.to_mount(row, shadowed)
