"""Reading, writing, committing, failing: the handlers without a kernel."""

from __future__ import annotations

import errno
import logging
import os
from collections import deque
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing

from appliance.errors import Code, StoreError
from appliance.limits import FILE_SIZE_MAX, MIB
from appliance.model import Bucket
from fusefs import writeback
from fusefs.operations import Operations
from tests.fusefs.scenes import Play, refused, run, run_on_pool, settled
from tests.fusefs.unmounted import Unmounted

pytestmark = pytest.mark.slow  # in all


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


def test_a_small_file_is_rewritten_over_what_the_writer_has_already_changed(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the commit in the writer's thread and its settling in the loop, memory has the node as it was."""

    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/a", b"one" * 10_000)
        await settled(mount)
        fh = await mount.open("photos/a", os.O_RDWR)
        file = mount.ops.files.get(await mount.inode("photos/a"))
        assert file is not None
        await mount.ops.write(fh, 0, b"two")
        await mount.ops.fsync(fh, False)
        await mount.ops.write(fh, 4, b"TWO")
        with monkeypatch.context() as patch:
            patch.setattr(mount.ops.files, "_submitted", trio.Event())
            patch.setattr(mount.ops.files, "commits", deque())
            await mount.ops.flush(fh)
            await file.pending[0].ticket.wait()
            waiting = list(mount.ops.files.commits)
        await mount.truncate("photos/a", 1000)
        await mount.ops.flush(fh)
        mount.ops.files.commits.extendleft(waiting)
        assert await mount.read_all(fh) == b"twooTWO" + (b"one" * 1000)[7:1000]
        await mount.close(fh)
        await settled(mount)
        assert await mount.door.get("photos", b"a") == b"twooTWO" + (b"one" * 1000)[7:1000]

    play(scene)


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


def test_s3_sees_what_truncate_left_though_another_program_is_still_writing(play: Play) -> None:
    """Who truncates a file by its name closes nothing, and has its answer: S3 then sees it.  Of ftruncate(2) the close
    tells."""

    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/f", b"x" * 100)
        writer = await mount.open("photos/f", os.O_WRONLY)
        await mount.ops.write(writer, 100, b"y" * 100)
        await mount.truncate("photos/f", 150)
        assert await mount.door.get("photos", b"f") == b"x" * 100 + b"y" * 50
        await mount.setattr_inode(await mount.inode("photos/f"), {"st_size": 10}, writer)
        assert await mount.door.get("photos", b"f") == b"x" * 100 + b"y" * 50
        await mount.close(writer)
        assert await mount.door.get("photos", b"f") == b"x" * 10

    play(scene)


def test_a_small_file_is_given_to_the_kernel_when_it_is_opened_first(tmp_path: Path) -> None:
    """Once, and only while nobody has it open: what the kernel has of an open file may be newer, or locked."""

    async def scene(mount: Unmounted) -> None:
        for name, data in (("small", b"x" * 16_384), ("inline", b"bytes"), ("large", b"x" * 16_385), ("empty", b"")):
            await mount.write_file("photos/" + name, data)
        await mount.ops.files.commit_all()
        await settled(mount)
        given, inodes = mount.kernel.given, {}
        for name in ("small", "inline", "large", "empty"):
            inodes[name] = await mount.inode("photos/" + name)
            for _ in range(2):
                await mount.close(await mount.open("photos/" + name))
        assert given == [(inodes["small"], b"x" * 16_384), (inodes["inline"], b"bytes")]
        given.clear()

        async def forgotten() -> None:
            known: Any = mount.ops.inodes._known
            await mount.ops.forget([(inodes["inline"], known[inodes["inline"]].lookups)])

        await forgotten()
        writer = await mount.open("photos/inline", os.O_RDWR)
        await mount.ops.write(writer, 0, b"BYTES")
        await mount.close(await mount.open("photos/inline"))
        await mount.close(writer)
        await mount.close(await mount.open("photos/inline"))
        assert given == [], "not while it is open, dirty or being committed"
        await mount.ops.files.commit_all()
        await settled(mount)
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_DIRECT, os.O_TRUNC):
            await forgotten()
            await mount.close(await mount.open("photos/inline", flags))
            assert given == []
            if not flags & os.O_TRUNC:
                await mount.close(await mount.open("photos/inline"))
                assert given == [(inodes["inline"], b"BYTES")]
                given.clear()

    run_on_pool(scene, tmp_path)


def test_a_small_file_whose_bytes_memory_refuses_is_opened_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who opens a damaged file learns it when he reads, as of a large one, and nothing stays in memory."""

    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/inline", b"bytes")
        await mount.ops.files.commit_all()
        await settled(mount)
        inode = await mount.inode("photos/inline")

        def damaged(*_: object, **__: object) -> None:
            raise StoreError(Code.DAMAGED)

        with monkeypatch.context() as patch:
            patch.setattr(mount.store, "reader", damaged)
            fh = await mount.open("photos/inline")
            async with refused(errno.EIO):
                await mount.ops.read(fh, 0, 5)
            await mount.close(fh)
        assert not mount.kernel.given
        assert inode not in mount.ops.files.files
        assert await mount.read_file("photos/inline") == b"bytes"

    run_on_pool(scene, tmp_path)


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


def test_a_failed_commit_leaves_what_was_committed_not_zeros() -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/f", b"old")
        await settled(mount)
        fh = await mount.open("photos/f", os.O_RDWR)
        await mount.ops.write(fh, 0, b"longer than it was")
        mount.store.fail_next = StoreError(Code.NO_SPACE)
        async with refused(errno.ENOSPC):
            await mount.ops.fsync(fh, False)
        assert (await mount.stat("photos/f")).st_size == 3
        assert await mount.read_all(fh) == b"old"
        await mount.ops.write(fh, 3, b"er")
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == b"older"

    run(scene)


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


def test_a_commit_that_a_failed_device_kept_from_being_done_is_tried_again(play: Play) -> None:
    """Nobody is told, nothing is lost: not what close(2) left behind, nor what fsync(2) waits for."""

    async def scene(mount: Unmounted) -> None:
        real, left = mount.store.submit_file, 0

        class Failed:
            settled = True
            born = 0
            error: StoreError | None = StoreError(Code.UNAVAILABLE, "a device failed: try again")

            async def wait(self, *, patient: bool = False) -> object:
                assert self.error is not None
                raise self.error

            async def stands(self) -> bool:
                return False

        def failing(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            return real(*arguments, **options) if left < 0 else Failed()

        mount.store.submit_file = failing
        left = 1
        await mount.write_file("photos/closed", b"closed")
        await settled(mount)
        assert await mount.read_file("photos/closed") == b"closed"
        await mount.ops.files.commit_all()
        assert await mount.door.get("photos", b"closed") == b"closed"
        fh = await mount.open("photos/closed", os.O_RDWR)
        for at, data in enumerate((b"C", b"L")):
            left = 1
            await mount.ops.write(fh, at, data)
            await mount.ops.fsync(fh, False)
        assert await mount.door.get("photos", b"closed") == b"CLosed"
        left = 1
        await mount.setattr_inode(await mount.inode("photos/closed"), {"st_size": 3}, fh)
        await mount.ops.write(fh, 5, b"x")
        await mount.ops.fsync(fh, False)
        assert await mount.door.get("photos", b"closed") == b"CLo\0\0x"
        left = 1000
        await mount.ops.write(fh, 0, b"12")
        for _ in range(2):
            async with refused(errno.EIO):
                await mount.ops.fsync(fh, False)
        left = 0
        await mount.ops.fsync(fh, False)
        assert await mount.door.get("photos", b"closed") == b"12o\0\0x"
        await mount.close(fh)

    play(scene)


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


def test_a_fragmented_device_takes_smaller_chunks() -> None:
    async def scene(mount: Unmounted) -> None:
        mount.store.longest_run = 3 * MIB
        data = bytes(range(256)) * (11 * MIB // 256)
        fh = await mount.create("photos/f")
        await mount.ops.write(fh, 0, data)
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == data

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


def test_a_rename_that_fails_leaves_an_uncommitted_target_as_it_was() -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/a", b"moves")
        await settled(mount)
        fh = await mount.create("photos/b")
        await mount.ops.write(fh, 0, b"stays")
        mount.store.fail_next = StoreError(Code.LOCKED)
        async with refused(errno.EPERM):
            await mount.rename("photos/a", "photos/b")
        assert sorted(await mount.listdir("photos")) == [b"a", b"b"]
        await mount.close(fh)
        assert await mount.door.get("photos", b"b") == b"stays"
        fh = await mount.create("photos/c")
        await mount.ops.write(fh, 0, b"goes")
        await mount.rename("photos/a", "photos/c")
        await mount.close(fh)
        assert await mount.read_file("photos/c") == await mount.door.get("photos", b"c") == b"moves"

    run(scene)


def test_open_files_without_a_name_above_the_bound_stop_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their bytes can leave memory only with their holders: who waited for their commit would wait for ever."""
    monkeypatch.setattr(writeback, "TOTAL_MEMORY_MAX", MIB)

    async def scene(mount: Unmounted) -> None:
        handles = []
        for number in range(12):
            handles.append(await mount.create(f"photos/{number}"))
            await mount.unlink(f"photos/{number}")
            with trio.fail_after(60):
                await mount.ops.write(handles[-1], 0, bytes(100_000))
                await mount.ops.write(handles[-1], 100_000, b"x")
        for fh in handles:
            await mount.close(fh)
        assert mount.ops.files.memory == 0

    run(scene)


@pytest.mark.parametrize("verb", ["rename", "make_link"])
def test_a_file_that_s3_removes_as_soon_as_it_has_another_name(verb: str, tmp_path: Path) -> None:
    """What was done was done, whatever the other door does before the answer."""

    async def scene(mount: Unmounted) -> None:
        mount.ops.files.durable_close = True  # its answer waits for the barrier
        await mount.write_file("photos/a", b"ours")
        real = getattr(mount.store, verb)

        async def done(*arguments: Any, **options: Any) -> Any:
            result = await real(*arguments, **options)
            for key in (b"a", b"b"):
                await mount.door.put("photos", key, b"theirs")
            return result

        setattr(mount.store, verb, done)
        await (mount.rename if verb == "rename" else mount.link)("photos/a", "photos/b")
        assert await mount.read_file("photos/b") == b"theirs"

    run_on_pool(scene, tmp_path)
