"""The nouns: what the store hands to its doors and takes from them.  All are frozen; none knows where it came from.

Keys and names are bytes: a key is the UTF-8 of S3's string, a name is one path segment as the kernel gives it.  Times
are
integer nanoseconds since the epoch.  An ETag is kept without its quotes.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec

from appliance import posix


class Frozen(msgspec.Struct, frozen=True, gc=False):
    """A plain value."""


class BodyKind(enum.IntEnum):
    """Where a node's bytes are."""

    EMPTY = 0  # no bytes at all (or only a hole)
    INLINE = 1  # in the node's own row
    CHUNK = 2  # all of one chunk
    MAP = 3  # slices of a map


class Bucket(Frozen, frozen=True):
    """One bucket.  `root` is the node of its top directory; `copies` of every body go to different devices."""

    id: int
    project: str
    name: str
    created_ns: int
    root: int
    owner: str
    copies: int = 1
    etag: str = "md5"  # or "fast": an opaque ETag where clients send checksums
    settings: dict[str, bytes] = {}  # appliance/settings.py: documents as they were stored; most buckets have none

    @property
    def label(self) -> bytes:
        """The name as the mount shows it."""
        return self.name.encode()


class Checksum(Frozen, frozen=True):
    """A client-visible checksum (not the engine's own).  `value` raw bytes; `parts` > 0 for a COMPOSITE one."""

    algorithm: str  # CRC32 CRC32C CRC64NVME SHA1 SHA256
    value: bytes
    composite: bool = False


class User(Frozen, frozen=True):
    """Who owns buckets and keys.  `id` is S3's canonical user id: what every owner field holds."""

    id: str
    name: str  # unique; what a policy's ARN says
    display: str
    email: str
    created_ns: int


class Grant(Frozen, frozen=True):
    """One line of an access control list (S3 API, "Grant")."""

    permission: str  # READ WRITE READ_ACP WRITE_ACP FULL_CONTROL
    user: str = ""  # a canonical id
    group: str = ""  # or one of S3's groups, by its URI


AES256: Final = "AES256"  # Attributes.sse
SSE_C: Final = "SSE-C"
_AES256: Final = AES256.encode()
_SSE_C: Final = SSE_C.encode()


class Attributes(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, array_like=False):
    """What a client said about an object: stored, returned, never interpreted by the engine."""

    content_type: str = ""
    cache_control: str = ""
    content_disposition: str = ""
    content_encoding: str = ""
    content_language: str = ""
    expires: str = ""
    storage_class: str = ""
    website_redirect: str = ""
    user: dict[str, str] = {}  # x-amz-meta-*, names lower case without the prefix
    xattrs: dict[str, bytes] = {}  # user.* attributes set through the mount
    checksum: Checksum | None = None
    parts: tuple[int, ...] = ()  # sizes of the parts of a multipart object
    part_checksums: tuple[bytes, ...] = ()  # of the same parts, in `checksum`'s algorithm; none if any part had none
    owner: str = ""  # a user's id; empty: the bucket's owner
    tags: dict[str, str] = {}
    acl: tuple[Grant, ...] = ()  # empty: the owner may everything, nobody else anything
    retention_mode: str = ""  # GOVERNANCE or COMPLIANCE
    retain_until_ns: int = 0
    legal_hold: str = ""  # ON or OFF, once it was said
    sse: str = ""  # AES256 (the box's keys) or SSE_C
    sse_verifier: bytes = b""  # of SSE-C: salt and a digest by which the customer's key is known again


NO_ATTRIBUTES: Final = Attributes()


class Node(Frozen, frozen=True):
    """A file, directory, symbolic link or special file.  Ids are never reused.

    `mode` is the whole st_mode.  `mtime_ns` is the file's own (rclone's `mtime` metadata and the mount's are one);
    `written_ns` is when the bytes or metadata were last committed: S3's LastModified.  `generation` rises at each
    commit.
    """

    id: int
    mode: int
    uid: int
    gid: int
    links: int  # a directory's: 2 and its subdirectories
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    written_ns: int
    generation: int
    etag: str
    kind: int  # BodyKind
    ref: int  # the chunk or the map; a device's number
    data: bytes  # inline bytes, or a symlink's target
    flags: int
    packed: bytes  # Attributes in MessagePack: decoded only by who needs them
    bucket: int = 0
    dsum: bytes = b""  # vouches for inline bytes
    version: int = 0  # orders the versions of a key; 0: written while its bucket had no versions

    @property
    def version_id(self) -> str:
        """S3's name of this version."""
        return version_id(self.version, self.flags)

    @property
    def customers(self) -> bool:
        """Whether only a customer's key opens the bytes (SSE-C).  A look at the packed bytes tells for most nodes."""
        return _SSE_C in self.packed and unpack_attributes(self.packed).sse == SSE_C

    @property
    def sealed(self) -> bool:
        """Whether the box's keys encrypt the bytes (SSE-S3)."""
        return _AES256 in self.packed and unpack_attributes(self.packed).sse == AES256

    @property
    def attributes(self) -> Attributes:
        """What the client said, with the POSIX metadata that rclone and s3fs keep brought up to date."""
        attributes = unpack_attributes(self.packed)
        if not self.flags & TIMED:
            return attributes
        user = posix.shown(
            attributes.user,
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            mtime_ns=self.mtime_ns,
            atime_ns=self.atime_ns,
        )
        return attributes if user == attributes.user else msgspec.structs.replace(attributes, user=user)


# Node.flags
IMPLIED: Final = 1  # a directory that exists only because keys lie below it
TIMED: Final = 2  # its mtime was said by somebody (a client's metadata, the mount): shown as `mtime` metadata
NULL_VERSION: Final = 4  # written while versioning was suspended: its id is "null" whatever its number
UNOWNED: Final = 16  # neither its owner nor its mode was said by anybody: a mount decides what it shows
MARKER: Final = 8  # no object but a delete marker: only in the version table

NULL_VERSION_ID: Final = "null"


def version_id(version: int, flags: int) -> str:
    """A version's number as S3's opaque VersionId (S3 User Guide, "How S3 Versioning works")."""
    return NULL_VERSION_ID if not version or flags & NULL_VERSION else f"{version:016x}"


def version_number(text: str) -> int | None:
    """The reverse; 0 for "null", None for what no version was ever called."""
    if text == NULL_VERSION_ID:
        return 0
    if len(text) != 16 or not set(text) <= set("0123456789abcdef"):
        return None
    return int(text, 16) or None


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Attributes)


def pack_attributes(attributes: Attributes) -> bytes:
    """MessagePack of the attributes; empty for none."""
    return b"" if attributes == NO_ATTRIBUTES else _encoder.encode(attributes)


def unpack_attributes(packed: bytes) -> Attributes:
    """The reverse of `pack_attributes`."""
    return _decoder.decode(packed) if packed else NO_ATTRIBUTES


CUSTOMER: Final = -1  # `DataKey.id` of a key that its customer keeps: it is nowhere stored


class DataKey(Frozen, frozen=True):
    """What encrypts chunks: 32 bytes that no `repr` shows.  `id` > 0 names the row that has it wrapped."""

    id: int
    secret: bytes

    def __repr__(self) -> str:
        return f"DataKey({self.id})"


class WrappedKey(Frozen, frozen=True):
    """A data key as the catalogue has it: under the box's master key."""

    id: int
    wrapped: bytes
    created_ns: int


class NewPage(Frozen, frozen=True):
    """A page that is on a device but not yet in the catalogue."""

    device: int
    offset: int
    length: int  # bytes of the extent, header included
    index: int  # which part of the chunk's payload
    copy: int
    hsum: bytes  # first 16 bytes of the header's digest


class NewChunk(Frozen, frozen=True):
    """A chunk to be committed: either `data` (gathered into the batch's write) or `pages` already written.

    With a `key` its pages are encrypted; `data` is still in clear, and is sealed as it is gathered.
    """

    id: int
    length: int
    data: bytes = b""
    pages: tuple[NewPage, ...] = ()
    covered: bool = False  # its pages were flushed before the commit: recovery need not verify them
    key: DataKey | None = None


class SharedRange(Frozen, frozen=True):
    """Bytes [start, start + length) of the node `source`, for a file to have at `offset`.  `sealed`: only encrypted."""

    source: int
    start: int
    offset: int
    length: int
    sealed: bool


class NewSlice(Frozen, frozen=True):
    """`length` bytes at `offset` of the object are bytes `start…` of chunk `chunk`."""

    offset: int
    length: int
    chunk: int
    start: int = 0


class Body(Frozen, frozen=True):
    """The whole content of a new object.

    Exactly one of: nothing (`size` 0), `inline` bytes, `chunks` with their `slices`.  A Body made by an Ingest owns
    reservations: hand it to one commit or forfeit it.
    """

    size: int
    inline: bytes = b""
    chunks: tuple[NewChunk, ...] = ()
    slices: tuple[NewSlice, ...] = ()


EMPTY_BODY: Final = Body(0)


class Precondition(Frozen, frozen=True):
    """Conditional write or delete, checked inside the commit (S3 API, "Conditional requests").

    `if_match` / `if_none_match`: an ETag without quotes, or "*".  A missing object under `if_match` is NO_SUCH_KEY.
    """

    if_match: str | None = None
    if_none_match: str | None = None
    if_size: int | None = None
    if_written_ns: int | None = None  # compared by whole seconds
    noncurrent: bool = False  # of a version to be deleted: what the key is now fails


class Written(Frozen, frozen=True):
    """What a commit made."""

    node: int
    etag: str
    size: int
    written_ns: int
    version_id: str = ""  # empty unless the bucket's versions are enabled: a null version replaced its like
    generation: int = 0  # of a mounted file's node
    grown: int | None = None  # how many bytes of its map are less of a hole than before, where that was counted
    map: int = 0  # if its bytes are in one, and changed there
    patched: int = 0  # bytes that took the journal's short path


class Deleted(Frozen, frozen=True):
    """What a deletion by key did (S3 API, "DeleteObject")."""

    found: bool  # something was there
    version_id: str = ""  # of what was removed, or of the delete marker that was made; empty without versions
    marker: bool = False  # a delete marker was made or removed


class Deletion(Frozen, frozen=True):
    """One of several deletions: a key, or with `version_id` one version of it."""

    key: bytes
    version_id: str = ""
    precondition: Precondition | None = None


class ListedVersion(Frozen, frozen=True):
    """One version or delete marker of a listing."""

    key: bytes
    version_id: str
    latest: bool
    marker: bool
    size: int
    etag: str
    written_ns: int
    storage_class: str
    owner: str  # empty: the bucket's
    checksum: str = ""  # its algorithm


class VersionPage(Frozen, frozen=True):
    """One page of ListObjectVersions: by key, newest first."""

    versions: list[ListedVersion]
    prefixes: list[bytes]
    truncated: bool
    next_key: bytes
    next_version: str


class Listed(Frozen, frozen=True):
    """One key of a listing."""

    key: bytes
    size: int
    etag: str
    written_ns: int
    storage_class: str
    checksum: str = ""  # its algorithm
    owner: str = ""  # empty: the bucket's


class Page(Frozen, frozen=True):
    """One page of a listing, in key order.  `next` is where the following page starts: give it back as `after`."""

    objects: list[Listed]
    prefixes: list[bytes]
    truncated: bool
    next: bytes


type_shown_row = tuple[bytes, int, int, int, int, int, int, int, int, int, int, int, int]
"""A row name (a directory's ends with "/"), then of its node: id, mode, owner, group, links, size, kind, the times of
access, of change and of change of the inode, and flags; the entry's sum.  The id is 0 where the row is damaged: then it
is a name and no more."""

type_named_row = tuple[bytes, int, int, int]
"""A row name, its node's id and mode, of which a file's and a directory's is the type alone; the entry's sum.  The id
is 0 where the row is damaged."""


class Entry(Frozen, frozen=True):
    """One name in a directory as the catalogue has it.  `name` lacks the trailing slash of a directory's row.

    Of a `damaged` one nobody knows where it leads, and `node` says nothing: it is only listed (`LOST`)."""

    name: bytes
    directory: bool
    node: Node
    damaged: bool = False


LOST: Final = Node(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, "", 0, 0, b"", 0, b"")
"""The node of an entry that is damaged."""


class Upload(Frozen, frozen=True):
    """A multipart upload in progress."""

    id: str
    bucket: int
    key: bytes
    created_ns: int
    owner: str
    packed: bytes  # Attributes
    checksum_algorithm: str = ""
    checksum_type: str = ""  # COMPOSITE or FULL_OBJECT

    @property
    def attributes(self) -> Attributes:
        """What the client said at the start."""
        return unpack_attributes(self.packed)


class Part(Frozen, frozen=True):
    """One uploaded part.  `checksums` maps algorithm to raw value."""

    number: int
    size: int
    etag: str
    written_ns: int
    checksum: Checksum | None = None


class UploadPage(Frozen, frozen=True):
    """One page of ListMultipartUploads."""

    uploads: list[Upload]
    prefixes: list[bytes]
    truncated: bool
    next_key: bytes
    next_upload: str


class AccessKey(Frozen, frozen=True):
    """A credential as the catalogue has it.  The secret is sealed (AES-256-GCM); `repr` shows none of it."""

    id: str
    name: str
    owner: str
    created_ns: int
    sealed: bytes
    read_only: bool = False
    buckets: tuple[str, ...] = ()  # empty: every bucket of the project

    def __repr__(self) -> str:
        return f"AccessKey({self.id!r}, {self.name!r}, owner={self.owner!r})"


class Usage(Frozen, frozen=True):
    """Counted, not estimated."""

    objects: int  # keys, noncurrent versions, delete markers
    bytes: int  # of them, holes included, one copy of each
    parts: int = 0  # bytes of the parts of unfinished uploads


class Change(Frozen, frozen=True):
    """A committed change of one name, for whoever caches names: the mount invalidates before the answer is sent (H5).

    `parent` is 0 for a bucket.  `node` is the node that the name had before (0: none).  `gone` is true when the name
    no longer exists.
    """

    parent: int
    name: bytes
    directory: bool
    node: int
    gone: bool


class DeviceStatus(Frozen, frozen=True):
    """One device as `pool status` shows it."""

    id: int
    uuid: str
    path: str
    tier: str  # blaze or bulk
    state: str  # online, missing, failed
    size: int
    pages_size: int
    free: int
    journal: bool
    read_errors: int
    checksum_errors: int
    write_errors: int
