"""Connections to the catalogue, and `Rows`: the one way to change it.

Every change goes through `Rows.put` and `Rows.delete`, which execute the statement (or have it `postponed`) *and*
remember the row's image: the images of a batch are its journal record, so no free-hand UPDATE slips past the journal.

Commands check everything first and write last: a StoreError is only ever raised before a command's first `put`, so a
failed command needs no savepoint (`Rows.changes` says whether it kept the rule).  Two may come later: DAMAGED, where a
command meets a row that lies (then the batch is undone and its commands are tried one by one), and QUOTA_EXCEEDED, when
all that it adds has been counted (then the batch is undone and applied again with a savepoint before each command).
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import sqlite_utils

from appliance.catalogue import schema
from appliance.catalogue.postponed import REMOVE, Postponed, carry_out, put_rows, type_due
from appliance.catalogue.proven import first_damage
from appliance.catalogue.schema import BY_NUMBER, META, NODE, PAGE, SLICE, SUMS, TABLES, Table, row_sum
from appliance.errors import Code, StoreError
from appliance.limits import DROP_STEP, MIB, PATCHES_MAX
from appliance.model import Change, DataKey, Node

log = logging.getLogger(__name__)

type_row = tuple[Any, ...]
type_gathered = Callable[[int], bytes | None]
type_keep = Callable[[Callable[..., list[Any]], type_gathered, int, int, int, int, int], None]
"""Told before bytes [start, end) of a node, whose content is (kind, ref), change in place: someone may read them."""

WRITER_CACHE_KIB: Final = 32_768  # what a batch touches: the upper levels of every B-tree
READER_CACHE_KIB: Final = 16_384  # the loop's own
SCAN_CACHE_KIB: Final = 12_288  # of listings: a page of 1,000 common prefixes looks into as many leaves, 8 KiB each
WAL_KEPT: Final = 16 * MIB  # of its file, when SQLite begins the WAL anew: what is longer has grown since
UNBOUNDED: Final = 1 << 62
ID_STEP: Final = 1 << 20  # ids are promised to the journal in such steps, so that a crash reuses none

_UPSERT: Final = {table.number: table.upsert for table in TABLES}
_NODE: Final = NODE.number
_SELECT: Final = {table.number: table.select for table in TABLES}


def make_private(path: Path | str) -> None:
    """A file that only its owner may read, unless there is one: small objects lie in it, and the state directory may be
    open to others.  SQLite gives the files beside it the same mode."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def connect(path: Path | str, *, read_only: bool = False, cache_kib: int = 2048) -> sqlite3.Connection:
    """A connection in autocommit mode, for any one thread at a time.

    synchronous=NORMAL: the journal makes commits durable, not SQLite (ENGINE: "The journal is the truth").
    """
    where = f"file:{path}?mode=ro" if read_only else str(path)
    if not read_only:
        make_private(path)
    connection = sqlite3.connect(
        where, isolation_level=None, check_same_thread=False, cached_statements=256, uri=read_only, timeout=30
    )
    if not read_only:
        connection.execute("PRAGMA page_size=8192")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA wal_autocheckpoint=0")  # the writer does it between batches
    connection.execute(f"PRAGMA cache_size=-{cache_kib}")
    connection.execute("PRAGMA temp_store=MEMORY")
    return connection


def open_writer(path: Path | str) -> sqlite3.Connection:
    """Opens or makes the catalogue; one of an older program gets what it lacks.

    Raises StoreError OLD_FORMAT for a newer schema, sqlite3.DatabaseError if it is corrupt, or not what ours made, or
    if one of the few rows lies that say who may do what.
    """
    connection = connect(path, cache_kib=WRITER_CACHE_KIB)
    connection.execute(f"PRAGMA journal_size_limit={WAL_KEPT}")
    version = sqlite_utils.Database(connection).conn.execute("PRAGMA user_version").fetchone()[0]
    if version > schema.VERSION:
        connection.close()
        raise StoreError(
            Code.OLD_FORMAT, f"the catalogue has schema {version}; this tierce knows {schema.VERSION}: use its release"
        )
    if version < schema.VERSION or not schema.is_current(connection):
        if version:
            log.warning("the catalogue %s was made by an older tierce: it gets what it lacks", path)
        try:
            connection.execute("BEGIN IMMEDIATE")
            schema.create(connection)
            connection.execute("COMMIT")
        except sqlite3.Error:
            connection.close()  # which rolls back
            raise
    try:
        hurt = first_damage(connection)
        if hurt:
            raise sqlite3.DatabaseError(hurt)
    except sqlite3.DatabaseError:  # also of text that is none any more
        connection.close()
        raise
    return connection


class NewData(NamedTuple):
    """Bytes of a new chunk that travel with the commit."""

    data: bytes
    copies: int
    owner: int  # node
    label: bytes  # bucket and key as written, for salvage
    key: DataKey | None = None  # seals them


# What a batch knows beside its rows, and must forget with a command that is undone.  Not the ids that were taken.
_MAPPINGS: Final = ("images", "touched", "linked", "new_data", "new_pages", "directories")
_GROWING: Final = ("freed", "reaps", "notes", "dropped")
_NUMBERS: Final = ("drops", "changes", "short", "grown", "patched")


class Mark(NamedTuple):
    """A batch as it was before a command."""

    mappings: dict[str, dict[Any, Any]]
    lengths: dict[str, int]
    numbers: dict[str, Any]
    usage: dict[int, list[int]]


class Prolonged(Exception):
    """Where a batch is applied while others wait, it changes more rows than they should wait for."""


class Rows:
    """One batch's transaction: reads see its own writes.

    Nothing that it holds leads back to it: it goes with its images and bodies when the batch is done, and leaves no
    work to the garbage collector.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        take_id: Callable[[], int],
        held: Callable[[int], bool],
        drops: int = DROP_STEP,
        short: int = PATCHES_MAX,
        keep: type_keep | None = None,
        postponed: Postponed | None = None,
    ) -> None:
        """With `postponed` what is changed here is not carried out before a query needs it, nor before COMMIT."""
        self._postponed = postponed
        self.due: type_due = {}
        self._execute = connection.execute
        self.connection = connection
        self._take_id = take_id
        self.held = held  # is this node open somewhere?  An unlinked one is then kept with links=0
        self.images: dict[tuple[Any, ...], type_row | None] = {}
        self.changes = 0
        self.bound = UNBOUNDED  # of `changes`, while the loop's thread applies commands: no command knows what it takes
        self.top_id = 0
        self.usage: dict[int, list[int]] = {}  # bucket -> objects, bytes, bytes of parts
        self.charged: dict[int, list[int]] = {}  # by one command: bucket -> objects, bytes, objects that no quota stops
        self.touched: dict[int, int] = {}  # directory -> latest time
        self.linked: dict[int, int] = {}  # directory -> subdirectories more, or less
        self.new_data: dict[int, NewData] = {}  # chunks whose bytes the batch's gathered write carries
        self.new_pages: dict[
            tuple[int, int], bool
        ] = {}  # staged pages now named by rows -> covered by an earlier flush
        self.freed: list[tuple[int, int, int]] = []  # extents whose rows are gone
        self.drops = drops  # slices that may still be freed here: a record must fit the ring, however large an object
        self.short = short  # bytes that may still take the short path: patches are folded away in their own time
        self.grown: int | None = None  # bytes that the last `content.patch` filled of a map's holes; None: another kind
        self.patched = 0  # by how many bytes this batch changes what patches hold
        self._keep = keep
        self.reaps: list[int] = []  # unlinked nodes with bytes left to free, by commands to come
        self.notes: list[Change] = []
        self.buckets: dict[int, bytes | None] = {}  # seen to exist -> their state of versioning
        self.directories: dict[int, Node] = {}  # rows that were read and not changed since: commands share directories
        self.dropped: list[tuple[int, bytes]] = []  # directories' names that no longer lead where they led

    # -- reading
    def one(self, sql: str, parameters: type_row = ()) -> Any:
        """The first row or None."""
        self._carry_out(None)
        return self._execute(sql, parameters).fetchone()

    def all(self, sql: str, parameters: type_row = (), of: Table | None = None) -> list[Any]:
        """Every row; `of` is the one table that the query reads, if it reads only one."""
        self._carry_out(of)
        return self._execute(sql, parameters).fetchall()

    def slices(self, sql: str, parameters: type_row = ()) -> list[Any]:
        """The same of a query that reads maps' slices only."""
        return self.all(sql, parameters, SLICE)

    def row(self, table: Table, *key: Any) -> Any:
        """The row with this primary key, as `put` had it, or None."""
        place = (table.number, *key)
        if place in self.images:
            return self.images[place]
        if self._postponed is None:
            return self._execute(_SELECT[table.number], key).fetchone()
        known = self._postponed.known
        if place not in known:
            known[place] = self._execute(_SELECT[table.number], key).fetchone()
        return known[place]

    def at_hand(self, table: Table, *key: Any) -> Any:
        """The same if memory has it; None also if that is not known."""
        place = (table.number, *key)
        if place in self.images or self._postponed is None:
            return self.images.get(place)
        return self._postponed.known.get(place)

    def _carry_out(self, of: Table | None) -> None:
        if self._postponed is not None:
            number = None if of is None else of.number
            carry_out(self._execute, self._postponed.due, number)
            carry_out(self._execute, self.due, number)

    # -- writing
    def put(self, table: Table, row: type_row) -> None:
        """Inserts or replaces `row`, which is given without its sum."""
        number = table.number
        sum_of = SUMS.get(number)
        if sum_of is not None:
            row = *row, sum_of(*row)
            if number == _NODE:
                self.directories.pop(row[0], None)
        key = row[: table.key]
        if self._postponed is None:
            self._execute(_UPSERT[number], row)
        else:
            self.due.setdefault(number, {})[key] = row
        self.images[(number, *key)] = row
        self.changes += 1
        if self.changes > self.bound:
            raise Prolonged

    def put_many(self, table: Table, rows: Sequence[type_row]) -> None:
        """`put` of each, with few statements: SQLite gives up the GIL once per statement, and the loop takes it."""
        assert table.number not in SUMS
        number, key = table.number, table.key
        if self._postponed is None:
            put_rows(self._execute, table, rows)
        else:
            self.due.setdefault(number, {}).update((row[:key], row) for row in rows)
        for row in rows:
            self.images[(number, *row[:key])] = row
        self.changes += len(rows)

    def delete(self, table: Table, key: type_row) -> None:
        """Deletes the row with this primary key."""
        number = table.number
        if number == _NODE:
            self.directories.pop(key[0], None)
        if self._postponed is None:
            self._execute(REMOVE[number], key)
        else:
            self.due.setdefault(number, {})[key] = None
        self.images[(number, *key)] = None
        self.changes += 1
        if self.changes > self.bound:
            raise Prolonged

    def new_id(self) -> int:
        """An id that no node, chunk or map ever had."""
        return self.note_id(self._take_id())

    def note_id(self, number: int) -> int:
        """An id taken outside of the transaction is now in use."""
        if number > self.top_id:
            self.top_id = number
        return number

    def keep(self, node: int, kind: int, ref: int, start: int, end: int) -> None:
        """Comes before bytes [start, end) of a node, whose content is (kind, ref), change in place."""
        if self._keep is not None:
            self._keep(self.all, self.gathered, node, kind, ref, start, end)

    def gathered(self, chunk: int) -> bytes | None:
        """The bytes of a new chunk whose pages this batch makes at its end; None: it is no such chunk."""
        found = self.new_data.get(chunk)
        return found.data if found is not None else None

    def charge(self, bucket: int, objects: int, size: int, *, parts: int = 0, always: bool = False) -> None:
        """The one quota charge (H6): in the commit's own transaction, admitted or not when the command is done.

        `parts` are bytes of unfinished uploads.  `always`: no quota stops it, for it is how something is deleted."""
        if not (objects or size or parts):
            return  # a database's overwrites: no row for them
        counted = self.usage.get(bucket)
        if counted is None:
            self.usage[bucket] = [objects, size, parts]
        else:
            counted[0] += objects
            counted[1] += size
            counted[2] += parts
        charged = self.charged.get(bucket)
        if charged is None:
            charged = self.charged[bucket] = [0, 0, 0]
        charged[2 if always else 0] += objects
        charged[1] += size + parts

    def touch(self, directory: int, now_ns: int) -> None:
        """A name in `directory` changed: POSIX moves its mtime and ctime.  Written once per batch."""
        self.touched[directory] = max(now_ns, self.touched.get(directory, 0))

    def link(self, directory: int, count: int) -> None:
        """Subdirectories came (above 0) or went: each is a link, by its "..".  Written once per batch."""
        self.linked[directory] = self.linked.get(directory, 0) + count

    def note(self, change: Change) -> None:
        """A name changed: whoever caches names is told before the commit is acknowledged (H5)."""
        self.notes.append(change)

    def drop_directory(self, parent: int, name: bytes) -> None:
        """The loop's directory cache forgets this name before the commit is acknowledged."""
        self.dropped.append((parent, name))

    # -- a command that may have to be undone
    def mark(self) -> Mark:
        """Where `undo` leads back to; `keep` ends it.  Not nested."""
        self._execute("SAVEPOINT command")
        return Mark(
            {name: getattr(self, name).copy() for name in _MAPPINGS},
            {name: len(getattr(self, name)) for name in _GROWING},
            {name: getattr(self, name) for name in _NUMBERS},
            {bucket: counted.copy() for bucket, counted in self.usage.items()},
        )

    def keep_marked(self) -> None:
        """What was changed since `mark` stays."""
        self._execute("RELEASE command")

    def undo(self, mark: Mark) -> None:
        """Nothing was changed since; ids that were taken stay taken."""
        self._execute("ROLLBACK TO command")
        self._execute("RELEASE command")
        for name, value in (mark.mappings | mark.numbers).items():
            setattr(self, name, value)
        for name, length in mark.lengths.items():
            del getattr(self, name)[length:]
        self.usage = mark.usage

    # -- the record
    def image_list(self) -> list[list[Any]]:
        """The batch's final row images (I4): [table, 0, columns...] or [table, 1, key...]."""
        return [[key[0], 0, *row] if row is not None else [key[0], 1, *key[1:]] for key, row in self.images.items()]


def replay(connection: sqlite3.Connection, images: list[list[Any]]) -> None:
    """Physical redo: executes the images of one record.  Idempotent (I9)."""
    for image in images:
        if image[0] not in BY_NUMBER:
            raise StoreError(Code.OLD_FORMAT, f"the journal names table {image[0]}, which this tierce does not know")
        table, row = BY_NUMBER[image[0]], image[2:]
        if image[1]:
            connection.execute(REMOVE[table.number], row)
            continue
        if len(row) > len(table.columns):
            raise StoreError(Code.OLD_FORMAT, f"the journal's rows of {table.name} are longer than this tierce knows")
        connection.execute(_UPSERT[table.number], [*row, *table.defaults[len(row) :]])


def applied_seq(connection: sqlite3.Connection) -> int:
    """The last journal record whose rows are here; 0 for a new catalogue."""
    row = connection.execute("SELECT value FROM meta WHERE name='applied_seq'").fetchone()
    return int(row[0]) if row else 0


def set_meta(connection: sqlite3.Connection, name: str, value: int) -> None:
    """Outside of the journal: `applied_seq` is in each batch's transaction but is not one of its images."""
    connection.execute(META.upsert, (name, value, row_sum(name, value)))


def patched_bytes(connection: sqlite3.Connection) -> int:
    """Bytes that patches hold."""
    return int(connection.execute("SELECT coalesce(sum(length(data)), 0) FROM patch").fetchone()[0])


def used_by_region(connection: sqlite3.Connection, device: int, start: int, region: int) -> dict[int, int]:
    """Bytes claimed by page rows, by region number: the start of the free map."""
    return dict(
        connection.execute(
            f"SELECT off / ?1 - ?2 / ?1, sum(len) FROM {PAGE.name} WHERE dev=?3 GROUP BY 1",
            (region, start, device),
        ).fetchall()
    )
