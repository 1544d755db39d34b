"""PostObject: POST /bucket with a browser's form.  PutObject for those who have a signed policy instead of a key.

The fields were verified and the policy enforced before this is reached (s3front/form_request.py); here the file is
stored, its size bounded by the policy while it comes, and the browser answered as the form wishes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote, quote_from_bytes, urlsplit

import trio

from appliance.authority import Action
from appliance.limits import GATHER_MAX, SINGLE_PUT_MAX
from appliance.model import Body, Checksum, Written
from s3front import checksums, encryption, expiry, grants, metadata, post_policy, transfer, xml
from s3front.body import BodyPlan, BodySink, receive_small
from s3front.encryption import Sealing
from s3front.errors import S3Error
from s3front.form import Form
from s3front.request import Door, Posted, Request
from s3front.response import XML, Headers, Response
from s3front.router import Level, Route
from s3front.verified import Payload

Commit = Callable[[Body, str, Checksum | None], Awaitable[Written]]

NAME: Final = "PostObject"
ACTION: Final = Action.PUT_OBJECT
ROUTES: Final = (Route("POST", Level.BUCKET),)

_STATUSES: Final = {"200": 200, "201": 201}


async def operate(door: Door, request: Request) -> Response:
    """Raises EntityTooLarge and EntityTooSmall (the policy's), what metadata and checksums say, PreconditionFailed (a
    POST that is no form)."""
    if request.verified.payload is not Payload.FORM:
        raise S3Error(
            "PreconditionFailed",
            details=(("Condition", "Bucket POST must be of the enclosure-type multipart/form-data"),),
        )
    attributes = grants.of_new_object(door, request, metadata.from_headers(request.headers))
    sealing = await encryption.for_write(door, request.bucket, request.headers)
    if sealing is not None:
        attributes = encryption.described(attributes, sealing)

    async def commit(body: Body, etag: str, checksum: Checksum | None) -> Written:
        return await door.store.put_object(
            request.bucket,
            request.key,
            body,
            etag if sealing is None else sealing.etag(etag),
            metadata.with_checksum(attributes, checksum),
        )

    written = await _take(door, request, commit, sealing)
    response = _answer(request, written)
    if sealing is not None:
        response.headers += sealing.headers
    if request.bucket.settings:
        response.headers += expiry.headers(request.bucket, request.key, written.size, written.written_ns, attributes)
    return response


async def _take(door: Door, request: Request, commit: Commit, sealing: Sealing | None) -> Written:
    """Receives the file, checks it, commits it."""
    key = None if sealing is None else sealing.key
    file = _File(request.posted)
    default = _algorithm(request)
    expected = checksums.parse(request.headers, False)

    def plan(length: int, *, open_ended: bool) -> BodyPlan:
        return BodyPlan(
            verified=request.verified,
            length=length,
            wire_max=length,
            chunked=False,
            open_ended=open_ended,
            etag=request.bucket.etag,
            algorithm=expected.algorithm or default,
            expected=expected,
        )

    first = await file.read_up_to(GATHER_MAX)
    if file.ended:
        file.check()
        request.bytes_in = len(first)
        small = await receive_small(plan(len(first), open_ended=False), first)
        return await commit(door.store.small_body(small.body, key), small.etag, small.checksum)
    with await door.store.ingest(request.bucket, None, request.key, key) as ingest:
        sink = BodySink(plan(SINGLE_PUT_MAX, open_ended=True), ingest)
        await transfer.pour(file.piece, sink)
        file.check()
        large = await trio.to_thread.run_sync(sink.finish)
        request.bytes_in = large.size
        return await commit(large.body, large.etag, large.checksum)


class _File:
    """A form's file with its size counted."""

    def __init__(self, posted: Posted) -> None:
        self._form: Form = posted.form
        self._policy = posted.policy
        self._ahead: list[bytes] = []
        self.size = 0
        self.ended = False

    async def read_up_to(self, limit: int) -> bytes:
        """The file's beginning: all of it if it has at most `limit` bytes (then `ended`).  What is not all of it comes
        again by `piece`."""
        while not self.ended and self.size <= limit:
            piece = await self._next()
            if piece:
                self._ahead.append(piece)
        return b"".join(self._ahead) if self.ended else b""

    async def piece(self) -> bytes:
        """The next bytes; b"" at the end."""
        if self._ahead:
            return self._ahead.pop(0)
        return b"" if self.ended else await self._next()

    def check(self) -> None:
        """Raises EntityTooSmall for a whole file that the policy would have larger."""
        if self._policy is not None:
            post_policy.check_size_min(self._policy, self.size)

    async def _next(self) -> bytes:
        piece = await self._form.file_piece()
        self.size += len(piece)
        self.ended = not piece
        if self._policy is not None:
            post_policy.check_size_max(self._policy, self.size)
        if self.size > SINGLE_PUT_MAX:
            raise S3Error("EntityTooLarge", details=(("MaxSizeAllowed", str(SINGLE_PUT_MAX)),))
        return piece


def _algorithm(request: Request) -> str:
    """The checksum to compute where the form promises none."""
    named = request.headers.get(b"x-amz-checksum-algorithm")
    if named is None:
        return checksums.DEFAULT
    name = named.decode("latin-1").upper()
    if name not in checksums.ALGORITHMS:
        raise S3Error("InvalidRequest", "Value for x-amz-checksum-algorithm is invalid.")
    return name


def _answer(request: Request, written: Written) -> Response:
    """As the form wishes: a redirection, a document, or nothing."""
    fields = request.posted.form.fields
    location = _location(request)
    headers: Headers = [(b"etag", b'"%b"' % written.etag.encode()), (b"location", location.encode())]
    if written.version_id:
        headers.append((b"x-amz-version-id", written.version_id.encode()))
    wish = fields.get("success_action_redirect") or fields.get("redirect") or ""
    target = _redirection(wish, request, written.etag)
    if target is not None:
        headers[1] = (b"location", target)
        return Response(303, headers)
    status = _STATUSES.get(fields.get("success_action_status", ""), 204)
    if status != 201:
        return Response(status, headers)
    document = (
        f"{xml.PROLOGUE}<PostResponse>{xml.element('Location', location)}"
        f"{xml.element('Bucket', request.bucket_name)}<Key>{xml.escape_key(request.key)}</Key>"
        f"<ETag>&quot;{written.etag}&quot;</ETag></PostResponse>"
    )
    return Response(201, [XML, *headers], document.encode())


def _location(request: Request) -> str:
    scheme = request.scope.get("scheme", "http")
    host = request.headers.get(b"host", b"").decode("latin-1")
    path = request.verified.path.decode("latin-1").rstrip("/")
    return f"{scheme}://{host}{path}/{quote_from_bytes(request.key)}"


def _redirection(url: str, request: Request, etag: str) -> bytes | None:
    """The URL with what was stored in its query; None if it is no URL: S3 then answers as if none had been given."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.netloc or not url.isprintable() or " " in url:
        return None
    query = f"bucket={quote(request.bucket_name, '')}&key={quote_from_bytes(request.key, '')}&etag=%22{etag}%22"
    base, _, fragment = url.partition("#")
    joined = f"{base}{'&' if parts.query else '?'}{query}{'#' + fragment if fragment else ''}"
    return quote(joined, safe="!#$%&'()*+,/:;=?@[]~").encode()
