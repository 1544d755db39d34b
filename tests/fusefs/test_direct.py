"""Which reads are answered without the usual handler, and which are the usual one's after all."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from appliance.errors import Code, StoreError
from appliance.limits import KIB, MIB
from fusefs.observed import OPERATIONS, UNDER_WAY
from fusefs.unexpected import UNEXPECTED
from tests.fusefs.scenes import refused, run, run_on_pool
from tests.fusefs.test_devices import Vanishing, over
from tests.fusefs.unmounted import Unmounted

LONG = bytes(range(256)) * (2 * MIB // 256)


class Asked:
    """What one read was answered."""

    def __init__(self, mount: Unmounted, fh: int, start: int, size: int) -> None:
        self.replies: list[bytes] = []
        self.again = 0
        self.taken = mount.ops.read_directly(
            fh, start, size, lambda data: self.replies.append(bytes(data)), self._ask_again, lambda window, end: 0
        )

    def _ask_again(self) -> None:
        self.again += 1


def test_what_is_committed_is_read_and_answered_elsewhere(tmp_path: Path) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/long", LONG)
        await mount.write_file("photos/short", b"short")
        await mount.ops.files.commit_all()
        long, short = await mount.open("photos/long"), await mount.open("photos/short")
        before = OPERATIONS["read"].bytes
        for start, size in ((0, MIB), (MIB, MIB), (MIB - 1, MIB), (5, 4 * KIB), (2 * MIB - 3, MIB)):
            asked = Asked(mount, long, start, size)
            assert asked.taken is True or asked.taken == LONG[start : start + size], (start, size)
            assert asked.replies == ([LONG[start : start + size]] if asked.taken is True else []), (start, size)
            assert asked.again == 0
        assert Asked(mount, short, 1, MIB).taken == b"hort"
        assert OPERATIONS["read"].bytes - before == 3 * MIB + 4 * KIB + 3 + 4
        await mount.ops.direct.idle()
        assert UNDER_WAY.requests == 0
        await mount.close(long)
        await mount.close(short)

    run_on_pool(scene, tmp_path)


def test_what_is_not_that_simple_is_the_usual_handlers() -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/f", b"0123456789")
        await mount.ops.files.commit_all()
        fh = await mount.open("photos/f", 2)
        directory = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
        assert Asked(mount, fh, 0, 10).taken == b"0123456789"
        for case, asked in {
            "at the end": Asked(mount, fh, 10, 10),
            "a directory": Asked(mount, directory, 0, 10),
            "no handle": Asked(mount, 999, 0, 10),
        }.items():
            assert (asked.taken, asked.replies, asked.again) == (False, [], 0), case
        await mount.ops.write(fh, 3, b"xyz")
        assert Asked(mount, fh, 0, 10).taken is False
        assert await mount.ops.read(fh, 0, 10) == b"012xyz6789"
        await mount.ops.fsync(fh, False)
        assert Asked(mount, fh, 0, 10).taken == b"012xyz6789"
        await mount.ops.releasedir(directory)
        await mount.close(fh)

    run(scene)


def test_what_a_thread_cannot_read_is_asked_again(tmp_path: Path) -> None:
    async def scene(mount: Unmounted, devices: list[Vanishing]) -> None:
        await mount.write_file("photos/long", LONG)
        await mount.ops.files.commit_all()
        fh = await mount.open("photos/long")
        for device in devices:
            device.gone = True
        asked = Asked(mount, fh, 0, MIB)
        assert (asked.taken, asked.replies, asked.again) == (True, [], 1)
        assert UNDER_WAY.requests == 0
        counted = [device.read_errors for device in mount.store.engine.pool.devices.values()]
        assert sorted(counted) == [0, 1, 1], "of two copies"
        async with refused(errno.EIO):
            await mount.ops.read(fh, 0, MIB)
        assert counted == [device.read_errors for device in mount.store.engine.pool.devices.values()]
        for device in devices:
            device.gone = False
        assert await mount.ops.read(fh, 0, MIB) == LONG[:MIB], "it was told once"
        assert Asked(mount, fh, 0, MIB).replies == [LONG[:MIB]]
        await mount.close(fh)

    over(tmp_path, scene)


def test_what_goes_wrong_before_a_thread_has_it_is_the_usual_handlers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception that gets into ctypes would be no answer at all; and nothing stays pinned.  A bug is told of."""

    monkeypatch.setattr(UNEXPECTED, "_kinds", {})

    def raises(error: Exception) -> Callable[..., object]:
        def function(*_: object) -> object:
            raise error

        return function

    async def scene(mount: Unmounted, devices: list[Vanishing]) -> None:
        await mount.write_file("photos/long", LONG)
        await mount.ops.files.commit_all()
        fh = await mount.open("photos/long")
        retrieval = mount.store.engine.retrieval
        cases: tuple[tuple[object, str, Exception], ...] = (
            (retrieval, "plan", KeyError("a bug")),
            (mount.ops.metadata, "accessed", IndexError("a bug")),
            (retrieval, "plan", StoreError(Code.DAMAGED)),
            (retrieval.lanes, "start", trio.ClosedResourceError("these lanes are closed")),
        )
        for where, name, error in cases:
            caplog.clear()
            counted = OPERATIONS["read"].unexpected
            with monkeypatch.context() as patched:
                patched.setattr(where, name, raises(error))
                asked = Asked(mount, fh, 0, MIB)
            assert (asked.taken, asked.replies, asked.again) == (False, [], 0), name
            assert retrieval.pins.oldest(-1) == -1, name
            assert UNDER_WAY.requests == 0, name
            await mount.ops.direct.idle()
            is_bug = isinstance(error, LookupError)
            assert OPERATIONS["read"].unexpected - counted == is_bug, name
            assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error] * is_bug, name
        assert Asked(mount, fh, 0, MIB).replies == [LONG[:MIB]]
        await mount.close(fh)

    over(tmp_path, scene)


def test_a_bug_in_a_thread_is_asked_again_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(UNEXPECTED, "_kinds", {})

    def bug(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    async def scene(mount: Unmounted, devices: list[Vanishing]) -> None:
        await mount.write_file("photos/long", LONG)
        await mount.ops.files.commit_all()
        fh = await mount.open("photos/long")
        counted = OPERATIONS["read"].unexpected
        with monkeypatch.context() as patched:
            patched.setattr(mount.store.engine.pool, "read_any", bug)
            asked = Asked(mount, fh, 0, MIB)
        assert (asked.taken, asked.replies, asked.again) == (True, [], 1)
        assert OPERATIONS["read"].unexpected - counted == 1
        assert "thread met a bug" in caplog.text
        assert await mount.ops.read(fh, 0, MIB) == LONG[:MIB]
        await mount.close(fh)

    over(tmp_path, scene)
