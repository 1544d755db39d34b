"""Blocking calls from trio: results, exceptions, few wake-ups, no abandoned call."""

from __future__ import annotations

import threading
from functools import partial

import outcome
import pytest
import trio
import trio.testing

from appliance.device.lanes import STARTED_AHEAD, InlineLanes, Lanes


def divide(a: int, b: int) -> float:
    return a / b


@pytest.mark.parametrize("inline", [False, True])
def test_results_and_exceptions_reach_the_caller(inline: bool) -> None:
    async def main() -> None:
        lanes = InlineLanes() if inline else Lanes(2)
        assert await lanes.call(divide, 6, 3) == 2
        with pytest.raises(ZeroDivisionError):
            await lanes.call(divide, 1, 0)
        assert lanes.statistics()["calls"] == 2
        assert lanes.statistics()["running"] == 0
        lanes.close()
        lanes.close()
        with pytest.raises(trio.ClosedResourceError):
            await lanes.call(divide, 1, 1)

    trio.run(main)


@pytest.mark.parametrize("inline", [False, True])
def test_a_call_that_no_task_waits_for_ends_on_the_loop(inline: bool) -> None:
    async def main() -> None:
        lanes = InlineLanes() if inline else Lanes(1)
        ended: list[outcome.Outcome[float]] = []
        threads: list[threading.Thread] = []

        def done(result: outcome.Outcome[float]) -> None:
            threads.append(threading.current_thread())
            ended.append(result)

        lanes.start(partial(divide, 6, 3), done)
        lanes.start(partial(divide, 1, 0), done)
        assert await lanes.call(divide, 8, 2) == 4  # behind them
        assert ended[0].unwrap() == 2
        with pytest.raises(ZeroDivisionError):
            ended[1].unwrap()
        assert threads == [threading.current_thread()] * 2
        assert lanes.statistics()["calls"] == 3
        assert lanes.statistics()["running"] == 0
        lanes.close()
        with pytest.raises(trio.ClosedResourceError):
            lanes.start(partial(divide, 6, 3), done)

    trio.run(main)


def test_a_call_waits_for_few_of_those_that_no_task_waits_for() -> None:
    """A thousand programs that read the mount must not be a thousand reads ahead of one GET."""

    async def main() -> None:
        lanes = Lanes(1)
        ran: list[int] = []
        ended: list[outcome.Outcome[None]] = []
        may_begin = threading.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lanes.call, may_begin.wait, 60.0)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(1000):
                lanes.start(partial(ran.append, 1), ended.append)
            may_begin.set()
            done_before = await lanes.call(ran.__len__)
        assert 0 < done_before <= 2 * STARTED_AHEAD, "what ended while the loop heard of it lets as many follow"
        assert lanes.statistics()["running"] == 1000 - len(ended)
        lanes.close()  # what was started is done all the same
        with trio.fail_after(60):
            while len(ended) < 1000:
                await trio.lowlevel.checkpoint()
        assert lanes.statistics()["running"] == 0

    trio.run(main)


def test_a_power_cut_inside_a_call_reaches_the_caller() -> None:
    class PowerCut(BaseException):
        pass

    def cut() -> None:
        raise PowerCut

    async def main() -> None:
        lanes = Lanes(1)
        with pytest.raises(PowerCut):
            await lanes.call(cut)
        assert await lanes.call(divide, 4, 2) == 2  # the thread lives on
        lanes.close()

    trio.run(main)


def test_calls_run_beside_each_other_in_other_threads() -> None:
    async def main() -> None:
        lanes = Lanes(3)
        barrier = threading.Barrier(3)
        names = set()

        async def one() -> None:
            await lanes.call(barrier.wait, 10.0)
            names.add(await lanes.call(lambda: threading.current_thread().name))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(one)
        assert all(name.startswith("lane-") for name in names)
        lanes.close()

    trio.run(main)


def test_calls_that_finish_together_share_a_wakeup() -> None:
    async def main() -> None:
        lanes = Lanes(1)
        results: list[int] = []
        loop_may_run = threading.Event()

        async def one(number: int) -> None:
            results.append(await lanes.call(lambda: number))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lanes.call, loop_may_run.wait, 60.0)
            for number in range(50):
                nursery.start_soon(one, number)
            await trio.testing.wait_all_tasks_blocked()
            finished = threading.Event()
            nursery.start_soon(lanes.call, finished.set)
            await trio.testing.wait_all_tasks_blocked()
            loop_may_run.set()
            finished.wait(60.0)  # blocks the loop while the one thread goes through all of them
        assert sorted(results) == list(range(50))
        assert lanes.statistics()["wakeups"] <= 3
        lanes.close()

    trio.run(main)


def test_a_cancelled_call_is_waited_for_and_its_result_delivered() -> None:
    async def main() -> None:
        lanes = Lanes(1)
        may_return = threading.Event()
        returned: list[bool | str] = []

        async def caller(scope: trio.CancelScope) -> None:
            with scope:
                returned.append(await lanes.call(may_return.wait, 60.0))
                await trio.lowlevel.checkpoint()
                returned.append("the cancellation was lost")  # pragma: no cover

        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(caller, scope)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert returned == []
            may_return.set()
        assert returned == [True]
        assert scope.cancelled_caught
        lanes.close()

    trio.run(main)


def test_a_call_in_a_cancelled_scope_is_not_made() -> None:
    async def main() -> None:
        lanes = Lanes(1)
        with trio.CancelScope() as scope:
            scope.cancel()
            await lanes.call(divide, 1, 1)
        assert scope.cancelled_caught
        assert lanes.statistics()["calls"] == 0
        lanes.close()

    trio.run(main)


def test_closed_lanes_end_their_threads_after_the_last_call() -> None:
    async def main() -> list[threading.Thread]:
        lanes = Lanes(4)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(lanes.call, divide, 1, 1)
            await trio.testing.wait_all_tasks_blocked()
            lanes.close()
        return lanes._threads

    for thread in trio.run(main):
        thread.join(60.0)
        assert not thread.is_alive()
