"""What must not hold up the writer: folding SQLite's WAL into its file, and copying the catalogue into the pool."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from appliance.catalogue.database import connect
from appliance.errors import StoreError
from appliance.limits import MIB

log = logging.getLogger(__name__)

WAL_MAX = 32 * MIB  # beyond it the WAL is folded into the file, beside the writer


class Housekeeper:
    """What must not hold up the writer: folding SQLite's WAL into its file, and copying the catalogue into the pool.

    A thread of its own; without threads (a simulation) it works in the caller's.
    """

    def __init__(
        self, database: Path, *, prepare: Callable[[], None], install: Callable[[], None], threaded: bool
    ) -> None:
        """A snapshot is made by `prepare`, here, and then by `install`, which sees to it that no batch is under way."""
        self._prepare = prepare
        self._install = install
        self._database = database
        self._wal = database.with_name(database.name + "-wal")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="housekeeper") if threaded else None
        self._busy: Future[None] | None = None
        self._closed = False

    def fold_wal(self) -> None:
        """Starts folding if the WAL has grown and nobody is at it."""
        if self._wal.exists() and self._wal.stat().st_size >= WAL_MAX:
            self._begin(self._fold)

    def snapshot(self) -> None:
        """Starts a snapshot if nobody is at it."""
        self._begin(self._snapshot)

    def _begin(self, work: Callable[[], None]) -> None:
        if self._closed:
            return
        if self._pool is None:
            work()
        elif self._busy is None or self._busy.done():
            self._busy = self._pool.submit(work)

    def _fold(self) -> None:
        connection = connect(self._database)
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as error:
            log.error("the catalogue's WAL could not be folded: %s", error)
        finally:
            connection.close()

    def _snapshot(self) -> None:
        try:
            self._prepare()
        except (StoreError, OSError, sqlite3.Error) as error:
            log.error("the catalogue's snapshot could not be taken: %s", error)
            return
        self._install()

    def close(self) -> None:
        """Waits for what is under way; begins nothing more."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown()
