"""Holes, room and shared ranges: the handlers without a kernel."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import trio
from pyfuse3 import FUSEError

from appliance import settings
from appliance.catalogue.commands import DeleteObject
from appliance.engine.ticket import Ticket
from appliance.limits import FILE_SIZE_MAX, KIB, MIB, TIB
from appliance.quota import Quota
from fusefs import ranges
from fusefs.handles import File, FileHandle
from fusefs.operations import NAMELESS
from fusefs.ranges import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE
from tests.fusefs.scenes import Play, refused, run, run_on_pool, settled
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


def test_the_end_of_a_mount_does_not_wait_for_what_the_kernel_writes_back() -> None:
    """Nobody takes in the writes any more that the kernel's answer waits for."""

    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/f")
        directory: Any = await mount.inode("photos")
        nameless, _ = await mount.ops.create(directory, NAMELESS, 0o600, os.O_RDWR, mount.ctx)
        written = threading.Event()
        came_back: list[bool] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mount.kernel, "write_back", lambda inode, offset: came_back.append(written.wait(60)))
            with trio.move_on_after(0.02):
                await mount.ops.lseek(fh, 0, os.SEEK_DATA)
            with trio.move_on_after(0.02):
                await mount.ops.link(file_of(mount, nameless.fh).inode, directory, b"new", mount.ctx)
            assert not came_back, "waited for"
            written.set()
        await mount.close(nameless.fh)
        await mount.close(fh)

    run(scene)


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


def test_pieces_are_of_one_state_whatever_the_writer_commits_meanwhile(tmp_path: Path) -> None:
    """The writer's thread puts another map in the place of one that was just looked up."""

    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/f", b"x" * 200_000)
        await settled(mount)
        inode = (await mount.stat("photos/f")).st_ino
        store, engine = mount.store, mount.store.engine
        real = store.node

        def node(number: int) -> Any:
            found = real(number)
            tickets = list(engine._inline)
            engine._inline.clear()
            engine._runs += 1
            engine._deliver(engine.committer.run(tickets))
            return found

        fh = await mount.open("photos/f", os.O_RDWR)
        await mount.truncate("photos/f", 0)  # its commit waits in the writer's queue
        await mount.ops.flush(fh)
        assert engine._inline
        vars(store)["node"] = node
        assert store.extents(inode, 0, 200_000, 9) == [(0, 200_000)]
        vars(store)["node"] = real
        assert store.extents(inode, 0, 200_000, 9) == []
        await mount.close(fh)

    run_on_pool(scene, tmp_path)


def test_what_is_no_hole_is_counted_once_though_a_commit_is_heard_of_late(tmp_path: Path) -> None:
    """stat(2) between the writer's COMMIT and the loop's hearing of it."""

    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/f")
        await mount.ops.write(fh, 0, b"x" * 400_000)
        await mount.ops.fsync(fh, False)
        await mount.ops.fallocate(fh, PUNCH, 0, 40_960)  # a map from here on
        await mount.ops.fsync(fh, False)
        engine = mount.store.engine
        await mount.ops.fallocate(fh, PUNCH, 40_960, 40_960)
        await mount.ops.flush(fh)
        tickets = list(engine._inline)
        assert tickets
        engine._inline.clear()
        engine._runs += 1
        batch = engine.committer.run(tickets)
        assert (await mount.stat("photos/f")).st_blocks
        engine._deliver(batch)
        await mount.ops.fsync(fh, False)
        assert (await mount.stat("photos/f")).st_blocks * 512 == 319_488  # 318,080 in whole blocks
        await mount.close(fh)

    run_on_pool(scene, tmp_path)


def test_a_file_of_many_pieces_is_cut_in_steps_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "CUT_STEP", 4)
    monkeypatch.setattr(ranges, "SEEK_STEP", 3)

    async def scene(mount: Unmounted) -> None:
        data = bytearray(os.urandom(30 * 20_000))
        fh = await mount.create("photos/f")
        for at in range(0, len(data), 20_000):
            await mount.ops.write(fh, at, bytes(data[at : at + 20_000]))
            await mount.ops.fsync(fh, False)
        await mount.close(fh)
        await settled(mount)
        sizes = []
        submit = mount.store.submit_file

        def submitted(bucket: Any, **said: Any) -> Any:
            sizes.append(said["size"])
            return submit(bucket, **said)

        vars(mount.store)["submit_file"] = submitted
        await mount.truncate("photos/f", 70_000)  # nobody has it open
        await settled(mount)
        assert sizes == [*range(520_000, 70_000, -80_000), 70_000]
        assert await mount.read_file("photos/f") == data[:70_000]
        assert (await mount.stat("photos/f")).st_blocks * 512 <= 73_728
        await mount.truncate("photos/f", 600_000)
        assert await mount.read_file("photos/f") == data[:70_000] + bytes(530_000)
        await mount.truncate("photos/f", 0)
        assert await mount.door.get("photos", b"f") == b""

    run_on_pool(scene, tmp_path)


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


# ---------------------------------------------------------------------- copy_file_range
async def copied(mount: Unmounted, source: str, target: str, start: int, offset: int, length: int) -> int:
    """As between two open files; a target that is not there is made."""
    fh_in = await mount.open(source)
    fh_out = await (mount.open(target, os.O_RDWR) if await mount.exists(target) else mount.create(target))
    try:
        return await mount.ops.copy_file_range(fh_in, start, fh_out, offset, length, 0)
    finally:
        await mount.close(fh_out)
        await mount.close(fh_in)


def test_a_copied_range_is_there_at_once_for_both_doors(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        data, old = os.urandom(3 * MIB), os.urandom(1 * MIB)
        await mount.write_file("photos/a", data)
        await mount.write_file("photos/b", old)
        assert await copied(mount, "photos/a", "photos/b", 100_000, 500_000, 2 * MIB) == 2 * MIB
        expected = old[:500_000] + data[100_000 : 100_000 + 2 * MIB]
        assert await mount.read_file("photos/b") == expected
        assert await mount.door.get("photos", b"b") == expected
        assert await copied(mount, "photos/a", "photos/new", 0, 0, 1 << 40) == 3 * MIB  # to the source's end
        assert await mount.door.get("photos", b"new") == data
        assert await copied(mount, "photos/a", "photos/new", 3 * MIB, 0, 10) == 0
        assert await copied(mount, "photos/b", "photos/b", 0, 8 * MIB, 1 * MIB) == 1 * MIB  # within one file
        assert await mount.door.get("photos", b"b") == expected.ljust(8 * MIB, b"\0") + expected[: 1 * MIB]
        await mount.unlink("photos/a")
        await settled(mount)
        assert await mount.read_file("photos/new") == data

    play(scene)


def test_what_either_has_in_memory_is_part_of_it(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        source = await mount.create("photos/a")
        target = await mount.create("photos/b")
        await mount.ops.write(source, 0, b"s" * MIB)
        await mount.ops.write(target, 0, b"t" * MIB)
        assert await mount.ops.copy_file_range(source, 0, target, 300_000, 200_000, 0) == 200_000
        await mount.ops.write(target, 400_000, b"later")
        expected = bytearray(b"t" * 300_000 + b"s" * 200_000 + b"t" * (MIB - 500_000))
        expected[400_000:400_005] = b"later"
        assert await mount.read_all(target) == expected
        await mount.ops.write(source, 0, b"changed")  # shared no more
        await mount.ops.fsync(source, False)
        assert await mount.read_all(target) == expected
        assert (await mount.stat("photos/b")).st_size == MIB
        for fh in (source, target):
            await mount.close(fh)
        assert await mount.door.get("photos", b"b") == expected
        assert await mount.door.get("photos", b"a") == b"changed" + b"s" * (MIB - 7)

    play(scene)


def test_ranges_that_are_not_shared() -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/a", b"a" * MIB)
        source, target = await mount.open("photos/a", os.O_RDWR), await mount.create("photos/b")
        copy = mount.ops.copy_file_range
        for arguments, number in (
            ((source, 0, source, 1000, 2000, 0), errno.EINVAL),  # it overlaps itself
            ((source, 0, target, FILE_SIZE_MAX - 10, 200_000, 0), errno.EFBIG),
            ((source, 0, target, 0, 100, 0), errno.EOPNOTSUPP),  # small: the kernel copies
            ((source, 0, target, 0, MIB, 1), errno.EINVAL),  # copy_file_range(2): flags must be 0
        ):
            async with refused(number):
                await copy(*arguments)
        parent = await mount.inode("photos")
        info, _ = await mount.ops.create(parent, b"/", 0o100600, os.O_RDWR | os.O_TMPFILE, mount.ctx)
        async with refused(errno.EOPNOTSUPP):
            await copy(source, 0, info.fh, 0, MIB, 0)
        reader = await mount.open("photos/b")
        async with refused(errno.EBADF):
            await copy(source, 0, reader, 0, MIB, 0)
        for fh in (source, target, info.fh, reader):
            await mount.close(fh)

    run(scene)


def test_what_the_other_door_removes_meanwhile_is_copied_by_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last name goes in the batch that shares its bytes: an open file has them all still, and reads give them."""

    async def scene(mount: Unmounted) -> None:
        data = os.urandom(MIB)
        await mount.write_file("photos/a", data)
        source, target = await mount.open("photos/a"), await mount.create("photos/t")
        await mount.ops.write(target, 0, b"t" * MIB)
        await mount.ops.fsync(target, False)
        submit, photos = mount.store.submit_file, mount.store.bucket("photos")

        def behind_a_delete(*arguments: Any, **changes: Any) -> Ticket:
            command = DeleteObject(bucket=photos.id, root=photos.root, key=b"a", now_ns=1, precondition=None)
            mount.store.engine.submit(command)
            ticket: Ticket = submit(*arguments, **changes)
            return ticket

        monkeypatch.setattr(mount.store, "submit_file", behind_a_delete)
        async with refused(errno.EOPNOTSUPP):
            await mount.ops.copy_file_range(source, 0, target, 0, MIB, 0)
        monkeypatch.undo()
        assert not await mount.exists("photos/a")
        assert await mount.read_all(source) == data
        assert await mount.read_all(target) == b"t" * MIB
        for fh in (source, target):
            await mount.close(fh)

    run_on_pool(scene, tmp_path)


def test_crumbs_are_copied_and_many_pieces_shared_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(mount: Unmounted) -> None:
        data = bytearray()
        fh = await mount.create("photos/crumbs")
        for number in range(12):
            piece = bytes([number]) * 20_000
            await mount.ops.write(fh, len(data), piece)
            await mount.ops.fsync(fh, False)
            data += piece
        target = await mount.create("photos/t")
        async with refused(errno.EOPNOTSUPP):
            await mount.ops.copy_file_range(fh, 0, target, 0, len(data), 0)
        monkeypatch.setattr(ranges, "PIECE_MIN", 1)
        monkeypatch.setattr(ranges, "SHARED_PIECES_MAX", 8)
        assert await mount.ops.copy_file_range(fh, 0, target, 0, len(data), 0) == 160_000
        assert await mount.read_all(target) == data[:160_000]
        assert (await mount.stat("photos/t")).st_blocks * 512 == 163_840
        for each in (fh, target):
            await mount.close(each)

    run_on_pool(scene, tmp_path)


def test_a_range_is_shared_only_where_it_is_kept_no_worse(tmp_path: Path) -> None:
    """With as many copies as the target's bucket wants, and encrypted where that is."""

    async def scene(mount: Unmounted) -> None:
        data = os.urandom(MIB)
        for name, copies in (("twice", 2), ("sealed", 1), ("other", 1)):
            await mount.store.create_bucket(name, "me", copies=copies)
        sealed = mount.store.bucket("sealed")
        await mount.store.set_bucket_setting(sealed, settings.ENCRYPTION, b"AES256")
        for name in ("photos", "twice", "sealed"):
            await mount.write_file(f"{name}/a", data)
        before = mount.store.space()[1]
        for source, target, number in (
            ("photos", "other", 0),
            ("photos", "twice", errno.EOPNOTSUPP),
            ("twice", "other", 0),
            ("photos", "sealed", errno.EOPNOTSUPP),
            ("sealed", "other", 0),
            ("sealed", "twice", errno.EOPNOTSUPP),
        ):
            path = f"{target}/from-{source}"
            if number:
                async with refused(number):
                    await copied(mount, f"{source}/a", path, 0, 0, MIB)
                continue
            assert await copied(mount, f"{source}/a", path, 0, 0, MIB) == MIB
            assert await mount.door.get(target, f"from-{source}".encode()) == data
        assert before - mount.store.space()[1] < MIB // 4  # no byte of it twice
        node = await mount.store.look_up(mount.store.bucket("other"), b"from-sealed")
        assert node.sealed  # all its bytes are encrypted, and so is what is written to it
        async with refused(errno.EOPNOTSUPP):
            await copied(mount, "photos/a", "other/from-sealed", 0, 0, MIB)

    run_on_pool(scene, tmp_path)


def test_a_copied_range_begins_a_version_and_counts_to_the_quota(tmp_path: Path) -> None:
    async def scene(mount: Unmounted) -> None:
        store = mount.store
        await store.create_bucket("kept", "me")
        await store.set_bucket_setting(store.bucket("kept"), settings.VERSIONING, settings.ENABLED)
        kept = store.bucket("kept")
        data, old = os.urandom(MIB), os.urandom(200_000)
        await mount.write_file("kept/a", data)
        await mount.write_file("kept/b", old)
        assert await copied(mount, "kept/a", "kept/b", 0, 100_000, MIB) == MIB
        assert await mount.door.get("kept", b"b") == old[:100_000] + data
        page = await store.list_versions(kept, b"b")
        assert [one.size for one in page.versions] == [MIB + 100_000, 200_000]
        first = await store.look_up_version(kept, b"b", page.versions[1].version_id)
        with store.reader(first) as reader:
            assert await reader.read() == old
        await mount.write_file("photos/b", old)
        await settled(mount)
        await store.set_quota(store.bucket("photos"), Quota(size=MIB))
        async with refused(errno.EDQUOT):
            await copied(mount, "kept/a", "photos/b", 0, 100_000, MIB)
        assert await mount.door.get("photos", b"b") == old
        assert await copied(mount, "kept/a", "photos/b", 0, 100_000, MIB - 100_000) == MIB - 100_000
        target = await mount.open("photos/b", os.O_RDWR)
        async with refused(errno.EDQUOT):
            await mount.ops.fallocate(target, 0, MIB, 1)
        await mount.close(target)

    run_on_pool(scene, tmp_path)
