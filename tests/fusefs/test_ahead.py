"""fsync(2) of a file whose last commits are durable and not in the catalogue yet."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from pyfuse3 import FUSEError

from appliance.catalogue import apply as catalogue
from appliance.engine import commit as commit_room
from appliance.engine import engine as engine_room
from appliance.engine.ticket import Ticket
from appliance.errors import Code, StoreError
from appliance.limits import GATHER_MAX, MIB
from appliance.upkeep.audit import audit
from tests.appliance.engine.test_ahead import Broken
from tests.fusefs.doors import StoreDoor
from tests.fusefs.scenes import refused
from tests.fusefs.unmounted import Unmounted, unmounted_pool
from tests.models.boxes import make_devices, make_pool, store_over

DATA = b"x" * 6000  # so small that a changed file is rewritten whole, unless it was synced


def linger(mount: Unmounted) -> None:
    """What is ahead of the index stays there as long as it takes to write and sync once more; what waits does not."""
    engine = mount.store.engine

    async def pause() -> None:
        for _ in range(100):
            if engine._inline:
                return
            await trio.lowlevel.checkpoint()

    engine._pause = pause


class Failing:
    """The next so many barriers of a store fail, as if a device did."""

    def __init__(self, mount: Unmounted) -> None:
        self.left = 0
        committer = mount.store.engine.committer
        barrier = committer._barrier

        def fail(*arguments: Any) -> None:
            if self.left:
                self.left -= 1
                raise StoreError(Code.UNAVAILABLE, "a device failed: try again")
            barrier(*arguments)

        committer._barrier = fail


@asynccontextmanager
async def opened_log(directory: Path) -> AsyncIterator[tuple[Unmounted, Failing, int]]:
    """A mount that lingers, how its barriers fail, and its photos/log: DATA, durable, and open to be written."""
    async with unmounted_pool(directory) as mount:
        linger(mount)
        failing = Failing(mount)
        await mount.write_file("photos/log", DATA)
        await mount.ops.files.commit_all()
        yield mount, failing, await mount.open("photos/log", os.O_RDWR)


def test_what_stood_before_a_failed_commit_is_read_and_stays(tmp_path: Path) -> None:
    """The loop hears of both in one instant; the failed one, which is tried again, is not all that happened."""

    async def main() -> None:
        async with opened_log(tmp_path) as (mount, failing, fh):
            await mount.ops.write(fh, 6000, b"a" * 100)
            await mount.ops.fsync(fh, False)
            failing.left = 4  # what was answered is tried again at once, and by who waits
            await mount.ops.write(fh, 6100, b"b" * 100)
            async with refused(errno.EIO):
                await mount.ops.fsync(fh, False)
            assert failing.left == 0
            wanted = DATA + b"a" * 100 + b"b" * 100
            assert await mount.read_all(fh) == wanted
            await mount.ops.fsync(fh, False)
            assert await mount.door.get("photos", b"log") == wanted
            await mount.close(fh)

    trio.run(main)


def test_fsync_tells_of_a_commit_that_failed_before_the_one_that_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop may come to it before it has taken in the failure of what was written earlier."""
    monkeypatch.setattr(engine_room, "BATCH_COMMANDS_MAX", 1)

    async def main() -> None:
        async with opened_log(tmp_path) as (mount, failing, fh):
            file = mount.ops.files.files[await mount.inode("photos/log")]
            for _ in range(20):  # the loop's order is by chance
                failing.left = 2
                await mount.ops.write(fh, 0, b"a" * 100)
                await mount.ops.files.commit(file)
                await mount.ops.write(fh, 3000, b"b" * 100)
                async with refused(errno.EIO):
                    await mount.ops.fsync(fh, False)
                assert failing.left == 0
                await mount.ops.fsync(fh, False)
            await mount.close(fh)

    trio.run(main)


def test_what_was_synced_and_cannot_be_shown_is_refused_until_a_restart(tmp_path: Path) -> None:
    """I10: neither door shows the bucket as it was before; others are read as ever, also what a program has written
    there before, or tries to write now."""
    devices = make_devices(2)
    make_pool(devices)

    async def stop(mount: Unmounted) -> None:
        engine = mount.store.engine
        for bucket in ("photos", "other", "mine"):
            await mount.store.create_bucket(bucket, "me")
            await mount.write_file(f"{bucket}/log", DATA)
            await mount.ops.files.commit_all()
            if bucket != "mine":  # of which S3 was not asked since
                assert await mount.door.get(bucket, b"log") == DATA
        linger(mount)
        inode = await mount.inode("photos/log")
        closed = await mount.open("photos/log", os.O_RDWR)
        fh = await mount.open("photos/log", os.O_RDONLY)
        await mount.ops.write(closed, 0, b"new")
        await mount.ops.fsync(closed, False)
        assert engine.committer.is_ahead
        broken: Any = Broken(engine.committer.connection)
        engine.committer.connection = broken
        await mount.close(closed)
        with suppress(StoreError):
            await mount.store.settled(mount.store.bucket("photos"))
        await trio.testing.wait_all_tasks_blocked()
        for ask in (
            lambda: mount.ops.read(fh, 0, 10),
            lambda: mount.ops.getattr(inode, mount.ctx),
            lambda: mount.listdir("photos"),
            lambda: mount.stat("photos/log"),
            lambda: mount.write_file("photos/more", b""),
        ):
            async with refused(errno.EIO):
                await ask()
        assert mount.ops.read_directly(fh, 0, 10, print, print, print) is False, "nor is it read past the handlers"
        assert sorted(await mount.listdir("")) == [b"mine", b"other", b"photos"]
        with suppress(FUSEError, StoreError):
            await mount.write_file("other/more", b"")
            await mount.ops.files.commit_all()
        for bucket in ("other", "mine"):
            assert await mount.read_file(f"{bucket}/log") == DATA, bucket
            assert await mount.door.get(bucket, b"log") == DATA, bucket
        await mount.ops.release(fh)

    async def main() -> None:
        async with store_over(devices, tmp_path / "catalogue.db") as store:
            mount = Unmounted(store, StoreDoor(store))
            async with trio.open_nursery() as nursery:
                await nursery.start(mount.ops.run)
                await stop(mount)
                nursery.cancel_scope.cancel()
            assert not store.engine.when_hidden
        async with store_over(devices, tmp_path / "catalogue.db") as store:
            mount = Unmounted(store, StoreDoor(store))
            assert await mount.read_file("photos/log") == b"new" + DATA[3:]
            assert (await audit(store)).healthy

    trio.run(main)


@pytest.mark.parametrize("size", [100, GATHER_MAX, 3 * MIB, 20 * MIB])
def test_what_was_synced_is_tried_again_whether_it_is_in_memory_or_on_devices(tmp_path: Path, size: int) -> None:
    """A device has failed the batch, and not the pages: nobody is told, and no page is given to anybody meanwhile."""

    async def main() -> None:
        async with unmounted_pool(tmp_path) as mount:
            failing = Failing(mount)
            data = random.Random(size).randbytes(size)
            fh = await mount.create("photos/f")
            for start in range(0, size, MIB):
                await mount.ops.write(fh, start, data[start : start + MIB])
            failing.left = 1
            await mount.ops.fsync(fh, False)
            assert failing.left == 0
            mount.store.engine.retrieval.cache.clear()
            assert await mount.read_all(fh) == data
            assert await mount.door.get("photos", b"f") == data
            await mount.close(fh)
            await mount.ops.files.commit_all()
            assert (await audit(mount.store, verify=True)).healthy

    trio.run(main)


def test_little_is_not_answered_by_the_writer_while_a_failure_was_not_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop has heard of a commit that failed and of a later one that stands, and has taken in neither: what the
    first had is in memory alone."""
    monkeypatch.setattr(engine_room, "BATCH_COMMANDS_MAX", 1)

    async def main() -> None:
        async with unmounted_pool(tmp_path) as mount:
            await mount.write_file("photos/log", DATA)
            await mount.ops.files.commit_all()
            engine, files, gate = mount.store.engine, mount.ops.files, trio.Event()
            fh = await mount.open("photos/log", os.O_RDWR)
            file = files.files[await mount.inode("photos/log")]

            async def pause() -> None:
                if not gate.is_set():
                    await gate.wait()

            stand, taken = engine._stand, []

            def stood(tickets: Sequence[Ticket]) -> None:
                stand(tickets)
                failed = [commit.ticket.error is not None for commit in file.pending]
                taken.append((failed, files.submit_little(file)))

            monkeypatch.setattr(engine, "_pause", pause)
            monkeypatch.setattr(engine, "_stand", stood)
            await mount.ops.write(fh, 0, b"a" * 100)
            await files.commit(file)
            await mount.ops.write(fh, 3000, b"b" * 100)
            async with trio.open_nursery() as nursery:

                async def sync() -> None:
                    async with refused(errno.EIO):
                        await mount.ops.fsync(fh, False)

                nursery.start_soon(sync)
                await trio.testing.wait_all_tasks_blocked()
                await mount.ops.write(fh, 5000, b"c" * 100)
                Failing(mount).left = 2
                gate.set()
            assert taken[0] == ([True, False], None)
            await mount.ops.fsync(fh, False)
            await mount.close(fh)

    trio.run(main)


def never() -> None:
    """No answer is due."""
    raise AssertionError


class Refusing:
    """The next commands are refused, those without an error done: as a quota or a lock does, not a device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, mount: Unmounted) -> None:
        self.errors: list[StoreError | None] = []
        self.later: list[tuple[Any, ...]] = []  # what the loop was to be told of
        done = catalogue.apply

        def apply(*arguments: Any) -> Any:
            error = self.errors.pop(0) if self.errors else None
            if error is not None:
                raise error
            return done(*arguments)

        monkeypatch.setattr(commit_room, "apply", apply)
        self._engine = mount.store.engine

    @contextmanager
    def held(self) -> Iterator[Callable[[], None]]:
        """As if the writer were in another thread and the loop busy: it hears of what was done when it is called, at
        the latest in the end."""

        def tell(*told: Any) -> bool:
            self.later.append(told)
            return True

        def deliver() -> None:
            self._engine.__dict__.pop("_tell", None)
            while self.later:
                function, *arguments = self.later.pop(0)
                function(*arguments)

        self._engine._tell = tell
        try:
            yield deliver
        finally:
            deliver()


def test_no_sync_succeeds_behind_a_refused_commit_that_the_loop_has_not_taken_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Durable is what is synced now, but not what was written before it."""

    async def main() -> None:
        async with opened_log(tmp_path) as (mount, _, fh):
            refusing = Refusing(monkeypatch, mount)
            file = mount.ops.files.files[await mount.inode("photos/log")]
            await mount.ops.write(fh, 0, b"a" * 100)
            await mount.ops.fsync(fh, False)  # it stands, and what is refused next takes nothing back
            refusing.errors = [StoreError(Code.IO_ERROR)]
            await mount.ops.write(fh, 1000, b"b" * 100)
            ticket = mount.ops.files.submit_little(file)
            assert ticket is not None
            assert not await ticket.stands()
            assert (ticket.durable, ticket.settled) == (True, False), "its batch is over, its rows are not shown"
            await mount.ops.write(fh, 2000, b"c" * 100)
            assert not mount.ops.sync_directly(fh, never, never)
            async with refused(errno.EIO):
                await mount.ops.fsync(fh, False)
            await mount.ops.fsync(fh, False)
            wanted = b"a" * 100 + DATA[100:2000] + b"c" * 100 + DATA[2100:]
            assert await mount.read_all(fh) == await mount.door.get("photos", b"log") == wanted
            await mount.close(fh)

    trio.run(main)


def test_no_sync_succeeds_behind_a_refused_commit_of_the_same_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was synced is durable, by the writer's thread, before the loop knows that what was closed before is not."""

    async def main() -> None:
        async with opened_log(tmp_path) as (mount, _, fh):
            refusing = Refusing(monkeypatch, mount)
            file = mount.ops.files.files[await mount.inode("photos/log")]
            for directly in (False, True):
                await mount.ops.fsync(fh, False)
                await mount.ops.files.commit_all()
                refusing.errors = [StoreError(Code.IO_ERROR), None]
                with refusing.held() as deliver:
                    await mount.ops.write(fh, 0, b"a" * 100)
                    closed = await mount.ops.files.commit(file)
                    await mount.ops.write(fh, 1000, b"b" * 100)
                    synced = await mount.ops.files.commit(file, synced=True, late=True)
                    while not refusing.later:
                        await trio.lowlevel.checkpoint()
                    assert closed is not None
                    assert synced is not None
                    assert closed.ticket.error is not None
                    assert (synced.ticket.durable, synced.ticket.settled) == (True, False)
                    if directly:
                        await mount.ops.write(fh, 2000, b"c" * 100)
                        assert not mount.ops.sync_directly(fh, never, never)
                    async with trio.open_nursery() as nursery:

                        async def sync() -> None:
                            async with refused(errno.EIO):
                                await mount.ops.fsync(fh, False)

                        nursery.start_soon(sync)
                        await trio.testing.wait_all_tasks_blocked()
                        deliver()
                await mount.ops.fsync(fh, False)
            await mount.close(fh)

    trio.run(main)
