"""UploadPart: PUT /bucket/key?partNumber=N&uploadId=….  Any size; Complete refuses small parts before the last."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from appliance.limits import PART_NUMBER_MAX, PART_SIZE_MAX
from appliance.model import Body, Checksum, Part
from s3front import checksums, encryption, intake, metadata
from s3front.errors import S3Error, invalid_argument
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "UploadPart"
ACTION: Final = Action.PUT_OBJECT
ROUTES: Final = (Route("PUT", Level.OBJECT, "uploadId"),)


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchUpload, InvalidArgument (number), InvalidRequest (another checksum than the upload's)."""
    number = part_number(request)
    metadata.check_refused(request.headers)
    upload = door.store.upload(request.bucket, request.key, request.query["uploadId"])
    sealing = await encryption.for_part(door, upload, request.headers)
    agreed = upload.checksum_algorithm
    plan = intake.plan(request, default=agreed or checksums.DEFAULT, limit=PART_SIZE_MAX)
    if agreed and plan.algorithm != agreed:
        raise S3Error(
            "InvalidRequest",
            f"Checksum Type mismatch occurred, expected checksum Type: {agreed.lower()}, "
            f"actual checksum Type: {plan.algorithm.lower()}",
        )

    async def commit(body: Body, etag: str, checksum: Checksum | None) -> Part:
        shown = etag if sealing is None else sealing.etag(etag)
        return await door.store.put_part(upload, number, body, shown, checksum)

    part = await intake.take(door, request, plan, commit, sealing)
    headers = [(b"etag", b'"%b"' % part.etag.encode())]
    if part.checksum is not None:
        headers.append((checksums.header_of(part.checksum), checksums.text(part.checksum).encode()))
    if sealing is not None:
        headers += sealing.headers
    return Response(200, headers)


def part_number(request: Request) -> int:
    """1…10,000, and it must be there."""
    text = request.query.get("partNumber", "")
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= PART_NUMBER_MAX):
        raise invalid_argument(
            f"Part number must be an integer between 1 and {PART_NUMBER_MAX}, inclusive", "partNumber", text
        )
    return int(text)
