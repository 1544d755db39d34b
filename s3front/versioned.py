"""Versions at this door: the object that a request means, and the headers that tell of them.

AWS's rules for what is asked of a delete marker: the marker that hides a key answers 404 and says so in a header; one
that is named by its id answers 405, for it has nothing to give but can be deleted.

Source: "Working with delete markers", Amazon S3 User Guide.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from appliance import settings
from appliance.errors import Code, StoreError
from appliance.model import MARKER, Bucket, Node
from s3front.dates import NS, http_date
from s3front.errors import S3Error, from_store
from s3front.response import Headers

if TYPE_CHECKING:
    from appliance.store import ObjectStore
    from s3front.request import Door, Request

VERSION_ID: Final = b"x-amz-version-id"
SOURCE_VERSION_ID: Final = b"x-amz-copy-source-version-id"
_MARKER: Final = (b"x-amz-delete-marker", b"true")


async def look_up(store: ObjectStore, bucket: Bucket, key: bytes, version_id: str) -> Node:
    """The object, or the version named.  Raises NoSuchKey, NoSuchVersion, MethodNotAllowed (a delete marker)."""
    try:
        node = await store.look_up_version(bucket, key, version_id)
    except StoreError as error:
        raise not_found(store, error, bucket, key, version_id) from error
    if node.flags & MARKER:
        raise S3Error(
            "MethodNotAllowed",
            details=(("Method", "GET"), ("ResourceType", "DeleteMarker")),
            headers=(
                _MARKER,
                (VERSION_ID, node.version_id.encode()),
                (b"last-modified", http_date(node.written_ns // NS)),
                (b"allow", b"DELETE"),
            ),
        )
    return node


def asked_for(door: Door, request: Request) -> Awaitable[Node]:
    """What GetObject and HeadObject show, the request's admission checked against it.  Raises what `look_up` does, and
    AccessDenied."""
    if request.admission is None and not request.bucket.settings and not request.version_id:
        return door.store.look_up(request.bucket, request.key)
    return _asked_for(door, request)


async def _asked_for(door: Door, request: Request) -> Node:
    if request.bucket.settings or request.version_id:
        node = await look_up(door.store, request.bucket, request.key, request.version_id)
    else:
        node = await door.store.look_up(request.bucket, request.key)
    if request.admission is not None:
        request.admission.recheck(request.key, node)
    return node


def not_found(store: ObjectStore, error: StoreError, bucket: Bucket, key: bytes, version_id: str = "") -> S3Error:
    """The error of a look-up, telling of the delete marker that hides the key."""
    found = from_store(error, key=key)
    if version_id:
        details = (("Key", key.decode("utf-8", "backslashreplace")), ("VersionId", version_id))
        return S3Error(found.code, found.message, details=details)
    marker = store.delete_marker(bucket, key) if bucket.settings and error.code is Code.NO_SUCH_KEY else None
    if marker is None:
        return found
    told = (_MARKER, (VERSION_ID, marker.version_id.encode()))
    return S3Error(found.code, found.message, details=found.details, headers=told)


def headers(bucket: Bucket, node: Node) -> Headers:
    """x-amz-version-id, where the bucket has or had versions."""
    return [(VERSION_ID, node.version_id.encode())] if settings.VERSIONING in bucket.settings else []


def copied(bucket: Bucket, source: Node) -> Headers:
    """x-amz-copy-source-version-id, where the source's bucket has or had versions."""
    if settings.VERSIONING not in bucket.settings:
        return []
    return [(SOURCE_VERSION_ID, source.version_id.encode())]


def deleted(version_id: str, marker: bool) -> Headers:
    """What a deletion tells: the version that went or the marker that was made, and whether it is one."""
    found = [(VERSION_ID, version_id.encode())] if version_id else []
    return [_MARKER, *found] if marker else found
