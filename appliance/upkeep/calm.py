"""A moment at which nobody is being served, for work that can wait.

What is done in the background takes its share of the disk and of the interpreter, and a program that lists a directory
meanwhile waits twice as long.  Programs come in bursts; the loop, which everybody passes, is busy as long as one lasts.
So the next piece of work waits for its end, but not for ever: a box that is always busy needs its upkeep, too.

Knows nothing of requests: one that a thread answers without the loop is not seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

LOOK: Final = 0.02  # seconds
BUSY: Final = 0.2  # of them that the loop's thread was on a processor: what upkeep itself takes is less
PATIENCE: Final = 1.0  # seconds: then a piece of work of 0.1 s is a tenth of the box's time


async def calm(patience: float = PATIENCE, used: Callable[[], float] = time.thread_time) -> None:
    """Returns when the loop had little to do for `LOOK` seconds, at the latest after `patience`.  `used` is the
    processor time of the loop's thread in seconds; called there."""
    end = trio.current_time() + patience
    while trio.current_time() < end:
        began, before = trio.current_time(), used()
        await trio.sleep(LOOK)
        if used() - before <= BUSY * (trio.current_time() - began):
            return
