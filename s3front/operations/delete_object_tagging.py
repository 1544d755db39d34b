"""DeleteObjectTagging: DELETE /bucket/key?tagging.  The whole tag set goes; without one it is a success too."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front.operations.get_object_tagging import version_header
from s3front.operations.put_object_tagging import set_tags
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "DeleteObjectTagging"
ACTION: Final = Action.DELETE_OBJECT_TAGGING
ROUTES: Final = (Route("DELETE", Level.OBJECT, "tagging"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchKey, NoSuchVersion, MethodNotAllowed (a delete marker)."""
    return Response(204, version_header(request, await set_tags(door, request, {})))
