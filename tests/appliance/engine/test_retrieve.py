"""The read path: the cache of small bodies, pins, and readers over every shape of content."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest

from appliance.engine.retrieve import BodyCache, Pins
from appliance.errors import Code, StoreError
from appliance.limits import BLOCK, CHUNK_SIZE, GATHER_MAX, MIB, PAGE_PAYLOAD, STREAM_PIECE
from appliance.model import NO_ATTRIBUTES, Bucket, DataKey, NewSlice, Node
from appliance.store import ObjectStore
from tests.models.boxes import body_of, of_root, read_all, run_store

NOW = 1_700_000_000_000_000_000


async def put(store: ObjectStore, bucket: Bucket, key: bytes, data: bytes) -> Node:
    """An object as S3 makes it."""
    await store.put_object(bucket, key, await body_of(store, bucket, data), "e", NO_ATTRIBUTES)
    return await store.look_up(bucket, key)


async def change(
    store: ObjectStore,
    bucket: Bucket,
    node: Node,
    size: int,
    pieces: list[tuple[int, bytes]],
    cut: int | None = None,
    *,
    key: DataKey | None = None,
) -> Node:
    """What the mount's writer commits."""
    chunks = [await store.stage(bucket, [data], key) for _, data in pieces]
    slices = [NewSlice(offset, len(data), chunk.id) for (offset, data), chunk in zip(pieces, chunks, strict=True)]
    ticket = store.submit_file(
        bucket,
        node=node.id,
        create=None,
        **of_root(NOW),
        size=size,
        cut=cut,
        chunks=chunks,
        slices=slices,
    )
    await ticket.wait()
    return store.node(node.id)


def forget(store: ObjectStore) -> None:
    """From now on the devices are asked."""
    store.engine.retrieval.cache.clear()
    store.engine.pool.forget_headers()


# ---------------------------------------------------------------------- the cache and the pins


def test_the_cache_forgets_what_was_used_longest_ago() -> None:
    cache = BodyCache(limit=30)
    for number in range(3):
        cache.put(number, bytes(10))
    assert cache.get(0) == bytes(10)
    cache.put(3, bytes(10))
    assert [cache.get(number) is None for number in range(4)] == [False, True, False, False]
    assert (cache.hits, cache.misses, cache.bytes) == (4, 1, 30)


def test_the_cache_counts_what_it_holds() -> None:
    cache = BodyCache(limit=100)
    cache.put(1, bytes(40))
    cache.put(1, bytes(60))
    assert cache.bytes == 60
    cache.put(2, bytes(101))
    assert (cache.bytes, cache.get(2)) == (0, None)
    cache.put(3, bytes(50))
    cache.drop(3)
    cache.drop(3)
    assert cache.bytes == 0
    cache.put(4, bytes(50))
    cache.clear()
    assert (cache.bytes, cache.get(4)) == (0, None)


def test_the_cache_takes_no_large_body() -> None:
    cache = BodyCache()
    cache.put(1, bytes(GATHER_MAX + 1))
    assert cache.get(1) is None


def test_pins_remember_the_oldest_state() -> None:
    pins = Pins()
    assert pins.oldest(9) == 9
    for seq in (5, 3, 3):
        assert pins.pin(seq) == seq
    pins.unpin(3)
    assert pins.oldest(9) == 3
    pins.unpin(3)
    assert pins.oldest(9) == 5
    pins.unpin(5)
    assert pins.oldest(9) == 9


# ---------------------------------------------------------------------- readers

SHAPES = [0, 1, 2048, 2049, BLOCK, GATHER_MAX, GATHER_MAX + 1, PAGE_PAYLOAD, PAGE_PAYLOAD + 1, CHUNK_SIZE + 5]


@pytest.mark.slow
@pytest.mark.parametrize("size", SHAPES)
def test_any_range_of_any_size(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    edges = [0, 1, size // 2, BLOCK - 1, BLOCK, MIB, MIB + 1, PAGE_PAYLOAD - 1, PAGE_PAYLOAD, CHUNK_SIZE, size]
    starts = sorted({edge for edge in edges if 0 <= edge <= size})

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket, b"k", data)
        for start in starts:
            for length in (0, 1, 100, BLOCK + 1, 2 * MIB + 7, size):
                forget(store)
                assert await read_all(store, node, start, length) == data[start : start + length]
                assert await read_all(store, node, start, length) == data[start : start + length]

    run_store(tmp_path, main)


def test_pieces_are_bounded(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(PAGE_PAYLOAD + 3 * MIB // 2)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket, b"k", data)
        with store.reader(node, 70_000, 5 * MIB) as reader:
            assert reader.ready() is None
            pieces = [bytes(view) for view in reader.pieces()]
        assert b"".join(pieces) == data[70_000 : 70_000 + 5 * MIB]
        assert max(len(piece) for piece in pieces) <= STREAM_PIECE

    run_store(tmp_path, main)


def test_holes_read_as_zeros(tmp_path: Path) -> None:
    size = 3 * MIB

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket, b"k", b"head" * 1000)
        pieces = [(MIB, b"x" * 100_000), (2 * MIB + 5, b"y" * 200_000)]
        node = await change(store, bucket, node, size, pieces)
        image = bytearray(size)
        image[:4000] = b"head" * 1000
        for offset, data in pieces:
            image[offset : offset + len(data)] = data
        for start, length in ((0, size), (3999, 2), (4000, 50_000), (MIB - 1, 2), (2 * MIB, MIB), (size - 1, 1)):
            forget(store)
            assert await read_all(store, node, start, length) == image[start : start + length]
        assert store.allocated(node) == 4000 + 300_000

    run_store(tmp_path, main)


@pytest.mark.parametrize("size", [3000, GATHER_MAX + 1])
def test_a_file_longer_than_its_only_chunk(tmp_path: Path, size: int) -> None:
    """The mount appended a hole, and the chunk is shared with a file that has none."""
    data = random.Random(size).randbytes(size)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        short = await put(store, bucket, b"short", data)
        await store.copy_object(short, bucket, b"long", None)
        long = await change(store, bucket, await store.look_up(bucket, b"long"), size + 5000, [])
        assert long.ref == short.ref
        image = data + bytes(5000)
        for warm in (long, short):
            forget(store)
            await read_all(store, warm)
            for start in (0, 5, 2000, size - 1, size, size + 1):
                for length in (1, 5000 - 5, size, size + 5000):
                    assert await read_all(store, long, start, length) == image[start : start + length]
                    assert await read_all(store, short, min(start, size), length) == data[start : start + length]

    run_store(tmp_path, main)


def test_an_inline_file_with_a_hole_behind(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket, b"k", b"abc")
        node = await change(store, bucket, node, 9000, [])
        for start, length in ((0, 9000), (1, 1), (2, 100), (3, 5), (8000, 1000)):
            assert await read_all(store, node, start, length) == (b"abc" + bytes(9000))[start : start + length]

    run_store(tmp_path, main)


@pytest.mark.parametrize("size", [3000, GATHER_MAX + 1])
def test_a_node_that_was_replaced_is_looked_up_again(tmp_path: Path, size: int) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        old = await put(store, bucket, b"k", bytes(size))
        forget(store)
        await put(store, bucket, b"k", b"x" * size)
        with pytest.raises(StoreError) as caught:
            store.reader(old)
        assert caught.value.code is Code.NO_SUCH_NODE
        assert store.engine.retrieval.pins.oldest(-1) == -1, "no pin is left"
        new = await store.look_up(bucket, b"k")
        newer = await change(store, bucket, new, size, [(0, b"y" * 10)])
        with pytest.raises(StoreError):
            store.reader(msgspec.structs.replace(newer, generation=newer.generation - 1))

    run_store(tmp_path, main)


def test_a_reader_keeps_its_state_while_the_object_goes(tmp_path: Path) -> None:
    """H4, I5, I11: pages of what is read are not used again before the reader has closed."""
    data = random.Random(7).randbytes(3 * MIB)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket, b"k", data)
        allocator = store.engine.pool.allocator
        reader = store.reader(node)
        pieces = reader.pieces()
        got = bytes(next(pieces))
        await store.delete_object(bucket, b"k")
        for number in range(12):
            await put(store, bucket, b"other%d" % number, bytes([number + 1]) * 3 * MIB)
        assert sum(allocator.pending(device) for device in store.engine.pool.devices) > 3 * MIB
        got += b"".join(bytes(view) for view in pieces)
        reader.close()
        assert got == data
        assert sum(allocator.pending(device) for device in store.engine.pool.devices) == 0

    run_store(tmp_path, main)


def test_a_read_of_the_beginning_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(3000)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket, b"k", data)
        for start, length in ((0, 10), (0, 2999), (1, 2999), (0, 3000)):
            forget(store)
            assert await read_all(store, node, start, length) == data[start : start + length]
            assert await read_all(store, node) == data

    run_store(tmp_path, main)
