"""A process that has the kernel read parts of mounted files into its cache: readahead by posix_fadvise(2).

    advise.py MOUNTPOINT DEVICE

says its number (STARTED) on its standard output, takes records (inode, offset, length, size of the file) on its
standard input and answers each by one byte, in order: DONE when the kernel has begun to read, REFUSED when there is no
such file any more, LARGE when the file is no small part of the memory that is to be had, FORBIDDEN when this process
may not open files by their number (open_by_handle_at(2): CAP_DAC_READ_SEARCH) or not see how much memory there is.

It is not the daemon, because opening a file of one's own mount is a wait for oneself: a daemon that is killed inside
would wait for its answer for ever.  This process has nothing of the daemon's but two pipes; when the daemon ends its
waits end with the connection, and then it reads the end of its input.  It is in the mount only while it answers, so
that who unmounts is not told that the mount is in use.

It knows what memory there is, because what it has read is charged to its own control group, and because a daemon that
is shut in may not look.

A file is found by number, as the kernel's NFS server does it, without asking the daemon: the kernel knows a file that
somebody has open (fs/fuse/inode.c, fuse_get_dentry; a handle is the number's upper and lower half and the generation).

Run as a program, or by `advising` for a daemon without rights; knows nothing of the rest.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import sys
import time
from contextlib import suppress
from typing import Final

STARTED: Final = struct.Struct("<Q")  # the process's number
RECORD: Final = struct.Struct("<QQQQ")  # inode, offset, length, size of the file
DONE, REFUSED, LARGE, FORBIDDEN = b"d", b"r", b"l", b"f"
SHARE: Final = 4  # a file may be a quarter of the memory that is to be had
MEMORY_AGE: Final = 10.0  # seconds that we believe how much memory there is
PIECE: Final = 128 << 10  # bytes that the kernel takes in one call where nobody said more (VM_READAHEAD_PAGES)
HANDLE: Final = struct.Struct("=IiIII")  # struct file_handle: bytes, type; inode (upper, lower half), generation
FILEID_INO64_GEN: Final = 0x81  # linux/exportfs.h
AT_FDCWD: Final = -100
GENERATION: Final = 0  # a number never names another file

_libc: Final = ctypes.CDLL(None, use_errno=True)


def main(point: str, device: int) -> None:
    """The program."""
    memory, until = 0, -1.0
    with suppress(BrokenPipeError, ConnectionResetError):  # nobody asks any more
        os.write(1, STARTED.pack(os.getpid()))
        while len(record := os.read(0, RECORD.size)) == RECORD.size:  # what was written at once comes at once
            inode, offset, length, size = RECORD.unpack(record)
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
    """One record."""
    try:
        os.chdir(point)
        try:
            if os.stat(".").st_dev != device:
                return REFUSED  # unmounted, or hidden by another
            descriptor = opened(inode)
            try:
                step = piece(device)
                for at in range(offset, offset + length, step):
                    os.posix_fadvise(descriptor, at, min(step, offset + length - at), os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)
        finally:
            os.chdir("/")
    except OSError as error:
        return FORBIDDEN if error.errno == errno.EPERM else REFUSED
    return DONE


def piece(device: int) -> int:
    """Bytes of one call: the kernel leaves out what is beyond the file system's read-ahead (mm/readahead.c,
    force_page_cache_ra)."""
    path = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    with suppress(OSError, ValueError), open(path, encoding="ascii") as file:
        return max(int(file.read()) << 10, PIECE)
    return PIECE


def opened(inode: int) -> int:
    """A file of the file system of the working directory.  Raises OSError."""
    size = HANDLE.size - 8  # what follows its first two fields
    handle = HANDLE.pack(size, FILEID_INO64_GEN, inode >> 32, inode & 0xFFFFFFFF, GENERATION)
    descriptor = _libc.open_by_handle_at(AT_FDCWD, handle, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(descriptor)


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
