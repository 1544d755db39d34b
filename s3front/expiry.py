"""x-amz-expiration: when a bucket's lifecycle will delete the current object (pure).

Source: Amazon S3 API Reference, "Common Response Headers" of GetObject, HeadObject, PutObject.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from appliance import lifecycle, settings
from appliance.errors import StoreError
from appliance.lifecycle import Version
from appliance.model import Attributes, Bucket
from s3front.dates import http_date

HEADER: Final = b"x-amz-expiration"


def headers(
    bucket: Bucket, key: bytes, size: int, written_ns: int, attributes: Attributes
) -> list[tuple[bytes, bytes]]:
    """The header, if a rule of the bucket will delete the object.  Ask only where `bucket.settings` is not empty."""
    body = bucket.settings.get(settings.LIFECYCLE)
    if body is None:
        return []
    try:
        rules = lifecycle.parse(body)
    except StoreError:  # nobody's object is withheld because its rules cannot be read
        return []
    found = lifecycle.expiration(rules, Version(key, size, attributes.tags, written_ns))
    if found is None:
        return []
    second, rule = found
    return [(HEADER, b'expiry-date="%b", rule-id="%b"' % (http_date(second), quote(rule, safe="").encode()))]
