"""Quotas of buckets: setting them, and the mount's promises against them (engine/ledger.py)."""

from __future__ import annotations

from appliance import settings
from appliance.catalogue import commands
from appliance.model import Bucket
from appliance.quota import Quota, document
from appliance.verbs.base import Verbs


class QuotaVerbs(Verbs):
    """How much a bucket may hold."""

    async def set_quota(self, bucket: Bucket, quota: Quota | None) -> None:
        """From now on; None: as much as there is room for.  Less than the bucket holds is allowed: then nothing more
        fits until enough is deleted.  Raises INVALID_ARGUMENT, NO_SUCH_BUCKET."""
        body = None if quota is None else document(quota)
        await self.commit(commands.SetBucketSetting(bucket=bucket.id, name=settings.QUOTA, body=body))

    def quota(self, bucket: int) -> tuple[Quota, int, int] | None:
        """The quota of the bucket of this number, and the objects and bytes that count against it now: also those of
        unfinished uploads and of files that the mount has not committed yet.  None without a quota."""
        return self.engine.ledger.room(bucket)

    def limited(self, bucket: int) -> bool:
        """Whether the bucket of this number has a quota.  A dict look-up."""
        return bucket in self.engine.ledger.limits

    def reserve(self, bucket: int, objects: int, size: int, *, ask: bool = True) -> None:
        """Promises room for objects and bytes: a commit that redeems a promise (`submit_file`) is not refused.  Raises
        QUOTA_EXCEEDED, unless nobody is to be asked: for room that a commit under way will free."""
        self.engine.ledger.reserve(bucket, objects, size, ask=ask)

    def unreserve(self, bucket: int, objects: int, size: int) -> None:
        """Gives back so much of what was promised and not redeemed."""
        self.engine.ledger.release(bucket, objects, size)
