"""PutBucketCors: PUT /bucket?cors.  Checked whole, then kept; every request with an Origin obeys it."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front import cors
from s3front.documents import posted
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutBucketCors"
ACTION: Final = Action.PUT_BUCKET_CORS
ROUTES: Final = (Route("PUT", Level.BUCKET, "cors"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, InvalidRequest, InvalidArgument."""
    configuration = await posted(request, cors.parse, cors.DOCUMENT_MAX)
    await door.store.set_bucket_setting(request.bucket, settings.CORS, cors.document(configuration))
    return Response(200, [])
