"""What is mounted where, as the kernel says it (/proc/self/mountinfo, proc(5)), and binding a mount's directories to
further places.

A process serves one FUSE file system.  All further places of it, one bucket or all, are bind mounts of its directories:
the kernel's own, with the same caches, so both see one thing.  They need no record: mountinfo says which file system
and which of its directories each place shows.  When the daemon dies they stay and answer ENOTCONN, which keeps
everybody from writing into the directories below; whoever mounts the file system again binds them again (`revive`).

Nothing here asks a mount itself but `is_dead`, and that in a process which can be left behind: a mount whose daemon
hangs would hang us.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from appliance import connections
from appliance.errors import Code, StoreError

FILE_SYSTEM: Final = "fuse.tierce"
MOUNTINFO: Final = "/proc/self/mountinfo"
READ_AHEAD_KIB: Final = (
    2048  # requests of 1 MiB, two and two more ahead: a quarter faster than 4096, which leaves the processor's cache
)
PATIENCE: Final = 10.0  # seconds for an answer: a living daemon gives one though its devices are slow

# mount(2), umount2(2)
MS_RDONLY: Final = 1
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
NOSUID_NODEV: Final = 2 | 4
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
    the kernel from its cache for a while, as if somebody were there.  Raises OSError; TimeoutError when there is no
    answer, neither yes nor no, within PATIENCE.

    Who may not enter a FUSE mount, and be it root, is told zeros without anybody being asked: then its owner asks."""
    return _told(place) is None


def is_answered(place: Mounted) -> bool:
    """Whether somebody certainly answers for the mount; otherwise it is dead, or nobody may ask.  Raises as
    `is_dead`."""
    return bool(_told(place))


def _told(place: Mounted) -> int | None:
    own = os.geteuid(), os.getegid()
    blocks = _blocks(place, own)
    if blocks == 0 and own[0] == 0 and place.owner != own:
        blocks = _blocks(place, place.owner)
    return blocks


def _blocks(place: Mounted, asks: tuple[int, int]) -> int | None:
    """How large the file system says it is, to that user and group; None if it is dead."""
    other = {} if asks == (os.geteuid(), os.getegid()) else {"user": asks[0], "group": asks[1], "extra_groups": []}
    asked = subprocess.Popen(
        ["stat", "--file-system", "--format=%b", "--", place.point],
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **other,  # type: ignore[call-overload]
    )
    try:
        said, complaint = asked.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        asked.kill()
        for pipe in (asked.stdout, asked.stderr):
            assert pipe is not None
            pipe.close()
        with suppress(subprocess.TimeoutExpired):
            asked.wait(1)  # a request that somebody has taken in and never answers keeps even the dead
        raise TimeoutError(errno.ETIMEDOUT, "its daemon does not answer", place.point) from None
    if asked.returncode == 0:
        return int(said)
    if os.strerror(errno.ENOTCONN) in complaint:
        return None
    if other:  # perhaps the owner may not enter a directory on the way there
        return 0
    raise OSError(errno.EIO, complaint.strip(), place.point)


def is_dying(process: int) -> bool:
    """Whether a process is dead but for threads that have not come back from the kernel.  Those of a daemon wait for
    what only it could have answered: its mount."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="surrogateescape") as file:
            state = file.read().rpartition(")")[2].split()[0]
        return state in "ZX" and len(os.listdir(f"/proc/{process}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def end(place: Mounted) -> None:
    """Ends the file system in all its places.  Raises OSError."""
    descriptor = control(place)
    try:
        connections.end(descriptor)
    finally:
        os.close(descriptor)


def control(place: Mounted) -> int:
    """A descriptor for connections.end.  Raises OSError, ENOENT where it is not mounted any more: its number may be
    another file system's, which is not ours to end."""
    descriptor = connections.opened(place.device)
    if any((each.point, each.device, each.type) == (place.point, place.device, place.type) for each in mounts()):
        return descriptor  # before and after: the number was its own meanwhile
    os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, "not mounted any more", place.point)


def raise_read_ahead(whole: Mounted) -> None:
    """Lets the kernel read ahead in whole requests of 1 MiB.  Needs root; without it reads are smaller.  The mount must
    have answered: its first answer would set it back.  Raises OSError."""
    Path(f"/sys/class/bdi/{whole.device}/read_ahead_kb").write_text(f"{READ_AHEAD_KIB}\n")


def detach(point: str | Path) -> None:
    """At once, also a dead mount or one in use; as root.  Raises OSError."""
    _umount(point, MNT_DETACH)


def unmount(point: str | Path) -> None:
    """As umount(8): what the kernel has to write is written before.  Raises OSError: EBUSY while it is in use."""
    _umount(point, 0)


def make(point: str | Path, words: Sequence[str], *, read_only: bool) -> None:
    """mount(2) of a FUSE file system with these options of its own.  `read_only` is the file system, not this place of
    it: each further one is made with flags like this one's, which `revive` gives it again.  Raises OSError."""
    flags = NOSUID_NODEV | (MS_RDONLY if read_only else 0)
    options = ",".join(words).encode()
    if _libc.mount(b"tierce", os.fsencode(point), FILE_SYSTEM.encode(), ctypes.c_ulong(flags), options):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(point))
    if read_only:
        try:
            _mount(None, os.fsencode(point), MS_REMOUNT | MS_BIND | NOSUID_NODEV)
        except OSError:
            detach(point)
            raise


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
    except TimeoutError:
        raise StoreError(
            Code.UNAVAILABLE,
            f"{point} is mounted already, and its daemon neither answers nor is dead: end it, or the mount alone by "
            f"`umount -f {point}`",
        ) from None
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
