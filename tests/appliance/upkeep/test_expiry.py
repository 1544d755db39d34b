"""The lifecycle's worker over the real store: what is due goes, with its space; what is not, changed or held, stays."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from appliance import lifecycle, settings
from appliance.errors import Code, StoreError
from appliance.lifecycle import DAY, Filter, Rule, RuleSet
from appliance.model import Attributes, Body, Bucket, Change
from appliance.store import ObjectStore
from appliance.upkeep import expiry
from appliance.upkeep.expiry import Done, Worker, run_lifecycle
from tests.models.boxes import body_of, run_store

NS = 10**9
LARGE = bytes(300_000)


def rules(*found: Rule) -> bytes:
    return lifecycle.encode(RuleSet(tuple(found)))


async def put(store: ObjectStore, bucket: Bucket, key: bytes, data: bytes = b"x", **tags: str) -> int:
    """When it was written."""
    body: Body = await body_of(store, bucket, data)
    return (await store.put_object(bucket, key, body, "etag-" + key.decode(), Attributes(tags=tags))).written_ns


async def keys(store: ObjectStore, bucket: Bucket) -> list[bytes]:
    return [listed.key for listed in (await store.list_objects(bucket)).objects]


async def round_at(store: ObjectStore, now_ns: int, day: float = DAY) -> Done:
    return await Worker(store, day=day, clock=lambda: now_ns, pace=0).round()


def test_what_is_due_goes_and_its_space_with_it(tmp_path: Path) -> None:
    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        one = Rule("r", True, Filter(prefix="logs/"), days=1)
        tagged = Rule("t", True, Filter(tags=(("temporary", "yes"),)), days=1)
        large = Rule("s", True, Filter(prefix="big/", larger_than=1000), days=1)
        await store.set_bucket_setting(bucket, settings.LIFECYCLE, rules(one, tagged, large))
        free = store.space()[1]
        for key in (b"logs/a", b"logs/b/c", b"keep"):
            written = await put(store, bucket, key)
        written = await put(store, bucket, b"logs/large", LARGE)
        await put(store, bucket, b"tagged", temporary="yes")
        await put(store, bucket, b"tagged otherwise", temporary="no")
        await put(store, bucket, b"big/small")
        written = await put(store, bucket, b"big/large", LARGE)
        assert store.space()[1] < free - 2 * len(LARGE)
        assert await round_at(store, written + DAY * NS - 1) == Done()
        seen: list[Change] = []

        def watch(changes: Sequence[Change]) -> None:
            seen.extend(changes)

        stop = store.watch(watch)
        assert await round_at(store, written + 2 * DAY * NS) == Done(expired=5)
        stop()
        assert await keys(store, bucket) == [b"big/small", b"keep", b"tagged otherwise"]
        assert sum(change.gone for change in seen) >= 5  # the mount hears of each
        await store.settle()
        assert store.space()[1] > free - len(LARGE)
        assert await round_at(store, written + 3 * DAY * NS) == Done()

    run_store(tmp_path, scene)


def test_more_than_a_page_and_a_short_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "PAGE", 7)

    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_bucket_setting(bucket, settings.LIFECYCLE, rules(Rule("r", True, days=1)))
        for number in range(25):
            written = await put(store, bucket, b"%02d" % number)
        assert await round_at(store, written + 11 * NS, 10.0) == Done(expired=25)

    run_store(tmp_path, scene)


def test_an_object_written_meanwhile_is_spared(tmp_path: Path) -> None:
    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_bucket_setting(bucket, settings.LIFECYCLE, rules(Rule("r", True, days=1)))
        written = await put(store, bucket, b"a")
        listing = store.list_objects

        async def list_then_replace(*arguments: object, **more: object) -> object:
            page = await listing(*arguments, **more)  # type: ignore[arg-type]
            await store.put_object(bucket, b"a", store.small_body(b"new"), "another", Attributes())
            return page

        store.list_objects = list_then_replace  # type: ignore[method-assign, assignment]
        assert await round_at(store, written + 2 * DAY * NS) == Done(spared=1)
        assert (await store.look_up(bucket, b"a")).etag == "another"

    run_store(tmp_path, scene)


def test_what_is_locked_is_passed_over(tmp_path: Path) -> None:
    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_bucket_setting(bucket, settings.LIFECYCLE, rules(Rule("r", True, days=1)))
        await put(store, bucket, b"free")
        written = await put(store, bucket, b"held")
        deletion = store.delete_object

        async def delete(bucket: Bucket, key: bytes, **how: Any) -> object:
            if key == b"held":
                raise StoreError(Code.LOCKED)
            return await deletion(bucket, key, **how)

        store.delete_object = delete  # type: ignore[method-assign, assignment]
        assert await round_at(store, written + 2 * DAY * NS) == Done(expired=1, spared=1)
        assert await keys(store, bucket) == [b"held"]

    run_store(tmp_path, scene)


def test_uploads_and_other_buckets(tmp_path: Path) -> None:
    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        other = await store.create_bucket("other", "me")
        abort = Rule("r", True, Filter(prefix="in/"), abort_days=2)
        await store.set_bucket_setting(bucket, settings.LIFECYCLE, rules(abort))
        for place, key in ((bucket, b"in/a"), (bucket, b"out"), (other, b"in/a")):
            created = (await store.create_upload(place, key, Attributes(), "me")).created_ns
        assert await round_at(store, created + DAY * NS) == Done()
        assert await round_at(store, created + 3 * DAY * NS) == Done(aborted=1)
        assert [upload.key for upload in store.uploads(bucket).uploads] == [b"out"]
        assert len(store.uploads(other).uploads) == 1

    run_store(tmp_path, scene)


async def versions(store: ObjectStore, bucket: Bucket) -> list[tuple[bytes, bool, bool]]:
    """(key, latest, marker) of everything there is."""
    page = await store.list_versions(bucket)
    return [(one.key, one.latest, one.marker) for one in page.versions]


def test_versions_and_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "PAGE", 3)  # every key's versions lie across pages

    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_bucket_setting(bucket, settings.VERSIONING, settings.ENABLED)
        bucket = store.bucket(bucket.name)
        for key, count in ((b"a", 1), (b"b", 4), (b"c", 2), (b"d", 7)):
            for _ in range(count):
                written = await put(store, bucket, key, LARGE if key == b"d" else b"x")
        await store.delete_object(bucket, b"c")
        await store.delete_object(bucket, b"gone")  # a marker of what never was
        later = written + 3 * DAY * NS
        free = store.space()[1]

        async def obey(*found: Rule) -> Done:
            await store.set_bucket_setting(bucket, settings.LIFECYCLE, rules(*found))
            return await round_at(store, later)

        assert await obey(Rule("r", True, noncurrent_days=9)) == Done()
        assert await obey(Rule("r", True, noncurrent_days=1, noncurrent_newer=5)) == Done(removed=1)
        assert await obey(Rule("r", True, Filter(prefix="b"), noncurrent_days=1, noncurrent_newer=1)) == Done(removed=2)
        assert await obey(Rule("r", True, expired_marker=True)) == Done(removed=1)  # gone's; c's still hides two
        assert await obey(Rule("r", True, noncurrent_days=1)) == Done(removed=1 + 2 + 5)
        assert await versions(store, bucket) == [
            (b"a", True, False), (b"b", True, False), (b"c", True, True), (b"d", True, False)
        ]  # fmt: skip
        await store.settle()
        assert store.space()[1] > free + 5 * len(LARGE)
        assert await obey(Rule("r", True, days=1)) == Done(expired=3, removed=1)  # c's marker is alone now
        assert await keys(store, bucket) == []
        assert await round_at(store, time.time_ns()) == Done()  # noncurrent since a moment ago
        assert await obey(Rule("r", True, noncurrent_days=1, expired_marker=True)) == Done(removed=3)
        assert await obey(Rule("r", True, noncurrent_days=1, expired_marker=True)) == Done(removed=3)
        assert await versions(store, bucket) == []

    run_store(tmp_path, scene)


@pytest.mark.parametrize("what", ["marker", "null version", "promoted"])
def test_what_became_current_meanwhile_is_spared(tmp_path: Path, what: str) -> None:
    """The id "null" may be another's when its deletion comes, and a noncurrent version may be all that is left."""

    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        written = await put(store, bucket, b"a", b"old")
        await store.set_bucket_setting(bucket, settings.LIFECYCLE, rules(Rule("r", True, noncurrent_days=1)))
        await store.set_bucket_setting(bucket, settings.VERSIONING, settings.ENABLED)
        bucket = store.bucket(bucket.name)
        if what == "marker":
            await store.set_bucket_setting(bucket, settings.LIFECYCLE, rules(Rule("r", True, expired_marker=True)))
        else:
            newer = await store.put_object(bucket, b"a", store.small_body(b"newer"), "e", Attributes())
        if what != "promoted":
            await store.set_bucket_setting(bucket, settings.VERSIONING, settings.SUSPENDED)
        bucket = store.bucket(bucket.name)
        if what == "marker":
            await store.delete_object(bucket, b"a")
        listing = store.list_versions

        async def list_then_change(*arguments: Any) -> object:
            page = await listing(*arguments)
            if what == "promoted":
                await store.delete_object(bucket, b"a", version_id=newer.version_id)
            else:
                await store.put_object(bucket, b"a", store.small_body(b"newest"), "another", Attributes())
            return page

        store.list_versions = list_then_change  # type: ignore[method-assign, assignment]
        assert await round_at(store, written + 3 * DAY * NS) == Done(spared=1)
        assert (await store.look_up(bucket, b"a")).data == (b"old" if what == "promoted" else b"newest")

    run_store(tmp_path, scene)


def test_tags_of_a_version_decide_about_that_version(tmp_path: Path) -> None:
    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_bucket_setting(bucket, settings.VERSIONING, settings.ENABLED)
        bucket = store.bucket(bucket.name)
        for drop in ("yes", "no", "yes", "no"):
            written = await put(store, bucket, b"a", drop=drop)
        rule = Rule("r", True, Filter(tags=(("drop", "yes"),)), days=1, noncurrent_days=1)
        await store.set_bucket_setting(bucket, settings.LIFECYCLE, rules(rule))
        assert await round_at(store, written + 2 * DAY * NS) == Done(removed=2)
        assert (await store.look_up(bucket, b"a")).attributes.tags == {"drop": "no"}

    run_store(tmp_path, scene)


def test_forgotten_uploads_end_and_their_space_with_them(tmp_path: Path) -> None:
    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        free = store.space()[1]
        for number in range(5):
            upload = await store.create_upload(bucket, b"%d" % number, Attributes(), "me")
            await store.put_part(upload, 1, await body_of(store, bucket, LARGE), "etag")
        assert await store.expire_uploads(upload.created_ns, 3) == 3  # those before the last, in steps
        assert await store.expire_uploads(upload.created_ns, 3) == 1
        assert await store.expire_uploads(upload.created_ns, 3) == 0
        assert [left.key for left in store.uploads(bucket).uploads] == [b"4"]
        await store.settle()
        assert free - store.space()[1] < 2 * len(LARGE)

    run_store(tmp_path, scene)


def test_time_never_runs_backwards(tmp_path: Path) -> None:
    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_bucket_setting(bucket, settings.LIFECYCLE, rules(Rule("r", True, days=1)))
        times = [1, 0]
        worker = Worker(store, clock=lambda: times[0], pace=0)
        times[0] = await put(store, bucket, b"a") + 2 * DAY * NS
        assert (await worker.round()).expired == 1
        await put(store, bucket, b"b")
        times[0] = 1
        assert (await worker.round()).expired == 1

    run_store(tmp_path, scene)


def test_a_bucket_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        other = await store.create_bucket("another", "me")
        for place in (bucket, other):
            await store.set_bucket_setting(place, settings.LIFECYCLE, rules(Rule("r", True, days=1)))
            written = await put(store, place, b"a")
        listing = store.list_objects

        async def list_objects(place: Bucket, *arguments: object) -> object:
            if place.name == "another":
                raise StoreError(Code.DAMAGED)
            return await listing(place, *arguments)  # type: ignore[arg-type]

        store.list_objects = list_objects  # type: ignore[method-assign, assignment]
        assert await round_at(store, written + 2 * DAY * NS) == Done(expired=1)

    run_store(tmp_path, scene)


def test_a_pool_that_takes_no_more_changes_ends_the_round(tmp_path: Path) -> None:
    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_bucket_setting(bucket, settings.LIFECYCLE, rules(Rule("r", True, days=1)))
        for key in (b"a", b"b"):
            written = await put(store, bucket, key)

        async def delete(*_: object, **how: object) -> object:
            raise StoreError(Code.READ_ONLY)

        store.delete_object = delete  # type: ignore[method-assign, assignment]
        assert await round_at(store, written + 2 * DAY * NS) == Done()  # and the daemon lives on
        assert await keys(store, bucket) == [b"a", b"b"]

    run_store(tmp_path, scene)


def test_rules_taken_back_delete_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "PAGE", 2)

    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_bucket_setting(bucket, settings.LIFECYCLE, rules(Rule("r", True, days=1)))
        for number in range(6):
            written = await put(store, bucket, b"%d" % number)
        listing = store.list_objects

        async def list_once(*arguments: Any) -> object:
            page = await listing(*arguments)
            await store.set_bucket_setting(bucket, settings.LIFECYCLE, None)
            return page

        store.list_objects = list_once  # type: ignore[method-assign, assignment]
        assert await round_at(store, written + 2 * DAY * NS) == Done(expired=2)

    run_store(tmp_path, scene)


def test_rules_that_cannot_be_read_delete_nothing(tmp_path: Path) -> None:
    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        other = await store.create_bucket("other", "me")
        await store.set_bucket_setting(bucket, settings.LIFECYCLE, b"\xc1 of another time")
        await store.set_bucket_setting(other, settings.LIFECYCLE, rules(Rule("r", True, days=1)))
        await put(store, bucket, b"a")
        written = await put(store, other, b"a")
        assert await round_at(store, written + 2 * DAY * NS) == Done(expired=1)
        assert await keys(store, bucket) == [b"a"]

    run_store(tmp_path, scene)


def test_rounds_come_by_the_clock() -> None:
    class Counted:
        """A store without buckets that counts who asks for them."""

        asked = 0
        releasing = staticmethod(time.time_ns)

        def buckets(self) -> list[Bucket]:
            self.asked += 1
            return []

    store = Counted()

    async def main() -> None:
        with trio.move_on_after(10.5):
            await run_lifecycle(store, day=10.0, interval=2.0)  # type: ignore[arg-type]

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert store.asked == 5
