"""GetBucketEncryption: GET /bucket?encryption.  What new objects get without asking."""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetBucketEncryption"
ACTION: Final = Action.GET_ENCRYPTION_CONFIGURATION
ROUTES: Final = (Route("GET", Level.BUCKET, "encryption"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises ServerSideEncryptionConfigurationNotFoundError."""
    document = request.bucket.settings.get(settings.ENCRYPTION)
    if document is None:
        raise S3Error("ServerSideEncryptionConfigurationNotFoundError", details=(("BucketName", request.bucket_name),))
    return answer(document)
