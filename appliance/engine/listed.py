"""What a listing shows of an object beside its key: little of its attributes, and of what is damaged nothing."""

from __future__ import annotations

import logging
from typing import Any, Final

import msgspec

from appliance.model import Listed

log = logging.getLogger(__name__)


class _Kind(msgspec.Struct, frozen=True, gc=False):
    algorithm: str


class _Said(msgspec.Struct, frozen=True, gc=False):
    """What a listing shows of Attributes: the rest is passed over, at a third of the cost."""

    storage_class: str = ""
    owner: str = ""
    checksum: _Kind | None = None


_said: Final = msgspec.msgpack.Decoder(_Said)


def listed(key: bytes, row: Any) -> Listed:
    """One key of a listing from a row of the walk.  One whose node is missing has no size, ETag or time to show: it is
    listed all the same, and who asks for it is told."""
    size, etag, written, packed = row[3:7]
    if etag is None:
        log.error("%r is damaged in the catalogue: its node %d is missing", key, row[1])
        return Listed(key, 0, "", 0, "")
    if not packed:
        return Listed(key, size, etag, written, "")
    storage_class, owner, algorithm = said(packed)
    return Listed(key, size, etag, written, storage_class, algorithm, owner)


def said(packed: bytes) -> tuple[str, str, str]:
    """Storage class, owner and the checksum's algorithm, of an object's packed attributes."""
    if not packed:
        return "", "", ""
    attributes = _said.decode(packed)
    algorithm = attributes.checksum.algorithm if attributes.checksum is not None else ""
    return attributes.storage_class, attributes.owner, algorithm
