"""What must not hold up the writer: folding SQLite's WAL into its file, and copying the catalogue into the pool.

SQLite begins its WAL anew only where all of it is in the file ("Write-Ahead Logging", section 2.3), and a writer that
is never idle has always added something since.  So it is folded beside the writer until little is left, and that little
is folded between two batches: the next transaction then writes at the WAL's beginning.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from appliance.catalogue.database import WAL_KEPT, connect
from appliance.engine.snapshot import Checkpointer
from appliance.errors import StoreError

log = logging.getLogger(__name__)

WAL_MAX: Final = 2 * WAL_KEPT  # beyond it the WAL is folded into the file, beside the writer
REST: Final = 128  # pages that may be left for the writer, 1 MiB: its batches wait for two flushes of the host's disk
FOLDS_MAX: Final = 8  # before that: during one comes a fraction of what it folds, unless the writer outruns the disk


class Housekeeper:
    """A thread of its own; without threads (a simulation) it works in the caller's."""

    def __init__(
        self,
        database: Path,
        writer: sqlite3.Connection,
        checkpointer: Checkpointer,
        *,
        apart: Callable[[Callable[[], None]], None],
        threaded: bool,
    ) -> None:
        """`apart(function)` has it called where no batch is under way: there it may use the writer's connection."""
        self._database = database
        self._writer = writer
        self._checkpointer = checkpointer
        self._apart = apart
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
            before = 0
            for _ in range(FOLDS_MAX):
                written, folded = fold(connection)
                if folded < written:
                    return  # a reader has been at it for long, and what it sees stays in the WAL: another time
                if written - before <= REST:
                    break
                before = written
        except sqlite3.Error as error:
            log.error("the catalogue's WAL could not be folded: %s", error)
            return
        finally:
            connection.close()
        self._apart(self._fold_rest)

    def _fold_rest(self) -> None:
        try:
            fold(self._writer)
        except sqlite3.Error as error:
            log.error("the catalogue's WAL could not be folded: %s", error)

    def _snapshot(self) -> None:
        try:
            self._checkpointer.prepare()
        except (StoreError, OSError, sqlite3.Error) as error:
            log.error("the catalogue's snapshot could not be taken: %s", error)
            return
        self._apart(self._install)

    def _install(self) -> None:
        """What was prepared is pointed to."""
        try:
            self._checkpointer.install()
        except StoreError as error:
            log.error("the superblocks could not be written: %s", error)

    def close(self) -> None:
        """Waits for what is under way; begins nothing more."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown()


def fold(connection: sqlite3.Connection) -> tuple[int, int]:
    """Folds what of the WAL no reader still needs: (pages that it had, how many of them are in the file).  Waits for no
    reader and no writer; (0, -1) if somebody else is at it.  Raises sqlite3.Error."""
    busy, written, folded = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return (0, -1) if busy else (int(written), int(folded))
