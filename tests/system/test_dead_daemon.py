"""A daemon that dies while its own threads wait in the kernel for its mount: everybody is told at once; it is gone."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pwd
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from appliance import connections, mounting, mountpoints, premount
from appliance.control import Control
from appliance.errors import Code, StoreError
from appliance.opening import holder
from fusefs.guard import DEATH
from tests.fusefs.compiled import build
from tests.system.box import Box, is_mounted, running

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = [pytest.mark.system, pytest.mark.slow]

TOLD_WITHIN: Final = 60.0  # seconds, where nobody would ever be told; the machine may be busy
NOBODY: Final = (errno.ENOTCONN, errno.ECONNABORTED)


def write_and_seek(place: Path, number: int) -> None:
    """Dirty pages that the daemon asks for, of a file without a name or with one; ends with the errno."""
    generator = random.Random(number)
    bytes_ = generator.randbytes(1 << 20)
    try:
        if number % 2:
            file = os.open(place, os.O_TMPFILE | os.O_RDWR)
        else:
            file = os.open(place / f"{number}", os.O_CREAT | os.O_RDWR)
        while True:
            for _ in range(3):
                os.pwrite(file, bytes_[: generator.randrange(1, 1 << 20)], generator.randrange(64 << 20))
            os.lseek(file, 0, os.SEEK_DATA)
    except OSError as error:
        os._exit(error.errno or 1)


def make_names(place: Path, number: int) -> None:
    """Requests that hold the directory while the other door changes it; ends with the errno."""
    try:
        while True:
            for turn in range(20):
                path = place / f"shared{(turn + number) % 20}"
                with suppress(FileExistsError):
                    path.mkdir()
                try:
                    path.rmdir()
                except OSError as error:
                    if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):  # S3 was there
                        raise
    except OSError as error:
        os._exit(error.errno or 1)


@contextmanager
def at_work(works: Sequence[tuple[Callable[[Path, int], None], Path]]) -> Iterator[Sequence[BaseProcess]]:
    """Processes; none is left."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(place, number)) for number, (work, place) in enumerate(works)]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


@contextmanager
def ended_after(box: Box) -> Iterator[None]:
    """The mount's connection is ended afterwards, so that a failure leaves nobody waiting."""
    whole = mountpoints.at(box.mount)
    assert whole is not None
    control = mountpoints.control(whole)
    try:
        yield
    finally:
        connections.end(control)
        os.close(control)


def put_for_ever(client: S3Client) -> None:
    """Until nobody answers."""
    with suppress(BotoCoreError, ClientError):
        while True:
            for number in range(20):
                client.put_object(Bucket="photos", Key=f"shared{number}/below", Body=b"")
                client.delete_object(Bucket="photos", Key=f"shared{number}/below")


def test_who_waits_for_a_killed_daemon_is_told_at_once(fuse: None, tmp_path: Path) -> None:
    """Without a guard 10 of 10 runs hang: threads wait for folios, the process never ends."""
    build()
    with running(tmp_path / "box") as box:
        box.s3().create_bucket(Bucket="photos")
        place = box.mount / "photos"
        seekers, makers = [(write_and_seek, place)] * 6, [(make_names, place)] * 2
        putting = threading.Thread(target=put_for_ever, args=(box.s3(),))
        with at_work([*seekers, *makers]) as processes, ended_after(box):
            putting.start()
            assert box.process is not None
            stop_waiting(box.process)
            assert all(process.exitcode is None for process in processes)
            box.process.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            box.process.wait(TOLD_WITHIN)
            for process in processes:
                process.join(killed + TOLD_WITHIN - time.monotonic())
            assert {process.exitcode for process in processes} <= set(NOBODY)
            with pytest.raises(OSError) as caught:
                os.statvfs(box.mount)
            assert caught.value.errno == errno.ENOTCONN
        putting.join()
        box.kill()
        box.start()
        assert os.statvfs(box.mount).f_blocks


def stop_waiting(daemon: subprocess.Popen[bytes]) -> None:
    """Stops it at a moment when a thread of it waits in the kernel for what only it could answer."""
    deadline = time.monotonic() + TOLD_WITHIN
    while True:
        daemon.send_signal(signal.SIGSTOP)
        if waits_for_its_mount(daemon.pid):
            return
        assert time.monotonic() < deadline, "no thread of it waits in the kernel"
        daemon.send_signal(signal.SIGCONT)
        time.sleep(0.01)


def waits_for_its_mount(stopped: int) -> bool:
    """Whether a thread of the stopped process has not stopped, but is in the kernel by its descriptor of the mount."""
    while True:
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread ended before it could stop
            tasks = list(Path(f"/proc/{stopped}/task").iterdir())
            states = {task: (task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks}
            if set(states.values()) <= {"T", "D"}:  # proc(5)
                return any("fuse_" in (task / "stack").read_text() for task in tasks if states[task] == "D")


def kill_unguarded(box: Box) -> subprocess.Popen[bytes]:
    """Kills the daemon together with what would end its mount; it is dead, and does not end."""
    daemon, box.process = box.process, None
    assert daemon is not None
    stop_waiting(daemon)
    (guard,) = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    os.kill(int(guard), signal.SIGKILL)
    daemon.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + TOLD_WITHIN
    while not mountpoints.is_dying(daemon.pid):
        assert time.monotonic() < deadline, "no thread of it waits in the kernel"
        time.sleep(0.01)
    return daemon


def test_nobody_else_ends_the_mount_of_a_living_daemon(fuse: None, tmp_path: Path) -> None:
    """Stopped, or with its guard told what is no death; another's unit, and whoever knows only the number of
    its file system, leave it as it is."""
    with running(tmp_path / "box") as box:
        daemon = box.process
        assert daemon is not None
        (guard,) = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
        for number in {signal.SIGUSR1, DEATH, signal.SIGTERM, signal.SIGHUP}:
            os.kill(int(guard), number)
        whole = mountpoints.at(box.mount)
        assert whole is not None
        assert mountpoints.is_answered(whole)
        premount.take_away(box.mount, pwd.getpwuid(whole.owner[0]))
        assert is_mounted(box.mount), "who answers is not the unit's daemon, which is over"
        daemon.send_signal(signal.SIGSTOP)
        try:
            premount.take_away(box.mount, pwd.getpwnam("nobody"))  # the unit's user is another
            assert is_mounted(box.mount)
            assert holder(box.state) == daemon.pid
            assert not mountpoints.is_dying(daemon.pid)
        finally:
            daemon.send_signal(signal.SIGCONT)
        with pytest.raises(FileNotFoundError):
            mountpoints.end(whole._replace(point="/somewhere/else"))
        assert Path(f"/proc/{guard}").exists()
        assert mountpoints.is_answered(whole)
        box.kill()
        with pytest.raises(OSError, match="not connected"):
            os.statvfs(box.mount)
        box.start()


def test_who_comes_next_ends_a_mount_that_nobody_guarded(
    fuse: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon and its guard killed together: the next start, or a forced umount, lets everybody go."""
    build()
    monkeypatch.setattr(mountpoints, "PATIENCE", 1.0)
    with running(tmp_path / "box") as box:
        box.s3().create_bucket(Bucket="photos")
        control = Control(box.state / "control.sock")
        for forced in (False, True):
            with at_work([(write_and_seek, box.mount / "photos")] * 6) as processes, ended_after(box):
                daemon = kill_unguarded(box)
                with pytest.raises(StoreError) as caught:
                    mounting.unmount(control, box.mount)
                assert (caught.value.code, "umount -f" in caught.value.message) == (Code.UNAVAILABLE, True)
                assert is_mounted(box.mount)
                with pytest.raises(StoreError) as caught:
                    mountpoints.bury(box.mount, mountpoints.detach)
                assert caught.value.code is Code.UNAVAILABLE
                if forced:
                    assert not mounting.unmount(control, box.mount, lazy=True, force=True)
                    assert not is_mounted(box.mount)
                box.start()
                daemon.wait(TOLD_WITHIN)
                for process in processes:
                    process.join(TOLD_WITHIN)
                assert {process.exitcode for process in processes} <= set(NOBODY)
            assert box.log().count("waits for its own mount") == 1, "not where the mount was ended before"
            assert os.statvfs(box.mount).f_blocks
