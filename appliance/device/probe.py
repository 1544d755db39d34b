"""What a path is, and what lies on it, before anything is written there.

Facts come from sysfs (Documentation/ABI/stable/sysfs-block of the kernel), /proc/self/mountinfo and /proc/swaps;
nothing is executed and nothing is written.  `rotational` is what the kernel believes: USB bridges, virtual disks and
loop devices often lie, which is why a device's tier is declared when it is formatted and only suggested from here.

Which signatures there are is not known here: the caller passes `recognise`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from appliance.device.device import ALIGNMENT
from appliance.errors import Code, StoreError
from appliance.limits import MIB

SYS: Final = Path("/sys")
BY_ID: Final = Path("/dev/disk/by-id")

HEAD: Final = 2 * MIB  # btrfs keeps its superblock at 64 KiB, ZFS two labels in the first 512 KiB, we ours from 1 MiB
TAIL: Final = 3 * MIB  # backup GPT, ZFS labels 2 and 3, MD 0.90 and 1.0 metadata; our slots 2 and 3 begin here at most

Recognise = Callable[[bytes, bytes], Iterable[str]]  # (head, tail) -> names of what was recognised


class Probe(msgspec.Struct, frozen=True):
    """One device or file.  Unknown texts are empty."""

    path: str
    kind: str  # block, file
    size: int  # bytes
    sector: int  # logical, bytes
    rotational: bool
    model: str
    serial: str
    by_id: str  # a stable path, /dev/disk/by-id/…
    read_only: bool
    removable: bool
    used_by: tuple[str, ...]  # "mounted at /x", "swap", "held by dm-0", "partition sda1"
    signatures: tuple[str, ...]

    @property
    def suggested_tier(self) -> str:
        """From `rotational`: a suggestion for people."""
        return "bulk" if self.rotational else "blaze"


def probe(path: str | os.PathLike[str], recognise: Recognise | None = None) -> Probe:
    """Facts about one path.  Without `recognise` the content is not read and `signatures` is empty.

    `recognise(head, tail)` gets the first HEAD and the last TAIL bytes (less on a smaller device).  Raises StoreError
    UNAVAILABLE for what is missing, unreadable, or neither a block device nor a regular file.
    """
    name = os.fspath(path)
    try:
        status = os.stat(name)
        if stat.S_ISBLK(status.st_mode):
            return _probe_block(name, status.st_rdev, recognise)
        if stat.S_ISREG(status.st_mode):
            return _probe_file(name, status.st_size, recognise)
    except OSError as error:
        refused = "; run as root or give this user access" if isinstance(error, PermissionError) else ""
        text = f"{name} can't be examined: {error.strerror}{refused}"
        raise StoreError(Code.UNAVAILABLE, text, cause=str(error)) from error
    raise StoreError(Code.UNAVAILABLE, f"{name} is neither a block device nor a regular file")


def list_devices(recognise: Recognise | None = None) -> list[Probe]:
    """Every whole block device that has a size, in order of name; no RAM disks, no optical drives.

    A device that can't be opened (no permission, no medium) is listed with what sysfs says and without signatures.
    """
    devices = []
    for entry in sorted((SYS / "block").iterdir()):
        name = entry.name
        if name.startswith(("ram", "zram", "sr", "fd")) or _number(entry / "size") == 0:
            continue
        path = f"/dev/{name.replace('!', '/')}"
        try:
            devices.append(probe(path, recognise))
        except StoreError:
            if recognise is None:
                continue  # no node in /dev
            try:
                devices.append(probe(path))
            except StoreError:
                continue
    return devices


def _probe_file(name: str, size: int, recognise: Recognise | None) -> Probe:
    sysfs = _sysfs(os.stat(name).st_dev)
    return Probe(
        path=name,
        kind="file",
        size=size - size % ALIGNMENT,
        sector=ALIGNMENT,
        rotational=_flag(_whole(sysfs) / "queue/rotational") if sysfs else False,
        model="",
        serial="",
        by_id="",
        read_only=not os.access(name, os.W_OK),
        removable=False,
        used_by=(),
        signatures=_signatures(name, size, recognise),
    )


def _probe_block(name: str, number: int, recognise: Recognise | None) -> Probe:
    sysfs = _sysfs(number)
    if sysfs is None:
        raise OSError(errno.ENODEV, "sysfs doesn't know it", name)
    whole = _whole(sysfs)
    size = _number(sysfs / "size") * 512  # always in 512-byte units
    return Probe(
        path=name,
        kind="block",
        size=size,
        sector=_number(whole / "queue/logical_block_size") or 512,
        rotational=_flag(whole / "queue/rotational"),
        model=_text(whole / "device/model"),
        serial=_serial(whole),
        by_id=_by_id(number),
        read_only=_flag(sysfs / "ro"),
        removable=_flag(whole / "removable"),
        used_by=tuple(_uses(sysfs)),
        signatures=_signatures(name, size, recognise),
    )


def _signatures(name: str, size: int, recognise: Recognise | None) -> tuple[str, ...]:
    """What `recognise` says about the first and last bytes, read without changing anything."""
    if recognise is None:
        return ()
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = _read(descriptor, 0, min(HEAD, size))
        tail_offset = max(0, size - TAIL)
        tail = _read(descriptor, tail_offset, size - tail_offset)
    finally:
        os.close(descriptor)
    return tuple(recognise(head, tail))


def _read(descriptor: int, offset: int, length: int) -> bytes:
    pieces = []
    while length:
        piece = os.pread(descriptor, length, offset)
        if not piece:
            break
        pieces.append(piece)
        offset += len(piece)
        length -= len(piece)
    return b"".join(pieces)


def _uses(sysfs: Path) -> list[str]:
    """Who has the device or one of its partitions: mounts, swap, device mapper and MD holders; and the partitions."""
    uses = []
    partitions = sorted(child for child in sysfs.iterdir() if (child / "partition").exists())
    for part in [sysfs, *partitions]:
        number = _text(part / "dev")
        suffix = "" if part == sysfs else f" ({part.name})"
        uses += [f"mounted at {place}{suffix}" for place in _mounts(number)]
        if (part / "holders").is_dir():
            uses += [f"held by {holder.name}{suffix}" for holder in sorted((part / "holders").iterdir())]
        if number in _swaps():
            uses.append(f"swap{suffix}")
    uses += [f"partition {part.name}" for part in partitions]
    return uses


def _mounts(number: str) -> list[str]:
    """Mount points of the device "major:minor" (proc(5), mountinfo: field 3 and field 5, octal escapes)."""
    places = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[2] == number:
            places.append(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4]))
    return places


def _swaps() -> set[str]:
    """ "major:minor" of every swap device."""
    try:
        lines = Path("/proc/swaps").read_text().splitlines()[1:]
    except FileNotFoundError:  # a kernel without swap
        return set()
    numbers = set()
    for line in lines:
        with contextlib.suppress(OSError):
            number = os.stat(line.split()[0]).st_rdev
            numbers.add(f"{os.major(number)}:{os.minor(number)}")
    return numbers


def _by_id(number: int) -> str:
    """A /dev/disk/by-id name of the device; the shortest that isn't a bare wwn, as people can read it."""
    names = []
    if BY_ID.is_dir():
        for link in BY_ID.iterdir():
            with contextlib.suppress(OSError):
                if os.stat(link).st_rdev == number:
                    names.append(str(link))
    return min(names, key=lambda name: (Path(name).name.startswith(("wwn-", "nvme-eui.")), len(name), name), default="")


def _serial(whole: Path) -> str:
    """virtio has `serial`, NVMe `device/serial`, SCSI and SATA VPD page 0x80 (after a 4-byte header)."""
    plain = _text(whole / "serial") or _text(whole / "device/serial")
    if plain:
        return plain
    try:
        return (whole / "device/vpd_pg80").read_bytes()[4:].decode("ascii", "replace").strip(" \0")
    except OSError:
        return ""


def _sysfs(number: int) -> Path | None:
    """The device's directory in sysfs; None if it has none (a file on tmpfs or btrfs)."""
    path = SYS / f"dev/block/{os.major(number)}:{os.minor(number)}"
    return path.resolve() if path.exists() else None


def _whole(sysfs: Path) -> Path:
    """A partition's disk; a disk itself."""
    return sysfs.parent if (sysfs / "partition").exists() else sysfs


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:  # the attribute doesn't exist for this kind of device
        return ""


def _number(path: Path) -> int:
    text = _text(path)
    return int(text) if text.isdigit() else 0


def _flag(path: Path) -> bool:
    return _number(path) != 0
