"""One job per device, all at once: the commit's writes and flushes run beside each other.

The first job runs in the calling thread, so that the usual case of one device costs no hop.  `Fan(0)` runs everything
in
order in the calling thread: for simulations, which must repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor


class Fan:
    """A few threads that wait for devices."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="barrier") if threads else None

    def run(self, jobs: Sequence[Callable[[], None]]) -> list[OSError | None]:
        """Runs every job to its end; the OSError of each, or None.  Any other exception is a bug and propagates."""
        if self._pool is None or len(jobs) == 1:
            return [_outcome(job) for job in jobs]
        others = [self._pool.submit(_outcome, job) for job in jobs[1:]]
        first = _outcome(jobs[0])
        return [first, *(future.result() for future in others)]

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown()


def _outcome(job: Callable[[], None]) -> OSError | None:
    try:
        job()
    except OSError as error:
        return error
    return None
