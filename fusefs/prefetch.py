"""Fetching whole windows of files that are read at random into the kernel's cache, and what it holds of files that are
written on and on out of it.

`Windows` says what is worth it; a process of its own (advise.py) has the kernel read it, which asks us by ordinary
requests like for any program: so what the cache has is coherent by the kernel's own means, whoever writes, truncates or
removes the file meanwhile.  The later reads of the window do not reach us at all.

The same process follows who writes much, so that the kernel hands over what it holds while the program goes on
writing: from the first FOLLOW_FROM bytes that came at the end of a file in large requests until it is closed.

Bounded: a file to be fetched from must be a small part of the memory that is to be had (the process says so),
`FLYING_MAX` windows are asked for and not answered at once, and whatever does not fit in is not remembered.  The
process needs root, or CAP_DAC_READ_SEARCH: a daemon that is not root asks one that systemd starts for it (advising.py).
Where there is none that may do its work nothing is fetched.  One that ends, or does not start, is started anew when
there is work, after a while that doubles each time: whoever has ended it may do so again.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import trio

from appliance import mountpoints
from fusefs import advise, advising
from fusefs.handles import File
from fusefs.observed import operation
from fusefs.windows import Window, Windows

log = logging.getLogger(__name__)

SMALL: Final = 64 << 10  # bytes of a read that may be one of many in no order
FLYING_MAX: Final = 4
LARGE: Final = 512 << 10  # bytes of a request of who writes much
FOLLOW_FROM: Final = 16 << 20  # and so often it is told that it goes on
IDLE: Final = 20.0  # seconds after which the process ends
END_TIMEOUT: Final = 5.0  # seconds for what is being opened when the mount ends
SETTLE_TIMEOUT: Final = 0.1  # seconds that close(2) waits for what is being opened
REST_MIN: Final = 1.0  # seconds without a process after one has ended
REST_MAX: Final = 300.0  # and at most; of one that lasted so long, or until it was idle, it is not held against it
CONNECT_TIMEOUT: Final = 5.0  # seconds that the service manager has to take a connection
OBSERVED: Final = operation("prefetch")
REMEDY: Final = (
    "that takes root, or CAP_DAC_READ_SEARCH, or, for the service and who is in the group tierce, a unit that has it: "
    "systemctl enable --now tierce-advise.socket, then start the daemon again"
)


class Asked(NamedTuple):
    """A record, so far as it is told to the process."""

    kind: int
    file: File
    window: Window  # to be fetched; where the file ends that is followed


class Prefetch:
    """One mount's.  `run` it while the mount is served.  How many windows, how long and how much: observed.py."""

    def __init__(self, point: Path) -> None:
        self._point = point
        self._wanted: deque[Asked] = deque()
        self._flying: deque[tuple[Asked, float]] = deque()  # ... and when
        self._followed: set[File] = set()  # perhaps not any more
        self._woken = trio.Event()
        self._answered = trio.Event()
        self._pid = -1
        self._known = False  # its requests come with its number
        self._forbidden = False
        self._rest = 0.0  # how long the last one was ...
        self._rests_until = 0.0  # ... and its end
        self._large = sys.maxsize  # bytes of a file that was too large for the memory
        self._large_until = 0.0

    def missed(self, file: File, start: int, end: int) -> None:
        """A program's small read came to us."""
        if self._forbidden or len(self._wanted) + len(self._flying) >= FLYING_MAX or self._rests():
            return
        if file.size >= self._large:
            if time.monotonic() < self._large_until:
                return
            self._large = sys.maxsize  # there may be more memory by now
        if file.windows is None:
            file.windows = Windows()
        window = file.windows.missed(start, end, file.size)
        if window is not None:
            self._ask(advise.FETCH, file, window)

    def grown(self, file: File, size: int) -> None:
        """A request came with `size` bytes for the end of a file, from the kernel's cache."""
        if size < LARGE:
            return
        file.grown += size
        if file.grown < FOLLOW_FROM or self._forbidden:
            return
        file.grown = 0
        if not self._rests() and len(self._wanted) + len(self._flying) < FLYING_MAX:
            self._followed.add(file)
            self._ask(advise.FOLLOW, file, Window(file.size, file.size))

    def _ask(self, kind: int, file: File, window: Window) -> None:
        self._wanted.append(Asked(kind, file, window))
        self._woken.set()

    def _take_back(self, file: File, kind: int) -> None:
        for other in [wanted for wanted in self._wanted if wanted.file is file and wanted.kind == kind]:
            self._wanted.remove(other)
            _landed(other)

    def _rests(self) -> bool:
        return self._rests_until > 0 and time.monotonic() < self._rests_until

    def asks(self, pid: int) -> bool:
        """Whether this process is ours: what it opens and reads is no program's."""
        if pid != self._pid:
            return False
        self._known = True
        return True

    async def closed(self, file: File, *, written: bool) -> None:
        """A program closes the file, and may want to unmount at once: no window of it is being opened, and if it has
        `written` to it it is not followed any more."""
        if written:
            if not self.leave(file):
                return
        else:
            if not self._known or not (self._flying or self._wanted):
                return
            self._take_back(file, advise.FETCH)
        await self._settled(file)

    def leave(self, file: File) -> bool:
        """It is not followed any more; whether its process has yet to be told.  A flush says so, which comes with each
        close but where the kernel could not write what it held (fs/fuse/file.c, fuse_flush); then the release does."""
        if file not in self._followed:
            return False
        self._followed.discard(file)
        self._take_back(file, advise.FOLLOW)
        if self._pid == -1:
            return False
        self._ask(advise.LEAVE, file, Window(0, 0))
        return True

    async def _settled(self, file: File) -> None:
        with trio.move_on_after(SETTLE_TIMEOUT):
            while any(asked.file is file for asked in (*self._wanted, *(flying[0] for flying in self._flying))):
                await self._answered.wait()

    async def close(self) -> None:
        """Asks for nothing more.  The mount must still be served."""
        self._forbidden = True
        await self.quiet()

    async def quiet(self) -> None:
        """Nothing is open, or being opened."""
        self._drop_wanted()
        for file in list(self._followed):
            self.leave(file)
        with trio.move_on_after(END_TIMEOUT):
            while self._flying or (self._wanted and self._pid != -1):
                await self._answered.wait()

    async def run(self) -> None:
        """Ends only by cancellation."""
        while True:
            while not self._wanted:  # what woke us may have been dropped
                self._woken = trio.Event()
                await self._woken.wait()
            if self._forbidden:
                await trio.sleep_forever()
            try:
                process = await trio.to_thread.run_sync(_start, self._point)
            except OSError as error:
                if error.errno == errno.ENOENT:  # not mounted any more
                    self._give_up(str(error))
                else:
                    self._pause(str(error))
                continue
            began = time.monotonic()
            try:
                await self._converse(process)
            finally:
                self._pid = -1
                for asked, _ in self._flying:
                    _landed(asked)
                self._flying.clear()
                self._followed.clear()
                self._answered_now()
                if time.monotonic() - began >= REST_MAX:
                    self._rest = 0.0
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(process.end)

    async def _converse(self, process: _Process) -> None:
        """Until it is idle, or has ended."""
        connection = process.connection
        number = await _received(connection, advise.STARTED.size)
        if len(number) != advise.STARTED.size:
            self._pause(f"their process did not start{'' if process.child else ': systemctl status tierce-advise@*'}")
            return
        (self._pid,) = advise.STARTED.unpack(number)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._take_answers, connection, nursery.cancel_scope)
            while True:
                while self._wanted:
                    asked = self._wanted.popleft()
                    self._flying.append((asked, time.perf_counter()))
                    kind, file, window = asked
                    record = advise.RECORD.pack(kind, file.inode, window.start, window.end - window.start, file.size)
                    try:
                        connection.send(record)
                    except BlockingIOError:
                        self._pause("their process takes nothing any more")
                        nursery.cancel_scope.cancel()
                    except (BrokenPipeError, ConnectionResetError):
                        pass  # the end of its answers is read as well
                self._woken = trio.Event()
                with trio.move_on_after(process.patience) as idle:
                    await self._woken.wait()
                if idle.cancelled_caught and not self._wanted:
                    self._rest = 0.0
                    nursery.cancel_scope.cancel()

    async def _take_answers(self, connection: socket.socket, ended: trio.CancelScope) -> None:
        while True:
            answers = await _received(connection, 4096)
            if not answers:
                self._pause("their process has ended")
                ended.cancel()
                return
            for answer in answers:
                asked, began = self._flying.popleft()
                _landed(asked)
                if asked.kind == advise.FETCH:
                    OBSERVED.ended(time.perf_counter() - began)
                if answer == advise.DONE[0]:
                    OBSERVED.bytes += asked.window.end - asked.window.start
                elif answer == advise.LARGE[0]:
                    asked.file.windows = None
                    self._large, self._large_until = asked.file.size, time.monotonic() + advise.MEMORY_AGE
                elif answer == advise.FORBIDDEN[0]:
                    self._give_up(REMEDY)
            self._answered_now()

    def _give_up(self, why: str) -> None:
        if not self._forbidden:
            self._forbidden = True
            log.info("from here on nothing is fetched for random reads, and long writes pause: %s", why)
        self._drop_wanted()

    def _pause(self, why: str) -> None:
        """Asks for nothing for a while."""
        self._rest = min(max(2 * self._rest, REST_MIN), REST_MAX)
        self._rests_until = time.monotonic() + self._rest
        log.info("for %g s nothing is fetched for random reads: %s", self._rest, why)
        self._drop_wanted()

    def _drop_wanted(self) -> None:
        for wanted in self._wanted:
            _landed(wanted)
        self._wanted.clear()

    def _answered_now(self) -> None:
        self._answered.set()
        self._answered = trio.Event()


async def _received(connection: socket.socket, size: int) -> bytes:
    """What there is; nothing at its end."""
    await trio.lowlevel.wait_readable(connection)
    try:
        return connection.recv(size)
    except ConnectionResetError:
        return b""


def _landed(asked: Asked) -> None:
    if asked.kind == advise.FETCH and asked.file.windows is not None:  # it has not turned out to be too large
        asked.file.windows.landed(asked.window)


class _Process:
    """One that has the kernel read, as ours or the service manager's; how to talk to it."""

    def __init__(self, connection: socket.socket, child: subprocess.Popen[bytes] | None = None) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.child = child  # if it is ours
        # Who lets it end whenever there is nothing to do leaves the manager a control group each time, with all pages
        # that were charged to it (cgroups(7)): there it stays as long as we do.
        self.patience = IDLE if child is not None else math.inf

    def end(self) -> None:
        """Blocks no longer than for a process that does nothing: it may be waiting for us."""
        self.connection.close()
        if self.child is not None:
            self.child.kill()
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(1)


def _start(point: Path) -> _Process:
    found = mountpoints.at(point)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "not mounted any more", str(point))
    device = os.makedev(*map(int, found.device.split(":")))
    if os.geteuid() != 0:
        with suppress(OSError):  # there is no such unit, or not for us
            return _connected(device)
    near, far = socket.socketpair()
    with far:
        words = [sys.executable, "-I", "-S", advise.__file__, str(point), str(device)]
        try:
            child = subprocess.Popen(words, stdin=far.fileno(), stdout=far.fileno(), cwd="/")
        except BaseException:
            near.close()
            raise
    return _Process(near, child)


def _connected(device: int) -> _Process:
    """To one that systemd starts for us (advising.py).  Raises OSError."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(CONNECT_TIMEOUT)
    try:
        connection.connect(advising.SOCKET)
        connection.sendall(advising.ASKED.pack(device))
    except OSError:
        connection.close()
        raise
    return _Process(connection)
