"""The threads of reads.c, as `streams` wants them.

Knows the compiled part's structures, and nothing of files.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from appliance.limits import BLOCK
from fusefs import interposed

if TYPE_CHECKING:
    from appliance.store import Place

HEARD: Final = 1024  # requests whose end is told at once: as many as reads.c remembers


class Piece(ctypes.Structure):
    """struct piece."""

    _fields_ = tuple(
        (name, ctypes.c_int64) for name in ("start", "end", "base", "place", "payload", "first_sum", "device")
    )


class Reads:
    """One process's."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._sums: dict[int, bytes] = {}  # window -> what it points to
        self._ended = interposed.Ended(("reads_ended", library))
        self._seconds = (ctypes.c_double * HEARD)()
        self._bytes = ctypes.c_uint64()

    def window(self, places: Sequence[Place]) -> int:
        """See `streams.Threads`, also below."""
        pieces = (Piece * len(places))()
        at = 0
        for piece, place in zip(pieces, places, strict=True):
            piece.start, piece.end, piece.base, piece.place = place.start, place.end, place.base, place.offset
            piece.payload, piece.first_sum, piece.device = place.payload, at, place.descriptor
            at += len(place.sums)
        sums = b"".join([place.sums for place in places])
        number = int(self._library.reads_window(pieces, len(places), sums, BLOCK) or 0)
        if number:
            self._sums[number] = sums
        return number

    def busy(self, window: int) -> bool:
        return bool(self._library.reads_busy(window))

    def free(self, window: int) -> None:
        self._library.reads_free(window)
        del self._sums[window]

    def ended(self) -> tuple[Sequence[float], int]:
        count = self._ended(self._seconds, HEARD, ctypes.byref(self._bytes))
        return self._seconds[:count], self._bytes.value

    def wait(self) -> None:
        self._library.reads_wait()
