"""Small bodies of a batch as pages: placed, sealed if they have a key, side by side in one write for each device.

I6  a live page is never written: every extent written here was reserved here
"""

from __future__ import annotations

from secrets import token_bytes
from typing import Any, Final, NamedTuple

from appliance.catalogue.database import NewData, Rows
from appliance.catalogue.schema import PAGE
from appliance.device.buffers import aligned
from appliance.engine.pool import Pool, header_for
from appliance.errors import Code, StoreError
from appliance.limits import BATCH_BODY_MAX, COPIES_MAX, MIB
from appliance.ondisk import cipher, page

GATHER_MEMORY: Final = COPIES_MAX * (BATCH_BODY_MAX + 2 * MIB)  # bodies, headers and padding, for each copy's device


class Prepared(NamedTuple):
    """A gathered body as it lies on devices: sealed, if it has a key."""

    data: bytes | bytearray
    sums: bytes
    seal: bytes


class Gathering:
    """The writer's buffer, and what fills it."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._buffer = aligned(GATHER_MEMORY)  # takes memory only where it was touched

    def gather(self, tx: Rows, gathered: list[tuple[int, int]], birth: int) -> dict[int, list[tuple[int, memoryview]]]:
        """Pages for every body that travels with the batch: one run per device where space allows.  What it reserves
        it adds to `gathered` (device, offset).  The views are valid until the next batch.  Raises NO_SPACE."""
        writes: dict[int, list[tuple[int, memoryview]]] = {}
        if not tx.new_data:
            return writes
        items = list(tx.new_data.items())
        lengths = [page.extent_length(len(item.data)) for _, item in items]
        copies = max(item.copies for _, item in items)
        devices = self._pool.place(copies, max(lengths))
        bodies = [_prepared(chunk, item) for chunk, item in items]
        headers: list[bytes] = [b""] * len(items)  # of the first copy
        used = 0
        rows: list[tuple[Any, ...]] = []
        for copy, device_id in enumerate(devices):
            chosen = [at for at, (_, item) in enumerate(items) if item.copies > copy]
            offsets = self._reserve_run(device_id, [lengths[at] for at in chosen], gathered)
            run_start: int | None = None
            run_from = used
            run_end = 0
            for at, offset in zip(chosen, offsets, strict=True):
                if run_start is not None and offset != run_end:
                    writes.setdefault(device_id, []).append((run_start, self._buffer[run_from:used]))
                    run_start = None
                if run_start is None:
                    run_start, run_from = offset, used
                chunk, item = items[at]
                if copy == 0:
                    header = headers[at] = self._header(chunk, item, device_id, offset, bodies[at], birth)
                else:
                    header = page.moved(headers[at], self._pool.devices[device_id].uuid, offset)
                self._lay(header, bodies[at].data, used, lengths[at])
                rows.append((device_id, offset, lengths[at], chunk, 0, copy, page.header_sum(header)))
                tx.new_pages[device_id, offset] = False
                used += lengths[at]
                run_end = offset + lengths[at]
            if run_start is not None:
                writes.setdefault(device_id, []).append((run_start, self._buffer[run_from:used]))
        tx.put_many(PAGE, rows)
        return writes

    def _reserve_run(self, device_id: int, lengths: list[int], gathered: list[tuple[int, int]]) -> list[int]:
        """Adjacent extents; where no run is long enough, two halves."""
        allocator = self._pool.allocator
        try:
            start = allocator.reserve(device_id, sum(lengths))
        except StoreError as error:
            if error.code is not Code.NO_SPACE or len(lengths) == 1:
                raise
            half = len(lengths) // 2
            first = self._reserve_run(device_id, lengths[:half], gathered)
            return first + self._reserve_run(device_id, lengths[half:], gathered)
        offsets = allocator.divide(device_id, start, lengths) if len(lengths) > 1 else [start]
        gathered.extend((device_id, offset) for offset in offsets)
        return offsets

    def _header(self, chunk: int, item: NewData, device_id: int, offset: int, body: Prepared, birth: int) -> bytes:
        return header_for(
            self._pool,
            device_id,
            offset,
            birth=birth,
            chunk=chunk,
            owner=item.owner,
            logical=0,
            payload=len(body.data),
            index=0,
            copies=item.copies,
            sums=body.sums,
            label=item.label,
            seal=body.seal,
        )

    def _lay(self, header: bytes, body: bytes | bytearray, at: int, extent: int) -> None:
        """The page's image, `extent` bytes, into the buffer at `at`."""
        middle = at + len(header)
        end = middle + len(body)
        self._buffer[at:middle] = header
        self._buffer[middle:end] = body
        self._buffer[end : at + extent] = bytes(at + extent - end)


def _prepared(chunk: int, item: NewData) -> Prepared:
    """A gathered body as its pages will hold it, the same for every copy."""
    if item.key is None:
        return Prepared(item.data, page.block_sums(item.data), b"")
    data = bytearray(item.data)
    seal = cipher.seal(item.key, token_bytes(cipher.SALT), chunk, 0, memoryview(data))
    return Prepared(data, page.block_sums(data), seal)
