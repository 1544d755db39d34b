"""What S3 changed and a listener has not done with yet (H5): the kernel may still show what was there before.

From its COMMIT on a change can be read.  A program that asked S3 and then looks at the mount must not find what is
older, so whoever reads for S3 waits here, having read, until the listeners are done with what it may have seen: a key,
what a page of a listing has, a bucket.  The other order, rows that S3 sees only when all are told, would not do: the
kernel, having forgotten, asks again and must be given the new.

There are two stretches: from the COMMIT, which is in the writer's thread, until the loop is told of it (`Remembered`
knows its rows), and from there until the listeners are done.  Readers are bound to names: nobody waits for what it
cannot have seen, however long a listener takes; and no longer than that change's own answer does.

The mount must not wait here: the listener may be waiting for its request.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence

import trio

from appliance.catalogue.schema import ENTRY
from appliance.engine.remembered import Commit, Remembered
from appliance.engine.ticket import Ticket

log = logging.getLogger(__name__)

type_keys = Iterable[tuple[int, bytes]]
"""(root of a bucket, key); of a bucket (0, name).  As `Command.changed_keys`."""


class Telling:
    """One batch, of which listeners are being told."""

    __slots__ = ("done", "keys")

    def __init__(self, keys: type_keys) -> None:
        self.keys = frozenset(keys)
        self.done = trio.Event()


class Tellings:
    """Loop only.  `under_way` is empty nearly always: look there before asking for anything."""

    def __init__(self, rows: Remembered, failed: Callable[[], bool]) -> None:
        """`failed`: the writer has stopped, so that the loop is perhaps told of no more COMMITs."""
        self.under_way: set[Telling] = set()
        self._rows = rows
        self._failed = failed
        self._delivered = trio.lowlevel.ParkingLot()

    # ------------------------------------------------------------------ the engine's side
    def settle(self, tickets: Sequence[Ticket], waiting: Sequence[Awaitable[object]]) -> None:
        """Announced tickets wait for the listeners; also for what those are still told of an earlier batch: an answer
        that nothing was changed, or could be, tells of that one."""
        late: list[Ticket] = []
        earlier: set[Telling] = set()
        for ticket in tickets:
            before = self._of(ticket.command.changed_keys) if ticket.announce else []
            if ticket.announce and (waiting or before):
                late.append(ticket)
                earlier.update(before)
                ticket.end()
            else:
                ticket.settle()
        if late:
            telling = Telling(key for ticket in late for key in ticket.command.changed_keys if waiting)
            self.under_way.add(telling)
            trio.lowlevel.spawn_system_task(self._settle_later, late, waiting, telling, earlier)

    async def _settle_later(
        self,
        tickets: Sequence[Ticket],
        waiting: Sequence[Awaitable[object]],
        telling: Telling,
        earlier: Collection[Telling],
    ) -> None:
        try:
            for answer in waiting:
                await answer
            await _done(earlier)
        except Exception:
            log.exception("a listener failed: names cached by it may be stale for its time-out")
        finally:
            self.under_way.discard(telling)
            telling.done.set()
            for ticket in tickets:
                ticket.settle()

    def delivered(self) -> None:
        """The loop was told of COMMITs, and what has to be told of them has begun."""
        if self._delivered:
            self._delivered.unpark_all()

    # ------------------------------------------------------------------ the readers' side
    async def key(self, root: int, key: bytes, parent: int | None, name: bytes) -> None:
        """Whoever has just read what is at the key.  `parent` is None where a directory on the way is not there: any
        COMMIT may have removed it."""
        entry = (ENTRY.number, parent, name)
        await self._committed([commit for commit in self._announced() if parent is None or entry in commit.images])
        if self.under_way:
            await _done(self._of([(root, key)]))

    async def page(self, root: int, prefix: bytes, after: bytes) -> None:
        """Whoever has just listed keys > `after` with the prefix."""
        await self._committed(self._announced())
        await _done(
            [
                telling
                for telling in self.under_way
                if any(at == root and key > after and key.startswith(prefix) for at, key in telling.keys)
            ]
        )

    async def buckets(self, name: bytes | None = None) -> None:
        """Whoever has just looked for a bucket, or listed them all.  They are known on the loop alone, from the moment
        at which it is told."""
        await _done(
            [
                telling
                for telling in self.under_way
                if any(root == 0 and name in (None, bucket) for root, bucket in telling.keys)
            ]
        )

    def _of(self, keys: type_keys) -> list[Telling]:
        """Those that tell of one of them."""
        wanted = frozenset(keys)
        return [telling for telling in self.under_way if not telling.keys.isdisjoint(wanted)]

    def _announced(self) -> list[Commit]:
        return [commit for commit in self._rows.untold if commit.announced]

    async def _committed(self, commits: Sequence[Commit]) -> None:
        """Until the loop was told of them."""
        while not self._failed() and any(commit in self._rows.untold for commit in commits):
            await self._delivered.park()


async def _done(tellings: Collection[Telling]) -> None:
    for telling in tellings:
        await telling.done.wait()
