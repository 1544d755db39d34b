"""PutBucketOwnershipControls: PUT /bucket?ownershipControls.  Whose new objects are, and whether lists count."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.access import acl, blocks
from appliance.authority import Action
from appliance.limits import KIB
from s3front import xml
from s3front.documents import posted
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutBucketOwnershipControls"
ACTION: Final = Action.PUT_BUCKET_OWNERSHIP_CONTROLS
ROUTES: Final = (Route("PUT", Level.BUCKET, "ownershipControls"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, InvalidBucketAclWithObjectOwnership (the bucket's list grants something to others)."""
    ownership = await posted(request, parse, 8 * KIB)
    bucket = request.bucket
    held = bucket.settings.get(settings.ACL)
    if ownership == blocks.ENFORCED and held is not None and acl.parse(held):
        raise S3Error("InvalidBucketAclWithObjectOwnership")
    await door.store.set_bucket_setting(bucket, settings.OWNERSHIP, ownership.encode())
    return Response(200, [])


def parse(document: bytes) -> str:
    """One of blocks.OWNERSHIPS.  Raises MalformedXML."""
    rules = xml.parse(document, "OwnershipControls").only("Rule").children
    if len(rules) != 1:
        raise xml.malformed("There must be one Rule.")
    ownership = rules[0].only("ObjectOwnership").need("ObjectOwnership")
    if ownership not in blocks.OWNERSHIPS:
        raise xml.malformed(f"ObjectOwnership is one of {', '.join(blocks.OWNERSHIPS)}.")
    return ownership
