"""Holes, room and shared ranges: the handlers without a kernel."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
from pyfuse3 import FUSEError

from appliance.limits import FILE_SIZE_MAX, KIB, MIB, TIB
from fusefs import ranges
from fusefs.handles import File, FileHandle
from fusefs.ranges import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from tests.fusefs.scenes import Play, refused, run, settled
from tests.fusefs.unmounted import Unmounted

pytestmark = pytest.mark.slow  # in all

PUNCH = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE


def file_of(mount: Unmounted, fh: Any) -> File:
    """What memory has of an open file."""
    handle = mount.ops.handles[fh]
    assert isinstance(handle, FileHandle)
    return handle.file


async def layout(mount: Unmounted, fh: Any, size: int) -> list[tuple[int, int]]:
    """[from, to) of the data, as a program finds it."""
    found, at = [], 0
    while at < size:
        try:
            start = await mount.ops.lseek(fh, at, os.SEEK_DATA)
        except FUSEError as error:
            if error.errno != errno.ENXIO:
                raise
            break
        at = await mount.ops.lseek(fh, start, os.SEEK_HOLE)
        found.append((start, at))
    return found


def test_holes_are_found_in_memory_and_after_each_commit(play: Play) -> None:
    """64 KiB pieces: what the dictionary store keeps apart."""

    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/f")
        await mount.ops.write(fh, 256 * KIB, b"x" * (128 * KIB))
        await mount.ops.write(fh, 640 * KIB, b"y" * (64 * KIB))
        for _ in range(2):
            assert await layout(mount, fh, 704 * KIB) == [(256 * KIB, 384 * KIB), (640 * KIB, 704 * KIB)]
            assert await mount.ops.lseek(fh, 300 * KIB, os.SEEK_DATA) == 300 * KIB
            assert await mount.ops.lseek(fh, 300 * KIB, os.SEEK_HOLE) == 384 * KIB
            assert await mount.ops.lseek(fh, 0, os.SEEK_HOLE) == 0
            assert await mount.ops.lseek(fh, 650 * KIB, os.SEEK_HOLE) == 704 * KIB  # the end is a hole
            for offset in (704 * KIB, 1 * TIB, -1):
                async with refused(errno.ENXIO):
                    await mount.ops.lseek(fh, offset, os.SEEK_HOLE)
            await mount.ops.fsync(fh, False)
        await mount.ops.write(fh, 0, b"z" * (256 * KIB))  # in memory, before what is committed
        assert await layout(mount, fh, 704 * KIB) == [(0, 384 * KIB), (640 * KIB, 704 * KIB)]
        await mount.truncate("photos/f", 1 * MIB)
        async with refused(errno.ENXIO):
            await mount.ops.lseek(fh, 704 * KIB, os.SEEK_DATA)
        async with refused(errno.EINVAL):
            await mount.ops.lseek(fh, 0, os.SEEK_SET)
        await mount.close(fh)

    play(scene)


def test_a_file_that_someone_writes_is_asked_back_from_the_kernel_first() -> None:
    async def scene(mount: Unmounted) -> None:
        asked: list[tuple[int, int]] = []
        writer = await mount.create("photos/f")
        inode = file_of(mount, writer).inode

        def write_back(of: int, offset: int) -> None:
            asked.append((of, offset))

        vars(mount.kernel)["write_back"] = write_back
        await mount.ops.write(writer, 0, b"x")
        reader = await mount.open("photos/f")
        assert await mount.ops.lseek(reader, 0, os.SEEK_DATA) == 0
        assert asked == [(inode, 0)]
        await mount.close(writer)
        assert await mount.ops.lseek(reader, 0, os.SEEK_DATA) == 0
        assert len(asked) == 1  # nobody writes it: the kernel has given us all
        await mount.close(reader)

    run(scene)


def test_a_punched_hole_reads_as_zeros_frees_its_blocks_and_keeps_the_size(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        data = bytearray(os.urandom(1 * MIB))
        fh = await mount.create("photos/f")
        await mount.ops.write(fh, 0, bytes(data))
        await mount.ops.fsync(fh, False)
        for start, end, mode in (
            (128 * KIB, 256 * KIB, PUNCH),
            (512 * KIB, 640 * KIB, FALLOC_FL_ZERO_RANGE),
            (1000 * KIB, 5 * TIB + 1000 * KIB, PUNCH),  # to the end, which stays
            (100_000, 100_001, PUNCH),
            (768 * KIB, 896 * KIB, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE),
        ):
            await mount.ops.fallocate(fh, mode, start, end - start)
            data[start:end] = bytes(min(end, len(data)) - start)
            assert await mount.read_all(fh) == data
        held = (await mount.stat("photos/f")).st_blocks * 512
        assert held <= 1 * MIB - 384 * KIB
        for commit in (False, True):
            if commit:
                await mount.ops.fsync(fh, False)
            assert await mount.read_all(fh) == data
            assert (await mount.stat("photos/f")).st_size == 1 * MIB
            assert (await mount.stat("photos/f")).st_blocks * 512 <= 1 * MIB - 384 * KIB
            assert await mount.ops.lseek(fh, 128 * KIB, os.SEEK_HOLE) == 128 * KIB
            assert await mount.ops.lseek(fh, 128 * KIB, os.SEEK_DATA) == 256 * KIB
        assert await mount.door.get("photos", b"f") == data
        await mount.ops.write(fh, 130 * KIB, b"again")
        data[130 * KIB : 130 * KIB + 5] = b"again"
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == data

    play(scene)


def test_small_files_have_holes_too(play: Play) -> None:
    """They are not rewritten whole where that would fill a hole; what is left is right at any size."""

    async def scene(mount: Unmounted) -> None:
        for size in (100, 2048, 9000, 16 * KIB):
            data = bytearray(os.urandom(size))
            path = f"photos/{size}"
            await mount.write_file(path, bytes(data))
            await settled(mount)
            fh = await mount.open(path, os.O_RDWR)
            await mount.ops.fallocate(fh, PUNCH, 50, 4096)
            data[50:4146] = bytes(min(4146, size) - 50)
            assert await mount.read_all(fh) == data
            await mount.ops.fsync(fh, False)
            await mount.ops.write(fh, 10, b"#")
            data[10:11] = b"#"
            await mount.close(fh)
            assert await mount.door.get("photos", str(size).encode()) == data

    play(scene)


def test_room_makes_a_file_longer_unless_the_size_is_kept(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/f")
        await mount.ops.write(fh, 0, b"data")
        await mount.ops.fallocate(fh, FALLOC_FL_KEEP_SIZE, 0, 1 * MIB)
        assert (await mount.stat("photos/f")).st_size == 4
        await mount.ops.fallocate(fh, 0, 2, 100)
        assert (await mount.stat("photos/f")).st_size == 102
        await mount.ops.fallocate(fh, FALLOC_FL_ZERO_RANGE, 3, 200)
        assert (await mount.stat("photos/f")).st_size == 203
        assert await mount.read_all(fh) == b"dat" + bytes(200)
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == b"dat" + bytes(200)

    play(scene)


def test_what_cannot_be_is_refused() -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/f")
        for mode, offset, length, number in (
            (0x08, 0, 4096, errno.EOPNOTSUPP),  # COLLAPSE_RANGE
            (0x20, 0, 4096, errno.EOPNOTSUPP),  # INSERT_RANGE
            (FALLOC_FL_PUNCH_HOLE, 0, 4096, errno.EOPNOTSUPP),  # fallocate(2): not without KEEP_SIZE
            (PUNCH | FALLOC_FL_ZERO_RANGE, 0, 4096, errno.EOPNOTSUPP),
            (0, 0, 0, errno.EINVAL),
            (0, -1, 10, errno.EINVAL),
            (0, FILE_SIZE_MAX, 1, errno.EFBIG),
            (FALLOC_FL_KEEP_SIZE, 1 << 60, 1, errno.EFBIG),
            (0, 0, 1 * TIB, errno.ENOSPC),
            (FALLOC_FL_KEEP_SIZE, 0, 1 * TIB, errno.ENOSPC),
        ):
            async with refused(number):
                await mount.ops.fallocate(fh, mode, offset, length)
        assert (await mount.stat("photos/f")).st_size == 0
        await mount.close(fh)

    run(scene)


def test_a_hole_over_many_pieces_is_made_in_steps_and_many_holes_in_several_commits(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "PUNCH_STEP", 4)
    monkeypatch.setattr(ranges, "PUNCHES_MAX", 3)
    monkeypatch.setattr(ranges, "SEEK_STEP", 2)

    async def scene(mount: Unmounted) -> None:
        data = bytearray(os.urandom(40 * 64 * KIB))
        fh = await mount.create("photos/f")
        await mount.ops.write(fh, 0, bytes(data))
        for at in range(0, len(data), 64 * KIB):  # a piece each
            await mount.ops.write(fh, at, bytes(data[at : at + 64 * KIB]))
            await mount.ops.fsync(fh, False)
        assert await mount.ops.lseek(fh, 0, os.SEEK_HOLE) == len(data)
        await mount.ops.fallocate(fh, PUNCH, 100_000, 2_000_000)
        data[100_000:2_100_000] = bytes(2_000_000)
        assert await mount.read_all(fh) == data
        for at in range(2_200_000, 2_600_000, 40_000):
            await mount.ops.fallocate(fh, PUNCH, at, 10_000)
            data[at : at + 10_000] = bytes(10_000)
        assert sum(not hole.owner for hole in file_of(mount, fh).overlay.holes()) <= 3
        assert await mount.read_all(fh) == data
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == data

    play(scene)


def test_a_file_without_a_name_goes_with_its_last_handle(play: Play) -> None:
    """O_TMPFILE: the kernel asks for a file that is called "/"."""

    async def scene(mount: Unmounted) -> None:
        parent = await mount.inode("photos")
        info, entry = await mount.ops.create(parent, b"/", 0o100600, os.O_RDWR | os.O_TMPFILE, mount.ctx)
        assert entry.st_nlink == 0
        await mount.ops.write(info.fh, 0, b"secret")
        await mount.ops.fsync(info.fh, False)
        assert await mount.read_all(info.fh) == b"secret"
        assert await mount.listdir("photos") == []
        await mount.close(info.fh)
        assert not mount.ops.files.files
        root = await mount.inode("")
        async with refused(errno.EPERM):
            await mount.ops.create(root, b"/", 0o100600, os.O_RDWR | os.O_TMPFILE, mount.ctx)

    play(scene)


def test_a_file_without_a_name_gets_one_by_link(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.mkdir("photos/d")
        parent = await mount.inode("photos/d")
        await mount.write_file("photos/d/taken", b"before")
        info, entry = await mount.ops.create(parent, b"/", 0o100600, os.O_RDWR | os.O_TMPFILE, mount.ctx)
        await mount.ops.write(info.fh, 0, b"whole")
        inode = entry.st_ino
        async with refused(errno.EEXIST):
            await mount.ops.link(inode, parent, b"taken", mount.ctx)
        linked = await mount.ops.link(inode, parent, b"there", mount.ctx)
        assert (linked.st_ino, linked.st_nlink, linked.st_size) == (inode, 1, 5)
        assert await mount.door.get("photos", b"d/there") == b"whole"
        await mount.ops.write(info.fh, 5, b" and more")
        again = await mount.ops.link(inode, parent, b"twice", mount.ctx)
        assert again.st_nlink == 2
        await mount.close(info.fh)
        assert await mount.door.get("photos", b"d/twice") == b"whole and more"

    play(scene)
