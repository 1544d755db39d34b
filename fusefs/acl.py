"""Access control lists of POSIX 1003.1e draft 17, as Linux carries them in extended attributes.  Pure.

    system.posix_acl_access     who may do what; its classes and the mode's are one thing seen twice
    system.posix_acl_default    of a directory: what is made in it begins with

The kernel asks for them and enforces them (FUSE_POSIX_ACL); we keep them, keep the mode equal to them, and let what is
made inherit them.  A list that says no more than a mode is not kept.

Sources: acl(5); linux/posix_acl_xattr.h for the encoding; posix_acl_valid, posix_acl_equiv_mode, posix_acl_create and
posix_acl_chmod (fs/posix_acl.c) for the rules.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from appliance.errors import Code, StoreError

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"
NAMES: Final = (ACCESS, DEFAULT)
MARK: Final = b"posix_acl_"  # in the packed attributes of whatever has one

USER_OBJ: Final = 0x01  # the owner
USER: Final = 0x02  # a named user
GROUP_OBJ: Final = 0x04  # the owning group
GROUP: Final = 0x08  # a named group
MASK: Final = 0x10  # bounds USER, GROUP_OBJ and GROUP
OTHER: Final = 0x20

_VERSION: Final = struct.Struct("<I")
_ENTRY: Final = struct.Struct("<HHI")
_NOBODY: Final = 0xFFFF_FFFF  # the id of a tag that names nobody
_SHIFTS: Final = {USER_OBJ: 6, GROUP_OBJ: 3, MASK: 3, OTHER: 0}


class Entry(NamedTuple):
    """One line.  `permissions`: 4 read, 2 write, 1 execute."""

    tag: int
    permissions: int
    id: int = _NOBODY


def parse(value: bytes) -> list[Entry]:
    """The entries of an attribute.  Raises INVALID_ARGUMENT for what acl(5) does not call valid."""
    if len(value) < _VERSION.size or (len(value) - _VERSION.size) % _ENTRY.size:
        raise StoreError(Code.INVALID_ARGUMENT, "an access control list of no length that one has")
    if _VERSION.unpack_from(value) != (2,):
        raise StoreError(Code.INVALID_ARGUMENT, "an access control list of another version")
    entries = [Entry(*fields) for fields in _ENTRY.iter_unpack(value[_VERSION.size :])]
    tags = [entry.tag for entry in entries]
    named = USER in tags or GROUP in tags
    wrong = (
        tags != sorted(tags)
        or any(tags.count(tag) != 1 for tag in (USER_OBJ, GROUP_OBJ, OTHER))
        or tags.count(MASK) > 1
        or (named and MASK not in tags)
        or not set(tags) <= {USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER}
        or any(entry.permissions > 7 for entry in entries)
        or any(entry.id == _NOBODY for entry in entries if entry.tag in (USER, GROUP))
        or len({(entry.tag, entry.id) for entry in entries if entry.tag in (USER, GROUP)})
        != tags.count(USER) + tags.count(GROUP)
    )
    if wrong:
        raise StoreError(Code.INVALID_ARGUMENT, "an access control list that is not valid")
    return [entry if entry.tag in (USER, GROUP) else entry._replace(id=_NOBODY) for entry in entries]


def pack(entries: Sequence[Entry]) -> bytes:
    """The reverse of `parse`."""
    return _VERSION.pack(2) + b"".join(_ENTRY.pack(*entry) for entry in entries)


def is_extended(entries: Sequence[Entry]) -> bool:
    """Whether it says more than a mode can."""
    return any(entry.tag not in (USER_OBJ, GROUP_OBJ, OTHER) for entry in entries)


def mode_of(entries: Sequence[Entry]) -> int:
    """The nine permission bits: the group's are the mask's where there is one."""
    group = MASK if any(entry.tag == MASK for entry in entries) else GROUP_OBJ
    return sum(entry.permissions << _SHIFTS[entry.tag] for entry in entries if entry.tag in (USER_OBJ, group, OTHER))


def with_mode(entries: Sequence[Entry], mode: int) -> list[Entry]:
    """After chmod(2)."""
    group = MASK if any(entry.tag == MASK for entry in entries) else GROUP_OBJ
    return [
        entry._replace(permissions=mode >> _SHIFTS[entry.tag] & 7) if entry.tag in (USER_OBJ, group, OTHER) else entry
        for entry in entries
    ]


def inherited(default: Sequence[Entry], mode: int) -> tuple[list[Entry], int]:
    """(list, mode) of what is made with `mode` in a directory with this default: each bounds the other, and the
    process's umask has no say."""
    mode &= ~0o777 | mode_of(default)
    return with_mode(default, mode), mode
