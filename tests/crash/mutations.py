"""The protocol broken on purpose: each variant drops one rule, and the simulation must notice.

A model that catches nothing proves nothing.  Each function is a context manager; within it every engine has the fault.
`HastyFreeMap` belongs to the sound engine: it gives out at once what was freed last, so that a page that was freed too
early is soon overwritten.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from appliance.catalogue import sharing
from appliance.catalogue.database import ID_STEP, Rows
from appliance.catalogue.schema import CHUNK, PAGE, Table
from appliance.engine import commit, journal, keepers, retrieve, startup
from appliance.engine import pool as pool_room
from appliance.engine.commit import Committer
from appliance.engine.engine import Engine
from appliance.engine.journal import Found
from appliance.engine.pool import PageRef, Pool
from appliance.engine.whole import Verdict, examine
from appliance.ondisk import page
from appliance.ondisk.page import PageHeader
from appliance.ondisk.superblock import Superblock
from appliance.space import allocator
from appliance.space.allocator import Allocator, Extent
from appliance.space.free_map import FreeMap


@contextmanager
def replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    """`owner.name` is `new` within the block."""
    old = getattr(owner, name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)


class HastyFreeMap(FreeMap):
    """A free map that gives out first what was freed last."""

    __slots__ = ("recent",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.recent: list[tuple[int, int]] = []

    def release(self, offset: int, length: int) -> None:
        super().release(offset, length)
        self.recent.append((offset, length))

    def claim(self, offset: int, length: int) -> None:
        super().claim(offset, length)
        self._forget(offset, length)

    def reserve(self, length: int) -> int | None:
        for offset, run in reversed(self.recent):
            if run >= length:
                self.claim(offset, length)
                if run > length:
                    self.recent.append((offset + length, run - length))
                return offset
        found = super().reserve(length)
        if found is not None:
            self._forget(found, length)
        return found

    def _forget(self, offset: int, length: int) -> None:
        self.recent = [(at, run) for at, run in self.recent if at >= offset + length or at + run <= offset]


@contextmanager
def hasty_reuse() -> Iterator[None]:
    """Not a fault: see HastyFreeMap."""
    with replaced(allocator, "FreeMap", HastyFreeMap):
        yield


@contextmanager
def nothing_repeated() -> Iterator[None]:
    """Not a fault: what a batch carries is never there any more when a device has failed it."""
    with replaced(commit, "repeatable", lambda *_: []):
        yield


# ---------------------------------------------------------------------- the faults


@contextmanager
def no_verification() -> Iterator[None]:
    """Recovery believes the last record without looking at its pages (I3)."""
    with replaced(startup, "examine", lambda pool, found: Verdict(stands=True, full=True)):
        yield


@contextmanager
def anybody_believed() -> Iterator[None]:
    """A start believes whichever journal is here (I13)."""

    def hear(supers: Sequence[Superblock], *_: object) -> keepers.Word:
        newest = max(supers, key=lambda each: each.generation)
        here = frozenset(each.device for each in supers if each.journal)
        return keepers.Word(here, here, newest.generation, max(each.epoch for each in supers))

    with replaced(keepers, "hear", hear):
        yield


@contextmanager
def all_verified() -> Iterator[None]:
    """Recovery verifies every record, and takes a lawfully reused page for damage (I3)."""
    original: Callable[..., Any] = startup._replay

    def replay(pool: Pool, writer: sqlite3.Connection, found: list[Found], *rest: Any) -> Any:
        whole = next((number for number, item in enumerate(found) if not examine(pool, item).stands), len(found))
        return original(pool, writer, found[:whole], *rest)

    with replaced(startup, "_replay", replay):
        yield


@contextmanager
def early_reuse() -> Iterator[None]:
    """Pages are free before the batch that frees them is durable (I5)."""
    original = Committer._gather

    def gather(self: Committer, tx: Rows, gathered: list[tuple[int, int]]) -> Any:
        for device, offset, length in tx.freed:
            if (device, offset) not in tx.new_pages:
                self.pool.allocator._devices[device].free_map.release(offset, length)
        return original(self, tx, gathered)

    def nothing(self: Allocator, extents: Sequence[Extent]) -> None:
        """They are free already."""

    with replaced(Committer, "_gather", gather), replaced(Allocator, "begin_free", nothing):
        with replaced(Allocator, "cancel_free", nothing), replaced(Allocator, "release", nothing):
            yield


@contextmanager
def pins_ignored() -> Iterator[None]:
    """Pages are free although a reader still looks at them (I11)."""
    with replaced(retrieve.Pins, "oldest", lambda self, now: now):
        yield


@contextmanager
def early_acknowledgement() -> Iterator[None]:
    """The answer goes out when everything is written and nothing is flushed (I1)."""

    def job(self: Committer, job: Any, image: memoryview) -> Callable[[], None]:
        def work() -> None:
            for at, data in job.writes:
                job.device.device.write(at, data)
            if job.record_offset is not None:
                journal.write_record(self.pool, job.device, job.record_offset, image)

        return work

    with replaced(Committer, "_device_job", job):
        yield


@contextmanager
def passing_pages_recorded() -> Iterator[None]:
    """A page that a batch makes and frees again stays in its record (I4)."""
    put, images = Rows.put, Rows.image_list
    written: dict[int, dict[tuple[Any, ...], Any]] = {}

    def remembering(self: Rows, table: Table, row: Any) -> None:
        put(self, table, row)
        if table in (PAGE, CHUNK):
            written.setdefault(id(self), {})[table.number, *row[: table.key]] = row

    def listing(self: Rows) -> Any:
        rows = written.pop(id(self), {})
        return [[key[0], 0, *row] for key, row in rows.items() if self.images[key] is None] + images(self)

    with replaced(Rows, "put", remembering), replaced(Rows, "image_list", listing):
        yield


@contextmanager
def no_invalidation() -> Iterator[None]:
    """The record of a batch that failed or was dropped stays on the ring (I12)."""
    with replaced(journal, "invalidate", lambda pool, offset: True):
        yield


@contextmanager
def header_unchecked() -> Iterator[None]:
    """Any page that is whole in itself passes for the one that the catalogue names."""

    def check(buffer: Any, *, pool: bytes, device: bytes, offset: int, hsum: bytes, start: int = 0) -> PageHeader:
        return page.decode(buffer, start)

    def any_chunk(header: PageHeader, ref: PageRef) -> None:
        """Whose it is doesn't matter either."""

    with replaced(page, "check", check), replaced(pool_room, "_require_chunk", any_chunk):
        yield


@contextmanager
def ids_promised_too_early() -> Iterator[None]:
    """Ids count as promised though the batch that said so failed."""
    original = Committer._finish

    def finish(self: Committer, tx: Rows) -> None:
        original(self, tx)
        if tx.top_id >= self._id_limit:
            self._id_limit = tx.top_id + ID_STEP

    with replaced(Committer, "_finish", finish):
        yield


@contextmanager
def ahead_forgotten() -> Iterator[None]:
    """When a batch fails, those that stand before it and were not in the index yet are lost to it."""

    def restore(self: Committer) -> None:
        self.connection.execute("BEGIN IMMEDIATE")
        self._index()

    with replaced(Committer, "_restore", restore):
        yield


@contextmanager
def remains_shared() -> Iterator[None]:
    """A range is shared of a file that is being freed: what is freed already is a hole in the copy."""
    with replaced(sharing, "_require_named", lambda source: None):
        yield


@contextmanager
def ahead_is_pinned() -> Iterator[None]:
    """A reader pins the newest batch that is durable, not the newest that it sees (I5, I11)."""
    with replaced(Engine, "shown", property(lambda self: self.ring.seq)):
        yield


FAULTS: Final = (
    no_verification,
    all_verified,
    early_reuse,
    pins_ignored,
    early_acknowledgement,
    passing_pages_recorded,
    no_invalidation,
    header_unchecked,
    ids_promised_too_early,
    remains_shared,
)
"""Which the simulation notices."""
