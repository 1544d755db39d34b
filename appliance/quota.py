"""What a bucket may hold: a quota is a bucket's setting, checked where its usage is counted (engine/ledger.py).  Pure.

Bytes are those that S3 shows: the sizes of all objects and versions and of the parts of unfinished uploads, one copy of
each, holes included.  A file with several names counts once for each, as its keys are counted.  Objects are keys,
noncurrent versions and delete markers.
"""

from __future__ import annotations

import functools
import re
from typing import Final

import msgspec

from appliance.errors import Code, StoreError
from appliance.model import Frozen

UNITS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15} | {
    "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30, "ti": 1 << 40, "pi": 1 << 50,
}  # fmt: skip
LIMIT_MAX: Final = (1 << 63) - 1  # a column of the catalogue

_TEXT: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgtp]?i?)b?", re.IGNORECASE)


class Quota(Frozen, frozen=True):
    """At most so many bytes and so many objects; None: as many as there is room for."""

    size: int | None = None
    objects: int | None = None


_decoder: Final = msgspec.json.Decoder(Quota)


def document(quota: Quota) -> bytes:
    """As it is stored.  Raises INVALID_ARGUMENT for what is no quota."""
    if quota.size is None and quota.objects is None:
        raise StoreError(Code.INVALID_ARGUMENT, "a quota limits bytes, objects or both")
    for limit in (quota.size, quota.objects):
        if limit is not None and not 0 <= limit <= LIMIT_MAX:
            raise StoreError(Code.INVALID_ARGUMENT, f"a quota is a number from 0 to {LIMIT_MAX}")
    return msgspec.json.encode(quota)


@functools.lru_cache(maxsize=1024)
def parse(body: bytes) -> Quota:
    """The reverse.  Raises DAMAGED."""
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise StoreError(Code.DAMAGED, "the bucket's quota is damaged: set it again", cause=str(error)) from error


def bytes_of(text: str) -> int:
    """10737418240 of "10GiB", "10 gib" or "10737418240"; 10**10 of "10GB" or "10g".  Raises INVALID_ARGUMENT."""
    match = _TEXT.fullmatch(text.strip())
    if match is None or match[2].lower() not in UNITS:
        raise StoreError(Code.INVALID_ARGUMENT, f'"{text}" is no size: write 500MB, 10GiB or a number of bytes')
    return (
        int(float(match[1]) * UNITS[match[2].lower()]) if "." in match[1] else int(match[1]) * UNITS[match[2].lower()]
    )
