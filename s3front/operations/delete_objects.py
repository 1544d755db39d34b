"""DeleteObjects: POST /bucket?delete.  Up to 1,000 keys in one batch, each with its own outcome.

A key in the document is checked exactly as a key in a URL: same length, same bucket, no decoding beyond XML's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio

from appliance.authority import Action
from appliance.errors import StoreError
from appliance.limits import DELETE_KEYS_MAX, KEY_LENGTH_MAX
from appliance.model import Deleted, Deletion, version_number
from s3front import checksums, conditions, intake, object_lock, xml
from s3front.errors import S3Error, from_store
from s3front.request import Admission, Door, Request
from s3front.response import Response, answer
from s3front.router import Level, Route
from s3front.xml import Element

NAME: Final = "DeleteObjects"
ACTION: Final = Action.DELETE_OBJECT
ROUTES: Final = (Route("POST", Level.BUCKET, "delete"),)

Target = tuple[Deletion, S3Error | None]  # or why it is refused unseen


async def operate(door: Door, request: Request) -> Response:
    """Raises MalformedXML (also for none or too many keys), InvalidRequest (no digest of the document)."""
    _require_digest(request)
    document = await intake.document(request)
    if not document:
        raise S3Error("MissingRequestBodyError")
    if len(document) <= xml.PARSE_INLINE_MAX:
        quiet, targets = parse(document)
    else:
        quiet, targets = await trio.to_thread.run_sync(parse, document)
    if request.admission is not None:
        targets = [await _judged(request.admission, request.headers, target) for target in targets]
    wanted: list[Deletion] = []
    outcomes: list[S3Error | Deleted | None] = []
    places: list[int] = []  # where the outcome of each of `wanted` belongs
    for target, refused in targets:
        if refused is None:
            places.append(len(outcomes))
            wanted.append(target)
        outcomes.append(refused)
    if wanted:
        results = await door.store.delete_objects(
            request.bucket, wanted, owner=request.caller, bypass=object_lock.bypasses(request.headers)
        )
        for place, result in zip(places, results, strict=True):
            if isinstance(result, StoreError):
                outcomes[place] = from_store(result)
            elif isinstance(result, Exception):
                raise result
            else:
                outcomes[place] = result
    rows = "".join(_row(target, outcome, quiet) for (target, _), outcome in zip(targets, outcomes, strict=True))
    return answer(xml.document("DeleteResult", rows))


def parse(document: bytes) -> tuple[bool, list[Target]]:
    """Whether successes go unmentioned, and the keys in the document's order.  Raises MalformedXML."""
    tree = xml.parse(document, "Delete").only("Object", "Quiet")
    quiet = _flag(tree.get("Quiet"))
    found = tree.all("Object")
    if not 1 <= len(found) <= DELETE_KEYS_MAX:
        raise xml.malformed(f"Between 1 and {DELETE_KEYS_MAX} keys can be deleted.")
    return quiet, [_target(target) for target in found]


async def _judged(admission: Admission, headers: Mapping[bytes, bytes], target: Target) -> Target:
    """The target, refused if the caller may not delete it."""
    deletion, refused = target
    if refused is None:
        try:
            await admission.judge(deletion.key, deletion.version_id, headers)
            if deletion.precondition is not None:  # its outcome tells what the object is
                await admission.allow(Action.GET_OBJECT, deletion.key, deletion.version_id)
        except StoreError as error:
            refused = from_store(error)
    return deletion, refused


def _require_digest(request: Request) -> None:
    """AWS refuses a deletion whose list might have been damaged on the way."""
    headers = request.headers
    if b"content-md5" in headers or b"x-amz-trailer" in headers or not checksums.BY_HEADER.keys().isdisjoint(headers):
        return
    raise S3Error("InvalidRequest", "Missing required header for this request: Content-MD5 OR x-amz-checksum-*")


def _target(target: Element) -> Target:
    target.only("Key", "VersionId", "ETag", "LastModifiedTime", "Size")
    key = target.need("Key").encode()
    if not key:
        raise S3Error("MalformedXML", "A key must not be empty.")
    if len(key) > KEY_LENGTH_MAX:
        return Deletion(key), S3Error("KeyTooLongError")
    version_id = target.get("VersionId") or ""
    if version_id and version_number(version_id) is None:
        return Deletion(key, version_id), S3Error("NoSuchVersion")
    precondition = conditions.delete_precondition(
        target.get("ETag"), target.get("LastModifiedTime"), target.get("Size")
    )
    return Deletion(key, version_id, precondition), None


def _flag(text: str | None) -> bool:
    value = (text or "false").strip().lower()
    if value not in ("true", "false"):
        raise xml.malformed("Quiet must be true or false.")
    return value == "true"


def _row(target: Deletion, outcome: S3Error | Deleted | None, quiet: bool) -> str:
    """The version that was asked for is named again; of a delete marker that was made or removed also its id."""
    name = f"<Key>{xml.escape_key(target.key)}</Key>{xml.optional('VersionId', target.version_id)}"
    if isinstance(outcome, S3Error):
        message = xml.escape_legal(outcome.message)
        return f"<Error>{name}<Code>{outcome.code}</Code><Message>{message}</Message></Error>"
    if quiet:
        return ""
    marker = ""
    if outcome is not None and outcome.marker:
        marker = f"<DeleteMarker>true</DeleteMarker><DeleteMarkerVersionId>{outcome.version_id}</DeleteMarkerVersionId>"
    return f"<Deleted>{name}{marker}</Deleted>"
