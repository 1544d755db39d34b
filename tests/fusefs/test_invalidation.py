"""What the other door changes (H4, H5), without a kernel."""

from __future__ import annotations

import trio
import trio.testing

from appliance.model import Change
from fusefs.inodes import ROOT
from tests.fusefs.memory_store import MemoryStore
from tests.fusefs.scenes import Play, run, settled
from tests.fusefs.unmounted import Unmounted


# ---------------------------------------------------------------------- the other door
def test_an_s3_change_of_what_the_kernel_does_not_know_costs_nothing(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        assert mount.ops.invalidation.changed([Change(12345, b"a", False, 0, False)]) is None
        await mount.inode("photos")
        await mount.door.put("photos", b"a", b"1")
        mount.kernel.inodes.clear()
        await mount.door.put("photos", b"b", b"1")  # the directory's attributes were already forgotten
        assert (mount.kernel.names, mount.kernel.inodes) == ([], [])

    play(scene)


def test_h5_an_s3_change_is_invalidated_before_it_is_answered(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        bucket = await mount.inode("photos")
        await mount.door.put("photos", b"a", b"1")
        assert not await mount.exists("photos/absent")
        old = await mount.inode("photos/a")
        await mount.door.put("photos", b"a", b"22")
        assert (bucket, b"a") in mount.kernel.names
        assert old in mount.kernel.inodes
        assert (await mount.stat("photos/a")).st_size == 2
        await mount.door.put("photos", b"absent", b"")
        assert (bucket, b"absent") in mount.kernel.names
        mount.kernel.names.clear()
        await mount.door.delete("photos", b"a")
        assert (bucket, b"a") in mount.kernel.names
        assert not await mount.exists("photos/a")

    play(scene)


def test_a_directory_that_shadows_a_known_file_takes_its_name(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.door.put("photos", b"a", b"file")
        bucket = await mount.inode("photos")
        await mount.inode("photos/a")
        assert not await mount.exists("photos/.tierce~f~a")
        await mount.door.put("photos", b"a/b", b"below")
        assert {(bucket, b"a"), (bucket, b".tierce~f~a")} <= set(mount.kernel.names)
        assert await mount.listdir("photos") == [b".tierce~f~a", b"a"]
        assert await mount.read_file("photos/.tierce~f~a") == b"file"
        assert await mount.read_file("photos/a/b") == b"below"
        mount.kernel.names.clear()
        await mount.unlink("photos/a/b")
        await mount.rmdir("photos/a")
        await mount.ops.invalidation.close()
        assert (bucket, b".tierce~f~a") in mount.kernel.names
        assert await mount.read_file("photos/a") == b"file"

    play(scene)


def test_h4_an_open_file_keeps_its_content_when_s3_overwrites_it() -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.door.put("photos", b"f", b"old content")
        fh = await mount.open("photos/f")
        await mount.door.put("photos", b"f", b"new")
        assert await mount.read_all(fh) == b"old content"
        assert await mount.read_file("photos/f") == b"new"
        await mount.close(fh)
        assert not mount.store.holds

    run(scene)


def test_concurrent_creates_and_reads_settle(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        async def one(number: int) -> None:
            path = f"photos/{number % 50}"
            await mount.write_file(path, b"%d" % number)
            await mount.read_file(path)

        for start in range(0, 200, 50):
            async with trio.open_nursery() as nursery:
                for number in range(start, start + 50):
                    nursery.start_soon(one, number)
        await settled(mount)
        assert await mount.read_file("photos/7") == b"157"
        assert mount.ops.files.memory == 0
        assert not mount.ops.files.files

    play(scene)


def test_root_inode_is_no_node() -> None:
    assert MemoryStore().next_id > ROOT
