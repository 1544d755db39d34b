"""PutBucketNotificationConfiguration: PUT /bucket?notification.  Taking all away succeeds, for there are none."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front import intake, xml
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutBucketNotificationConfiguration"
ACTION: Final = Action.PUT_BUCKET_NOTIFICATION
ROUTES: Final = (Route("PUT", Level.BUCKET, "notification"),)

_KINDS: Final = (
    "TopicConfiguration",
    "QueueConfiguration",
    "CloudFunctionConfiguration",
    "EventBridgeConfiguration",
)


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, NotImplemented (any notification)."""
    tree = xml.parse(await intake.document(request), "NotificationConfiguration").only(*_KINDS)
    if tree.children:
        raise S3Error("NotImplemented", "There is nobody here whom a bucket could notify.")
    return Response(200, [])
