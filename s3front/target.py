"""What a request's target says: bucket and key split, escapes decoded exactly once (pure).

The bucket is split off before anything is decoded, so no escape can move the border between bucket and key.

Sources: RFC 3986 section 2.1 (percent-encoding); Amazon S3 User Guide, "Virtual hosting of buckets".
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from appliance.limits import KEY_LENGTH_MAX
from appliance.model import version_number
from s3front.errors import S3Error, invalid_argument

_BROKEN_ESCAPE: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def split_target(raw: bytes, host: bytes, domain_suffix: bytes) -> tuple[bytes, bytes]:
    """Bucket and key of a path, both still percent-encoded and empty where they are not there.  Raises InvalidURI."""
    if raw[:1] != b"/":
        raise S3Error("InvalidURI")
    bucket = virtual_host(host, domain_suffix) if domain_suffix else None
    if bucket is not None:
        return bucket, raw[1:]
    bucket, _, key = raw[1:].partition(b"/")
    return bucket, key


def decode_once(raw: bytes) -> bytes:
    """Percent-decoding, exactly once; a `+` is a plus.  Raises InvalidURI for a broken escape or what is not UTF-8."""
    if b"%" in raw:
        if _BROKEN_ESCAPE.search(raw):
            raise S3Error("InvalidURI")
        raw = unquote_to_bytes(raw)
    if not raw.isascii():
        try:
            raw.decode("utf-8")
        except UnicodeDecodeError:
            raise S3Error("InvalidURI") from None
    return raw


def parse_query(query: bytes) -> dict[str, str]:
    """Names to values, decoded once, `+` being a space.  Of a name given twice the first counts.  Raises InvalidURI."""
    found: dict[str, str] = {}
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if name:
            found.setdefault(_decode_parameter(name), _decode_parameter(value))
    return found


def _decode_parameter(raw: bytes) -> str:
    return decode_once(raw.replace(b"+", b" ") if b"+" in raw else raw).decode()


def virtual_host(host: bytes, suffix: bytes) -> bytes | None:
    """The bucket in `bucket.s3.example.org:9000`, raw; None when the request is in path style."""
    name = host.lower()
    if not name.endswith(b"]"):
        name = name.partition(b":")[0] if name.count(b":") == 1 else name
    if not name.endswith(suffix):
        return None
    bucket = name[: -len(suffix)]
    return bucket if bucket and b"/" not in bucket else None


def check_version(text: str) -> str:
    """A version id, as it is.  Raises InvalidArgument for what no version was ever called."""
    if not text:
        raise invalid_argument("Version id cannot be the empty string", "versionId", text)
    if version_number(text) is None:
        raise invalid_argument("Invalid version id specified", "versionId", text)
    return text


def key_too_long(key: bytes) -> S3Error:
    """400 with AWS's elements."""
    return S3Error("KeyTooLongError", details=(("Size", str(len(key))), ("MaxSizeAllowed", str(KEY_LENGTH_MAX))))
