"""Group commit: many tickets, one barrier; each gets its own answer, in the order of submission."""

from __future__ import annotations

import gc
import itertools
import random
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from appliance.catalogue import commands
from appliance.catalogue.apply import apply
from appliance.catalogue.commands import CreateBucket, DeleteObject, PutObject
from appliance.catalogue.database import Rows
from appliance.catalogue.names import DirectoryCache
from appliance.engine import commit, pacing, waited
from appliance.engine.commit import UNDISTURBED_CHANGES
from appliance.engine.pacing import LINGER_COMMANDS
from appliance.engine.ticket import Ticket
from appliance.errors import Code, StoreError
from appliance.limits import BATCH_COMMANDS_MAX, GATHER_MAX, KIB, MIB
from appliance.model import NO_ATTRIBUTES, Bucket, Deleted, Deletion, Precondition
from appliance.store import ObjectStore
from appliance.upkeep.audit import audit
from tests.appliance.engine.test_retrieve import change
from tests.appliance.engine.test_short_path import changed
from tests.appliance.upkeep.test_fold import submit_change
from tests.models.boxes import body_of, make_devices, make_pool, read_all, run_store, store_over

NOW = 1_700_000_000_000_000_000


def put(
    store: ObjectStore, bucket: Bucket, key: bytes, data: bytes, precondition: Precondition | None = None
) -> PutObject:
    """A command, not yet submitted."""
    return PutObject(
        bucket=bucket.id,
        root=bucket.root,
        copies=bucket.copies,
        key=key,
        body=store.small_body(data),
        etag="e",
        packed=b"",
        mode=0o100644,
        uid=0,
        gid=0,
        mtime_ns=NOW,
        atime_ns=NOW,
        flags=0,
        now_ns=NOW,
        label=b"",
        precondition=precondition,
    )


@pytest.mark.slow
@pytest.mark.parametrize("threaded", [False, True])
def test_many_tickets_share_batches_and_settle_in_order(tmp_path: Path, threaded: bool) -> None:
    count = 3 * BATCH_COMMANDS_MAX // 2

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        settled: list[int] = []
        before = store.engine.committer.batches
        tickets = [store.engine.submit(put(store, bucket, b"%04d" % n, b"x" * (n % 5000))) for n in range(count)]

        async def wait(number: int, ticket: Ticket) -> None:
            await ticket.wait()
            settled.append(number)

        async with trio.open_nursery() as nursery:
            for number, ticket in enumerate(tickets):
                nursery.start_soon(wait, number, ticket)
        if not threaded:
            assert store.engine.committer.batches - before == 2
        assert store.engine.committer.batches - before < count
        assert sorted(settled) == list(range(count))
        results = [ticket.result.size for ticket in tickets]
        assert results == [n % 5000 for n in range(count)]
        assert store.usage(bucket).objects == count

    run_store(tmp_path, main, threaded=threaded, copies=2)


def test_what_nobody_waits_for_lingers_until_somebody_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        engine = store.engine
        await engine.submit(put(store, bucket, b"alone", b"3"), patient=True).wait(patient=True)
        monkeypatch.setattr(pacing, "LINGER", 3600.0)  # from here on time ends nothing
        before = engine.committer.batches
        lingering = [engine.submit(put(store, bucket, b"%d" % n, b"x"), patient=True) for n in range(5)]
        with trio.move_on_after(0):
            await lingering[0].wait(patient=True)
        assert all(ticket.hurry is not None for ticket in lingering), "with the writer already"
        await lingering[-1].wait()
        assert all(ticket.settled for ticket in lingering), "overtaken"
        assert engine.committer.batches - before < 5
        first = engine.submit(put(store, bucket, b"a", b"1"), patient=True)
        await engine.submit(put(store, bucket, b"a", b"2")).wait()
        assert first.settled, "overtaken"
        assert await read_all(store, await store.look_up(bucket, b"a")) == b"2"
        many = [engine.submit(put(store, bucket, b"many", b"x"), patient=True) for n in range(LINGER_COMMANDS)]
        assert all(ticket.hurry is None for ticket in many), "enough for a batch, but lingering"

    run_store(tmp_path, main, threaded=True)


def test_the_last_of_several_writes_stands(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        bodies = [bytes([n]) * size for n, size in enumerate((10, 3000, GATHER_MAX, 5, 70_000))]
        tickets = [store.engine.submit(put(store, bucket, b"k", body)) for body in bodies]
        for ticket in tickets:
            await ticket.wait()
        assert await read_all(store, await store.look_up(bucket, b"k")) == bodies[-1]
        rows = store.engine.reader.execute("SELECT count(*) FROM page").fetchone()
        assert rows[0] == 1, "what a batch makes and drops again has no page (I4)"

    run_store(tmp_path, main)


def test_one_failing_command_fails_alone(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        only_new = Precondition(if_none_match="*")
        before = store.engine.committer.batches
        free = sum(store.engine.pool.allocator.free(device) for device in store.engine.pool.devices)
        tickets = [
            store.engine.submit(command)
            for command in (
                put(store, bucket, b"a", b"1" * 3000, only_new),
                put(store, bucket, b"a", b"2" * 3000, only_new),
                put(store, bucket, b"b", b"3" * 3000, Precondition(if_match="nothing")),
                CreateBucket(name="bucket", project="default", owner="you", copies=1, etag="md5", now_ns=NOW),
                put(store, bucket, b"c", b"4" * 3000),
                DeleteObject(bucket=bucket.id, root=bucket.root, key=b"c", now_ns=NOW, precondition=None),
                DeleteObject(bucket=bucket.id, root=bucket.root, key=b"c", now_ns=NOW, precondition=None),
            )
        ]
        answers: list[object] = []
        for ticket in tickets:
            try:
                answers.append(await ticket.wait())
            except StoreError as error:
                answers.append(error.code)
        assert store.engine.committer.batches == before + 1
        assert answers[1:4] == [Code.PRECONDITION_FAILED, Code.NO_SUCH_KEY, Code.BUCKET_EXISTS]
        assert answers[5:] == [Deleted(True), Deleted(False)]
        assert [item.key for item in (await store.list_objects(bucket)).objects] == [b"a"]
        now_free = sum(store.engine.pool.allocator.free(device) for device in store.engine.pool.devices)
        assert free - now_free == 4 * KIB

    run_store(tmp_path, main)


def test_a_command_that_meets_a_bug_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it done, in the midst of others': they are applied again without it."""

    def buggy(tx: Rows, cache: DirectoryCache, command: commands.Command) -> object:
        result = apply(tx, cache, command)
        assert not (isinstance(command, PutObject) and command.key == b"bug")
        return result

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        monkeypatch.setattr(commit, "apply", buggy)
        free = sum(store.engine.pool.allocator.free(device) for device in store.engine.pool.devices)
        keys = (b"a", b"bug", b"b", b"a/bug", b"bug")
        tickets = [store.engine.submit(put(store, bucket, key, key * 1000)) for key in keys]
        for key, ticket in zip(keys, tickets, strict=True):
            if key == b"bug":
                with pytest.raises(StoreError, match="internal error"):
                    await ticket.wait()
            else:
                await ticket.wait()
                assert await read_all(store, await store.look_up(bucket, key)) == key * 1000
        assert [item.key for item in (await store.list_objects(bucket)).objects] == [b"a", b"a/bug", b"b"]
        await store.engine.submit(put(store, bucket, b"later", b"x")).wait()
        now_free = sum(store.engine.pool.allocator.free(device) for device in store.engine.pool.devices)
        assert free - now_free == 8 * KIB  # a/bug; the others' bodies are in their rows

    run_store(tmp_path, main)


def test_a_body_that_does_not_fit_fails_alone(tmp_path: Path) -> None:
    """A full box still deletes, also in the batch of a put that finds no space."""
    devices = make_devices(1)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        allocator = store.engine.pool.allocator
        await store.engine.submit(put(store, bucket, b"old", b"x" * 3000)).wait()
        held = []
        for length in (1 << 20, 64 * KIB, 4 * KIB):
            while True:
                try:
                    held.append(allocator.reserve(1, length))
                except StoreError:
                    break
        tickets = [
            store.engine.submit(put(store, bucket, b"new", b"x" * GATHER_MAX)),
            store.engine.submit(
                DeleteObject(bucket=bucket.id, root=bucket.root, key=b"old", now_ns=NOW, precondition=None)
            ),
            store.engine.submit(put(store, bucket, b"tiny", b"x")),
        ]
        with pytest.raises(StoreError) as caught:
            await tickets[0].wait()
        assert caught.value.code is Code.NO_SPACE
        assert await tickets[1].wait() == Deleted(True)
        assert (await tickets[2].wait()).size == 1
        for offset in held:
            allocator.forfeit(1, offset)

    run_store(tmp_path, main, devices=devices)


def test_a_ring_that_is_full_is_checkpointed(tmp_path: Path) -> None:
    """The smallest ring, batches that nearly fill it, and everything is there after a restart without the host's
    file (I8)."""
    devices = make_devices(2)
    make_pool(devices, copies=2, ring=128 * KIB)
    database = tmp_path / "catalogue.db"
    rounds, width = 12, 40

    async def write() -> None:
        async with store_over(devices, database) as store:
            bucket = await store.create_bucket("bucket", "me")
            for number in range(rounds):
                tickets = [
                    store.engine.submit(put(store, bucket, b"%d/%d" % (number, n), b"x" * 1500)) for n in range(width)
                ]
                for ticket in tickets:
                    await ticket.wait()
            assert store.engine.checkpointer.taken > 1

    async def read() -> None:
        async with store_over(devices, database) as store:
            assert store.usage().objects == rounds * width
            report = await audit(store, verify=True)
            assert report.healthy, report.problems

    trio.run(write)
    database.unlink()
    trio.run(read)


def test_cancelling_a_wait_does_not_cancel_the_command(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        ticket = store.engine.submit(put(store, bucket, b"k", b"abc"))
        with trio.CancelScope() as scope:
            scope.cancel()
            await ticket.wait()
        assert scope.cancelled_caught
        await store.settle()
        assert ticket.settled
        assert (await store.look_up(bucket, b"k")).size == 3

    run_store(tmp_path, main)


def test_listeners_hear_before_the_answer(tmp_path: Path) -> None:
    """H5; the mount's own changes are neither told nor held up by it, nor is who waits for what is durable: an
    invalidation may want the lock under which the kernel waits for just that."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        heard: list[bytes] = []
        gate = trio.Event()

        def listener(changes: object) -> object:
            heard.extend(change.name for change in changes)  # type: ignore[attr-defined]
            return gate.wait() if changes else None

        store.watch(listener)  # type: ignore[arg-type]
        answered: list[str] = []

        async def s3() -> None:
            await store.put_object(bucket, b"k", store.small_body(b"abc"), "e", NO_ATTRIBUTES)
            answered.append("s3")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(s3)
            await trio.testing.wait_all_tasks_blocked()
            assert (heard, answered) == ([b"k"], [])
            await store.make_directory(bucket.root, b"d", 0o755, 0, 0, 1)
            assert (heard, answered) == ([b"k"], [])
            nursery.start_soon(s3)
            await trio.testing.wait_all_tasks_blocked()
            assert (heard, answered) == ([b"k", b"k"], [])
            with trio.fail_after(60):
                await store.settle()
                await store.create_bucket("another", "me", announce=False)
                await store.delete_bucket("another", announce=False)
            assert answered == []
            gate.set()
        assert answered == ["s3", "s3"]

    run_store(tmp_path, main)


def test_keys_of_one_batch_see_each_other(tmp_path: Path) -> None:
    """Made, filled, emptied within one batch: implied directories come and go, and the cache forgets them."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        for _ in range(3):
            tickets = []
            for one, two in itertools.product(b"abc", repeat=2):
                key = b"%c/%c/k" % (one, two)
                tickets.append(store.engine.submit(put(store, bucket, key, key)))
                tickets.append(
                    store.engine.submit(
                        DeleteObject(bucket=bucket.id, root=bucket.root, key=key, now_ns=NOW, precondition=None)
                    )
                )
                tickets.append(store.engine.submit(put(store, bucket, key + b"2", key)))
            for ticket in tickets:
                await ticket.wait()
            page = await store.list_objects(bucket)
            assert len(page.objects) == 9
            gone = await store.delete_objects(bucket, [Deletion(item.key) for item in page.objects])
            assert all(answer == Deleted(True) for answer in gone)
            assert store.entries(bucket.root, None, 10) == []

    run_store(tmp_path, main)


def test_a_command_that_changes_thousands_of_rows_is_not_applied_where_others_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four commands in the loop's thread, of which one clones a map, or frees one: the batch is the writer's."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        data = random.Random(1).randbytes(MIB)
        for key in (b"k", b"other"):
            await store.put_object(bucket, key, await body_of(store, bucket, data), "e", NO_ATTRIBUTES)
        node = await store.look_up(bucket, b"k")
        pieces = [(at * 2048, b"x" * 1024) for at in range(500)]
        for start in range(0, len(pieces), 100):
            node = await change(store, bucket, node, len(data), pieces[start : start + 100])
        await store.copy_object(node, bucket, b"copy", None)
        copy, other = await store.look_up(bucket, b"copy"), await store.look_up(bucket, b"other")
        committer, visits = store.engine.committer, list[int]()

        def counted(function: Callable[[], Any]) -> Any:
            before = committer.connection.total_changes
            try:
                return function()
            finally:
                visits.append(committer.connection.total_changes - before)

        monkeypatch.setattr(committer._undisturbed, "_visit", counted)
        few = [submit_change(store, bucket, other, at, b"few") for at in (10, 20_000, 40_000)]
        for ticket in (*few, submit_change(store, bucket, copy, 5, b"cloned")):
            await ticket.wait()
        assert visits
        assert max(visits) <= UNDISTURBED_CHANGES + 1
        assert await read_all(store, store.node(copy.id)) == changed(data, [*pieces, (5, b"cloned")])
        assert await read_all(store, store.node(node.id)) == changed(data, pieces)
        visits.clear()
        few = [submit_change(store, bucket, other, at, b"few") for at in (60_000, 80_000, 90_000)]
        for ticket in (*few, store.unlink(bucket.root, b"k", 1)):
            await ticket.wait()
        assert visits
        assert max(visits) <= UNDISTURBED_CHANGES + 1
        assert (await audit(store, verify=True)).healthy

    run_store(tmp_path, main)


def test_the_loop_waits_for_no_disk_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Removing a million files in no order after a restart finds each one's row on the disk."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        read, where = [0], list[tuple[int, str]]()
        committer = store.engine.committer
        loop = threading.current_thread()
        apply = committer._apply

        def watched(tx: Rows, tickets: Sequence[Ticket], *given: Any, **more: Any) -> None:
            where.append((len(tickets), "loop" if threading.current_thread() is loop else "writer"))
            read[0] += waited.COLD if len(where) == 2 else waited.COLD - 1
            apply(tx, tickets, *given, **more)

        monkeypatch.setattr(committer._undisturbed, "_read", lambda: read[0])
        monkeypatch.setattr(committer, "_apply", watched)
        monkeypatch.setattr(waited, "AWAY", 2)
        step = commit.UNDISTURBED_STEP
        for _ in range(3):
            tickets = [
                store.engine.submit(put(store, bucket, b"k%d" % at, b"x"), patient=True) for at in range(3 * step)
            ]
            for ticket in tickets:
                await ticket.wait()
        assert where == [(step, each) for each in ["loop"] * 2 + ["writer"] * 4 + ["loop"] * 3]

    run_store(tmp_path, main, threaded=True)


def test_a_batch_leaves_nothing_to_the_garbage_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would walk ten row images a command for nothing, and the bodies would stay in memory till then."""
    made: list[weakref.ref[Rows]] = []

    class Watched(Rows):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(weakref.ref(self))

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        monkeypatch.setattr(commit, "Rows", Watched)
        gc.disable()
        try:
            for number in range(3):
                await store.engine.submit(put(store, bucket, b"k%d" % number, b"x" * 4 * KIB)).wait()
            await trio.testing.wait_all_tasks_blocked()
            assert made
            assert not [rows for rows in made if rows() is not None]
        finally:
            gc.enable()

    run_store(tmp_path, main)
