"""Which devices may be written: what lies on one, and whether its owner has said that it may go.

A device that carries anything known (a file system, a partition table, LVM, MD, ZFS, another pool's label) is refused
unless the administrator repeats its serial number or its path: "yes" is typed by habit, a serial is not.  A device that
is in use (mounted, swap, held by another driver) is refused whatever was said.

Formatting is: erase what is recognised at both ends, have the engine write the pool, then the protective label (whole
disks only: a partition or a file lies within something that is labelled already).  Every device is held exclusively
before the first write to any, until the last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

from appliance.device.probe import Probe, list_devices, probe
from appliance.device.raw import RawDevice
from appliance.engine.startup import NewDevice, create_pool
from appliance.errors import Code, StoreError
from appliance.limits import KIB, MIB
from appliance.ondisk import label
from appliance.ondisk.geometry import SIZE_MIN
from appliance.ondisk.signature import HEAD, TAIL, recognise, tierce
from appliance.ondisk.superblock import Tier

WRITE_STEP: Final = 64 * KIB


def examine(path: str) -> Probe:
    """What a path is and what lies on it.  Raises StoreError UNAVAILABLE."""
    return probe(path, recognise)


def devices() -> list[Probe]:
    """Every block device of this machine."""
    return list_devices(recognise)


def refuse_occupied(found: Probe, erase: Collection[str]) -> None:
    """Raises StoreError unless the device is free, or its path or serial is in `erase`: IN_USE, WRONG_DEVICE,
    READ_ONLY."""
    if found.used_by:
        raise StoreError(Code.IN_USE, f"{found.path} is in use ({', '.join(found.used_by)}); free it first")
    if found.read_only:
        raise StoreError(Code.READ_ONLY, f"{found.path} is read-only")
    if found.signatures and not _named(found, erase):
        name = found.serial or found.path
        raise StoreError(
            Code.WRONG_DEVICE,
            f"{found.path} is not empty: {'; '.join(found.signatures)}.  "
            f"If all of it may be destroyed, repeat the command with --erase {name}",
        )


def format_pool(
    devices: Sequence[tuple[str, Tier]],
    *,
    name: str,
    copies: int,
    erase: Collection[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Makes a pool of (path, tier) whose buckets keep `copies` (0: `default_copies`); its UUID.

    Nothing is written until every device is held and found free.

    Raises StoreError: what `refuse_occupied` says, UNAVAILABLE, IN_USE (a daemon has it), INVALID_ARGUMENT (too small,
    too many copies), IO_ERROR.
    """
    found = [_free(path, erase) for path, _ in devices]
    copies = copies or default_copies([tier for _, tier in devices])
    if copies > len(devices):
        raise StoreError(Code.INVALID_ARGUMENT, f"{copies} copies need {copies} devices; {len(devices)} given")
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(contextlib.closing(RawDevice.open(path))) for path, _ in devices]
        for device in found:
            _write(device.path, label.clear(device.size))
        new = [NewDevice(path, device, tier) for (path, tier), device in zip(devices, held, strict=True)]
        pool = create_pool(new, name=name, copies=copies, now_ns=time.time_ns(), progress=progress)
        for number, device in enumerate(found, 1):
            protect(device, name, str(number))
    return str(uuid.UUID(bytes=pool))


def default_copies(tiers: Sequence[Tier]) -> int:
    """Two where the copies can lie on two devices of one kind, so that a dead disk costs nothing; else one."""
    return 2 if max((tiers.count(tier) for tier in tiers), default=0) >= 2 else 1


def prepare_device(path: str, pool: str, erase: Collection[str] = ()) -> RawDevice:
    """Clears and labels one device that is to become a member of `pool`, and returns it open and held.  Raises as
    `format_pool` does."""
    found = _free(path, erase)
    device = RawDevice.open(path)
    try:
        _write(path, label.clear(found.size))
        protect(found, pool, "new")
    except BaseException:
        device.close()
        raise
    return device


def protect(device: Probe, pool: str, number: str) -> None:
    """Writes the protective label of a whole disk; nothing to a partition or a file."""
    if device.kind != "block" or _is_partition(device.path):
        return
    text = label.name_of(pool, number)
    _write(device.path, label.protect(device.size, device.sector, text, disk=uuid.uuid4(), partition=uuid.uuid4()))


def describe_label(path: str) -> dict[str, Any]:
    """The label that Tierce wrote on a device, as plain values.  Raises StoreError WRONG_DEVICE if there is none,
    OLD_FORMAT if it is of a format that this program does not know."""
    found = examine(path)
    with open(path, "rb", buffering=0) as device:
        head = device.read(HEAD)
        device.seek(max(0, found.size - TAIL))
        tail = device.read(TAIL)
    ours = tierce(head, tail)
    if ours is None:
        others = "; ".join(found.signatures) or "nothing that is known"
        raise StoreError(Code.WRONG_DEVICE, f"{path} is not a Tierce device: it carries {others}")
    return {
        "path": path,
        "pool": ours.pool_name,
        "pool_uuid": _uuid(ours.pool),
        "device_uuid": _uuid(ours.device),
        "device": ours.device_id,
        "tier": ours.tier,
        "state": str(getattr(ours.state, "name", ours.state)).lower(),
        "size": ours.geometry.size,
        "journal": ours.journal,
        "version": ours.version,
        "generation": ours.generation,
        "epoch": ours.epoch,
        "members": [_uuid(member.uuid) for member in ours.members],
    }


def _free(path: str, erase: Collection[str]) -> Probe:
    """The device's facts.  Raises StoreError if it cannot be taken."""
    found = examine(path)
    refuse_occupied(found, erase)
    if found.size < SIZE_MIN:
        raise StoreError(Code.INVALID_ARGUMENT, f"{path} is too small: at least {SIZE_MIN // MIB} MiB")
    return found


def _named(found: Probe, erase: Collection[str]) -> bool:
    """Whether the administrator has named this very device."""
    own = {name for name in (found.serial, found.path, found.by_id) if name}
    same = {name for name in erase if os.path.exists(name) and os.path.samefile(name, found.path)}
    return bool(same or own & set(erase))


def _write(path: str, pieces: Sequence[tuple[int, bytes]]) -> None:
    """Writes what differs, so that a sparse file stays sparse, and flushes.  A plain descriptor: the exclusive one that
    is held meanwhile stops others, not us."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for offset, data in pieces:
            for start in range(0, len(data), WRITE_STEP):
                piece = data[start : start + WRITE_STEP]
                if os.pread(descriptor, len(piece), offset + start) != piece:
                    written = os.pwrite(descriptor, piece, offset + start)
                    if written != len(piece):
                        raise OSError(errno.EIO, "short write", path)
        os.fsync(descriptor)
    except OSError as error:
        raise StoreError(Code.IO_ERROR, f"{path} cannot be written: {error.strerror}") from error
    finally:
        os.close(descriptor)


def _is_partition(path: str) -> bool:
    number = os.stat(path).st_rdev
    assert stat.S_ISBLK(os.stat(path).st_mode)
    return Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/partition").exists()


def _uuid(raw: bytes) -> str:
    text = raw.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))
