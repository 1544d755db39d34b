"""The handlers against a store over dicts, without a kernel."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing

from appliance.errors import Code, StoreError
from appliance.limits import FILE_SIZE_MAX, MIB
from appliance.model import Bucket, Change
from appliance.upkeep.audit import audit
from fusefs import writeback
from fusefs.inodes import ROOT
from fusefs.operations import Operations
from tests.fusefs.memory_store import MemoryStore
from tests.fusefs.unmounted import Unmounted, unmounted, unmounted_pool

Scene = Callable[[Unmounted], Awaitable[None]]


def run(scene: Scene, *, durable_close: bool = False, clock: trio.abc.Clock | None = None) -> Unmounted:
    """Plays a scene on a fresh mount; nothing may be left in memory that nobody needs."""
    mounts = []

    async def main() -> None:
        async with unmounted(durable_close=durable_close) as mount:
            mounts.append(mount)
            await scene(mount)

    trio.run(main, clock=clock)
    return mounts[0]


Play = Callable[[Scene], None]


def run_on_dicts(scene: Scene) -> None:
    run(scene)


@pytest.fixture(params=["dict", "pool"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Plays a scene on either store; the pool is audited afterwards."""
    if request.param == "dict":
        return run_on_dicts

    async def main(scene: Scene) -> None:
        async with unmounted_pool(tmp_path) as mount:
            await scene(mount)
            await mount.ops.files.commit_all()
            report = await audit(mount.store)
            assert not report.problems, report.problems

    return lambda scene: trio.run(main, scene)


@asynccontextmanager
async def refused(number: int) -> AsyncIterator[None]:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[number]


async def settled(mount: Unmounted) -> None:
    """Every submitted commit is durable and the mount has taken it in."""
    await mount.store.settle()
    await trio.testing.wait_all_tasks_blocked()


# ---------------------------------------------------------------------- files
def test_what_is_written_is_read_before_any_commit_and_by_s3_after_close(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/a")
        await mount.ops.write(fh, 0, b"hello")
        assert await mount.read_all(fh) == b"hello"
        with pytest.raises(StoreError):
            await mount.door.get("photos", b"a")  # never committed: not there
        await mount.close(fh)
        assert await mount.door.get("photos", b"a") == b"hello"
        assert await mount.read_file("photos/a") == b"hello"
        await settled(mount)
        assert mount.ops.files.memory == 0
        assert not mount.ops.files.files

    play(scene)


def test_close_does_not_wait_for_the_barrier_and_the_mount_goes_on_meanwhile() -> None:
    async def scene(mount: Unmounted) -> None:
        mount.store.gate = trio.Event()
        await mount.write_file("photos/a", b"one")
        assert await mount.read_file("photos/a") == b"one"
        assert await mount.listdir("photos") == [b"a"]
        fh = await mount.open("photos/a", os.O_RDWR)
        await mount.ops.write(fh, 1, b"NE!")
        assert await mount.read_all(fh) == b"oNE!"
        mount.store.gate.set()
        await mount.ops.fsync(fh, False)
        assert await mount.door.get("photos", b"a") == b"oNE!"
        await mount.close(fh)

    run(scene)


def test_durable_close_waits() -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/a", b"one")
        assert mount.store.commits == 1
        assert not mount.store.queue

    run(scene, durable_close=True)


def test_a_dirty_file_is_committed_when_it_has_aged() -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/log")
        await mount.ops.write(fh, 0, b"line")
        clock.jump(60.0)  # the write-back looks at the wall too
        mount.ops.files.get(await mount.inode("photos/log")).dirty_since -= 60  # type: ignore[union-attr]
        await trio.sleep(2)
        await mount.ops.files.store.settle()
        assert await mount.door.get("photos", b"log") == b"line"
        await mount.close(fh)

    clock = trio.testing.MockClock(autojump_threshold=0)
    run(scene, clock=clock)


def test_random_writes_truncates_and_holes_agree_with_a_bytearray() -> None:
    async def scene(mount: Unmounted) -> None:
        model = bytearray()
        fh = await mount.create("photos/f")
        for step in range(300):
            offset, length = (step * 7919) % 50_000, 1 + (step * 31) % 3000
            if step % 11 == 10:
                size = (step * 4001) % 60_000
                await mount.truncate("photos/f", size)
                del model[size:]
                model.extend(bytes(size - len(model)))
            else:
                data = bytes([step % 251]) * length
                await mount.ops.write(fh, offset, data)
                model.extend(bytes(max(0, offset + length - len(model))))
                model[offset : offset + length] = data
            if step % 37 == 36:
                await mount.ops.fsync(fh, False)
                assert await mount.door.get("photos", b"f") == model
            if step % 53 == 52:
                await mount.ops.flush(fh)
        assert await mount.read_all(fh) == model
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == model
        mount.store.cold = True
        assert await mount.read_file("photos/f") == model

    run(scene)


def test_a_long_sequential_write_needs_little_memory() -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/film")
        piece, most = bytes(range(256)) * 4096, 0
        for number in range(100):
            await mount.ops.write(fh, number * MIB, piece)
            await trio.lowlevel.checkpoint()
            most = max(most, mount.ops.files.memory)
        assert most < 24 * MIB
        with pytest.raises(StoreError):
            await mount.door.get("photos", b"film")  # staged, not committed
        assert await mount.ops.read(fh, 5 * MIB + 1, 4096) == piece[1:4097]
        await mount.close(fh)
        assert await mount.door.get("photos", b"film") == piece * 100
        assert not mount.store.chunks

    run(scene)


def test_a_writer_above_the_bound_waits_while_its_bytes_are_staged() -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/database")
        page = b"p" * 4096
        for number in range(20_000):  # every other page: no run is ever whole
            await mount.ops.write(fh, number * 8192, page)
            assert mount.ops.files.memory <= writeback.FILE_MEMORY_MAX + MIB
        await mount.close(fh)
        await mount.store.settle()
        data = await mount.read_file("photos/database")
        assert data == (page + bytes(4096)) * 19_999 + page

    run(scene)


def test_a_small_changed_file_is_rewritten_whole() -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.door.put("photos", b"conf", b"0123456789")
        submitted: list[dict[str, Any]] = []
        real = mount.store.submit_file

        def submit(bucket: Bucket, **fields: Any) -> Any:
            submitted.append(fields)
            return real(bucket, **fields)

        mount.store.submit_file = submit
        fh = await mount.open("photos/conf", os.O_WRONLY)
        await mount.ops.write(fh, 5, b"X")
        await mount.close(fh)
        assert [(piece.offset, piece.length) for piece in submitted[0]["slices"]] == [(0, 10)]
        assert submitted[0]["cut"] == 0
        assert await mount.door.get("photos", b"conf") == b"01234X6789"

    run(scene)


def test_an_overwritten_staged_chunk_is_given_back() -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/f")
        await mount.ops.write(fh, 0, bytes(9 * MIB))
        await trio.testing.wait_all_tasks_blocked()
        assert mount.store.chunks
        await mount.truncate("photos/f", 0)
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == b""
        assert not mount.store.chunks

    run(scene)


def test_a_truncate_while_a_commit_is_being_built_is_in_the_next_commit() -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/f")
        await mount.ops.write(fh, 0, b"x" * MIB)
        mount.store.stage_gate = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.ops.flush, fh)
            await trio.testing.wait_all_tasks_blocked()
            file = mount.ops.files.get(await mount.inode("photos/f"))
            assert file is not None
            assert file.lock.locked()
            mount.ops.files.truncate(file, 10, 1)
            mount.store.stage_gate.set()
        await mount.ops.write(fh, 20, b"y")
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == b"x" * 10 + bytes(10) + b"y"

    run(scene)


def test_append_after_reopen(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.door.put("photos", b"log", b"one\n")
        fh = await mount.open("photos/log", os.O_WRONLY | os.O_APPEND)
        await mount.ops.write(fh, 4, b"two\n")
        await mount.close(fh)
        assert await mount.door.get("photos", b"log") == b"one\ntwo\n"

    play(scene)


def test_a_huge_sparse_file_costs_nothing(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/disk.img")
        await mount.truncate("photos/disk.img", 4 << 40)
        await mount.ops.write(fh, 3 << 40, b"here")
        await mount.close(fh)
        await mount.store.settle()
        entry = await mount.stat("photos/disk.img")
        assert entry.st_size == 4 << 40
        assert entry.st_blocks * 512 < MIB
        fh = await mount.open("photos/disk.img")
        assert await mount.ops.read(fh, (3 << 40) - 2, 8) == b"\0\0here\0\0"
        await mount.close(fh)
        async with refused(errno.EFBIG):
            await mount.truncate("photos/disk.img", FILE_SIZE_MAX + 1)

    play(scene)


# ---------------------------------------------------------------------- errors
def test_a_failed_commit_is_told_once_to_the_next_fsync_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.door.put("photos", b"f", b"old")
        fh = await mount.open("photos/f", os.O_WRONLY)
        await mount.ops.write(fh, 0, b"new")
        mount.store.fail_next = StoreError(Code.NO_SPACE)
        await mount.ops.flush(fh)  # close(2) submits and does not wait
        await settled(mount)
        async with refused(errno.ENOSPC):
            await mount.ops.fsync(fh, False)
        await mount.ops.fsync(fh, False)
        await mount.close(fh)
        assert await mount.read_file("photos/f") == b"old"

    run(scene)
    assert "NO_SPACE" in caplog.text


def test_a_new_file_whose_commit_failed_is_gone() -> None:
    async def scene(mount: Unmounted) -> None:
        mount.store.fail_next = StoreError(Code.IO_ERROR)
        await mount.write_file("photos/f", b"new")
        await settled(mount)
        assert not await mount.exists("photos/f")
        assert await mount.listdir("photos") == []
        assert not mount.ops.files.files
        assert mount.ops.files.memory == 0

    run(scene)


def test_no_space_while_staging_keeps_the_bytes_for_another_try() -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/f")
        await mount.ops.write(fh, 0, b"kept")
        mount.store.stage_error = StoreError(Code.NO_SPACE)
        async with refused(errno.ENOSPC):
            await mount.ops.flush(fh)
        mount.store.stage_error = None
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == b"kept"

    run(scene)


def test_an_unexpected_exception_is_logged_and_answers_eio(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(mount: Unmounted) -> None:
        mount.store.space = None
        async with refused(errno.EIO):
            await mount.ops.statfs(mount.ctx)

    run(scene)
    assert "Traceback" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_every_handler_is_answered() -> None:
    """Nothing but FUSEError gets out: pyfuse3 ends the mount on anything else."""
    handlers = {name for name in vars(pyfuse3.Operations) if not name.startswith("_")} - {
        "init", "stacktrace", "poll", "supports_dot_lookup", "enable_writeback_cache", "enable_acl",
    }  # fmt: skip
    assert {name for name in handlers if hasattr(vars(Operations).get(name), "__wrapped__")} == handlers


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
        assert inode not in mount.store.nodes

    run(scene)


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


def test_special_files_are_refused_and_regular_ones_made(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        bucket: Any = await mount.inode("photos")
        async with refused(errno.EPERM):
            await mount.ops.mknod(bucket, b"pipe", stat.S_IFIFO | 0o644, 0, mount.ctx)
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
        again = await mount.list_once(fh, 2, 2)
        assert [name for name, _, _ in again] == [name for name, _, _ in first[2:4]]
        assert [name for name, _, _ in await mount.list_once(fh, 0, 2)] == [b"0", b"1"]

    play(scene)


# ---------------------------------------------------------------------- attributes
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


def test_a_write_drops_set_user_id(play: Play) -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await mount.create("photos/tool", mode=0o6755)
        await mount.ops.write(fh, 0, b"#!")
        assert stat.S_IMODE((await mount.stat("photos/tool")).st_mode) == 0o755
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
            (b"trusted.x", b"", errno.EOPNOTSUPP),
            (b"user.meta.Camera", b"x", errno.EINVAL),
            (b"user.meta.a", b"x\ny", errno.EINVAL),
            (b"user.meta.mtime", b"1", errno.EACCES),
            (b"user.meta.a", b"x" * 3000, errno.ENOSPC),
            (b"user.big", bytes(70_000), errno.ENOSPC),
        ):
            async with refused(number):
                await ops.setxattr(inode, name, value, ctx)

    play(scene)


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
