"""HeadObject: HEAD /bucket/key.  GetObject without its bytes."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front import versioned
from s3front.operations.get_object import select
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "HeadObject"
ACTION: Final = Action.GET_OBJECT
ROUTES: Final = (Route("HEAD", Level.OBJECT),)


async def operate(door: Door, request: Request) -> Response:
    """Raises what GetObject raises; an error of HEAD has no body."""
    node = await versioned.asked_for(door, request)
    status, headers, _, length, _ = select(request, node)
    return Response(status, headers, length=length)
