"""Lifecycle rules: what is due when, by a table and against a plain reading of the same rules."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance import lifecycle
from appliance.lifecycle import DAY, Act, Filter, Rule, RuleSet, Transition, Version
from tests.rows import rows

NS = 10**9
MIDNIGHT = 20_000 * DAY * NS  # 2024-10-04T00:00:00Z
NOON = MIDNIGHT + DAY * NS // 2


def rule(**how: object) -> Rule:
    return Rule(**({"id": "r", "enabled": True} | how))  # type: ignore[arg-type]


def version(**how: object) -> Version:
    return Version(**({"key": b"logs/a", "size": 100, "tags": {}, "written_ns": NOON} | how))  # type: ignore[arg-type]


def days(number: float) -> int:
    return int(number * DAY * NS)


@rows(
    "start,number,end",
    [
        (NOON, 1, MIDNIGHT + days(2)),  # rounded up to the next midnight
        (MIDNIGHT, 1, MIDNIGHT + days(1)),
        (MIDNIGHT + 1, 1, MIDNIGHT + days(2)),
        (NOON, 0, MIDNIGHT + days(1)),
        (NOON, 30, MIDNIGHT + days(31)),
    ],
)
def test_days_end_at_midnight(start: int, number: int, end: int) -> None:
    assert lifecycle.after_days(start, number) == end
    assert lifecycle.after_days(start, number, 10.0) == start + number * 10 * NS


LATER = MIDNIGHT + days(2)  # a day after NOON, as days are counted
CURRENT, MARKER, ALONE = version(), version(marker=True, alone=False), version(marker=True)
OLD = version(noncurrent_ns=NOON, alone=False, newer=2)


@rows(
    "what,one,now,expected",
    [
        (rule(days=1), CURRENT, LATER, Act.EXPIRE),
        (rule(days=1), CURRENT, LATER - 1, Act.NOTHING),
        (rule(days=1, enabled=False), CURRENT, LATER, Act.NOTHING),
        (rule(date=20_001 * DAY), CURRENT, MIDNIGHT + days(1), Act.EXPIRE),
        (rule(date=20_001 * DAY), CURRENT, MIDNIGHT + days(1) - 1, Act.NOTHING),
        (rule(days=1, filter=Filter(prefix="logs/")), CURRENT, LATER, Act.EXPIRE),
        (rule(days=1, filter=Filter(prefix="other/")), CURRENT, LATER, Act.NOTHING),
        (rule(days=1, filter=Filter(larger_than=99)), CURRENT, LATER, Act.EXPIRE),
        (rule(days=1, filter=Filter(larger_than=100)), CURRENT, LATER, Act.NOTHING),
        (rule(days=1, filter=Filter(smaller_than=101)), CURRENT, LATER, Act.EXPIRE),
        (rule(days=1, filter=Filter(smaller_than=100)), CURRENT, LATER, Act.NOTHING),
        (rule(days=1, filter=Filter(tags=(("a", "b"),))), CURRENT, LATER, Act.NOTHING),
        (rule(days=1, filter=Filter(tags=(("a", "b"),))), version(tags={"a": "c"}), LATER, Act.NOTHING),
        (rule(days=1, filter=Filter(tags=(("a", "b"),))), version(tags={"a": "b", "c": ""}), LATER, Act.EXPIRE),
        (rule(days=1, filter=Filter(tags=(("a", "b"), ("c", "d")))), version(tags={"a": "b"}), LATER, Act.NOTHING),
        (rule(transitions=(Transition("GLACIER", 1),)), CURRENT, LATER, Act.NOTHING),
        # versions
        (rule(days=1), OLD, LATER, Act.NOTHING),
        (rule(noncurrent_days=1), OLD, LATER, Act.REMOVE),
        (rule(noncurrent_days=1), OLD, LATER - 1, Act.NOTHING),
        (rule(noncurrent_days=1), CURRENT, LATER, Act.NOTHING),
        (rule(noncurrent_days=1, noncurrent_newer=2), OLD, LATER, Act.REMOVE),
        (rule(noncurrent_days=1, noncurrent_newer=3), OLD, LATER, Act.NOTHING),
        (rule(noncurrent_days=1), OLD._replace(written_ns=0, noncurrent_ns=LATER), LATER, Act.NOTHING),
        # delete markers
        (rule(expired_marker=True), ALONE, NOON, Act.REMOVE),
        (rule(expired_marker=True), MARKER, LATER, Act.NOTHING),
        (rule(expired_marker=True), CURRENT, LATER, Act.NOTHING),
        (rule(expired_marker=False), ALONE, LATER, Act.NOTHING),
        (rule(days=1), ALONE, LATER, Act.REMOVE),
        (rule(days=1), ALONE, LATER - 1, Act.NOTHING),
        (rule(days=1), MARKER, LATER, Act.NOTHING),
        (rule(days=1, filter=Filter(smaller_than=9)), ALONE, LATER, Act.NOTHING),
        (rule(noncurrent_days=1), MARKER._replace(noncurrent_ns=NOON), LATER, Act.REMOVE),
    ],
)
def test_what_is_due(what: Rule, one: Version, now: int, expected: Act) -> None:
    assert lifecycle.due(RuleSet((what,)), one, now) is expected


def test_any_rule_is_enough_and_the_earliest_is_told() -> None:
    rules = RuleSet((rule(id="a", days=30), rule(id="b", days=1), rule(id="c", days=9, enabled=False)))
    assert lifecycle.due(rules, CURRENT, LATER) is Act.EXPIRE
    assert lifecycle.expiration(rules, CURRENT) == (LATER // NS, "b")
    assert lifecycle.expiration(RuleSet((rule(noncurrent_days=1),)), CURRENT) is None


def test_uploads() -> None:
    rules = RuleSet((rule(abort_days=1, filter=Filter(prefix="logs/")),))
    assert lifecycle.aborts(rules, b"logs/a", NOON, LATER)
    assert not lifecycle.aborts(rules, b"logs/a", NOON, LATER - 1)
    assert not lifecycle.aborts(rules, b"other", NOON, LATER)
    assert not lifecycle.aborts(RuleSet((rule(days=1),)), b"logs/a", NOON, LATER)


filters = st.builds(
    Filter,
    prefix=st.sampled_from([None, "", "a", "a/", "a/b", "b"]),
    tags=st.sampled_from([(), (("x", "1"),), (("x", "1"), ("y", "2"))]),
    larger_than=st.none() | st.integers(0, 5),
    smaller_than=st.none() | st.integers(1, 6),
)
rule_sets = st.lists(
    st.builds(
        Rule,
        id=st.text(max_size=3),
        enabled=st.booleans(),
        filter=filters,
        days=st.none() | st.integers(1, 3),
        noncurrent_days=st.none() | st.integers(1, 3),
        expired_marker=st.none() | st.booleans(),
    ),
    max_size=4,
).map(lambda found: RuleSet(tuple(found)))
versions = st.builds(
    Version,
    key=st.sampled_from([b"", b"a", b"a/", b"a/b/c", b"b", b"c"]),
    size=st.integers(0, 7),
    tags=st.sampled_from([{}, {"x": "1"}, {"x": "1", "y": "2"}, {"x": "2"}]),
    written_ns=st.integers(0, 3).map(days),
    marker=st.booleans(),
    alone=st.booleans(),
    noncurrent_ns=st.sampled_from([0, days(1), days(2)]),
    newer=st.integers(0, 3),
)


@given(rule_sets, versions, st.integers(0, 8).map(days))
def test_shortcuts_miss_nothing(rules: RuleSet, one: Version, now: int) -> None:
    """What is due lies under the prefixes to walk, and is due without tags as well; a stored set is the same set."""
    if lifecycle.due(rules, one, now) is not Act.NOTHING:
        assert any(one.key.startswith(prefix) for prefix in lifecycle.prefixes(rules))
        assert lifecycle.due(lifecycle.without_tags(rules), one, now) is not Act.NOTHING
        assert lifecycle.due(rules, one, now + days(1)) is not Act.NOTHING
    assert lifecycle.parse(lifecycle.encode(rules)) == rules
    walked = lifecycle.prefixes(rules)
    assert not any(a != b and a.startswith(b) for a in walked for b in walked)
