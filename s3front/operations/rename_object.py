"""RenameObject: PUT /bucket/key?renameObject.  One atomic step: the object under another key, nothing else changed.

AWS has it for directory buckets only; here every bucket is a tree of directories, so every bucket has it.  Versions
keep to their keys: in a bucket that has them the object is a new version of its new key, a delete marker hides the old
one, and what is locked is not renamed.  x-amz-rename-source is `/bucket/key` or `key`, percent-encoded.

A client token makes a repetition harmless: the same request with the same token succeeds again without being done
again.  Tokens are remembered while the daemon runs.
"""

from __future__ import annotations

from typing import Final

from appliance.authority import Action
from appliance.errors import Code, StoreError
from appliance.limits import KEY_LENGTH_MAX
from appliance.model import Node
from s3front import conditions, preconditions
from s3front.conditions import Names, Outcome
from s3front.dates import NS, parse_date
from s3front.errors import S3Error, invalid_argument
from s3front.request import Door, Request, Source
from s3front.response import Response
from s3front.router import Level, Route
from s3front.sources import with_source
from s3front.target import decode_once, key_too_long

NAME: Final = "RenameObject"
ACTION: Final = Action.PUT_OBJECT
ROUTES: Final = (Route("PUT", Level.OBJECT, "renameObject"),)

SOURCE: Final = b"x-amz-rename-source"
TOKEN: Final = b"x-amz-client-token"
TOKEN_MAX: Final = 64
TOKENS_MAX: Final = 4096  # the oldest are forgotten
_OF_SOURCE: Final = Names(
    b"x-amz-rename-source-if-match",
    b"x-amz-rename-source-if-none-match",
    b"x-amz-rename-source-if-modified-since",
    b"x-amz-rename-source-if-unmodified-since",
)
_MODIFIED_SINCE: Final = b"if-modified-since"


async def operate(door: Door, request: Request) -> Response:
    """Raises InvalidArgument (source, token), InvalidRequest (another bucket), NoSuchKey,
    PreconditionFailed, IdempotencyParameterMismatch, AccessDenied."""
    key = _source(request)
    asked = (request.bucket.id, key, request.key, _said(request))
    token = _token(request)
    done = door.renames
    if token is not None and token in done:
        if done[token] != asked:
            raise S3Error("IdempotencyParameterMismatch")
        return Response(200, [])
    if request.admission is not None:
        await request.admission.also(Action.GET_OBJECT, key)
        await request.admission.also(Action.DELETE_OBJECT, key)
    precondition = await preconditions.for_write(door, request)
    if _MODIFIED_SINCE in request.headers:
        await _check_modified(door, request)

    async def rename(node: Node) -> None:
        outcome, header = conditions.evaluate(request.headers, node.etag, node.written_ns, _OF_SOURCE)
        if outcome is not Outcome.PROCEED:
            raise conditions.failed(header)
        await door.store.rename_object(node, request.bucket, key, request.key, precondition=precondition)

    source = Source(request.bucket_name, key)
    source.bucket = request.bucket
    await with_source(door, source, rename)
    if token is not None:
        done[token] = asked
        if len(done) > TOKENS_MAX:
            done.popitem(last=False)
    return Response(200, [])


def _source(request: Request) -> bytes:
    """The key to rename."""
    value = request.headers.get(SOURCE, b"")
    path = value.removeprefix(b"/")
    bucket, slash, key = path.partition(b"/")
    try:
        if slash and decode_once(bucket).decode() == request.bucket_name:
            path = key
        elif path != value:
            raise S3Error("InvalidRequest", "An object is renamed within its bucket.")
        decoded = decode_once(path)
    except S3Error as error:
        if error.code != "InvalidURI":
            raise
        decoded = b""
    if not decoded:
        raise invalid_argument("The source key is missing or malformed.", SOURCE.decode(), value.decode("latin-1"))
    if len(decoded) > KEY_LENGTH_MAX:
        raise key_too_long(decoded)
    return decoded


def _said(request: Request) -> tuple[bytes | None, ...]:
    """The conditions of the request, which belong to what a token stands for."""
    headers = request.headers
    return tuple(headers.get(name) for name in (*conditions.READ, *_OF_SOURCE))


def _token(request: Request) -> tuple[str, bytes] | None:
    value = request.headers.get(TOKEN)
    if value is None:
        return None
    if not 1 <= len(value) <= TOKEN_MAX or any(not 33 <= byte <= 126 for byte in value):
        raise invalid_argument(
            "A client token has 1 to 64 visible characters.", TOKEN.decode(), value.decode("latin-1")
        )
    principal = request.verified.principal
    return ("" if principal is None else principal.owner, value)


async def _check_modified(door: Door, request: Request) -> None:
    """If-Modified-Since of the destination: it must be there and have changed since.  Raises PreconditionFailed."""
    moment = parse_date(request.headers[_MODIFIED_SINCE].decode("latin-1"))
    if moment is None:
        return
    try:
        node = await door.store.look_up(request.bucket, request.key)
    except StoreError as error:
        if error.code is not Code.NO_SUCH_KEY:
            raise
        raise conditions.failed(_MODIFIED_SINCE) from None
    if node.written_ns // NS <= moment:
        raise conditions.failed(_MODIFIED_SINCE)
