"""Whether writer and devices answer: what hangs is silence, what fails has spoken."""

from __future__ import annotations

import errno
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.errors import Code, StoreError
from appliance.model import NO_ATTRIBUTES
from appliance.store import ObjectStore
from tests.doubles.disks import MemoryDevice
from tests.models.boxes import DEVICE_SIZE, make_pool, store_over


class Moody(MemoryDevice):
    """Reads wait while `gate` is closed, and fail while `broken`."""

    def __init__(self, name: str) -> None:
        super().__init__(DEVICE_SIZE, name)
        self.gate = threading.Event()
        self.gate.set()
        self.broken = False
        self.reads = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.reads += 1
        self.gate.wait()
        if self.broken:
            raise OSError(errno.EIO, "broken", self.name)
        super().read_into(offset, buffer)


def on_two(tmp_path: Path, work: Callable[[ObjectStore, Moody, Moody], Awaitable[None]]) -> None:
    """The work, on a running pool whose first device carries the journal."""
    ssd, hdd = Moody("ssd"), Moody("hdd")
    make_pool([ssd, hdd])

    async def main() -> None:
        async with store_over([ssd, hdd], tmp_path / "catalogue.db", threaded=True) as store:
            try:
                await work(store, ssd, hdd)
            finally:
                ssd.gate.set()
                hdd.gate.set()

    trio.run(main)


def test_every_device_is_read_or_those_that_every_commit_needs(tmp_path: Path) -> None:
    async def work(store: ObjectStore, ssd: Moody, hdd: Moody) -> None:
        before = ssd.reads, hdd.reads
        await store.check_ready()
        assert (ssd.reads, hdd.reads) == (before[0] + 1, before[1] + 1)
        await store.check_ready(journals_only=True)
        assert (ssd.reads, hdd.reads) == (before[0] + 2, before[1] + 1)

    on_two(tmp_path, work)


def test_a_device_that_hangs_does_not_answer_and_is_asked_once(tmp_path: Path) -> None:
    async def work(store: ObjectStore, ssd: Moody, hdd: Moody) -> None:
        hdd.gate.clear()
        before = hdd.reads
        answered = trio.Event()

        async def ask() -> None:
            await store.check_ready()
            answered.set()

        for _ in range(30):  # who gives up leaves nothing behind
            with trio.move_on_after(0):
                await ask()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert not answered.is_set()
            await store.check_ready(journals_only=True)
            bucket = await store.create_bucket("bucket", "me")
            await store.put_object(bucket, b"k", store.small_body(b"x"), "e", NO_ATTRIBUTES)  # the others work
            hdd.gate.set()
        assert answered.is_set()
        assert hdd.reads == before + 1

    on_two(tmp_path, work)


def test_a_writer_that_hangs_does_not_answer(tmp_path: Path) -> None:
    async def work(store: ObjectStore, ssd: Moody, hdd: Moody) -> None:
        begun, gate, answered = trio.Event(), threading.Event(), trio.Event()
        token = trio.lowlevel.current_trio_token()

        def hang() -> None:
            token.run_sync_soon(begun.set)
            gate.wait()

        async def ask() -> None:
            await store.check_ready()
            answered.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.engine.between_batches, hang)
            await begun.wait()
            nursery.start_soon(ask)
            await store.engine.answering.ask()
            await trio.testing.wait_all_tasks_blocked()
            assert not answered.is_set()
            gate.set()
        assert answered.is_set()

    on_two(tmp_path, work)


def test_an_error_is_an_answer_unless_nothing_else_is_said(tmp_path: Path) -> None:
    async def work(store: ObjectStore, ssd: Moody, hdd: Moody) -> None:
        hdd.broken = True
        await store.check_ready()
        assert [device.read_errors for device in store.devices()] == [0, 1]
        ssd.broken = True
        with pytest.raises(StoreError, match="no device can be read") as caught:
            await store.check_ready()
        assert caught.value.code is Code.IO_ERROR
        ssd.broken = hdd.broken = False
        await store.check_ready()

    on_two(tmp_path, work)
