"""PutPublicAccessBlock: PUT /bucket?publicAccessBlock.  Four switches; what the document does not name is off."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.access import blocks
from appliance.access.blocks import PublicAccessBlock
from appliance.authority import Action
from appliance.limits import KIB
from s3front import xml
from s3front.documents import posted
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutPublicAccessBlock"
ACTION: Final = Action.PUT_BUCKET_PUBLIC_ACCESS_BLOCK
ROUTES: Final = (Route("PUT", Level.BUCKET, "publicAccessBlock"),)

SWITCHES: Final = {
    "BlockPublicAcls": "block_public_acls",
    "IgnorePublicAcls": "ignore_public_acls",
    "BlockPublicPolicy": "block_public_policy",
    "RestrictPublicBuckets": "restrict_public_buckets",
}


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML."""
    block = await posted(request, parse, 8 * KIB)
    await door.store.set_bucket_setting(request.bucket, settings.PUBLIC_ACCESS_BLOCK, blocks.encode(block))
    return Response(200, [])


def parse(document: bytes) -> PublicAccessBlock:
    """Raises MalformedXML: a misspelt switch must not pass for one that is off."""
    tree = xml.parse(document, "PublicAccessBlockConfiguration").only(*SWITCHES)
    values = {}
    for name, field in SWITCHES.items():
        text = (tree.get(name) or "false").strip().lower()
        if text not in ("true", "false"):
            raise xml.malformed(f"{name} is true or false.")
        values[field] = text == "true"
    return PublicAccessBlock(**values)
