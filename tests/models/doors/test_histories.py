"""R12: what eight clients of both doors see is possible, key by key."""

from __future__ import annotations

import pytest

from tests.models.doors.histories import run_seed

HISTORIES = 200


@pytest.mark.slow
def test_two_hundred_histories_are_linearizable() -> None:
    """Every fourth with the daemon's threads, which run as they like; the rest repeat exactly.  scripts/torture makes
    new ones."""
    operations = sum(run_seed(seed, threaded=seed % 4 == 0).operations for seed in range(HISTORIES))
    assert operations > HISTORIES * 40


@pytest.mark.slow
def test_a_history_repeats() -> None:
    assert run_seed(1).histories == run_seed(1).histories
