"""A small file that a program syncs again and again: the journal's short path, then one page when it rests."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from appliance.upkeep.fold import Folder
from tests.fusefs.unmounted import unmounted_pool


def test_a_small_synced_file_takes_the_short_path(tmp_path: Path) -> None:
    async def main() -> None:
        async with unmounted_pool(tmp_path) as mount:

            def patches() -> int:
                count: int = mount.store.one("SELECT count(*) FROM patch")[0]
                return count

            await mount.write_file("photos/log", b"x" * 6000)
            await mount.ops.files.commit_all()
            devices = [item.device for item in mount.store.engine.pool.devices.values()]
            fh = await mount.open("photos/log", os.O_RDWR)
            before = [device.flushes for device in devices]
            for number in range(5):
                await mount.ops.write(fh, 6000 + 100 * number, b"%d" % number * 100)
                await mount.ops.fsync(fh, False)
            assert [device.flushes - old for device, old in zip(devices, before, strict=True)] == [5, 0]
            await mount.store.settle()  # it is durable before it is to be seen
            assert patches() == 5
            wanted = b"x" * 6000 + b"".join(b"%d" % number * 100 for number in range(5))
            assert await mount.read_all(fh) == wanted
            await Folder(mount.store, idle=0.0, pace=0.0).round()
            assert patches() == 0
            assert await mount.read_all(fh) == wanted
            await mount.close(fh)
            assert await mount.read_file("photos/log") == wanted
            await mount.write_file("photos/log", b"y" * 6000)
            await mount.ops.files.commit_all()
            assert patches() == 0, "what is written whole, and not synced, has its page at once"

    trio.run(main)
