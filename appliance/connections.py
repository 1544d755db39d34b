"""The end of a FUSE file system by hand: the kernel's control files of its connections (fusectl, Documentation/
filesystems/fuse.rst, "Control filesystem").

A FUSE connection ends when the last descriptor of its /dev/fuse is closed.  A thread that is inside a write to it
(every notification is one) keeps it open, and if the thread waits there for what only the daemon could answer, it does
so for ever: a daemon that is killed meanwhile leaves a file system that answers nobody, not even with ENOTCONN, and is
itself a process that never ends.  Writing to the connection's `abort` ends it all: whoever waits gets an error.

Root and whoever the file system was mounted for may.  Where fusectl is not mounted root makes a mount of it that has no
place: nobody else sees it.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

PLACE: Final = "/sys/fs/fuse/connections"

# fsopen(2), fsconfig(2), fsmount(2): the same numbers on every architecture
FSOPEN: Final = 430
FSCONFIG: Final = 431
FSMOUNT: Final = 432
CLOEXEC: Final = 1
CREATE: Final = 6

_libc: Final = ctypes.CDLL(None, use_errno=True)


def opened(device: str) -> int:
    """A descriptor for `end`, of the file system that has this device number now (mountpoints.control makes sure that
    it is the one that is meant).  It can be kept: once the file system is gone, writing to it does nothing.  Raises
    OSError."""
    name = device.rpartition(":")[2]
    try:
        return os.open(f"{PLACE}/{name}/abort", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        if os.geteuid() != 0:
            raise
    files = _mounted()
    try:
        return os.open(f"{name}/abort", os.O_WRONLY | os.O_CLOEXEC, dir_fd=files)
    finally:
        os.close(files)


def end(descriptor: int) -> None:
    """From here on the file system answers ENOTCONN to everybody, whoever waits for it now too."""
    os.write(descriptor, b"1")


def _mounted() -> int:
    """The root of a fusectl without a place."""
    context = _called(FSOPEN, b"fusectl", CLOEXEC)
    try:
        _called(FSCONFIG, context, CREATE, None, None, 0)
        return _called(FSMOUNT, context, CLOEXEC, 0)
    finally:
        os.close(context)


def _called(number: int, *arguments: object) -> int:
    result = _libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno() or errno.ENOSYS
        raise OSError(code, os.strerror(code), "fusectl")
    return int(result)
