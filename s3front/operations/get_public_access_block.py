"""GetPublicAccessBlock: GET /bucket?publicAccessBlock."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.access import blocks
from appliance.authority import Action
from s3front import xml
from s3front.documents import stored
from s3front.operations.put_public_access_block import SWITCHES
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetPublicAccessBlock"
ACTION: Final = Action.GET_BUCKET_PUBLIC_ACCESS_BLOCK
ROUTES: Final = (Route("GET", Level.BUCKET, "publicAccessBlock"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchPublicAccessBlockConfiguration."""
    block = blocks.parse(stored(request, settings.PUBLIC_ACCESS_BLOCK, "NoSuchPublicAccessBlockConfiguration"))
    rows = "".join(
        f"<{name}>{'true' if getattr(block, field) else 'false'}</{name}>" for name, field in SWITCHES.items()
    )
    return answer(xml.document("PublicAccessBlockConfiguration", rows))
