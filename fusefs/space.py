"""What statfs(2) tells, and so df(1): of a bucket with a quota what the quota leaves, else what the pool does.

Sizes are those of files: where each byte is kept twice, half of the devices is there to be written.  What is available
is bounded by the pool also where a quota would allow more.  Files are objects: as many as the quota allows, without one
as many as there may ever be.

Source: statvfs(3); XFS answers for a directory with a project quota in the same way (xfs_qm_statvfs).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pyfuse3 import FUSEError, StatvfsData

from appliance.limits import NAME_MAX
from fusefs.attributes import BLOCK_SIZE
from fusefs.inodes import ROOT

if TYPE_CHECKING:
    from appliance.model import Bucket
    from appliance.store import ObjectStore
    from fusefs.names import Names

FILES_MAX: Final = 1 << 40  # there is no fixed number of inodes


def space_at(store: ObjectStore, names: Names, inode: int) -> StatvfsData:
    """Of the file system as seen at an inode."""
    bucket = None
    if inode != ROOT:
        with suppress(FUSEError):  # gone: the pool is still there
            bucket = names.bucket_of(inode)
    return _space(store, bucket)


def _space(store: ObjectStore, bucket: Bucket | None) -> StatvfsData:
    total, free = store.space(store.copies if bucket is None else bucket.copies)
    objects, left = store.usage(bucket).objects, FILES_MAX
    limited = None if bucket is None else store.quota(bucket.id)
    if limited is not None:
        quota, objects, size = limited
        if quota.size is not None:
            total = min(total, quota.size)
            free = min(free, max(0, quota.size - size))
        if quota.objects is not None:
            left = max(0, quota.objects - objects)
    answer = StatvfsData()
    answer.f_bsize = answer.f_frsize = BLOCK_SIZE
    answer.f_blocks = total // BLOCK_SIZE
    answer.f_bfree = answer.f_bavail = free // BLOCK_SIZE
    answer.f_files = objects + left
    answer.f_ffree = answer.f_favail = left
    answer.f_namemax = NAME_MAX
    return answer
