"""PutBucketWebsite: PUT /bucket?website.  Checked whole, then kept; requests to the website's host obey it."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front import website
from s3front.documents import posted
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutBucketWebsite"
ACTION: Final = Action.PUT_BUCKET_WEBSITE
ROUTES: Final = (Route("PUT", Level.BUCKET, "website"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, InvalidRequest, InvalidArgument."""
    configuration = await posted(request, website.parse, website.DOCUMENT_MAX)
    await door.store.set_bucket_setting(request.bucket, settings.WEBSITE, website.document(configuration))
    return Response(200, [])
