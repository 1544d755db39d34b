"""The command line's line to the running daemon: JSON over HTTP on a Unix socket in the state directory (mode 0600).

Whoever may open the socket may do everything, so it carries no credential of its own: the file's mode is the gate, and
nothing that is served on it is ever bound to a network address.  The routes are administration.control_app's.

This module is the client and the words that both ends share; it needs no event loop.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

TIMEOUT: Final = 60.0  # seconds without a byte; work that takes longer reports its progress


class NoDaemon(Exception):
    """Nothing answers on the socket."""


class Refused(Exception):
    """The daemon answered no; the text is its reason.  `code` names an appliance.errors.Code, if it was one."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Control:
    """One daemon, by its socket.  Every call opens a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, route: str) -> Any:
        """The JSON of a route.  Raises NoDaemon, Refused."""
        return self._whole("GET", route, None)

    def post(self, route: str, **values: object) -> Any:
        """Does something; its result.  Raises NoDaemon, Refused."""
        return self._whole("POST", route, values)

    def delete(self, route: str) -> Any:
        """Removes something.  Raises NoDaemon, Refused."""
        return self._whole("DELETE", route, None)

    def follow(self, route: str, **values: object) -> Iterator[dict[str, Any]]:
        """Does something long: one dict per line as the daemon reports it; the last has the key "result"."""
        with _Connection(self._path) as connection:
            for line in connection.send("POST", route, values):
                event = json.loads(line)
                if "error" in event:
                    raise Refused(event["message"], event["error"])
                yield event

    def _whole(self, method: str, route: str, values: dict[str, object] | None) -> Any:
        with _Connection(self._path) as connection:
            text = connection.send(method, route, values).read()
        return json.loads(text) if text else None


class _Connection:
    """One request and its answer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = _UnixConnection(path)

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def send(self, method: str, route: str, values: dict[str, object] | None) -> http.client.HTTPResponse:
        body = None if values is None else json.dumps(values)
        try:
            self._connection.request(method, route, body, {"Content-Type": "application/json"} if body else {})
            response = self._connection.getresponse()
        except PermissionError as error:
            raise NoDaemon(f"{self._path} belongs to another user: run this as the daemon's user or root") from error
        except (OSError, http.client.HTTPException) as error:
            raise NoDaemon(
                f"no daemon answers on {self._path}: start it with `tierce serve` or `systemctl start tierce`"
            ) from error
        if response.status >= 400:
            text = response.read()
            try:
                answer = json.loads(text)
                raise Refused(answer["message"], answer["error"])
            except (ValueError, KeyError, TypeError):
                raise Refused(f"the daemon answered {response.status}") from None
        return response


class _UnixConnection(http.client.HTTPConnection):
    """http.client over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(self._path))
