"""Versions of a key: what stays when a key is written or deleted in a versioned bucket.

The entry tree holds only what a key is now.  The version table holds the rest: each older version and each delete
marker, a delete marker also while it is the newest.  So of the versions of one key the newest is the entry's node, or a
delete marker in the table; `node.version` orders them.  At most one of them is the *null version*: written before the
bucket had versions (0) or while they were suspended (flag NULL_VERSION); suspended writes replace it.

A version's row is a name of its node like an entry: it counts as a link and is charged to the quota.  What becomes
noncurrent keeps its node and costs one row; only a node that has other names or is held open by the mount, and so could
still be written, leaves a clone that shares its bytes.

Source: "How S3 Versioning works" and "Working with objects in a versioning-suspended bucket", Amazon S3 User Guide.
"""

from __future__ import annotations

import stat
from typing import Any, Final

import msgspec

from appliance import settings
from appliance.catalogue import content, names
from appliance.catalogue.database import Rows
from appliance.catalogue.names import DirectoryCache
from appliance.catalogue.nodes import let_go, put_node, unlink_node
from appliance.catalogue.proven import bucket_of, damaged, settings_of
from appliance.catalogue.schema import ENTRY, NODE, VERSION_TABLE, version_sum
from appliance.errors import Code, StoreError
from appliance.model import MARKER, NULL_VERSION, TIMED, UNOWNED, Change, Node, version_number

type_state = bytes | None

_ROW: Final = "SELECT version, node, flags, sum FROM version WHERE bucket=? AND key=?"


def state_of(tx: Rows, bucket: int) -> type_state:
    """settings.ENABLED, settings.SUSPENDED, or None for a bucket that never had versions.  Raises NO_SUCH_BUCKET when
    it was deleted after the door looked, DAMAGED."""
    try:
        return tx.buckets[bucket]
    except KeyError:
        row = bucket_of(tx.all, bucket)
    if row is None:
        raise StoreError(Code.NO_SUCH_BUCKET)
    state: type_state = settings_of(tx.all, bucket).get(settings.VERSIONING)
    tx.buckets[bucket] = state
    return state


def numbered(tx: Rows, state: type_state, flags: int) -> tuple[int, int]:
    """(version, flags) of what is written now."""
    flags &= TIMED | UNOWNED
    if state is None:
        return 0, flags
    return tx.new_id(), flags | NULL_VERSION if state == settings.SUSPENDED else flags


def is_null(node: Node) -> bool:
    """Whether the node's version id is "null"."""
    return not node.version or bool(node.flags & NULL_VERSION)


# ---------------------------------------------------------------------- reading


def _proven(bucket: int, key: bytes, row: Any) -> Any:
    """A row of `_ROW` without its sum, which says the same.  Raises DAMAGED."""
    if row is None:
        return None
    version, node, flags, total = row
    if total and total != version_sum(bucket, key, version, node, flags):
        raise _damaged(key, row)
    return version, node, flags


def newest(one: names.type_one, bucket: int, key: bytes) -> Any:
    """(version, node, flags) of the newest row; None without one.  Raises DAMAGED."""
    return _proven(bucket, key, one(_ROW + " ORDER BY version DESC LIMIT 1", (bucket, key)))


def null_row(one: names.type_one, bucket: int, key: bytes) -> Any:
    """(version, node, flags) of the null version's row; None without one.  Raises DAMAGED."""
    return _proven(bucket, key, one(_ROW + f" AND flags & {NULL_VERSION}", (bucket, key)))


def row_of(one: names.type_one, bucket: int, key: bytes, version_id: str) -> Any:
    """(version, node, flags) of the row with this id; None without one.  Raises DAMAGED."""
    number = version_number(version_id)
    if number == 0:
        return null_row(one, bucket, key)
    if number is None:
        return None
    row = _proven(bucket, key, one(_ROW + " AND version=?", (bucket, key, number)))
    return None if row is None or row[2] & NULL_VERSION else row


def node_of(one: names.type_one, bucket: int, key: bytes, version_id: str) -> Node | None:
    """The noncurrent version or delete marker with this id.  Raises DAMAGED."""
    while True:
        row = row_of(one, bucket, key, version_id)
        node = names.node_by_id(one, row[1]) if row is not None else None
        if node is None or _is_named(node, bucket, row):
            return node
        if row_of(one, bucket, key, version_id) == row:  # else a commit came between the two
            raise _damaged(key, row)


def _is_named(node: Node, bucket: int, row: Any) -> bool:
    """Whether the node is the one that the row was written for: no two nodes have one version, but for 0."""
    return bool(node.version == row[0] and node.bucket == bucket)


def _damaged(key: bytes, row: Any) -> StoreError:
    return damaged(f"version {row[0]} of {key!r}")


# ---------------------------------------------------------------------- writing


def make_way(tx: Rows, state: bytes, bucket: int, key: bytes, current: Node | None, now_ns: int) -> None:
    """Before a new version or delete marker takes the key: what is there becomes noncurrent, but null gives way to
    null.  The entry is the caller's."""
    suspended = state == settings.SUSPENDED
    if current is None:
        pass
    elif not stat.S_ISREG(current.mode):
        unlink_node(tx, current, now_ns)  # a symbolic link is no version
    elif suspended and is_null(current):
        unlink_node(tx, current, now_ns)
        return
    else:
        retire(tx, key, current, now_ns)
    if suspended:
        row = null_row(tx.one, bucket, key)
        if row is not None:
            remove_row(tx, bucket, key, row, now_ns)


def retire(tx: Rows, key: bytes, node: Node, now_ns: int) -> None:
    """The current version becomes a noncurrent one.  The entry is the caller's."""
    kept = node
    if node.links > 1 or tx.held(node.id):
        kept = clone(tx, node)
        let_go(tx, node, now_ns)
    add_row(tx, key, kept)


def clone(tx: Rows, node: Node) -> Node:
    """The same version under another node that shares its bytes.  Inline bytes keep their sum: damage stays damage."""
    content.share(tx, node.kind, node.ref)
    made = msgspec.structs.replace(node, id=tx.new_id(), links=1)
    tx.put(NODE, msgspec.structs.astuple(made))
    return made


def add_row(tx: Rows, key: bytes, node: Node) -> None:
    """Names the node in the version table.  A version from before the bucket had versions is a null version."""
    flags = node.flags & (NULL_VERSION | MARKER) | (0 if node.version else NULL_VERSION)
    tx.put(VERSION_TABLE, (node.bucket, key, node.version, node.id, flags))


def add_marker(tx: Rows, state: bytes, bucket: int, key: bytes, packed: bytes, now_ns: int) -> Node:
    """A delete marker, the newest of its key from now on."""
    version, flags = numbered(tx, state, 0)
    node = Node(
        tx.new_id(),
        stat.S_IFREG,
        0,
        0,
        1,
        0,
        now_ns,
        now_ns,
        now_ns,
        now_ns,
        1,
        "",
        content.EMPTY,
        0,
        b"",
        flags | MARKER,
        packed,
        bucket,
        b"",
        version,
    )
    put_node(tx, node)
    add_row(tx, key, node)
    tx.charge(bucket, 1, 0, always=True)
    return node


def remove_row(tx: Rows, bucket: int, key: bytes, row: Any, now_ns: int) -> None:
    """A noncurrent version or delete marker is gone for good.  Raises DAMAGED."""
    node = names.node_by_id(tx.one, row[1])
    if node is None or not _is_named(node, bucket, row):
        raise _damaged(key, row)
    tx.delete(VERSION_TABLE, (bucket, key, row[0]))
    unlink_node(tx, node, now_ns)


def promote(
    tx: Rows, cache: DirectoryCache, root: int, bucket: int, key: bytes, parent: int | None, gone: int, now_ns: int
) -> bool:
    """After the newest version went: the next one becomes what the key is, unless it is a delete marker.  True when the
    key has an entry again.

    `parent` is the key's directory, None when there is none; `gone` the node that was current, 0 for a delete marker.
    Raises DAMAGED.
    """
    row = newest(tx.one, bucket, key)
    if row is None or row[2] & MARKER:
        return False
    node = names.node_by_id(tx.one, row[1])
    if node is None or not _is_named(node, bucket, row):
        raise _damaged(key, row)
    directories, name = names.split(key)
    if parent is None:
        parent = names.make_parents(tx, cache, bucket, root, directories, now_ns)
    if not gone:
        link = names.node_at(tx.one, parent, name)
        if link is not None:  # a symlink that the mount made meanwhile, which S3 cannot see
            gone = link.id
            unlink_node(tx, link, now_ns)
    tx.delete(VERSION_TABLE, (bucket, key, row[0]))
    tx.put(ENTRY, (parent, name, row[1]))
    tx.touch(parent, now_ns)
    tx.note(Change(parent, name, False, gone, False))
    return True
