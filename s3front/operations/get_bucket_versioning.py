"""GetBucketVersioning: GET /bucket?versioning.  Empty for a bucket that never had versions."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front import xml
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetBucketVersioning"
ACTION: Final = Action.GET_BUCKET_VERSIONING
ROUTES: Final = (Route("GET", Level.BUCKET, "versioning"),)


async def operate(door: Door, request: Request) -> Response:
    """Never raises."""
    state = request.bucket.settings.get(settings.VERSIONING, b"").decode()
    return answer(xml.document("VersioningConfiguration", xml.optional("Status", state)))
