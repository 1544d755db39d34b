"""PutBucketLogging: PUT /bucket?logging.  Turning logging off succeeds, for it is off; turning it on is refused.

The box logs requests in its own log; it delivers none to a bucket, and says so rather than keep a target that nothing
will ever be written to.
"""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front import intake, xml
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutBucketLogging"
ACTION: Final = Action.PUT_BUCKET_LOGGING
ROUTES: Final = (Route("PUT", Level.BUCKET, "logging"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, NotImplemented (a target)."""
    tree = xml.parse(await intake.document(request), "BucketLoggingStatus").only("LoggingEnabled")
    if tree.children:
        raise S3Error("NotImplemented", "Access logs are not delivered to buckets.")
    return Response(200, [])
