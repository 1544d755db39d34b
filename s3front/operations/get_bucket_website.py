"""GetBucketWebsite: GET /bucket?website."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front.documents import stored
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetBucketWebsite"
ACTION: Final = Action.GET_BUCKET_WEBSITE
ROUTES: Final = (Route("GET", Level.BUCKET, "website"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchWebsiteConfiguration."""
    return answer(stored(request, settings.WEBSITE, "NoSuchWebsiteConfiguration"))
