"""Listings of versions: two walks in key order, merged.

What keys are now comes from the tree of entries, everything older and every delete marker from the version table; of
one key the entry, if there is one, is the newest.  The table is read in the order of its primary key, oldest version
first, and turned around key by key; only where a key's versions do not fit into what is read at once are they asked
for from the newest down.  So a page costs what it shows, however many versions a key has.

Pure over `every(sql, parameters)`, which must see one state (H4).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Final

from appliance.catalogue.names import NODE_COLUMNS, node_of
from appliance.engine.listed import said
from appliance.engine.listing import current, successor, type_every, walk
from appliance.model import (
    MARKER,
    NULL_VERSION,
    NULL_VERSION_ID,
    Bucket,
    ListedVersion,
    Node,
    VersionPage,
    version_id,
    version_number,
)

log = logging.getLogger(__name__)

_STEP_MIN: Final = 4  # rows of the version table: a key or two
_COLUMNS: Final = "v.key, v.version, v.flags, n.size, n.etag, n.written_ns, n.packed"
_FROM: Final = "FROM version v LEFT JOIN node n ON n.id=v.node WHERE v.bucket=?"
_BLOCK: Final = f"SELECT {_COLUMNS} {_FROM} AND v.key>=? ORDER BY v.key, v.version LIMIT ?"
_DOWN: Final = f"SELECT {_COLUMNS} {_FROM} AND v.key=? AND v.version<? ORDER BY v.version DESC LIMIT ?"
_NUMBER_MAX: Final = 2**63 - 1
_NOTHING: Final = ("", "", "")  # storage class, owner and checksum of an object that says none


type_version = tuple[bytes, int, int, Any, Any, Any, Any, bool]
"""A row of either walk: key, version, flags, size, ETag, time, packed attributes, whether it is the newest.  Of a node
that is missing, what follows the flags is None.  (A plain tuple costs a fifth of a named one, and a page has 1,000.)
"""


def list_versions(
    every: type_every, bucket: Bucket, prefix: bytes, delimiter: bytes, after_key: bytes, after_version: str, limit: int
) -> VersionPage:
    """One page: `store.ObjectStore.list_versions`."""
    found: list[ListedVersion] = []
    prefixes: list[bytes] = []
    below: tuple[bytes, int] | None = None
    lower: bytes | None = prefix
    if after_key >= prefix and after_key:
        lower = after_key + b"\0"
        if after_version:
            below, lower = (after_key, _position(every, bucket, after_key, after_version)), after_key
    run = 0
    last: type_version | None = None  # of `found`, if no prefix came after it
    while lower is not None and limit > 0:
        if below is None and not _has_older(every, bucket.id, prefix, lower):
            room = limit - len(found) - len(prefixes)
            start = last[0] if last is not None else prefixes[-1] if prefixes else after_key
            rest = current(every, bucket.root, prefix, delimiter, start, max(room, 1), _current)
            if not room:
                if rest.objects or rest.prefixes:
                    return _truncated(found, prefixes, last)
                break
            found += [_listed(row) for row in rest.objects]
            prefixes += rest.prefixes
            if not rest.more:
                break
            ends = bool(rest.objects) and rest.objects[-1][0] == rest.last
            return _truncated(found, prefixes, rest.objects[-1] if ends else None)
        seek: bytes | None = None
        # versions between two common prefixes: likely as many as the last time
        step = run + 2 if delimiter else limit + 1 - len(found) - len(prefixes)
        run = -len(found)
        for row in _merged(every, bucket, lower, step):
            key = row[0]
            if not key.startswith(prefix):
                return VersionPage(found, prefixes, False, b"", "")
            if below is not None and key == below[0] and row[1] >= below[1]:
                continue
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            common = key[: at + len(delimiter)] if at >= 0 else b""
            if common and after_key.startswith(common):
                seek = successor(common)
                break
            if len(found) + len(prefixes) == limit:
                return _truncated(found, prefixes, last)
            if common:
                prefixes.append(common)
                last, seek = None, successor(common)
                break
            found.append(_listed(row))
            last = row
        run += len(found)
        lower, below = seek, None
    return VersionPage(found, prefixes, False, b"", "")


def _truncated(found: list[ListedVersion], prefixes: list[bytes], last: type_version | None) -> VersionPage:
    """A page with more to follow; it ends with the version `last`, or with its last prefix."""
    if last is None:
        return VersionPage(found, prefixes, True, prefixes[-1], "")
    return VersionPage(found, prefixes, True, last[0], _place(last[1]))


def _has_older(every: type_every, bucket: int, prefix: bytes, lower: bytes) -> bool:
    """Whether anything but what is current remains of the keys >= lower with the prefix."""
    rows = every("SELECT key FROM version WHERE bucket=? AND key>=? ORDER BY key LIMIT 1", (bucket, lower))
    return bool(rows) and rows[0][0].startswith(prefix)


def _current(key: bytes, row: Any) -> type_version:
    """What is current, from a row of `walk`."""
    return key, row[8] or 0, (row[7] or 0) & ~MARKER, row[3], row[4], row[5], row[6], True


def _place(version: int) -> str:
    """The marker of a version: the number itself, for "null" would have to be looked up again, and may be gone by
    then."""
    return f"{version:016x}" if version else NULL_VERSION_ID


def _listed(row: type_version) -> ListedVersion:
    key, version, flags, size, etag, written, packed, latest = row
    if etag is None:
        log.error("%r is damaged in the catalogue: the node of its version %d is missing", key, version)
        size, etag, written, packed = 0, "", 0, b""
    storage_class, owner, checksum = said(packed) if packed else _NOTHING
    return ListedVersion(
        key,
        version_id(version, flags),
        latest,
        bool(flags & MARKER),
        size,
        etag,
        written,
        storage_class,
        owner,
        checksum,
    )


def _position(every: type_every, bucket: Bucket, key: bytes, marker: str) -> int:
    """The place of a version among those of its key.  A null version that is gone was the oldest."""
    number = version_number(marker)
    if number:
        return number
    rows = every(f"SELECT version FROM version WHERE bucket=? AND key=? AND flags & {NULL_VERSION}", (bucket.id, key))
    if rows:
        return int(rows[0][0])
    for found, row in walk(every, bucket.root, key, 1):
        if found == key and (not row[8] or row[7] & NULL_VERSION):
            return int(row[8])
        break
    return 0


def _merged(every: type_every, bucket: Bucket, lower: bytes, step: int) -> Iterator[type_version]:
    """Every version of the keys >= lower, by key, newest first."""
    given = new = 0

    def wish() -> int:
        """Of what is left of the page, the share of current ones that there was until now."""
        return (step - given) * new // max(given, 1) + _STEP_MIN

    entries = walk(every, bucket.root, lower, step, wish=wish)
    older = _older(every, bucket.id, lower, step)
    entry, row = next(entries, None), next(older, None)
    before = b""  # the key whose newest version was given; no key is empty
    while entry is not None or row is not None:
        given += 1
        if entry is not None and (row is None or entry[0] <= row[0]):
            new += 1
            before, node = entry
            yield _current(before, node)
            entry = next(entries, None)
        else:
            assert row is not None
            yield *row, row[0] != before
            before = row[0]
            row = next(older, None)


def older(
    every: type_every, bucket: int, prefix: bytes, after_key: bytes, after_version: str, limit: int
) -> list[tuple[bytes, Node | None]]:
    """Older versions of keys that begin with `prefix` and have no "/" after it, newest first, and in the place of the
    others each common prefix once, with None: at most `limit`, after the key (or prefix) and version given."""
    found: list[tuple[bytes, Node | None]] = []
    below = version_number(after_version) if after_version else None
    lower: bytes | None = max(prefix, after_key)
    if after_key and after_key > prefix and after_key.endswith(b"/") and not after_version:
        lower = successor(after_key)
    while lower is not None:
        seek: bytes | None = None
        for row in _older(every, bucket, lower, limit - len(found)):
            key, version, flags = row[:3]
            if not key.startswith(prefix) or len(found) == limit:
                return found
            if flags & MARKER:
                continue
            if key == after_key and after_version and version >= _row_number(every, bucket, key, below):
                continue
            at = key.find(b"/", len(prefix))
            if at >= 0:
                found.append((key[: at + 1], None))
                seek = successor(key[: at + 1])
                break
            nodes = every(
                f"SELECT {NODE_COLUMNS} FROM version v JOIN node n ON n.id=v.node"
                " WHERE v.bucket=? AND v.key=? AND v.version=?",
                (bucket, key, version),
            )
            found.append((key, node_of(nodes[0])))
        lower = seek
    return found


def _row_number(every: type_every, bucket: int, key: bytes, number: int | None) -> int:
    """The version's number; of the null version ("null" is read as 0) the row's."""
    if number:
        return number
    rows = every(f"SELECT version FROM version WHERE bucket=? AND key=? AND flags & {NULL_VERSION}", (bucket, key))
    return int(rows[0][0]) if rows else 0


def _older(every: type_every, bucket: int, lower: bytes, step: int) -> Iterator[Any]:
    """The version table's rows of the keys >= lower, by key, newest first."""
    width = max(step, _STEP_MIN)
    while True:
        rows = every(_BLOCK, (bucket, lower, width))
        start = 0
        for at in range(1, len(rows) + 1):
            last = at == len(rows)
            if not last and rows[at][0] == rows[start][0]:
                continue
            if last and len(rows) == width:
                break  # this key may have more
            yield from reversed(rows[start:at])
            start = at
        if len(rows) < width:
            return
        if start:
            lower = rows[start][0]
            continue
        key, number = rows[0][0], _NUMBER_MAX
        while down := every(_DOWN, (bucket, key, number, width)):
            yield from down
            number = down[-1][1]
        lower = key + b"\0"
