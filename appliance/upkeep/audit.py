"""The audit: do catalogue, free map and devices tell one story?

Every count that the catalogue keeps is counted again from what it counts; every reference is followed; every extent is
laid beside its neighbours, its device's zones and the allocator's word (I7).  With `verify` every copy of every page is
read and checked block by block.  An audit never repairs: it says what is wrong, and in which structure.

`check_catalogue` is a plain function of one connection in one read transaction; `check_space` of rows and the
allocator; `audit` joins them over a live store.  There it looks at one state while work goes on: pages of that state
are pinned (I11), and what only looks wrong because a commit is on its way (a node that was just released) is looked
at again before it is reported.  The comparison of free space needs a moment without commits; if there is none, the
report says that it was not made.

It deliberately knows nothing of repair, of scheduling, and of who asked.
"""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from appliance.catalogue import database as catalogue
from appliance.device.buffers import scratch
from appliance.engine import snapshot
from appliance.engine.engine import Engine
from appliance.engine.pool import PageRef, Pool, page_room
from appliance.errors import StoreError
from appliance.limits import MIB, PAGE_PAYLOAD
from appliance.model import IMPLIED, BodyKind, Frozen
from appliance.ondisk import page
from appliance.ondisk.damaged import DamagedError
from appliance.ondisk.geometry import UNIT, Geometry
from appliance.space.extent import merge

SHOWN_MAX: Final = 100  # problems of one kind that are told one by one
PAGES_STEP: Final = 64  # pages read between two words of progress: at most 256 MiB
QUIET_TRIES: Final = 20  # attempts at a moment without commits

EMPTY, INLINE, WHOLE, MAPPED = (int(kind) for kind in BodyKind)
Report = Callable[[Mapping[str, Any]], None]
"""Takes one line of progress, as {"stage": "pages", "done": 10, "total": 200}."""


class Problem(Frozen, frozen=True):
    """One thing that is wrong: of which kind, in which row or extent, and in words."""

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.text}"


class AuditReport(Frozen, frozen=True):
    """What an audit found.

    `under_replicated` chunks have fewer copies on devices that are here than they should: no contradiction, but the
    pool is not healthy.  `damaged` and `unreadable` count page copies by device number (only with `verify`).
    """

    seq: int  # the batch whose state was looked at
    buckets: int
    entries: int
    nodes: int
    maps: int
    chunks: int
    pages: int
    uploads: int
    under_replicated: int
    verified: int  # page copies that were read whole and found good
    damaged: dict[int, int]
    unreadable: dict[int, int]
    space_checked: bool  # False: commits never paused
    problems: tuple[Problem, ...]

    @property
    def clean(self) -> bool:
        """No contradiction, and no damage where it was looked for."""
        return not self.problems

    @property
    def healthy(self) -> bool:
        """Clean, and every chunk has all its copies."""
        return self.clean and not self.under_replicated

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: counts by name, problems as texts."""
        values: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        values["problems"] = [str(problem) for problem in self.problems]
        values["clean"] = self.clean
        values["healthy"] = self.healthy
        return values


class Audited(Protocol):
    """What is needed of an `ObjectStore`."""

    @property
    def engine(self) -> Engine: ...


def _silent(_: Mapping[str, Any]) -> None:
    """No progress wanted."""


async def audit(store: Audited, *, verify: bool = False, progress: Report = _silent) -> AuditReport:
    """Cross-checks everything; `verify` also reads every page copy.  `progress` is called on the loop.

    Blocks nobody: it works in a lane's thread on its own connection.  Raises only what a broken SQLite file raises.
    """
    engine = store.engine
    await engine.settle()
    held = engine.held_nodes()
    pin = engine.retrieval.pins.pin(engine.ring.seq)  # before the state is taken: its pages stay (I11)
    connection = catalogue.connect(_file_of(engine.reader), read_only=True)
    try:
        connection.execute("BEGIN")
        seq = catalogue.applied_seq(connection)
        progress({"stage": "catalogue", "done": 0, "total": len(_CHECKS)})
        found: list[Problem] = []
        for number, check in enumerate(_CHECKS, 1):
            found += await engine.lanes.call(_run, check, connection)
            progress({"stage": "catalogue", "done": number, "total": len(_CHECKS)})
        geometries = {device.id: device.geometry for device in engine.pool.devices.values()}
        found += await engine.lanes.call(check_extents, connection, geometries)
        found += await _unsettled(engine, connection, held)
        here = {device.id for device in engine.pool.devices.values() if device.device is not None}
        short = await engine.lanes.call(under_replicated, connection, here)
        counts = await engine.lanes.call(_counts, connection)
        proof = _Proof(engine.pool)
        if verify:
            for done, total in proof.steps(connection):
                progress({"stage": "pages", "done": done, "total": total})
                await engine.lanes.call(proof.step)
            await engine.lanes.call(proof.check_snapshot)
        found += proof.problems
        connection.execute("COMMIT")
        space = await _space(engine, connection)
    finally:
        connection.close()
        engine.retrieval.pins.unpin(pin)
        engine.retrieval.unpinned()
    return AuditReport(
        seq=seq,
        **counts,
        under_replicated=short,
        verified=proof.verified,
        damaged=proof.damaged,
        unreadable=proof.unreadable,
        space_checked=space is not None,
        problems=(*found, *(space or ())),
    )


def _file_of(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA database_list").fetchone()[2])


# ---------------------------------------------------------------------- the catalogue: each check a query


class _Check(Frozen, frozen=True):
    """Rows of `sql` are problems; `where` and `text` are formatted with the row."""

    kind: str
    sql: str
    where: str
    text: str


_REFERENCES: Final = """
    SELECT ref, count(*) AS c FROM (
        SELECT ref FROM node WHERE kind={kind} AND (mode & 61440)=32768
        UNION ALL SELECT ref FROM part WHERE kind={kind}
        UNION ALL SELECT ref FROM slice WHERE kind={kind}
    ) GROUP BY ref
"""
_IS_FILE: Final = f"(n.mode & {stat.S_IFMT(0o170000)})={stat.S_IFREG}"
_IS_DIRECTORY: Final = f"(n.mode & {stat.S_IFMT(0o170000)})={stat.S_IFDIR}"

_CHECKS: Final = (
    _Check("sqlite", "SELECT * FROM pragma_integrity_check WHERE integrity_check<>'ok'", "catalogue file", "{0}"),
    # -- names
    _Check(
        "entry",
        "SELECT e.parent, e.name, e.node FROM entry e LEFT JOIN node n ON n.id=e.node WHERE n.id IS NULL",
        "entry {0}/{1!r}",
        "names node {2}, which is not there",
    ),
    _Check(
        "entry",
        "SELECT e.parent, e.name FROM entry e LEFT JOIN node n ON n.id=e.parent"
        f" WHERE n.id IS NULL OR NOT {_IS_DIRECTORY}",
        "entry {0}/{1!r}",
        "its parent is no directory",
    ),
    _Check(
        "entry",
        f"SELECT e.parent, e.name FROM entry e JOIN node n ON n.id=e.node WHERE {_IS_DIRECTORY}"
        " <> (substr(e.name, -1)=x'2f') OR instr(substr(e.name, 1, length(e.name)-1), x'2f')",
        "entry {0}/{1!r}",
        "its name does not fit what it names",
    ),
    _Check(
        "entry",
        "SELECT e.parent, e.name, n.bucket, p.bucket FROM entry e JOIN node n ON n.id=e.node"
        " JOIN node p ON p.id=e.parent WHERE n.bucket<>p.bucket",
        "entry {0}/{1!r}",
        "is of bucket {2} in a directory of bucket {3}",
    ),
    _Check(
        "links",
        "SELECT n.id, n.links, coalesce(c.c, 0) FROM node n"
        " LEFT JOIN (SELECT node, count(*) AS c FROM entry GROUP BY node) c ON c.node=n.id"
        f" WHERE NOT {_IS_DIRECTORY} AND n.links<>coalesce(c.c, 0)",
        "node {0}",
        "says {1} links and has {2} names",
    ),
    _Check(
        "directory",
        "SELECT n.id, n.ref, n.data FROM node n LEFT JOIN entry e ON e.parent=n.ref AND e.name=n.data AND e.node=n.id"
        f" WHERE {_IS_DIRECTORY} AND e.node IS NULL AND n.id NOT IN (SELECT root FROM bucket)",
        "directory {0}",
        "is not where it says: {1}/{2!r}",
    ),
    _Check(
        "directory",
        "SELECT n.id, count(*) FROM entry e JOIN node n ON n.id=e.node"
        f" WHERE {_IS_DIRECTORY} GROUP BY n.id HAVING count(*)>1",
        "directory {0}",
        "has {1} names",
    ),
    _Check(
        "directory",
        "WITH RECURSIVE reach(id) AS (SELECT root FROM bucket UNION"
        " SELECT e.node FROM reach JOIN entry e ON e.parent=reach.id WHERE substr(e.name, -1)=x'2f')"
        f" SELECT n.id FROM node n WHERE {_IS_DIRECTORY} AND n.id NOT IN (SELECT id FROM reach)",
        "directory {0}",
        "cannot be reached from any bucket",
    ),
    _Check(
        "bucket",
        f"SELECT b.name, b.root FROM bucket b LEFT JOIN node n ON n.id=b.root AND {_IS_DIRECTORY} AND n.bucket=b.id"
        " WHERE n.id IS NULL",
        "bucket {0}",
        "its root {1} is no directory of it",
    ),
    # -- what is counted
    _Check(
        "usage",
        "WITH truth AS (SELECT p.bucket AS bucket, count(*) AS objects, sum(n.size) AS bytes FROM entry e"
        f" JOIN node p ON p.id=e.parent JOIN node n ON n.id=e.node WHERE {_IS_FILE} GROUP BY p.bucket)"
        " SELECT b.id, coalesce(u.objects, 0), coalesce(u.bytes, 0), coalesce(t.objects, 0), coalesce(t.bytes, 0)"
        " FROM (SELECT id FROM bucket UNION SELECT bucket FROM usage) b"
        " LEFT JOIN usage u ON u.bucket=b.id LEFT JOIN truth t ON t.bucket=b.id"
        " WHERE coalesce(u.objects, 0)<>coalesce(t.objects, 0) OR coalesce(u.bytes, 0)<>coalesce(t.bytes, 0)"
        " OR b.id NOT IN (SELECT id FROM bucket)",
        "usage of bucket {0}",
        "says {1} objects of {2} bytes; there are {3} of {4}",
    ),
    *(
        _Check(
            "refs",
            f"SELECT t.id, t.refs, coalesce(r.c, 0) FROM {table} t"
            f" LEFT JOIN ({_REFERENCES.format(kind=kind)}) r ON r.ref=t.id WHERE t.refs<>coalesce(r.c, 0) OR t.refs<1",
            table + " {0}",
            "says {1} references and has {2}",
        )
        for table, kind in (("chunk", WHOLE), ("map", MAPPED))
    ),
    *(
        _Check(
            "refs",
            f"SELECT r.ref, r.c FROM ({_REFERENCES.format(kind=kind)}) r LEFT JOIN {table} t ON t.id=r.ref"
            " WHERE t.id IS NULL",
            table + " {0}",
            "is referred to {1} times and is not there",
        )
        for table, kind in (("chunk", WHOLE), ("map", MAPPED))
    ),
    _Check(
        "ids",
        "SELECT m.value, x.id FROM (SELECT coalesce(max(id), 0) AS id FROM (SELECT max(id) AS id FROM node"
        " UNION ALL SELECT max(id) FROM chunk UNION ALL SELECT max(id) FROM map"
        " UNION ALL SELECT max(id) FROM bucket)) x"
        " LEFT JOIN meta m ON m.name='next_id' WHERE x.id>=coalesce(m.value, 0) AND x.id>0",
        "meta next_id",
        "promises {0} but {1} was given out",
    ),
    # -- maps
    _Check(
        "slice",
        "SELECT s.map, s.off FROM slice s LEFT JOIN map m ON m.id=s.map WHERE m.id IS NULL",
        "slice {0}+{1}",
        "its map is not there",
    ),
    _Check(
        "slice",
        "SELECT map, off, before FROM (SELECT map, off, lag(off+len) OVER (PARTITION BY map ORDER BY off) AS before"
        " FROM slice) WHERE before>off",
        "slice {0}+{1}",
        "overlaps the one before it, which ends at {2}",
    ),
    _Check(
        "slice",
        f"SELECT s.map, s.off, s.len, s.roff, c.len FROM slice s LEFT JOIN chunk c ON s.kind={WHOLE} AND c.id=s.ref"
        f" WHERE s.off<0 OR s.len<=0 OR s.roff<0 OR s.kind NOT IN ({WHOLE}, {MAPPED}) OR s.roff+s.len>c.len",
        "slice {0}+{1}",
        "takes {2} bytes from {3} on, of {4}",
    ),
    _Check(
        "map",
        "SELECT m.id, m.composed FROM map m WHERE m.composed <>"
        f" EXISTS (SELECT 1 FROM slice s WHERE s.map=m.id AND s.kind={MAPPED})",
        "map {0}",
        "says composed={1} and is not",
    ),
    _Check(
        "map",
        f"SELECT s.map, s.ref FROM slice s JOIN map m ON m.id=s.ref WHERE s.kind={MAPPED} AND m.composed",
        "map {0}",
        "is deeper than two: it has the composed map {1}",
    ),
    # -- what nodes and parts say of their bytes
    _Check(
        "size",
        "SELECT n.id, n.size, max(s.off+s.len) AS ends FROM node n JOIN slice s ON s.map=n.ref"
        f" WHERE n.kind={MAPPED} AND {_IS_FILE} GROUP BY n.id HAVING ends>n.size",
        "node {0}",
        "has {1} bytes but its map goes to {2}",
    ),
    _Check(
        "size",
        f"SELECT n.id, n.size, c.len FROM node n JOIN chunk c ON c.id=n.ref WHERE n.kind={WHOLE} AND {_IS_FILE}"
        " AND c.len>n.size",
        "node {0}",
        "has {1} bytes but its chunk has {2}",
    ),
    _Check(
        "size",
        f"SELECT n.id, n.size, length(n.data) FROM node n WHERE n.kind={INLINE} AND length(n.data)>n.size"
        f" OR (n.mode & 61440)={stat.S_IFLNK} AND length(n.data)<>n.size",
        "node {0}",
        "has {1} bytes but {2} inline",
    ),
    _Check(
        "size",
        "SELECT p.upload, p.number, p.size, max(s.off+s.len) AS ends FROM part p JOIN slice s ON s.map=p.ref"
        f" WHERE p.kind={MAPPED} GROUP BY p.upload, p.number HAVING ends>p.size"
        " UNION ALL SELECT p.upload, p.number, p.size, c.len FROM part p JOIN chunk c ON c.id=p.ref"
        f" WHERE p.kind={WHOLE} AND c.len>p.size",
        "part {1} of upload {0}",
        "has {2} bytes but its content goes to {3}",
    ),
    _Check(
        "upload",
        "SELECT u.id, u.bucket FROM upload u LEFT JOIN bucket b ON b.id=u.bucket WHERE b.id IS NULL",
        "upload {0}",
        "its bucket {1} is not there",
    ),
    _Check(
        "upload",
        "SELECT p.upload, p.number, p.kind FROM part p LEFT JOIN upload u ON u.id=p.upload"
        f" WHERE u.id IS NULL OR p.kind NOT IN ({EMPTY}, {WHOLE}, {MAPPED})",
        "part {1} of upload {0}",
        "belongs to nothing or has content of kind {2}",
    ),
    # -- pages
    _Check(
        "page",
        "SELECT p.dev, p.off, p.chunk FROM page p LEFT JOIN chunk c ON c.id=p.chunk WHERE c.id IS NULL",
        "page {0}:{1}",
        "its chunk {2} is not there",
    ),
    _Check(
        "page",
        f"SELECT p.dev, p.off, p.idx, c.len FROM page p JOIN chunk c ON c.id=p.chunk"
        f" WHERE p.idx<0 OR p.idx*{PAGE_PAYLOAD}>=c.len",
        "page {0}:{1}",
        "is part {2} of a chunk of {3} bytes",
    ),
    _Check(
        "page",
        "SELECT p.chunk, p.idx, p.dev FROM page p GROUP BY p.chunk, p.idx, p.dev HAVING count(*)>1",
        "chunk {0} part {1}",
        "has more than one copy on device {2}",
    ),
    _Check(
        "lost",
        f"SELECT c.id, c.len, count(DISTINCT p.idx) AS parts, (c.len+{PAGE_PAYLOAD - 1})/{PAGE_PAYLOAD} AS wanted"
        " FROM chunk c LEFT JOIN page p ON p.chunk=c.id GROUP BY c.id HAVING parts<wanted",
        "chunk {0}",
        "of {1} bytes has pages for {2} of {3} parts",
    ),
)


def check_catalogue(connection: sqlite3.Connection) -> list[Problem]:
    """Every contradiction inside the catalogue, within the connection's present read transaction."""
    return [problem for check in _CHECKS for problem in _run(check, connection)]


def _run(check: _Check, connection: sqlite3.Connection) -> list[Problem]:
    rows = connection.execute(check.sql)
    found = [
        Problem(check.kind, check.where.format(*row), check.text.format(*row)) for row in rows.fetchmany(SHOWN_MAX)
    ]
    if rows.fetchone() is not None:
        found.append(Problem(check.kind, check.where, f"more than {SHOWN_MAX} such problems"))
    return found


def check_extents(connection: sqlite3.Connection, geometries: Mapping[int, Geometry]) -> list[Problem]:
    """Page rows against the devices: zones, regions, neighbours, and lengths against what they hold."""
    found: list[Problem] = []
    before, end = 0, 0
    for device, offset, length, index, chunk_length in connection.execute(
        "SELECT p.dev, p.off, p.len, p.idx, c.len FROM page p LEFT JOIN chunk c ON c.id=p.chunk ORDER BY p.dev, p.off"
    ):
        if len(found) >= SHOWN_MAX:
            found.append(Problem("extent", "pages", f"more than {SHOWN_MAX} such problems"))
            break
        where = f"page {device}:{offset}+{length}"
        if device == before and offset < end:
            found.append(Problem("extent", where, f"overlaps the one before it, which ends at {end}"))
        before, end = device, offset + length
        zones = geometries.get(device)
        if zones is None:
            found.append(Problem("extent", where, "is on no device of the pool"))
            continue
        if offset % UNIT or length % UNIT or length <= 0:
            found.append(Problem("extent", where, "is not aligned"))
        if not zones.pages_start <= offset <= offset + length <= zones.pages_end:
            found.append(Problem("extent", where, "lies outside of the device's pages"))
        elif zones.region_of(offset) != zones.region_of(offset + length - 1):
            found.append(Problem("extent", where, "crosses from one region into the next"))
        if chunk_length is not None:
            payload = min(PAGE_PAYLOAD, chunk_length - index * PAGE_PAYLOAD)
            if payload > 0 and length != page.extent_length(payload):
                found.append(Problem("extent", where, f"holds {payload} bytes and has another length"))
    return found


def under_replicated(connection: sqlite3.Connection, here: Iterable[int]) -> int:
    """Chunks of which some part has fewer copies than wanted on the devices that are here."""
    devices = ",".join(str(number) for number in sorted(here)) or "NULL"
    row = connection.execute(
        "SELECT count(*) FROM (SELECT c.id FROM chunk c LEFT JOIN ("
        f" SELECT chunk, idx, count(DISTINCT dev) AS copies FROM page WHERE dev IN ({devices}) GROUP BY chunk, idx"
        " ) p ON p.chunk=c.id GROUP BY c.id, c.copies, c.len"
        f" HAVING count(p.idx)<(c.len+{PAGE_PAYLOAD - 1})/{PAGE_PAYLOAD} OR min(p.copies)<c.copies)"
    ).fetchone()
    return int(row[0])


def _counts(connection: sqlite3.Connection) -> dict[str, int]:
    tables = {
        "buckets": "bucket",
        "entries": "entry",
        "nodes": "node",
        "maps": "map",
        "chunks": "chunk",
        "pages": "page",
        "uploads": "upload",
    }
    return {name: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for name, table in tables.items()}


# ---------------------------------------------------------------------- what may only look wrong

_UNLINKED: Final = "SELECT id FROM node WHERE links=0"
_HOLLOW: Final = (
    f"SELECT id FROM node WHERE flags & {IMPLIED} AND NOT EXISTS (SELECT 1 FROM entry WHERE parent=node.id)"
)


async def _unsettled(engine: Engine, connection: sqlite3.Connection, held: frozenset[int]) -> list[Problem]:
    """Unlinked nodes and empty implied directories that nobody holds, and that were not about to be reaped."""
    doubtful = [
        (kind, node, text)
        for kind, sql, text in (
            ("unlinked", _UNLINKED, "has no name and nobody holds it"),
            ("implied", _HOLLOW, "is a directory that nothing implies any more"),
        )
        for node in await engine.lanes.call(_ids, connection, sql)
        if node not in held
    ]
    if not doubtful:
        return []
    await engine.settle()
    now_held = engine.held_nodes()
    still = set(_ids(engine.reader, _UNLINKED)) | set(_ids(engine.reader, _HOLLOW))
    return [
        Problem(kind, f"node {node}", text) for kind, node, text in doubtful if node in still and node not in now_held
    ][:SHOWN_MAX]


def _ids(connection: sqlite3.Connection, sql: str) -> list[int]:
    return [row[0] for row in connection.execute(sql).fetchall()]


# ---------------------------------------------------------------------- free space


async def _space(engine: Engine, connection: sqlite3.Connection) -> list[Problem] | None:
    """I7 on every device, at a moment without commits; None when there was none."""
    for _ in range(QUIET_TRIES):
        await engine.settle()
        before = engine.ring.seq
        found = await engine.lanes.call(check_space, connection, engine.pool)
        # A commit whose rows are in but whose reservations still stand counts once: only a finished one disturbs
        if found is not None and engine.ring.seq == before and catalogue.applied_seq(connection) == before:
            return found
    return None


def check_space(connection: sqlite3.Connection, pool: Pool) -> list[Problem] | None:
    """Free space = zone - rows - held (I7), for each device; None if the allocator moved meanwhile."""
    found: list[Problem] = []
    allocator = pool.allocator
    for device in pool.devices.values():
        free = allocator.free(device.id)
        held = allocator.held(device.id)
        rows = connection.execute("SELECT off, len FROM page WHERE dev=?", (device.id,)).fetchall()
        if allocator.free(device.id) != free or allocator.held(device.id) != held:
            return None
        claimed = sum(end - start for start, end in _spans(rows, held))
        size = device.geometry.pages_end - device.geometry.pages_start
        if free + claimed != size:
            text = f"{free} bytes are free and {claimed} claimed, of {size}"
            found.append(Problem("space", f"device {device.id}", text))
    return found


def _spans(rows: Sequence[tuple[int, int]], held: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, length in merge(sorted([*rows, *held])):
        yield start, start + length


# ---------------------------------------------------------------------- every byte


class _Proof:
    """Reads every copy of every page, in the order of the device (kind to HDDs), a few at a time."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._todo: list[tuple[PageRef, int]] = []
        self.problems: list[Problem] = []
        self.verified = 0
        self.damaged: dict[int, int] = {}
        self.unreadable: dict[int, int] = {}

    def steps(self, connection: sqlite3.Connection) -> Iterator[tuple[int, int]]:
        """(done, total) before each `step`."""
        self._pool.forget_headers()  # the devices' own word
        total = connection.execute("SELECT count(*) FROM page").fetchone()[0]
        cursor = connection.execute(
            "SELECT p.dev, p.off, p.len, p.idx, p.hsum, c.len FROM page p JOIN chunk c ON c.id=p.chunk"
            " ORDER BY p.dev, p.off"
        )
        done = 0
        while rows := cursor.fetchmany(PAGES_STEP):
            self._todo = [(PageRef(*row[:5]), min(PAGE_PAYLOAD, row[5] - row[3] * PAGE_PAYLOAD)) for row in rows]
            yield done, total
            done += len(rows)

    def step(self) -> None:
        """Blocks: some pages are read."""
        for ref, payload in self._todo:
            self._prove(ref, payload, "page")

    def _prove(self, ref: PageRef, payload: int, kind: str) -> None:
        device = self._pool.devices.get(ref.device)
        if device is None or device.device is None:
            return  # counted by `under_replicated`
        try:
            with scratch(page_room(0, MIB)) as room:
                for low in range(0, payload, MIB):
                    self._pool.read_page_part(ref, low, min(low + MIB, payload), room)
        except DamagedError as error:
            device.checksum_errors += 1
            self.damaged[ref.device] = self.damaged.get(ref.device, 0) + 1
            self._tell("damaged", f"{kind} {ref.device}:{ref.offset}", str(error))
        except OSError as error:
            device.read_errors += 1
            self.unreadable[ref.device] = self.unreadable.get(ref.device, 0) + 1
            self._tell("unreadable", f"{kind} {ref.device}:{ref.offset}", str(error))
        else:
            self.verified += 1

    def _tell(self, kind: str, where: str, text: str) -> None:
        if len(self.problems) < SHOWN_MAX:
            self.problems.append(Problem(kind, where, text))

    def check_snapshot(self) -> None:
        """The catalogue's snapshot: both copies of its index and pages.  One that is replaced meanwhile is let go."""
        pool = self._pool
        pointer = pool.snapshot
        if pointer is None:
            return
        kept = self.verified, dict(self.damaged), dict(self.unreadable), list(self.problems)
        for number, offset, length, hsum in pointer.pages:
            self._prove(PageRef(number, offset, length, 0, hsum), pointer.length, "snapshot index")
        try:
            index = snapshot.read_index(pool, pointer)
        except (StoreError, DamagedError) as error:
            self._tell("damaged", "snapshot index", str(error))
        else:
            for item in index.pages:
                payload = min(PAGE_PAYLOAD, index.length - item.index * PAGE_PAYLOAD)
                self._prove(
                    PageRef(item.device, item.offset, item.length, item.index, item.hsum), payload, "snapshot page"
                )
        if pool.snapshot is not pointer:
            self.verified, self.damaged, self.unreadable, self.problems = kept
