"""Owners, initiators and grantees as answers name them: a canonical id and what the box shows for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from s3front import xml

if TYPE_CHECKING:
    from appliance.store import ObjectStore

# AWS's own id for whoever has none.
ANONYMOUS: Final = "65a011a29cdf8ec533ec3d1ccaae921c"


def names(store: ObjectStore, user_id: str) -> str:
    """The ID and DisplayName elements.  A user who is gone is shown by the id alone."""
    if not user_id:
        return f"<ID>{ANONYMOUS}</ID><DisplayName>anonymous</DisplayName>"
    user = store.user(user_id)
    return xml.element("ID", user_id) + xml.element("DisplayName", user.display if user is not None else user_id)


def owner(store: ObjectStore, user_id: str, element: str = "Owner") -> str:
    """An Owner or Initiator."""
    return f"<{element}>{names(store, user_id)}</{element}>"
