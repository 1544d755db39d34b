"""When the reader of requests looks for the next one, when it sleeps, and whom it lets have a turn.  A pipe stands for
/dev/fuse, and a clock that moves by a microsecond at each reading for time."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest
import trio
import trio.testing

from fusefs.fastloop import BURST, EARLY, LOOK, PASS, TURN, Poller
from fusefs.observed import UNDER_WAY


class Scene:
    """The pipe and the clock.  `at`: what happens once the clock shows so much."""

    def __init__(self) -> None:
        self.readable, self.written = os.pipe()
        self.now = 0.0
        self.at: dict[float, Callable[[], object]] = {}
        self.poller = Poller(None, self.clock)

    def clock(self) -> float:
        self.now += 1e-6
        for moment in [moment for moment in self.at if moment <= self.now]:
            self.at.pop(moment)()
        return self.now

    def request(self) -> None:
        os.write(self.written, b"r")

    async def serve(self) -> None:
        """Waits for one request and takes it."""
        await self.poller.wait_readable(self.readable)
        assert os.read(self.readable, 1) == b"r"

    async def hurry(self) -> None:
        """A request that wakes the reader early: from now on it looks."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.serve)
            await trio.testing.wait_all_tasks_blocked()
            self.request()
        assert self.poller.looks


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    os.close(made.readable)
    os.close(made.written)


def test_a_request_that_comes_soon_finds_the_reader_awake(scene: Scene) -> None:
    async def main() -> None:
        await scene.hurry()
        before = scene.now
        scene.at[before + LOOK / 2] = scene.request
        await scene.serve()
        assert scene.now - before < LOOK, "it was found when it came"
        assert scene.poller.looks

    trio.run(main)


def test_nobody_looks_for_what_does_not_come(scene: Scene) -> None:
    async def main() -> None:
        await scene.hurry()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.serve)
            await trio.testing.wait_all_tasks_blocked()
            assert not scene.poller.looks, "it sleeps"
            asleep = scene.now
            scene.now += 2 * EARLY
            scene.request()
        assert not scene.poller.looks, "and goes on sleeping after a late one"
        assert scene.now - asleep < 3 * EARLY

    trio.run(main)


def test_nobody_looks_while_a_request_is_in_work(scene: Scene) -> None:
    async def main() -> None:
        await scene.hurry()
        UNDER_WAY.requests += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(scene.serve)
                await trio.testing.wait_all_tasks_blocked()
                assert not scene.poller.looks
                scene.request()
        finally:
            UNDER_WAY.requests -= 1

    trio.run(main)


def test_the_others_have_their_turn(scene: Scene) -> None:
    """After BURST requests that were ready, and after PASS of looking, whichever comes first."""
    turns: list[float] = []

    async def other() -> None:
        while True:
            await trio.lowlevel.checkpoint()
            turns.append(scene.now)

    async def main() -> None:
        await scene.hurry()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await trio.lowlevel.checkpoint()
            turns.clear()
            for _ in range(3 * BURST + 1):  # three passes; the other is before or behind us in each
                scene.request()
                await scene.serve()
            assert 2 <= len(turns) <= 4, "requests that are ready"
            turns.clear()
            for _ in range(4 * BURST):
                scene.at[scene.now + LOOK / 2] = scene.request
                await scene.serve()
            assert len(turns) >= 4 * BURST * LOOK / 2 / PASS - 1, "requests that are looked for"
            nursery.cancel_scope.cancel()

    trio.run(main)


def test_long_requests_make_a_short_burst(scene: Scene) -> None:
    """A reader of a directory of a million names has its next request ready, always: others waited for 32 replies."""
    served: list[int] = []  # when the others had their turn

    async def main() -> None:
        done = 0

        async def other() -> None:
            while True:
                await trio.lowlevel.checkpoint()
                served.append(done)

        for _ in range(2 * BURST):
            scene.request()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            for _ in range(2 * BURST):
                await scene.serve()
                done += 1
                scene.now += TURN / 4 - 2e-5
            nursery.cancel_scope.cancel()
        gaps = [after - before for before, after in itertools.pairwise(served)]
        assert max(gaps) <= 2 * 5 < BURST, "the other is before or behind us in each pass"

    trio.run(main)


def test_a_session_that_ends_in_the_others_turn_ends_the_reader(scene: Scene) -> None:
    async def main() -> None:
        await scene.hurry()
        for _ in range(BURST):
            scene.request()
            await scene.serve()

        async def other() -> None:
            scene.poller.notify_closing(scene.readable)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            with pytest.raises(trio.ClosedResourceError):
                await scene.poller.wait_readable(scene.readable)

    trio.run(main)
