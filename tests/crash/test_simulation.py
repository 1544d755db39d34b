"""R2: random crashes of the whole engine; each broken variant of the protocol is noticed."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest

from tests.crash import mutations
from tests.crash.simulation import LIVES, Counts, Trial, run_seed, small_world

QUICK: Final = 3  # seeds in every run: some twenty crashes
LONG: Final = 350  # some two thousand
BOUND: Final = 500  # seeds within which a fault must be noticed


@pytest.fixture
def world() -> Iterator[Path]:
    """The small scale."""
    with small_world() as directory:
        yield directory


def test_some_crashes_lose_nothing(world: Path) -> None:
    counts: Counts = collections.Counter()
    for seed in range(QUICK):
        run_seed(seed, world, counts)
    assert counts["crashes"] == QUICK * LIVES


@pytest.mark.slow
def test_two_thousand_crashes_lose_nothing(world: Path) -> None:
    counts: Counts = collections.Counter()
    for seed in range(1_000, 1_000 + LONG):
        run_seed(seed, world, counts)
    assert counts["crashes"] >= 2_000
    # the world was as hard as it should be: each of these did happen
    for happened in (
        "snapshots",
        "fenced",
        "missing",
        "refused to open",
        "crashes while opening or closing",
        "unacknowledged batch kept",
        "unacknowledged batch lost",
        "looked aside",
        "looked aside, refused",
    ):
        assert counts[happened], f"no {happened} in {counts}"


@pytest.mark.slow
def test_a_seed_repeats_exactly(world: Path) -> None:
    runs = []
    for name in ("one", "two"):
        (world / name).mkdir()
        trial = Trial(7, world / name, collections.Counter())
        trial.run()
        runs.append((trial.history, trial.model.state(), [disk.log for disk in trial.disks]))
    assert runs[0][0] == runs[1][0]
    assert runs[0][2] == runs[1][2]
    assert runs[0][1].contents == runs[1][1].contents
    assert runs[0][1].contents, "something was done"


@pytest.mark.slow
@pytest.mark.parametrize("fault", mutations.FAULTS, ids=lambda fault: fault.__name__)
def test_a_broken_protocol_is_noticed(world: Path, fault: Callable[[], AbstractContextManager[None]]) -> None:
    """Every fault breaks a promise within a bounded number of seeds of which the sound engine survives all."""
    noticed: Exception | None = None
    for seed in range(1, BOUND + 1):
        with fault():
            try:
                run_seed(seed, world, collections.Counter())
            except Exception as error:
                noticed = error
        if noticed is not None:
            (world / f"{seed} again").mkdir()
            Trial(seed, world / f"{seed} again", collections.Counter()).run()  # the fault it was, and not the seed
            return
    pytest.fail(f"{fault.__name__} survived {BOUND} seeds")
