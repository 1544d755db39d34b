"""Durable before it is to be seen: batches that run ahead of the index."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from appliance.catalogue.database import applied_seq
from appliance.engine import engine as engine_room
from appliance.engine.plan import LongPlan
from appliance.engine.ticket import Ticket
from appliance.errors import Code, StoreError
from appliance.model import Bucket, NewSlice
from appliance.quota import Quota
from appliance.store import ObjectStore
from appliance.upkeep.audit import audit
from tests.appliance.engine.test_retrieve import NOW, forget
from tests.appliance.engine.test_short_path import DATA, changed, put
from tests.crash import mutations
from tests.models.boxes import body_of, make_devices, of_root, read_all, run_store

PIECES = [(4096 * at, bytes([at]) * 1000) for at in (1, 7, 30)]


@pytest.fixture(autouse=True)
def nobody_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is put into the index only because time passes."""
    monkeypatch.setattr(engine_room, "AHEAD_IDLE", 60.0)


async def write(store: ObjectStore, node: int, piece: tuple[int, bytes], size: int = len(DATA)) -> Ticket:
    """What the mount submits for fsync(2)."""
    bucket = store.bucket("bucket")
    chunk = await store.stage(bucket, [piece[1]])
    return store.submit_file(
        bucket,
        node=node,
        create=None,
        **of_root(NOW),
        size=size,
        chunks=[chunk],
        slices=[NewSlice(piece[0], len(piece[1]), chunk.id)],
        late=True,
    )


def behind(store: ObjectStore) -> int:
    """Batches that the reader's catalogue lacks."""
    return store.engine.ring.seq - applied_seq(store.engine.reader)


async def synced(store: ObjectStore, node: int, pieces: Sequence[tuple[int, bytes]]) -> list[Ticket]:
    """One after the other."""
    tickets = []
    for piece in pieces:
        tickets.append(await write(store, node, piece))
        assert await tickets[-1].stands()
    return tickets


def test_what_stands_is_shown_to_whoever_asks(tmp_path: Path) -> None:
    """H2: readers of the catalogue see the state before, S3 waits for the one after, all in one COMMIT."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)
        statements: list[str] = []
        store.engine.committer.connection.set_trace_callback(statements.append)
        tickets = await synced(store, node.id, PIECES)
        assert behind(store) == 3
        assert await read_all(store, store.node(node.id)) == DATA, "the state before"
        assert not any(ticket.settled for ticket in tickets)
        assert await read_all(store, await store.look_up(bucket, b"k")) == changed(DATA, PIECES)
        assert all(ticket.settled for ticket in tickets)
        assert (behind(store), statements.count("COMMIT")) == (0, 1)
        assert (await audit(store)).healthy

    run_store(tmp_path, main, threaded=True)


def test_who_waits_in_no_task_is_answered_by_the_writer(tmp_path: Path) -> None:
    """H1: before the loop hears of it, and before any door shows it; of what fails the loop alone hears."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)
        said: list[tuple[str, object]] = []

        async def submit(node: int) -> Ticket:
            chunk = await store.stage(bucket, [b"x" * 1000])
            return store.submit_file(
                bucket,
                node=node,
                create=None,
                **of_root(NOW),
                size=len(DATA),
                chunks=[chunk],
                slices=[NewSlice(4096, 1000, chunk.id)],
                late=True,
            )

        def call(ticket: Ticket) -> Ticket:
            ticket.call(
                lambda: said.append(("replied by", threading.current_thread().name)),
                lambda replied: said.append(("told", replied)),
            )
            return ticket

        def released(asked: threading.Event) -> None:
            assert asked.wait(60)

        async def called(node: int) -> Ticket:
            """Before the writer comes to it."""
            asked = threading.Event()
            store.engine._queue.put(engine_room._Job(partial(released, asked)))
            ticket = call(await submit(node))
            asked.set()
            return ticket

        ticket = await called(node.id)
        assert await ticket.stands()
        assert said == [("replied by", "writer"), ("told", True)]
        assert behind(store) == 1
        await ticket.wait()
        assert len(said) == 2, "once"
        said.clear()
        ticket = await called(node.id)
        ticket.hurry = lambda: setattr(ticket, "durable", True)  # the writer has just found that nobody waits
        assert await ticket.stands()
        assert (len(said), said[-1]) == (2, ("told", True)), "by who waits, if not by the writer"
        await ticket.wait()
        assert len(said) == 2, "once"
        said.clear()
        ticket = await submit(node.id)
        assert await ticket.stands()
        call(ticket)
        assert said == [("replied by", "MainThread")], "who comes late is answered at once"
        await ticket.wait()
        assert said[1:] == [("told", True)]
        said.clear()
        for wait in (called, submit):
            with pytest.raises(StoreError):
                ticket = await wait(10**9)
                await ticket.wait()
            if wait is submit:
                call(ticket)
            assert said == [("told", False)], "what fails is answered by whoever is told"
            said.clear()

    run_store(tmp_path, main, threaded=True)


def test_what_may_not_be_late_shows_what_is_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)
        tickets = await synced(store, node.id, PIECES)
        await store.make_directory(bucket.root, b"d", 0o755, 0, 0, NOW)
        assert all(ticket.settled for ticket in tickets)
        for number in range(engine_room.AHEAD_MAX + 1):
            await (await write(store, node.id, (0, b"%d" % number))).stands()
        assert behind(store) <= engine_room.AHEAD_MAX, "it is bounded"
        await store.settle()
        assert behind(store) == 0
        await store.engine.pass_writer()  # which was asked to show them, perhaps once more than it had to
        monkeypatch.setattr(engine_room, "AHEAD_BYTES", 3 * len(PIECES[0][1]))
        await synced(store, node.id, PIECES[:2])
        assert behind(store) == 2, "little enough"
        await (await write(store, node.id, PIECES[2])).stands()  # or is settled, if the COMMIT is over by then
        await store.engine.pass_writer()
        assert behind(store) == 0, "memory need not hold more"

    run_store(tmp_path, main, threaded=True)


def test_a_batch_that_fails_leaves_what_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9, I10: SQLite's ROLLBACK takes it along, and it comes back from its images."""
    devices = make_devices(2)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)
        await store.set_quota(bucket, Quota(10**9))
        committer = store.engine.committer
        barrier = committer._barrier
        end = len(DATA), b"longer"
        first = await synced(store, node.id, PIECES[:2])
        first.append(await write(store, node.id, end, size=end[0] + len(end[1])))
        assert await first[-1].stands()

        left = 2  # what was answered is tried once more

        def fail(*arguments: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                monkeypatch.setattr(committer, "_barrier", barrier)
            raise StoreError(Code.UNAVAILABLE, "a device failed")

        monkeypatch.setattr(committer, "_barrier", fail)
        ticket = await write(store, node.id, PIECES[2], size=end[0] + 100_000)
        assert not await ticket.stands()
        with pytest.raises(StoreError, match="a device failed"):
            await ticket.wait()
        assert all(ticket.settled and ticket.error is None for ticket in first)
        assert await read_all(store, store.node(node.id)) == changed(DATA, [*PIECES[:2], end])
        usage, counted = store.usage(bucket), store.engine.ledger.room(bucket.id)
        assert counted is not None
        assert (usage.bytes, *counted[1:]) == (len(DATA) + len(end[1]), 1, len(DATA) + len(end[1]))
        await synced(store, node.id, PIECES[2:])
        assert await read_all(store, await store.look_up(bucket, b"k")) == changed(DATA, PIECES)
        assert (await audit(store)).healthy

    run_store(tmp_path, main, devices=devices, threaded=True)


class Broken:
    """A connection whose COMMIT fails."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        if sql == "COMMIT":
            raise sqlite3.OperationalError("the host's disk is gone")
        return self._connection.execute(sql, parameters)


def test_what_stands_survives_an_index_that_cannot_be_written(tmp_path: Path) -> None:
    """I10: it was acknowledged by its record, so the writer stops, and a restart has it."""
    devices = make_devices(2)

    async def write_and_stop(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)
        tickets = await synced(store, node.id, PIECES)
        broken: Any = Broken(store.engine.committer.connection)
        store.engine.committer.connection = broken
        await store.settle()
        for ticket in tickets:
            with pytest.raises(StoreError) as raised:
                await ticket.wait()
            assert raised.value.code is Code.READ_ONLY
        assert await read_all(store, store.node(node.id)) == DATA, "nothing is remembered that the catalogue lacks"
        for ask in (partial(store.look_up, bucket, b"k"), partial(store.list_objects, bucket)) * 2:
            with pytest.raises(StoreError) as raised:  # H2: S3 does not show what was before
                await ask()
            assert raised.value.code is Code.UNAVAILABLE
        with pytest.raises(StoreError):
            await store.make_directory(bucket.root, b"d", 0o755, 0, 0, NOW)

    async def read(store: ObjectStore, bucket: Bucket) -> None:
        assert await read_all(store, await store.look_up(bucket, b"k")) == changed(DATA, PIECES)
        assert (await audit(store)).healthy

    run_store(tmp_path, write_and_stop, devices=devices, threaded=True)
    run_store(tmp_path, read, devices=devices, pooled=True)


@pytest.mark.parametrize("threaded", [True, False])
@pytest.mark.parametrize("where", ["commit", "release"])
def test_a_bug_behind_the_record_stops_the_writer_and_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, threaded: bool
) -> None:
    """I10: memory and catalogue may disagree.  Nor does the next long reader wait for a batch that never ends."""
    devices = make_devices(2)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)

        def broken(*extents: object) -> None:
            raise AssertionError("a bug")

        with monkeypatch.context() as patch:
            patch.setattr(store.engine.pool.allocator, where, broken)
            ticket = await write(store, node.id, (0, bytes(len(DATA))))
            await ticket.stands()
            with suppress(StoreError):  # the catalogue may have it already
                await ticket.wait()
            with pytest.raises(StoreError, match="writes have stopped") as raised:
                await store.make_directory(bucket.root, b"d", 0o755, 0, 0, NOW)
            assert raised.value.code is Code.READ_ONLY
        assert not store.engine.retrieval.long.batch.locked()

    async def read(store: ObjectStore, bucket: Bucket) -> None:
        assert await read_all(store, await store.look_up(bucket, b"k")) == bytes(len(DATA))
        assert (await audit(store)).healthy

    run_store(tmp_path, main, devices=devices, threaded=threaded)
    run_store(tmp_path, read, devices=devices, pooled=True)


def test_what_it_frees_waits_for_readers_of_what_is_shown(tmp_path: Path) -> None:
    """I5, I11: a reader that comes between the record and the COMMIT sees the old pages."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)

        def free() -> int:
            return sum(store.engine.pool.allocator.free(device) for device in store.engine.pool.devices)

        await synced(store, node.id, [(0, bytes(len(DATA)))])  # all of it: the old chunk goes
        between = free()
        store.engine.retrieval.cache.clear()
        with store.reader(store.node(node.id)) as reader:
            await store.settle()
            assert free() == between, "somebody still reads it"
            assert reader.read_now() == DATA
        assert free() > between
        assert await read_all(store, store.node(node.id)) == bytes(len(DATA))

    run_store(tmp_path, main, threaded=True)


def test_a_long_reader_begins_with_what_stands(tmp_path: Path) -> None:
    """I11: it could not keep what a batch before it has changed already."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)
        await synced(store, node.id, PIECES)
        long = store.engine.retrieval.long
        plan = LongPlan(node.id, 0, len(DATA))
        with pytest.raises(StoreError) as raised:
            await store.engine.lanes.call(long.begin, plan, node.generation)
        assert raised.value.code is Code.NO_SUCH_NODE
        assert behind(store) == 0
        await store.engine.lanes.call(long.begin, plan, node.generation + 3)
        long.end(plan)

    run_store(tmp_path, main, threaded=True)


def forget_free_lists(store: ObjectStore) -> None:
    """As if other regions had taken their room: the next reservation looks at what is claimed."""
    for device in store.engine.pool.allocator._devices.values():
        device.free_map._lists.clear()
        device.free_map._active[:] = [-1] * len(device.free_map._active)


def test_pages_of_what_stands_are_not_free(tmp_path: Path) -> None:
    """I6, I7: a free list that is built between the record and the COMMIT does not find their rows."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)
        await synced(store, node.id, [(0, b"a" * 200_000), (0, b"b" * 40_000)])
        assert behind(store) == 2
        forget_free_lists(store)
        await body_of(store, bucket, DATA)
        await synced(store, node.id, [(0, b"c" * 200_000)])  # frees what is ahead of the index, too
        forget_free_lists(store)
        await body_of(store, bucket, DATA)
        assert behind(store) == 3
        forget(store)
        wanted = changed(DATA, [(0, b"c" * 200_000)])
        assert await read_all(store, await store.look_up(bucket, b"k")) == wanted
        assert (await audit(store)).healthy

    run_store(tmp_path, main, threaded=True)


def test_a_body_is_received_that_fits_in_the_place_of_what_stands(tmp_path: Path) -> None:
    """H2: the quota counts what is not in the catalogue yet; so does what the body will replace."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket, DATA[:10_000])
        await store.set_quota(bucket, Quota(400_000))
        ticket = await write(store, node.id, (0, bytes(len(DATA))))
        store.leave(bucket.id, ticket)
        assert await ticket.stands()
        assert behind(store) == 1
        (await store.ingest(bucket, 350_000, b"k")).close()
        with pytest.raises(StoreError) as raised:
            await store.ingest(bucket, 350_000, b"another")
        assert raised.value.code is Code.QUOTA_EXCEEDED

    run_store(tmp_path, main, threaded=True)


def _a_batch_fails(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        test_a_batch_that_fails_leaves_what_stands(tmp_path, patch)


@pytest.mark.parametrize(
    ("fault", "scene"),
    [
        (mutations.ahead_forgotten, _a_batch_fails),
        (mutations.ahead_is_pinned, test_what_it_frees_waits_for_readers_of_what_is_shown),
    ],
    ids=["ahead_forgotten", "ahead_is_pinned"],
)
def test_a_broken_variant_is_noticed(
    tmp_path: Path, fault: Callable[[], AbstractContextManager[None]], scene: Callable[[Path], None]
) -> None:
    """In the scene that was made for it: in the simulation two batches ahead and the failure of the second, or a reader
    between record and COMMIT, meet too seldom."""
    (tmp_path / "broken").mkdir()
    with fault(), pytest.raises((AssertionError, StoreError, ExceptionGroup)):
        scene(tmp_path / "broken")
    (tmp_path / "sound").mkdir()
    scene(tmp_path / "sound")


def test_sqlite_that_fails_behind_the_answer_loses_nothing(tmp_path: Path) -> None:
    """I9: what stands comes back from its images; what follows finds it."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)
        committer: Any = store.engine.committer
        actual = committer.connection
        tickets = await synced(store, node.id, PIECES[:1])

        class Failing:
            """Of the connection: the next change of a slice."""

            def __getattr__(self, name: str) -> Any:
                return getattr(actual, name)

            def execute(self, sql: str, *rest: Any) -> Any:
                if "INTO slice" in sql:
                    committer.connection = actual
                    raise sqlite3.OperationalError("database or disk is full")
                return actual.execute(sql, *rest)

        committer.connection = Failing()
        tickets.append(await write(store, node.id, PIECES[1]))
        await tickets[-1].wait()
        assert (committer.connection, behind(store)) == (actual, 0)
        tickets += await synced(store, node.id, PIECES[2:])
        assert await read_all(store, await store.look_up(bucket, b"k")) == changed(DATA, PIECES)
        for ticket in tickets:
            await ticket.wait()
        assert not store.engine.retrieval.long.batch.locked()
        assert (await audit(store)).healthy

    run_store(tmp_path, main, threaded=True)


def test_sqlite_that_stays_broken_behind_the_answer_leaves_nobody_waiting(tmp_path: Path) -> None:
    """I10: what stands cannot be put into the catalogue either.  The next long reader does not wait for that batch."""
    devices = make_devices(2)

    async def write_and_stop(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)
        committer: Any = store.engine.committer
        actual = committer.connection

        class Full:
            """Of the connection: no row can be changed."""

            def __getattr__(self, name: str) -> Any:
                return getattr(actual, name)

            def execute(self, sql: str, *rest: Any) -> Any:
                if "INTO" in sql:
                    raise sqlite3.OperationalError("database or disk is full")
                return actual.execute(sql, *rest)

        follow = committer.follow

        def fail() -> None:
            committer.connection = Full()
            follow()

        committer.follow = fail
        ticket = await write(store, node.id, PIECES[0])
        assert await ticket.stands()
        with pytest.raises(StoreError) as raised:
            await ticket.wait()
        assert raised.value.code is Code.READ_ONLY
        committer.connection = actual
        assert not store.engine.retrieval.long.batch.locked()

    async def read(store: ObjectStore, bucket: Bucket) -> None:
        assert await read_all(store, await store.look_up(bucket, b"k")) == changed(DATA, PIECES[:1])
        assert (await audit(store)).healthy

    run_store(tmp_path, write_and_stop, devices=devices, threaded=True)
    run_store(tmp_path, read, devices=devices, pooled=True)
