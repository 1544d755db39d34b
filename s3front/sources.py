"""Reading an object that others may replace at any moment: look it up, act on that very state, or look again.

The store binds what is done with a record to the record's generation.  If the object was replaced in between it raises
NO_SUCH_NODE; for a client nothing failed, the newer object is simply the one to act on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from appliance.errors import Code, StoreError
from appliance.model import MARKER, Node
from s3front import versioned
from s3front.errors import S3Error
from s3front.request import Door, Source

T = TypeVar("T")

ATTEMPTS: Final = 20  # an object replaced twenty times within one request is under attack or a test


async def with_source(door: Door, source: Source, act: Callable[[Node], Awaitable[T]]) -> T:
    """`act` on the source as it is now.  Raises NoSuchKey, NoSuchVersion, InvalidRequest (a delete marker), what `act`
    raises, SlowDown."""
    for _ in range(ATTEMPTS):
        try:
            node = await door.store.look_up_version(source.bucket, source.key, source.version_id)
        except StoreError as error:
            raise versioned.not_found(door.store, error, source.bucket, source.key, source.version_id) from error
        if node.flags & MARKER:
            raise S3Error(
                "InvalidRequest",
                "The source of a copy request may not specifically refer to a delete marker by version id.",
            )
        if source.admission is not None:
            source.admission.recheck(source.key, node)
        try:
            return await act(node)
        except StoreError as error:
            if error.code is not Code.NO_SUCH_NODE:
                raise
    raise S3Error("SlowDown")
