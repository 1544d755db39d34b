"""What the other door changes (H4, H5), without a kernel."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pyfuse3
import pytest
import trio
import trio.testing

from appliance.model import Change
from appliance.store import ObjectStore
from fusefs.inodes import ROOT
from fusefs.mount import KernelCalls
from tests.fusefs.memory_store import MemoryStore
from tests.fusefs.scenes import Play, refused, run, run_on_pool, settled
from tests.fusefs.unmounted import SlowKernel, Unmounted


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


def test_a_directory_that_s3_takes_away_stays_with_who_has_it_open(tmp_path: Path) -> None:
    """As after rmdir(2): it can be looked at and has no entries."""

    async def scene(mount: Unmounted) -> None:
        await mount.door.put("photos", b"d/a", b"1")
        inode = await mount.inode("photos/d")
        fh = await mount.ops.opendir(inode, mount.ctx)
        await mount.door.delete("photos", b"d/a")
        assert not await mount.exists("photos/d")
        assert (await mount.ops.getattr(inode, mount.ctx)).st_nlink == 0
        assert await mount.list_once(fh, 0, 10) == []
        await mount.ops.releasedir(fh)
        async with refused(errno.ESTALE):
            await mount.ops.getattr(inode, mount.ctx)
        async with refused(errno.ESTALE):
            await mount.ops.opendir(inode, mount.ctx)

    run_on_pool(scene, tmp_path)


def test_h5_a_second_change_waits_for_what_the_first_began_to_forget(play: Play) -> None:
    """The kernel holds what it holds until it is done, whoever asked it."""

    async def scene(mount: Unmounted) -> None:
        kernel = mount.ops.invalidation.kernel = SlowKernel()
        assert not await mount.exists("photos/a")
        answered: list[str] = []

        async def put(name: str) -> None:
            await mount.door.put("photos", b"a", name.encode())
            answered.append(name)

        async with trio.open_nursery() as nursery:
            for name in ("first", "second"):
                nursery.start_soon(put, name)
                await trio.testing.wait_all_tasks_blocked(0.02)
            assert answered == []
            kernel.gate.set()
        assert sorted(answered) == ["first", "second"]

    play(scene)


def test_h5_what_a_request_of_the_kernel_is_changing_it_may_still_hold(play: Play) -> None:
    """Its process hears the answer when it runs again; until then the old name leads somewhere."""

    async def scene(mount: Unmounted) -> None:
        bucket = await mount.inode("photos")
        for key in (b"removed", b"moved"):
            await mount.door.put("photos", key, b"old")
            await mount.inode(b"photos/" + key)
        await mount.unlink("photos/removed")
        await mount.rename("photos/moved", "photos/other")
        mount.kernel.names.clear()
        for key in (b"removed", b"moved"):
            await mount.door.put("photos", key, b"new")
            assert (bucket, key) in mount.kernel.names

    play(scene)


def test_h5_the_links_of_a_file_that_is_known_by_another_name() -> None:
    async def scene(mount: Unmounted) -> None:
        for name in ("here", "there"):
            await mount.mkdir(f"photos/{name}")
        await mount.write_file("photos/here/a", b"one file")
        await mount.link("photos/here/a", "photos/there/b")
        there = await mount.inode("photos/there")
        assert (await mount.stat("photos/here/a")).st_nlink == 2
        file = await mount.inode("photos/here/a")
        await settled(mount)
        known = mount.ops.inodes._known  # the kernel has forgotten the other directory
        del known[there]
        mount.kernel.inodes.clear()
        await mount.door.delete("photos", b"there/b")
        assert file in mount.kernel.inodes

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


def test_the_session_outlives_the_threads_that_are_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """libfuse looks at it again when a notification returns, also one that nobody waits for any more."""
    entered, may_return = threading.Event(), threading.Event()

    def invalidate_entry(*_: object) -> None:
        entered.set()
        assert may_return.wait(60)
        raise OSError(errno.ENOTCONN, "the connection is ended")

    monkeypatch.setattr(pyfuse3, "invalidate_entry", invalidate_entry)
    calls = KernelCalls(ObjectStore.memory)
    assert calls.are_back(0)
    thread = threading.Thread(target=calls.forget_name, args=(1, b"name"))
    thread.start()
    assert entered.wait(60)
    assert not calls.are_back(0)
    may_return.set()
    assert calls.are_back(60)
    thread.join()
