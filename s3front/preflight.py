"""Cross-origin requests: the preflight's answer, and the headers of any other answer to a request with an Origin.

Both look at nothing but the bucket's CORS rules.  A preflight carries no credentials, so it is answered before any
authentication and says nothing that the rules do not say; what it grants lets a browser ask, and opens nothing.
"""

from __future__ import annotations

from typing import Final

from appliance import settings
from appliance.errors import StoreError
from s3front import cors
from s3front.asgi import Scope
from s3front.errors import S3Error
from s3front.request import Door
from s3front.response import Headers, Response
from s3front.target import decode_once, split_target

NAME: Final = "PreflightRequest"


def operate(door: Door, scope: Scope, domain_suffix: bytes) -> Response:
    """OPTIONS of a bucket or an object.  Raises BadRequest (not a preflight), AccessForbidden, InvalidURI."""
    headers = dict(scope["headers"])
    bucket, key = split_target(scope["raw_path"], headers.get(b"host", b""), domain_suffix)
    try:
        return Response(200, cors.preflight(_rules(door, bucket), headers))
    except S3Error as error:
        if error.code != "AccessForbidden":
            raise
        kind = ("ResourceType", "OBJECT" if key else "BUCKET")
        raise S3Error(error.code, error.message, details=(*error.details, kind), headers=(cors.VARY,)) from None


def headers_for(door: Door, scope: Scope, domain_suffix: bytes) -> Headers:
    """What CORS adds to the answer, error or not, of any other request; nothing without an Origin or without rules."""
    headers = dict(scope["headers"])
    if cors.ORIGIN not in headers:
        return []
    try:
        bucket, _ = split_target(scope["raw_path"], headers.get(b"host", b""), domain_suffix)
        rules = _rules(door, bucket)
    except S3Error:
        return []  # no target, no bucket, no rules: the answer says it in its own words
    return cors.actual(rules, scope["method"], headers) if rules else []


def _rules(door: Door, name: bytes) -> tuple[cors.Rule, ...]:
    """The rules of the bucket; none where there is no bucket, so that a stranger learns nothing of names."""
    try:
        document = door.store.bucket(decode_once(name).decode()).settings.get(settings.CORS)
    except StoreError:
        return ()
    return cors.of_bucket(document) if document is not None else ()
