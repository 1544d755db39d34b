"""A browser's form as it comes: its fields first, then its one file piece by piece.

What stands before the file is bounded (FIELDS_MAX), because it is read before anybody is known to be allowed anything.
The file is never held: `file_piece` gives what arrived.  What follows the file is ignored, as in S3, but for a second
file; the body is read to its end, so that a form whose last boundary never came stores nothing.

The framing (RFC 7578) is the library multipart's; it doesn't know what any field means, nor who sends it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import multipart

from appliance.limits import KIB
from s3front.asgi import Receive
from s3front.errors import S3Error
from s3front.transfer import ClientGone

FIELDS_MAX: Final = 20 * KIB  # S3's own bound of everything before the file
STEP: Final = 4 * KIB  # bytes between two looks at that bound
AFTER_MAX: Final = 64 * KIB  # bytes after the file that are read and ignored
NAME_MAX: Final = 1024

_FORM: Final = b"multipart/form-data"
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,199}[0-9A-Za-z'()+_,\-./:=?]", re.ASCII)
_FILENAME: Final = "${filename}"
_END: Final = object()
_UNEXPANDED: Final = frozenset({"policy", "signature", "x-amz-signature", "x-amz-credential", "awsaccesskeyid"})


def comes(query: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a POST is a form that says nothing about authentication in its head."""
    if query and b"x-amz-" in query.lower():
        return False
    found = False
    for name, value in headers:
        if name == b"authorization":
            return False
        if name == b"content-type" and value[: len(_FORM)].lower() == _FORM:
            found = True
    return found


class Form:
    """One form.  `read_fields` first; then `fields` maps lower-case names to values and `filename` is the file's last
    path segment."""

    def __init__(self, headers: Sequence[tuple[bytes, bytes]], receive: Receive) -> None:
        """Raises MalformedPOSTRequest without a boundary."""
        self.fields: dict[str, str] = {}
        self.filename = ""
        self._receive = receive
        self._parser = multipart.PushMultipartParser(_boundary(headers), max_header_size=FIELDS_MAX, max_header_count=8)
        self._events: Iterator[Any] = iter(())  # parts' heads, bytes, None
        self._unparsed = b""
        self._more = True
        self._left = FIELDS_MAX + STEP  # bytes that the parser may still be given outside the file
        self._in_file = False

    async def read_fields(self) -> Mapping[str, str]:
        """Everything before the file, `${filename}` replaced.

        Raises MalformedPOSTRequest, MaxPostPreDataLengthExceeded, IncorrectNumberOfFilesInPostRequest (no file),
        InvalidArgument (a field twice), ClientGone.
        """
        while True:
            segment = await self._next()
            if segment is _END:
                raise _one_file()
            assert isinstance(segment, multipart.MultipartSegment)
            name = (segment.name or "").lower()
            if name == "file":
                break
            if not name or len(name) > NAME_MAX:
                raise malformed()
            if name in self.fields:
                raise S3Error("InvalidArgument", details=(("ArgumentName", name), ("ArgumentValue", "given twice")))
            self.fields[name] = await self._value()
        self.filename = re.split(r"[/\\]", segment.filename or "")[-1]
        self.fields = {
            name: value if name in _UNEXPANDED else value.replace(_FILENAME, self.filename)
            for name, value in self.fields.items()
        }
        self._in_file = True
        return self.fields

    async def file_piece(self) -> bytes:
        """The next bytes of the file; b"" at its end.  Raises as `read_fields`."""
        if not self._in_file:
            return b""
        event = await self._next()
        if event is None:
            self._in_file = False
            self._left = AFTER_MAX
            await self._finish()
            return b""
        assert isinstance(event, bytes | bytearray), "a file's bytes end before the next part begins"
        return bytes(event)

    async def _finish(self) -> None:
        """The rest of the body.  Raises IncorrectNumberOfFilesInPostRequest for a second file."""
        while (event := await self._next()) is not _END:
            if isinstance(event, multipart.MultipartSegment) and (event.name or "").lower() == "file":
                raise _one_file()

    async def _value(self) -> str:
        parts: list[bytes] = []
        while (event := await self._next()) is not None:
            assert isinstance(event, bytes | bytearray), "a part ends before the next begins"
            parts.append(bytes(event))
        try:
            return b"".join(parts).decode()
        except UnicodeDecodeError:
            raise malformed() from None

    async def _next(self) -> Any:
        """A part's head, some of its bytes, None at its end; _END after the last."""
        while True:
            try:
                for event in self._events:
                    return event
                if not self._unparsed and not await self._fetch():
                    self._parser.close()
                    return _END
                self._events = self._parser.parse(self._take())
            except multipart.MultipartError as error:
                raise malformed() from error

    def _take(self) -> bytes:
        """What the parser gets next: small steps but for the file's own bytes."""
        if self._in_file:
            data, self._unparsed = self._unparsed, b""
            return data
        data, self._unparsed = self._unparsed[:STEP], self._unparsed[STEP:]
        self._left -= len(data)
        if self._left < 0:
            raise S3Error("MaxPostPreDataLengthExceeded")
        return data

    async def _fetch(self) -> bool:
        """Reads on; False at the body's end.  Raises ClientGone."""
        while self._more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("The client closed within the body.")
            self._more = message.get("more_body", False)
            self._unparsed = message.get("body", b"")
            if self._unparsed:
                return True
        return False


def malformed() -> S3Error:
    """MalformedPOSTRequest."""
    return S3Error("MalformedPOSTRequest")


def _one_file() -> S3Error:
    return S3Error("IncorrectNumberOfFilesInPostRequest")


def _boundary(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """RFC 2046 §5.1.1: up to 70 characters; some clients take more."""
    value = next((value for name, value in headers if name == b"content-type"), b"").decode("latin-1")
    _, options = multipart.parse_options_header(value)
    boundary: str = options.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise malformed()
    return boundary
