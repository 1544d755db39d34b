"""One HTTP/1.1 connection: one task, heads by `head.py`, the ASGI application awaited inline.

Theory: what makes a small request dear in an ASGI server is not HTTP but hand-overs: a nursery, a task and a channel
per request.  Here `receive` and `send` are methods that use the socket themselves, so that a request whose bytes are
there costs no task switch.  Plain connections use the stdlib socket's verbs (non-blocking, then wait); TLS goes
through trio.SSLStream on the same path.  HTTP/2 and WebSocket are handed to hypercorn's own server with all bytes
read so far.

Deliberately unknown here: S3 (but for the shape of its error document), routes, credentials.
"""

from __future__ import annotations

import logging
from typing import Any, Final, cast
from urllib.parse import unquote

import trio
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr

from appliance.limits import HEADER_BLOCK_MAX
from s3front.door import Door
from s3front.exchange import COMPLETE, NONE, STARTED, Exchange
from s3front.head import END_OF_HEAD, HTTP2_PREFACE, Head, HeadError, oversized, parse_head
from s3front.transfer import EXTENSION, ClientGone
from s3front.wire import READ_SIZE, Stream

logger: Final = logging.getLogger(__name__)

ROW_MAX: Final = 4  # requests of one connection in a row before others have a turn: 0.2 ms

_CODES: Final = {
    400: "BadRequest",
    408: "RequestTimeout",
    413: "EntityTooLarge",
    414: "RequestURITooLong",
    417: "ExpectationFailed",
    431: "RequestHeaderSectionTooLarge",
    500: "InternalError",
    501: "NotImplemented",
    503: "SlowDown",
    505: "HTTPVersionNotSupported",
}
_ASGI: Final = {"version": "3.0", "spec_version": "2.4"}
_ESCAPES: Final = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}
_UNKNOWN: Final = Head(
    method="",
    target=b"",
    path=b"",
    query=b"",
    headers=[],
    minor=1,
    content_length=None,
    chunked=False,
    expect=False,
    keep_alive=False,
    upgrade=b"",
)


class Connection(Exchange):
    """One accepted stream.  Create it and await `run`."""

    def __init__(self, door: Door, stream: Stream) -> None:
        super().__init__(door, stream)
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int] | None = None
        self.misread = False  # where requests begin is no longer known

    async def run(self) -> None:
        """Serves requests until either side closes."""
        door = self.door
        if door.closing:
            return
        door.connections.add(self)
        try:
            if self.tls is not None:
                with trio.move_on_after(door.limits.handshake_timeout) as scope:
                    await self.tls.do_handshake()
                if scope.cancelled_caught:
                    return
                if self.tls.selected_alpn_protocol() == "h2":
                    await self._hand_over(b"")
                    return
            family = self.sock.family
            self.client = parse_socket_addr(family, cast(Any, self.sock.getpeername()))
            self.server = parse_socket_addr(family, cast(Any, self.sock.getsockname()))
            if len(door.connections) > door.limits.connections_max:
                await self._refuse(503, "Too many connections.")
            else:
                await self._serve()
            await self._close()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            logger.debug("connection lost: %r", error)
        except Exception:
            logger.exception("connection failed")
        finally:
            door.connections.discard(self)

    async def _serve(self) -> None:
        door = self.door
        app = door.app
        https = "https" if self.tls is not None else "http"
        buffered = b""
        row = 0
        while True:
            end = buffered.find(END_OF_HEAD)
            if end < 0:
                buffered = await self._read_head(buffered)
                if not buffered:
                    return
                end = buffered.find(END_OF_HEAD)
            elif door.closing:
                return
            try:
                if end and buffered.startswith(b"\r\n"):  # RFC 9112 §2.2: one empty line is forgiven
                    buffered = buffered[2:]
                    end -= 2
                head = parse_head(buffered[: end + 4])
            except HeadError as error:
                if buffered.startswith(HTTP2_PREFACE) and door.http2:
                    await self._hand_over(buffered)
                    return
                await self._refuse(error.status, error.message)
                return
            if head.upgrade == b"websocket" and head.method == "GET" and door.websocket:
                await self._hand_over(buffered)
                return
            self.rest = buffered[end + 4 :]
            self.begin(head)
            path = head.path.decode("ascii")
            scope = {
                "type": "http",
                "asgi": _ASGI,
                "http_version": "1.1" if head.minor else "1.0",
                "method": head.method,
                "scheme": https,
                "path": unquote(path) if "%" in path else path,
                "raw_path": head.path,
                "query_string": head.query,
                "root_path": "",
                "headers": head.headers,
                "client": self.client,
                "server": self.server,
                "state": door.state.copy(),
                "extensions": {EXTENSION: self},
            }
            try:
                await app(scope, self.receive, self.send)
            except Exception as error:
                if not await self._failed(error):
                    return
            if self.phase != COMPLETE:
                if self.refusal is not None or self.gone:
                    await self._answer_refusal()
                elif self.phase == STARTED:
                    logger.error("the application left a response to %s %r unfinished", head.method, head.target)
                else:
                    logger.error("the application gave no response to %s %r", head.method, head.target)
                    await self._refuse(500, "We encountered an internal error. Please try again.")
                return
            if not self.keep_alive or self.gone:
                return
            if (self.left or self.chunked) and not await self._drain():
                return
            buffered = bytes(self.rest)
            if buffered:
                row += 1
                if row % ROW_MAX == 0:
                    await trio.lowlevel.checkpoint()

    async def _failed(self, error: Exception) -> bool:
        """The application raised: True if the connection can go on (the response was whole and the peer is there)."""
        if _is_client_gone(error):
            await self._answer_refusal()
            return False
        head = self.head
        assert head is not None
        logger.error("the application failed on %s %r", head.method, head.target, exc_info=error)
        if self.phase == COMPLETE:
            return True
        if self.phase != STARTED:
            await self._refuse(500, "We encountered an internal error. Please try again.")
        return False

    async def _answer_refusal(self) -> None:
        """Tells a peer what was wrong with its body, if it can still listen and heard nothing else."""
        if self.refusal is not None and self.phase < STARTED:
            await self._refuse(self.refusal.status, self.refusal.message, self.refusal.code)

    async def _read_head(self, buffered: bytes) -> bytes:
        """Bytes that hold a whole head; b"" if the connection is to be closed (what was to be said has been said)."""
        limits = self.door.limits
        deadline = trio.current_time()
        deadline += limits.header_timeout if buffered else limits.keep_alive_timeout
        while True:
            if len(buffered) > HEADER_BLOCK_MAX:
                error = oversized(buffered)
                await self._refuse(error.status, error.message)
                return b""
            if self.door.closing:
                return b""
            self.idle = True
            try:
                data = await self._receive_some(READ_SIZE, deadline)
            except trio.ClosedResourceError:  # woken
                if buffered and not self.door.closing:
                    await self._refuse(408, "The request head did not arrive in time.")
                return b""
            finally:
                self.idle = False
            if not data:
                return b""
            if not buffered:
                if END_OF_HEAD in data:
                    return data
                deadline = trio.current_time() + limits.header_timeout
            searched = max(len(buffered) - 3, 0)
            buffered = buffered + data if buffered else data
            if buffered.find(END_OF_HEAD, searched) >= 0:
                return buffered

    async def _hand_over(self, data: bytes) -> None:
        """hypercorn's own server takes the connection, beginning with `data`."""
        door = self.door
        if door.wrapped is None or door.config is None or door.context is None:
            return
        stream = cast(Any, _Replay(self.stream, data))
        await TCPServer(door.wrapped, door.config, door.context, ConnectionState(door.state), stream)

    async def _close(self) -> None:
        """Closes after the last response; reads on for a moment if the peer is still sending."""
        if self.gone:
            return
        if self.left or self.chunked or self.misread:
            await self._linger()
        elif self.tls is not None:
            with trio.move_on_after(self.door.limits.linger_timeout):
                await self.tls.aclose()

    async def _drain(self) -> bool:
        """Drops the rest of a request's body; False if that takes too long or too much."""
        budget = self.door.limits.drain_max
        try:
            while budget > 0:
                n = len(await self._body(READ_SIZE))
                if n == 0:
                    return True
                budget -= n
        except ClientGone:
            return False
        return not (self.left or self.chunked)

    async def _refuse(self, status: int, message: str, code: str = "") -> None:
        """Answers an error by itself, S3's document in the body; the connection closes after it."""
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code or _CODES[status]}</Code>'
            f"<Message>{message.translate(_ESCAPES)}</Message></Error>"
        ).encode()
        if self.head is None:
            self.head = _UNKNOWN
        self.misread = status not in (500, 503)
        self.keep_alive = False
        self.gone = False
        self.phase = NONE
        await self.respond(status, [(b"content-type", b"application/xml")], body)


class _Replay:
    """A stream whose first bytes were already read; the rest of it is the stream itself."""

    def __init__(self, stream: Stream, data: bytes) -> None:
        self._stream = stream
        self._data = data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As trio.abc.ReceiveStream."""
        if self._data:
            await trio.lowlevel.checkpoint()
            data, self._data = self._data, b""
            return data
        return await self._stream.receive_some(max_bytes)


def _is_client_gone(error: BaseException) -> bool:
    """True if nothing but the peer's leaving is in it (nurseries wrap what they raise)."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_client_gone(one) for one in error.exceptions)
    return isinstance(error, ClientGone)
