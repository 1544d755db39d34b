"""What small reads in no order make us fetch."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fusefs.windows import BLOCK_MAX, GRANULE, LOST_MAX, SPARED, Window, Windows

PAGE = 4096


def read(windows: Windows, at: int, size: int) -> Window | None:
    return windows.missed(at, min(at + PAGE, size), size)


pages = st.integers(0, 40 * GRANULE // PAGE - 1)


@given(st.lists(pages, min_size=SPARED, max_size=120), st.integers(1, 40 * GRANULE))
def test_what_is_bought_is_at_most_twice_what_was_missed(places: list[int], size: int) -> None:
    windows = Windows()
    missed: set[int] = set()
    bought: set[int] = set()
    end, misses = -1, 0
    for place in places:
        at = place * PAGE % size // PAGE * PAGE
        in_order, end = at == end, min(at + PAGE, size)
        cached = misses >= SPARED and at // GRANULE in bought  # then no program's read comes to us
        if cached:
            continue
        window = read(windows, at, size)
        if in_order or misses < SPARED:
            assert window is None, place
            misses += not in_order
            continue
        misses += 1
        missed.add(at // GRANULE)
        assert window is not None
        assert window.start <= at < window.end <= size
        granules = range(window.start // GRANULE, -(-window.end // GRANULE))
        assert window.start % GRANULE == 0
        assert window.end % GRANULE == 0 or window.end == size
        assert len(granules) <= BLOCK_MAX
        windows.landed(window)
        bought |= set(granules)
        assert len(bought) <= 2 * len(missed)
    assert windows.misses == misses


def spared(size: int) -> Windows:
    """Of a file that was read at random at its beginning."""
    windows = Windows()
    for number in range(SPARED):
        assert read(windows, 2 * number * PAGE, size) is None
    return windows


def test_the_largest_block_is_bought_half_of_which_was_missed() -> None:
    size = 16 * GRANULE
    windows = spared(size)
    found = [read(windows, granule * GRANULE, size) for granule in (0, 1, 2, 5, 6, 12)]
    assert found == [
        Window(0, 2 * GRANULE),
        None,  # it is on its way
        Window(0, 4 * GRANULE),
        Window(4 * GRANULE, 6 * GRANULE),
        Window(0, 8 * GRANULE),
        Window(12 * GRANULE, 14 * GRANULE),
    ]


def test_what_is_thrown_out_again_and_again_is_bought_no_more_until_as_much_was_missed_again() -> None:
    size = 40 * GRANULE
    windows = spared(size)
    for number in range(LOST_MAX + 1):
        window = read(windows, 4 * number * GRANULE, size)
        assert window is not None
        windows.landed(window)
    for number in range(LOST_MAX):
        assert read(windows, 4 * number * GRANULE, size) is None, "it may have overtaken what fetches it"
    misses = windows.misses
    for number in range(misses + 1):
        assert read(windows, 8 * (number % 5) * GRANULE, size) is None, number
    again = read(windows, 4 * GRANULE, size)
    assert again == Window(4 * GRANULE, 6 * GRANULE)


def test_a_window_that_lands_after_all_was_forgotten_says_nothing() -> None:
    size = 40 * GRANULE
    windows = spared(size)
    late = read(windows, 39 * GRANULE, size)
    assert late is not None
    first = read(windows, 0, size)
    assert first is not None
    windows.landed(first)
    for number in range(LOST_MAX + 1):
        read(windows, 2 * number * PAGE, size)
    windows.landed(late)
    while (window := read(windows, 39 * GRANULE, size)) is None:
        windows.missed(0, PAGE, size)
    assert window == late


def test_a_file_may_grow_and_shrink() -> None:
    windows = spared(GRANULE)
    assert read(windows, 9 * GRANULE, 10 * GRANULE) == Window(8 * GRANULE, 10 * GRANULE)
    assert read(windows, 0, 100) == Window(0, 100)
