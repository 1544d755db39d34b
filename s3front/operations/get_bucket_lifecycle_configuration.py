"""GetBucketLifecycleConfiguration: GET /bucket?lifecycle."""

from __future__ import annotations

from typing import Final

from appliance import lifecycle, settings
from appliance.authority import Action
from s3front import lifecycle_document
from s3front.documents import stored
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetBucketLifecycleConfiguration"
ACTION: Final = Action.GET_LIFECYCLE_CONFIGURATION
ROUTES: Final = (Route("GET", Level.BUCKET, "lifecycle"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchLifecycleConfiguration."""
    rules = lifecycle.parse(stored(request, settings.LIFECYCLE, "NoSuchLifecycleConfiguration"))
    response = answer(lifecycle_document.document(rules))
    response.headers.append((lifecycle_document.MINIMUM, rules.transition_minimum.encode()))
    return response
