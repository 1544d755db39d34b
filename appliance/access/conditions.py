"""The Condition element of a policy: operators, keys, and whether a request meets them (pure).

A block is {operator: {key: value or values}}.  All keys of all operators must hold; of the values of one key one must
(for a negated operator: none may).  A key that the request does not have fails an operator, passes a negated one, and
passes either with `…IfExists`.  `ForAllValues:` and `ForAnyValue:` are for keys with several values.

Documents are read whole or not at all: an operator, a key or a value that could never be compared refuses the policy.

Sources: AWS IAM User Guide, "IAM JSON policy elements: Condition operators", "Condition keys: multivalued", "AWS global
condition context keys"; Service Authorization Reference, "Condition keys for Amazon S3".
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Final

from appliance.access.patterns import BadPattern, Pattern, Values, compile_pattern, matches
from appliance.model import Frozen

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class BadCondition(ValueError):
    """The block has no meaning; the text says why, in AWS's words where it has some."""


class Condition(Frozen, frozen=True):
    """One key under one operator.  `values` are as the operator compares them: Patterns, numbers, networks, …"""

    kind: str  # the positive operator
    negated: bool
    key: str  # lower case
    values: tuple[object, ...]
    every: bool = False  # ForAllValues
    some: bool = False  # ForAnyValue
    if_exists: bool = False


_NEGATED: Final = {
    "StringNotEquals": "StringEquals",
    "StringNotEqualsIgnoreCase": "StringEqualsIgnoreCase",
    "StringNotLike": "StringLike",
    "NumericNotEquals": "NumericEquals",
    "DateNotEquals": "DateEquals",
    "NotIpAddress": "IpAddress",
    "ArnNotEquals": "ArnLike",
    "ArnNotLike": "ArnLike",
}
_QUALIFIED: Final = re.compile(r"(?:(ForAllValues|ForAnyValue):)?([A-Za-z]+?)(IfExists)?")

# Keys by which a policy can tell requests apart.  A prefix ends with "/".
S3_KEYS: Final = frozenset(
    "s3:" + name
    for name in (
        "prefix", "delimiter", "max-keys", "versionid", "locationconstraint", "authtype", "signatureage",
        "signatureversion", "resourceaccount", "tlsversion", "x-amz-acl", "x-amz-content-sha256", "x-amz-copy-source",
        "x-amz-grant-full-control", "x-amz-grant-read", "x-amz-grant-read-acp", "x-amz-grant-write",
        "x-amz-grant-write-acp", "x-amz-metadata-directive", "x-amz-object-ownership", "x-amz-server-side-encryption",
        "x-amz-server-side-encryption-aws-kms-key-id", "x-amz-server-side-encryption-customer-algorithm",
        "x-amz-storage-class", "x-amz-website-redirect-location", "if-match", "if-none-match", "object-lock-legal-hold",
        "object-lock-mode", "object-lock-remaining-retention-days", "object-lock-retain-until-date",
        "requestobjecttagkeys", "existingobjecttag/", "requestobjecttag/", "buckettag/",
        "dataaccesspointaccount", "dataaccesspointarn", "accesspointnetworkorigin", "accesspointtag/",
        "inventoryaccessibleoptionalfields", "objectcreationoperation", "isreplicationpausesrequest",
        "accessgrantsinstancearn", "destinationregion",
    )
)  # fmt: skip
GLOBAL_KEYS: Final = frozenset(
    "aws:" + name
    for name in (
        "calledvia", "calledviafirst", "calledvialast", "currenttime", "epochtime", "federatedprovider",
        "multifactorauthage", "multifactorauthpresent", "principalaccount", "principalarn", "principalisawsservice",
        "principalorgid", "principalorgpaths", "principalservicename", "principalservicenameslist", "principaltag/",
        "principaltype", "referer", "requestedregion", "requesttag/", "resourceaccount", "resourceorgid",
        "resourceorgpaths", "resourcetag/", "securetransport", "sourceaccount", "sourcearn", "sourceidentity",
        "sourceip", "sourceorgid", "sourceorgpaths", "sourceowner", "sourcevpc", "sourcevpcarn", "sourcevpce",
        "tagkeys", "tokenissuetime", "useragent", "userid", "username", "viaawsservice", "vpcsourceip",
        "vpceaccount", "vpceorgid", "vpceorgpaths",
    )
)  # fmt: skip


def known_key(key: str) -> bool:
    """Whether a condition key (lower case) exists in AWS, whatever this box can say about it."""
    known = S3_KEYS if key.startswith("s3:") else GLOBAL_KEYS
    name, slash, rest = key.partition("/")
    return (name + "/" in known and bool(rest)) if slash else key in known


def parse_conditions(block: object, *, variables: bool) -> tuple[Condition, ...]:
    """A Condition element.  `variables`: whether the policy's version has them.  Raises BadCondition."""
    if not isinstance(block, Mapping):
        raise BadCondition("Condition must be an object")
    found = []
    for operator, keys in block.items():
        qualified = _QUALIFIED.fullmatch(operator)
        kind = qualified[2] if qualified else ""
        negated = kind in _NEGATED
        kind = _NEGATED.get(kind, kind)
        if kind == "ArnEquals":
            kind = "ArnLike"  # IAM: the two behave identically
        if qualified is None or kind not in _PARSERS or (kind == "Null" and qualified[3]):
            raise BadCondition(f"Invalid Condition type : {operator}")
        if not isinstance(keys, Mapping) or not keys:
            raise BadCondition(f"Condition {operator} must hold keys")
        for key, given in keys.items():
            if not known_key(key.lower()):
                raise BadCondition("Policy has an invalid condition key")
            texts = _texts(given)
            if not texts:
                raise BadCondition(f"Condition {operator} of {key} has no value")
            try:
                values = tuple(_PARSERS[kind](text, variables) for text in texts)
            except (ValueError, InvalidOperation, binascii.Error, OverflowError):
                raise BadCondition(f"Invalid value in the condition {operator} of {key}") from None
            found.append(
                Condition(
                    kind,
                    negated,
                    key.lower(),
                    values,
                    every=qualified[1] == "ForAllValues",
                    some=qualified[1] == "ForAnyValue",
                    if_exists=qualified[3] is not None,
                )
            )
    return tuple(found)


def hold(conditions: Iterable[Condition], values: Values) -> bool:
    """Whether the request meets all of them."""
    return all(_holds(condition, values) for condition in conditions)


def _holds(condition: Condition, values: Values) -> bool:
    given = values(condition.key)
    if condition.kind == "Null":
        return any((given is None) == wanted for wanted in condition.values)
    if given is None:
        return condition.every or condition.if_exists or (condition.negated and not condition.some)
    wanted = _expanded(condition, values)
    compare = _COMPARISONS[condition.kind]

    def meets(text: str) -> bool:
        return any(_compared(compare, text, value) for value in wanted) != condition.negated

    if condition.every or (condition.negated and not condition.some):
        return all(meets(text) for text in given)
    return any(meets(text) for text in given)


def _compared(compare: Callable[[str, object], bool], text: str, value: object) -> bool:
    """What cannot be read as a number, a date or an address equals none and is neither larger nor smaller."""
    try:
        return compare(text, value)
    except (ValueError, InvalidOperation, binascii.Error, OverflowError):
        return False


def _expanded(condition: Condition, values: Values) -> Sequence[object]:
    """The values to compare with; a text whose variable has no value equals nothing."""
    found: list[object] = []
    for value in condition.values:
        if isinstance(value, Pattern):
            text = value.expand(values)
            if text is not None:
                found.append(text)
        else:
            found.append(value)
    return found


def _texts(given: object) -> list[str]:
    """A JSON value, or a list of them, as texts."""
    values = given if isinstance(given, list) else [given]
    found = []
    for value in values:
        if isinstance(value, bool):
            found.append("true" if value else "false")
        elif isinstance(value, (str, int, float)):
            found.append(str(value))
        else:
            raise BadCondition("The values of a condition are texts, numbers or truth values")
    return found


# ---------------------------------------------------------------- values, as a policy writes them


def _exact(text: str, variables: bool) -> Pattern:
    return compile_pattern(text, wildcards=False, variables=variables)


def _like(text: str, variables: bool) -> Pattern:
    return compile_pattern(text, wildcards=True, variables=variables)


def _arn(text: str, variables: bool) -> Pattern:
    if text != "*" and not text.startswith("${") and text.count(":") < 5:
        raise BadPattern(text)
    return _like(text, variables)


def _number(text: str, variables: bool = False) -> Decimal:
    value = Decimal(text)
    if not value.is_finite():
        raise ValueError(text)
    return value


def _moment(text: str, variables: bool = False) -> float:
    """Seconds since the epoch: ISO 8601 (a day, or a time with its zone) or a number of seconds."""
    if re.fullmatch(r"-?\d{1,12}(?:\.\d{1,9})?", text) and len(text) > 4:
        return float(text)
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _truth(text: str, variables: bool = False) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _network(text: str, variables: bool = False) -> Network:
    return ipaddress.ip_network(text, strict=False)


def _binary(text: str, variables: bool = False) -> bytes:
    return base64.b64decode(text, validate=True)


_PARSERS: Final[dict[str, Callable[[str, bool], object]]] = {
    "StringEquals": _exact,
    "StringEqualsIgnoreCase": _exact,
    "StringLike": _like,
    "NumericEquals": _number,
    "NumericLessThan": _number,
    "NumericLessThanEquals": _number,
    "NumericGreaterThan": _number,
    "NumericGreaterThanEquals": _number,
    "DateEquals": _moment,
    "DateLessThan": _moment,
    "DateLessThanEquals": _moment,
    "DateGreaterThan": _moment,
    "DateGreaterThanEquals": _moment,
    "Bool": _truth,
    "BinaryEquals": _binary,
    "IpAddress": _network,
    "ArnLike": _arn,
    "Null": _truth,
}


# ---------------------------------------------------------------- comparisons: (the request's text, a parsed value)


def _arn_like(text: str, value: object) -> bool:
    """Component by component: a star of one never reaches into the next.  The sixth is all of the rest."""
    wanted = str(value)
    if matches(wanted, text) and ":" not in wanted:
        return True  # "*" alone
    ours, theirs = wanted.split(":", 5), text.split(":", 5)
    return len(ours) == len(theirs) and all(map(matches, ours, theirs))


def _in_network(text: str, value: object) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    assert isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network)
    return address in value


def _ordered(parse: Callable[[str], object], test: Callable[[int], bool]) -> Callable[[str, object], bool]:
    """Comparison by the sign of a difference."""

    def compare(text: str, value: object) -> bool:
        given = parse(text)
        return test((given > value) - (given < value))  # type: ignore[operator]  # two of one ordered kind

    return compare


_TESTS: Final[dict[str, Callable[[int], bool]]] = {
    "Equals": lambda sign: sign == 0,
    "LessThan": lambda sign: sign < 0,
    "LessThanEquals": lambda sign: sign <= 0,
    "GreaterThan": lambda sign: sign > 0,
    "GreaterThanEquals": lambda sign: sign >= 0,
}
_COMPARISONS: Final[dict[str, Callable[[str, object], bool]]] = {
    "StringEquals": lambda text, value: text == value,
    "StringEqualsIgnoreCase": lambda text, value: text.casefold() == str(value).casefold(),
    "StringLike": lambda text, value: matches(str(value), text),
    **{"Numeric" + name: _ordered(_number, test) for name, test in _TESTS.items()},
    **{"Date" + name: _ordered(_moment, test) for name, test in _TESTS.items()},
    "Bool": lambda text, value: _truth(text) == value,
    "BinaryEquals": lambda text, value: _binary(text) == value,
    "IpAddress": _in_network,
    "ArnLike": _arn_like,
}
