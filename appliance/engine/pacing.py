"""When the writer gets what was submitted: at once, or together with what follows.

A batch costs the writer what ten small commands in it do (a flush of each device, a COMMIT, changes of threads), and on
a fast device a barrier is over before the next command comes.  Who waits for what, decides:

    nobody      it lingers, until somebody does or there is much of it, LINGER at most
    a few       at once: what they will ask for next they ask for when they have been answered
    a crowd     when the writer has nothing to do and those whom it answered last have come again

Theory of the crowd.  Clients that send their next request when they have an answer fall into two groups: while one's
commands are made durable the other's come, and so for ever after, in twice the batches that would do.  So what a crowd
asks for stays here until its batch is over and the answered have come again: until as many wait as did before, or
nobody came for PATIENCE, or for twice as long as the last batch took.  Who is not awaited any more by then is no part
of the crowd next time.

What can be durable before it is in the index (fsync) never waits, and takes along what was submitted before it: the
order of submission is the order of commit.  Loop only.  Deliberately unknown here: what the writer does with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from appliance.engine.ticket import Ticket
from appliance.limits import MIB

LINGER: Final = 0.03  # seconds
LINGER_COMMANDS: Final = 128
LINGER_BYTES: Final = 4 * MIB
CROWD: Final = 4  # commands that somebody waits for, at the end of a batch
PATIENCE: Final = 0.001  # seconds: the least that epoll_wait(2) waits


class Pacing:
    """What was submitted and is not the writer's yet."""

    def __init__(self, give: Callable[[Ticket], object]) -> None:
        self._give = give  # to the writer
        self._tickets: list[Ticket] = []
        self._bytes = 0
        self._timed = False  # the end of lingering is on its way
        self._last: Ticket | None = None  # that was given
        self._awaited = 0  # tickets here that somebody waits for
        self._working = 0  # those that were given
        self._crowd = 0  # how many there were at the end of a batch; 0: no crowd
        self._waiting = False  # for the crowd
        self._gone = trio.Event()  # what the waiting is for
        self._began = self._took = 0.0  # of the last batch, by the loop's clock

    def add(self, ticket: Ticket, *, patient: bool) -> None:
        """Of a `patient` one nobody waits, so far."""
        self._tickets.append(ticket)
        self._bytes += ticket.weight
        if not patient and not ticket.late:  # of those it may hear late that they are over
            self._awaited += 1
        if ticket.late or len(self._tickets) >= LINGER_COMMANDS or self._bytes >= LINGER_BYTES:
            self.hurry()
        elif patient:
            ticket.hurry = self.hurry
            if not self._timed:
                self._timed = True
                trio.lowlevel.spawn_system_task(self._end_lingering)
        elif not self._crowd or (self._awaited >= self._crowd and self._is_over):
            self.hurry()
        else:
            self._await_crowd()

    @property
    def holds(self) -> bool:
        """Whether anything waits for the end of a batch.  From any thread: what is added looks at `durable` after it
        was added, so the writer, which sets that first, sees it or is seen."""
        return bool(self._tickets)

    def hurry(self) -> None:
        """All of it goes to the writer."""
        if not self._tickets:
            return
        if self._is_over:
            self._began = trio.current_time()
        self._last = self._tickets[-1]
        self._working += self._awaited
        for ticket in self._tickets:
            ticket.hurry = None
            self._give(ticket)
        self._tickets.clear()
        self._bytes = self._awaited = 0
        self._gone.set()

    def follow(self) -> None:
        """A batch is over, and who waits for it has been woken."""
        if not self._is_over:
            return
        self._took = trio.current_time() - self._began
        there = self._working + self._awaited
        self._working = 0
        self._crowd = there if there >= CROWD else 0
        if self._awaited:
            if self._crowd:
                self._await_crowd()
            else:
                self.hurry()

    @property
    def _is_over(self) -> bool:
        """Whether the writer has done all that it was given."""
        return self._last is None or self._last.durable

    def _await_crowd(self) -> None:
        if not self._waiting and self._is_over:
            self._waiting = True
            self._gone = trio.Event()
            trio.lowlevel.spawn_system_task(self._wait)

    async def _wait(self) -> None:
        now = trio.current_time()
        end, seen = now + 2 * self._took, 0
        while seen < self._awaited and now < end and self._is_over:
            seen = self._awaited
            with trio.move_on_at(min(now + PATIENCE, end)):
                await self._gone.wait()
            now = trio.current_time()
        self._waiting = False
        if self._awaited and self._is_over:  # else somebody was in a hurry meanwhile
            self.hurry()

    async def _end_lingering(self) -> None:
        while self._tickets:
            await trio.sleep(LINGER)
            self.hurry()
        self._timed = False
