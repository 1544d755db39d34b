"""Browser forms as they come over the wire, with policies signed by the book in both versions."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Sequence
from typing import Any

BOUNDARY = b"----tierce-form-boundary"

Part = tuple[str, str | bytes]


def multipart(parts: Sequence[Part], *, filename: str = "a.txt", closed: bool = True) -> bytes:
    """The body of a form; the part called `file` has a file name."""
    found = bytearray()
    for name, value in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if name.lower() == "file" else "")
        data = value.encode() if isinstance(value, str) else value
        found += b"--%b\r\nContent-Disposition: %b\r\n\r\n%b\r\n" % (BOUNDARY, disposition.encode(), data)
    if closed:
        found += b"--%b--\r\n" % BOUNDARY
    return bytes(found)


def policy_text(conditions: list[Any], expires: float) -> str:
    """The policy in base64."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(expires))
    return base64.b64encode(json.dumps({"expiration": stamp, "conditions": conditions}).encode()).decode()


def signed_v4(
    policy: str, key_id: str, secret: str, region: str, now: float, *, service: str = "s3", date: str = ""
) -> list[Part]:
    """The fields that carry the policy and its signature of version 4."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    scope = f"{date or stamp[:8]}/{region}/{service}/aws4_request"
    key = ("AWS4" + secret).encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return [
        ("policy", policy),
        ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
        ("x-amz-credential", f"{key_id}/{scope}"),
        ("x-amz-date", stamp),
        ("x-amz-signature", hmac.digest(key, policy.encode(), "sha256").hex()),
    ]


def signed_v2(policy: str, key_id: str, secret: str) -> list[Part]:
    """The same in version 2."""
    signature = base64.b64encode(hmac.digest(secret.encode(), policy.encode(), "sha1")).decode()
    return [("AWSAccessKeyId", key_id), ("policy", policy), ("signature", signature)]


def v4_conditions() -> list[Any]:
    """What a policy says of the fields of version 4."""
    return [["starts-with", f"${name}", ""] for name in ("x-amz-algorithm", "x-amz-credential", "x-amz-date")]
