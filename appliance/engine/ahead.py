"""A batch that stands, by its record, and of which the caller was not told yet: most often the index lacks it, too.

Deliberately unknown here: how it came to stand, and when the index has it (commit.py).
"""

from __future__ import annotations

from appliance.catalogue.database import Rows
from appliance.engine.ticket import Batch


class Ahead:
    """One such batch: `tx` has its rows' images, by which they can be brought back (I9); `freeing` what it freed,
    extents as (device, offset, length), which stay until its rows are shown (I5)."""

    __slots__ = ("batch", "freeing", "indexed", "seq", "tx")

    def __init__(self, batch: Batch, seq: int, tx: Rows, freeing: list[tuple[int, int, int]]) -> None:
        self.batch = batch
        self.seq = seq
        self.tx = tx
        self.freeing = freeing
        self.indexed = False  # its rows are committed
