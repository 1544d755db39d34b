"""DeletePublicAccessBlock: DELETE /bucket?publicAccessBlock.  What is not there is deleted too."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front.request import Door, Request
from s3front.response import Response, no_content
from s3front.router import Level, Route

NAME: Final = "DeletePublicAccessBlock"
ACTION: Final = Action.PUT_BUCKET_PUBLIC_ACCESS_BLOCK  # IAM has no action of its own for it
ROUTES: Final = (Route("DELETE", Level.BUCKET, "publicAccessBlock"),)


async def operate(door: Door, request: Request) -> Response:
    """204 in any case."""
    await door.store.set_bucket_setting(request.bucket, settings.PUBLIC_ACCESS_BLOCK, None)
    return no_content()
