"""Copies whose bytes must be encrypted otherwise than their source: read, opened, sealed, written.

A copy shares its source's bytes wherever it may: plain to plain, and what the box's keys seal stays sealed wherever it
goes (a copy that asks for nothing keeps SSE-S3, as every object of AWS's has it).  What is left passes here, streamed
at constant memory: plain bytes that are to be sealed, and every copy from or to a customer's key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import trio

from appliance.limits import GATHER_MAX
from appliance.model import Body, Node
from s3front.encryption import Customer, Sealing
from s3front.request import Door, Request

if TYPE_CHECKING:
    from appliance.store import Ingest, Reader

T = TypeVar("T")


def shares(source: Node, customer: Customer | None, sealing: Sealing | None) -> bool:
    """Whether a copy may share the source's bytes.  `customer` is the source's key, `sealing` what the copy wants."""
    if customer is not None:
        return False
    if sealing is None:
        return True
    return sealing.customer is None and source.sealed


async def copied(
    door: Door,
    request: Request,
    source: Node,
    customer: Customer | None,
    span: tuple[int, int],
    sealing: Sealing | None,
    commit: Callable[[Body, str], Awaitable[T]],
) -> T:
    """`commit(body, md5)` with a body of the source's bytes [start, start + length), sealed anew; `span` is (start,
    length), `md5` of those bytes in hexadecimal.  Raises NO_SUCH_NODE when the source was replaced meanwhile."""
    start, length = span
    opens = customer.key if customer is not None else None
    seals = sealing.key if sealing is not None else None
    with door.store.reader(source, start, length, customer=opens) as reader:
        if length <= GATHER_MAX:
            data = await reader.read()
            md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
            return await commit(door.store.small_body(data, seals), md5)
        with await door.store.ingest(request.bucket, length, request.key, seals) as ingest:
            body, md5 = await trio.to_thread.run_sync(_pour, reader, ingest)
            return await commit(body, md5)


def _pour(reader: Reader, ingest: Ingest) -> tuple[Body, str]:
    digest = hashlib.md5(usedforsecurity=False)
    for piece in reader.pieces():
        digest.update(piece)
        ingest.write(piece)
    return ingest.finish(), digest.hexdigest()
