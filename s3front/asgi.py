"""What an ASGI server gives and takes (ASGI specification, "HTTP & WebSocket"), as the operations name it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
