"""GetBucketLocation: GET /bucket?location.  One box is one region; `us-east-1` is written as nothing, as in AWS."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front import xml
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetBucketLocation"
ACTION: Final = Action.GET_BUCKET_LOCATION
ROUTES: Final = (Route("GET", Level.BUCKET, "location"),)


async def operate(door: Door, request: Request) -> Response:
    """The region's name."""
    return answer(xml.document("LocationConstraint", "" if door.region == "us-east-1" else xml.escape(door.region)))
