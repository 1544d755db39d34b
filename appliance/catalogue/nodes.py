"""Rows of nodes: written, counted down, freed.  What names them, an entry or a version, is not known here."""

from __future__ import annotations

import logging
import stat
from typing import Final

import msgspec

from appliance.catalogue import content, names
from appliance.catalogue.content import Content
from appliance.catalogue.database import Rows
from appliance.catalogue.schema import NODE
from appliance.errors import Code, StoreError
from appliance.model import Node

log = logging.getLogger(__name__)

LIES: Final = b"lies"  # no `body_sum` of a map without number


def put_node(tx: Rows, node: Node) -> None:
    """Writes a node's row, and the sum of what it has: a node that was read keeps the one it came with, or damage would
    get a sum that says it is none.  So new content comes in a Node without one."""
    *columns, found, version = msgspec.structs.astuple(node)
    tx.put(NODE, (*columns, found or content.sum_of(node), version))


def node_to_drop(tx: Rows, parent: int, name: bytes, bucket: int) -> Node | None:
    """As `names.node_at`, of a file that is about to be removed or replaced, in a bucket without versions: one whose
    row is damaged can be removed, too.  What is given then names no bytes: nobody knows whose they are (`drop_node`).

    Raises DAMAGED where the entry lies, or the file has another name: that one still needs the row."""
    try:
        return names.node_at(tx.one, parent, name)
    except StoreError as error:
        if error.code is not Code.DAMAGED:
            raise
        number = names.number_at(tx.one, parent, name)
        others = "SELECT 1 FROM entry WHERE node=? AND NOT (parent=? AND name=?) LIMIT 1"
        if number is None or tx.one("SELECT 1 FROM node WHERE id=?", (number,)) is None:
            raise
        if name.endswith(b"/") or tx.one(others, (number, parent, name)) is not None:
            raise
        log.error("node %d is damaged in the catalogue and removed: %s", number, error.cause)
    return Node(number, stat.S_IFREG, 0, 0, 1, 0, 0, 0, 0, 0, 0, "", content.MAPPED, 0, b"", 0, b"", bucket, LIES)


def unlink_node(tx: Rows, node: Node, now_ns: int) -> None:
    """One name less.  The last one frees the bytes, unless the node is held open: then its row stays with links=0."""
    if stat.S_ISREG(node.mode):
        tx.charge(node.bucket, -1, -node.size)
    let_go(tx, node, now_ns)


def let_go(tx: Rows, node: Node, now_ns: int) -> None:
    """`unlink_node` without the quota's part: for a name whose charge passes to another node."""
    if node.links > 1 or tx.held(node.id):
        put_node(tx, msgspec.structs.replace(node, links=node.links - 1, ctime_ns=now_ns))
        return
    content.drop_node(tx, node)


def content_of(node: Node) -> Content:
    """Where a node's bytes are.  Raises DAMAGED: what does not match its sum must not get a new one."""
    content.require_body(node.id, node.kind, node.ref, node.size, node.dsum)
    return Content(node.kind, node.ref, content.inline_bytes(node) if node.kind == content.INLINE else b"")
