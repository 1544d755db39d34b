"""Texts of a policy: wildcards and variables, and how they are matched (pure).

`*` stands for any characters, `?` for any one, `${name}` for a value of the request, `${name, 'default'}` for one that
may be missing, and `${*}`, `${?}`, `${$}` for the characters themselves.  Once expanded, a wildcard is a character that
no text can contain (a lone surrogate), so that what a variable put in is never taken for one.  Matching goes over
the text once per piece between two stars: its time is bounded by the product of the lengths, whatever a policy says.

Source: AWS IAM User Guide, "IAM policy elements: Variables and tags".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from appliance.model import Frozen

Values = Callable[[str], Sequence[str] | None]
"""The request's values of a condition key, given in lower case; None for a key that the request does not have."""

STAR: Final = "\ud800"
ANY: Final = "\ud801"
_WILDCARDS: Final = {"*": STAR, "?": ANY}
_VARIABLE: Final = re.compile(r"\$\{([^}]*)\}")
_NAMED: Final = re.compile(r"\s*([A-Za-z0-9]+:[A-Za-z0-9/+=.@_-]+)\s*(?:,\s*'([^']*)'\s*)?")


class BadPattern(ValueError):
    """A variable that has no known form."""


class Variable(Frozen, frozen=True):
    """`name` in lower case; `default` None without one."""

    name: str
    default: str | None


class Pattern(Frozen, frozen=True):
    """A text of a policy.  `parts` are texts whose wildcards are marked, and variables."""

    parts: tuple[str | Variable, ...]

    def expand(self, values: Values) -> str | None:
        """With the request's values; None when one is missing or has several: then nothing equals the text."""
        if len(self.parts) == 1 and isinstance(self.parts[0], str):
            return self.parts[0]
        pieces = []
        for part in self.parts:
            if isinstance(part, str):
                pieces.append(part)
                continue
            found = values(part.name)
            if found is not None and len(found) == 1:
                pieces.append(found[0])
            elif found is None and part.default is not None:
                pieces.append(part.default)
            else:
                return None
        return "".join(pieces)

    @property
    def fixed(self) -> bool:
        """Without wildcards and variables: it stands for one text only."""
        return all(isinstance(part, str) and not wild(part) for part in self.parts)


def compile_pattern(text: str, *, wildcards: bool, variables: bool) -> Pattern:
    """`wildcards`: whether `*` and `?` are; `variables`: whether the policy's version has them.

    Raises BadPattern.
    """
    if not variables:
        return Pattern((_marked(text, wildcards),))
    parts: list[str | Variable] = []
    literal, end = "", 0
    for match in _VARIABLE.finditer(text):
        literal += _marked(text[end : match.start()], wildcards)
        end = match.end()
        name = match[1]
        if name in ("*", "?", "$"):
            literal += name
            continue
        named = _NAMED.fullmatch(name)
        if named is None:
            raise BadPattern(match[0])
        if literal:
            parts.append(literal)
        parts.append(Variable(named[1].lower(), named[2]))
        literal = ""
    literal += _marked(text[end:], wildcards)
    if "${" in text[end:]:
        raise BadPattern(text[end:])
    if literal or not parts:
        parts.append(literal)
    return Pattern(tuple(parts))


def _marked(text: str, wildcards: bool) -> str:
    return re.sub(r"[*?]", lambda match: _WILDCARDS[match[0]], text) if wildcards else text


def wild(expanded: str) -> bool:
    """Whether an expanded text has wildcards."""
    return STAR in expanded or ANY in expanded


def matches(expanded: str, text: str) -> bool:
    """Whether the whole of `text` is what an expanded pattern says."""
    if STAR not in expanded:
        return len(expanded) == len(text) and _at(expanded, text, 0)
    first, *middle, last = expanded.split(STAR)
    if len(first) + len(last) > len(text) or not _at(first, text, 0) or not _at(last, text, len(text) - len(last)):
        return False
    position, end = len(first), len(text) - len(last)
    for piece in middle:  # each at its first place: a later one could only leave less for the others
        position = _find(piece, text, position, end)
        if position < 0:
            return False
        position += len(piece)
    return True


def _at(piece: str, text: str, position: int) -> bool:
    if ANY not in piece:
        return text.startswith(piece, position)
    return all(want in (ANY, got) for want, got in zip(piece, text[position : position + len(piece)], strict=True))


def _find(piece: str, text: str, start: int, end: int) -> int:
    if ANY not in piece:
        return text.find(piece, start, end)
    return next((place for place in range(start, end - len(piece) + 1) if _at(piece, text, place)), -1)
