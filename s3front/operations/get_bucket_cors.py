"""GetBucketCors: GET /bucket?cors."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front.documents import stored
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetBucketCors"
ACTION: Final = Action.GET_BUCKET_CORS
ROUTES: Final = (Route("GET", Level.BUCKET, "cors"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchCORSConfiguration."""
    return answer(stored(request, settings.CORS, "NoSuchCORSConfiguration"))
