"""Rows of nodes: written, counted down, freed.  What names them, an entry or a version, is not known here."""

from __future__ import annotations

import stat

import msgspec

from appliance.catalogue import content
from appliance.catalogue.content import Content
from appliance.catalogue.database import Rows
from appliance.catalogue.schema import NODE
from appliance.model import Node


def put_node(tx: Rows, node: Node) -> None:
    """Writes a node's row, and the sum of what it has: a node that was read keeps the one it came with, or damage would
    get a sum that says it is none.  So new content comes in a Node without one."""
    *columns, found, version = msgspec.structs.astuple(node)
    tx.put(NODE, (*columns, found or content.sum_of(node), version))


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
