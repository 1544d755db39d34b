"""A mount is never long without its guard (guard.py): one that dies first is replaced.

Somebody may kill it, or the kernel for want of memory.  Until another one stands a daemon that is killed in that very
instant may leave its mount hanging, no worse than without guards.  The next one is started at once, and again after a
second, two, four … up to a minute while they do not last: a machine that kills them gets no process for every request.

A guard hears of the death of the thread that started it, so all of this is the loop's.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

import trio

from fusefs.guard import Guard

log = logging.getLogger(__name__)

DELAY_MIN: Final = 1.0  # seconds before the second start in a row
DELAY_MAX: Final = 60.0  # and between any two: a guard that lasted so long was well


class Guarding:
    """One mount's guards, one at a time."""

    def __init__(self, point: Path) -> None:
        self._point = point
        self._guard: Guard | None = None
        self._began = 0.0

    async def begin(self, control: int) -> None:
        """The first one is armed; `control` is ours from now on.  Raises OSError: there is none."""
        guard = Guard(control)
        await trio.to_thread.run_sync(guard.wait_until_armed)
        self._guard, self._began = guard, time.monotonic()

    async def run(self) -> None:
        """Replaces those that end.  Ends only by cancellation; before `end`."""
        delay = 0.0
        while self._guard is not None:
            await trio.lowlevel.wait_readable(self._guard.pipe)
            if time.monotonic() - self._began >= DELAY_MAX:
                delay = 0.0
            log.warning("%s: the process that guards the mount has ended: another one is started", self._point)
            await trio.sleep(delay)
            delay = min(max(2 * delay, DELAY_MIN), DELAY_MAX)
            try:
                guard = self._guard.another()
                await trio.to_thread.run_sync(guard.wait_until_armed)
            except OSError as error:
                log.warning("%s: nobody guards the mount until the next try: %s", self._point, error)
                continue
            self._guard.bury()
            self._guard, self._began = guard, time.monotonic()
        await trio.sleep_forever()

    def end(self) -> None:
        """The mount is served no more: whoever still waits for it is told so.  Blocks for an instant."""
        guard, self._guard = self._guard, None
        if guard is not None:
            guard.end()
