"""PutBucketTagging: PUT /bucket?tagging.  A new tag set takes the old one's place; an empty one leaves none."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front import tagging
from s3front.documents import posted
from s3front.request import Door, Request
from s3front.response import Response, no_content
from s3front.router import Level, Route

NAME: Final = "PutBucketTagging"
ACTION: Final = Action.PUT_BUCKET_TAGGING
ROUTES: Final = (Route("PUT", Level.BUCKET, "tagging"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, InvalidTag."""
    tags = await posted(request, tagging.parse_bucket, tagging.DOCUMENT_MAX)
    await door.store.set_bucket_setting(request.bucket, settings.TAGGING, tagging.document(tags) if tags else None)
    return no_content()
