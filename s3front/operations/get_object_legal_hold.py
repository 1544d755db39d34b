"""GetObjectLegalHold: GET /bucket/key?legal-hold.  The legal hold of an object or of one version."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front import object_lock, versioned
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetObjectLegalHold"
ACTION: Final = Action.GET_OBJECT_LEGAL_HOLD
ROUTES: Final = (Route("GET", Level.OBJECT, "legal-hold"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises InvalidRequest (a bucket without object lock), NoSuchKey, NoSuchVersion, MethodNotAllowed (a delete
    marker), NoSuchObjectLockConfiguration."""
    object_lock.require(request.bucket)
    node = await versioned.look_up(door.store, request.bucket, request.key, request.version_id)
    return answer(object_lock.hold(node.attributes))
