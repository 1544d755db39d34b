"""GetObjectAcl: GET /bucket/key?acl, of the object or of one version."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.access import blocks
from appliance.authority import Action
from s3front import grants
from s3front.operations.get_object_tagging import refuse_marker, version_header
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetObjectAcl"
ACTION: Final = Action.GET_OBJECT_ACL
ROUTES: Final = (Route("GET", Level.OBJECT, "acl"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchKey, NoSuchVersion, MethodNotAllowed (a delete marker has no list)."""
    bucket = request.bucket
    node = await door.store.look_up_version(bucket, request.key, request.query.get("versionId", ""))
    if request.admission is not None:
        request.admission.recheck(request.key, node)
    refuse_marker(node)
    attributes = node.attributes
    owner, held = attributes.owner or bucket.owner, attributes.acl
    if blocks.parse_ownership(bucket.settings.get(settings.OWNERSHIP)) == blocks.ENFORCED:
        owner, held = bucket.owner, ()  # lists count for nothing, and every object is the bucket owner's
    response = answer(grants.document(door.store, owner, held))
    response.headers += version_header(request, node)
    return response
