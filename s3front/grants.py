"""Access control lists on the way in and out: headers, documents, and whose a new object is.

A list is asked for by one canned name, by `x-amz-grant-*` headers, or by an AccessControlPolicy document; never by two
of them.  Grantees are users of this box, by canonical id or e-mail address, or S3's groups.  What the bucket's
ownership controls and public-access block forbid is refused here, before anything is stored.

Sources: Amazon S3 API Reference, PutBucketAcl, PutObjectAcl; User Guide, "Access control list (ACL) overview",
"Controlling ownership of objects", "Blocking public access".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from appliance import settings
from appliance.access import acl, blocks
from appliance.access.acl import FULL_CONTROL, READ, READ_ACP, WRITE, WRITE_ACP, Grants
from appliance.limits import GRANTS_MAX
from appliance.model import Grant
from s3front import intake, owners, xml
from s3front.errors import S3Error, invalid_argument

if TYPE_CHECKING:
    from appliance.model import Attributes, Bucket
    from appliance.store import ObjectStore
    from s3front.request import Door, Request
    from s3front.xml import Element

CANNED: Final = b"x-amz-acl"
_GRANTING: Final[dict[bytes, str]] = {
    b"x-amz-grant-read": READ,
    b"x-amz-grant-write": WRITE,
    b"x-amz-grant-read-acp": READ_ACP,
    b"x-amz-grant-write-acp": WRITE_ACP,
    b"x-amz-grant-full-control": FULL_CONTROL,
}
HEADERS: Final = frozenset({CANNED, *_GRANTING})
_GRANTEE: Final = re.compile(r'\s*(id|emailaddress|uri)\s*=\s*(?:"([^"]*)"|([^",\s]+))\s*(?:,|$)', re.IGNORECASE)
_XSI: Final = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type'


# ---------------------------------------------------------------- new objects


def of_new_object(door: Door, request: Request, attributes: Attributes) -> Attributes:
    """The attributes with the owner and the list that the request's headers and the bucket's ownership give.

    Raises InvalidArgument, InvalidRequest, UnresolvableGrantByEmailAddress, AccessControlListNotSupported,
    AccessDenied (the public-access block).
    """
    headers = request.headers
    if request.admission is None and HEADERS.isdisjoint(headers):
        return attributes  # the bucket's owner, in a bucket of nobody else
    bucket = request.bucket
    principal = request.verified.principal
    writer = principal.owner if principal is not None else ""
    named = headers.get(CANNED, b"").decode("latin-1")
    ownership = blocks.parse_ownership(bucket.settings.get(settings.OWNERSHIP))
    owner = blocks.object_owner(ownership, writer, bucket.owner, named)
    asked = from_headers(door.store, headers, owner, bucket.owner)
    if asked is not None:
        check(bucket, asked, named)
    return msgspec.structs.replace(
        attributes, owner="" if owner == bucket.owner else owner, acl=() if asked is None else acl.kept(asked, owner)
    )


def of_copy(fresh: Attributes, held: Attributes, attributes: Attributes | None) -> Attributes | None:
    """A copy's attributes (None: the source's, `held`) with the owner and list of `fresh`: they are never copied."""
    said = held if attributes is None else attributes
    if (fresh.owner, fresh.acl) == (said.owner, said.acl):
        return attributes
    return msgspec.structs.replace(said, owner=fresh.owner, acl=fresh.acl)


# ---------------------------------------------------------------- what is asked for


async def asked_for(door: Door, request: Request, owner: str) -> Grants:
    """The list that PutBucketAcl or PutObjectAcl is to store for what `owner` owns.

    Raises what `of_new_object` raises, and MalformedACLError, AccessDenied (another owner named),
    MissingSecurityHeader (no list at all), UnexpectedContent (two).
    """
    bucket = request.bucket
    document = await intake.document(request)
    asked = from_headers(door.store, request.headers, owner, bucket.owner)
    if asked is None:
        if not document:
            raise S3Error("MissingSecurityHeader", details=(("MissingHeaderName", "x-amz-acl"),))
        asked = from_document(door.store, document, owner)
    elif document:
        raise S3Error("UnexpectedContent")
    check(bucket, asked, request.headers.get(CANNED, b"").decode("latin-1"))
    return asked


def from_headers(store: ObjectStore, headers: Mapping[bytes, bytes], owner: str, bucket_owner: str) -> Grants | None:
    """The list by headers; None for none of them.  Granted by headers, an owner gets nothing unasked."""
    named = headers.get(CANNED)
    granting = [name for name in _GRANTING if name in headers]
    if named is None:
        if not granting:
            return None
        grants = [
            Grant(_GRANTING[name], *grantee)
            for name in granting
            for grantee in _grantees(store, name, headers[name].decode("latin-1"))
        ]
        if len(grants) > GRANTS_MAX:
            raise invalid_argument(f"An access control list has at most {GRANTS_MAX} grants.")
        return tuple(grants)
    if granting:
        raise S3Error("InvalidRequest", "Specifying both Canned ACLs and Header Grants is not allowed")
    text = named.decode("latin-1")
    if text not in acl.CANNED:
        raise invalid_argument("", "x-amz-acl", text)
    return acl.canned(text, owner, bucket_owner)


def _grantees(store: ObjectStore, name: bytes, text: str) -> list[tuple[str, str]]:
    """(user, group) of `id="…", emailAddress="…", uri="…"`."""
    found, position = [], 0
    while position < len(text):
        match = _GRANTEE.match(text, position)
        if match is None:
            raise invalid_argument("Argument format not recognized", name.decode(), text)
        found.append(_grantee(store, match[1].lower(), match[2] if match[2] is not None else match[3]))
        position = match.end()
    return found


def _grantee(store: ObjectStore, kind: str, value: str) -> tuple[str, str]:
    """(user, group).  Raises InvalidArgument, UnresolvableGrantByEmailAddress."""
    if kind == "id":
        if store.user(value) is None:
            raise invalid_argument("Invalid id", "CanonicalUser/ID", value)
        return value, ""
    if kind == "uri":
        if value not in acl.GROUPS:
            raise invalid_argument("Invalid group uri", "uri", value)
        return "", value
    for user in store.users():
        if user.email and user.email.lower() == value.lower():
            return user.id, ""
    raise S3Error("UnresolvableGrantByEmailAddress")


def check(bucket: Bucket, asked: Grants, named: str) -> None:
    """Whether the bucket takes such a list, asked for by a canned name or, if that is empty, otherwise.  Where ACLs are
    disabled only what is true anyway may be said.  Raises AccessControlListNotSupported, AccessDenied."""
    if not bucket.settings:
        return
    if blocks.parse_ownership(bucket.settings.get(settings.OWNERSHIP)) == blocks.ENFORCED:
        if named == acl.OWNER_FULL_CONTROL or (not named and asked == (Grant(FULL_CONTROL, user=bucket.owner),)):
            return
        raise S3Error("AccessControlListNotSupported")
    if blocks.parse(bucket.settings.get(settings.PUBLIC_ACCESS_BLOCK)).block_public_acls and acl.public(asked):
        raise S3Error("AccessDenied")


# ---------------------------------------------------------------- documents


def from_document(store: ObjectStore, document: bytes, owner: str) -> Grants:
    """An AccessControlPolicy document.  Raises MalformedACLError (whatever is wrong with its XML), InvalidArgument,
    AccessDenied."""
    try:
        return _listed(store, document, owner)
    except S3Error as error:
        if error.code != "MalformedXML":
            raise
        raise S3Error("MalformedACLError", error.message) from error


def _listed(store: ObjectStore, document: bytes, owner: str) -> Grants:
    tree = xml.parse(document, "AccessControlPolicy")
    lists = tree.all("AccessControlList")
    named = tree.all("Owner")
    if len(lists) != 1 or len(named) != 1 or len(tree.children) != 2:
        raise S3Error("MalformedACLError")
    if named[0].only("ID", "DisplayName").need("ID") != owner:
        raise S3Error("AccessDenied")  # nobody gives his object away by a list
    found = lists[0].only("Grant").children
    if len(found) > GRANTS_MAX:
        raise S3Error("MalformedACLError")
    return tuple(_grant(store, element) for element in found)


def _grant(store: ObjectStore, element: Element) -> Grant:
    element.only("Grantee", "Permission")
    permission = element.need("Permission")
    grantees = element.all("Grantee")
    if permission not in acl.PERMISSIONS or len(grantees) != 1:
        raise S3Error("MalformedACLError")
    grantee = grantees[0].only("ID", "DisplayName", "EmailAddress", "URI", "Type")
    given = {"id": grantee.get("ID"), "emailaddress": grantee.get("EmailAddress"), "uri": grantee.get("URI")}
    said = [(kind, value) for kind, value in given.items() if value is not None]
    if len(said) != 1:
        raise S3Error("MalformedACLError")
    return Grant(permission, *_grantee(store, *said[0]))


def document(store: ObjectStore, owner: str, grants: Grants) -> bytes:
    """The AccessControlPolicy of what `owner` owns."""
    rows = "".join(
        f"<Grant><Grantee {_XSI}={_who(store, grant)}</Grantee><Permission>{grant.permission}</Permission></Grant>"
        for grant in acl.shown(grants, owner)
    )
    return xml.document(
        "AccessControlPolicy", f"{owners.owner(store, owner)}<AccessControlList>{rows}</AccessControlList>"
    )


def _who(store: ObjectStore, grant: Grant) -> str:
    if grant.group:
        return f'"Group"><URI>{xml.escape(grant.group)}</URI>'
    return f'"CanonicalUser">{owners.names(store, grant.user)}'
