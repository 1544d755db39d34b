"""Room that a bucket's quota gave to bytes which are in memory, not yet in a commit.

A program is told EDQUOT when it writes (or, where the kernel joins writes first, when those reach us: before its fsync
or close returns), never after: what was accepted has room in the bucket, and its commit is not refused.  So each file
holds a promise of as many objects and bytes as its next commit will add; the commit takes the promise along and redeems
it, or a failed one gives it back.

What is refused when the kernel writes its cache back (by a quota, a full pool, a file's greatest size) was written by a
program long ago, and the kernel would tell it EIO: so the kernel is answered as if it were done, and each fsync and
close until the last writer's is answered EDQUOT, ENOSPC, EFBIG.  The kernel then believes in a size that the file does
not have, until it forgets the file: it is made to.

Without versions a change adds what the file grows by, once for each of its names; the first change of a version adds
the whole file and one object, because the older version stays.

A file whose last name is gone while it is open, or that never had one, still takes room: it holds a promise of its
bytes, and of no object, until memory lets go of it.  Where a version of it stays that is counted, of what came since.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from appliance.errors import Code, StoreError
from fusefs.handles import Commit, File, FileHandle

if TYPE_CHECKING:
    from appliance.store import ObjectStore

LIMITS: Final = (Code.QUOTA_EXCEEDED, Code.NO_SPACE, Code.TOO_LARGE)


class Promises:
    """Every file's."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def require(self, file: File, size: int) -> None:
        """Before the file's bytes change, after which it has `size`.  Raises QUOTA_EXCEEDED; then nothing changed."""
        objects, added = self._wanted(file, size)
        had_objects, had = file.promised
        if objects > had_objects or added > had:
            self.store.reserve(file.bucket.id, max(objects - had_objects, 0), max(added - had, 0))
            file.promised = max(objects, had_objects), max(added, had)

    def shrink(self, file: File) -> None:
        """After the file became shorter, or will never be committed: what is too much is given back, but for what the
        commit that is being built will take along."""
        objects, added = self._wanted(file, max(file.size, file.building))
        kept = min(objects, file.promised[0]), min(added, file.promised[1])
        self._give_back(file, file.promised[0] - kept[0], file.promised[1] - kept[1])
        file.promised = kept

    def orphaned(self, file: File) -> None:
        """Its last name is gone, perhaps by a commit under way: what its bytes take they keep, asked for or not."""
        _, added = self._wanted(file, file.size)
        if added > file.promised[1]:
            self.store.reserve(file.bucket.id, 0, added - file.promised[1], ask=False)
            file.promised = file.promised[0], added
        self.shrink(file)

    def frees(self, file: File, bucket: int) -> bool:
        """Whether commits under way, or the next one, make a file of that bucket shorter."""
        if file.orphan or file.bucket.id != bucket:
            return False
        sizes = [0 if file.base is None else file.base.size, *(commit.size for commit in file.pending)]
        return min(file.size, sizes[-1]) < max(sizes)

    def of_commit(self, file: File, size: int) -> tuple[int, int]:
        """What a commit of the bytes takes along that makes the file have `size`; more may have been written since."""
        objects, added = self._wanted(file, size)
        return min(objects, file.promised[0]), min(added, file.promised[1])

    def taken(self, file: File, size: int, promised: tuple[int, int]) -> None:
        """The commit is submitted.  What was written since has its promise still: if the commit makes the file shorter
        than it was, room that it frees, which nobody else must get in between."""
        file.charged = size
        left = file.promised[0] - promised[0], file.promised[1] - promised[1]
        wanted = self._wanted(file, file.size) if file.dirty else (0, 0)
        more = max(wanted[0] - left[0], 0), max(wanted[1] - left[1], 0)
        if more != (0, 0):
            self.store.reserve(file.bucket.id, *more, ask=False)
        file.promised = left[0] + more[0], left[1] + more[1]
        self.shrink(file)

    def shared(self, file: File) -> None:
        """A commit made the file longer that took no promise along: the quota was asked in the commit itself."""
        assert file.base is not None
        file.charged = file.base.size
        self.shrink(file)

    def failed(self, commit: Commit) -> None:
        """A commit that is not among the file's pending ones any more was not done."""
        file = commit.file
        self._give_back(file, *commit.promised)
        if file.pending:
            file.charged = file.pending[-1].size
        else:
            file.charged = 0 if file.base is None else file.base.size

    def again(self, commit: Commit) -> None:
        """A failed commit that will be tried again.  What others took meanwhile it must do without."""
        self.failed(commit)
        with suppress(StoreError):
            self.require(commit.file, commit.file.size)

    def refuse(self, handle: FileHandle, error: StoreError) -> bool:
        """Bytes were not taken.  Whether the kernel is to be told that they were."""
        file = handle.file
        file.misled = True
        if handle.direct or error.code not in LIMITS:
            return False
        file.refused = error
        return True

    def report(self, file: File) -> None:
        """Raises what refused bytes of the file, if its writers were not told of it as they wrote."""
        if file.refused is not None:
            raise StoreError(file.refused.code, file.refused.message)

    def drop(self, file: File) -> None:
        """Memory lets go of the file."""
        self._give_back(file, *file.promised)
        file.promised = (0, 0)

    def _wanted(self, file: File, size: int) -> tuple[int, int]:
        if file.orphan:
            kept = file.base.size if file.base is not None and self.store.versioned(file.bucket.id) else 0
            return 0, max(0, size - kept)
        if file.create is not None or (file.base is None and not file.pending):
            return 1, size
        if file.begins and self.store.versioned(file.bucket.id):
            return 1, size
        return 0, file.links * max(0, size - file.charged)

    def _give_back(self, file: File, objects: int, size: int) -> None:
        if objects or size:
            self.store.unreserve(file.bucket.id, objects, size)
