"""GetObjectRetention: GET /bucket/key?retention.  The retention of an object or of one version."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front import object_lock, versioned
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetObjectRetention"
ACTION: Final = Action.GET_OBJECT_RETENTION
ROUTES: Final = (Route("GET", Level.OBJECT, "retention"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises InvalidRequest (a bucket without object lock), NoSuchKey, NoSuchVersion, MethodNotAllowed (a delete
    marker), NoSuchObjectLockConfiguration."""
    object_lock.require(request.bucket)
    node = await versioned.look_up(door.store, request.bucket, request.key, request.version_id)
    return answer(object_lock.retention(node.attributes))
