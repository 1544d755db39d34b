"""What the mount's changes leave behind in a versioned bucket.

A mounted file keeps its node, and so its inode, while its key's versions come and go: what a write, a rename or a
removal takes away stays as a clone that shares the bytes, under the key and the version number that it had.

What object lock protects is never changed from here: unlike S3, where a locked version may be hidden or followed by a
newer one, a program that writes to, moves or removes a retained file is told so (EPERM).
"""

from __future__ import annotations

import stat
from typing import Final

import msgspec

from appliance import lock, settings
from appliance.catalogue import names, versions
from appliance.catalogue.database import Rows
from appliance.catalogue.nodes import put_node
from appliance.catalogue.proven import bucket_of, settings_of
from appliance.catalogue.schema import BUCKET
from appliance.catalogue.versions import type_state
from appliance.errors import Code, StoreError
from appliance.model import NO_ATTRIBUTES, Node, pack_attributes, unpack_attributes

RENAMED_MAX: Final = 1000  # keys below a renamed directory: each is a new version and a delete marker, in one batch


def require_free(state: type_state, node: Node | None, lock_ns: int) -> None:
    """Raises LOCKED for a file that is retained or held."""
    if state is not None and node is not None and stat.S_ISREG(node.mode):
        lock.require_free(node.packed, lock_ns)


def key_at(tx: Rows, bucket: int, parent: int, name: bytes) -> bytes:
    """The key of an entry."""
    row = bucket_of(tx.all, bucket)
    assert row is not None, "an entry's bucket exists"
    root = row[BUCKET.columns.index("root")]
    return names.key_of(tx.one, parent, name, root)


def key_of_node(tx: Rows, node: Node, place: tuple[int, bytes] | None) -> bytes:
    """The key that a file is now; `place` is where it was found last.  Raises NO_SUCH_NODE: it is an older version.

    Only a hard link from before the bucket had versions may have lost that name and kept another: then all are read.
    """
    if place is not None:
        row = tx.one("SELECT node FROM entry WHERE parent=? AND name=?", place)
        if row is not None and row[0] == node.id:
            return key_at(tx, node.bucket, *place)
    row = tx.one("SELECT parent, name FROM entry WHERE node=? LIMIT 1", (node.id,))
    if row is None:
        raise StoreError(Code.NO_SUCH_NODE)
    return key_at(tx, node.bucket, row[0], row[1])


def begin_version(tx: Rows, state: bytes, key: bytes, node: Node, now_ns: int) -> tuple[int, int]:
    """What the file was becomes a noncurrent version; (version, flags) of what it is from now on."""
    keep(tx, state, key, node, now_ns)
    return versions.numbered(tx, state, node.flags)


def is_of_other_state(state: bytes, node: Node) -> bool:
    """Whether the bucket's versions were enabled or suspended since this version began: then a write begins another."""
    return versions.is_null(node) == (state == settings.ENABLED)


def keep(tx: Rows, state: bytes, key: bytes, node: Node, now_ns: int) -> None:
    """A clone of the current version stays under its key, unless null is about to give way to null."""
    suspended = state == settings.SUSPENDED
    if not suspended or not versions.is_null(node):
        versions.add_row(tx, key, versions.clone(tx, node))
        tx.charge(node.bucket, 1, node.size)
    if suspended:
        row = versions.null_row(tx.one, node.bucket, key)
        if row is not None:
            versions.remove_row(tx, node.bucket, key, row, now_ns)


def removed(tx: Rows, state: bytes, key: bytes, node: Node, now_ns: int) -> None:
    """The file's name is about to go: a delete marker hides the key.  The entry is the caller's."""
    versions.make_way(tx, state, node.bucket, key, node, now_ns)
    versions.add_marker(tx, state, node.bucket, key, b"", now_ns)


def moved(tx: Rows, state: bytes, key: bytes, node: Node, now_ns: int, lock_ns: int) -> Node:
    """The file is about to have another key: the old one is hidden, the new one has a new version.  The node as it is
    to be written."""
    keep(tx, state, key, node, now_ns)
    versions.add_marker(tx, state, node.bucket, key, b"", now_ns)
    return _of_another_key(tx, state, node, now_ns, lock_ns)


def exchanged(tx: Rows, state: bytes, key: bytes, node: Node, now_ns: int, lock_ns: int) -> Node:
    """The same where another file comes under the old key at once."""
    keep(tx, state, key, node, now_ns)
    return _of_another_key(tx, state, node, now_ns, lock_ns)


def _of_another_key(tx: Rows, state: bytes, node: Node, now_ns: int, lock_ns: int) -> Node:
    """A new version: without a retention that is over, and with the bucket's default; of a file that is open, whose
    writer it would lock out, that begins with its last close."""
    version, flags = versions.numbered(tx, state, node.flags)
    packed, default = unlocked(node.packed), settings_of(tx.all, node.bucket).get(settings.LOCK)
    if default is not None and not tx.held(node.id):
        attributes = unpack_attributes(packed) if packed else NO_ATTRIBUTES
        packed = pack_attributes(lock.retained(attributes, lock.default_of(default), max(now_ns, lock_ns)))
    return msgspec.structs.replace(node, version=version, flags=flags, packed=packed)


def files_below(tx: Rows, directory: int, path: bytes) -> list[tuple[bytes, Node]]:
    """(path, node) of every object below a directory whose own path is `path`.  Raises CROSSES_BUCKETS for more than
    can be renamed at once: a program then copies."""
    found: list[tuple[bytes, Node]] = []
    waiting = [(directory, path)]
    while waiting:
        parent, base = waiting.pop()
        for name, number in tx.all("SELECT name, node FROM entry WHERE parent=?", (parent,)):
            if name.endswith(b"/"):
                waiting.append((number, base + name))
                continue
            node = names.node_by_id(tx.one, number)
            assert node is not None, "an entry names a node"
            if stat.S_ISREG(node.mode):
                found.append((base + name, node))
            if len(found) > RENAMED_MAX:
                raise StoreError(Code.CROSSES_BUCKETS, f"a directory of versions with more than {RENAMED_MAX} keys")
    return found


def move_below(
    tx: Rows, state: bytes, found: list[tuple[bytes, Node]], old: bytes, new: bytes, now_ns: int, lock_ns: int
) -> None:
    """Every object below a directory that moves from key `old` to key `new`: both end with "/"."""
    for path, node in found:
        hidden = versions.null_row(tx.one, node.bucket, new + path) if state == settings.SUSPENDED else None
        if hidden is not None:
            versions.remove_row(tx, node.bucket, new + path, hidden, now_ns)
        put_node(tx, moved(tx, state, old + path, node, now_ns, lock_ns))


def merged(before: bytes, said: bytes) -> bytes:
    """Attributes as the mount changed them, over those that it cannot: lock, tags, ACL, owner, encryption."""
    if not before:
        return said
    asked = unpack_attributes(said)
    return pack_attributes(msgspec.structs.replace(unpack_attributes(before), user=asked.user, xattrs=asked.xattrs))


def unlocked(packed: bytes) -> bytes:
    """Attributes as another version begins with them: a retention that is over was the older one's, and must not stand
    in the way of the bucket's default."""
    if not packed:
        return packed
    attributes = unpack_attributes(packed)
    free = lock.unlocked(attributes)
    return packed if free is attributes else pack_attributes(free)


def sealed(node: Node, mode: str, until_ns: int) -> Node:
    """With the bucket's default retention, once its writer is done; a retention of its own stays."""
    if not mode:
        return node
    attributes = unpack_attributes(node.packed)
    if attributes.retention_mode:
        return node
    kept = msgspec.structs.replace(attributes, retention_mode=mode, retain_until_ns=until_ns)
    return msgspec.structs.replace(node, packed=pack_attributes(kept))
