"""A form upload as a request: its fields read and verified, its policy enforced, and what they say put into headers.

A form says in fields what PutObject says in headers.  So the fields become headers, by a table of those that may, and
everything behind this module reads one spelling; the HTTP headers of a form count for nothing but where it came from
and where it goes.  What is not in the table is compared with the policy and otherwise ignored.

Source: Amazon S3 API Reference, "POST Object", "HTML form fields".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import quote

from appliance.limits import KEY_LENGTH_MAX
from s3front import post_policy, tagging
from s3front.asgi import Receive, Scope
from s3front.errors import S3Error, invalid_argument
from s3front.form import Form
from s3front.request import Posted, Request
from s3front.router import Level
from s3front.target import key_too_long
from s3front.verified import SignedRequest, Verified

Admit = Callable[[SignedRequest, Mapping[str, str], Mapping[bytes, bytes]], Verified]

_KEPT: Final = frozenset({b"host", b"origin", b"referer", b"user-agent", b"content-length", b"x-forwarded-for"})
_FIELDS: Final[dict[str, bytes]] = {
    "acl": b"x-amz-acl",
    **{
        name: name.encode()
        for name in (
            "cache-control",
            "content-disposition",
            "content-encoding",
            "content-language",
            "content-type",
            "expires",
            "x-amz-storage-class",
            "x-amz-website-redirect-location",
        )
    },
}
_PREFIXES: Final = ("x-amz-meta-", "x-amz-checksum-", "x-amz-object-lock-", "x-amz-server-side-encryption")


async def accept(scope: Scope, receive: Receive, admit: Admit, domain_suffix: bytes, now: float) -> Request:
    """The request that a form makes; `admit` is the gate.  The file is still to be read.

    Raises AuthError, InvalidPolicyDocument, AccessDenied, what the fields say (InvalidArgument, KeyTooLongError), and
    what `Form.read_fields` raises.
    """
    form = Form(scope["headers"], receive)
    fields = await form.read_fields()
    headers = {name: value for name, value in scope["headers"] if name in _KEPT} | _headers(fields)
    verified = admit(
        SignedRequest(scope["method"], scope["raw_path"], scope["query_string"], scope["headers"]), fields, headers
    )
    request = Request(scope, receive, verified)
    request.locate(domain_suffix)
    policy = None
    if "policy" in fields:
        if fields.get("bucket", request.bucket_name) != request.bucket_name:
            raise S3Error("AccessDenied", "The form is for another bucket.")
        policy = post_policy.parse(_decoded(fields["policy"]))
        post_policy.check(policy, {**fields, "bucket": request.bucket_name}, now)
    if request.level is Level.BUCKET:
        request.key = _key(fields)
    request.posted = Posted(form, policy)
    return request


def _headers(fields: Mapping[str, str]) -> dict[bytes, bytes]:
    found = {}
    for name, value in fields.items():
        header = _FIELDS.get(name)
        if header is not None:
            found[header] = value.encode()
        elif name.startswith(_PREFIXES):
            found[name.encode()] = value.encode()
        elif name == "tagging":
            tags = tagging.parse(value.encode(), tagging.OBJECT_TAGS_MAX)
            found[tagging.HEADER] = "&".join(f"{quote(k, '')}={quote(v, '')}" for k, v in tags.items()).encode()
    return found


def _key(fields: Mapping[str, str]) -> bytes:
    if "key" not in fields:
        raise invalid_argument(
            "Bucket POST must contain a field named 'key'.  If it is specified, please check the order of the fields.",
            "key",
        )
    key = fields["key"].encode()
    if not key:
        raise invalid_argument("User key must have a length greater than 0.", "key")
    if len(key) > KEY_LENGTH_MAX:
        raise key_too_long(key)
    return key


def _decoded(policy: str) -> bytes:
    try:
        return base64.b64decode("".join(policy.split()), validate=True)
    except (binascii.Error, ValueError):
        raise S3Error("InvalidPolicyDocument", "Invalid Policy: it is not in base64.") from None
