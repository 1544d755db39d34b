"""The peer of one connection: its bytes in and out, and the patience with it.

Theory: plain connections use the stdlib socket's verbs (non-blocking, then wait); TLS goes through trio.SSLStream
behind the same methods.

Time: no cancel scope per wait.  A waiting connection notes its `deadline`; `Door.sweep` looks at all of them about
once a second and wakes those overdue by `notify_closing`.  The same call wakes idle connections at shutdown.  A task
that was already woken by bytes is not disturbed by it, so a request that arrived is never cancelled half-way.

Deliberately unknown here: HTTP.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import trio
from trio.lowlevel import notify_closing, wait_readable, wait_writable

from s3front.door import Door
from s3front.head import HeadError
from s3front.transfer import ClientGone

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

READ_SIZE: Final = 64 << 10  # one read: a head with a small body in one go
TLS_WRITE_SIZE: Final = 64 << 10  # bytes between two looks at the clock


class Wire:
    """The lower half of a connection."""

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
        self.deadline = math.inf  # when `Door.sweep` wakes this connection; infinite unless it waits
        self.idle = False  # waiting for a head: a shutdown may close
        self.gone = False
        self.refusal: HeadError | None = None  # why the peer is treated as gone although it is there
        # patience with the peer in this request
        self.moved = 0
        self.waited = 0.0

    def wake(self) -> None:
        """Ends a wait of this connection; nothing happens if its bytes were faster."""
        notify_closing(self.fd)

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
        self.refusal = HeadError(400, "The client was too slow.", "RequestTimeout")
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

    async def _linger(self) -> None:
        """RFC 9112 §9.6: closing over unread bytes resets the connection, which may destroy the response."""
        limits = self.door.limits
        self.sock.shutdown(socket.SHUT_WR)
        budget = limits.linger_max
        with trio.move_on_after(limits.linger_time):
            while budget > 0:
                with trio.move_on_after(limits.linger_timeout) as silence:
                    await wait_readable(self.fd)
                if silence.cancelled_caught:
                    return
                n = len(self.sock.recv(READ_SIZE))
                if n == 0:
                    return
                budget -= n
