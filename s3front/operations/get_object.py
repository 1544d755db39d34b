"""GetObject: GET /bucket/key.  Conditions, one range or one part, overridden headers, then verified bytes.

`select` is everything but the bytes, shared with HeadObject, so that the two cannot disagree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from appliance import limits
from appliance.authority import Action
from appliance.errors import Code, StoreError
from appliance.model import Node
from s3front import conditions, encryption, expiry, metadata, ranges, versioned
from s3front.conditions import Outcome
from s3front.encryption import Customer
from s3front.errors import S3Error, invalid_argument
from s3front.request import Door, Request
from s3front.response import Headers, Response
from s3front.router import Level, Route
from s3front.sources import ATTEMPTS

if TYPE_CHECKING:
    from appliance.store import Reader

NAME: Final = "GetObject"
ACTION: Final = Action.GET_OBJECT
ROUTES: Final = (Route("GET", Level.OBJECT),)

# Up to this an answer is read whole and sent in one go; beyond it bytes are streamed from a worker thread.
READ_WHOLE_MAX: Final = limits.MIB

SHOWN_MAX: Final = 4096  # nodes whose headers are remembered
_shown: Final[dict[int, tuple[Node, Headers, bool]]] = {}  # its headers; whether only a customer opens it

_OVERRIDES: Final[dict[str, bytes]] = {
    "response-content-type": b"content-type",
    "response-content-language": b"content-language",
    "response-expires": b"expires",
    "response-cache-control": b"cache-control",
    "response-content-disposition": b"content-disposition",
    "response-content-encoding": b"content-encoding",
}
_CHECKSUM_MODE: Final = b"x-amz-checksum-mode"
_CONCERNING: Final = frozenset(conditions.READ) | encryption.READ  # most requests have none of these headers


class Selection(NamedTuple):
    """What of the object is answered, and how."""

    status: int
    headers: Headers
    start: int
    length: int
    customer: Customer | None = None  # the key without which its bytes cannot be read (SSE-C)


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchKey, NoSuchVersion, MethodNotAllowed (a delete marker), PreconditionFailed, InvalidRange,
    InvalidPart, InvalidRequest, SlowDown."""
    for _ in range(ATTEMPTS):
        node = await versioned.asked_for(door, request)
        status, headers, start, length, customer = select(request, node)
        if not length:
            return Response(status, headers)
        try:
            opens = None if customer is None else customer.key
            reader = door.store.reader(node, start, length, customer=opens)
            if length > limits.PLAN_WINDOW:
                await reader.begin()
        except StoreError as error:
            if error.code is not Code.NO_SUCH_NODE:
                raise
            continue  # replaced between look and pin: what is there now is the answer (H4)
        data = reader.ready()
        if data is None:
            return await _read(reader, status, headers, length)
        reader.close()
        return Response(status, headers, data)
    raise S3Error("SlowDown")


async def _read(reader: Reader, status: int, headers: Headers, length: int) -> Response:
    """The bytes, which memory does not have, or the reader itself where they are to be streamed."""
    try:
        if length > READ_WHOLE_MAX:
            return Response(status, headers, length=length, reader=reader)
        data = await reader.read()
    except BaseException:
        reader.close()
        raise
    reader.close()
    return Response(status, headers, data)


def select(request: Request, node: Node) -> Selection:
    """Status (200, 206, 304), headers, and the bytes asked for."""
    asked = request.headers
    customer: Customer | None = None
    concerned = not _CONCERNING.isdisjoint(asked)
    if concerned:
        outcome, header = conditions.evaluate(asked, node.etag, node.written_ns)
        if outcome is Outcome.FAILED:
            raise conditions.failed(header)
        if outcome is Outcome.NOT_MODIFIED:
            kept = (b"etag", b"last-modified", b"cache-control", b"expires")  # RFC 9110 §15.4.5
            return Selection(304, [pair for pair in _known(node)[1] if pair[0] in kept], 0, 0)
    _, shown, sealed = _known(node)
    headers = shown.copy()
    if request.bucket.settings:
        headers += versioned.headers(request.bucket, node)
    status, start, length = 200, 0, node.size
    number = 0
    part = request.query.get("partNumber") if request.query else None
    wanted = asked.get(b"range")
    if part is not None:
        if wanted is not None:
            raise S3Error("InvalidRequest", "Cannot specify both Range header and partNumber query parameter")
        number = request.number("partNumber", 1, 1, limits.PART_NUMBER_MAX)
        sizes = node.attributes.parts
        start, length = ranges.part(sizes, number, node.size)
        if sizes:
            headers.append((b"x-amz-mp-parts-count", b"%d" % len(sizes)))
        status = 206
    elif wanted is not None:
        if_range = asked.get(b"if-range")
        if if_range is None or conditions.range_applies(if_range, node.etag, node.written_ns):
            found = ranges.parse(wanted, node.size)
            if found is not None:
                start, length = found
                status = 206
    if concerned or sealed:
        customer = encryption.for_read(node, asked)
        if customer is not None:
            headers += customer.headers
    if status == 206:
        headers.append((b"content-range", ranges.content_range(start, length, node.size)))
    mode = asked.get(_CHECKSUM_MODE)
    if mode is not None and node.packed and (status == 200 or part is not None) and mode.upper() == b"ENABLED":
        # of the whole object or of one part, never of a range: a client compares it with the bytes that it gets
        headers += metadata.answered_checksum(node.attributes, number)
    if request.bucket.settings and "versionId" not in request.query:
        headers += expiry.headers(request.bucket, request.key, node.size, node.written_ns, node.attributes)
    if request.query:
        headers = overridden(headers, request.query, signed=request.verified.principal is not None)
    return Selection(status, headers, start, length, customer)


def _known(node: Node) -> tuple[Node, Headers, bool]:
    """`metadata.object_headers` and `Node.customers`, remembered while the store hands out the very same node."""
    known = _shown.get(node.id)
    if known is None or known[0] is not node:
        if len(_shown) >= SHOWN_MAX:
            _shown.clear()
        known = _shown[node.id] = (node, metadata.object_headers(node), node.customers)
    return known


def overridden(headers: Headers, query: dict[str, str], *, signed: bool = True) -> Headers:
    """With the response-* parameters in the place of what is stored.

    Raises InvalidRequest when nobody signed for them, InvalidArgument for a value that is not one line: nothing a URL
    says may begin a new header.
    """
    replaced: dict[bytes, bytes] = {}
    for name, value in query.items():
        header = _OVERRIDES.get(name)
        if header is not None:
            if any(character < " " or character == "\x7f" for character in value):
                raise invalid_argument("A response header must not contain control characters.", name, value)
            replaced[header] = metadata.line(value)
    if not replaced:
        return headers
    if not signed:
        raise S3Error("InvalidRequest", "Request specific response headers cannot be used for anonymous GET requests.")
    return [pair for pair in headers if pair[0] not in replaced] + list(replaced.items())
