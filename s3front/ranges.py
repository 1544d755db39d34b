"""Byte ranges as S3 reads them (pure): RFC 9110 §14 restricted to one range.

`bytes=a-b`, `bytes=a-` and `bytes=-n`.  What is malformed is ignored, and several ranges answer the whole object, as in
AWS; a well-formed range with no byte in the object raises InvalidRange.  A copy's range is stricter: it has both ends.
"""

from __future__ import annotations

from typing import Final

from s3front.errors import S3Error, invalid_argument

_UNIT: Final = b"bytes="
_DIGITS_MAX: Final = 19  # 2**63 has 19: longer numbers are nonsense, and int() of a long text costs time


def parse(value: bytes, size: int) -> tuple[int, int] | None:
    """(start, length) within an object of `size` bytes; None to answer all of it.  Raises InvalidRange (416)."""
    if value[:6].lower() != _UNIT:
        return None
    first, dash, last = value[6:].strip().partition(b"-")
    if not dash or (first and not _number(first)) or (last and not _number(last)):
        return None
    if not first:
        if not last:
            return None
        length = min(int(last), size)
        if length == 0:
            raise unsatisfiable(value, size)
        return size - length, length
    start = int(first)
    if last:
        end = int(last)
        if end < start:
            return None
        end = min(end, size - 1)
    else:
        end = size - 1
    if start >= size:
        raise unsatisfiable(value, size)
    return start, end - start + 1


def parse_copy(value: bytes, size: int) -> tuple[int, int]:
    """(start, length) of x-amz-copy-source-range.  Raises InvalidArgument (form), InvalidRange (beyond the source)."""
    first, dash, last = value[6:].partition(b"-")
    if value[:6] != _UNIT or not dash or not _number(first) or not _number(last) or int(last) < int(first):
        text = value.decode("latin-1")
        raise invalid_argument(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are the "
            "zero-based offsets of the first and last bytes to copy",
            "x-amz-copy-source-range",
            text,
        )
    start, end = int(first), int(last)
    if end >= size:
        raise unsatisfiable(value, size)
    return start, end - start + 1


def part(sizes: tuple[int, ...], number: int, size: int) -> tuple[int, int]:
    """(start, length) of part `number` of an object of these parts; an object without parts is one part.

    Raises InvalidPart.
    """
    parts = sizes or (size,)
    if number > len(parts):
        raise S3Error(
            "InvalidPart", details=(("ActualPartCount", str(len(parts))), ("PartNumberRequested", str(number)))
        )
    return sum(parts[: number - 1]), parts[number - 1]


def content_range(start: int, length: int, size: int) -> bytes:
    """The value of Content-Range; an empty part has no byte to name."""
    return b"bytes %d-%d/%d" % (start, start + length - 1, size) if length else b"bytes */%d" % size


def unsatisfiable(value: bytes, size: int) -> S3Error:
    """416 with the object's size, as RFC 9110 asks and AWS answers."""
    return S3Error(
        "InvalidRange",
        details=(("RangeRequested", value.decode("latin-1")), ("ActualObjectSize", str(size))),
        headers=((b"content-range", b"bytes */%d" % size),),
    )


def _number(text: bytes) -> bool:
    return text.isdigit() and len(text) <= _DIGITS_MAX
