"""Policies: what is understood, what is refused, and what each statement says of a request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.access.policy import Caller, Effect, check_resources, parse
from appliance.errors import Code, StoreError

ANNA, BERT, NOBODY = Caller("a1", "anna"), Caller("b2", "bert"), Caller()
ALLOW, DENY, NONE = Effect.ALLOW, Effect.DENY, Effect.NONE
VALUES = {"aws:username": ("anna",), "s3:prefix": ("x",)}

SAY = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::box/*"}


def said(*statements: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements), **more}).encode()


def but(**changes: Any) -> dict[str, Any]:
    """SAY with other elements; None takes one away."""
    return {name: value for name, value in {**SAY, **changes}.items() if value is not None}


def asked(body: bytes, caller: Caller = ANNA, action: str = "s3:GetObject", resource: str = "box/k") -> Effect:
    return parse(body).evaluate(caller, action, resource, VALUES.get)


DENIAL = but(Effect="Deny", Principal={"AWS": "a1"})

# (statements, caller, action, resource, what is said)
ROWS: list[tuple[list[dict[str, Any]], Caller, str, str, Effect]] = [
    ([SAY], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([SAY], NOBODY, "s3:GetObject", "box/k", ALLOW),
    ([SAY], ANNA, "s3:PutObject", "box/k", NONE),
    ([SAY], ANNA, "s3:GetObjectVersion", "box/k", NONE),
    ([SAY], ANNA, "s3:GetObject", "box", NONE),
    ([SAY], ANNA, "s3:GetObject", "boxer/k", NONE),
    ([SAY, DENIAL], ANNA, "s3:GetObject", "box/k", DENY),
    ([DENIAL, SAY], ANNA, "s3:GetObject", "box/k", DENY),
    ([SAY, DENIAL], BERT, "s3:GetObject", "box/k", ALLOW),
    ([DENIAL], BERT, "s3:GetObject", "box/k", NONE),
    # principals
    ([but(Principal={"AWS": "*"})], NOBODY, "s3:GetObject", "box/k", ALLOW),
    ([but(Principal={"AWS": "a1"})], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([but(Principal={"AWS": "a1"})], NOBODY, "s3:GetObject", "box/k", NONE),
    ([but(Principal={"AWS": ["b2", "arn:aws:iam::a1:root"]})], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([but(Principal={"AWS": "arn:aws:iam::a1:root"})], BERT, "s3:GetObject", "box/k", NONE),
    ([but(Principal={"AWS": "arn:aws:iam::a1:user/anna"})], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([but(Principal={"AWS": "arn:aws:iam::a1:user/staff/anna"})], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([but(Principal={"AWS": "arn:aws:iam::a1:user/bert"})], ANNA, "s3:GetObject", "box/k", NONE),
    ([but(Principal={"AWS": "arn:aws:iam::b2:user/anna"})], ANNA, "s3:GetObject", "box/k", NONE),
    ([but(Principal={"AWS": "arn:aws:iam:::user/anna"})], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([but(Principal={"AWS": "arn:aws:iam:::user/a1"})], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([but(Principal={"AWS": "arn:aws:iam:::user/anna"})], NOBODY, "s3:GetObject", "box/k", NONE),
    ([but(Principal={"CanonicalUser": "a1"})], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([but(Principal={"CanonicalUser": ["a1", "c3"], "AWS": "b2"})], BERT, "s3:GetObject", "box/k", ALLOW),
    ([but(Principal={"Service": "logging.s3.amazonaws.com"})], ANNA, "s3:GetObject", "box/k", NONE),
    ([but(Effect="Deny", Principal=None, NotPrincipal={"AWS": "a1"})], ANNA, "s3:GetObject", "box/k", NONE),
    ([but(Effect="Deny", Principal=None, NotPrincipal={"AWS": "a1"})], BERT, "s3:GetObject", "box/k", DENY),
    ([but(Effect="Deny", Principal=None, NotPrincipal={"AWS": "a1"})], NOBODY, "s3:GetObject", "box/k", DENY),
    # actions
    ([but(Action="*")], ANNA, "s3:PutObject", "box/k", ALLOW),
    ([but(Action="s3:*")], ANNA, "s3:PutObject", "box/k", ALLOW),
    ([but(Action="S3:getobject")], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([but(Action=["s3:PutObject", "s3:Get*"])], ANNA, "s3:GetObjectVersionAcl", "box/k", ALLOW),
    ([but(Action="s3:?etObject")], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([but(Action=None, NotAction="s3:Get*")], ANNA, "s3:GetObject", "box/k", NONE),
    ([but(Action=None, NotAction="s3:Get*")], ANNA, "s3:PutObject", "box/k", ALLOW),
    # resources
    ([but(Resource="arn:aws:s3:::box")], ANNA, "s3:GetObject", "box/k", NONE),
    ([but(Resource="arn:aws:s3:::*")], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([but(Resource="*")], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([but(Resource=["arn:aws:s3:::box/a*", "arn:aws:s3:::box/?"])], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([but(Resource="arn:aws:s3:::box/a/*")], ANNA, "s3:GetObject", "box/a/b/c", ALLOW),
    ([but(Resource="arn:aws:s3:::box/K")], ANNA, "s3:GetObject", "box/k", NONE),
    ([but(Resource="arn:aws:s3:::box/${aws:username}/*")], ANNA, "s3:GetObject", "box/anna/x", ALLOW),
    ([but(Resource="arn:aws:s3:::box/${aws:userid}/*")], ANNA, "s3:GetObject", "box/anna/x", NONE),
    ([but(Resource=None, NotResource="arn:aws:s3:::box/a*")], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([but(Resource=None, NotResource="arn:aws:s3:::box/a*")], ANNA, "s3:GetObject", "box/ab", NONE),
    # conditions
    ([but(Condition={"StringEquals": {"s3:prefix": "x"}})], ANNA, "s3:GetObject", "box/k", ALLOW),
    ([but(Condition={"StringEquals": {"s3:prefix": "y"}})], ANNA, "s3:GetObject", "box/k", NONE),
    ([but(Effect="Deny", Condition={"StringNotEquals": {"s3:prefix": "y"}}), SAY], ANNA, "s3:GetObject", "box/k", DENY),
]


def test_every_statement_says_what_it_should() -> None:
    wrong = []
    for statements, caller, action, resource, wanted in ROWS:
        found = asked(said(*statements), caller, action, resource)
        if found is not wanted:
            wrong.append((statements, caller, action, resource, found))
    assert not wrong


def test_a_policy_without_a_version_has_no_variables() -> None:
    statement = but(Resource="arn:aws:s3:::box/${aws:username}")
    assert asked(said(statement), resource="box/anna") is ALLOW
    assert asked(json.dumps({"Statement": statement}).encode(), resource="box/anna") is NONE
    assert asked(json.dumps({"Statement": statement}).encode(), resource="box/${aws:username}") is ALLOW


REFUSED: list[tuple[bytes, str]] = [
    (b"", "first byte"),
    (b" {}", "first byte"),
    (b"[]", "first byte"),
    (b"{", "invalid Json"),
    (b'{"Statement": NaN}', "invalid Json"),
    (b'{"Version": "2012-10-17", "Version": "2012-10-17", "Statement": []}', "invalid Json"),
    (b'{"Statement": "\xff"}', "invalid Json"),
    (b'{"a":' * 3000, "invalid Json"),
    (b"{}", "Missing required field Statement"),
    (said(), "Statement is empty"),
    (said(SAY, Version="2013-01-01"), "valid version string"),
    (said(SAY, Version=None), "valid version string"),
    (said(SAY, Id=1), "syntax"),
    (said(SAY, Idd="x"), "Unknown field Idd"),
    (said({**SAY, "Conditions": {}}), "Unknown field Conditions"),
    (said("text"), "syntax"),  # type: ignore[arg-type]
    (said({**SAY, "Sid": 1}), "syntax"),
    (said({**SAY, "Sid": "a"}, {**SAY, "Sid": "a"}), "must be unique"),
    (said(but(Effect=None)), "Missing required field Effect"),
    (said(but(Effect="allow")), "Invalid effect"),
    (said(but(Principal=None)), "Missing required field Principal"),
    (said({**SAY, "NotPrincipal": "*"}), "already has instance"),
    (said(but(Principal=None, NotPrincipal={"AWS": "a1"})), "NotPrincipal"),
    (said(but(Principal="a1")), "Invalid principal"),
    (said(but(Principal={})), "Invalid principal"),
    (said(but(Principal={"AWS": []})), "Invalid principal"),
    (said(but(Principal={"AWS": "a*"})), "Invalid principal"),
    (said(but(Principal={"AWS": "arn:aws:iam::a1:user/*"})), "Invalid principal"),
    (said(but(Principal={"AWS": "arn:aws:iam:::root"})), "Invalid principal"),
    (said(but(Principal={"AWS": "arn:aws:iam::a1:role/x"})), "Invalid principal"),
    (said(but(Principal={"Service": "mine"})), "Invalid principal"),
    (said(but(Principal={"Federated": "x"})), "Invalid principal"),
    (said(but(Action=None)), "Missing required field Action"),
    (said({**SAY, "NotAction": "s3:*"}), "already has instance"),
    (said(but(Action=[])), "invalid action"),
    (said(but(Action="s3:GetObjekt")), "invalid action"),
    (said(but(Action="s3:Foo*")), "invalid action"),
    (said(but(Action="ec2:*")), "invalid action"),
    (said(but(Action="tierce:Admin")), "invalid action"),
    (said(but(Action=[["s3:*"]])), "invalid action"),
    (said(but(Resource=None)), "Missing required field Resource"),
    (said(but(Resource="box/*")), "invalid resource"),
    (said(but(Resource="arn:aws:s3:::")), "invalid resource"),
    (said(but(Resource="arn:aws:ec2:::box")), "invalid resource"),
    (said(but(Resource="arn:aws:s3:::box/${x")), "invalid resource"),
    (said(but(Condition={"StringEqual": {"s3:prefix": "x"}})), "Invalid Condition type"),
    (said(but(Condition={"StringEquals": {"s3:prefixx": "x"}})), "invalid condition key"),
    (said(but(Resource="arn:aws:s3:::box/" + "k" * 20_480)), "larger"),
]


def test_what_is_not_understood_is_refused_whole() -> None:
    wrong = []
    for body, wanted in REFUSED:
        try:
            parse(body)
        except StoreError as error:
            if error.code is Code.MALFORMED_POLICY and wanted in error.message:
                continue
            wrong.append((body[:200], error.message))
        else:
            wrong.append((body[:200], "accepted"))
    assert not wrong


def test_resources_and_actions_belong_to_the_bucket() -> None:
    good = [
        SAY, but(Resource="arn:aws:s3:::*"), but(Resource="arn:aws:s3:::b*"), but(Resource="arn:aws:s3:::box*"),
        but(Resource=["arn:aws:s3:::box", "arn:aws:s3:::box/*"], Action=["s3:ListBucket", "s3:GetObject"]),
        but(Resource="arn:aws:s3:::*/*"), but(Resource="arn:aws:s3:::*.jpg"), but(Resource="arn:aws:s3:::b?x/a"),
        but(Resource="arn:aws:s3:::box", Action="s3:*"), but(Resource="arn:aws:s3:::box/*", Action="s3:*"),
        but(Resource="arn:aws:s3:::box/*", Action=None, NotAction="s3:ListBucket"),
        but(Resource="arn:aws:s3:::${aws:username}/*"), but(Resource="*", Action="s3:ListBucket"),
    ]  # fmt: skip
    denying = [
        but(Effect="Deny", Resource="arn:aws:s3:::box"), but(Effect="Deny", Action="s3:ListBucket"),
        but(Effect="Deny", Action=["s3:GetObject", "s3:PutBucketPolicy"]),
    ]  # fmt: skip
    bad = [
        but(Resource="arn:aws:s3:::other/*"), but(Resource=["arn:aws:s3:::box/*", "arn:aws:s3:::other/*"]),
        but(Resource="arn:aws:s3:::bo"), but(Resource="arn:aws:s3:::boxer*"), *denying,
    ]  # fmt: skip
    good += [{**statement, "Effect": "Allow"} for statement in denying]  # harmless: they allow nothing
    for statement in good:
        check_resources(parse(said(statement)), "box")
    for statement in bad:
        with pytest.raises(StoreError) as caught:
            check_resources(parse(said(statement)), "box")
        assert caught.value.code is Code.MALFORMED_POLICY, statement


def when(operator: str, key: str, value: object) -> dict[str, Any]:
    return but(Condition={operator: {key: value}})


def test_public_is_what_s3_calls_public() -> None:
    public = [
        [SAY], [but(Principal={"AWS": "*"})], [but(Principal={"AWS": ["a1", "*"]})],
        [when("IpAddress", "aws:SourceIp", "0.0.0.0/1")], [when("IpAddress", "aws:SourceIp", ["10.0.0.0/8", "::/0"])],
        [when("NotIpAddress", "aws:SourceIp", "10.0.0.0/8")], [when("StringLike", "aws:Referer", "http://x/*")],
        [when("StringEquals", "aws:SourceVpc", "${aws:username}")], [when("StringLike", "aws:SourceVpc", "vpc-*")],
        [when("StringEqualsIfExists", "aws:SourceVpc", "vpc-1")], [but(Principal={"AWS": "a1"}), SAY],
        [when("StringEquals", "s3:ExistingObjectTag/x", "y")],
        [when("ForAllValues:StringEquals", "aws:SourceArn", "x")],
    ]  # fmt: skip
    private = [
        [but(Principal={"AWS": "a1"})], [but(Effect="Deny")], [but(Principal={"AWS": "arn:aws:iam::s3tenant1:root"})],
        [when("IpAddress", "aws:SourceIp", "10.0.0.0/32")], [when("StringEquals", "aws:SourceVpc", "vpc-1")],
        [when("StringEquals", "aws:PrincipalAccount", "a1")],
        [when("ArnLike", "aws:PrincipalArn", "arn:aws:iam::a1:root")],
        [but(Effect="Deny", Principal=None, NotPrincipal={"AWS": "a1"})],
    ]  # fmt: skip
    assert not [rows for rows in public if not parse(said(*rows)).public]
    assert not [rows for rows in private if parse(said(*rows)).public]


STATEMENTS = st.builds(
    lambda effect, who, action, resource, prefix: but(
        Effect=effect,
        Principal=who,
        Action=action,
        Resource="arn:aws:s3:::" + resource,
        Condition={"StringEquals": {"s3:prefix": prefix}} if prefix else None,
    ),
    st.sampled_from(["Allow", "Deny"]),
    st.sampled_from(["*", {"AWS": "a1"}, {"AWS": "b2"}]),
    st.sampled_from(["s3:*", "s3:GetObject", "s3:Put*"]),
    st.sampled_from(["*", "box/*", "box/k", "box/other"]),
    st.sampled_from(["", "x", "y"]),
)


@given(st.lists(STATEMENTS, min_size=1, max_size=5), STATEMENTS, st.sampled_from([ANNA, BERT, NOBODY]))
def test_a_deny_never_widens_and_an_allow_never_narrows(
    statements: list[dict[str, Any]], one: dict[str, Any], caller: Caller
) -> None:
    """Order does not matter; a Deny that applies is final; one more statement moves an answer only its own way."""
    before, after = asked(said(*statements), caller), asked(said(*statements, one), caller)
    alone = asked(said(one), caller)
    assert asked(said(one, *reversed(statements)), caller) is after
    assert after is (DENY if DENY in (before, alone) else ALLOW if ALLOW in (before, alone) else NONE)


TEXTS = st.sampled_from(
    ["*", "s3:*", "s3:GetObject", "arn:aws:s3:::box/*", "a1", "Allow", "Deny", "x", "", "${aws:username}"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*SAY, "AWS", "Condition", "Bool"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*SAY, "Condition", "NotAction", "Sid"]), JSON))
def test_any_statement_is_understood_or_refused(changes: dict[str, Any]) -> None:
    """Fuzzing: whatever comes, either MalformedPolicy or a policy that can be asked."""
    try:
        policy = parse(said({**SAY, **changes}))
    except StoreError as error:
        if error.code is not Code.MALFORMED_POLICY:
            raise
        return
    assert policy.evaluate(ANNA, "s3:GetObject", "box/k", VALUES.get) in Effect
    assert policy.public in (True, False)


@given(st.binary(max_size=60))
def test_any_bytes_are_understood_or_refused(body: bytes) -> None:
    with pytest.raises(StoreError):
        parse(b"{" + body)
