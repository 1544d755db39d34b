"""DeleteObject: DELETE /bucket/key.  What is not there is deleted too, unless a condition says otherwise.

In a bucket with versions a key is hidden by a delete marker; a version that is named is gone for good.
"""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front import object_lock, preconditions, versioned
from s3front.request import Door, Request
from s3front.response import Response, no_content
from s3front.router import Level, Route

NAME: Final = "DeleteObject"
ACTION: Final = Action.DELETE_OBJECT
ROUTES: Final = (Route("DELETE", Level.OBJECT),)


async def operate(door: Door, request: Request) -> Response:
    """Raises PreconditionFailed, NoSuchKey (a condition on nothing)."""
    precondition = await preconditions.for_delete(door, request)
    done = await door.store.delete_object(
        request.bucket,
        request.key,
        version_id=request.version_id,
        precondition=precondition,
        owner=request.caller,
        bypass=object_lock.bypasses(request.headers),
    )
    response = no_content()
    response.headers += versioned.deleted(done.version_id, done.marker)
    return response
