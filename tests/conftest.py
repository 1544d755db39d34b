"""What every test shares: one Hypothesis profile, and an environment without the machine's own settings."""

from __future__ import annotations

import os

import hypothesis
import pytest

from tests.effort import USUAL

# No deadline: on shared cores the time of one example says nothing.  Failures print what reproduces them.  CI draws the
# same examples each time, so that it tells of the change that it is asked about; who works here draws others (quick),
# and many others at leisure (long).
hypothesis.settings.register_profile("tierce", deadline=None, print_blob=True, max_examples=USUAL, derandomize=True)
hypothesis.settings.register_profile("quick", deadline=None, print_blob=True, max_examples=10, database=None)
hypothesis.settings.register_profile("long", deadline=None, print_blob=True, max_examples=2000)
hypothesis.settings.load_profile(os.environ.get("TIERCE_TEST_PROFILE", "tierce"))


@pytest.fixture(autouse=True)
def _own_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's TIERCE_* variables configure their daemon, not the tests."""
    for name in list(os.environ):
        if name.startswith("TIERCE_") and not name.startswith(("TIERCE_ALLOW_", "TIERCE_TEST_")):
            monkeypatch.delenv(name)
