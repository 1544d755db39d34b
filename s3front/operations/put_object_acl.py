"""PutObjectAcl: PUT /bucket/key?acl.  A new list takes the old one's place; bytes, ETag and date stay."""

from __future__ import annotations

from typing import Final

import msgspec

from appliance.access import acl
from appliance.authority import Action
from appliance.model import Attributes, Node
from s3front import grants
from s3front.errors import S3Error
from s3front.operations.get_object_tagging import refuse_marker, version_header
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutObjectAcl"
ACTION: Final = Action.PUT_OBJECT_ACL
ROUTES: Final = (Route("PUT", Level.OBJECT, "acl"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchKey, NoSuchVersion, MethodNotAllowed (a delete marker), and what `grants.asked_for` says."""
    bucket, version = request.bucket, request.query.get("versionId", "")
    node = await door.store.look_up_version(bucket, request.key, version)
    refuse_marker(node)
    owner = node.attributes.owner
    asked = await grants.asked_for(door, request, owner or bucket.owner)

    def change(node: Node, attributes: Attributes) -> Attributes:
        """In the very state that is changed: whose it is, and whether the caller still may."""
        refuse_marker(node)
        if request.admission is not None:
            request.admission.recheck(request.key, node)
        if attributes.owner != owner:
            raise S3Error("OperationAborted")  # another object, since the list was understood
        return msgspec.structs.replace(attributes, acl=acl.kept(asked, owner or bucket.owner))

    node = await door.store.change_attributes(bucket, request.key, change, version_id=version)
    return Response(200, version_header(request, node))
