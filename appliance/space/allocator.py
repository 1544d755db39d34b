"""An extent's life over all devices: reserve, commit, (begin to free), release; or forfeit.

Each extent is at any moment in exactly one of four states:

    free ──reserve──> reserved ──commit──> row ──begin_free──> pending ──release──> free
      ^──────────────forfeit──┘             ^──────cancel_free─────┘

The catalogue's rows change at SQLite's COMMIT, which is not the same instant as the calls here.  So the two states
between are *held* in memory: reservations until `commit` or `forfeit`, pending frees from before the freeing batch's
COMMIT until the batch is durable and no reader pins the extent (I5).  Where a batch is durable and its COMMIT left
for later, its new pages are held as *standing* until then; a later batch may free them meanwhile.  A free map that
loads a region at any moment is told rows and held extents, merged: what is both a row and held (between a COMMIT and
the call that follows it) counts once, and what is in neither is free.  For that the order of calls is fixed:

    a new page:    reserve, …, COMMIT with its row, commit       (or: reserve, …, no row, forfeit)
                   reserve, …, durable, stand, …, COMMIT with its row, commit
    a freed page:  begin_free, COMMIT without its row, release   (or: begin_free, rollback, cancel_free)
    a page made and freed inside one batch never has a row (I4): it is forfeited, not freed.

`rows` runs inside `reserve` or `claim`, under the lock, in the caller's thread: it must read the newest committed
state or the batch that is being committed, never an older read transaction, and must not call the allocator.

Everything is guarded by the one lock given by the owner; this room starts no threads and knows none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from appliance import limits
from appliance.errors import Code, StoreError
from appliance.space.extent import clip, merge
from appliance.space.free_map import FreeMap

Rows = Callable[[int, int, int], Iterable[tuple[int, int]]]
Extent = tuple[int, int, int]  # device, offset, length


class _Held:
    """Extents of one device by offset, indexed by region so that loading one region doesn't walk a whole deletion."""

    __slots__ = ("_region_size", "_regions", "bytes", "count")

    def __init__(self, region_size: int) -> None:
        self._region_size = region_size
        self._regions: dict[int, dict[int, int]] = {}
        self.count = 0
        self.bytes = 0

    def add(self, offset: int, length: int) -> None:
        region = self._regions.setdefault(offset // self._region_size, {})
        assert offset not in region, f"extent at {offset} is held already"
        region[offset] = length
        self.count += 1
        self.bytes += length

    def remove(self, offset: int) -> int:
        """Forgets the extent at `offset`; returns its length."""
        number = offset // self._region_size
        region = self._regions.get(number, {})
        assert offset in region, f"no extent at {offset} is held"
        length = region.pop(offset)
        if not region:
            del self._regions[number]
        self.count -= 1
        self.bytes -= length
        return length

    def length(self, offset: int) -> int | None:
        return self._regions.get(offset // self._region_size, {}).get(offset)

    def within(self, low: int) -> Iterable[tuple[int, int]]:
        """Those of the region whose first byte of pages is at `low`."""
        return self._regions.get(low // self._region_size, {}).items()

    def everything(self) -> Iterable[tuple[int, int]]:
        return (extent for region in self._regions.values() for extent in region.items())


class _Device:
    """One device's free map and what is held of it."""

    __slots__ = ("fenced", "free_map", "pending", "reserved", "standing")

    def __init__(
        self, number: int, start: int, end: int, region_size: int, used_by_region: Mapping[int, int], rows: Rows
    ) -> None:
        self.reserved = _Held(region_size)
        self.standing = _Held(region_size)
        self.pending = _Held(region_size)
        self.fenced = False

        def load(low: int, high: int) -> Iterable[tuple[int, int]]:
            held = (self.reserved, self.standing, self.pending)
            claims = [*rows(number, low, high), *(extent for state in held for extent in state.within(low))]
            claims.sort()
            assert all(clip(offset, length, low, high) == (offset, length) for offset, length in claims)
            return merge(claims)

        self.free_map = FreeMap(start, end, region_size, used_by_region, load)


class Allocator:
    """Extents of several devices.  Device ids are the caller's.  Offsets and lengths are multiples of 4 KiB.

    `lock` is a context manager, entered once per call and never recursively.  `ceiling` is the share of a device
    that foreground writes may fill.
    """

    def __init__(self, lock: AbstractContextManager[Any], ceiling: float = limits.WRITE_CEILING) -> None:
        self._lock = lock
        self._ceiling = ceiling
        self._kept = 0  # of all devices together: for urgent ones only
        self._devices: dict[int, _Device] = {}

    # ------------------------------------------------------------------ devices
    def add(
        self,
        device_id: int,
        start: int,
        end: int,
        region_size: int,
        used_by_region: Mapping[int, int],
        rows: Rows,
    ) -> None:
        """A device whose pages lie in [start, end).  `used_by_region`: index of a region,
        offset // region_size - start // region_size, to bytes claimed by rows.  `rows(device_id, low, high)` yields
        the (offset, length) of every row with low <= offset < high.  Raises StoreError DAMAGED if rows claim more
        than there is."""
        with self._lock:
            assert device_id not in self._devices
            self._devices[device_id] = _Device(device_id, start, end, region_size, used_by_region, rows)

    def fence(self, device_id: int) -> None:
        """No new reservations on this device; extents already reserved may still be committed, forfeited, released."""
        with self._lock:
            self._devices[device_id].fenced = True

    def remove(self, device_id: int) -> None:
        """Forgets a device, with all that is held of it."""
        with self._lock:
            del self._devices[device_id]

    # ------------------------------------------------------------------ an extent's life
    def reserve(self, device_id: int, length: int, *, background: bool = False, urgent: bool = False) -> int:
        """The offset of a new reservation of `length` bytes.

        Foreground writes may fill a device to the write ceiling, background moves to limits.MOVE_CEILING, urgent
        ones (the catalogue's snapshots) all of it, and they alone what is to `keep`.  Raises StoreError NO_SPACE (also
        when no run is that long: ask for less), UNAVAILABLE (fenced or unknown device).
        """
        with self._lock:
            device = self._devices.get(device_id)
            if device is None or device.fenced:
                raise StoreError(Code.UNAVAILABLE, cause=f"device {device_id} takes no writes")
            free_map = device.free_map
            ceiling = 1.0 if urgent else min(self._ceiling, limits.MOVE_CEILING) if background else self._ceiling
            if free_map.size - free_map.free + length > free_map.size * ceiling:
                raise StoreError(
                    Code.NO_SPACE, cause=f"device {device_id}: {free_map.free} bytes free of {free_map.size}"
                )
            if self._kept and not urgent and self._spare() - length < self._kept:
                raise StoreError(
                    Code.NO_SPACE,
                    "the pool is full, but for a copy of its catalogue: delete something or add a device",
                    cause=f"{self._spare()} bytes free, {self._kept} kept",
                )
            offset = free_map.reserve(length)
            if offset is None:
                raise StoreError(
                    Code.NO_SPACE,
                    cause=f"device {device_id}: no free run of {length} bytes found in {free_map.free} free bytes",
                )
            device.reserved.add(offset, length)
            return offset

    def claim(self, device_id: int, offset: int, length: int) -> None:
        """Reserves exactly this extent, which must be free: at start, what superblocks name and no row claims."""
        with self._lock:
            device = self._devices[device_id]
            device.free_map.claim(offset, length)
            device.reserved.add(offset, length)

    def divide(self, device_id: int, offset: int, lengths: Sequence[int]) -> list[int]:
        """Cuts one reservation into adjacent ones of `lengths`; returns their offsets.  What is left over is free."""
        with self._lock:
            device = self._devices[device_id]
            whole = device.reserved.remove(offset)
            assert sum(lengths) <= whole
            offsets = []
            position = offset
            for length in lengths:
                device.reserved.add(position, length)
                offsets.append(position)
                position += length
            if position < offset + whole:
                device.free_map.release(position, offset + whole - position)
            return offsets

    def stand(self, device_id: int, offset: int) -> None:
        """The extent's row is durable, and its COMMIT is to come: it can be freed, and no more be forfeited."""
        with self._lock:
            device = self._devices[device_id]
            device.standing.add(offset, device.reserved.remove(offset))

    def commit(self, device_id: int, offset: int) -> None:
        """The extent's row is in the catalogue now: what held it ends."""
        with self._lock:
            device = self._devices[device_id]
            (device.reserved if device.standing.length(offset) is None else device.standing).remove(offset)

    def forfeit(self, device_id: int, offset: int) -> None:
        """The reservation is given back: free at once."""
        with self._lock:
            device = self._devices[device_id]
            device.free_map.release(offset, device.reserved.remove(offset))

    def begin_free(self, extents: Iterable[Extent]) -> None:
        """Before the COMMIT that removes their rows: the extents stay held."""
        with self._lock:
            for device_id, offset, length in extents:
                device = self._devices[device_id]
                assert device.reserved.length(offset) is None, "a page made and freed in one batch is forfeited (I4)"
                device.pending.add(offset, length)

    def cancel_free(self, extents: Iterable[Extent]) -> None:
        """The freeing batch failed: the rows stay."""
        with self._lock:
            for device_id, offset, length in extents:
                assert self._devices[device_id].pending.remove(offset) == length

    def release(self, extents: Iterable[Extent]) -> None:
        """The freeing batch is durable and no reader pins the extents (I5): they may be reserved again.  Extents of
        a device that was removed meanwhile are passed over."""
        with self._lock:
            for device_id, offset, length in extents:
                device = self._devices.get(device_id)
                if device is not None:
                    assert device.pending.remove(offset) == length, f"{offset} was freed with another length"
                    device.free_map.release(offset, length)

    def keep(self, size: int) -> None:
        """From now on so many bytes, of all devices together, are for urgent reservations only."""
        with self._lock:
            self._kept = size

    # ------------------------------------------------------------------ questions
    def spare(self) -> int:
        """Bytes that are in no other state, of all devices that take writes."""
        with self._lock:
            return self._spare()

    def _spare(self) -> int:
        return sum(device.free_map.free for device in self._devices.values() if not device.fenced)

    def free(self, device_id: int) -> int:
        """Bytes that are in no other state."""
        with self._lock:
            return self._devices[device_id].free_map.free

    def size(self, device_id: int) -> int:
        """Bytes of all states together."""
        with self._lock:
            return self._devices[device_id].free_map.size

    def largest(self, device_id: int) -> int:
        """A hint at the longest extent that can be reserved."""
        with self._lock:
            return self._devices[device_id].free_map.largest()

    def reserved(self, device_id: int) -> int:
        """Bytes reserved and neither committed nor forfeited."""
        with self._lock:
            return self._devices[device_id].reserved.bytes

    def pending(self, device_id: int) -> int:
        """Bytes freed and not yet released."""
        with self._lock:
            return self._devices[device_id].pending.bytes

    def held(self, device_id: int) -> list[tuple[int, int]]:
        """Every (offset, length) that memory claims, rising by offset: what the audit adds to the rows."""
        with self._lock:
            device = self._devices[device_id]
            return sorted({*device.reserved.everything(), *device.standing.everything(), *device.pending.everything()})

    def statistics(self, device_id: int) -> dict[str, int]:
        """The free map's, and bytes and extents held."""
        with self._lock:
            device = self._devices[device_id]
            return {
                **device.free_map.statistics(),
                "reserved": device.reserved.bytes,
                "reservations": device.reserved.count,
                "pending": device.pending.bytes,
            }
