"""DeleteBucket: DELETE /bucket.  Only one without objects goes; uploads in progress go with it, as in AWS.

A client that crashed leaves uploads that no listing of objects shows: they must not keep a bucket that looks empty.
"""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from appliance.errors import Code, StoreError
from appliance.limits import LIST_MAX
from s3front.request import Door, Request
from s3front.response import Response, no_content
from s3front.router import Level, Route

NAME: Final = "DeleteBucket"
ACTION: Final = Action.DELETE_BUCKET
ROUTES: Final = (Route("DELETE", Level.BUCKET),)


async def operate(door: Door, request: Request) -> Response:
    """Raises BucketNotEmpty: an object remains."""
    try:
        await door.store.delete_bucket(request.bucket_name)
    except StoreError as error:
        if error.code is not Code.BUCKET_NOT_EMPTY or not await _abort_uploads(door, request):
            raise
        await door.store.delete_bucket(request.bucket_name)
    return no_content()


async def _abort_uploads(door: Door, request: Request) -> bool:
    """Aborts every upload of a bucket that has no object; whether there was any."""
    page = await door.store.list_objects(request.bucket, b"", b"", b"", 1)
    if page.objects:
        return False
    found = False
    while uploads := door.store.uploads(request.bucket, b"", b"", b"", "", LIST_MAX).uploads:
        found = True
        for upload in uploads:
            try:
                await door.store.abort_upload(upload)
            except StoreError as error:
                if error.code is not Code.NO_SUCH_UPLOAD:  # its owner was faster
                    raise
    return found
