"""The mount's promises through random crashes; a mount that breaks one is noticed."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from appliance.engine.engine import Engine
from fusefs.handles import File
from fusefs.writeback import WriteBack
from tests.crash import mounted
from tests.crash.observed import Broken
from tests.crash.simulation import Counts, small_world

QUICK: Final = 2  # seeds in every run
LONG: Final = 60
BOUND: Final = 60  # seeds within which a fault must be noticed

Break = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture
def world() -> Iterator[Path]:
    """The small scale."""
    with small_world() as directory:
        yield directory


def test_some_crashes_keep_every_promise(world: Path) -> None:
    counts: Counts = collections.Counter()
    for seed in range(QUICK):
        mounted.run_seed(seed, world, counts)
    assert counts["compared"] == QUICK * mounted.LIVES


@pytest.mark.slow
def test_many_crashes_keep_every_promise(world: Path) -> None:
    counts: Counts = collections.Counter()
    for seed in range(1000, 1000 + LONG):
        mounted.run_seed(seed, world, counts)
    assert counts["crashes"] > LONG
    for happened in ("write", "truncate", "fsync", "close", "rename", "unlink", "age", "fold", "other_door"):
        assert counts[happened] > LONG, f"no {happened} in {counts}"


def _fsync_that_does_not_wait(patch: pytest.MonkeyPatch) -> None:
    async def make_durable(self: WriteBack, file: File, **_: bool) -> None:
        await self.commit(file)

    patch.setattr(WriteBack, "make_durable", make_durable)


def _directories_that_are_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    async def settle(self: Engine, **_: bool) -> None:
        """Nothing."""

    patch.setattr(Engine, "settle", settle)


@pytest.mark.slow
@pytest.mark.parametrize(
    "breaking",
    [_fsync_that_does_not_wait, _directories_that_are_not_waited_for],
    ids=lambda breaking: breaking.__name__.strip("_"),
)
def test_a_mount_that_breaks_a_promise_is_noticed(
    world: Path, monkeypatch: pytest.MonkeyPatch, breaking: Break
) -> None:
    breaking(monkeypatch)
    for seed in range(BOUND):
        if _is_noticed(seed, world):
            return
    pytest.fail(f"{BOUND} seeds noticed nothing")


def _is_noticed(seed: int, world: Path) -> bool:
    try:
        mounted.run_seed(seed, world, collections.Counter())
    except Broken:
        return True
    except ExceptionGroup as errors:
        if errors.subgroup(Broken) is None:
            raise
        return True
    return False
