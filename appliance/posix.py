"""POSIX attributes in S3 user metadata, as rclone and s3fs write them.  Pure.

rclone ("S3 metadata"): `mtime` as seconds with a fraction; with --metadata also `mode` in octal ("100644"), `uid`,
`gid`, `atime`.  s3fs: the same names, `mode` in decimal ("33188").  An octal reading wins when it is a regular file's
mode.
The node holds the one truth; the metadata shown is the client's own text for as long as it says the same.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping

NAMES = frozenset({"mtime", "atime", "mode", "uid", "gid"})
_TIME_MAX = 1 << 33  # seconds: the year 2242; beyond it a number is not a time that anybody meant
_ID_MAX = (1 << 32) - 1  # that number itself is nobody: chown(2)


def parse_time(text: str) -> int | None:
    """Nanoseconds of "1700000000.123456789" (or RFC-3339-free integers); None if it is not a time."""
    whole, _, fraction = text.partition(".")
    sign = -1 if whole.startswith("-") else 1
    digits = whole.lstrip("+-")
    if not (digits.isascii() and digits.isdigit()) or (fraction and not (fraction.isascii() and fraction.isdigit())):
        return None
    seconds = int(digits)
    if seconds > _TIME_MAX:
        return None
    return sign * (seconds * 1_000_000_000 + int(fraction[:9].ljust(9, "0") or 0))


def format_time(time_ns: int) -> str:
    """The reverse, as rclone writes it."""
    sign = "-" if time_ns < 0 else ""
    seconds, fraction = divmod(abs(time_ns), 1_000_000_000)
    text = f"{fraction:09d}".rstrip("0")
    return f"{sign}{seconds}.{text}" if text else f"{sign}{seconds}"


def parse_mode(text: str) -> int | None:
    """The permission bits of rclone's octal or s3fs's decimal mode; None if it is neither."""
    if not (text.isascii() and text.isdigit()) or len(text) > 7:
        return None
    if set(text) <= set("01234567"):
        mode = int(text, 8)
        if stat.S_IFMT(mode) in (0, stat.S_IFREG) and (stat.S_IFMT(mode) or mode <= 0o7777):
            return stat.S_IMODE(mode)
    mode = int(text)
    return stat.S_IMODE(mode) if stat.S_IFMT(mode) == stat.S_IFREG else None


def parse_id(text: str) -> int | None:
    """A user or group number."""
    return int(text) if text.isascii() and text.isdigit() and int(text) < _ID_MAX else None


def read(user: Mapping[str, str]) -> dict[str, int]:
    """mode (permission bits), uid, gid, mtime_ns, atime_ns as far as the metadata says them."""
    found: dict[str, int | None] = {}
    if "mtime" in user:
        found["mtime_ns"] = parse_time(user["mtime"])
    if "atime" in user:
        found["atime_ns"] = parse_time(user["atime"])
    if "mode" in user:
        found["mode"] = parse_mode(user["mode"])
    for name in ("uid", "gid"):
        if name in user:
            found[name] = parse_id(user[name])
    return {name: value for name, value in found.items() if value is not None}


def shown(user: Mapping[str, str], *, mode: int, uid: int, gid: int, mtime_ns: int, atime_ns: int) -> dict[str, str]:
    """The metadata to show: `mtime` always, the others where the client had them; its own text while it still holds."""
    result = dict(user)
    if "mtime" not in user or parse_time(user["mtime"]) != mtime_ns:
        result["mtime"] = format_time(mtime_ns)
    if "atime" in user and parse_time(user["atime"]) != atime_ns:
        result["atime"] = format_time(atime_ns)
    if "mode" in user and parse_mode(user["mode"]) != stat.S_IMODE(mode):
        result["mode"] = f"{mode:o}"
    for name, value in (("uid", uid), ("gid", gid)):
        if name in user and parse_id(user[name]) != value:
            result[name] = str(value)
    return result
