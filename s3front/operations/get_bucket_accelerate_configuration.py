"""GetBucketAccelerateConfiguration: GET /bucket?accelerate.  What was put; nothing here is faster or slower for it."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front import xml
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetBucketAccelerateConfiguration"
ACTION: Final = Action.GET_ACCELERATE_CONFIGURATION
ROUTES: Final = (Route("GET", Level.BUCKET, "accelerate"),)


async def operate(door: Door, request: Request) -> Response:
    """Without a status while nobody put one."""
    status = request.bucket.settings.get(settings.ACCELERATE, b"").decode()
    return answer(xml.document("AccelerateConfiguration", xml.optional("Status", status)))
