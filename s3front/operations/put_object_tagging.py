"""PutObjectTagging: PUT /bucket/key?tagging.  A new tag set takes the old one's place; the object stays as it is."""

from __future__ import annotations

from typing import Final

import msgspec

from appliance.authority import Action
from appliance.model import Attributes, Node
from s3front import tagging
from s3front.documents import posted
from s3front.operations.get_object_tagging import refuse_marker, version_header
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutObjectTagging"
ACTION: Final = Action.PUT_OBJECT_TAGGING
ROUTES: Final = (Route("PUT", Level.OBJECT, "tagging"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, InvalidTag, NoSuchKey, NoSuchVersion, MethodNotAllowed (a delete marker)."""
    tags = await posted(request, tagging.parse_object, tagging.DOCUMENT_MAX)
    return Response(200, version_header(request, await set_tags(door, request, tags)))


async def set_tags(door: Door, request: Request, tags: dict[str, str]) -> Node:
    """Gives the object or version that the request names these tags."""

    def change(node: Node, attributes: Attributes) -> Attributes:
        refuse_marker(node)
        return msgspec.structs.replace(attributes, tags=tags)

    version = request.query.get("versionId", "")
    return await door.store.change_attributes(request.bucket, request.key, change, version_id=version)
