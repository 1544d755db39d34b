"""PutBucketPolicy: PUT /bucket?policy.  A document is understood whole or refused, and takes the old one's place."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.access import blocks, policy
from appliance.authority import Action
from s3front import intake
from s3front.admission import require_owner
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response, no_content
from s3front.router import Level, Route

NAME: Final = "PutBucketPolicy"
ACTION: Final = Action.PUT_BUCKET_POLICY
ROUTES: Final = (Route("PUT", Level.BUCKET, "policy"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises MissingRequestBodyError, MalformedPolicy, MethodNotAllowed (another user), AccessDenied (a public policy
    where the block forbids one)."""
    require_owner(request)
    body = await intake.document(request)
    if not body:
        raise S3Error("MissingRequestBodyError")
    document = policy.read(body)
    policy.check_resources(document, request.bucket_name)
    block = blocks.parse(request.bucket.settings.get(settings.PUBLIC_ACCESS_BLOCK))
    if block.block_public_policy and document.public:
        raise S3Error("AccessDenied")
    await door.store.set_bucket_setting(request.bucket, settings.POLICY, body)
    return no_content()
