"""Which devices get the copies of a body.

The first copy goes to the preferred tier: an SSD ("blaze") absorbs writes and serves what is hot, until it is three
quarters full; a body announced as huge goes to the HDDs ("bulk") at once, for it would only push other things out.
Further copies are there for safety, not speed, so they prefer bulk.  Copies of one body never share a device.

Within a tier devices are drawn in proportion to their free share: a fuller device gets less, an empty new one is not
flooded.  The draw uses a running number (`turn`) instead of a random one, so a caller that counts up spreads its
load evenly and a simulation repeats.

What this module doesn't know: how space is found inside a device, and whether a device answers; `Candidate.online`
says it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

import msgspec

from appliance.errors import Code, StoreError
from appliance.limits import GIB, WRITE_CEILING

BLAZE: Final = "blaze"
BULK: Final = "bulk"
HIGH_WATERMARK: Final = 0.75  # of a device used: above it the fast tier takes no more first copies by preference
HUGE: Final = GIB  # a body announced longer than this starts on bulk
GOLDEN: Final = 0.6180339887498949  # fractions of its multiples are the most even sequence (Weyl; Knuth vol. 3, 6.4)


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A device as placement sees it.  `free` and `size` are bytes of its pages."""

    id: int
    tier: str
    free: int
    size: int
    online: bool = True

    @property
    def used_share(self) -> float:
        """0 for empty, 1 for full; a device without pages is full."""
        return 1.0 - self.free / self.size if self.size else 1.0


def place(
    candidates: Sequence[Candidate],
    copies: int,
    length: int,
    *,
    announced: int | None = None,
    prefer: str = BLAZE,
    tier_pin: str | None = None,
    avoid: Collection[int] = (),
    turn: int = 0,
    ceiling: float = WRITE_CEILING,
) -> list[int]:
    """Ids of `copies` distinct devices, the first copy's first.

    `length` is the bytes of one copy; `announced` the whole body's size if known.  `tier_pin` forbids every other
    tier.  `avoid` are devices that already hold a copy or just failed.  `turn` is any number; successive ones spread.

    Raises StoreError: UNAVAILABLE if fewer than `copies` devices are online at all, NO_SPACE if they are but lack
    space.
    """
    assert copies > 0
    online = [c for c in candidates if c.online and c.id not in avoid and tier_pin in (None, c.tier)]
    fitting = [c for c in online if c.free >= length and c.size - c.free + length <= c.size * ceiling]
    if len(fitting) < copies:
        raise _shortage(candidates, online, fitting, copies, tier_pin)
    huge = announced is not None and announced > HUGE
    chosen: list[int] = []
    for copy in range(copies):
        left = [c for c in fitting if c.id not in chosen]
        wanted = BULK if copy or huge else prefer
        pool = [c for c in left if c.tier == wanted]
        if not copy and wanted == BLAZE:
            pool = [c for c in pool if c.used_share < HIGH_WATERMARK]
        other = [c for c in left if c.tier != wanted]
        # no device of the wanted tier below its mark: the other tier; none there either: whatever fits
        chosen.append(_draw(pool or other or left, turn + copy).id)
    return chosen


def _draw(pool: Sequence[Candidate], turn: int) -> Candidate:
    """One of `pool`, each in proportion to its free share over successive turns."""
    ordered = sorted(pool, key=lambda candidate: candidate.id)
    weights = [max(1.0 - candidate.used_share, 1e-9) for candidate in ordered]
    point = (turn * GOLDEN) % 1.0 * sum(weights)
    for candidate, weight in zip(ordered, weights, strict=True):
        if point < weight:
            return candidate
        point -= weight
    return ordered[-1]  # rounding at the very end


def _shortage(
    candidates: Iterable[Candidate],
    online: Sequence[Candidate],
    fitting: Sequence[Candidate],
    copies: int,
    tier_pin: str | None,
) -> StoreError:
    """Says what is missing."""
    where = f" in tier {tier_pin}" if tier_pin else ""
    cause = f"{len(fitting)} of {len(online)} usable devices have space: {sorted(c.id for c in candidates)}"
    if len(online) < copies:
        return StoreError(
            Code.UNAVAILABLE,
            f"{copies} copies need {copies} devices online{where}; {len(online)} can be used",
            cause=cause,
        )
    return StoreError(
        Code.NO_SPACE,
        f"{copies} copies need space on {copies} devices{where}; {len(fitting)} have it: delete something or add one",
        cause=cause,
    )
