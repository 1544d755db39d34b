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
from appliance.ondisk.geometry import UNIT, round_up
from appliance.ondisk.record import Record

log = logging.getLogger(__name__)

SCAN_STEP: Final = 4 * MIB
NO_PREDECESSOR: Final = bytes(record.CHAIN)


class Place(NamedTuple):
    """Where a record lies; `offset` is from the ring's start."""

    seq: int
    offset: int
    length: int


class Found(NamedTuple):
    """One record that recovery read."""

    place: Place
    record: Record
    digest: bytes
    raw: bytes


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
            raise StoreError(Code.TOO_LARGE, "a batch does not fit the journal")
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


def read_ring(device: PoolDevice, pool: bytes, length: int, tail_seq: int, tail_offset: int) -> list[Found]:
    """Every whole record from the tail on, in order.

    Raises JOURNAL_DAMAGED when the chain breaks but a whole later record exists (a damaged ring, not a torn end);
    OSError.
    """
    assert device.device is not None
    base = device.geometry.ring_start
    ring = aligned(length)
    for at in range(0, length, SCAN_STEP):
        device.device.read_into(base + at, ring[at : min(at + SCAN_STEP, length)])
    found: list[Found] = []
    position, expected = tail_offset, tail_seq
    previous: bytes | None = None
    while True:
        item = _record_at(ring, pool, position, expected, previous)
        if item is None and position != 0 and found:
            item = _record_at(ring, pool, 0, expected, previous)
        if item is None and not found and position != 0:
            item = _record_at(ring, pool, 0, expected, previous)
        if item is None:
            break
        found.append(item)
        expected += 1
        previous = item.digest
        position = item.place.offset + item.place.length
        if position >= length:
            position = 0
    _require_end(ring, pool, length, expected, device)
    return found


def _record_at(ring: memoryview, pool: bytes, offset: int, seq: int, previous: bytes | None) -> Found | None:
    if offset + UNIT > len(ring):
        return None
    head = record.decode_head(ring[offset : offset + UNIT])
    if head is None or head.seq != seq or offset + head.total_length > len(ring):
        return None
    raw = bytes(ring[offset : offset + head.total_length])
    try:
        decoded = record.decode(raw, pool=pool)
    except DamagedError:
        return None
    if previous is not None and head.previous != previous:
        return None
    return Found(Place(seq, offset, head.total_length), decoded, record.digest_of(raw), raw)


def _require_end(ring: memoryview, pool: bytes, length: int, expected: int, device: PoolDevice) -> None:
    """After the end no whole record may be younger than the one that is missing."""
    for offset in range(0, length, UNIT):
        if bytes(ring[offset : offset + 8]) != record.MAGIC:
            continue
        head = record.decode_head(ring[offset : offset + UNIT])
        if head is None or head.seq <= expected or offset + head.total_length > length:
            continue
        try:
            record.decode(ring[offset : offset + head.total_length], pool=pool)
        except DamagedError:
            continue
        raise StoreError(
            Code.JOURNAL_DAMAGED,
            f"the journal on {device.path} lacks record {expected} but has record {head.seq}: it is damaged."
            " Attach another journal device, or run `tierce rebuild-catalogue --accept-prefix` to keep what precedes "
            "it",
        )


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
        with scratch(round_up(len(item.raw))) as buffer:
            buffer[: len(item.raw)] = item.raw
            device.device.write(device.geometry.ring_start + item.place.offset, buffer)
    device.device.flush()
