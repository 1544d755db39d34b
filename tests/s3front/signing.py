"""Requests signed by botocore, the oracle, as they come over the wire.

`credentials` and `unseal` are the two functions that the gate asks; the secret is "sealed" in the clear here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from appliance.model import AccessKey
from s3front.sigv4 import SigningKeys
from s3front.verified import SignedRequest, Verified, verify

KEY_ID = "TCEXAMPLEEXAMPLE1234"
SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY12"
REGION = "us-east-1"
NOW = 1_800_000_000
HOST = "box.example:9000"
KEY = AccessKey(KEY_ID, "test", "default", 0, SECRET.encode())


def credentials(key_id: str) -> AccessKey | None:
    return KEY if key_id == KEY_ID else None


def unseal(key: AccessKey) -> str:
    return key.sealed.decode()


class _PayloadWord(S3SigV4Auth):
    """S3's signer with a given x-amz-content-sha256."""

    word: str | None = None

    def payload(self, request: Any) -> str:
        return self.word if self.word is not None else str(super().payload(request))


def sign_by_header(
    method: str = "GET",
    path: str = "/bucket/key",
    query: str = "",
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    payload: str | None = None,
    at: float = NOW,
    key_id: str = KEY_ID,
    secret: str = SECRET,
    region: str = REGION,
    service: str = "s3",
) -> SignedRequest:
    """`path` and `query` are percent-encoded already."""
    url = f"http://{HOST}{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, headers=dict(headers or {}), data=body)
    signer = _PayloadWord(Credentials(key_id, secret), service, region)
    signer.word = payload
    with mock.patch("botocore.auth.get_current_datetime", return_value=dt.datetime.fromtimestamp(at, dt.UTC)):
        signer.add_auth(request)
    sent = {"Host": HOST, **dict(request.headers.items())}
    return SignedRequest(method, path.encode(), query.encode(), _wire(sent))


def sign_by_query(
    method: str = "GET",
    path: str = "/bucket/key",
    query: str = "",
    *,
    headers: Mapping[str, str] | None = None,
    expires: int = 3600,
    at: float = NOW,
    key_id: str = KEY_ID,
    secret: str = SECRET,
    region: str = REGION,
    service: str = "s3",
) -> SignedRequest:
    """A presigned request."""
    url = f"http://{HOST}{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method, url, headers=dict(headers or {}))
    signer = S3SigV4QueryAuth(Credentials(key_id, secret), service, region, expires=expires)
    with mock.patch("botocore.auth.get_current_datetime", return_value=dt.datetime.fromtimestamp(at, dt.UTC)):
        signer.add_auth(request)
    parts = urlsplit(str(request.url))
    return SignedRequest(
        method, parts.path.encode(), parts.query.encode(), _wire({"Host": HOST, **dict(request.headers.items())})
    )


def check(request: SignedRequest, now: float = NOW, keys: SigningKeys | None = None) -> Verified:
    """The gate, with a fresh cache of signing keys unless one is given."""
    return verify(request, credentials, unseal, now, REGION, SigningKeys() if keys is None else keys)


def _wire(headers: Mapping[str, Any]) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(
        (name.lower().encode(), value if isinstance(value, bytes) else str(value).encode())
        for name, value in headers.items()
    )
