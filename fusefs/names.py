"""From inode and name to what is there: the catalogue's entries with the uncommitted files over them.

In one directory a directory is found before a file of the same name; `tree` says which mount name means which.  All of
it is plain functions: what a handler finds and what it answers are one moment (H4, H5).
"""

from __future__ import annotations

import errno
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pyfuse3 import EntryAttributes, FUSEError, ModeT

from appliance.authority import Action
from appliance.errors import Code, StoreError
from appliance.limits import NAME_MAX
from appliance.model import MARKER, Bucket, Entry, Node
from fusefs import attributes, past, tree
from fusefs.attributes import type_shown
from fusefs.handles import File
from fusefs.inodes import PAST, ROOT, Inodes
from fusefs.past import Past
from fusefs.pending import Pending
from fusefs.permits import Permits
from fusefs.writeback import WriteBack

if TYPE_CHECKING:
    from appliance.store import ObjectStore

SCAN_STEP: Final = 256  # entries per call of the store
ROOTS_OWN: Final = (0, 0)


class Names:
    """The mount's name space."""

    def __init__(
        self, store: ObjectStore, inodes: Inodes, files: WriteBack, pending: Pending, permits: Permits
    ) -> None:
        self.store = store
        self.pending = pending
        self.permits = permits
        self.inodes = inodes
        self.files = files
        self.past = Past(store, inodes, files.ownership)
        self.bare: dict[int, int] = {}  # directories whose names were given bare -> lookups in them since (`listing`)
        self.root = ROOTS_OWN  # the user and group to whom root's files are shown to belong

    def belong(self, uid: int, gid: int) -> None:
        """Root's files are shown to belong to this user and group."""
        self.root = self.past.root = (uid, gid)

    # ------------------------------------------------------------------ finding
    def find(self, parent: int, name: bytes) -> Entry | File | None:
        """What the mount's `name` is in `parent`.  ENAMETOOLONG: the kernel's own bound for FUSE is wider than ours."""
        if len(name) > NAME_MAX:
            raise FUSEError(errno.ENAMETOOLONG)
        if parent == ROOT:
            bucket = self.bucket_named(name)
            return None if bucket is None else Entry(name, True, self.pending.node(bucket.root))
        if parent in self.past:
            return self.past.find(parent, name)
        if name == past.NAME:
            return self._entrance(parent)
        target = tree.from_mount(name)
        if target is None:
            return None
        if isinstance(target, tree.Digest):
            stored = self._find_digest(parent, name, target)
            if stored is None:
                return None
        else:
            stored = target.name
        directory = self.pending.entry(parent, stored, True)
        if directory is not None and not target.shadowed:
            return directory
        if directory is None and target.shadowed:
            return None
        uncommitted = self.files.names.get(parent)
        if uncommitted is not None and stored in uncommitted:
            return uncommitted[stored]
        return self.pending.entry(parent, stored, False)

    def _entrance(self, parent: int) -> Entry | None:
        """To the older versions, from the root of a bucket that has them."""
        if not self.store.versioned(self.bucket_id(parent)):
            return None
        bucket = self.bucket_of(parent)
        return self.past.entrance(bucket) if parent == bucket.root else None

    def existing(self, parent: int, name: bytes) -> Entry | File:
        """The same, of what is about to be removed or moved.  ENOENT, EROFS."""
        if name == past.NAME:
            raise FUSEError(errno.EROFS)
        found = self.find(parent, name)
        if found is None:
            raise FUSEError(errno.ENOENT)
        return found

    def new(self, parent: int, name: bytes, *, absent: bool = False) -> bytes:
        """The catalogue's name for what is about to be made as `name`.  EPERM in the root, EINVAL for a reserved name,
        EEXIST, ENAMETOOLONG.

        `absent`: the caller has looked and found nothing.  Looking twice might see two moments, a commit of the other
        door between them, and answer EEXIST to a program that never asked for it."""
        if len(name) > NAME_MAX:
            raise FUSEError(errno.ENAMETOOLONG)
        if parent == ROOT:
            raise FUSEError(errno.EPERM)
        if parent in self.past:
            raise FUSEError(errno.EROFS)
        target = tree.from_mount(name)
        if not isinstance(target, tree.Name):
            raise FUSEError(errno.EINVAL)
        if not absent and self.find(parent, name) is not None:
            raise FUSEError(errno.EEXIST)
        if target.shadowed and self.pending.entry(parent, target.name, True) is None:
            raise FUSEError(errno.EINVAL)
        return target.name

    def check_empty(self, directory: int) -> None:
        """ENOTEMPTY."""
        if self.files.names.get(directory) or self.pending.entries(directory, None, 1):
            raise FUSEError(errno.ENOTEMPTY)

    def _find_digest(self, parent: int, alias: bytes, target: tree.Digest) -> bytes | None:
        after = (target.start, False)
        while True:
            entries = self.pending.entries(parent, after, SCAN_STEP)
            for entry in entries:
                if not entry.name.startswith(target.start):
                    return None
                if tree.digest(entry.name) == target.digest and tree.to_mount(entry.name, target.shadowed) == alias:
                    return entry.name
            if len(entries) < SCAN_STEP:
                return None
            after = (entries[-1].name, entries[-1].directory)

    # ------------------------------------------------------------------ by number
    def node(self, inode: int) -> Node:
        """ESTALE when it is gone: the kernel then looks the name up again."""
        if inode in self.past:
            return self.past.node(inode)
        try:
            return self.pending.node(inode)
        except StoreError as error:
            if error.code is Code.NO_SUCH_NODE:
                raise FUSEError(errno.ESTALE) from None
            raise

    def file(self, found: Entry | File | None) -> File | None:
        """The file in memory that was found, if it is one and is there."""
        if isinstance(found, Entry):
            return None if found.directory else self.files.get(found.node.id)
        return found

    def bucket_id(self, inode: int) -> int:
        """The bucket that an inode is in.  ESTALE."""
        bucket = self.inodes.bucket(inode)
        if bucket is None:
            raise FUSEError(errno.ESTALE)
        return bucket

    def bucket_of(self, inode: int) -> Bucket:
        """The same, whole.  ESTALE when it was deleted."""
        return self.bucket_numbered(self.bucket_id(inode))

    def bucket_numbered(self, number: int | None) -> Bucket:
        """A bucket by its id.  ESTALE when it was deleted."""
        for bucket in self.store.buckets():
            if bucket.id == number:
                return bucket
        raise FUSEError(errno.ESTALE)

    def bucket_named(self, name: bytes) -> Bucket | None:
        """The bucket shown as `name`."""
        try:
            bucket = self.store.bucket(name.decode("ascii"))
        except (UnicodeDecodeError, StoreError):
            return None
        return bucket if self.permits.allows(Action.MOUNT_READ, bucket) else None

    def require_current(self, inode: int) -> tuple[int, bytes] | None:
        """Where a file is, as far as that was noted.  Where keys have versions, ESTALE when its name leads to another
        now: what the number means is an older version, which nobody must write to.  Elsewhere it may have others."""
        place = self.inodes.place(inode)
        if place == PAST:
            return None
        if place is not None:
            entry = self.pending.entry(*place, False)
            if entry is None or entry.node.id != inode:
                if self.store.versioned(self.bucket_id(inode)):
                    raise FUSEError(errno.ESTALE)
                return None
        return place

    def require_present(self, inode: int) -> None:
        """EROFS for an older version, and for the directories of such."""
        if inode in self.past or self.inodes.place(inode) == PAST:
            raise FUSEError(errno.EROFS)

    # ------------------------------------------------------------------ without a name (NFS)
    def home(self, inode: int) -> int:
        """The bucket of an inode that the kernel does not know (any more).  ESTALE."""
        file = self.files.get(inode)
        return self.node(inode).bucket if file is None else file.bucket.id

    async def again(self, inode: int) -> EntryAttributes:
        """The answer to a lookup of ".": an inode by its number alone.  ESTALE for one that is gone: no number is ever
        used again.  Where keys have versions its key is looked for, as only a current version has one."""
        if inode in self.past:
            node = self.past.node(inode)
            self.past.known(node, self.bucket_id(inode))
            return self.past.told(node)
        bucket = self.home(inode)
        file, place = self.files.get(inode), self.inodes.place(inode)
        if file is not None:
            place = place or file.name or file.place
        elif place is None and self.store.versioned(bucket) and stat.S_ISREG(self.node(inode).mode):
            place = await self.store.place_of(inode) or PAST
        found = self.files.get(inode) or self.node(inode)  # as it is after that wait
        if isinstance(found, Node) and found.flags & MARKER:  # no file, and under no name of the mount's
            raise FUSEError(errno.ESTALE)
        if (found.orphan if isinstance(found, File) else not found.links) and inode not in self.inodes:
            raise FUSEError(errno.ESTALE)
        self.inodes.looked_up(inode, bucket)
        if place is not None:
            self.inodes.placed(inode, place)
        return self.attributes(self.files.get(inode) or self.node(inode))

    def parent(self, inode: int) -> int:
        """The inode of ".." of a directory.  ESTALE for what is none."""
        if inode == ROOT:
            return ROOT
        node = self.node(inode)
        if not stat.S_ISDIR(node.mode) or inode in self.past:
            raise FUSEError(errno.ESTALE)
        return node.ref or ROOT

    # ------------------------------------------------------------------ answering
    def attributes(self, found: File | Node) -> EntryAttributes:
        """What the kernel is told of a file or node."""
        return attributes.answer(self.shown(found))

    def shown(self, found: File | Node) -> type_shown:
        """The same, as numbers."""
        if isinstance(found, File):
            shown = attributes.of_file(self.store, found)
        else:
            shown = attributes.of_node(self.store, found, self.files.ownership)
            read = self.files.times.read
            if found.id in read:
                shown = (*shown[:7], read[found.id], *shown[8:])
            if stat.S_ISDIR(shown[1]):
                shown = (*shown[:8], *self.changed_ns(found), 0)
        return self.owned(shown)

    def owned(self, shown: type_shown) -> type_shown:
        """What is root's belongs to whom the mount says."""
        if self.root == ROOTS_OWN:
            return shown
        return (*shown[:2], shown[2] or self.root[0], shown[3] or self.root[1], *shown[4:])

    def overlaid(self, inodes: Sequence[int]) -> set[int]:
        """Those of which memory knows more than the catalogue."""
        times = self.files.times
        known: set[int] = set()
        for newer in (self.files.files, self.pending.nodes, times.read, times.changed, self.files.names):
            if newer:
                known |= newer.keys() & inodes
        return known

    def changed_ns(self, directory: Node) -> tuple[int, int]:
        """(mtime, ctime): what memory knows of its names is newer than the catalogue."""
        latest = self.files.times.changed.get(directory.id, 0)
        uncommitted = self.files.names.get(directory.id)
        if uncommitted:
            latest = max(latest, next(reversed(uncommitted.values())).made_ns)
        return (latest, latest) if latest > directory.ctime_ns else (directory.mtime_ns, directory.ctime_ns)

    def told(self, inode: int) -> EntryAttributes:
        """The answer to getattr and setattr."""
        answer = self.attributes(self.files.get(inode) or self.node(inode))
        if self.inodes.place(inode) == PAST:  # nobody may write it, as long as it is not what its key is
            answer.st_mode = ModeT(answer.st_mode & ~0o222)
        self.inodes.attributes_given(inode)
        return answer

    def looked_up(self, parent: int, found: Entry | File) -> EntryAttributes:
        """The answer to a lookup, which the kernel counts."""
        if parent == ROOT:
            assert isinstance(found, Entry)
            bucket = self.bucket_named(found.name)
            if bucket is None:  # S3 deleted it since it was made here
                raise FUSEError(errno.ENOENT)
            self.inodes.looked_up(found.node.id, bucket.id)
            answer = self.attributes(found.node)
            return answer
        if isinstance(found, Entry) and (parent in self.past or found.node.id in self.past):
            self.past.known(found.node, self.bucket_id(parent))
            return self.past.told(found.node)
        if parent in self.bare:
            self.bare[parent] += 1
        file = self.file(found)
        if file is not None:
            self.known(parent, file.inode, found)
            return self.attributes(file)
        assert isinstance(found, Entry)
        self.known(parent, found.node.id, found)
        return self.attributes(found.node)

    def is_placed(self, bucket: int) -> bool:
        """Whether it is noted where an inode was found."""
        return self.store.versioned(bucket) or self.store.limited(bucket)

    def known(self, parent: int, inode: int, found: Entry | File) -> None:
        """The kernel counts a lookup of it.  Where keys have versions its name is noted, because a version needs its
        key; where a quota may refuse what the kernel has, so that it can be made to forget the file."""
        bucket = self.bucket_id(parent)
        self.inodes.looked_up(inode, bucket)
        if self.is_placed(bucket):
            if isinstance(found, Entry):
                self.inodes.placed(inode, (parent, found.name))
            elif found.name is not None:
                self.inodes.placed(inode, found.name)


def bucket_name(name: bytes) -> str:
    """A bucket's name from a directory's.  EINVAL."""
    try:
        return name.decode("ascii")
    except UnicodeDecodeError:
        raise FUSEError(errno.EINVAL) from None
