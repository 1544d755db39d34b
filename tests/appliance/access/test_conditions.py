"""Every operator, with and without its qualifiers, on keys that are there and keys that are not."""

from __future__ import annotations

import pytest

from appliance.access.conditions import BadCondition, hold, parse_conditions

VALUES: dict[str, tuple[str, ...]] = {
    "s3:prefix": ("public/a",),
    "s3:max-keys": ("10",),
    "aws:sourceip": ("192.0.2.7",),
    "aws:securetransport": ("false",),
    "aws:currenttime": ("2026-11-22T02:00:00Z",),
    "aws:epochtime": ("1795312800",),
    "aws:username": ("Anna",),
    "aws:principalarn": ("arn:aws:iam::a1:user/Anna",),
    "aws:referer": ("http://example.org/x",),
    "s3:requestobjecttagkeys": ("team", "cost"),
    "s3:existingobjecttag/team": ("Red",),
    "s3:x-amz-content-sha256": ("UNSIGNED-PAYLOAD",),
    "aws:useragent": ("aGk=",),
}
V6 = {"aws:sourceip": ("::ffff:192.0.2.7",)}

# (operator, key, values, whether it holds)
ROWS: list[tuple[str, str, object, bool]] = [
    ("StringEquals", "s3:prefix", "public/a", True),
    ("StringEquals", "s3:PREFIX", ["x", "public/a"], True),
    ("StringEquals", "s3:prefix", "PUBLIC/a", False),
    ("StringEquals", "s3:prefix", "public/*", False),
    ("StringEquals", "s3:delimiter", "/", False),
    ("StringEqualsIfExists", "s3:delimiter", "/", True),
    ("StringEqualsIfExists", "s3:prefix", "x", False),
    ("StringNotEquals", "s3:prefix", "x", True),
    ("StringNotEquals", "s3:prefix", ["x", "public/a"], False),
    ("StringNotEquals", "s3:delimiter", "/", True),
    ("StringNotEqualsIfExists", "s3:prefix", "public/a", False),
    ("StringEqualsIgnoreCase", "s3:prefix", "PUBLIC/A", True),
    ("StringNotEqualsIgnoreCase", "s3:prefix", "PUBLIC/A", False),
    ("StringLike", "s3:prefix", "public/*", True),
    ("StringLike", "s3:prefix", "public/?", True),
    ("StringLike", "s3:prefix", ["private/*", "x"], False),
    ("StringLike", "s3:prefix", "${aws:username}", False),
    ("StringLike", "aws:userid", "*", False),
    ("StringNotLike", "s3:prefix", "private/*", True),
    ("StringNotLike", "s3:prefix", "public/*", False),
    ("StringEquals", "aws:username", "${aws:username}", True),
    ("StringEquals", "s3:ExistingObjectTag/team", "Red", True),
    ("StringEquals", "s3:ExistingObjectTag/TEAM", "Red", True),
    ("StringEquals", "s3:ExistingObjectTag/cost", "Red", False),
    ("NumericEquals", "s3:max-keys", "10.0", True),
    ("NumericEquals", "s3:max-keys", 10, True),
    ("NumericNotEquals", "s3:max-keys", 10, False),
    ("NumericLessThan", "s3:max-keys", "10", False),
    ("NumericLessThanEquals", "s3:max-keys", "10", True),
    ("NumericGreaterThan", "s3:max-keys", ["9", "99"], True),
    ("NumericGreaterThanEquals", "s3:max-keys", "11", False),
    ("NumericLessThan", "s3:prefix", "11", False),  # no number: not smaller
    ("NumericNotEquals", "s3:prefix", "11", True),
    ("DateLessThan", "aws:CurrentTime", "2026-11-22T02:00:01Z", True),
    ("DateGreaterThan", "aws:CurrentTime", "2026-11-22T03:00:00+02:00", True),
    ("DateGreaterThanEquals", "aws:CurrentTime", "2026-11-22T02:00:00Z", True),
    ("DateLessThanEquals", "aws:CurrentTime", "2026-11-21", False),
    ("DateEquals", "aws:EpochTime", "1795312800", True),
    ("DateNotEquals", "aws:EpochTime", "2026-11-22T02:00:00Z", False),
    ("DateLessThan", "aws:TokenIssueTime", "2026-11-22T02:00:00Z", False),
    ("Bool", "aws:SecureTransport", "false", True),
    ("Bool", "aws:SecureTransport", True, False),
    ("Bool", "aws:MultiFactorAuthPresent", "false", False),
    ("BoolIfExists", "aws:MultiFactorAuthPresent", "false", True),
    ("BinaryEquals", "aws:UserAgent", "aGk=", True),
    ("BinaryEquals", "aws:UserAgent", "aGg=", False),
    ("IpAddress", "aws:SourceIp", "192.0.2.0/24", True),
    ("IpAddress", "aws:SourceIp", ["10.0.0.0/8", "192.0.2.7"], True),
    ("IpAddress", "aws:SourceIp", "2001:db8::/32", False),
    ("NotIpAddress", "aws:SourceIp", "192.0.2.0/24", False),
    ("NotIpAddress", "aws:SourceIp", "10.0.0.0/8", True),
    ("NotIpAddress", "aws:VpcSourceIp", "10.0.0.0/8", True),
    ("ArnEquals", "aws:PrincipalArn", "arn:aws:iam::a1:user/Anna", True),
    ("ArnLike", "aws:PrincipalArn", "arn:aws:iam::*:user/A*", True),
    ("ArnLike", "aws:PrincipalArn", "arn:aws:*:a1::user/Anna", False),  # a star stays in its component
    ("ArnNotEquals", "aws:PrincipalArn", "arn:aws:iam::a1:user/Anna", False),
    ("ArnNotLike", "aws:PrincipalArn", "arn:aws:iam::b2:user/*", True),
    ("ArnLike", "aws:PrincipalArn", "*", True),
    ("Null", "s3:delimiter", "true", True),
    ("Null", "s3:delimiter", "false", False),
    ("Null", "s3:prefix", "true", False),
    ("Null", "s3:prefix", False, True),
    ("ForAnyValue:StringEquals", "s3:RequestObjectTagKeys", ["team", "x"], True),
    ("ForAnyValue:StringEquals", "s3:RequestObjectTagKeys", "x", False),
    ("ForAnyValue:StringEquals", "aws:TagKeys", "x", False),
    ("ForAnyValue:StringNotEquals", "s3:RequestObjectTagKeys", "team", True),
    ("ForAnyValue:StringNotEquals", "aws:TagKeys", "team", False),
    ("ForAllValues:StringEquals", "s3:RequestObjectTagKeys", ["team", "cost", "x"], True),
    ("ForAllValues:StringEquals", "s3:RequestObjectTagKeys", "team", False),
    ("ForAllValues:StringEquals", "aws:TagKeys", "team", True),
    ("ForAllValues:StringLike", "s3:RequestObjectTagKeys", ["te*", "co?t"], True),
    ("ForAllValues:StringNotEquals", "s3:RequestObjectTagKeys", "team", False),
    ("StringEquals", "s3:RequestObjectTagKeys", "cost", True),
    ("StringNotEquals", "s3:RequestObjectTagKeys", "cost", False),
]


def test_every_operator_compares_as_it_should() -> None:
    wrong = [
        row for row in ROWS if hold(parse_conditions({row[0]: {row[1]: row[2]}}, variables=True), VALUES.get) != row[3]
    ]
    assert not wrong


def test_a_mapped_address_is_the_address_it_maps() -> None:
    assert hold(parse_conditions({"IpAddress": {"aws:SourceIp": "192.0.2.0/24"}}, variables=True), V6.get)


def test_all_keys_of_all_operators_must_hold() -> None:
    good = {"s3:prefix": "public/a"}
    assert hold(
        parse_conditions({"StringEquals": good, "NumericEquals": {"s3:max-keys": 10}}, variables=True), VALUES.get
    )
    for block in (
        {"StringEquals": {**good, "s3:delimiter": "/"}},
        {"StringEquals": good, "NumericEquals": {"s3:max-keys": 11}},
    ):
        assert not hold(parse_conditions(block, variables=True), VALUES.get)
    assert hold(parse_conditions({}, variables=True), VALUES.get)


@pytest.mark.parametrize(
    "block",
    [
        "text", [], {"StringEquals": "x"}, {"StringEquals": {}}, {"StringEqual": {"s3:prefix": "x"}},
        {"": {"s3:prefix": "x"}}, {"ForSomeValues:StringEquals": {"s3:prefix": "x"}},
        {"NullIfExists": {"s3:prefix": "true"}}, {"StringEquals": {"s3:prefixx": "x"}},
        {"StringEquals": {"s3:ExistingObjectTag": "x"}}, {"StringEquals": {"s3:ExistingObjectTag/": "x"}},
        {"StringEquals": {"prefix": "x"}}, {"StringEquals": {"s3:prefix": []}}, {"StringEquals": {"s3:prefix": None}},
        {"StringEquals": {"s3:prefix": {"a": 1}}}, {"StringEquals": {"s3:prefix": ["a", ["b"]]}},
        {"StringEquals": {"s3:prefix": "${x"}}, {"NumericEquals": {"s3:max-keys": "ten"}},
        {"NumericEquals": {"s3:max-keys": "NaN"}}, {"DateLessThan": {"aws:CurrentTime": "tomorrow"}},
        {"Bool": {"aws:SecureTransport": "yes"}}, {"IpAddress": {"aws:SourceIp": "10.0.0.0/33"}},
        {"IpAddress": {"aws:SourceIp": "*"}}, {"BinaryEquals": {"aws:UserAgent": "%"}},
        {"ArnLike": {"aws:PrincipalArn": "user/x"}}, {"Null": {"s3:prefix": "maybe"}},
    ],
)  # fmt: skip
def test_what_could_never_be_compared_is_refused(block: object) -> None:
    with pytest.raises(BadCondition):
        parse_conditions(block, variables=True)
