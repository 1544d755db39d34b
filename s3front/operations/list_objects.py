"""ListObjects, version 1: GET /bucket.  Pages by `marker`.

Rendering is shared with version 2.  A page of 1,000 keys is 1,000 f-strings and one join; moments are remembered by the
second.  Keys that XML 1.0 cannot hold are written as character references, as AWS does; encoding-type=url avoids them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from appliance.authority import Action
from appliance.limits import LIST_MAX
from appliance.model import Listed, Page
from s3front import xml
from s3front.dates import NS, iso_date
from s3front.errors import invalid_argument
from s3front.owners import Owners
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "ListObjects"
ACTION: Final = Action.LIST_BUCKET
ROUTES: Final = (Route("GET", Level.BUCKET),)

SLICE: Final = 256  # rows: some 150 us of the loop's time
_NUMBER_MAX: Final = 2**31 - 1
_BEFORE: Final = "<CommonPrefixes><Prefix>"
_AFTER: Final = "</Prefix></CommonPrefixes>"
_BETWEEN: Final = _AFTER + _BEFORE
Write = Callable[[bytes], str]


async def operate(door: Door, request: Request) -> Response:
    """Raises InvalidArgument (max-keys, encoding-type)."""
    query = request.query
    marker, delimiter = query.get("marker", ""), query.get("delimiter", "")
    write = key_writer(request)
    page, limit = await look(door, request, marker.encode())
    following = ""
    if page.truncated and delimiter:  # without one AWS leaves it to the client to take the last key
        following = f"<NextMarker>{write(page.next)}</NextMarker>"
    rows = await contents(page.objects, write, Owners(door.store, request.bucket))
    # SDKs that ask for encoding-type=url unasked decode everything of this version but its Prefix
    head = (
        f"{heading(request, write, limit, xml.escape_key)}<Marker>{write(marker.encode())}</Marker>{following}"
        f"<IsTruncated>{'true' if page.truncated else 'false'}</IsTruncated>"
    )
    return answer(xml.long_document("ListBucketResult", head, rows, common_prefixes(page.prefixes, write)))


async def look(door: Door, request: Request, after: bytes) -> tuple[Page, int]:
    """The page and how many it might have held."""
    limit = min(request.number("max-keys", LIST_MAX, 0, _NUMBER_MAX), LIST_MAX)
    if limit == 0:
        return Page([], [], False, b""), 0
    query = request.query
    prefix, delimiter = query.get("prefix", "").encode(), query.get("delimiter", "").encode()
    return await door.store.list_objects(request.bucket, prefix, delimiter, after, limit), limit


def key_writer(request: Request) -> Write:
    """How keys are written: as they are, or by encoding-type=url."""
    encoding = request.query.get("encoding-type")
    if encoding is None or encoding == "":
        return xml.escape_key
    if encoding != "url":
        raise invalid_argument("Invalid Encoding Method specified in Request", "encoding-type", encoding)
    return xml.url_key


def heading(request: Request, write: Write, limit: int, prefix: Write | None = None) -> str:
    """What all listings of keys say first.  `prefix` writes the Prefix, if not `write`."""
    query = request.query
    delimiter = query.get("delimiter", "")
    said = (prefix or write)(query.get("prefix", "").encode())
    return (
        f"<Name>{xml.escape(request.bucket_name)}</Name><Prefix>{said}</Prefix>"
        + (f"<Delimiter>{write(delimiter.encode())}</Delimiter>" if delimiter else "")
        + f"<MaxKeys>{limit}</MaxKeys>"
        + ("<EncodingType>url</EncodingType>" if write is xml.url_key else "")
    )


async def contents(objects: list[Listed], write: Write, whose: Owners | None) -> list[bytes]:
    """One Contents element per object, with its owner unless `whose` is None, in encoded slices.  Lets others run
    between them."""
    owner = whose.bucket if whose is not None else ""
    slices = []
    for start in range(0, len(objects), SLICE):
        if start:
            await trio.lowlevel.checkpoint()
        rows = objects[start : start + SLICE]
        if whose is not None and whose.several and any(row.owner for row in rows):
            slices += [_contents([row], write, whose.of(row.owner)).encode() for row in rows]
        else:
            slices.append(_contents(rows, write, owner).encode())
    return slices


def _contents(objects: list[Listed], write: Write, owner: str) -> str:
    write = xml.quickest(write, [o.key for o in objects])
    return "".join(
        [
            f"<Contents><Key>{write(o.key)}</Key><LastModified>{iso_date(o.written_ns // NS)}</LastModified>"
            f"<ETag>&quot;{o.etag}&quot;</ETag>"
            f"{f'<ChecksumAlgorithm>{o.checksum}</ChecksumAlgorithm>' if o.checksum else ''}"
            f"<Size>{o.size}</Size>{owner}<StorageClass>{o.storage_class or 'STANDARD'}</StorageClass></Contents>"
            for o in objects
        ]
    )


def common_prefixes(prefixes: list[bytes], write: Write) -> str:
    """One CommonPrefixes element each."""
    if not prefixes:
        return ""
    write = xml.quickest(write, prefixes)
    if write is bytes.decode:
        return f"{_BEFORE}{_BETWEEN.encode().join(prefixes).decode()}{_AFTER}"
    return f"{_BEFORE}{_BETWEEN.join([write(prefix) for prefix in prefixes])}{_AFTER}"
