"""ListObjectVersions: GET /bucket?versions.  Every version and delete marker, by key, then newest first.

In a bucket that never had versions each object is its own only version, `null`.  A page continues after a key and a
version of it; NextVersionIdMarker is opaque, and good even when that version is gone.
"""

from __future__ import annotations

from typing import Final

import trio

from appliance.authority import Action
from appliance.limits import LIST_MAX
from appliance.model import ListedVersion, VersionPage, version_number
from s3front import xml
from s3front.dates import NS, iso_date
from s3front.errors import invalid_argument
from s3front.operations import list_objects
from s3front.operations.list_objects import SLICE, Write
from s3front.owners import Owners
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "ListObjectVersions"
ACTION: Final = Action.LIST_BUCKET_VERSIONS
ROUTES: Final = (Route("GET", Level.BUCKET, "versions"),)

_NUMBER_MAX: Final = 2**31 - 1


async def operate(door: Door, request: Request) -> Response:
    """Raises InvalidArgument (max-keys, encoding-type, version-id-marker)."""
    query = request.query
    key_marker, version_marker = query.get("key-marker", ""), query.get("version-id-marker", "")
    _check_marker(request, key_marker)
    write = list_objects.key_writer(request)
    limit = min(request.number("max-keys", LIST_MAX, 0, _NUMBER_MAX), LIST_MAX)
    page = VersionPage([], [], False, b"", "")
    if limit:
        page = await door.store.list_versions(
            request.bucket,
            query.get("prefix", "").encode(),
            query.get("delimiter", "").encode(),
            key_marker.encode(),
            version_marker,
            limit,
        )
    following = ""
    if page.truncated:
        following = (
            f"<NextKeyMarker>{write(page.next_key)}</NextKeyMarker>"
            f"<NextVersionIdMarker>{page.next_version}</NextVersionIdMarker>"
        )
    rows = []
    whose = Owners(door.store, request.bucket)
    for start in range(0, len(page.versions), SLICE):
        if start:
            await trio.lowlevel.checkpoint()
        some = page.versions[start : start + SLICE]
        name = xml.quickest(write, [listed.key for listed in some])
        rows += [_row(listed, name, whose.of(listed.owner)) for listed in some]
    content = (
        f"{list_objects.heading(request, write, limit)}<KeyMarker>{write(key_marker.encode())}</KeyMarker>"
        f"<VersionIdMarker>{xml.escape(version_marker)}</VersionIdMarker>{following}"
        f"<IsTruncated>{'true' if page.truncated else 'false'}</IsTruncated>"
        f"{''.join(rows)}{list_objects.common_prefixes(page.prefixes, write)}"
    )
    return answer(xml.document("ListVersionsResult", content))


def _check_marker(request: Request, key_marker: str) -> None:
    marker = request.query.get("version-id-marker")
    if marker is None:
        return
    if marker and not key_marker:
        raise invalid_argument(
            "A version-id marker cannot be specified without a key marker.", "version-id-marker", marker
        )
    if marker and version_number(marker) is None:
        raise invalid_argument("Invalid version id specified", "version-id-marker", marker)


def _row(listed: ListedVersion, write: Write, who: str) -> str:
    head = (
        f"<Key>{write(listed.key)}</Key><VersionId>{listed.version_id}</VersionId>"
        f"<IsLatest>{'true' if listed.latest else 'false'}</IsLatest>"
        f"<LastModified>{iso_date(listed.written_ns // NS)}</LastModified>"
    )
    if listed.marker:
        return f"<DeleteMarker>{head}{who}</DeleteMarker>"
    algorithm = f"<ChecksumAlgorithm>{listed.checksum}</ChecksumAlgorithm>" if listed.checksum else ""
    return (
        f"<Version>{head}<ETag>&quot;{listed.etag}&quot;</ETag>{algorithm}<Size>{listed.size}</Size>{who}"
        f"<StorageClass>{listed.storage_class or 'STANDARD'}</StorageClass></Version>"
    )
