"""What a bucket's lifecycle rules say about one object, one version or one upload at one moment (pure).

A rule set is a bucket's setting, kept as MessagePack; the S3 door turns AWS's XML into it and back.  `due` answers what
is to be done with a version now, `expiration` when the current object will go: both look at the same rules, so that
the header that a client sees and what the worker does cannot disagree.

Days count from the second of creation (of a version's becoming noncurrent) and end at the next midnight UTC, as in AWS.
A day may be made shorter for tests; such a day has no midnight.  Where several rules say something, the earliest wins:
every action here deletes.  A filter's conditions are all to be met.  Transitions are kept for whoever asked for them
and do nothing: a box has no storage classes that bytes could move to.

Source: Amazon S3 User Guide, "Lifecycle configuration elements", "Expiring objects".  Not known here: XML, clocks,
which store.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from appliance.errors import Code, StoreError

NS: Final = 1_000_000_000
DAY: Final = 86_400  # seconds of a real day


class Filter(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which objects a rule is about; sizes in bytes, both exclusive.  `form` is how the document said it."""

    prefix: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    larger_than: int | None = None
    smaller_than: int | None = None
    form: str = "filter"  # or "and", or "prefix": AWS's older form without Filter

    @property
    def start(self) -> bytes:
        """What keys begin with."""
        return (self.prefix or "").encode()


class Transition(msgspec.Struct, frozen=True, omit_defaults=True):
    """Kept and shown, nothing more."""

    storage_class: str
    days: int | None = None
    date: int | None = None  # seconds since the epoch
    newer: int | None = None


class Rule(msgspec.Struct, frozen=True, omit_defaults=True):
    """One rule.  Days count days; `date` is a midnight in seconds since the epoch; None is unsaid."""

    id: str
    enabled: bool
    filter: Filter = Filter()
    days: int | None = None
    date: int | None = None
    expired_marker: bool | None = None
    noncurrent_days: int | None = None
    noncurrent_newer: int | None = None  # that many of the newest noncurrent versions stay
    abort_days: int | None = None
    transitions: tuple[Transition, ...] = ()
    noncurrent_transitions: tuple[Transition, ...] = ()


class RuleSet(msgspec.Struct, frozen=True, omit_defaults=True):
    """A bucket's rules.  `transition_minimum` is AWS's TransitionDefaultMinimumObjectSize: kept and shown."""

    rules: tuple[Rule, ...]
    transition_minimum: str = "all_storage_classes_128K"


class Version(NamedTuple):
    """What rules look at.  `noncurrent_ns` is when a version ceased to be the current one (0: it is), `newer` how many
    noncurrent versions of the key are newer; `alone`: no other version of the key exists."""

    key: bytes
    size: int
    tags: Mapping[str, str]
    written_ns: int
    marker: bool = False
    alone: bool = True
    noncurrent_ns: int = 0
    newer: int = 0


class Act(enum.Enum):
    """What is to be done."""

    NOTHING = "nothing"
    EXPIRE = "delete the current object: a versioned bucket gets a delete marker"
    REMOVE = "remove this version or marker for good"


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(RuleSet)


def encode(rules: RuleSet) -> bytes:
    """The setting's body."""
    return _encoder.encode(rules)


@functools.lru_cache(maxsize=1024)
def parse(body: bytes) -> RuleSet:
    """The reverse.  Raises DAMAGED: rules that cannot be read delete nothing."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreError(Code.DAMAGED, "the bucket's lifecycle cannot be read", cause=str(error)) from error


def due(rules: RuleSet, version: Version, now_ns: int, day: float = DAY) -> Act:
    """What the rules want done with this version now.  `day` in seconds."""
    for rule in rules.rules:
        if rule.enabled and _acts(rule, version, now_ns, day) and meets(rule.filter, version):
            return Act.REMOVE if version.noncurrent_ns or version.marker else Act.EXPIRE
    return Act.NOTHING


def _acts(rule: Rule, version: Version, now_ns: int, day: float) -> bool:
    """Whether the rule's time has come, its filter aside."""
    if version.noncurrent_ns:
        days = rule.noncurrent_days
        return (
            days is not None
            and version.newer >= (rule.noncurrent_newer or 0)
            and now_ns >= after_days(version.noncurrent_ns, days, day)
        )
    if version.marker and not version.alone:
        return False  # the current delete marker hides versions: without it they would come back
    if version.marker and rule.expired_marker:
        return True
    moment = _moment(rule, version.written_ns, day)
    return moment is not None and now_ns >= moment


def _moment(rule: Rule, written_ns: int, day: float) -> int | None:
    """When the rule's Expiration comes for something written then; None if it has none."""
    if rule.days is not None:
        return after_days(written_ns, rule.days, day)
    return None if rule.date is None else rule.date * NS


def expiration(rules: RuleSet, version: Version) -> tuple[int, str] | None:
    """When a current object will expire, in seconds, and the rule that says so; None if none does.

    In real days whatever a test's day lasts: it is told to clients.
    """
    found: tuple[int, str] | None = None
    for rule in rules.rules:
        moment = _moment(rule, version.written_ns, DAY) if rule.enabled else None
        if moment is not None and (found is None or moment < found[0]) and meets(rule.filter, version):
            found = (moment, rule.id)
    return None if found is None else (found[0] // NS, found[1])


def aborts(rules: RuleSet, key: bytes, created_ns: int, now_ns: int, day: float = DAY) -> bool:
    """Whether a multipart upload begun then is to be aborted."""
    return any(
        rule.enabled
        and rule.abort_days is not None
        and now_ns >= after_days(created_ns, rule.abort_days, day)
        and key.startswith(rule.filter.start)
        for rule in rules.rules
    )


def meets(filter: Filter, version: Version) -> bool:
    """Whether the version is one of those that the filter names.  A delete marker has neither size nor tags."""
    if not version.key.startswith(filter.start):
        return False
    sized = filter.larger_than is not None or filter.smaller_than is not None
    if version.marker:
        return not sized and not filter.tags
    if filter.larger_than is not None and version.size <= filter.larger_than:
        return False
    if filter.smaller_than is not None and version.size >= filter.smaller_than:
        return False
    return all(version.tags.get(key) == value for key, value in filter.tags)


def after_days(start_ns: int, days: int, day: float = DAY) -> int:
    """The end of so many days, in nanoseconds since the epoch; real days end at midnight UTC."""
    if day != DAY:
        return start_ns + int(days * day * NS)
    end = start_ns + days * DAY * NS
    return -(-end // (DAY * NS)) * (DAY * NS)


# ------------------------------------------------------------------------------------------------- what to look at
def prefixes(rules: RuleSet) -> list[bytes]:
    """The fewest prefixes under which lie all versions that an enabled rule may delete."""
    wanted = sorted(
        {
            rule.filter.start
            for rule in rules.rules
            if rule.enabled
            and (rule.days, rule.date, rule.expired_marker, rule.noncurrent_days) != (None, None, None, None)
        }
    )
    return list(_outermost(wanted))


def _outermost(ordered: Iterable[bytes]) -> Iterable[bytes]:
    last: bytes | None = None
    for prefix in ordered:
        if last is None or not prefix.startswith(last):
            yield prefix
            last = prefix


@functools.lru_cache(maxsize=1024)
def without_tags(rules: RuleSet) -> RuleSet:
    """The same rules, asking for no tags: what they leave alone, the real ones leave alone too."""
    return msgspec.structs.replace(
        rules,
        rules=tuple(
            msgspec.structs.replace(rule, filter=msgspec.structs.replace(rule.filter, tags=())) for rule in rules.rules
        ),
    )


def looks_at_tags(rules: RuleSet) -> bool:
    """Whether tags decide anything: only then are they worth looking up."""
    return any(rule.enabled and rule.filter.tags for rule in rules.rules)


def aborts_any(rules: RuleSet) -> bool:
    """Whether a rule is about uploads."""
    return any(rule.enabled and rule.abort_days is not None for rule in rules.rules)
