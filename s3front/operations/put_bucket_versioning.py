"""PutBucketVersioning: PUT /bucket?versioning.  From here on a write keeps what it replaces, or no longer does.

MFA Delete needs a device that only AWS's root users have: asking for it is refused, so that nobody believes to have it.
"""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from appliance.errors import Code, StoreError
from s3front import intake, xml
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutBucketVersioning"
ACTION: Final = Action.PUT_BUCKET_VERSIONING
ROUTES: Final = (Route("PUT", Level.BUCKET, "versioning"),)

_STATES: Final = {"Enabled": settings.ENABLED, "Suspended": settings.SUSPENDED}


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, IllegalVersioningConfigurationException (no status), NotImplemented (MFA Delete),
    InvalidBucketState (suspended under object lock)."""
    document = await intake.document(request)
    if not document:
        raise S3Error("MissingRequestBodyError")
    try:
        await door.store.set_bucket_setting(request.bucket, settings.VERSIONING, parse(document))
    except StoreError as error:
        if error.code is Code.LOCKED:
            raise S3Error(
                "InvalidBucketState",
                "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.",
            ) from error
        raise
    return Response(200, [])


def parse(document: bytes) -> bytes:
    """The state asked for."""
    tree = xml.parse(document, "VersioningConfiguration").only("Status", "MfaDelete", "MFADelete")
    status, mfa = tree.get("Status"), tree.get("MfaDelete") or tree.get("MFADelete") or "Disabled"
    if mfa not in ("Enabled", "Disabled"):
        raise xml.malformed("MfaDelete must be Enabled or Disabled.")
    if mfa == "Enabled":
        raise S3Error("NotImplemented", "MFA Delete is not implemented.", details=(("Header", "x-amz-mfa"),))
    if status is None:
        raise S3Error("IllegalVersioningConfigurationException")
    if status not in _STATES:
        raise xml.malformed("Status must be Enabled or Suspended.")
    return _STATES[status]
