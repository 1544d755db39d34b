"""Lifecycle configurations as documents: both of AWS's forms there and back, and everything that is refused whole."""

from __future__ import annotations

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.lifecycle import Filter, Rule, RuleSet, Transition
from s3front import lifecycle_document
from s3front.errors import S3Error
from tests.rows import rows

HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<LifecycleConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
)


def rule(content: str, *, id: str = "<ID>r</ID>", filter: str = "<Filter></Filter>", status: str = "Enabled") -> str:
    return f"<Rule>{id}{filter}<Status>{status}</Status>{content}</Rule>"


def read(*rules: str) -> tuple[Rule, ...]:
    numbers = itertools.count(1)
    document = f"{HEAD}{''.join(rules)}</LifecycleConfiguration>".encode()
    return lifecycle_document.parse(document, lambda: f"made-{next(numbers)}").rules


DAYS = "<Expiration><Days>3</Days></Expiration>"


@rows(
    "text",
    [
        rule(DAYS, filter="<Prefix>a/&amp;</Prefix>"),
        rule(DAYS, filter="<Prefix></Prefix>", status="Disabled"),
        rule(DAYS, filter="<Filter></Filter>"),
        rule(DAYS, filter="<Filter><Prefix></Prefix></Filter>"),
        rule(DAYS, filter="<Filter><Tag><Key>a</Key><Value>b</Value></Tag></Filter>"),
        rule(DAYS, filter="<Filter><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan></Filter>"),
        rule(
            DAYS,
            filter="<Filter><And><Prefix>a</Prefix><Tag><Key>a</Key><Value>b</Value></Tag><Tag><Key>c</Key>"
            "<Value></Value></Tag><ObjectSizeGreaterThan>0</ObjectSizeGreaterThan>"
            "<ObjectSizeLessThan>9</ObjectSizeLessThan></And></Filter>",
        ),
        rule("<Expiration><Date>2030-01-01T00:00:00.000Z</Date></Expiration>"),
        rule("<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>"),
        rule(
            "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays>"
            "<NewerNoncurrentVersions>5</NewerNoncurrentVersions></NoncurrentVersionExpiration>"
            "<AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation>"
            "</AbortIncompleteMultipartUpload>"
        ),
        rule(
            "<Transition><Days>0</Days><StorageClass>GLACIER</StorageClass></Transition>"
            "<Transition><Date>2030-01-01T00:00:00.000Z</Date><StorageClass>STANDARD_IA</StorageClass></Transition>"
            "<NoncurrentVersionTransition><NoncurrentDays>4</NoncurrentDays>"
            "<NewerNoncurrentVersions>2</NewerNoncurrentVersions><StorageClass>DEEP_ARCHIVE</StorageClass>"
            "</NoncurrentVersionTransition>"
        ),
    ],
)
def test_there_and_back(text: str) -> None:
    document = f"{HEAD}{text}</LifecycleConfiguration>".encode()
    found = lifecycle_document.parse(document, str)
    assert lifecycle_document.document(found) == document


def test_what_is_read() -> None:
    transition = "<Transition><Days>0</Days><StorageClass>GLACIER</StorageClass></Transition>"
    (one, two) = read(rule(DAYS + transition, id="", filter="<Prefix>a</Prefix>"), rule(DAYS, id="<ID></ID>"))
    assert one == Rule("made-1", True, Filter("a", form="prefix"), 3, transitions=(Transition("GLACIER", 0),))
    assert two == Rule("made-2", True, days=3)
    (dated,) = read(rule("<Expiration><Date>2030-01-01</Date></Expiration>"))
    assert dated.date == 1_893_456_000


def test_conditions_without_and_are_one() -> None:
    tags = (
        "<Tag><Key>a</Key><Value>b</Value></Tag><And><Prefix>log</Prefix><Tag><Key>c</Key><Value>d</Value></Tag></And>"
    )
    (one,) = read(rule(DAYS, filter=f"<Filter><Prefix>logs/</Prefix>{tags}</Filter>"))
    assert one.filter == Filter("logs/", (("a", "b"), ("c", "d")), form="and")


@rows(
    "text,code",
    [
        ("", "MalformedXML"),
        (rule(""), "InvalidRequest"),
        (rule(DAYS) + rule(DAYS), "InvalidArgument"),
        (rule(DAYS, id=f"<ID>{'a' * 256}</ID>"), "InvalidArgument"),
        (rule(DAYS, id="<ID>a\n</ID>"), "InvalidArgument"),
        (rule(DAYS, status="enabled"), "MalformedXML"),
        (rule(DAYS, status=""), "MalformedXML"),
        (rule(DAYS, filter=""), "MalformedXML"),
        (rule(DAYS, filter="<Filter/><Prefix>a</Prefix>"), "MalformedXML"),
        (rule(DAYS, filter="<Filter/><Filter/>"), "MalformedXML"),
        (rule(DAYS, filter="<Filter><Suffix>a</Suffix></Filter>"), "MalformedXML"),
        (rule(DAYS, filter="<Filter><And/></Filter>"), "MalformedXML"),
        (rule(DAYS, filter="<Filter><Prefix>a</Prefix><And><Prefix>b</Prefix></And></Filter>"), "MalformedXML"),
        (rule(DAYS, filter=f"<Prefix>{'a' * 1025}</Prefix>"), "InvalidRequest"),
        (rule(DAYS, filter="<Filter><Tag><Key></Key><Value/></Tag></Filter>"), "InvalidTag"),
        (rule(DAYS, filter="<Filter><ObjectSizeLessThan>0</ObjectSizeLessThan></Filter>"), "InvalidArgument"),
        (
            rule(
                DAYS,
                filter="<Filter><And><ObjectSizeGreaterThan>5</ObjectSizeGreaterThan>"
                "<ObjectSizeLessThan>5</ObjectSizeLessThan></And></Filter>",
            ),
            "InvalidRequest",
        ),
        (rule(DAYS + "<Expires/>"), "MalformedXML"),
        (rule(DAYS + DAYS), "MalformedXML"),
        (rule("<Expiration/>"), "MalformedXML"),
        (rule("<Expiration><Day>1</Day></Expiration>"), "MalformedXML"),
        (rule("<Expiration><Days>0</Days></Expiration>"), "InvalidArgument"),
        (rule("<Expiration><Days>-1</Days></Expiration>"), "InvalidArgument"),
        (rule("<Expiration><Days>1.5</Days></Expiration>"), "MalformedXML"),
        (rule("<Expiration><Days>2147483648</Days></Expiration>"), "InvalidArgument"),
        (rule("<Expiration><Days>1</Days><Date>2030-01-01</Date></Expiration>"), "MalformedXML"),
        (rule("<Expiration><Date>2030-01-01T01:00:00Z</Date></Expiration>"), "InvalidArgument"),
        (rule("<Expiration><Date>soon</Date></Expiration>"), "MalformedXML"),
        (rule("<Expiration><ExpiredObjectDeleteMarker>yes</ExpiredObjectDeleteMarker></Expiration>"), "MalformedXML"),
        (
            rule(
                "<Expiration><ExpiredObjectDeleteMarker>true</ExpiredObjectDeleteMarker></Expiration>",
                filter="<Filter><Tag><Key>a</Key><Value>b</Value></Tag></Filter>",
            ),
            "InvalidRequest",
        ),
        (rule("<NoncurrentVersionExpiration/>"), "MalformedXML"),
        (
            rule("<NoncurrentVersionExpiration><NoncurrentDays>0</NoncurrentDays></NoncurrentVersionExpiration>"),
            "InvalidArgument",
        ),
        (
            rule(
                "<NoncurrentVersionExpiration><NoncurrentDays>1</NoncurrentDays>"
                "<NewerNoncurrentVersions>101</NewerNoncurrentVersions></NoncurrentVersionExpiration>"
            ),
            "InvalidArgument",
        ),
        (rule("<AbortIncompleteMultipartUpload/>"), "MalformedXML"),
        (
            rule(
                "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation>"
                "</AbortIncompleteMultipartUpload>",
                filter="<Filter><Tag><Key>a</Key><Value>b</Value></Tag></Filter>",
            ),
            "InvalidRequest",
        ),
        (
            rule(
                "<AbortIncompleteMultipartUpload><DaysAfterInitiation>1</DaysAfterInitiation>"
                "</AbortIncompleteMultipartUpload>",
                filter="<Filter><ObjectSizeLessThan>9</ObjectSizeLessThan></Filter>",
            ),
            "InvalidRequest",
        ),
        (rule("<Transition><Days>1</Days></Transition>"), "MalformedXML"),
        (rule("<Transition><StorageClass>GLACIER</StorageClass></Transition>"), "MalformedXML"),
        (rule("<Transition><Days>1</Days><StorageClass>STANDARD</StorageClass></Transition>"), "MalformedXML"),
        (
            rule(DAYS + "<Transition><Days>3</Days><StorageClass>GLACIER</StorageClass></Transition>"),
            "InvalidArgument",
        ),
        (
            rule(DAYS + "<Transition><Date>2030-01-01</Date><StorageClass>GLACIER</StorageClass></Transition>"),
            "InvalidRequest",
        ),
        (
            rule("<NoncurrentVersionTransition><StorageClass>GLACIER</StorageClass></NoncurrentVersionTransition>"),
            "MalformedXML",
        ),
        ("".join(rule(DAYS, id=f"<ID>{number}</ID>") for number in range(1001)), "MalformedXML"),
    ],
    ids=lambda value: value[:120],
)  # fmt: skip
def test_what_is_refused_is_refused_whole(text: str, code: str) -> None:
    with pytest.raises(S3Error) as caught:
        read(text)
    assert (caught.value.code, caught.value.status) == (code, 400)


NAMES = (
    "Rule", "ID", "Filter", "Prefix", "And", "Tag", "Key", "Value", "Status", "Expiration", "Days", "Date",
    "StorageClass", "ExpiredObjectDeleteMarker", "NoncurrentVersionExpiration", "NoncurrentDays",
    "NewerNoncurrentVersions", "Transition", "AbortIncompleteMultipartUpload",
    "DaysAfterInitiation", "ObjectSizeGreaterThan", "ObjectSizeLessThan",
)  # fmt: skip
TEXTS = (
    "",
    "Enabled",
    "Disabled",
    "1",
    "0",
    "-1",
    "2030-01-01",
    "9999-12-31T23:59:59Z",
    "GLACIER",
    "true",
    "a/",
    "x" * 300,
)
leaves = st.tuples(st.sampled_from(NAMES), st.sampled_from(TEXTS)).map(lambda pair: f"<{pair[0]}>{pair[1]}</{pair[0]}>")
trees = st.recursive(
    leaves,
    lambda inner: st.tuples(st.sampled_from(NAMES), st.lists(inner, max_size=3)).map(
        lambda pair: f"<{pair[0]}>{''.join(pair[1])}</{pair[0]}>"
    ),
    max_leaves=8,
)
CONDITIONS = (
    "<Prefix>a/</Prefix>",
    "<Prefix></Prefix>",
    "<Tag><Key>a</Key><Value>b</Value></Tag>",
    "<Tag><Key>c</Key><Value></Value></Tag>",
    "<ObjectSizeGreaterThan>1</ObjectSizeGreaterThan>",
    "<ObjectSizeLessThan>9</ObjectSizeLessThan>",
)
conditions = st.lists(st.sampled_from(CONDITIONS), max_size=3, unique=True).map("".join)
filters = st.tuples(conditions, conditions).map(lambda two: two[0] + (f"<And>{two[1]}</And>" if two[1] else ""))
likely = st.tuples(st.lists(trees | leaves, max_size=1), filters).map(
    lambda pair: rule(DAYS + "".join(pair[0]), filter=f"<Filter>{pair[1]}</Filter>")
)


@given(st.lists(trees | likely, max_size=3))
def test_every_document_is_read_or_refused_and_what_is_read_is_written_the_same(elements: list[str]) -> None:
    with contextlib.suppress(S3Error):
        found = read(*elements)
        written = lifecycle_document.document(RuleSet(found))
        assert lifecycle_document.parse(written, str).rules == found
