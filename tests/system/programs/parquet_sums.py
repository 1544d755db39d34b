"""Reads local parquet files and compares the sum of a column: arguments file or glob, column, sum."""

from __future__ import annotations

import sys

import duckdb

if __name__ == "__main__":
    path, column, wanted = sys.argv[1:]
    (found,) = duckdb.execute(f"SELECT sum({column}) FROM read_parquet(?)", [path]).fetchall()
    assert found == (int(wanted),), found
