"""DeleteBucketWebsite: DELETE /bucket?website."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front.request import Door, Request
from s3front.response import Response, no_content
from s3front.router import Level, Route

NAME: Final = "DeleteBucketWebsite"
ACTION: Final = Action.DELETE_BUCKET_WEBSITE
ROUTES: Final = (Route("DELETE", Level.BUCKET, "website"),)


async def operate(door: Door, request: Request) -> Response:
    """A bucket without one is a success too."""
    await door.store.set_bucket_setting(request.bucket, settings.WEBSITE, None)
    return no_content()
