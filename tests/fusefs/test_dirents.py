"""Replies to FUSE_READDIRPLUS as the kernel reads them, and which entries come with attributes."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import struct
from pathlib import Path
from typing import Any, NamedTuple

import pyfuse3
import pytest
from pyfuse3 import FileNameT, ModeT

from fusefs import listing
from fusefs.inodes import ROOT
from tests.fusefs.scenes import Play, refused, run_on_pool, settled
from tests.fusefs.unmounted import Unmounted

# linux/fuse.h: fuse_entry_out and its fuse_attr, field by field, then fuse_dirent
NODE, ATTRIBUTES, DIRENT = struct.Struct("<QQQQII"), struct.Struct("<QQQQQQIIIIIIIIII"), struct.Struct("<QQII")


class Given(NamedTuple):
    """One entry of a reply."""

    name: bytes
    node: int  # 0: without attributes
    inode: int
    cookie: int
    type: int
    attributes: tuple[int, ...]
    valid: tuple[int, ...]


def parsed(reply: bytes) -> list[Given]:
    """All of a reply; nothing else is in it."""
    given, at = [], 0
    while at < len(reply):
        node, generation, *valid = NODE.unpack_from(reply, at)
        assert generation == 0
        attributes = ATTRIBUTES.unpack_from(reply, at + NODE.size)
        inode, cookie, length, kind = DIRENT.unpack_from(reply, at + NODE.size + ATTRIBUTES.size)
        at += NODE.size + ATTRIBUTES.size + DIRENT.size
        name, at = reply[at : at + length], at + length
        assert reply[at : at + -at % 8] == bytes(-at % 8)
        at += -at % 8
        given.append(Given(name, node, inode, cookie, kind, attributes, tuple(valid)))
    return given


async def replies(mount: Unmounted, path: str, size: int) -> list[list[Given]]:
    """A directory to its end, without "." and ".."."""
    fh = await mount.ops.opendir(await mount.inode(path), mount.ctx)
    whole: list[list[Given]] = []
    cookie = 0
    while True:
        assert mount.ops.is_at_hand(fh, cookie)
        reply = await mount.ops.readdirplus(fh, cookie, size)
        assert len(reply) <= size
        if not reply:
            break
        given = parsed(reply)
        cookie = given[-1].cookie
        whole.append([each for each in given if each.name not in (b".", b"..")])
    await mount.ops.releasedir(fh)
    return whole


def test_a_reply_tells_what_a_lookup_would(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.mkdir("photos/d")
        await mount.door.put("photos", b"d/b", b"S3's")
        await mount.door.put("photos", b"d/b/below", b"")
        await mount.door.put("photos", b"d/caf\xc3\xa9", b"x" * 5000)
        await mount.door.put("photos", b"d/%00 is no name", b"")
        await mount.write_file("photos/d/ours", b"bytes")
        await mount.symlink("target", "photos/d/link")
        await mount.setattr("photos/d/link", st_mtime_ns=-1)
        await mount.ops.mknod(await mount.inode("photos/d"), b"null", stat.S_IFCHR | 0o600, 0x103, mount.ctx)
        fh = await mount.create("photos/d/uncommitted")
        await mount.ops.write(fh, 0, b"not yet")
        for path in ("", "photos", "photos/d"):
            for size in (512, 1 << 20):
                given = [each for reply in await replies(mount, path, size) for each in reply]
                inode: Any = await mount.inode(path)
                told = {name: attr for name, attr, _ in await mount.list_once(
                    await mount.ops.opendir(inode, mount.ctx), 0, 1000
                )}  # fmt: skip
                assert [each.name for each in given] == list(told)
                for each in given:
                    found = await mount.ops.lookup(inode, each.name, mount.ctx)
                    times = [divmod(getattr(found, f"st_{name}time_ns"), 10**9) for name in "amc"]
                    assert each.node == each.inode == found.st_ino == told[each.name].st_ino
                    assert each.type == found.st_mode >> 12
                    assert each.valid == (60, 60, 0, 0)
                    assert each.attributes == (
                        found.st_ino, found.st_size, found.st_blocks,
                        *(seconds & (1 << 64) - 1 for seconds, _ in times), *(nanoseconds for _, nanoseconds in times),
                        found.st_mode, found.st_nlink, found.st_uid, found.st_gid, found.st_rdev, found.st_blksize, 0,
                    )  # fmt: skip

    play(scene)


def test_a_directory_that_was_listed_is_known_whole(tmp_path: Path) -> None:
    """Who lists it looks at each name next, and at what might be beside it: the catalogue was asked once.  What the
    other door changes is heard of."""

    async def scene(mount: Unmounted) -> None:
        await mount.door.put("photos", b"d/f", b"S3's")
        await mount.door.put("photos", b"d/g", b"S3's")
        await mount.door.put("photos", b"d/below/x", b"")
        await replies(mount, "photos/d", 1 << 20)
        asked: list[str] = []
        mount.store.engine.reader.set_trace_callback(asked.append)
        for name in ("f", "g", "below", "absent"):
            assert await mount.exists("photos/d/" + name) == (name != "absent")
        assert asked == []
        await mount.door.delete("photos", b"d/f")
        await mount.door.put("photos", b"d/absent", b"there")
        await mount.door.put("photos", b"d/g", b"newer")
        assert not await mount.exists("photos/d/f")
        assert await mount.read_file("photos/d/absent") == b"there"
        assert await mount.read_file("photos/d/g") == b"newer"

    run_on_pool(scene, tmp_path)


def test_dots_lead_to_the_directory_and_its_parent(tmp_path: Path) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.mkdir("photos/d")
        bucket, directory = await mount.inode("photos"), await mount.inode("photos/d")
        for inode, parent in ((ROOT, ROOT), (bucket, ROOT), (directory, bucket)):
            fh: Any = await mount.ops.opendir(inode, mount.ctx)
            first = parsed(await mount.ops.readdirplus(fh, 0, 1 << 20))[:2]
            assert [(each.name, each.inode, each.cookie) for each in first] == [(b".", inode, 1), (b"..", parent, 2)]
            assert parsed(await mount.ops.readdirplus(fh, 1, 1 << 20))[0].name == b".."
        await mount.mkdir("photos/other")
        await mount.rename("photos/d", "photos/other/d")  # while it is open
        moved = await mount.inode("photos/other")
        assert parsed(await mount.ops.readdirplus(fh, 0, 1 << 20))[1].inode == moved
        await mount.rmdir("photos/other/d")
        assert parsed(await mount.ops.readdirplus(fh, 0, 1 << 20))[1].inode in (bucket, moved)

    run_on_pool(scene, tmp_path)


def test_a_forgotten_place_is_waited_for(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.door.put("photos", b"a", b"")
        fh: Any = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
        assert not mount.ops.is_at_hand(fh, 77)
        async with refused(errno.EINVAL):
            await mount.ops.readdirplus(fh, 77, 1 << 20)

    play(scene)


def test_long_directories_come_bare_until_somebody_looks(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel was given counts as a lookup; a bare name counts as none."""
    monkeypatch.setattr(listing, "REPLY_MAX", 4)
    monkeypatch.setattr(listing, "FULL_MAX", 8)

    async def scene(mount: Unmounted) -> None:
        for number in range(32):
            await mount.door.put("photos", b"%02d" % number, b"")
        directory: Any = await mount.inode("photos")
        before = len(mount.ops.inodes)
        whole = await replies(mount, "photos", 1 << 20)
        assert [len(reply) for reply in whole] == [4] * 8
        assert [each.node != 0 for reply in whole for each in reply] == [True] * 8 + [False] * 24
        assert all(each.type == stat.S_IFREG >> 12 and each.inode for reply in whole for each in reply)
        assert len(mount.ops.inodes) == before + 8
        assert not mount.ops.names.bare

        fh: Any = await mount.ops.opendir(directory, mount.ctx)
        cookie, kinds = 0, []
        for step in range(8):
            reply = parsed(await mount.ops.readdirplus(fh, cookie, 1 << 20))
            cookie = reply[-1].cookie
            kinds.append(reply[-1].node != 0)
            if step >= 3:  # of those of the third reply, nobody looked at any
                for each in reply:
                    await mount.ops.lookup(directory, each.name, mount.ctx)
        assert kinds == [True, True, False, False, True, True, True, True]
        kinds = [each.node != 0 for each in parsed(await mount.ops.readdirplus(fh, 0, 1 << 20))]
        assert all(kinds), "from the beginning"
        await mount.ops.releasedir(fh)
        assert not mount.ops.names.bare
        await mount.write_file("photos/00", b"")

    play(scene)


def test_a_name_beside_its_directory_wherever_a_piece_ends(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """`a!` and the like sort between `a` and `a/`."""

    async def scene(mount: Unmounted) -> None:
        for name in (b"a", b"a!", b'a"', b"a#", b"a/x", b"b", b"b.1", b"b.2", b"b/x", b"c", b"c!"):
            await mount.door.put("photos", name, b"")
        expected = {b".tierce~f~a", b"a!", b'a"', b"a#", b"a", b".tierce~f~b", b"b.1", b"b.2", b"b", b"c", b"c!"}
        for step in range(1, 12):
            monkeypatch.setattr(listing, "LIST_STEP", step)
            monkeypatch.setattr(listing, "REPLY_MAX", max(1, 12 - 2 * step))
            for size in (200, 512, 1 << 20):
                names = [each.name for reply in await replies(mount, "photos", size) for each in reply]
                assert len(names) == len(expected)
                assert set(names) == expected

    play(scene)


def test_a_reply_too_small_for_a_name_is_empty(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/" + "x" * 255, b"")
        fh: Any = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
        assert await mount.ops.readdirplus(fh, 2, 400) == b""
        assert [each.name for each in parsed(await mount.ops.readdirplus(fh, 2, 408))] == [b"x" * 255]
        assert os.fsencode("x" * 255) in await mount.listdir("photos")

    play(scene)


def test_what_goes_while_it_is_listed_is_told_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer commits between two of the loop's statements: no entry that stays may be lost for it."""
    monkeypatch.setattr(listing, "LIST_STEP", 1)

    async def scene(mount: Unmounted) -> None:
        for name in ("a", "b", "c"):
            await mount.write_file("photos/" + name, name.encode() * 5000)
        await mount.ops.files.commit_all()
        await settled(mount)
        names = mount.ops.names
        fh: Any = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
        monkeypatch.setattr(names, "overlaid", set)

        def gone(number: int) -> Any:
            raise pyfuse3.FUSEError(errno.ESTALE)

        monkeypatch.setattr(names, "node", gone)
        given = parsed(await mount.ops.readdirplus(fh, 0, 1 << 20))
        given += parsed(await mount.ops.readdirplus(fh, given[-1].cookie, 1 << 20))
        assert [(each.name, each.attributes[1]) for each in given][2:] == [(b"a", 5000), (b"b", 5000), (b"c", 5000)]

    run_on_pool(scene, tmp_path)


def test_who_waited_for_the_disk_has_a_thread_wait_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million names that were made in no order have their nodes all over the catalogue: a reply of a thousand kept
    the loop for a second."""
    monkeypatch.setattr(listing, "LIST_STEP", 2)
    monkeypatch.setattr(listing, "REPLY_MAX", 2)
    monkeypatch.setattr(listing, "FULL_MAX", 4)

    async def scene(mount: Unmounted) -> None:
        for name in "abcdefghij":
            await mount.write_file("photos/" + name, b"x")
        await mount.ops.files.commit_all()
        await settled(mount)
        store = mount.ops.names.store
        warmed: list[tuple[bytes, bool]] = []
        waits = iter([0, listing.COLD, *[0] * 20])  # before a reply and after it
        reads = [listing.COLD, listing.COLD - 1]  # of the thread
        warm = store.warm

        async def noted(parent: int, after: bytes, limit: int, *, nodes: bool) -> int:
            warmed.append((after, nodes))
            await warm(parent, after, limit, nodes=nodes)
            return reads.pop(0)

        monkeypatch.setattr(store, "waited", lambda: next(waits))
        monkeypatch.setattr(store, "warm", noted)
        fh: Any = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
        names, cookie, at_hand = [], 0, []
        while True:
            at_hand.append(mount.ops.is_at_hand(fh, cookie))
            given = parsed(await mount.ops.readdirplus(fh, cookie, 1 << 20))
            if not given:
                break
            names += [each.name for each in given]
            cookie = given[-1].cookie
        assert b"".join(names[2:]) == b"abcdefghij"
        assert at_hand == [True, False, False, True, True, True]
        assert warmed == [(b"b", True), (b"d", False)]

    run_on_pool(scene, tmp_path)


def test_bare_names_have_their_types(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a look at their nodes, but for what is neither file nor directory."""
    monkeypatch.setattr(listing, "FULL_MAX", 0)
    monkeypatch.setattr(listing, "LIST_STEP", 1)

    async def scene(mount: Unmounted) -> None:
        await mount.mkdir("photos/a")
        await mount.write_file("photos/b", b"x")
        await mount.symlink("b", "photos/c")
        await mount.mkdir("photos/d")
        await mount.door.put("photos", b"e/f", b"S3's")
        await mount.ops.mknod(await mount.inode("photos"), FileNameT(b"g"), ModeT(stat.S_IFIFO | 0o644), 0, mount.ctx)
        await settled(mount)
        given = [each for reply in await replies(mount, "photos", 1 << 20) for each in reply]
        assert {each.name: each.type << 12 for each in given} == {
            b"a": stat.S_IFDIR,
            b"b": stat.S_IFREG,
            b"c": stat.S_IFLNK,
            b"d": stat.S_IFDIR,
            b"e": stat.S_IFDIR,
            b"g": stat.S_IFIFO,
        }
        assert not any(each.node for each in given)

    play(scene)


def test_a_damaged_row_is_a_name_that_nobody_can_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing without it would have rsync remove the copy; none would keep the others from their owner."""

    async def scene(mount: Unmounted) -> None:
        await mount.mkdir("photos/d")
        for name in ("b", "c"):
            await mount.write_file("photos/d/" + name, b"x")
        await mount.ops.files.commit_all()
        await settled(mount)
        hurt = "UPDATE entry SET sum=sum + {} WHERE name=x'62'"
        connection = sqlite3.connect(tmp_path / "catalogue.db", isolation_level=None)
        connection.execute(hurt.format(1))
        for step in (256, 1):  # from the beginning, and from page to page
            monkeypatch.setattr(listing, "LIST_STEP", step)
            for full in (4096, 0):  # with attributes and without
                monkeypatch.setattr(listing, "FULL_MAX", full)
                given = [each for reply in await replies(mount, "photos/d", 400) for each in reply]
                assert [each.name for each in given] == [b"b", b"c"]
                assert (given[0].node, given[0].inode, given[0].type) == (0, listing.LOST_INODE, 0)
        for ask in (mount.stat, mount.read_file, mount.unlink):
            async with refused(errno.EIO):
                await ask("photos/d/b")
        async with refused(errno.ENOTEMPTY):
            await mount.rmdir("photos/d")
        assert await mount.read_file("photos/d/c") == b"x"
        connection.execute(hurt.format(-1))
        connection.close()

    run_on_pool(scene, tmp_path)
