"""Checkpoints: the catalogue stored in the pool, so that the ring can be reused and the host's disk can die.

A snapshot is a copy of the SQLite file, cut into pages on at least two devices (where there are two), named by an index
page that the superblocks point to.  Ring records that it contains may be overwritten only after the superblocks
naming it
are flushed (I8).  Its pages have no rows: they are reservations, claimed again at start from the superblock's word.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from appliance.catalogue.database import applied_seq, connect, make_private
from appliance.device.buffers import aligned, scratch
from appliance.engine.journal import Ring
from appliance.engine.pool import PageRef, Pool, header_for, page_room
from appliance.errors import Code, StoreError
from appliance.limits import PAGE_PAYLOAD
from appliance.ondisk import page
from appliance.ondisk.record import IndexPage, SnapshotIndex, decode_index, encode_index
from appliance.ondisk.superblock import SnapshotPointer

log = logging.getLogger(__name__)

COPIES: Final = 2
# Less than an object's, and quarters of it where no run is so long: a full and fragmented box must still find room, or
# its ring fills up and nothing can even be deleted.
SNAPSHOT_PAGE: Final = PAGE_PAYLOAD // 8
SNAPSHOT_PAGE_LEAST: Final = SNAPSHOT_PAGE // 64
INDEX_MAX: Final = PAGE_PAYLOAD  # the index fits one page: 64 bytes for each of the snapshot's
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

    def claim(self, index: SnapshotIndex | None) -> None:
        """At start: the named snapshot's pages are in use."""
        pointer = self._pool.snapshot
        if pointer is None:
            return
        places = [(number, offset, length) for number, offset, length, _ in pointer.pages]
        if index is not None:
            places += [(item.device, item.offset, item.length) for item in index.pages]
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
            return applied_seq(copy)
        finally:
            copy.close()
            source.close()

    def _store(self, path: Path, seq: int) -> _Prepared:
        size = SNAPSHOT_PAGE
        while True:
            try:
                return self._store_in(path, seq, size)
            except StoreError as error:
                if error.code is not Code.NO_SPACE or size <= SNAPSHOT_PAGE_LEAST:
                    raise
            size //= 4

    def _store_in(self, path: Path, seq: int, size: int) -> _Prepared:
        """In pages of `size` bytes."""
        pool = self._pool
        reserved: list[tuple[int, int]] = []
        try:
            pages: list[IndexPage] = []
            length = path.stat().st_size
            with path.open("rb") as file:
                for index in range(-(-length // size)):
                    payload = file.read(size)
                    pages += self._write(payload, index, page.SNAPSHOT, seq, reserved, index * size)
            body = encode_index(SnapshotIndex(seq, length, pool.generation, tuple(pages)))
            if len(body) > INDEX_MAX:  # in smaller pages it would be larger
                raise StoreError(Code.UNAVAILABLE, f"the catalogue's snapshot has too many pages, of {size} bytes each")
            index_pages = self._write(body, 0, page.INDEX, seq, reserved, 0)
            pool.flush(sorted({number for number, _ in reserved}))
            pointer = SnapshotPointer(
                seq, len(body), tuple((item.device, item.offset, item.length, item.hsum) for item in index_pages)
            )
        except BaseException:
            for number, offset in reserved:
                pool.allocator.forfeit(number, offset)
            raise
        return _Prepared(pointer, reserved)

    def _write(
        self, payload: bytes, index: int, flags: int, seq: int, reserved: list[tuple[int, int]], logical: int
    ) -> list[IndexPage]:
        pool = self._pool
        extent = page.extent_length(len(payload))
        image = aligned(extent)
        lead = page.header_length(len(payload))
        image[lead : lead + len(payload)] = payload
        sums = page.block_sums(payload)
        written: list[IndexPage] = []
        for device_id in self._targets(extent):
            try:
                offset = pool.allocator.reserve(device_id, extent, urgent=True)
            except StoreError as error:
                if error.code is Code.NO_SPACE:
                    continue
                raise
            reserved.append((device_id, offset))
            header = header_for(
                pool,
                device_id,
                offset,
                birth=seq,
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
            written.append(IndexPage(device_id, offset, extent, page.header_sum(header), index, len(written)))
            if len(written) == COPIES:
                break
        if not written:
            raise StoreError(Code.NO_SPACE, "no device has room for the catalogue's snapshot: delete something")
        return written

    def _targets(self, extent: int) -> list[int]:
        """Journal devices first, then whichever has most room."""
        pool = self._pool
        online = [device for device in pool.devices.values() if device.online]
        online.sort(key=lambda device: (not device.journal, -pool.allocator.free(device.id)))
        return [device.id for device in online if pool.allocator.free(device.id) >= extent]


def read_index(pool: Pool, pointer: SnapshotPointer) -> SnapshotIndex:
    """The index that the superblocks name.  Raises DAMAGED or IO_ERROR when no copy is good."""
    refs = [PageRef(number, offset, length, 0, hsum) for number, offset, length, hsum in pointer.pages]
    with scratch(page_room(0, pointer.length)) as room:
        return decode_index(bytes(pool.read_any(refs, 0, pointer.length, room)))


def page_size(index: SnapshotIndex) -> int:
    """Bytes of the catalogue in each page but the last: the one of halves, quarters and so on that makes so many."""
    count = 1 + max((item.index for item in index.pages), default=0)
    size = SNAPSHOT_PAGE
    while -(-index.length // size) < count:
        size //= 2
    return size


def restore(pool: Pool, index: SnapshotIndex, target: Path) -> None:
    """Writes the snapshot's SQLite file to `target`, verified, and makes it durable."""
    make_private(target)
    with target.open("wb") as file:
        for view in _pieces(pool, index):
            file.write(view)
        file.flush()
        os.fsync(file.fileno())


def _pieces(pool: Pool, index: SnapshotIndex) -> Iterator[memoryview]:
    copies: dict[int, list[PageRef]] = {}
    for item in index.pages:
        copies.setdefault(item.index, []).append(PageRef(item.device, item.offset, item.length, item.index, item.hsum))
    size = page_size(index)
    with scratch(page_room(0, size)) as room:
        for number in range(-(-index.length // size)):
            length = min(size, index.length - number * size)
            refs: Sequence[PageRef] = copies.get(number, ())
            yield pool.read_any(refs, 0, length, room)
