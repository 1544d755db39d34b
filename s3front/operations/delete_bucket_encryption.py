"""DeleteBucketEncryption: DELETE /bucket?encryption.  New objects are plain again; what is encrypted stays so."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front.request import Door, Request
from s3front.response import Response, no_content
from s3front.router import Level, Route

NAME: Final = "DeleteBucketEncryption"
ACTION: Final = Action.PUT_ENCRYPTION_CONFIGURATION
ROUTES: Final = (Route("DELETE", Level.BUCKET, "encryption"),)


async def operate(door: Door, request: Request) -> Response:
    """Answers 204 also where there was none."""
    if settings.ENCRYPTION in request.bucket.settings:
        await door.store.set_bucket_setting(request.bucket, settings.ENCRYPTION, None)
    return no_content()
