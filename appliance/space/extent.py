"""Arithmetic of extents: runs of bytes given as (offset, length).

Everything is half-open, so that (0, 4) and (4, 4) touch but do not overlap.  No function knows units, devices or
what a run means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator


def overlaps(offset: int, length: int, other_offset: int, other_length: int) -> bool:
    """True if the two runs share a byte.  An empty run shares none."""
    return max(offset, other_offset) < min(offset + length, other_offset + other_length)


def clip(offset: int, length: int, low: int, high: int) -> tuple[int, int] | None:
    """The part of a run inside [low, high), or None."""
    first, last = max(offset, low), min(offset + length, high)
    return (first, last - first) if first < last else None


def merge(ordered: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Joins runs that overlap or touch.  `ordered` rises by offset; identical runs become one."""
    iterator = iter(ordered)
    for offset, length in iterator:
        start, end = offset, offset + length
        break
    else:
        return
    for offset, length in iterator:
        assert offset >= start, "runs are not in order"
        if offset > end:
            yield start, end - start
            start, end = offset, offset + length
        else:
            end = max(end, offset + length)
    yield start, end - start


def gaps(low: int, high: int, used: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What `used` (rising by offset, without overlaps, inside [low, high)) leaves of [low, high)."""
    position = low
    for offset, length in used:
        assert offset >= position, "used runs overlap, are not in order or begin too low"
        if offset > position:
            yield position, offset - position
        position = offset + length
    assert position <= high, "a used run ends too high"
    if position < high:
        yield position, high - position
