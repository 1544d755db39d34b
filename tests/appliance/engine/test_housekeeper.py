"""What is done beside the writer, and the moment that it needs between two batches."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
import trio

from appliance.catalogue import database
from appliance.catalogue.database import connect, open_writer
from appliance.engine import housekeeper
from appliance.engine.housekeeper import Housekeeper
from appliance.engine.snapshot import Checkpointer
from appliance.limits import KIB
from appliance.model import Bucket
from appliance.store import ObjectStore
from tests.appliance.engine.test_ahead import PIECES, behind, nobody_is_idle, synced
from tests.appliance.engine.test_short_path import put
from tests.models.boxes import run_store

KEPT = 128 * KIB
BODY = b"\5" * 8 * KIB
idle_never = nobody_is_idle  # what is ahead of the index stays there until somebody asks


class Writer:
    """A writer that is never idle: it has always written since somebody folded."""

    def __init__(self, path: Path, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(database, "WAL_KEPT", KEPT)
        patch.setattr(housekeeper, "WAL_MAX", 2 * KEPT)
        self.connection = open_writer(path / "catalogue.db")
        self.wal = path / "catalogue.db-wal"
        self.rows = self.aparts = 0
        fold = housekeeper.fold

        def disturbed(connection: sqlite3.Connection) -> tuple[int, int]:
            """What is written during it is not folded: as if a reader had come when it began."""
            if connection is self.connection:
                return fold(connection)
            reader = connect(path / "catalogue.db", read_only=True)
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM patch LIMIT 1").fetchall()
            self.write(3)
            written, folded = fold(connection)
            reader.close()
            return (folded, folded) if 0 <= written - folded <= 4 * 3 else (written, folded)

        patch.setattr(housekeeper, "fold", disturbed)
        self.keeper = Housekeeper(
            path / "catalogue.db",
            self.connection,
            cast("Checkpointer", None),  # no snapshot is asked for
            apart=self.apart,
            threaded=False,
        )

    def write(self, count: int) -> None:
        """So many transactions."""
        for _ in range(count):
            self.rows += 1
            self.connection.execute("INSERT INTO patch VALUES (?, ?, ?)", (self.rows, BODY, b""))

    def apart(self, function: object) -> None:
        self.aparts += 1
        assert callable(function)
        function()

    def size(self) -> int:
        return self.wal.stat().st_size


@contextmanager
def writing(path: Path, patch: pytest.MonkeyPatch) -> Iterator[Writer]:
    writer = Writer(path, patch)
    try:
        yield writer
    finally:
        writer.connection.close()


@pytest.mark.slow
def test_the_wal_begins_anew_though_the_writer_is_never_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bulk load of a million names would leave ten gigabytes of it."""
    with writing(tmp_path, monkeypatch) as writer:
        longest = 0
        for _ in range(100):
            writer.write(4)
            writer.keeper.fold_wal()
            longest = max(longest, writer.size())
        assert writer.rows * len(BODY) > 8 * longest
        assert longest < 4 * KEPT
        assert writer.aparts < 50, "a file that is long is not yet a WAL that is"
        rows = connect(tmp_path / "catalogue.db").execute("SELECT count(*), sum(data=?) FROM patch", (BODY,)).fetchall()
        assert rows == [(writer.rows, writer.rows)]


def test_what_a_reader_sees_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the writer is not asked for what would be in vain."""
    with writing(tmp_path, monkeypatch) as writer:
        writer.write(10)
        reader = connect(tmp_path / "catalogue.db", read_only=True)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM patch").fetchone() == (10,)
        writer.write(60)
        assert writer.size() >= 2 * KEPT
        writer.keeper.fold_wal()
        assert writer.aparts == 0
        assert reader.execute("SELECT count(*) FROM patch").fetchone() == (10,)
        reader.execute("COMMIT")
        writer.keeper.fold_wal()
        writer.write(1)
        assert (writer.aparts, writer.size()) == (1, KEPT)
        reader.close()


def test_an_engine_folds_the_rest_between_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is ahead of the index is put there first: its transaction is the writer's own."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)
        folded: list[sqlite3.Connection] = []
        fold = housekeeper.fold

        def counted(connection: sqlite3.Connection) -> tuple[int, int]:
            folded.append(connection)
            return fold(connection)

        await synced(store, node.id, PIECES)
        monkeypatch.setattr(housekeeper, "fold", counted)
        monkeypatch.setattr(housekeeper, "WAL_MAX", 1)
        assert behind(store) == len(PIECES)
        store.engine._housekeeper.fold_wal()
        await trio.to_thread.run_sync(store.engine._housekeeper.close)
        await store.engine.between_batches(lambda: None)
        assert folded[-1] is store.engine.committer.connection
        assert behind(store) == 0

    with caplog.at_level(logging.ERROR):
        run_store(tmp_path, main, threaded=True)
    assert not caplog.records
