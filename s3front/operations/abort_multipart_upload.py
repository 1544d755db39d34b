"""AbortMultipartUpload: DELETE /bucket/key?uploadId=….  Its parts' space is free again."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front.request import Door, Request
from s3front.response import Response, no_content
from s3front.router import Level, Route

NAME: Final = "AbortMultipartUpload"
ACTION: Final = Action.ABORT_MULTIPART_UPLOAD
ROUTES: Final = (Route("DELETE", Level.OBJECT, "uploadId"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchUpload."""
    await door.store.abort_upload(door.store.upload(request.bucket, request.key, request.query["uploadId"]))
    return no_content()
