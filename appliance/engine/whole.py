"""Whether the last batch of a journal was torn by a crash: its pages, against their headers and blocks (I3).

Only the last record can be: the one before it was flushed before it was written (I2).  Deliberately unknown here: what
is done with one that is torn (startup.py).
"""

from __future__ import annotations

from appliance.catalogue.schema import CHUNK, PAGE
from appliance.device.buffers import scratch
from appliance.engine.journal import Found
from appliance.engine.pool import PageRef, Pool, page_room
from appliance.errors import Code, StoreError
from appliance.limits import MIB, PAGE_PAYLOAD
from appliance.ondisk.damaged import DamagedError


def is_whole(pool: Pool, found: Found) -> bool:
    """Every page that the record adds, and that no earlier flush covered, has a good copy on the devices that are here.

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
    for (chunk, index), copies in pages.items():
        here = [ref for ref in copies if pool.devices[ref.device].device is not None]
        payload = min(PAGE_PAYLOAD, lengths[chunk] - index * PAGE_PAYLOAD) if chunk in lengths else 0
        if here and not any(_is_good(pool, ref, payload) for ref in here):
            return False
    return True


def _is_good(pool: Pool, ref: PageRef, payload: int) -> bool:
    try:
        with scratch(page_room(0, MIB)) as room:
            for low in range(0, payload, MIB):
                pool.read_page_part(ref, low, min(low + MIB, payload), room, in_clear=False)
    except DamagedError:
        return False
    except OSError as error:
        raise StoreError(Code.IO_ERROR, "a device cannot be read during recovery", cause=str(error)) from error
    return True
