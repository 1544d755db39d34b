"""CompleteMultipartUpload: POST /bucket/key?uploadId=….  Parts become one object; no byte is read.

The door computes what S3 shows of the whole: the composite ETag, and the checksum, composite (a digest of the parts'
digests) or of the full object (CRCs combine).  A completion repeated after its answer was lost succeeds, as in AWS: the
ETag says whether the object that is there is the one asked for.
"""

from __future__ import annotations

import itertools
from typing import Final, NamedTuple

import msgspec
import trio

from appliance import settings
from appliance.authority import Action
from appliance.errors import Code, StoreError
from appliance.limits import MIB, OBJECT_SIZE_MAX, PART_NUMBER_MAX, PART_SIZE_MIN
from appliance.model import Checksum, Node, Part, Precondition, Upload, Written
from s3front import checksums, encryption, expiry, intake, metadata, preconditions, versioned, xml
from s3front.errors import S3Error
from s3front.request import Door, Request
from s3front.response import Headers, Response, answer
from s3front.router import Level, Route
from s3front.xml import Element

NAME: Final = "CompleteMultipartUpload"
ACTION: Final = Action.PUT_OBJECT
ROUTES: Final = (Route("POST", Level.OBJECT, "uploadId"),)

# 10,000 parts, each with number, quoted ETag and SHA-256, are 1.7 MB: the only document that may pass limits.XML_MAX.
DOCUMENT_MAX: Final = 2 * MIB

JUDGE_INLINE_MAX: Final = 128  # parts; more are compared and summed in a thread
PAGE: Final = 250  # parts per look: the loop is not held for longer


class Asked(NamedTuple):
    """One Part of the document.  `checksums` maps algorithm to base64."""

    number: int
    etag: str
    checksums: dict[str, str]


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML, NoSuchUpload, InvalidPart, InvalidPartOrder, EntityTooSmall, BadDigest, InvalidRequest,
    PreconditionFailed."""
    precondition = await preconditions.for_write(door, request)
    shown: Headers = []
    asked = await _asked(request)
    try:
        upload = door.store.upload(request.bucket, request.key, request.query["uploadId"])
        shown = encryption.of_completion(upload, request.headers)
        held = await _held(door, upload)
        if len(asked) <= JUDGE_INLINE_MAX:
            parts, whole = _judge(request, upload, asked, held)
        else:
            parts, whole = await trio.to_thread.run_sync(_judge, request, upload, asked, held)
        etag, checksum = checksums.multipart_etag([part.etag for part in parts]), whole
        written = await _complete(door, upload, parts, etag, whole, precondition)
        version_id = written.version_id
        if request.bucket.settings:
            shown += expiry.headers(request.bucket, request.key, written.size, written.written_ns, upload.attributes)
    except StoreError as error:
        if error.code is not Code.NO_SUCH_UPLOAD:
            raise
        node = await _completed_before(door, request, asked, error)
        shown = encryption.of_completed(node, request.headers)
        etag, checksum = node.etag, node.attributes.checksum
        enabled = request.bucket.settings.get(settings.VERSIONING) == settings.ENABLED
        version_id = node.version_id if enabled else ""
    scheme = request.scope.get("scheme", "http")
    host = request.headers.get(b"host", b"").decode("latin-1")
    location = f"{scheme}://{host}{request.verified.path.decode('latin-1')}"
    response = answer(
        xml.document(
            "CompleteMultipartUploadResult",
            f"<Location>{xml.escape(location)}</Location>"
            f"<Bucket>{xml.escape(request.bucket_name)}</Bucket><Key>{xml.escape_key(request.key)}</Key>"
            f"<ETag>&quot;{etag}&quot;</ETag>{metadata.checksum_xml(checksum, len(asked))}",
        )
    )
    response.headers += shown
    if version_id:
        response.headers.append((versioned.VERSION_ID, version_id.encode()))
    return response


async def _asked(request: Request) -> list[Asked]:
    document = await intake.document(request, DOCUMENT_MAX, of_object=True)
    if not document:
        raise xml.malformed("There are no parts.")
    if len(document) <= xml.PARSE_INLINE_MAX:
        return parse(document)
    return await trio.to_thread.run_sync(parse, document)


def parse(document: bytes) -> list[Asked]:
    """The parts in the document's order.  Of a number named twice in a row, as by a client that sent a part again, the
    later one counts.  Raises MalformedXML, InvalidPartOrder."""
    tree = xml.parse(document, "CompleteMultipartUpload", DOCUMENT_MAX).only("Part")
    if not tree.children:
        raise xml.malformed("There are no parts.")
    if len(tree.children) > PART_NUMBER_MAX:
        raise xml.malformed(f"There are more than {PART_NUMBER_MAX} parts.")
    parts = [_part(child) for child in tree.children]
    for one, following in itertools.pairwise(parts):
        if following.number < one.number:
            raise S3Error("InvalidPartOrder")
    return list({part.number: part for part in parts}.values())


def _part(child: Element) -> Asked:
    names = [f"Checksum{algorithm}" for algorithm in checksums.ALGORITHMS]
    child.only("PartNumber", "ETag", *names)
    text = child.need("PartNumber").strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= PART_NUMBER_MAX):
        raise xml.malformed("A part number is not an integer from 1 to 10000.")
    etag = child.need("ETag").strip().strip('"')
    said = {name.removeprefix("Checksum"): child.get(name) for name in names}
    return Asked(int(text), etag, {name: value.strip() for name, value in said.items() if value})


async def _held(door: Door, upload: Upload) -> dict[int, Part]:
    """Every part of the upload by number.  Lets others run between pages."""
    held: dict[int, Part] = {}
    after, more = 0, True
    while more:
        page, more = door.store.parts(upload, after, PAGE)
        await trio.lowlevel.checkpoint()
        for part in page:
            held[part.number] = part
            after = part.number
    return held


def _judge(
    request: Request, upload: Upload, asked: list[Asked], held: dict[int, Part]
) -> tuple[list[Part], Checksum | None]:
    """The parts asked for and the checksum of the whole, or the S3Error that refuses them."""
    for algorithm in checksums.ALGORITHMS.values():
        promised = request.headers.get(algorithm.header)
        if promised is not None and checksums.decode(promised.partition(b"-")[0], algorithm.size) is None:
            raise checksums.invalid_value(algorithm.name)
    parts = [_match(part, held) for part in asked]
    whole = _checksum(upload, parts)
    _check_promises(request, upload, parts, whole)
    return parts, whole


def _match(asked: Asked, held: dict[int, Part]) -> Part:
    part = held.get(asked.number)
    if part is None or part.etag != asked.etag:
        raise S3Error("InvalidPart", details=(("PartNumber", str(asked.number)), ("ETag", asked.etag)))
    for algorithm, text in asked.checksums.items():
        known = part.checksum
        if known is not None and known.algorithm == algorithm and checksums.text(known) != text:
            raise S3Error("InvalidPart", details=(("PartNumber", str(asked.number)), (f"Checksum{algorithm}", text)))
    return part


def _checksum(upload: Upload, parts: list[Part]) -> Checksum | None:
    """The checksum of the whole, as far as the parts have one of the same algorithm.

    An upload that chose no algorithm gets a full-object CRC if its parts agree on one.  Copied parts have none.  What
    the document says of each part was compared by `_match`; what it does not say is known all the same.
    """
    known = [part.checksum for part in parts if part.checksum is not None]
    algorithm = upload.checksum_algorithm or (known[0].algorithm if known else "")
    if not algorithm or len(known) < len(parts) or any(one.algorithm != algorithm for one in known):
        return None
    kind = upload.checksum_type
    if not kind:
        if checksums.ALGORITHMS[algorithm].combine is None:
            return None
        kind = "FULL_OBJECT"
    if kind == "COMPOSITE":
        return checksums.composite(algorithm, [one.value for one in known])
    return checksums.full_object(algorithm, [(one.value, part.size) for one, part in zip(known, parts, strict=True)])


def _check_promises(request: Request, upload: Upload, parts: list[Part], whole: Checksum | None) -> None:
    """What the client said about the whole object."""
    for index, part in enumerate(parts[:-1]):
        if part.size < PART_SIZE_MIN:
            raise S3Error(
                "EntityTooSmall",
                details=(
                    ("ProposedSize", str(part.size)),
                    ("MinSizeAllowed", str(PART_SIZE_MIN)),
                    ("PartNumber", str(parts[index].number)),
                    ("ETag", part.etag),
                ),
            )
    total = sum(part.size for part in parts)
    if total > OBJECT_SIZE_MAX:
        raise S3Error("EntityTooLarge")
    size = request.headers.get(b"x-amz-mp-object-size")
    if size is not None and size != b"%d" % total:
        raise S3Error("InvalidRequest", "The provided 'x-amz-mp-object-size' header does not match what was computed.")
    kind = request.header_text(b"x-amz-checksum-type")
    if kind is not None and upload.checksum_type and kind.upper() != upload.checksum_type:
        raise S3Error(
            "InvalidRequest",
            f"The upload was created using the {upload.checksum_type} checksum mode. The complete request must use the "
            "same checksum mode.",
        )
    for algorithm in checksums.ALGORITHMS.values():
        promised = request.headers.get(algorithm.header)
        if promised is None:
            continue
        if whole is None or whole.algorithm != algorithm.name:
            raise S3Error("InvalidRequest", "Checksum algorithm provided does not match the one of the upload.")
        if promised.decode("latin-1").partition("-")[0] != checksums.text(whole).partition("-")[0]:
            raise S3Error(
                "BadDigest", f"The {algorithm.name.lower()} you specified did not match the calculated checksum."
            )


def _kept(parts: list[Part], whole: Checksum | None) -> tuple[bytes, ...]:
    """The parts' own checksums, for GetObjectAttributes and reads by part."""
    return () if whole is None else tuple(part.checksum.value for part in parts if part.checksum is not None)


async def _complete(
    door: Door,
    upload: Upload,
    parts: list[Part],
    etag: str,
    whole: Checksum | None,
    precondition: Precondition | None,
) -> Written:
    attributes = msgspec.structs.replace(
        upload.attributes, checksum=whole, parts=tuple(part.size for part in parts), part_checksums=_kept(parts, whole)
    )
    pairs = [(part.number, part.etag) for part in parts]
    return await door.store.complete_upload(upload, pairs, etag, attributes, precondition=precondition)


async def _completed_before(door: Door, request: Request, asked: list[Asked], error: StoreError) -> Node:
    """The object that this very list of parts made, or the error."""
    try:
        etag = checksums.multipart_etag([part.etag for part in asked])
        node = await door.store.look_up(request.bucket, request.key)
    except (StoreError, S3Error):
        raise error from None
    if node.etag != etag:
        raise error
    return node
