"""A request's body, checked, into the store: the two ways of body.py, chosen by size.

Up to limits.GATHER_MAX a body is read whole and joins its batch's one write.  Longer ones go whole to a worker thread,
which receives straight into the ingest's buffers (transfer.read_body).  Either way `commit` is called only after every
promise about the body held, and what no commit took is forfeited.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from appliance.limits import GATHER_MAX, XML_MAX
from appliance.model import Body, Checksum
from s3front import checksums, transfer
from s3front.body import INLINE_HASH_MAX, BodyPlan, BodySink, finish_small, plan_body, receive_small
from s3front.encryption import Sealing
from s3front.errors import S3Error
from s3front.request import Door, Request

T = TypeVar("T")
Commit = Callable[[Body, str, Checksum | None], Awaitable[T]]


def plan(request: Request, *, default: str = checksums.DEFAULT, limit: int) -> BodyPlan:
    """What is promised about the body of a new object or part.  Raises S3Error before a byte is read."""
    result = plan_body(
        request.verified,
        request.headers,
        content_length(request),
        etag=request.bucket.etag,
        default=default,
        limit=limit,
        open_ended=b"transfer-encoding" in request.headers,
    )
    request.bytes_in = 0 if result.open_ended else result.length
    return result


async def take(door: Door, request: Request, plan: BodyPlan, commit: Commit[T], sealing: Sealing | None = None) -> T:
    """Receives, checks, encrypts if there is a `sealing`, then `commit(body, etag, checksum)`, whose result is
    returned."""
    key = None if sealing is None else sealing.key
    if plan.length <= GATHER_MAX:
        data = await transfer.read_small(request.scope, request.receive, plan.wire_max)
        small = finish_small(plan, data) if len(data) <= INLINE_HASH_MAX else await receive_small(plan, data)
        return await commit(door.store.small_body(small.body, key), small.etag, small.checksum)
    size = None if plan.open_ended else plan.length
    with await door.store.ingest(request.bucket, size, request.key, key) as ingest:
        sink = BodySink(plan, ingest)
        await transfer.read_body(request.scope, request.receive, _Bounded(sink, plan))
        large = await trio.to_thread.run_sync(sink.finish)
        request.bytes_in = large.size
        return await commit(large.body, large.etag, large.checksum)


async def document(request: Request, limit: int = XML_MAX, *, of_object: bool = False) -> bytes:
    """A request's XML, checked like any other body; b"" for none.

    `of_object`: checksum headers are about the object that the request makes, not about the document.  Read once: a
    condition of a policy may have asked for it before the operation does.
    """
    if request.document is None:
        request.document = await _document(request, limit, of_object)
    return request.document


async def _document(request: Request, limit: int, of_object: bool) -> bytes:
    length = content_length(request)
    if length == 0 or (length is None and b"transfer-encoding" not in request.headers):
        return b""
    if length is not None and length > limit and b"x-amz-decoded-content-length" not in request.headers:
        raise S3Error("MaxMessageLengthExceeded")  # as AWS calls a document, not an object, that is too large
    headers = request.headers
    if of_object:
        headers = {name: value for name, value in headers.items() if name not in checksums.BY_HEADER}
    plan = plan_body(request.verified, headers, length, etag="none", default="", limit=limit)
    request.bytes_in = plan.length
    data = await transfer.read_small(request.scope, request.receive, plan.wire_max)
    return (await receive_small(plan, data)).body


def content_length(request: Request) -> int | None:
    """HTTP's own; None for a chunked body."""
    value = request.headers.get(b"content-length")
    if value is None:
        return None
    if not value.isdigit() or len(value) > 18:
        raise S3Error("InvalidArgument", "Content-Length must be a number of bytes.")
    return int(value)


class _Bounded:
    """A sink that refuses bytes beyond those announced, whatever the transfer's framing lets through."""

    __slots__ = ("_plan", "_sink")

    def __init__(self, sink: BodySink, plan: BodyPlan) -> None:
        self._sink = sink
        self._plan = plan

    def room(self) -> memoryview:
        view = self._sink.room()
        if not view:
            if self._plan.open_ended:
                raise S3Error("EntityTooLarge", details=(("MaxSizeAllowed", str(self._plan.length)),))
            raise S3Error("IncompleteBody", "The body is longer than was announced.")
        return view

    def filled(self, n: int) -> None:
        self._sink.filled(n)
