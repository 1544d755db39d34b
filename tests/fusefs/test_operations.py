"""Names, directories, attributes: the handlers without a kernel."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
import trio

from appliance.errors import Code, StoreError
from fusefs import attributes, operations
from tests.fusefs.scenes import Play, refused, run, run_on_pool, settled
from tests.fusefs.unmounted import Unmounted


# ---------------------------------------------------------------------- names
def test_buckets_are_directories_of_the_root(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.mkdir("music")
        assert await mount.listdir("") == [b"photos", b"music"]
        assert (await mount.stat("music")).st_uid == 1000
        await mount.write_file("music/song", b"la")
        async with refused(errno.ENOTEMPTY):
            await mount.rmdir("music")
        await mount.unlink("music/song")
        await mount.rmdir("music")
        assert await mount.listdir("") == [b"photos"]

    play(scene)


@pytest.mark.parametrize(
    ("step", "number"),
    [
        (lambda mount: mount.create("file"), errno.EPERM),
        (lambda mount: mount.symlink("x", "link"), errno.EPERM),
        (lambda mount: mount.rename("photos", "pictures"), errno.EPERM),
        (lambda mount: mount.mkdir("NO"), errno.EINVAL),
        (lambda mount: mount.mkdir("é"), errno.EINVAL),
        (lambda mount: mount.mkdir("photos"), errno.EEXIST),
        (lambda mount: mount.unlink("photos"), errno.EISDIR),
        (lambda mount: mount.setattr("", st_mode=0), errno.EPERM),
    ],
)
def test_the_root_holds_buckets_only(play: Play, step: Callable[[Unmounted], Awaitable[None]], number: int) -> None:
    async def scene(mount: Unmounted) -> None:
        async with refused(number):
            await step(mount)

    play(scene)


def test_an_uncommitted_file_is_a_name_like_any_other(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.mkdir("photos/d")
        fh = await mount.create("photos/d/new")
        async with refused(errno.EEXIST):
            await mount.create("photos/d/new", os.O_EXCL)
        async with refused(errno.EEXIST):
            await mount.mkdir("photos/d/new")
        async with refused(errno.ENOTEMPTY):
            await mount.rmdir("photos/d")
        assert await mount.listdir("photos/d") == [b"new"]
        await mount.rename("photos/d/new", "photos/d/renamed")
        assert await mount.listdir("photos/d") == [b"renamed"]
        await mount.ops.write(fh, 0, b"x")
        await mount.close(fh)
        assert await mount.door.get("photos", b"d/renamed") == b"x"

    play(scene)


def test_unlink_of_an_uncommitted_file_drops_it() -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/tmp")
        await mount.ops.write(fh, 0, b"x" * 100)
        await mount.unlink("photos/tmp")
        assert not await mount.exists("photos/tmp")
        assert await mount.read_all(fh) == b"x" * 100
        await mount.close(fh)
        assert mount.store.commits == 0
        assert not mount.ops.files.files
        assert not mount.store.holds

    run(scene)


def test_an_unlinked_open_file_lives_until_its_last_close() -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.door.put("photos", b"f", b"alive")
        fh = await mount.open("photos/f", os.O_RDWR)
        inode = await mount.inode("photos/f")
        await mount.unlink("photos/f")
        assert (await mount.ops.getattr(inode, mount.ctx)).st_nlink == 0
        await mount.ops.write(fh, 5, b"!")
        await mount.ops.fsync(fh, False)
        assert await mount.read_all(fh) == b"alive!"
        await mount.close(fh)
        async with refused(errno.ESTALE):
            await mount.ops.getattr(inode, mount.ctx)
        await mount.store.settle()
        assert inode not in mount.store.nodes

    run(scene)


def test_the_kernel_may_tell_the_times_of_what_is_gone(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each unlink (fuse_flush_times, fs/fuse/dir.c); whoever asks for anything else looks it up again."""

    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/f", b"x")
        inode = await mount.inode("photos/f")
        await mount.unlink("photos/f")
        await settled(mount)
        told = await mount.setattr_inode(inode, {"st_mtime_ns": 5, "st_ctime_ns": 6})
        assert (told.st_ino, told.st_mode, told.st_nlink, told.attr_timeout) == (inode, stat.S_IFREG, 0, 0)
        for changes in ({"st_mtime_ns": 5}, {"st_mtime_ns": 5, "st_ctime_ns": 6, "st_mode": 0o600}, {"st_size": 0}):
            async with refused(errno.ESTALE):
                await mount.setattr_inode(inode, changes)
        await mount.write_file("photos/g", b"x")
        await settled(mount)
        inode = await mount.inode("photos/g")
        monkeypatch.setattr(mount.store, "hold", lambda _: False)  # a commit under way removes it
        assert (await mount.setattr_inode(inode, {"st_mtime_ns": 5, "st_ctime_ns": 6})).st_nlink == 0
        async with refused(errno.ESTALE):
            await mount.setattr_inode(inode, {"st_mode": 0o600})

    play(scene)


def test_rename_over_commits_the_new_bytes_first(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.door.put("photos", b"conf", b"old")
        fh = await mount.create("photos/conf.new")
        await mount.ops.write(fh, 0, b"new")
        await mount.rename("photos/conf.new", "photos/conf")
        assert await mount.door.get("photos", b"conf") == b"new"
        await mount.close(fh)
        assert await mount.listdir("photos") == [b"conf"]

    play(scene)


def test_rename_rules(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.mkdir("music")
        await mount.mkdir("photos/d")
        await mount.write_file("photos/a", b"a")
        await mount.write_file("photos/b", b"b")
        async with refused(errno.EXDEV):
            await mount.rename("photos/a", "music/a")
        async with refused(errno.EISDIR):
            await mount.rename("photos/a", "photos/d")
        async with refused(errno.ENOTDIR):
            await mount.rename("photos/d", "photos/a")
        async with refused(errno.EEXIST):
            await mount.rename("photos/a", "photos/b", pyfuse3.RENAME_NOREPLACE)
        async with refused(errno.ENOENT):
            await mount.rename("photos/none", "photos/b")
        await mount.rename("photos/a", "photos/b", pyfuse3.RENAME_EXCHANGE)
        assert await mount.read_file("photos/a") == b"b"
        await mount.rename("photos/a", "photos/d/a")
        assert await mount.listdir("photos") == [b"b", b"d"]
        assert await mount.read_file("photos/d/a") == b"b"

    play(scene)


def test_hard_links_are_one_file(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/a", b"one")
        await mount.link("photos/a", "photos/b")
        assert (await mount.stat("photos/b")).st_nlink == 2
        await mount.write_file("photos/b", b"two")
        assert await mount.read_file("photos/a") == b"two"
        await mount.unlink("photos/a")
        assert (await mount.stat("photos/b")).st_nlink == 1
        assert await mount.read_file("photos/b") == b"two"

    play(scene)


def test_a_file_and_a_directory_change_places(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.mkdir("photos/d")
        await mount.write_file("photos/d/inner", b"inner")
        await mount.mkdir("photos/e")
        await mount.write_file("photos/e/f", b"f")
        await mount.rename("photos/d", "photos/e/f", pyfuse3.RENAME_EXCHANGE)
        assert await mount.read_file("photos/d") == b"f"
        assert await mount.read_file("photos/e/f/inner") == b"inner"
        await mount.rename("photos/d", "photos/e/f", pyfuse3.RENAME_EXCHANGE)
        assert await mount.read_file("photos/e/f") == b"f"
        assert await mount.read_file("photos/d/inner") == b"inner"
        assert [(await mount.stat(f"photos/{name}")).st_nlink for name in ("d", "e", "e/f")] == [2, 2, 1]

    play(scene)


def test_special_files_are_kept_but_no_objects(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        bucket: Any = await mount.inode("photos")
        for name, mode, device in (
            (b"pipe", stat.S_IFIFO | 0o644, 0),
            (b"socket", stat.S_IFSOCK | 0o600, 0),
            (b"disk", stat.S_IFBLK | 0o640, os.makedev(8, 1)),
            (b"terminal", stat.S_IFCHR | 0o620, os.makedev(136, 70_000)),
        ):
            made = await mount.ops.mknod(bucket, name, mode, device, mount.ctx)
            found = await mount.stat(b"photos/" + name)
            masked = mode & ~mount.ctx.umask
            assert (found.st_ino, found.st_mode, found.st_rdev, found.st_nlink) == (made.st_ino, masked, device, 1)
            with pytest.raises(StoreError) as caught:
                await mount.door.get("photos", name)
            assert caught.value.code is Code.NO_SUCH_KEY
        await mount.rename("photos/disk", "photos/disc")
        assert (await mount.stat("photos/disc")).st_rdev == os.makedev(8, 1)
        await mount.unlink("photos/disc")
        async with refused(errno.EINVAL):
            await mount.ops.mknod(bucket, b"odd", 0o110644, 0, mount.ctx)
        await mount.ops.mknod(bucket, b"file", stat.S_IFREG | 0o644, 0, mount.ctx)
        assert await mount.door.get("photos", b"file") == b""

    play(scene)


def test_long_names_are_found_by_their_digest(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        for number in range(600):
            await mount.door.put("photos", b"x" * 300 + b"%d" % number, b"%d" % number)
        names = await mount.listdir("photos")
        assert len(set(names)) == 600
        assert await mount.read_file(b"photos/" + names[-1]) == b"99"
        async with refused(errno.EINVAL):
            await mount.create(b"photos/" + names[0][:-1])
        await mount.unlink(b"photos/" + names[0])
        assert len(await mount.listdir("photos")) == 599

    play(scene)


# ---------------------------------------------------------------------- directories
@pytest.mark.parametrize("per_call", [1, 7, 300])
def test_a_listing_survives_changes_between_its_calls(play: Play, per_call: int) -> None:
    async def scene(mount: Unmounted) -> None:
        for number in range(700):
            await mount.door.put("photos", b"%04d" % number, b"")
        fresh = await mount.create("photos/uncommitted")
        fh = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
        names: list[bytes] = []
        cookie = 0
        while batch := await mount.list_once(fh, cookie, per_call):
            names += [name for name, _, _ in batch]
            cookie = batch[-1][2]
            if len(names) in (7, 300) and mount.ops.files.files:
                await mount.door.delete("photos", b"0500")  # not yet given
                await mount.door.delete("photos", names[3])  # given already
                await mount.close(fresh)
                await settled(mount)
        expected = {b"%04d" % number for number in range(700)} | {b"uncommitted"}
        assert set(names) >= expected - {b"0500"}
        assert len(names) == len(set(names))

    play(scene)


def test_readdir_counts_what_it_gives(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.door.put("photos", b"a", b"")
        await mount.listdir("photos")
        inode = await mount.inode("photos/a")
        await mount.ops.forget([(inode, 1)])
        assert inode in mount.ops.inodes
        await mount.ops.forget([(inode, 1)])
        assert inode not in mount.ops.inodes

    play(scene)


def test_a_listing_can_go_back(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        for number in range(10):
            await mount.door.put("photos", b"%d" % number, b"")
        fh = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
        first = await mount.list_once(fh, 0, 6)
        again = await mount.list_once(fh, first[1][2], 2)
        assert [name for name, _, _ in again] == [name for name, _, _ in first[2:4]]
        assert [name for name, _, _ in await mount.list_once(fh, 0, 2)] == [b"0", b"1"]

    play(scene)


# ---------------------------------------------------------------------- attributes
def test_what_is_told_of_a_written_file_is_soon_asked_again(play: Play) -> None:
    """The kernel keeps sizes and times of what it writes itself, but not how many blocks it has."""

    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/f")
        inode = await mount.inode("photos/f")
        told = await mount.ops.getattr(inode, mount.ctx)
        assert (told.st_size, told.st_blocks, told.attr_timeout) == (0, 8, attributes.WRITTEN_TIMEOUT)
        await mount.ops.write(fh, 0, bytes(5000))
        assert (await mount.ops.getattr(inode, mount.ctx)).st_blocks == 16
        await mount.close(fh)
        told = await mount.ops.getattr(inode, mount.ctx)
        assert (told.st_blocks, told.attr_timeout) == (16, attributes.TIMEOUT)

    play(scene)


def test_attributes_are_kept_and_committed(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/f", b"x")
        await mount.setattr("photos/f", st_mode=0o640, st_uid=5, st_gid=6, st_mtime_ns=123_456_789, st_atime_ns=7)
        await mount.store.settle()
        node = mount.store.node(await mount.inode("photos/f"))
        assert (node.mode, node.uid, node.gid) == (stat.S_IFREG | 0o640, 5, 6)
        assert (node.mtime_ns, node.atime_ns) == (123_456_789, 7)
        await mount.mkdir("photos/d")
        await mount.setattr("photos/d", st_mode=0o700)
        assert (await mount.stat("photos/d")).st_mode == stat.S_IFDIR | 0o700

    play(scene)


def test_a_change_of_content_drops_set_user_id(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/tool", mode=0o6755)
        await mount.ops.write(fh, 0, b"#!")
        assert stat.S_IMODE((await mount.stat("photos/tool")).st_mode) == 0o755
        await mount.setattr("photos/tool", st_mode=0o6755)
        await mount.close(await mount.open("photos/tool", os.O_RDONLY | os.O_TRUNC))
        assert stat.S_IMODE((await mount.stat("photos/tool")).st_mode) == 0o755, "open(2) with O_TRUNC is one, too"
        await mount.close(fh)

    play(scene)


def test_a_set_group_id_directory_gives_its_group(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.mkdir("photos/team")
        await mount.setattr("photos/team", st_mode=0o2775, st_gid=77)
        await mount.write_file("photos/team/f", b"")
        await mount.mkdir("photos/team/d")
        assert (await mount.stat("photos/team/f")).st_gid == 77
        entry = await mount.stat("photos/team/d")
        assert (entry.st_gid, stat.S_IMODE(entry.st_mode)) == (77, 0o2755)

    play(scene)


def test_extended_attributes_and_metadata_are_one(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/f")
        inode: Any = await mount.inode("photos/f")
        ops, ctx = mount.ops, mount.ctx
        await ops.setxattr(inode, b"user.meta.camera", b"Leica", ctx)
        await ops.setxattr(inode, b"user.note", b"\0\xff", ctx)
        await ops.setxattr(inode, b"trusted.mine", b"root's", ctx)
        assert set(await ops.listxattr(inode, ctx)) == {b"user.meta.camera", b"user.note"}, "for root alone"
        ctx.uid = 0
        assert b"trusted.mine" in await ops.listxattr(inode, ctx)
        await ops.removexattr(inode, b"trusted.mine", ctx)
        await mount.close(fh)
        await settled(mount)
        held = mount.store.node(inode).attributes
        assert held.user["camera"] == "Leica"
        assert held.xattrs == {"user.note": b"\0\xff"}
        assert await ops.getxattr(inode, b"user.note", ctx) == b"\0\xff"
        assert set(await ops.listxattr(inode, ctx)) == {b"user.meta.camera", b"user.note"}
        assert await ops.getxattr(inode, b"user.tierce.etag", ctx) == mount.store.node(inode).etag.encode()
        await ops.removexattr(inode, b"user.note", ctx)
        for name, number in (
            (b"user.note", pyfuse3.ENOATTR),
            (b"security.capability", pyfuse3.ENOATTR),
            (b"user.meta.none", pyfuse3.ENOATTR),
        ):
            async with refused(number):
                await ops.getxattr(inode, name, ctx)
        for name, value, number in (
            (b"user.tierce.etag", b"x", errno.EACCES),
            (b"security.capability", b"", errno.EOPNOTSUPP),
            (b"user.meta.Camera", b"x", errno.EINVAL),
            (b"user.meta.a", b"x\ny", errno.EINVAL),
            (b"user.meta.mtime", b"1", errno.EACCES),
            (b"user.meta.a", b"x" * 3000, errno.ENOSPC),
            (b"user.big", bytes(70_000), errno.ENOSPC),
        ):
            async with refused(number):
                await ops.setxattr(inode, name, value, ctx)

    play(scene)


def test_an_ordinary_users_own_mount_shows_him_what_is_roots(play: Play) -> None:
    """Otherwise he could not change what came through S3, and nobody else could either."""

    async def scene(mount: Unmounted) -> None:
        mount.ops.names.root = (1000, 100)
        await mount.door.put("photos", b"d/of S3", b"x")
        await mount.write_file("photos/his", b"x")
        await mount.setattr("photos/his", st_uid=7, st_gid=8)
        for path in ("photos", "photos/d", "photos/d/of S3"):
            entry = await mount.stat(path)
            assert (entry.st_uid, entry.st_gid) == (1000, 100), path
        his = await mount.stat("photos/his")
        assert (his.st_uid, his.st_gid) == (7, 8)

    play(scene)


@pytest.mark.slow
def test_what_the_kernel_forgets_leaves_nothing_behind(tmp_path: Path) -> None:
    """Looked up, listed, opened, written, removed and forgotten again and again: nothing grows."""

    async def scene(mount: Unmounted) -> None:
        ops = mount.ops
        await mount.mkdir("photos/d")
        parent = await mount.inode("photos/d")
        sizes: list[list[int]] = []
        for _ in range(6):
            for number in range(100):
                name = b"%d" % number
                info, made = await ops.create(parent, name, stat.S_IFREG | 0o644, os.O_RDWR, mount.ctx)
                await ops.write(info.fh, 0, b"x")
                await mount.close(info.fh)
                found = await ops.lookup(parent, name, mount.ctx)
                await ops.getattr(found.st_ino, mount.ctx)
                await ops.forget([(made.st_ino, 2)])
                assert made.st_ino not in ops.inodes
                await ops.lookup(parent, b"absent %d" % number, mount.ctx)
            await ops.files.commit_all()
            fh = await ops.opendir(parent, mount.ctx)
            cookie = 0
            while batch := await mount.list_once(fh, cookie, 30):
                await ops.forget([(attr.st_ino, 1) for _, attr, _ in batch])
                cookie = batch[-1][2]
            await ops.releasedir(fh)
            for number in range(100):
                await ops.unlink(parent, b"%d" % number, mount.ctx)
            await ops.files.commit_all()
            sizes.append(
                [
                    len(ops.inodes),
                    len(ops.inodes.absent),
                    len(ops.inodes.answered),
                    len(ops.handles),
                    len(ops.files.files),
                    len(ops.files.names),
                    len(ops.files._dirty),
                    ops.files.memory,
                    len(ops.invalidation.under_way),
                    len(mount.store.engine._held),
                ]
            )
        assert sizes == [sizes[0]] * len(sizes)
        assert sizes[0][3:] == [0] * 7

    run_on_pool(scene, tmp_path)


def test_what_is_exchanged_is_what_was_named(tmp_path: Path) -> None:
    """A file and a directory of one name have two names in the mount: neither may be taken for the other."""

    async def scene(mount: Unmounted) -> None:
        await mount.door.put("photos", b"a", b"file a")
        await mount.door.put("photos", b"a/b", b"below a")
        await mount.door.put("photos", b"f", b"file f")
        await mount.mkdir("photos/x")
        for old, new in (("photos/x", "photos/.tierce~f~a"), ("photos/f", "photos/a")):
            async with refused(errno.EINVAL):
                await mount.rename(old, new, pyfuse3.RENAME_EXCHANGE)
        assert sorted(await mount.listdir("photos")) == [b".tierce~f~a", b"a", b"f", b"x"]
        assert await mount.read_file("photos/f") == b"file f"
        assert await mount.read_file("photos/a/b") == b"below a"
        await mount.rename("photos/f", "photos/.tierce~f~a", pyfuse3.RENAME_EXCHANGE)
        assert await mount.read_file("photos/.tierce~f~a") == b"file f"
        await mount.rename("photos/x", "photos/f", pyfuse3.RENAME_EXCHANGE)
        assert await mount.read_file("photos/x") == b"file a"
        assert await mount.listdir("photos/f") == []

    run_on_pool(scene, tmp_path)


def test_others_have_their_turn_while_the_kernel_forgets(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it needs memory it forgets tens of thousands of inodes at once."""
    monkeypatch.setattr(operations, "FORGET_STEP", 2)

    async def scene(mount: Unmounted) -> None:
        for name in "abcdefg":
            await mount.write_file("photos/" + name, b"x")
        await settled(mount)
        photos = await mount.inode("photos")
        given = [(await mount.ops.lookup(photos, name.encode(), mount.ctx)).st_ino for name in "abcdefg"]
        left: list[int] = []

        async def others() -> None:
            for _ in range(3):
                left.append(sum(inode in mount.ops.inodes for inode in given))
                await trio.lowlevel.checkpoint()

        lookups = [(inode, mount.ops.inodes._known[inode].lookups) for inode in given]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.ops.forget, lookups)
            nursery.start_soon(others)
        assert not any(inode in mount.ops.inodes for inode in given)
        assert any(0 < each < len(given) for each in left)

    play(scene)
