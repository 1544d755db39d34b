"""Bodies in and out: small ones as bytes, large ones whole in one worker thread (the lane).

Theory: hopping between loop and thread for every MiB doubles the cost of a large body, and moving it on the loop
makes every small request wait.  So a large body is handed to a lane thread together with the socket: the thread
receives straight into the buffers that a `Sink` offers, or sends straight from the pieces of an iterator.  A thread
is held only while bytes flow: when the socket stays empty (or full) for LANE_PATIENCE the thread is given back, the
loop waits, and the body hops onto a lane again.  Lanes are counted by a limiter; small transfers never use one, so
they never wait behind large ones.

The functions `read_small`, `read_body`, `respond` and `send_pieces` are for applications: they use the extension
`tierce.connection` where the server offers it and plain ASGI messages where it does not (HTTP/2, another server).

Deliberately unknown here: HTTP framing (the connection's), hashes, devices and buffers (the sink's).
"""

from __future__ import annotations

import enum
import select
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, Protocol

import trio

Headers = Sequence[tuple[bytes, bytes]]

EXTENSION: Final = "tierce.connection"
LANE_PATIENCE: Final = 2  # milliseconds that a lane waits for its socket: a hop costs 0.06 ms, so at most 3 % is lost
LANE_TURN: Final = (
    64 << 20
)  # bytes after which a lane goes back to the queue: transfers beyond the lanes' number take turns
HOP_SIZE: Final = 1 << 20  # bytes per hop where loop and thread must alternate (TLS, chunked, HTTP/2)


class ClientGone(ConnectionError):
    """The peer closed, vanished, stalled or broke the framing: there is nobody to answer.  An OSError, as ASGI asks."""


class BodyTooLarge(Exception):
    """The request body exceeds the limit that the application gave, or what its sink takes; nothing of it is usable."""


class BodyLengthError(RuntimeError):
    """The body has not the length that its Content-Length says: a bug of the application, or a failed source."""


class Sink(Protocol):
    """Where a request body goes.  Both verbs are called in worker threads, never two at a time; both may block and
    raise.

    `room` gives a writable view; asked again without `filled` between, it gives the same room.  A view of no bytes says
    that the sink wants no more: a body that goes on is then BodyTooLarge.
    `filled(n)` says that the first `n` bytes of that view hold the next bytes of the body.
    """

    def room(self) -> memoryview: ...
    def filled(self, n: int) -> None: ...


class Extension(Protocol):
    """`tierce.connection`: what a server that knows more than ASGI offers; exchange.py says how each verb behaves."""

    async def receive_all(self, limit: int) -> bytes: ...
    async def respond(self, status: int, headers: Headers, body: bytes = b"") -> None: ...
    async def pump_in(self, sink: Sink) -> int: ...
    async def pump_out(self, status: int, headers: Headers, pieces: Iterator[memoryview]) -> None: ...


class Pause(enum.Enum):
    """Why a lane came back to the loop."""

    DONE = enum.auto()
    BLOCKED = enum.auto()  # wait until the socket is ready
    TURN = enum.auto()  # let another transfer have the lane


class Inflow:
    """A body of known length on its way from a non-blocking socket into a sink.

    `rest` are body bytes already read from the socket; `left` counts what is still due, `rest` included.  Both are true
    after every `run`, however it ended.
    """

    __slots__ = ("left", "poll", "rest", "sink", "sock")

    def __init__(self, sock: socket.socket, rest: bytes, left: int, sink: Sink) -> None:
        self.sock = sock
        self.rest = rest
        self.left = left
        self.sink = sink
        self.poll = select.poll()
        self.poll.register(sock.fileno(), select.POLLIN)

    def run(self) -> Pause:
        """In a lane thread.  Raises ClientGone, trio.Cancelled (the owner was cancelled), or what the sink raises."""
        moved = 0
        sink = self.sink
        receive = self.sock.recv_into
        while self.left:
            trio.from_thread.check_cancelled()
            view = sink.room()
            if not view:
                raise BodyTooLarge("The body goes on beyond what its sink takes.")
            if len(view) > self.left:
                view = view[: self.left]
            if self.rest:
                n = min(len(view), len(self.rest))
                view[:n] = self.rest[:n]
                self.rest = self.rest[n:]
            else:
                try:
                    n = receive(view)
                except BlockingIOError:
                    if self.poll.poll(LANE_PATIENCE):
                        continue
                    return Pause.BLOCKED
                except OSError as error:
                    raise ClientGone(str(error)) from None
                if n == 0:
                    raise ClientGone("The client closed within the body.")
            self.left -= n
            sink.filled(n)
            moved += n
            if moved >= LANE_TURN and self.left:
                return Pause.TURN
        return Pause.DONE


class Outflow:
    """A response of known length on its way from an iterator of pieces to a non-blocking socket.

    The head goes with the first piece in one call, after that piece was made: an iterator that fails at once leaves the
    response unstarted (`started` False).  `pieces.close()`, if there is one, is called exactly once, in a thread.
    """

    __slots__ = ("closed", "head", "left", "moved", "pieces", "poll", "sock", "started", "view")

    def __init__(self, sock: socket.socket, head: bytes, length: int, pieces: Iterator[memoryview]) -> None:
        self.sock = sock
        self.head = head
        self.left = length  # bytes that the iterator still owes
        self.pieces = pieces
        self.view = memoryview(b"")
        self.started = False
        self.closed = False
        self.moved = 0
        self.poll = select.poll()
        self.poll.register(sock.fileno(), select.POLLOUT)

    def run(self) -> Pause:
        """In a lane thread.  Raises ClientGone, BodyLengthError, trio.Cancelled, or what the iterator raises."""
        try:
            pause = self._run()
        except BaseException:
            self.close()
            raise
        if pause is Pause.DONE:
            self.close()
        return pause

    def close(self) -> None:
        """Ends the iterator.  In a thread: a generator's `finally` may wait for a device."""
        if not self.closed:
            self.closed = True
            self.view = memoryview(b"")
            close_pieces(self.pieces)

    def _run(self) -> Pause:
        turn = self.moved + LANE_TURN
        while True:
            trio.from_thread.check_cancelled()
            if not self.view:
                view = next(self.pieces, None)
                if view is not None:
                    if len(view) > self.left:
                        raise BodyLengthError("The body is longer than its Content-Length.")
                    self.left -= len(view)
                    self.view = view
                    if not view:
                        continue
                elif self.left:
                    raise BodyLengthError(f"The body ended {self.left} bytes before its Content-Length.")
                elif not self.head:
                    return Pause.DONE
            try:
                self._send()
            except BlockingIOError:
                if not self.poll.poll(LANE_PATIENCE):
                    return Pause.BLOCKED
            except OSError as error:
                raise ClientGone(str(error)) from None
            if self.moved >= turn:
                return Pause.TURN

    def _send(self) -> None:
        """One system call's worth of head and piece."""
        if self.head:
            n = self.sock.sendmsg((self.head, self.view))
            self.started = True
            of_head = min(n, len(self.head))
            self.head = self.head[of_head:]
            n -= of_head
        else:
            n = self.sock.send(self.view)
        self.view = self.view[n:]
        self.moved += n


def close_pieces(pieces: Iterator[memoryview]) -> None:
    """Closes a generator; any other iterator has nothing to close."""
    close = getattr(pieces, "close", None)
    if close is not None:
        close()


async def pour(fetch: Callable[[], Awaitable[bytes]], sink: Sink, limiter: trio.CapacityLimiter | None = None) -> int:
    """The body that `fetch` yields (b"" at its end) into `sink`, by one thread hop per HOP_SIZE; its length.

    For bodies that a lane cannot read from the socket itself.
    """
    total = ready = 0
    view = memoryview(b"")
    data = memoryview(await fetch())
    while data:
        if not view or ready >= HOP_SIZE:
            view = await trio.to_thread.run_sync(_advance, sink, ready, limiter=limiter)
            ready = 0
            if not view:
                raise BodyTooLarge("The body goes on beyond what its sink takes.")
        n = min(len(view), len(data))
        view[:n] = data[:n]
        view = view[n:]
        data = data[n:]
        ready += n
        total += n
        if not data:
            data = memoryview(await fetch())
    if ready:
        await trio.to_thread.run_sync(sink.filled, ready, limiter=limiter)
    return total


def _advance(sink: Sink, ready: int) -> memoryview:
    if ready:
        sink.filled(ready)
    return sink.room()


async def drip(
    pieces: Iterator[memoryview],
    length: int | None,
    write: Callable[[memoryview], Awaitable[None]],
    limiter: trio.CapacityLimiter | None = None,
) -> None:
    """The pieces, each made in a thread, to `write` on the loop.  Closes the iterator exactly once, in a thread.

    `write` is called with an empty view first if there are no pieces at all.  Raises BodyLengthError if `length` is
    not met.
    """
    written = 0
    try:
        while True:
            view = await trio.to_thread.run_sync(_following, pieces, limiter=limiter)
            if view is None:
                break
            written += len(view)
            if length is not None and written > length:
                raise BodyLengthError("The body is longer than its Content-Length.")
            for start in range(0, len(view), HOP_SIZE):
                await write(view[start : start + HOP_SIZE])
        if length is not None and written < length:
            raise BodyLengthError(f"The body ended {length - written} bytes before its Content-Length.")
        if not written:
            await write(memoryview(b""))
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(close_pieces, pieces)


def _following(pieces: Iterator[memoryview]) -> memoryview | None:
    return next(pieces, None)


# ------------------------------------------------------------------------------------- for applications, on any server
def connection_of(scope: dict[str, Any]) -> Extension | None:
    """The connection, if this server offers it."""
    connection: Extension | None = scope["extensions"].get(EXTENSION) if "extensions" in scope else None
    return connection


def read_small(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], limit: int) -> Awaitable[bytes]:
    """The whole request body, at most `limit` bytes.  Raises BodyTooLarge, ClientGone."""
    connection = connection_of(scope)
    if connection is not None:
        return connection.receive_all(limit)
    return _read_small(receive, limit)


async def _read_small(receive: Callable[[], Awaitable[Any]], limit: int) -> bytes:
    parts: list[bytes] = []
    total = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone("The client closed within the body.")
        part = message.get("body", b"")
        total += len(part)
        if total > limit:
            raise BodyTooLarge(f"The body exceeds {limit} bytes.")
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


async def read_body(scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], sink: Sink) -> int:
    """The whole request body into `sink`; its length in bytes.

    Raises ClientGone (the body is incomplete: the sink must not be used) or what the sink raises; then the rest of
    the body is not read.
    """
    connection = connection_of(scope)
    if connection is not None:
        return await connection.pump_in(sink)
    more = True

    async def fetch() -> bytes:
        nonlocal more
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("The client closed within the body.")
            more = message.get("more_body", False)
            part: bytes = message.get("body", b"")
            if part:
                return part
        return b""

    return await pour(fetch, sink)


def respond(
    scope: dict[str, Any],
    send: Callable[[Any], Awaitable[None]],
    status: int,
    headers: Headers,
    body: bytes = b"",
) -> Awaitable[None]:
    """A whole response with a small body.  Content-Length is added; for HEAD give the body that GET would have."""
    connection = connection_of(scope)
    if connection is not None:
        return connection.respond(status, headers, body)
    return _respond(scope, send, status, headers, body)


async def _respond(
    scope: dict[str, Any], send: Callable[[Any], Awaitable[None]], status: int, headers: Headers, body: bytes
) -> None:
    bodiless = scope["method"] == "HEAD" or status in (204, 304)
    if status not in (204, 304) and not any(name == b"content-length" for name, _ in headers):
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": b"" if bodiless else body})


async def send_pieces(
    scope: dict[str, Any],
    send: Callable[[Any], Awaitable[None]],
    status: int,
    headers: Headers,
    length: int,
    pieces: Iterator[memoryview],
) -> None:
    """A response whose body of `length` bytes comes piece by piece from an iterator that is advanced in threads.

    Each view must stay valid until the next one is asked for or the iterator is closed.  The response starts only
    when the first piece is there: if making it raises, the application can still answer something else.  Raises
    ClientGone, BodyLengthError, or what the iterator raises; after the start the connection is then closed, so that
    the client sees a truncated body.  `pieces` is closed exactly once, in a thread, in every case.
    """
    if not any(name == b"content-length" for name, _ in headers):
        headers = [*headers, (b"content-length", b"%d" % length)]
    connection = connection_of(scope)
    if connection is not None:
        await connection.pump_out(status, headers, pieces)
        return
    started = False

    async def start() -> None:
        nonlocal started
        started = True
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def write(view: memoryview) -> None:
        if not started:
            await start()
        await send({"type": "http.response.body", "body": bytes(view), "more_body": True})

    if scope["method"] == "HEAD":
        await trio.to_thread.run_sync(close_pieces, pieces)
        await start()
    else:
        await drip(pieces, length, write)
    await send({"type": "http.response.body", "body": b"", "more_body": False})
