"""Wildcards and variables of a policy's texts."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.access.patterns import BadPattern, compile_pattern, matches

VALUES = {"aws:username": ("anna",), "aws:referer": ("*",), "s3:requestobjecttagkeys": ("a", "b")}


def expand(text: str) -> str | None:
    return compile_pattern(text, wildcards=True, variables=True).expand(VALUES.get)


def test_patterns_match_what_they_say() -> None:
    rows = [
        ("", "", True), ("", "a", False), ("a", "a", True), ("a", "A", False), ("*", "", True), ("*", "a/b", True),
        ("?", "", False), ("?", "/", True), ("a*c", "ac", True), ("a*c", "abbc", True), ("a*c", "abcd", False),
        ("a*b*c", "a-b-c", True), ("a*b*c", "a-c-b", False), ("*?*", "", False), ("*?*", "x", True),
        ("a?*b", "ab", False), ("a?*b", "axb", True), ("**", "anything", True), ("aa*aa", "aaa", False),
        ("*.jpg", "x.jpg", True), ("*.jpg", "x.jpg.png", False), ("x?z*", "xyz", True),
        ("home/${aws:username}/*", "home/anna/1", True), ("home/${aws:username}/*", "home/bert/1", False),
        ("${aws:referer}", "anything", False), ("${aws:referer}", "*", True),  # what a client says is no wildcard
        ("${*}", "*", True), ("${*}", "x", False), ("${?}x", "?x", True),
        ("${$}{aws:username}", "${aws:username}", True),
        ("${aws:userid, 'none'}", "none", True), ("${aws:username, 'none'}", "anna", True), ("x$y", "x$y", True),
    ]  # fmt: skip
    wrong = [(text, subject) for text, subject, wanted in rows if matches(expand(text) or "", subject) != wanted]
    assert not wrong


def test_a_variable_without_one_value_equals_nothing() -> None:
    assert expand("${aws:userid}") is None
    assert expand("${s3:RequestObjectTagKeys}") is None


def test_an_older_version_of_the_language_has_no_variables() -> None:
    pattern = compile_pattern("${aws:username}", wildcards=True, variables=False)
    assert matches(pattern.expand(VALUES.get) or "", "${aws:username}")


@pytest.mark.parametrize("text", ["${", "${}", "${name}", "a${aws:username", "${aws:username,none}", "${aws: }"])
def test_a_variable_of_no_known_form_is_refused(text: str) -> None:
    with pytest.raises(BadPattern):
        expand(text)


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=10))
def test_matching_agrees_with_regular_expressions(pattern: str, text: str) -> None:
    expression = "".join({"*": ".*", "?": "."}.get(character, character) for character in pattern)
    assert matches(expand(pattern) or "", text) == bool(re.fullmatch(expression, text))


def test_no_pattern_takes_long() -> None:
    """Backtracking over many stars takes hours; this takes each piece at its first place."""
    began = time.process_time()
    for pattern in ("a*" * 500 + "b", "*a?" * 300 + "b", "?*" * 500):
        matches(expand(pattern) or "", "a" * 1024)
    assert time.process_time() - began < 1
