"""Where bytes lie on the devices, for who reads and verifies them himself: the mount's compiled part, without us.

Only what is plain is told: long pages, not sealed, on a device of the operating system, in the copy that would be read
first.  All else (what is inline or short, patches, holes, sealed pages) is left out, and read as ever; so is what its
reader finds wanting, for only there another copy is tried, and a bad one counted.

The header of each page is read and proven here (H3): what it says of its blocks is what he compares with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from appliance.device.raw import RawDevice
from appliance.engine.plan import Step
from appliance.engine.pool import Pool
from appliance.limits import BLOCK, GATHER_MAX
from appliance.ondisk.damaged import DamagedError
from appliance.ondisk.page import LONG, extent_length

SHORT_BLOCK: Final = 241  # bytes from which on XXH3 is one function: a shorter last block is left out


class Place(NamedTuple):
    """[start, end) of a content, within one page."""

    start: int
    end: int
    base: int  # of the content: where the page's payload would begin; perhaps negative
    offset: int  # of the device: where the payload begins
    payload: int  # bytes of it
    descriptor: int  # of the device: open as long as the pool is
    sums: bytes  # of the payload's blocks


def places(pool: Pool, steps: Sequence[Step], start: int) -> list[Place]:
    """Of steps that begin at `start` of a content, in order; blocks.  Never a wrong one, but perhaps none: what cannot
    be told is met by who reads as ever."""
    found = []
    for step in steps:
        place = _place(pool, step, start) if step.copies else None
        if place is not None:
            found.append(place)
        start += step.length
    return found


def _place(pool: Pool, step: Step, at: int) -> Place | None:
    ref = step.copies[0]
    device = pool.devices.get(ref.device)
    if ref.length <= extent_length(GATHER_MAX) or device is None or not isinstance(device.device, RawDevice):
        return None
    try:
        header = pool.proven_header(device, ref)
        descriptor = device.device.descriptor
    except (DamagedError, OSError):
        return None
    end, base = step.start + step.length, at - step.start
    if header.seal or end > header.payload:
        return None
    if 0 < header.payload % BLOCK < SHORT_BLOCK:
        end = min(end, header.payload // BLOCK * BLOCK)
    if end <= step.start:
        return None
    return Place(at, base + end, base, ref.offset + LONG, header.payload, descriptor, header.sums)
