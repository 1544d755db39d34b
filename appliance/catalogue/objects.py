"""Objects by key: put, copy, delete.  Plain functions of a batch's `Rows` and a command; every check precedes the
first write."""

from __future__ import annotations

import stat

import msgspec

from appliance.catalogue import content, names
from appliance.catalogue.commands import ChangeAttributes, CopyObject, DeleteObject, PutObject
from appliance.catalogue.content import Content, Maker
from appliance.catalogue.database import Rows
from appliance.catalogue.names import DirectoryCache
from appliance.catalogue.schema import ENTRY, NODE
from appliance.errors import Code, StoreError
from appliance.model import Change, Node, Precondition, Written

FILE_MODE = stat.S_IFREG | 0o644


def check(precondition: Precondition | None, current: Node | None) -> None:
    """S3 API, "Conditional requests".  Raises PRECONDITION_FAILED, NO_SUCH_KEY (If-Match on nothing)."""
    if precondition is None:
        return
    wanted = precondition
    if current is None:
        if wanted.if_match is not None or wanted.if_size is not None or wanted.if_written_ns is not None:
            raise StoreError(Code.NO_SUCH_KEY)
        return
    if (
        (wanted.if_match is not None and wanted.if_match not in ("*", current.etag))
        or (wanted.if_none_match is not None and wanted.if_none_match in ("*", current.etag))
        or (wanted.if_size is not None and wanted.if_size != current.size)
        or (
            wanted.if_written_ns is not None
            and wanted.if_written_ns // 1_000_000_000 != current.written_ns // 1_000_000_000
        )
    ):
        raise StoreError(Code.PRECONDITION_FAILED)


def require_bucket(tx: Rows, bucket: int) -> None:
    """Raises NO_SUCH_BUCKET when it was deleted after the door looked."""
    if bucket in tx.buckets:
        return
    if tx.one("SELECT 1 FROM bucket WHERE id=?", (bucket,)) is None:
        raise StoreError(Code.NO_SUCH_BUCKET)
    tx.buckets.add(bucket)


def current_at(
    tx: Rows, cache: DirectoryCache, root: int, directories: list[bytes], name: bytes
) -> tuple[int | None, Node | None]:
    """The parent directory and the object there, as far as they exist."""
    parent = names.find_parent(tx.one, cache, root, directories)
    if parent is None:
        return None, None
    return parent, names.node_at(tx.one, parent, name)


def put_node(tx: Rows, node: Node) -> None:
    """Writes a node's row, and the sum of its inline bytes."""
    dsum = content.data_sum(node.data) if node.kind == content.INLINE else b""
    *columns, _, version = msgspec.structs.astuple(node)
    tx.put(NODE, (*columns, dsum, version))


def unlink_node(tx: Rows, node: Node, now_ns: int) -> None:
    """One name less.  The last one frees the bytes, unless the node is held open: then its row stays with links=0."""
    if stat.S_ISREG(node.mode):
        tx.charge(node.bucket, -1, -node.size)
    if node.links > 1 or tx.held(node.id):
        put_node(tx, msgspec.structs.replace(node, links=node.links - 1, ctime_ns=now_ns))
        return
    content.drop(tx, node.kind, node.ref)
    tx.delete(NODE, (node.id,))


def place(
    tx: Rows,
    cache: DirectoryCache,
    root: int,
    parent: int | None,
    directories: list[bytes],
    name: bytes,
    replaced: Node | None,
    node: Node,
) -> Written:
    """A new node takes the key's place; what was there loses this name."""
    now_ns = node.written_ns
    if parent is None:
        parent = names.make_parents(tx, cache, node.bucket, root, directories, now_ns)
    if replaced is not None:
        unlink_node(tx, replaced, now_ns)
    else:
        tx.touch(parent, now_ns)
    put_node(tx, node)
    tx.put(ENTRY, (parent, name, node.id))
    tx.charge(node.bucket, 1, node.size)
    tx.note(Change(parent, name, False, replaced.id if replaced is not None else 0, False))
    return Written(node.id, node.etag, node.size, now_ns)


def put_object(tx: Rows, cache: DirectoryCache, command: PutObject) -> Written:
    """Raises NO_SUCH_BUCKET, PRECONDITION_FAILED, NO_SUCH_KEY."""
    require_bucket(tx, command.bucket)
    directories, name = names.split(command.key)
    parent, replaced = current_at(tx, cache, command.root, directories, name)
    check(command.precondition, replaced)
    number = tx.new_id()
    made = content.add_body(tx, command.body, Maker(command.copies, number, command.label))
    node = Node(
        number,
        command.mode,
        command.uid,
        command.gid,
        1,
        command.body.size,
        command.atime_ns,
        command.mtime_ns,
        command.now_ns,
        command.now_ns,
        1,
        command.etag,
        made.kind,
        made.ref,
        made.data,
        command.flags,
        command.packed,
        command.bucket,
    )
    return place(tx, cache, command.root, parent, directories, name, replaced, node)


def copy_object(tx: Rows, cache: DirectoryCache, command: CopyObject) -> Written:
    """Shares the source's bytes.  Raises NO_SUCH_NODE when the source is gone or changed, and put_object's errors."""
    require_bucket(tx, command.bucket)
    source = names.node_by_id(tx.one, command.source)
    if source is None or source.generation != command.generation or not stat.S_ISREG(source.mode):
        raise StoreError(Code.NO_SUCH_NODE, "the source was replaced meanwhile")
    directories, name = names.split(command.key)
    parent, replaced = current_at(tx, cache, command.root, directories, name)
    check(command.precondition, replaced)
    content.share(tx, source.kind, source.ref)
    mode, uid, gid, mtime_ns, atime_ns, flags = command.posix or (
        source.mode,
        source.uid,
        source.gid,
        source.mtime_ns,
        source.atime_ns,
        source.flags,
    )
    node = Node(
        tx.new_id(),
        mode,
        uid,
        gid,
        1,
        source.size,
        atime_ns,
        mtime_ns,
        command.now_ns,
        command.now_ns,
        1,
        source.etag,
        source.kind,
        source.ref,
        content_of(source).data,
        flags,
        source.packed if command.packed is None else command.packed,
        command.bucket,
    )
    return place(tx, cache, command.root, parent, directories, name, replaced, node)


def delete_object(tx: Rows, cache: DirectoryCache, command: DeleteObject) -> bool:
    """True if something was there.  Raises PRECONDITION_FAILED, NO_SUCH_KEY (only under a precondition)."""
    directories, name = names.split(command.key)
    parent, current = current_at(tx, cache, command.root, directories, name)
    check(command.precondition, current)
    if parent is None or current is None:
        return False
    unlink_node(tx, current, command.now_ns)
    names.remove_entry(tx, cache, parent, name, command.now_ns)
    tx.note(Change(parent, name, False, current.id, True))
    return True


def change_attributes(tx: Rows, command: ChangeAttributes) -> None:
    """What is said about one version; bytes, ETag and LastModified stay.  Raises NO_SUCH_NODE, CONFLICT."""
    node = names.node_by_id(tx.one, command.node)
    if node is None or node.links == 0:
        raise StoreError(Code.NO_SUCH_NODE)
    if node.packed != command.before:
        raise StoreError(Code.CONFLICT, "the object was changed meanwhile")
    put_node(tx, msgspec.structs.replace(node, packed=command.packed, ctime_ns=command.now_ns))


def reap(tx: Rows, cache: DirectoryCache, node_id: int, now_ns: int) -> None:
    """Frees an unlinked node that nobody holds any more; an implied directory that became empty goes too."""
    node = names.node_by_id(tx.one, node_id)
    if node is None or tx.held(node_id):
        return
    if stat.S_ISDIR(node.mode):
        names.prune(tx, cache, node_id, now_ns)
    elif node.links == 0:
        content.drop(tx, node.kind, node.ref)
        tx.delete(NODE, (node_id,))


def content_of(node: Node) -> Content:
    """Where a node's bytes are.  Raises DAMAGED: inline bytes that do not match their sum must not get a new one."""
    return Content(node.kind, node.ref, content.inline_bytes(node) if node.kind == content.INLINE else b"")
