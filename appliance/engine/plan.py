"""What a read takes from where: a content resolved down to copies of pages, all at once or window by window.

A read of up to limits.PLAN_WINDOW is planned whole, at one moment on the loop.  A longer one, which may have millions
of pages, is a `LongPlan`: it plans a window when it comes to it, in the reader's thread, from the catalogue as it is
then, and still gives the bytes of the state that it began with (I11, H4):

    its node stays: a commit that would remove a node asks `LongReads.reads` first and then keeps it, nameless
    its map stays: only a mounted file's writer changes a map in place, and `LongReads.keep` is called in that commit,
    before it does, with the range: the plan resolves it there and then, and prefers what it kept
    its pages stay: by the reader's pin, like everybody's

A file that is changed in place in too many places while it is read (KEPT_MAX) breaks that read; it never mixes states.

Deliberately unknown here: devices, buffers, verification.
"""

from __future__ import annotations

import sqlite3
import threading
from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from appliance.catalogue.content import EMPTY, MAPPED, WHOLE, flatten, patch_data, require_body
from appliance.catalogue.database import type_gathered
from appliance.catalogue.proven import held_until
from appliance.engine.pool import PageRef
from appliance.errors import Code, StoreError
from appliance.limits import PAGE_PAYLOAD, PLAN_WINDOW

_PAGES: Final = "SELECT dev, off, len, idx, hsum, chunk FROM page WHERE chunk=? ORDER BY idx, copy"
KEPT_MAX: Final = (
    16_384  # steps that a long plan keeps of what is changed before it was read: 10 MiB, or 64 GiB of file
)
KEPT_STEP: Final = 4096  # bytes of patches that count like one step

type_every = Callable[..., list[Any]]
type_prefer = Callable[[list[PageRef]], list[PageRef]]


class Step(NamedTuple):
    """`length` bytes: payload bytes from `start` on of one page, whose copies are `copies`; where it has none, bytes of
    `data` from `start` on; without any, zeros."""

    length: int
    start: int
    copies: Sequence[PageRef]
    data: bytes = b""

    @property
    def here(self) -> memoryview | None:
        """The bytes, if they are no page's and not zeros."""
        return memoryview(self.data)[self.start : self.start + self.length] if self.data else None


def steps_of(
    every: type_every,
    prefer: type_prefer,
    kind: int,
    ref: int,
    start: int,
    end: int,
    gathered: type_gathered = lambda chunk: None,
) -> list[Step]:
    """Steps that cover [start, end) of a content; what it does not hold is zeros.  Inside a batch `gathered` has the
    bytes of chunks whose pages are made at its end.  Raises DAMAGED."""
    steps: list[Step] = []
    position, held = start, end
    pages: dict[int, dict[int, list[PageRef]]] = {}
    patches: dict[int, bytes] = {}
    if kind == WHOLE:  # a chunk alone may be shorter than its file: what the mount appended as a hole
        held = held_until(every, ref, end)
    for piece in flatten(every, kind, ref, start, held):
        if piece.offset > position:
            steps.append(Step(piece.offset - position, 0, ()))
        if piece.chunk not in pages:
            found = pages_of(every, prefer, piece.chunk)
            if not found and (data := patch_data(every, piece.chunk) or gathered(piece.chunk)) is not None:
                patches[piece.chunk] = data
            pages[piece.chunk] = found
        if piece.chunk in patches:
            steps.append(Step(piece.length, piece.start, (), patches[piece.chunk]))
        else:
            steps.extend(cut(pages[piece.chunk], piece.start, piece.length))
        position = piece.offset + piece.length
    if position < end:
        steps.append(Step(end - position, 0, ()))
    return steps


def pages_of(every: type_every, prefer: type_prefer, chunk: int) -> dict[int, list[PageRef]]:
    """The copies of each part of a chunk, best first."""
    found: dict[int, list[PageRef]] = {}
    for row in every(_PAGES, (chunk,)):
        found.setdefault(row[3], []).append(PageRef(*row))
    return {index: prefer(copies) for index, copies in found.items()}


def cut(pages: dict[int, list[PageRef]], start: int, length: int) -> Iterator[Step]:
    """Steps over `length` bytes of a chunk.  Raises DAMAGED."""
    while length:
        index, inner = divmod(start, PAGE_PAYLOAD)
        count = min(length, PAGE_PAYLOAD - inner)
        copies = pages.get(index)
        if copies is None:
            raise StoreError(Code.DAMAGED, "a part of the data has no page", cause=f"page {index} of a chunk")
        yield Step(count, inner, copies)
        start += count
        length -= count


def clip(steps: Sequence[Step], base: int, low: int, high: int) -> Iterator[Step]:
    """Of steps that begin at `base`: those over [low, high)."""
    for step in steps:
        skip = max(low - base, 0)
        count = min(base + step.length, high) - base - skip
        if count > 0:
            yield Step(count, step.start + skip if step.copies or step.data else 0, step.copies, step.data)
        base += step.length


class _Kept(NamedTuple):
    """A range as it was before a change: sorted by where it begins."""

    low: int
    high: int
    steps: list[Step]


class LongPlan:
    """Bytes [start, end) of a node of kind MAP, as they were at `LongReads.begin`."""

    def __init__(self, node: int, start: int, end: int) -> None:
        self.node = node
        self._position = start  # what lies before has been planned
        self._end = end
        self._kept: list[_Kept] = []
        self._kept_steps = 0
        self._lock = threading.Lock()

    def windows(self, reads: LongReads) -> Iterator[list[Step]]:
        """The plan, a window at a time; blocks on the catalogue."""
        while self._position < self._end:
            stop = min((self._position // PLAN_WINDOW + 1) * PLAN_WINDOW, self._end)
            now = reads.look(self.node, self._position, stop)  # first: what it may lack of ours was kept before
            with self._lock:
                steps = list(self._as_begun(now, stop))
                self._position = stop
            yield steps

    def _as_begun(self, now: Sequence[Step], stop: int) -> Iterator[Step]:
        """The window's steps: what was kept, and what the catalogue says of the rest."""
        base = position = self._position
        for kept in self._kept:
            if kept.high <= position or kept.low >= stop:
                continue
            yield from clip(now, base, position, kept.low)
            yield from clip(kept.steps, kept.low, max(position, kept.low), min(kept.high, stop))
            position = min(kept.high, stop)
        yield from clip(now, base, position, stop)
        if self._kept_steps > KEPT_MAX:
            raise StoreError(
                Code.UNAVAILABLE, "the file was changed in too many places while it was read: read it again"
            )

    def keep(self, steps: Callable[[int, int], list[Step]], low: int, high: int) -> None:
        """[low, high) is about to change: resolves what of it is still to be read and was not kept before."""
        with self._lock:
            low, high = max(low, self._position), min(high, self._end)
            for start, end in self._gaps(low, high):
                for at in range(start, end, PLAN_WINDOW):
                    if self._kept_steps > KEPT_MAX:
                        return
                    found = steps(at, min(at + PLAN_WINDOW, end))
                    insort(self._kept, _Kept(at, min(at + PLAN_WINDOW, end), found))
                    self._kept_steps += len(found) + sum(len(step.data) for step in found) // KEPT_STEP

    def _gaps(self, low: int, high: int) -> list[tuple[int, int]]:
        gaps = []
        for kept in self._kept:
            if kept.low > low and low < high:
                gaps.append((low, min(kept.low, high)))
            low = max(low, kept.high)
        if low < high:
            gaps.append((low, high))
        return gaps


class LongReads:
    """Every long plan under way.  `batch` is held by each batch while it runs, and until its rows are shown; `connect`
    opens the plans' own connection, at first use."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], prefer: type_prefer) -> None:
        self.batch = threading.Lock()
        self.show: Callable[[], None] = lambda: None  # the engine puts into the index what is ahead of it
        self._connect = connect
        self._prefer = prefer
        self._connection: sqlite3.Connection | None = None
        self._using = threading.Lock()  # the connection
        self._plans: dict[int, tuple[LongPlan, ...]] = {}
        self._lock = threading.Lock()  # the plans

    def reads(self, node: int) -> bool:
        """Whether someone reads this node.  Asked inside a batch."""
        return node in self._plans

    def nodes(self) -> frozenset[int]:
        """What is read now."""
        with self._lock:
            return frozenset(self._plans)

    def begin(self, plan: LongPlan, generation: int) -> None:
        """From here on the plan is heeded; blocks for the batch under way, which began without it.

        Raises NO_SUCH_NODE when the node is not in that generation any more.
        """
        self.show()
        with self.batch:  # to the end: a batch that saw a plan which is given up here would keep the node for nobody
            with self._using:
                rows = self._every("SELECT generation FROM node WHERE id=? AND links>0", (plan.node,))
            if not rows or rows[0][0] != generation:
                raise StoreError(Code.NO_SUCH_NODE, "the object was replaced meanwhile")
            with self._lock:
                self._plans[plan.node] = (*self._plans.get(plan.node, ()), plan)

    def end(self, plan: LongPlan) -> None:
        """The plan is read, or given up."""
        with self._lock:
            rest = tuple(other for other in self._plans[plan.node] if other is not plan)
            if rest:
                self._plans[plan.node] = rest
            else:
                del self._plans[plan.node]

    def keep(
        self, every: type_every, gathered: type_gathered, node: int, kind: int, ref: int, low: int, high: int
    ) -> None:
        """Inside a batch, before it changes [low, high) of the node, whose content is now `kind`, `ref`; folding may
        have changed it in the same batch."""
        for plan in self._plans.get(node, ()):
            plan.keep(lambda start, end: steps_of(every, self._prefer, kind, ref, start, end, gathered), low, high)

    def look(self, node: int, start: int, end: int) -> list[Step]:
        """[start, end) as it is now, in one state of the catalogue."""
        with self._using:
            assert self._connection is not None, "a plan begins before it looks"
            self._connection.execute("BEGIN")
            try:
                row = self._every("SELECT id, kind, ref, size, dsum FROM node WHERE id=?", (node,))[0]
                require_body(*row)
                kind, ref = row[1:3]
                if kind not in (WHOLE, MAPPED):
                    kind = EMPTY  # emptied since: all that was to be read of it was kept
                return steps_of(self._every, self._prefer, kind, ref, start, end)
            finally:
                self._connection.execute("COMMIT")

    def _every(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Ends the connection."""
        with self._using:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
