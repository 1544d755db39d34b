"""PutObjectLockConfiguration: PUT /bucket?object-lock.  Enables the lock, for ever, and sets or ends its default.

The bucket must have its versions enabled.  A default is given to new versions only.
"""

from __future__ import annotations

from typing import Final

from appliance import lock, settings
from appliance.authority import Action
from appliance.errors import Code, StoreError
from s3front import intake, object_lock
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutObjectLockConfiguration"
ACTION: Final = Action.PUT_BUCKET_OBJECT_LOCK_CONFIGURATION
ROUTES: Final = (Route("PUT", Level.BUCKET, "object-lock"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, InvalidRetentionPeriod, InvalidBucketState (versions are not enabled)."""
    document = await intake.document(request)
    if not document:
        raise S3Error("MissingRequestBodyError")
    default = object_lock.parse_configuration(document)
    try:
        await door.store.set_bucket_setting(request.bucket, settings.LOCK, lock.pack_default(default))
    except StoreError as error:
        if error.code is not Code.LOCKED:
            raise
        raise S3Error(
            "InvalidBucketState",
            "Versioning must be 'Enabled' on the bucket to apply a Object Lock configuration",
        ) from error
    return Response(200, [])
