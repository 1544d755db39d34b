"""GetObjectTagging: GET /bucket/key?tagging.  The tags of an object or of one version; none are an empty set."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from appliance.model import MARKER, Node
from s3front import tagging
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Headers, Response, answer
from s3front.router import Level, Route

NAME: Final = "GetObjectTagging"
ACTION: Final = Action.GET_OBJECT_TAGGING
ROUTES: Final = (Route("GET", Level.OBJECT, "tagging"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchKey, NoSuchVersion, MethodNotAllowed (a delete marker has no tags)."""
    node = await door.store.look_up_version(request.bucket, request.key, request.query.get("versionId", ""))
    if request.admission is not None:
        request.admission.recheck(request.key, node)
    refuse_marker(node)
    response = answer(tagging.document(node.attributes.tags))
    response.headers += version_header(request, node)
    return response


def refuse_marker(node: Node) -> None:
    """Raises MethodNotAllowed for a delete marker, which is all that it answers."""
    if node.flags & MARKER:
        raise S3Error("MethodNotAllowed", headers=((b"x-amz-delete-marker", b"true"),))


def version_header(request: Request, node: Node) -> Headers:
    """x-amz-version-id, in a bucket that has or had versions."""
    if settings.VERSIONING not in request.bucket.settings:
        return []
    return [(b"x-amz-version-id", node.version_id.encode())]
