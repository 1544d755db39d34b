"""Places in a directory that stay what they were, and inodes found by their numbers: what NFS asks of a mount."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance import settings
from appliance.authority import MOUNT
from fusefs import listing, places
from fusefs.inodes import ROOT
from fusefs.permits import Permits
from fusefs.places import cookie_of
from tests.fusefs.scenes import Play, refused, run_on_pool, settled
from tests.fusefs.unmounted import Unmounted

COUNT = 40


async def made(mount: Unmounted) -> list[bytes]:
    """Names in the order of a listing: files of S3, directories, files that no commit has taken."""
    for number in range(0, COUNT, 4):
        await mount.door.put("photos", b"%02d" % number, b"")
        await mount.mkdir(b"photos/%02d" % (number + 1))
        await mount.create(b"photos/%02d" % (number + 2))
        await mount.write_file(b"photos/%02d" % (number + 3), b"x")
    return [b"%02d" % number for number in range(COUNT)]


async def names_from(mount: Unmounted, cookie: int) -> list[bytes]:
    """The rest of the directory through a handle of its own, as knfsd reads it."""
    fh = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
    names: list[bytes] = []
    while batch := await mount.list_once(fh, cookie, 5):
        names += [name for name, _, _ in batch]
        cookie = batch[-1][2]
    await mount.ops.releasedir(fh)
    return names


@pytest.mark.parametrize("remembered", [True, False])
def test_a_cookie_means_its_name_through_any_handle(
    play: Play, remembered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "SEEK_STEP", 7)
    if not remembered:
        monkeypatch.setattr(places, "KEPT_MAX", 0)

    async def scene(mount: Unmounted) -> None:
        expected = await made(mount)
        fh = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
        given = await mount.list_once(fh, 0, 1000)
        assert [name for name, _, _ in given] == expected
        await mount.ops.releasedir(fh)
        for at in range(0, COUNT, 3):
            assert await names_from(mount, given[at][2]) == expected[at + 1 :]
        await mount.ops.files.commit_all()
        await settled(mount)
        for at in range(1, COUNT, 3):
            assert await names_from(mount, given[at][2]) == expected[at + 1 :], "a commit moves nothing"
        gone = {expected[at] for at in range(COUNT) if at % 5 == 0}
        for name in gone:
            await (mount.rmdir if int(name) % 4 == 1 else mount.unlink)(b"photos/" + name)
        await mount.write_file("photos/11a", b"")
        left = sorted({*expected, b"11a"} - gone)
        for name, _, cookie in given:
            if remembered or name not in gone:
                assert await names_from(mount, cookie) == [each for each in left if each > name]
            else:
                async with refused(errno.EINVAL):
                    await names_from(mount, cookie)

    play(scene)


def test_a_handle_goes_back_to_what_was_removed(play: Play) -> None:
    """telldir(3) and seekdir(3), however much came and went, and however little is kept for others."""

    async def scene(mount: Unmounted) -> None:
        expected = await made(mount)
        fh: Any = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
        given = await mount.list_once(fh, 0, 1000)
        await mount.unlink("photos/00")
        await mount.unlink("photos/02")
        await mount.door.put("photos", b"00new", b"")
        for at in (0, 2, 1, 30):
            left = sorted({*expected, b"00new"} - {b"00", b"02"})
            told = [name for name, _, _ in await mount.list_once(fh, given[at][2], 1000)]
            assert told == [each for each in left if each > expected[at]]
        assert (await mount.list_once(fh, 0, 1))[0][0] == b"00new"

    play(scene)


def test_who_goes_back_and_forth_forgets_nothing(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts is how many names were listed since, not how often."""
    monkeypatch.setattr(places, "KEPT_MAX", COUNT + 1)

    async def scene(mount: Unmounted) -> None:
        expected = await made(mount)
        fh: Any = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
        given = await mount.list_once(fh, 0, 1000)
        gone = set(expected[::4])
        for name in gone:
            await mount.unlink(b"photos/" + name)
        for at in (*range(1, COUNT, 2), *range(0, COUNT, 4)):
            told = [name for name, _, _ in await mount.list_once(fh, given[at][2], 1000)]
            assert told == [name for name in expected[at + 1 :] if name not in gone]

    play(scene)


def test_what_is_remembered_is_bounded(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "KEPT_MAX", 2)

    async def scene(mount: Unmounted) -> None:
        for directory in range(4):
            for number in range(2):
                await mount.door.put("photos", b"%d/%d" % (directory, number), b"")
            await mount.listdir(f"photos/{directory}")
        kept = mount.ops.positions
        assert not kept._open
        assert [sorted(each.rows()) for each in kept._closed.values()] == [[b"0", b"1"]] * 2
        assert kept._kept == 4

    play(scene)


def test_dots_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.mkdir("photos/d")
        got: list[tuple[bytes, int, int]] = []

        def reply(token: object, name: bytes, attr: Any, cookie: int) -> bool:
            got.append((bytes(name), attr.st_ino, cookie))
            return len(got) % 2 == 1  # room for one

        monkeypatch.setattr("pyfuse3.readdir_reply", reply)
        token: Any = None
        bucket, directory = await mount.inode("photos"), await mount.inode("photos/d")
        for inode, parent in ((ROOT, ROOT), (bucket, ROOT), (directory, bucket)):
            got.clear()
            fh: Any = await mount.ops.opendir(inode, mount.ctx)
            await mount.ops.readdir(fh, 0, token)
            await mount.ops.readdir(fh, 1, token)
            assert got[:3] == [(b".", inode, 1), (b"..", parent, 2), (b"..", parent, 2)]
            assert inode != directory or len(got) == 3

    run_on_pool(scene, tmp_path)


def test_cookies_are_the_same_in_every_run() -> None:
    assert cookie_of(b"name") == 1_695_851_007_782_151_612
    assert cookie_of(b"name/") != cookie_of(b"name")
    assert 2 < cookie_of(b"") < 1 << 63


# ---------------------------------------------------------------------- by number


def test_an_inode_is_found_by_its_number(tmp_path: Path) -> None:
    """By "." and "..", whether or not the kernel still knows it: the kernel's NFS server keeps numbers only."""

    async def scene(mount: Unmounted) -> None:
        await mount.mkdir("photos/d")
        await mount.write_file("photos/d/f", b"bytes")
        handle = await mount.create("photos/d/fresh")
        await mount.symlink("f", "photos/d/link")
        inodes = [
            await mount.inode(path) for path in ("photos", "photos/d", "photos/d/f", "photos/d/fresh", "photos/d/link")
        ]
        bucket, directory, file, *_ = inodes
        for inode in inodes:
            assert (await mount.ops.lookup(inode, b".", mount.ctx)).st_ino == inode
        known: Any = mount.ops.inodes._known
        await mount.ops.forget([(inode, known[inode].lookups) for inode in inodes])
        for inode in inodes:
            assert inode not in mount.ops.inodes
            assert (await mount.ops.lookup(inode, b".", mount.ctx)).st_ino == inode
            assert inode in mount.ops.inodes
        for child, parent in ((directory, bucket), (bucket, ROOT), (ROOT, ROOT)):
            assert (await mount.ops.lookup(child, b"..", mount.ctx)).st_ino == parent
        async with refused(errno.ESTALE):
            await mount.ops.lookup(file, b"..", mount.ctx)
        fh: Any = (await mount.ops.open(file, os.O_RDONLY, mount.ctx)).fh
        assert await mount.read_all(fh) == b"bytes"
        await mount.close(fh)
        await mount.close(handle)
        await mount.unlink("photos/d/f")
        await mount.unlink("photos/d/fresh")
        await mount.unlink("photos/d/link")
        await mount.rmdir("photos/d")
        gone = [inode for inode in inodes if inode != bucket]
        await mount.ops.forget([(inode, known[inode].lookups) for inode in gone])
        for inode in (*gone, 10**12):
            async with refused(errno.ESTALE):
                await mount.ops.lookup(inode, b".", mount.ctx)
        mount.ops.permits = Permits(msgspec.structs.replace(MOUNT, buckets=("other",)))
        await mount.ops.forget([(bucket, known[bucket].lookups)])
        async with refused(errno.EACCES):
            await mount.ops.lookup(bucket, b".", mount.ctx)

    run_on_pool(scene, tmp_path)


def test_a_number_of_an_older_version_stays_one(tmp_path: Path) -> None:
    async def scene(mount: Unmounted) -> None:
        bucket = mount.store.bucket("photos")
        await mount.door.put("photos", b"f", b"old")
        await mount.store.set_bucket_setting(bucket, settings.VERSIONING, settings.ENABLED)
        old = await mount.inode("photos/f")
        await mount.door.put("photos", b"f", b"new")
        new = await mount.inode("photos/f")
        known: Any = mount.ops.inodes._known
        await mount.ops.forget([(inode, known[inode].lookups) for inode in (old, new)])
        for inode, mode in ((old, 0o444), (new, 0o644)):
            await mount.ops.lookup(inode, b".", mount.ctx)
            assert (await mount.ops.getattr(inode, mount.ctx)).st_mode & 0o777 == mode
        async with refused(errno.EROFS):
            await mount.ops.open(old, os.O_RDWR, mount.ctx)
        fh: Any = (await mount.ops.open(new, os.O_RDWR, mount.ctx)).fh
        assert await mount.read_all(fh) == b"new"
        await mount.close(fh)

    run_on_pool(scene, tmp_path)
