"""The other door's commits in the midst of a handler: one that has decided but is seen by nobody yet, and one that is
seen from the middle on."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.errors import Code, StoreError
from appliance.upkeep.audit import audit
from tests.doubles.disks import MemoryDevice
from tests.fusefs.doors import StoreDoor
from tests.fusefs.scenes import refused, run, settled
from tests.fusefs.unmounted import Unmounted
from tests.models.boxes import DEVICE_SIZE, make_pool, store_over


class Gated(MemoryDevice):
    """Its flush waits while the gate is shut: a batch is then between its decision and its commit."""

    def __init__(self, name: str) -> None:
        super().__init__(DEVICE_SIZE, name)
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = threading.Event()

    def flush(self) -> None:
        self.waiting.set()
        assert self.gate.wait(60)
        super().flush()


def with_a_delete_under_way(directory: Path, scene: Callable[[Unmounted], Awaitable[None]]) -> None:
    """`d/k`, all there is in the directory, is being deleted through S3 while the scene begins; the gate opens as soon
    as the scene waits for it."""
    device = Gated("ssd")

    async def main() -> None:
        make_pool([device])
        async with store_over([device], directory / "catalogue.db", threaded=True) as store:
            await store.create_bucket("photos", "me")
            mount = Unmounted(store, StoreDoor(store))
            await mount.door.put("photos", b"d/k", b"old" * 100_000)
            async with trio.open_nursery() as nursery:
                await nursery.start(mount.ops.run)
                device.waiting.clear()
                device.gate.clear()
                async with trio.open_nursery() as deleting:
                    deleting.start_soon(mount.door.delete, "photos", b"d/k")
                    assert await trio.to_thread.run_sync(device.waiting.wait, 20)
                    deleting.start_soon(scene, mount)
                    await trio.testing.wait_all_tasks_blocked(0.01)
                    device.gate.set()
                await mount.ops.files.commit_all()
                nursery.cancel_scope.cancel()
            assert not mount.ops.files.files
            assert not store.engine.held_nodes()
            report = await audit(store, verify=True)
            assert report.healthy, report.problems

    trio.run(main)


def test_a_hold_that_comes_too_late_says_so(tmp_path: Path) -> None:
    async def scene(mount: Unmounted) -> None:
        node = await mount.store.look_up(mount.store.bucket("photos"), b"d/k")
        assert not mount.store.hold(node.id)
        await mount.store.settle()
        with pytest.raises(StoreError) as caught:
            mount.store.node(node.id)
        assert caught.value.code is Code.NO_SUCH_NODE

    with_a_delete_under_way(tmp_path, scene)


def test_an_open_of_what_is_being_removed_is_stale(tmp_path: Path) -> None:
    """Not an open file that has lost its bytes (H4): the kernel looks up again, and finds nothing."""

    async def scene(mount: Unmounted) -> None:
        inode = await mount.inode("photos/d/k")
        async with refused(errno.ESTALE):
            await mount.ops.open(inode, 0, mount.ctx)
        assert not await mount.exists("photos/d/k")

    with_a_delete_under_way(tmp_path, scene)


def test_a_file_is_not_made_where_a_directory_is_being_removed(tmp_path: Path) -> None:
    """Its close would succeed and its commit find no directory: the bytes would be lost."""

    async def scene(mount: Unmounted) -> None:
        parent = await mount.inode("photos/d")
        async with refused(errno.ESTALE):
            await mount.ops.create(parent, b"new", 0o100644, 1, mount.ctx)
        assert not await mount.exists("photos/d")

    with_a_delete_under_way(tmp_path, scene)


def test_a_name_that_appears_in_the_midst_is_no_error() -> None:
    """open(O_CREAT) and rename look once: what S3 makes after that look is replaced, as if made before."""

    async def scene(mount: Unmounted) -> None:
        names: Any = mount.ops.names
        find = names.find
        looked = []

        def find_before(parent: int, name: bytes) -> object:
            """The first look is before S3's PUT."""
            looked.append(name)
            return None if name == b"new" and looked.count(name) == 1 else find(parent, name)

        root = await mount.inode("photos")
        await mount.door.put("photos", b"new", b"of S3")
        names.find = find_before
        info, _ = await mount.ops.create(root, b"new", stat.S_IFREG | 0o644, os.O_WRONLY, mount.ctx)
        await mount.ops.write(info.fh, 0, b"of the mount")
        await mount.close(info.fh)
        await settled(mount)
        assert await mount.door.get("photos", b"new") == b"of the mount"
        await mount.write_file("photos/old", b"renamed")
        looked.clear()
        await mount.ops.rename(root, b"old", root, b"new", 0, mount.ctx)
        assert await mount.door.get("photos", b"new") == b"renamed"

    run(scene)


def test_a_bucket_that_s3_deletes_as_soon_as_mkdir_made_it() -> None:
    """It was made, and is gone: no failure of ours."""

    async def scene(mount: Unmounted) -> None:
        real = mount.store.set_attributes

        async def set_and_delete(*arguments: Any, **options: Any) -> Any:
            node = await real(*arguments, **options)
            await mount.store.delete_bucket("other")
            return node

        mount.store.set_attributes = set_and_delete
        async with refused(errno.ENOENT):
            await mount.mkdir("other")
        assert await mount.listdir("") == [b"photos"]

    run(scene)
