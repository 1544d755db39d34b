"""PutObjectLegalHold: PUT /bucket/key?legal-hold.  Holds a version until somebody ends the hold, whatever the time."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front import intake, object_lock, versioned
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutObjectLegalHold"
ACTION: Final = Action.PUT_OBJECT_LEGAL_HOLD
ROUTES: Final = (Route("PUT", Level.OBJECT, "legal-hold"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, InvalidRequest (a bucket without object lock), NoSuchKey, NoSuchVersion, MethodNotAllowed (a
    delete marker)."""
    object_lock.require(request.bucket)
    document = await intake.document(request)
    if not document:
        raise S3Error("MissingRequestBodyError")
    status = object_lock.parse_hold(document)
    await versioned.look_up(door.store, request.bucket, request.key, request.version_id)
    node = await door.store.set_legal_hold(request.bucket, request.key, status, version_id=request.version_id)
    return Response(200, versioned.headers(request.bucket, node))
