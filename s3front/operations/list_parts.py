"""ListParts: GET /bucket/key?uploadId=….  Pages by part number."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from appliance.limits import LIST_MAX
from appliance.model import Part
from s3front import encryption, metadata, owners, xml
from s3front.dates import NS, iso_date
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "ListParts"
ACTION: Final = Action.LIST_MULTIPART_UPLOAD_PARTS
ROUTES: Final = (Route("GET", Level.OBJECT, "uploadId"),)

_NUMBER_MAX: Final = 2**31 - 1


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchUpload, InvalidArgument (max-parts, part-number-marker), InvalidRequest (another customer's key)."""
    limit = min(request.number("max-parts", LIST_MAX, 0, _NUMBER_MAX), LIST_MAX)
    marker = request.number("part-number-marker", 0, 0, _NUMBER_MAX)
    upload = door.store.upload(request.bucket, request.key, request.query["uploadId"])
    digests = encryption.shows_digests(upload, request.headers)
    parts, more = await door.store.list_parts(upload, marker, limit) if limit else ([], False)
    following = f"<NextPartNumberMarker>{parts[-1].number}</NextPartNumberMarker>" if parts else ""
    content = (
        f"<Bucket>{xml.escape(request.bucket_name)}</Bucket><Key>{xml.escape_key(request.key)}</Key>"
        f"<UploadId>{xml.escape(upload.id)}</UploadId>{owners.of_upload(door.store, request.bucket, upload)}"
        f"<StorageClass>{xml.escape(upload.attributes.storage_class or metadata.STANDARD)}</StorageClass>"
        f"<PartNumberMarker>{marker}</PartNumberMarker>{following}<MaxParts>{limit}</MaxParts>"
        f"<IsTruncated>{'true' if more else 'false'}</IsTruncated>"
        f"{xml.optional('ChecksumAlgorithm', upload.checksum_algorithm)}"
        f"{xml.optional('ChecksumType', upload.checksum_type)}{''.join([_row(part, digests) for part in parts])}"
    )
    return answer(xml.document("ListPartsResult", content))


def _row(part: Part, digests: bool) -> str:
    checksum = part.checksum if digests else None
    return (
        f"<Part><PartNumber>{part.number}</PartNumber><LastModified>{iso_date(part.written_ns // NS)}</LastModified>"
        f"<ETag>&quot;{part.etag}&quot;</ETag><Size>{part.size}</Size>"
        f"{metadata.checksum_xml(checksum, with_type=False)}</Part>"
    )
