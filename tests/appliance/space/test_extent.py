"""Extents against sets of bytes."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from appliance.space.extent import clip, gaps, merge, overlaps

runs = st.tuples(st.integers(0, 40), st.integers(1, 10))


def bytes_of(offset: int, length: int) -> set[int]:
    return set(range(offset, offset + length))


@given(runs, runs)
def test_overlaps_and_clip_agree_with_sets(first: tuple[int, int], second: tuple[int, int]) -> None:
    common = bytes_of(*first) & bytes_of(*second)
    assert overlaps(*first, *second) == bool(common)
    clipped = clip(*first, second[0], second[0] + second[1])
    assert (bytes_of(*clipped) if clipped else set()) == common


@given(st.lists(runs))
def test_merge_keeps_the_bytes_and_leaves_true_gaps_between_runs(pieces: list[tuple[int, int]]) -> None:
    merged = list(merge(sorted(pieces)))
    expected = set().union(*(bytes_of(*piece) for piece in pieces))
    assert set().union(*(bytes_of(*piece) for piece in merged)) == expected
    assert all(a + n < b for (a, n), (b, _) in itertools.pairwise(merged))


@given(st.lists(runs))
def test_gaps_are_the_complement(pieces: list[tuple[int, int]]) -> None:
    used = list(merge(sorted(pieces)))
    free = list(gaps(0, 60, used))
    assert set().union(*(bytes_of(*run) for run in free)) == set(range(60)) - set().union(
        *(bytes_of(*run) for run in used)
    )
    assert sum(length for _, length in free + used) == 60
