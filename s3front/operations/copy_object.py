"""CopyObject: PUT /bucket/key with x-amz-copy-source.  No byte is read, unless the copy is encrypted otherwise or asks
for a checksum that nobody has computed yet.

The copy shares the source's bytes: so no size is too large, and ETag and checksum stay the source's.  Where encryption
forbids that (s3front/resealed.py) the bytes are streamed, and ETag and checksum still are those of the same bytes.
With its metadata a copy takes the source's POSIX mode, owner and lists, so that it is open to nobody on the mount to
whom the source is not; what replaces the metadata says those, too.
app.py has parsed the source and authorised reading it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from appliance.authority import Action
from appliance.model import NO_ATTRIBUTES, Attributes, Body, Node, Written
from appliance.store import attributes_of_copy, posix_of_copy
from s3front import (
    checksums,
    conditions,
    copied_checksum,
    encryption,
    expiry,
    grants,
    metadata,
    preconditions,
    resealed,
    versioned,
    xml,
)
from s3front.dates import NS, iso_date
from s3front.encryption import Sealing
from s3front.errors import S3Error, invalid_argument
from s3front.request import Door, Request
from s3front.response import Response, answer
from s3front.router import COPY_SOURCE, Level, Route
from s3front.sources import with_source

NAME: Final = "CopyObject"
ACTION: Final = Action.PUT_OBJECT
ROUTES: Final = (Route("PUT", Level.OBJECT, header=COPY_SOURCE),)


async def operate(door: Door, request: Request) -> Response:
    """Raises NoSuchKey (the source), PreconditionFailed, InvalidRequest (onto itself without a change),
    InvalidArgument (directives, tags), InvalidTag, and what grants and encryption say."""
    headers = request.headers
    metadata.check_refused(headers)
    replace = _directive(headers.get(b"x-amz-metadata-directive", b"COPY"), "x-amz-metadata-directive")
    retag = _directive(headers.get(b"x-amz-tagging-directive", b"COPY"), "x-amz-tagging-directive")
    precondition = await preconditions.for_write(door, request)
    said = metadata.from_headers(headers)
    fresh = grants.of_new_object(door, request, NO_ATTRIBUTES)
    asked = _checksum_algorithm(headers)
    sealing = await encryption.for_write(door, request.bucket, headers)
    # an older version copied onto its own key is how it is made the current one again
    same = (
        request.source.bucket.id == request.bucket.id
        and request.source.key == request.key
        and not request.source.version_id
    )

    async def copy(source: Node) -> tuple[Written, Node, Attributes]:
        conditions.check_copy_source(headers, source.etag, source.written_ns)
        customer = encryption.for_source(source, headers)
        if not retag and request.admission is not None and source.attributes.tags:
            await request.admission.allow(Action.PUT_OBJECT_TAGGING, request.key, "")  # tags that come by copy too
        attributes = _attributes(source, said, replace=replace, reclass=b"x-amz-storage-class" in headers)
        held = attributes_of_copy(source.attributes)
        posix = None if replace else posix_of_copy(source)
        if same and attributes is None and customer is None and _is_as_asked(held, sealing):
            raise _without_change()
        if asked and (held.checksum is None or held.checksum.composite or held.checksum.algorithm != asked):
            checksum = await copied_checksum.of_range(door, source, customer, 0, source.size, asked)
            attributes = msgspec.structs.replace(attributes or held, checksum=checksum, part_checksums=())
        if replace or retag:
            attributes = msgspec.structs.replace(attributes or held, tags=said.tags if retag else held.tags)
        attributes = grants.of_copy(fresh, held, attributes)
        if said.retention_mode or said.legal_hold:
            attributes = msgspec.structs.replace(
                attributes or held,
                retention_mode=said.retention_mode,
                retain_until_ns=said.retain_until_ns,
                legal_hold=said.legal_hold,
            )
        if resealed.shares(source, customer, sealing):
            if attributes is not None:
                attributes = msgspec.structs.replace(attributes, sse=held.sse)
            written = await door.store.copy_object(
                source, request.bucket, request.key, attributes, precondition=precondition, posix=posix
            )
            return written, source, held if attributes is None else attributes
        described = encryption.described(held if attributes is None else attributes, sealing)

        async def commit(body: Body, md5: str) -> Written:
            # the MD5 of an object that a customer's key sealed is known to nobody but those with the key
            etag = source.etag if customer is None or request.bucket.etag != "md5" else md5
            return await door.store.put_object(
                request.bucket,
                request.key,
                body,
                etag if sealing is None else sealing.etag(etag),
                described,
                precondition=precondition,
                posix=posix,
            )

        span = (0, source.size)
        return await resealed.copied(door, request, source, customer, span, sealing, commit), source, described

    written, source, made = await with_source(door, request.source, copy)
    kept = source.attributes
    response = answer(
        xml.document(
            "CopyObjectResult",
            f"<LastModified>{iso_date(written.written_ns // NS)}</LastModified><ETag>&quot;{written.etag}&quot;</ETag>"
            f"{metadata.checksum_xml(made.checksum, len(made.parts))}",
        )
    )
    response.headers += encryption.of_copy(kept, sealing)
    response.headers += versioned.copied(request.source.bucket, source)
    if request.bucket.settings:
        response.headers += expiry.headers(request.bucket, request.key, written.size, written.written_ns, made)
    if written.version_id:
        response.headers.append((versioned.VERSION_ID, written.version_id.encode()))
    return response


def _is_as_asked(held: Attributes, sealing: Sealing | None) -> bool:
    """Whether the source is encrypted already as the copy is to be."""
    return sealing is None or (sealing.customer is None and held.sse != "")


def _checksum_algorithm(headers: Mapping[bytes, bytes]) -> str:
    """What x-amz-checksum-algorithm asks for; empty: keep the source's.  Raises InvalidRequest."""
    named = headers.get(b"x-amz-checksum-algorithm", b"").decode("latin-1").upper()
    if named and named not in checksums.ALGORITHMS:
        raise S3Error("InvalidRequest", "Value for x-amz-checksum-algorithm header is invalid.")
    return named


def _without_change() -> S3Error:
    return S3Error(
        "InvalidRequest",
        "This copy request is illegal because it is trying to copy an object to itself without changing the object's "
        "metadata, storage class, website redirect location or encryption attributes.",
    )


def _attributes(source: Node, said: Attributes, *, replace: bool, reclass: bool) -> Attributes | None:
    """What the copy says about itself, but for its tags; None keeps all of the source's.

    Checksum and parts are of the bytes and stay.  With COPY only what the request may change by itself is taken.
    """
    held = attributes_of_copy(source.attributes)
    if replace:
        return msgspec.structs.replace(
            said, checksum=held.checksum, parts=held.parts, part_checksums=held.part_checksums
        )
    if not reclass and not said.website_redirect:
        return None
    return msgspec.structs.replace(
        held,
        storage_class=said.storage_class if reclass else held.storage_class,
        website_redirect=said.website_redirect or held.website_redirect,
    )


def _directive(value: bytes, name: str) -> bool:
    """True for REPLACE."""
    if value not in (b"COPY", b"REPLACE"):
        raise invalid_argument("Unknown metadata directive.", name, value.decode("latin-1"))
    return value == b"REPLACE"
