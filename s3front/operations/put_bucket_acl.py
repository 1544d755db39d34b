"""PutBucketAcl: PUT /bucket?acl.  A new list takes the old one's place.

It is stored even when it is the default one: a bucket that ever had a list may hold objects of others, and then an
owner's right to the bucket is not the right to every object in it.
"""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.access import acl
from appliance.authority import Action
from s3front import grants
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutBucketAcl"
ACTION: Final = Action.PUT_BUCKET_ACL
ROUTES: Final = (Route("PUT", Level.BUCKET, "acl"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises what `grants.asked_for` says."""
    bucket = request.bucket
    asked = await grants.asked_for(door, request, bucket.owner)
    await door.store.set_bucket_setting(bucket, settings.ACL, acl.encode(acl.kept(asked, bucket.owner)))
    return Response(200, [])
