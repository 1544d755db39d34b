"""Numbers and lookup counts, against what the kernel would remember."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fusefs.inodes import NEGATIVES_MAX, ROOT, SLACK, Inodes

steps = st.lists(st.tuples(st.sampled_from(["look up", "forget"]), st.integers(2, 6), st.integers(1, 3)), max_size=60)


@given(steps)
def test_an_inode_is_known_exactly_while_its_count_is_above_zero(script: list[tuple[str, int, int]]) -> None:
    inodes, counts = Inodes(), Counter[int]()
    for step, number, count in script:
        if step == "look up":
            inodes.looked_up(number, bucket=number * 10)
            counts[number] += 1
        elif counts[number] >= count:
            counts[number] -= count
            assert inodes.forget(number, count) == (counts[number] == 0)
        for each in range(2, 7):
            assert (each in inodes) == (counts[each] > 0)
            assert inodes.bucket(each) == (each * 10 if counts[each] else None)
    assert len(inodes) == 1 + sum(count > 0 for count in counts.values())


def test_the_root_is_always_known() -> None:
    inodes = Inodes()
    assert not inodes.forget(ROOT, 1)
    assert ROOT in inodes


def test_attributes_are_invalidated_once_until_they_are_given_again() -> None:
    inodes = Inodes()
    assert not inodes.take_cached(7)
    inodes.looked_up(7, 1)
    assert inodes.take_cached(7)
    assert not inodes.take_cached(7)
    inodes.attributes_given(7)
    assert inodes.take_cached(7)


def test_an_absent_name_is_remembered_until_it_is_taken_or_old() -> None:
    inodes = Inodes()
    assert inodes.absent_given(2, b"a", now=0.0)
    assert inodes.absent.take((2, b"a"))
    assert not inodes.absent.take((2, b"a"))
    assert inodes.absent_given(2, b"b", now=0.0)
    assert inodes.absent_given(2, b"c", now=61.0)
    assert inodes.absent.take((2, b"b")), "the kernel counts from when it heard"
    assert inodes.absent_given(2, b"d", now=200.0)
    assert not inodes.absent.take((2, b"c")), "old"


def test_above_the_bound_the_kernel_may_not_remember() -> None:
    inodes = Inodes()
    for number in range(NEGATIVES_MAX):
        assert inodes.absent_given(2, b"%d" % number, now=0.0)
    assert not inodes.absent_given(2, b"one more", now=1.0)
    assert inodes.absent_given(2, b"one more", now=60.1 + SLACK)
