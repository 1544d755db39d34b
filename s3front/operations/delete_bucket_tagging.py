"""DeleteBucketTagging: DELETE /bucket?tagging."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front.request import Door, Request
from s3front.response import Response, no_content
from s3front.router import Level, Route

NAME: Final = "DeleteBucketTagging"
ACTION: Final = Action.PUT_BUCKET_TAGGING  # as in IAM: there is no s3:DeleteBucketTagging
ROUTES: Final = (Route("DELETE", Level.BUCKET, "tagging"),)


async def operate(door: Door, request: Request) -> Response:
    """A bucket without tags is a success too."""
    await door.store.set_bucket_setting(request.bucket, settings.TAGGING, None)
    return no_content()
