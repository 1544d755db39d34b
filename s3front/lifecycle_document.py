"""A bucket's lifecycle configuration as AWS writes it: XML to rules, and back (pure).

Unknown elements are refused with the whole document: a typo in a rule that deletes must not pass.  Both of AWS's forms
are read and given back as they came: `Prefix` in the rule, or `Filter` with one condition or an `And` of several.
Several conditions in a Filter without And are taken for an And (AWS refuses them): what they name is narrower, so
nothing is deleted that one of them would have spared.

Source: Amazon S3 API Reference, PutBucketLifecycleConfiguration.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Final

from appliance.lifecycle import DAY, Filter, Rule, RuleSet, Transition
from appliance.limits import KEY_LENGTH_MAX, KIB
from s3front import tagging, xml
from s3front.dates import iso_date
from s3front.errors import S3Error, invalid_argument
from s3front.xml import Element

RULES_MAX: Final = 1000
DOCUMENT_MAX: Final = 512 * KIB
ID_MAX: Final = 255
DAYS_MAX: Final = 2**31 - 1
NEWER_MAX: Final = 100  # AWS's bound
SIZE_MAX: Final = 2**63 - 1

MINIMUM: Final = b"x-amz-transition-default-minimum-object-size"
MINIMA: Final = ("all_storage_classes_128K", "varies_by_storage_class")
_CLASSES: Final = ("STANDARD_IA", "ONEZONE_IA", "INTELLIGENT_TIERING", "GLACIER_IR", "GLACIER", "DEEP_ARCHIVE")
_CONDITIONS: Final = ("Prefix", "Tag", "ObjectSizeGreaterThan", "ObjectSizeLessThan")


def parse(document: bytes, new_id: Callable[[], str], minimum: str = MINIMA[0]) -> RuleSet:
    """The rules of a LifecycleConfiguration; a rule without ID gets one from `new_id`.

    Raises MalformedXML (what the schema forbids), InvalidArgument (a value out of its bounds, two rules of one ID),
    InvalidRequest (a combination that AWS refuses), InvalidTag.
    """
    tree = xml.parse(document, "LifecycleConfiguration", DOCUMENT_MAX).only("Rule")
    if not 1 <= len(tree.children) <= RULES_MAX:
        raise xml.malformed(f"There must be between 1 and {RULES_MAX} rules.")
    rules = tuple(_rule(child, new_id) for child in tree.children)
    if len({rule.id for rule in rules}) < len(rules):
        raise invalid_argument("Rule ID must be unique. Found same ID for more than one rule.")
    return RuleSet(rules, minimum)


def document(rules: RuleSet) -> bytes:
    """The LifecycleConfiguration of the rules."""
    return xml.document("LifecycleConfiguration", "".join(map(_written, rules.rules)))


# ---------------------------------------------------------------------------------------------------------- reading
def _rule(child: Element, new_id: Callable[[], str]) -> Rule:
    child.only(
        "ID", "Prefix", "Filter", "Status", "Expiration", "NoncurrentVersionExpiration", "Transition",
        "NoncurrentVersionTransition", "AbortIncompleteMultipartUpload",
    )  # fmt: skip
    number = child.get("ID") or new_id()
    if len(number) > ID_MAX:
        raise invalid_argument(f"ID length should not exceed allowed limit of {ID_MAX}", "ID", number)
    if not number.isprintable():
        raise invalid_argument("ID must be printable", "ID", number)
    status = child.need("Status")
    if status not in ("Enabled", "Disabled"):
        raise xml.malformed("Status must be Enabled or Disabled.")
    days, date, marker = _expiration(_one(child, "Expiration"))
    noncurrent_days, newer = _noncurrent(_one(child, "NoncurrentVersionExpiration"))
    abort = _one(child, "AbortIncompleteMultipartUpload")
    rule = Rule(
        id=number,
        enabled=status == "Enabled",
        filter=_filter(child),
        days=days,
        date=date,
        expired_marker=marker,
        noncurrent_days=noncurrent_days,
        noncurrent_newer=newer,
        abort_days=None if abort is None else _positive(abort.only("DaysAfterInitiation"), "DaysAfterInitiation"),
        transitions=tuple(map(_transition, child.all("Transition"))),
        noncurrent_transitions=tuple(map(_noncurrent_transition, child.all("NoncurrentVersionTransition"))),
    )
    _check(rule)
    return rule


def _check(rule: Rule) -> None:
    """What AWS refuses about combinations."""
    actions = (rule.days, rule.date, rule.expired_marker, rule.noncurrent_days, rule.abort_days)
    if all(action is None for action in actions) and not rule.transitions and not rule.noncurrent_transitions:
        raise S3Error("InvalidRequest", "At least one action needs to be specified in a rule.")
    if rule.filter.tags and (rule.abort_days is not None or rule.expired_marker is not None):
        what = "AbortIncompleteMultipartUpload" if rule.abort_days is not None else "ExpiredObjectDeleteMarker"
        raise S3Error("InvalidRequest", f"{what} cannot be specified with Tags.")
    larger, smaller = rule.filter.larger_than, rule.filter.smaller_than
    if rule.abort_days is not None and (larger is not None or smaller is not None):
        raise S3Error("InvalidRequest", "AbortIncompleteMultipartUpload cannot be specified with Object Size.")
    if larger is not None and smaller is not None and larger >= smaller:
        raise S3Error("InvalidRequest", "The maximum object size must be greater than the minimum object size.")
    for transition in rule.transitions:
        if (rule.date is not None and transition.days is not None) or (
            rule.days is not None and transition.date is not None
        ):
            raise S3Error(
                "InvalidRequest",
                "Found mixed 'Date' and 'Days' based Expiration and Transition actions in lifecycle rule.",
            )
        if rule.days is not None and transition.days is not None and transition.days >= rule.days:
            raise invalid_argument("'Days' in the Expiration action must be greater than 'Days' in a Transition action")


def _filter(rule: Element) -> Filter:
    chosen = _one(rule, "Filter")
    prefix = rule.get("Prefix")
    if (chosen is None) == (prefix is None):
        raise xml.malformed("A rule needs either Filter or Prefix.")
    if chosen is None:
        return Filter(prefix=_prefix(prefix), form="prefix")
    chosen.only(*_CONDITIONS, "And")
    nested = _one(chosen, "And")
    places = [chosen] if nested is None else [chosen, nested.only(*_CONDITIONS)]
    if nested is not None and not nested.children:
        raise xml.malformed("And is empty.")
    starts = [_prefix(text) for place in places if (text := place.get("Prefix")) is not None]
    tags = [tag for place in places for tag in place.all("Tag")]
    larger = [_number(place, "ObjectSizeGreaterThan", 0, SIZE_MAX) for place in places]
    smaller = [_number(place, "ObjectSizeLessThan", 1, SIZE_MAX) for place in places]
    # the longer prefix says both, if it begins with the other; else nothing can have both and the rule names nothing
    start = max(starts, key=len, default=None)
    if start is not None and not all(start.startswith(other) for other in starts):
        raise xml.malformed("The prefixes of a Filter exclude each other.")
    return Filter(
        prefix=start,
        tags=tuple(tagging.from_elements(tags, tagging.OBJECT_TAGS_MAX).items()),
        larger_than=max((one for one in larger if one is not None), default=None),
        smaller_than=min((one for one in smaller if one is not None), default=None),
        form="filter" if nested is None and len(chosen.children) <= 1 else "and",
    )


def _prefix(text: str | None) -> str:
    assert text is not None
    if len(text.encode()) > KEY_LENGTH_MAX:
        raise S3Error("InvalidRequest", f"The maximum size of a prefix is {KEY_LENGTH_MAX}.")
    return text


def _expiration(child: Element | None) -> tuple[int | None, int | None, bool | None]:
    if child is None:
        return None, None, None
    child.only("Days", "Date", "ExpiredObjectDeleteMarker")
    if len(child.children) != 1:
        raise xml.malformed("Expiration needs one of Days, Date and ExpiredObjectDeleteMarker.")
    marker = child.get("ExpiredObjectDeleteMarker")
    if marker is not None and marker not in ("true", "false"):
        raise xml.malformed("ExpiredObjectDeleteMarker must be true or false.")
    days = _positive(child, "Days") if child.get("Days") is not None else None
    return days, _date(child), None if marker is None else marker == "true"


def _noncurrent(child: Element | None) -> tuple[int | None, int | None]:
    if child is None:
        return None, None
    child.only("NoncurrentDays", "NewerNoncurrentVersions")
    return _positive(child, "NoncurrentDays"), _number(child, "NewerNoncurrentVersions", 1, NEWER_MAX)


def _transition(child: Element) -> Transition:
    child.only("Days", "Date", "StorageClass")
    days, date = _number(child, "Days", 0, DAYS_MAX), _date(child)
    if (days is None) == (date is None):
        raise xml.malformed("A Transition needs either Days or Date.")
    return Transition(_class(child), days, date)


def _noncurrent_transition(child: Element) -> Transition:
    child.only("NoncurrentDays", "NewerNoncurrentVersions", "StorageClass")
    days = _number(child, "NoncurrentDays", 0, DAYS_MAX)
    if days is None:
        raise xml.malformed("A NoncurrentVersionTransition needs NoncurrentDays.")
    return Transition(_class(child), days, newer=_number(child, "NewerNoncurrentVersions", 1, NEWER_MAX))


def _class(child: Element) -> str:
    name = child.need("StorageClass")
    if name not in _CLASSES:
        raise xml.malformed("The storage class is none that objects can be moved to.")
    return name


def _one(parent: Element, name: str) -> Element | None:
    found = parent.all(name)
    if len(found) > 1:
        raise xml.malformed(f"The element {name} must occur once.")
    return found[0] if found else None


def _number(child: Element, name: str, minimum: int, maximum: int) -> int | None:
    text = child.get(name)
    if text is None:
        return None
    text = text.strip()
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        raise xml.malformed(f"{name} is not a number.")
    if not minimum <= int(text) <= maximum:
        raise invalid_argument(f"'{name}' must be between {minimum} and {maximum}", name, text)
    return int(text)


def _positive(child: Element, name: str) -> int:
    text = child.need(name).strip()
    if text.lstrip("-0") == "" or text.startswith("-"):
        raise invalid_argument(f"'{name}' for {child.name} action must be a positive integer", name, text)
    number = _number(child, name, 1, DAYS_MAX)
    assert number is not None
    return number


def _date(child: Element) -> int | None:
    """Seconds of a Date, which must be a midnight in UTC."""
    text = child.get("Date")
    if text is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text.strip())
    except ValueError:
        raise xml.malformed("Date is not in ISO 8601.") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    try:
        second = int(moment.timestamp())
    except OverflowError:
        raise xml.malformed("Date is out of range.") from None
    if second % DAY or moment.microsecond:
        raise invalid_argument("'Date' must be at midnight GMT", "Date", text)
    return second


# ---------------------------------------------------------------------------------------------------------- writing
def _written(rule: Rule) -> str:
    expiration = ""
    if rule.days is not None:
        expiration = f"<Expiration><Days>{rule.days}</Days></Expiration>"
    elif rule.date is not None:
        expiration = f"<Expiration><Date>{iso_date(rule.date)}</Date></Expiration>"
    elif rule.expired_marker is not None:
        flag = "true" if rule.expired_marker else "false"
        expiration = f"<Expiration><ExpiredObjectDeleteMarker>{flag}</ExpiredObjectDeleteMarker></Expiration>"
    noncurrent = ""
    if rule.noncurrent_days is not None:
        inner = _leaf("NoncurrentDays", rule.noncurrent_days) + _leaf("NewerNoncurrentVersions", rule.noncurrent_newer)
        noncurrent = f"<NoncurrentVersionExpiration>{inner}</NoncurrentVersionExpiration>"
    abort = ""
    if rule.abort_days is not None:
        inner = _leaf("DaysAfterInitiation", rule.abort_days)
        abort = f"<AbortIncompleteMultipartUpload>{inner}</AbortIncompleteMultipartUpload>"
    return (
        f"<Rule>{xml.element('ID', rule.id)}{_written_filter(rule.filter)}"
        f"<Status>{'Enabled' if rule.enabled else 'Disabled'}</Status>{expiration}"
        f"{''.join(_written_transition(one, 'Transition', 'Days') for one in rule.transitions)}{noncurrent}"
        + "".join(
            _written_transition(one, "NoncurrentVersionTransition", "NoncurrentDays")
            for one in rule.noncurrent_transitions
        )
        + f"{abort}</Rule>"
    )


def _written_filter(filter: Filter) -> str:
    prefix = "" if filter.prefix is None else xml.element("Prefix", filter.prefix)
    if filter.form == "prefix":
        return prefix
    conditions = [prefix] if prefix else []
    conditions += [tagging.elements({key: value}) for key, value in filter.tags]
    for name, value in (
        ("ObjectSizeGreaterThan", filter.larger_than),
        ("ObjectSizeLessThan", filter.smaller_than),
    ):
        if value is not None:
            conditions.append(_leaf(name, value))
    joined = "".join(conditions)
    if filter.form == "and" or len(conditions) > 1:
        joined = f"<And>{joined}</And>"
    return f"<Filter>{joined}</Filter>"


def _written_transition(one: Transition, name: str, days: str) -> str:
    date = "" if one.date is None else f"<Date>{iso_date(one.date)}</Date>"
    return (
        f"<{name}>{date}{_leaf(days, one.days)}{_leaf('NewerNoncurrentVersions', one.newer)}"
        f"{xml.element('StorageClass', one.storage_class)}</{name}>"
    )


def _leaf(name: str, number: int | None) -> str:
    return "" if number is None else f"<{name}>{number}</{name}>"
