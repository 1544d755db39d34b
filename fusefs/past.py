"""The reserved directory `.tierce~versions` of a bucket with versions: what keys were, read-only.

It lies in the bucket's root and is not listed there.  Below it are the directories of keys, as far as they have older
versions, and for each older version a file `NAME@VERSION-ID`; delete markers have no bytes and are not shown.  What a
key is now is where it always is.

No key is hidden by it: a name that begins with `.tierce~` is some key's alias or nobody's (`tree`), and this one is
nobody's.  Inside, a directory whose own name ends like a version's is shown with `.tierce~d~` in front, which is no
alias either; so a name means a version or a directory, never both.

Who may not enter a directory sees nothing of its past either: each has the owner, group and permissions of the one that
it is the past of.  Of one that is gone nobody knows them, and only the owner of what it was in may enter.

Directories here have no node.  Their inode numbers come from the same source as nodes', so they are nobody else's, and
last as long as the kernel remembers them.
"""

from __future__ import annotations

import re
import stat
from typing import TYPE_CHECKING, Final, cast

import msgspec
import pyfuse3

from appliance.limits import NAME_MAX
from appliance.model import Bucket, Entry, Node
from fusefs import attributes, tree
from fusefs.dirents import Page
from fusefs.inodes import PAST, Inodes
from fusefs.ownership import Ownership

if TYPE_CHECKING:
    from appliance.store import ObjectStore

NAME: Final = tree.PREFIX + b"versions"
_DIRECTORY: Final = tree.PREFIX + b"d~"
_VERSION: Final = re.compile(rb"(.*)@([0-9a-f]{16}|null)", re.DOTALL)
_ENTERED: Final = 0o555  # what a directory's permissions mean here, where nothing is written
_GONE: Final = 0o500
STEP: Final = 256  # names asked of the store at once
TIMEOUT: Final = 1.0  # seconds: S3 makes versions without a word to who looks here


class Folder:
    """A directory of the past: the keys of `bucket` that begin with `prefix`."""

    __slots__ = ("bucket", "inode", "prefix")

    def __init__(self, bucket: Bucket, prefix: bytes, inode: int) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.inode = inode


class Past:
    """The folders that the kernel knows."""

    def __init__(self, store: ObjectStore, inodes: Inodes, ownership: Ownership) -> None:
        self.root = (0, 0)  # the user and group to whom root's files are shown to belong
        self._ownership = ownership
        self._store = store
        self._inodes = inodes
        self._folders: dict[int, Folder] = {}
        self._numbers: dict[tuple[int, bytes], int] = {}

    def __contains__(self, inode: int) -> bool:
        return inode in self._folders

    def entrance(self, bucket: Bucket) -> Entry:
        """`.tierce~versions` itself."""
        return Entry(NAME, True, self._node(self._folder(bucket, b"")))

    def node(self, inode: int) -> Node:
        """A folder as a directory."""
        return self._node(self._folders[inode])

    async def settled(self, inode: int) -> None:
        """What the mount has closed is in the past or present before somebody looks here (H2)."""
        await self._store.settled(self._folders[inode].bucket)

    def find(self, parent: int, name: bytes) -> Entry | None:
        """What a name in a folder means."""
        folder = self._folders[parent]
        match = None if name.startswith(_DIRECTORY) else _VERSION.fullmatch(name)
        if match is not None:
            target = tree.from_mount(match[1])
            if not isinstance(target, tree.Name) or target.shadowed:
                return None
            node = self._store.older_version(folder.bucket, folder.prefix + target.name, match[2].decode())
            return None if node is None else Entry(name, False, read_only(node))
        shown = name.removeprefix(_DIRECTORY)
        target = tree.from_mount(shown)
        if not isinstance(target, tree.Name) or target.shadowed or _directory_name(target.name) != name:
            return None
        prefix = folder.prefix + target.name + b"/"
        if not self._store.older_versions(folder.bucket, prefix, b"", "", 1):
            return None
        return Entry(name, True, self._node(self._folder(folder.bucket, prefix)))

    def forget(self, inode: int) -> None:
        """The kernel knows it no more."""
        folder = self._folders.pop(inode, None)
        if folder is not None:
            del self._numbers[folder.bucket.id, folder.prefix]

    def list(self, inode: int, given: list[tuple[bytes, str]], start: int, page: Page) -> None:
        """One reply of readdir.  `given` has for each name given so far the (key, version id) after which the next is
        found; of a directory the key is its prefix and the id empty."""
        folder = self._folders[inode]
        del given[start:]
        while True:
            key, version_id = given[-1] if given else (b"", "")
            found = self._store.older_versions(folder.bucket, folder.prefix, key, version_id, STEP)
            for key, node in found:
                segment = key[len(folder.prefix) :]
                if node is None:
                    name = _directory_name(segment[:-1])
                    node = self._node(self._folder(folder.bucket, key))
                    place = (key, "")
                else:
                    name = tree.to_mount(segment) + b"@" + node.version_id.encode()
                    place = (key, node.version_id)
                    node = read_only(node)
                given.append(place)
                if len(name) > NAME_MAX:
                    continue  # has no name here
                if not page.add(name, self._shown(node), len(given), TIMEOUT):
                    given.pop()
                    return
                self.known(node, folder.bucket.id)
            if len(found) < STEP:
                return

    def known(self, node: Node, bucket: int) -> None:
        """The kernel counts a lookup of something of the past."""
        self._inodes.looked_up(node.id, bucket)
        if not stat.S_ISDIR(node.mode):
            self._inodes.placed(node.id, PAST)

    def _folder(self, bucket: Bucket, prefix: bytes) -> Folder:
        inode = self._numbers.get((bucket.id, prefix))
        if inode is None:
            inode = self._numbers[bucket.id, prefix] = self._store.new_node_id()
            self._folders[inode] = Folder(bucket, prefix, inode)
        return self._folders[inode]

    def told(self, node: Node) -> pyfuse3.EntryAttributes:
        """What the kernel hears of a node here, for a moment only."""
        return attributes.answer(self._shown(node), TIMEOUT)

    def _shown(self, node: Node) -> attributes.type_shown:
        inode, mode, uid, gid, *rest = attributes.of_node(self._store, node, self._ownership)
        return cast("attributes.type_shown", (inode, mode, uid or self.root[0], gid or self.root[1], *rest))

    def _node(self, folder: Folder) -> Node:
        now = folder.bucket.created_ns
        mode, uid, gid = self._permissions(folder)
        return Node(folder.inode, mode, uid, gid, 1, 0, now, now, now, now, 0, "", 0, 0, b"", 0, b"", folder.bucket.id)

    def _permissions(self, folder: Folder) -> tuple[int, int, int]:
        """(mode, owner, group) of the directory that this is the past of."""
        present, kept = self._store.node(folder.bucket.root), _ENTERED
        for name in folder.prefix.split(b"/")[:-1]:
            entry = self._store.entry(present.id, name, True)
            if entry is None:
                kept = _GONE
                break
            present = entry.node
        mode, uid, gid = self._ownership.of(present)
        return stat.S_IFDIR | (mode & kept), uid, gid


def read_only(node: Node) -> Node:
    """As it is shown: nobody may write it."""
    return msgspec.structs.replace(node, mode=node.mode & ~0o222)


def _directory_name(segment: bytes) -> bytes:
    shown = tree.to_mount(segment)
    return _DIRECTORY + shown if _VERSION.fullmatch(shown) else shown
