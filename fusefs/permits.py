"""Every verb of the mount passes `authorize` (H6).

Who acts is the mount's principal: the kernel has checked the process's own permissions (`default_permissions`), and
what the principal may do bounds all of them.  It is asked once for each bucket and remembered: what a mount may do does
not depend on anything that changes while it stands, neither settings of the bucket nor who owns what.

A bucket that the principal may not read is not there: neither looked up nor listed.  Where the principal may not write
at all, a verb that writes is EROFS, else EACCES.

Exempt are verbs that reach no object: `forget`, `release`, `releasedir`, `statfs`; so is the root, whose buckets are
each asked about.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar

from pyfuse3 import FUSEError

from appliance.authority import Action, Principal, authorize
from appliance.errors import StoreError
from appliance.model import Bucket
from fusefs.answered import answered
from fusefs.handles import FileHandle

if TYPE_CHECKING:
    from fusefs.operations import Operations

P = ParamSpec("P")
R = TypeVar("R")
READ: Final = Action.MOUNT_READ
WRITE: Final = Action.MOUNT_WRITE


class Permits:
    """What one principal may do, by bucket."""

    def __init__(self, principal: Principal) -> None:
        self.principal = principal
        self._known: dict[tuple[int | None, Action], bool] = {(0, READ): True, (0, WRITE): True}  # 0: of the root

    def known(self, action: Action, bucket: int | None) -> bool:
        """Whether `action` is remembered to pass on the bucket of this number."""
        return self._known.get((bucket, action), False)

    def allows(self, action: Action, bucket: Bucket) -> bool:
        """Whether `action` passes."""
        known = self._known.get((bucket.id, action))
        if known is None:
            known = self._known[bucket.id, action] = self._asks(action, bucket)
        return known

    def require(self, action: Action, bucket: Bucket | str) -> None:
        """EROFS or EACCES.  A bucket that is not there yet is given by its name."""
        if not (self.allows(action, bucket) if isinstance(bucket, Bucket) else self._asks(action, bucket)):
            raise FUSEError(errno.EROFS if action is WRITE and self.principal.read_only else errno.EACCES)

    def _asks(self, action: Action, bucket: Bucket | str) -> bool:
        try:
            authorize(self.principal, action, bucket)
        except StoreError:
            return False
        return True


type_handler = Callable[Concatenate["Operations", int, P], Coroutine[Any, Any, R]]


def _permitted(action: Action, handler: type_handler[P, R]) -> type_handler[P, R]:
    """The handler, once its first inode's bucket allows the action."""

    @functools.wraps(handler)
    async def checked(operations: Operations, inode: int, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if not operations.permits.known(action, operations.inodes.bucket(inode)):
            operations.permits.require(action, operations.names.bucket_of(inode))
        if action is WRITE:
            operations.names.require_present(inode)
        elif inode in operations.names.past:
            await operations.names.past.settled(inode)
        return await handler(operations, inode, *args, **kwargs)

    return answered(checked)


def reading(handler: type_handler[P, R]) -> type_handler[P, R]:
    """A verb that reads what its first inode names."""
    return _permitted(READ, handler)


def writing(handler: type_handler[P, R]) -> type_handler[P, R]:
    """A verb that changes what its first inode names, or something in it."""
    return _permitted(WRITE, handler)


def handling(handler: type_handler[P, R]) -> type_handler[P, R]:
    """A verb on an open handle: what the handle is for must be allowed."""

    @functools.wraps(handler)
    async def checked(operations: Operations, fh: int, /, *args: P.args, **kwargs: P.kwargs) -> R:
        handle = operations.handles[fh]
        if isinstance(handle, FileHandle):
            operations.permits.require(WRITE if handle.writable else READ, handle.file.bucket)
        elif not operations.permits.known(READ, handle.bucket):
            operations.permits.require(READ, operations.names.bucket_of(handle.inode))
        return await handler(operations, fh, *args, **kwargs)

    return answered(checked)
