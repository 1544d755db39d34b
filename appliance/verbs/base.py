"""What every family of the store's verbs stands on: the engine, its reading connections, and the commit."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from appliance.catalogue import commands, database
from appliance.engine.commit import Ticket
from appliance.engine.engine import Engine
from appliance.errors import Code, StoreError
from appliance.model import Bucket


def now() -> int:
    """The time of a change."""
    return time.time_ns()


def label(bucket: Bucket, key: bytes) -> bytes:
    """What a page's header says of its owner, for salvage."""
    return bucket.label + b"\0" + key


class Verbs:
    """Shared by the families; made by `ObjectStore`."""

    def __init__(self, engine: Engine, database_path: str) -> None:
        self.engine = engine
        self.unsettled: dict[int, Ticket] = {}  # bucket -> the mount's last submitted, perhaps pending commit
        self._database_path = database_path
        self._threads = threading.local()
        self._connections: list[sqlite3.Connection] = []

    def one(self, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        return self.engine.reader.execute(sql, parameters).fetchone()

    def every(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        return self.engine.reader.execute(sql, parameters).fetchall()

    async def commit(self, command: commands.Command) -> Any:
        """A change through S3 or administration: others hear of it before the answer (H5)."""
        return await self.engine.submit(command, announce=True).wait()

    async def settled(self, bucket: Bucket) -> None:
        """H2: what the mount has closed in this bucket is durable before anybody else sees around it."""
        ticket = self.unsettled.get(bucket.id)
        if ticket is None:
            return
        if not ticket.settled:
            with suppress(StoreError):  # told to the file's own writer; here only the order matters
                await ticket.wait()
        if self.unsettled.get(bucket.id) is ticket:
            del self.unsettled[bucket.id]

    def snapshot(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(every, *arguments)` over one state, on the calling thread's own connection (H4)."""
        connection: sqlite3.Connection | None = getattr(self._threads, "connection", None)
        if connection is None:
            connection = self._threads.connection = database.connect(self._database_path, read_only=True)
            self._connections.append(connection)
        execute = connection.execute
        execute("BEGIN")
        try:
            return function(lambda sql, parameters: execute(sql, parameters).fetchall(), *arguments)
        finally:
            execute("COMMIT")

    def bucket_by_id(self, number: int) -> Bucket:
        for bucket in self.engine.buckets.values():
            if bucket.id == number:
                return bucket
        raise StoreError(Code.NO_SUCH_BUCKET)

    async def close(self) -> None:
        """Settles and closes the pool."""
        await self.engine.close()
        for connection in self._connections:
            connection.close()
