"""Changes as data: every change of the catalogue is one of these frozen structs, complete before it is submitted.

A command holds its own times and names; `apply.apply(tx, command)` is a plain, deterministic function of it and the
state.
So commands can be batched, simulated, and sent from another process.
"""

from __future__ import annotations

from collections.abc import Sequence

from appliance.model import AccessKey, Body, Frozen, NewChunk, NewSlice, Precondition, SharedRange, User, WrappedKey


class Command(Frozen, frozen=True):
    """Any of the below."""

    @property
    def new_chunks(self) -> tuple[NewChunk, ...]:
        """Chunks whose reservations are this command's to commit or lose."""
        return ()

    @property
    def changed_keys(self) -> tuple[tuple[int, bytes], ...]:
        """(root of the bucket, key) of what S3 changes by it; of a bucket (0, name)."""
        return ()


class Refused(Command, frozen=True, kw_only=True):
    """What there is no room for: fails in its turn, and what it reserved is given back."""

    command: Command

    @property
    def new_chunks(self) -> tuple[NewChunk, ...]:
        return self.command.new_chunks


class CreateBucket(Command, frozen=True, kw_only=True):
    name: str
    project: str
    owner: str
    copies: int
    etag: str
    now_ns: int
    settings: dict[str, bytes] = {}

    @property
    def changed_keys(self) -> tuple[tuple[int, bytes], ...]:
        return ((0, self.name.encode()),)


class DeleteBucket(Command, frozen=True, kw_only=True):
    name: str
    now_ns: int

    @property
    def changed_keys(self) -> tuple[tuple[int, bytes], ...]:
        return ((0, self.name.encode()),)


class PutObject(Command, frozen=True, kw_only=True):
    bucket: int
    root: int
    copies: int
    key: bytes
    body: Body
    etag: str
    packed: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int
    flags: int
    now_ns: int
    label: bytes
    precondition: Precondition | None

    @property
    def new_chunks(self) -> tuple[NewChunk, ...]:
        return self.body.chunks

    @property
    def changed_keys(self) -> tuple[tuple[int, bytes], ...]:
        return ((self.root, self.key),)


class CopyObject(Command, frozen=True, kw_only=True):
    source: int  # node
    generation: int  # of the source as it was read: another state is NO_SUCH_KEY
    bucket: int
    root: int
    copies: int
    key: bytes
    packed: bytes | None  # None keeps the source's
    posix: tuple[int, int, int, int, int, int]  # mode uid gid mtime atime flags
    now_ns: int
    label: bytes
    precondition: Precondition | None

    @property
    def changed_keys(self) -> tuple[tuple[int, bytes], ...]:
        return ((self.root, self.key),)


class DeleteObject(Command, frozen=True, kw_only=True):
    bucket: int
    root: int
    key: bytes
    now_ns: int
    precondition: Precondition | None
    version_id: str = ""  # this version for good; empty: the key, by a delete marker where the bucket has versions
    packed: bytes = b""  # Attributes of the delete marker: who made it
    lock_ns: int = 0  # retentions that ended before are over
    bypass: bool = False  # overrules GOVERNANCE

    @property
    def changed_keys(self) -> tuple[tuple[int, bytes], ...]:
        return ((self.root, self.key),)


class RenameObject(Command, frozen=True, kw_only=True):
    bucket: int
    root: int
    key: bytes
    source: int  # node, and its generation as it was read: another state is NO_SUCH_NODE
    generation: int
    new_key: bytes
    now_ns: int
    precondition: Precondition | None  # of what is at the new key
    lock_ns: int = 0

    @property
    def changed_keys(self) -> tuple[tuple[int, bytes], ...]:
        return ((self.root, self.key), (self.root, self.new_key))


class CreateUpload(Command, frozen=True, kw_only=True):
    id: str
    bucket: int
    key: bytes
    owner: str
    packed: bytes
    checksum_algorithm: str
    checksum_type: str
    now_ns: int


class PutPart(Command, frozen=True, kw_only=True):
    upload: str
    number: int
    body: Body
    copies: int
    etag: str
    checksum_algorithm: str
    checksum: bytes
    now_ns: int
    label: bytes

    @property
    def new_chunks(self) -> tuple[NewChunk, ...]:
        return self.body.chunks


class CopyPart(Command, frozen=True, kw_only=True):
    upload: str
    number: int
    source: int
    generation: int
    start: int
    length: int
    copies: int
    etag: str
    now_ns: int
    label: bytes
    checksum_algorithm: str = ""  # of the copied range, where the door knows it
    checksum: bytes = b""


class CompleteUpload(Command, frozen=True, kw_only=True):
    upload: str
    root: int
    key: bytes  # the upload's
    parts: Sequence[tuple[int, str]]
    etag: str
    packed: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int
    flags: int
    now_ns: int
    precondition: Precondition | None

    @property
    def changed_keys(self) -> tuple[tuple[int, bytes], ...]:
        return ((self.root, self.key),)


class AbortUpload(Command, frozen=True, kw_only=True):
    upload: str


class MakeDirectory(Command, frozen=True, kw_only=True):
    parent: int
    name: bytes  # without "/"
    mode: int
    uid: int
    gid: int
    now_ns: int
    packed: bytes = b""  # Attributes
    node: int = 0  # its number, if it was taken before


class RemoveDirectory(Command, frozen=True, kw_only=True):
    parent: int
    name: bytes
    now_ns: int
    lock_ns: int = 0


class MakeSpecial(Command, frozen=True, kw_only=True):
    """A symbolic link, FIFO, socket or device: what the mount alone knows."""

    parent: int
    name: bytes
    mode: int  # with its type
    uid: int
    gid: int
    now_ns: int
    target: bytes = b""  # of a symbolic link
    node: int = 0  # its number, if it was taken before
    rdev: int = 0  # of a device
    packed: bytes = b""  # Attributes


class MakeLink(Command, frozen=True, kw_only=True):
    node: int
    parent: int
    name: bytes
    now_ns: int


class Unlink(Command, frozen=True, kw_only=True):
    parent: int
    name: bytes
    now_ns: int
    lock_ns: int = 0
    until: int = 0  # tried again: what was made since, with a number from here on, is not meant; 0: it may be


class Rename(Command, frozen=True, kw_only=True):
    parent: int
    name: bytes
    directory: bool
    new_parent: int
    new_name: bytes
    now_ns: int
    replace: bool
    exchange: bool
    lock_ns: int = 0
    until: int = 0  # as `Unlink`'s


class SetAttributes(Command, frozen=True, kw_only=True):
    node: int
    now_ns: int
    mode: int | None
    uid: int | None
    gid: int | None
    atime_ns: int | None
    mtime_ns: int | None
    packed: bytes | None
    lock_ns: int = 0


class SetTimes(Command, frozen=True, kw_only=True):
    """What the mount kept in memory of times: never a version, never another LastModified."""

    times: tuple[tuple[int, int, int], ...]  # (node, when it was read, when a directory changed), 0 for neither


class WriteFile(Command, frozen=True, kw_only=True):
    node: int
    create: tuple[int, bytes] | None
    bucket: int
    copies: int
    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    now_ns: int
    size: int
    cut: int | None
    chunks: tuple[NewChunk, ...]
    slices: tuple[NewSlice, ...]
    packed: bytes | None
    etag: str  # fresh and opaque: taken when the bytes change
    label: bytes
    place: tuple[int, bytes] | None = None  # where the file was found: its key, in a bucket with versions
    begins: bool = False  # a new version, in a bucket with versions: the first change since it was opened
    stays: int = -1  # the version that the first change left behind, or would have, had it not failed
    lock_ns: int = 0  # retentions that ended before are over
    ctime_ns: int = 0  # of the last change; 0: `now_ns`
    made_ns: int = 0  # of the name that is made; 0: `now_ns`
    retention_mode: str = ""  # of the bucket's default, when the writer is done
    retain_until_ns: int = 0
    promised: tuple[int, int] = (0, 0)  # objects and bytes that the quota was asked for when they were written
    until: int = 0  # as `Unlink`'s: of what the new name replaces
    punched: tuple[tuple[int, int], ...] = ()  # [from, to) of what became holes; apart from each other and the slices

    @property
    def new_chunks(self) -> tuple[NewChunk, ...]:
        return self.chunks


class CopyRange(Command, frozen=True, kw_only=True):
    """copy_file_range(2): the chunks of the range get one reference more; no byte is read."""

    change: WriteFile  # without chunks; punches the range
    shared: SharedRange

    @property
    def bucket(self) -> int:
        """Of the file that is changed."""
        return self.change.bucket


class FoldMap(Command, frozen=True, kw_only=True):
    """The same bytes in another chunk (catalogue/folding.py)."""

    map: int
    before: tuple[NewSlice, ...]  # as they were read, in order
    chunk: NewChunk
    slices: tuple[NewSlice, ...]  # of `chunk`; each has the bytes of the slices of `before` that it covers
    copies: int
    label: bytes

    @property
    def new_chunks(self) -> tuple[NewChunk, ...]:
        return (self.chunk,)


class Reap(Command, frozen=True, kw_only=True):
    """Nobody holds the node any more: if it is unlinked (or an empty implied directory) it goes."""

    node: int
    now_ns: int


class PutAccessKey(Command, frozen=True, kw_only=True):
    key: AccessKey
    replaces: bool = False  # one that must still be there


class RemoveAccessKey(Command, frozen=True, kw_only=True):
    id: str


class SetBucketSetting(Command, frozen=True, kw_only=True):
    bucket: int
    name: str
    body: bytes | None  # None takes it away


class KeepTime(Command, frozen=True, kw_only=True):
    """The time by which retentions end is at least this one, also after a restart."""

    seen_ns: int


class PutUser(Command, frozen=True, kw_only=True):
    user: User


class RemoveUser(Command, frozen=True, kw_only=True):
    id: str


class PutDataKeys(Command, frozen=True, kw_only=True):
    keys: tuple[WrappedKey, ...]


class ChangeAttributes(Command, frozen=True, kw_only=True):
    """What is said about an object, not its bytes: tags, ACL, retention."""

    node: int
    version: int  # and `packed` as they were read: another state is CONFLICT
    before: bytes
    packed: bytes
    now_ns: int
