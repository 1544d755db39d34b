"""Space: it comes back, it is never lost, and a full pool still does what makes room (I7, R10)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from appliance.device.buffers import aligned
from appliance.engine.ingest import is_placeable
from appliance.errors import Code, StoreError
from appliance.limits import BLOCK, CHUNK_SIZE, GATHER_MAX, KIB, MIB, PAGE_PAYLOAD, WRITE_CEILING
from appliance.model import NO_ATTRIBUTES, Bucket, Deleted, Deletion, Precondition
from appliance.ondisk.page import extent_length
from appliance.store import ObjectStore
from appliance.upkeep.audit import audit
from tests.models.boxes import body_of, make_devices, make_pool, read_all, run_store

pytestmark = pytest.mark.slow  # in all: most talk to real sockets or run real programs


def free(store: ObjectStore) -> int:
    """Over all devices."""
    return sum(store.engine.pool.allocator.free(device) for device in store.engine.pool.devices)


def snapshots(store: ObjectStore) -> int:
    """Bytes reserved and owned by no row: at rest, the catalogue's snapshot."""
    return sum(store.engine.pool.allocator.reserved(device) for device in store.engine.pool.devices)


async def put(store: ObjectStore, bucket: Bucket, key: bytes, data: bytes) -> None:
    await store.put_object(bucket, key, await body_of(store, bucket, data), "e", NO_ATTRIBUTES)


# ---------------------------------------------------------------------- ingest

EDGES = (2 * KIB, GATHER_MAX, PAGE_PAYLOAD, CHUNK_SIZE)


@pytest.mark.parametrize("size", [edge + step for edge in EDGES for step in (-1, 0, 1)])
def test_an_ingest_at_every_boundary(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        for known in (size, None):
            with await store.ingest(bucket, known) as ingest:
                for start in range(0, size, 100_000):
                    await ingest.write_async(data[start : start + 100_000])
                body = await ingest.finish_async()
                assert (body.size, ingest.size) == (size, size)
                assert [chunk.length for chunk in body.chunks] == (
                    [] if size <= 2 * KIB else [min(CHUNK_SIZE, size - at) for at in range(0, size, CHUNK_SIZE)]
                )
                await store.put_object(bucket, b"k", body, "e", NO_ATTRIBUTES)
            store.engine.retrieval.cache.clear()
            assert await read_all(store, await store.look_up(bucket, b"k")) == data

    run_store(tmp_path, main, copies=2)


def test_what_lies_as_devices_take_it_is_written_from_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever parts it lies in: whole blocks and others, some of them not aligned; in few runs of free space, too."""
    source = random.Random(1).randbytes(CHUNK_SIZE)
    cuts = {
        "whole": (MIB,) * 8,
        "blocks begin in one part and end in another": (36 * KIB, MIB, 12 * KIB, 8 * KIB, 3 * MIB, MIB + 7),
        "one is not aligned": (MIB, 64 * KIB, MIB, MIB, 4 * KIB),
        "a short last page": (MIB, MIB, MIB, MIB, 5000),
        "the end of a part in the first block": (20 * KIB, MIB),
        "one": (GATHER_MAX + 1,),
    }

    longest = [CHUNK_SIZE]

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        reserve = store.engine.pool.allocator.reserve

        def scarce(device: int, length: int, **how: bool) -> int:
            if length > longest[0]:
                raise StoreError(Code.NO_SPACE)
            return reserve(device, length, **how)

        monkeypatch.setattr(store.engine.pool.allocator, "reserve", scarce)
        for name, lengths in cuts.items():
            memory, parts, at = store.memory(2 * CHUNK_SIZE), [], 0
            for number, length in enumerate(lengths):
                begin = at + (100 if "not aligned" in name and number == 1 else 0)
                parts.append(memory[begin : begin + length])
                at += length + -length % (4 * KIB) + 8 * KIB
            for turn in ("as it is", "fragmented"):
                size = sum(lengths)
                at = 0
                for part in parts:
                    part[:] = source[at : at + len(part)]
                    at += len(part)
                assert is_placeable(parts), name
                if turn == "fragmented":
                    longest[0] = MIB
                    with store.ingest_in_place(bucket, size) as ingest:
                        body = ingest.place(parts)
                        ingest.keep()
                    longest[0] = CHUNK_SIZE
                    chunks = list(body.chunks)
                    assert [piece.length for piece in body.slices] == [chunk.length for chunk in chunks]
                else:
                    chunks = [await store.stage(bucket, parts)]
                assert sum(chunk.length for chunk in chunks) == size
                memory[:] = bytes(len(memory))  # it is the caller's again
                store.engine.retrieval.cache.clear()
                got = b"".join([await store.read_staged(chunk, 0, chunk.length) for chunk in chunks])
                assert got == source[:size], (name, turn)
                store.forfeit(chunks)

    run_store(tmp_path, main, copies=2)


def test_what_is_not_placeable() -> None:
    memory = aligned(CHUNK_SIZE)
    for parts in (
        [memoryview(bytes(MIB))],
        [memory[: MIB + 100], memory[4 * MIB : 5 * MIB]],
        [memory[: 4 * KIB]] * 65,
        [memory[:MIB], memoryview(bytes(2 * MIB))],
    ):
        assert not is_placeable(parts), [len(part) for part in parts]


def test_what_no_commit_took_is_given_back(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        before = free(store)
        for finished in (False, True):
            with await store.ingest(bucket, None) as ingest:
                await ingest.write_async(bytes(PAGE_PAYLOAD + 5 * BLOCK))
                if finished:
                    await ingest.finish_async()
                assert free(store) < before
            assert free(store) == before
        chunk = await store.stage(bucket, [bytes(GATHER_MAX), bytes(GATHER_MAX)])
        assert free(store) < before
        assert await store.read_staged(chunk, GATHER_MAX - 1, 2) == bytes(2)
        store.forfeit([chunk])
        store.forfeit([chunk])
        assert free(store) == before

    run_store(tmp_path, main)


def test_what_is_given_back_while_it_is_read_is_nobody_elses_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the reader meets another's page, and an operator is told of a damaged one."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        before, through = free(store), store.engine.retrieval.read_pages

        def read_pages(*arguments: Any) -> bytes:
            store.forfeit([chunk])
            assert free(store) <= before - chunk.length, "nobody else can be given its place"
            return through(*arguments)

        monkeypatch.setattr(store.engine.retrieval, "read_pages", read_pages)
        chunk = await store.stage(bucket, [b"\x01" * CHUNK_SIZE])
        assert await store.read_staged(chunk, PAGE_PAYLOAD - 2, 5) == b"\x01" * 5
        assert free(store) == before

    run_store(tmp_path, main)


def test_a_commit_that_is_refused_gives_its_space_back(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        await put(store, bucket, b"k", b"there")
        before = free(store)
        for size in (3000, MIB):
            body = await body_of(store, bucket, bytes(size))
            with pytest.raises(StoreError) as caught:
                await store.put_object(
                    bucket, b"k", body, "e", NO_ATTRIBUTES, precondition=Precondition(if_none_match="*")
                )
            assert caught.value.code is Code.PRECONDITION_FAILED
            assert free(store) == before

    run_store(tmp_path, main)


def test_a_fragmented_device_takes_large_bodies_in_pieces(tmp_path: Path) -> None:
    """Every second small object goes; what is left has no run of 4 MiB."""
    data = random.Random(5).randbytes(6 * MIB)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        number = 0
        size = 120 * KIB
        while store.space()[1] > 2 * extent_length(size):
            await put(store, bucket, b"small/%05d" % number, bytes(size))
            number += 1
        for key in range(0, number, 2):
            await store.delete_object(bucket, b"small/%05d" % key)
        await put(store, bucket, b"large", data)
        node = await store.look_up(bucket, b"large")
        pages = store.engine.reader.execute("SELECT max(len) FROM page").fetchone()
        assert pages[0] < PAGE_PAYLOAD
        assert await read_all(store, node) == data
        assert await read_all(store, node, MIB - 5, 3 * MIB) == data[MIB - 5 : 4 * MIB - 5]

    run_store(tmp_path, main, devices=make_devices(1))


def test_a_body_goes_on_where_another_device_has_room(tmp_path: Path) -> None:
    """A chunk's second page must not fail because the first page's device is full."""
    devices = make_devices(2)
    make_pool(devices, journals=2)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        allocator = store.engine.pool.allocator
        left = extent_length(PAGE_PAYLOAD) + 8 * KIB  # above the ceiling, on each
        held: list[tuple[int, int]] = []
        for device in (1, 2):
            floor = int(allocator.size(device) * (1 - WRITE_CEILING)) + 4 * KIB + left
            while (excess := (allocator.free(device) - floor) // (4 * KIB) * 4 * KIB) > 0:
                held.append((device, allocator.reserve(device, min(excess, MIB))))
        await put(store, bucket, b"k", b"x" * 7 * MIB)
        assert await read_all(store, await store.look_up(bucket, b"k")) == b"x" * 7 * MIB
        for device, offset in held:
            allocator.forfeit(device, offset)

    run_store(tmp_path, main, devices=devices, pooled=True)


# ---------------------------------------------------------------------- a long life


def test_no_space_leaks(tmp_path: Path) -> None:
    """I7 after a thousand random puts, overwrites, deletes and aborts, and again after everything is gone."""
    source = random.Random(11)
    sizes = [10, 3000, 60_000, GATHER_MAX, 200_000, MIB]

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        at_first = free(store) + snapshots(store)
        uploads = []
        for step in range(1000):
            verb = source.random()
            key = b"k%d" % source.randrange(40)
            if verb < 0.5:
                await put(store, bucket, key, bytes(source.choice(sizes)))
            elif verb < 0.75:
                await store.delete_object(bucket, key)
            elif verb < 0.85:
                upload = await store.create_upload(bucket, key, NO_ATTRIBUTES, "me")
                body = await body_of(store, bucket, bytes(source.choice(sizes)))
                await store.put_part(upload, 1, body, "e")
                uploads.append(upload)
            elif uploads and verb < 0.93:
                await store.abort_upload(uploads.pop(source.randrange(len(uploads))))
            elif uploads:
                await store.complete_upload(uploads.pop(), [(1, "e")], "e-1", NO_ATTRIBUTES)
            if step % 250 == 0:
                report = await audit(store)
                assert report.healthy, report.problems
        for upload in uploads:
            await store.abort_upload(upload)
        await store.delete_objects(bucket, [Deletion(b"k%d" % number) for number in range(40)])
        assert store.engine.reader.execute("SELECT count(*) FROM page").fetchone()[0] == 0
        assert free(store) + snapshots(store) == at_first

    run_store(tmp_path, main, copies=2)


@pytest.mark.parametrize("copies", [1, 2])
def test_a_full_pool_still_deletes(tmp_path: Path, copies: int) -> None:
    """R10: to the ceiling, then everything that makes room or needs none."""
    devices = make_devices(2)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        at_first = free(store) + snapshots(store)
        upload = await store.create_upload(bucket, b"up", NO_ATTRIBUTES, "me")
        await store.put_part(upload, 1, await body_of(store, bucket, bytes(MIB)), "e")
        count = 0
        for size in (5 * MIB, 300 * KIB, 100 * KIB, 3000):
            while True:
                try:
                    await put(store, bucket, b"fill/%05d" % count, bytes(size))
                except StoreError as error:
                    refused = error.code
                    break
                count += 1
            assert refused is Code.NO_SPACE
        allocator = store.engine.pool.allocator
        filled = [1 - allocator.free(device) / allocator.size(device) for device in store.engine.pool.devices]
        assert min(filled) > WRITE_CEILING - 0.02, filled
        # what needs no space, or only the journal's and the snapshot's
        await put(store, bucket, b"tiny", b"inline still fits")
        await store.rename(bucket.root, b"tiny", False, bucket.root, b"renamed", 1)
        await store.make_directory(bucket.root, b"directory", 0o755, 0, 0, 1)
        node = await store.look_up(bucket, b"fill/00000")
        await store.set_attributes(node.id, 5, mode=0o600)
        await store.copy_object(await store.look_up(bucket, b"fill/00001"), bucket, b"copy", None)
        page = await store.list_objects(bucket, b"fill/")
        assert len(page.objects) == min(count, 1000)
        store.engine.checkpointer.take()
        answers = await store.delete_objects(bucket, [Deletion(b"fill/%05d" % number) for number in range(0, count, 2)])
        assert all(answer == Deleted(True) for answer in answers)
        await store.abort_upload(upload)
        await put(store, bucket, b"again", bytes(5 * MIB))
        report = await audit(store, verify=True)
        assert report.healthy, report.problems
        for key in (*(b"fill/%05d" % number for number in range(count)), b"copy", b"again", b"renamed"):
            await store.delete_object(bucket, key)
        assert free(store) + snapshots(store) == at_first

    run_store(tmp_path, main, devices=devices, copies=copies)
