"""Several chunks of one file on their way to devices at once: how many, in which order, and what one failure means."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from appliance.errors import Code, StoreError
from appliance.limits import CHUNK_SIZE, MIB
from appliance.model import Bucket, NewChunk
from fusefs import staging, writeback
from tests.fusefs.scenes import refused, run, run_on_pool
from tests.fusefs.unmounted import Unmounted

if TYPE_CHECKING:
    from typing_extensions import Buffer

CHUNKS = 7
DATA = b"".join(bytes([number + 1]) * CHUNK_SIZE for number in range(CHUNKS))


class Slow:
    """Stages as the store does, the earlier ones longer; the one with `fails` in it fails."""

    def __init__(self, mount: Unmounted, monkeypatch: pytest.MonkeyPatch, fails: int = 0) -> None:
        self._stage: Any = mount.store.stage
        self._fails = fails
        self.begun: list[int] = []
        self.under_way = self.most = 0
        monkeypatch.setattr(mount.store, "stage", self.stage)

    async def stage(self, bucket: Bucket, pieces: Sequence[Buffer], key: object = None) -> NewChunk:
        number = memoryview(pieces[0])[0]
        self.begun.append(number)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            for _ in range(5 * (CHUNKS - number)):
                await trio.lowlevel.checkpoint()
            if number == self._fails:
                raise StoreError(Code.IO_ERROR)
            chunk: NewChunk = await self._stage(bucket, pieces)
        finally:
            self.under_way -= 1
        return chunk


def test_several_are_under_way_and_the_file_is_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(mount: Unmounted) -> None:
        slow = Slow(mount, monkeypatch)
        fh = await mount.create("photos/f")
        await mount.ops.write(fh, 0, DATA)
        await mount.ops.fsync(fh, False)
        assert slow.most == staging.AT_ONCE
        assert slow.begun == list(range(1, CHUNKS + 1))
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == DATA

    run(scene)


def test_one_that_fails_is_told_when_none_is_under_way_and_no_further_one_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(mount: Unmounted) -> None:
        slow = Slow(mount, monkeypatch, fails=3)
        fh = await mount.create("photos/f")
        await mount.ops.write(fh, 0, DATA)
        await trio.testing.wait_all_tasks_blocked()
        assert slow.begun == [1, 2, 3], "no further one begins"
        async with refused(errno.EIO):
            await mount.ops.fsync(fh, False)
        assert slow.under_way == 0
        assert slow.begun[3] == 3, "the sync is told of its own attempt"
        slow._fails = 0
        await mount.ops.fsync(fh, False)
        assert sorted(set(slow.begun)) == list(range(1, CHUNKS + 1))
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == DATA

    run(scene)


def test_what_is_completed_meanwhile_joins_those_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until somebody waits for the file: a sync waits for no chunk that came after it."""

    async def scene(mount: Unmounted) -> None:
        gate, begun = trio.Event(), 0

        async def stage(*arguments: Any) -> NewChunk:
            nonlocal begun
            begun += 1
            await gate.wait()
            chunk: NewChunk = await through(*arguments)
            return chunk

        through = mount.store.stage
        monkeypatch.setattr(mount.store, "stage", stage)
        fh = await mount.create("photos/f")
        for number in range(CHUNKS):
            start = number * CHUNK_SIZE
            await mount.ops.write(fh, start, DATA[start : start + CHUNK_SIZE])
            await trio.testing.wait_all_tasks_blocked()
            assert begun == min(number + 1, staging.AT_ONCE)
        (file,) = mount.ops.files.files.values()
        stagings = mount.ops.files.stagings
        assert stagings[file].takes_more
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.ops.fsync, fh, False)
            await trio.testing.wait_all_tasks_blocked()
            assert not stagings[file].takes_more
            gate.set()
        assert not stagings
        assert begun == CHUNKS
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == DATA

    run(scene)


def test_what_is_written_over_a_chunk_under_way_joins_it_and_is_what_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the two is on devices first: the older one has no claim on the newer one's bytes."""

    async def scene(mount: Unmounted) -> None:
        gates = [trio.Event(), trio.Event()]
        begun = 0

        async def stage(*arguments: Any) -> NewChunk:
            nonlocal begun
            number, begun = begun, begun + 1
            if number < len(gates):
                await gates[number].wait()
            chunk: NewChunk = await through(*arguments)
            return chunk

        through = mount.store.stage
        monkeypatch.setattr(mount.store, "stage", stage)
        for name, order in (("older", (0, 1)), ("newer", (1, 0))):
            begun, gates[:] = 0, [trio.Event(), trio.Event()]
            fh = await mount.create(f"photos/{name}")
            for data in (DATA[:CHUNK_SIZE], DATA[CHUNK_SIZE : 2 * CHUNK_SIZE]):
                await mount.ops.write(fh, 0, data)
                await trio.testing.wait_all_tasks_blocked()
            assert begun == 2, name
            for number in order:
                gates[number].set()
                await trio.testing.wait_all_tasks_blocked()
            await mount.ops.fsync(fh, False)
            await mount.close(fh)
            found = await mount.door.get("photos", name.encode())
            assert found[:1] == DATA[CHUNK_SIZE : CHUNK_SIZE + 1], f"the {name} one first"
            assert found == DATA[CHUNK_SIZE : 2 * CHUNK_SIZE], f"the {name} one first"

        async def failing(*arguments: Any) -> NewChunk:
            await trio.lowlevel.checkpoint()
            raise StoreError(Code.IO_ERROR)

        monkeypatch.setattr(mount.store, "stage", failing)
        fh = await mount.create("photos/failed")
        for data in (DATA[:CHUNK_SIZE], DATA[CHUNK_SIZE : 2 * CHUNK_SIZE]):  # what has joined is dirty again, too
            await mount.ops.write(fh, 0, data)
        await trio.testing.wait_all_tasks_blocked()
        monkeypatch.setattr(mount.store, "stage", through)
        await mount.ops.fsync(fh, False)
        await mount.close(fh)
        assert await mount.door.get("photos", b"failed") == DATA[CHUNK_SIZE : 2 * CHUNK_SIZE]

    run(scene)


def test_a_reader_of_bytes_that_are_written_over_meanwhile_is_given_what_is_there_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunk that it was reading is given back, and its place is another's, before the device is asked."""

    async def scene(mount: Unmounted) -> None:
        asked, gate, found = trio.Event(), trio.Event(), b""

        async def read_staged(*arguments: Any) -> bytes:
            asked.set()
            await gate.wait()
            data: bytes = await through(*arguments)
            return data

        async def read() -> None:
            nonlocal found
            found = await mount.ops.read(fh, MIB, 4096)

        through = mount.store.read_staged
        monkeypatch.setattr(mount.store, "read_staged", read_staged)
        fh = await mount.create("photos/f")
        await mount.ops.write(fh, 0, DATA[:CHUNK_SIZE])
        (file,) = mount.ops.files.files.values()
        while not file.staged:
            await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await asked.wait()
            for number in (1, 2):
                await mount.ops.write(fh, 0, DATA[number * CHUNK_SIZE : (number + 1) * CHUNK_SIZE])
                await mount.ops.fsync(fh, False)
            await mount.write_file("photos/g", DATA[:CHUNK_SIZE])
            gate.set()
        assert found == DATA[2 * CHUNK_SIZE : 2 * CHUNK_SIZE + 4096]
        await mount.close(fh)

    run_on_pool(scene, tmp_path)


def test_a_writer_beyond_the_bound_goes_on_with_the_next_chunk_that_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """It neither waits for all of them nor has what is left over written in crumbs."""
    monkeypatch.setattr(writeback, "FILE_MEMORY_MAX", 3 * CHUNK_SIZE)
    sizes: list[int] = []

    async def scene(mount: Unmounted) -> None:
        gate = trio.Semaphore(0)

        async def stage(bucket: Bucket, pieces: Sequence[Buffer], key: object = None) -> NewChunk:
            await gate.acquire()
            chunk: NewChunk = await through(bucket, pieces, key)
            sizes.append(chunk.length)
            return chunk

        through = mount.store.stage
        monkeypatch.setattr(mount.store, "stage", stage)
        fh = await mount.create("photos/f")
        written = 0

        async def write() -> None:
            nonlocal written
            for start in range(0, len(DATA), MIB):
                await mount.ops.write(fh, start, DATA[start : start + MIB])
                written = start + MIB

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            for number in range(CHUNKS - 3):
                await trio.testing.wait_all_tasks_blocked()
                assert (number + 3) * CHUNK_SIZE - MIB <= written <= (number + 3) * CHUNK_SIZE
                gate.release()
            for _ in range(3):
                gate.release()
        await mount.ops.fsync(fh, False)
        assert sizes == [CHUNK_SIZE] * CHUNKS
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == DATA

    run(scene)
