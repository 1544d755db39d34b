"""Directories as the mount reads them: names with their nodes, in pages, and what a file allocates.

A row that is damaged hides nothing: the name is listed, with the others, and whoever follows it is told (DAMAGED).  A
listing without it would seem whole, and rsync or rclone would remove what it lacks from the other side; none at all
would keep the rest from its owner.

Of names alone only the entries are looked at: one whose node is lost, or hurt, is told from the others when it is
followed.

Names sort as bytes, a directory's with its "/": the order of the catalogue's rows, so a page begins with a seek.  What
S3 makes of the same rows is in `listing`.  Pure over `every(sql, parameters)`, which must see one state (H4).
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable
from typing import Any, Final

from appliance.catalogue.names import node_of
from appliance.catalogue.schema import entry_sum
from appliance.errors import StoreError
from appliance.model import LOST, BodyKind, Entry, Node, type_named_row, type_shown_row

log = logging.getLogger(__name__)

type_every = Callable[[str, tuple[Any, ...]], list[Any]]

_ENTRIES: Final = (
    "SELECT e.name, n.*, e.sum FROM entry e LEFT JOIN node n ON n.id=e.node"
    " WHERE e.parent=? AND e.name>? ORDER BY e.name LIMIT ?"
)
_SHOWN: Final = (
    "SELECT e.name, n.id, n.mode, n.uid, n.gid, n.links, n.size, n.kind, n.atime_ns, n.mtime_ns, n.ctime_ns, n.flags,"
    " e.sum FROM entry e LEFT JOIN node n ON n.id=e.node WHERE e.parent=? AND e.name>? ORDER BY e.name LIMIT ?"
)
# No node is looked into but those of specials, few in an index of their own: names that were made in another order than
# they sort in have their nodes all over the file, and who has just the names of a million would wait for each.
_NAMED: Final = (
    "SELECT e.name, e.node, coalesce((SELECT n.mode FROM node n INDEXED BY node_special"
    " WHERE n.bucket=(SELECT bucket FROM node WHERE id=?1) AND n.id=e.node AND n.mode & 61440 NOT IN (16384, 32768)),"
    f" CASE WHEN substr(e.name, -1)=x'2f' THEN {stat.S_IFDIR} ELSE {stat.S_IFREG} END), e.sum"
    " FROM entry e WHERE e.parent=?1 AND e.name>?2 ORDER BY e.name LIMIT ?3"
)

_WARM: Final = (
    "SELECT sum(mode) FROM (SELECT n.mode FROM entry e JOIN node n ON n.id=e.node"
    " WHERE e.parent=? AND e.name>? ORDER BY e.name LIMIT ?)"
)
_WARM_NAMES: Final = "SELECT sum(node) FROM (SELECT node FROM entry WHERE parent=? AND name>? ORDER BY name LIMIT ?)"


def entries(every: type_every, parent: int, after: tuple[bytes, bool] | None, limit: int) -> list[Entry]:
    """`store.ObjectStore.entries`."""
    if after is None:
        rows = every(_ENTRIES.replace("e.name>?", "e.name>=?"), (parent, b"", limit))
    else:
        rows = every(_ENTRIES, (parent, after[0] + b"/" if after[1] else after[0], limit))
    found = []
    for row in _proven(parent, rows):
        directory = row[0].endswith(b"/")
        name = row[0][:-1] if directory else row[0]
        try:
            found.append(Entry(name, directory, node_of(row[1:-1])) if row[1] else Entry(name, directory, LOST, True))
        except StoreError as error:
            log.error("directory %d: %r is damaged in the catalogue: %s", parent, row[0], error.cause)
            found.append(Entry(name, directory, LOST, damaged=True))
    return found


def shown(every: type_every, parent: int, after: bytes | None, limit: int) -> list[type_shown_row]:
    """`store.ObjectStore.shown`."""
    if after is None:
        return _proven(parent, every(_SHOWN.replace("e.name>?", "e.name>=?"), (parent, b"", limit)))
    return _proven(parent, every(_SHOWN, (parent, after, limit)))


def named(every: type_every, parent: int, after: bytes | None, limit: int) -> list[type_named_row]:
    """`store.ObjectStore.named`."""
    if after is None:
        return _proven(parent, every(_NAMED.replace("e.name>?", "e.name>=?"), (parent, b"", limit)))
    return _proven(parent, every(_NAMED, (parent, after, limit)))


def warm(every: type_every, parent: int, after: bytes, limit: int, nodes: bool) -> None:
    """Looks at what `shown` (with `nodes`) or `named` will, in one step of SQLite's: without the interpreter."""
    every(_WARM if nodes else _WARM_NAMES, (parent, after, limit))


def _proven(parent: int, rows: list[Any]) -> list[Any]:
    """Rows of a directory, name and node first and the entry's sum last.  Of one that lies the node is 0: the kernel
    follows what it was given, and memory what it read, without coming by the name again."""
    for at, row in enumerate(rows):
        if row[1] is None or (row[-1] and row[-1] != entry_sum(parent, row[0], row[1])):
            log.error("directory %d: %r is damaged in the catalogue: run `tierce rebuild-catalogue`", parent, row[0])
            rows[at] = (row[0], 0, *row[2:])
    return rows


def place_of(every: type_every, node: int) -> tuple[int, bytes] | None:
    """A (directory, name) of a file.  Reads all names."""
    rows = every("SELECT parent, name FROM entry WHERE node=? LIMIT 1", (node,))
    return (rows[0][0], rows[0][1]) if rows else None


_ALLOCATED: Final = (
    "SELECT coalesce(sum(min(off + len, ?3) - max(off, ?2)), 0) FROM slice WHERE map=?1 AND off<?3 AND off + len>?2"
    " AND off>=coalesce((SELECT max(off) FROM slice WHERE map=?1 AND off<=?2), 0)"
)


def allocated(every: type_every, node: Node, start: int = 0, end: int = 2**62) -> int:
    """Bytes of the node in [start, end) that are not holes.  A part of a multipart upload counts whole."""
    if node.kind == BodyKind.MAP:
        return int(every(_ALLOCATED, (node.ref, start, end))[0][0])
    held = len(node.data) if node.kind == BodyKind.INLINE else 0
    if node.kind == BodyKind.CHUNK:
        rows = every("SELECT len FROM chunk WHERE id=?", (node.ref,))
        held = int(rows[0][0]) if rows else 0
    return max(0, min(held, end) - start)
