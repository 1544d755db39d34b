"""Directories, a reply at a time.

The kernel asks for a directory in pieces (as large as the program's buffer since Linux 6.16: 1 MiB with glibc, which
takes `st_blksize` for it) and may come back to any cookie that it was given, also through another handle: its NFS
server opens the directory anew for each piece.  So a cookie stands for a name: it is a digest of it, and going on means
going on after that name, wherever it sorts now and whether or not it is still there.  The names of the latest replies
are remembered as long as the directory is open, and for some time after (`Positions`); one that is remembered no more
is looked for.  (Cookies of the root are the buckets' roots.)

Names come in the catalogue's order; the files that no commit has taken yet, as of the first reply, are merged into it,
so a commit between two replies moves nothing.  Nothing is copied when a directory is opened, and one of any length
costs what is asked of it: a reply has a bounded number of entries, so that nobody else waits long for the loop.  Where
the catalogue has to be read from the disk a thread reads it first (`warm`).

An entry comes with its attributes (readdirplus) and counts as a lookup, which is what most programs want next: to ask
for each costs ten times that, to make an inode that nobody wants a fifth of it and a kilobyte of the kernel's memory.
So the names of a long directory come bare behind the first `FULL_MAX`, until a program has looked up half of those that
were given bare.
"""

from __future__ import annotations

import errno
import stat
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

import trio
from pyfuse3 import FUSEError

from appliance.authority import Action
from appliance.errors import Code, StoreError
from appliance.limits import KIB
from appliance.model import Entry
from fusefs import attributes, tree
from fusefs.dirents import Page
from fusefs.handles import DirectoryHandle, File
from fusefs.inodes import ROOT
from fusefs.names import Names
from fusefs.places import PARENT, SELF, cookie_of

LIST_STEP: Final = 256  # entries per call of the store
REPLY_MAX: Final = 1_024  # bare entries in a reply: some 3 ms
REPLY_FULL: Final = 512  # with attributes: some 4 ms
BARE_FIRST: Final = 64  # bare entries in the first reply that has any: each next one may have as many as all before
FULL_MAX: Final = 4_096  # entries of a directory that come with attributes, asked for or not
LOST_INODE: Final = (1 << 32) - 1  # d_ino of a name of which nothing else is known: libraries pass over 0
COLD: Final = 64 * KIB  # read from the disk for one reply: a dozen waits of 0.1 ms and more, each with the loop
SEEK_STEP: Final = 1_024  # entries looked through for a forgotten cookie, between two other requests


def _dots(page: Page, inode: int, parent: int, start: int) -> bool:
    """False when the reply is full.  "." and ".." count as no lookups (fs/fuse/readdir.c, fuse_direntplus_link)."""
    if start < SELF and not page.add(b".", _directory(inode), SELF):
        return False
    return start >= PARENT or page.add(b"..", _directory(parent), PARENT)


def _parent(names: Names, handle: DirectoryHandle) -> int:
    """Where the directory is now; of one that is gone, where it was."""
    try:
        return names.parent(handle.inode)
    except FUSEError:
        return handle.parent


def _directory(inode: int) -> attributes.type_shown:
    return inode, stat.S_IFDIR, 0, 0, 2, 0, 0, 0, 0, 0, 0


def list_buckets(names: Names, start: int, page: Page) -> None:
    """The mount's root."""
    if not _dots(page, ROOT, ROOT, start):
        return
    for bucket in sorted(names.store.buckets(), key=lambda bucket: bucket.root):
        if bucket.root <= start or not names.permits.allows(Action.MOUNT_READ, bucket):
            continue
        if not page.add(bucket.label, names.shown(names.pending.node(bucket.root)), bucket.root):
            return
        names.inodes.looked_up(bucket.root, bucket.id)


def is_at_hand(handle: DirectoryHandle, start: int) -> bool:
    """Whether `seek` and `warm` need not wait."""
    if handle.cold:
        return False
    return start in (SELF, PARENT, handle.cookie) or start == 0 or handle.places.find(start) is not None


async def seek(names: Names, handle: DirectoryHandle, start: int) -> None:
    """The next reply begins after cookie `start`.  EINVAL for one that stands for no name (any more)."""
    handle.rest, handle.rows, handle.at, handle.whole = [], [], 0, False
    if start == 0:
        handle.full = handle.bare = 0
        names.bare.pop(handle.inode, None)
    if start == 0 or not handle.begun:
        handle.begun = True
        handle.pending = sorted(names.files.names.get(handle.inode, {}).items())
    if start <= PARENT:
        handle.after, handle.cookie = None, start
        return
    found = handle.places.find(start)
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
    handle.after = found
    handle.cookie = start


async def warm(names: Names, handle: DirectoryHandle) -> None:
    """Where the last reply had to wait for the disk so will the next: let it be a thread that waits."""
    if handle.after is not None:
        full = _is_full(names, handle)
        limit = REPLY_FULL if full else REPLY_MAX
        handle.warmed = await names.store.warm(handle.inode, handle.after, limit, nodes=full)


def _is_full(names: Names, handle: DirectoryHandle) -> bool:
    """Whether the next entries come with attributes, where they may come without."""
    return handle.full < FULL_MAX or (handle.bare > 0 and 2 * names.bare.get(handle.inode, 0) >= handle.bare)


def list_directory(names: Names, handle: DirectoryHandle, epoch: int, page: Page) -> None:
    """A directory of a bucket, from where `seek` or the last reply left it.

    `epoch` rises with every change of a name or node: entries read under an older one are read again.
    """
    if handle.cookie < PARENT:
        if not _dots(page, handle.inode, _parent(names, handle), handle.cookie):
            return
        handle.cookie = PARENT
    full = not page.bare_allowed or _is_full(names, handle)
    waited = names.store.waited()
    if handle.pending or names.pending.changes(handle.inode) or (handle.whole and handle.epoch == epoch):
        rows, cookies = _merged(names, handle, epoch, page, min(REPLY_FULL, REPLY_MAX), full=full)
    elif handle.after is None:  # of a short directory the store then remembers what is asked for next
        rows, cookies = _merged(names, handle, epoch, page, min(LIST_STEP, REPLY_MAX), full=full)
    else:
        handle.epoch = -1
        rows, cookies = _committed(names, handle, page) if full else _committed_bare(names, handle, page)
    handle.cold, handle.warmed = handle.warmed + names.store.waited() - waited >= COLD, 0
    if not rows:
        return
    handle.after, handle.cookie = rows[-1], cookies[-1]
    handle.places.give(cookies, rows)
    if full:
        handle.full += len(rows)
    else:
        handle.bare += len(rows)
        names.bare.setdefault(handle.inode, 0)


def _committed(names: Names, handle: DirectoryHandle, page: Page) -> tuple[list[bytes], list[int]]:
    """Entries of the catalogue alone, one state of them; the row names that the reply took, and their cookies."""
    limit = min(REPLY_FULL, REPLY_MAX, page.most)
    found = names.store.shown(handle.inode, handle.after, limit)
    rows = [row[0] for row in found]
    cookies = [cookie_of(row) for row in rows]
    aliases = _aliases(names, handle.inode, rows, whole=len(found) < limit)
    overlaid = names.overlaid([row[1] for row in found])
    bucket, ownership, add, owned = names.bucket_id(handle.inode), names.files.ownership, page.add, names.owned
    placed = names.is_placed(bucket)
    looked_up, of_row = names.inodes.looked_up, attributes.of_row
    for at, row in enumerate(found):
        name, inode = row[0], row[1]
        if not inode:
            if not _lost(page, aliases.get(name, name), cookies[at]):
                return rows[:at], cookies[:at]
            continue
        shown = None
        if inode in overlaid or attributes.is_partial(row):
            with suppress(FUSEError):  # removed since the catalogue was asked: whoever removes it tells the kernel
                shown = names.shown(names.files.get(inode) or names.node(inode))
        if shown is None:
            shown = owned(of_row(row, ownership))
        if not add(aliases.get(name, name), shown, cookies[at]):
            return rows[:at], cookies[:at]
        looked_up(inode, bucket)
        if placed:
            names.inodes.placed(inode, (handle.inode, name.removesuffix(b"/")))
    return rows, cookies


def _committed_bare(names: Names, handle: DirectoryHandle, page: Page) -> tuple[list[bytes], list[int]]:
    """The same, without attributes."""
    limit = min(REPLY_MAX, page.most, max(BARE_FIRST, handle.bare))
    found = names.store.named(handle.inode, handle.after, limit)
    rows = [row[0] for row in found]
    cookies = [cookie_of(row) for row in rows]
    aliases = _aliases(names, handle.inode, rows, whole=len(found) < limit)
    bare = page.bare
    for at, (name, inode, mode, _) in enumerate(found):
        if not bare(aliases.get(name, name), inode or LOST_INODE, mode or 0, cookies[at]):
            return rows[:at], cookies[:at]
    return rows, cookies


def _lost(page: Page, name: bytes, cookie: int) -> bool:
    """A name whose row is damaged: who asks for more than the name is answered EIO.  Raises DAMAGED where a name cannot
    come alone."""
    if not page.bare_allowed:
        raise StoreError(
            Code.DAMAGED, "the catalogue is damaged: run `tierce rebuild-catalogue`", cause=f"the row of {name!r}"
        )
    return page.bare(name, LOST_INODE, 0, cookie)


def _aliases(names: Names, directory: int, rows: Sequence[bytes], *, whole: bool) -> dict[bytes, bytes]:
    """What those of successive row names are called in the mount that do not stand for themselves.  `whole`: they reach
    to the end of the directory."""
    directories = {row for row in rows if row.endswith(b"/")}
    shadowed = {row[:-1] for row in directories}.intersection(rows)
    if rows and not whole:  # whose directory would come later: between the two are names that begin with it
        last = rows[-1]
        for row in {last[:end] for end in range(len(last) + 1)}.intersection(rows) - directories:
            if names.pending.entry(directory, row, True) is not None:
                shadowed.add(row)
    if tree.are_plain(rows):
        return {row: row[:-1] for row in directories} | {row: tree.to_mount(row, True) for row in shadowed}
    return {row: tree.to_mount(row.removesuffix(b"/"), row in shadowed) for row in rows}


def _merged(
    names: Names, handle: DirectoryHandle, epoch: int, page: Page, most: int, *, full: bool
) -> tuple[list[bytes], list[int]]:
    """The same with what the catalogue lacks, from step to step, `most` of them."""
    rows: list[bytes] = []
    cookies: list[int] = []
    for row, found in _following(names, handle, epoch):
        if len(rows) == most:
            break
        cookie = cookie_of(row)
        if isinstance(found, Entry):
            shown = tree.to_mount(found.name) if found.directory else _shown(names, handle, row)
            if found.damaged:
                if not _lost(page, shown, cookie):
                    break
                rows.append(row)
                cookies.append(cookie)
                handle.after = row
                continue
            inode, now = found.node.id, names.file(found) or found.node
        else:
            shown, inode, now = _shown(names, handle, row), found.inode, found
        if not (page.add(shown, names.shown(now), cookie) if full else page.bare(shown, inode, now.mode, cookie)):
            break
        if full:
            names.known(handle.inode, inode, found)
        rows.append(row)
        cookies.append(cookie)
        handle.after = row
    return rows, cookies


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
    handle.rows = rows = [_row(entry) for entry in handle.rest]
    handle.whole = len(rows) < LIST_STEP
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
