"""Access control lists: their rules, what is inherited, and that the kernel enforces what is kept."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.errors import Code, StoreError
from fusefs import acl
from fusefs.acl import ACCESS, DEFAULT, GROUP, GROUP_OBJ, MASK, OTHER, USER, USER_OBJ, Entry
from tests.fusefs.scenes import Play, refused, settled
from tests.fusefs.served import Served
from tests.fusefs.test_times import tick
from tests.fusefs.unmounted import Unmounted
from tests.rows import rows
from tests.system.conftest import left_out

NOBODY = 65_534


def owner(bits: int) -> Entry:
    return Entry(USER_OBJ, bits)


def group(bits: int) -> Entry:
    return Entry(GROUP_OBJ, bits)


def mask(bits: int) -> Entry:
    return Entry(MASK, bits)


def other(bits: int) -> Entry:
    return Entry(OTHER, bits)


def named(bits: int, user: int = NOBODY) -> Entry:
    return Entry(USER, bits, user)


# ---------------------------------------------------------------------- rules


@rows(
    "entries",
    [
        [owner(6), group(4), other(4)],
        [owner(7), named(6), group(5), mask(7), other(0)],
        [owner(7), named(6), named(4, 7), group(5), Entry(GROUP, 1, 9), Entry(GROUP, 1, 10), mask(0), other(7)],
    ],
)
def test_a_list_and_its_bytes(entries: list[Entry]) -> None:
    assert acl.parse(acl.pack(entries)) == entries


@rows(
    "entries",
    [
        [],
        [owner(6), group(4)],
        [owner(6), group(4), other(4), other(4)],
        [group(4), owner(6), other(4)],
        [owner(6), named(6), group(4), other(4)],  # no mask
        [owner(6), named(6), named(6), group(4), mask(7), other(4)],
        [owner(6), group(4), mask(7), mask(7), other(4)],
        [owner(9), group(4), other(4)],
        [owner(6), named(6, 0xFFFF_FFFF), group(4), mask(7), other(4)],
        [owner(6), group(4), other(4), Entry(0x40, 1)],
    ],
)
def test_what_is_no_list(entries: list[Entry]) -> None:
    with pytest.raises(StoreError) as caught:
        acl.parse(acl.pack(entries))
    assert caught.value.code is Code.INVALID_ARGUMENT


@rows(
    "value",
    [b"", b"\2\0", struct.pack("<I", 1) + acl.pack([owner(6), group(4), other(4)])[4:], acl.pack([owner(6)])[:-1]],
)
def test_what_is_no_encoding(value: bytes) -> None:
    with pytest.raises(StoreError):
        acl.parse(value)


@rows(
    "entries,mode,extended",
    [
        ([owner(6), group(4), other(0)], 0o640, False),
        ([owner(7), named(7), group(5), mask(1), other(2)], 0o712, True),
        ([owner(7), group(5), mask(1), other(2)], 0o712, True),
    ],
)
def test_the_mode_of_a_list(entries: list[Entry], mode: int, extended: bool) -> None:
    assert acl.mode_of(entries) == mode
    assert acl.is_extended(entries) == extended
    changed = acl.with_mode(entries, 0o100_624)
    assert acl.mode_of(changed) == 0o624
    assert [entry for entry in changed if entry.tag in (USER, GROUP)] == [
        entry for entry in entries if entry.tag in (USER, GROUP)
    ]
    assert not extended or Entry(GROUP_OBJ, 5) in changed, "the mask stands for the group"


@rows(
    "default,asked,made,mode",
    [
        ([owner(7), group(5), other(0)], 0o666, [owner(6), group(4), other(0)], 0o640),
        (
            [owner(7), named(6), group(5), mask(7), other(5)],
            0o100_640,
            [owner(6), named(6), group(5), mask(4), other(0)],
            0o100_640,
        ),
        (
            [owner(7), named(6), group(5), mask(7), other(5)],
            0o40_777,
            [owner(7), named(6), group(5), mask(7), other(5)],
            0o40_775,
        ),
    ],
)
def test_what_is_made_inherits(default: list[Entry], asked: int, made: list[Entry], mode: int) -> None:
    assert acl.inherited(default, asked) == (made, mode)


# ---------------------------------------------------------------------- kept


async def get(mount: Unmounted, path: str, name: bytes = ACCESS) -> list[Entry]:
    return acl.parse(await mount.ops.getxattr(await mount.inode(path), name, mount.ctx))


async def put(mount: Unmounted, path: str, entries: list[Entry], name: bytes = ACCESS) -> None:
    await mount.ops.setxattr(await mount.inode(path), name, acl.pack(entries), mount.ctx)


async def mode(mount: Unmounted, path: str) -> int:
    return stat.S_IMODE((await mount.stat(path)).st_mode)


def test_mode_and_list_are_one(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        mount.ops.metadata.lists = True
        await mount.write_file("photos/f", b"x")
        await mount.mkdir("photos/d")
        for path in ("photos/f", "photos/d"):
            async with refused(errno.ENODATA):
                await get(mount, path)
            before = (await mount.stat(path)).st_ctime_ns
            await tick()
            await put(mount, path, [owner(7), named(6), group(4), mask(6), other(1)])
            assert await mode(mount, path) == 0o761
            assert (await mount.stat(path)).st_ctime_ns > before
            await mount.setattr(path, st_mode=0o640)
            await mount.ops.files.commit_all()
            await settled(mount)
            assert await get(mount, path) == [owner(6), named(6), group(4), mask(4), other(0)]
            assert list(await mount.ops.listxattr(await mount.inode(path), mount.ctx)) == [ACCESS]
            await put(mount, path, [owner(7), group(5), other(5)])
            assert await mode(mount, path) == 0o755
            async with refused(errno.ENODATA):
                await get(mount, path)
            await mount.ops.removexattr(await mount.inode(path), ACCESS, mount.ctx)
            async with refused(errno.EINVAL):
                await put(mount, path, [owner(7)])

    play(scene)


def test_children_inherit_from_a_default_and_not_from_the_umask(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        mount.ops.metadata.lists = True
        mount.ctx.umask = 0o077
        await mount.mkdir("photos/d", 0o777)
        assert await mode(mount, "photos/d") == 0o700
        default = [owner(7), named(7), group(5), mask(7), other(1)]
        await put(mount, "photos/d", default, DEFAULT)
        assert await mode(mount, "photos/d") == 0o700, "a default does not change who may enter"
        handle = await mount.create("photos/d/f", mode=0o666)
        await mount.mkdir("photos/d/sub", 0o777)
        parent, name = await mount.split("photos/d/pipe")
        await mount.ops.mknod(parent, name, stat.S_IFIFO | 0o666, 0, mount.ctx)
        await mount.symlink("f", "photos/d/link")
        await mount.close(handle)
        await mount.ops.files.commit_all()
        for path, bits in (("f", 0o660), ("sub", 0o771), ("pipe", 0o660), ("link", 0o777)):
            assert await mode(mount, f"photos/d/{path}") == bits
        assert await get(mount, "photos/d/f") == [owner(6), named(7), group(5), mask(6), other(0)]
        assert await get(mount, "photos/d/pipe") == [owner(6), named(7), group(5), mask(6), other(0)]
        assert await get(mount, "photos/d/sub") == default == await get(mount, "photos/d/sub", DEFAULT)
        async with refused(errno.ENODATA):
            await get(mount, "photos/d/link")
        await mount.ops.removexattr(await mount.inode("photos/d"), DEFAULT, mount.ctx)
        await mount.mkdir("photos/d/plain", 0o777)
        assert await mode(mount, "photos/d/plain") == 0o700

    play(scene)


def test_a_mount_that_does_not_enforce_lists_keeps_none(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/f", b"x")
        async with refused(errno.EOPNOTSUPP):
            await put(mount, "photos/f", [owner(7), named(6), group(4), mask(6), other(1)])
        async with refused(errno.ENODATA):
            await get(mount, "photos/f")

    play(scene)


# ---------------------------------------------------------------------- enforced


def as_user(number: int, where: Path, work: Callable[[], object]) -> int:
    """The errno of `work` done in `where` by this user, in a group of the same number; 0 when it is done."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 255
    try:
        os.chdir(where)  # what is above may be closed to him
        os.setgroups([])
        os.setgid(number)
        os.setuid(number)
        work()
        code = 0
    except OSError as error:
        code = error.errno or 255
    finally:
        os._exit(code)


@pytest.mark.system
@pytest.mark.slow
def test_the_kernel_enforces_them(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        left_out("TIERCE_ALLOW_NO_LOOP", "needs root: an ordinary user's mount has no lists, as nobody else can enter")
    mount = Served(tmp_path / "mnt", "pool")
    file, made = Path("f"), Path("d/made")

    def by(user: int, work: Callable[[], object]) -> int:
        return as_user(user, mount.bucket, work)

    try:
        path = mount.bucket / file
        path.write_text("secret")
        path.chmod(0o600)
        assert by(NOBODY, file.read_text) == errno.EACCES
        os.setxattr(path, ACCESS.decode(), acl.pack([owner(6), named(4), group(0), mask(4), other(0)]))
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert by(NOBODY, file.read_text) == 0
        assert by(NOBODY, lambda: file.write_text("x")) == errno.EACCES
        assert by(1, file.read_text) == errno.EACCES
        path.chmod(0o600)
        assert by(NOBODY, file.read_text) == errno.EACCES, "chmod moved the mask"
        os.removexattr(path, ACCESS.decode())
        directory = mount.bucket / "d"
        directory.mkdir()
        os.setxattr(directory, DEFAULT.decode(), acl.pack([owner(7), named(6), group(0), mask(6), other(0)]))
        before = os.umask(0o077)
        try:
            (mount.bucket / made).write_text("shared")
        finally:
            os.umask(before)
        assert by(NOBODY, made.read_text) == 0
        assert by(1, made.read_text) == errno.EACCES
        mine = acl.pack([owner(6), group(0), other(7)])
        assert by(NOBODY, lambda: os.setxattr(file, ACCESS.decode(), mine)) == errno.EPERM
    finally:
        assert mount.stop() == 0
