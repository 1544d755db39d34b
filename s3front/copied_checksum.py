"""The checksum of bytes that a copy shares: known already, or computed by reading them where a client asks for it.

A copy reads nothing by itself.  But an upload that was begun with an algorithm promises a checksum of every part, and a
copy may name an algorithm that its source has none of: then the bytes are read once, verified as for any reader, at
constant memory and in a worker thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from appliance.limits import GATHER_MAX
from appliance.model import Checksum, Node
from s3front import checksums
from s3front.encryption import Customer
from s3front.request import Door

if TYPE_CHECKING:
    from appliance.store import Reader


async def of_range(
    door: Door, source: Node, customer: Customer | None, start: int, length: int, algorithm: str
) -> Checksum:
    """Of the source's bytes [start, start + length).  Raises NO_SUCH_NODE when the source was replaced meanwhile."""
    held = source.attributes.checksum
    if length == source.size and held is not None and held.algorithm == algorithm and not held.composite:
        return held
    opens = customer.key if customer is not None else None
    with door.store.reader(source, start, length, customer=opens) as reader:
        if length <= GATHER_MAX:
            return Checksum(algorithm, checksums.digest(algorithm, await reader.read()))
        return await trio.to_thread.run_sync(_read, reader, algorithm)


def _read(reader: Reader, algorithm: str) -> Checksum:
    hasher = checksums.hasher(algorithm)
    for piece in reader.pieces():
        hasher.update(piece)
    return Checksum(algorithm, hasher.digest())
