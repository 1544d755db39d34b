"""System calls that Python does not offer, and what tells whether a file system has them."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path
from typing import Final

KEEP_SIZE: Final = 1  # fallocate(2), linux/falloc.h
PUNCH_HOLE: Final = 2
ZERO_RANGE: Final = 16

NOREPLACE: Final = 1  # renameat2(2), linux/fs.h
EXCHANGE: Final = 2
AT_FDCWD: Final = -100

PAGE: Final = mmap.PAGESIZE

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]


def fallocate(descriptor: int, mode: int, offset: int, length: int) -> None:
    """fallocate(2).  Raises OSError."""
    _check(_libc.fallocate(descriptor, mode, offset, length))


def rename(old: str | Path, new: str | Path, flags: int = 0) -> None:
    """renameat2(2).  Raises OSError."""
    _check(_libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def drop_caches() -> bool:
    """Makes the kernel forget clean pages, names and inodes of the whole machine; False where only root may."""
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def missing(directory: Path) -> set[str]:
    """Of "fallocate", "holes", "copy": what the file system of `directory` does not have."""
    names = directory / ".probe-a", directory / ".probe-b"
    absent = set()
    with names[0].open("w+b", buffering=0) as one, names[1].open("w+b", buffering=0) as other:
        one.write(bytes(4 * PAGE))
        os.fsync(one)
        try:
            fallocate(one.fileno(), KEEP_SIZE | PUNCH_HOLE, PAGE, PAGE)
            fallocate(one.fileno(), ZERO_RANGE, 0, PAGE)
        except OSError as error:
            _require(error, errno.EOPNOTSUPP)
            absent |= {"fallocate"}
        if os.lseek(one.fileno(), 0, os.SEEK_HOLE) == 4 * PAGE:
            absent |= {"holes"}
        try:
            os.copy_file_range(one.fileno(), other.fileno(), PAGE, 0, 0)
        except OSError as error:
            _require(error, errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL)
            absent |= {"copy"}
    for name in names:
        name.unlink()
    return absent


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _require(error: OSError, *numbers: int) -> None:
    if error.errno not in numbers:
        raise error
