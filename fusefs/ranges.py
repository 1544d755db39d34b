"""Ranges of files: where the data is (lseek), what has room (fallocate), what two files share (copy_file_range).

None of it is an operation of pyfuse3's: `extra` joins it to the mount.  What the kernel does before it asks:

    lseek            nothing: its dirty pages are unknown here, so a file that someone may write is asked back first
    fallocate        writes back the range that becomes a hole, and forgets its pages afterwards
    copy_file_range  writes back both ranges; an EOPNOTSUPP makes it copy bytes through its cache

Costs follow what there is, not sizes: a hole of a tebibyte is one step.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

import trio
from pyfuse3 import FUSEError

from appliance.errors import Code, StoreError
from appliance.limits import FILE_SIZE_MAX, GATHER_MAX, KIB, SHARED_PIECES_MAX
from appliance.model import SharedRange
from fusefs.handles import File
from fusefs.invalidation import Kernel, write_back
from fusefs.times import clock_ns
from fusefs.writeback import WriteBack

if TYPE_CHECKING:
    from appliance.store import ObjectStore

SEEK_STEP: Final = 512  # pieces of a map looked at before others get their turn: half a millisecond

FALLOC_FL_KEEP_SIZE: Final = 0x01  # linux/falloc.h
FALLOC_FL_PUNCH_HOLE: Final = 0x02
FALLOC_FL_ZERO_RANGE: Final = 0x10
HOLES: Final = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE
PUNCH_STEP: Final = 256  # pieces of a map that one commit makes a hole of: its record stays small
CUT_STEP: Final = 1024  # pieces that one commit cuts off: 40 ms of the writer
PUNCHES_MAX: Final = 64  # holes that one commit makes
SHARE_MIN: Final = GATHER_MAX  # a range below it costs less to copy than a barrier to wait for
PIECE_MIN: Final = 64 * KIB  # shared pieces are as long on average: what is in crumbs is better copied into one piece
FEW: Final = 4  # pieces that may be shorter


class Ranges:
    """What a mount does with ranges of its files."""

    def __init__(self, store: ObjectStore, files: WriteBack, kernel: Kernel) -> None:
        self.store = store
        self.files = files
        self.kernel = kernel

    # ------------------------------------------------------------------ lseek
    async def seek(self, file: File, offset: int, whence: int) -> int:
        """lseek(2): the first byte from `offset` on that is data (SEEK_DATA) or hole (SEEK_HOLE; the end is one).

        Raises ENXIO beyond the end, and for SEEK_DATA where only a hole follows."""
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise FUSEError(errno.EINVAL)
        if file.writers:  # the kernel may hold what it has not given us yet; a file that nobody writes it has flushed
            await write_back(self.kernel, file, max(offset, 0))
        if not 0 <= offset < file.size:
            raise FUSEError(errno.ENXIO)
        found = offset
        while True:
            seen = 0
            for start, end in islice(self._data(file, found, 1 if whence == os.SEEK_DATA else SEEK_STEP), SEEK_STEP):
                if whence == os.SEEK_DATA:
                    return start
                if start > found:
                    return found
                found = end
                seen += 1
            if whence == os.SEEK_DATA:
                raise FUSEError(errno.ENXIO)
            if seen < SEEK_STEP:
                return min(found, file.size)
            await trio.lowlevel.checkpoint()  # what follows is looked at as it is then

    def _data(self, file: File, start: int, limit: int) -> Iterator[tuple[int, int]]:
        """What is no hole from `start` on, in order: what memory has over what is committed.  The first `limit` pieces
        at least; not across a wait."""
        for low, high, segment in file.overlay.pieces(start, file.size):
            if segment is None:
                if file.base is not None:
                    yield from self.store.extents(file.inode, low, high, limit)
            elif segment.source is not None:
                yield low, high

    # ------------------------------------------------------------------ fallocate
    async def allocate(self, file: File, mode: int, offset: int, length: int) -> None:
        """fallocate(2).  Nothing is set aside: the default mode makes the file longer, and says ENOSPC where the pool
        could not hold what it asks room for.  A range of zeros is a hole.

        Raises EFBIG, EINVAL, ENOSPC, EOPNOTSUPP, and the error of a commit nobody was told about."""
        if mode & ~(FALLOC_FL_KEEP_SIZE | HOLES) or mode & HOLES == HOLES:
            raise FUSEError(errno.EOPNOTSUPP)
        if mode & FALLOC_FL_PUNCH_HOLE and not mode & FALLOC_FL_KEEP_SIZE:
            raise FUSEError(errno.EOPNOTSUPP)  # fallocate(2): it must be ORed with FALLOC_FL_KEEP_SIZE
        if offset < 0 or length <= 0:
            raise FUSEError(errno.EINVAL)
        if file.error is not None:
            self.files.report(file)
        end = offset + length
        if end > FILE_SIZE_MAX and not mode & FALLOC_FL_PUNCH_HOLE:
            raise FUSEError(errno.EFBIG)
        if mode & HOLES:
            await self._punch(file, offset, min(end, file.size))
        else:
            self._require_room(file, offset, end)
        if end > file.size and not mode & FALLOC_FL_KEEP_SIZE:
            await self.files.promise(file, end)
            self.files.truncate(file, end, clock_ns())

    async def _punch(self, file: File, start: int, end: int) -> None:
        """Makes [start, end) a hole, in as many commits as the pieces of the map there need."""
        while start < end:
            pieces = [] if file.base is None else self.store.extents(file.inode, start, end, PUNCH_STEP)
            stop = end if len(pieces) < PUNCH_STEP else pieces[-1][1]
            self.files.punch(file, start, stop, clock_ns())
            if stop < end or sum(not hole.owner for hole in file.overlay.holes()) >= PUNCHES_MAX:
                commit = await self.files.commit(file)
                if commit is not None and stop < end:
                    await self.files.wait(commit)  # the next step is of the map that this one leaves
            start = stop

    async def shorten(self, file: File, size: int) -> None:
        """Before the file is cut to `size`: of many pieces behind it the last ones go first, each step a commit.  A
        crash leaves a file that is cut somewhere."""
        if file.orphan or file.base is None or size == 0:  # what goes as a whole is freed in steps by the store
            return
        ends: list[int] = []
        at, seen = size, 0
        while pieces := self.store.extents(file.inode, at, file.size, SEEK_STEP):
            for start, end in pieces:
                seen += 1
                if seen % CUT_STEP == 0:
                    ends.append(start)
                at = end
            if len(pieces) < SEEK_STEP:
                break
            await trio.lowlevel.checkpoint()
        file.opens += 1  # it stays in memory between the steps
        try:
            for end in reversed(ends):
                self.files.truncate(file, end, clock_ns())
                commit = await self.files.commit(file)
                if commit is not None:
                    await self.files.wait(commit)
                self.files.report(file)
        finally:
            file.opens -= 1

    def _require_room(self, file: File, start: int, end: int) -> None:
        """ENOSPC where the pool could not hold [start, end), so far as it is a hole now."""
        wanted = 0
        for low, high, segment in file.overlay.pieces(start, end):
            if segment is None:
                wanted += high - low - (0 if file.base is None else self.store.allocated(file.base, low, high))
            elif segment.source is None:
                wanted += high - low
        _, available = self.store.space(file.bucket.copies)
        if wanted > available:
            raise FUSEError(errno.ENOSPC)

    # ------------------------------------------------------------------ copy_file_range
    async def copy(self, source: File, start: int, target: File, offset: int, length: int) -> int:
        """copy_file_range(2): how many bytes `target` has from now on in common with `source`, durable; perhaps fewer
        than asked for.  What is small, in too many pieces, or kept in another way than the target's bytes must be
        (`SharedRange`), the kernel shall copy: EOPNOTSUPP.

        Raises EINVAL (ranges of one file that overlap), EFBIG, and what commits of both files raise."""
        length = min(length, source.size - start)
        if length <= 0:
            return 0
        if source is target and abs(start - offset) < length:
            raise FUSEError(errno.EINVAL)
        if offset + length > FILE_SIZE_MAX:
            raise FUSEError(errno.EFBIG)
        if length < SHARE_MIN or _has_no_name(source) or _has_no_name(target):
            raise FUSEError(errno.EOPNOTSUPP)  # of what has no name the store knows nothing, or not all
        if source is not target:
            await self.files.make_durable(source)
        async with self.files.quiet(target):
            if _has_no_name(source) or _has_no_name(target):
                raise FUSEError(errno.EOPNOTSUPP)  # it was removed meanwhile
            length = self._shareable(source, start, start + length) - start
            length = self._shareable(target, offset, offset + length) - offset
            if length < SHARE_MIN:
                raise FUSEError(errno.EOPNOTSUPP)
            try:
                await self._share(source, start, target, offset, length)
            except StoreError as error:
                if error.code in (Code.NOT_SUPPORTED, Code.CONFLICT):
                    raise FUSEError(errno.EOPNOTSUPP) from None
                raise
        return length

    def _shareable(self, file: File, start: int, end: int) -> int:
        """Where a range ends that has few enough pieces to be changed or shared in one commit, not longer than asked
        for; `start` if they are so small that a copy is better for both."""
        pieces = self.store.extents(file.inode, start, end, SHARED_PIECES_MAX + 1)
        if len(pieces) > SHARED_PIECES_MAX:
            end = pieces[SHARED_PIECES_MAX][0]
        return end if end - start >= len(pieces) * PIECE_MIN or len(pieces) <= FEW else start

    async def _share(self, source: File, start: int, target: File, offset: int, length: int) -> None:
        """One commit; memory follows."""
        assert target.base is not None
        end = offset + length
        now_ns = clock_ns()
        if target.begins:
            target.stays = target.base.version
        ticket = self.store.submit_file(
            target.bucket,
            node=target.inode,
            create=None,
            mode=target.mode,
            uid=target.uid,
            gid=target.gid,
            atime_ns=target.atime_ns,
            mtime_ns=now_ns,
            now_ns=now_ns,
            size=max(target.size, end),
            place=target.place,
            begins=target.begins,
            stays=target.stays,
            punched=[(offset, end)],
            shared=SharedRange(source.inode, start, offset, length, target.sealed),
        )
        await ticket.wait()
        target.base = self.store.node(target.inode)
        target.begins = False
        target.mtime_ns = target.ctime_ns = now_ns
        target.size = max(target.size, end)
        self.files.promises.shared(target)


def _has_no_name(file: File) -> bool:
    """Asked again after each wait."""
    return file.orphan
