"""Folding: the same bytes in fewer pieces, whoever reads, writes or shares them meanwhile."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.catalogue.commands import Command, FoldMap
from appliance.engine import plan, retrieve
from appliance.engine.startup import put_aside
from appliance.engine.ticket import Ticket
from appliance.errors import Code, StoreError
from appliance.limits import CHUNK_SIZE, KIB, MIB
from appliance.model import NO_ATTRIBUTES, Bucket, NewChunk, NewSlice, Node
from appliance.store import ObjectStore
from appliance.upkeep import fold
from appliance.upkeep.audit import audit
from appliance.upkeep.fold import PATCHED_MAX, PRESSED, Folder
from tests.appliance.engine.test_retrieve import change, forget
from tests.appliance.engine.test_short_path import changed, patches
from tests.models.boxes import body_of, make_devices, read_all, run_store

DATA = random.Random(5).randbytes(3 * MIB)


async def put(store: ObjectStore, bucket: Bucket, data: bytes = DATA, key: bytes = b"k") -> Node:
    await store.put_object(bucket, key, await body_of(store, bucket, data), "e", NO_ATTRIBUTES)
    return await store.look_up(bucket, key)


def folder(store: ObjectStore) -> Folder:
    return Folder(store, idle=0.0, pace=0.0)


def scattered(count: int, size: int = len(DATA), length: int = 4096, seed: int = 1) -> list[tuple[int, bytes]]:
    """Pieces that do not overlap, in order."""
    source = random.Random(seed)
    places = sorted(source.sample(range(size // length), count))
    return [(place * length, source.randbytes(length)) for place in places]


def slices(store: ObjectStore, node: Node) -> int:
    count: int = store.one("SELECT count(*) FROM slice WHERE map=?", (node.ref,))[0]
    return count


def used(store: ObjectStore) -> int:
    total: int = store.one("SELECT coalesce(sum(len), 0) FROM page")[0]
    return total


async def write_scattered(store: ObjectStore, bucket: Bucket, node: Node, pieces: Sequence[tuple[int, bytes]]) -> Node:
    """Each its own commit."""
    for piece in pieces:
        node = await change(store, bucket, node, node.size, [piece])
    return node


def test_patches_become_one_chunk_and_nothing_else_of_the_file_changes(tmp_path: Path) -> None:
    devices = make_devices(2)
    pieces = scattered(10)

    async def work(store: ObjectStore, bucket: Bucket) -> None:
        node = await write_scattered(store, bucket, await put(store, bucket), pieces)
        chunks = store.one("SELECT count(*) FROM chunk")[0]
        assert patches(store) == 10
        assert await folder(store).round() == 1
        assert patches(store) == store.engine.committer.patched == 0
        assert store.one("SELECT count(*) FROM chunk")[0] == chunks - 9
        assert store.node(node.id) == node, "no time, no ETag, no generation"
        assert not store.engine.worn.maps
        assert await folder(store).round() == 0
        forget(store)
        assert await read_all(store, node) == changed(DATA, pieces)
        assert (await audit(store, verify=True)).healthy
        assert store.statistics()["folded_bytes"] == 10 * 4096

    async def read(store: ObjectStore, bucket: Bucket) -> None:
        assert await read_all(store, await store.look_up(bucket, b"k")) == changed(DATA, pieces)

    run_store(tmp_path, work, devices=devices, copies=2)
    put_aside(tmp_path / "catalogue.db")
    run_store(tmp_path, read, devices=devices, pooled=True)


def test_a_window_of_crumbs_becomes_one_slice(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        pieces = scattered(300)
        node = await put(store, bucket)
        for start in range(0, 300, 100):  # gathered ones, not patches
            node = await change(store, bucket, node, len(DATA), pieces[start : start + 100])
        assert slices(store, node) > 400
        await folder(store).round()
        assert slices(store, node) <= 2
        forget(store)
        assert await read_all(store, node) == changed(DATA, pieces)
        before = used(store)
        await folder(store).fold(node.ref)
        assert used(store) == before, "what is mended is left alone"

    run_store(tmp_path, main)


def test_a_small_file_becomes_one_slice_of_one_chunk(tmp_path: Path) -> None:
    """Fewer neighbours are worth it where there is less to rewrite."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        data = DATA[:10_000]
        node = await put(store, bucket, data)
        for at in (100, 3000, 9500):
            node = await change(store, bucket, node, 10_000, [(at, b"p" * 300)])
        assert slices(store, node) == 7
        await folder(store).round()
        assert slices(store, node) == store.one("SELECT count(*) FROM chunk")[0] == 1
        forget(store)
        assert await read_all(store, node) == changed(data, [(at, b"p" * 300) for at in (100, 3000, 9500)])

    run_store(tmp_path, main)


def test_a_chunk_that_is_mostly_dead_gives_its_space_back(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        data = random.Random(2).randbytes(CHUNK_SIZE)
        node = await put(store, bucket, data)
        for at in range(6):
            node = await change(store, bucket, node, len(data), [(at * MIB, bytes([at]) * MIB)])
        before = used(store)
        await folder(store).round()
        assert before - used(store) > 5 * MIB
        forget(store)
        assert await read_all(store, node) == b"".join(bytes([at]) * MIB for at in range(6)) + data[6 * MIB :]

    run_store(tmp_path, main)


def test_a_shared_map_is_mended_for_all_and_a_shared_chunk_is_left(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        pieces = scattered(20)
        node = await write_scattered(store, bucket, await put(store, bucket), pieces)
        await store.copy_object(node, bucket, b"copy", None)
        copy = await store.look_up(bucket, b"copy")
        assert copy.ref == node.ref
        await folder(store).round()
        assert patches(store) == 0
        for each in (node, copy):
            assert await read_all(store, each) == changed(DATA, pieces)
        other = await write_scattered(store, bucket, copy, scattered(5, seed=9))  # has a map of its own now
        assert other.ref != node.ref
        await folder(store).round()
        assert patches(store) == 0
        assert await read_all(store, node) == changed(DATA, pieces)
        assert await read_all(store, other) == changed(changed(DATA, pieces), scattered(5, seed=9))
        await store.delete_object(bucket, b"k")
        await store.delete_object(bucket, b"copy")
        assert used(store) == 0

    run_store(tmp_path, main)


def test_holes_stay_holes(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await put(store, bucket, b"x" * 5000)
        node = await change(store, bucket, node, 64 * MIB, [])
        pieces = [(at * 10_000, bytes([at % 251]) * 3000) for at in range(1, 400)]
        for start in range(0, len(pieces), 80):
            node = await change(store, bucket, node, 64 * MIB, pieces[start : start + 80])
        held = store.allocated(node)
        for _ in range(2):
            await folder(store).fold(node.ref)
            assert store.one("SELECT sum(len) FROM slice WHERE map=?", (node.ref,))[0] == held
        assert await read_all(store, node, 0, 5 * MIB) == changed(b"x" * 5000 + bytes(5 * MIB - 5000), pieces)

    run_store(tmp_path, main)


@pytest.mark.parametrize(("count", "conflicts", "left"), [(3, 0, 3), (8, 1, 10)])
def test_what_a_writer_changes_meanwhile_stays_the_writers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, conflicts: int, left: int
) -> None:
    """Few changes: the rest is folded.  Many: it is not worth the chunk, which is given back."""

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        pieces = scattered(10)
        late = [(offset, b"late" * 1024) for offset, _ in pieces[:count]]
        node = await write_scattered(store, bucket, await put(store, bucket), pieces)
        submit = store.engine.submit

        def meanwhile(command: Command, **rest: Any) -> Ticket:
            """Between reading and committing."""
            if isinstance(command, FoldMap):
                for offset, data in late:
                    submit_change(store, bucket, node, offset, data)
            return submit(command, **rest)

        monkeypatch.setattr(store.engine, "submit", meanwhile)
        await folder(store).fold(node.ref)
        monkeypatch.setattr(store.engine, "submit", submit)
        assert (store.engine.worn.conflicts, patches(store)) == (conflicts, left)
        image = changed(changed(DATA, pieces), late)
        assert await read_all(store, store.node(node.id)) == image
        await folder(store).fold(node.ref)
        assert patches(store) == 0
        assert await read_all(store, store.node(node.id)) == image

    run_store(tmp_path, main)


def submit_change(store: ObjectStore, bucket: Bucket, node: Node, offset: int, data: bytes) -> Ticket:
    """As `change`, without waiting."""
    chunk = NewChunk(store.engine.new_id(), len(data), data)
    return store.submit_file(
        bucket,
        node=node.id,
        create=None,
        mode=node.mode,
        uid=0,
        gid=0,
        atime_ns=0,
        mtime_ns=0,
        now_ns=0,
        size=node.size,
        chunks=[chunk],
        slices=[NewSlice(offset, len(data), chunk.id)],
    )


@pytest.mark.slow
def test_a_long_reader_sees_its_state_to_the_end(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        data = random.Random(8).randbytes(80 * MIB)
        node = await put(store, bucket, data)
        node = await write_scattered(store, bucket, node, scattered(20, len(data)))
        data = await read_all(store, node)
        with store.reader(node) as reader:
            await reader.begin()
            views = reader.pieces()
            head = bytes(next(views))
            await folder(store).round()
            assert patches(store) == 0
            assert head + b"".join(bytes(view) for view in views) == data

    run_store(tmp_path, main)


def test_what_is_encrypted_stays_so_and_a_customers_is_left_alone(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        key = await store.data_key()
        await store.put_object(bucket, b"k", await body_of(store, bucket, DATA, key), "e", NO_ATTRIBUTES)
        node = await store.look_up(bucket, b"k")
        pieces = scattered(200)
        for start in range(0, 200, 50):
            node = await change(store, bucket, node, len(DATA), pieces[start : start + 50], key=key)
        await folder(store).round()
        assert slices(store, node) <= 2
        assert store.every("SELECT DISTINCT key FROM chunk") == [(key.id,)]
        assert await read_all(store, node) == changed(DATA, pieces)
        mine = await store.customer_key(bytes(range(32)))
        await store.put_object(bucket, b"c", await body_of(store, bucket, DATA, mine), "e", NO_ATTRIBUTES)
        other = await store.look_up(bucket, b"c")
        for start in range(0, 200, 50):
            other = await change(store, bucket, other, len(DATA), pieces[start : start + 50], key=mine)
        count = slices(store, other)
        await folder(store).round()
        assert slices(store, other) == count
        assert await read_all(store, other, customer=mine) == changed(DATA, pieces)

    run_store(tmp_path, main)


def test_a_sweep_finds_what_a_restart_forgot(tmp_path: Path) -> None:
    devices = make_devices(2)

    async def wear(store: ObjectStore, bucket: Bucket) -> None:
        await write_scattered(store, bucket, await put(store, bucket), scattered(3))
        await put(store, bucket, DATA, b"sound")
        node = await put(store, bucket, DATA, b"crumbs")
        pieces = scattered(200)
        for start in range(0, 200, 50):
            node = await change(store, bucket, node, len(DATA), pieces[start : start + 50])

    async def find(store: ObjectStore, bucket: Bucket) -> None:
        assert not store.engine.worn.maps
        assert await folder(store).sweep() == 2
        assert await folder(store).round() == 2
        assert patches(store) == 0
        assert await folder(store).sweep() == 0

    run_store(tmp_path, wear, devices=devices)
    run_store(tmp_path, find, devices=devices, pooled=True)


def test_a_map_that_is_written_all_the_time_is_folded_when_its_patches_pass_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.upkeep.fold.PATCHED_MAX", 40 * KIB)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        busy = Folder(store, idle=3600.0, pace=0.0)
        node = await write_scattered(store, bucket, await put(store, bucket), scattered(9))
        assert await busy.round() == 0
        assert patches(store) == 9
        await write_scattered(store, bucket, node, scattered(1, seed=4))
        assert await busy.round() == 1
        assert patches(store) == 0
        assert store.engine.worn.maps, "its crumbs are looked at when it rests"

    run_store(tmp_path, main)


def test_a_round_sees_that_patches_became_many_while_it_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(store: ObjectStore, _: Bucket) -> None:
        folded = []

        async def fold(number: int, *_: object, **__: object) -> int:
            folded.append(number)
            store.engine.committer.patched = PRESSED
            return 0

        busy = Folder(store, idle=3600.0, pace=0.0)
        monkeypatch.setattr(busy, "fold", fold)
        store.engine.worn.note(1, patched=PATCHED_MAX)
        store.engine.worn.note(2, patched=1)
        assert await busy.round() == 2
        assert folded == [1, 2], "the second waited for the next round: the short path may be shut until then"

    run_store(tmp_path, main)


def test_a_full_pool_is_not_filled_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        await write_scattered(store, bucket, await put(store, bucket), scattered(9))
        monkeypatch.setattr(store.engine, "space", lambda copies: (100 * MIB, 1 * MIB))
        with pytest.raises(StoreError) as caught:
            await folder(store).round()
        assert caught.value.code is Code.NO_SPACE
        assert store.engine.worn.maps, "it is tried again"
        assert store.engine.worn.resting == "the pool is too full to mend files"
        monkeypatch.undo()
        assert await folder(store).round() == 1
        assert store.engine.worn.resting == ""

    run_store(tmp_path, main)


def test_a_map_that_went_is_no_error(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        await write_scattered(store, bucket, await put(store, bucket), scattered(9))
        await store.delete_object(bucket, b"k")
        assert await folder(store).round() == 1
        chunk = await store.stage(bucket, [b"nobody's"])
        command = FoldMap(
            map=1,
            before=(NewSlice(0, 8, 5),),
            chunk=chunk,
            slices=(NewSlice(0, 8, chunk.id),),
            copies=1,
            label=b"",
        )
        with pytest.raises(StoreError) as caught:
            await store.engine.submit(command).wait()
        assert caught.value.code is Code.CONFLICT

    run_store(tmp_path, main)


def test_a_change_right_behind_a_folding_while_a_long_read_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch: what the change replaces is for the reader, and is in a chunk that has no pages yet."""
    for module in (plan, retrieve):
        monkeypatch.setattr(module, "PLAN_WINDOW", 256 * KIB)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        pieces = scattered(8)
        node = await write_scattered(store, bucket, await put(store, bucket), pieces)
        changes: list[Ticket] = []
        submit = store.engine.submit

        def behind(command: Command, **rest: Any) -> Ticket:
            ticket = submit(command, **rest)
            if isinstance(command, FoldMap):
                monkeypatch.setattr(store.engine, "submit", submit)
                assert not command.chunk.pages
                changes.extend(submit_change(store, bucket, node, offset, b"late" * 1024) for offset, _ in pieces)
            return ticket

        with store.reader(node) as reader:
            await reader.begin()
            found = reader.pieces()
            first = bytes(next(found))
            monkeypatch.setattr(store.engine, "submit", behind)
            await folder(store).fold(node.ref)
            for ticket in changes:
                await ticket.wait()
            forget(store)
            rest = await store.engine.lanes.call(b"".join, map(bytes, found))
            assert first + rest == changed(DATA, pieces)
        late = [(offset, b"late" * 1024) for offset, _ in pieces]
        assert await read_all(store, store.node(node.id)) == changed(DATA, late)
        assert len(changes) == len(pieces)

    run_store(tmp_path, main)


def test_between_pieces_of_work_a_calm_moment_comes_unless_patches_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        waits = [0]

        async def calm() -> None:
            waits[0] += 1
            await trio.lowlevel.checkpoint()

        node = await put(store, bucket)
        for pressed in (PRESSED, 0):
            monkeypatch.setattr(fold, "PRESSED", pressed)
            node = await write_scattered(store, bucket, node, scattered(10))
            waits[0] = 0
            assert await Folder(store, idle=0.0, pace=0.0, calm=calm).round() == 1
            assert store.engine.committer.patched == 0
            assert (waits[0] > 0) is (pressed > 0)

    run_store(tmp_path, main)
