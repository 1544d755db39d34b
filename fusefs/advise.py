"""A process that has the kernel read parts of mounted files into its cache, and write what it holds of others.

    advise.py MOUNTPOINT DEVICE

says its number (STARTED) on its standard output, takes records (kind, inode, offset, length, size of the file) on its
standard input and answers each by one byte, in order: DONE, REFUSED when there is no such file any more, FORBIDDEN when
this process may not open files by their number (open_by_handle_at(2): CAP_DAC_READ_SEARCH).

FETCH: the kernel shall read a part of the file, readahead by posix_fadvise(2).  LARGE when the file is no small part of
the memory that is to be had, FORBIDDEN if this process may not see how much there is.

FOLLOW: somebody writes the file on and on.  The kernel hands nothing of it to the daemon before it has as much as it
may hold (mm/page-writeback.c: of FUSE little, whatever memory there is), and then has the writer pause, some 10 ms each
time: one of the two always waits for the other.  So what is complete from `offset` on is handed over every PERIOD, by
sync_file_range(2), until LEAVE comes; not while the file did not grow for QUIET.  Measured: the writer of 512 MiB stood
still for 200 to 400 ms, with this for 20 to 190.

It is not the daemon, because opening a file of one's own mount is a wait for oneself: a daemon that is killed inside
would wait for its answer for ever.  This process has nothing of the daemon's but two pipes; when the daemon ends its
waits end with the connection, and then it reads the end of its input.  It is in the mount only while it answers or
follows, so that who unmounts is not told that the mount is in use.

It knows what memory there is, because what it has read is charged to its own control group, and because a daemon that
is shut in may not look.

A file is found by number, as the kernel's NFS server does it, without asking the daemon: the kernel knows a file that
somebody has open (fs/fuse/inode.c, fuse_get_dentry; a handle is the number's upper and lower half and the generation).

Run as a program, or by `advising` for a daemon without rights; knows nothing of the rest.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import select
import signal
import struct
import sys
import time
from contextlib import suppress
from typing import Final

STARTED: Final = struct.Struct("<Q")  # the process's number
RECORD: Final = struct.Struct("<QQQQQ")  # kind, inode, offset, length, size of the file
FETCH, FOLLOW, LEAVE = 0, 1, 2
DONE, REFUSED, LARGE, FORBIDDEN = b"d", b"r", b"l", b"f"
SHARE: Final = 4  # a file may be a quarter of the memory that is to be had
MEMORY_AGE: Final = 10.0  # seconds that we believe how much memory there is
PERIOD: Final = 0.002  # seconds: a fast program writes 5 MiB meanwhile; the kernel may hold 30 on a machine with 24 GiB
QUIET: Final = 0.5  # seconds
WHOLE: Final = 1 << 20  # is handed over in such parts: the largest request
SYNC_FILE_RANGE_WRITE: Final = 2  # linux/fs.h
PIECE: Final = 128 << 10  # bytes that the kernel takes in one call where nobody said more (VM_READAHEAD_PAGES)
HANDLE: Final = struct.Struct("=IiIII")  # struct file_handle: bytes, type; inode (upper, lower half), generation
FILEID_INO64_GEN: Final = 0x81  # linux/exportfs.h
AT_FDCWD: Final = -100
GENERATION: Final = 0  # a number never names another file

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


class Writing:
    """A file that is followed."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.start = 0  # before it nothing is to be handed over
        self.size = 0
        self.grew = 0.0  # when it did


def main(point: str, device: int) -> None:
    """The program."""
    memory, until = 0, -1.0
    grows, due = False, 0.0
    followed: dict[int, Writing] = {}
    requests = select.poll()
    requests.register(0, select.POLLIN)
    with suppress(BrokenPipeError, ConnectionResetError):  # nobody asks any more
        os.write(1, STARTED.pack(os.getpid()))
        while True:
            if grows:
                rest = due - time.monotonic()
                if rest <= 0 or not requests.poll(math.ceil(1e3 * rest)):
                    grows = hand_over(followed)
                    due = time.monotonic() + PERIOD
                    continue
            record = os.read(0, RECORD.size)  # what was written at once comes at once
            if len(record) != RECORD.size:
                return
            kind, inode, offset, length, size = RECORD.unpack(record)
            if kind == FOLLOW:
                os.write(1, follow(point, device, inode, offset, followed))
                grows = True
                continue
            if kind == LEAVE:
                leave(inode, followed)
                os.write(1, DONE)
                continue
            if time.monotonic() >= until:
                memory, until = memory_to_be_had(), time.monotonic() + MEMORY_AGE
            if not memory:
                answer = FORBIDDEN
            elif size * SHARE > memory:
                answer = LARGE
            else:
                answer = advise(point, device, inode, offset, length)
            os.write(1, answer)


def advise(point: str, device: int, inode: int, offset: int, length: int) -> bytes:
    """One part of a file."""
    try:
        descriptor = opened(point, device, inode)
        try:
            step = piece(device)
            for at in range(offset, offset + length, step):
                os.posix_fadvise(descriptor, at, min(step, offset + length - at), os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)
    except OSError as error:
        return refusal(error)
    return DONE


def follow(point: str, device: int, inode: int, offset: int, followed: dict[int, Writing]) -> bytes:
    """A file is written from there on, perhaps still."""
    try:
        if inode not in followed:
            followed[inode] = Writing(opened(point, device, inode))
    except OSError as error:
        return refusal(error)
    followed[inode].start, followed[inode].grew = offset, time.monotonic()
    return DONE


def hand_over(followed: dict[int, Writing]) -> bool:
    """What is complete; whether one of the files has grown of late.  From `start` each time: the kernel puts off what
    comes when it has much under way (fs/fuse/file.c, fuse_writepages), and passes over what is handed over."""
    now = time.monotonic()
    grows = False
    for inode, file in list(followed.items()):
        if now - file.grew > QUIET:
            continue
        try:
            size = os.fstat(file.descriptor).st_size // WHOLE * WHOLE
        except OSError:
            leave(inode, followed)
            continue
        if size > file.size:
            file.size, file.grew = size, now
        count = size - file.start
        if count > 0 and _libc.sync_file_range(file.descriptor, file.start, count, SYNC_FILE_RANGE_WRITE):
            leave(inode, followed)
        else:
            grows = True
    return grows


def leave(inode: int, followed: dict[int, Writing]) -> None:
    """It is followed no more.  Not sooner than who has written it has closed it, for a close(2) takes errors of writing
    along (fs/fuse/file.c, fuse_flush): a file that rests stays open."""
    file = followed.pop(inode, None)
    if file is not None:
        with suppress(OSError):
            os.close(file.descriptor)


def refusal(error: OSError) -> bytes:
    """What it means for who asks."""
    return FORBIDDEN if error.errno == errno.EPERM else REFUSED


def piece(device: int) -> int:
    """Bytes of one call: the kernel leaves out what is beyond the file system's read-ahead (mm/readahead.c,
    force_page_cache_ra)."""
    path = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        return max(int(file.read()) << 10, PIECE)
    return PIECE


def opened(point: str, device: int, inode: int) -> int:
    """A file of the file system that is mounted there.  Raises OSError."""
    os.chdir(point)
    try:
        if os.stat(".").st_dev != device:
            raise FileNotFoundError(errno.ENOENT, "unmounted, or hidden by another", point)
        size = HANDLE.size - 8  # what follows its first two fields
        handle = HANDLE.pack(size, FILEID_INO64_GEN, inode >> 32, inode & 0xFFFFFFFF, GENERATION)
        descriptor = _libc.open_by_handle_at(AT_FDCWD, handle, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return int(descriptor)
    finally:
        os.chdir("/")


def memory_to_be_had(root: str = "") -> int:
    """Bytes that the kernel's cache could take: what is available (proc(5), meminfo), within what our control group and
    those that it lies in may have (cgroups(7): memory.max, and memory.high, beyond which the kernel takes memory back
    and lets wait); 0 where nobody says."""
    available = 0
    with (
        suppress(OSError, ValueError, IndexError, StopIteration),
        open(f"{root}/proc/meminfo", encoding="ascii") as lines,
    ):
        available = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    group = ""
    with suppress(OSError, IndexError), open(f"{root}/proc/self/cgroup", encoding="utf-8") as file:
        group = file.read().partition("0::/")[2].splitlines()[0]
    while True:
        for name in ("memory.max", "memory.high"):
            with suppress(OSError, ValueError):  # "max", or no such file
                with open(f"{root}/sys/fs/cgroup/{group}/{name}", encoding="ascii") as file:
                    available = min(available, int(file.read()))
        if not group:
            return available
        group = group.rpartition("/")[0]


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is meant for the daemon's group
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    main(sys.argv[1], int(sys.argv[2]))
