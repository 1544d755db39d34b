"""PutObjectRetention: PUT /bucket/key?retention.  Begins, prolongs or, with the right to bypass it, ends a retention.

An empty Retention ends one of GOVERNANCE.  COMPLIANCE only ever becomes longer.
"""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front import intake, object_lock, versioned
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutObjectRetention"
ACTION: Final = Action.PUT_OBJECT_RETENTION
ROUTES: Final = (Route("PUT", Level.OBJECT, "retention"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, InvalidRequest (a bucket without object lock), InvalidArgument (a date that is past),
    AccessDenied (weaker than what there is), NoSuchKey, NoSuchVersion, MethodNotAllowed (a delete marker)."""
    object_lock.require(request.bucket)
    document = await intake.document(request)
    if not document:
        raise S3Error("MissingRequestBodyError")
    mode, until_ns = object_lock.parse_retention(document)
    await versioned.look_up(door.store, request.bucket, request.key, request.version_id)
    node = await door.store.set_retention(
        request.bucket,
        request.key,
        mode,
        until_ns,
        version_id=request.version_id,
        bypass=object_lock.bypasses(request.headers),
    )
    return Response(200, versioned.headers(request.bucket, node))
