"""The journal: one ring of records, the same on every journal device.  FORMAT.md, "Journal".

The journal is the truth and the catalogue its index.  A record is found by following the ring from the superblock's
tail:
sequence numbers rise by one and each record repeats its predecessor's digest.  Only the last record can be torn (I2,
I3);
a whole record beyond a gap means that the ring was damaged, and then nothing is guessed.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Sequence
from typing import Final, NamedTuple

from appliance.device.buffers import aligned, scratch
from appliance.engine.pool import Pool, PoolDevice
from appliance.errors import Code, StoreError
from appliance.limits import MIB
from appliance.ondisk import record
from appliance.ondisk.damaged import DamagedError
from appliance.ondisk.geometry import UNIT
from appliance.ondisk.record import Record, RecordHead

log = logging.getLogger(__name__)

SCAN_STEP: Final = 4 * MIB
NO_PREDECESSOR: Final = bytes(record.CHAIN)


class RingDamaged(StoreError):
    """The chain breaks, but whole later records exist, the last of them `last`."""

    def __init__(self, path: str, missing: int, last: int) -> None:
        super().__init__(
            Code.JOURNAL_DAMAGED,
            f"the journal on {path} lacks record {missing} but has record {last}: it is damaged,"
            " and nothing was changed.  Attach the pool's other journal devices, if there are any",
        )
        self.last = last


class Place(NamedTuple):
    """Where a record lies; `offset` is from the ring's start."""

    seq: int
    offset: int
    length: int


class Found(NamedTuple):
    """One whole record that recovery met.  Its bytes stay on the device: a ring may hold more than memory should."""

    place: Place
    digest: bytes
    device: PoolDevice
    pool: bytes

    def read(self) -> memoryview:
        """The record as written, padding included.  Raises IO_ERROR: it was whole a moment ago."""
        assert self.device.device is not None
        image = aligned(self.place.length)
        try:
            self.device.device.read_into(self.device.geometry.ring_start + self.place.offset, image)
            record.check(image, pool=self.pool)
        except (OSError, DamagedError) as error:
            text = f"record {self.place.seq} of the journal on {self.device.path} cannot be read again"
            raise StoreError(Code.IO_ERROR, text, cause=str(error)) from error
        return image

    def decode(self) -> Record:
        """Its row images.  Raises IO_ERROR."""
        return record.decode(self.read(), pool=self.pool)


class Ring:
    """Where the next record goes, and which records must not be overwritten (I8)."""

    def __init__(self, length: int, epoch: int) -> None:
        assert length >= 16 * UNIT, "a ring holds at least a few records"
        self.length = length
        self.epoch = epoch
        self.seq = 0
        self.head = 0
        self.previous = NO_PREDECESSOR
        self.live: collections.deque[Place] = collections.deque()

    def restore(self, found: Sequence[Found], seq: int, offset: int) -> None:
        """Continues after the records that recovery found; none: after `seq`, at `offset`."""
        self.live.clear()
        self.seq, self.head, self.previous = seq, offset, NO_PREDECESSOR
        for item in found:
            self.live.append(item.place)
            self.seq, self.previous = item.place.seq, item.digest
            self.head = item.place.offset + item.place.length

    @property
    def used(self) -> int:
        """Bytes between the oldest live record and the head, skipped ends included."""
        if not self.live:
            return 0
        oldest = self.live[0].offset
        return self.head - oldest if self.head > oldest else self.length - oldest + self.head

    def room_for(self, total: int) -> int | None:
        """The offset for a record of `total` bytes, or None while older records are in the way."""
        if total > self.length:
            raise record.too_large(total)
        if not self.live:
            return self.head if self.head + total <= self.length else 0
        oldest = self.live[0].offset
        if self.head > oldest:
            if self.head + total <= self.length:
                return self.head
            return 0 if total < oldest else None
        return self.head if self.head + total < oldest else None

    def append(self, place: Place, digest: bytes) -> None:
        """The record is durable."""
        assert place.seq == self.seq + 1
        self.live.append(place)
        self.seq, self.previous = place.seq, digest
        self.head = place.offset + place.length

    def release(self, seq: int) -> None:
        """Records up to `seq` are in a snapshot that the superblocks name: they may be overwritten (I8)."""
        while self.live and self.live[0].seq <= seq:
            self.live.popleft()

    @property
    def tail(self) -> tuple[int, int]:
        """Sequence and offset of the oldest record that recovery needs: the superblock's ring tail."""
        if self.live:
            return self.live[0].seq, self.live[0].offset
        return self.seq + 1, self.head


class _Window:
    """Reads a ring in large steps and keeps only the last one."""

    def __init__(self, device: PoolDevice, length: int) -> None:
        self._device = device
        self.length = length
        self._step = aligned(min(SCAN_STEP, length))
        self._start = -1

    def view(self, offset: int, length: int) -> memoryview:
        """Ring bytes; valid until the next call.  Raises OSError."""
        assert 0 <= offset <= offset + length <= self.length, "within the ring"
        start = offset // SCAN_STEP * SCAN_STEP
        if offset + length > start + len(self._step):
            return self._read(offset, aligned(length))
        if start != self._start:
            self._start = -1
            self._read(start, self._step[: min(SCAN_STEP, self.length - start)])
            self._start = start
        return self._step[offset - start : offset - start + length]

    def _read(self, offset: int, into: memoryview) -> memoryview:
        assert self._device.device is not None
        self._device.device.read_into(self._device.geometry.ring_start + offset, into)
        return into


def read_ring(device: PoolDevice, pool: bytes, length: int, tail_seq: int, tail_offset: int) -> list[Found]:
    """Every whole record from the tail on, in order.

    Raises RingDamaged when the chain breaks but a whole later record exists (a damaged ring, not a torn end); OSError.
    """
    ring = _Window(device, length)
    found: list[Found] = []
    position, expected = tail_offset % length, tail_seq
    previous: bytes | None = None
    while True:
        head = _record_at(ring, pool, position, expected, previous)
        if head is None and position != 0:
            position = 0  # it did not fit behind the one before, or nothing follows
            head = _record_at(ring, pool, 0, expected, previous)
        if head is None:
            break
        previous = head.digest[: record.CHAIN]
        found.append(Found(Place(expected, position, head.total_length), previous, device, pool))
        expected += 1
        position = (position + head.total_length) % length
    _require_end(ring, pool, expected, device)
    return found


def _record_at(ring: _Window, pool: bytes, offset: int, seq: int, previous: bytes | None) -> RecordHead | None:
    if offset + UNIT > ring.length:
        return None
    head = record.decode_head(ring.view(offset, UNIT))
    if head is None or head.seq != seq or offset + head.total_length > ring.length:
        return None
    if previous is not None and head.previous != previous:
        return None
    try:
        return record.check(ring.view(offset, head.total_length), pool=pool)
    except DamagedError:
        return None


def _require_end(ring: _Window, pool: bytes, expected: int, device: PoolDevice) -> None:
    """After the end no whole record may be younger than the one that is missing."""
    last = 0
    for offset in range(0, ring.length, UNIT):
        first = ring.view(offset, UNIT)
        if bytes(first[: len(record.MAGIC)]) != record.MAGIC:
            continue
        head = record.decode_head(first)
        if head is None or head.seq <= expected or offset + head.total_length > ring.length:
            continue
        try:
            record.check(ring.view(offset, head.total_length), pool=pool)
        except DamagedError:
            continue
        last = max(last, head.seq)
    if last:
        raise RingDamaged(device.path, expected, last)


def write_record(pool: Pool, device: PoolDevice, offset: int, image: memoryview) -> None:
    """Writes (without flushing) one record's image at a ring offset.  Raises OSError."""
    assert device.device is not None
    device.device.write(device.geometry.ring_start + offset, image)


def invalidate(pool: Pool, offset: int) -> bool:
    """Makes what lies at `offset` no record any more, on every journal that can be written; True if one could.

    For a batch that failed or was dropped: it must not come back (I12).
    """
    done = False
    for device in pool.journals:
        assert device.device is not None
        try:
            with scratch(UNIT) as buffer:
                buffer[:] = bytes(UNIT)
                device.device.write(device.geometry.ring_start + offset, buffer)
            device.device.flush()
            done = True
        except OSError as error:
            pool.fence(device, error)
    return done


def erase_records(device: PoolDevice, found: Sequence[Found]) -> None:
    """Makes records of one ring none any more, and flushes.  Raises OSError."""
    assert device.device is not None
    if not found:
        return
    with scratch(UNIT) as buffer:
        buffer[:] = bytes(UNIT)
        for item in found:
            device.device.write(device.geometry.ring_start + item.place.offset, buffer)
    device.device.flush()


def copy_records(device: PoolDevice, found: Sequence[Found]) -> None:
    """Writes records that another journal has and this one lacks, and flushes.  Raises OSError."""
    assert device.device is not None
    for item in found:
        device.device.write(device.geometry.ring_start + item.place.offset, item.read())
    device.device.flush()
