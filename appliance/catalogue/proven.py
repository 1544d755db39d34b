"""Rows that were proven by their sums: who leans on one has it from here, or is told that it is damaged.

A row whose key was hurt is not found under its own, and no sum says so.  So what a bucket's settings are is answered
from all rows of the bucket, of which the hurt one is one; and the few rows that say who may do what are all proven when
the catalogue is opened (`first_damage`), which is then rebuilt from the devices, and before a snapshot takes its place.

Deliberately unknown here: how rows are written (database.py), and what they mean.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable
from typing import Any, Final

from appliance.catalogue.schema import (
    ACCESS_KEY,
    BUCKET,
    CHUNK,
    DATA_KEY,
    MAP,
    META,
    SETTING,
    SUMS,
    USAGE,
    USER,
    Table,
)
from appliance.errors import Code, StoreError

FEW: Final = (META, BUCKET, SETTING, USER, ACCESS_KEY, DATA_KEY, USAGE)
"""Tables of few rows, which say who may do what, and what a bucket is."""

type_row = tuple[Any, ...]
type_all = Callable[..., list[Any]]

_LENGTH: Final = "SELECT len FROM chunk WHERE id=?"
_CHUNK: Final = f"SELECT {', '.join(CHUNK.columns)} FROM chunk WHERE id=?"
_SETTINGS: Final = f"SELECT {', '.join(SETTING.columns)} FROM setting WHERE bucket=?"
_BUCKET: Final = f"SELECT {', '.join(BUCKET.columns)} FROM bucket WHERE id=?"


def damaged(cause: str) -> StoreError:
    """A row lies."""
    return StoreError(
        Code.DAMAGED, "the catalogue is damaged: run `tierce rebuild-catalogue`, the devices have it whole", cause=cause
    )


def is_proven(table: Table, row: type_row) -> bool:
    """Whether a row with all its columns, or of an older program and without a sum, is what was written."""
    found = row[-1]
    if not found:
        return True
    try:
        return bool(found == SUMS[table.number](*row[:-1]))
    except (struct.error, TypeError, AttributeError, UnicodeError):  # no number, text or bytes any more
        return False


def require(table: Table, row: type_row) -> type_row:
    """The row without its sum.  Raises DAMAGED."""
    if not is_proven(table, row):
        raise damaged(f"{table.name} {'/'.join(map(repr, row[: table.key]))}")
    return row[:-1]


def rows_of(every: type_all, table: Table, order: str) -> tuple[list[type_row], list[type_row]]:
    """All rows of a table without their sums, and the keys of those that lie."""
    good: list[type_row] = []
    bad: list[type_row] = []
    for row in every(f"SELECT {', '.join(table.columns)} FROM {table.name} ORDER BY {order}", ()):
        if is_proven(table, row):
            good.append(row[:-1])
        else:
            bad.append(row[: table.key])
    return good, bad


def settings_of(every: type_all, bucket: int) -> dict[str, bytes]:
    """A bucket's settings by name.  Raises DAMAGED if any of them lies, for it may have been another's name."""
    return {name: body for _, name, body in (require(SETTING, row) for row in every(_SETTINGS, (bucket,)))}


def bucket_of(every: type_all, bucket: int) -> type_row | None:
    """A bucket's row.  Raises DAMAGED."""
    rows = every(_BUCKET, (bucket,))
    return require(BUCKET, rows[0]) if rows else None


def held_until(every: type_all, chunk: int, end: int) -> int:
    """`end`, or where a chunk's bytes end before that.  Raises DAMAGED, also if it is not there: whoever asks was led
    to it.  That a chunk is too short is proven, for what follows is read as zeros; one that only seems long enough is
    found out by the headers of its pages, so most reads of a body ask for no more than its length."""
    rows = every(_LENGTH, (chunk,))
    if rows and isinstance(rows[0][0], int) and rows[0][0] >= end:
        return end
    return min(end, chunk_in(next(iter(every(_CHUNK, (chunk,))), None), chunk)[1])


def chunk_in(row: type_row | None, chunk: int) -> tuple[int, int, int, int, int]:
    """(id, len, refs, copies, key) of a chunk's row that a batch has looked up.  Raises DAMAGED."""
    if row is None:
        raise damaged(f"chunk {chunk} is not there")
    number, length, refs, copies, key = require(CHUNK, row)
    return number, length, refs, copies, key


def map_in(row: type_row | None, number: int) -> type_row:
    """(id, refs, composed) of a map's row that a batch has looked up.  Raises DAMAGED."""
    if row is None:
        raise damaged(f"map {number} is not there")
    return require(MAP, row)


def first_damage(connection: sqlite3.Connection) -> str:
    """Which row of FEW lies; empty if none does.  Raises sqlite3.DatabaseError."""
    for table in FEW:
        _, bad = rows_of(lambda sql, parameters: connection.execute(sql, parameters).fetchall(), table, "1")
        if bad:
            return f"{table.name} {'/'.join(map(repr, bad[0]))} does not match its sum"
    return ""
