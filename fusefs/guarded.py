"""Every verb of the mount asks first whether it may (H6), and nothing but its answer gets out.

Exempt are verbs that reach no object: `forget`, `release`, `releasedir`, `statfs`; and getxattr of
`security.capability`, which no inode has: the compiled part answers it (extra.c).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from fusefs.answered import admitted
from fusefs.handles import DirectoryHandle, FileHandle
from fusefs.inodes import Inodes
from fusefs.names import Names
from fusefs.permits import READ, WRITE, Permits


class Guarded(Protocol):
    """Whose methods the verbs are."""

    permits: Permits
    inodes: Inodes
    names: Names
    handles: dict[int, FileHandle | DirectoryHandle]


G = TypeVar("G", bound=Guarded)
P = ParamSpec("P")
R = TypeVar("R")

Verb = Callable[Concatenate[G, int, P], Coroutine[Any, Any, R]]


def _to_read(operations: Guarded, inode: int, /, *args: object, **kwargs: object) -> Awaitable[None] | None:
    bucket = operations.inodes.bucket(inode)
    if not operations.permits.known(READ, bucket):
        operations.permits.require(READ, operations.names.bucket_of(inode))
    return operations.names.past.settled(inode) if inode in operations.names.past else None


def _to_write(operations: Guarded, inode: int, /, *args: object, **kwargs: object) -> None:
    bucket = operations.inodes.bucket(inode)
    if not operations.permits.known(WRITE, bucket):
        operations.permits.require(WRITE, operations.names.bucket_of(inode))
    operations.names.require_present(inode)


def _to_find(operations: Guarded, inode: int, name: bytes, /, *args: object) -> Awaitable[None] | None:
    bucket = operations.inodes.bucket(inode)
    if bucket is None and name == b".":
        bucket = operations.names.home(inode)
    if not operations.permits.known(READ, bucket):
        operations.permits.require(READ, operations.names.bucket_numbered(bucket))
    return operations.names.past.settled(inode) if inode in operations.names.past else None


def _to_handle(operations: Guarded, fh: int, /, *args: object, **kwargs: object) -> None:
    handle = operations.handles[fh]
    if isinstance(handle, FileHandle):
        action, bucket = WRITE if handle.writable else READ, handle.file.bucket
        if not operations.permits.known(action, bucket.id):
            operations.permits.require(action, bucket)
    elif not operations.permits.known(READ, handle.bucket):
        operations.permits.require(READ, operations.names.bucket_of(handle.inode))


def reading(handler: Verb[G, P, R]) -> Verb[G, P, R]:
    """A verb that reads what its first inode names."""
    return admitted(_to_read, handler)


def finding(handler: Verb[G, P, R]) -> Verb[G, P, R]:
    """lookup: as `reading`, but "." may be asked of a number that the kernel has forgotten, and was given in another
    run: NFS does (`Names.again`)."""
    return admitted(_to_find, handler)


def writing(handler: Verb[G, P, R]) -> Verb[G, P, R]:
    """A verb that changes what its first inode names, or something in it."""
    return admitted(_to_write, handler)


def handling(handler: Verb[G, P, R]) -> Verb[G, P, R]:
    """A verb on an open handle: what the handle is for must be allowed."""
    return admitted(_to_handle, handler)
