"""The ledger of quotas: what each bucket holds, and what was promised to the mount's writers.

One check, `admit`, after each command and before the next, in the commit's own transaction (H6): what the command adds
to a bucket with a quota must fit, or nothing of it is done.  What takes away or adds nothing always passes, over quota
too, and so does a deletion that leaves a delete marker.

A program that writes through the mount has its answer long before the commit.  So the mount takes a promise first,
`reserve`, which raises QUOTA_EXCEEDED while the program can still be told, and which both doors' writes count as if it
were stored; the commit that the promise was for redeems it, and always passes as far as it goes.  Hence what was
accepted is never lost to a quota, and a quota holds exactly, whoever writes at once: only setting it lower than what is
stored or promised leaves more than it allows.

The loop reserves and releases, the writer admits: a lock is held for a few additions.  A batch that fails takes back
what it was admitted with.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from appliance import settings
from appliance.catalogue.proven import require, settings_of
from appliance.catalogue.schema import USAGE
from appliance.errors import Code, StoreError
from appliance.quota import Quota, parse

log = logging.getLogger(__name__)


class Promise(NamedTuple):
    """What may still be added to a bucket without asking."""

    objects: int
    size: int


NONE: Final = Promise(0, 0)


class Ledger:
    """Quotas, usage and promises by bucket."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Of the committed catalogue."""
        self._lock = threading.Lock()
        self.limits: dict[int, Quota] = {}
        self._used: dict[int, list[int]] = {}  # objects and bytes, of buckets with a quota
        self._promised: dict[int, list[int]] = {}
        self._admitted: list[tuple[int, int, int, Promise]] = []  # in the batch under way
        for (bucket,) in connection.execute("SELECT bucket FROM setting WHERE name=?", (settings.QUOTA,)).fetchall():
            self.load(connection, bucket)

    def load(self, connection: sqlite3.Connection, bucket: int) -> None:
        """The bucket's quota is what is committed now.  By the writer, between two batches."""

        def every(sql: str, parameters: tuple[int, ...]) -> list[tuple[Any, ...]]:
            return connection.execute(sql, parameters).fetchall()

        quota = None
        try:
            body = settings_of(every, bucket).get(settings.QUOTA)
            quota = parse(body) if body is not None else None
            rows = [require(USAGE, row) for row in every("SELECT * FROM usage WHERE bucket=?", (bucket,))]
        except StoreError as error:
            log.error("the quota of bucket %d does not count: %r", bucket, error)
            if error.code is Code.DAMAGED and bucket in self.limits:
                return  # what memory has was proven when it was read
            rows = []
        usage = [rows[0][1], rows[0][2] + rows[0][3]] if rows else [0, 0]
        with self._lock:
            if quota is None:
                self.limits.pop(bucket, None)
                self._used.pop(bucket, None)
            else:
                self.limits[bucket] = quota
                self._used[bucket] = usage

    # ------------------------------------------------------------------ the loop
    def reserve(self, bucket: int, objects: int, size: int, *, ask: bool) -> None:
        """Promises so much more.  Raises QUOTA_EXCEEDED if it was to `ask`."""
        with self._lock:
            if ask:
                self._require_room(bucket, objects, size)
            self._promise(bucket, objects, size)

    def release(self, bucket: int, objects: int, size: int) -> None:
        """So much of what was promised is not wanted any more."""
        with self._lock:
            self._promise(bucket, -objects, -size)

    def room(self, bucket: int) -> tuple[Quota, int, int] | None:
        """The quota, and the objects and bytes that count against it, promised ones too; None without a quota."""
        with self._lock:
            quota = self.limits.get(bucket)
            if quota is None:
                return None
            objects, size = self._taken(bucket)
            return quota, objects, size

    def promised(self) -> dict[int, Promise]:
        """What is promised now, by bucket."""
        with self._lock:
            return {bucket: Promise(*held) for bucket, held in self._promised.items()}

    # ------------------------------------------------------------------ the writer
    def admit(self, charged: Mapping[int, list[int]], bucket: int, promise: Promise) -> None:
        """One command was applied: `charged` has by bucket the objects and bytes that it adds, and objects that are
        added whatever the quota; `promise` is what was promised for it in `bucket`.  Raises QUOTA_EXCEEDED; then it
        must be undone.  A command with a promise passes: should it add more (its file got another name meanwhile), it
        is too late to say so."""
        if not self.limits and promise == NONE:
            return
        with self._lock:
            if promise == NONE:
                for number, (objects, size, _) in charged.items():
                    self._require_room(number, objects, size)
            for number, (objects, size, always) in charged.items():
                self._enter(number, objects + always, size)
                self._admitted.append((number, objects + always, size, NONE))
            if promise != NONE:
                self._promise(bucket, -promise.objects, -promise.size)
                self._admitted.append((bucket, 0, 0, promise))

    def commit(self) -> None:
        """The batch stands."""
        self._admitted.clear()

    def rollback(self) -> None:
        """The batch is undone: promises are as they were."""
        with self._lock:
            for number, objects, size, promise in self._admitted:
                self._enter(number, -objects, -size)
                self._promise(number, promise.objects, promise.size)
            self._admitted.clear()

    # ------------------------------------------------------------------ under the lock
    def _taken(self, bucket: int) -> tuple[int, int]:
        used, promised = self._used[bucket], self._promised.get(bucket, NONE)
        return used[0] + promised[0], used[1] + promised[1]

    def _require_room(self, bucket: int, objects: int, size: int) -> None:
        quota = self.limits.get(bucket)
        if quota is None:
            return
        taken = self._taken(bucket)
        for added, counted, limit, what in (
            (objects, taken[0], quota.objects, "objects"),
            (size, taken[1], quota.size, "bytes"),
        ):
            if limit is not None and added > 0 and counted + added > limit:
                raise StoreError(Code.QUOTA_EXCEEDED, f"the bucket's quota is {limit} {what}: delete something")

    def _enter(self, bucket: int, objects: int, size: int) -> None:
        used = self._used.get(bucket)
        if used is not None:
            used[0] += objects
            used[1] += size

    def _promise(self, bucket: int, objects: int, size: int) -> None:
        if not objects and not size:
            return
        promised = self._promised.setdefault(bucket, [0, 0])
        promised[0] += objects
        promised[1] += size
        assert promised[0] >= 0, "more was released than was promised"
        assert promised[1] >= 0, "more was released than was promised"
        if promised == [0, 0]:
            del self._promised[bucket]
