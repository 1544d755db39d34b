"""Reads too long to be planned at once: they begin at once, hold little, and see one state to the end (I11, H4)."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import trio

from appliance.engine import plan, retrieve
from appliance.errors import Code, StoreError
from appliance.limits import CHUNK_SIZE, KIB, OBJECT_SIZE_MAX
from appliance.model import NO_ATTRIBUTES, BodyKind, Bucket, NewSlice, Node
from appliance.store import ObjectStore
from appliance.upkeep.audit import audit
from tests.models.boxes import make_devices, make_pool, of_root, run_store, store_over

PIECE = 64 * KIB
PIECES = 24
WINDOW = 256 * KIB


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows of four pieces."""
    for module in (plan, retrieve):
        monkeypatch.setattr(module, "PLAN_WINDOW", WINDOW)


async def write(
    store: ObjectStore, bucket: Bucket, node: int, name: bytes | None, data: bytes, at: int, size: int, cut: int | None
) -> None:
    """What a mounted file's writer has: `data` at `at`, by pieces."""
    chunks = [await store.stage(bucket, [data[low : low + PIECE]]) for low in range(0, len(data), PIECE)]
    slices = [NewSlice(at + low * PIECE, chunk.length, chunk.id) for low, chunk in enumerate(chunks)]
    ticket = store.submit_file(
        bucket,
        node=node,
        create=None if name is None else (bucket.root, name),
        **of_root(1),
        size=size,
        cut=cut,
        chunks=chunks,
        slices=slices,
    )
    await ticket.wait()


async def make(store: ObjectStore, bucket: Bucket) -> tuple[Node, bytes]:
    """A file of many slices."""
    data = random.Random(1).randbytes(PIECE * PIECES)
    await write(store, bucket, store.engine.new_id(), b"file", data, 0, len(data), None)
    return await store.look_up(bucket, b"file"), data


def taken(pieces: Iterator[memoryview], length: int) -> bytes:
    """The next bytes."""
    found = b""
    while len(found) < length:
        found += bytes(next(pieces))
    return found


async def gone(store: ObjectStore) -> None:
    """Nothing is read or left to free."""
    await store.engine.settle()
    while store.engine.reaping:
        await store.engine.settle()
    assert not store.engine.held_nodes()


type_change = Callable[[ObjectStore, Bucket, Node], Awaitable[None]]


async def overwritten(store: ObjectStore, bucket: Bucket, node: Node) -> None:
    await store.put_object(bucket, b"file", store.small_body(b"other"), "e", NO_ATTRIBUTES)


async def deleted(store: ObjectStore, bucket: Bucket, node: Node) -> None:
    await store.delete_object(bucket, b"file")


async def patched(store: ObjectStore, bucket: Bucket, node: Node) -> None:
    await write(store, bucket, node.id, None, b"x" * 100_000, 10 * PIECE + 5, node.size, None)


async def truncated(store: ObjectStore, bucket: Bucket, node: Node) -> None:
    await write(store, bucket, node.id, None, b"", 0, 8 * PIECE + 3, 8 * PIECE + 3)


async def rewritten(store: ObjectStore, bucket: Bucket, node: Node) -> None:
    """O_TRUNC, and other bytes."""
    await write(store, bucket, node.id, None, b"", 0, 0, 0)
    await write(store, bucket, node.id, None, b"y" * 3 * PIECE, 0, 3 * PIECE, None)


async def copied_and_patched(store: ObjectStore, bucket: Bucket, node: Node) -> None:
    """The map is shared: the writer gets one of its own."""
    await store.copy_object(node, bucket, b"copy", None)
    await patched(store, bucket, node)


@pytest.mark.slow
@pytest.mark.parametrize("change", [overwritten, deleted, patched, truncated, rewritten, copied_and_patched])
@pytest.mark.parametrize("threaded", [False, True])
def test_a_long_read_sees_what_it_began_with(
    tmp_path: Path, small_windows: None, change: type_change, threaded: bool
) -> None:
    async def work(store: ObjectStore, bucket: Bucket) -> None:
        node, data = await make(store, bucket)
        with store.reader(node, 7) as reader:
            await reader.begin()
            assert store.engine.held_nodes() == {node.id}
            pieces = reader.pieces()
            found = await store.engine.lanes.call(taken, pieces, 3 * PIECE)
            await change(store, bucket, node)
            # pages that are freed are written again at once, if anything lets them
            for number in range(4):
                await store.put_object(bucket, b"n%d" % number, store.small_body(b"z" * 100_000), "e", NO_ATTRIBUTES)
            found += await store.engine.lanes.call(b"".join, map(bytes, pieces))
            assert found == data[7:], f"after {change.__name__}"
        await gone(store)

    run_store(tmp_path, work, threaded=threaded)


@pytest.mark.slow
def test_many_changes_before_and_behind_the_reader(tmp_path: Path, small_windows: None) -> None:
    async def work(store: ObjectStore, bucket: Bucket) -> None:
        dice = random.Random(3)
        for _ in range(8):
            node, data = await make(store, bucket)
            start = dice.randrange(PIECE)
            readers = []
            with store.reader(node, start) as one, store.reader(node, start) as two:
                for reader in (one, two):
                    await reader.begin()
                    readers.append((reader.pieces(), bytearray()))
                size = node.size
                for _ in range(12):
                    low = dice.randrange(size)
                    length = dice.choice((0, 10, 5000, 100_000))
                    cut = dice.choice((None, None, None, max(size - PIECE, 1)))
                    size = max(cut or size, low + length if length else 0)
                    await write(store, bucket, node.id, None, dice.randbytes(length), low, size, cut)
                    pieces, found = dice.choice(readers)
                    if len(found) < len(data) - start:
                        found += next(pieces)
                for pieces, found in readers:
                    assert found + b"".join(map(bytes, pieces)) == data[start:]
            await gone(store)
            await store.delete_object(bucket, b"file")

    run_store(tmp_path, work)


def test_a_read_that_must_keep_too_much_breaks_and_never_mixes(
    tmp_path: Path, small_windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "KEPT_MAX", 5)

    async def work(store: ObjectStore, bucket: Bucket) -> None:
        node, data = await make(store, bucket)
        with store.reader(node) as reader:
            pieces = reader.pieces()
            found = taken(pieces, PIECE)
            await rewritten(store, bucket, node)
            with pytest.raises(StoreError) as caught:
                for piece in pieces:
                    found += bytes(piece)
            assert caught.value.code is Code.UNAVAILABLE
            assert data.startswith(found)
            assert len(found) == WINDOW
        await gone(store)

    run_store(tmp_path, work)


@pytest.mark.parametrize("change", [overwritten, deleted, patched])
def test_a_node_that_was_replaced_before_the_read_began_is_looked_up_again(
    tmp_path: Path, small_windows: None, change: type_change
) -> None:
    async def work(store: ObjectStore, bucket: Bucket) -> None:
        node, _ = await make(store, bucket)
        reader = store.reader(node)
        await change(store, bucket, node)
        with pytest.raises(StoreError) as caught:
            await reader.begin()
        assert caught.value.code is Code.NO_SUCH_NODE
        await gone(store)
        assert store.engine.retrieval.pins.oldest(-1) == -1, "the reader closed itself"

    run_store(tmp_path, work)


def test_a_long_read_that_cannot_begin_keeps_no_node() -> None:
    def connect() -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    reads = plan.LongReads(connect, list)
    with pytest.raises(sqlite3.OperationalError):
        reads.begin(plan.LongPlan(7, 0, 1), 1)
    assert not reads.reads(7)


@pytest.mark.slow
def test_five_tebibytes_begin_at_once_and_hold_little(tmp_path: Path) -> None:
    """A composed map of 10,240 parts of 512 MiB, all of them the same 64 times the same chunk."""
    members = make_devices(2)
    make_pool(members, copies=1)
    body = random.Random(2).randbytes(CHUNK_SIZE)
    part = 64 * CHUNK_SIZE
    parts = OBJECT_SIZE_MAX // part

    def grow(node: Node) -> None:
        """The file's rows, from a connection of their own."""
        connection = sqlite3.connect(tmp_path / "catalogue.db")
        flat, composed = node.ref, node.id + 500_000
        connection.execute("UPDATE map SET refs=?, sum=0 WHERE id=?", (parts, flat))
        connection.execute("INSERT INTO map VALUES (?, 1, 1, 0)", (composed,))
        rows = [(composed, at * part, part, int(BodyKind.MAP), flat, 0) for at in range(parts)]
        connection.executemany("INSERT INTO slice VALUES (?,?,?,?,?,?,0)", rows)
        connection.execute(
            "UPDATE node SET ref=?, size=?, dsum=x'', sum=0 WHERE id=?", (composed, parts * part, node.id)
        )
        connection.execute("UPDATE usage SET bytes=?, sum=0", (parts * part,))
        connection.commit()
        connection.close()

    async def main() -> None:
        async with store_over(members, tmp_path / "catalogue.db", threaded=True) as store:
            bucket = await store.create_bucket("bucket", "me")
            ingest = await store.ingest(bucket, len(body))
            await ingest.write_async(body)
            made = await ingest.finish_async()
            ingest.keep()
            ingest.close()
            chunk = made.chunks[0]
            ticket = store.submit_file(
                bucket,
                node=store.engine.new_id(),
                create=(bucket.root, b"huge"),
                **of_root(1),
                size=part,
                cut=None,
                chunks=[chunk],
                slices=[NewSlice(at * CHUNK_SIZE, CHUNK_SIZE, chunk.id) for at in range(64)],
            )
            await ticket.wait()
            node = await store.look_up(bucket, b"huge")
            grow(node)
            store.engine.rows._nodes.pop(node.id)
            node = await store.look_up(bucket, b"huge")
            assert node.size == OBJECT_SIZE_MAX
            seconds = []
            for start in (0, OBJECT_SIZE_MAX - 3 * CHUNK_SIZE - 5, OBJECT_SIZE_MAX // 2 + 12_345):
                before, loop_before = time.process_time(), time.thread_time()  # CPU: the machine may be busy
                with store.reader(node, start) as reader:
                    on_loop = time.thread_time() - loop_before
                    await reader.begin()
                    pieces = reader.pieces()
                    first = bytes(await store.engine.lanes.call(next, pieces))
                    seconds.append((on_loop, time.process_time() - before))
                    rest = b"".join(bytes(next(pieces)) for _ in range(8))
                    at = start % CHUNK_SIZE
                    assert (body * 4)[at:].startswith(first + rest)
            assert min(on_loop for on_loop, _ in seconds) < 0.02, seconds
            assert min(whole for _, whole in seconds) < 0.05, f"planned and read its first 2 MiB: {seconds}"
            report = await audit(store)
            assert report.clean, report.problems

    trio.run(main)
