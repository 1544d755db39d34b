"""Access times by relatime, and times that a commit must not change."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import msgspec
import pytest
import trio

from appliance.authority import MOUNT
from fusefs.times import DAY_NS, STEP, Times, clock_ns
from tests.fusefs.scenes import Play, run_on_pool, settled
from tests.fusefs.unmounted import Unmounted

OLD = 1_000_000_000 * 10**9  # September 2001


async def times(mount: Unmounted, path: str) -> tuple[int, int, int]:
    found = await mount.stat(path)
    return found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns


async def tick() -> None:
    """The clock, which steps some milliseconds at a time, has moved on."""
    begun = clock_ns()
    while clock_ns() == begun:
        await trio.lowlevel.checkpoint()


async def let_go(mount: Unmounted) -> None:
    """Nothing in memory: what is told is the catalogue's."""
    await mount.ops.files.commit_all()
    await settled(mount)
    assert not mount.ops.files.files
    assert not mount.ops.files.times.read
    assert not mount.ops.files.times.changed


def test_a_commit_changes_no_time(tmp_path: Path) -> None:
    """Between write and commit seconds may pass: git takes a file whose ctime moved for a changed one, and tar sets a
    directory's mtime while its files are still uncommitted."""

    async def scene(mount: Unmounted) -> None:
        await mount.mkdir("photos/d")
        await mount.mkdir("photos/e")
        await mount.mkdir("photos/f")
        for directory in "def":
            await mount.create(f"photos/{directory}/file")
        handles = list(mount.ops.handles)
        await mount.setattr("photos/e", st_mtime_ns=OLD)
        await mount.setattr("photos/f", st_mode=stat.S_IFDIR | 0o700)
        before = [await times(mount, "photos/" + path) for path in ("d", "d/file", "e", "f")]
        assert before[0][1] == before[0][2] == before[1][2]
        assert before[2][1] == OLD
        await tick()
        for handle in handles:
            await mount.close(handle)
        await let_go(mount)
        assert [await times(mount, "photos/" + path) for path in ("d", "d/file", "e", "f")] == before

    run_on_pool(scene, tmp_path)


def test_a_file_that_no_commit_took_moves_its_directory_when_it_goes(tmp_path: Path) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.mkdir("photos/d")
        _, empty, _ = await times(mount, "photos/d")
        await tick()
        await mount.create("photos/d/file")
        _, made, _ = await times(mount, "photos/d")
        await tick()
        await mount.unlink("photos/d/file")
        _, mtime, ctime = await times(mount, "photos/d")
        assert empty < made < mtime == ctime
        for handle in list(mount.ops.handles):
            await mount.close(handle)
        await let_go(mount)
        assert (await times(mount, "photos/d"))[1:] == (mtime, ctime)

    run_on_pool(scene, tmp_path)


def test_names_of_an_open_file_change_its_ctime(play: Play) -> None:
    """Also what a later commit writes: it must not set the clock back."""

    async def scene(mount: Unmounted) -> None:
        handle = await mount.create("photos/a")
        await mount.ops.fsync(handle, False)
        *_, ctime = await times(mount, "photos/a")
        await mount.link("photos/a", "photos/b")
        *_, linked = await times(mount, "photos/a")
        await mount.rename("photos/a", "photos/c")
        *_, renamed = await times(mount, "photos/c")
        await mount.unlink("photos/b")
        *_, unlinked = await times(mount, "photos/c")
        assert ctime <= linked <= renamed <= unlinked
        await mount.setattr("photos/c", st_mtime_ns=OLD)
        *_, last = await times(mount, "photos/c")
        await mount.close(handle)
        await let_go(mount)
        assert (await times(mount, "photos/c"))[2] == last >= unlinked

    play(scene)


def test_reading_moves_the_access_time_once(tmp_path: Path) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/f", b"bytes")
        await mount.symlink("f", "photos/link")
        await mount.mkdir("photos/d")
        await let_go(mount)
        before = mount.store.node(await mount.inode("photos/f"))
        for path in ("photos/f", "photos/link", "photos/d"):
            await mount.setattr(path, st_atime_ns=OLD, st_mtime_ns=OLD + 1)
        await let_go(mount)
        await tick()  # an access in the instant of the change is not newer
        started = clock_ns()

        async def read_all() -> list[tuple[int, int, int]]:
            assert await mount.read_file("photos/f") == b"bytes"
            assert await mount.ops.readlink(await mount.inode("photos/link"), mount.ctx) == b"f"
            await mount.listdir("photos/d")
            return [await times(mount, path) for path in ("photos/f", "photos/link", "photos/d")]

        read = await read_all()
        assert all(atime >= started and mtime == OLD + 1 for atime, mtime, _ in read)
        assert await read_all() == read, "already newer than the last change"
        await let_go(mount)
        assert [await times(mount, path) for path in ("photos/f", "photos/link", "photos/d")] == read
        after = mount.store.node(before.id)
        assert (after.etag, after.written_ns, after.generation) == (before.etag, before.written_ns, before.generation)

    run_on_pool(scene, tmp_path)


def test_a_close_stands_for_bytes_that_the_kernel_had(play: Play) -> None:
    """Most reads never reach us; where the file was opened to be read only, it counts as read."""

    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/f", b"bytes")
        await mount.setattr("photos/f", st_atime_ns=OLD)
        await mount.close(await mount.open("photos/f", os.O_RDWR))
        assert (await times(mount, "photos/f"))[0] == OLD, "opened to be written: nothing was read"
        await mount.close(await mount.open("photos/f"))
        atime, mtime, _ = await times(mount, "photos/f")
        assert atime >= mtime
        await mount.setattr("photos/f", st_atime_ns=OLD)
        assert (await times(mount, "photos/f"))[0] == OLD, "what is said overrules what was read"
        await let_go(mount)
        assert (await times(mount, "photos/f"))[0] == OLD

    play(scene)


def test_who_asked_not_to_be_noticed_moves_nothing(play: Play) -> None:
    """O_NOATIME, open(2): backup programs and indexers."""

    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/f", b"bytes")
        await mount.setattr("photos/f", st_atime_ns=OLD)
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_DIRECT):
            fh = await mount.open("photos/f", flags | os.O_NOATIME)
            assert await mount.read_all(fh) == b"bytes"
            await mount.close(fh)
            assert (await times(mount, "photos/f"))[0] == OLD, flags
        assert await mount.read_file("photos/f") == b"bytes"
        assert (await times(mount, "photos/f"))[0] > OLD

    play(scene)


def test_a_mount_that_is_read_only_moves_nothing(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/f", b"bytes")
        await mount.setattr("photos/f", st_atime_ns=OLD)
        await let_go(mount)
        mount.ops.permits.principal = msgspec.structs.replace(MOUNT, read_only=True)
        await mount.read_file("photos/f")
        await mount.listdir("photos")
        assert not mount.ops.files.times.read
        assert (await times(mount, "photos/f"))[0] == OLD

    play(scene)


@pytest.mark.parametrize(
    ("atime", "mtime", "ctime", "due"),
    [
        (5, 4, 4, False),
        (5, 5, 4, True),
        (5, 4, 5, True),
        (5, 9, 4, True),
        (-DAY_NS - 10**9, -2 * DAY_NS, -2 * DAY_NS, True),
    ],
)
def test_relatime(atime: int, mtime: int, ctime: int, due: bool) -> None:
    """mount(8): moved where it is not newer than the last change, or a day old."""
    kept = Times(None)  # type: ignore[arg-type]
    now = clock_ns()
    assert kept.is_due(now + atime, now + mtime, now + ctime) is due


def test_many_are_committed_in_the_background(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        kept = mount.ops.files.times
        for number in range(STEP + 5):
            await mount.symlink("x", f"photos/{number}")
        for number in range(STEP + 5):
            await mount.ops.readlink(await mount.inode(f"photos/{number}"), mount.ctx)
        told = [await times(mount, f"photos/{number}") for number in range(STEP + 5)]
        await mount.unlink("photos/0")
        assert len(kept.read) >= STEP + 5
        await kept.commit()
        assert not kept.read
        assert [await times(mount, f"photos/{number}") for number in range(1, STEP + 5)] == told[1:]

    play(scene)


def test_a_new_owner_of_a_special_file_has_no_set_user_id(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        parent, name = await mount.split("photos/pipe")
        await mount.ops.mknod(parent, name, stat.S_IFIFO | 0o6755, 0, mount.ctx)
        await mount.setattr("photos/pipe", st_uid=7)
        assert stat.S_IMODE((await mount.stat("photos/pipe")).st_mode) == 0o755
        await mount.mkdir("photos/d", 0o2755)
        await mount.setattr("photos/d", st_gid=7)
        assert stat.S_IMODE((await mount.stat("photos/d")).st_mode) == 0o2755, "of a directory they mean something else"

    play(scene)
