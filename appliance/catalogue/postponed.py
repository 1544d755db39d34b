"""Rows that stand in the journal and that the open transaction does not have yet.

SQLite gives up the interpreter at each statement, and a small synced change of a file would take a dozen of them before
its record can be written; while batches run ahead of the index nobody reads their rows but the writer.  So their
changes are kept here by key, the last of each row, and carried out when a query needs a table of them, at the latest
before COMMIT: several batches change the same node, chunk and map, and those rows are written once.

What one transaction has read or changed by key is also remembered as long as it is open: nobody else writes meanwhile.
A transaction that ends in another way than by COMMIT takes all of it along; the batches' images bring it back (I9).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

from appliance.catalogue.schema import BY_NUMBER, TABLES, Table

type_row = tuple[Any, ...]
type_due = dict[int, dict[type_row, type_row | None]]
"""Number of a table -> primary key -> the row, or None for one that goes."""

MANY: Final = (64, 16, 4, 3, 2, 1)  # rows of one statement: few lengths, so that each stays prepared
REMOVE: Final = {table.number: table.remove for table in TABLES}


@functools.cache
def _many(table: Table, count: int) -> str:
    return table.upsert + f",({','.join('?' * len(table.columns))})" * (count - 1)


def put_rows(execute: Callable[..., object], table: Table, rows: Sequence[type_row]) -> None:
    """Inserts or replaces them, with few statements."""
    done = 0
    for step in MANY:
        sql = _many(table, step)
        while len(rows) - done >= step:
            execute(sql, [value for row in rows[done : done + step] for value in row])
            done += step


def carry_out(execute: Callable[..., object], due: type_due, table: int | None = None) -> None:
    """Makes one table's changes, or all; they are due no longer."""
    for number in list(due) if table is None else (table,):
        rows = due.pop(number, None)
        if rows:
            for key, row in rows.items():
                if row is None:
                    execute(REMOVE[number], key)
            put_rows(execute, BY_NUMBER[number], [row for row in rows.values() if row is not None])


class Postponed:
    """Of the writer's open transaction."""

    def __init__(self) -> None:
        self.due: type_due = {}
        self.known: dict[type_row, type_row | None] = {}  # (table, primary key...) -> the row; None: there is none

    def clear(self) -> None:
        """The transaction is over."""
        self.due.clear()
        self.known.clear()

    def stand(self, images: dict[type_row, type_row | None], due: type_due) -> None:
        """A batch stands: its images, and what of them was not carried out."""
        self.known.update(images)
        for number, rows in due.items():
            self.due.setdefault(number, {}).update(rows)
