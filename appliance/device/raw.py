"""A real block device, or a file that plays one, by direct I/O.

O_DIRECT keeps the page cache out: what a read returns came from the device, buffers are not copied, and memory stays
the product's own.  On file systems that refuse it (tmpfs) the device falls back to buffered I/O and says so once in
the log; the flush makes both equally durable.

One process at a time: a block device is opened O_EXCL (open(2): refused with EBUSY while it is mounted or held the
same way; mkfs, mount and wipefs honour it), a file is locked by flock(2).  Neither stops a reader; a read-only
opening takes no lock unless asked.

fdatasync(2) is the flush: it also asks the device to empty its write cache.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import stat
import struct
from collections.abc import Callable, Sequence
from typing import Final, Self

from appliance.device.device import ALIGNMENT, Buffer, check_range
from appliance.errors import Code, StoreError

log = logging.getLogger(__name__)

# linux/fs.h
BLKSSZGET: Final = 0x1268  # logical sector size -> int
BLKDISCARD: Final = 0x1277  # uint64_t[2]: offset, length

# linux/falloc.h
FALLOC_FL_KEEP_SIZE: Final = 0x01
FALLOC_FL_PUNCH_HOLE: Final = 0x02

TRANSFER_MAX: Final = 1 << 30  # of one system call: Linux moves at most 0x7ffff000 bytes, an unaligned number

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class RawDevice:
    """A `BlockDevice` over a path.  Made by `open`; its verbs may be called from any thread."""

    def __init__(self, descriptor: int, name: str, size: int, sector: int, *, block: bool, direct: bool) -> None:
        self.name = name
        self.size = size
        self.sector = sector
        self.direct = direct
        self._descriptor = descriptor
        self.block = block  # or a file that plays one
        self._discards = True

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        exclusive: bool = True,
        expected_size: int | None = None,
    ) -> Self:
        """Opens a block device or a regular file.

        `size` is rounded down to whole 4 KiB.  Raises StoreError: IN_USE (another process holds it, or it is
        mounted), UNAVAILABLE (missing, not permitted, neither device nor file), WRONG_DEVICE (smaller than
        `expected_size`).
        """
        name = os.fspath(path)
        try:
            block = _is_block(name)
            descriptor, direct = _open(name, read_only=read_only, exclusive=exclusive and block)
        except OSError as error:
            raise _refusal(name, error) from error
        try:
            if exclusive and not block:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            size = os.lseek(descriptor, 0, os.SEEK_END)
            size -= size % ALIGNMENT
            sector = _sector(descriptor) if block else ALIGNMENT
        except OSError as error:
            os.close(descriptor)
            raise _refusal(name, error) from error
        if expected_size is not None and size < expected_size:
            os.close(descriptor)
            raise StoreError(
                Code.WRONG_DEVICE,
                f"{name} has {size} bytes but its label says {expected_size}: it shrank, or this is a truncated copy",
            )
        if not direct:
            log.warning("%s: no direct I/O on this file system; the page cache is used and flushed", name)
        return cls(descriptor, name, size, sector, block=block, direct=direct)

    @property
    def descriptor(self) -> int:
        """For who reads without the interpreter.  Raises OSError once it is closed."""
        return self._open_descriptor()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fills `buffer`.  Raises OSError naming the device; EIO for a short read."""
        self._transfer(os.preadv, "read", offset, [buffer])

    def write(self, offset: int, buffer: Buffer) -> None:
        """Stores all of `buffer`.  Raises OSError naming the device; EIO for a short write."""
        self._transfer(os.pwritev, "write", offset, [memoryview(buffer)])

    def write_parts(self, offset: int, parts: Sequence[Buffer]) -> None:
        """The same of several, by one system call (pwritev(2))."""
        self._transfer(os.pwritev, "write", offset, [memoryview(part) for part in parts])

    def flush(self) -> None:
        """fdatasync(2)."""
        try:
            os.fdatasync(self._open_descriptor())
        except OSError as error:
            raise self._named(error, "flush") from error

    def discard(self, offset: int, length: int) -> None:
        """BLKDISCARD on a block device, a punched hole in a file; nothing where neither is possible."""
        check_range(offset, length, self.size)
        descriptor = self._open_descriptor()
        if not self._discards or not length:
            return
        try:
            if self.block:
                fcntl.ioctl(descriptor, BLKDISCARD, struct.pack("@QQ", offset, length))
            else:
                _punch(descriptor, offset, length)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS):
                self._discards = False
                log.info("%s: discard is not supported here", self.name)
                return
            raise self._named(error, "discard") from error

    def close(self) -> None:
        """Gives up the descriptor and with it the lock."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _transfer(
        self, call: Callable[[int, list[memoryview], int], int], verb: str, offset: int, buffers: list[memoryview]
    ) -> None:
        length = sum(buffer.nbytes for buffer in buffers)
        check_range(offset, length, self.size)
        if length > TRANSFER_MAX:
            for buffer in buffers:
                for start in range(0, buffer.nbytes, TRANSFER_MAX):
                    piece = buffer[start : start + TRANSFER_MAX]
                    self._transfer(call, verb, offset, [piece])
                    offset += piece.nbytes
            return
        try:
            done = call(self._open_descriptor(), buffers, offset)
        except OSError as error:
            raise self._named(error, f"{verb} {offset}+{length}") from error
        if done != length:
            raise OSError(errno.EIO, f"{verb} {offset}+{length}: only {done} bytes", self.name)

    def _open_descriptor(self) -> int:
        # A closed descriptor's number may belong to another file by now: never let one reach the kernel.
        if self._descriptor < 0:
            raise OSError(errno.EBADF, "the device is closed")
        return self._descriptor

    def _named(self, error: OSError, verb: str) -> OSError:
        return OSError(error.errno, f"{verb}: {error.strerror}", self.name)


def _is_block(name: str) -> bool:
    mode = os.stat(name).st_mode
    if not stat.S_ISBLK(mode) and not stat.S_ISREG(mode):
        raise OSError(errno.ENOTBLK, "neither a block device nor a regular file", name)
    return stat.S_ISBLK(mode)


def _open(name: str, *, read_only: bool, exclusive: bool) -> tuple[int, bool]:
    """(descriptor, whether it is direct).  O_EXCL without O_CREAT has a meaning for block devices only."""
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | (os.O_EXCL if exclusive else 0)
    try:
        return os.open(name, flags | os.O_DIRECT), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    return os.open(name, flags), False


def _refusal(name: str, error: OSError) -> StoreError:
    """An OSError of opening, in words for people."""
    if error.errno in (errno.EBUSY, errno.EWOULDBLOCK, errno.EAGAIN):
        return StoreError(
            Code.IN_USE, f"{name} is in use by another process, or mounted; stop what uses it first", cause=str(error)
        )
    if error.errno == errno.EACCES or error.errno == errno.EPERM:
        return StoreError(
            Code.UNAVAILABLE,
            f"{name} can't be opened: not permitted; run as root or give this user access",
            cause=str(error),
        )
    return StoreError(Code.UNAVAILABLE, f"{name} can't be opened: {error.strerror}", cause=str(error))


def _sector(descriptor: int) -> int:
    """Logical sector size of a block device."""
    answer = fcntl.ioctl(descriptor, BLKSSZGET, struct.pack("@i", 0))
    (size,) = struct.unpack("@i", answer)
    return int(size)


def _punch(descriptor: int, offset: int, length: int) -> None:
    """fallocate(2) with FALLOC_FL_PUNCH_HOLE: Python's os has only posix_fallocate, which knows no flags."""
    if _libc.fallocate(descriptor, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, offset, length) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
