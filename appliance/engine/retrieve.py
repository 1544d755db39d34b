"""The read path: look up, plan, read, verify.

A `Reader` resolves its whole plan, down to pages, at one moment on the loop, under a pin: from then on no deletion or
overwrite can touch what it will read (I11, H4); plan.py says how a long one keeps that word.  Bytes leave only after
their block matched its digest in this read, or from memory that was filled by such a read or by the commit itself (H3).
"""

from __future__ import annotations

import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import outcome

from appliance.catalogue.content import INLINE, MAPPED, WHOLE, inline_bytes, require_body
from appliance.device.buffers import scratch
from appliance.device.lanes import CallLanes
from appliance.engine.places import Place, places
from appliance.engine.plan import LongPlan, LongReads, Step, cut, steps_of
from appliance.engine.pool import PageRef, Pool, page_room
from appliance.errors import Code, StoreError
from appliance.limits import BLOCK, BODY_CACHE, GATHER_MAX, KIB, MIB, PLAN_WINDOW, STREAM_PIECE
from appliance.model import Node
from appliance.ondisk.page import extent_length

_ZEROS = memoryview(bytes(MIB))
SMALL_EXTENT: Final = extent_length(GATHER_MAX)  # longer extents have the long header and blocks of their own
RANGE_KEPT_MAX: Final = 256 * KIB  # ranges up to this leave their blocks in memory; streams would only flush it out
PROVEN_MAX: Final = 4096  # nodes whose sums are not asked again


type_key = int | tuple[bytes, int]


class BodyCache:
    """Verified bytes, least recently used out first: whole small chunks by id, blocks of long pages by the page's
    header sum and their number.  Neither ever changes, and neither key ever returns with other bytes."""

    def __init__(self, limit: int = BODY_CACHE) -> None:
        self._bodies: OrderedDict[type_key, bytes] = OrderedDict()
        self._limit = limit
        self._lock = threading.Lock()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, key: type_key) -> bytes | None:
        """The bytes, if remembered."""
        with self._lock:
            data = self._bodies.get(key)
            if data is None:
                self.misses += 1
                return None
            self._bodies.move_to_end(key)
            self.hits += 1
            return data

    def put(self, key: type_key, data: bytes) -> None:
        """Remembers bytes that were verified, or that the commit itself wrote."""
        if len(data) > GATHER_MAX:
            return
        with self._lock:
            old = self._bodies.pop(key, None)
            self._bodies[key] = data
            self.bytes += len(data) - (len(old) if old is not None else 0)
            while self.bytes > self._limit:
                _, gone = self._bodies.popitem(last=False)
                self.bytes -= len(gone)

    def drop(self, chunk: int) -> None:
        """Forgets one."""
        with self._lock:
            data = self._bodies.pop(chunk, None)
            if data is not None:
                self.bytes -= len(data)

    def clear(self) -> None:
        """Forgets all: a test or a scrub wants the devices' own word."""
        with self._lock:
            self._bodies.clear()
            self.bytes = 0


class Pins:
    """Which states readers still look at: freed pages wait for them (I5, I11)."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._lock = threading.Lock()

    def pin(self, seq: int) -> int:
        """A reader of a state no older than batch `seq`."""
        with self._lock:
            self._counts[seq] = self._counts.get(seq, 0) + 1
        return seq

    def unpin(self, seq: int) -> None:
        """The reader is done."""
        with self._lock:
            left = self._counts[seq] - 1
            if left:
                self._counts[seq] = left
            else:
                del self._counts[seq]

    def oldest(self, now: int) -> int:
        """The oldest state that is looked at; `now` if none."""
        with self._lock:
            return min(self._counts, default=now)


class Retrieval:
    """What all readers share."""

    def __init__(
        self,
        pool: Pool,
        lanes: CallLanes,
        connection: sqlite3.Connection,
        connect: Callable[[], sqlite3.Connection],
    ) -> None:
        self.pool = pool
        self.lanes = lanes
        self.cache = BodyCache()
        self.pins = Pins()
        self._proven: dict[int, Node] = {}
        self.long = LongReads(connect, pool.preferred)
        self._execute = connection.execute
        self.unpinned: Callable[[], None] = lambda: None  # the engine releases what waited
        self.unread: Callable[[int], None] = lambda node: None  # ... and reaps a node that was kept for a long reader

    def require(self, node: Node) -> None:
        """That a node's row names its own bytes, asked once of the very same node in memory.  Raises DAMAGED."""
        if self._proven.get(node.id) is not node:
            require_body(node.id, node.kind, node.ref, node.size, node.dsum)
            if len(self._proven) >= PROVEN_MAX:
                self._proven.clear()
            self._proven[node.id] = node

    def every(self, sql: str, parameters: tuple[object, ...]) -> list[tuple[int, ...]]:
        """Rows from the loop's own connection."""
        return self._execute(sql, parameters).fetchall()

    def begin(self) -> None:
        """One state for the statements up to `end`."""
        self._execute("BEGIN")

    def end(self) -> None:
        """Ends it."""
        self._execute("COMMIT")

    def plan(self, kind: int, ref: int, start: int, end: int) -> list[Step]:
        """Steps that cover [start, end) of a content of kind CHUNK or MAP."""
        return steps_of(self.every, self.pool.preferred, kind, ref, start, end)

    def read_pages(self, pages: dict[int, list[PageRef]], start: int, length: int) -> bytes:
        """Bytes of a chunk by its pages, verified; blocks."""
        parts = []
        with scratch(MIB + page_room(0, 1)) as room:
            for step in cut(pages, start, length):
                for low in range(step.start, step.start + step.length, MIB):
                    high = min(low + MIB, step.start + step.length)
                    parts.append(bytes(self.pool.read_any(step.copies, low, high, room)))
        return b"".join(parts)


class Reader:
    """`store.Reader`.  Made on the loop; `pieces` may run in any one thread."""

    def __init__(
        self, retrieval: Retrieval, node: Node, start: int, length: int, seq: int, customer: bytes | None = None
    ) -> None:
        assert 0 <= start <= start + length <= node.size, "the range lies within the object"
        self.length = length
        self._retrieval = retrieval
        self._start = start
        self._data: bytes | None = None
        self._steps: list[Step] = []
        self._long: LongPlan | None = None
        self._begun = False  # the long plan is heeded
        self._node = node.id
        self._generation = node.generation
        self._looked = seq  # the newest batch of which it is known that the node still stood
        self._whole_chunk = 0
        self._pin: int | None = None
        self._customer = customer  # what only that key opens is never remembered
        if length == 0:
            self._data = b""
        elif node.kind == INLINE:
            data = inline_bytes(node)[start : start + length]
            self._data = data if len(data) == length else data + bytes(length - len(data))
        elif node.kind in (WHOLE, MAPPED):
            retrieval.require(node)
            if node.kind == WHOLE and node.size <= GATHER_MAX and customer is None:
                cached = retrieval.cache.get(node.ref)
                if cached is not None:
                    whole = start == 0 and length == len(cached)
                    part = cached if whole else cached[start : start + length]
                    self._data = part if len(part) == length else part + bytes(length - len(part))
                    return
                if length == node.size:  # the start alone must never be remembered as the whole
                    self._whole_chunk = node.ref
            self._pin = retrieval.pins.pin(seq)
            try:
                self._plan(node)
            except BaseException:
                self.close()
                raise
            if not self._whole_chunk and length <= RANGE_KEPT_MAX and customer is None:
                self._data = self._remembered()
        else:
            self._steps = [Step(length, 0, [])]

    def _plan(self, node: Node) -> None:
        """In one read transaction: the node as it was given must still be the node."""
        retrieval = self._retrieval
        retrieval.begin()
        try:
            current = retrieval.every("SELECT generation FROM node WHERE id=?", (node.id,))
            if not current or current[0][0] != node.generation:
                raise StoreError(Code.NO_SUCH_NODE, "the object was replaced meanwhile")
            self._plan_now(node)
        finally:
            retrieval.end()

    def _plan_now(self, node: Node) -> None:
        if self.length > PLAN_WINDOW and node.kind == MAPPED:
            self._long = LongPlan(node.id, self._start, self._start + self.length)
        else:
            self._steps = self._retrieval.plan(node.kind, node.ref, self._start, self._start + self.length)

    def _remembered(self) -> bytes | None:
        """The range from remembered blocks, if they are all there."""
        cache = self._retrieval.cache
        parts: list[bytes | memoryview] = []
        for step in self._steps:
            if not step.copies:
                here = step.here
                parts.append(_ZEROS[: step.length] if here is None else here)
                continue
            end = step.start + step.length
            for block in range(step.start // BLOCK, -(-end // BLOCK)):
                data = cache.get((step.copies[0].hsum, block))
                if data is None:
                    return None
                base = block * BLOCK
                parts.append(memoryview(data)[max(step.start - base, 0) : end - base])
        return b"".join(parts)

    def _read_kept(self) -> bytes:
        """The range by whole blocks, which are remembered for the next reader near by."""
        pool, cache = self._retrieval.pool, self._retrieval.cache
        parts: list[bytes | memoryview] = []
        for step in self._steps:
            if not step.copies:
                here = step.here
                parts.append(_ZEROS[: step.length] if here is None else here)
                continue
            end = step.start + step.length
            is_long = step.copies[0].length > SMALL_EXTENT
            with scratch(page_room(step.start, end)) as room:
                view = pool.read_any(step.copies, step.start, end, room, whole_blocks=is_long, customer=self._customer)
                if not is_long:
                    parts.append(bytes(view))
                    continue
                low = step.start // BLOCK * BLOCK
                for at in range(0, len(view), BLOCK):
                    data = bytes(view[at : at + BLOCK])
                    if self._customer is None:
                        cache.put((step.copies[0].hsum, (low + at) // BLOCK), data)
                    base = low + at
                    parts.append(memoryview(data)[max(step.start - base, 0) : end - base])
        return parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)

    def ready(self) -> bytes | None:
        """The range, if memory has it."""
        return self._data

    async def begin(self) -> None:
        """Before the pieces of a long range: waits for the batch under way.  Without it `pieces` begins.

        Raises NO_SUCH_NODE when the node was replaced since it was looked up, and is closed then: look it up again.
        """
        if self._long is None or self._begun:
            return
        try:
            await self._retrieval.lanes.call(self._begin_now)
        except BaseException:
            self.close()
            raise

    def _begin_now(self) -> None:
        assert self._long is not None
        assert self._pin is not None, "the reader is open"
        self._retrieval.long.begin(self._long, self._generation)
        self._begun = True

    def _all_steps(self) -> Iterator[Step]:
        if self._long is None:
            yield from self._steps
            return
        if not self._begun:
            self._begin_now()
        for window in self._long.windows(self._retrieval.long):
            yield from window

    async def read(self) -> bytes:
        """The range as bytes: one hop."""
        if self._data is not None:
            return self._data
        return await self._retrieval.lanes.call(self.read_now)

    def read_now(self) -> bytes:
        """The range as bytes; blocks."""
        if self._data is not None:
            return self._data
        if self.length <= RANGE_KEPT_MAX:
            data = self._read_kept()
        else:
            data = b"".join(bytes(view) for view in self.pieces())
        if self._whole_chunk:
            self._retrieval.cache.put(self._whole_chunk, data)
        return data

    def start(self, use: Callable[[bytes | memoryview], object], done: Callable[[outcome.Outcome[None]], None]) -> None:
        """`use` of the range in a thread, in one piece of memory that is valid until it returns; then, on the loop,
        `done` of how it ended.  Only then may it be closed."""
        self._retrieval.lanes.start(partial(self._use_now, use), done)

    def locate(self, done: Callable[[outcome.Outcome[list[Place]]], None]) -> None:
        """Where the range lies (`places`), found in a thread; then, on the loop, `done`.  It is true until this is
        closed, and it may be closed only then."""
        assert self._long is None, "what is planned by windows is told by windows"
        self._retrieval.lanes.start(partial(places, self._retrieval.pool, self._steps, self._start), done)

    def stands(self, shown: int) -> bool:
        """Whether the node is still what it was when this was made, seen after the batch `shown`.  On the loop."""
        if shown != self._looked:
            rows = self._retrieval.every("SELECT generation FROM node WHERE id=?", (self._node,))
            if not rows or rows[0][0] != self._generation:
                return False
            self._looked = shown
        return True

    def _use_now(self, use: Callable[[bytes | memoryview], object]) -> None:
        if self._data is None and self._long is None and len(self._steps) == 1 and self.length > RANGE_KEPT_MAX:
            (step,) = self._steps
            if step.copies:  # straight from where the device put it
                end = step.start + step.length
                with scratch(page_room(step.start, end)) as room:
                    use(self._retrieval.pool.read_any(step.copies, step.start, end, room, customer=self._customer))
                return
        use(self.read_now())

    def pieces(self) -> Iterator[memoryview]:
        """Verified views of at most limits.STREAM_PIECE bytes, each valid until the next step; blocks."""
        if self._data is not None:
            if self._data:
                yield memoryview(self._data)
            return
        pool = self._retrieval.pool
        with scratch(STREAM_PIECE + page_room(0, 1)) as room:
            for step in self._all_steps():
                done = 0
                while done < step.length:
                    low = step.start + done
                    count = min(step.length - done, STREAM_PIECE - low % STREAM_PIECE if step.copies else len(_ZEROS))
                    here = step.here
                    if step.copies:
                        yield pool.read_any(step.copies, low, low + count, room, customer=self._customer)
                    elif here is not None:
                        yield here[done : done + count]
                    else:
                        yield _ZEROS[:count]
                    done += count

    def close(self) -> None:
        """Lets go of the pin."""
        if self._pin is not None:
            pin, self._pin = self._pin, None
            if self._begun:
                assert self._long is not None
                self._retrieval.long.end(self._long)
                self._retrieval.unread(self._long.node)
            self._retrieval.pins.unpin(pin)
            self._retrieval.unpinned()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
