"""Every verb of the mount asks first whether it may (H6), and nothing but its answer gets out.

Exempt are verbs that reach no object: `forget`, `release`, `releasedir`, `statfs`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

from appliance.authority import Action
from fusefs.answered import answered
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


def _permitted(action: Action, handler: Verb[G, P, R]) -> Verb[G, P, R]:
    """The handler, once its first inode's bucket allows the action."""

    @functools.wraps(handler)
    async def checked(operations: G, inode: int, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if not operations.permits.known(action, operations.inodes.bucket(inode)):
            operations.permits.require(action, operations.names.bucket_of(inode))
        if action is WRITE:
            operations.names.require_present(inode)
        elif inode in operations.names.past:
            await operations.names.past.settled(inode)
        return await handler(operations, inode, *args, **kwargs)

    return answered(checked)


def reading(handler: Verb[G, P, R]) -> Verb[G, P, R]:
    """A verb that reads what its first inode names."""
    return _permitted(READ, handler)


def finding(handler: Verb[G, P, R]) -> Verb[G, P, R]:
    """lookup: as `reading`, but "." may be asked of a number that the kernel has forgotten, and was given in another
    run: NFS does (`Names.again`)."""

    @functools.wraps(handler)
    async def checked(operations: G, inode: int, /, *args: P.args, **kwargs: P.kwargs) -> R:
        bucket = operations.inodes.bucket(inode)
        if bucket is None and args[0] == b".":
            bucket = operations.names.home(inode)
        if not operations.permits.known(READ, bucket):
            operations.permits.require(READ, operations.names.bucket_numbered(bucket))
        if inode in operations.names.past:
            await operations.names.past.settled(inode)
        return await handler(operations, inode, *args, **kwargs)

    return answered(checked)


def writing(handler: Verb[G, P, R]) -> Verb[G, P, R]:
    """A verb that changes what its first inode names, or something in it."""
    return _permitted(WRITE, handler)


def handling(handler: Verb[G, P, R]) -> Verb[G, P, R]:
    """A verb on an open handle: what the handle is for must be allowed."""

    @functools.wraps(handler)
    async def checked(operations: G, fh: int, /, *args: P.args, **kwargs: P.kwargs) -> R:
        handle = operations.handles[fh]
        if isinstance(handle, FileHandle):
            operations.permits.require(WRITE if handle.writable else READ, handle.file.bucket)
        elif not operations.permits.known(READ, handle.bucket):
            operations.permits.require(READ, operations.names.bucket_of(handle.inode))
        return await handler(operations, fh, *args, **kwargs)

    return answered(checked)
