"""Open files: one `File` per node that is open, dirty or being committed, and the handles on it.

A file's life in memory:

    clean ── write, truncate, chmod ──> dirty ── commit submitted ──> pending ── ticket settled ──> clean
                                          ^                              │
                                          └────────── write ─────────────┘

and a clean file leaves memory with its last close.

A file made by `create` has no committed node (`base` is None) until its first commit settles; until then only the
mount's own table of names shows it.  An orphan, whose last name is gone or never was, is not committed: its bytes live
as long as its handles.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from appliance import settings
from appliance.errors import Code, StoreError
from appliance.model import Attributes, BodyKind, Bucket, Entry, NewChunk, Node
from fusefs.dirty import Overlay
from fusefs.fastloop import Lock
from fusefs.inodes import ROOT
from fusefs.ownership import Ownership
from fusefs.places import Places
from fusefs.windows import Windows

if TYPE_CHECKING:
    from appliance.store import Ticket
    from fusefs.streams import Stream

log = logging.getLogger(__name__)


NOT_DIRTY: Final = -1.0


class Commit:
    """One submitted commit of one file."""

    __slots__ = (
        "again",
        "attributes",
        "carried",
        "chunks",
        "cut",
        "file",
        "makes",
        "promised",
        "size",
        "stood",
        "ticket",
        "token",
    )

    def __init__(
        self,
        file: File,
        token: int,
        ticket: Ticket,
        chunks: Sequence[NewChunk],
        *,
        cut: int | None,
        attributes: bool,
        makes: bool,
        size: int,
        promised: tuple[int, int],
    ) -> None:
        self.file = file
        self.chunks = chunks
        self.cut = cut
        self.attributes = attributes  # whether it has them
        self.again = False  # it failed, and what it carried is dirty again
        self.token = token
        self.ticket = ticket
        self.makes = makes  # the file's entry
        self.size = size  # that the file has after it
        self.promised = promised  # objects and bytes by its bucket's quota
        self.stood = False  # whether all of the file's before it were durable when it was submitted
        # bytes of small chunks that travel with the commit: in memory until it is settled
        self.carried = sum(len(chunk.data) for chunk in chunks)


class File:
    """What memory holds of one regular file.  Its attributes here are newer than the catalogue's."""

    __slots__ = (
        "atime_ns",
        "attributes",
        "attributes_changed",
        "base",
        "begins",
        "bucket",
        "building",
        "charged",
        "counted",
        "create",
        "ctime_ns",
        "cut",
        "dirty_since",
        "done",
        "early",
        "ended",
        "error",
        "gid",
        "grown",
        "inode",
        "lock",
        "made_ns",
        "misled",
        "mode",
        "mtime_ns",
        "name",
        "opens",
        "orphan",
        "overlay",
        "pending",
        "place",
        "promised",
        "refused",
        "scan_at",
        "size",
        "staged",
        "stays",
        "steady",
        "uid",
        "unsynced",
        "until",
        "windows",
        "writers",
        "written_ns",
    )

    def __init__(
        self, inode: int, bucket: Bucket, *, mode: int, uid: int, gid: int, now_ns: int, name: tuple[int, bytes] | None
    ) -> None:
        self.inode = inode
        self.bucket = bucket
        self.base: Node | None = None
        self.name = name  # (parent, catalogue name) while the mount's own table shows it
        self.create = name  # the same until the commit that makes the entry is submitted
        self.until = 0  # of that commit, if it failed once: what was made since is not replaced
        self.place = name  # where it was found last: its key, where keys have versions
        self.begins = True  # the next change of its bytes begins a version
        self.stays = -1  # the version that the last one to begin was to leave as it is
        self.done = True  # no writer has it, or its last one is closing: the bucket's retention begins
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = 0
        self.made_ns = now_ns
        self.atime_ns = self.mtime_ns = self.ctime_ns = now_ns
        self.attributes: Attributes | None = None
        self.attributes_changed = False
        self.overlay = Overlay()
        self.promised = (0, 0)  # objects and bytes that its next commit may add to its bucket (`promises`)
        self.building = 0  # the size that the commit being built gives it
        self.charged = 0  # the size that the last commit to be submitted gives it
        self.counted = 0  # of the overlay's memory, in the write-back's total
        self.cut: int | None = None  # the committed map ends here, not yet committed
        self.staged: list[NewChunk] = []  # on devices or ready for them, in no commit yet
        self.pending: deque[Commit] = deque()
        self.ended: list[int] = []  # tokens of commits that are settled, and whose bytes the overlay has still
        self.lock = Lock()  # one staging or commit at a time
        self.error: StoreError | None = None  # of a commit nobody has been told about
        self.refused: StoreError | None = None  # of bytes that the kernel's cache had: each fsync and close is told
        self.misled = False  # the kernel counts bytes in the file's size that were refused
        self.opens = 0
        self.writers = 0
        self.orphan = False
        self.dirty_since = NOT_DIRTY
        self.scan_at = 0
        self.written_ns = 0  # when the last write arrived
        self.unsynced = 0  # writes since the last fsync
        self.steady = 0  # fsyncs in a row that had one write each
        self.early: Ticket | None = None  # of what the next one is likely to want durable
        self.grown = 0  # bytes in large requests, since it was told that it grows (`prefetch`)
        self.windows: Windows | None = None  # of who reads it at random

    @classmethod
    def of_node(cls, node: Node, bucket: Bucket, ownership: Ownership) -> File:
        """A file that is in the catalogue.  If nobody has said whose it is, its first commit says what is shown."""
        mode, uid, gid = ownership.of(node)
        file = cls(node.id, bucket, mode=mode, uid=uid, gid=gid, now_ns=0, name=None)
        file.base = node
        file.size = file.charged = node.size
        file.atime_ns, file.mtime_ns, file.ctime_ns = node.atime_ns, node.mtime_ns, node.ctime_ns
        file.orphan = node.links == 0
        return file

    def rebase(self, node: Node) -> None:
        """The catalogue has another row of it: what was done to its names since is a change of the file too."""
        self.base = node
        self.ctime_ns = max(self.ctime_ns, node.ctime_ns)

    @property
    def dirty(self) -> bool:
        """Whether a commit is due."""
        return self.dirty_since != NOT_DIRTY

    def is_all_in(self, ticket: Ticket) -> bool:
        """Whether all of it that is not in the catalogue is in this commit, and those before it, of which none is known
        to have failed."""
        if self.dirty or self.lock.locked() or self.orphan or self.error or self.refused or not self.pending:
            return False
        return self.pending[-1].ticket is ticket and not self.has_failed and not self.pending[0].ticket.settled

    @property
    def has_failed(self) -> bool:
        """Whether a commit under way has failed, though nobody has taken that in yet.  The writer's thread says so
        before it says that a later one is durable."""
        for commit in reversed(self.pending):
            if commit.ticket.error is not None:
                return True
            if commit.stood:
                return False
        return False

    @property
    def links(self) -> int:
        """As the kernel is told."""
        if self.orphan:
            return 0
        return 1 if self.base is None else max(self.base.links, 1)

    @property
    def nameless(self) -> bool:
        """Whether it never had a name (O_TMPFILE): of such a file the store knows nothing."""
        return self.orphan and self.base is None and not self.pending

    @property
    def idle(self) -> bool:
        """Whether memory can let it go."""
        if self.opens or self.pending or self.lock.locked():
            return False
        return self.orphan or not (self.dirty or self.error)

    def require_key(self) -> None:
        """Raises ACCESS_DENIED for a file whose bytes only a customer's key opens (SSE-C): a mount has no keys."""
        if self.base is not None and self.base.customers:
            log.info("inode %d is encrypted with a customer's key: only S3 opens it", self.inode)
            raise StoreError(Code.ACCESS_DENIED, "the file is encrypted with a key that only its customer has")

    @property
    def sealed(self) -> bool:
        """Whether what is written to it is encrypted: its bucket says so, or it already is."""
        if self.bucket.settings and settings.ENCRYPTION in self.bucket.settings:
            return True
        return self.base is not None and self.base.sealed

    @property
    def takes_patches(self) -> bool:
        """Whether a small change of it goes the journal's short path: cheaper than a page, and folded once it rests."""
        return self.base is not None and self.base.kind in (BodyKind.CHUNK, BodyKind.MAP) and not self.sealed

    def as_submitted(self) -> dict[str, Any]:
        """What a commit says of it now, beside its bytes: arguments of the store's `submit_file`."""
        return {
            "node": self.inode,
            "create": self.create,
            "mode": self.mode,
            "uid": self.uid,
            "gid": self.gid,
            "atime_ns": self.atime_ns,
            "mtime_ns": self.mtime_ns,
            "ctime_ns": self.ctime_ns,
            "made_ns": self.made_ns,
            "attributes": self.attributes if self.attributes_changed else None,
            "place": self.place,
            "begins": self.begins,
            "stays": self.stays,
            "done": self.done,
            "until": self.until,
        }

    def current_attributes(self) -> Attributes:
        """What clients said, with what is not committed yet."""
        if self.attributes is not None:
            return self.attributes
        return Attributes() if self.base is None else self.base.attributes


class FileHandle:
    """One open(2).  `writable` handles commit when they are closed.  `direct`: reads and writes are the
    program's own, not the kernel cache's.  `ours`: it fetches what programs will read (`prefetch`).  `unseen`: reading
    by it is no access (O_NOATIME, open(2)).  `stream`: how it is read in order (`streams`)."""

    __slots__ = ("direct", "file", "ours", "stream", "unseen", "writable")

    def __init__(self, file: File, writable: bool, *, direct: bool, ours: bool = False, unseen: bool = False) -> None:
        self.file = file
        self.writable = writable
        self.direct = direct
        self.ours = ours
        self.unseen = ours or unseen
        self.stream: Stream | None = None


class DirectoryHandle:
    """One opendir(3): where it is in its directory, and what was read ahead (`listing`).

    `rest` holds entries read but not yet given; a change of any name or node makes them worthless (`epoch`), because
    the kernel caches the attributes that come with them.
    """

    __slots__ = (
        "after",
        "at",
        "bare",
        "begun",
        "bucket",
        "cold",
        "cookie",
        "directories",
        "epoch",
        "full",
        "inode",
        "node",
        "older",
        "pending",
        "places",
        "rest",
        "rows",
        "warmed",
        "whole",
    )

    def __init__(self, inode: int, bucket: int, node: Node | None, places: Places) -> None:
        self.inode = inode
        self.node = node  # as it was opened: what is told of it when it is there no longer; None of the root
        self.bucket = bucket
        self.places = places  # shared with the directory's other handles
        self.older: list[tuple[bytes, str]] = []  # the same, of a directory of older versions (`past`)
        self.cookie = 0  # of what was given last
        self.after: bytes | None = None  # its row name (a directory's ends with "/")
        self.begun = False
        self.cold = False  # for the last reply the disk had to be waited for, here or in the thread that read it before
        self.warmed = 0  # bytes that this has read from the disk for the next
        self.pending: list[tuple[bytes, File]] = []  # uncommitted files by name, as of the first read
        self.rest: list[Entry] = []
        self.rows: list[bytes] = []  # their row names
        self.at = 0  # the next of `rest`
        self.directories: set[bytes] = set()  # names of those in `rest`
        self.full = 0  # entries given with attributes, since the beginning
        self.bare = 0  # without
        self.whole = False  # `rest` reaches to the end of the directory
        self.epoch = -1

    @property
    def parent(self) -> int:
        """The inode of ".."."""
        return ROOT if self.node is None else self.node.ref or ROOT
