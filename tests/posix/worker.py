"""A process that makes system calls as one user: requests and answers are lines of JSON.

    python -m tests.posix.worker USER GROUP[,GROUP...]

A request is [call, argument...], all text; an answer is ["ok", value] or ["error", errno].  The process keeps its
directory, umask and open files between requests, as a program does; "reset PATH" begins anew in another directory.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
UTIME = {"now": (1 << 30) - 1, "omit": (1 << 30) - 2}  # linux/stat.h
RENAME = {"": 0, "noreplace": 1, "exchange": 2, "whiteout": 4, "both": 3}  # linux/fs.h
TYPES = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFBLK: "block",
    stat.S_IFCHR: "char",
}
COARSE = 5  # clock_gettime(2): CLOCK_REALTIME_COARSE
libc = ctypes.CDLL(None, use_errno=True)
Fields = dict[str, int | str]


class Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), "")


def timespec(text: str) -> Timespec:
    """Of "now", "omit" or seconds with nine digits after a point."""
    if text in UTIME:
        return Timespec(0, UTIME[text])
    seconds, _, fraction = text.partition(".")
    return Timespec(int(seconds), int(fraction.ljust(9, "0") or 0))


class User:
    """The calls.  Descriptors have names; "." is the working directory's."""

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self.programs: list[subprocess.Popen[bytes]] = []

    # -- state
    def reset(self, path: str) -> None:
        for descriptor in self.files.values():
            os.close(descriptor)
        self.files.clear()
        while self.programs:
            self.end()
        os.chdir(path)
        os.umask(0)

    def umask(self, mode: str) -> None:
        os.umask(int(mode, 8))

    def chdir(self, path: str) -> None:
        os.chdir(path)

    # -- names
    def mkdir(self, path: str, mode: str = "755") -> None:
        os.mkdir(path, int(mode, 8))

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def link(self, old: str, new: str) -> None:
        os.link(old, new, follow_symlinks=False)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, path)

    def readlink(self, path: str) -> str:
        return os.readlink(path)

    def rename(self, old: str, new: str, how: str = "") -> None:
        checked(libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), RENAME[how]))

    def mkfifo(self, path: str, mode: str = "644") -> None:
        os.mkfifo(path, int(mode, 8))

    def mknod(self, path: str, kind: str, mode: str, major: str = "0", minor: str = "0") -> None:
        of = {"block": stat.S_IFBLK, "char": stat.S_IFCHR, "fifo": stat.S_IFIFO, "socket": stat.S_IFSOCK, "file": 0}
        os.mknod(path, of[kind] | int(mode, 8), os.makedev(int(major), int(minor)))

    def bind(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path)

    def ls(self, path: str) -> str:
        return " ".join(sorted(os.listdir(path)))

    # -- attributes
    def chmod(self, path: str, mode: str) -> None:
        os.chmod(path, int(mode, 8))

    def fchmod(self, name: str, mode: str) -> None:
        os.fchmod(self.files[name], int(mode, 8))

    def chown(self, path: str, user: str, group: str) -> None:
        os.chown(path, int(user), int(group))

    def lchown(self, path: str, user: str, group: str) -> None:
        os.lchown(path, int(user), int(group))

    def utimens(self, path: str, atime: str, mtime: str, follow: str = "follow") -> None:
        times = (Timespec * 2)(timespec(atime), timespec(mtime))
        flags = AT_SYMLINK_NOFOLLOW if follow == "nofollow" else 0
        checked(libc.utimensat(AT_FDCWD, os.fsencode(path), times, flags))

    def access(self, path: str, how: str) -> None:
        mode = sum({"r": os.R_OK, "w": os.W_OK, "x": os.X_OK, "f": os.F_OK}[letter] for letter in how)
        if not os.access(path, mode):
            raise OSError(errno.EACCES, "")

    def stat(self, path: str) -> Fields:
        return fields(os.stat(path))

    def lstat(self, path: str) -> Fields:
        return fields(os.lstat(path))

    def fstat(self, name: str) -> Fields:
        return fields(os.fstat(self.files[name]))

    # -- files
    def create(self, path: str, mode: str = "644") -> None:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, int(mode, 8)))

    def open(self, path: str, flags: str, name: str = "", mode: str = "644") -> None:
        """`flags` as rdwr,creat,excl; without a name it is closed at once."""
        bits = sum(getattr(os, "O_" + flag.upper()) for flag in flags.split(","))
        descriptor = os.open(path, bits, int(mode, 8))
        if name:
            self.files[name] = descriptor
        else:
            os.close(descriptor)

    def program(self, path: str) -> None:
        """Makes one that does nothing for a minute."""
        shutil.copy("/bin/sleep", path)

    def execute(self, path: str) -> None:
        """execve(2) in a child, which runs until `end`."""
        self.programs.append(subprocess.Popen([os.path.abspath(path), "60"]))

    def end(self) -> None:
        program = self.programs.pop()
        program.kill()
        program.wait()

    def close(self, name: str) -> None:
        os.close(self.files.pop(name))

    def read(self, name: str, size: str = "1000", offset: str = "") -> str:
        descriptor = self.files[name]
        data = os.pread(descriptor, int(size), int(offset)) if offset else os.read(descriptor, int(size))
        return data.decode("latin-1").replace("\0", "~")

    def write(self, name: str, text: str) -> None:
        os.write(self.files[name], text.encode())

    def truncate(self, path: str, size: str) -> None:
        os.truncate(path, int(size))

    def ftruncate(self, name: str, size: str) -> None:
        os.ftruncate(self.files[name], int(size))

    def seek(self, name: str, offset: str) -> None:
        os.lseek(self.files[name], int(offset), os.SEEK_SET)

    def fallocate(self, name: str, offset: str, length: str) -> None:
        os.posix_fallocate(self.files[name], int(offset), int(length))

    def cat(self, path: str) -> str:
        with open(path, encoding="latin-1") as file:
            return file.read().replace("\0", "~")

    def echo(self, text: str, path: str) -> None:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)

    def tick(self) -> None:
        """The kernel's clock, which steps some milliseconds at a time, has passed this moment, and so every time that
        the kernel gave: those of multigrain file systems lead it by less than a step (fs/inode.c)."""
        begun = time.time_ns()
        while time.clock_gettime_ns(COARSE) <= begun:
            pass


def fields(found: os.stat_result) -> Fields:
    """What tables name of stat(2)."""
    return {
        "type": TYPES[stat.S_IFMT(found.st_mode)],
        "mode": f"{stat.S_IMODE(found.st_mode):o}",
        "uid": found.st_uid,
        "gid": found.st_gid,
        "nlink": found.st_nlink,
        "size": found.st_size,
        "blocks": found.st_blocks,
        "rdev": f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}",
        "ino": found.st_ino,
        **{f"{name}time": f"{time_ns // 10**9}.{time_ns % 10**9:09d}" for name, time_ns in times(found)},
    }


def times(found: os.stat_result) -> list[tuple[str, int]]:
    return [("a", found.st_atime_ns), ("m", found.st_mtime_ns), ("c", found.st_ctime_ns)]


def main(user: str, groups: str) -> None:
    """Serves until the input ends."""
    numbers = [int(group) for group in groups.split(",")]
    if os.geteuid() != int(user):
        os.setgroups(numbers)
        os.setgid(numbers[0])
        os.setuid(int(user))
    calls = User()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        call: Callable[..., object] = getattr(calls, name)
        try:
            answer = ["ok", call(*arguments)]
        except OSError as error:
            answer = ["error", error.errno]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
