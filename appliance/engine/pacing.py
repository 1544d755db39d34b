"""When the writer gets what was submitted: at once, or together with what follows.

A batch costs the writer what ten small commands in it do (a flush of each device, a COMMIT, changes of threads), and on
a fast device a barrier is over before the next command comes.  Who waits for what, decides:

    nobody      it lingers, until somebody does or there is much of it, LINGER at most
    a few       at once: what they will ask for next they ask for when they have been answered
    a crowd     when the writer has nothing to do and the loop has let in what its last answers called forth

Theory of the crowd.  Clients that send their next request when they have an answer fall into two groups: while one's
commands are made durable the other's come, and so for ever after, in twice the batches that would do.  So what a crowd
asks for stays here until its batch is over and the answered have come again: until QUIET turns of the loop in a row
brought nothing, or as many wait as did before.  No time is measured: where nobody comes again it takes 20 us.

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
QUIET: Final = 2  # turns of the loop: who was answered in one is heard in the next, unless he is slow


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
        self._pacing = False  # turns are being taken

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
            self._pace()

    @property
    def holds(self) -> bool:
        """Whether anything waits for the end of a batch.  From any thread: what is added looks at `durable` after it
        was added, so the writer, which sets that first, sees it or is seen."""
        return bool(self._tickets)

    def hurry(self) -> None:
        """All of it goes to the writer."""
        if not self._tickets:
            return
        self._last = self._tickets[-1]
        self._working += self._awaited
        for ticket in self._tickets:
            ticket.hurry = None
            self._give(ticket)
        self._tickets.clear()
        self._bytes = self._awaited = 0

    def follow(self) -> None:
        """A batch is over, and who waits for it has been woken."""
        if not self._is_over:
            return
        there = self._working + self._awaited
        self._working = 0
        self._crowd = there if there >= CROWD else 0
        if self._awaited:
            if self._crowd:
                self._pace()
            else:
                self.hurry()

    @property
    def _is_over(self) -> bool:
        """Whether the writer has done all that it was given."""
        return self._last is None or self._last.durable

    def _pace(self) -> None:
        if not self._pacing and self._is_over:
            self._pacing = True
            trio.lowlevel.spawn_system_task(self._take_turns)

    async def _take_turns(self) -> None:
        seen, quiet = self._awaited, 0
        while self._awaited and self._is_over and quiet < QUIET:
            await trio.lowlevel.cancel_shielded_checkpoint()
            quiet = quiet + 1 if self._awaited == seen else 0
            seen = self._awaited
        self._pacing = False
        if self._awaited and self._is_over:  # else somebody was in a hurry meanwhile
            self.hurry()

    async def _end_lingering(self) -> None:
        while self._tickets:
            await trio.sleep(LINGER)
            self.hurry()
        self._timed = False
