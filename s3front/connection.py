"""One HTTP/1.1 connection: one task, heads by `head.py`, the ASGI application awaited inline.

Theory: what makes a small request dear in an ASGI server is not HTTP but hand-overs: a nursery, a task and a channel
per request.  Here `receive` and `send` are methods that use the socket themselves, so that a request whose bytes are
there costs no task switch.  Plain connections use the stdlib socket's verbs (non-blocking, then wait); TLS goes
through trio.SSLStream on the same path.  HTTP/2 and WebSocket are handed to hypercorn's own server with all bytes
read so far.

Time: no cancel scope per wait.  A waiting connection notes its `deadline`; `Door.sweep` looks at all of them about
once a second and wakes those overdue by `notify_closing`.  The same call wakes idle connections at shutdown.  A task
that was already woken by bytes is not disturbed by it, so a request that arrived is never cancelled half-way.

What an application sees when the peer leaves: `receive()` yields `http.disconnect` (after the body, as soon as the
peer closes); `send()` and the extension's verbs raise ClientGone, an OSError.  The application is never cancelled
because of the peer; it is cancelled when the graceful period of a shutdown ends.  An application that answers before
it read the body: a rest of up to `drain_max` bytes is read and dropped; with more, or with an unanswered `Expect:
100-continue`, the response says `Connection: close`.  `100 Continue` is sent when the application first asks for the
body.

The extension `tierce.connection` in the scope is the Connection itself; an application may use of it `body_left`,
`receive_into`, `receive_all`, `respond`, `pump_in` and `pump_out`, and nothing else.

Deliberately unknown here: S3 (but for the shape of its error document), routes, credentials.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, cast
from urllib.parse import unquote
from wsgiref.handlers import format_date_time

import trio
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr
from trio.lowlevel import notify_closing, wait_readable, wait_writable

from appliance.limits import HEADER_BLOCK_MAX
from s3front.door import Door
from s3front.head import (
    CHUNK_LINE_MAX,
    END_OF_HEAD,
    HTTP2_PREFACE,
    TRAILERS_MAX,
    Head,
    HeadError,
    chunk_size,
    oversized,
    parse_head,
    render_reply,
)
from s3front.transfer import (
    EXTENSION,
    BodyLengthError,
    BodyTooLarge,
    ClientGone,
    Inflow,
    Outflow,
    Pause,
    Sink,
    close_pieces,
    drip,
    pour,
)

logger: Final = logging.getLogger(__name__)

Message = dict[str, Any]
Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

READ_SIZE: Final = 64 << 10  # one read: a head with a small body in one go
BODY_READ_SIZE: Final = 256 << 10  # one read of `receive()`
ROW_MAX: Final = 4  # requests of one connection in a row before others have a turn: 0.2 ms
TLS_WRITE_SIZE: Final = 64 << 10  # bytes between two looks at the clock
SEND_LOW_WATER: Final = 1 << 20  # trio's 16 KiB starves a large body: it halves its throughput on loopback

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


# The life of a response
_NONE, _HELD, _STARTED, _COMPLETE = range(4)


class Connection:
    """One accepted stream.  Create it and await `run`."""

    def __init__(self, door: Door, stream: Stream) -> None:
        self.door = door
        self.stream = stream
        self.tls: trio.SSLStream[trio.SocketStream] | None = None
        if isinstance(stream, trio.SSLStream):
            self.tls = stream
            transport = stream.transport_stream
        else:
            transport = stream
        # trio's socket hides the verbs that neither suspend nor raise WouldBlock: the stdlib socket below it has them
        self.sock: socket.socket = cast(Any, transport.socket)._sock
        self.fd = self.sock.fileno()
        self.deadline = math.inf  # when `sweep` wakes this connection; infinite unless it waits
        self.idle = False  # waiting for a head: a shutdown may close
        self.rest: bytes | bytearray = b""  # read from the peer and not yet used
        self.head: Head | None = None
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int] | None = None
        # the request's body
        self.left = 0  # bytes due of the body, or of the current chunk
        self.chunked = False  # more chunks follow
        self.chunk_open = False  # the CRLF after a chunk's bytes is due
        self.expect = False  # 100 Continue is due
        self.told_end = False  # receive() said more_body=False
        self.refusal: HeadError | None = None  # what was wrong with the body
        self.misread = False  # where requests begin is no longer known
        self.gone = False
        # the response
        self.phase = _NONE
        self.held: Message | None = None
        self.keep_alive = True
        self.out_left: int | None = None  # bytes due by Content-Length; None: chunked or until close
        self.out_chunked = False
        self.bodiless = False
        # patience with the peer in this request
        self.moved = 0
        self.waited = 0.0
        self.watching = False  # receive() waits for the peer to close
        self.done: trio.Event | None = None

    # ------------------------------------------------------------------------------------------------------- its life
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

    def wake(self) -> None:
        """Ends a wait of this connection; nothing happens if its bytes were faster."""
        notify_closing(self.fd)

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
            self._begin(head)
            path = head.path.decode("ascii")
            scope = {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.4"},
                "http_version": head.http_version,
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
            if self.phase != _COMPLETE:
                if self.refusal is not None or self.gone:
                    await self._answer_refusal()
                elif self.phase == _STARTED:
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
            if not buffered and self.tls is None and not door.closing:
                try:
                    buffered = self.sock.recv(READ_SIZE)  # a quick client's next request may be here already
                except BlockingIOError:
                    pass
                else:
                    if not buffered:
                        return
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
        if self.phase == _COMPLETE:
            return True
        if self.phase != _STARTED:
            await self._refuse(500, "We encountered an internal error. Please try again.")
        return False

    async def _answer_refusal(self) -> None:
        """Tells a peer what was wrong with its body, if it can still listen and heard nothing else."""
        if self.refusal is not None and self.phase < _STARTED:
            await self._refuse(self.refusal.status, self.refusal.message)

    def _begin(self, head: Head) -> None:
        self.head = head
        self.left = head.content_length or 0
        self.chunked = head.chunked
        if head.chunked:
            self.rest = bytearray(self.rest)  # its front is cut off in constant time: chunks may be tiny
            self.chunk_open = False
        self.expect = head.expect
        self.told_end = False
        self.phase = _NONE
        self.held = None
        self.keep_alive = head.keep_alive
        self.moved = 0
        self.waited = 0.0
        self.done = None

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

    async def _linger(self) -> None:
        """RFC 9112 §9.6: closing over unread bytes resets the connection, which may destroy the response."""
        limits = self.door.limits
        self.sock.shutdown(socket.SHUT_WR)
        budget = limits.linger_max
        with trio.move_on_after(limits.linger_timeout):
            while budget > 0:
                await wait_readable(self.fd)
                n = len(self.sock.recv(READ_SIZE))
                if n == 0:
                    return
                budget -= n

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

    async def _refuse(self, status: int, message: str) -> None:
        """Answers an error by itself, S3's document in the body; the connection closes after it."""
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{_CODES[status]}</Code>'
            f"<Message>{message.translate(_ESCAPES)}</Message></Error>"
        ).encode()
        if self.head is None:
            self.head = _UNKNOWN
        self.misread = status not in (500, 503)
        self.keep_alive = False
        self.gone = False
        self.phase = _NONE
        await self.respond(status, [(b"content-type", b"application/xml")], body)

    # ------------------------------------------------------------------------------------------ bytes from the peer
    async def _receive_some(self, size: int, deadline: float) -> bytes:
        """Waits, then reads at most `size` bytes; b"" when the peer has closed.  ClosedResourceError: woken."""
        self.deadline = deadline
        try:
            if self.tls is not None:
                try:
                    return bytes(await self.tls.receive_some(size))
                except trio.BrokenResourceError:
                    return b""
            while True:
                await wait_readable(self.fd)
                try:
                    return self.sock.recv(size)
                except BlockingIOError:
                    continue
                except OSError:
                    return b""
        finally:
            self.deadline = math.inf

    def _patience(self) -> float:
        """Until when to wait for the peer now: it must not stall, nor be slower in all than `rate_min`."""
        limits = self.door.limits
        return trio.current_time() + min(
            limits.stall_timeout, limits.stall_timeout + self.moved / limits.rate_min - self.waited
        )

    async def _wait(self, ready: Callable[[int], Awaitable[None]]) -> None:
        """Waits for the plain socket within the peer's patience.  Raises ClientGone."""
        started = trio.current_time()
        self.deadline = self._patience()
        try:
            await ready(self.fd)
        except trio.ClosedResourceError:
            raise self._stalled() from None
        finally:
            self.deadline = math.inf
            self.waited += trio.current_time() - started

    def _stalled(self) -> ClientGone:
        self.gone = True
        self.refusal = HeadError(408, "The client was too slow.")
        return ClientGone("The client was too slow.")

    def _left_early(self) -> ClientGone:
        self.gone = True
        return ClientGone("The client closed the connection.")

    def _malformed(self, message: str) -> ClientGone:
        self.gone = True
        self.refusal = HeadError(400, message)
        return ClientGone(message)

    async def _read(self, size: int) -> bytes:
        """At least one byte of a body from the peer.  Raises ClientGone."""
        if self.tls is not None:
            started = trio.current_time()
            try:
                data = await self._receive_some(size, self._patience())
            except trio.ClosedResourceError:
                raise self._stalled() from None
            finally:
                self.waited += trio.current_time() - started
        else:
            while True:
                try:
                    data = self.sock.recv(size)
                    break
                except BlockingIOError:
                    await self._wait(wait_readable)
                except OSError:
                    data = b""
                    break
        if not data:
            raise self._left_early()
        self.moved += len(data)
        return data

    async def _ask(self) -> None:
        """The application wants the body: before its first byte the peer may be waiting for our word."""
        if self.gone:
            raise ClientGone("The client closed the connection.")
        if self.expect:
            self.expect = False
            if self.phase < _STARTED and not self.rest:  # a body already on its way needs no invitation
                await self._write((b"HTTP/1.1 100 Continue\r\n\r\n",))

    async def _body(self, size: int) -> bytes:
        """Some bytes of the request's body, at most `size`; b"" at its end.  Raises ClientGone."""
        await self._ask()
        while not self.left:
            if not self.chunked:
                return b""
            await self._next_chunk()
        rest = self.rest
        if not rest:
            if self.chunked:
                self.rest = rest = bytearray(await self._read(READ_SIZE))
            else:
                data = await self._read(min(size, self.left))
                self.left -= len(data)
                return data
        n = min(size, self.left, len(rest))
        data = bytes(rest[:n])
        self._cut(n)
        self.left -= n
        return data

    def _cut(self, n: int) -> None:
        """Drops `n` bytes from the front of `rest`."""
        if isinstance(self.rest, bytearray):
            del self.rest[:n]
        else:
            self.rest = self.rest[n:]

    async def _next_chunk(self) -> None:
        """Reads the line that opens the next chunk; after the last one also the trailers, which are dropped."""
        if self.chunk_open:
            while len(self.rest) < 2:
                self.rest += await self._read(READ_SIZE)
            if self.rest[:2] != b"\r\n":
                raise self._malformed("A chunk does not end where its size says.")
            self._cut(2)
            self.chunk_open = False
        try:
            self.left = chunk_size(await self._line(CHUNK_LINE_MAX))
        except HeadError as error:
            raise self._malformed(error.message) from None
        if self.left:
            self.chunk_open = True
            return
        budget = TRAILERS_MAX
        while line := await self._line(budget):
            budget -= len(line)
            if b":" not in line or b"\r" in line or b"\n" in line or b"\0" in line:
                raise self._malformed("A trailer field is malformed.")
        self.chunked = False

    async def _line(self, size_max: int) -> bytes:
        """One line of chunked framing without its CRLF.  Raises ClientGone."""
        searched = 0
        while True:
            end = self.rest.find(b"\r\n", searched)
            if end > size_max or (end < 0 and len(self.rest) > size_max):
                raise self._malformed("A line of the chunked body is too long.")
            if end >= 0:
                line = bytes(self.rest[:end])
                self._cut(end + 2)
                return line
            searched = max(len(self.rest) - 1, 0)
            self.rest += await self._read(READ_SIZE)

    # --------------------------------------------------------------------------------------------------- ASGI verbs
    async def receive(self) -> Message:
        """ASGI receive: the body, then `http.disconnect` when the peer has closed or the response is complete."""
        if self.told_end or self.gone:
            return await self._watch()
        try:
            data = await self._body(BODY_READ_SIZE)
        except ClientGone:
            return {"type": "http.disconnect"}
        more = bool(data) and (self.left > 0 or self.chunked)
        self.told_end = not more
        return {"type": "http.request", "body": data, "more_body": more}

    async def _watch(self) -> Message:
        while self.phase != _COMPLETE and not self.gone:
            if self.rest:
                # the next request is already here: beyond it nothing can be seen without reading it all
                self.done = self.done or trio.Event()
                await self.done.wait()
                break
            self.watching = True
            try:
                await wait_readable(self.fd)
                if self.tls is None:
                    try:
                        ahead = self.sock.recv(1, socket.MSG_PEEK)
                    except BlockingIOError:
                        continue
                    if ahead:
                        self.done = self.done or trio.Event()
                        self.watching = False
                        await self.done.wait()
                    break
                self.rest = bytes(await self.tls.receive_some(READ_SIZE))
                if not self.rest:
                    break
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                break
            finally:
                self.watching = False
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """ASGI send.  The head waits for the first piece of body, to travel with it.

        Raises ClientGone, BodyLengthError (more or less than the Content-Length that was announced), ValueError (a
        header that must not be sent), RuntimeError (messages out of order).
        """
        kind = message["type"]
        if kind == "http.response.start":
            if self.phase != _NONE:
                raise RuntimeError("the response was already started")
            self.held = message
            self.phase = _HELD
            return
        if kind != "http.response.body":
            raise RuntimeError(f"unexpected message {kind!r}")
        if self.phase != _HELD and self.phase != _STARTED:
            raise RuntimeError("the response was not started, or is complete")
        body = message.get("body", b"")
        more = message.get("more_body", False)
        parts: list[Any] = []
        if self.phase == _HELD:
            held = self.held
            assert held is not None
            length = None if more else len(body)
            parts.append(self._render(held["status"], held.get("headers", ()), length))
        if not self.bodiless:
            if self.out_left is not None:
                self.out_left -= len(body)
                if self.out_left < 0 or (self.out_left and not more):
                    raise BodyLengthError("The body does not have the length that Content-Length says.")
                if body:
                    parts.append(body)
            elif self.out_chunked:
                if body:
                    parts += (b"%x\r\n" % len(body), body, b"\r\n")
                if not more:
                    parts.append(b"0\r\n\r\n")
            elif body:
                parts.append(body)
        self.phase = _STARTED
        if parts:
            await self._write(parts)
        if not more:
            self._complete()

    def _complete(self) -> None:
        self.phase = _COMPLETE
        if self.watching:
            notify_closing(self.fd)
        if self.done is not None:
            self.done.set()

    def _render(self, status: int, headers: Sequence[tuple[bytes, bytes]], length: int | None) -> bytes:
        """The response head; how its body is framed and whether the connection lives on.  Raises ValueError."""
        head = self.head
        assert head is not None
        door = self.door
        if self.expect or self.left > door.limits.drain_max or door.closing:
            self.keep_alive = False
        reply = render_reply(head, status, headers, length, self.keep_alive, _date_line())
        self.keep_alive = reply.keep_alive
        self.out_left = reply.content_length
        self.out_chunked = reply.chunked
        self.bodiless = reply.bodiless
        return reply.block

    async def _write(self, parts: Sequence[Any]) -> None:
        """All the bytes of `parts`.  Raises ClientGone."""
        if self.gone:
            raise ClientGone("The client closed the connection.")
        if self.tls is not None:
            await self._write_tls(parts)
            return
        try:
            n = self.sock.sendmsg(parts) if len(parts) > 1 else self.sock.send(parts[0])
        except BlockingIOError:
            n = 0
        except OSError:
            raise self._left_early() from None
        self.moved += n
        for part in parts:
            size = len(part)
            if n >= size:
                n -= size
                continue
            view = memoryview(part)[n:]
            n = 0
            while view:
                await self._wait(wait_writable)
                try:
                    sent = self.sock.send(view)
                except BlockingIOError:
                    continue
                except OSError:
                    raise self._left_early() from None
                view = view[sent:]
                self.moved += sent

    async def _write_tls(self, parts: Sequence[Any]) -> None:
        assert self.tls is not None
        if len(parts) > 1 and sum(map(len, parts)) <= TLS_WRITE_SIZE:
            parts = (b"".join(parts),)
        for part in parts:
            for start in range(0, len(part), TLS_WRITE_SIZE):
                piece = memoryview(part)[start : start + TLS_WRITE_SIZE]
                started = trio.current_time()
                # a piece is taken whole or not at all, so a slow peer has the time that the whole piece may take
                self.deadline = self._patience() + len(piece) / self.door.limits.rate_min
                try:
                    await self.tls.send_all(piece)
                except trio.ClosedResourceError:
                    raise self._stalled() from None
                except trio.BrokenResourceError:
                    raise self._left_early() from None
                finally:
                    self.deadline = math.inf
                    self.waited += trio.current_time() - started
                self.moved += len(piece)

    # ------------------------------------------------------------------------------ the extension `tierce.connection`
    @property
    def body_left(self) -> int | None:
        """Bytes of the request's body that are still to come; None if chunked and not yet at its end."""
        return None if self.chunked else self.left

    async def receive_into(self, view: memoryview) -> int:
        """The next bytes of the body into `view`; how many, 0 only at the end.  Raises ClientGone."""
        if self.tls is None and not self.chunked and not self.rest and self.left:
            await self._ask()
            view = view[: self.left]
            while True:
                try:
                    n = self.sock.recv_into(view)
                    break
                except BlockingIOError:
                    await self._wait(wait_readable)
                except OSError:
                    n = 0
                    break
            if n == 0:
                raise self._left_early()
            self.left -= n
            self.moved += n
        else:
            data = await self._body(len(view))
            n = len(data)
            view[:n] = data
        self.told_end = not (self.left or self.chunked)
        return n

    async def receive_all(self, limit: int) -> bytes:
        """The whole body, at most `limit` bytes.  Raises BodyTooLarge (nothing further is read), ClientGone."""
        left = self.left
        if not self.chunked and left <= len(self.rest) and not self.gone:
            if left > limit:
                raise BodyTooLarge(f"The body exceeds {limit} bytes.")
            data = bytes(self.rest[:left])
            self._cut(left)
            self.left = 0
            self.expect = False
        else:
            if left > limit:
                raise BodyTooLarge(f"The body exceeds {limit} bytes.")
            parts: list[bytes] = []
            total = 0
            while part := await self._body(BODY_READ_SIZE):
                total += len(part)
                if total > limit:
                    raise BodyTooLarge(f"The body exceeds {limit} bytes.")
                parts.append(part)
            data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.told_end = True
        return data

    async def respond(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> None:
        """A whole response in one write.  Content-Length is added; for HEAD `body` is what GET would have.

        Raises as `send`.
        """
        if self.phase != _NONE:
            raise RuntimeError("the response was already started")
        head = self.head
        assert head is not None
        if head.method == "HEAD" and status not in (204, 304) and not any(n == b"content-length" for n, _ in headers):
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        rendered = self._render(status, headers, len(body))
        if self.bodiless or not body:
            if self.out_left and not self.bodiless:
                raise BodyLengthError("The body does not have the length that Content-Length says.")
            self.phase = _STARTED
            await self._write((rendered,))
        else:
            if self.out_left != len(body):
                raise BodyLengthError("The body does not have the length that Content-Length says.")
            self.phase = _STARTED
            await self._write((rendered, body))
        self._complete()

    async def pump_in(self, sink: Sink) -> int:
        """The whole rest of the body into `sink`, which is called in worker threads; its length in bytes.

        Raises ClientGone, or what the sink raises: then the body stays unread from there.
        """
        await self._ask()
        if self.tls is not None or self.chunked:
            total = await pour(self._next_part, sink, self.door.lanes)
            self.told_end = True
            return total
        total = self.left
        if not total:
            self.told_end = True
            return 0
        flow = Inflow(self.sock, bytes(self.rest[:total]), total, sink)
        beyond = bytes(self.rest[total:])
        self.rest = b""
        try:
            while True:
                left = flow.left
                try:
                    pause = await trio.to_thread.run_sync(flow.run, limiter=self.door.lanes)
                finally:
                    self.moved += left - flow.left
                if pause is Pause.DONE:
                    break
                if pause is Pause.BLOCKED:
                    await self._wait(wait_readable)
        except ClientGone:
            self.gone = True
            raise
        finally:
            self.left = flow.left
            self.rest = flow.rest + beyond
        self.told_end = True
        return total

    async def _next_part(self) -> bytes:
        return await self._body(BODY_READ_SIZE)

    async def pump_out(self, status: int, headers: Sequence[tuple[bytes, bytes]], pieces: Iterator[memoryview]) -> None:
        """A response whose body a worker thread takes from `pieces`; `transfer.send_pieces` says the contract."""
        try:
            if self.phase != _NONE:
                raise RuntimeError("the response was already started")
            rendered = self._render(status, headers, None)
        except (RuntimeError, ValueError):
            await _close_in_thread(pieces)
            raise
        if self.bodiless:
            await _close_in_thread(pieces)
            self.phase = _STARTED
            await self._write((rendered,))
        elif self.tls is None and self.out_left is not None:
            await self._flow_out(Outflow(self.sock, rendered, self.out_left, pieces))
        else:
            await self._drip_out(rendered, pieces)
        self._complete()

    async def _flow_out(self, flow: Outflow) -> None:
        try:
            if self.gone:
                raise ClientGone("The client closed the connection.")
            with contextlib.suppress(OSError):  # a unix socket has no such thing
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, SEND_LOW_WATER)
            while True:
                moved = flow.moved
                try:
                    pause = await trio.to_thread.run_sync(flow.run, limiter=self.door.lanes)
                finally:
                    self.moved += flow.moved - moved
                    if flow.started:
                        self.phase = _STARTED
                if pause is Pause.DONE:
                    return
                if pause is Pause.BLOCKED:
                    await self._wait(wait_writable)
        except ClientGone:
            self.gone = True
            raise
        finally:
            if not flow.closed:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(flow.close)

    async def _drip_out(self, rendered: bytes, pieces: Iterator[memoryview]) -> None:
        """The same through the loop: TLS, or a body without Content-Length."""
        first = True

        async def write(view: memoryview) -> None:
            nonlocal first
            parts: list[Any] = [rendered] if first else []
            first = False
            if view:
                parts += (b"%x\r\n" % len(view), view, b"\r\n") if self.out_chunked else (view,)
            self.phase = _STARTED
            if parts:
                await self._write(parts)

        await drip(pieces, self.out_left, write, self.door.lanes)
        if self.out_chunked:
            await self._write((b"0\r\n\r\n",))


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
_ESCAPES: Final = {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}
_date: tuple[int, bytes] = (0, b"")


async def _close_in_thread(pieces: Iterator[memoryview]) -> None:
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(close_pieces, pieces)


def _date_line() -> bytes:
    """The Date header, made once a second (RFC 9110 §6.6.1)."""
    global _date
    now = int(time.time())
    if now != _date[0]:
        _date = (now, b"date: %b\r\n" % format_date_time(now).encode())
    return _date[1]


def _is_client_gone(error: BaseException) -> bool:
    """True if nothing but the peer's leaving is in it (nurseries wrap what they raise)."""
    if isinstance(error, BaseExceptionGroup):
        return all(_is_client_gone(one) for one in error.exceptions)
    return isinstance(error, ClientGone)
