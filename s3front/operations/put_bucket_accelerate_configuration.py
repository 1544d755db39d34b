"""PutBucketAccelerateConfiguration: PUT /bucket?accelerate.

Acceleration is another way to the same bucket, by a host name that only AWS has; on one box every way is the shortest.
So the status is kept and shown, and asks for nothing that is not there.
"""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.authority import Action
from s3front import intake, xml
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutBucketAccelerateConfiguration"
ACTION: Final = Action.PUT_ACCELERATE_CONFIGURATION
ROUTES: Final = (Route("PUT", Level.BUCKET, "accelerate"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, InvalidRequest (a dot in the bucket's name)."""
    tree = xml.parse(await intake.document(request), "AccelerateConfiguration").only("Status")
    status = tree.need("Status")
    if status not in ("Enabled", "Suspended"):
        raise xml.malformed("Status is Enabled or Suspended.")
    if "." in request.bucket_name:
        raise S3Error(
            "InvalidRequest", "S3 Transfer Acceleration is not supported for buckets with periods (.) in their names"
        )
    await door.store.set_bucket_setting(request.bucket, settings.ACCELERATE, status.encode())
    return Response(200, [])
