"""Conditions on writes and deletes that need a look at the object first: If-Unmodified-Since.

S3's own conditions compare an ETag, and the commit checks them.  A date can only be compared with the record: so the
record is looked up, the date compared, and the commit bound to exactly that record.  (AWS ignores the header on writes,
which loses what RFC 9110 §13.1.4 promises to a client that sends it.)
"""

from __future__ import annotations

from typing import Final

from appliance.errors import Code, StoreError
from appliance.model import Precondition
from s3front import conditions
from s3front.dates import NS, parse_date
from s3front.request import Door, Request

_HEADER = b"if-unmodified-since"
WRITE: Final = frozenset({b"if-match", b"if-none-match", _HEADER})
"""Headers of a write that concern this module: without them there is no condition."""


async def for_write(door: Door, request: Request) -> Precondition | None:
    """Of PutObject, CopyObject and CompleteMultipartUpload; None without any.  Raises PreconditionFailed."""
    found = conditions.for_write(request.headers)
    return await _since(door, request, found) if _HEADER in request.headers else found


async def for_delete(door: Door, request: Request) -> Precondition | None:
    """Of DeleteObject; None without any.  Raises PreconditionFailed."""
    found = conditions.for_delete(request.headers)
    return await _since(door, request, found) if _HEADER in request.headers else found


async def _since(door: Door, request: Request, found: Precondition | None) -> Precondition | None:
    """`found`, or one that binds the commit to the record as it is.  If-Match takes precedence (RFC 9110 §13.2.2)."""
    moment = parse_date(request.headers[_HEADER].decode("latin-1"))
    if moment is None or found is not None:
        return found
    try:
        node = await door.store.look_up_version(request.bucket, request.key, request.version_id)
    except StoreError as error:
        if error.code in (Code.NO_SUCH_KEY, Code.NO_SUCH_VERSION):
            return None  # nothing there, nothing modified
        raise
    if node.written_ns // NS > moment:
        raise conditions.failed(_HEADER)
    return Precondition(if_match=node.etag, if_written_ns=node.written_ns)
