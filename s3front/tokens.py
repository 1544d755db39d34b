"""Continuation tokens (pure): a place in a listing, opaque to clients.

base64url of a version byte and the place.  Not signed: a token opens nothing that its holder could not ask for by
`start-after`, and authorisation looks at the bucket alone.
"""

from __future__ import annotations

import base64
from typing import Final

from s3front.errors import invalid_argument

_VERSION: Final = b"\x01"
_LENGTH_MAX: Final = 2048  # a place is a key of at most 1,024 bytes


def encode(place: bytes) -> str:
    """The token of a place."""
    return base64.urlsafe_b64encode(_VERSION + place).decode().rstrip("=")


def decode(token: str | None, name: str) -> bytes:
    """The place of a token, empty for None.  Raises InvalidArgument; `name` is the parameter to blame."""
    if token is None:
        return b""
    try:
        if len(token) > _LENGTH_MAX or not token.isascii():
            raise ValueError
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        raw.decode("utf-8")
    except ValueError:
        raw = b""
    if raw[:1] != _VERSION:
        raise invalid_argument("The continuation token provided is incorrect", name, token)
    return raw[1:]
