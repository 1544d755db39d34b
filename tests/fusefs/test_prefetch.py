"""Files read at random on a real mount: fetched into the kernel's cache, and never other bytes than the file's.  Files
written on and on: out of it."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.limits import MIB
from appliance.mountpoints import parse
from fusefs import advise, advising, prefetch
from fusefs.handles import File
from fusefs.prefetch import FLYING_MAX, FOLLOW_FROM, Prefetch
from tests.fusefs.scenes import run
from tests.fusefs.served import Served, served
from tests.fusefs.unmounted import Unmounted

PAGE = 4096
PAGES = 2048  # of the test's file: 8 MiB
NUMBER = 8  # bytes
PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH = 24, 2  # linux/prctl.h, linux/capability.h


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("prefetch") / "mnt", "pool") as mount:
        yield mount


def opened(path: Path, flags: int = os.O_RDONLY) -> int:
    """Read at random, and nothing of it in the kernel's cache."""
    descriptor = os.open(path, flags)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    forget(descriptor)
    return descriptor


def forget(descriptor: int) -> None:
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def may_open_by_number() -> bool:
    return os.geteuid() == 0


@pytest.mark.system
def test_what_is_read_at_random_is_fetched_whole_and_read_from_the_cache(mount: Served) -> None:
    content = random.Random(1).randbytes(PAGES * PAGE)
    (mount.bucket / "f").write_bytes(content)
    places = list(range(PAGES))
    random.Random(2).shuffle(places)
    for _ in range(30):  # memory may be short
        descriptor = opened(mount.bucket / "f")
        before = mount.ask("statistics")
        for number, place in enumerate(places):
            assert os.pread(descriptor, PAGE, place * PAGE) == content[place * PAGE : (place + 1) * PAGE]
            while number % 8 == 0 and mount.ask("statistics")["fetching"]:
                pass  # its process has to come up, and to get a turn
        os.close(descriptor)
        after = mount.ask("statistics")
        fetched, reads = after["fetched"] - before["fetched"], after["reads"] - before["reads"]
        assert fetched <= 2 * len(content)
        if fetched >= len(content) / 2 and reads < PAGES / 4:
            break
    else:
        assert not may_open_by_number()


@pytest.mark.system
def test_few_reads_reads_in_order_and_reads_past_the_cache_fetch_nothing(mount: Served) -> None:
    (mount.bucket / "f").write_bytes(bytes(PAGES * PAGE))
    before = mount.ask("statistics")["fetched"]
    descriptor = opened(mount.bucket / "f")
    for place in (900, 70, 1500):
        os.pread(descriptor, PAGE, place * PAGE)
    for place in range(64):
        os.pread(descriptor, PAGE, place * PAGE)
    os.close(descriptor)
    direct = os.open(mount.bucket / "f", os.O_RDONLY | os.O_DIRECT)
    for place in range(64):
        os.pread(direct, PAGE, place * 31 % PAGES * PAGE)
    os.close(direct)
    assert mount.ask("statistics")["fetched"] == before


@pytest.mark.system
def test_who_reads_at_random_sees_each_write_that_is_done_and_what_s3_put(mount: Served) -> None:
    """Each page bears the number of its last write; readers note the least that they must see before they ask."""
    path = mount.bucket / "f"
    path.write_bytes(bytes(PAGES * PAGE))
    least = [0] * PAGES
    problems: list[str] = []
    ended = threading.Event()

    def read(seed: int) -> None:
        chance = random.Random(seed)
        descriptor = opened(path)
        while not ended.is_set():
            place = chance.randrange(PAGES)
            expected = least[place]
            data = os.pread(descriptor, PAGE, place * PAGE)
            if data != data[:NUMBER] * (PAGE // NUMBER) or int.from_bytes(data[:NUMBER]) < expected:
                problems.append(f"page {place}: {data[:NUMBER].hex()} after {expected}")
            if chance.random() < 0.002:
                forget(descriptor)
        os.close(descriptor)

    def write() -> None:
        chance = random.Random(5)
        cached = os.open(path, os.O_RDWR)
        direct = os.open(path, os.O_RDWR | os.O_DIRECT)
        for number in range(1, 800):
            place = chance.randrange(PAGES)
            data = number.to_bytes(NUMBER) * (PAGE // NUMBER)
            if number % 7:
                assert os.pwrite(cached, data, place * PAGE) == PAGE
            else:
                direct_write(direct, data, place)
            least[place] = number
            if number % 100 == 0:
                os.fsync(cached)
        os.close(cached)
        os.close(direct)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    try:
        write()
        for number in range(1_000_000, 1_000_010):
            mount.put("f", number.to_bytes(NUMBER) * (PAGES * PAGE // NUMBER))
            descriptor = opened(path)
            for place in random.Random(number).sample(range(PAGES), 40):
                assert int.from_bytes(os.pread(descriptor, NUMBER, place * PAGE)) == number
            os.close(descriptor)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not problems, problems[:5]


def direct_write(descriptor: int, data: bytes, place: int) -> None:
    """By O_DIRECT: a page of aligned memory."""
    with mmap.mmap(-1, PAGE) as memory:
        memory[:] = data
        assert os.pwrite(descriptor, memory, place * PAGE) == PAGE


@pytest.mark.system
def test_whoever_has_closed_it_can_unmount(tmp_path: Path) -> None:
    mount = Served(tmp_path / "mnt", "pool", "settling")
    (mount.bucket / "f").write_bytes(bytes(PAGES * PAGE))
    descriptor = opened(mount.bucket / "f")
    until = time.monotonic() + 120
    while mount.ask("statistics")["fetched"] == 0 and may_open_by_number() and time.monotonic() < until:
        os.pread(descriptor, PAGE, random.randrange(PAGES) * PAGE)
    for place in range(0, PAGES, 64):
        os.pread(descriptor, PAGE, place * PAGE)
    os.close(descriptor)
    done = subprocess.run(["umount", str(tmp_path / "mnt")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert mount.stop() == 0, mount.log


@pytest.mark.system
def test_what_is_written_on_and_on_is_handed_over_meanwhile(tmp_path: Path) -> None:
    """Though it is less than the kernel may hold, and younger than it would be held for.  Whoever has closed it can
    unmount."""
    until = time.monotonic() + 120
    with served(tmp_path / "mnt", "pool", "settling") as mount:
        with (mount.bucket / "f").open("wb", buffering=0) as file:
            while True:  # it takes a while until the process is there
                expected = mount.ask("statistics")["written"] + 32 * MIB
                for number in range(32):
                    file.write(bytes([number]) * MIB)
                    if number == 23:
                        os.fdatasync(file.fileno())
                patience = time.monotonic() + 2
                while (came := mount.ask("statistics")["written"]) < expected and time.monotonic() < patience:
                    time.sleep(0.02)
                if came >= expected or not may_open_by_number():
                    break
                assert time.monotonic() < until
                file.truncate(0)
                file.seek(0)
        done = subprocess.run(["umount", str(tmp_path / "mnt")], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_a_file_that_was_closed_without_a_flush_is_followed_no_more(tmp_path: Path) -> None:
    """The kernel sends no FLUSH where what it held could not be written (fs/fuse/file.c, fuse_flush)."""

    async def scene(mount: Unmounted) -> None:
        asking = mount.ops.prefetch = Prefetch(tmp_path)
        fh = await mount.create("photos/f")
        reader = await mount.open("photos/f", os.O_RDONLY)
        for number in range(FOLLOW_FROM // MIB):
            await mount.ops.write(fh, number * MIB, bytes(MIB))
        assert [asked.kind for asked in asking._wanted] == [advise.FOLLOW]
        await mount.ops.release(reader)
        assert len(asking._followed) == len(asking._wanted) == 1, "it is written still"
        await mount.ops.release(fh)
        assert not asking._followed
        assert not asking._wanted

    run(scene)


class Told:
    """In place of the process: what it was told, each answered at once, until it is `stuck`."""

    def __init__(self, *, stuck: bool = False) -> None:
        self.kinds: list[int] = []
        self.ended = self.stuck = False
        self.patience = float("inf")
        self.child = None
        self.connection, self._other = socket.socketpair()
        self._other.sendall(advise.STARTED.pack(os.getpid()))
        self.connection.setblocking(False)
        self._thread = threading.Thread(target=self._answer, daemon=True)
        if not stuck:
            self._thread.start()

    def _answer(self) -> None:
        while not self.stuck and len(record := self._other.recv(advise.RECORD.size)) == advise.RECORD.size:
            self.kinds.append(advise.RECORD.unpack(record)[0])
            self._other.sendall(advise.DONE)

    def end(self) -> None:
        self.connection.close()
        if self._thread.is_alive():
            self._thread.join()
        self._other.close()
        self.ended = True


def test_a_process_that_is_stuck_is_asked_for_little_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be stopped, or wait for memory: what is written on and on must not fill what it is asked through."""
    processes: list[Told] = []

    def start(_: Path) -> Told:
        processes.append(Told(stuck=bool(processes)))
        return processes[-1]

    monkeypatch.setattr(prefetch, "_start", start)
    monkeypatch.setattr(prefetch, "REST_MIN", 0.0)

    async def scene(mount: Unmounted) -> None:
        asking = mount.ops.prefetch = Prefetch(tmp_path)
        bucket = mount.store.bucket("photos")
        files = [File(number, bucket, mode=0, uid=0, gid=0, now_ns=0, name=None) for number in range(1, 401)]

        async def until(holds: Callable[[], bool]) -> None:
            with trio.fail_after(60):
                while not holds():
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(asking.run)
            for file in files:
                asking.grown(file, FOLLOW_FROM)
                await until(lambda: not asking._flying and not asking._wanted)
            assert len(asking._followed) == len(files)
            processes[0].stuck = True
            for file in files:
                asking.leave(file)
            await until(lambda: processes[0].ended)
            assert not asking._flying
            for _ in range(1000):
                asking.grown(files[0], FOLLOW_FROM)
                await trio.lowlevel.checkpoint()
            assert len(asking._flying) + len(asking._wanted) <= FLYING_MAX
            nursery.cancel_scope.cancel()

    run(scene)


def test_when_the_mount_ends_nothing_is_followed_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program writes still: the mount's end does not wait for it."""
    told = Told()
    monkeypatch.setattr(prefetch, "_start", lambda _: told)

    async def scene(mount: Unmounted) -> None:
        asking = mount.ops.prefetch = Prefetch(tmp_path)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asking.run)
            fh = await mount.create("photos/f")
            for number in range(FOLLOW_FROM // MIB):
                await mount.ops.write(fh, number * MIB, bytes(MIB))
            while told.kinds != [advise.FOLLOW] or asking._flying:
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(60):
                await asking.close()
            assert told.kinds == [advise.FOLLOW, advise.LEAVE]
            await mount.close(fh)
            nursery.cancel_scope.cancel()

    run(scene)


@pytest.mark.system
def test_a_killed_daemon_takes_its_process_along(tmp_path: Path) -> None:
    mount = Served(tmp_path / "mnt", "pool")
    (mount.bucket / "f").write_bytes(bytes(PAGES * PAGE))
    descriptor = opened(mount.bucket / "f")
    until = time.monotonic() + 120
    while not (asking := processes(mount.point)) and may_open_by_number():
        assert time.monotonic() < until
        os.pread(descriptor, PAGE, random.randrange(PAGES) * PAGE)
    mount.process.kill()
    mount.process.wait()
    with pytest.raises(OSError, match="not connected"):
        for place in range(PAGES):
            os.pread(descriptor, PAGE, place * PAGE)
    with suppress(OSError):  # close(2) says so, too
        os.close(descriptor)
    assert mount.stop() == -signal.SIGKILL
    while asking & processes(mount.point):
        assert time.monotonic() < until


@pytest.mark.system
def test_without_its_process_the_mount_goes_on_until_there_is_another(tmp_path: Path) -> None:
    content = random.Random(3).randbytes(PAGES * PAGE)
    with served(tmp_path / "mnt", "pool") as mount:
        (mount.bucket / "f").write_bytes(content)
        descriptor = opened(mount.bucket / "f")
        until = time.monotonic() + 120
        while not (asking := processes(mount.point)) and may_open_by_number():
            assert time.monotonic() < until
            os.pread(descriptor, PAGE, random.randrange(PAGES) * PAGE)
        for process in asking:
            os.kill(process, signal.SIGKILL)
        while processes(mount.point):
            assert time.monotonic() < until
        for _ in range(3):
            forget(descriptor)
            for place in random.Random(4).sample(range(PAGES), 300):
                assert os.pread(descriptor, PAGE, place * PAGE) == content[place * PAGE : (place + 1) * PAGE]
        while not processes(mount.point) and may_open_by_number():  # after a rest
            assert time.monotonic() < until
            place = random.randrange(PAGES)
            assert os.pread(descriptor, PAGE, place * PAGE) == content[place * PAGE : (place + 1) * PAGE]
            forget(descriptor)
        assert asking.isdisjoint(processes(mount.point))
        os.close(descriptor)


def processes(point: Path) -> set[int]:
    """Those that ask for windows of this mount."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has ended
            words = path.read_bytes().split(b"\0")
            if os.fsencode(advise.__file__) in words and os.fsencode(point) in words:
                found.add(int(path.parent.name))
    return found


@pytest.mark.system
def test_the_process_that_asks_answers_for_whatever_it_is_asked(mount: Served) -> None:
    path = mount.bucket / "g"
    path.write_bytes(bytes(8 * PAGE))
    inode, device = path.stat().st_ino, path.stat().st_dev
    size = 8 * PAGE
    fetch, follow, leave = advise.FETCH, advise.FOLLOW, advise.LEAVE
    cases = [
        ("root", fetch, device, inode, size, advise.DONE),
        ("no such file", fetch, device, 1 << 60, size, advise.REFUSED),
        ("another file system's number", fetch, device + 1, inode, size, advise.REFUSED),
        ("a file as large as all memory", fetch, device, inode, 1 << 60, advise.LARGE),
        ("a file that grows", follow, device, inode, size, advise.DONE),
        ("no such file that grows", follow, device, 1 << 60, size, advise.REFUSED),
        ("a file that is not followed", leave, device, inode, size, advise.DONE),
    ]
    for case, kind, given, number, length, expected in cases:
        if may_open_by_number():
            assert answered(mount, given, advise.RECORD.pack(kind, number, 0, PAGE, length) * 2) == expected * 2, case
    for kind in (fetch, follow):
        request = advise.RECORD.pack(kind, inode, 0, PAGE, size)
        assert answered(mount, device, request, preexec_fn=without_the_right) == advise.FORBIDDEN


def answered(mount: Served, device: int, request: bytes, preexec_fn: Callable[[], None] | None = None) -> bytes:
    """By its process, after its number."""
    words = [sys.executable, "-I", "-S", advise.__file__, str(mount.point), str(device)]
    done = subprocess.run(words, input=request, capture_output=True, preexec_fn=preexec_fn)
    return done.stdout[advise.STARTED.size :]


def without_the_right() -> None:
    """To open files by number: what is executed next has it no more (capabilities(7))."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_READ_SEARCH, 0, 0, 0)


def test_memory_is_what_is_available_and_our_control_group_may_have(tmp_path: Path) -> None:
    def say(name: str, text: str) -> int:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        return advise.memory_to_be_had(str(tmp_path))

    group = "sys/fs/cgroup/a.slice"
    assert say("proc/self/cgroup", "1:cpu:/\n0::/a.slice/b.service\n") == 0
    assert say("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n") == 4000 << 10
    assert say(f"{group}/b.service/memory.max", "max\n") == 4000 << 10
    assert say(f"{group}/b.service/memory.max", "3145728\n") == 3 << 20
    assert say(f"{group}/memory.max", "2097152\n") == 2 << 20
    assert say(f"{group}/b.service/memory.high", "1048576\n") == 1 << 20
    assert say("sys/fs/cgroup/memory.high", "4096\n") == 4096


def test_only_a_mount_that_was_made_for_the_client_is_found() -> None:
    ours = "40 30 0:52 /{0} {1} rw,nosuid shared:9 - fuse.{2} tierce rw,user_id=990,group_id=990,allow_other"
    lines = [
        "39 30 8:1 / /srv rw - ext4 /dev/sda1 rw",
        ours.format("", "/srv/other", "sshfs"),
        ours.format("photos", "/mnt/my\\040photos", "tierce"),
    ]
    mounts = [parse(line) for line in lines]
    cases = [
        ("its own", os.makedev(0, 52), 990, "/mnt/my photos"),
        ("another user's", os.makedev(0, 52), 0, None),
        ("a disk", os.makedev(8, 1), 0, None),
        ("nothing", os.makedev(0, 53), 990, None),
    ]
    for case, device, user, expected in cases:
        assert advising.place(device, user, mounts) == expected, case


@pytest.mark.system
def test_a_client_that_no_mount_was_made_for_is_sent_away(mount: Served) -> None:
    device = mount.point.stat().st_dev
    cases = [("its own", device, 0), ("the root's", os.stat("/").st_dev, 1), ("gone", None, 0)]
    for case, given, expected in cases:
        near, far = socket.socketpair()
        if given is not None:
            near.send(advising.ASKED.pack(given))
        near.shutdown(socket.SHUT_WR)
        with near, far:
            words = [sys.executable, "-m", "fusefs.advising"]
            done = subprocess.run(words, stdin=far.fileno(), stdout=far.fileno(), stderr=subprocess.PIPE, check=False)
            far.close()
            said = near.recv(64)
        assert (done.returncode, bool(done.stderr)) == (expected, expected == 1), (case, done.stderr)
        assert bool(said) == (case == "its own"), case
