"""Mounting for a service that may not mount: `python -m appliance.premount`, run by the unit with full rights.

The hardened daemon lives in a view of the file system of its own, from which nothing is mounted for others, and has
no capability.  So this program opens /dev/fuse, mounts in everybody's view, and leaves the open descriptor with systemd
(FDSTORE of sd_notify(3)), which hands it to the daemon as it starts.  With --umount it takes mount and descriptor back;
the unit runs that after every end of the daemon, however it ended.

With --revive, once the daemon serves, the kernel is told how far to read ahead, which takes root.

Further places of the mount (mountpoints.py) that a daemon leaves behind stay as they are, and with them the dead mount:
they answer ENOTCONN, and nobody writes into what lies below.  Before the next start a file below /run, where only root
writes, notes which file system they show; with --revive they are bound to the new mount.

Full rights ("+") take the unit's restrictions away, but not the view of its own that systemd makes for every process of
a unit with such restrictions: a mount there would end with this program.  Everybody's view is that of process 1.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import pwd
import sys
from pathlib import Path
from typing import Final

from appliance import mountpoints
from appliance.config import ConfigError, load
from appliance.errors import StoreError
from appliance.notify import STORED_CONTROL, STORED_FUSE, forget_descriptor, store_descriptor

NOTES: Final = Path("/run")
CLONE_NEWNS: Final = 0x20000

_libc: Final = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Mounts for the tierce service.")
    parser.add_argument("--umount", action="store_true")
    parser.add_argument("--revive", action="store_true")
    parser.add_argument("--user", default="tierce")
    options = parser.parse_args()
    try:
        config = load()
        point = config.mount_point
        enter_everybodys_view()
        if options.umount:
            forget_descriptor(STORED_FUSE)
            forget_descriptor(STORED_CONTROL)
            take_away(point, pwd.getpwnam(options.user))
        elif options.revive:
            read_ahead(point)
            revive(point)
        elif config.mount.enabled:
            shown = config.mount
            begin(point, pwd.getpwnam(options.user), allow_other=shown.allow_other, read_only=shown.read_only)
    except (ConfigError, StoreError, OSError, KeyError) as error:
        print(f"premount: {error}", file=sys.stderr)
        return 1
    return 0


def begin(point: Path, owner: pwd.struct_passwd, *, allow_other: bool, read_only: bool) -> None:
    """Mounts, and leaves the descriptor with systemd.  Raises OSError, StoreError."""
    if mountpoints.at(point) is not None:
        places = mountpoints.bury(point, mountpoints.detach)
        if places:
            note(point).write_text(places[0].device)
    os.makedirs(point, exist_ok=True)
    descriptor = mount(point, owner.pw_uid, owner.pw_gid, allow_other=allow_other, read_only=read_only)
    found = mountpoints.at(point)
    assert found is not None, "just mounted"
    control = mountpoints.control(found)
    if not (store_descriptor(STORED_FUSE, descriptor) and store_descriptor(STORED_CONTROL, control)):
        mountpoints.detach(point)
        raise OSError(0, "systemd does not take the descriptor (FileDescriptorStoreMax=, NotifyAccess=exec)")


def read_ahead(point: Path) -> None:
    """Far enough, as soon as somebody answers."""
    found = mountpoints.at(point)
    if found is None or found.type != mountpoints.FILE_SYSTEM:
        return
    try:
        if not mountpoints.is_dead(found):
            mountpoints.raise_read_ahead(found)
    except OSError as error:
        print(f"premount: {point}: read-ahead stays as it is: {error}", file=sys.stderr)


def revive(point: Path) -> None:
    """The further places of the mount that was there before show this one."""
    try:
        device = note(point).read_text()
    except FileNotFoundError:
        return
    note(point).unlink()
    places = [each for each in mountpoints.mounts() if (each.device, each.type) == (device, mountpoints.FILE_SYSTEM)]
    for place, why in mountpoints.revive(point, [each for each in places if mountpoints.is_dead(each)]):
        print(f"premount: {place} could not be mounted again: {why}", file=sys.stderr)


def take_away(point: Path, owner: pwd.struct_passwd) -> None:
    """The mount that was made for `owner`, unless it has further places.  Its daemon is over, or as dead as it can be
    (guard.py): if nobody answers, nobody shall wait.  If somebody does, it is not the unit's: somebody's who runs a
    daemon by hand."""
    found = mountpoints.at(point)
    if found is None or (found.type, found.owner[0]) != (mountpoints.FILE_SYSTEM, owner.pw_uid):
        return
    try:
        if mountpoints.is_answered(found):
            return
    except TimeoutError:
        mountpoints.end(found)
    if not mountpoints.bound(found):
        mountpoints.detach(point)


def note(point: Path) -> Path:
    """Where the number of a dead mount's file system is kept between two steps."""
    return NOTES / ("tierce" + str(point).replace("/", "-") + ".places")


def enter_everybodys_view() -> None:
    """From here on this process sees and changes the mounts of process 1.  Raises OSError."""
    if os.readlink("/proc/self/ns/mnt") == os.readlink("/proc/1/ns/mnt"):
        return
    view = os.open("/proc/1/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(view, CLONE_NEWNS):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "/proc/1/ns/mnt")
    finally:
        os.close(view)


def mount(point: Path, uid: int, gid: int, *, allow_other: bool, read_only: bool) -> int:
    """Mounts; the open /dev/fuse that answers for it.  Raises OSError."""
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    words = [f"fd={descriptor}", "rootmode=40000", f"user_id={uid}", f"group_id={gid}", "default_permissions"]
    words += ["allow_other"] if allow_other else []
    try:
        mountpoints.make(point, words, read_only=read_only)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


if __name__ == "__main__":
    sys.exit(main())
