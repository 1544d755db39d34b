"""The names of a bucket's settings: documents that a client stored and that are returned as they came.

A setting's body is opaque here and in the catalogue.  Whoever gives it a meaning has a pure `parse(body)` behind an
`functools.lru_cache`: the same bytes are the same value, so nothing is ever invalidated.  A bucket without settings
pays
one look at an empty dict.
"""

from __future__ import annotations

from typing import Final

VERSIONING: Final = "versioning"  # ENABLED or SUSPENDED; absent: never versioned
LOCK: Final = "lock"  # object lock: present once enabled, with the default retention
POLICY: Final = "policy"
ACL: Final = "acl"
OWNERSHIP: Final = "ownership"
PUBLIC_ACCESS_BLOCK: Final = "public-access-block"
CORS: Final = "cors"
LIFECYCLE: Final = "lifecycle"
TAGGING: Final = "tagging"
WEBSITE: Final = "website"
ENCRYPTION: Final = "encryption"
REQUEST_PAYMENT: Final = "request-payment"
ACCELERATE: Final = "accelerate"
LOGGING: Final = "logging"
NOTIFICATION: Final = "notification"
QUOTA: Final = "quota"  # no document of S3's but ours: appliance/quota.py

ENABLED: Final = b"Enabled"
SUSPENDED: Final = b"Suspended"
