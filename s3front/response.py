"""What an operation answers: status, headers, and either bytes in memory or a reader to stream from.

Operations build it, app.py sends it: so there is one place that adds the request's id and lengths, and every operation
can be tested without a socket.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from appliance.store import Reader

Headers = list[tuple[bytes, bytes]]

XML: Final = (b"content-type", b"application/xml")


class Response:
    """`length` is what Content-Length says; with neither `body` nor `reader` (HEAD) nothing follows it.

    A response with a `reader` owns it: whoever sends the response closes the reader.
    """

    __slots__ = ("body", "headers", "length", "reader", "status")

    def __init__(
        self, status: int, headers: Headers, body: bytes = b"", *, length: int = -1, reader: Reader | None = None
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.length = len(body) if length < 0 else length
        self.reader = reader


def answer(document: bytes, status: int = 200) -> Response:
    """An answer that is a document."""
    return Response(status, [XML], document)


def no_content() -> Response:
    """204."""
    return Response(204, [])
