"""Fetching whole windows of files that are read at random into the kernel's cache.

`Windows` says what is worth it; a process of its own (advise.py) has the kernel read it, which asks us by ordinary
requests like for any program: so what the cache has is coherent by the kernel's own means, whoever writes, truncates or
removes the file meanwhile.  The later reads of the window do not reach us at all.

Bounded: a file must be a small part of the memory that is to be had, `FLYING_MAX` windows are asked for and not
answered at once, and whatever does not fit in is not remembered.  Where the process may not do its work (it needs root,
or CAP_DAC_READ_SEARCH) nothing is fetched.
"""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

import trio

from appliance import mountpoints
from fusefs import advise
from fusefs.handles import File
from fusefs.observed import operation
from fusefs.windows import Window, Windows

log = logging.getLogger(__name__)

SMALL: Final = 64 << 10  # bytes of a read that may be one of many in no order
SHARE: Final = 4  # a file may be a quarter of the memory that is to be had
FLYING_MAX: Final = 4
IDLE: Final = 20.0  # seconds after which the process ends
END_TIMEOUT: Final = 5.0  # seconds for what is being opened when the mount ends
SETTLE_TIMEOUT: Final = 0.1  # seconds that close(2) waits for what is being opened
OBSERVED: Final = operation("prefetch")
MEMORY_AGE: Final = 10.0  # seconds that we believe how much memory there is


class Prefetch:
    """One mount's.  `run` it while the mount is served.  How many windows, how long and how much: observed.py."""

    def __init__(self, point: Path) -> None:
        self._point = point
        self._wanted: deque[tuple[File, Window]] = deque()
        self._flying: deque[tuple[File, Window, float]] = deque()  # ... and when they were asked for
        self._woken = trio.Event()
        self._answered = trio.Event()
        self._pid = -1
        self._known = False  # its requests come with its number
        self._forbidden = False
        self._memory = 0
        self._memory_until = 0.0

    def missed(self, file: File, start: int, end: int) -> None:
        """A program's small read came to us."""
        if self._forbidden or len(self._wanted) + len(self._flying) >= FLYING_MAX:
            return
        if file.size * SHARE > self._memory_now():
            return
        if file.windows is None:
            file.windows = Windows()
        window = file.windows.missed(start, end, file.size)
        if window is not None:
            self._wanted.append((file, window))
            self._woken.set()

    def asks(self, pid: int) -> bool:
        """Whether this process is ours: what it opens and reads is no program's."""
        if pid != self._pid:
            return False
        self._known = True
        return True

    async def settled(self, file: File) -> None:
        """No window of the file is being opened: a program that closes it may want to unmount at once."""
        if not self._known or not (self._flying or self._wanted):
            return
        for other in [wanted for wanted in self._wanted if wanted[0] is file]:
            self._wanted.remove(other)
            _landed(*other)
        with trio.move_on_after(SETTLE_TIMEOUT):
            while any(flying[0] is file for flying in self._flying):
                await self._answered.wait()

    async def close(self) -> None:
        """Asks for nothing more.  The mount must still be served."""
        self._forbidden = True
        await self.quiet()

    async def quiet(self) -> None:
        """Nothing is being opened."""
        for other in self._wanted:
            _landed(*other)
        self._wanted.clear()
        with trio.move_on_after(END_TIMEOUT):
            while self._flying:
                await self._answered.wait()

    async def run(self) -> None:
        """Ends only by cancellation."""
        while True:
            await self._woken.wait()
            if self._forbidden:
                await trio.sleep_forever()
            try:
                process = await trio.to_thread.run_sync(_start, self._point)
            except OSError as error:
                self._give_up(str(error))
                await trio.sleep_forever()
            assert process.stdin is not None
            assert process.stdout is not None
            self._pid = process.pid
            try:
                await self._converse(process.stdin.fileno(), process.stdout.fileno())
            finally:
                self._pid = -1
                for file, window, _ in self._flying:
                    _landed(file, window)
                self._flying.clear()
                self._answered_now()
                process.stdin.close()
                process.stdout.close()
                process.kill()
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(_reap, process)

    async def _converse(self, to: int, back: int) -> None:
        """Until it is idle, or has ended."""
        os.set_blocking(to, False)  # it never is full: so few are under way
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_answers, back, nursery.cancel_scope)
            while True:
                while self._wanted:
                    file, window = self._wanted.popleft()
                    self._flying.append((file, window, time.perf_counter()))
                    try:
                        os.write(to, advise.RECORD.pack(file.inode, window.start, window.end - window.start))
                    except BrokenPipeError:
                        return  # the end of its answers is read as well
                self._woken = trio.Event()
                with trio.move_on_after(IDLE) as idle:
                    await self._woken.wait()
                if idle.cancelled_caught and not self._wanted:
                    nursery.cancel_scope.cancel()

    async def _take_answers(self, back: int, ended: trio.CancelScope) -> None:
        while True:
            await trio.lowlevel.wait_readable(back)
            answers = os.read(back, 4096)
            if not answers:  # whoever has ended it may do so again, a process for every few reads
                self._give_up("their process has ended")
                ended.cancel()
                return
            for answer in answers:
                file, window, asked = self._flying.popleft()
                _landed(file, window)
                OBSERVED.ended(time.perf_counter() - asked)
                if answer == advise.DONE[0]:
                    OBSERVED.bytes += window.end - window.start
                if answer == advise.FORBIDDEN[0]:
                    self._give_up("that takes root, or CAP_DAC_READ_SEARCH")
            self._answered_now()

    def _give_up(self, why: str) -> None:
        if not self._forbidden:
            self._forbidden = True
            log.info("from here on nothing is fetched for random reads: %s", why)

    def _answered_now(self) -> None:
        self._answered.set()
        self._answered = trio.Event()

    def _memory_now(self) -> int:
        now = time.monotonic()
        if now >= self._memory_until:
            self._memory, self._memory_until = memory_to_be_had(), now + MEMORY_AGE
        return self._memory


def memory_to_be_had(root: Path = Path("/")) -> int:
    """Bytes that the kernel's cache could take: what is available (proc(5), meminfo), within what our control group may
    have (cgroups(7), memory.max); 0 where nobody says."""
    available = 0
    with suppress(OSError, ValueError, IndexError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) << 10
    with suppress(OSError, ValueError):
        group = (root / "proc/self/cgroup").read_text().partition("0::/")[2].splitlines()[0]
        for path in (root / "sys/fs/cgroup" / group, root / "sys/fs/cgroup"):
            with suppress(OSError, ValueError):  # "max", or no such file
                available = min(available, int((path / "memory.max").read_text()))
    return available


def _landed(file: File, window: Window) -> None:
    assert file.windows is not None
    file.windows.landed(window)


def _start(point: Path) -> subprocess.Popen[bytes]:
    found = mountpoints.at(point)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "not mounted any more", str(point))
    major, minor = map(int, found.device.split(":"))
    return subprocess.Popen(
        [sys.executable, "-I", "-S", advise.__file__, str(point), str(os.makedev(major, minor))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
        bufsize=0,
    )


def _reap(process: subprocess.Popen[bytes]) -> None:
    """It was killed; waits no longer than for a process that does nothing: it may be waiting for us."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(1)
