"""ListObjectVersions: GET /bucket?versions.  Every object is its own latest and only version, `null`.

That is what AWS answers for a bucket that never was versioned; clients that empty a bucket ask this way.
"""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from appliance.model import Listed
from s3front import xml
from s3front.dates import NS, iso_date
from s3front.operations import list_objects
from s3front.operations.list_buckets import owner
from s3front.operations.list_objects import Write
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "ListObjectVersions"
ACTION: Final = Action.LIST_BUCKET_VERSIONS
ROUTES: Final = (Route("GET", Level.BUCKET, "versions"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises InvalidArgument (max-keys, encoding-type).  A version-id-marker adds nothing: keys have one."""
    query = request.query
    marker = query.get("key-marker", "")
    write = list_objects.key_writer(request)
    page, limit = await list_objects.look(door, request, marker.encode())
    following = ""
    if page.truncated:
        following = f"<NextKeyMarker>{write(page.next)}</NextKeyMarker><NextVersionIdMarker>null</NextVersionIdMarker>"
    who = owner(request.bucket.owner)
    content = (
        f"{list_objects.heading(request, write, limit)}<KeyMarker>{write(marker.encode())}</KeyMarker>"
        f"<VersionIdMarker>{xml.escape(query.get('version-id-marker', ''))}</VersionIdMarker>{following}"
        f"<IsTruncated>{'true' if page.truncated else 'false'}</IsTruncated>"
        f"{''.join([_row(listed, write, who) for listed in page.objects])}"
        f"{list_objects.common_prefixes(page.prefixes, write)}"
    )
    return answer(xml.document("ListVersionsResult", content))


def _row(listed: Listed, write: Write, who: str) -> str:
    algorithm = f"<ChecksumAlgorithm>{listed.checksum}</ChecksumAlgorithm>" if listed.checksum else ""
    return (
        f"<Version><Key>{write(listed.key)}</Key><VersionId>null</VersionId><IsLatest>true</IsLatest>"
        f"<LastModified>{iso_date(listed.written_ns // NS)}</LastModified><ETag>&quot;{listed.etag}&quot;</ETag>"
        f"{algorithm}<Size>{listed.size}</Size>{who}<StorageClass>{listed.storage_class or 'STANDARD'}</StorageClass>"
        "</Version>"
    )
