"""A submitted command and what became of its batch: what the writer and those who wait for it share.

Deliberately unknown here: how a batch is made durable (commit.py), what a command does (catalogue/).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import trio

from appliance.catalogue import commands
from appliance.model import Change


class Ticket:
    """A submitted command: `store.Ticket`.  Settled on the loop; any number of tasks may wait.

    Its batch is over (`done`) before it is settled, if others are told first.  What those who are told wait for must
    not wait for more than `done`: a request of the kernel that holds a directory's lock, which an invalidation wants.
    Of a `late` one the record may be durable (`durable`) before anybody sees its rows.

    Who needs no task to wait is `call`ed: `reply` by the thread that made it durable, before the loop hears of it, or
    at once if it is durable already, and not at all if it fails; `told` later on the loop, once, with whether `reply`
    was: when its rows are shown, if nobody waits for it (`stands`) before that.
    """

    __slots__ = (
        "_durably",
        "_early",
        "_replies",
        "_told",
        "_waiters",
        "announce",
        "answered",
        "born",
        "command",
        "done",
        "durable",
        "error",
        "hurry",
        "late",
        "repeated",
        "result",
        "settled",
        "show",
        "weight",
    )

    def __init__(self, command: commands.Command, weight: int, *, announce: bool) -> None:
        self.command = command
        self.weight = weight  # bytes that the batch's gathered write carries for it
        self.announce = announce  # others are told of the change before the waiters are (H5)
        self.answered = False  # who asked for it was told that it is done: a failed device is no reason not to do it
        self.repeated = False  # its first batch failed for a device
        self.born = 0  # whatever a command makes that was submitted later has a higher number; 0: not known
        self.late = False  # its rows may be shown later than it is durable
        self.durable = self.done = self.settled = False
        self.hurry: Callable[[], None] | None = None  # while it lingers: sends it to the writer
        self.show: Callable[[], None] | None = None  # of one that may be late: somebody waits for its rows
        self.result: Any = None
        self.error: BaseException | None = None
        self._waiters: list[trio.lowlevel.Task] = []
        self._early: list[trio.lowlevel.Task] = []
        self._durably: list[trio.lowlevel.Task] = []
        self._replies: list[Callable[[], object]] = []  # one at most; who takes it out calls it: `pop` is atomic
        self._told: Callable[[bool], object] | None = None  # called once

    async def wait(self, *, patient: bool = False) -> Any:
        """The result once durable; raises the command's error.  Cancelling the wait does not cancel the command.
        Unless it is `patient` the command lingers no longer."""
        if not patient and (self.hurry is not None or self.show is not None) and not self.settled:
            self._urge()
        if not self.settled:
            await _park(self._waiters)
        if self.error is not None:
            raise self.error
        return self.result

    def __await__(self) -> Generator[Any, Any, Any]:
        """As `wait`."""
        return self.wait().__await__()

    async def wait_done(self) -> None:
        """Until it is durable or has failed, whoever has yet to be told of it."""
        if not self.done:
            self._urge()
        if not self.done:
            await _park(self._early)

    async def stands(self) -> bool:
        """Waits until it is durable or has failed.  True: it is durable, though nobody may see it yet; False: it is
        settled, and `wait` says how."""
        if not self.durable:
            if self.hurry is not None:
                self.hurry()
            await _park(self._durably, lambda: self.durable)
        self._tell()
        return not self.done and self.error is None

    def _urge(self) -> None:
        if self.hurry is not None:
            self.hurry()
        if self.show is not None:
            show, self.show = self.show, None
            show()

    def call(self, reply: Callable[[], object], told: Callable[[bool], object]) -> None:
        """On the loop, at most once; as the class says."""
        self._told = told
        self._replies.append(reply)
        if self.durable:  # that comes first in `answer`: what it may have missed is seen here
            self._reply()
        if self.done:
            self._tell()

    def answer(self) -> None:
        """From any thread, its batch being over: if it is durable who asked has the answer now (H1)."""
        if self.late and self.error is None:
            self.durable = True
            self._reply()

    def _reply(self) -> None:
        if self.error is None and self._replies:
            with suppress(IndexError):  # the other thread has just taken it
                self._replies.pop()()

    @property
    def is_awaited(self) -> bool:
        """Whether the loop must hear that its batch is over before it hears of its rows."""
        return self.error is not None or not self.durable or bool(self._durably)

    def stand(self) -> None:
        """Wakes who waits for no more than that it is durable."""
        self.durable = True
        self._tell()
        _wake(self._durably)

    def _tell(self) -> None:
        told, self._told = self._told, None
        if told is not None:
            self._reply()
            told(not self._replies)

    def end(self) -> None:
        """Wakes who waits for no more than the batch."""
        self.durable = self.done = True
        self._tell()
        _wake(self._durably)
        _wake(self._early)

    def settle(self) -> None:
        """Wakes who waits."""
        self.durable = self.done = self.settled = True
        if self._told is not None:
            self._tell()
        if self._durably:
            _wake(self._durably)
        if self._early:
            _wake(self._early)
        if self._waiters:
            _wake(self._waiters)


async def _park(waiters: list[trio.lowlevel.Task], over: Callable[[], bool] = lambda: False) -> None:
    """`over`: whether another thread has just found nobody waiting, so that nobody will be woken."""
    task = trio.lowlevel.current_task()
    waiters.append(task)
    if over():
        waiters.remove(task)
        return

    def abort(_: object) -> trio.lowlevel.Abort:
        waiters.remove(task)
        return trio.lowlevel.Abort.SUCCEEDED

    await trio.lowlevel.wait_task_rescheduled(abort)


def _wake(waiters: list[trio.lowlevel.Task]) -> None:
    while waiters:
        trio.lowlevel.reschedule(waiters.pop(0))


class Batch(NamedTuple):
    """What one `run` did."""

    tickets: Sequence[Ticket]
    notes: list[Change]  # all changes of names
    announced: list[Change]  # those by tickets that are announced
    dropped: list[tuple[int, bytes]]
    commits: int = 0  # batches that came into the index with it
    reaps: Sequence[int] = ()  # nodes that have bytes left to free


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches, one after the other, as one."""
    return Batch(
        [ticket for batch in batches for ticket in batch.tickets],
        [note for batch in batches for note in batch.notes],
        [note for batch in batches for note in batch.announced],
        [name for batch in batches for name in batch.dropped],
        sum(batch.commits for batch in batches),
        [node for batch in batches for node in batch.reaps],
    )
