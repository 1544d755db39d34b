"""What every family of the store's verbs stands on: the engine, its reading connections, and the commit."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from time import monotonic_ns
from typing import Any, Final

from appliance import lock, settings
from appliance.catalogue import commands, database
from appliance.engine.engine import Engine
from appliance.engine.ticket import Ticket
from appliance.errors import Code, StoreError
from appliance.model import Attributes, Bucket

NO_LOCK: Final = "Bucket is missing Object Lock Configuration"  # AWS's words, as the next
PAST: Final = "The retain until date must be in the future!"


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

    # -- object lock
    def granting(self, now_ns: int) -> int:
        """The time by which a retention begins."""
        return self.engine.clock.granting(now_ns)

    def releasing(self) -> int:
        """The time by which retentions end."""
        return self.engine.clock.releasing(now(), monotonic_ns())

    async def keep_time(self) -> None:
        """The time by which retentions end will not be taken for an earlier one after a restart."""
        await self.commit(commands.KeepTime(seen_ns=self.releasing()))

    def check_lock(self, bucket: Bucket, attributes: Attributes, now_ns: int) -> None:
        """Whether a new version may come with the retention or hold that it says.  Raises NOT_LOCKABLE,
        INVALID_ARGUMENT."""
        if not attributes.retention_mode and not attributes.legal_hold:
            return
        if settings.LOCK not in bucket.settings:
            raise StoreError(Code.NOT_LOCKABLE, NO_LOCK)
        if attributes.retention_mode and attributes.retain_until_ns <= self.granting(now_ns):
            raise StoreError(Code.INVALID_ARGUMENT, PAST)

    def retained(self, bucket: Bucket, attributes: Attributes, now_ns: int) -> Attributes:
        """With the bucket's default retention, unless it says its own.  Raises DAMAGED."""
        body = bucket.settings.get(settings.LOCK) if bucket.settings else None
        if body is None:
            return attributes
        return lock.retained(attributes, lock.default_of(body), self.granting(now_ns))

    def locked(self, bucket: Bucket, attributes: Attributes, now_ns: int) -> Attributes:
        """Both of them, for what becomes a version at once."""
        if not bucket.settings and not attributes.retention_mode and not attributes.legal_hold:
            return attributes
        self.check_lock(bucket, attributes, now_ns)
        return self.retained(bucket, attributes, now_ns)

    # -- committing
    def commit(self, command: commands.Command) -> Awaitable[Any]:
        """A change through S3 or administration: others hear of it before the answer (H5)."""
        return self.engine.submit(command, announce=True).wait()

    async def settled(self, bucket: Bucket) -> None:
        """H2: what the mount has closed in this bucket is durable before anybody else sees around it.  Raises
        UNAVAILABLE: what it has synced is durable, and nobody can see it before a restart."""
        ticket = self.unsettled.get(bucket.id)
        if ticket is None:
            return
        if not ticket.settled:
            with suppress(StoreError):  # told to the file's own writer; here only the order matters
                await ticket.wait()
        if self.is_hidden(bucket.id):
            raise StoreError(Code.UNAVAILABLE, "what was synced is not in the catalogue: restart to recover")
        if self.unsettled.get(bucket.id) is ticket:
            del self.unsettled[bucket.id]

    def is_hidden(self, bucket: int) -> bool:
        """Whether the catalogue lacks for good what was acknowledged in the bucket: only a restart has it (I10)."""
        return bucket in self.engine.committer.hidden

    def watch_hidden(self, listener: Callable[[], None]) -> Callable[[], None]:
        """`listener()` is called on the loop when some bucket has become so, before those who wait hear of it.  What is
        returned ends it."""
        self.engine.when_hidden.append(listener)
        return partial(self.engine.when_hidden.remove, listener)

    async def listed(self, bucket: Bucket, prefix: bytes, after: bytes) -> None:
        """H5: what a page with keys > `after` may show, the kernel has forgotten otherwise."""
        if self.engine.tellings.under_way or self.engine.rows.untold:
            await self.engine.tellings.page(bucket.root, prefix, after)

    def snapshot(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(every, *arguments)` over one state, on the calling thread's own connection (H4)."""
        connection: sqlite3.Connection | None = getattr(self._threads, "connection", None)
        if connection is None:
            connection = database.connect(self._database_path, read_only=True, cache_kib=database.SCAN_CACHE_KIB)
            self._threads.connection = connection
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
