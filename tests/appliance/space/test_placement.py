"""Where copies go."""

from __future__ import annotations

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import Code, StoreError
from appliance.limits import GIB, MIB
from appliance.space.placement import Candidate, place

candidates_strategy = st.lists(
    st.builds(
        Candidate,
        id=st.integers(1, 50),
        tier=st.sampled_from(["blaze", "bulk"]),
        free=st.integers(0, 1000),
        size=st.just(1000),
        online=st.booleans(),
    ),
    max_size=8,
    unique_by=lambda candidate: candidate.id,
)


@given(
    candidates_strategy, st.integers(1, 3), st.integers(1, 400), st.sets(st.integers(1, 50), max_size=3), st.integers()
)
def test_copies_go_to_distinct_online_devices_with_space(
    candidates: list[Candidate], copies: int, length: int, avoid: set[int], turn: int
) -> None:
    usable = {c.id for c in candidates if c.online and c.id not in avoid and c.free >= length and c.free - length >= 30}
    if len(usable) < copies:
        with pytest.raises(StoreError) as caught:
            place(candidates, copies, length, avoid=avoid, turn=turn)
        online = sum(c.online and c.id not in avoid for c in candidates)
        assert caught.value.code is (Code.UNAVAILABLE if online < copies else Code.NO_SPACE)
        return
    chosen = place(candidates, copies, length, avoid=avoid, turn=turn)
    assert len(set(chosen)) == len(chosen) == copies
    assert set(chosen) <= usable


def device(number: int, tier: str, used: float = 0.0) -> Candidate:
    return Candidate(number, tier, int((1 - used) * 100 * GIB), 100 * GIB)


BOX = [device(1, "blaze"), device(2, "bulk"), device(3, "bulk")]


def test_the_first_copy_is_fast_and_the_others_safe() -> None:
    for turn in range(10):
        first, second, third = place(BOX, 3, 4 * MIB, turn=turn)
        assert first == 1
        assert {second, third} == {2, 3}


def test_above_the_watermark_and_for_huge_bodies_the_first_copy_goes_to_bulk() -> None:
    full = [device(1, "blaze", 0.76), *BOX[1:]]
    assert place(full, 1, 4 * MIB)[0] in (2, 3)
    assert place(BOX, 1, 4 * MIB, announced=GIB + 1)[0] in (2, 3)
    assert place(BOX, 1, 4 * MIB, announced=GIB) == [1]


def test_a_full_bulk_tier_leaves_the_fast_one_above_its_watermark() -> None:
    box = [device(1, "blaze", 0.9), device(2, "bulk", 0.97)]
    assert place(box, 1, 4 * MIB) == [1]


def test_a_pin_forbids_the_other_tier() -> None:
    assert place(BOX, 2, MIB, tier_pin="bulk")[0] != 1
    with pytest.raises(StoreError, match="in tier blaze") as caught:
        place(BOX, 2, MIB, tier_pin="blaze")
    assert caught.value.code is Code.UNAVAILABLE


def test_load_follows_free_share() -> None:
    box = [device(1, "bulk", 0.8), device(2, "bulk", 0.2), device(3, "bulk", 0.6)]
    counts = collections.Counter(place(box, 1, MIB, prefer="bulk", turn=turn)[0] for turn in range(1400))
    assert counts[1] == pytest.approx(200, abs=5)
    assert counts[2] == pytest.approx(800, abs=5)
    assert counts[3] == pytest.approx(400, abs=5)
