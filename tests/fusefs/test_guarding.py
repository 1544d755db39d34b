"""The mount's guard is replaced when it dies first."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from fusefs import guard, guarding
from fusefs.guarding import Guarding


@pytest.mark.slow
def test_a_guard_that_dies_first_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one ends the mount all the same, and no process or descriptor is left of the others."""
    control = os.open(tmp_path / "abort", os.O_CREAT | os.O_RDWR)

    armed: list[guard.Guard] = []

    class Noted(guard.Guard):
        def wait_until_armed(self) -> None:
            super().wait_until_armed()
            armed.append(self)
            if len(armed) < 4:
                self._process.kill()

    def held() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def main() -> None:
        guards = Guarding(tmp_path)
        await guards.begin(control)
        before = held()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guards.run)
            with trio.fail_after(60):
                while guards._guard is None or len(armed) < 4 or guards._guard is not armed[-1]:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            assert held() == before
            nursery.cancel_scope.cancel()
        assert (tmp_path / "abort").read_bytes() == b""
        guards.end()
        assert (tmp_path / "abort").read_bytes() == b"1"
        assert held() == before - 2  # the control file, and the pipe
        assert all(each._process.returncode is not None for each in armed)

    monkeypatch.setattr(guarding, "DELAY_MIN", 0.01)
    monkeypatch.setattr(guarding, "Guard", Noted)
    monkeypatch.setattr(guard, "Guard", Noted)  # of which each makes the next
    trio.run(main)
    assert caplog.text.count("another one is started") == 3


def test_one_that_cannot_be_started_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control = os.open(tmp_path / "abort", os.O_CREAT | os.O_RDWR)
    tries: list[float] = []

    async def main() -> None:
        guards = Guarding(tmp_path)
        await guards.begin(control)
        first = guards._guard
        assert first is not None

        def refuse() -> guard.Guard:
            tries.append(trio.current_time())
            if len(tries) == 9:
                nursery.cancel_scope.cancel()
            raise BlockingIOError("no more processes")

        monkeypatch.setattr(first, "another", refuse)
        first._process.kill()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(guards.run)
        guards.end()

    trio.run(main, clock=MockClock(autojump_threshold=0))
    waited = [round(later - earlier) for earlier, later in itertools.pairwise(tries)]
    assert waited == [1, 2, 4, 8, 16, 32, 60, 60]
