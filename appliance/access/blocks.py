"""What limits grants: the public-access block of a bucket and its object ownership (pure).

A block has four switches, off unless set.  Two refuse (a new public ACL, a new public policy), two ignore (public ACLs,
and what a public policy gives to other accounts).  Ownership says whose an uploaded object is, and whether ACLs count.

Source: Amazon S3 User Guide, "Blocking public access to your Amazon S3 storage", "Controlling ownership of objects".
"""

from __future__ import annotations

import functools
from typing import Final

import msgspec

from appliance.access import acl
from appliance.model import Frozen

# A bucket without controls is as one with WRITER: AWS's own default before April 2023, and what ACLs need.
ENFORCED: Final = "BucketOwnerEnforced"
PREFERRED: Final = "BucketOwnerPreferred"
WRITER: Final = "ObjectWriter"
OWNERSHIPS: Final = (ENFORCED, PREFERRED, WRITER)


class PublicAccessBlock(Frozen, frozen=True):
    """The four switches."""

    block_public_acls: bool = False
    ignore_public_acls: bool = False
    block_public_policy: bool = False
    restrict_public_buckets: bool = False


OPEN: Final = PublicAccessBlock()
_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(PublicAccessBlock)


def encode(block: PublicAccessBlock) -> bytes:
    """As the setting is stored."""
    return _encoder.encode(block)


@functools.lru_cache(maxsize=16)
def parse(body: bytes | None) -> PublicAccessBlock:
    """The reverse of `encode`; no setting is no block."""
    return OPEN if body is None else _decoder.decode(body)


def parse_ownership(body: bytes | None) -> str:
    """One of OWNERSHIPS."""
    text = WRITER if body is None else body.decode()
    assert text in OWNERSHIPS, text
    return text


def object_owner(ownership: str, writer: str, bucket_owner: str, canned: str) -> str:
    """Whose a new object is.  `canned` is the x-amz-acl that came with it, or empty; `writer` empty for anonymous:
    where no account stands behind an upload it is the bucket owner's."""
    if not writer or ownership == ENFORCED or (ownership == PREFERRED and canned == acl.OWNER_FULL_CONTROL):
        return bucket_owner
    return writer
