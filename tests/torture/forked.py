"""The same work in several processes at once, each with a share of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from typing import Any


class Failed(AssertionError):
    """A process ended with an error, which it has printed."""


def forked(work: Callable[..., None], shares: Iterable[tuple[Any, ...]]) -> None:
    """One process for each share, whose arguments it is; waits for all.  Raises Failed."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=share) for share in shares]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise Failed(f"{work.__name__}: processes ended with {[process.exitcode for process in processes]}")
