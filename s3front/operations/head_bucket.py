"""HeadBucket: HEAD /bucket.  Whether it is there and may be listed."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "HeadBucket"
ACTION: Final = Action.LIST_BUCKET
ROUTES: Final = (Route("HEAD", Level.BUCKET),)


async def operate(door: Door, request: Request) -> Response:
    """The bucket was looked up before; an SDK learns the region from the header."""
    return Response(200, [(b"x-amz-bucket-region", door.region.encode()), (b"x-amz-access-point-alias", b"false")])
