"""Tags of objects and buckets: their two spellings, their bounds, and what is wrong with them (pure).

A tag set is a dictionary from key to value, sorted by key, so that equal sets are equal bytes wherever they are kept.
It comes as a document (PutObjectTagging, PutBucketTagging, CreateBucket) or as a URL query in a header
(x-amz-tagging).  Both pass the same checks.

Sources: Amazon S3 User Guide, "Categorizing your objects using tags" (bounds, characters, UTF-16 positions); Amazon S3
API Reference, PutObjectTagging and PutBucketTagging (errors).  Not known here: whose tags they are.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Final

from s3front import xml
from s3front.errors import S3Error, invalid_argument
from s3front.target import decode_once
from s3front.xml import Element

OBJECT_TAGS_MAX: Final = 10
BUCKET_TAGS_MAX: Final = 50
KEY_MAX: Final = 128  # positions of UTF-16, as S3 counts them
VALUE_MAX: Final = 256
DOCUMENT_MAX: Final = 256 * 1024  # the longest tag set, every character of it a reference

HEADER: Final = b"x-amz-tagging"
_SIGNS: Final = frozenset("+-=._:/@")
_RESERVED: Final = "aws:"


def parse(document: bytes, limit: int) -> dict[str, str]:
    """The tag set of a Tagging document.  Raises MalformedXML, InvalidTag (more than `limit`, a key twice, too long,
    characters, the reserved prefix)."""
    tree = xml.parse(document, "Tagging", DOCUMENT_MAX).only("TagSet")
    sets = tree.all("TagSet")
    if len(sets) != 1:
        raise xml.malformed("There must be one TagSet.")
    return from_elements(sets[0].only("Tag").children, limit)


def parse_object(document: bytes) -> dict[str, str]:
    """An object's tag set.  Raises as `parse`."""
    return parse(document, OBJECT_TAGS_MAX)


def parse_bucket(document: bytes) -> dict[str, str]:
    """A bucket's tag set.  Raises as `parse`."""
    return parse(document, BUCKET_TAGS_MAX)


def from_elements(tags: Iterable[Element], limit: int) -> dict[str, str]:
    """The tag set of Tag elements.  Raises as `parse`."""
    return checked([(tag.only("Key", "Value").need("Key"), tag.need("Value")) for tag in tags], limit)


def from_header(value: bytes) -> dict[str, str]:
    """The tag set of x-amz-tagging: `key=value&key2=value2`, percent-encoded UTF-8.  A key alone has an empty value.

    Raises InvalidArgument (encoding, a key twice), InvalidTag.
    """
    try:
        pairs = [
            (_decoded(key), _decoded(text)) for key, _, text in (p.partition(b"=") for p in value.split(b"&") if p)
        ]
    except S3Error:
        raise _bad_header(value) from None
    if len({key for key, _ in pairs}) < len(pairs):
        raise _bad_header(value)
    return checked(pairs, OBJECT_TAGS_MAX)


def checked(pairs: list[tuple[str, str]], limit: int) -> dict[str, str]:
    """The pairs as a tag set.  Raises InvalidTag."""
    if len(pairs) > limit:
        what = "Object" if limit == OBJECT_TAGS_MAX else "Bucket"
        raise S3Error("InvalidTag", f"{what} tags cannot be greater than {limit}")
    for key, value in pairs:
        if key[: len(_RESERVED)].lower() == _RESERVED:
            raise S3Error("InvalidTag", "System tags cannot be added/updated by requester")
        if not key or not _acceptable(key, KEY_MAX):
            raise S3Error("InvalidTag", "The TagKey you have provided is invalid", details=(("TagKey", key),))
        if not _acceptable(value, VALUE_MAX):
            raise S3Error("InvalidTag", "The TagValue you have provided is invalid", details=(("TagValue", value),))
    tags = dict(sorted(pairs))
    if len(tags) < len(pairs):
        raise S3Error("InvalidTag", "Cannot provide multiple Tags with the same key")
    return tags


def document(tags: Mapping[str, str]) -> bytes:
    """The Tagging document of a tag set."""
    return xml.document("Tagging", f"<TagSet>{elements(tags)}</TagSet>")


def elements(tags: Mapping[str, str]) -> str:
    """The Tag elements of a tag set."""
    return "".join(
        f"<Tag><Key>{xml.escape(key)}</Key><Value>{xml.escape(value)}</Value></Tag>" for key, value in tags.items()
    )


@functools.lru_cache(maxsize=1024)
def of_bucket(stored: bytes) -> Mapping[str, str]:
    """The tag set of a bucket's stored document, which `document` made."""
    return parse_bucket(stored)


def _acceptable(text: str, limit: int) -> bool:
    """Letters, numbers and spaces of any script and a few signs, at most `limit` positions of UTF-16."""
    if len(text) + sum(character > "\uffff" for character in text) > limit:
        return False
    return all(character in _SIGNS or unicodedata.category(character)[0] in "LNZ" for character in text)


def _decoded(raw: bytes) -> str:
    return decode_once(raw.replace(b"+", b" ")).decode()


def _bad_header(value: bytes) -> S3Error:
    return invalid_argument(
        "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name "
        "duplicates.",
        "x-amz-tagging",
        value.decode("latin-1"),
    )
