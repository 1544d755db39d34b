"""Byte ranges as S3 reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3front import ranges
from s3front.errors import S3Error
from tests.rows import rows


@rows(
    ("value", "found"),
    [
        (b"bytes=0-0", (0, 1)),
        (b"bytes=0-9", (0, 10)),
        (b"bytes=0-", (0, 10)),
        (b"bytes=3-5", (3, 3)),
        (b"bytes=3-1000", (3, 7)),
        (b"bytes=9-", (9, 1)),
        (b"bytes=-1", (9, 1)),
        (b"bytes=-10", (0, 10)),
        (b"bytes=-1000", (0, 10)),
        (b"Bytes=1-2", (1, 2)),
        # malformed: ignored, the whole object is answered
        (b"bytes=5-3", None),
        (b"bytes=", None),
        (b"bytes=-", None),
        (b"bytes=a-b", None),
        (b"bytes=1", None),
        (b"bytes=1-2-3", None),
        (b"bytes=+1-2", None),
        (b"bytes=1_0-11", None),
        (b"bytes=" + b"9" * 40 + b"-", None),
        (b"lines=0-1", None),
        (b"0-1", None),
        # several: the whole object, as in AWS
        (b"bytes=0-1,3-4", None),
    ],
)
def test_a_range_of_ten_bytes(value: bytes, found: tuple[int, int] | None) -> None:
    assert ranges.parse(value, 10) == found


@rows(
    ("value", "size"), [(b"bytes=10-", 10), (b"bytes=10-20", 10), (b"bytes=-0", 10), (b"bytes=0-", 0), (b"bytes=-5", 0)]
)
def test_a_range_without_a_byte_is_416_with_the_size(value: bytes, size: int) -> None:
    with pytest.raises(S3Error) as caught:
        ranges.parse(value, size)
    assert (caught.value.code, caught.value.status) == ("InvalidRange", 416)
    assert caught.value.headers == ((b"content-range", b"bytes */%d" % size),)


@given(st.binary(max_size=30).map(lambda tail: b"bytes=" + tail), st.integers(min_value=0, max_value=2**43))
def test_what_is_found_lies_within_the_object(value: bytes, size: int) -> None:
    try:
        found = ranges.parse(value, size)
    except S3Error:
        return
    if found is not None:
        start, length = found
        assert length > 0
        assert start >= 0
        assert start + length <= size


@given(st.integers(0, 100), st.integers(0, 100), st.integers(1, 100))
def test_a_range_selects_what_slicing_selects(first: int, last: int, size: int) -> None:
    content = bytes(range(size))
    try:
        found = ranges.parse(b"bytes=%d-%d" % (first, last), size)
    except S3Error:
        assert content[first : last + 1] == b""
        return
    if first > last:
        assert found is None
    else:
        assert found is not None
        start, length = found
        assert content[start : start + length] == content[first : last + 1]


def test_a_copys_range_has_both_ends() -> None:
    assert ranges.parse_copy(b"bytes=2-9", 10) == (2, 8)
    for value in (b"bytes=2-", b"bytes=-2", b"bytes=9-2", b"2-9", b"bytes=0-x"):
        with pytest.raises(S3Error) as caught:
            ranges.parse_copy(value, 10)
        assert caught.value.code == "InvalidArgument"
    with pytest.raises(S3Error) as caught:
        ranges.parse_copy(b"bytes=0-10", 10)
    assert caught.value.code == "InvalidRange"


def test_parts_follow_one_another() -> None:
    assert [ranges.part((5, 6, 7), n, 18) for n in (1, 2, 3)] == [(0, 5), (5, 6), (11, 7)]
    assert ranges.part((), 1, 18) == (0, 18)
    for sizes, number in (((5, 6, 7), 4), ((), 2)):
        with pytest.raises(S3Error) as caught:
            ranges.part(sizes, number, 18)
        assert (caught.value.code, caught.value.status) == ("InvalidPart", 400)


def test_content_range() -> None:
    assert ranges.content_range(5, 6, 18) == b"bytes 5-10/18"
    assert ranges.content_range(0, 0, 0) == b"bytes */0"
