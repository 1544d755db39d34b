"""Whether a thread had to wait for the host's disk.

The catalogue's pages are most often in the kernel's cache; one that is not costs a hundred times what SQLite does with
it.  The loop keeps everybody waiting meanwhile, and so leaves the next ones to another thread.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from appliance.limits import KIB

COLD: Final = 64 * KIB  # read in one visit: some eight waits
AWAY: Final = 64  # batches
_BLOCK: Final = 512  # getrusage(2): the unit of ru_inblock


def bytes_read() -> int:
    """Bytes that disks have read for the calling thread so far, read-ahead included (getrusage(2), RUSAGE_THREAD)."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_inblock * _BLOCK


class Visits:
    """The writer's in the loop's thread: `visit(function)` has it called there.  After one that had to wait for the
    disk it stays away for so many batches."""

    def __init__(self, visit: Callable[[Callable[[], Any]], Any], read: Callable[[], int] = bytes_read) -> None:
        self._visit = visit
        self._read = read
        self._away = 0

    def are_short(self) -> bool:
        """Whether the next may be expected to be; asked before each, and no more in a batch that was answered no."""
        if self._away:
            self._away -= 1
            return False
        return True

    def __call__(self, function: Callable[[], Any]) -> Any:
        return self._visit(partial(self._measured, function))

    def _measured(self, function: Callable[[], Any]) -> Any:
        before = self._read()
        try:
            return function()
        finally:
            if self._read() - before >= COLD:
                self._away = AWAY
