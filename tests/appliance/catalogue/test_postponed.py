"""Rows that are changed later than they stand: queries see them, and the last of each is carried out once."""

from __future__ import annotations

import sqlite3

from appliance.catalogue import schema
from appliance.catalogue.database import Rows
from appliance.catalogue.postponed import Postponed, carry_out
from appliance.catalogue.schema import CHUNK, MAP, PAGE, SLICE, SUMS, Table


def summed(table: Table, *columns: int) -> tuple[int, ...]:
    """The row with its sum."""
    return *columns, SUMS[table.number](*columns)


def made() -> tuple[sqlite3.Connection, list[str]]:
    """An open transaction with a chunk, and the statements from now on."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.create(connection)
    connection.execute("BEGIN")
    connection.execute(CHUNK.upsert, summed(CHUNK, 1, 100, 1, 1, 0))
    statements: list[str] = []
    connection.set_trace_callback(statements.append)
    return connection, statements


def rows(connection: sqlite3.Connection, postponed: Postponed | None) -> Rows:
    return Rows(connection, iter(range(100, 200)).__next__, lambda _: False, postponed=postponed)


def test_a_batch_reads_what_it_changed_and_what_stands_before_it() -> None:
    connection, statements = made()
    postponed = Postponed()
    for turn in range(3):
        tx = rows(connection, postponed)
        assert tx.row(CHUNK, 1) == summed(CHUNK, 1, 100, 1 + turn, 1, 0)
        assert tx.row(CHUNK, 2) == (summed(CHUNK, 2, 1, turn, 1, 0) if turn else None)
        tx.put(CHUNK, (1, 100, 2 + turn, 1, 0))
        tx.put(CHUNK, (2, 1, turn + 1, 1, 0))
        tx.put_many(PAGE, [(1, 4096 * turn, 4096, 2, turn, 0, b"sum")])
        assert tx.row(CHUNK, 1)[2] == 2 + turn
        assert (tx.at_hand(CHUNK, 2)[2], tx.at_hand(MAP, 7)) == (turn + 1, None)
        postponed.stand(tx.images, tx.due)
    assert len(statements) == 2, "each row was read once"
    tx = rows(connection, postponed)
    tx.delete(CHUNK, (2,))
    assert (tx.row(CHUNK, 2), tx.at_hand(CHUNK, 2)) == (None, None)
    assert tx.slices("SELECT * FROM slice") == []
    assert len(statements) == 3, "no slice was changed, so nothing had to be carried out"
    assert tx.one("SELECT count(*), sum(refs) FROM chunk") == (1, 4)
    assert tx.all("SELECT idx FROM page", (), PAGE) == [(0,), (1,), (2,)]
    postponed.stand(tx.images, tx.due)
    assert not postponed.due, "a query of any table has all of them carried out"
    assert connection.execute("SELECT id, refs FROM chunk").fetchall() == [(1, 4)]


def test_only_what_is_asked_for_is_carried_out_and_each_row_once() -> None:
    connection, statements = made()
    postponed = Postponed()
    for turn in range(5):
        tx = rows(connection, postponed)
        tx.put(MAP, (9, turn, 0))
        tx.put(SLICE, (9, turn, 1, 2, 1, 0))
        tx.delete(SLICE, (9, turn - 1))
        postponed.stand(tx.images, tx.due)
    assert not statements
    carry_out(connection.execute, postponed.due, SLICE.number)
    assert connection.execute("SELECT off FROM slice").fetchall() == [(4,)]
    assert list(postponed.due) == [MAP.number]
    carry_out(connection.execute, postponed.due)
    assert connection.execute("SELECT * FROM map").fetchall() == [summed(MAP, 9, 4, 0)]
    assert sum("INTO map" in statement for statement in statements) == 1
    postponed.clear()
    assert rows(connection, postponed).row(MAP, 9) == summed(MAP, 9, 4, 0), (
        "nothing is remembered of a transaction that ended"
    )


def test_without_it_all_is_carried_out_at_once() -> None:
    connection, _ = made()
    tx = rows(connection, None)
    tx.put(CHUNK, (1, 100, 7, 1, 0))
    tx.put_many(PAGE, [(1, 0, 4096, 1, 0, 0, b"sum")])
    assert (tx.due, tx.row(CHUNK, 1), tx.row(CHUNK, 3)) == ({}, summed(CHUNK, 1, 100, 7, 1, 0), None)
    assert connection.execute("SELECT refs FROM chunk").fetchall() == [(7,)]
    assert connection.execute("SELECT count(*) FROM page").fetchone() == (1,)
