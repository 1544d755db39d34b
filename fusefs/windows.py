"""Which parts of a file to fetch whole, seen from small reads in no order.

The kernel reads ahead of who reads in order; who does not gets what he asks for, 4 KiB at a time, and each costs a
request.  A request that goes to a device costs what some 256 KiB of a long read cost: a *granule*.  So it is the ski
rental problem (Karlin et al., "Competitive snoopy caching", 1988): whoever has paid for the rent of a place buys it,
and pays at most a constant factor more than who knew the future.  A read that misses buys the largest block (of 2, 4 or
8 granules, aligned) half of which was missed: two at first, and never more than twice what was missed in all.  The
first reads buy nothing: most files that are opened are looked at once.

What was bought and is missed again was thrown out: memory is short, or somebody emptied it.  After a few of these
everything is forgotten, and as many misses as there ever were go by before anything is bought again.

Pure: who fetches, and whether there is room for it, is known elsewhere (`prefetch`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

GRANULE: Final = 256 << 10
BLOCK_MAX: Final = 8  # granules
SPARED: Final = 4  # misses that buy nothing
LOST_MAX: Final = 8  # granules missed again before all is forgotten: a request may overtake what fetches its page

ASKED: Final = 1
LANDED: Final = 2
MISSED: Final = 4


class Window(NamedTuple):
    """[start, end) of a file."""

    start: int
    end: int


class Windows:
    """Of one file, while it is open."""

    __slots__ = ("_end", "_granules", "_lost", "_spared", "misses")

    def __init__(self) -> None:
        self._granules = bytearray()
        self._end = -1  # of the read before
        self._lost = 0
        self._spared = SPARED
        self.misses = 0

    def missed(self, start: int, end: int, size: int) -> Window | None:
        """A small read of a file of `size` bytes came to us; what is to be fetched now, if anything.

        `landed` must be called of it later."""
        assert 0 <= start < end <= size
        in_order, self._end = start == self._end, end
        if in_order:
            return None
        count = -(-size // GRANULE)
        if count > len(self._granules):
            self._granules.extend(bytes(count - len(self._granules)))
        self.misses += 1
        at = start // GRANULE
        state = self._granules[at]
        if state & LANDED:
            self._lost += 1
            if self._lost > LOST_MAX:
                self._forget()
        if self._spared:
            self._spared -= 1
            return None
        if state & ASKED:
            return None
        self._granules[at] = state | MISSED
        low, high = self._block(at)
        for granule in range(low, min(high, count)):
            self._granules[granule] |= ASKED
        return Window(low * GRANULE, min(high * GRANULE, size))

    def landed(self, window: Window) -> None:
        """It was fetched, or could not be."""
        for granule in range(window.start // GRANULE, min(-(-window.end // GRANULE), len(self._granules))):
            if self._granules[granule] & ASKED:  # nothing was forgotten meanwhile
                self._granules[granule] |= LANDED

    def _block(self, at: int) -> tuple[int, int]:
        """The largest aligned block around a granule half of which was missed."""
        length = BLOCK_MAX
        while True:
            low = at // length * length
            if 2 * sum(bool(state & MISSED) for state in self._granules[low : low + length]) >= length:
                return low, low + length
            length //= 2

    def _forget(self) -> None:
        self._granules = bytearray(len(self._granules))
        self._lost = 0
        self._spared = self.misses
