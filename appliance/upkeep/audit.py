"""The audit: do catalogue, free map and devices tell one story?

Every count that the catalogue keeps is counted again from what it counts; every reference is followed; every extent is
laid beside its neighbours, its device's zones and the allocator's word (I7).  With `verify` every copy of every page is
read and checked block by block.  An audit never repairs: it says what is wrong, and in which structure.

`checks.check_catalogue` is a plain function of one connection in one read transaction; `check_space` of rows and the
allocator; `audit` joins them over a live store.  There it looks at one state while work goes on: pages of that state
are pinned (I11), and what only looks wrong because a commit is on its way (a node that was just released) is looked
at again before it is reported.  The comparison of free space needs a moment without commits; if there is none, the
report says that it was not made.

It deliberately knows nothing of repair, of scheduling, and of who asked.
"""

from __future__ import annotations

import itertools
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from appliance.catalogue import database as catalogue
from appliance.catalogue import names
from appliance.catalogue.content import data_sum, require_body
from appliance.catalogue.proven import is_proven
from appliance.catalogue.schema import BY_NUMBER, NODE, SUMS
from appliance.device.buffers import scratch
from appliance.engine import snapshot
from appliance.engine.engine import Engine
from appliance.engine.pool import PageRef, Pool, page_room
from appliance.errors import StoreError
from appliance.limits import MIB, PAGE_PAYLOAD
from appliance.model import IMPLIED, MARKER, NULL_VERSION, Frozen
from appliance.ondisk import page
from appliance.ondisk.damaged import DamagedError
from appliance.ondisk.geometry import UNIT, Geometry
from appliance.space.extent import merge
from appliance.upkeep.checks import CHECKS, SHOWN_MAX, Problem, run

PAGES_STEP: Final = 64  # pages read between two words of progress: at most 256 MiB
QUIET_TRIES: Final = 20  # attempts at a moment without commits

Report = Callable[[Mapping[str, Any]], None]
"""Takes one line of progress, as {"stage": "pages", "done": 10, "total": 200}."""


class AuditReport(Frozen, frozen=True):
    """What an audit found.

    `degraded` says which devices are missing or take no writes, and that copies are not full: no contradiction, but the
    pool is not healthy.  `under_replicated` chunks have fewer copies than they should on devices that work.
    `damaged` and `unreadable` count page copies by device number (only with `verify`).
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
    degraded: tuple[Problem, ...]

    @property
    def clean(self) -> bool:
        """No contradiction, and no damage where it was looked for."""
        return not self.problems

    @property
    def healthy(self) -> bool:
        """Clean, every device works, and every chunk has all its copies."""
        return self.clean and not self.degraded

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values: counts by name, problems as texts."""
        values: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        values["problems"] = [str(problem) for problem in self.problems]
        values["degraded"] = [str(problem) for problem in self.degraded]
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
    pin = engine.retrieval.pins.pin(engine.shown)  # before the state is taken: its pages stay (I11)
    connection = catalogue.connect(_file_of(engine.reader), read_only=True)
    try:
        connection.execute("BEGIN")
        seq = catalogue.applied_seq(connection)
        progress({"stage": "catalogue", "done": 0, "total": len(CHECKS)})
        found: list[Problem] = []
        for number, check in enumerate(CHECKS, 1):
            found += await engine.lanes.call(run, check, connection)
            progress({"stage": "catalogue", "done": number, "total": len(CHECKS)})
        geometries = {device.id: device.geometry for device in engine.pool.devices.values()}
        found += await engine.lanes.call(check_extents, connection, geometries)
        found += await engine.lanes.call(check_sums, connection)
        found += await engine.lanes.call(check_newest, connection)
        found += await _unsettled(engine, connection, held)
        online = {device.id for device in engine.pool.devices.values() if device.online}
        short = await engine.lanes.call(under_replicated, connection, online)
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
        degraded=tuple(_degraded(engine.pool, short)),
    )


def _degraded(pool: Pool, short: int) -> Iterator[Problem]:
    """What keeps a pool without contradictions from being healthy."""
    for device in pool.devices.values():
        where = f"device {device.id} ({device.path})"
        if device.state == "failed":
            yield Problem("failed", where, "takes no more writes until the box is started again; see the log for why")
        elif not device.online:
            yield Problem("missing", where, "is not attached")
    if short:
        yield Problem("copies", f"{short} chunks", "have fewer copies than their buckets want on devices that work")


def _file_of(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA database_list").fetchone()[2])


# ---------------------------------------------------------------------- extents and copies


def check_sums(connection: sqlite3.Connection) -> list[Problem]:
    """Rows that lead on, against their sums."""
    found: list[Problem] = []
    for table in (BY_NUMBER[number] for number in SUMS):
        for row in connection.execute(f"SELECT {', '.join(table.columns)} FROM {table.name}"):
            sound = is_proven(table, row)
            if sound and table is NODE:
                sound = _names_its_bytes(row)
            if not sound:
                where = f"{table.name} {'/'.join(map(str, row[: table.key]))}"
                found.append(Problem("sum", where, "does not match its sum"))
    for chunk, data, total in connection.execute("SELECT chunk, data, dsum FROM patch"):
        if total != data_sum(data):
            found.append(Problem("sum", f"patch {chunk}", "does not match its sum"))
    return found[:SHOWN_MAX]


def _names_its_bytes(row: tuple[Any, ...]) -> bool:
    """Whether a node's row, which is proven, names its own bytes."""
    node = names.node_of(row)
    try:
        require_body(node.id, node.kind, node.ref, node.size, node.dsum)
    except StoreError:
        return False
    return True


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


def check_newest(connection: sqlite3.Connection) -> list[Problem]:
    """What a key is now, against its row of the newest version: the entry is newer, or there is none and it is a
    delete marker; and only one version of a key is null."""
    found: list[Problem] = []
    roots = dict(connection.execute("SELECT id, root FROM bucket").fetchall())
    directories = names.DirectoryCache()

    def one(sql: str, parameters: tuple[Any, ...]) -> Any:
        return connection.execute(sql, parameters).fetchone()

    for bucket, key, newest, nulls in connection.execute(
        f"SELECT bucket, key, max(version), sum(flags & {NULL_VERSION} <> 0) FROM version GROUP BY bucket, key"
    ):
        if len(found) >= SHOWN_MAX:
            found.append(Problem("version", "versions", f"more than {SHOWN_MAX} such problems"))
            break
        path, name = names.split(key)
        where = f"key {key!r} of bucket {bucket}"
        try:
            parent = names.find_parent(one, directories, roots.get(bucket, 0), path)
            node = names.node_at(one, parent, name) if parent is not None else None
        except StoreError as error:
            found.append(Problem("entry", where, f"{error.message}: {error.cause}"))
            continue
        if node is None or not stat.S_ISREG(node.mode):
            row = one("SELECT flags FROM version WHERE bucket=? AND key=? AND version=?", (bucket, key, newest))
            if not row[0] & MARKER:
                found.append(Problem("version", where, f"is not there, and version {newest} is no delete marker"))
        elif node.version <= newest:
            found.append(Problem("version", where, f"is version {node.version}, and there is version {newest}"))
        elif nulls and node.flags & NULL_VERSION:
            found.append(Problem("version", where, "has two null versions"))
    return found


def under_replicated(connection: sqlite3.Connection, here: Iterable[int]) -> int:
    """Chunks of which some part has fewer copies than wanted on the devices named."""
    devices = ",".join(str(number) for number in sorted(here)) or "NULL"
    row = connection.execute(
        "SELECT count(*) FROM (SELECT c.id FROM chunk c LEFT JOIN ("
        f" SELECT chunk, idx, count(DISTINCT dev) AS copies FROM page WHERE dev IN ({devices}) GROUP BY chunk, idx"
        " ) p ON p.chunk=c.id WHERE c.id NOT IN (SELECT chunk FROM patch) GROUP BY c.id, c.copies, c.len"
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
            "SELECT p.dev, p.off, p.len, p.idx, p.hsum, p.chunk, c.len FROM page p JOIN chunk c ON c.id=p.chunk"
            " ORDER BY p.dev, p.off"
        )
        done = 0
        while rows := cursor.fetchmany(PAGES_STEP):
            self._todo = [(PageRef(*row[:6]), min(PAGE_PAYLOAD, row[6] - row[3] * PAGE_PAYLOAD)) for row in rows]
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
                    self._pool.read_page_part(ref, low, min(low + MIB, payload), room, in_clear=False)
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
            levels = snapshot.indexes(pool, pointer)
        except (StoreError, DamagedError) as error:
            self._tell("damaged", "snapshot index", str(error))
        else:
            for item in itertools.chain.from_iterable(level.pages for level in levels):
                ref = PageRef(item.device, item.offset, item.length, item.index, item.hsum)
                self._prove(ref, item.payload, "snapshot page")
        if pool.snapshot is not pointer:
            self.verified, self.damaged, self.unreadable, self.problems = kept
