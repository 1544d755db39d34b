"""The journal's short path: a small change of a file is in the record that names it, and nowhere else is written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from appliance.engine.startup import put_aside
from appliance.errors import Code, StoreError
from appliance.limits import KIB, PATCH_MAX, PATCHES_MAX
from appliance.model import NO_ATTRIBUTES, Bucket, Node
from appliance.store import ObjectStore
from appliance.upkeep.audit import audit
from tests.appliance.engine.test_catalogue_damage import hurt
from tests.appliance.engine.test_retrieve import change, forget
from tests.models.boxes import body_of, make_devices, make_pool, read_all, run_store, store_over

DATA = random.Random(1).randbytes(300 * KIB)


async def put(store: ObjectStore, bucket: Bucket, data: bytes = DATA) -> Node:
    await store.put_object(bucket, b"k", await body_of(store, bucket, data), "e", NO_ATTRIBUTES)
    return await store.look_up(bucket, b"k")


def changed(data: bytes, pieces: list[tuple[int, bytes]]) -> bytes:
    image = bytearray(data)
    for offset, piece in pieces:
        image[offset : offset + len(piece)] = piece
    return bytes(image)


def patches(store: ObjectStore) -> int:
    count: int = store.one("SELECT count(*) FROM patch")[0]
    return count


def test_a_small_change_is_one_write_and_one_flush_of_the_journal_alone(tmp_path: Path) -> None:
    devices = make_devices(3)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)
        before = [device.flushes for device in devices]
        pieces = [(4096 * at, bytes([at]) * 1000) for at in (1, 7, 30)]
        node = await change(store, bucket, node, len(DATA), pieces)
        assert [device.flushes - old for device, old in zip(devices, before, strict=True)] == [1, 0, 0]
        assert patches(store) == 3
        forget(store)
        assert await read_all(store, node) == changed(DATA, pieces)
        assert await read_all(store, node, 4000, 200) == changed(DATA, pieces)[4000:4200]
        node = await change(store, bucket, node, len(DATA), [(4096, b"n" * 1000)])  # what it replaced is gone
        assert patches(store) == 3
        assert store.engine.committer.patched == 3000
        node = await change(store, bucket, node, len(DATA), [(0, b"w" * (PATCH_MAX + 1))])
        assert patches(store) == 2, "a large change has a page of its own"
        assert (await audit(store)).healthy

    run_store(tmp_path, main, devices=devices, copies=2)


def test_patches_are_rebuilt_from_the_devices_alone(tmp_path: Path) -> None:
    devices = make_devices(2)
    pieces = [(at * 9000, bytes([at]) * 700) for at in range(20)]

    async def write(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)
        node = await change(store, bucket, node, len(DATA), pieces[:10])
        store.engine.checkpointer.take()  # the first ten are in the snapshot, the others in the ring
        await change(store, bucket, node, len(DATA), pieces[10:])

    async def read(store: ObjectStore, bucket: Bucket) -> None:
        assert patches(store) == 20
        assert store.engine.committer.patched == 20 * 700
        assert await read_all(store, await store.look_up(bucket, b"k")) == changed(DATA, pieces)

    run_store(tmp_path, write, devices=devices)
    put_aside(tmp_path / "catalogue.db")
    run_store(tmp_path, read, devices=devices, pooled=True)


def test_what_is_encrypted_never_takes_it(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        key = await store.data_key()
        await store.put_object(bucket, b"k", await body_of(store, bucket, DATA, key), "e", NO_ATTRIBUTES)
        node = await store.look_up(bucket, b"k")
        node = await change(store, bucket, node, len(DATA), [(0, b"secret")], key=key)
        assert patches(store) == 0
        assert await read_all(store, node) == changed(DATA, [(0, b"secret")])

    run_store(tmp_path, main)


def test_copies_share_a_patch_and_a_range_of_one_stays_in_a_map(tmp_path: Path) -> None:
    """Where folding finds it: a patch that a node named itself would stay one for ever."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await change(store, bucket, await put(store, bucket), len(DATA), [(8192, b"p" * 4096)])
        await store.copy_object(node, bucket, b"copy", None)
        upload = await store.create_upload(bucket, b"joined", NO_ATTRIBUTES, "me")
        await store.copy_part(upload, 1, node, 8192, 4096, "p")
        await store.complete_upload(upload, [(1, "p")], "e-1", NO_ATTRIBUTES)
        await store.delete_object(bucket, b"k")
        assert await read_all(store, await store.look_up(bucket, b"copy")) == changed(DATA, [(8192, b"p" * 4096)])
        assert await read_all(store, await store.look_up(bucket, b"joined")) == b"p" * 4096
        await store.delete_object(bucket, b"copy")
        assert patches(store) == 1
        await store.delete_object(bucket, b"joined")
        assert patches(store) == store.engine.committer.patched == 0

    run_store(tmp_path, main)


def test_patches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.engine.commit.PATCHES_MAX", 5000)
    assert PATCHES_MAX > 5000

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)
        pieces = [(at * 9000, bytes([at]) * 1000) for at in range(20)]
        for piece in pieces:
            node = await change(store, bucket, node, len(DATA), [piece])
        assert patches(store) == 5
        assert await read_all(store, node) == changed(DATA, pieces)

    run_store(tmp_path, main)


def test_a_flipped_bit_of_a_patch_is_never_served(tmp_path: Path) -> None:
    members = make_devices(2)
    make_pool(members, copies=1)

    async def main() -> None:
        async with store_over(members, tmp_path / "catalogue.db", threaded=False) as store:
            bucket = await store.create_bucket("bucket", "me")
            node = await change(store, bucket, await put(store, bucket), len(DATA), [(8192, b"patched")])
            hurt(tmp_path / "catalogue.db", "UPDATE patch SET data=x'70617463686566'")
            with pytest.raises(StoreError) as caught:
                await read_all(store, node, 8000, 1000)
            assert caught.value.code is Code.DAMAGED
            assert await read_all(store, node, 0, 8192) == DATA[:8192], "the rest of the file is whole"
            assert [problem.kind for problem in (await audit(store)).problems] == ["sum"]

    trio.run(main)


def test_the_bytes_that_are_no_hole_are_carried_on(tmp_path: Path) -> None:
    """st_blocks after each commit, without a count of all slices."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket)
        seed = random.Random(3)
        size = len(DATA)
        for step in range(60):
            size = seed.choice((size, size, size + 5000, max(size - 3000, 100_000)))
            cut = size if size < node.size else None
            pieces = [(seed.randrange(size - 2000), b"x" * seed.randrange(1, 2000))] if step % 5 else []
            node = await change(store, bucket, node, size, pieces, cut)
            counted = store.one("SELECT coalesce(sum(len), 0) FROM slice WHERE map=?", (node.ref,))[0]
            assert store.allocated(node) == (counted if node.kind == 3 else len(DATA))
            known = store.engine.filled._known
            assert not known or known[node.id] == (node.generation, counted)

    run_store(tmp_path, main)
