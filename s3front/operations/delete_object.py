"""DeleteObject: DELETE /bucket/key.  What is not there is deleted too, unless a condition says otherwise."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front import preconditions
from s3front.request import Door, Request
from s3front.response import Response, no_content
from s3front.router import Level, Route

NAME: Final = "DeleteObject"
ACTION: Final = Action.DELETE_OBJECT
ROUTES: Final = (Route("DELETE", Level.OBJECT),)


async def operate(door: Door, request: Request) -> Response:
    """Raises PreconditionFailed, NoSuchKey (a condition on nothing)."""
    precondition = await preconditions.for_delete(door, request)
    await door.store.delete_object(request.bucket, request.key, precondition=precondition)
    return no_content()
