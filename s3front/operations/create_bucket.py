"""CreateBucket: PUT /bucket.  A location constraint must name this box's region; headers give an ACL and ownership, the
document tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from appliance import settings
from appliance.access import acl, blocks
from appliance.authority import Action
from appliance.errors import Code, StoreError
from appliance.limits import BUCKET_NAME_MAX, BUCKET_NAME_MIN
from appliance.model import Bucket
from s3front import grants, intake, metadata, object_lock, tagging, xml
from s3front.errors import S3Error, invalid_argument
from s3front.request import Door, Request
from s3front.response import Response
from s3front.router import Level, Route

NAME: Final = "CreateBucket"
ACTION: Final = Action.CREATE_BUCKET
ROUTES: Final = (Route("PUT", Level.BUCKET),)

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"  # RFC 1123: a name is also a host, and its parts are labels
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_ADDRESS: Final = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+")
# AWS reserves these for access points, directory and table buckets; SDKs route them elsewhere.
_RESERVED_PREFIXES: Final = ("xn--", "sthree-", "amzn-s3-demo-")
_RESERVED_SUFFIXES: Final = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")
_BUCKET_TYPES: Final = ("Location", "Bucket")  # of directory buckets, which are not here


async def operate(door: Door, request: Request) -> Response:
    """Raises InvalidBucketName, BucketAlreadyOwnedByYou, BucketAlreadyExists, IllegalLocationConstraintException,
    InvalidBucketAclWithObjectOwnership, InvalidArgument (the lock), InvalidTag, NotImplemented (other kinds of
    bucket), and what grants say."""
    name = request.bucket_name
    if not valid_name(name):
        raise S3Error("InvalidBucketName", details=(("BucketName", name),))
    metadata.check_refused(request.headers)
    if request.headers.get(b"x-amz-bucket-namespace", b"global") != b"global":
        raise S3Error("NotImplemented", "All names of this box are of one space.")
    document = await intake.document(request)
    tags = _configured(document, door.region) if document else {}
    principal = request.verified.principal
    assert principal is not None, "nobody creates without a key"
    wanted = _settings(door, request.headers, principal.owner)
    if tags:
        wanted[settings.TAGGING] = tagging.document(tags)
    try:
        await door.store.create_bucket(name, principal.owner, settings=wanted)
    except StoreError as error:
        # As in AWS: the oldest region takes the second creation for a success, the others tell.
        if error.code is not Code.BUCKET_OWNED or door.region != "us-east-1":
            raise
        if not _says_what_is(wanted, door.store.bucket(name)):
            raise S3Error("BucketAlreadyExists") from error
    return Response(200, [(b"location", b"/" + name.encode())])


def _settings(door: Door, headers: Mapping[bytes, bytes], owner: str) -> dict[str, bytes]:
    """What the headers say of the bucket: its list, its ownership, its lock."""
    found = {}
    asked = grants.from_headers(door.store, headers, owner, owner)
    kept = acl.kept(asked, owner) if asked is not None else ()
    if kept:
        found[settings.ACL] = acl.encode(kept)
    ownership = headers.get(b"x-amz-object-ownership")
    if ownership is not None:
        if ownership.decode("latin-1") not in blocks.OWNERSHIPS:
            raise invalid_argument("Invalid x-amz-object-ownership header.", "x-amz-object-ownership")
        if kept and ownership == blocks.ENFORCED.encode():
            raise S3Error("InvalidBucketAclWithObjectOwnership")
        found[settings.OWNERSHIP] = ownership
    lock = object_lock.setting(headers)
    if lock is not None:
        found |= {settings.VERSIONING: settings.ENABLED, settings.LOCK: lock}
    return found


def _says_what_is(wanted: Mapping[str, bytes], bucket: Bucket) -> bool:
    """Whether a second creation would change nothing.  AWS resets the bucket's list then; here it must agree."""
    held = acl.parse(bucket.settings.get(settings.ACL, b"[]"))
    return acl.parse(wanted.get(settings.ACL, b"[]")) == held and all(
        bucket.settings.get(name) == body for name, body in wanted.items() if name != settings.ACL
    )


def valid_name(name: str) -> bool:
    """The rules of "General purpose bucket naming rules" in the Amazon S3 User Guide, and those of host names: no label
    begins or ends with a dash."""
    return (
        BUCKET_NAME_MIN <= len(name) <= BUCKET_NAME_MAX
        and _NAME.fullmatch(name) is not None
        and _ADDRESS.fullmatch(name) is None
        and not name.startswith(_RESERVED_PREFIXES)
        and not name.endswith(_RESERVED_SUFFIXES)
    )


def _configured(document: bytes, region: str) -> dict[str, str]:
    """The tags that a document gives the bucket, whose place it may name."""
    configuration = xml.parse(document, "CreateBucketConfiguration")
    if any(child.name in _BUCKET_TYPES for child in configuration.children):
        raise S3Error("NotImplemented", "Directory buckets are not implemented.")
    location = configuration.only("LocationConstraint", "Tags").get("LocationConstraint") or ""
    if location and location != region:
        raise S3Error(
            "IllegalLocationConstraintException",
            f"The {location} location constraint is incompatible for the region specific endpoint this request was "
            "sent to.",
        )
    found = [tag for tags in configuration.all("Tags") for tag in tags.only("Tag").children]
    return tagging.from_elements(found, tagging.BUCKET_TAGS_MAX)
