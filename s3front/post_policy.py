"""POST policies: the document by which the owner of a key lets strangers upload one form, and whether a form obeys it
(pure).

A policy is JSON with an expiration and conditions.  Every condition must hold, and every field of the form must be
named by one (SECURITY: nothing of a form is obeyed that its signer did not foresee).  Exempt are the fields that carry
the policy and its signature, the file, `x-ignore-…`, and checksums of the file: such a promise can only make an upload
fail.  `bucket` always counts as a field, said by the form or not.

Fields are compared as they will be used: `${filename}` was replaced before.  Names are compared in lower case, values
exactly.  A condition on a field that is not there fails, also `starts-with ""`, as AWS's do.

Source: Amazon S3 API Reference, "Browser-Based Uploads Using POST", "POST Policy".  Not known here: signatures
(s3front/verified.py), forms (s3front/form.py).
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from s3front import checksums
from s3front.errors import S3Error

_EXPIRATION: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?Z", re.ASCII)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_EXEMPT: Final = frozenset(
    {"file", "policy", "x-amz-signature", "signature", "awsaccesskeyid"}
    | {algorithm.header.decode() for algorithm in checksums.ALGORITHMS.values()}
)
_IGNORED: Final = "x-ignore-"
_OPTIONAL: Final = frozenset({"x-amz-server-side-encryption"})  # may be left out where the policy allows anything in it
_SIZE_MAX: Final = 2**63 - 1


class Condition(NamedTuple):
    """`field` in lower case; `prefix`: the value needs only to begin with `value`.  `text` is how it was written."""

    field: str
    value: str
    prefix: bool
    text: str


class Policy(NamedTuple):
    """`expires` in seconds since the epoch; sizes in bytes, both ends allowed."""

    expires: float
    conditions: tuple[Condition, ...]
    size_min: int
    size_max: int


def parse(document: bytes) -> Policy:
    """The policy, decoded from base64 already.  Raises InvalidPolicyDocument."""
    try:
        tree = json.loads(_plain_json(document.decode()), object_pairs_hook=_unique)
    except RecursionError:
        raise _invalid("Invalid JSON.") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise _invalid("Invalid JSON.") from error
    if not isinstance(tree, dict):
        raise _invalid("Invalid JSON.")
    for name in tree:
        if name not in ("expiration", "conditions"):
            raise _invalid(f"Unexpected: '{name}'.")
    if "expiration" not in tree:
        raise _invalid("Policy missing expiration.")
    if not isinstance(tree.get("conditions"), list):
        raise _invalid("Policy missing conditions.")
    conditions: list[Condition] = []
    size_min, size_max = 0, _SIZE_MAX
    for one in tree["conditions"]:
        if isinstance(one, list) and one and one[0] == "content-length-range":
            least, most = _range(one)
            size_min, size_max = max(size_min, least), min(size_max, most)
        else:
            conditions.append(_condition(one))
    return Policy(_expiration(tree["expiration"]), tuple(conditions), size_min, size_max)


def check(policy: Policy, fields: Mapping[str, str], now: float) -> None:
    """Raises AccessDenied unless the policy lives, all its conditions hold and it names every field.

    `fields` maps lower-case names to values, `bucket` being the bucket that is posted to; `now` in seconds.
    """
    if now >= policy.expires:
        raise _denied("Policy expired.")
    for condition in policy.conditions:
        if not _holds(condition, fields.get(condition.field)):
            raise _denied(f"Policy Condition failed: {condition.text}")
    named = {condition.field for condition in policy.conditions}
    extra = [name for name in fields if name not in named and name not in _EXEMPT and not name.startswith(_IGNORED)]
    if extra:
        raise _denied(f"Extra input fields: {', '.join(sorted(extra))}")


def check_size_max(policy: Policy, size: int) -> None:
    """Raises EntityTooLarge as soon as `size` bytes are more than the policy allows."""
    if size > policy.size_max:
        raise S3Error("EntityTooLarge", details=(("ProposedSize", str(size)), ("MaxSizeAllowed", str(policy.size_max))))


def check_size_min(policy: Policy, size: int) -> None:
    """Raises EntityTooSmall if a whole file of `size` bytes is less than the policy asks for."""
    if size < policy.size_min:
        raise S3Error("EntityTooSmall", details=(("ProposedSize", str(size)), ("MinSizeAllowed", str(policy.size_min))))


def _plain_json(text: str) -> str:
    """S3's policies know two escapes that JSON does not: `\\$` and `\\v`."""
    return _ESCAPE.sub(lambda m: "$" if m[1] == "$" else "\\u000b" if m[1] == "v" else m[0], text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("an element occurs twice")  # which of the two would count?
    return found


def _expiration(text: Any) -> float:
    match = _EXPIRATION.fullmatch(text) if isinstance(text, str) else None
    try:
        if match is None:
            raise ValueError
        moment = datetime.datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=datetime.UTC)
    except ValueError:
        raise _invalid(f"Invalid 'expiration' value: '{text}'") from None
    return moment.timestamp() + float(match[2] or 0)


def _condition(one: Any) -> Condition:
    text = json.dumps(one)
    if isinstance(one, dict):
        if len(one) != 1:
            raise _invalid("Invalid Simple-Condition: Simple-Conditions must have exactly one property specified.")
        ((name, value),) = one.items()
        if not isinstance(value, str) or not name:
            raise _invalid(f"Invalid Simple-Condition: value must be a string: {text}")
        return Condition(name.lower(), value, False, text)
    if not (isinstance(one, list) and len(one) == 3 and all(isinstance(part, str) for part in one)):
        raise _invalid(f"Invalid Condition: {text}")
    kind, name, value = one
    if kind.lower() not in ("eq", "starts-with"):
        raise _invalid(f"Invalid Condition: unknown operation '{kind}'.")
    if not name.startswith("$") or len(name) == 1:
        raise _invalid(f"Invalid Condition: the field must begin with '$': {text}")
    return Condition(name[1:].lower(), value, kind.lower() == "starts-with", text)


def _range(one: list[Any]) -> tuple[int, int]:
    if len(one) != 3:
        raise _invalid("Invalid content-length-range: two numbers are needed.")
    bounds = []
    for part in one[1:]:
        if isinstance(part, str) and part.isascii() and part.isdigit() and len(part) <= 19:
            part = int(part)
        if not isinstance(part, int) or isinstance(part, bool) or not 0 <= part <= _SIZE_MAX:
            raise _invalid("Invalid content-length-range: a bound is not a number of bytes.")
        bounds.append(part)
    return bounds[0], bounds[1]


def _holds(condition: Condition, value: str | None) -> bool:
    if value is None:
        return condition.prefix and not condition.value and condition.field in _OPTIONAL
    if not condition.prefix:
        return value == condition.value
    if condition.field == "content-type" and "," in value:  # a list, each of which must meet the condition
        return all(one.strip().startswith(condition.value) for one in value.split(","))
    return value.startswith(condition.value)


def _invalid(message: str) -> S3Error:
    return S3Error("InvalidPolicyDocument", f"Invalid Policy: {message}")


def _denied(message: str) -> S3Error:
    return S3Error("AccessDenied", f"Invalid according to Policy: {message}")
