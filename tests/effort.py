"""How hard a property is tried: counts are written for CI, and follow the profile (quick: a sixth, long: 33 times)."""

from __future__ import annotations

from typing import Final

import hypothesis

USUAL: Final = 60
"""Examples of a property in CI, where it doesn't ask for its own number."""


def examples(count: int) -> int:
    """What `count` examples in CI are in the profile that is loaded; at least one."""
    return max(count * hypothesis.settings().max_examples // USUAL, 1)
