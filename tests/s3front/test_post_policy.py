"""POST policies: what their documents may say, and what each condition lets pass."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3front import post_policy
from s3front.errors import S3Error
from tests.rows import rows

NOW = 1_800_000_000.0  # 2027-01-15T08:00:00Z
FUTURE, PAST = "2027-01-15T08:00:00.500Z", "2027-01-15T08:00:00Z"
FIELDS = {"bucket": "b", "key": "user/anna/x.jpg", "content-type": "image/jpeg"}
NAMED: list[Any] = [{"bucket": "b"}, ["starts-with", "$key", "user/anna/"], ["starts-with", "$Content-Type", "image/"]]


def policy(*conditions: Any, expiration: str = FUTURE) -> post_policy.Policy:
    return post_policy.parse(json.dumps({"expiration": expiration, "conditions": list(conditions)}).encode())


def refusal(document: bytes) -> str:
    with pytest.raises(S3Error) as caught:
        post_policy.parse(document)
    assert caught.value.code == "InvalidPolicyDocument"
    assert caught.value.status == 400
    return caught.value.message


@rows(
    "document",
    [
        b"", b"[]", b"1", b"null", b"{", b"\xff", b'{"conditions": []}', b'{"expiration": "2027-01-15T08:00:00Z"}',
        b'{"EXPIRATION": "2027-01-15T08:00:00Z", "conditions": []}',
        b'{"expiration": "2027-01-15T08:00:00Z", "CONDITIONS": []}',
        b'{"expiration": "2027-01-15 08:00:00+00:00", "conditions": []}',
        b'{"expiration": "2027-13-15T08:00:00Z", "conditions": []}',
        b'{"expiration": 1, "conditions": []}',
        b'{"expiration": "2027-01-15T08:00:00Z", "conditions": {}}',
        b'{"expiration": "2027-01-15T08:00:00Z", "conditions": [], "also": 1}',
        b'{"expiration": "2027-01-15T08:00:00Z", "expiration": "2028-01-15T08:00:00Z", "conditions": []}',
        b'{"expiration": "2027-01-15T08:00:00Z", "conditions": [{"acl": "private", "acl": "public-read"}]}',
        b"[" * 100_000,
    ],
    ids=lambda document: document[:60],
)  # fmt: skip
def test_a_document_that_is_no_policy_is_refused(document: bytes) -> None:
    refusal(document)


@rows(
    "condition",
    [
        {}, {"a": 1}, {"a": "1", "b": "2"}, {"": "x"}, [], ["eq"], ["eq", "$key"], ["eq", "key", "x"], ["eq", "$", "x"],
        ["equals", "$key", "x"], ["eq", "$key", 1], "key", 7, None, ["content-length-range"],
        ["content-length-range", 0], ["content-length-range", -1, 0], ["content-length-range", 0, 1.5],
        ["content-length-range", 0, True], ["content-length-range", "a", "b"], ["content-length-range", 0, 1, 2],
        ["content-length-range", 0, 2**63], ["content-length-range", "\u0661", 2],
    ],
)  # fmt: skip
def test_a_condition_that_is_none_is_refused(condition: Any) -> None:
    refusal(json.dumps({"expiration": FUTURE, "conditions": [condition]}).encode())


@rows(
    "conditions,fields",
    [
        (NAMED, FIELDS),
        ([{"bUcKeT": "b"}, ["StArTs-WiTh", "$KeY", "user"], {"content-TYPE": "image/jpeg"}], FIELDS),
        ([*NAMED, ["eq", "$x-amz-meta-a", ""]], {**FIELDS, "x-amz-meta-a": ""}),
        ([*NAMED, ["starts-with", "$x-amz-meta-a", ""]], {**FIELDS, "x-amz-meta-a": "anything"}),
        (NAMED, {**FIELDS, "content-type": "image/png, image/gif"}),
        (NAMED, {**FIELDS, "x-ignore-this": "1", "policy": "p", "signature": "s", "awsaccesskeyid": "k"}),
        (NAMED, {**FIELDS, "x-amz-signature": "s", "x-amz-checksum-crc32": "AAAAAA=="}),
        ([*NAMED, ["content-length-range", 1, 2]], FIELDS),
        ([*NAMED, ["starts-with", "$x-amz-server-side-encryption", ""]], FIELDS),
    ],
)
def test_a_form_that_obeys_passes(conditions: list[Any], fields: dict[str, str]) -> None:
    post_policy.check(policy(*conditions), fields, NOW)


@rows(
    "conditions,fields,words",
    [
        (NAMED, {**FIELDS, "bucket": "c"}, 'failed: {"bucket": "b"}'),
        (NAMED, {**FIELDS, "key": "user/ann"}, "failed: "),
        (NAMED, {**FIELDS, "key": "User/anna/x"}, "failed: "),
        (NAMED, {**FIELDS, "content-type": "image/png, text/html"}, "failed: "),
        (NAMED[:2], FIELDS, "Extra input fields: content-type"),
        (NAMED[1:], FIELDS, "Extra input fields: bucket"),
        (NAMED, {**FIELDS, "acl": "public-read", "tagging": "t"}, "Extra input fields: acl, tagging"),
        ([*NAMED, ["starts-with", "$x-amz-meta-a", ""]], FIELDS, "failed: "),
        ([*NAMED, {"acl": ""}], FIELDS, "failed: "),
        ([*NAMED, {"x-amz-server-side-encryption": ""}], FIELDS, "failed: "),
        ([*NAMED, ["starts-with", "$x-amz-server-side-encryption", "AES"]], FIELDS, "failed: "),
        ([*NAMED, {"acl": "private"}, {"acl": "public-read"}], {**FIELDS, "acl": "private"}, "failed: "),
        ([["eq", "$key", "user/"], *NAMED[::2]], FIELDS, "failed: "),
    ],
)
def test_a_form_that_does_not_is_refused(conditions: list[Any], fields: dict[str, str], words: str) -> None:
    with pytest.raises(S3Error) as caught:
        post_policy.check(policy(*conditions), fields, NOW)
    assert (caught.value.code, caught.value.status) == ("AccessDenied", 403)
    assert caught.value.message.startswith("Invalid according to Policy: ")
    assert words in caught.value.message


def test_a_policy_ends_at_its_very_moment() -> None:
    with pytest.raises(S3Error, match="Policy expired"):
        post_policy.check(policy(*NAMED, expiration=PAST), FIELDS, NOW)
    post_policy.check(policy(*NAMED, expiration=FUTURE), FIELDS, NOW + 0.4)


def test_sizes_are_bounded_at_both_ends() -> None:
    bounds = policy(*NAMED, ["content-length-range", 2, "9"], ["content-length-range", 0, 5])
    for size in range(12):
        too_large, too_small = size > 5, size < 2
        for check, wrong, code in (
            (post_policy.check_size_max, too_large, "EntityTooLarge"),
            (post_policy.check_size_min, too_small, "EntityTooSmall"),
        ):
            if wrong:
                with pytest.raises(S3Error) as caught:
                    check(bounds, size)
                assert (caught.value.code, caught.value.status) == (code, 400)
            else:
                check(bounds, size)


def test_the_two_escapes_that_json_does_not_know() -> None:
    text = rb'{"expiration": "2027-01-15T09:00:00Z", "conditions": [["eq", "$key", "a\$b\\$c\vd"]]}'
    (condition,) = post_policy.parse(text).conditions
    assert condition.value == "a$b\\$c\vd"


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.integers() | st.text(max_size=9) | st.sampled_from(["eq", "$key", "content-length-range"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
).map(lambda tree: json.dumps({"expiration": FUTURE, "conditions": tree}).encode()))  # fmt: skip
def test_no_document_does_anything_but_parse_or_be_refused(document: bytes) -> None:
    with contextlib.suppress(S3Error):
        found = post_policy.parse(document)
        assert found.size_min >= 0
        with pytest.raises(S3Error):
            post_policy.check(found, {"bucket": "b", "key": "\0"}, found.expires)
