"""ListMultipartUploads: GET /bucket?uploads.  Pages by key and upload together."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from appliance.limits import LIST_MAX
from appliance.model import Upload, UploadPage
from s3front import metadata, owners, xml
from s3front.dates import NS, iso_date
from s3front.operations.list_objects import Write, common_prefixes, key_writer
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "ListMultipartUploads"
ACTION: Final = Action.LIST_BUCKET_MULTIPART_UPLOADS
ROUTES: Final = (Route("GET", Level.BUCKET, "uploads"),)

_NUMBER_MAX: Final = 2**31 - 1


async def operate(door: Door, request: Request) -> Response:
    """Raises InvalidArgument (max-uploads, encoding-type).  upload-id-marker counts only beside key-marker."""
    query = request.query
    limit = min(request.number("max-uploads", LIST_MAX, 0, _NUMBER_MAX), LIST_MAX)
    write = key_writer(request)
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    key_marker = query.get("key-marker", "")
    upload_marker = query.get("upload-id-marker", "") if key_marker else ""
    page = UploadPage([], [], False, b"", "")
    if limit:
        page = await door.store.list_uploads(
            request.bucket, prefix.encode(), delimiter.encode(), key_marker.encode(), upload_marker, limit
        )
    following = ""
    if page.truncated:
        following = (
            f"<NextKeyMarker>{write(page.next_key)}</NextKeyMarker>"
            f"<NextUploadIdMarker>{xml.escape(page.next_upload)}</NextUploadIdMarker>"
        )
    content = (
        f"<Bucket>{xml.escape(request.bucket_name)}</Bucket><KeyMarker>{write(key_marker.encode())}</KeyMarker>"
        f"<UploadIdMarker>{xml.escape(upload_marker)}</UploadIdMarker>{following}"
        f"<Prefix>{write(prefix.encode())}</Prefix>"
        + (f"<Delimiter>{write(delimiter.encode())}</Delimiter>" if delimiter else "")
        + ("<EncodingType>url</EncodingType>" if write is xml.url_key else "")
        + f"<MaxUploads>{limit}</MaxUploads><IsTruncated>{'true' if page.truncated else 'false'}</IsTruncated>"
        + "".join([_row(door, request, upload, write) for upload in page.uploads])
        + common_prefixes(page.prefixes, write)
    )
    return answer(xml.document("ListMultipartUploadsResult", content))


def _row(door: Door, request: Request, upload: Upload, write: Write) -> str:
    return (
        f"<Upload><Key>{write(upload.key)}</Key><UploadId>{xml.escape(upload.id)}</UploadId>"
        f"{owners.of_upload(door.store, request.bucket, upload)}"
        f"<StorageClass>{xml.escape(upload.attributes.storage_class or metadata.STANDARD)}</StorageClass>"
        f"<Initiated>{iso_date(upload.created_ns // NS)}</Initiated>"
        f"{xml.optional('ChecksumAlgorithm', upload.checksum_algorithm)}"
        f"{xml.optional('ChecksumType', upload.checksum_type)}</Upload>"
    )
