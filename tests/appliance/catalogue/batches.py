"""A catalogue in memory and a batch on it, for tests of the catalogue's functions without an engine."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable
from typing import Any

from appliance.catalogue import names, schema
from appliance.catalogue.apply import apply
from appliance.catalogue.commands import Command, CreateBucket
from appliance.catalogue.content import MAPPED, WHOLE, Content, flatten, patch_data
from appliance.catalogue.database import NewData, Rows
from appliance.catalogue.names import DirectoryCache
from appliance.catalogue.schema import PAGE, USAGE
from appliance.errors import StoreError
from appliance.limits import DROP_STEP
from appliance.model import Bucket, Node
from appliance.ondisk.page import extent_length
from appliance.upkeep.checks import Problem, check_catalogue

NOW = 1_700_000_000_000_000_000


class Catalogue:
    """Commands one by one, each its own batch, with the bytes of chunks kept aside."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        schema.create(self.connection)
        self.ids = itertools.count(1024)
        self.held: set[int] = set()
        self.drops = DROP_STEP
        self.reaps: list[int] = []  # nodes that have bytes left to free
        self.cache = DirectoryCache()
        self.bytes: dict[int, bytes] = {}
        self._offsets = itertools.count(1 << 20, 1 << 20)
        self.connection.execute("INSERT INTO meta VALUES ('next_id', 1000000, 0)")

    def batch(self) -> Rows:
        """An open one; `finish` closes it."""
        self.connection.execute("BEGIN")
        return Rows(self.connection, self.ids.__next__, self.held.__contains__, self.drops)

    def finish(self, tx: Rows) -> None:
        """What the writer does at the end of a batch, without devices: what is written once, COMMIT."""
        for number, item in tx.new_data.items():
            self._place(tx, number, item)
        for bucket, (objects, size, parts) in tx.usage.items():
            row = tx.one("SELECT objects, bytes, parts FROM usage WHERE bucket=?", (bucket,)) or (0, 0, 0)
            tx.put(USAGE, (bucket, row[0] + objects, row[1] + size, row[2] + parts))
        names.write_directories(tx)
        self.connection.execute("COMMIT")
        self.reaps += tx.reaps

    def _place(self, tx: Rows, number: int, item: NewData) -> None:
        self.bytes[number] = item.data
        for copy in range(item.copies):
            length = extent_length(len(item.data))
            tx.put(PAGE, (copy + 1, next(self._offsets), length, number, 0, copy, bytes(16)))

    def do(self, command: Command) -> Any:
        """Applies one command; a failed one has changed nothing."""
        tx = self.batch()
        try:
            result = apply(tx, self.cache, command)
        except StoreError:
            assert tx.changes == 0, "checks come first"
            self.connection.execute("ROLLBACK")
            raise
        self.finish(tx)
        return result

    def within(self, function: Callable[[Rows], Any]) -> Any:
        """`function(tx)` as one batch."""
        tx = self.batch()
        result = function(tx)
        self.finish(tx)
        return result

    def create_bucket(self, name: str = "bucket") -> Bucket:
        """One."""
        bucket: Bucket = self.do(
            CreateBucket(name=name, project="default", owner="me", copies=1, etag="md5", now_ns=NOW)
        )
        return bucket

    def one(self, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        return self.connection.execute(sql, parameters).fetchone()

    def every(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        return self.connection.execute(sql, parameters).fetchall()

    def read(self, content: Content, size: int) -> bytes:
        """The bytes of a content, holes as zeros."""
        image = bytearray(size)
        if content.kind not in (WHOLE, MAPPED):
            image[: len(content.data)] = content.data
            return bytes(image)
        end = size
        if content.kind == WHOLE:
            end = min(size, self.one("SELECT len FROM chunk WHERE id=?", (content.ref,))[0])
        for piece in flatten(self.every, content.kind, content.ref, 0, end):
            found = patch_data(self.every, piece.chunk)
            data = (self.bytes[piece.chunk] if found is None else found)[piece.start : piece.start + piece.length]
            assert len(data) == piece.length, "a slice lies within its chunk"
            image[piece.offset : piece.offset + piece.length] = data
        return bytes(image)

    def read_node(self, node: Node) -> bytes:
        """A node's."""
        return self.read(Content(node.kind, node.ref, node.data), node.size)

    def problems(self) -> list[Problem]:
        """The audit's."""
        return check_catalogue(self.connection)
