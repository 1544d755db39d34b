"""Entries and nodes that the loop read lately, and names that are not there.

A mounted directory's names are asked for several times each, and SQLite takes ten times what a dictionary does.  What
is answered here is what the catalogue would answer: a batch's images come in before its COMMIT (`begin`, by the
writer); from then on their rows are not known here, until the COMMIT is over, and then as the images have them; what is
remembered follows when the loop is told of the batch (`deliver`).  A row that was read between the two is either the
old one, and is replaced then, or the new one.

A directory that the mount made or listed lately is known whole: a name that it had not, and that nobody gave it since,
is not there.

Who wants several statements to see one state asks the catalogue, not this.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, Final

from appliance.catalogue.schema import ENTRY, NODE
from appliance.limits import KIB
from appliance.model import Node

LIMIT: Final = 16_384  # of entries, and of nodes
NAMES: Final = 4  # times as many of names in directories that are known whole: they take a quarter of a node
HEAVY: Final = 4 * KIB  # bytes of metadata and inline bytes: a node with more is not remembered
ABSENT: Final = 0  # no node's number
_DATA: Final = NODE.columns.index("data")

type_images = Mapping[tuple[Any, ...], tuple[Any, ...] | None]
"""(table, primary key...) -> the row, or None for one that goes."""


class Commit:
    """One COMMIT that the loop was not told of.  `images` stay as they are."""

    __slots__ = ("announced", "done", "images")

    def __init__(self, images: type_images, *, announced: bool) -> None:
        self.images = images
        self.announced = announced  # others will have to be told of names in it (H5)
        self.done = False  # the catalogue has them; set by the writer


class Remembered:
    """Bounded.  Loop only, but for `begin`."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._entries: dict[tuple[int, bytes], int] = {}  # (directory, row name) -> node, or ABSENT
        self._nodes: dict[int, Node] = {}
        self._whole: dict[int, dict[bytes, int]] = {}  # directory -> all its row names, as `_entries`
        self._whole_size = 0
        self._lock = threading.Lock()
        self.untold: tuple[Commit, ...] = ()  # oldest first; replaced, never changed

    # ------------------------------------------------------------------ reading
    def entry(self, parent: int, name: bytes) -> int | None:
        """The node that an entry names, or ABSENT; None: not known."""
        if self.untold:
            for commit in reversed(self.untold):
                key = (ENTRY.number, parent, name)
                if key in commit.images:
                    return _named(commit.images[key]) if commit.done else None
        names = self._whole.get(parent)
        return self._entries.get((parent, name)) if names is None else names.get(name, ABSENT)

    def node(self, number: int) -> Node | None:
        """A node; None: not known."""
        if self.untold:
            for commit in reversed(self.untold):
                key = (NODE.number, number)
                if key in commit.images:
                    row = commit.images[key]
                    return Node(*row[:-1]) if row is not None and commit.done else None
        return self._nodes.get(number)

    # ------------------------------------------------------------------ remembering
    def put(self, parent: int, name: bytes, node: Node | None) -> None:
        """What an entry was just read to name, or that there is none.  Forgets everything when full (rare, and cheaper
        than an order)."""
        if len(self._entries) >= self._limit:
            self._entries.clear()
        if node is None:
            self._entries[parent, name] = ABSENT
            return
        self._entries[parent, name] = node.id
        self.put_node(node)

    def put_node(self, node: Node) -> None:
        """A node as it was just read."""
        if len(node.packed) + len(node.data) > HEAVY:
            self._nodes.pop(node.id, None)
            return
        if len(self._nodes) >= self._limit and node.id not in self._nodes:
            self._nodes.clear()
        self._nodes[node.id] = node

    def know(self, directory: int, names: dict[bytes, int]) -> None:
        """All row names of a directory as they were just read, with their nodes; none if its number is a new one."""
        self._grow(len(names) - len(self._whole.get(directory, ())) + (directory not in self._whole))
        self._whole[directory] = names

    # ------------------------------------------------------------------ commits
    def begin(self, images: type_images, *, announced: bool = False) -> Commit:
        """By the writer: a COMMIT begins.  It says when that is over."""
        commit = Commit(images, announced=announced)
        with self._lock:
            self.untold = (*self.untold, commit)
        return commit

    def deliver(self, commits: int) -> None:
        """The loop is told of the oldest so many COMMITs."""
        with self._lock:
            told, self.untold = self.untold[:commits], self.untold[commits:]
        entries, nodes, whole = self._entries, self._nodes, self._whole
        for commit in told:
            for key, row in commit.images.items():
                if key[0] == NODE.number:
                    if key[1] in nodes:
                        if row is None:
                            del nodes[key[1]]
                        else:
                            self.put_node(Node(*row[:-1]))
                elif key[0] == ENTRY.number:
                    _, parent, name = key
                    entries.pop((parent, name), None)
                    if parent in whole:
                        if name not in whole[parent]:
                            self._grow(1)
                        if parent in whole:
                            whole[parent][name] = number = _named(row)
                            found = commit.images.get((NODE.number, number))
                            if found is not None and not found[_DATA]:  # inline bytes may be many
                                self.put_node(Node(*found[:-1]))

    def _grow(self, count: int) -> None:
        """So many more directories and names in them; of too many nothing stays."""
        self._whole_size += count
        if self._whole_size > NAMES * self._limit:
            self._whole.clear()
            self._whole_size = 0


def _named(row: tuple[Any, ...] | None) -> int:
    return ABSENT if row is None else int(row[2])
