"""DeleteBucketLifecycle: DELETE /bucket?lifecycle."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front.request import Door, Request
from s3front.response import Response, no_content
from s3front.router import Level, Route

NAME: Final = "DeleteBucketLifecycle"
ACTION: Final = Action.PUT_LIFECYCLE_CONFIGURATION  # as in IAM: there is no s3:DeleteLifecycleConfiguration
ROUTES: Final = (Route("DELETE", Level.BUCKET, "lifecycle"),)


async def operate(door: Door, request: Request) -> Response:
    """A bucket without one is a success too."""
    await door.store.set_bucket_setting(request.bucket, settings.LIFECYCLE, None)
    return no_content()
