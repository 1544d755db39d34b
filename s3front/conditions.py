"""Conditional requests (pure): RFC 9110 §13 for reads and copy sources, S3's preconditions for writes.

Reads are decided here, against the record that the answer is made from.  Writes and deletes cannot be: between a look
and the commit another writer may pass, so their conditions travel as a `model.Precondition` into the commit itself.
Header names are parameters, because a copy's source carries the same four conditions under longer names.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from appliance.model import Precondition
from s3front.dates import NS, parse_date
from s3front.errors import S3Error, invalid_argument


class Outcome(enum.Enum):
    """What the conditions of a read say."""

    PROCEED = "proceed"
    NOT_MODIFIED = "not modified"
    FAILED = "failed"


class Names(NamedTuple):
    """The four headers of one set of conditions."""

    match: bytes
    none_match: bytes
    modified_since: bytes
    unmodified_since: bytes


READ: Final = Names(b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since")
COPY_SOURCE: Final = Names(
    b"x-amz-copy-source-if-match",
    b"x-amz-copy-source-if-none-match",
    b"x-amz-copy-source-if-modified-since",
    b"x-amz-copy-source-if-unmodified-since",
)

# Conditions of writes and deletes, in the order in which a commit checks them.  Clients look at which it was: fsspec's
# "create" mode takes a 412 for an existing file only if it names If-None-Match.
_WRITE: Final = (b"if-match", b"if-none-match", b"x-amz-if-match-size", b"x-amz-if-match-last-modified-time")


def entity_tags(value: bytes) -> list[str]:
    """The ETags of a list, without quotes; `*` stays.  A weak one keeps its `W/`, so that it equals no ETag of ours.

    S3 accepts unquoted ETags, so this does too.
    """
    return [
        tag if tag.startswith("W/") else tag.strip('"')
        for tag in (t.strip() for t in value.decode("latin-1").split(","))
    ]


def _matches(value: bytes, etag: str, *, weak: bool) -> bool:
    """Whether the list has this ETag.  RFC 9110: If-Match compares strongly, If-None-Match weakly."""
    for tag in entity_tags(value):
        if tag in ("*", etag):
            return True
        if weak and tag.startswith("W/") and tag[2:].strip('"') == etag:
            return True
    return False


def evaluate(headers: Mapping[bytes, bytes], etag: str, written_ns: int, names: Names = READ) -> tuple[Outcome, bytes]:
    """The outcome for an existing object, and the header that decided it (b"" on PROCEED).

    Order of RFC 9110 §13.2.2: If-Match, else If-Unmodified-Since; then If-None-Match, else If-Modified-Since.  Dates
    compare by whole seconds; one that cannot be parsed is ignored, as the RFC says.
    """
    second = written_ns // NS
    match = headers.get(names.match)
    if match is not None:
        if not _matches(match, etag, weak=False):
            return Outcome.FAILED, names.match
    elif (unmodified := headers.get(names.unmodified_since)) is not None:
        moment = parse_date(unmodified.decode("latin-1"))
        if moment is not None and second > moment:
            return Outcome.FAILED, names.unmodified_since
    none_match = headers.get(names.none_match)
    if none_match is not None:
        if _matches(none_match, etag, weak=True):
            return Outcome.NOT_MODIFIED, names.none_match
    elif (modified := headers.get(names.modified_since)) is not None:
        moment = parse_date(modified.decode("latin-1"))
        if moment is not None and second <= moment:
            return Outcome.NOT_MODIFIED, names.modified_since
    return Outcome.PROCEED, b""


def range_applies(if_range: bytes, etag: str, written_ns: int) -> bool:
    """If-Range: true when the Range header is to be obeyed (RFC 9110 §13.1.5; strong comparison, exact date)."""
    text = if_range.decode("latin-1").strip()
    if text.startswith(('"', "W/")) or parse_date(text) is None:
        return text.strip('"') == etag
    return parse_date(text) == written_ns // NS


def failed(header: bytes) -> S3Error:
    """412 with AWS's Condition element."""
    name = "-".join(word.capitalize() for word in header.decode().split("-"))
    return S3Error("PreconditionFailed", details=(("Condition", name),))


def refused(headers: Mapping[bytes, bytes]) -> S3Error:
    """`failed` for a write or delete whose commit refused, by the first of the conditions that it carried."""
    return failed(next((name for name in _WRITE if name in headers), b"if-match"))


def check_copy_source(headers: Mapping[bytes, bytes], etag: str, written_ns: int) -> None:
    """Raises PreconditionFailed when the source is not what the client thinks (CopyObject, UploadPartCopy)."""
    outcome, header = evaluate(headers, etag, written_ns, COPY_SOURCE)
    if outcome is not Outcome.PROCEED:
        raise failed(header)


def for_write(headers: Mapping[bytes, bytes]) -> Precondition | None:
    """If-Match and If-None-Match of PutObject, CopyObject and CompleteMultipartUpload; None without them.

    One ETag or `*` each; a list answers NotImplemented, as every If-None-Match but `*` does in AWS.
    """
    match, none_match = headers.get(b"if-match"), headers.get(b"if-none-match")
    if match is None and none_match is None:
        return None
    return Precondition(
        if_match=None if match is None else _single(match),
        if_none_match=None if none_match is None else _single(none_match),
    )


def for_delete(headers: Mapping[bytes, bytes]) -> Precondition | None:
    """If-Match, x-amz-if-match-last-modified-time and x-amz-if-match-size of DeleteObject; None without them."""
    match = headers.get(b"if-match")
    moment = headers.get(b"x-amz-if-match-last-modified-time")
    size = headers.get(b"x-amz-if-match-size")
    if match is None and moment is None and size is None:
        return None
    return delete_precondition(
        None if match is None else match.decode("latin-1"),
        None if moment is None else moment.decode("latin-1"),
        None if size is None else size.decode("latin-1"),
    )


def delete_precondition(etag: str | None, moment: str | None, size: str | None) -> Precondition | None:
    """The same three as text: DeleteObjects carries them in its document."""
    if etag is None and moment is None and size is None:
        return None
    seconds = None if moment is None else parse_date(moment)
    if moment is not None and seconds is None:
        raise invalid_argument("The last modified time is not a date.", "x-amz-if-match-last-modified-time", moment)
    if size is not None and not (size.isascii() and size.isdigit() and len(size) <= 20):
        raise invalid_argument("The size is not a number.", "x-amz-if-match-size", size)
    return Precondition(
        if_match=None if etag is None else _single(etag.encode("latin-1", "replace")),
        if_size=None if size is None else int(size),
        if_written_ns=None if seconds is None else seconds * NS,
    )


def _single(value: bytes) -> str:
    tags = entity_tags(value)
    if len(tags) != 1:
        raise S3Error("NotImplemented", "A list of entity tags is not supported on a write.")
    if not tags[0]:
        raise invalid_argument("An entity tag must not be empty.")
    return tags[0]
