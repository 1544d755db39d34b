"""GetBucketOwnershipControls: GET /bucket?ownershipControls."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.access import blocks
from appliance.authority import Action
from s3front import xml
from s3front.documents import stored
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetBucketOwnershipControls"
ACTION: Final = Action.GET_BUCKET_OWNERSHIP_CONTROLS
ROUTES: Final = (Route("GET", Level.BUCKET, "ownershipControls"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises OwnershipControlsNotFoundError."""
    ownership = blocks.parse_ownership(stored(request, settings.OWNERSHIP, "OwnershipControlsNotFoundError"))
    return answer(xml.document("OwnershipControls", f"<Rule><ObjectOwnership>{ownership}</ObjectOwnership></Rule>"))
