"""PutObject: PUT /bucket/key.  Everything said about the object is checked before a byte of it is read."""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from appliance.limits import SINGLE_PUT_MAX
from appliance.model import Body, Checksum, Precondition, Written
from s3front import encryption, expiry, grants, intake, metadata, preconditions, versioned
from s3front.encryption import Sealing
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "PutObject"
ACTION: Final = Action.PUT_OBJECT
ROUTES: Final = (Route("PUT", Level.OBJECT),)

# Without these headers, in a bucket without settings, its owner's object is nobody else's, unconditional and plain.
_CONCERNING: Final = grants.HEADERS | preconditions.WRITE | encryption.WRITE


async def operate(door: Door, request: Request) -> Response:
    """Raises what metadata, encryption, conditions and body say, PreconditionFailed, NoSuchKey (If-Match, nothing)."""
    attributes = metadata.from_headers(request.headers)
    precondition: Precondition | None = None
    sealing: Sealing | None = None
    if request.admission is not None or request.bucket.settings or not _CONCERNING.isdisjoint(request.headers):
        attributes = grants.of_new_object(door, request, attributes)
        precondition = await preconditions.for_write(door, request)
        sealing = await encryption.for_write(door, request.bucket, request.headers)
        if sealing is not None:
            attributes = encryption.described(attributes, sealing)
    plan = intake.plan(request, limit=SINGLE_PUT_MAX)
    headers: list[tuple[bytes, bytes]] = []

    async def commit(body: Body, etag: str, checksum: Checksum | None) -> Written:
        if checksum is not None:
            headers.extend(metadata.checksum_headers(checksum))
        return await door.store.put_object(
            request.bucket,
            request.key,
            body,
            etag if sealing is None else sealing.etag(etag),
            metadata.with_checksum(attributes, checksum),
            precondition=precondition,
        )

    written = await intake.take(door, request, plan, commit, sealing)
    if sealing is not None:
        headers += sealing.headers
    headers.append((b"etag", b'"%b"' % written.etag.encode()))
    if written.version_id:
        headers.append((versioned.VERSION_ID, written.version_id.encode()))
    if request.bucket.settings:
        headers += expiry.headers(request.bucket, request.key, written.size, written.written_ns, attributes)
    return Response(200, headers)
