"""Requests that a thread answers: counted like all others, and waited for before the session ends.

Deliberately unknown here: what they ask, and who answers them.
"""

from __future__ import annotations

import trio

from fusefs.observed import UNDER_WAY


class InThreads:
    """One kind of them, of one mount.  For the loop's thread."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = trio.Event()

    def begun(self) -> None:
        """Another one is on its way."""
        UNDER_WAY.requests += 1
        self._count += 1

    def ended(self) -> None:
        """The loop has heard of an answer, or nobody will be called."""
        UNDER_WAY.requests -= 1
        self._count -= 1
        if not self._count:
            self._idle.set()

    async def idle(self) -> None:
        """All are answered: the session may end."""
        while self._count:
            self._idle = trio.Event()
            await self._idle.wait()
