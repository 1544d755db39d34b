"""A process that has the kernel read parts of mounted files into its cache: readahead by posix_fadvise(2).

    advise.py MOUNTPOINT DEVICE

takes records (inode, offset, length) on its standard input and answers each by one byte on its standard output, in
order: DONE when the kernel has begun to read, REFUSED when there is no such file any more, FORBIDDEN when this process
may not open files by their number (open_by_handle_at(2): CAP_DAC_READ_SEARCH).

It is not the daemon, because opening a file of one's own mount is a wait for oneself: a daemon that is killed inside
would wait for its answer for ever.  This process has nothing of the daemon's but two pipes; when the daemon ends its
waits end with the connection, and then it reads the end of its input.  It is in the mount only while it answers, so
that who unmounts is not told that the mount is in use.

A file is found by number, as the kernel's NFS server does it, without asking the daemon: the kernel knows a file that
somebody has open (fs/fuse/inode.c, fuse_get_dentry; a handle is the number's upper and lower half and the generation).

Run as a program; knows nothing of the rest.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import sys
from contextlib import suppress
from typing import Final

RECORD: Final = struct.Struct("<QQQ")  # inode, offset, length
DONE, REFUSED, FORBIDDEN = b"d", b"r", b"f"
HANDLE: Final = struct.Struct("=IiIII")  # struct file_handle: bytes, type; inode (upper, lower half), generation
FILEID_INO64_GEN: Final = 0x81  # linux/exportfs.h
AT_FDCWD: Final = -100
GENERATION: Final = 0  # a number never names another file

_libc: Final = ctypes.CDLL(None, use_errno=True)


def main(point: str, device: int) -> None:
    """The program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # what is meant for the daemon's group
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while len(record := os.read(0, RECORD.size)) == RECORD.size:  # a pipe: what was written at once comes at once
        answer = advise(point, device, *RECORD.unpack(record))
        with suppress(BrokenPipeError):  # the next read says so, too
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
                os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(descriptor)
        finally:
            os.chdir("/")
    except OSError as error:
        return FORBIDDEN if error.errno == errno.EPERM else REFUSED
    return DONE


def opened(inode: int) -> int:
    """A file of the file system of the working directory.  Raises OSError."""
    size = HANDLE.size - 8  # what follows its first two fields
    handle = HANDLE.pack(size, FILEID_INO64_GEN, inode >> 32, inode & 0xFFFFFFFF, GENERATION)
    descriptor = _libc.open_by_handle_at(AT_FDCWD, handle, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(descriptor)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
