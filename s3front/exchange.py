"""One request and its response on a connection: the ASGI verbs and the extension `tierce.connection`.

Theory: a body is either counted (Content-Length) or chunked; `_body` knows which, and everything that reads goes
through it, but for the two ways past it where bytes go straight from the socket into a buffer.  The response head is
held until the first piece of the body is there, so that both leave in one call.

What an application sees when the peer leaves: `receive()` yields `http.disconnect` (after the body, as soon as the
peer closes); `send()` and the extension's verbs raise ClientGone, an OSError.  The application is never cancelled
because of the peer; it is cancelled when the graceful period of a shutdown ends.  An application that answers before
it read the body: a rest of up to `drain_max` bytes is read and dropped; with more, or with an unanswered `Expect:
100-continue`, the response says `Connection: close`.  `100 Continue` is sent when the application first asks for the
body.

The extension `tierce.connection` in the scope is the Connection itself; an application may use of it `body_left`,
`receive_into`, `receive_all`, `respond`, `pump_in` and `pump_out`, and nothing else.

Deliberately unknown here: how requests follow each other (connection.py), grammar (head.py), threads (transfer.py).
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final
from wsgiref.handlers import format_date_time

import trio
from trio.lowlevel import notify_closing, wait_readable, wait_writable

from s3front.door import Door
from s3front.head import CHUNK_LINE_MAX, TRAILERS_MAX, Head, HeadError, chunk_size, render_reply
from s3front.transfer import (
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
from s3front.wire import READ_SIZE, Stream, Wire

Message = dict[str, Any]

BODY_READ_SIZE: Final = 256 << 10  # one read of `receive()`
JOINED_MAX: Final = 8192
SEND_LOW_WATER: Final = 1 << 20  # trio's 16 KiB starves a large body: it halves its throughput on loopback
# A near peer needs no more bytes under way than these (the kernel takes twice the number): a send buffer that grows to
# its limit of 4 MiB for each of some streams leaves the processor's caches, and a tenth of a GET's time with it.
NEAR: Final = 1000  # microseconds of round trip: 1 MiB under way is a GiB/s
NEAR_SEND_BUFFER: Final = 512 << 10
_MIN_RTT: Final = struct.Struct("148xI")  # tcpi_min_rtt in struct tcp_info (linux/tcp.h)

# The life of a response
NONE, HELD, STARTED, COMPLETE = range(4)


class Exchange(Wire):
    """The middle of a connection.  `begin` it with a request's head."""

    def __init__(self, door: Door, stream: Stream) -> None:
        super().__init__(door, stream)
        self.rest: bytes | bytearray = b""  # read from the peer and not yet used
        self.head: Head | None = None
        # the request's body
        self.left = 0  # bytes due of the body, or of the current chunk
        self.chunked = False  # more chunks follow
        self.chunk_open = False  # the CRLF after a chunk's bytes is due
        self.expect = False  # 100 Continue is due
        self.told_end = False  # receive() said more_body=False
        # the response
        self.phase = NONE
        self.held: Message | None = None
        self.keep_alive = True
        self.out_left: int | None = None  # bytes due by Content-Length; None: chunked or until close
        self.out_chunked = False
        self.bodiless = False
        self.watching = False  # receive() waits for the peer to close
        self.done: trio.Event | None = None

    def begin(self, head: Head) -> None:
        """Forgets the last request."""
        self.head = head
        self.left = head.content_length or 0
        self.chunked = head.chunked
        if head.chunked:
            self.rest = bytearray(self.rest)  # its front is cut off in constant time: chunks may be tiny
            self.chunk_open = False
        self.expect = head.expect
        self.told_end = False
        self.phase = NONE
        self.held = None
        self.keep_alive = head.keep_alive
        self.moved = 0
        self.waited = 0.0
        self.done = None

    async def _ask(self) -> None:
        """The application wants the body: before its first byte the peer may be waiting for our word."""
        if self.gone:
            raise ClientGone("The client closed the connection.")
        if self.expect:
            self.expect = False
            if self.phase < STARTED and not self.rest:  # a body already on its way needs no invitation
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
        while self.phase != COMPLETE and not self.gone:
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
            if self.phase != NONE:
                raise RuntimeError("the response was already started")
            self.held = message
            self.phase = HELD
            return
        if kind != "http.response.body":
            raise RuntimeError(f"unexpected message {kind!r}")
        if self.phase != HELD and self.phase != STARTED:
            raise RuntimeError("the response was not started, or is complete")
        body = message.get("body", b"")
        more = message.get("more_body", False)
        parts: list[Any] = []
        if self.phase == HELD:
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
        self.phase = STARTED
        if parts:
            await self._write(parts)
        if not more:
            self._complete()

    def _complete(self) -> None:
        self.phase = COMPLETE
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
            if not left:
                await self._ask()
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
        if self.phase != NONE:
            raise RuntimeError("the response was already started")
        head = self.head
        assert head is not None
        if head.method == "HEAD" and status not in (204, 304) and not any(n == b"content-length" for n, _ in headers):
            headers = [*headers, (b"content-length", b"%d" % len(body))]
        rendered = self._render(status, headers, len(body))
        if self.bodiless or not body:
            if self.out_left and not self.bodiless:
                raise BodyLengthError("The body does not have the length that Content-Length says.")
            self.phase = STARTED
            await self._write((rendered,))
        else:
            if self.out_left != len(body):
                raise BodyLengthError("The body does not have the length that Content-Length says.")
            self.phase = STARTED
            # joining a small body costs less than handing two buffers to the kernel
            await self._write((rendered + body,) if len(body) <= JOINED_MAX else (rendered, body))
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
            if self.phase != NONE:
                raise RuntimeError("the response was already started")
            rendered = self._render(status, headers, None)
        except (RuntimeError, ValueError):
            await _close_in_thread(pieces)
            raise
        if self.bodiless:
            await _close_in_thread(pieces)
            self.phase = STARTED
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
            _widen(self.sock)
            while True:
                moved = flow.moved
                try:
                    pause = await trio.to_thread.run_sync(flow.run, limiter=self.door.lanes)
                finally:
                    self.moved += flow.moved - moved
                    if flow.started:
                        self.phase = STARTED
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
            self.phase = STARTED
            if parts:
                await self._write(parts)

        await drip(pieces, self.out_left, write, self.door.lanes)
        if self.out_chunked:
            await self._write((b"0\r\n\r\n",))


_date: tuple[int, bytes] = (0, b"")


def _widen(sock: socket.socket) -> None:
    """Room in the kernel for a large body: by the distance of the peer."""
    with contextlib.suppress(OSError):  # a unix socket has no such things
        (round_trip,) = _MIN_RTT.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _MIN_RTT.size))
        if round_trip < NEAR:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NEAR_SEND_BUFFER)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)  # the system's: no bound of its own
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, SEND_LOW_WATER)


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
