"""What each FUSE operation was asked for, how long it took and how it ended.

One `Operation` per handler, made once: counting costs two readings of the clock and a few additions on plain lists
(0.3 us), no lock, because every handler runs on the loop.  They live as long as the process, over every mount: that is
what Prometheus's counters mean.
"""

from __future__ import annotations

import errno
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

# Seconds: from what memory answers (10 us) to a commit on a slow disk, and a flush that waits for much data.
BOUNDS: Final = (
    0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
)  # fmt: skip

OPERATIONS: Final[dict[str, Operation]] = {}


class UnderWay:
    """How many requests are begun and not answered."""

    __slots__ = ("requests",)

    def __init__(self) -> None:
        self.requests = 0


UNDER_WAY: Final = UnderWay()


class Operation:
    """One kind of request.  `counts[i]` of them took at most BOUNDS[i] seconds, the last ones longer."""

    __slots__ = ("bytes", "counts", "errors", "seconds", "unexpected")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0
        self.errors: dict[int, int] = {}  # errno -> how many
        self.bytes = 0  # that were read or written
        self.unexpected = 0  # errors that are bugs of ours, whatever was answered in the end

    @property
    def bounds(self) -> Sequence[float]:
        """Of the counts, in seconds."""
        return BOUNDS

    @property
    def named_errors(self) -> dict[str, int]:
        """By the errno's name."""
        return {errno.errorcode.get(number, str(number)): count for number, count in sorted(self.errors.items())}

    def ended(self, seconds: float) -> None:
        """One more, however it ended."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds

    def failed(self, number: int) -> None:
        """One more that was answered by an errno."""
        self.errors[number] = self.errors.get(number, 0) + 1


def operation(name: str) -> Operation:
    """The one of this name."""
    return OPERATIONS.setdefault(name, Operation())
