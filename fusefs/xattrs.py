"""Extended attributes and S3's metadata, two views of one thing.  Pure.

    user.meta.NAME     x-amz-meta-NAME (lower case; the value is UTF-8 text without line breaks)
                       (rclone's mtime, mode … are shown but follow the file: not listed, not set here)
    user.tierce.etag, version-id, tags, lock-mode, retain-until, legal-hold
                       read-only, and not listed, so that no copying program tries to set them
    user.OTHER         kept with the object, shown by no other door
    trusted.ANY        likewise; root's alone (the kernel sees to that)
    system.posix_acl_access, system.posix_acl_default
                       likewise (`acl`), where the kernel enforces them

Other namespaces are not kept: security and system attributes decide over access, and a server that does not enforce
them must not pretend to.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote, urlencode

import msgspec

from appliance.errors import Code, StoreError
from appliance.limits import USER_METADATA_MAX
from appliance.model import Attributes, Node
from fusefs import acl

META: Final = b"user.meta."
OURS: Final = b"user.tierce."
ETAG: Final = b"user.tierce.etag"
VERSION: Final = b"user.tierce.version-id"
USER: Final = b"user."
TRUSTED: Final = b"trusted."
KEPT: Final = (USER, TRUSTED)
XATTRS_MAX: Final = 64 * 1024  # bytes of names and values of one file, as ext4 with large xattrs

POSIX: Final = frozenset({"mtime", "atime", "mode", "uid", "gid"})  # rclone's and s3fs's: stat(2) has them

_META_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")  # an HTTP field name (RFC 9110 5.6.2) in lower case


def get(attributes: Attributes, name: bytes) -> bytes | None:
    """The value; None if there is none of that name."""
    if name.startswith(META):
        value = attributes.user.get(name[len(META) :].decode(errors="replace"))
        return None if value is None else value.encode()
    return attributes.xattrs.get(name.decode(errors="surrogateescape"))


def shown(node: Node, name: bytes) -> bytes | None:
    """The value of one that only we set, as the catalogue has it; None if there is none of that name."""
    attributes = node.attributes
    said = {
        ETAG: node.etag,
        VERSION: node.version_id if stat.S_ISREG(node.mode) else "",
        b"user.tierce.tags": urlencode(attributes.tags, safe="", quote_via=quote),
        b"user.tierce.lock-mode": attributes.retention_mode,
        b"user.tierce.retain-until": str(attributes.retain_until_ns // 10**9) if attributes.retention_mode else "",
        b"user.tierce.legal-hold": attributes.legal_hold,
    }
    return said.get(name, "").encode() or None


def names(attributes: Attributes) -> list[bytes]:
    """The names that listxattr(2) gives: what a copy may carry along, hence not the ETag."""
    found = [META + name.encode() for name in attributes.user if name not in POSIX]
    found += [name.encode(errors="surrogateescape") for name in attributes.xattrs]
    return found


def list_of(attributes: Attributes, name: bytes) -> list[acl.Entry] | None:
    """An access control list; None without one."""
    value = attributes.xattrs.get(name.decode())
    return None if value is None else acl.parse(value)


def with_list(attributes: Attributes, name: bytes, entries: Sequence[acl.Entry]) -> Attributes:
    """With another list; without one if it says no more than a mode.  Raises NO_SPACE above the bounds."""
    if name == acl.ACCESS and not acl.is_extended(entries):
        return remove(attributes, name) or attributes
    return put(attributes, name, acl.pack(entries))


def put(attributes: Attributes, name: bytes, value: bytes) -> Attributes:
    """With `value` under `name`.  Raises ACCESS_DENIED for what is read-only, INVALID_ARGUMENT for what S3 could not
    carry, NO_SPACE above the bounds."""
    assert name.startswith(KEPT) or name in acl.NAMES
    if name.startswith(OURS):
        raise StoreError(Code.ACCESS_DENIED, f"{name.decode(errors='replace')} is read-only")
    if name.startswith(META):
        return _put_meta(attributes, name[len(META) :], value)
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise StoreError(Code.INVALID_ARGUMENT, "an attribute's name is UTF-8") from None
    xattrs = {**attributes.xattrs, text: value}
    if sum(len(each.encode()) + len(held) for each, held in xattrs.items()) > XATTRS_MAX:
        raise StoreError(Code.NO_SPACE, f"attributes above {XATTRS_MAX} bytes")
    return msgspec.structs.replace(attributes, xattrs=xattrs)


def remove(attributes: Attributes, name: bytes) -> Attributes | None:
    """Without `name`; None if there is none.  Raises ACCESS_DENIED for what is read-only."""
    if name.startswith(OURS):
        raise StoreError(Code.ACCESS_DENIED, f"{name.decode(errors='replace')} is read-only")
    if get(attributes, name) is None:
        return None
    if name.startswith(META):
        key = name[len(META) :].decode()
        return msgspec.structs.replace(
            attributes, user={each: value for each, value in attributes.user.items() if each != key}
        )
    text = name.decode()
    return msgspec.structs.replace(
        attributes, xattrs={each: value for each, value in attributes.xattrs.items() if each != text}
    )


def _put_meta(attributes: Attributes, name: bytes, value: bytes) -> Attributes:
    try:
        key, text = name.decode("ascii"), value.decode()
    except UnicodeDecodeError:
        raise StoreError(Code.INVALID_ARGUMENT, "S3 metadata is text") from None
    if not _META_NAME.fullmatch(key) or any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise StoreError(Code.INVALID_ARGUMENT, "S3 metadata has header names in lower case and printable values")
    if key in POSIX:
        raise StoreError(Code.ACCESS_DENIED, f"{key} follows the file's own attributes")
    user = {**attributes.user, key: text}
    if sum(len(each) + len(held.encode()) for each, held in user.items()) > USER_METADATA_MAX:
        raise StoreError(Code.NO_SPACE, f"S3 metadata above {USER_METADATA_MAX} bytes")
    return msgspec.structs.replace(attributes, user=user)
