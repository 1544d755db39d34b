"""Room for the catalogue's next copy, in a pool that fills up.

The journal's ring is used again only after a snapshot, so a pool without room for one takes no more commits, not even
deletions.  Two things use that room up: data, and a catalogue that grows, by small objects that it holds itself or by
names alone.  So as much as the next snapshot takes is kept from data (`Allocator.keep`), and once there is no more than
that, changes that make the catalogue larger are refused while all others go on.

The old snapshot's pages are free only when the new one is installed, so they do not count.
"""

from __future__ import annotations

import logging
import sqlite3
from typing import Final

from appliance.catalogue import commands
from appliance.engine.pool import Pool
from appliance.engine.snapshot import COPIES
from appliance.limits import MIB, WRITE_CEILING

log = logging.getLogger(__name__)

GLANCE: Final = 8  # batches between two looks at what is free, while that is much
LOOK: Final = 64  # ... and at the catalogue's size
GROWTH_MAX: Final = 8 * MIB  # of the catalogue by what is queued already when it is refused
GROWTH_SHARE: Final = 64  # ... but of a small pool no more than this part
SLACK: Final = 8  # of the catalogue: headers, the index, ends of pages

_GROWING: Final = (
    commands.CreateBucket,
    commands.PutObject,
    commands.CopyObject,
    commands.CreateUpload,
    commands.PutPart,
    commands.CopyPart,
    commands.CopyRange,
    commands.MakeDirectory,
    commands.MakeSpecial,
    commands.MakeLink,
)


class Full:
    """Of one pool.  `look` in the writer's thread, between two batches; `admitted` in the loop's."""

    def __init__(self, pool: Pool, connection: sqlite3.Connection) -> None:
        self._pool = pool
        self._connection = connection
        self._needed = 0
        self._batches = 0
        self._scarce = False
        self._near = True  # until it was looked at
        self.look()

    def look(self) -> None:
        """A batch is done."""
        self._batches += 1
        if self._batches % GLANCE and not self._near:
            return
        spare = self._pool.allocator.spare()
        if self._near or self._batches % LOOK == 0:
            self._measure()
        self._near = spare < 2 * self._needed
        self._scarce = spare < self._needed

    def _measure(self) -> None:
        """How much the next snapshot takes, and has others kept from it where they do not leave it anyway."""
        try:
            (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
            (size,) = self._connection.execute("PRAGMA page_size").fetchone()
        except sqlite3.Error as error:  # whoever writes next meets it: what was known before is near enough until then
            log.warning("the catalogue's size cannot be asked: %s", error)
            return
        allocator = self._pool.allocator
        online = [device.id for device in self._pool.devices.values() if device.online]
        total = sum(allocator.size(device) for device in online)
        growth = min(GROWTH_MAX, total // GROWTH_SHARE)
        self._needed = min(COPIES, len(online)) * (pages * size * (SLACK + 1) // SLACK) + growth
        allocator.keep(self._needed if self._needed > total * (1 - WRITE_CEILING) else 0)

    def available(self, free: int) -> int:
        """Of so many bytes that devices have for data: what is not kept from it."""
        return max(0, min(free, self._pool.allocator.spare() - self._needed))

    def admitted(self, command: commands.Command) -> commands.Command:
        """The command, or one that is refused in its place."""
        if self._scarce and (
            isinstance(command, _GROWING) or (isinstance(command, commands.WriteFile) and grows(command))
        ):
            return commands.Refused(command=command)
        return command


def grows(command: commands.WriteFile) -> bool:
    """Whether it adds a name or bytes, and does not only cut."""
    return command.create is not None or bool(command.chunks)
