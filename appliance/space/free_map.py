"""What is free on one device.

Free space is never stored (I7): it is what nothing claims.  The device's page zone is divided into regions (1 GiB;
an extent never straddles two).  Of every region two numbers are always in memory: its free bytes, which are exact,
and its *known run*, a guess at its longest free run.  Its free list, two plain lists, is built only when an extent
is to be found in it, from what `load` tells; at most LOADED_MAX lists are kept.  A release into a region without a
list is one addition.

Finding space is next-fit in the active region of the length's size class, so that extents reserved one after the
other lie one after the other and small ones don't crumble the regions of large ones; then the emptiest region whose
known run fits becomes active.

The known run is raised by a release to no more than the released length (or, with the list present, to the run that
it became part of).  Taking every release for a perhaps large run made a device 95 % full load regions in vain, ten
times slower.  The price: neighbours released one by one may hide a long run.  So before `reserve` gives up it looks
into the few regions that had the most released since they were last measured.

This module doesn't know who claims what, nor SQL, nor threads: its owner guards it by a lock.

Contract of `load(low, high)`: it is called only inside `reserve` and `claim`, and yields every extent inside [low,
high) that is not free, each byte once, in any order: rows, extents reserved and not yet committed, extents freed and
not yet given to `release`.  The lengths' sum must agree with what the free map has counted; that is asserted at each
load.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from appliance.errors import Code, StoreError
from appliance.limits import KIB, MIB
from appliance.space.extent import gaps

UNIT: Final = 4 * KIB  # every offset and length is a multiple: the sector of direct I/O
SIZE_CLASSES: Final = (64 * KIB, 1 * MIB)  # up to, up to, larger: write points as in bcachefs
LOADED_MAX: Final = 64  # free lists kept: ~1,000 runs of 16+16 bytes each at most regions, a few MiB
ATTEMPTS_MAX: Final = 64  # regions loaded in one `reserve`: ~35 ms at most, and each makes the map wiser
HIDDEN_MAX: Final = 4  # regions searched for hidden runs before `reserve` gives up

Load = Callable[[int, int], Iterable[tuple[int, int]]]


class _FreeList:
    """The free runs of one region, rising by offset; no two touch.  `cursor` is where the last extent was found."""

    __slots__ = ("cursor", "lengths", "offsets")

    def __init__(self, offsets: list[int], lengths: list[int]) -> None:
        self.offsets = offsets
        self.lengths = lengths
        self.cursor = 0


class FreeMap:
    """The free extents of [start, end) of one device, in bytes.

    Regions begin at multiples of `region_size`, so the first and the last may be shorter.
    `used_by_region` maps the index of a region, offset // region_size - start // region_size, to the bytes claimed
    in it; regions that are missing are empty.  Raises StoreError DAMAGED if more is claimed than there is.
    """

    def __init__(self, start: int, end: int, region_size: int, used_by_region: Mapping[int, int], load: Load) -> None:
        assert start % UNIT == 0
        assert region_size % UNIT == 0
        assert start >= 0
        assert region_size > 0
        end -= end % UNIT
        self.start = start
        self.end = max(start, end)
        self.region_size = region_size
        self.size = self.end - start
        self._load = load
        self._base = start // region_size * region_size
        count = -(-(self.end - self._base) // region_size) if self.size else 0
        self._free = [high - low for low, high in map(self._bounds, range(count))]
        for region, used in used_by_region.items():
            if not 0 <= region < count or not 0 <= used <= self._free[region]:
                raise StoreError(
                    Code.DAMAGED,
                    "the catalogue claims more space than the device has; rebuild the catalogue",
                    cause=f"region {region} of {count}, {used} bytes",
                )
            self._free[region] -= used
        self.free = sum(self._free)
        self._known = list(self._free)  # an upper bound until the region is first loaded
        self._hidden: dict[int, int] = {}  # region without list -> bytes released since its run was measured
        self._lists: dict[int, _FreeList] = {}
        self._active = [-1] * (len(SIZE_CLASSES) + 1)
        self._loads = 0
        self._evictions = 0
        self._failures = 0

    # ------------------------------------------------------------------ an extent's life
    def reserve(self, length: int) -> int | None:
        """The offset of `length` bytes that are free no longer, or None if no run was found.

        `length` is a positive multiple of UNIT.  None is certain for one UNIT; for a longer extent on a nearly full
        device a fitting run may stay unseen: ask again for less.
        """
        assert length > 0
        assert length % UNIT == 0
        if length <= self.free:
            size_class = bisect_left(SIZE_CLASSES, length)
            region = self._active[size_class]
            if region >= 0:
                offset = self._take(region, length)
                if offset is not None:
                    return offset
            offset = self._activate(size_class, length)
            if offset is not None:
                return offset
        self._failures += 1
        return None

    def claim(self, offset: int, length: int) -> None:
        """Takes exactly this extent, which must be free (start-up: what superblocks name and no row claims)."""
        region = self._region(offset, length)
        runs = self._list(region)
        index = bisect_right(runs.offsets, offset) - 1
        assert index >= 0, f"I7: {offset}+{length} is not free"
        run_start, run_length = runs.offsets[index], runs.lengths[index]
        before, after = offset - run_start, run_start + run_length - offset - length
        assert after >= 0, f"I7: {offset}+{length} is not free"
        pieces = [(run_start, before), (offset + length, after)]
        runs.offsets[index : index + 1] = [start for start, size in pieces if size]
        runs.lengths[index : index + 1] = [size for _, size in pieces if size]
        self._free[region] -= length
        self.free -= length

    def release(self, offset: int, length: int) -> None:
        """The extent is free from now on.  Asserts that no byte of it was (I7)."""
        region = self._region(offset, length)
        self._free[region] += length
        self.free += length
        runs = self._lists.get(region)
        if runs is None:
            low, high = self._bounds(region)
            assert self._free[region] <= high - low, "I7: released twice"
            self._hidden[region] = self._hidden.get(region, 0) + length
            run = length
        else:
            run = _insert(runs, offset, length)
        if run > self._known[region]:
            self._known[region] = run

    # ------------------------------------------------------------------ questions
    def largest(self) -> int:
        """A hint at the longest extent that `reserve` may find: bytes, never above `free`."""
        return min(max(self._known, default=0), self.free)

    def statistics(self) -> dict[str, int]:
        """Gauges (bytes, regions) and counters since start."""
        return {
            "size": self.size,
            "free": self.free,
            "regions": len(self._free),
            "loaded": len(self._lists),
            "loads": self._loads,
            "evictions": self._evictions,
            "failures": self._failures,
        }

    # ------------------------------------------------------------------ regions
    def _activate(self, size_class: int, length: int) -> int | None:
        """Finds a region for `length`, makes it the class's active one and takes the extent."""
        for _ in range(ATTEMPTS_MAX):
            region = self._emptiest(length)
            if region < 0:
                break
            offset = self._take(region, length)  # or else its known run is exact now: no candidate again
            if offset is not None:
                self._active[size_class] = region
                return offset
        for region in dict.fromkeys(self._active):  # a small device has fewer regions than there are classes
            offset = self._take(region, length) if region >= 0 else None
            if offset is not None:
                self._active[size_class] = region
                return offset
        for region in heapq.nlargest(HIDDEN_MAX, self._hidden, key=self._hidden.__getitem__):
            if self._free[region] < length:
                continue
            self._list(region)
            offset = self._take(region, length)
            if offset is not None:
                self._active[size_class] = region
                return offset
        return None

    def _emptiest(self, length: int) -> int:
        """The region with the most free bytes of those that are not active and whose known run fits; -1 for none."""
        fitting = [region for region, run in enumerate(self._known) if run >= length]
        if not fitting:
            return -1
        free = self._free
        best = max(fitting, key=free.__getitem__)
        if best not in self._active:
            return best
        return max((region for region in fitting if region not in self._active), key=free.__getitem__, default=-1)

    def _take(self, region: int, length: int) -> int | None:
        """The first fit at or after the cursor, around the end; None sets the known run to the truth."""
        if self._known[region] < length:
            return None
        runs = self._lists.get(region) or self._list(region)
        lengths = runs.lengths
        cursor = runs.cursor
        for indices in (range(cursor, len(lengths)), range(min(cursor, len(lengths)))):
            for index in indices:
                if lengths[index] >= length:
                    offset = runs.offsets[index]
                    if lengths[index] == length:
                        del runs.offsets[index], lengths[index]
                    else:
                        runs.offsets[index] = offset + length
                        lengths[index] -= length
                    runs.cursor = index
                    self._free[region] -= length
                    self.free -= length
                    return offset
        self._known[region] = max(lengths, default=0)
        return None

    def _list(self, region: int) -> _FreeList:
        """The region's free list, built if it is not there."""
        runs = self._lists.get(region)
        if runs is not None:
            return runs
        low, high = self._bounds(region)
        offsets: list[int] = []
        lengths: list[int] = []
        for offset, length in gaps(low, high, sorted(self._load(low, high))):
            offsets.append(offset)
            lengths.append(length)
        assert sum(lengths) == self._free[region], (
            f"I7: region {region} has {self._free[region]} bytes free by count, {sum(lengths)} by its claims"
        )
        self._loads += 1
        self._known[region] = max(lengths, default=0)
        self._hidden.pop(region, None)
        if len(self._lists) >= LOADED_MAX:
            self._evict()
        runs = self._lists[region] = _FreeList(offsets, lengths)
        return runs

    def _evict(self) -> None:
        """Forgets the oldest free list whose region isn't active.  There is one: classes are fewer than LOADED_MAX."""
        region = next(region for region in self._lists if region not in self._active)
        self._known[region] = max(self._lists.pop(region).lengths, default=0)
        self._evictions += 1

    def _bounds(self, region: int) -> tuple[int, int]:
        low = self._base + region * self.region_size
        return max(low, self.start), min(low + self.region_size, self.end)

    def _region(self, offset: int, length: int) -> int:
        """The one region that holds the extent."""
        assert length > 0
        assert offset % UNIT == 0
        assert length % UNIT == 0
        region = (offset - self._base) // self.region_size
        low, high = self._bounds(region)
        assert low <= offset, f"extent {offset}+{length} begins before the pages"
        assert offset + length <= high, f"extent {offset}+{length} leaves its region"
        return region


def _insert(runs: _FreeList, offset: int, length: int) -> int:
    """Adds a run, joined with its neighbours; returns the length of what it became."""
    offsets, lengths = runs.offsets, runs.lengths
    index = bisect_left(offsets, offset)
    end = offset + length
    assert index == len(offsets) or end <= offsets[index], f"I7: {offset}+{length} overlaps a free run"
    assert index == 0 or offsets[index - 1] + lengths[index - 1] <= offset, f"I7: {offset}+{length} overlaps a free run"
    if index < len(offsets) and offsets[index] == end:
        length += lengths[index]
        del offsets[index], lengths[index]
    if index and offsets[index - 1] + lengths[index - 1] == offset:
        lengths[index - 1] += length
        return lengths[index - 1]
    offsets.insert(index, offset)
    lengths.insert(index, length)
    return length
