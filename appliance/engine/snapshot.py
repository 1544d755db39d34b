"""Checkpoints: the catalogue stored in the pool, so that the ring can be reused and the host's disk can die.

A snapshot is a copy of the SQLite file, cut into pages on at least two devices (where there are two), listed by an
index that the superblocks point to.  Ring records that it contains may be overwritten only after the superblocks naming
it are flushed (I8).  Its pages have no rows: they are reservations, claimed again at start from the superblock's word.

Pages are as long as there is room for, down to one allocation unit: a full and fragmented pool must still find room, or
its ring fills up and nothing can even be deleted.  An index that is longer than a page is cut like the catalogue, and
listed by another one.  So a snapshot fails for want of space only when there is less free than it takes.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from appliance.catalogue.database import applied_seq, connect, make_private
from appliance.catalogue.proven import first_damage
from appliance.device.buffers import scratch
from appliance.engine.journal import Ring
from appliance.engine.pool import PageRef, Pool, header_for, page_room
from appliance.errors import Code, StoreError
from appliance.limits import GIB, PAGE_PAYLOAD
from appliance.ondisk import page
from appliance.ondisk.damaged import DamagedError
from appliance.ondisk.geometry import UNIT
from appliance.ondisk.record import IndexPage, SnapshotIndex, decode_index, encode_index
from appliance.ondisk.superblock import SnapshotPointer

log = logging.getLogger(__name__)

COPIES: Final = 2
# Bytes in a page, as many as there is room for; what the least takes is found wherever anything is free.
SIZES: Final = (PAGE_PAYLOAD // 8, PAGE_PAYLOAD // 32, PAGE_PAYLOAD // 128, 2 * UNIT - page.SHORT, UNIT - page.SHORT)
FREE_SHARE: Final = 0.5  # of the ring: at this fill the next checkpoint is due


class _Prepared(NamedTuple):
    """A snapshot that is durable and that nothing points to yet."""

    pointer: SnapshotPointer
    extents: list[tuple[int, int]]


class Checkpointer:
    """Takes snapshots, one at a time.  The ring is the writer's: only `install` touches it."""

    def __init__(self, pool: Pool, ring: Ring, database: Path) -> None:
        self._pool = pool
        self._ring = ring
        self._database = database
        self._lock = threading.Lock()
        self._extents: list[tuple[int, int]] = []  # reserved for the snapshot that the superblocks name
        self._prepared: _Prepared | None = None
        self.taken = 0

    def claim(self, levels: Sequence[SnapshotIndex]) -> None:
        """At start: the named snapshot's pages are in use, and those of `indexes`, if they could be read."""
        pointer = self._pool.snapshot
        if pointer is None:
            return
        places = [(number, offset, length) for number, offset, length, _ in pointer.pages]
        for level in levels:
            places += [(item.device, item.offset, item.length) for item in level.pages]
        for number, offset, length in places:
            if number in self._pool.devices:
                self._pool.allocator.claim(number, offset, length)
                self._extents.append((number, offset))

    def take(self) -> None:
        """A new snapshot; afterwards the ring's records up to it are free.  In the writer's thread, or while there is
        none.

        Raises StoreError when it can't be written: the old one and the ring stay as they are.
        """
        self.prepare()
        self.install()

    def prepare(self) -> None:
        """The slow part: copies the catalogue into the pool.  From any one thread, beside the writer.  Nothing points
        to the copy before `install`.  Raises StoreError, OSError, sqlite3.Error."""
        with self._lock:
            if self._prepared is not None:
                return
            temporary = self._database.with_suffix(".snapshot")
            temporary.unlink(missing_ok=True)
            try:
                seq = self._copy(temporary)
                self._prepared = self._store(temporary, seq)
            finally:
                temporary.unlink(missing_ok=True)

    def install(self) -> None:
        """The superblocks point to the prepared copy; then the ring is released and the old copy freed (I8).  In the
        writer's thread.  Raises StoreError."""
        with self._lock:
            prepared, self._prepared = self._prepared, None
            if prepared is None:
                return
            pool = self._pool
            self._ring.release(prepared.pointer.seq)  # in memory: nothing is overwritten before the flushes below
            pool.tail_seq, pool.tail_offset = self._ring.tail
            pool.snapshot = prepared.pointer
            pool.write_superblocks()
            old, self._extents = self._extents, prepared.extents
            for number, offset in old:
                pool.allocator.forfeit(number, offset)
            self.taken += 1

    def _copy(self, target: Path) -> int:
        source = connect(self._database, read_only=True)
        make_private(target)
        copy = sqlite3.connect(target)
        try:
            copy.execute("PRAGMA synchronous=OFF")
            source.backup(copy)
            hurt = first_damage(copy)
            if hurt:  # the records that have it whole must stay
                raise StoreError(
                    Code.DAMAGED, "the catalogue is damaged and is not copied: restart, and it is rebuilt", cause=hurt
                )
            return applied_seq(copy)
        finally:
            copy.close()
            source.close()

    def _store(self, path: Path, seq: int) -> _Prepared:
        pool = self._pool
        pages = _Pages(pool, seq)
        try:
            length = path.stat().st_size
            with path.open("rb") as file:
                index = SnapshotIndex(seq, length, pool.generation, tuple(pages.store(file, length, page.SNAPSHOT)))
            body = encode_index(index)
            top = pages.store(BytesIO(body), len(body), page.INDEX)
            while top[-1].index:
                index = SnapshotIndex(seq, len(body), pool.generation, tuple(top), depth=index.depth + 1)
                body = encode_index(index)
                top = pages.store(BytesIO(body), len(body), page.INDEX)
            pool.flush(sorted({number for number, _ in pages.reserved}))
        except BaseException:
            for number, offset in pages.reserved:
                pool.allocator.forfeit(number, offset)
            raise
        places = tuple((item.device, item.offset, item.length, item.hsum) for item in top)
        return _Prepared(SnapshotPointer(seq, len(body), places), pages.reserved)


class _Pages:
    """What is stored of one snapshot, a page after the other."""

    def __init__(self, pool: Pool, seq: int) -> None:
        self.reserved: list[tuple[int, int]] = []
        self._pool = pool
        self._seq = seq
        self._step = 0  # of SIZES: longer pages found no room
        self._refused: dict[int, int] = {}  # device -> the shortest extent that it had no room for

    def store(self, source: BinaryIO, length: int, flags: int) -> list[IndexPage]:
        """All of it; in order, the copies of a page side by side.  Raises NO_SPACE, IO_ERROR, UNAVAILABLE."""
        written: list[IndexPage] = []
        at = number = 0
        while at < length:
            size, places = self._room(length - at)
            written += self._write(source.read(size), number, at, flags, places)
            at += size
            number += 1
        return written

    def _room(self, left: int) -> tuple[int, list[tuple[int, int]]]:
        """How many bytes the next page holds, and where its copies go.  Raises NO_SPACE, UNAVAILABLE.

        A page is rather short than without its second copy; but a device that is full has nothing to say in that."""
        while True:
            size = min(SIZES[self._step], left)
            extent = page.extent_length(size)
            places: list[tuple[int, int]] = []
            lacking = False
            for device in self._targets():
                offset = self._reserve(device, extent)
                if offset is None:
                    lacking = True
                    continue
                places.append((device, offset))
                if len(places) == COPIES:
                    break
            if len(places) < COPIES and lacking and extent > UNIT:
                for device, offset in places:
                    self._pool.allocator.forfeit(device, offset)
                    self.reserved.pop()
                self._step += 1
                continue
            if lacking and extent == UNIT:
                self._step = 0  # who is not full may have longer runs
            if places:
                return size, places
            if not lacking:
                raise StoreError(Code.NO_SPACE, "no device has room for the catalogue's snapshot: delete something")

    def _reserve(self, device: int, extent: int) -> int | None:
        """Where so much of it is ours now; None if it has no such run, and is not asked for one again."""
        if extent >= self._refused.get(device, extent + 1):
            return None
        try:
            offset = self._pool.allocator.reserve(device, extent, urgent=True)
        except StoreError as error:
            if error.code is not Code.NO_SPACE:
                raise
            self._refused[device] = extent
            return None
        self.reserved.append((device, offset))
        return offset

    def _write(
        self, payload: bytes, index: int, logical: int, flags: int, places: Sequence[tuple[int, int]]
    ) -> list[IndexPage]:
        pool = self._pool
        extent = page.extent_length(len(payload))
        lead = page.header_length(len(payload))
        sums = page.block_sums(payload)
        written: list[IndexPage] = []
        with scratch(extent) as image:
            image[lead : lead + len(payload)] = payload
            image[lead + len(payload) :] = bytes(extent - lead - len(payload))
            for device_id, offset in places:
                header = header_for(
                    pool,
                    device_id,
                    offset,
                    birth=self._seq,
                    chunk=0,
                    owner=0,
                    logical=logical,
                    payload=len(payload),
                    index=index,
                    copies=COPIES,
                    sums=sums,
                    label=b"",
                    flags=flags,
                )
                image[:lead] = header
                pool.write_page(device_id, offset, image)
                hsum = page.header_sum(header)
                written.append(IndexPage(device_id, offset, extent, hsum, index, len(written), len(payload)))
        return written

    def _targets(self) -> list[int]:
        """Those that are not full.  Journal devices first, then whichever has most room."""
        pool = self._pool
        online = [
            device for device in pool.devices.values() if device.online and self._refused.get(device.id, GIB) > UNIT
        ]
        online.sort(key=lambda device: (not device.journal, -pool.allocator.free(device.id)))
        return [device.id for device in online]


def indexes(pool: Pool, pointer: SnapshotPointer) -> list[SnapshotIndex]:
    """The index that the superblocks name, those that it leads to, and last the one of the catalogue's own pages.
    Raises DAMAGED, DamagedError or IO_ERROR when no copy of one is good."""
    refs = [PageRef(number, offset, length, 0, hsum) for number, offset, length, hsum in pointer.pages]
    with scratch(page_room(0, pointer.length)) as room:
        found = [decode_index(bytes(pool.read_any(refs, 0, pointer.length, room)))]
    while depth := found[-1].depth:
        found.append(decode_index(b"".join(map(bytes, _pieces(pool, found[-1])))))
        if found[-1].depth >= depth:
            raise DamagedError("snapshot index: it leads to itself")
    return found


def restore(pool: Pool, index: SnapshotIndex, target: Path) -> None:
    """Writes the snapshot's SQLite file to `target`, verified, and makes it durable."""
    make_private(target)
    with target.open("wb") as file:
        for view in _pieces(pool, index):
            file.write(view)
        file.flush()
        os.fsync(file.fileno())


def _pieces(pool: Pool, index: SnapshotIndex) -> Iterator[memoryview]:
    """What its pages hold, in order; each valid until the next."""
    copies: dict[int, list[IndexPage]] = {}
    for item in index.pages:
        copies.setdefault(item.index, []).append(item)
    if sum(same[0].payload for same in copies.values()) != index.length:
        raise DamagedError("snapshot index: its pages hold more or less than it says")
    for number in range(len(copies)):
        size = copies[number][0].payload
        refs = [PageRef(item.device, item.offset, item.length, item.index, item.hsum) for item in copies[number]]
        with scratch(page_room(0, size)) as room:
            yield pool.read_any(refs, 0, size, room)
