"""DeleteBucketPolicy: DELETE /bucket?policy.  What is not there is deleted too.

While it was there others may have put objects, whose owners they are: so the bucket gets a list of its own if it has
none (see PutBucketAcl).
"""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.access import acl
from appliance.authority import Action
from s3front.admission import require_owner
from s3front.request import Door, Request
from s3front.response import Response, no_content
from s3front.router import Level, Route

NAME: Final = "DeleteBucketPolicy"
ACTION: Final = Action.DELETE_BUCKET_POLICY
ROUTES: Final = (Route("DELETE", Level.BUCKET, "policy"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises MethodNotAllowed (another user)."""
    require_owner(request)
    bucket = request.bucket
    if settings.POLICY in bucket.settings:
        if settings.ACL not in bucket.settings:
            await door.store.set_bucket_setting(bucket, settings.ACL, acl.encode(()))
        await door.store.set_bucket_setting(bucket, settings.POLICY, None)
    return no_content()
