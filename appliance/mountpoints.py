"""What is mounted where, as the kernel says it (/proc/self/mountinfo, proc(5)), and binding a mount's directories to
further places.

A process serves one FUSE file system.  All further places of it, one bucket or all, are bind mounts of its directories:
the kernel's own, with the same caches, so both see one thing.  They need no record: mountinfo says which file system
and which of its directories each place shows.  When the daemon dies they stay and answer ENOTCONN, which keeps
everybody from writing into the directories below; whoever mounts the file system again binds them again (`revive`).

Nothing here asks a mount itself but `is_dead`: a mount whose daemon hangs would hang us.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from appliance.errors import Code, StoreError

FILE_SYSTEM: Final = "fuse.tierce"
MOUNTINFO: Final = "/proc/self/mountinfo"

# mount(2), umount2(2)
MS_RDONLY: Final = 1
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MNT_DETACH: Final = 2
FLAGS: Final = {"ro": MS_RDONLY, "nosuid": 2, "nodev": 4, "noexec": 8, "noatime": 1024, "nodiratime": 2048}

_libc: Final = ctypes.CDLL(None, use_errno=True)
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


class Mounted(NamedTuple):
    """One line of mountinfo."""

    point: str
    root: str  # the directory of the file system that it shows
    device: str  # of the file system, as major:minor
    type: str
    flags: int  # of this place: `FLAGS`
    owner: tuple[int, int] = (0, 0)  # of a FUSE file system: user and group whom it was mounted for


def parse(line: str) -> Mounted:
    """One line of mountinfo."""
    fields = line.split()
    flags = sum(FLAGS.get(word, 0) for word in fields[5].split(","))
    mark = fields.index("-")
    words = dict(word.split("=", 1) for word in fields[mark + 3].split(",") if "=" in word)
    owner = int(words.get("user_id", "0")), int(words.get("group_id", "0"))
    return Mounted(_unescaped(fields[4]), _unescaped(fields[3]), fields[2], fields[mark + 1], flags, owner)


def mounts(path: str = MOUNTINFO) -> list[Mounted]:
    """All, in the order in which they were made."""
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        return [parse(line) for line in lines]


def at(point: Path) -> Mounted | None:
    """The topmost mount at `point`."""
    sought = os.path.join(os.path.realpath(point.parent), point.name)
    return next((each for each in reversed(mounts()) if each.point == sought), None)


def type_at(point: Path) -> str | None:
    """Its type."""
    found = at(point)
    return None if found is None else found.type


def bound(whole: Mounted) -> list[Mounted]:
    """The other places that show the same file system."""
    return [each for each in mounts() if each.device == whole.device and each.point != whole.point]


def is_dead(place: Mounted) -> bool:
    """Whether nobody answers for the mount any more.  statvfs(3) always asks the file system; a stat may be answered by
    the kernel from its cache for a while, as if somebody were there.  Raises OSError.

    Who may not enter a FUSE mount, and be it root, is told zeros without anybody being asked: then its owner asks."""
    try:
        space = os.statvfs(place.point)
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
        return True
    if space.f_blocks or place.owner == (os.geteuid(), os.getegid()) or os.geteuid() != 0:
        return False
    uid, gid = place.owner
    asked = subprocess.run(
        ["stat", "-f", "--", place.point],
        user=uid,
        group=gid,
        extra_groups=[],
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.returncode != 0 and os.strerror(errno.ENOTCONN) in asked.stderr


def detach(point: str | Path) -> None:
    """At once, also a dead mount or one in use; as root.  Raises OSError."""
    _umount(point, MNT_DETACH)


def unmount(point: str | Path) -> None:
    """As umount(8): what the kernel has to write is written before.  Raises OSError: EBUSY while it is in use."""
    _umount(point, 0)


def bind(top: str | Path, below: str, point: str | Path, flags: int) -> None:
    """Shows at `point`, too, what is called `below` in the file system mounted at `top`, with `flags`; as root.

    Raises OSError, ENOTDIR for a symbolic link on the way from `top` or to `point`: who may write there would choose
    what is shown, and where."""
    with _found(top, below) as source, _found("/", str(point)) as target:
        _mount(source, target, MS_BIND)
    if flags:
        try:
            with _found("/", str(point)) as target:  # the new one
                _mount(None, target, MS_REMOUNT | MS_BIND | flags)
        except OSError:
            detach(point)
            raise


@contextmanager
def _found(top: str | Path, path: str) -> Iterator[bytes]:
    """A path that stays what it is inside, of what lies at `path` below `top`: found name by name, no link followed."""
    found = os.open(top, os.O_PATH | os.O_CLOEXEC)
    try:
        for name in filter(None, path.split("/")):
            # O_DIRECTORY and not fstat(2): root may not look into a mount that only its owner may enter
            inner = os.open(name, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY, dir_fd=found)
            os.close(found)
            found = inner
        yield b"/proc/self/fd/%d" % found
    finally:
        os.close(found)


def bury(point: Path, take_away: Callable[[Path], None]) -> list[Mounted]:
    """Takes away the dead mount at `point`; the places that showed it, too, which stay as they are until `revive`.

    Raises IN_USE when it is not dead or not ours, UNAVAILABLE when it cannot be told or taken away."""
    whole = at(point)
    assert whole is not None, "the caller has found it"
    try:
        if whole.type != FILE_SYSTEM or not is_dead(whole):
            raise StoreError(
                Code.IN_USE, f"{point} is mounted already ({whole.type}): unmount it or choose another place"
            )
        others = [each for each in bound(whole) if each.type == FILE_SYSTEM]
    except OSError as error:
        raise StoreError(Code.UNAVAILABLE, f"{point} cannot be mounted on: {error.strerror}") from error
    take_away(point)
    return others


def revive(point: Path, places: list[Mounted]) -> list[tuple[str, str]]:
    """The file system is mounted at `point` again: so is each of its other places.  (place, reason) of those that could
    not be: a bucket that is gone, or a place where something else is mounted by now."""
    failed = []
    for place in places:
        now = at(Path(place.point))
        if now is None or now.device != place.device:
            continue  # somebody took it away, or put something else there
        try:
            detach(place.point)
            bind(point, place.root, place.point, place.flags)
        except OSError as error:
            failed.append((place.point, error.strerror or repr(error)))
    return failed


def _mount(source: bytes | None, point: bytes, flags: int) -> None:
    if _libc.mount(source, point, None, ctypes.c_ulong(flags), None):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fsdecode(point))


def _umount(point: str | Path, flags: int) -> None:
    if _libc.umount2(os.fsencode(point), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(point))


def _unescaped(text: str) -> str:
    """The kernel escapes blanks, tabs, newlines and backslashes as three octal digits."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)
