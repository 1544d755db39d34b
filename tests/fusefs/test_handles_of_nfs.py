"""File handles as the kernel's NFS server keeps them: a number leads to its inode again, whatever was forgotten."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fusefs.served import Served
from tests.system.conftest import left_out

pytestmark = [pytest.mark.system, pytest.mark.slow]
AT_FDCWD = -100
HANDLE_MAX = 128  # linux/exportfs.h: MAX_HANDLE_SZ
_libc = ctypes.CDLL(None, use_errno=True)


class Handle(ctypes.Structure):
    """struct file_handle, name_to_handle_at(2)."""

    _fields_ = (
        ("bytes", ctypes.c_uint),
        ("type", ctypes.c_int),
        ("data", ctypes.c_ubyte * HANDLE_MAX),
    )


def handle_of(path: Path) -> Handle:
    handle, mount = Handle(bytes=HANDLE_MAX), ctypes.c_int()
    if _libc.name_to_handle_at(AT_FDCWD, os.fsencode(path), ctypes.byref(handle), ctypes.byref(mount), 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    return handle


@contextmanager
def opened(mount: Path, handle: Handle, flags: int = os.O_RDONLY) -> Iterator[int]:
    root = os.open(mount, os.O_RDONLY | os.O_DIRECTORY)
    try:
        descriptor = _libc.open_by_handle_at(root, ctypes.byref(handle), flags)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    finally:
        os.close(root)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def forget() -> None:
    """proc(5), drop_caches: names and inodes that nobody uses."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("2\n")


def read(mount: Path, handle: Handle) -> bytes:
    with opened(mount, handle) as descriptor:
        return os.pread(descriptor, 100, 0)


def test_a_handle_outlives_what_the_kernel_knows_and_the_daemon(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        left_out("TIERCE_ALLOW_NO_LOOP", "needs root: open_by_handle_at(2) wants CAP_DAC_READ_SEARCH")
    mount = Served(tmp_path / "mnt", "pool")
    try:
        directory, file = mount.bucket / "a" / "b", mount.bucket / "a" / "b" / "f"
        directory.mkdir(parents=True)
        file.write_bytes(b"bytes")
        (directory / "gone").write_bytes(b"gone")
        mount.put("s3", b"of S3")
        paths = [mount.point, mount.bucket, directory, file, mount.bucket / "s3", directory / "gone"]
        numbers = [path.stat().st_ino for path in paths]
        handles = [handle_of(path) for path in paths]
        forget()
        for number, handle in zip(numbers, handles, strict=True):
            with opened(mount.point, handle) as descriptor:
                assert os.fstat(descriptor).st_ino == number
        file.rename(mount.bucket / "moved")
        mount.put("s3", b"newer")
        (directory / "gone").unlink()
        forget()
        assert read(mount.point, handles[3]) == b"bytes", "the name is no part of it"
        for lost in handles[4:]:
            with pytest.raises(OSError, match="Stale file handle"):
                read(mount.point, lost)
        with opened(mount.point, handles[3], os.O_WRONLY | os.O_APPEND) as descriptor:
            os.write(descriptor, b" and more")
        with opened(mount.point, handles[2]) as descriptor:
            assert os.readlink(f"/proc/self/fd/{descriptor}") == str(directory), "'..' leads to the root"
        assert mount.stop() == 0
        mount = Served(tmp_path / "mnt", "pool")
        assert read(mount.point, handles[3]) == b"bytes and more"
        with opened(mount.point, handles[2]) as descriptor:
            assert os.fstat(descriptor).st_ino == numbers[2]
            assert os.listdir(descriptor) == []
        for lost in handles[4:]:
            with pytest.raises(OSError) as caught:
                read(mount.point, lost)
            assert caught.value.errno == errno.ESTALE
    finally:
        mount.stop()


def test_a_directory_is_read_through_one_handle_after_another(tmp_path: Path) -> None:
    """As knfsd does: it opens the directory, goes to the cookie of the reply before, reads a little, closes it."""
    libc = _libc
    libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    mount = Served(tmp_path / "mnt", "dict")
    try:
        names = [f"{number:03}" for number in range(300)]
        for name in names:
            (mount.bucket / name).touch()
        found: list[str] = []
        cookie = 0
        while True:
            stream = ctypes.c_void_p(libc.opendir(os.fsencode(mount.bucket)))
            libc.seekdir(stream, ctypes.c_long(cookie))
            for _ in range(17):
                entry = libc.readdir(stream)
                if entry:
                    found.append(ctypes.string_at(entry + 19).decode())  # after d_ino, d_off, d_reclen and d_type
            cookie = libc.telldir(stream)
            libc.closedir(stream)
            if not entry:
                break
            (mount.bucket / found[-1]).unlink()  # where the next one goes on is gone
        assert found == [".", "..", *names]
    finally:
        assert mount.stop() == 0
