"""Folding: files that were changed in many small places get whole chunks again, in the background.

Three things wear a file's map out, and one movement mends all of them: bytes are read, verified, written as one new
chunk, and slices that still are what was read are replaced by slices of it (catalogue/folding.py).

    patches          small changes that only the catalogue and the journal hold: gathered, each its own slice
    dying chunks     of which this map uses the smaller part and nobody else any: what lives is gathered, the rest freed
    crumbs           windows of 8 MiB with many small neighbours: each run of neighbours becomes one slice

A map is looked at when it has rested for IDLE seconds, and while it does not when its patches pass a bound; a sweep
finds those that a restart forgot.  It holds one chunk's bytes at a time, rests after each piece of work until nobody is
being served (but for patches that are too many), and waits for no lock: what a writer changed meanwhile stays as the
writer left it.

Deliberately unknown here: nodes, names, versions.  What only a customer's key opens is left as it is.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import trio

from appliance.catalogue.commands import FoldMap
from appliance.catalogue.content import WHOLE, patch_data
from appliance.catalogue.proven import damaged
from appliance.catalogue.schema import slice_sum
from appliance.device.buffers import scratch
from appliance.engine.plan import cut, pages_of
from appliance.engine.pool import PageRef, page_room
from appliance.errors import Code, StoreError
from appliance.limits import BLOCK, CHUNK_SIZE, KIB, MIB, MOVE_CEILING, PATCHES_MAX, WRITE_CEILING
from appliance.model import CUSTOMER, Bucket, NewSlice
from appliance.upkeep.calm import calm

if TYPE_CHECKING:
    from appliance.store import ObjectStore

log = logging.getLogger(__name__)

IDLE: Final = 10.0  # seconds without a change
TICK: Final = 1.0
REST: Final = 60.0  # after an error
PACE: Final = 3.0  # seconds of rest for each second of work
SWEEP_FIRST: Final = 30.0  # seconds after the start
SWEEP: Final = 86_400.0
PATCHED_MAX: Final = 4 * MIB  # of one map: folded though it is being written
PRESSED: Final = PATCHES_MAX // 2  # of all patches: from here on nobody waits until he is idle
SLICES_MAX: Final = 256  # of one piece of work: some 8 ms of the writer
CRUMB: Final = 1 * MIB  # a longer slice is no crumb
JOINS_MIN: Final = 64  # small neighbours in one window of 8 MiB that are worth rewriting it ...
JOIN_BYTES: Final = 128 * KIB  # ... and for each of them so much may be rewritten, where they are fewer
DEAD_MIN: Final = 64 * KIB  # of a chunk: for less nothing is moved
ROWS: Final = 256  # slices looked at in one go: a millisecond of Python
COUNTED_MAX: Final = 100_000  # slices of a map whose chunks' use is counted: 100 ms

_SLICES: Final = (
    "SELECT s.off, s.len, s.kind, s.ref, s.roff, s.sum, c.key, c.copies,"
    " CASE WHEN s.ref>=?3 THEN EXISTS (SELECT 1 FROM patch p WHERE p.chunk=s.ref) ELSE 0 END"
    " FROM slice s LEFT JOIN chunk c ON c.id=s.ref AND s.kind=2 WHERE s.map=?1 AND s.off>=?2 ORDER BY s.off LIMIT ?4"
)
_DYING: Final = (
    "SELECT s.ref FROM slice s JOIN chunk c ON c.id=s.ref WHERE s.map=?1 AND s.kind=2 GROUP BY s.ref"
    " HAVING count(*)=c.refs AND 2*sum(s.len)<c.len AND c.len-sum(s.len)>=?2"
)
_OLDEST_PATCH: Final = "SELECT coalesce(min(chunk), 9223372036854775807) FROM patch"
_WORN: Final = (
    "SELECT m.id, (SELECT count(*) FROM slice s WHERE s.map=m.id AND s.len<?3)>=?4"
    " OR EXISTS (SELECT 1 FROM slice s WHERE s.map=m.id AND s.ref>=?2"
    " AND EXISTS (SELECT 1 FROM patch p WHERE p.chunk=s.ref))"
    " FROM map m WHERE m.id>?1 AND m.composed=0 ORDER BY m.id LIMIT 64"
)

type_every = Callable[..., list[Any]]


class Piece(NamedTuple):
    """One slice that is to have another chunk."""

    slice: NewSlice
    copies: int
    sealed: bool
    patch: bool


class Work(NamedTuple):
    """Pieces of one new chunk, in order."""

    pieces: list[Piece]

    @property
    def length(self) -> int:
        return sum(piece.slice.length for piece in self.pieces)


class Plan(NamedTuple):
    """What is to be done about some slices of a map."""

    works: list[Work]
    waiting: list[Piece]  # to be gathered, but they do not fill a chunk yet
    position: int  # where the next slices begin; -1: there are none


async def run_folding(store: ObjectStore) -> None:
    """Until cancelled."""
    folder = Folder(store, calm=calm)
    next_sweep = trio.current_time() + SWEEP_FIRST
    while True:
        await trio.sleep(TICK)
        try:
            if trio.current_time() >= next_sweep:
                await folder.sweep()
                next_sweep = trio.current_time() + SWEEP
            await folder.round()
        except StoreError as error:  # a full or broken pool: what it still serves must not end with its upkeep
            log.info("folding rests for %d s: %r", REST, error)
            await trio.sleep(REST)


class Folder:
    """Mends maps, one at a time."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        idle: float = IDLE,
        pace: float = PACE,
        calm: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        """`calm` returns when the next piece of work may begin."""
        self._calm = calm
        self._store = store
        self._engine = store.engine
        self._idle = idle
        self._pace = pace

    async def round(self) -> int:
        """Every map that is due; how many.  Raises what reading and committing raise, but for one map's damage."""
        worn = self._engine.worn
        try:
            done = await self._every_due()
        except StoreError as error:
            worn.resting = error.message
            raise
        worn.resting = ""
        return done

    async def _every_due(self) -> int:
        worn, done = self._engine.worn, 0
        by_patches = sorted(worn.maps.items(), key=lambda item: -item[1].patched)
        for number, wear in by_patches:
            idle = worn.clock() - wear.last >= self._idle
            pressed = self._engine.committer.patched >= PRESSED  # it may become so while one long map is folded
            if not idle and wear.patched < PATCHED_MAX and not (pressed and wear.patched):
                continue
            if worn.maps.get(number) is not wear:
                continue  # another round has it
            del worn.maps[number]  # what is changed from now on counts anew
            done += 1
            try:
                await self.fold(number, self._bucket(wear.bucket), patches_only=not idle)
            except StoreError as error:
                if error.code is not Code.DAMAGED:
                    worn.note(number, wear.bucket, wear.patched)
                    raise
                log.error("map %d cannot be folded: %r", number, error)
            if not idle:
                worn.note(number, wear.bucket)  # its crumbs wait until it is idle
        return done

    async def sweep(self) -> int:
        """Notes every map that is worn, of all there are; how many."""
        found, after = 0, 0
        while True:
            rows: list[tuple[int, int]] = await self._engine.scans.call(self._store.snapshot, _sweep_step, after)
            if not rows:
                return found
            after = rows[-1][0]
            for number, is_worn in rows:
                if is_worn and number not in self._engine.worn.maps:
                    self._engine.worn.note(number)
                    found += 1
            await trio.sleep(0.01)

    async def fold(self, number: int, bucket: Bucket | None = None, *, patches_only: bool = False) -> int:
        """Mends one map; the bytes that were moved.  Raises DAMAGED, NO_SPACE, UNAVAILABLE, READ_ONLY, IO_ERROR."""
        dying: frozenset[int] = frozenset()
        if not patches_only:
            dying = await self._engine.scans.call(self._store.snapshot, _dying, number)
        moved = position = 0
        waiting: list[Piece] = []
        while position >= 0:
            started = trio.current_time()
            plan = await self._engine.scans.call(
                self._store.snapshot, _plan, number, position, dying, waiting, patches_only
            )
            position, waiting = plan.position, plan.waiting
            for work in (*plan.works, None):
                if work is not None:
                    moved += await self._do(number, bucket, work)
                await trio.sleep((trio.current_time() - started) * self._pace)
                if self._engine.committer.patched < PRESSED:
                    await self._calm()
                started = trio.current_time()
        if waiting:
            moved += await self._do(number, bucket, Work(waiting))
        return moved

    # ------------------------------------------------------------------ one new chunk
    async def _do(self, number: int, bucket: Bucket | None, work: Work) -> int:
        """Reads, writes, commits; the bytes that were replaced."""
        store, engine = self._store, self._engine
        copies = max(piece.copies for piece in work.pieces)
        home = Bucket(0, "", bucket.name if bucket is not None else "", 0, 0, "", copies)
        total, available = engine.space(copies)
        if available - work.length < total * (WRITE_CEILING - MOVE_CEILING):
            raise StoreError(Code.NO_SPACE, "the pool is too full to mend files")
        key = await store.data_key() if any(piece.sealed for piece in work.pieces) else None
        pin = engine.retrieval.pins.pin(engine.shown)  # before the state is looked at: its pages stay (I11)
        try:
            pieces, data = await engine.lanes.call(store.snapshot, self._collect, number, work.pieces)
            if not pieces:
                return 0
            chunk = await store.stage(home, [data], key)
        finally:
            engine.retrieval.pins.unpin(pin)
            engine.retrieval.unpinned()
        command = FoldMap(
            map=number,
            before=tuple(piece.slice for piece in pieces),
            chunk=chunk,
            slices=tuple(_joined(pieces, chunk.id)),
            copies=copies,
            label=home.label + b"\0",
        )
        try:
            held: int = await engine.submit(command).wait()
        except StoreError as error:
            if error.code is not Code.CONFLICT:
                raise
            log.debug("map %d is being written: folded another time", number)
            return 0
        return held

    def _collect(self, every: type_every, number: int, pieces: Sequence[Piece]) -> tuple[list[Piece], bytearray]:
        """Those of the pieces that are still what they were, and their bytes, one after the other."""
        pool = self._engine.pool
        still = [piece for piece in pieces if _stands(every, number, piece.slice)]
        image = bytearray(sum(piece.slice.length for piece in still))
        pages: dict[int, dict[int, list[PageRef]]] = {}
        wanted: list[tuple[list[PageRef], int, int, int]] = []  # copies, start in the page, end, place in the image
        at = 0
        for piece in still:
            _, length, chunk, start = msgspec.structs.astuple(piece.slice)
            if piece.patch and (data := patch_data(every, chunk)) is not None:
                image[at : at + length] = data[start : start + length]
                at += length
                continue
            if chunk not in pages:
                pages[chunk] = pages_of(every, pool.preferred, chunk)
            for step in cut(pages[chunk], start, length):
                wanted.append((list(step.copies), step.start, step.start + step.length, at))
                at += step.length
        wanted.sort(key=lambda item: (item[0][0].device, item[0][0].offset, item[1]))
        with scratch(MIB + page_room(0, 1)) as room:
            for group in _near(wanted):
                low, high = group[0][1], max(end for _, _, end, _ in group)
                for base in range(low, high, MIB):  # only what lies in one piece is longer than one step
                    stop = min(base + MIB, high)
                    view = pool.read_any(group[0][0], base, stop, room)
                    for _, start, end, place in group:
                        first, last = max(start, base), min(end, stop)
                        if first < last:
                            image[place + first - start : place + last - start] = view[first - base : last - base]
        return still, image

    def _bucket(self, number: int) -> Bucket | None:
        return next((bucket for bucket in self._store.buckets() if bucket.id == number), None)


# ---------------------------------------------------------------------- looking, in one state of the catalogue


def _plan(
    every: type_every,
    number: int,
    position: int,
    dying: frozenset[int],
    waiting: list[Piece],
    patches_only: bool,
) -> Plan:
    """For the next slices of a map; no work for the loop's thread.  Raises DAMAGED."""
    rows = _look(every, number, position)
    still = list(waiting)
    works = list(_works(rows, dying, still, patches_only=patches_only))
    return Plan(works, still, rows[-1][0] + 1 if len(rows) == ROWS else -1)


def _look(every: type_every, number: int, position: int) -> list[tuple[Any, ...]]:
    """The next slices of a map.  Raises DAMAGED."""
    ((oldest,),) = every(_OLDEST_PATCH, ())
    rows = every(_SLICES, (number, position, oldest, ROWS))
    for offset, length, kind, ref, start, total, *_ in rows:
        if total and total != slice_sum(number, offset, length, kind, ref, start):
            raise damaged(f"slice {number}+{offset}")
    return rows


def _stands(every: type_every, number: int, piece: NewSlice) -> bool:
    rows = every("SELECT ref, roff, len FROM slice WHERE map=? AND off=?", (number, piece.offset))
    return rows == [(piece.chunk, piece.start, piece.length)]


def _dying(every: type_every, number: int) -> frozenset[int]:
    """Of a map of bounded length: the one thread of scans must not be held for long."""
    ((count,),) = every("SELECT count(*) FROM (SELECT 1 FROM slice WHERE map=? LIMIT ?)", (number, COUNTED_MAX + 1))
    if count > COUNTED_MAX:
        return frozenset()
    return frozenset(row[0] for row in every(_DYING, (number, DEAD_MIN)))


def _sweep_step(every: type_every, after: int) -> list[tuple[int, int]]:
    ((oldest,),) = every(_OLDEST_PATCH, ())
    return every(_WORN, (after, oldest, CRUMB, JOINS_MIN))


def _works(
    rows: Sequence[tuple[Any, ...]], dying: frozenset[int], waiting: list[Piece], *, patches_only: bool
) -> Iterator[Work]:
    """What is to be done about these slices.  Pieces to be gathered that do not fill a chunk yet stay in `waiting`."""
    for window in _windows(rows):
        pieces = [
            Piece(NewSlice(offset, length, ref, start), copies, key > 0, bool(patch))
            for offset, length, kind, ref, start, _, key, copies, patch in window
            if kind == WHOLE and key is not None and key != CUSTOMER
        ]
        crumbs = [piece for piece in pieces if piece.slice.length <= CRUMB]
        if not patches_only and sum(piece.slice.length for piece in crumbs) <= _joins(crumbs) * JOIN_BYTES and crumbs:
            yield from _filled(crumbs)
            continue
        for piece in pieces:
            if (piece.patch or piece.slice.chunk in dying) and piece.slice.length <= CHUNK_SIZE:
                if waiting and (
                    len(waiting) == SLICES_MAX
                    or sum(other.slice.length for other in waiting) + piece.slice.length > CHUNK_SIZE
                ):
                    yield Work(list(waiting))
                    waiting.clear()
                waiting.append(piece)


def _windows(rows: Sequence[tuple[Any, ...]]) -> Iterator[list[tuple[Any, ...]]]:
    """Slices by the 8 MiB of the file in which they begin."""
    window: list[tuple[Any, ...]] = []
    for row in rows:
        if window and row[0] // CHUNK_SIZE != window[0][0] // CHUNK_SIZE:
            yield window
            window = []
        window.append(row)
    if window:
        yield window


def _joins(pieces: Sequence[Piece]) -> int:
    """How many follow right behind another one and do not go on in its chunk."""
    return sum(
        _touches(before.slice, piece.slice) and before.slice.chunk != piece.slice.chunk
        for before, piece in itertools.pairwise(pieces)
    )


def _touches(before: NewSlice, after: NewSlice) -> bool:
    return before.offset + before.length == after.offset


def _filled(pieces: Sequence[Piece]) -> Iterator[Work]:
    """In as few chunks as the bounds allow."""
    some: list[Piece] = []
    held = 0
    for piece in pieces:
        if some and (len(some) == SLICES_MAX or held + piece.slice.length > CHUNK_SIZE):
            yield Work(some)
            some, held = [], 0
        some.append(piece)
        held += piece.slice.length
    if some:
        yield Work(some)


def _joined(pieces: Sequence[Piece], chunk: int) -> Iterator[NewSlice]:
    """The slices of the new chunk: neighbours in one."""
    start = length = at = 0
    for piece in pieces:
        if length and start + length == piece.slice.offset:
            length += piece.slice.length
            continue
        if length:
            yield NewSlice(start, length, chunk, at)
            at += length
        start, length = piece.slice.offset, piece.slice.length
    yield NewSlice(start, length, chunk, at)


def _near(
    wanted: Sequence[tuple[list[PageRef], int, int, int]],
) -> Iterator[list[tuple[list[PageRef], int, int, int]]]:
    """Ranges of one page that are best read together: less than a block lies between them, and all fit one step."""
    group: list[tuple[list[PageRef], int, int, int]] = []
    for item in wanted:
        if group:
            same = group[0][0][0] == item[0][0]
            if not same or item[1] - group[-1][2] >= BLOCK or item[2] - group[0][1] > MIB:
                yield group
                group = []
        group.append(item)
    if group:
        yield group
