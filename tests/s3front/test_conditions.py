"""Conditional requests: RFC 9110's order, S3's preconditions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.model import Precondition
from s3front import conditions
from s3front.conditions import Outcome
from s3front.dates import NS, http_date, iso_date, parse_date
from s3front.errors import S3Error
from tests.rows import rows

ETAG = "d41d8cd98f00b204e9800998ecf8427e"
SECOND = 1_700_000_000
WRITTEN = SECOND * NS + 999_999_999
BEFORE, AT, AFTER = http_date(SECOND - 1), http_date(SECOND), http_date(SECOND + 1)
QUOTED = f'"{ETAG}"'.encode()


@rows(
    ("headers", "outcome", "header"),
    [
        ({}, Outcome.PROCEED, b""),
        ({b"if-match": QUOTED}, Outcome.PROCEED, b""),
        ({b"if-match": ETAG.encode()}, Outcome.PROCEED, b""),
        ({b"if-match": b"*"}, Outcome.PROCEED, b""),
        ({b"if-match": b'"other", ' + QUOTED}, Outcome.PROCEED, b""),
        ({b"if-match": b'"other"'}, Outcome.FAILED, b"if-match"),
        ({b"if-match": b"W/" + QUOTED}, Outcome.FAILED, b"if-match"),  # strong comparison
        ({b"if-none-match": QUOTED}, Outcome.NOT_MODIFIED, b"if-none-match"),
        ({b"if-none-match": b"W/" + QUOTED}, Outcome.NOT_MODIFIED, b"if-none-match"),  # weak comparison
        ({b"if-none-match": b"*"}, Outcome.NOT_MODIFIED, b"if-none-match"),
        ({b"if-none-match": b'"other"'}, Outcome.PROCEED, b""),
        ({b"if-modified-since": BEFORE}, Outcome.PROCEED, b""),
        ({b"if-modified-since": AT}, Outcome.NOT_MODIFIED, b"if-modified-since"),
        ({b"if-modified-since": AFTER}, Outcome.NOT_MODIFIED, b"if-modified-since"),
        ({b"if-modified-since": b"yesterday"}, Outcome.PROCEED, b""),
        ({b"if-unmodified-since": BEFORE}, Outcome.FAILED, b"if-unmodified-since"),
        ({b"if-unmodified-since": AT}, Outcome.PROCEED, b""),
        ({b"if-unmodified-since": b""}, Outcome.PROCEED, b""),
        # AWS documents these two pairs: the ETag decides
        ({b"if-match": QUOTED, b"if-unmodified-since": BEFORE}, Outcome.PROCEED, b""),
        ({b"if-none-match": QUOTED, b"if-modified-since": BEFORE}, Outcome.NOT_MODIFIED, b"if-none-match"),
        ({b"if-none-match": b'"other"', b"if-modified-since": AFTER}, Outcome.PROCEED, b""),
        ({b"if-match": b'"other"', b"if-none-match": QUOTED}, Outcome.FAILED, b"if-match"),
        ({b"if-unmodified-since": BEFORE, b"if-none-match": QUOTED}, Outcome.FAILED, b"if-unmodified-since"),
    ],
)
def test_reads_follow_the_order_of_rfc_9110(headers: dict[bytes, bytes], outcome: Outcome, header: bytes) -> None:
    assert conditions.evaluate(headers, ETAG, WRITTEN) == (outcome, header)


def test_a_copy_source_is_checked_under_its_own_names() -> None:
    conditions.check_copy_source({b"if-match": b'"other"'}, ETAG, WRITTEN)
    for name, value in ((b"match", b'"other"'), (b"none-match", QUOTED), (b"modified-since", AFTER)):
        with pytest.raises(S3Error) as caught:
            conditions.check_copy_source({b"x-amz-copy-source-if-" + name: value}, ETAG, WRITTEN)
        assert caught.value.code == "PreconditionFailed"
        assert caught.value.details == (("Condition", f"X-Amz-Copy-Source-If-{name.decode().title()}"),)


def test_writes_take_one_etag_or_a_star() -> None:
    assert conditions.for_write({}) is None
    assert conditions.for_write({b"if-none-match": b"*"}) == Precondition(if_none_match="*")
    assert conditions.for_write({b"if-match": QUOTED}) == Precondition(if_match=ETAG)
    with pytest.raises(S3Error, match="list of entity tags") as caught:
        conditions.for_write({b"if-match": b'"a", "b"'})
    assert caught.value.status == 501
    with pytest.raises(S3Error, match="empty"):
        conditions.for_write({b"if-match": b'""'})


def test_deletes_take_etag_time_and_size() -> None:
    assert conditions.for_delete({}) is None
    assert conditions.for_delete(
        {b"if-match": b"*", b"x-amz-if-match-last-modified-time": AT, b"x-amz-if-match-size": b"12"}
    ) == Precondition(if_match="*", if_size=12, if_written_ns=SECOND * NS)
    iso = iso_date(SECOND)
    assert conditions.delete_precondition(None, iso, None) == Precondition(if_written_ns=SECOND * NS)
    for moment, size in (("soon", None), (None, "-1"), (None, "²"), (None, "9" * 30)):
        with pytest.raises(S3Error) as caught:
            conditions.delete_precondition(None, moment, size)
        assert caught.value.code == "InvalidArgument"


def test_if_range_needs_the_very_object() -> None:
    assert conditions.range_applies(QUOTED, ETAG, WRITTEN)
    assert conditions.range_applies(AT, ETAG, WRITTEN)
    for other in (b'"other"', b"W/" + QUOTED, BEFORE, AFTER):
        assert not conditions.range_applies(other, ETAG, WRITTEN)


@given(st.integers(min_value=0, max_value=2**33))
def test_dates_survive_being_written(second: int) -> None:
    assert parse_date(http_date(second).decode()) == second
    assert parse_date(iso_date(second)) == second


@pytest.mark.parametrize(
    "text", ["Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", "Sun, 06 Nov 1994 08:49:37 GMT"]
)
def test_all_three_http_dates_are_read(text: str) -> None:
    assert parse_date(text) == 784111777


@given(st.text(max_size=60))
def test_no_text_breaks_the_date_parser(text: str) -> None:
    found = parse_date(text)
    assert found is None or isinstance(found, int)


@given(st.binary(max_size=60))
def test_no_header_breaks_the_conditions(value: bytes) -> None:
    for name in conditions.READ:
        outcome, header = conditions.evaluate({name: value}, ETAG, WRITTEN)
        assert (outcome is Outcome.PROCEED) == (header == b"")
