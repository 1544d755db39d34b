"""Bugs that a fast way meets and the usual handler makes good: no program is told, so the log and a count must be.

The fast ways to an answer (`direct`, `syncing`, `streams`) leave to the usual handler what they cannot do, and so they
do with an error: it meets the same, and says so.  That is right for operating errors, a damaged page or a bucket that
may not be read.  Anything else is a bug of ours, which the usual handler may never meet: its traceback is logged, once
for each kind and then once an hour at most, and it is counted in `tierce_mount_unexpected_total`.

Deliberately unknown here: requests, and what is answered.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

import trio
from pyfuse3 import FUSEError

from appliance.errors import StoreError
from fusefs.observed import Operation

log = logging.getLogger(__name__)

AGAIN: Final = 3600.0  # seconds until a kind is logged again
KINDS_MAX: Final = 64  # that are told apart: what comes beyond them is only counted

# of devices, of permissions, and of lanes that are closed because the daemon ends
OPERATING: Final = (StoreError, FUSEError, OSError, trio.ClosedResourceError)

type_kind = tuple[str, str, str, int]


class Unexpected:
    """Those of the process.  For the loop's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds."""
        self._clock = clock
        self._kinds: dict[type_kind, list[float]] = {}  # -> when it was logged last, and how many came since

    def met(self, where: str, observed: Operation, error: BaseException) -> None:
        """`error` ended the fast way `where` of an operation; nothing is done if it is an operating one."""
        if isinstance(error, OPERATING):
            return
        observed.unexpected += 1
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = ("", 0) if trace is None else (trace.tb_frame.f_code.co_filename, trace.tb_lineno)
        kind = (where, type(error).__name__, *place)
        known = self._kinds.get(kind)
        if known is None and len(self._kinds) >= KINDS_MAX:
            return
        if known is not None and self._clock() - known[0] < AGAIN:
            known[1] += 1
            return
        since = 0 if known is None else int(known[1])
        self._kinds[kind] = [self._clock(), 0]
        log.error(
            "%s met a bug and left it to the usual way%s",
            where,
            f"; {since} more of this kind since it was logged last" if since else "",
            exc_info=error,
        )


UNEXPECTED: Final = Unexpected()
