"""Objects by key: put, copy, delete.  Plain functions of a batch's `Rows` and a command; every check precedes the
first write."""

from __future__ import annotations

import stat

import msgspec

from appliance import lock, settings
from appliance.catalogue import content, history, names, versions
from appliance.catalogue.commands import ChangeAttributes, CopyObject, DeleteObject, PutObject, RenameObject
from appliance.catalogue.content import Maker
from appliance.catalogue.database import Rows
from appliance.catalogue.names import DirectoryCache
from appliance.catalogue.nodes import content_of, node_to_drop, put_node, unlink_node
from appliance.catalogue.schema import ENTRY
from appliance.catalogue.versions import type_state
from appliance.errors import Code, StoreError
from appliance.model import MARKER, Change, Deleted, Node, Precondition, Written

FILE_MODE = stat.S_IFREG | 0o644


def check(precondition: Precondition | None, current: Node | None) -> None:
    """S3 API, "Conditional requests".  Raises PRECONDITION_FAILED, NO_SUCH_KEY (If-Match on nothing).

    Size and time are conditions of deletions only, which find nothing to refuse where nothing is (S3 API,
    DeleteObject: "or if the object doesn't exist, the operation returns a 204").
    """
    if precondition is None:
        return
    wanted = precondition
    if current is None:
        if wanted.if_match is not None:
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


def seen(node: Node | None) -> Node | None:
    """The node, unless it is a symbolic link: to S3 there is nothing."""
    return node if node is not None and stat.S_ISREG(node.mode) else None


def current_at(
    tx: Rows, cache: DirectoryCache, root: int, directories: list[bytes], name: bytes, going: int = 0
) -> tuple[int | None, Node | None]:
    """The parent directory and the object there, as far as they exist.  `going`: whatever it is, it goes from this
    bucket (`node_to_drop`)."""
    parent = names.find_parent(tx.one, cache, root, directories)
    if parent is None:
        return None, None
    return parent, node_to_drop(tx, parent, name, going) if going else names.node_at(tx.one, parent, name)


def _going(state: type_state, command: PutObject | CopyObject | DeleteObject) -> int:
    """The bucket, where what is at the key goes unseen: neither versions nor conditions ask what it is."""
    return command.bucket if state is None and command.precondition is None else 0


def place(
    tx: Rows,
    cache: DirectoryCache,
    root: int,
    key: bytes,
    parent: int | None,
    directories: list[bytes],
    name: bytes,
    replaced: Node | None,
    node: Node,
    state: type_state,
) -> Written:
    """A new node takes the key's place; what was there loses this name, or becomes a noncurrent version."""
    now_ns = node.written_ns
    if parent is None:
        parent = names.make_parents(tx, cache, node.bucket, root, directories, now_ns)
    if replaced is None:
        tx.touch(parent, now_ns)
    if state is not None:
        versions.make_way(tx, state, node.bucket, key, replaced, now_ns)
    elif replaced is not None:
        unlink_node(tx, replaced, now_ns)
    put_node(tx, node)
    tx.put(ENTRY, (parent, name, node.id))
    tx.charge(node.bucket, 1, node.size)
    tx.note(Change(parent, name, False, replaced.id if replaced is not None else 0, False))
    named = node.version_id if state == settings.ENABLED else ""
    return Written(node.id, node.etag, node.size, now_ns, named)


def put_object(tx: Rows, cache: DirectoryCache, command: PutObject) -> Written:
    """Raises NO_SUCH_BUCKET, PRECONDITION_FAILED, NO_SUCH_KEY."""
    state = versions.state_of(tx, command.bucket)
    directories, name = names.split(command.key)
    parent, replaced = current_at(tx, cache, command.root, directories, name, _going(state, command))
    check(command.precondition, seen(replaced))
    number = tx.new_id()
    version, flags = versions.numbered(tx, state, command.flags)
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
        flags,
        command.packed,
        command.bucket,
        b"",
        version,
    )
    return place(tx, cache, command.root, command.key, parent, directories, name, replaced, node, state)


def copy_object(tx: Rows, cache: DirectoryCache, command: CopyObject) -> Written:
    """Shares the source's bytes.  Raises NO_SUCH_NODE when the source is gone or changed, and put_object's errors."""
    state = versions.state_of(tx, command.bucket)
    source = names.node_by_id(tx.one, command.source)
    if (
        source is None
        or source.generation != command.generation
        or not stat.S_ISREG(source.mode)
        or source.flags & MARKER
    ):
        raise StoreError(Code.NO_SUCH_NODE, "the source was replaced meanwhile")
    directories, name = names.split(command.key)
    parent, replaced = current_at(tx, cache, command.root, directories, name, _going(state, command))
    check(command.precondition, seen(replaced))
    data = content_of(source).data
    content.share(tx, source.kind, source.ref)
    mode, uid, gid, mtime_ns, atime_ns, flags = command.posix
    version, flags = versions.numbered(tx, state, flags)
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
        data,
        flags,
        source.packed if command.packed is None else command.packed,
        command.bucket,
        b"",
        version,
    )
    return place(tx, cache, command.root, command.key, parent, directories, name, replaced, node, state)


def delete_object(tx: Rows, cache: DirectoryCache, command: DeleteObject) -> Deleted:
    """The key, by a delete marker where its bucket has versions; with a version id that version for good.

    Raises NO_SUCH_BUCKET, PRECONDITION_FAILED, NO_SUCH_KEY (only under a precondition), LOCKED.
    """
    state = versions.state_of(tx, command.bucket)
    directories, name = names.split(command.key)
    going = 0 if command.version_id else _going(state, command)
    parent, found = current_at(tx, cache, command.root, directories, name, going)
    current = seen(found)
    if command.version_id:
        return _delete_version(tx, cache, command, state, parent, current)
    if current is None and command.precondition is not None and state is not None:
        hiding = versions.newest(tx.one, command.bucket, command.key)
        if hiding is not None and hiding[2] & MARKER:
            raise StoreError(Code.PRECONDITION_FAILED)  # a delete marker meets no condition
    check(command.precondition, current)
    made: Node | None = None
    if state is not None:
        versions.make_way(tx, state, command.bucket, command.key, current, command.now_ns)
        made = versions.add_marker(tx, state, command.bucket, command.key, command.packed, command.now_ns)
    if parent is not None and current is not None:
        if state is None:
            unlink_node(tx, current, command.now_ns)
        names.remove_entry(tx, cache, parent, name, command.now_ns)
        tx.note(Change(parent, name, False, current.id, True))
    there = current is not None
    return Deleted(there) if made is None else Deleted(there, made.version_id, marker=True)


def _delete_version(
    tx: Rows,
    cache: DirectoryCache,
    command: DeleteObject,
    state: type_state,
    parent: int | None,
    current: Node | None,
) -> Deleted:
    """What was the newest leaves its place to the next.  A version that is not there is success, as in S3."""
    bucket, key, wanted, now_ns = command.bucket, command.key, command.version_id, command.now_ns
    if current is not None and current.version_id == wanted:
        assert parent is not None, "what is current is somewhere"
        if command.precondition is not None and command.precondition.noncurrent:
            raise StoreError(Code.PRECONDITION_FAILED)
        check(command.precondition, current)
        if state is not None:
            lock.require_free(current.packed, command.lock_ns, bypass=command.bypass)
        unlink_node(tx, current, now_ns)
        if state is None or not versions.promote(tx, cache, command.root, bucket, key, parent, current.id, now_ns):
            name = names.split(key)[1]
            names.remove_entry(tx, cache, parent, name, now_ns)
            tx.note(Change(parent, name, False, current.id, True))
        return Deleted(True, wanted if state is not None else "")
    row = versions.row_of(tx.one, bucket, key, wanted) if state is not None else None
    if row is None:
        check(command.precondition, None)
        return Deleted(False, wanted if state is not None else "")
    node = versions.node_of(tx.one, bucket, key, wanted)
    assert node is not None, "what a version names is there"
    check(command.precondition, node)
    lock.require_free(node.packed, command.lock_ns, bypass=command.bypass)
    versions.remove_row(tx, bucket, key, row, now_ns)
    if current is None:
        versions.promote(tx, cache, command.root, bucket, key, parent, 0, now_ns)
    return Deleted(True, wanted, marker=bool(row[2] & MARKER))


def rename_object(tx: Rows, cache: DirectoryCache, command: RenameObject) -> None:
    """Another key for the same object, atomically; what was there goes.  Nothing else about the object changes.

    In a bucket with versions it is a new version of its new key, and a delete marker hides the old one, as where the
    mount renames a file.  Raises NO_SUCH_BUCKET, NO_SUCH_NODE (the source is not what it was), PRECONDITION_FAILED,
    NO_SUCH_KEY (If-Match on nothing), LOCKED (either object).
    """
    state = versions.state_of(tx, command.bucket)
    directories, name = names.split(command.key)
    parent, node = current_at(tx, cache, command.root, directories, name)
    if node is None or node.id != command.source or node.generation != command.generation:
        raise StoreError(Code.NO_SUCH_NODE, "the source was replaced meanwhile")
    assert parent is not None, "what is there is somewhere"
    above, new_name = names.split(command.new_key)
    target, replaced = current_at(tx, cache, command.root, above, new_name)
    check(command.precondition, seen(replaced))
    if replaced is not None and replaced.id == node.id:
        return  # its own key, or another link of the same file: as rename(2) has it
    for each in (node, replaced):
        history.require_free(state, each, command.lock_ns)
    if target is None:
        target = names.make_parents(tx, cache, command.bucket, command.root, above, command.now_ns)
    if state is not None:
        versions.make_way(tx, state, command.bucket, command.new_key, replaced, command.now_ns)
        node = history.moved(tx, state, command.key, node, command.now_ns, command.lock_ns)
    elif replaced is not None:
        unlink_node(tx, replaced, command.now_ns)
    put_node(tx, msgspec.structs.replace(node, ctime_ns=command.now_ns))
    tx.put(ENTRY, (target, new_name, node.id))
    tx.touch(target, command.now_ns)
    names.remove_entry(tx, cache, parent, name, command.now_ns)
    tx.note(Change(parent, name, False, node.id, True))
    tx.note(Change(target, new_name, False, replaced.id if replaced is not None else 0, False))


def change_attributes(tx: Rows, command: ChangeAttributes) -> None:
    """What is said about one version; bytes, ETag and LastModified stay.  Raises NO_SUCH_NODE, CONFLICT."""
    node = names.node_by_id(tx.one, command.node)
    if node is None or node.links == 0:
        raise StoreError(Code.NO_SUCH_NODE)
    if node.version != command.version or node.packed != command.before:  # a mounted file's versions share its node
        raise StoreError(Code.CONFLICT, "the object was changed meanwhile")
    put_node(tx, msgspec.structs.replace(node, packed=command.packed, ctime_ns=command.now_ns))


def reap(tx: Rows, cache: DirectoryCache, node_id: int, now_ns: int) -> None:
    """Frees an unlinked node that nobody holds any more; an implied directory that became empty goes too."""
    node = names.node_by_id(tx.one, node_id)
    if node is None:
        return
    if stat.S_ISDIR(node.mode):
        names.prune(tx, cache, node_id, now_ns)
    elif node.links == 0 and not tx.held(node_id):
        content.drop_node(tx, node)
