"""Quotas: what both doors add is counted exactly, promises included; whoever takes away is never stopped."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance import settings
from appliance.catalogue import commands, database
from appliance.engine.ticket import Ticket
from appliance.errors import Code, StoreError
from appliance.model import NO_ATTRIBUTES, Bucket, NewChunk, NewSlice
from appliance.quota import Quota, bytes_of, document, parse
from appliance.store import ObjectStore
from tests.appliance.catalogue.batches import Catalogue
from tests.appliance.engine.test_group_commit import NOW, put
from tests.models.boxes import body_of, make_devices, make_pool, of_root, run_store, store_over
from tests.rows import rows

MIB5 = 5 << 20


async def outcome(ticket: Ticket) -> Code | None:
    """None: it was done."""
    try:
        await ticket.wait()
    except StoreError as error:
        return error.code
    return None


def delete(bucket: Bucket, key: bytes) -> commands.DeleteObject:
    return commands.DeleteObject(bucket=bucket.id, root=bucket.root, key=key, now_ns=NOW, precondition=None)


async def s3_put(store: ObjectStore, bucket: Bucket, key: bytes, size: int) -> None:
    await store.put_object(bucket, key, await body_of(store, bucket, b"x" * size), "e", NO_ATTRIBUTES)


def write(store: ObjectStore, bucket: Bucket, name: bytes, size: int, promised: tuple[int, int] = (0, 0)) -> Ticket:
    """A new file of the mount."""
    chunk = NewChunk(store.engine.new_id(), size, b"m" * size)
    return store.submit_file(
        bucket,
        node=store.new_node_id(),
        create=(bucket.root, name),
        **of_root(NOW),
        size=size,
        chunks=[chunk],
        slices=[NewSlice(0, size, chunk.id)],
        promised=promised,
    )


@rows(
    "text, size",
    [
        ("0", 0),
        ("17", 17),
        ("10GiB", 10 << 30),
        ("10 gib", 10 << 30),
        ("10g", 10**10),
        ("1.5 MiB", 3 << 19),
        ("2T", 2 * 10**12),
        *((text, None) for text in ("", "GiB", "-1", "1 e", "1.2.3", "ten", "5i")),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int | None) -> None:
    if size is not None:
        assert bytes_of(text) == size
        return
    with pytest.raises(StoreError) as caught:
        bytes_of(text)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_quota_is_read_as_it_was_written() -> None:
    for quota in (Quota(1, 2), Quota(None, 0), Quota(0)):
        assert parse(document(quota)) == quota
    for quota in (Quota(), Quota(-1), Quota(1, 1 << 63)):
        with pytest.raises(StoreError):
            document(quota)
    with pytest.raises(StoreError) as caught:
        parse(b"{")
    assert caught.value.code is Code.DAMAGED


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_is_admitted_as_if_its_commands_came_one_by_one(tmp_path: Path, seed: int) -> None:
    """Puts, overwrites and deletions of few keys at once, near both limits, against a dictionary."""
    chance = random.Random(seed)
    limit = Quota(20_000, 6)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_quota(bucket, limit)
        model: dict[bytes, int] = {}
        for _ in range(12):
            tickets: list[Ticket] = []
            expected: list[Code | None] = []
            for _ in range(chance.randrange(1, 40)):
                key = b"d%d/k%d" % (chance.randrange(2), chance.randrange(8))
                if chance.random() < 0.3:
                    tickets.append(store.engine.submit(delete(bucket, key)))
                    expected.append(None)
                    model.pop(key, None)
                    continue
                size = chance.choice((0, 10, 2000, 3000, 9000))
                tickets.append(store.engine.submit(put(store, bucket, key, b"x" * size)))
                after = model | {key: size}
                more, bytes_more = len(after) - len(model), size - model.get(key, 0)
                over = (more > 0 and len(after) > 6) or (bytes_more > 0 and sum(after.values()) > 20_000)
                expected.append(Code.QUOTA_EXCEEDED if over else None)
                model = model if over else after
            assert [await outcome(ticket) for ticket in tickets] == expected
            usage = store.usage(bucket)
            assert (usage.objects, usage.bytes) == (len(model), sum(model.values()))
            assert store.quota(bucket.id) == (limit, usage.objects, usage.bytes)
        page = await store.list_objects(bucket)
        assert {item.key: item.size for item in page.objects} == model

    run_store(tmp_path, main)


def test_who_is_refused_leaves_nothing_and_the_rest_of_its_batch_stands(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_quota(bucket, Quota(10_000))
        other = await store.create_bucket("other", "me")
        tickets = [
            store.engine.submit(command)
            for command in (
                put(store, bucket, b"a", b"1" * 4000),
                put(store, bucket, b"new/directory/b", b"2" * 7000),  # with directories of its own
                put(store, other, b"c", b"3" * 7000),
                put(store, bucket, b"d", b"4" * 6000),
            )
        ]
        assert [await outcome(ticket) for ticket in tickets] == [None, Code.QUOTA_EXCEEDED, None, None]
        assert store.entry(bucket.root, b"new", True) is None
        await s3_put(store, bucket, b"a", 3000)  # less than was there
        with pytest.raises(StoreError):
            await s3_put(store, bucket, b"a", 4001)
        await s3_put(store, bucket, b"a", 4000)
        assert store.usage(bucket).bytes == 10_000

    run_store(tmp_path, main)


def test_all_that_a_batch_gathers_is_undone_or_stays() -> None:
    """Whoever gives `Rows` something new to remember says here what becomes of it when a command is undone."""
    catalogue = Catalogue()
    tx = catalogue.batch()
    undone = {*database._MAPPINGS, *database._GROWING, *database._NUMBERS, "usage"}
    stays = {"_execute", "_take_id", "connection", "held", "_keep", "top_id", "buckets", "charged", "bound"}
    none = {"_postponed", "due"}  # where a command may have to be undone nothing is postponed
    assert vars(tx).keys() == undone | stays | none


def test_over_quota_deletions_and_smaller_bodies_pass(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        for key in (b"a", b"b", b"c"):
            await s3_put(store, bucket, key, 3000)
        await store.set_quota(bucket, Quota(1000, 1))
        with pytest.raises(StoreError):
            await s3_put(store, bucket, b"a", 3001)
        await s3_put(store, bucket, b"a", 3000)
        await s3_put(store, bucket, b"a", 1)
        await store.delete_object(bucket, b"b")
        with pytest.raises(StoreError):
            await s3_put(store, bucket, b"d", 0)
        await store.set_quota(bucket, None)
        await s3_put(store, bucket, b"d", 100_000)
        assert store.quota(bucket.id) is None

    run_store(tmp_path, main)


def test_parts_of_unfinished_uploads_count(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_quota(bucket, Quota(12 << 20, 1))
        upload = await store.create_upload(bucket, b"k", NO_ATTRIBUTES, "me")
        for number in (1, 2):
            await store.put_part(upload, number, await body_of(store, bucket, b"p" * MIB5), f"e{number}")
        body = await body_of(store, bucket, b"p" * MIB5)
        with pytest.raises(StoreError) as caught:
            await store.put_part(upload, 3, body, "e3")
        assert caught.value.code is Code.QUOTA_EXCEEDED
        await store.put_part(upload, 2, await body_of(store, bucket, b"q" * MIB5), "e2")  # in the place of another
        assert store.usage(bucket).parts == 2 * MIB5
        with pytest.raises(StoreError):
            await s3_put(store, bucket, b"other", 3 << 20)
        await store.complete_upload(upload, [(1, "e1"), (2, "e2")], "e-2", NO_ATTRIBUTES)
        usage = store.usage(bucket)
        assert (usage.objects, usage.bytes, usage.parts) == (1, 2 * MIB5, 0)
        second = await store.create_upload(bucket, b"k", NO_ATTRIBUTES, "me")
        await store.put_part(second, 1, await body_of(store, bucket, b"r" * 1000), "e")
        await store.abort_upload(second)
        assert store.usage(bucket).parts == 0

    run_store(tmp_path, main)


def test_versions_count_and_a_delete_marker_is_never_refused(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_bucket_setting(bucket, settings.VERSIONING, settings.ENABLED)
        await store.set_quota(bucket, Quota(10_000, 2))
        await s3_put(store, bucket, b"a", 4000)
        await s3_put(store, bucket, b"a", 4000)
        with pytest.raises(StoreError):
            await s3_put(store, bucket, b"a", 100)
        gone = await store.delete_object(bucket, b"a")
        assert gone.marker
        assert store.usage(bucket).objects == 3
        assert store.quota(bucket.id) == (Quota(10_000, 2), 3, 8000)

    run_store(tmp_path, main)


def test_copies_and_links_count(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        await s3_put(store, bucket, b"a", 4000)
        await store.set_quota(bucket, Quota(9000, 3))
        node = await store.look_up(bucket, b"a")
        await store.copy_object(node, bucket, b"b", None)
        with pytest.raises(StoreError):
            await store.copy_object(node, bucket, b"c", None)
        with pytest.raises(StoreError) as caught:
            await store.make_link(node.id, bucket.root, b"c", NOW)
        assert caught.value.code is Code.QUOTA_EXCEEDED
        await store.set_quota(bucket, Quota(12_000, 3))
        await store.make_link(node.id, bucket.root, b"c", NOW)
        usage = store.usage(bucket)
        assert (usage.objects, usage.bytes) == (3, 12_000)

    run_store(tmp_path, main)


def test_what_was_promised_is_not_given_twice(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_quota(bucket, Quota(10_000, 2))
        store.reserve(bucket.id, 1, 6000)
        with pytest.raises(StoreError):
            store.reserve(bucket.id, 0, 4001)
        with pytest.raises(StoreError):
            await s3_put(store, bucket, b"a", 4001)
        await s3_put(store, bucket, b"a", 4000)
        assert await outcome(write(store, bucket, b"m", 6000)) is Code.QUOTA_EXCEEDED  # a promise that it does not name
        assert await outcome(write(store, bucket, b"m", 6000, (1, 6000))) is None
        assert store.quota(bucket.id) == (Quota(10_000, 2), 2, 10_000)
        with pytest.raises(StoreError):
            store.reserve(bucket.id, 0, 1)
        await store.delete_object(bucket, b"a")
        store.reserve(bucket.id, 1, 4000)
        await store.set_quota(bucket, Quota(7000))  # what was accepted before is kept
        assert await outcome(write(store, bucket, b"n", 4000, (1, 4000))) is None
        assert store.usage(bucket).bytes == 10_000

    run_store(tmp_path, main)


def test_a_failed_commit_leaves_its_promise_to_its_owner(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        quota = Quota(10_000, 5)
        await store.set_quota(bucket, quota)
        store.reserve(bucket.id, 1, 5000)
        chunk = NewChunk(store.engine.new_id(), 5000, b"m" * 5000)
        lost = store.submit_file(
            bucket, node=store.new_node_id(), create=None, mode=0o100644, uid=0, gid=0, atime_ns=NOW, mtime_ns=NOW,
            now_ns=NOW, size=5000, chunks=[chunk], slices=[NewSlice(0, 5000, chunk.id)], promised=(1, 5000),
        )  # fmt: skip
        over = store.engine.submit(put(store, bucket, b"k", b"x" * 5001))
        assert await outcome(lost) is Code.NO_SUCH_NODE
        assert await outcome(over) is Code.QUOTA_EXCEEDED
        assert store.quota(bucket.id) == (quota, 1, 5000)
        store.unreserve(bucket.id, 1, 5000)
        assert store.quota(bucket.id) == (quota, 0, 0)

    run_store(tmp_path, main)


def test_both_doors_at_once_fill_a_bucket_to_the_byte(tmp_path: Path) -> None:
    """Some write as S3 does, some as the mount, with the writer in its own thread; what was accepted is there."""
    quota = Quota(50_000, 1000)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_quota(bucket, quota)
        accepted: list[int] = []

        async def by_s3(number: int) -> None:
            for turn in range(20):
                key = b"s%d-%d" % (number, turn)
                if await outcome(store.engine.submit(put(store, bucket, key, b"x" * 500))) is None:
                    accepted.append(500)

        async def by_mount(number: int) -> None:
            for turn in range(20):
                try:
                    store.reserve(bucket.id, 1, 700)
                except StoreError:
                    await trio.lowlevel.checkpoint()
                    continue
                await write(store, bucket, b"m%d-%d" % (number, turn), 700, (1, 700)).wait()
                accepted.append(700)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(by_s3, number)
                nursery.start_soon(by_mount, number)
        found = store.quota(bucket.id)
        assert found is not None
        left = 50_000 - found[2]
        await s3_put(store, bucket, b"rest", left)
        accepted.append(left)
        with pytest.raises(StoreError):
            await s3_put(store, bucket, b"more", 1)
        usage = store.usage(bucket)
        assert usage.bytes == sum(accepted) == 50_000
        assert left < 700

    run_store(tmp_path, main, threaded=True)


def test_a_large_body_that_cannot_fit_is_not_begun(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        await s3_put(store, bucket, b"d/a", 400_000)
        upload = await store.create_upload(bucket, b"d/u", NO_ATTRIBUTES, "me")
        await store.put_part(upload, 1, await body_of(store, bucket, b"p" * 300_000), "e")
        await store.set_quota(bucket, Quota(1_000_000))
        for key, fits in ((b"d/a", 700_000), (b"d/u", 600_000), (b"d/b", 300_000), (b"c", 300_000)):
            (await store.ingest(bucket, fits, key)).close()
            with pytest.raises(StoreError) as caught:
                await store.ingest(bucket, fits + 1, key)
            assert caught.value.code is Code.QUOTA_EXCEEDED

    run_store(tmp_path, main)


def test_a_quota_outlives_a_restart(tmp_path: Path) -> None:
    devices = make_devices()
    make_pool(devices)
    quota = Quota(5000, None)

    async def first() -> None:
        async with store_over(devices, tmp_path / "catalogue.db") as store:
            bucket = await store.create_bucket("bucket", "me")
            await store.set_quota(bucket, quota)
            await s3_put(store, bucket, b"a", 3000)
            upload = await store.create_upload(bucket, b"k", NO_ATTRIBUTES, "me")
            await store.put_part(upload, 1, await body_of(store, bucket, b"p" * 1000), "e")

    async def again() -> None:
        async with store_over(devices, tmp_path / "catalogue.db") as store:
            bucket = store.bucket("bucket")
            assert store.quota(bucket.id) == (quota, 1, 4000)
            with pytest.raises(StoreError):
                await s3_put(store, bucket, b"b", 1001)
            await s3_put(store, bucket, b"b", 1000)
            for key in (b"a", b"b"):
                await store.delete_object(bucket, key)
            await store.delete_bucket("bucket")
            made = await store.create_bucket("bucket", "me")
            assert store.quota(made.id) is None

    trio.run(first)
    trio.run(again)


def test_what_fits_whatever_it_replaces_looks_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or each of an upload's ten thousand parts would add up all of them, on the loop."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_quota(bucket, Quota(size=MIB5))
        asked: list[str] = []
        one = store.one

        def counted(sql: str, parameters: tuple[Any, ...] = ()) -> Any:
            asked.append(sql)
            return one(sql, parameters)

        monkeypatch.setattr(store, "one", counted)
        (await store.ingest(bucket, MIB5, b"key")).close()
        assert not asked
        with pytest.raises(StoreError) as caught:
            await store.ingest(bucket, MIB5 + 1, b"key")
        assert caught.value.code is Code.QUOTA_EXCEEDED
        assert asked

    run_store(tmp_path, main)
