"""Blocking calls from trio tasks, with few wake-ups.

A hop through `trio.to_thread` costs about 107 us of CPU: a new cancellation shield, a limiter, a wake-up of the loop
per call. `Lanes` keeps its own threads and a deque of finished calls; the first to finish wakes the loop, and
everything finished by then is delivered in that one wake-up: about 30 us.

Cancellation: a call is never abandoned.  Its thread holds a device and a buffer that the caller would otherwise
reuse under it.  A cancelled task waits until its call has returned and then gets the call's result or exception; the
cancellation is delivered at the task's next checkpoint.  So a call that blocks for ever blocks its task for ever:
pass only calls that end.

`InlineLanes` has the same interface and runs the call in place after a checkpoint: a simulation with a seeded
scheduler stays deterministic.
"""

from __future__ import annotations

import collections
import queue
import threading
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar, TypeVarTuple, cast

import outcome
import trio

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

type_waiter = trio.lowlevel.Task | Callable[[outcome.Outcome[Any]], None]

DEFAULT_THREADS: Final = 8  # measured best for 64 tasks over one fast device; a HDD wants 1 or 2
STARTED_AHEAD: Final = (
    2  # calls that no task waits for, by thread: one to do, and one at hand while the loop hears of it
)


class CallLanes(Protocol):
    """What `Lanes` and `InlineLanes` have in common."""

    async def call(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T: ...
    def start(self, function: Callable[[], T], done: Callable[[outcome.Outcome[T]], None]) -> None: ...
    def close(self) -> None: ...
    def statistics(self) -> dict[str, int]: ...


class Lanes:
    """A fixed pool of threads of the running trio loop.  Construct, call and close it inside that loop."""

    def __init__(self, threads: int = DEFAULT_THREADS, name: str = "lane") -> None:
        assert threads > 0
        self._token = trio.lowlevel.current_trio_token()
        self._queue: queue.SimpleQueue[tuple[type_waiter, Callable[[], object]] | None] = queue.SimpleQueue()
        self._finished: collections.deque[tuple[type_waiter, outcome.Outcome[object]]] = collections.deque()
        self._waking = False  # a wake-up is on its way; set by threads, cleared by the loop
        self._closed = False
        self._ahead = STARTED_AHEAD * threads  # how many more may be started before those that are have ended
        self._held: collections.deque[tuple[type_waiter, Callable[[], object]]] = collections.deque()
        self._running = 0
        self._calls = 0
        self._wakeups = 0
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def call(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """`function(*arguments)` in one of the threads; its result, or its exception.  Not cancellable (see above)."""
        if self._closed:
            raise trio.ClosedResourceError("these lanes are closed")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._calls += 1
        self._running += 1
        task = trio.lowlevel.current_task()
        self._queue.put((task, lambda: function(*arguments)))
        return cast(T, await trio.lowlevel.wait_task_rescheduled(_never_abandon))

    def start(self, function: Callable[[], T], done: Callable[[outcome.Outcome[T]], None]) -> None:
        """`function()` in one of the threads; then, on the loop, `done` of how it ended, which must not raise.  No task
        waits, so nothing bounds how many are started: a call waits for STARTED_AHEAD of them a thread, not for all."""
        if self._closed:
            raise trio.ClosedResourceError("these lanes are closed")
        self._calls += 1
        self._running += 1
        if self._ahead:
            self._ahead -= 1
            self._queue.put((done, function))
        else:
            self._held.append((done, function))

    def close(self) -> None:
        """Ends the threads once the calls already made have returned; waits for none of them.  Idempotent."""
        if not self._closed:
            self._closed = True
            while self._held:
                self._queue.put(self._held.popleft())
            for _ in self._threads:
                self._queue.put(None)

    def statistics(self) -> dict[str, int]:
        """`running`: calls made and not yet returned; `calls` and `wakeups` since start."""
        return {
            "threads": len(self._threads),
            "running": self._running,
            "calls": self._calls,
            "wakeups": self._wakeups,
        }

    def _work(self) -> None:
        """A thread's life."""
        while (job := self._queue.get()) is not None:
            waiter, function = job
            self._finished.append((waiter, outcome.capture(function)))
            del waiter, function, job  # don't keep a buffer alive while idle
            # No lock: whoever sets the flag also wakes; who sees it set appended before `_deliver` clears and looks.
            if not self._waking:
                self._waking = True
                try:
                    self._token.run_sync_soon(self._deliver)
                except trio.RunFinishedError:
                    return  # the loop ended without its tasks: nobody is left to tell

    def _deliver(self) -> None:
        """In the loop: wakes every task whose call has returned, and tells who waits in no task."""
        self._waking = False  # before looking: what finishes from now on sends its own wake-up
        self._wakeups += 1
        while self._finished:
            waiter, result = self._finished.popleft()
            self._running -= 1
            if isinstance(waiter, trio.lowlevel.Task):
                trio.lowlevel.reschedule(waiter, result)
            else:
                if self._held:
                    self._queue.put(self._held.popleft())
                else:
                    self._ahead += 1
                waiter(result)


class InlineLanes:
    """The same, without threads: for simulations, and for devices that are memory."""

    def __init__(self) -> None:
        self._closed = False
        self._calls = 0

    async def call(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """A checkpoint, then `function(*arguments)` in the loop's own thread."""
        if self._closed:
            raise trio.ClosedResourceError("these lanes are closed")
        await trio.lowlevel.checkpoint()
        self._calls += 1
        return function(*arguments)

    def start(self, function: Callable[[], T], done: Callable[[outcome.Outcome[T]], None]) -> None:
        """`done(function())`, in place."""
        if self._closed:
            raise trio.ClosedResourceError("these lanes are closed")
        self._calls += 1
        done(outcome.capture(function))

    def close(self) -> None:
        """Refuses further calls."""
        self._closed = True

    def statistics(self) -> dict[str, int]:
        """As `Lanes.statistics`."""
        return {"threads": 0, "running": 0, "calls": self._calls, "wakeups": 0}


def _never_abandon(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED
