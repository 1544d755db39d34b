"""From the store's codes to errno: one table.

A code names what went wrong in the store's words; a mounted file system can only answer a number.  The table is total:
a code that is added to `appliance.errors` without a row here fails a test, not a user.
"""

from __future__ import annotations

import errno
from typing import Final

from appliance.errors import Code

ERRNO: Final[dict[Code, int]] = {
    # names
    Code.NO_SUCH_BUCKET: errno.ENOENT,
    Code.NO_SUCH_KEY: errno.ENOENT,
    Code.NO_SUCH_VERSION: errno.ENOENT,
    Code.NO_SUCH_UPLOAD: errno.ENOENT,
    Code.NO_SUCH_NODE: errno.ENOENT,
    Code.BUCKET_EXISTS: errno.EEXIST,
    Code.BUCKET_OWNED: errno.EEXIST,
    Code.BUCKET_NOT_EMPTY: errno.ENOTEMPTY,
    Code.EXISTS: errno.EEXIST,
    Code.NOT_A_DIRECTORY: errno.ENOTDIR,
    Code.IS_A_DIRECTORY: errno.EISDIR,
    Code.NOT_EMPTY: errno.ENOTEMPTY,
    Code.CROSSES_BUCKETS: errno.EXDEV,  # mv falls back to copy and delete
    Code.NAME_TOO_LONG: errno.ENAMETOOLONG,
    Code.INVALID_NAME: errno.EINVAL,
    Code.NOT_SUPPORTED: errno.EPERM,  # link(2): "does not support the creation of hard links"
    # requests
    Code.INVALID_ARGUMENT: errno.EINVAL,
    Code.PRECONDITION_FAILED: errno.EAGAIN,
    Code.CONFLICT: errno.EAGAIN,
    Code.LOCKED: errno.EPERM,  # as chattr +i
    Code.NOT_LOCKABLE: errno.EINVAL,
    Code.INVALID_PART: errno.EINVAL,
    Code.INVALID_PART_ORDER: errno.EINVAL,
    Code.PART_TOO_SMALL: errno.EINVAL,
    Code.TOO_LARGE: errno.EFBIG,
    Code.ACCESS_DENIED: errno.EACCES,
    # space and devices
    Code.NO_SPACE: errno.ENOSPC,
    Code.QUOTA_EXCEEDED: errno.EDQUOT,
    Code.DAMAGED: errno.EIO,
    Code.IO_ERROR: errno.EIO,
    Code.UNAVAILABLE: errno.EIO,  # EAGAIN would make programs spin
    Code.READ_ONLY: errno.EROFS,
    # opening a pool: never met by a mounted file system, but the table is total
    Code.WRONG_DEVICE: errno.EIO,
    Code.IN_USE: errno.EBUSY,
    Code.OLD_FORMAT: errno.EIO,
    Code.JOURNAL_DAMAGED: errno.EIO,
}


def to_errno(code: Code) -> int:
    """The errno of `code`; EIO for one the table lacks."""
    return ERRNO.get(code, errno.EIO)
