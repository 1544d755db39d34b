"""The S3 door as one plain ASGI application: authenticate, locate, route, authorize, operate, respond.

The order is the point.  Nothing of a request is believed before its signature held (s3front/verified.py); nothing but
the bucket's name is looked up before the caller was allowed to (appliance/authority.py, H6), so that a stranger learns
nothing from the difference of two errors; and all of that happens here, once, for every operation.  Whatever goes wrong
becomes an S3Error and one XML document.

The application is awaited inline by our connection class and runs unchanged under any ASGI server on trio.  It keeps no
state between requests but counters.  It doesn't know what any operation does.
"""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import trio

from appliance.authority import Action, authorize, owns_plainly
from appliance.errors import Code, StoreError
from s3front import cors, form, form_request, preflight, transfer, website_door, xml
from s3front.admission import admit, admit_source
from s3front.asgi import Receive, Scope, Send
from s3front.conditions import refused
from s3front.errors import S3Error, from_store
from s3front.guessing import GuessSlowdown
from s3front.operations import table
from s3front.request import Door, Request, parse_copy_source
from s3front.response import Response
from s3front.router import COPY_SOURCE, Level
from s3front.target import check_version
from s3front.transfer import BodyTooLarge, ClientGone
from s3front.verified import AuthError, Payload, SignedRequest, Verified, verify, verify_form

if TYPE_CHECKING:
    from appliance.model import AccessKey
    from appliance.store import ObjectStore, Reader

ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]
# operation's name, status, seconds, bytes in, bytes out, S3 code ("" if none)
Observe = Callable[[str, int, float, int, int, str], object]

log: Final = logging.getLogger("tierce.s3")

_EXPECTED_OWNER: Final = b"x-amz-expected-bucket-owner"
_EXPECTED_SOURCE_OWNER: Final = b"x-amz-source-expected-bucket-owner"
_XML: Final = (b"content-type", b"application/xml")


class S3App:
    """One store behind one address.  See `s3_app`."""

    def __init__(
        self,
        store: ObjectStore,
        *,
        region: str,
        unseal: Callable[[AccessKey], str],
        domain: str | None = None,
        website_domain: str | None = None,
        clock: Callable[[], float] = time.time,
        observe: Observe | None = None,
    ) -> None:
        self._door = Door(store, region)
        self._store = store
        self._region = region
        self._unseal = unseal
        self._credentials = store.access_key
        self._suffix = _suffix(domain)
        self._site_suffix = _suffix(website_domain)
        self._clock = clock
        self._observe = observe
        self._router = table.router()
        self._slowdown = GuessSlowdown()
        # Ids are unique, not secret: a random prefix of this process and a count.
        self._prefix = secrets.token_hex(4).upper().encode()
        self._id_2 = secrets.token_urlsafe(24).encode()
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI.  Raises ClientGone when the client left, and what broke a body that had already begun."""
        kind = scope["type"]
        if kind != "http":
            if kind == "lifespan":
                await _lifespan(receive, send)
            else:  # S3 has no WebSockets
                await send({"type": "websocket.close", "code": 1000})
            return
        started = time.perf_counter()
        id = b"%b%08X" % (self._prefix, next(self._numbers))
        name, code, bytes_in = "-", "", 0
        response: Response
        request: Request | None = None
        suffix = self._suffix
        try:
            if self._site_suffix and website_door.serves(scope, self._site_suffix):
                name, suffix = website_door.NAME, self._site_suffix
                visit = website_door.Visit(self._door, scope, receive, suffix, self._clock(), id, self._id_2)
                response = await visit.answer()
            elif scope["method"] == "OPTIONS":  # a browser never signs its preflight
                name = preflight.NAME
                response = preflight.operate(self._door, scope, self._suffix)
            else:
                if scope["method"] == "POST" and form.comes(scope["query_string"], scope["headers"]):
                    request = await form_request.accept(scope, receive, self._admit_form, self._suffix, self._clock())
                else:
                    head = SignedRequest(scope["method"], scope["raw_path"], scope["query_string"], scope["headers"])
                    request = Request(
                        scope, receive, verify(head, self._credentials, self._unseal, self._clock(), self._region)
                    )
                    request.locate(self._suffix)
                operation = self._find(request)
                name = operation.name
                try:
                    admitted = self._admit(operation, request)
                finally:
                    if self._store.telling:  # H5: what the look at the bucket may have shown
                        await self._store.told_of(request.bucket_name)
                if not admitted:
                    await self._judge(operation, request)
                response = await operation.operate(self._door, request)
                bytes_in = request.bytes_in
        except ClientGone:
            self._note(name, 499, started, bytes_in, 0, "ClientGone")
            raise
        except Exception as error:
            failure = self._failure(error, id, request)
            code = failure.code
            if isinstance(error, AuthError) and error.guess:
                await self._slow_down(scope)
            response = error_response(failure, _resource(scope), id)
        if (request is None or cors.ORIGIN in request.headers) and scope["method"] != "OPTIONS":
            response.headers += preflight.headers_for(self._door, scope, suffix)
        try:
            if response.reader is None:
                await self._respond(scope, send, response, id)
            else:
                code = await self._stream(scope, send, response, response.reader, id)
        except BaseException as error:
            code = type(error).__name__  # a body that broke off: the client was told 200 and sees a short answer
            raise
        finally:
            bytes_out = 0 if scope["method"] == "HEAD" else response.length
            self._note(name, response.status, started, bytes_in, bytes_out, code)

    def _admit_form(self, head: SignedRequest, fields: Mapping[str, str], headers: Mapping[bytes, bytes]) -> Verified:
        return verify_form(head, fields, headers, self._credentials, self._unseal, self._clock(), self._region)

    def _find(self, request: Request) -> table.Operation:
        """What the request asks for.  Nobody in particular is not told what there is."""
        try:
            return self._router.find(request.method, request.level, request.query, request.headers)
        except S3Error:
            if request.verified.principal is None:
                raise S3Error("AccessDenied") from None
            raise

    def _admit(self, operation: table.Operation, request: Request) -> bool:
        """What the key may do, then the bucket itself.  True: that was all, for its owner asks where nothing else
        decides, and the request says nothing that is to be judged; False: `_judge` decides."""
        principal = request.verified.principal
        name = request.bucket_name
        if request.verified.payload is Payload.FORM and not operation.form:
            raise S3Error("AccessDenied")  # a policy was signed for an upload and nothing else
        if principal is not None or not operation.needs_bucket:  # what the key may do, before anything is looked up
            authorize(principal, operation.action, name if request.level is not Level.SERVICE else None)
        if operation.copies:
            self._find_source(request)
        if operation.needs_bucket:
            request.bucket = self._store.bucket(name)
        return (
            operation.needs_bucket
            and not operation.copies
            and not request.query
            and owns_plainly(principal, request.bucket)
            and _EXPECTED_OWNER not in request.headers
        )

    async def _judge(self, operation: table.Operation, request: Request) -> None:
        """Authorisation of everything that the request touches."""
        principal = request.verified.principal
        if operation.needs_bucket:
            if not owns_plainly(principal, request.bucket):
                request.admission = await admit(
                    self._door, request, operation.action, self._clock(), each_key=operation.each_key
                )
            if _EXPECTED_OWNER in request.headers:
                _check_owner(request.headers, _EXPECTED_OWNER, request.bucket.owner)
        if operation.copies and not owns_plainly(principal, request.source.bucket):
            request.source.admission = await admit_source(self._door, request, request.source, self._clock())
        version = request.query.get("versionId") if request.query else None
        if version is not None:
            request.version_id = check_version(version)

    def _find_source(self, request: Request) -> None:
        """What a copy reads."""
        source = parse_copy_source(request.headers[COPY_SOURCE])
        principal = request.verified.principal
        if principal is not None:
            authorize(principal, Action.GET_OBJECT, source.bucket_name)
        try:
            source.bucket = self._store.bucket(source.bucket_name)
        except StoreError as error:
            raise from_store(error, source.bucket_name) from error
        _check_owner(request.headers, _EXPECTED_SOURCE_OWNER, source.bucket.owner)
        request.source = source

    def _failure(self, error: Exception, id: bytes, request: Request | None) -> S3Error:
        """What to answer.  Anything but the expected is a bug or a broken device: logged, told as InternalError."""
        if isinstance(error, S3Error):
            return error
        if isinstance(error, StoreError):
            if error.code is Code.PRECONDITION_FAILED and request is not None:
                return refused(request.headers)
            failure = from_store(error) if request is None else from_store(error, request.bucket_name, request.key)
            if failure.status >= 500:  # a full box is no failure of the box
                level = logging.WARNING if error.code is Code.NO_SPACE else logging.ERROR
                log.log(level, "request %s failed: %r", id.decode(), error)
            return failure
        if isinstance(error, BodyTooLarge):
            return S3Error("MaxMessageLengthExceeded")
        log.error("request %s: unexpected %s", id.decode(), type(error).__name__, exc_info=error)
        return S3Error("InternalError")

    async def _slow_down(self, scope: Scope) -> None:
        """Whoever guesses waits, by source address; everybody else is served meanwhile (SECURITY rule 4)."""
        client = scope.get("client")
        delay = self._slowdown.failed(client[0] if client else "", self._clock())
        if delay:
            await trio.sleep(delay)

    def _respond(self, scope: Scope, send: Send, response: Response, id: bytes) -> Awaitable[None]:
        headers = response.headers
        headers.append((b"x-amz-request-id", id))
        headers.append((b"x-amz-id-2", self._id_2))
        if scope["method"] == "HEAD" and response.status != 304:
            headers.append((b"content-length", b"%d" % response.length))
        return transfer.respond(scope, send, response.status, headers, response.body)

    async def _stream(self, scope: Scope, send: Send, response: Response, reader: Reader, id: bytes) -> str:
        """Sends from the reader.  If its very first piece fails, the error is answered; later the connection breaks."""
        headers = [*response.headers, (b"x-amz-request-id", id), (b"x-amz-id-2", self._id_2)]
        pieces = _Pieces(reader.pieces())
        try:
            await transfer.send_pieces(scope, send, response.status, headers, response.length, pieces)
        except StoreError as error:
            failure = self._failure(error, id, None)
            if pieces.begun:
                raise
            await self._respond(scope, send, error_response(failure, _resource(scope), id), id)
            response.status, response.length = failure.status, 0
            return failure.code
        finally:
            reader.close()
        return ""

    def _note(self, name: str, status: int, started: float, bytes_in: int, bytes_out: int, code: str) -> None:
        if self._observe is not None:
            self._observe(name, status, time.perf_counter() - started, bytes_in, bytes_out, code)


def s3_app(
    store: ObjectStore,
    *,
    region: str,
    unseal: Callable[[AccessKey], str],
    domain: str | None = None,
    website_domain: str | None = None,
    clock: Callable[[], float] = time.time,
    observe: Observe | None = None,
) -> S3App:
    """The S3 door over `store`.

    `region` is what clients must sign for; `unseal` gives a key's secret; with `domain` also `bucket.domain` names a
    bucket, and `bucket.website_domain` its website; `clock` gives seconds since the epoch; `observe` is told of every
    request that was answered.
    """
    return S3App(
        store,
        region=region,
        unseal=unseal,
        domain=domain,
        website_domain=website_domain,
        clock=clock,
        observe=observe,
    )


class S3Middleware:
    """S3 before another application: `quart_app.asgi_app = S3Middleware(quart_app.asgi_app, s3)`.

    Every HTTP request is S3's, so that no path of the bucket name space is ever another's.  Only what comes for a
    reserved host (lower case, without port) goes to the inner application, and what is not HTTP (lifespan, WebSocket).
    """

    def __init__(self, inner: Callable[..., Awaitable[Any]], s3: ASGI, reserved_hosts: Collection[str] = ()) -> None:
        self._inner = inner
        self._s3 = s3
        self._reserved = frozenset(host.lower().encode() for host in reserved_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and not (self._reserved and _host(scope) in self._reserved):
            await self._s3(scope, receive, send)
        else:
            await self._inner(scope, receive, send)


class _Pieces:
    """An iterator of pieces that knows whether it ever gave one: until then another answer is possible."""

    __slots__ = ("_pieces", "begun")

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self.begun = False

    def __iter__(self) -> _Pieces:
        return self

    def __next__(self) -> memoryview:
        piece = next(self._pieces)
        self.begun = True
        return piece

    def close(self) -> None:
        transfer.close_pieces(self._pieces)


def error_response(error: S3Error, resource: str, id: bytes) -> Response:
    """The XML of an error.  304 has no document; HEAD's is dropped by whoever sends it."""
    if error.status == 304:
        return Response(304, list(error.headers))
    details = "".join(f"<{name}>{xml.escape_legal(text)}</{name}>" for name, text in error.details)
    body = (
        f"{xml.PROLOGUE}<Error><Code>{error.code}</Code><Message>{xml.escape_legal(error.message)}</Message>{details}"
        f"<Resource>{xml.escape_legal(resource)}</Resource><RequestId>{id.decode()}</RequestId></Error>"
    )
    return Response(error.status, [_XML, *error.headers], body.encode())


def _resource(scope: Scope) -> str:
    """The path as it came: an error may be about its decoding."""
    path: bytes = scope["raw_path"]
    return path.decode("latin-1")


def _check_owner(headers: Mapping[bytes, bytes], name: bytes, owner: str) -> None:
    """x-amz-expected-bucket-owner: the client's own guard against a bucket that changed hands."""
    expected = headers.get(name)
    if expected is not None and expected != owner.encode():
        raise S3Error("AccessDenied")


def _suffix(domain: str | None) -> bytes:
    """What the hosts of a domain end with; empty for none."""
    return b"." + domain.lower().strip(".").encode("idna") if domain else b""


def _host(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name == b"host":
            host: bytes = value.lower()
            return host.rpartition(b":")[0] if b":" in host and not host.endswith(b"]") else host
    return b""


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
