"""Mounting for a service that may not mount: `python -m appliance.premount`, run by the unit with full rights.

The hardened daemon lives in a view of the file system of its own, from which nothing is mounted for others, and has
no capability.  So this program opens /dev/fuse, mounts in everybody's view, and leaves the open descriptor with systemd
(FDSTORE of sd_notify(3)), which hands it to the daemon as it starts.  With --umount it takes mount and descriptor back;
the unit runs that after every end of the daemon, however it ended.

Full rights ("+") take the unit's restrictions away, but not the view of its own that systemd makes for every process of
a unit with such restrictions: a mount there would end with this program.  Everybody's view is that of process 1.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import pwd
import sys
from typing import Final

from appliance.config import ConfigError, load
from appliance.notify import STORED_FUSE, forget_descriptor, store_descriptor

MS_NOSUID_NODEV: Final = 2 | 4
MNT_DETACH: Final = 2
CLONE_NEWNS: Final = 0x20000

_libc: Final = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Mounts for the tierce service.")
    parser.add_argument("--umount", action="store_true")
    parser.add_argument("--user", default="tierce")
    options = parser.parse_args()
    try:
        config = load()
        point = os.fsencode(config.mount_point)
        enter_everybodys_view()
        if options.umount:
            forget_descriptor(STORED_FUSE)
            _libc.umount2(point, MNT_DETACH)  # not mounted is as good
            return 0
        if not config.mount.enabled:
            return 0
        os.makedirs(point, exist_ok=True)
        owner = pwd.getpwnam(options.user)
        descriptor = mount(point, owner.pw_uid, owner.pw_gid, allow_other=config.mount.allow_other)
        if not store_descriptor(STORED_FUSE, descriptor):
            _libc.umount2(point, MNT_DETACH)
            raise OSError(0, "systemd does not take the descriptor (FileDescriptorStoreMax=, NotifyAccess=exec)")
    except (ConfigError, OSError, KeyError) as error:
        print(f"premount: {error}", file=sys.stderr)
        return 1
    return 0


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


def mount(point: bytes, uid: int, gid: int, *, allow_other: bool) -> int:
    """Mounts; the open /dev/fuse that answers for it.  Raises OSError."""
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    words = [f"fd={descriptor}", "rootmode=40000", f"user_id={uid}", f"group_id={gid}", "default_permissions"]
    words += ["allow_other"] if allow_other else []
    if _libc.mount(b"tierce", point, b"fuse.tierce", ctypes.c_ulong(MS_NOSUID_NODEV), ",".join(words).encode()):
        number = ctypes.get_errno()
        os.close(descriptor)
        raise OSError(number, os.strerror(number), os.fsdecode(point))
    return descriptor


if __name__ == "__main__":
    sys.exit(main())
