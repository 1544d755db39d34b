"""DeleteBucketOwnershipControls: DELETE /bucket?ownershipControls.  What is not there is deleted too."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front.request import Door, Request
from s3front.response import Response, no_content
from s3front.router import Level, Route

NAME: Final = "DeleteBucketOwnershipControls"
ACTION: Final = Action.PUT_BUCKET_OWNERSHIP_CONTROLS  # IAM has no action of its own for it
ROUTES: Final = (Route("DELETE", Level.BUCKET, "ownershipControls"),)


async def operate(door: Door, request: Request) -> Response:
    """204 in any case."""
    await door.store.set_bucket_setting(request.bucket, settings.OWNERSHIP, None)
    return no_content()
