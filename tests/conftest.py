"""What every test shares: one Hypothesis profile, one order of tasks, and an environment without the machine's own
settings."""

from __future__ import annotations

import os
from typing import Any, Final

import hypothesis
import pytest
import trio

from tests.effort import USUAL

# No deadline: on shared cores the time of one example says nothing.  Failures print what reproduces them.  CI draws the
# same examples each time, so that it tells of the change that it is asked about; who works here draws others (quick),
# and many others at leisure (long).
hypothesis.settings.register_profile("tierce", deadline=None, print_blob=True, max_examples=USUAL, derandomize=True)
hypothesis.settings.register_profile("quick", deadline=None, print_blob=True, max_examples=10, database=None)
hypothesis.settings.register_profile("long", deadline=None, print_blob=True, max_examples=2000)
PROFILE: Final = os.environ.get("TIERCE_TEST_PROFILE", "tierce")
hypothesis.settings.load_profile(PROFILE)


@pytest.fixture(autouse=True)
def _same_schedule() -> None:
    """In CI trio's tasks take turns as they did the last time, where no thread decides: as with the examples above."""
    if PROFILE == "tierce":
        run: Any = trio._core._run
        run._ALLOW_DETERMINISTIC_SCHEDULING = True
        run._r.seed(0)


@pytest.fixture(autouse=True)
def _own_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's TIERCE_* variables configure their daemon, not the tests."""
    for name in list(os.environ):
        if name.startswith("TIERCE_") and not name.startswith(("TIERCE_ALLOW_", "TIERCE_TEST_")):
            monkeypatch.delenv(name)
