"""Serving an ASGI application: hypercorn's configuration, lifespan, TLS and HTTP/2 with our connection class for
HTTP/1.1.

Theory: `hypercorn.trio.run.worker_serve` names its connection class in the middle of a function; this is that
function once more, short, with the `Door` in the place of TCPServer and nothing patched.  Order of life: lifespan
startup, sockets bound, `ready`, requests, `shutdown`; then listeners close, idle connections close, busy ones have
`graceful_timeout`, lifespan shutdown.

Deliberately unknown here: what the application does; signals (the caller's `shutdown`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import socket
import ssl
import stat
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import repr_socket_addr, wrap_app

from appliance.limits import HEADER_BLOCK_MAX
from s3front.connection import Connection
from s3front.door import Application, Door, Limits
from s3front.wire import Stream

logger: Final = logging.getLogger(__name__)

BACKLOG: Final = 1024  # connections that the kernel holds while the loop is busy
DEFAULT_LIMITS: Final = Limits()


class TlsFiles(msgspec.Struct, frozen=True):
    """Paths of PEM files: the certificate with its chain, and its key."""

    cert: str
    key: str


async def serve(
    app: Application,
    *,
    bind: str | Sequence[str],
    tls: TlsFiles | None = None,
    shutdown: Callable[[], Awaitable[object]] = trio.sleep_forever,
    ready: Callable[[list[str]], object] | None = None,
    graceful_timeout: float = 30.0,
    limits: Limits = DEFAULT_LIMITS,
    lanes: int = 16,
    http2: bool = False,
    websocket: bool = False,
) -> None:
    """Serves `app` until `shutdown()` returns.

    `bind`: "host:port", "[v6]:port" or "unix:path"; port 0 takes a free one.  With `tls` every address speaks TLS
    1.3. `ready` is called once with the addresses as URLs.  `graceful_timeout`: seconds that requests in progress
    have to finish.  `lanes`: how many large bodies move at the same time.  `http2`: whether it is offered.  S3 does not
    offer it either, and hypercorn reads a connection's streams in the order in which they come: one whose application
    waits (for a buffer, say) holds up the others, among them those that have what it waits for, and nobody gets on.
    Go's clients choose HTTP/2 wherever it is offered; s5cmd's 64 workers stood still so.  `websocket`: whether an
    upgrade is handed over; otherwise it is a request like any other (S3 has no use for it, and what nobody uses is only
    attacked).
    Raises OSError or ValueError if an address cannot be bound, ssl.SSLError or OSError for unusable TLS files, and what
    the application's lifespan startup raises as hypercorn's LifespanFailureError.
    """
    config = _configure([bind] if isinstance(bind, str) else list(bind), tls, graceful_timeout, limits, http2=http2)
    wrapped = wrap_app(cast(Any, app), config.wsgi_max_body_size, "asgi")
    state: dict[str, Any] = {}
    lifespan = Lifespan(wrapped, config, state)
    context = WorkerContext(None)
    door = Door(
        app,
        limits,
        lanes=lanes,
        config=config,
        context=context,
        wrapped=wrapped,
        state=state,
        http2=http2,
        websocket=websocket,
    )
    secure = config.create_ssl_context()
    if secure is not None:
        secure.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        with contextlib.ExitStack() as stack:
            sockets = [_bind(address, stack) for address in config.bind]
            async with trio.open_nursery() as nursery:
                ended = trio.Event()
                nursery.start_soon(_live, lifespan, ended)
                await lifespan.wait_for_startup()
                if lifespan.shutdown.is_set():  # it is over already: refused to start, or lifespan is not supported
                    await ended.wait()
                    await trio.lowlevel.checkpoint()  # a refusal cancels us here
                await _listen(door, sockets, secure, context, shutdown, ready, graceful_timeout)
                await lifespan.wait_for_shutdown()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise _alone(group) from None


async def _live(lifespan: Lifespan, ended: trio.Event) -> None:
    try:
        await lifespan.handle_lifespan()
    finally:
        ended.set()


async def _listen(
    door: Door,
    sockets: list[socket.socket],
    secure: ssl.SSLContext | None,
    context: WorkerContext,
    shutdown: Callable[[], Awaitable[object]],
    ready: Callable[[list[str]], object] | None,
    graceful_timeout: float,
) -> None:
    """From listening to the end of the last connection."""

    async def handle(stream: Stream) -> None:
        await Connection(door, stream).run()

    listeners: list[Any] = []
    urls: list[str] = []
    for sock in sockets:
        sock.listen(BACKLOG)
        listener: Any = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
        if secure is not None:
            listener = trio.SSLListener(listener, secure, https_compatible=True)
        listeners.append(listener)
        urls.append(f"http{'s' if secure else ''}://{repr_socket_addr(sock.family, cast(Any, sock.getsockname()))}")
    async with trio.open_nursery() as sweeping:
        sweeping.start_soon(door.sweep)
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                accepting.start_soon(
                    functools.partial(trio.serve_listeners, handle, listeners, handler_nursery=connections)
                )
                if ready is not None:
                    ready(urls)
                await shutdown()
                accepting.cancel_scope.cancel()
            logger.info("closing with %d connections", len(door.connections))
            connections.cancel_scope.deadline = trio.current_time() + graceful_timeout
            await context.terminated.set()  # for the connections that hypercorn's own server has
            door.close()
        sweeping.cancel_scope.cancel()


def _configure(
    binds: list[str], tls: TlsFiles | None, graceful_timeout: float, limits: Limits, *, http2: bool
) -> Config:
    """hypercorn's configuration, its surprising defaults replaced."""
    config = Config()
    config.bind = binds
    config.accesslog = None
    config.errorlog = logger
    config.graceful_timeout = graceful_timeout
    config.keep_alive_timeout = limits.keep_alive_timeout
    config.keep_alive_max_requests = sys.maxsize  # it counts streams of HTTP/2 and then closes
    config.h11_max_incomplete_size = HEADER_BLOCK_MAX
    config.h2_max_header_list_size = HEADER_BLOCK_MAX
    config.ssl_handshake_timeout = limits.handshake_timeout
    config.include_server_header = False
    config.alpn_protocols = ["h2", "http/1.1"] if http2 else ["http/1.1"]
    if tls is not None:
        config.certfile = tls.cert
        config.keyfile = tls.key
    return config


def _bind(address: str, stack: contextlib.ExitStack) -> socket.socket:
    """A bound socket, closed with the stack; a unix socket's path goes with it.  Raises OSError, ValueError.

    (hypercorn's own leaves its sockets open when one address fails, and lets children inherit them.)
    """
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)  # left by a process that was killed
        sock.bind(path)
        stack.callback(_unlink, path)
    else:
        host, colon, port = address.rpartition(":")
        if not colon or not port.isdecimal():
            raise ValueError(f"{address!r} is not host:port, [address]:port or unix:path")
        host = host.removeprefix("[").removesuffix("]")
        sock = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((host, int(port)))
    sock.setblocking(False)
    return sock


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _alone(error: BaseException) -> BaseException:
    """The exception inside groups of one: what went wrong, without the nurseries that it passed."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
