"""Files by directory and name: what the mount does to the catalogue.  Plain functions of a batch's `Rows` and a
command.

A directory's row name ends with "/", so a file `a` and a directory `a` of one parent are two rows.  POSIX: "rename",
"unlink", "mkdir", "rmdir", "link" in IEEE Std 1003.1.
"""

from __future__ import annotations

import stat
from collections.abc import Sequence

import msgspec

from appliance import settings
from appliance.catalogue import content, history, names, versions
from appliance.catalogue.commands import (
    MakeDirectory,
    MakeLink,
    MakeSpecial,
    RemoveDirectory,
    Rename,
    SetAttributes,
    SetTimes,
    Unlink,
    WriteFile,
)
from appliance.catalogue.content import EMPTY, MAPPED, NOTHING, Flat, Maker
from appliance.catalogue.database import Rows
from appliance.catalogue.names import DirectoryCache
from appliance.catalogue.nodes import content_of, node_to_drop, put_node, unlink_node
from appliance.catalogue.schema import ENTRY, NODE
from appliance.catalogue.versions import type_state
from appliance.errors import Code, StoreError
from appliance.model import (
    AES256,
    CUSTOMER,
    IMPLIED,
    TIMED,
    UNOWNED,
    Change,
    Entry,
    NewChunk,
    Node,
    Written,
    pack_attributes,
    unpack_attributes,
)


def _directory(tx: Rows, node_id: int) -> Node:
    node = names.directory_by_id(tx, node_id)
    if node is None:
        raise StoreError(Code.NO_SUCH_NODE, "the directory is gone")
    if not stat.S_ISDIR(node.mode):
        raise StoreError(Code.NOT_A_DIRECTORY)
    return node


def _exists(tx: Rows, parent: int, row_name: bytes) -> bool:
    return tx.one("SELECT 1 FROM entry WHERE parent=? AND name=?", (parent, row_name)) is not None


def _require_free(tx: Rows, parent: int, name: bytes) -> None:
    if _exists(tx, parent, name) or _exists(tx, parent, name + b"/"):
        raise StoreError(Code.EXISTS)


def _require_meant(until: int, *nodes: Node | None) -> None:
    """A change that is tried again takes nothing that came to its names since.  Raises NO_SUCH_NODE."""
    if until and any(node is not None and node.id >= until for node in nodes):
        raise StoreError(Code.NO_SUCH_NODE, "the name was given to another file meanwhile")


def make_directory(tx: Rows, cache: DirectoryCache, command: MakeDirectory) -> Entry:
    """Raises EXISTS, NO_SUCH_NODE."""
    parent = _directory(tx, command.parent)
    _require_free(tx, command.parent, command.name)
    number = tx.note_id(command.node) if command.node else tx.new_id()
    row_name = command.name + b"/"
    mode = stat.S_IFDIR | stat.S_IMODE(command.mode)
    names.add_directory(
        tx,
        parent.bucket,
        parent.id,
        row_name,
        number,
        mode,
        command.uid,
        command.gid,
        command.now_ns,
        0,
        command.packed,
    )
    cache.add(parent.id, row_name, number)
    made = names.node_by_id(tx.one, number)
    assert made is not None, "it was just made"
    return Entry(command.name, True, made)


def remove_directory(tx: Rows, cache: DirectoryCache, command: RemoveDirectory) -> None:
    """Raises NO_SUCH_NODE, NOT_EMPTY, LOCKED.  Its marker object (the empty name) goes with it."""
    row_name = command.name + b"/"
    node = names.node_at(tx.one, command.parent, row_name)
    if node is None:
        raise StoreError(Code.NO_SUCH_NODE)
    if not names.is_empty(tx, node.id):
        raise StoreError(Code.NOT_EMPTY)
    marker = names.node_at(tx.one, node.id, b"")
    if marker is not None:
        state = versions.state_of(tx, node.bucket)
        history.require_free(state, marker, command.lock_ns)
        if state is None:
            unlink_node(tx, marker, command.now_ns)
        else:
            history.removed(tx, state, history.key_at(tx, node.bucket, node.id, b""), marker, command.now_ns)
        tx.delete(ENTRY, (node.id, b""))
    tx.delete(NODE, (node.id,))
    tx.touched.pop(node.id, None)
    tx.drop_directory(command.parent, row_name)
    cache.drop(command.parent, row_name)
    names.remove_entry(tx, cache, command.parent, row_name, command.now_ns)
    tx.note(Change(command.parent, command.name, True, node.id, True))


def make_special(tx: Rows, command: MakeSpecial) -> Entry:
    """Stored, never followed or opened by us, and no object.  Raises EXISTS, NO_SUCH_NODE."""
    assert not stat.S_ISREG(command.mode)
    assert not stat.S_ISDIR(command.mode)
    parent = _directory(tx, command.parent)
    _require_free(tx, command.parent, command.name)
    number = tx.note_id(command.node) if command.node else tx.new_id()
    now = command.now_ns
    size = len(command.target)
    node = Node(
        number,
        command.mode,
        command.uid,
        command.gid,
        1,
        size,
        now,
        now,
        now,
        now,
        1,
        "",
        EMPTY,
        command.rdev,
        command.target,
        0,
        command.packed,
        parent.bucket,
    )
    put_node(tx, node)
    tx.put(ENTRY, (parent.id, command.name, number))
    tx.touch(parent.id, now)
    tx.note(Change(parent.id, command.name, False, 0, False))
    return Entry(command.name, False, node)


def make_link(tx: Rows, command: MakeLink) -> Entry:
    """Raises EXISTS, CROSSES_BUCKETS, NO_SUCH_NODE, INVALID_ARGUMENT (a directory), NOT_SUPPORTED (versions)."""
    parent = _directory(tx, command.parent)
    node = names.node_by_id(tx.one, command.node)
    if node is None or node.links == 0:
        raise StoreError(Code.NO_SUCH_NODE)
    if stat.S_ISDIR(node.mode):
        raise StoreError(Code.INVALID_ARGUMENT, "a directory has one name")
    if node.bucket != parent.bucket:
        raise StoreError(Code.CROSSES_BUCKETS)
    if stat.S_ISREG(node.mode) and versions.state_of(tx, node.bucket) is not None:
        raise StoreError(Code.NOT_SUPPORTED, "keys of a bucket with versions cannot be one file")
    _require_free(tx, command.parent, command.name)
    node = msgspec.structs.replace(node, links=node.links + 1, ctime_ns=command.now_ns)
    put_node(tx, node)
    tx.put(ENTRY, (parent.id, command.name, node.id))
    tx.touch(parent.id, command.now_ns)
    if stat.S_ISREG(node.mode):
        tx.charge(node.bucket, 1, node.size)
    tx.note(Change(parent.id, command.name, False, 0, False))
    return Entry(command.name, False, node)


def unlink(tx: Rows, cache: DirectoryCache, command: Unlink) -> None:
    """Raises NO_SUCH_NODE, LOCKED."""
    bucket = _directory(tx, command.parent).bucket
    state = versions.state_of(tx, bucket)
    if state is None and not command.until:
        node = node_to_drop(tx, command.parent, command.name, bucket)
    else:
        node = names.node_at(tx.one, command.parent, command.name)
    if node is None:
        raise StoreError(Code.NO_SUCH_NODE)
    _require_meant(command.until, node)
    if not stat.S_ISREG(node.mode):
        state = None
    history.require_free(state, node, command.lock_ns)
    if state is None:
        unlink_node(tx, node, command.now_ns)
    else:
        history.removed(tx, state, history.key_at(tx, node.bucket, command.parent, command.name), node, command.now_ns)
    names.remove_entry(tx, cache, command.parent, command.name, command.now_ns)
    tx.note(Change(command.parent, command.name, False, node.id, True))


def rename(tx: Rows, cache: DirectoryCache, command: Rename) -> None:
    """Atomic.  Raises NO_SUCH_NODE, EXISTS, NOT_EMPTY, IS_A_DIRECTORY, NOT_A_DIRECTORY, CROSSES_BUCKETS (also a
    directory with too many versions), INVALID_ARGUMENT (a directory into itself, or exchanged among versions), LOCKED.

    In a bucket with versions every object that moves is a new version of its new key, and a delete marker hides the
    old one."""
    suffix = b"/" if command.directory else b""
    old, new = command.name + suffix, command.new_name + suffix
    node = names.node_at(tx.one, command.parent, old)
    if node is None:
        raise StoreError(Code.NO_SUCH_NODE)
    target_parent = _directory(tx, command.new_parent)
    if target_parent.bucket != node.bucket:
        raise StoreError(Code.CROSSES_BUCKETS)
    if command.directory:
        _require_outside(tx, node.id, command.new_parent)
    state = versions.state_of(tx, node.bucket)
    if command.exchange:
        _exchange(tx, cache, command, node, state)
        return
    target = names.node_at(tx.one, command.new_parent, new)
    _require_meant(command.until, node, target)
    if target is not None and target.id == node.id:
        return  # POSIX: two names of one file: nothing happens
    other = command.new_name + (b"" if command.directory else b"/")
    if _exists(tx, command.new_parent, other):
        if not command.replace:
            raise StoreError(Code.EXISTS)
        raise StoreError(Code.NOT_A_DIRECTORY if command.directory else Code.IS_A_DIRECTORY)
    if target is not None:
        if not command.replace:
            raise StoreError(Code.EXISTS)
        if command.directory and tx.one("SELECT 1 FROM entry WHERE parent=? LIMIT 1", (target.id,)) is not None:
            raise StoreError(Code.NOT_EMPTY)
    if state is not None:
        node = _leave(tx, state, command, node, target, old, new)
    elif target is not None and not command.directory:
        unlink_node(tx, target, command.now_ns)
    if target is not None and command.directory:
        tx.delete(NODE, (target.id,))
        tx.touched.pop(target.id, None)
    _move(tx, cache, node, command.new_parent, new, command.now_ns)
    tx.touch(command.new_parent, command.now_ns)
    if command.directory:
        tx.drop_directory(command.parent, old)
        cache.drop(command.parent, old)
        if target is None:
            tx.link(command.new_parent, 1)
    if command.parent == command.new_parent:
        tx.delete(ENTRY, (command.parent, old))
        if command.directory:
            tx.link(command.parent, -1)
    else:
        names.remove_entry(tx, cache, command.parent, old, command.now_ns)
    tx.note(Change(command.parent, command.name, command.directory, node.id, True))
    tx.note(
        Change(command.new_parent, command.new_name, command.directory, target.id if target is not None else 0, False)
    )


def _leave(tx: Rows, state: bytes, command: Rename, node: Node, target: Node | None, old: bytes, new: bytes) -> Node:
    """What a rename leaves behind in a bucket with versions.  The node as it is to be moved.  Raises LOCKED,
    CROSSES_BUCKETS."""
    now_ns = command.now_ns
    if stat.S_ISDIR(node.mode):
        found = history.files_below(tx, node.id, b"")
        for _, below in found:
            history.require_free(state, below, command.lock_ns)
        if found:
            old_key = history.key_at(tx, node.bucket, command.parent, old)
            new_key = history.key_at(tx, node.bucket, command.new_parent, new)
            history.move_below(tx, state, found, old_key, new_key, now_ns, command.lock_ns)
        return node
    for each in (node, target):
        history.require_free(state, each, command.lock_ns)
    new_key = history.key_at(tx, node.bucket, command.new_parent, new)
    if not stat.S_ISREG(node.mode):  # to S3 nothing comes, but a file may go
        if target is not None and stat.S_ISREG(target.mode):
            history.removed(tx, state, new_key, target, now_ns)
        elif target is not None:
            unlink_node(tx, target, now_ns)
        return node
    versions.make_way(tx, state, node.bucket, new_key, target, now_ns)
    old_key = history.key_at(tx, node.bucket, command.parent, old)
    return history.moved(tx, state, old_key, node, now_ns, command.lock_ns)


def _require_outside(tx: Rows, directory: int, candidate: int) -> None:
    while candidate:
        if candidate == directory:
            raise StoreError(Code.INVALID_ARGUMENT, "a directory cannot move into itself")
        row = tx.one("SELECT ref FROM node WHERE id=?", (candidate,))
        candidate = row[0] if row is not None else 0


def _move(tx: Rows, cache: DirectoryCache, node: Node, parent: int, row_name: bytes, now_ns: int) -> None:
    """The node's row under its new name; the old entry is the caller's."""
    tx.put(ENTRY, (parent, row_name, node.id))
    if stat.S_ISDIR(node.mode):
        put_node(tx, msgspec.structs.replace(node, ref=parent, data=row_name, ctime_ns=now_ns))
        tx.drop_directory(parent, row_name)
        cache.drop(parent, row_name)
    else:
        put_node(tx, msgspec.structs.replace(node, ctime_ns=now_ns))


def _exchange(tx: Rows, cache: DirectoryCache, command: Rename, node: Node, state: type_state) -> None:
    """RENAME_EXCHANGE (rename(2)): both must exist; a file and a directory may change places.

    Where a file and a directory share the target's name, the one of the source's kind is meant; where they share the
    source's name, a target of the other kind would land on the second of them: EXISTS.
    """
    own, foreign = (b"/", b"") if command.directory else (b"", b"/")
    old, new = command.name + own, command.new_name + own
    other = names.node_at(tx.one, command.new_parent, new)
    if other is None:
        new = command.new_name + foreign
        other = names.node_at(tx.one, command.new_parent, new)
        if other is None:
            raise StoreError(Code.NO_SUCH_NODE)
        if _exists(tx, command.parent, command.name + foreign):
            raise StoreError(Code.EXISTS)
    if other.id == node.id:
        return
    if stat.S_ISDIR(other.mode):
        _require_outside(tx, other.id, command.parent)
    if state is not None:
        if stat.S_ISDIR(node.mode) or stat.S_ISDIR(other.mode):
            raise StoreError(Code.INVALID_ARGUMENT, "directories of versions do not change places")
        for each in (node, other):
            history.require_free(state, each, command.lock_ns)
        source, target = node, other
        node = _exchanged(tx, state, source, target, command.parent, old, command)
        other = _exchanged(tx, state, target, source, command.new_parent, new, command)
    tx.delete(ENTRY, (command.parent, old))
    tx.delete(ENTRY, (command.new_parent, new))
    for name, is_directory in ((old, command.directory), (new, stat.S_ISDIR(other.mode))):
        if is_directory:
            at = command.parent if name is old else command.new_parent
            tx.drop_directory(at, name)
            cache.drop(at, name)
    moved = command.new_name + own
    back = command.name + (b"/" if stat.S_ISDIR(other.mode) else b"")
    _move(tx, cache, node, command.new_parent, moved, command.now_ns)
    _move(tx, cache, other, command.parent, back, command.now_ns)
    tx.touch(command.parent, command.now_ns)
    tx.touch(command.new_parent, command.now_ns)
    moved_directories = command.directory - stat.S_ISDIR(other.mode)
    if moved_directories and command.parent != command.new_parent:
        tx.link(command.new_parent, moved_directories)
        tx.link(command.parent, -moved_directories)
    tx.note(Change(command.parent, command.name, command.directory, node.id, False))
    tx.note(Change(command.new_parent, command.new_name, stat.S_ISDIR(other.mode), other.id, False))


def _exchanged(tx: Rows, state: bytes, node: Node, other: Node, parent: int, name: bytes, command: Rename) -> Node:
    """One of two files that change places: what its key was stays, and it begins a version of the other key.  Where a
    symbolic link comes a delete marker hides the key; where it goes no second null version remains."""
    key, now_ns = history.key_at(tx, node.bucket, parent, name), command.now_ns
    if not stat.S_ISREG(node.mode):
        if stat.S_ISREG(other.mode):
            versions.make_way(tx, state, node.bucket, key, None, now_ns)
        return node
    if not stat.S_ISREG(other.mode):
        return history.moved(tx, state, key, node, now_ns, command.lock_ns)
    return history.exchanged(tx, state, key, node, now_ns, command.lock_ns)


def set_attributes(tx: Rows, command: SetAttributes) -> Node:
    """Raises NO_SUCH_NODE, LOCKED (S3's metadata of a locked object).  An implied directory becomes explicit."""
    node = names.node_by_id(tx.one, command.node)
    if node is None:
        raise StoreError(Code.NO_SUCH_NODE)
    if command.packed is not None:
        history.require_free(versions.state_of(tx, node.bucket), node, command.lock_ns)
    touched = tx.touched.pop(node.id, 0)  # this change is the later one
    flags = node.flags & ~IMPLIED
    if (command.mode, command.uid, command.gid) != (None, None, None):
        flags &= ~UNOWNED
    if command.mtime_ns is not None and stat.S_ISREG(node.mode):
        flags |= TIMED
    node = msgspec.structs.replace(
        node,
        mode=node.mode if command.mode is None else stat.S_IFMT(node.mode) | stat.S_IMODE(command.mode),
        uid=node.uid if command.uid is None else command.uid,
        gid=node.gid if command.gid is None else command.gid,
        atime_ns=node.atime_ns if command.atime_ns is None else command.atime_ns,
        mtime_ns=max(node.mtime_ns, touched) if command.mtime_ns is None else command.mtime_ns,
        ctime_ns=command.now_ns,
        written_ns=node.written_ns if command.packed is None else command.now_ns,
        packed=node.packed if command.packed is None else history.merged(node.packed, command.packed),
        flags=flags,
    )
    put_node(tx, node)
    return node


def set_times(tx: Rows, command: SetTimes) -> None:
    """Access times, and times of directories.  What is gone by now has none."""
    for number, read_ns, changed_ns in command.times:
        node = names.node_by_id(tx.one, number)
        if node is None:
            continue
        if changed_ns > max(node.ctime_ns, tx.touched.get(number, 0)):
            node = msgspec.structs.replace(node, mtime_ns=changed_ns, ctime_ns=changed_ns)
        put_node(tx, msgspec.structs.replace(node, atime_ns=read_ns or node.atime_ns))


def write_file(
    tx: Rows, cache: DirectoryCache, command: WriteFile, shared: Sequence[Flat] = (), *, encrypted: bool = False
) -> Written:
    """What a mounted file's writer has, as one change.  Raises NO_SUCH_NODE, NOT_A_DIRECTORY, NO_SUCH_BUCKET, LOCKED.

    `shared` are pieces of other files, all `encrypted` or not.

    In a bucket with versions the first change since the file was opened begins a new one; the file keeps its node."""
    state = versions.state_of(tx, command.bucket)
    before: Node | None = None
    maker = Maker(command.copies, command.node, command.label)
    replaced: Node | None = None
    if command.create is not None:
        parent_id, name = command.create
        parent = _directory(tx, parent_id)
        if parent.bucket != command.bucket:
            raise StoreError(Code.NO_SUCH_BUCKET)
        replaced = names.node_at(tx.one, parent_id, name)
        _require_meant(command.until, replaced)
        tx.note_id(command.node)
        old, old_size, links, generation = NOTHING, 0, 1, 0
        flags, packed, etag, written_ns = TIMED, b"", "", 0
        version = 0
    else:
        row = tx.row(NODE, command.node)
        if row is None:
            raise StoreError(Code.NO_SUCH_NODE)
        before = node = names.node_of(row)
        version = node.version
        old, old_size, links, generation = content_of(node), node.size, node.links, node.generation
        flags, packed, etag, written_ns = (node.flags | TIMED) & ~UNOWNED, node.packed, node.etag, node.written_ns
    changed = (
        bool(command.slices or command.punched)
        or command.size != old_size
        or command.cut is not None
        or command.create is not None
    )
    if state is not None:
        if before is None:
            version, flags = versions.numbered(tx, state, flags)
        elif links and (changed or command.packed is not None):
            history.require_free(state, before, command.lock_ns)
            if changed:
                key = history.key_of_node(tx, before, command.place)
                begins = command.begins or before.version == command.stays
                if begins or history.is_of_other_state(state, before):
                    version, flags = history.begin_version(tx, state, key, before, command.now_ns)
                    flags |= TIMED
                    packed = history.unlocked(packed)
    if command.create is None:
        kept = min(old_size if command.cut is None else command.cut, old_size, command.size)
        for start, end in (
            (kept, old_size),
            *((piece.offset, piece.offset + piece.length) for piece in command.slices),
            *command.punched,
        ):
            tx.keep(command.node, old.kind, old.ref, start, end)
    patched = tx.patched
    made = content.patch(
        tx, old, old_size, command.size, command.cut, command.chunks, command.slices, maker, command.punched, shared
    )
    grown = tx.grown
    if changed:
        etag, generation, written_ns = command.etag, generation + 1, command.now_ns
    after = Node(
        command.node,
        command.mode,
        command.uid,
        command.gid,
        links,
        command.size,
        command.atime_ns,
        command.mtime_ns,
        command.ctime_ns or command.now_ns,
        written_ns,
        generation,
        etag,
        made.kind,
        made.ref,
        made.data,
        flags,
        packed if command.packed is None else history.merged(packed, command.packed),
        command.bucket,
        b"",
        version,
    )
    if changed:
        after = _without_stale_claims(after)
    if state is not None and links:
        after = history.sealed(after, command.retention_mode, command.retain_until_ns)
    if (command.chunks and (old.kind == EMPTY or command.cut == 0)) or (encrypted and old.kind == EMPTY):
        after = _as_sealed(after, command.chunks)
    put_node(tx, after)
    if command.create is not None:
        if state is not None:
            versions.make_way(
                tx, state, command.bucket, history.key_at(tx, command.bucket, parent_id, name), replaced, command.now_ns
            )
        elif replaced is not None:
            unlink_node(tx, replaced, command.now_ns)
        tx.put(ENTRY, (parent_id, name, command.node))
        tx.touch(parent_id, command.made_ns or command.now_ns)
        tx.charge(command.bucket, 1, command.size)
        tx.note(Change(parent_id, name, False, replaced.id if replaced is not None else 0, False))
    elif links:
        tx.charge(command.bucket, 0, links * (command.size - old_size))
    version_id = after.version_id if state == settings.ENABLED else ""
    return Written(
        command.node,
        etag,
        command.size,
        written_ns,
        version_id,
        generation,
        grown,
        made.ref if made.kind == MAPPED and changed else 0,
        tx.patched - patched,
    )


def _as_sealed(node: Node, chunks: Sequence[NewChunk]) -> Node:
    """A file all of whose bytes are new is encrypted if they are."""
    if node.size == 0 or any(chunk.key is None or chunk.key.id == CUSTOMER for chunk in chunks):
        return node
    attributes = unpack_attributes(node.packed)
    if attributes.sse:
        return node
    return msgspec.structs.replace(node, packed=pack_attributes(msgspec.structs.replace(attributes, sse=AES256)))


def _without_stale_claims(node: Node) -> Node:
    """A checksum and part sizes that a client gave speak of bytes that are no longer there."""
    if not node.packed:
        return node
    attributes = node.attributes
    if attributes.checksum is None and not attributes.parts:
        return node
    plain = msgspec.structs.replace(attributes, checksum=None, parts=(), part_checksums=())
    return msgspec.structs.replace(node, packed=pack_attributes(plain))
