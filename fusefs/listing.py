"""Directories, a reply at a time.

The kernel asks for a directory in pieces of some 32 KiB and may come back to any cookie it was given.  A cookie is the
number of names given before it (in the root: a bucket's root node), and going on means going on in the catalogue after
the name given last; nothing is copied when a directory is opened, and a directory of any length costs what is asked of
it.  Each entry comes with its attributes (readdirplus) and counts as a lookup.
"""

from __future__ import annotations

import errno
from typing import Final

import pyfuse3
from pyfuse3 import FileNameT, FUSEError, ReaddirToken

from appliance.authority import Action
from fusefs import tree
from fusefs.handles import DirectoryHandle
from fusefs.names import Names

LIST_STEP: Final = 256  # entries per call of the store: about one reply


def list_buckets(names: Names, start: int, token: ReaddirToken) -> None:
    """The mount's root."""
    for bucket in sorted(names.store.buckets(), key=lambda bucket: bucket.root):
        if bucket.root <= start or not names.permits.allows(Action.MOUNT_READ, bucket):
            continue
        answer = names.attributes(names.store.node(bucket.root))
        if not pyfuse3.readdir_reply(token, FileNameT(bucket.label), answer, bucket.root):
            return
        names.inodes.looked_up(bucket.root, bucket.id)


def list_directory(names: Names, handle: DirectoryHandle, start: int, epoch: int, token: ReaddirToken) -> None:
    """A directory of a bucket: uncommitted files as of the first call, then the catalogue's entries.

    `epoch` rises with every change of a name or node: entries read under an older one are read again.
    """
    if start == 0:
        handle.given.clear()
        handle.rest = []
        handle.pending = tuple(names.files.names.get(handle.inode, {}).values())
        handle.early = set()
    elif start > len(handle.given):
        raise FUSEError(errno.EINVAL)
    if start < len(handle.given):  # seekdir(3)
        del handle.given[start:]
        handle.rest = []
    if _list_uncommitted(names, handle, token):
        _list_committed(names, handle, epoch, token)


def _list_uncommitted(names: Names, handle: DirectoryHandle, token: ReaddirToken) -> bool:
    """False when the reply is full."""
    for file in handle.pending[len(handle.given) :]:
        name = b"" if file.name is None else file.name[1]
        if file.name is not None:  # otherwise committed meanwhile: it comes with the catalogue's
            shadowed = names.store.entry(handle.inode, name, True) is not None
            shown = FileNameT(tree.to_mount(name, shadowed))
            answer = names.attributes(file)
            if not pyfuse3.readdir_reply(token, shown, answer, len(handle.given) + 1):
                return False
            names.known(handle.inode, file.inode, file)
            handle.early.add(name)
        handle.given.append((name, False))
    return True


def _list_committed(names: Names, handle: DirectoryHandle, epoch: int, token: ReaddirToken) -> None:
    while True:
        if handle.epoch != epoch or not handle.rest:
            after = handle.given[-1] if len(handle.given) > len(handle.pending) else None
            handle.epoch = epoch
            handle.rest = names.store.entries(handle.inode, after, LIST_STEP)
            handle.whole = len(handle.rest) < LIST_STEP
            if not handle.rest:
                return
        directories = {entry.name for entry in handle.rest if entry.directory}
        last = handle.rest[-1]
        reach = last.name + b"/" if last.directory else last.name
        for index, entry in enumerate(handle.rest):
            if entry.directory or entry.name not in handle.early:
                shadowed = not entry.directory and (
                    entry.name in directories  # its directory would be among these ...
                    if handle.whole or entry.name + b"/" <= reach
                    else names.store.entry(handle.inode, entry.name, True) is not None  # ... or comes later
                )
                shown = FileNameT(tree.to_mount(entry.name, shadowed))
                answer = names.attributes(names.file(entry) or entry.node)
                if not pyfuse3.readdir_reply(token, shown, answer, len(handle.given) + 1):
                    handle.rest = handle.rest[index:]
                    return
                names.known(handle.inode, entry.node.id, entry)
            handle.given.append((entry.name, entry.directory))
        handle.rest = []
        if handle.whole:
            return
