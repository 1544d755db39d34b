"""DeleteBucket: DELETE /bucket.  Only one without objects goes; uploads in progress go with it, as in AWS."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front.request import Door, Request
from s3front.response import Response, no_content
from s3front.router import Level, Route

NAME: Final = "DeleteBucket"
ACTION: Final = Action.DELETE_BUCKET
ROUTES: Final = (Route("DELETE", Level.BUCKET),)


async def operate(door: Door, request: Request) -> Response:
    """Raises BucketNotEmpty: an object, a version or a delete marker remains."""
    await door.store.delete_bucket(request.bucket_name)
    return no_content()
