"""fsync(2) of a file whose last commits are durable and not in the catalogue yet."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.engine import engine as engine_room
from appliance.errors import Code, StoreError
from tests.fusefs.scenes import refused
from tests.fusefs.unmounted import Unmounted, unmounted_pool

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


def test_what_stood_before_a_failed_commit_is_read_and_stays(tmp_path: Path) -> None:
    """The loop hears of both in one instant; the failed one, which is tried again, is not all that happened."""

    async def main() -> None:
        async with unmounted_pool(tmp_path) as mount:
            linger(mount)
            failing = Failing(mount)
            await mount.write_file("photos/log", DATA)
            await mount.ops.files.commit_all()
            fh = await mount.open("photos/log", os.O_RDWR)
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
        async with unmounted_pool(tmp_path) as mount:
            linger(mount)
            failing = Failing(mount)
            await mount.write_file("photos/log", DATA)
            await mount.ops.files.commit_all()
            fh = await mount.open("photos/log", os.O_RDWR)
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
