"""PutBucketLifecycleConfiguration: PUT /bucket?lifecycle.  Checked whole, then kept; upkeep obeys it from then on."""

from __future__ import annotations

import secrets
from typing import Final

from appliance import lifecycle, settings
from appliance.authority import Action
from appliance.lifecycle import RuleSet
from s3front import lifecycle_document
from s3front.documents import posted
from s3front.errors import invalid_argument
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutBucketLifecycleConfiguration"
ACTION: Final = Action.PUT_LIFECYCLE_CONFIGURATION
ROUTES: Final = (Route("PUT", Level.BUCKET, "lifecycle"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, InvalidArgument, InvalidRequest, InvalidTag."""
    header = lifecycle_document.MINIMUM
    minimum = request.header_text(header) or lifecycle_document.MINIMA[0]
    if minimum not in lifecycle_document.MINIMA:
        raise invalid_argument("Unknown minimum object size.", header.decode(), minimum)

    def parse(document: bytes) -> RuleSet:
        return lifecycle_document.parse(document, lambda: secrets.token_urlsafe(24), minimum)

    rules = await posted(request, parse, lifecycle_document.DOCUMENT_MAX)
    await door.store.set_bucket_setting(request.bucket, settings.LIFECYCLE, lifecycle.encode(rules))
    return Response(200, [(header, minimum.encode())])
