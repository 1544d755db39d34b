"""HTTP/1.1 heads.  A request's: bytes in, a frozen `Head` out, or a `HeadError` with the status to answer.  A
response's: status and headers in, bytes and framing out.

Theory: llhttp (by httptools) does the tokenising in C; this module adds what a server that faces strangers needs and
llhttp leaves open.  The request line must read exactly `METHOD SP target SP HTTP/1.x`; framing must be unambiguous
(RFC 9112 §6.3: one Content-Length or one `Transfer-Encoding: chunked`, never both); there is exactly one Host on
HTTP/1.1 (RFC 9112 §3.2); line folding, NUL, bare CR and bare LF never pass (RFC 9112 §2.2, §5.2).  Two readers of the
same bytes must never see two different requests: that is all of request smuggling.  The chunk-line grammar of RFC 9112
§7.1 lives here too, because it is the other half of framing.

Deliberately unknown here: sockets, time, bodies, what a target means.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import httptools
import msgspec

from appliance.limits import HEADER_BLOCK_MAX, HEADER_COUNT_MAX

END_OF_HEAD: Final = b"\r\n\r\n"
HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\n"  # RFC 9113 §3.4; "SM\r\n\r\n" follows
CONTENT_LENGTH_DIGITS_MAX: Final = 18  # 10**18 bytes is past every limit of ours and below 2**63
CHUNK_SIZE_DIGITS_MAX: Final = 15  # hexadecimal: below 2**60
CHUNK_LINE_MAX: Final = 256  # size, extensions and CRLF: the chunk signatures of S3 travel inside the body, not here
TRAILERS_MAX: Final = 4096  # bytes of trailer section; its fields are discarded

_REQUEST_LINE: Final = re.compile(rb"([-!#$%&'*+.^_`|~0-9a-zA-Z]+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])\r\n")
_TRANSFER_ENCODING: Final = re.compile(rb"\r\ntransfer-encoding:[ \t]*([^\r]*?)[ \t]*\r\n", re.IGNORECASE)
_CONTENT_LENGTH: Final = re.compile(rb"\r\ncontent-length:", re.IGNORECASE)
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#@]+)([/?].*)?", re.IGNORECASE)
_TARGET_EXTRA: Final = re.compile(rb"[^\x21-\x7e]|#")
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,%d})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?" % CHUNK_SIZE_DIGITS_MAX)
_TOKEN: Final = re.compile(rb"[-!#$%&'*+.^_`|~0-9a-z]+")
_STATUS_LINES: Final = {s.value: b"HTTP/1.1 %d %s\r\n" % (s, s.phrase.encode()) for s in HTTPStatus}
_SERVER: Final = b"server: Tierce\r\n"
_OWN: Final = frozenset((b"content-length", b"connection", b"transfer-encoding", b"date", b"server"))
_KNOWN_NAMES_MAX: Final = 4096
_known_names: set[bytes] = set()  # names found to be tokens; bounded, since user metadata makes names
_FRAMING: Final = frozenset((b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"expect"))


class HeadError(Exception):
    """A head that is not served.  `status` is the HTTP status to answer before the connection is closed, `code` S3's
    code where it is not that of the status."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


class Head(msgspec.Struct, frozen=True, gc=False):
    """One request head.

    `method` is upper case; `target` is the request target as received and `path`, `query` its two halves (origin
    form; of an absolute target the part after the authority), not decoded; `headers` are (lower-case name, value
    without outer whitespace) in the order received; `minor` is the x of HTTP/1.x; `content_length` None means no
    such header.  `upgrade` is the lower-case value of Upgrade where Connection names it, else empty.
    """

    method: str
    target: bytes
    path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    minor: int
    content_length: int | None
    chunked: bool
    expect: bool
    keep_alive: bool
    upgrade: bytes

    @property
    def http_version(self) -> str:
        """As ASGI spells it."""
        return "1.1" if self.minor else "1.0"


class _Fields:
    """What llhttp calls back with; the few fields that frame a message are picked out as they pass."""

    __slots__ = ("complete", "framing", "headers", "target")

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.framing: dict[bytes, bytes] = {}
        self.target = b""
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        value = value.strip(b" \t")
        self.headers.append((name, value))
        if name in _FRAMING:
            framing = self.framing
            if name not in framing:
                framing[name] = value
            elif name == b"connection" or name == b"upgrade":  # lists (RFC 9110 §5.3); of the others one is all
                framing[name] += b"," + value
            else:
                raise HeadError(400, "A header that may appear once appears twice.")

    def on_headers_complete(self) -> None:
        self.complete = True


def parse_head(block: bytes) -> Head:
    """The head in `block`: everything from the request line to the empty line, both included, and nothing else.

    Raises HeadError: 400 malformed or ambiguous, 413 Content-Length beyond any limit, 417 an unknown expectation,
    431 too large or too many fields, 501 unknown method or transfer coding, 505 any version but HTTP/1.0 and 1.1.
    """
    if len(block) > HEADER_BLOCK_MAX:
        raise oversized(block)
    fields = _Fields()
    parser = httptools.HttpRequestParser(fields)
    try:
        parser.feed_data(block)
    except httptools.HttpParserUpgrade:
        pass  # CONNECT, or an Upgrade that the caller may ignore: the fields are complete
    except httptools.HttpParserError as error:
        raise _explain(block, error) from None
    if not fields.complete:
        raise _explain(block, None)
    method = parser.get_method()
    target = fields.target
    line = b"%b %b HTTP/1." % (method, target)
    size = len(line)
    # llhttp also takes two spaces, HTTP/0.9, RTSP and leading empty lines: the line must be exactly what was understood
    if not block.startswith(line) or block[size : size + 3] not in (b"1\r\n", b"0\r\n"):
        raise _explain(block, None)
    minor = block[size] - 48
    headers = fields.headers
    if len(headers) > HEADER_COUNT_MAX:
        raise HeadError(431, "The request has too many header fields.")
    framing = fields.framing

    host = framing.get(b"host")
    if host is None and minor:
        raise HeadError(400, "The Host header is missing.")
    if _TARGET_EXTRA.search(target):
        raise HeadError(400, "The request target has a character that must be percent-encoded.")
    path, _, query = (target if target.startswith(b"/") else _origin(method, target, host)).partition(b"?")

    length: int | None = None
    value = framing.get(b"content-length")
    if value is not None:
        if not value.isdigit():
            raise HeadError(400, "Content-Length is not a number.")
        if len(value) > CONTENT_LENGTH_DIGITS_MAX:
            raise HeadError(413, "Content-Length is too large.")
        length = int(value)
    chunked = False
    value = framing.get(b"transfer-encoding")
    if value is not None:
        if length is not None:
            raise HeadError(400, "Content-Length and Transfer-Encoding exclude each other.")
        if not minor:
            raise HeadError(400, "HTTP/1.0 has no Transfer-Encoding.")
        if value.lower() != b"chunked":
            raise HeadError(501, "The only Transfer-Encoding served is chunked.")
        chunked = True
    expect = False
    value = framing.get(b"expect")
    if value is not None and minor:  # RFC 9110 §10.1.1: ignored from HTTP/1.0
        if value.lower() == b"100-continue":
            # An empty body needs no word by RFC 9110; but botocore (awscli 1.46), once answered without one, misreads
            # the connection's next answer and waits for it until its timeout.
            expect = chunked or length is not None
        elif b"100" in value:  # spelled so that another server may read it as the one expectation that there is
            raise HeadError(417, "The only expectation served is 100-continue.")
    keep_alive = minor == 1
    upgrade = b""
    value = framing.get(b"connection")
    if value is not None:
        tokens = [token.strip(b" \t") for token in value.lower().split(b",")]
        keep_alive = b"close" not in tokens and (keep_alive or b"keep-alive" in tokens)
        if minor and b"upgrade" in tokens:
            upgrade = framing.get(b"upgrade", b"").lower()
    return Head(
        method.decode("ascii"), target, path, query, headers, minor, length, chunked, expect, keep_alive, upgrade
    )


def oversized(received: bytes) -> HeadError:
    """The error for a head that exceeds HEADER_BLOCK_MAX: 414 if already its request line does."""
    if b"\r\n" in received[:HEADER_BLOCK_MAX]:
        return HeadError(431, "The request head is too large.")
    return HeadError(414, "The request line is too long.")


def chunk_size(line: bytes) -> int:
    """Bytes of the chunk that `line` (without its CRLF) announces; 0 is the last.  Extensions are ignored (RFC 9112
    §7.1.1).

    Raises HeadError 400.
    """
    match = _CHUNK_LINE.fullmatch(line)
    if match is None:
        raise HeadError(400, "A chunk header is malformed.")
    return int(match[1], 16)


class Reply(msgspec.Struct, frozen=True, gc=False):
    """One response head, ready to send, and what it promises.

    `content_length` is the body's length where the head says one (for HEAD what GET would have); `chunked`: the body
    follows in chunks; neither, and not `bodiless`: it ends with the connection.
    """

    block: bytes
    content_length: int | None
    chunked: bool
    bodiless: bool
    keep_alive: bool


def render_reply(
    head: Head,
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    length: int | None,
    keep_alive: bool,
    date_line: bytes,
) -> Reply:
    """The response head to `head`.  `length` is the body's, None if not yet known; `date_line` a whole Date header.

    Framing is decided here (RFC 9112 §6, RFC 9110 §8.6, §15.3.5, §15.4.5): an application's Transfer-Encoding is
    dropped, its `Connection: close` obeyed.  Raises ValueError for what would break the framing or smuggle a
    header: a status that is not final, a name that is no lower-case token, CR, LF or NUL in a value, a
    Content-Length that is not one number.
    """
    if not 200 <= status <= 999:
        raise ValueError(f"status {status} is no final response")
    bodiless = head.method == "HEAD" or status == 204 or status == 304
    chunked = False
    parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
    declared: int | None = None
    dated = served = False
    for name, value in headers:
        if name in _OWN:
            if name == b"content-length":
                if not value.isdigit() or declared is not None:
                    raise ValueError("Content-Length must be one number")
                declared = int(value)
                if status == 204:
                    continue
            elif name == b"connection":
                if b"close" in value.lower():
                    keep_alive = False
                continue
            elif name == b"transfer-encoding":
                continue
            elif name == b"date":
                dated = True
            else:
                served = True
        elif name not in _known_names:
            _check_name(name)
        parts += (name, b": ", value, b"\r\n")
    mine = len(parts)  # from here on a part is a line
    if declared is None and not bodiless:
        if length is not None:
            declared = length
            parts.append(b"content-length: %d\r\n" % length)
        elif head.minor:
            chunked = True
            parts.append(b"transfer-encoding: chunked\r\n")
        else:
            keep_alive = False  # HTTP/1.0 knows no chunks: the body ends with the connection
    if not dated:
        parts.append(date_line)
    if not served:
        parts.append(_SERVER)
    if not keep_alive:
        parts.append(b"connection: close\r\n")
    elif not head.minor:
        parts.append(b"connection: keep-alive\r\n")
    block = b"".join(parts)
    lines = 1 + (mine - 1) // 4 + len(parts) - mine
    if block.count(b"\n") != lines or block.count(b"\r") != lines or b"\0" in block:
        raise ValueError("a header value has CR, LF or NUL")
    return Reply(block + b"\r\n", declared, chunked, bodiless, keep_alive)


def _check_name(name: bytes) -> None:
    if _TOKEN.fullmatch(name) is None:
        raise ValueError(f"header name {name!r} is not a lower-case token")
    if len(_known_names) < _KNOWN_NAMES_MAX:
        _known_names.add(name)


def _origin(method: bytes, target: bytes, host: bytes | None) -> bytes:
    """The origin form of a target that is in another form (RFC 9112 §3.2).

    An absolute target must name the same authority as Host: RFC 9112 §3.2.2 would have Host ignored, but who signed or
    routed by the one and is served by the other has been fooled.
    """
    if target == b"*" and method == b"OPTIONS":
        return target
    if method == b"CONNECT":
        raise HeadError(501, "CONNECT is not served.")
    match = _ABSOLUTE.fullmatch(target)
    if match is None:
        raise HeadError(400, "The request target is malformed.")
    if host is not None and match[1].lower() != host.lower():
        raise HeadError(400, "The request target and Host name different hosts.")
    rest = match[2] or b"/"
    return rest if rest.startswith(b"/") else b"/" + rest


def _explain(block: bytes, error: httptools.HttpParserError | None) -> HeadError:
    """Which status a head deserves that was not understood.  Slow and only for refusals."""
    cause = error.__context__ if error is not None else None
    if isinstance(cause, HeadError):
        return cause
    match = _REQUEST_LINE.match(block)
    if match is None:
        return HeadError(400, "The request line is malformed.")
    if (match[3], match[4]) not in ((b"1", b"0"), (b"1", b"1")):
        return HeadError(505, "The only versions served are HTTP/1.0 and HTTP/1.1.")
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return HeadError(501, "The method is not known.")
    coding = _TRANSFER_ENCODING.search(block)
    if coding is not None and coding[1].lower() != b"chunked" and _CONTENT_LENGTH.search(block) is None:
        return HeadError(501, "The only Transfer-Encoding served is chunked.")
    return HeadError(400, "The request head is incomplete or malformed." if error is None else f"Bad request: {error}.")
