"""Devices that vanish under a mount: what is there is read from the others, what is written goes to the others."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from appliance.limits import GATHER_MAX, MIB
from tests.doubles.disks import MemoryDevice
from tests.fusefs.doors import StoreDoor
from tests.fusefs.scenes import refused
from tests.fusefs.unmounted import Unmounted
from tests.models.boxes import DEVICE_SIZE, make_pool, store_over

SIZES = {"inline": 100, "gathered": GATHER_MAX, "pages": 9 * MIB}


class Vanishing(MemoryDevice):
    """Answers until it is gone."""

    gone = False

    def _require(self) -> None:
        if self.gone:
            raise OSError(errno.EIO, "gone")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._require()
        super().read_into(offset, buffer)

    def write(self, offset: int, buffer: bytes | bytearray | memoryview) -> None:
        self._require()
        super().write(offset, buffer)

    def flush(self) -> None:
        self._require()
        super().flush()


def content(name: str, turn: int) -> bytes:
    """Another for each."""
    return (b"%s %d " % (name.encode(), turn) * SIZES[name])[: SIZES[name]]


def over(directory: Path, scene: Callable[[Unmounted, list[Vanishing]], Awaitable[None]]) -> None:
    """The scene on a mount over three devices, two copies of everything."""
    devices = [Vanishing(DEVICE_SIZE, f"device-{number}") for number in range(3)]

    async def main() -> None:
        make_pool(devices, copies=2, journals=2)
        async with store_over(devices, directory / "catalogue.db") as store:
            await store.create_bucket("photos", "me", copies=2)
            mount = Unmounted(store, StoreDoor(store))
            async with trio.open_nursery() as nursery:
                await nursery.start(mount.ops.files.run)
                await scene(mount, devices)
                nursery.cancel_scope.cancel()

    trio.run(main)


async def written(mount: Unmounted, turn: int) -> None:
    """Every kind of body, synced, by way of files that are open already."""
    for name in SIZES:
        path = f"photos/{name}"
        fh = await (mount.open(path, os.O_RDWR) if await mount.exists(path) else mount.create(path))
        data = content(name, turn)
        for start in range(0, len(data), MIB):
            await mount.ops.write(fh, start, data[start : start + MIB])
        await mount.ops.fsync(fh, False)
        await mount.close(fh)


async def compared(mount: Unmounted, turn: int) -> None:
    """From the devices, through both doors."""
    mount.store.engine.retrieval.cache.clear()
    mount.store.engine.pool.forget_headers()
    for name in SIZES:
        assert await mount.read_file(f"photos/{name}") == content(name, turn), name
        assert await mount.door.get("photos", name.encode()) == content(name, turn), name


@pytest.mark.slow
def test_a_device_that_vanishes_under_the_mount_is_not_noticed(tmp_path: Path) -> None:
    async def scene(mount: Unmounted, devices: list[Vanishing]) -> None:
        await written(mount, 1)
        devices[0].gone = True
        await compared(mount, 1)
        await written(mount, 2)
        await compared(mount, 2)
        assert not mount.ops.files.memory

    over(tmp_path, scene)


@pytest.mark.slow
def test_what_the_devices_that_are_left_cannot_hold_is_refused_and_what_they_hold_is_read(tmp_path: Path) -> None:
    """Two copies have no place on one device: fsync says so, each time; nothing that was there is lost."""

    async def scene(mount: Unmounted, devices: list[Vanishing]) -> None:
        await written(mount, 1)
        devices[0].gone = True
        await written(mount, 2)
        devices[2].gone = True
        fh = await mount.create("photos/new")
        await mount.ops.write(fh, 0, content("gathered", 3))
        for _ in range(2):
            async with refused(errno.EIO):
                await mount.ops.fsync(fh, False)
        await compared(mount, 2)
        assert await mount.ops.read(fh, 0, GATHER_MAX) == content("gathered", 3), "it is still in memory"
        devices[2].gone = False
        await mount.unlink("photos/new")
        await mount.close(fh)

    over(tmp_path, scene)
