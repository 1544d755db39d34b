"""GetObjectLockConfiguration: GET /bucket?object-lock.  Whether a bucket can lock its versions, and its default."""

from __future__ import annotations

from typing import Final

from appliance import lock, settings
from appliance.authority import Action
from s3front import object_lock
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetObjectLockConfiguration"
ACTION: Final = Action.GET_BUCKET_OBJECT_LOCK_CONFIGURATION
ROUTES: Final = (Route("GET", Level.BUCKET, "object-lock"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises ObjectLockConfigurationNotFoundError."""
    body = request.bucket.settings.get(settings.LOCK)
    if body is None:
        raise S3Error("ObjectLockConfigurationNotFoundError", details=(("BucketName", request.bucket_name),))
    return answer(object_lock.configuration(lock.default_of(body)))
