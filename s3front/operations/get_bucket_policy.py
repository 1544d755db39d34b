"""GetBucketPolicy: GET /bucket?policy.  The document as it was stored, to the byte."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front.admission import require_owner
from s3front.documents import stored
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "GetBucketPolicy"
ACTION: Final = Action.GET_BUCKET_POLICY
ROUTES: Final = (Route("GET", Level.BUCKET, "policy"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchBucketPolicy, MethodNotAllowed (another user)."""
    require_owner(request)
    body = stored(request, settings.POLICY, "NoSuchBucketPolicy")
    return Response(200, [(b"content-type", b"application/json")], body)
