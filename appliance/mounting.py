"""`mount.fuse.tierce` and `umount.fuse.tierce`: what mount(8), umount(8) and fstab(5) run; `tierce mount` and `tierce
umount` do the same.

    tierce         /mnt/box     fuse.tierce  _netdev,x-systemd.requires=tierce.service     0 0
    tierce#photos  /mnt/photos  fuse.tierce  ro,_netdev,x-systemd.requires=tierce.service  0 0

The daemon has one FUSE mount, of all buckets, where its configuration says.  Further places are bind mounts of it or of
one bucket's directory (mountpoints.py), made here by root; an ordinary user has the daemon's mount alone.  What the
kernel does by place (ro, nosuid, nodev, noexec, noatime) is an option of each; what the file system itself does (uid,
gid, umask, allow_other) belongs to the daemon's mount, and asking a place for something else is refused.

An option that nobody knows is an error that names the nearest known one: a misspelt `ro` must not give write access.
"""

from __future__ import annotations

import argparse
import ctypes
import difflib
import errno
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from appliance import mountpoints
from appliance.config import ConfigError, load
from appliance.control import Control, NoDaemon, Refused
from appliance.errors import Code, StoreError
from appliance.mountpoints import Mounted

SOURCE: Final = "tierce"
FAILED: Final = 32  # mount(8), "Exit status"
MISUSED: Final = 1
ALWAYS: Final = mountpoints.FLAGS["nosuid"] | mountpoints.FLAGS["nodev"]
OWN: Final = ("uid", "gid", "umask")  # of the daemon's mount
FINDING: Final = ("config", "state_dir")  # the daemon
# What mount(8) means for itself, and what is so anyway.
TAKEN: Final = frozenset(
    [
        *("defaults", "rw", "suid", "dev", "exec", "atime", "diratime", "relatime", "norelatime", "async", "auto"),
        *("noauto", "user", "users", "nouser", "owner", "group", "nofail", "_netdev", "default_permissions"),
        "allow_other",
    ]
)

_libc: Final = ctypes.CDLL(None, use_errno=True)


class Options(NamedTuple):
    """What -o said."""

    flags: int
    own: dict[str, int]  # uid, gid, umask
    finding: dict[str, str]  # config, state_dir
    allow_other: bool


def options_of(texts: list[str]) -> Options:
    """Of the values of -o.  Raises INVALID_ARGUMENT."""
    flags, own, finding, others = ALWAYS, dict[str, int](), dict[str, str](), False
    for word in filter(None, ",".join(texts).split(",")):
        name, equals, value = word.partition("=")
        if name.startswith(("x-", "X-")) or name == "comment" or (word in TAKEN):
            others = others or word == "allow_other"
        elif not equals and name in mountpoints.FLAGS:
            flags |= mountpoints.FLAGS[name]
        elif equals and name in OWN:
            own[name] = _number(name, value)
        elif equals and name in FINDING:
            finding[name] = value
        else:
            raise StoreError(Code.INVALID_ARGUMENT, _unknown(name, equals))
    return Options(flags, own, finding, others)


def _number(name: str, text: str) -> int:
    try:
        value = int(text, 8 if name == "umask" else 10)
    except ValueError:
        value = -1
    if not 0 <= value <= (0o777 if name == "umask" else 0xFFFF_FFFE):
        raise StoreError(Code.INVALID_ARGUMENT, f"{name}={text} is no {'umask' if name == 'umask' else 'number'}")
    return value


def _unknown(name: str, equals: str) -> str:
    known = [*sorted(TAKEN), *mountpoints.FLAGS, *(f"{each}=" for each in (*OWN, *FINDING))]
    if name in known or f"{name}=" in known:
        return f"option {name} {'takes no value' if equals else 'needs a value'}"
    near = difflib.get_close_matches(name + equals, known, 1, 0.5)
    return f"unknown option {name}; " + (f"did you mean {near[0]}?" if near else f"known are {' '.join(known)}")


def bucket_of(source: str) -> str:
    """The bucket that a source names; empty for all.  `tierce`, `tierce#photos`, `photos`."""
    if source in (SOURCE, f"{SOURCE}#", "none"):
        return ""
    return source.removeprefix(f"{SOURCE}#")


def mount(control: Control, source: str, point: Path, options: Options) -> None:
    """Shows all buckets or one at `point`; done if it does already.  Raises StoreError, NoDaemon, Refused."""
    if os.geteuid() != 0:
        raise StoreError(
            Code.ACCESS_DENIED,
            "only root mounts in further places: have the daemon's own mount (mount.point) by `tierce mount`",
        )
    bucket = bucket_of(source)
    if bucket and bucket not in (row["name"] for row in control.get("/buckets")):
        raise StoreError(Code.NO_SUCH_BUCKET, f"no bucket {bucket}")
    whole = Path(control.post("/mount", **options.own)["mount"])
    status = control.get("/status")
    point = Path(os.path.realpath(point.parent)) / point.name
    _require(options, status["mount_options"], further=point != whole or bool(bucket))
    if point == whole and not bucket:
        return
    shown = mountpoints.at(whole)
    if shown is None or shown.type != mountpoints.FILE_SYSTEM:
        raise StoreError(Code.UNAVAILABLE, f"the daemon's mount {whole} is not seen from here")
    there = mountpoints.at(point)
    if there is not None and (there.device, there.root) == (shown.device, f"/{bucket}"):
        return
    try:
        if there is not None and there.type == mountpoints.FILE_SYSTEM and mountpoints.is_dead(there):
            mountpoints.detach(point)
        mountpoints.bind(whole, bucket, os.path.realpath(point), options.flags)
    except OSError as error:
        why = error.strerror or repr(error)
        if error.errno == errno.EACCES and not status["mount_options"]["allow_other"]:
            why = "root may not enter the daemon's mount: set mount.allow_other = true"
        raise StoreError(Code.UNAVAILABLE, f"cannot mount {bucket or 'the buckets'} at {point}: {why}") from error


def _require(options: Options, of_daemon: Mapping[str, Any], *, further: bool) -> None:
    """What only the daemon's own mount can give, it must give."""
    for name, value in options.own.items():
        if of_daemon[name] != value:
            asked, is_now = (f"{each:03o}" if name == "umask" else str(each) for each in (value, of_daemon[name]))
            raise StoreError(
                Code.INVALID_ARGUMENT,
                f"{name}={asked}: the daemon's mount has {is_now}, and every place of it: set mount.{name}",
            )
    if options.allow_other and not of_daemon["allow_other"]:
        raise StoreError(Code.INVALID_ARGUMENT, "allow_other: set mount.allow_other = true, and start the daemon again")
    if options.flags & mountpoints.MS_RDONLY and not further and not of_daemon["read_only"]:
        raise StoreError(Code.INVALID_ARGUMENT, "ro: this is the daemon's own mount: set mount.read_only = true")


def unmount(control: Control, point: Path, *, lazy: bool = False, force: bool = False) -> bool:
    """Takes one place away, after what was written there is durable; whether its daemon said that it is.

    Of a dead mount there is nothing to lose.  One whose daemon does not answer may hold what is stored nowhere, and
    everybody in it waits: it is left as it is, unless the caller says what shall become of it.  `lazy`: only the place
    goes.  `force`: the mount ends in all its places, and who waits gets an error.  Raises StoreError IN_USE (EBUSY),
    UNAVAILABLE, INVALID_ARGUMENT."""
    point = Path(os.path.realpath(point.parent)) / point.name
    found = mountpoints.at(point)
    if found is None or found.type != mountpoints.FILE_SYSTEM:
        raise StoreError(Code.INVALID_ARGUMENT, f"{point} is no mount of tierce")
    answered = False
    try:
        if not mountpoints.is_dead(found):
            answered = _settle(control, found, lazy=lazy)
    except TimeoutError as error:
        if force:
            mountpoints.end(found)
        elif not lazy:
            raise StoreError(
                Code.UNAVAILABLE,
                f"{point} stays: its daemon does not answer, so what was written last may not be stored. `umount -l "
                f"{point}` takes this place away and leaves the rest as it is; `umount -f {point}` ends the mount "
                "everywhere: who works in it gets ENOTCONN, what is not stored is lost",
            ) from error
        print(f"{point} is taken away unsynced: its daemon does not answer", file=sys.stderr)
    except OSError as error:
        print(f"{point} is taken away, but what was written last may not be stored: {error}", file=sys.stderr)
    try:
        (mountpoints.detach if lazy else mountpoints.unmount)(point)
    except OSError as error:
        code = Code.IN_USE if error.errno == errno.EBUSY else Code.UNAVAILABLE
        raise StoreError(code, f"{point}: {error.strerror}") from error
    return answered


def _settle(control: Control, place: Mounted, *, lazy: bool) -> bool:
    """What was written is with the daemon, which has made it durable if this is true.  Raises IN_USE, OSError."""
    others = [each.point for each in mountpoints.bound(place)]
    try:
        if others and not lazy and control.get("/status")["mount"] == place.point:
            raise StoreError(Code.IN_USE, f"{place.point} is also mounted at {', '.join(others)}: unmount these first")
        _sync(place.point)
        control.post("/settle")
    except NoDaemon as error:
        _sync(place.point)  # the mount answers, so somebody takes it in
        print(
            f"{place.point}: what was written is with its daemon, which cannot be asked whether it is durable yet; it "
            f"is within 5 s, or when the daemon has stopped: {error}",
            file=sys.stderr,
        )
        return False
    return True


def _sync(point: str) -> None:
    """syncfs(2): the kernel hands over its dirty pages.  Raises OSError."""
    descriptor = os.open(point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _libc.syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), point)
    finally:
        os.close(descriptor)


def _control(finding: Mapping[str, str]) -> Control:
    file = finding.get("config")
    flags: dict[str, object] = {"state_dir": finding["state_dir"]} if "state_dir" in finding else {}
    return Control(load(Path(file) if file else None, None, flags).control_socket)


def mount_helper() -> int:
    """mount.fuse.tierce SOURCE POINT [-sfnv] [-o OPTIONS]; the exit code."""
    parser = argparse.ArgumentParser(prog="mount.fuse.tierce", description="Shows Tierce's buckets; for mount(8).")
    parser.add_argument("source", help="tierce: all buckets; tierce#photos or photos: one")
    parser.add_argument("point", type=Path)
    parser.add_argument("-o", action="append", default=[], dest="options", metavar="OPTIONS")
    parser.add_argument("-f", action="store_true", dest="fake", help="only check")
    parser.add_argument("-s", action="store_true", help=argparse.SUPPRESS)  # unknown options stay errors
    parser.add_argument("-n", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-v", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-t", help=argparse.SUPPRESS)
    given = parser.parse_args()
    try:
        options = options_of(given.options)
        if not given.fake:
            mount(_control(options.finding), given.source, given.point, options)
    except NoDaemon as error:
        print(f"mount.fuse.tierce: {error}; in fstab: x-systemd.requires=tierce.service", file=sys.stderr)
        return FAILED
    except (StoreError, Refused, ConfigError, OSError) as error:
        print(f"mount.fuse.tierce: {error}", file=sys.stderr)
        return MISUSED if isinstance(error, StoreError) and error.code is Code.INVALID_ARGUMENT else FAILED
    return 0


def umount_helper() -> int:
    """umount.fuse.tierce POINT [-nlfv]; the exit code.  A forced one waits, too, for what is to be written; only where
    the daemon does not answer it does what the kernel's would, and ends the mount in all its places."""
    parser = argparse.ArgumentParser(prog="umount.fuse.tierce", description="Takes a place away; for umount(8).")
    parser.add_argument("point", type=Path)
    parser.add_argument("-l", action="store_true", dest="lazy")
    parser.add_argument("-f", action="store_true", dest="force", help="also if the daemon does not answer")
    parser.add_argument("-n", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-r", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-v", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-t", help=argparse.SUPPRESS)
    given = parser.parse_args()
    try:
        unmount(_control({}), given.point, lazy=given.lazy, force=given.force)
    except (StoreError, Refused, ConfigError, OSError) as error:
        print(f"umount.fuse.tierce: {error}", file=sys.stderr)
        return FAILED
    return 0
