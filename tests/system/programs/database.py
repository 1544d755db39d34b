"""A program that commits transactions to an SQLite database until it cannot, and says each one that was acknowledged.

database.py PATH JOURNAL_MODE SYNCHRONOUS FIRST
"""

import os
import sqlite3
import sys

path, mode, synchronous, number = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
try:
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    connection.execute(f"PRAGMA journal_mode={mode}")
    connection.execute(f"PRAGMA synchronous={synchronous}")
    connection.execute("CREATE TABLE IF NOT EXISTS entry (number INTEGER PRIMARY KEY, body BLOB NOT NULL)")
    connection.execute("CREATE TABLE IF NOT EXISTS total (place INTEGER PRIMARY KEY, sum INTEGER NOT NULL)")
    while True:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO entry VALUES (?, ?)", (number, os.urandom(number * 7919 % 9000)))
        connection.execute(
            "INSERT INTO total VALUES (?1, ?2) ON CONFLICT (place) DO UPDATE SET sum=sum+?2", (number % 50, number)
        )
        connection.execute("COMMIT")
        print(number, flush=True)
        number += 1
except (OSError, sqlite3.Error) as error:
    print(f"ended: {error!r}", file=sys.stderr)
