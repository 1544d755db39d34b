"""The tree of names: keys to directories and entries.  Plain functions over a reading function or a batch's `Rows`.

A key `a/b/c` is the path of its segments.  A directory's row has the segment with "/" appended, so a depth-first walk
in
the order of the rows is S3's key order.  `d/` is the entry with the empty name in `d`; `a//b` has a directory with the
empty name.  Directories that only keys imply vanish with their last entry.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable
from typing import Any, Final

from appliance.catalogue.database import Rows
from appliance.catalogue.proven import damaged, is_proven
from appliance.catalogue.schema import ENTRY, NODE, entry_sum
from appliance.errors import StoreError
from appliance.model import IMPLIED, UNOWNED, Change, Node

log = logging.getLogger(__name__)

NODE_COLUMNS: Final = ",".join(f"n.{column}" for column in NODE.columns)
DIRECTORY_MODE: Final = stat.S_IFDIR | 0o755

_FIND: Final = "SELECT node, sum FROM entry WHERE parent=? AND name=?"
_NODE: Final = f"SELECT {NODE_COLUMNS} FROM node n WHERE n.id=?"
_ENTRY_NODE: Final = (
    f"SELECT {NODE_COLUMNS}, e.sum FROM entry e LEFT JOIN node n ON n.id=e.node WHERE e.parent=? AND e.name=?"
)

type_one = Callable[..., Any]


class DirectoryCache:
    """(parent, row name) -> directory, bounded.  Whoever changes a directory's row drops it here."""

    def __init__(self, limit: int = 65_536) -> None:
        self.known: dict[tuple[int, bytes], int] = {}
        self._limit = limit

    def add(self, parent: int, name: bytes, node: int) -> None:
        """Remembers; forgets everything when full (rare, and cheaper than an order)."""
        if len(self.known) >= self._limit:
            self.known.clear()
        self.known[parent, name] = node

    def drop(self, parent: int, name: bytes) -> None:
        """Forgets one."""
        self.known.pop((parent, name), None)


def split(key: bytes) -> tuple[list[bytes], bytes]:
    """Row names of the directories, and the entry's name."""
    if b"/" not in key:
        return [], key
    *directories, name = key.split(b"/")
    return [segment + b"/" for segment in directories], name


def _proven(parent: int, name: bytes, node: int | None, found: int) -> int:
    """The node that an entry names, if there is one and the sum says so too.  Raises DAMAGED."""
    if node is None or (found and found != entry_sum(parent, name, node)):
        raise damaged(f"entry {parent}/{name!r}")
    return node


def node_of(row: tuple[Any, ...]) -> Node:
    """The node that has a row, if the row's sum says so too.  Raises DAMAGED."""
    require_node(row)
    return Node(*row[:-1])


def require_node(row: tuple[Any, ...]) -> None:
    """That what is in a node's row is what was written there.  Raises DAMAGED."""
    if not is_proven(NODE, row):
        raise damaged(f"node {row[0]}")


def find_parent(one: type_one, cache: DirectoryCache, root: int, directories: list[bytes]) -> int | None:
    """The last directory of the path, or None when one is missing.  `one(sql, parameters)` gives a row or None."""
    parent = root
    known = cache.known
    for name in directories:
        node = known.get((parent, name))
        if node is None:
            row = one(_FIND, (parent, name))
            if row is None:
                return None
            node = _proven(parent, name, *row)
            cache.add(parent, name, node)
        parent = node
    return parent


def node_at(one: type_one, parent: int, name: bytes) -> Node | None:
    """The node of one entry (a directory's `name` ends with "/")."""
    row = one(_ENTRY_NODE, (parent, name))
    if row is None:
        return None
    _proven(parent, name, row[0], row[-1])
    return node_of(row[:-1])


def number_at(one: type_one, parent: int, name: bytes) -> int | None:
    """The number of the node that an entry names.  Raises DAMAGED."""
    row = one(_FIND, (parent, name))
    return None if row is None else _proven(parent, name, *row)


def node_by_id(one: type_one, node: int) -> Node | None:
    """The node's row."""
    row = one(_NODE, (node,))
    return node_of(row) if row is not None else None


def directory_by_id(tx: Rows, number: int) -> Node | None:
    """As `node_by_id` of a batch's rows, which remember directories: most commands of a batch ask for one of few."""
    node = tx.directories.get(number)
    if node is None:
        node = node_by_id(tx.one, number)
        if node is not None and stat.S_ISDIR(node.mode):
            tx.directories[number] = node
    return node


def make_parents(tx: Rows, cache: DirectoryCache, bucket: int, root: int, directories: list[bytes], now_ns: int) -> int:
    """The last directory of the path; missing ones are made as implied."""
    parent = root
    known = cache.known
    for name in directories:
        node = known.get((parent, name))
        if node is None:
            row = tx.one(_FIND, (parent, name))
            if row is None:
                node = tx.new_id()
                add_directory(tx, bucket, parent, name, node, DIRECTORY_MODE, 0, 0, now_ns, IMPLIED | UNOWNED)
            else:
                node = _proven(parent, name, *row)
            cache.add(parent, name, node)
        parent = node
    return parent


def add_directory(
    tx: Rows,
    bucket: int,
    parent: int,
    name: bytes,
    node: int,
    mode: int,
    uid: int,
    gid: int,
    now_ns: int,
    flags: int,
    packed: bytes = b"",
) -> None:
    """A directory's two rows.  Its node remembers parent and row name, so that a path can be read upwards."""
    tx.put(ENTRY, (parent, name, node))
    tx.put(
        NODE,
        (
            node,
            mode,
            uid,
            gid,
            2,
            0,
            now_ns,
            now_ns,
            now_ns,
            now_ns,
            0,
            "",
            0,
            parent,
            name,
            flags,
            packed,
            bucket,
            b"",
            0,
        ),
    )
    tx.touch(parent, now_ns)
    tx.link(parent, 1)
    tx.note(Change(parent, name[:-1], True, 0, False))


def remove_entry(tx: Rows, cache: DirectoryCache, parent: int, name: bytes, now_ns: int) -> None:
    """Deletes one name, then every implied directory above that it leaves empty (unless somebody holds it)."""
    tx.delete(ENTRY, (parent, name))
    tx.touch(parent, now_ns)
    if name.endswith(b"/"):
        tx.link(parent, -1)
    prune(tx, cache, parent, now_ns)


def prune(tx: Rows, cache: DirectoryCache, directory: int, now_ns: int) -> None:
    """Removes `directory` and those above it while they are implied, empty and not held: asked last, because whoever is
    told that it is not held must remove it.  One that is damaged stays, or nothing in it could be deleted."""
    while True:
        try:
            node = directory_by_id(tx, directory)
        except StoreError as error:
            log.error("a directory is damaged in the catalogue and stays: %s", error.cause)
            return
        if node is None or not node.flags & IMPLIED:
            return
        if tx.one("SELECT 1 FROM entry WHERE parent=? LIMIT 1", (directory,)) is not None or tx.held(directory):
            return
        parent, name = node.ref, node.data
        tx.delete(NODE, (directory,))
        tx.touched.pop(directory, None)
        tx.delete(ENTRY, (parent, name))
        tx.touch(parent, now_ns)
        tx.link(parent, -1)
        tx.drop_directory(parent, name)
        cache.drop(parent, name)
        tx.note(Change(parent, name[:-1], True, directory, True))
        directory = parent


def write_directories(tx: Rows) -> None:
    """The end of a batch: times and links of the directories in which names changed, one row each.  One that is damaged
    keeps its times, or nothing in it could be deleted; but another count of links would be wrong for ever.  Raises
    DAMAGED."""
    for directory in tx.touched | tx.linked:
        now_ns, links = tx.touched.get(directory, 0), tx.linked.get(directory, 0)
        row = tx.one("SELECT * FROM node WHERE id=?", (directory,))
        if row is None:
            continue
        if not links and not is_proven(NODE, row):
            log.error("directory %d is damaged in the catalogue and keeps its times", directory)
        elif links or row[8] < now_ns:
            require_node(row)
            times = (now_ns, now_ns) if row[8] < now_ns else row[7:9]
            tx.put(NODE, (*row[:4], row[4] + links, *row[5:7], *times, *row[9:-1]))


def key_of(one: type_one, parent: int, name: bytes, root: int) -> bytes:
    """The key of an entry, read upwards: for logs, page labels and listings of what the mount made."""
    segments = [name]
    while parent != root:
        row = one("SELECT ref, data FROM node WHERE id=?", (parent,))
        assert row is not None, "a directory's parents exist"
        segments.append(row[1])
        parent = row[0]
    return b"".join(reversed(segments))


def is_empty(tx: Rows, directory: int) -> bool:
    """No entry but the directory's own marker object (the empty name)."""
    return tx.one("SELECT 1 FROM entry WHERE parent=? AND name<>x'' LIMIT 1", (directory,)) is None
