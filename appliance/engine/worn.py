"""Which maps were changed in place since they were last looked at: what folding goes by.

Memory only: what a restart forgets, folding's own sweep finds again.  Loop only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

from appliance.catalogue.commands import CopyRange, FoldMap, WriteFile
from appliance.engine.filled import Settled
from appliance.errors import Code, StoreError
from appliance.model import Written

KEPT: Final = 65_536  # maps
_WRITING: Final = (WriteFile, CopyRange)


class Wear:
    """Of one map."""

    __slots__ = ("bucket", "changes", "last", "patched")

    def __init__(self, bucket: int) -> None:
        self.bucket = bucket  # its number; 0: not known
        self.changes = 0
        self.patched = 0  # bytes that took the short path; some of them may be gone again
        self.last = 0.0  # when it was changed last, by `Worn`'s clock


class Worn:
    """All of them, and what folding did so far."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.maps: dict[int, Wear] = {}
        self.clock = clock
        self.folded_bytes = 0
        self.folded_slices = 0
        self.conflicts = 0
        self.resting = ""  # why folding has stopped for a while

    def note(self, number: int, bucket: int = 0, patched: int = 0) -> None:
        """The map was changed."""
        wear = self.maps.get(number)
        if wear is None:
            if len(self.maps) >= KEPT:
                return  # a sweep will find it
            wear = self.maps[number] = Wear(bucket)
        wear.changes += 1
        wear.patched += patched
        wear.last = self.clock()

    def follow(self, tickets: Iterable[Settled]) -> None:
        """What a batch did."""
        for ticket in tickets:
            command = ticket.command
            if isinstance(command, _WRITING):
                if ticket.error is None:
                    written: Written = ticket.result
                    change = command.change if isinstance(command, CopyRange) else command
                    if written.map:
                        self.note(written.map, change.bucket, written.patched)
            elif type(command) is FoldMap:
                if ticket.error is None:
                    self.folded_bytes += ticket.result
                    self.folded_slices += len(command.before)
                elif isinstance(ticket.error, StoreError) and ticket.error.code is Code.CONFLICT:
                    self.conflicts += 1
