"""UploadPartCopy: UploadPart with x-amz-copy-source.  The part shares the source's bytes: nothing is read.

Where encryption forbids sharing (s3front/resealed.py) the bytes are streamed, and the ETag is of them.

Otherwise its ETag is the source's own where the part is a whole object with an MD5 ETag, and else one derived from the
source's ETag and the range.  It is opaque to clients, as every ETag of a copied part is, and the same for the same
copy.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from appliance.authority import Action
from appliance.limits import PART_SIZE_MAX
from appliance.model import Body, Checksum, Node, Part
from s3front import conditions, copied_checksum, encryption, metadata, ranges, resealed, versioned, xml
from s3front.dates import NS, iso_date
from s3front.errors import S3Error
from s3front.operations.upload_part import part_number
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import COPY_SOURCE, Level, Route
from s3front.sources import with_source

NAME: Final = "UploadPartCopy"
ACTION: Final = Action.PUT_OBJECT
ROUTES: Final = (Route("PUT", Level.OBJECT, "uploadId", COPY_SOURCE),)

_MD5: Final = re.compile(r"[0-9a-f]{32}")


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchUpload, NoSuchKey (the source), PreconditionFailed, InvalidArgument and InvalidRange (the range)."""
    number = part_number(request)
    metadata.check_refused(request.headers)
    upload = door.store.upload(request.bucket, request.key, request.query["uploadId"])
    sealing = await encryption.for_part(door, upload, request.headers)
    wanted = request.headers.get(b"x-amz-copy-source-range")

    async def copy(source: Node) -> tuple[Part, Node]:
        conditions.check_copy_source(request.headers, source.etag, source.written_ns)
        customer = encryption.for_source(source, request.headers)
        start, length = (0, source.size) if wanted is None else ranges.parse_copy(wanted, source.size)
        if length > PART_SIZE_MAX:
            raise S3Error(
                "InvalidRequest",
                "The specified copy source is larger than the maximum allowable size for a copy source: "
                f"{PART_SIZE_MAX}",
            )
        etag = copied_etag(source, start, length)
        checksum: Checksum | None = None
        if upload.checksum_algorithm:
            algorithm = upload.checksum_algorithm
            checksum = await copied_checksum.of_range(door, source, customer, start, length, algorithm)
        if resealed.shares(source, customer, sealing):
            return await door.store.copy_part(upload, number, source, start, length, etag, checksum), source

        async def commit(body: Body, md5: str) -> Part:
            etag = md5 if sealing is None else sealing.etag(md5)
            return await door.store.put_part(upload, number, body, etag, checksum)

        return await resealed.copied(door, request, source, customer, (start, length), sealing, commit), source

    part, source = await with_source(door, request.source, copy)
    response = answer(
        xml.document(
            "CopyPartResult",
            f"<LastModified>{iso_date(part.written_ns // NS)}</LastModified><ETag>&quot;{part.etag}&quot;</ETag>"
            f"{metadata.checksum_xml(part.checksum, with_type=False)}",
        )
    )
    if sealing is not None:
        response.headers += sealing.headers
    response.headers += versioned.copied(request.source.bucket, source)
    return response


def copied_etag(source: Node, start: int, length: int) -> str:
    """32 hexadecimal digits, so that Complete can make the composite ETag of them."""
    if length == source.size and _MD5.fullmatch(source.etag):
        return source.etag
    text = f"{source.etag} {start} {length}"
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
