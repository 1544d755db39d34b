"""The mount's promises through random crashes; a mount that breaks one is noticed."""

from __future__ import annotations

import collections
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from appliance.engine.engine import Engine
from appliance.engine.ticket import Ticket
from fusefs.handles import File
from fusefs.writeback import WriteBack
from tests.crash import mounted
from tests.crash.observed import Broken
from tests.crash.simulation import Counts, small_world
from tests.fusefs.test_pending import test_fsync_of_a_directory_waits_for_the_names_that_were_answered as scene

QUICK: Final = 2  # seeds in every run
LONG: Final = 60
BOUND: Final = 60  # seeds within which a fault must be noticed


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
    assert counts["synced directly"], counts
    assert counts["submitted early"], counts


@pytest.mark.slow
def test_an_fsync_that_does_not_wait_is_noticed(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def make_durable(self: WriteBack, file: File, **_: bool) -> None:
        await self.commit(file)

    monkeypatch.setattr(WriteBack, "make_durable", make_durable)
    for seed in range(BOUND):
        if _is_noticed(seed, world):
            return
    pytest.fail(f"{BOUND} seeds noticed nothing")


def test_names_that_are_not_waited_for_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the scene that was made for it: programs seldom sync a directory while nothing but names is on its way."""

    async def settle(self: Engine, **_: bool) -> None:
        """Nothing."""

    monkeypatch.setattr(Engine, "settle", settle)
    with pytest.raises((AssertionError, ExceptionGroup)) as raised:
        scene(tmp_path)
    assert "a crash could undo" in "".join(traceback.format_exception(raised.value))


@pytest.mark.slow
def test_an_fsync_that_is_answered_at_once_is_noticed(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other way of an fsync, without the handler."""

    def call(self: Ticket, reply: Callable[[], object], told: Callable[[bool], object]) -> None:
        reply()
        told(True)

    monkeypatch.setattr(Ticket, "call", call)
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
