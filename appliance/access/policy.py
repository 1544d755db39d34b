"""Bucket policies: AWS's language, read whole or refused, and what a policy says about one request (pure).

A policy is a list of statements; each names principals, actions and resources (or all but those), may have conditions,
and allows or denies.  `evaluate` answers DENY if any statement that applies denies, else ALLOW if one allows, else
nothing; what that means beside ownership and ACLs is appliance/authority.py's to say.

Principals of this box.  Every user is an account of its own, whose id is the user's canonical id: `{"AWS": "<id>"}`,
`arn:aws:iam::<id>:root`, `{"CanonicalUser": "<id>"}` and, with its own name, `arn:aws:iam::<id>:user/<name>` are one
user; without an account (`arn:aws:iam:::user/<id or name>`) the name alone decides.  Principals need not exist.

Sources: AWS IAM User Guide, "IAM JSON policy reference"; Amazon S3 User Guide, "Policies and permissions in Amazon S3"
and "The meaning of 'public'".
"""

from __future__ import annotations

import enum
import functools
import ipaddress
import json
import re
from typing import Any, Final

from appliance.access.actions import OBJECT_ACTIONS, OTHER_S3_ACTIONS, S3_ACTIONS
from appliance.access.conditions import BadCondition, Condition, hold, parse_conditions
from appliance.access.patterns import ANY, STAR, BadPattern, Pattern, Values, Variable, compile_pattern, matches
from appliance.errors import Code, StoreError
from appliance.limits import POLICY_MAX
from appliance.model import Frozen

_ARN: Final = "arn:aws:s3:::"
_PRINCIPAL: Final = re.compile(r"arn:aws(?:-cn|-us-gov)?:iam::([^:/*?]*):(root|user/[^*?]+)")
_SERVICE: Final = re.compile(r"[a-z0-9.-]+\.amazonaws\.com(?:\.cn)?")
_VERSIONS: Final = ("2008-10-17", "2012-10-17")

_OTHERS: Final = tuple(name.lower() for name in OTHER_S3_ACTIONS)
_BUCKET_NAMES: Final = (*(action.value.lower() for action in S3_ACTIONS - OBJECT_ACTIONS), *_OTHERS)
_OBJECT_NAMES: Final = (*(action.value.lower() for action in OBJECT_ACTIONS), *_OTHERS)


class Effect(enum.Enum):
    """What a policy says of one request."""

    ALLOW = "Allow"
    DENY = "Deny"
    NONE = "nothing"


class Caller(Frozen, frozen=True):
    """Who asks: canonical id and name, both empty for anonymous."""

    id: str = ""
    name: str = ""


class Principals(Frozen, frozen=True):
    """Whom a statement is about.  `users` are (account, name): either may be empty, not both."""

    everyone: bool = False
    users: tuple[tuple[str, str], ...] = ()

    def have(self, caller: Caller) -> bool:
        """Whether the caller is one of them.  Everyone includes the anonymous."""
        if self.everyone:
            return True
        return bool(caller.id) and any(
            (not account or account == caller.id) and (not name or name in (caller.name, caller.id))
            for account, name in self.users
        )


class Statement(Frozen, frozen=True):
    """One of a policy's sentences.  `actions` are in lower case; `resources` are without `arn:aws:s3:::`."""

    allow: bool
    principals: Principals
    not_principals: bool
    actions: tuple[str, ...]
    not_actions: bool
    resources: tuple[Pattern, ...]
    not_resources: bool
    conditions: tuple[Condition, ...]

    def applies(self, caller: Caller, action: str, resource: str, values: Values) -> bool:
        """Whether the request is one that this statement is about."""
        return (
            self.principals.have(caller) != self.not_principals
            and any(matches(pattern, action) for pattern in self.actions) != self.not_actions
            and self._names(resource, values) != self.not_resources
            and hold(self.conditions, values)
        )

    def _names(self, resource: str, values: Values) -> bool:
        for pattern in self.resources:
            text = pattern.expand(values)
            if text is not None and matches(text, resource):
                return True
        return False


class Policy(Frozen, frozen=True):
    """A whole document, understood."""

    statements: tuple[Statement, ...]

    def evaluate(self, caller: Caller, action: str, resource: str, values: Values) -> Effect:
        """`action` as IAM writes it; `resource` is `bucket` or `bucket/key`; `values` the request's condition keys."""
        action = action.lower()
        found = Effect.NONE
        for statement in self.statements:
            if (statement.allow and found is Effect.ALLOW) or not statement.applies(caller, action, resource, values):
                continue
            if not statement.allow:
                return Effect.DENY
            found = Effect.ALLOW
        return found

    @property
    def public(self) -> bool:
        """Whether it lets in everybody, as S3 understands it: some statement allows everyone, and no condition of it
        narrows that to fixed sources."""
        return any(
            statement.allow
            and (statement.principals.everyone or statement.not_principals)
            and not any(map(_narrows, statement.conditions))
            for statement in self.statements
        )


def malformed(message: str) -> StoreError:
    """S3's MalformedPolicy."""
    return StoreError(Code.MALFORMED_POLICY, message)


@functools.lru_cache(maxsize=256)  # of 20 KiB at most each, and some ten times that when understood
def parse(body: bytes) -> Policy:
    """A stored document.  The same bytes give the same value.  Raises StoreError MALFORMED_POLICY."""
    return read(body)


def read(body: bytes) -> Policy:
    """A document that nobody has stored yet, hence not remembered.  Raises StoreError MALFORMED_POLICY."""
    if len(body) > POLICY_MAX:
        raise malformed(f"The policy is larger than {POLICY_MAX} bytes.")
    if body[:1] != b"{":
        raise malformed("Policies must be valid JSON and the first byte must be '{'")
    try:
        document = json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # also what is not UTF-8, and a name that comes twice
        raise malformed("This policy contains invalid Json") from None
    _only(document, "Version", "Id", "Statement")
    version = document.get("Version", _VERSIONS[0])
    if version not in _VERSIONS:
        raise malformed("The policy must contain a valid version string")
    if not isinstance(document.get("Id", ""), str):
        raise malformed("Invalid policy syntax.")
    if "Statement" not in document:
        raise malformed("Missing required field Statement")
    found = document["Statement"]
    rows = found if isinstance(found, list) else [found]
    if not rows:
        raise malformed("Could not parse the policy: Statement is empty!")
    sids = [row["Sid"] for row in rows if isinstance(row, dict) and isinstance(row.get("Sid"), str) and row["Sid"]]
    if len(sids) != len(set(sids)):
        raise malformed("Statement IDs (SID) in a single policy must be unique.")
    return Policy(tuple(_statement(row, variables=version == _VERSIONS[1]) for row in rows))


def check_resources(policy: Policy, bucket: str) -> None:
    """Every resource must be the bucket or in it, and every action denied apply to one of its statement's resources: a
    Deny that can deny nothing is a mistake.  (AWS refuses such an Allow too, which is harmless.)

    Raises StoreError MALFORMED_POLICY.
    """
    for statement in policy.statements:
        whole = part = False
        for pattern in statement.resources:
            text = "".join(STAR if isinstance(part_, Variable) else part_ for part_ in pattern.parts)
            name, slash, _ = text.partition("/")
            if not matches(name, bucket) and not (STAR in name and _reaches(name, bucket)):
                raise malformed("Policy has invalid resource")
            part = part or bool(slash) or STAR in name
            whole = whole or matches(text, bucket)
        if statement.allow or statement.not_actions or statement.not_resources:
            continue
        for action in statement.actions:
            on_bucket = any(matches(action, name) for name in _BUCKET_NAMES)
            on_object = any(matches(action, name) for name in _OBJECT_NAMES)
            if not ((on_bucket and whole) or (on_object and part)):
                raise malformed("Action does not apply to any resource(s) in statement")


def _reaches(name: str, bucket: str) -> bool:
    """Whether a name that ends within a star reaches over the slash: `buck*ject` of `bucket/object`."""
    return matches(name.partition(STAR)[0] + STAR, bucket)


# ---------------------------------------------------------------- the document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _only(element: dict[str, Any], *names: str) -> None:
    for name in element:
        if name not in names:
            raise malformed(f"Unknown field {name}")


def _statement(row: object, *, variables: bool) -> Statement:
    if not isinstance(row, dict):
        raise malformed("Invalid policy syntax.")
    _only(row, "Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource",
          "Condition")  # fmt: skip
    if not isinstance(row.get("Sid", ""), str):
        raise malformed("Invalid policy syntax.")
    effect = _needed(row, "Effect")
    if effect not in ("Allow", "Deny"):
        raise malformed(f"Invalid effect: {effect}")
    who, not_who = _either(row, "Principal")
    if not_who and effect == "Allow":
        raise malformed("Allow with NotPrincipal is not allowed.")
    actions, not_actions = _either(row, "Action")
    resources, not_resources = _either(row, "Resource")
    try:
        conditions = parse_conditions(row.get("Condition", {}), variables=variables)
    except BadCondition as error:
        raise malformed(str(error)) from error
    return Statement(
        allow=effect == "Allow",
        principals=_principals(who),
        not_principals=not_who,
        actions=tuple(map(_action, _texts(actions, "Policy has invalid action"))),
        not_actions=not_actions,
        resources=tuple(_resource(text, variables) for text in _texts(resources, "Policy has invalid resource")),
        not_resources=not_resources,
        conditions=conditions,
    )


def _needed(row: dict[str, Any], name: str) -> Any:
    if name not in row:
        raise malformed(f"Missing required field {name}")
    return row[name]


def _either(row: dict[str, Any], name: str) -> tuple[Any, bool]:
    """The element or its negation, and whether it was the negation."""
    if name in row and "Not" + name in row:
        raise malformed(f"Statement/policy already has instance of {name}")
    if "Not" + name in row:
        return row["Not" + name], True
    return _needed(row, name), False


def _texts(value: object, message: str) -> list[str]:
    values = value if isinstance(value, list) else [value]
    texts = [text for text in values if isinstance(text, str) and text]
    if not texts or len(texts) < len(values):
        raise malformed(message)
    return texts


def _action(text: str) -> str:
    """A pattern that names at least one action of S3."""
    pattern = "s3:*" if text == "*" else text.lower()
    marked = pattern.replace("*", STAR).replace("?", ANY)
    if not pattern.startswith("s3:") or not any(matches(marked, name) for name in (*_BUCKET_NAMES, *_OBJECT_NAMES)):
        raise malformed("Policy has invalid action")
    return marked


def _resource(text: str, variables: bool) -> Pattern:
    if text == "*":
        text = _ARN + "*"
    if not text.startswith(_ARN) or len(text) == len(_ARN):
        raise malformed("Policy has invalid resource")
    try:
        return compile_pattern(text[len(_ARN) :], wildcards=True, variables=variables)
    except BadPattern as error:
        raise malformed("Policy has invalid resource") from error


def _principals(value: object) -> Principals:
    if value == "*":
        return Principals(everyone=True)
    if not isinstance(value, dict) or not value:
        raise malformed("Invalid principal in policy")
    everyone, users = False, []
    for kind, given in value.items():
        for text in _texts(given, "Invalid principal in policy"):
            if kind == "AWS":
                if text == "*":
                    everyone = True
                else:
                    users.append(_user(text))
            elif kind == "CanonicalUser":
                users.append((text, ""))
            elif kind != "Service" or not _SERVICE.fullmatch(text):  # services of AWS's never call here
                raise malformed("Invalid principal in policy")
    return Principals(everyone, tuple(users))


def _user(text: str) -> tuple[str, str]:
    """(account, name) of an ARN, or of an account's id alone."""
    if ":" not in text and not set(text) & set("*?/"):
        return text, ""
    arn = _PRINCIPAL.fullmatch(text)
    if arn is None or (not arn[1] and arn[2] == "root"):
        raise malformed("Invalid principal in policy")
    return arn[1], "" if arn[2] == "root" else arn[2].rpartition("/")[2]


# ---------------------------------------------------------------- public


_FIXING: Final = frozenset(
    {
        "aws:sourcearn", "aws:sourcevpc", "aws:sourcevpce", "aws:sourceowner", "aws:sourceaccount", "aws:userid",
        "aws:principalaccount", "aws:principalarn", "aws:principalorgid", "aws:principalorgpaths",
        "s3:x-amz-server-side-encryption-aws-kms-key-id", "s3:dataaccesspointarn", "s3:dataaccesspointaccount",
        "aws:sourcevpcarn", "aws:vpceaccount", "aws:vpceorgid", "aws:vpceorgpaths", "aws:resourceorgid",
    }
)  # fmt: skip
_EQUALITIES: Final = frozenset({"StringEquals", "StringEqualsIgnoreCase", "StringLike", "ArnLike"})
_WIDEST: Final = {4: 8, 6: 32}  # shortest prefixes of a network that is not "everywhere"


def _narrows(condition: Condition) -> bool:
    """Whether it lets in only fixed sources: no wildcard, no variable, no network of half the world."""
    if condition.negated or condition.if_exists or condition.every:
        return False
    if condition.kind == "IpAddress":
        return condition.key in ("aws:sourceip", "aws:vpcsourceip") and all(
            isinstance(network, ipaddress.IPv4Network | ipaddress.IPv6Network)
            and network.prefixlen >= _WIDEST[network.version]
            for network in condition.values
        )
    return (
        condition.key in _FIXING
        and condition.kind in _EQUALITIES
        and all(isinstance(pattern, Pattern) and pattern.fixed for pattern in condition.values)
    )
