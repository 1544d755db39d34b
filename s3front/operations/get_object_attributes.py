"""GetObjectAttributes: GET /bucket/key?attributes.  What is known of an object without its metadata or bytes."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from appliance.limits import LIST_MAX
from appliance.model import Attributes, Checksum
from s3front import conditions, encryption, metadata, versioned, xml
from s3front.conditions import Outcome
from s3front.dates import NS, http_date
from s3front.errors import invalid_argument
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "GetObjectAttributes"
ACTION: Final = Action.GET_OBJECT_ATTRIBUTES
ROUTES: Final = (Route("GET", Level.OBJECT, "attributes"),)

_KNOWN: Final = frozenset({"ETag", "Checksum", "ObjectParts", "StorageClass", "ObjectSize"})
_HEADER: Final = "x-amz-object-attributes"
_NUMBER_MAX: Final = 2**31 - 1


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchKey, NoSuchVersion, MethodNotAllowed (a delete marker), PreconditionFailed, InvalidArgument
    (attributes, paging)."""
    wanted = _wanted(request)
    limit = min(_number(request, b"x-amz-max-parts", LIST_MAX), LIST_MAX)
    marker = _number(request, b"x-amz-part-number-marker", 0)
    node = await versioned.look_up(door.store, request.bucket, request.key, request.version_id)
    if request.admission is not None:
        request.admission.recheck(request.key, node)
    customer = encryption.for_read(node, request.headers)
    outcome, header = conditions.evaluate(request.headers, node.etag, node.written_ns)
    if outcome is Outcome.FAILED:
        raise conditions.failed(header)
    if outcome is Outcome.NOT_MODIFIED:
        tag, modified = node.etag.encode(), http_date(node.written_ns // NS)
        return Response(304, [(b"etag", b'"%b"' % tag), (b"last-modified", modified)])
    attributes = node.attributes
    content = ""
    if "ETag" in wanted:
        content += f"<ETag>{node.etag}</ETag>"
    if "Checksum" in wanted and attributes.checksum is not None:
        content += f"<Checksum>{metadata.checksum_xml(attributes.checksum, len(attributes.parts))}</Checksum>"
    if "ObjectParts" in wanted and attributes.parts:
        content += _parts(attributes, marker, limit)
    if "StorageClass" in wanted:
        content += xml.element("StorageClass", attributes.storage_class or metadata.STANDARD)
    if "ObjectSize" in wanted:
        content += f"<ObjectSize>{node.size}</ObjectSize>"
    response = answer(xml.document("GetObjectAttributesResponse", content))
    response.headers.append((b"last-modified", http_date(node.written_ns // NS)))
    if customer is not None:
        response.headers += customer.headers
    elif attributes.sse:
        response.headers += encryption.of_copy(attributes, None)
    response.headers += versioned.headers(request.bucket, node)
    return response


def _wanted(request: Request) -> set[str]:
    text = request.header_text(_HEADER.encode()) or ""
    names = {name.strip() for name in text.split(",") if name.strip()}
    if not names or names - _KNOWN:
        raise invalid_argument("Invalid attribute name specified.", _HEADER, text)
    return names


def _number(request: Request, name: bytes, default: int) -> int:
    text = request.header_text(name)
    if text is None:
        return default
    if not (text.isdigit() and len(text) <= 10 and int(text) <= _NUMBER_MAX):
        raise invalid_argument("The value must be a number.", name.decode(), text)
    return int(text)


def _parts(attributes: Attributes, marker: int, limit: int) -> str:
    """Sizes and checksums are kept of the parts; numbers are counted, as GetObject's partNumber does."""
    sizes = attributes.parts
    page = list(enumerate(sizes, 1))[marker : marker + limit]
    last = page[-1][0] if page else marker
    rows = "".join(
        f"<Part><PartNumber>{number}</PartNumber><Size>{size}</Size>{_checksum(attributes, number)}</Part>"
        for number, size in page
    )
    return (
        f"<ObjectParts><IsTruncated>{'true' if last < len(sizes) and limit else 'false'}</IsTruncated>"
        f"<MaxParts>{limit}</MaxParts><NextPartNumberMarker>{last}</NextPartNumberMarker>"
        f"<PartNumberMarker>{marker}</PartNumberMarker>{rows}<PartsCount>{len(sizes)}</PartsCount></ObjectParts>"
    )


def _checksum(attributes: Attributes, number: int) -> str:
    if attributes.checksum is None or not attributes.part_checksums:
        return ""
    checksum = Checksum(attributes.checksum.algorithm, attributes.part_checksums[number - 1])
    return metadata.checksum_xml(checksum, with_type=False)
