"""What the connections of one server share: limits, lanes, the clock that ends waits, the way to shut down.

Theory: a waiting connection notes its `deadline`; `sweep` looks at all of them once a second and wakes those overdue.
That is cheaper than a timer per wait, and a second more or less does not matter to any of these limits.

Deliberately unknown here: how a connection works; it is only asked for `deadline` and `idle`, and woken.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper

from appliance.limits import HEADER_TIMEOUT

Application = Callable[[Any, Any, Any], Awaitable[None]]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of one connection; seconds and bytes."""

    header_timeout: float = HEADER_TIMEOUT  # from a head's first byte to its last
    keep_alive_timeout: float = 75.0  # without a byte between requests, and before the first
    handshake_timeout: float = 10.0  # TLS
    stall_timeout: float = 60.0  # no byte of a body taken or given by the peer
    rate_min: float = 1024.0  # bytes per second that the peer must reach beyond a first stall_timeout of waiting for it
    linger_timeout: float = 2.0  # silence that ends reading on after the last response: a reset would destroy it
    linger_time: float = 30.0  # and its end whatever the peer sends
    linger_max: int = 16 << 20
    drain_max: int = 64 << 10  # unread body that is read and dropped to keep the connection
    connections_max: int = 8192
    sweep_interval: float = 1.0


class Waiting(Protocol):
    """A connection, as far as the clock and a shutdown look at it."""

    deadline: float  # when to wake it
    idle: bool  # between requests

    def wake(self) -> None: ...


class Door:
    """What the connections of one server share."""

    def __init__(
        self,
        app: Application,
        limits: Limits,
        *,
        lanes: int = 16,
        config: Config | None = None,
        context: WorkerContext | None = None,
        wrapped: AppWrapper | None = None,
        state: dict[str, Any] | None = None,
        http2: bool = True,
        websocket: bool = False,
    ) -> None:
        """`config`, `context` and `wrapped` are hypercorn's, for what is handed over to it; without them nothing is."""
        self.app = app
        self.limits = limits
        self.lanes = trio.CapacityLimiter(lanes)
        self.config = config
        self.context = context
        self.wrapped = wrapped
        self.http2 = http2 and wrapped is not None
        self.websocket = websocket and wrapped is not None
        self.state: dict[str, Any] = {} if state is None else state
        self.connections: set[Waiting] = set()
        self.closing = False

    async def sweep(self) -> None:
        """Wakes connections whose time is over.  Runs until cancelled."""
        while True:
            await trio.sleep(self.limits.sweep_interval)
            now = trio.current_time()
            for connection in self.connections:
                if connection.deadline <= now or (self.closing and connection.idle):
                    connection.wake()

    def close(self) -> None:
        """No further requests: idle connections close at once, busy ones after their response."""
        self.closing = True
        for connection in self.connections:
            if connection.idle:
                connection.wake()
