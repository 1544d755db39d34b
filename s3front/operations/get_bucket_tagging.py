"""GetBucketTagging: GET /bucket?tagging."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front.documents import stored
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetBucketTagging"
ACTION: Final = Action.GET_BUCKET_TAGGING
ROUTES: Final = (Route("GET", Level.BUCKET, "tagging"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchTagSet."""
    return answer(stored(request, settings.TAGGING, "NoSuchTagSet"))
