"""How one device is divided: pure arithmetic from its size.  FORMAT.md, "Zones".

    0        1 MiB           2 MiB            pages_start          pages_end           size
    | label  | slots 0 and 1 | journal ring   | pages (regions)    | slots 2, 3 | label |

Whole disks and files are divided alike; a file leaves the two label zones zero.  The four superblock slots lie at both
ends, so that neither a stray write at the start nor a shrunken end takes all of them; their places follow from the size
alone, because they are what is looked for first.

Regions are cut at multiples of `region_size` of the device's own offsets: the first and the last one are usually
shorter.  Nothing here knows what is free: that is the free map's business.
"""

from __future__ import annotations

from typing import Final

import msgspec

from appliance.errors import Code, StoreError
from appliance.limits import GIB, KIB, MIB, PAGE_PAYLOAD

UNIT: Final = 4 * KIB  # the allocation unit on every tier: with extent structures it is only a rounding
SLOT: Final = 64 * KIB  # one superblock
LABEL_ZONE: Final = MIB  # kept free at both ends: the partition table and its backup live there
HEAD_SLOTS: Final = MIB  # offset of slot 0; slot 1 follows
RING_START: Final = 2 * MIB
TAIL: Final = 2 * MIB  # slots 2 and 3 start this far before the last whole MiB ends

SIZE_MIN: Final = 64 * MIB
RING_MIN: Final = 4 * MIB  # the default's floor; an explicit length may be less
RING_LEAST: Final = 64 * KIB  # below this not even one ordinary batch fits
REGION_MIN: Final = 8 * MIB  # a page of the greatest length must fit comfortably


class Geometry(msgspec.Struct, frozen=True):
    """The zones of one device.  All fields are bytes; `ring_length` is 0 on a device without a journal."""

    size: int
    region_size: int
    ring_start: int
    ring_length: int
    pages_start: int
    pages_end: int

    def slots(self) -> tuple[int, int, int, int]:
        """Offsets of the four superblock slots."""
        return slot_offsets(self.size)

    def regions(self) -> int:
        """How many regions there are, the shorter ones at both ends included."""
        return (self.pages_end - 1) // self.region_size - self.pages_start // self.region_size + 1

    def region_of(self, offset: int) -> int:
        """Number of the region that holds the device offset `offset`, which must lie in the pages."""
        assert self.pages_start <= offset < self.pages_end, offset
        return offset // self.region_size - self.pages_start // self.region_size

    def region_bounds(self, index: int) -> tuple[int, int]:
        """Device offsets [lo, hi) of region `index`."""
        assert 0 <= index < self.regions(), index
        first = (self.pages_start // self.region_size + index) * self.region_size
        return max(first, self.pages_start), min(first + self.region_size, self.pages_end)

    def is_sound(self) -> bool:
        """True when the zones are in order and aligned: what `plan` promises and a superblock must repeat."""
        if self.size < SIZE_MIN or self.region_size < REGION_MIN or self.region_size % UNIT:
            return False
        if self.ring_start != RING_START or self.ring_length < 0 or self.ring_length % UNIT:
            return False
        if self.pages_start % UNIT or self.pages_end % UNIT:
            return False
        return self.ring_start + self.ring_length <= self.pages_start < self.pages_end <= self.slots()[2]


def round_up(count: int, unit: int = UNIT) -> int:
    """`count` rounded up to a multiple of `unit`."""
    return -(-count // unit) * unit


def slot_offsets(size: int) -> tuple[int, int, int, int]:
    """Offsets of the four superblock slots on a device of `size` bytes.

    The last two end at least 1 MiB before the device does: a backup partition table (33 sectors of 512 bytes, or 5 of
    4,096) fits behind them.
    """
    tail = size // MIB * MIB - TAIL
    return HEAD_SLOTS, HEAD_SLOTS + SLOT, tail, tail + SLOT


def default_region_size(size: int) -> int:
    """A few thousand regions at most, a few at least: a region's free list is loaded whole."""
    if size >= 64 * GIB:
        return GIB
    return 64 * MIB if size >= GIB else 16 * MIB


def default_ring_length(size: int) -> int:
    """1 % of the device between 64 MiB and 1 GiB, but no more than an eighth of a small one."""
    wanted = min(max(size // 100, 64 * MIB), GIB)
    return max(min(wanted, size // 8), RING_MIN) // MIB * MIB


def plan(size: int, *, journal: bool, ring_length: int | None = None, region_size: int | None = None) -> Geometry:
    """Divides a device of `size` bytes.

    Raises WRONG_DEVICE when the device is too small, INVALID_ARGUMENT for an impossible `ring_length` or `region_size`.
    """
    if size < SIZE_MIN:
        raise StoreError(
            Code.WRONG_DEVICE,
            f"the device has {size:,} bytes; at least {SIZE_MIN:,} (64 MiB) are needed",
        )
    region = default_region_size(size) if region_size is None else region_size
    if region < REGION_MIN or region % MIB:
        raise StoreError(Code.INVALID_ARGUMENT, f"region size {region:,} is not a multiple of 1 MiB of at least 8 MiB")
    ring = 0
    if journal:
        ring = default_ring_length(size) if ring_length is None else ring_length
        if ring < RING_LEAST or ring % UNIT or ring > size // 2:
            raise StoreError(
                Code.INVALID_ARGUMENT,
                f"journal length {ring:,} is not a multiple of 4 KiB between 64 KiB and half of the device",
            )
    geometry = Geometry(
        size=size,
        region_size=region,
        ring_start=RING_START,
        ring_length=ring,
        pages_start=round_up(RING_START + ring, MIB),
        pages_end=slot_offsets(size)[2],
    )
    assert geometry.is_sound(), geometry
    return geometry


# The arithmetic above relies on these.
assert RING_START >= HEAD_SLOTS + 2 * SLOT
assert TAIL >= LABEL_ZONE + 2 * SLOT
assert REGION_MIN >= PAGE_PAYLOAD + UNIT
