"""GetBucketAcl: GET /bucket?acl.  The default list says what is true without one: the owner may everything."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.access import acl
from appliance.authority import Action
from s3front import grants
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetBucketAcl"
ACTION: Final = Action.GET_BUCKET_ACL
ROUTES: Final = (Route("GET", Level.BUCKET, "acl"),)


async def operate(door: Door, request: Request) -> Response:
    """Groups first, then users."""
    body = request.bucket.settings.get(settings.ACL)
    return answer(grants.document(door.store, request.bucket.owner, acl.parse(body) if body is not None else ()))
