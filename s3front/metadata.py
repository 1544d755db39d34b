"""What a client says about an object: request headers to `model.Attributes`, and back to response headers (pure).

Nothing here is interpreted, with two exceptions of S3's own: `aws-chunked` is the transfer's coding, not the object's,
and is dropped from Content-Encoding; storage classes are checked by name.  Features that exist in S3 and not here are
refused by the header that asks for them: a client must not believe that a lock or a key was taken.

On the way back every value is one line of visible characters, whoever wrote it: the mount's xattrs come out here too.
User metadata outside ASCII comes back as an RFC 2047 encoded word, as in AWS.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from appliance.limits import USER_METADATA_MAX
from appliance.model import AES256, NO_ATTRIBUTES, TIMED, Attributes, Checksum, Node
from s3front import checksums, object_lock, tagging
from s3front.dates import NS, http_date
from s3front.errors import S3Error, invalid_argument

DEFAULT_CONTENT_TYPE: Final = b"binary/octet-stream"
STANDARD: Final = "STANDARD"

# Classes whose objects can be read at once; GLACIER and DEEP_ARCHIVE would promise a restore that does not exist here.
STORAGE_CLASSES: Final = frozenset(
    {"STANDARD", "REDUCED_REDUNDANCY", "STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR"}
)

_META: Final = b"x-amz-meta-"
_FIELDS: Final[dict[bytes, str]] = {
    b"content-type": "content_type",
    b"cache-control": "cache_control",
    b"content-disposition": "content_disposition",
    b"content-encoding": "content_encoding",
    b"content-language": "content_language",
    b"expires": "expires",
    b"x-amz-storage-class": "storage_class",
    b"x-amz-website-redirect-location": "website_redirect",
}
_REFUSED: Final = frozenset(
    {
        b"x-amz-write-offset-bytes",  # an append elsewhere: taken as a plain PUT it would replace the object
    }
)

_HEADERS: Final[tuple[tuple[str, bytes], ...]] = (
    ("cache_control", b"cache-control"),
    ("content_disposition", b"content-disposition"),
    ("content_encoding", b"content-encoding"),
    ("content_language", b"content-language"),
    ("expires", b"expires"),
    ("website_redirect", b"x-amz-website-redirect-location"),
)
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f]+")
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")


def check_refused(headers: Mapping[bytes, bytes]) -> None:
    """Raises NotImplemented for a header that asks for what is not here (locks, appends)."""
    for name in headers:
        if name in _REFUSED:
            raise S3Error("NotImplemented", details=(("Header", name.decode("latin-1")),))


def from_headers(headers: Mapping[bytes, bytes]) -> Attributes:
    """The attributes of a new object.  Header names are lower case.

    Raises NotImplemented (see `check_refused`), MetadataTooLarge (user metadata beyond 2 KiB), InvalidStorageClass,
    InvalidArgument (a redirect that is neither a path nor a URL; tags; locks), InvalidTag.
    """
    fields: dict[str, str] = {}
    user: dict[str, str] = {}
    tags: dict[str, str] = {}
    locks = False
    total = 0
    for name, value in headers.items():
        field = _FIELDS.get(name)
        if field is not None:
            fields[field] = _text(value)
        elif name[:6] == b"x-amz-":
            if name[:11] == _META:
                total += len(name) - 11 + len(value)
                user[name[11:].decode("latin-1")] = _text(value)
            elif name == tagging.HEADER:
                tags = tagging.from_header(value)
            elif name in object_lock.HEADERS:
                locks = True
            elif name in _REFUSED:
                check_refused(headers)
    if not fields and not user and not tags and not locks:
        return NO_ATTRIBUTES
    if total > USER_METADATA_MAX:
        raise S3Error("MetadataTooLarge", details=(("Size", str(total)), ("MaxSizeAllowed", str(USER_METADATA_MAX))))
    attributes = _attributes(fields, user, tags)
    return object_lock.from_headers(headers, attributes) if locks else attributes


def _attributes(fields: dict[str, str], user: dict[str, str], tags: dict[str, str]) -> Attributes:
    storage_class = fields.get("storage_class")
    if storage_class is not None:
        if storage_class not in STORAGE_CLASSES:
            raise S3Error("InvalidStorageClass", details=(("StorageClassRequested", storage_class),))
        if storage_class == STANDARD:
            del fields["storage_class"]
    coding = fields.get("content_encoding")
    if coding is not None and "aws-chunked" in coding.lower():
        kept = [part for part in (c.strip() for c in coding.split(",")) if part and part.lower() != "aws-chunked"]
        fields["content_encoding"] = ",".join(kept)
    if fields.get("content_type") == "binary/octet-stream":
        del fields["content_type"]  # the default is not worth a row's bytes
    redirect = fields.get("website_redirect")
    if redirect is not None and not redirect.startswith(("/", "http://", "https://")):
        raise invalid_argument(
            "The website redirect location must have a prefix of 'http://' or 'https://' or '/'.",
            "x-amz-website-redirect-location",
            redirect,
        )
    return Attributes(user=user, tags=tags, **fields)  # type: ignore[arg-type]  # _FIELDS names only its str fields


def _text(value: bytes) -> str:
    """A header's value.  Clients send UTF-8 in spite of the standard; what is not UTF-8 is latin-1."""
    try:
        return value.decode("ascii" if value.isascii() else "utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def line(text: str) -> bytes:
    """A header's value on the way out: one line, UTF-8 outside ASCII (as AWS answers Content-Disposition)."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return _CONTROLS.sub(" ", text).strip().encode("utf-8", "replace")


def user_value(text: str) -> bytes:
    """A user metadata value on the way out: as it is when visible ASCII, else an RFC 2047 encoded word."""
    if text.isascii() and text.isprintable():
        return text.encode()
    return b"=?UTF-8?B?" + base64.b64encode(text.encode("utf-8", "replace")) + b"?="


def object_headers(node: Node) -> list[tuple[bytes, bytes]]:
    """ETag, Last-Modified, Accept-Ranges, Content-Type and everything stored about the object: a new list."""
    headers = [
        (b"etag", b'"%b"' % node.etag.encode()),
        (b"last-modified", http_date(node.written_ns // NS)),
        (b"accept-ranges", b"bytes"),
    ]
    if not node.packed and not node.flags & TIMED:
        headers.append((b"content-type", DEFAULT_CONTENT_TYPE))
        return headers
    attributes = node.attributes
    content_type = attributes.content_type
    headers.append((b"content-type", line(content_type) if content_type else DEFAULT_CONTENT_TYPE))
    for field, name in _HEADERS:
        value = getattr(attributes, field)
        if value:
            headers.append((name, line(value)))
    if attributes.retention_mode or attributes.legal_hold:
        headers += object_lock.headers(attributes)
    if attributes.storage_class:
        headers.append((b"x-amz-storage-class", line(attributes.storage_class)))
    if attributes.tags:
        headers.append((b"x-amz-tagging-count", b"%d" % len(attributes.tags)))
    if attributes.sse == AES256:  # what a customer's key opens is said beside that key (encryption.py)
        headers.append((b"x-amz-server-side-encryption", b"AES256"))
    missing = 0
    for key, value in attributes.user.items():
        if _TOKEN.fullmatch(key):
            headers.append((b"x-amz-meta-" + key.encode(), user_value(value)))
        else:
            missing += 1
    if missing:  # AWS's count of metadata that cannot be a header
        headers.append((b"x-amz-missing-meta", b"%d" % missing))
    return headers


# --------------------------------------------------------------------------------------------------------- checksums
def with_checksum(attributes: Attributes, checksum: Checksum | None) -> Attributes:
    """The same, with the checksum of the bytes that came."""
    if checksum is None:
        return attributes
    if attributes is NO_ATTRIBUTES:
        return Attributes(checksum=checksum)
    return msgspec.structs.replace(attributes, checksum=checksum)


def checksum_headers(checksum: Checksum, parts: int = 0) -> list[tuple[bytes, bytes]]:
    """x-amz-checksum-<algorithm> and x-amz-checksum-type; a composite value names its number of parts."""
    return [
        (checksums.header_of(checksum), checksums.text(checksum, parts).encode()),
        (b"x-amz-checksum-type", checksums.type_of(checksum).encode()),
    ]


def answered_checksum(attributes: Attributes, number: int) -> list[tuple[bytes, bytes]]:
    """The checksum headers of a read: of the whole object (`number` 0), or of one of its parts where that is known."""
    checksum = attributes.checksum
    if checksum is None:
        return []
    if not number or not attributes.parts:
        return checksum_headers(checksum, len(attributes.parts))
    if not attributes.part_checksums:
        return []
    value = checksums.text(Checksum(checksum.algorithm, attributes.part_checksums[number - 1])).encode()
    return [(checksums.header_of(checksum), value), (b"x-amz-checksum-type", checksums.type_of(checksum).encode())]


def checksum_xml(checksum: Checksum | None, parts: int = 0, *, with_type: bool = True) -> str:
    """Checksum<algorithm> and ChecksumType elements, empty for None."""
    if checksum is None:
        return ""
    name = f"Checksum{checksum.algorithm}"
    kind = f"<ChecksumType>{checksums.type_of(checksum)}</ChecksumType>" if with_type else ""
    return f"<{name}>{checksums.text(checksum, parts)}</{name}>{kind}"
