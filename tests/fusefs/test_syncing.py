"""Which fsyncs are answered without the usual handler, when, and which are the usual one's after all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from appliance.errors import Code, StoreError
from appliance.limits import KIB, PATCH_MAX
from fusefs import operations
from fusefs.observed import OPERATIONS, UNDER_WAY
from fusefs.syncing import STEADY
from fusefs.unexpected import UNEXPECTED
from tests.fusefs.scenes import refused, run_on_pool
from tests.fusefs.test_ahead import Failing, linger
from tests.fusefs.unmounted import Unmounted

LONG = bytes(range(256)) * 256
PAGE = b"page" * KIB


class Asked:
    """What one fsync was answered."""

    def __init__(self, mount: Unmounted, fh: int) -> None:
        self.replies = self.again = 0
        self.taken = mount.ops.sync_directly(fh, self._reply, self._ask_again)

    def _reply(self) -> None:
        self.replies += 1

    def _ask_again(self) -> None:
        self.again += 1


async def steady(mount: Unmounted, fh: int) -> bytes:
    """Each write is synced, so that the next one's commit is early; what the file has then."""
    await mount.ops.files.commit_all()
    for turn in range(STEADY + 1):  # the first one may be the second since the last fsync
        await mount.ops.write(fh, turn * 5000, PAGE)
        assert Asked(mount, fh).taken
        await mount.ops.syncs.idle()
    return await mount.read_all(fh)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The last is what the mount's clock shows."""
    shown = [10**18]
    monkeypatch.setattr(operations, "clock_ns", lambda: shown[-1])
    return shown


async def opened(mount: Unmounted, data: bytes = LONG) -> int:
    """A committed file."""
    await mount.write_file("photos/f", data)
    await mount.ops.files.commit_all()
    fh: int = await mount.open("photos/f", os.O_RDWR)
    return fh


def test_little_is_answered_when_it_stands_and_shown_when_asked_for(tmp_path: Path) -> None:
    async def scene(mount: Unmounted) -> None:
        linger(mount)
        fh, wanted = await opened(mount), bytearray(LONG)
        for turn in range(4):  # the ones before it stand, and are not in the catalogue
            await mount.ops.write(fh, turn * 5000, PAGE)
            wanted[turn * 5000 : turn * 5000 + len(PAGE)] = PAGE
            asked = Asked(mount, fh)
            assert (asked.taken, asked.replies) == (True, 0), "not before its barrier"
            assert UNDER_WAY.requests == 1, "nobody looks for requests meanwhile"
            await mount.ops.syncs.idle()
            assert (asked.replies, asked.again, UNDER_WAY.requests) == (1, 0, 0)
            assert mount.store.engine.committer.ahead == turn + 1
            assert await mount.read_all(fh) == wanted
        assert mount.ops.pending.is_synced(await mount.inode("photos/f")), "what is done with its name waits"
        assert await mount.door.get("photos", b"f") == wanted
        await mount.close(fh)

    run_on_pool(scene, tmp_path)


def test_what_is_not_that_simple_is_the_usual_handlers(tmp_path: Path) -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await opened(mount)
        directory = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
        file = mount.ops.files.files[await mount.inode("photos/f")]
        fresh = await mount.create("photos/new")
        await mount.ops.write(fresh, 0, LONG)

        def untaken(case: str, handle: int) -> None:
            before = file.overlay.fresh, file.dirty, len(file.pending)
            asked = Asked(mount, handle)
            assert (asked.taken, asked.replies, asked.again) == (False, 0, 0), case
            assert (file.overlay.fresh, file.dirty, len(file.pending)) == before, case

        for case, handle in {"a directory": directory, "no handle": 999, "clean": fh, "never committed": fresh}.items():
            untaken(case, handle)
        await mount.ops.write(fh, 0, bytes(PATCH_MAX + 1))
        untaken("much", fh)
        await mount.ops.fsync(fh, False)
        await mount.ops.write(fh, 0, PAGE)
        file.error = StoreError(Code.IO_ERROR)
        untaken("something failed before", fh)
        async with refused(errno.EIO):
            await mount.ops.fsync(fh, False)
        await mount.ops.write(fh, 0, PAGE)
        file.refused = StoreError(Code.NO_SPACE)
        untaken("something was refused", fh)
        file.refused = None
        async with file.lock:
            untaken("a commit is being built", fh)
        await mount.ops.files.commit(file)
        await mount.ops.write(fh, 0, PAGE)
        untaken("a commit is under way", fh)
        await mount.ops.fsync(fh, False)
        await mount.ops.files.commit_all()
        mount.ops.files.truncate(file, len(LONG) - 1, 0)
        untaken("shorter", fh)
        mount.ops.files.punch(file, 0, 4096, 0)
        untaken("a hole", fh)
        await mount.ops.fsync(fh, False)
        await mount.ops.write(fh, 0, PAGE)
        await mount.ops.mkdir(await mount.inode("photos"), b"d", 0o755, mount.ctx)
        untaken("a name changes", fh)
        await mount.ops.fsyncdir(directory, False)
        await mount.ops.unlink(await mount.inode("photos"), b"f", mount.ctx)
        untaken("unlinked", fh)
        for handle in (fh, fresh):
            await mount.close(handle)
        await mount.ops.releasedir(directory)

    run_on_pool(scene, tmp_path)


def test_what_fails_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A device's failure is tried again by who waits; an exception that gets into ctypes would be no answer at all.
    A bug is told of."""

    monkeypatch.setattr(UNEXPECTED, "_kinds", {})

    async def scene(mount: Unmounted) -> None:
        failing = Failing(mount)
        fh = await opened(mount)
        await mount.ops.write(fh, 0, PAGE)
        failing.left = 2  # what was submitted is tried again at once
        asked = Asked(mount, fh)
        await mount.ops.syncs.idle()
        assert (asked.taken, asked.replies, asked.again, UNDER_WAY.requests) == (True, 0, 1, 0)
        await mount.ops.fsync(fh, False)
        wanted = PAGE + LONG[len(PAGE) :]
        assert await mount.door.get("photos", b"f") == wanted

        def bug(*_: object, **__: object) -> None:
            raise KeyError("a bug")

        await mount.ops.files.commit_all()  # nothing is under way
        await mount.ops.write(fh, 5000, PAGE)
        counted = OPERATIONS["fsync"].unexpected
        assert "met a bug" not in caplog.text
        with monkeypatch.context() as patched:
            patched.setattr(mount.store, "submit_file", bug)
            asked = Asked(mount, fh)
        assert (asked.taken, asked.replies, asked.again, UNDER_WAY.requests) == (False, 0, 0, 0)
        assert OPERATIONS["fsync"].unexpected - counted == 1
        assert "a direct fsync met a bug" in caplog.text
        await mount.ops.fsync(fh, False)
        wanted = wanted[:5000] + PAGE + wanted[5000 + len(PAGE) :]
        assert await mount.door.get("photos", b"f") == wanted
        await mount.close(fh)

    run_on_pool(scene, tmp_path)


def test_who_syncs_each_write_finds_its_barrier_on_its_way(tmp_path: Path, clock: list[int]) -> None:
    """H1: answered when it is over; whoever writes more than once is as others are from then on."""

    async def scene(mount: Unmounted) -> None:
        linger(mount)
        fh = await opened(mount)
        file = mount.ops.files.files[await mount.inode("photos/f")]
        wanted = bytearray(await steady(mount, fh))

        async def write(at: int) -> None:
            await mount.ops.write(fh, at, PAGE)
            wanted[at : at + len(PAGE)] = PAGE

        await write(100)
        assert not file.dirty, "its commit is submitted"
        commits = len(file.pending)
        asked = Asked(mount, fh)
        assert (asked.taken, asked.replies, len(file.pending)) == (True, 0, commits), "not before its barrier"
        await mount.ops.syncs.idle()
        assert (asked.replies, asked.again, UNDER_WAY.requests) == (1, 0, 0)
        await write(30_000)
        await file.pending[-1].ticket.stands()
        asked = Asked(mount, fh)
        assert (asked.taken, asked.replies) == (True, 1), "its barrier was over"
        await mount.ops.files.wait(file.pending[-1])
        assert (asked.replies, asked.again, UNDER_WAY.requests) == (1, 0, 0)
        clock.append(clock[-1] + 4_000_000)
        await write(2_000)
        assert file.dirty, "the kernel will say its times"
        times = {"st_mtime_ns": clock[-1] - 1, "st_ctime_ns": clock[-1] - 1}
        await mount.setattr_inode(file.inode, times, fh)
        assert not file.dirty
        await mount.setattr_inode(file.inode, times, fh)
        assert not file.dirty, "they are known"
        asked = Asked(mount, fh)
        assert (asked.taken, asked.replies) == (True, 0)
        await mount.ops.files.wait(file.pending[-1])
        assert asked.replies == 1
        assert mount.store.node(file.inode).mtime_ns == clock[-1] - 1
        clock.append(clock[-1] + 4_000_000)
        await write(3_000)
        asked = Asked(mount, fh)
        assert (asked.taken, asked.replies) == (True, 0), "it says none"
        await mount.ops.files.wait(file.pending[-1])
        assert (asked.replies, file.dirty) == (1, False)
        await write(9_000)
        await write(40_000)
        await write(50_000)
        assert (file.dirty, file.steady) == (True, 0), "one was wasted"
        await mount.ops.fsync(fh, False)
        assert await mount.read_all(fh) == wanted
        assert await mount.door.get("photos", b"f") == wanted
        await mount.close(fh)

    run_on_pool(scene, tmp_path)


def test_an_early_commit_that_fails_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: list[int]
) -> None:
    async def scene(mount: Unmounted) -> None:
        linger(mount)
        failing = Failing(mount)
        fh = await opened(mount)
        wanted = bytearray(LONG)
        for at, asks_before in ((10_000, True), (20_000, False)):
            wanted[:] = await steady(mount, fh)
            failing.left = 2  # what was submitted is tried again at once
            await mount.ops.write(fh, at, PAGE)
            wanted[at : at + len(PAGE)] = PAGE
            asked = Asked(mount, fh) if asks_before else None
            file = mount.ops.files.files[await mount.inode("photos/f")]
            assert file.pending, "it is under way"
            await mount.ops.files.wait(file.pending[-1])
            if asked is not None:
                assert (asked.taken, asked.replies, asked.again, UNDER_WAY.requests) == (True, 0, 1, 0)
            assert file.dirty, "as before"
            await mount.ops.fsync(fh, False)
            assert await mount.door.get("photos", b"f") == wanted
        await steady(mount, fh)
        before = OPERATIONS["fsync"].unexpected

        def bug(*_: object, **__: object) -> None:
            raise KeyError("a bug")

        with monkeypatch.context() as patched:
            patched.setattr(mount.store, "submit_file", bug)
            await mount.ops.write(fh, 0, PAGE)
            assert OPERATIONS["fsync"].unexpected > before, "a bug is counted"
        await mount.ops.fsync(fh, False)
        wanted[:20_000] = (await mount.read_all(fh))[:20_000]
        assert wanted[: len(PAGE)] == PAGE
        assert await mount.door.get("photos", b"f") == wanted
        await mount.close(fh)

    run_on_pool(scene, tmp_path)


def test_what_the_kernel_says_of_times_that_are_known_is_no_change(tmp_path: Path) -> None:
    async def scene(mount: Unmounted) -> None:
        fh = await opened(mount)
        inode = await mount.inode("photos/f")
        file = mount.ops.files.files[inode]
        await mount.ops.write(fh, 0, PAGE)
        await mount.ops.fsync(fh, False)
        for later, dirty in ((0, False), (1, True)):
            times = {"st_mtime_ns": file.mtime_ns + later, "st_ctime_ns": file.ctime_ns}
            told = await mount.setattr_inode(inode, times, fh)
            assert (told.st_mtime_ns, file.dirty) == (times["st_mtime_ns"], dirty)
        await mount.close(fh)

    run_on_pool(scene, tmp_path)
