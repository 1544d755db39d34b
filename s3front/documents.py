"""Bucket settings as documents: the stored one for a GET, the checked one for a PUT."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from s3front import intake, xml
from s3front.errors import S3Error
from s3front.request import Request

T = TypeVar("T")


def stored(request: Request, name: str, missing: str) -> bytes:
    """The bucket's document under a name of appliance/settings.py.  Raises `missing`, an S3 code."""
    body = request.bucket.settings.get(name)
    if body is None:
        raise S3Error(missing, details=(("BucketName", request.bucket_name),))
    return body


async def posted(request: Request, parse: Callable[[bytes], T], limit: int) -> T:
    """What the request's document of at most `limit` bytes says; a long one is read in a thread.

    Raises what `parse` raises, and what a body can be refused for.
    """
    document = await intake.document(request, limit)
    if len(document) <= xml.PARSE_INLINE_MAX:
        return parse(document)
    return await trio.to_thread.run_sync(parse, document)
