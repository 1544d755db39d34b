"""The lifecycle's worker: walks buckets that have rules, and does through the store's own verbs what the rules say.

Why a walk and not a calendar: rules change under objects, and a listing already has what almost every rule looks at.
A round reads pages of at most PAGE entries in key order and rests after each as long as it took, so that clients
hardly notice it; it holds one page in memory.  Each deletion carries the ETag and time of what the rule saw: an object
written meanwhile is left alone, also one that took over the id "null", and so is a version that became current again.
What is locked is passed over and looked at again in the next round.

The time is the one by which locks end: never before what it was, and a clock set forward makes nothing due.  Rules and
their meaning are lifecycle.py's; whoever calls this decides when.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from appliance import lifecycle, settings
from appliance.errors import Code, StoreError
from appliance.lifecycle import DAY, Act, RuleSet, Version
from appliance.model import Bucket, ListedVersion, Precondition

if TYPE_CHECKING:
    from appliance.store import ObjectStore

log = logging.getLogger(__name__)

PAGE: Final = 1000  # entries looked at in one go
AT_ONCE: Final = 64  # deletions under way together: they share batches, and leave room in them for clients
ROUNDS_A_DAY: Final = 5  # at least: a day of a test is over soon
BREATH: Final = 0.002  # seconds of judging between two turns of others: a thousand rules take a millisecond each time
REST_MAX: Final = 5.0  # seconds
# Somebody was faster, or may keep it: nothing to report.
_PASSED_OVER: Final = frozenset(
    {
        Code.PRECONDITION_FAILED,
        Code.NO_SUCH_KEY,
        Code.NO_SUCH_VERSION,
        Code.NO_SUCH_UPLOAD,
        Code.NO_SUCH_BUCKET,
        Code.LOCKED,
    }
)


class Done(NamedTuple):
    """What one round did, in objects, versions and uploads."""

    expired: int = 0
    removed: int = 0
    aborted: int = 0
    spared: int = 0  # due, but locked or changed in the same moment

    def plus(self, other: Done) -> Done:
        return Done(*(one + two for one, two in zip(self, other, strict=True)))


class _Target(NamedTuple):
    """One deletion.  An empty `version_id` deletes the current object."""

    key: bytes
    version_id: str
    precondition: Precondition | None


async def run_lifecycle(store: ObjectStore, *, day: float, interval: float) -> None:
    """Rounds until cancelled, `interval` seconds apart; `day` is the length of a day in seconds."""
    worker = Worker(store, day=day)
    while True:
        await trio.sleep(interval)
        await worker.round()


class Worker:
    """Applies every bucket's rules."""

    def __init__(
        self, store: ObjectStore, *, day: float = DAY, clock: Callable[[], int] | None = None, pace: float = 1.0
    ) -> None:
        """`clock` in nanoseconds since the epoch, the store's own without one; `pace` seconds of rest for each second
        of work."""
        self._store = store
        self._day = day
        self._clock = store.releasing if clock is None else clock
        self._pace = pace
        self._now = 0  # the largest time seen
        self._since = 0.0  # when others were last let run

    async def round(self) -> Done:
        """One walk through all buckets that have rules.  A bucket that fails is logged and does not stop the others."""
        total = Done()
        for bucket in self._store.buckets():
            body = bucket.settings.get(settings.LIFECYCLE) if bucket.settings else None
            if body is None:
                continue
            try:
                done = await self._walk(bucket, lifecycle.parse(body))
            except StoreError as error:
                log.warning("the lifecycle of bucket %s stopped: %r", bucket.name, error)
                continue
            if any(done):
                log.info(
                    "lifecycle of bucket %s: %d expired, %d versions removed, %d uploads aborted, %d spared",
                    bucket.name,
                    *done,
                )
            total = total.plus(done)
        return total

    def _time(self) -> int:
        self._now = max(self._now, self._clock())
        return self._now

    async def _walk(self, bucket: Bucket, rules: RuleSet) -> Done:
        done = Done()
        walk = self._versions if settings.VERSIONING in bucket.settings else self._objects
        for prefix in lifecycle.prefixes(rules):
            done = done.plus(await walk(bucket, rules, prefix))
        if lifecycle.aborts_any(rules):
            done = done.plus(await self._uploads(bucket, rules))
        return done

    def _stands(self, bucket: Bucket) -> bool:
        """Whether the bucket still is what the walk began with: rules that were taken back delete nothing more."""
        try:
            current = self._store.bucket(bucket.name)
        except StoreError:
            return False
        return current.id == bucket.id and current.settings == bucket.settings

    async def _objects(self, bucket: Bucket, rules: RuleSet, prefix: bytes) -> Done:
        """Objects of a bucket without versions."""
        done = Done()
        after, more = b"", True
        while more and self._stands(bucket):
            started = trio.current_time()
            page = await self._store.list_objects(bucket, prefix, b"", after, PAGE)
            targets = []
            for listed in page.objects:
                version = Version(listed.key, listed.size, {}, listed.written_ns)
                if await self._due(bucket, rules, version, "") is Act.EXPIRE:
                    condition = Precondition(if_match=listed.etag, if_written_ns=listed.written_ns)
                    targets.append(_Target(listed.key, "", condition))
            done = done.plus(await self._delete(bucket, targets))
            after, more = page.next, page.truncated
            await self._rest(started)
        return done

    async def _versions(self, bucket: Bucket, rules: RuleSet, prefix: bytes) -> Done:
        """Versions and delete markers: of each key the newest first, so that what made a version noncurrent is at
        hand.  A marker waits for the next entry, which says whether anything is left behind it."""
        done = Done()
        newer: ListedVersion | None = None  # the entry before, if of the same key
        noncurrent = 0  # versions of the key seen that are
        waiting: ListedVersion | None = None
        key, version_id, more = b"", "", True
        while more and self._stands(bucket):
            started = trio.current_time()
            page = await self._store.list_versions(bucket, prefix, b"", key, version_id, PAGE)
            targets: list[_Target] = []
            for listed in page.versions:
                if newer is not None and newer.key != listed.key:
                    newer, noncurrent = None, 0
                    await self._alone(bucket, rules, waiting, targets)
                waiting = None
                if newer is None and listed.marker:
                    waiting = listed
                else:
                    await self._judge(bucket, rules, listed, newer, noncurrent, targets)
                noncurrent += newer is not None
                newer = listed
            if not page.truncated:
                await self._alone(bucket, rules, waiting, targets)
            done = done.plus(await self._delete(bucket, targets))
            key, version_id, more = page.next_key, page.next_version, page.truncated
            await self._rest(started)
        return done

    async def _alone(
        self, bucket: Bucket, rules: RuleSet, marker: ListedVersion | None, targets: list[_Target]
    ) -> None:
        """A delete marker that hides nothing any more."""
        if marker is not None:
            version = Version(marker.key, 0, {}, marker.written_ns, marker=True)
            if await self._due(bucket, rules, version, marker.version_id) is Act.REMOVE:
                condition = Precondition(if_written_ns=marker.written_ns, noncurrent=True)
                targets.append(_Target(marker.key, marker.version_id, condition))

    async def _judge(
        self,
        bucket: Bucket,
        rules: RuleSet,
        listed: ListedVersion,
        newer: ListedVersion | None,
        noncurrent: int,
        targets: list[_Target],
    ) -> None:
        """The current object, or what became noncurrent when `newer` was written."""
        since = 0 if newer is None else newer.written_ns
        version = Version(listed.key, listed.size, {}, listed.written_ns, listed.marker, False, since, noncurrent)
        act = await self._due(bucket, rules, version, listed.version_id)
        if act is Act.EXPIRE:
            condition = Precondition(if_match=listed.etag, if_written_ns=listed.written_ns)
            targets.append(_Target(listed.key, "", condition))
        elif act is Act.REMOVE:
            condition = Precondition(if_match=listed.etag, if_written_ns=listed.written_ns, noncurrent=True)
            targets.append(_Target(listed.key, listed.version_id, condition))

    async def _due(self, bucket: Bucket, rules: RuleSet, version: Version, version_id: str) -> Act:
        """What is due.  Tags are looked up only where nothing but they can decide."""
        now = self._time()
        if trio.current_time() - self._since > BREATH:
            await trio.lowlevel.checkpoint()
            self._since = trio.current_time()
        if not lifecycle.looks_at_tags(rules):
            return lifecycle.due(rules, version, now, self._day)
        if lifecycle.due(lifecycle.without_tags(rules), version, now, self._day) is Act.NOTHING:
            return Act.NOTHING
        if not version.marker:
            try:
                node = await self._store.look_up_version(bucket, version.key, version_id)
            except StoreError as error:
                if error.code in (Code.NO_SUCH_KEY, Code.NO_SUCH_VERSION):
                    return Act.NOTHING
                raise
            version = version._replace(tags=node.attributes.tags)
        return lifecycle.due(rules, version, now, self._day)

    async def _delete(self, bucket: Bucket, targets: Sequence[_Target]) -> Done:
        outcomes: list[Done] = []
        failures: list[StoreError] = []

        async def delete(target: _Target) -> None:
            verb = partial(
                self._store.delete_object,
                bucket,
                target.key,
                version_id=target.version_id,
                precondition=target.precondition,
            )
            try:
                done = await self._done(verb)
            except StoreError as error:  # raised below, alone: a nursery would wrap it
                failures.append(error)
                return
            if not done:
                outcomes.append(Done(spared=1))
            else:
                outcomes.append(Done(removed=1) if target.version_id else Done(expired=1))

        for start in range(0, len(targets), AT_ONCE):
            async with trio.open_nursery() as nursery:
                for target in targets[start : start + AT_ONCE]:
                    nursery.start_soon(delete, target)
            if failures:
                raise failures[0]
        return functools.reduce(Done.plus, outcomes, Done())

    async def _uploads(self, bucket: Bucket, rules: RuleSet) -> Done:
        done = Done()
        key, upload_id, more = b"", "", True
        while more and self._stands(bucket):
            started = trio.current_time()
            page = self._store.uploads(bucket, b"", b"", key, upload_id, PAGE)
            now = self._time()
            for upload in page.uploads:
                if lifecycle.aborts(rules, upload.key, upload.created_ns, now, self._day):
                    aborted = await self._done(partial(self._store.abort_upload, upload))
                    done = done.plus(Done(aborted=int(aborted), spared=int(not aborted)))
            key, upload_id, more = page.next_key, page.next_upload, page.truncated
            await self._rest(started)
        return done

    async def _done(self, verb: Callable[[], Awaitable[object]]) -> bool:
        """Whether it was done; False when somebody was faster or a lock holds it."""
        try:
            await verb()
        except StoreError as error:
            if error.code not in _PASSED_OVER:
                raise
            return False
        return True

    async def _rest(self, started: float) -> None:
        await trio.sleep(min(REST_MAX, self._pace * (trio.current_time() - started)))
