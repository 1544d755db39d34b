"""Whether the last batch of a journal was torn by a crash: its pages, against their headers and blocks (I3).

Only the last record can be: the one before it was flushed before it was written (I2).  Deliberately unknown here: what
is done with one that is torn (startup.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from appliance.catalogue.schema import CHUNK, PAGE
from appliance.device.buffers import scratch
from appliance.engine.journal import Found
from appliance.engine.pool import PageRef, Pool, page_room
from appliance.errors import Code, StoreError
from appliance.limits import MIB, PAGE_PAYLOAD
from appliance.ondisk.damaged import DamagedError


class Verdict(NamedTuple):
    """Of one record."""

    stands: bool  # every page that it adds, and that no earlier flush covered, has a good copy on the devices here
    full: bool  # ... and none that is not good, or not here: any start without some of the devices will find the same


def examine(pool: Pool, found: Found) -> Verdict:
    """Reads all copies of the record's pages.

    Copies on missing devices can't be asked: a chunk all of whose copies are missing counts as whole, for an
    acknowledged batch must not be dropped because a disk died since.  Raises IO_ERROR.
    """
    record = found.decode()
    covered = {tuple(place) for place in record.covered}
    pages: dict[tuple[int, int], list[PageRef]] = {}
    lengths: dict[int, int] = {}
    for image in record.images:
        if image[0] == PAGE.number and image[1] == 0:
            dev, off, length, chunk, index, _, hsum = image[2:]
            if (dev, off) not in covered:
                pages.setdefault((chunk, index), []).append(PageRef(dev, off, length, index, hsum, chunk))
        elif image[0] == CHUNK.number and image[1] == 0:
            lengths[image[2]] = image[3]
    full = True
    for (chunk, index), copies in pages.items():
        here = [ref for ref in copies if pool.devices[ref.device].device is not None]
        payload = min(PAGE_PAYLOAD, lengths[chunk] - index * PAGE_PAYLOAD) if chunk in lengths else 0
        good = _good(pool, here, payload)
        if here and not good:
            return Verdict(stands=False, full=False)
        full = full and good == len(copies)
    return Verdict(stands=True, full=full)


def _good(pool: Pool, copies: Sequence[PageRef], payload: int) -> int:
    """How many are.  Raises IO_ERROR when none is that can be read, and one can't."""
    good = 0
    unreadable: OSError | None = None
    for ref in copies:
        try:
            good += _is_good(pool, ref, payload)
        except OSError as error:
            unreadable = error
    if unreadable is not None and not good:
        raise StoreError(
            Code.IO_ERROR, "a device cannot be read during recovery", cause=str(unreadable)
        ) from unreadable
    return good


def _is_good(pool: Pool, ref: PageRef, payload: int) -> bool:
    try:
        with scratch(page_room(0, MIB)) as room:
            for low in range(0, payload, MIB):
                pool.read_page_part(ref, low, min(low + MIB, payload), room, in_clear=False)
    except DamagedError:
        return False
    return True
