"""Owners, initiators and grantees as answers name them: a canonical id and what the box shows for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from appliance import settings
from appliance.access import blocks
from appliance.authority import DECIDING
from s3front import xml

if TYPE_CHECKING:
    from appliance.model import Bucket, Upload
    from appliance.store import ObjectStore

# AWS's own id for whoever has none.
ANONYMOUS: Final = "65a011a29cdf8ec533ec3d1ccaae921c"


def names(store: ObjectStore, user_id: str) -> str:
    """The ID and DisplayName elements.  A user who is gone is shown by the id alone."""
    if not user_id:
        return f"<ID>{ANONYMOUS}</ID><DisplayName>anonymous</DisplayName>"
    user = store.user(user_id)
    return xml.element("ID", user_id) + xml.element("DisplayName", user.display if user is not None else user_id)


def of_upload(store: ObjectStore, bucket: Bucket, upload: Upload) -> str:
    """Who began an upload, and whose its object will be."""
    whose = upload.attributes.owner or bucket.owner
    return owner(store, upload.owner, "Initiator") + owner(store, whose)


def owner(store: ObjectStore, user_id: str, element: str = "Owner") -> str:
    """An Owner or Initiator."""
    return f"<{element}>{names(store, user_id)}</{element}>"


class Owners:
    """The Owner elements of a listing: `bucket` of the bucket's owner; `several` whether there may be others."""

    __slots__ = ("_others", "_store", "bucket", "several")

    def __init__(self, store: ObjectStore, bucket: Bucket) -> None:
        self._store = store
        self._others: dict[str, str] = {}
        self.bucket = owner(store, bucket.owner)
        enforced = blocks.parse_ownership(bucket.settings.get(settings.OWNERSHIP)) == blocks.ENFORCED
        self.several = not enforced and not DECIDING.isdisjoint(bucket.settings)

    def of(self, user_id: str) -> str:
        """Empty: the bucket's."""
        if not user_id or not self.several:
            return self.bucket
        found = self._others.get(user_id)
        if found is None:
            found = self._others[user_id] = owner(self._store, user_id)
        return found
