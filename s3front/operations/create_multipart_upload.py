"""CreateMultipartUpload: POST /bucket/key?uploads.  What the object will say about itself is fixed here."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from s3front import checksums, encryption, grants, metadata, xml
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route

NAME: Final = "CreateMultipartUpload"
ACTION: Final = Action.PUT_OBJECT
ROUTES: Final = (Route("POST", Level.OBJECT, "uploads"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises what metadata and encryption say, InvalidRequest (checksum algorithm and type)."""
    attributes = grants.of_new_object(door, request, metadata.from_headers(request.headers))
    algorithm, kind = checksum_choice(request)
    sealing = await encryption.for_write(door, request.bucket, request.headers)
    if sealing is not None:
        attributes = encryption.described(attributes, sealing)
    principal = request.verified.principal
    upload = await door.store.create_upload(
        request.bucket,
        request.key,
        attributes,
        principal.owner if principal is not None else "",
        checksum_algorithm=algorithm,
        checksum_type=kind,
    )
    response = answer(
        xml.document(
            "InitiateMultipartUploadResult",
            f"<Bucket>{xml.escape(request.bucket_name)}</Bucket><Key>{xml.escape_key(request.key)}</Key>"
            f"<UploadId>{xml.escape(upload.id)}</UploadId>",
        )
    )
    if sealing is not None:
        response.headers += sealing.headers
    if algorithm:
        response.headers.append((b"x-amz-checksum-algorithm", algorithm.encode()))
        response.headers.append((b"x-amz-checksum-type", kind.encode()))
    return response


def checksum_choice(request: Request) -> tuple[str, str]:
    """(algorithm, COMPOSITE or FULL_OBJECT), or two empty texts: then parts keep what each was sent with."""
    headers = request.headers
    asked = headers.get(b"x-amz-checksum-type", b"").decode("latin-1")
    named = headers.get(b"x-amz-checksum-algorithm")
    if named is None:
        if asked:
            raise S3Error(
                "InvalidRequest",
                "The x-amz-checksum-type header can only be used with the x-amz-checksum-algorithm header.",
            )
        return "", ""
    algorithm = named.decode("latin-1").upper()
    if algorithm not in checksums.ALGORITHMS:
        raise S3Error(
            "InvalidRequest",
            "Checksum algorithm provided is unsupported. Please try again with any of the valid types: "
            f"[{', '.join(checksums.ALGORITHMS)}]",
        )
    return algorithm, checksums.upload_type(algorithm, asked)
