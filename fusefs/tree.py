"""Names of the catalogue and names of the mount: a bijection on what the mount shows (H7).

A catalogue name is one segment of a key: any bytes without "/", of any length, even none.  A mount name is what Linux
allows: 1 to 255 bytes without "/" and NUL, neither `.` nor `..`.  Most names are both and stand for themselves.  The
rest is mapped so:

    catalogue name                                   mount name
    valid UTF-8, 1..255 bytes, nothing special       itself
    `.tierce~q~` + quoted bytes that are not UTF-8   the bytes (what a program gave us, given back identical)
    a file beside a directory of the same name       `.tierce~f~` + escaped name (the directory keeps the plain one)
    empty, `.`, `..`, with NUL, `.tierce~` in front  `.tierce~n~` + escaped name
    anything whose mount name would pass 255 bytes   `.tierce~h~` f|n `~` digest `~` escaped beginning of the name

An escaped name has `%25` for `%` and `%00` for NUL, and, when it is not UTF-8, `%XX` for each byte above 127.  Quoted
bytes have `%25` for `%` and `%XX` for each byte above 127.  Hexadecimal digits are upper case in escapes and lower case
in digests.

The mapping goes both ways without looking at the catalogue, except for `h`: its digest can be compared but not
reversed, and the beginning of the name says where to look.  A mount name with the reserved prefix that is not the one
alias of some name stands for nothing: looking it up finds nothing and creating it is refused, so that no file has two
names.

This module knows names only: not which exist.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from appliance.limits import NAME_MAX

PREFIX: Final = b".tierce~"
QUOTED: Final = PREFIX + b"q~"
SHADOWED: Final = PREFIX + b"f~"
NAMED: Final = PREFIX + b"n~"
DIGESTED: Final = PREFIX + b"h~"
DIGEST_SIZE: Final = 16  # bytes: a collision among the long names of one directory is out of reach

_ODD: Final = frozenset({b"", b".", b".."} | {b"/", b"./", b"../"})
_ESCAPE: Final = re.compile(rb"%([0-9A-F]{2})")


class Name(NamedTuple):
    """A catalogue name.  `shadowed`: the file, although a directory of that name exists."""

    name: bytes
    shadowed: bool


class Digest(NamedTuple):
    """A catalogue name known by its digest; it begins with `start`."""

    digest: bytes
    shadowed: bool
    start: bytes


def to_mount(name: bytes, shadowed: bool = False) -> bytes:
    """The mount name of the catalogue's `name`.  `shadowed` is true for a file beside a directory of the same name."""
    if not shadowed:
        if not name.startswith(PREFIX):
            if _is_plain(name):
                return name
        elif name.startswith(QUOTED):
            original = _unescape(name[len(QUOTED) :])
            if original is not None and _quote(original) == name and len(original) <= NAME_MAX:
                return original
    alias = (SHADOWED if shadowed else NAMED) + _escape(name)
    return alias if len(alias) <= NAME_MAX else _digest_alias(name, shadowed)


def are_plain(rows: Sequence[bytes]) -> bool:
    """Whether all of these names (directories' with "/" appended) stand for themselves.  It may say no of some that do:
    it is for asking about many at once."""
    joined = b"".join(rows)
    if not joined.isascii() or b"\0" in joined or PREFIX in joined or max(map(len, rows), default=0) > NAME_MAX:
        return False
    return _ODD.isdisjoint(rows)


def from_mount(name: bytes) -> Name | Digest | None:
    """What the mount's `name` stands for; None when it is reserved and stands for nothing."""
    if not _is_utf8(name):
        return Name(_quote(name), False)
    if not name.startswith(PREFIX):
        return Name(name, False)
    found: Name | Digest | None = None
    if name.startswith((SHADOWED, NAMED)):
        original = _unescape(name[len(NAMED) :])
        if original is not None and b"/" not in original:
            found = Name(original, name.startswith(SHADOWED))
            if to_mount(*found) != name:
                found = None
    elif name.startswith(DIGESTED):
        found = _parse_digest(name[len(DIGESTED) :])
    return found


def digest(name: bytes) -> bytes:
    """What stands for a long name in its alias."""
    return hashlib.blake2b(name, digest_size=DIGEST_SIZE).digest()


def _is_plain(name: bytes) -> bool:
    return 0 < len(name) <= NAME_MAX and name not in (b".", b"..") and b"\0" not in name and _is_utf8(name)


def _is_utf8(name: bytes) -> bool:
    if name.isascii():
        return True
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def _quote(name: bytes) -> bytes:
    """The catalogue name of mount bytes that are not UTF-8; valid UTF-8 itself."""
    if _is_utf8(name) or b"/" in name or b"\0" in name:
        return b""  # stands for nothing: compares unequal to every quoted name
    return QUOTED + b"".join(b"%%%02X" % byte if byte > 127 or byte == 0x25 else bytes((byte,)) for byte in name)


def _escape(name: bytes) -> bytes:
    escaped = name.replace(b"%", b"%25").replace(b"\0", b"%00")
    if _is_utf8(name):
        return escaped
    return b"".join(b"%%%02X" % byte if byte > 127 else bytes((byte,)) for byte in escaped)


def _unescape(escaped: bytes) -> bytes | None:
    """The reverse of `_escape` and of quoting; None when a `%` is not followed by two upper-case hexadecimal digits."""
    if b"%" not in escaped:
        return escaped
    if len(_ESCAPE.findall(escaped)) != escaped.count(b"%"):
        return None
    return _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), escaped)


def _digest_alias(name: bytes, shadowed: bool) -> bytes:
    head = DIGESTED + (b"f~" if shadowed else b"n~") + digest(name).hex().encode() + b"~"
    room = NAME_MAX - len(head)
    escaped = _escape(name)[:room]
    while escaped:  # never cut an escape or a character in two
        start = _unescape(escaped)
        if start is not None and name.startswith(start) and _is_utf8(escaped):
            break
        escaped = escaped[:-1]
    return head + escaped


def _parse_digest(rest: bytes) -> Digest | None:
    match = re.fullmatch(rb"([fn])~([0-9a-f]{%d})~(.*)" % (2 * DIGEST_SIZE), rest, re.DOTALL)
    if match is None:
        return None
    start = _unescape(match[3])
    if start is None:
        return None
    return Digest(bytes.fromhex(match[2].decode()), match[1] == b"f", start)
