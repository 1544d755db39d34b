"""The catalogue's tables: every column, its meaning and its invariant.

The catalogue is an index: the truth is the journal (ondisk/FORMAT.md), whose records are images of these rows.  A
table's
number is part of the on-disk format and is never reused; columns are only ever added at the end, with a default.

Who counts what:  `chunk.refs` = nodes and parts of kind CHUNK + slices of kind CHUNK that name it;
`map.refs` = nodes and parts of kind MAP + slices of kind MAP that name it.  A row at 0 does not exist.
A chunk's bytes are in its pages, or, if it is small and recent, in its one row of `patch`.
A map is *flat* (slices of chunks only) or *composed* (slices of flat maps too, made by CompleteMultipartUpload):
depth <= 2.

Who vouches for what:  SQLite's file has no sums, so a bit that flips in it could lead from a name to another's bytes.
A page's header says whose chunk it is; a patch has the sum of its bytes; every other row has a sum of its own, and a
node `dsum` besides, for who knows only which bytes it has.  A row is proven when it is followed or leaned on
(proven.py), and one that does not match is DAMAGED: the catalogue is then rebuilt from the devices, whose records and
snapshots have digests.  A sum of 0, or none, is that of a row that an older program wrote.
S3's listings do not prove the names that they show: whoever follows one does.  The mount's do, but not the attributes
that come along with the names of a long directory.  None leaves out a name because its row is damaged.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

VERSION: Final = 8
_DEFAULTS: Final[dict[str, int | str | bytes]] = {"INTEGER": 0, "TEXT": "", "BLOB": b""}
_LITERALS: Final = {"INTEGER": "0", "TEXT": "''", "BLOB": "x''"}


class Table(NamedTuple):
    """One table: `key` is how many leading columns are its primary key."""

    number: int
    name: str
    columns: tuple[str, ...]
    key: int
    sql: str
    declared: tuple[str, ...]  # each column as SQL has it

    @property
    def defaults(self) -> tuple[int | str | bytes, ...]:
        """What a row has in a column that was added after it was written."""
        return tuple(_DEFAULTS[line.split()[1]] for line in self.declared)

    @property
    def upsert(self) -> str:
        return f"INSERT OR REPLACE INTO {self.name} VALUES ({','.join('?' * len(self.columns))})"

    @property
    def remove(self) -> str:
        return f"DELETE FROM {self.name} WHERE {self._by_key}"

    @property
    def select(self) -> str:
        return f"SELECT * FROM {self.name} WHERE {self._by_key}"

    @property
    def _by_key(self) -> str:
        return " AND ".join(f"{column}=?" for column in self.columns[: self.key])


def _table(number: int, name: str, key: int, body: str, *, rowid: bool = False) -> Table:
    columns = tuple(line.split()[0] for line in body.strip().splitlines() if not line.strip().startswith("--"))
    lines = [line.split("--")[0].strip().rstrip(",") for line in body.strip().splitlines()]
    declared = [line for line in lines if line]
    primary = "" if rowid else f", PRIMARY KEY ({', '.join(columns[:key])})"
    suffix = "" if rowid else " WITHOUT ROWID"
    sql = f"CREATE TABLE {name} ({', '.join(declared)}{primary}){suffix}"
    return Table(number, name, columns, key, sql, tuple(declared))


META: Final = _table(
    1,
    "meta",
    1,
    """
    name TEXT NOT NULL,       -- next_id: ids below it may have been given out, so none at or above it was
    value INTEGER NOT NULL,   -- applied_seq: the journal record whose rows are in here (I9)
                              -- seen_ns: the latest time by which a retention ended (appliance/lock.py)
    sum INTEGER NOT NULL      -- `row_sum` of the others
    """,
)
BUCKET: Final = _table(
    2,
    "bucket",
    1,
    """
    id INTEGER PRIMARY KEY,
    org TEXT NOT NULL,         -- 'default' on a home box
    project TEXT NOT NULL,     -- 'default' on a home box
    name TEXT NOT NULL,        -- unique in the whole box: S3's name space is one
    created_ns INTEGER NOT NULL,
    root INTEGER NOT NULL,     -- node of its top directory
    owner TEXT NOT NULL,
    copies INTEGER NOT NULL,   -- of every body written from now on
    etag TEXT NOT NULL,        -- 'md5' or 'fast'
    sum INTEGER NOT NULL       -- `row_sum` of the others
    """,
    rowid=True,
)
ENTRY: Final = _table(
    3,
    "entry",
    2,
    """
    parent INTEGER NOT NULL,   -- a directory's node
    name BLOB NOT NULL,        -- one segment; a directory's ends with '/': so a walk in this order is S3's key order
    node INTEGER NOT NULL,
    sum INTEGER NOT NULL       -- `entry_sum` of the others
    """,
)
NODE: Final = _table(
    4,
    "node",
    1,
    """
    id INTEGER PRIMARY KEY,    -- never reused: it is the inode number
    mode INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    links INTEGER NOT NULL,    -- its names, or 2 and a directory's subdirectories; 0: unlinked, but held open or with
                               -- bytes left to free; such rows are reaped at start
    size INTEGER NOT NULL,
    atime_ns INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    written_ns INTEGER NOT NULL, -- S3's LastModified
    generation INTEGER NOT NULL, -- rises at each commit of bytes
    etag TEXT NOT NULL,
    kind INTEGER NOT NULL,     -- BodyKind
    ref INTEGER NOT NULL,      -- the chunk or map; a directory's: its parent directory; a device's: its number
    data BLOB NOT NULL,        -- inline bytes; a symlink's target; a directory's: its name in the parent
    flags INTEGER NOT NULL,    -- IMPLIED, TIMED, NULL_VERSION, MARKER, UNOWNED
    packed BLOB NOT NULL,      -- Attributes
    bucket INTEGER NOT NULL,
    dsum BLOB NOT NULL,        -- INLINE: the first 16 bytes of their BLAKE3; CHUNK, MAP: `body_sum`
    version INTEGER NOT NULL,  -- taken from the ids, so it rises with each write of a key; 0: made without versions
    sum INTEGER NOT NULL       -- `node_sum` of the others
    """,
    rowid=True,
)
MAP: Final = _table(
    5,
    "map",
    1,
    """
    id INTEGER PRIMARY KEY,
    refs INTEGER NOT NULL,
    composed INTEGER NOT NULL, -- 1: has slices of kind MAP
    sum INTEGER NOT NULL       -- `map_sum` of the others
    """,
    rowid=True,
)
SLICE: Final = _table(
    6,
    "slice",
    2,
    """
    map INTEGER NOT NULL,
    off INTEGER NOT NULL,      -- in the object; slices of one map never overlap; what none covers is a hole
    len INTEGER NOT NULL,
    kind INTEGER NOT NULL,     -- BodyKind CHUNK or MAP
    ref INTEGER NOT NULL,
    roff INTEGER NOT NULL,     -- first byte within ref
    sum INTEGER NOT NULL       -- `slice_sum` of the others
    """,
)
CHUNK: Final = _table(
    7,
    "chunk",
    1,
    """
    id INTEGER PRIMARY KEY,
    len INTEGER NOT NULL,
    refs INTEGER NOT NULL,
    copies INTEGER NOT NULL,   -- wanted on distinct devices; fewer pages than that: under-replicated
    key INTEGER NOT NULL,      -- 0: plain; > 0: encrypted by that data_key; -1: by a key that only its customer has
    sum INTEGER NOT NULL       -- `chunk_sum` of the others
    """,
    rowid=True,
)
PAGE: Final = _table(
    8,
    "page",
    2,
    """
    dev INTEGER NOT NULL,
    off INTEGER NOT NULL,      -- on the device; the extents of all rows of a device never overlap (I7)
    len INTEGER NOT NULL,      -- of the extent, header included
    chunk INTEGER NOT NULL,
    idx INTEGER NOT NULL,      -- payload bytes idx * PAGE_PAYLOAD ... of the chunk
    copy INTEGER NOT NULL,
    hsum BLOB NOT NULL         -- first 16 bytes of the header's digest: parent verifies child
    """,
)
UPLOAD: Final = _table(
    9,
    "upload",
    1,
    """
    id TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    key BLOB NOT NULL,
    created_ns INTEGER NOT NULL,
    owner TEXT NOT NULL,
    packed BLOB NOT NULL,
    checksum_algorithm TEXT NOT NULL,
    checksum_type TEXT NOT NULL,
    sum INTEGER NOT NULL       -- `row_sum` of the others
    """,
)
PART: Final = _table(
    10,
    "part",
    2,
    """
    upload TEXT NOT NULL,
    number INTEGER NOT NULL,
    size INTEGER NOT NULL,
    etag TEXT NOT NULL,
    written_ns INTEGER NOT NULL,
    kind INTEGER NOT NULL,     -- EMPTY, CHUNK or MAP (flat); never INLINE
    ref INTEGER NOT NULL,
    checksum_algorithm TEXT NOT NULL,
    checksum BLOB NOT NULL,
    sum INTEGER NOT NULL       -- `part_sum` of the others
    """,
)
ACCESS_KEY: Final = _table(
    11,
    "access_key",
    1,
    """
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    sealed BLOB NOT NULL,      -- the secret under the box's master key
    read_only INTEGER NOT NULL,
    buckets TEXT NOT NULL,     -- names, one a line; empty: all
    sum INTEGER NOT NULL       -- `row_sum` of the others
    """,
)
USAGE: Final = _table(
    12,
    "usage",
    1,
    """
    bucket INTEGER PRIMARY KEY,
    objects INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    parts INTEGER NOT NULL,    -- bytes of the parts of unfinished uploads
    sum INTEGER NOT NULL       -- `usage_sum` of the others
    """,
    rowid=True,
)

SETTING: Final = _table(
    13,
    "setting",
    2,
    """
    bucket INTEGER NOT NULL,
    name TEXT NOT NULL,        -- appliance/settings.py
    body BLOB NOT NULL,        -- as it was stored: given a meaning elsewhere
    sum INTEGER NOT NULL       -- `row_sum` of the others
    """,
)
USER: Final = _table(
    14,
    "user",
    1,
    """
    id TEXT NOT NULL,          -- S3's canonical id: what owner columns hold
    name TEXT NOT NULL,        -- unique
    display TEXT NOT NULL,
    email TEXT NOT NULL,       -- unique unless empty
    created_ns INTEGER NOT NULL,
    sum INTEGER NOT NULL       -- `row_sum` of the others
    """,
)
VERSION_TABLE: Final = _table(
    15,
    "version",
    3,
    """
    bucket INTEGER NOT NULL,
    key BLOB NOT NULL,
    version INTEGER NOT NULL,  -- its node's: noncurrent versions, and delete markers even when newest
    node INTEGER NOT NULL,
    flags INTEGER NOT NULL,    -- MARKER as its node has it; NULL_VERSION: as its node, or version 0: at most one a key
    sum INTEGER NOT NULL       -- `version_sum` of the others
    """,
)
DATA_KEY: Final = _table(
    16,
    "data_key",
    1,
    """
    id INTEGER PRIMARY KEY,
    wrapped BLOB NOT NULL,     -- under the box's master key
    created_ns INTEGER NOT NULL,
    sum INTEGER NOT NULL       -- `row_sum` of the others
    """,
    rowid=True,
)

PATCH: Final = _table(
    17,
    "patch",
    1,
    """
    chunk INTEGER PRIMARY KEY, -- a chunk that has no pages, until it is folded into one that has
    data BLOB NOT NULL,        -- its bytes: what a small change of a mounted file wrote
    dsum BLOB NOT NULL         -- the first 16 bytes of their BLAKE3
    """,
    rowid=True,
)

TABLES: Final = (
    META, BUCKET, ENTRY, NODE, MAP, SLICE, CHUNK, PAGE, UPLOAD, PART, ACCESS_KEY, USAGE, SETTING, USER, VERSION_TABLE,
    DATA_KEY, PATCH,
)  # fmt: skip
BY_NUMBER: Final = {table.number: table for table in TABLES}
INDEXES: Final = (
    "CREATE UNIQUE INDEX bucket_name ON bucket (name)",
    "CREATE INDEX page_chunk ON page (chunk)",
    "CREATE INDEX upload_key ON upload (bucket, key, id)",
    "CREATE INDEX node_unlinked ON node (id) WHERE links = 0",
    "CREATE INDEX node_implied ON node (id) WHERE flags & 1",
    "CREATE INDEX node_special ON node (bucket) WHERE mode & 61440 NOT IN (16384, 32768)",  # neither directory nor file
    "CREATE INDEX version_null ON version (bucket, key) WHERE flags & 4",
)


_ENTRY_SUM: Final = struct.Struct("<qq")
_NODE_SUM: Final = struct.Struct("<18q")
_SLICE_SUM: Final = struct.Struct("<qqqqqq")
_BODY_SUM: Final = struct.Struct("<qqq")
_PART_SUM: Final = struct.Struct("<qqqqq")
_VERSION_SUM: Final = struct.Struct("<qqqq")
_CHUNK_SUM: Final = struct.Struct("<qqqqq")
_MAP_SUM: Final = struct.Struct("<qqq")
_USAGE_SUM: Final = struct.Struct("<qqqq")


def entry_sum(parent: int, name: bytes, node: int) -> int:
    """Never 0."""
    return zlib.crc32(_ENTRY_SUM.pack(parent, node) + name) or 1


def node_sum(
    id: int,
    mode: int,
    uid: int,
    gid: int,
    links: int,
    size: int,
    atime_ns: int,
    mtime_ns: int,
    ctime_ns: int,
    written_ns: int,
    generation: int,
    etag: str,
    kind: int,
    ref: int,
    data: bytes,
    flags: int,
    packed: bytes,
    bucket: int,
    dsum: bytes,
    version: int,
) -> int:
    """Never 0."""
    numbers = _NODE_SUM.pack(
        id, mode, uid, gid, links, size, atime_ns, mtime_ns, ctime_ns, written_ns, generation, kind, ref, flags, bucket,
        version, len(data), len(packed),
    )  # fmt: skip
    return zlib.crc32(b"".join((numbers, data, packed, dsum, etag.encode()))) or 1


def slice_sum(map: int, off: int, len: int, kind: int, ref: int, roff: int) -> int:
    """Never 0."""
    return zlib.crc32(_SLICE_SUM.pack(map, off, len, kind, ref, roff)) or 1


def body_sum(kind: int, ref: int, size: int) -> bytes:
    """Four bytes that say which bytes a node has; another node that shares them has the same sum."""
    return zlib.crc32(_BODY_SUM.pack(kind, ref, size)).to_bytes(4, "little")


def part_sum(
    upload: str,
    number: int,
    size: int,
    etag: str,
    written_ns: int,
    kind: int,
    ref: int,
    algorithm: str,
    checksum: bytes,
) -> int:
    """Never 0."""
    texts = f"{upload}\x00{etag}\x00{algorithm}\x00".encode()
    return zlib.crc32(_PART_SUM.pack(number, size, written_ns, kind, ref) + texts + checksum) or 1


def version_sum(bucket: int, key: bytes, version: int, node: int, flags: int) -> int:
    """Never 0."""
    return zlib.crc32(_VERSION_SUM.pack(bucket, version, node, flags) + key) or 1


def chunk_sum(id: int, len: int, refs: int, copies: int, key: int) -> int:
    """Never 0."""
    return zlib.crc32(_CHUNK_SUM.pack(id, len, refs, copies, key)) or 1


def map_sum(id: int, refs: int, composed: int) -> int:
    """Never 0."""
    return zlib.crc32(_MAP_SUM.pack(id, refs, composed)) or 1


def usage_sum(bucket: int, objects: int, size: int, parts: int) -> int:
    """Never 0."""
    return zlib.crc32(_USAGE_SUM.pack(bucket, objects, size, parts)) or 1


def row_sum(*columns: int | str | bytes) -> int:
    """Of rows that are seldom written.  Never 0."""
    texts = [value if isinstance(value, bytes) else str(value).encode() for value in columns]
    lengths = struct.pack(f"<{len(texts)}q", *map(len, texts))
    return zlib.crc32(b"".join((lengths, *texts))) or 1


SUMS: Final[dict[int, Callable[..., int]]] = {
    CHUNK.number: chunk_sum,
    MAP.number: map_sum,
    USAGE.number: usage_sum,
    **dict.fromkeys((each.number for each in (META, BUCKET, UPLOAD, ACCESS_KEY, SETTING, USER, DATA_KEY)), row_sum),
    ENTRY.number: entry_sum,
    NODE.number: node_sum,
    SLICE.number: slice_sum,
    PART.number: part_sum,
    VERSION_TABLE.number: version_sum,
}
"""Tables whose last column is a sum: its function of the others."""


def create(connection: sqlite3.Connection) -> None:
    """Makes the empty catalogue; in one that an older program made, what it lacks.  Within a transaction.

    Raises sqlite3.DatabaseError when a table is neither ours nor an older form of ours: nobody knows what its rows say.
    """
    for table in TABLES:
        there = tuple(row[1] for row in connection.execute(f"PRAGMA table_info({table.name})"))
        if not there:
            connection.execute(table.sql)
            continue
        if there != table.columns[: len(there)]:
            raise sqlite3.DatabaseError(f"table {table.name} has the columns {', '.join(there)}")
        for line in table.declared[len(there) :]:
            connection.execute(f"ALTER TABLE {table.name} ADD COLUMN {line} DEFAULT {_LITERALS[line.split()[1]]}")
    for index in INDEXES:
        connection.execute(index.replace(" INDEX ", " INDEX IF NOT EXISTS ", 1))
    connection.execute(f"PRAGMA user_version={VERSION}")


def is_current(connection: sqlite3.Connection) -> bool:
    """Whether every table is there with just its columns: the number of the version may have been given to less."""
    return all(
        tuple(row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")) == table.columns
        for table in TABLES
    )
