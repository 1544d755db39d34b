"""What tests of the mount share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fusefs.scenes import Play, run, run_on_pool


@pytest.fixture(params=["dict", pytest.param("pool", marks=pytest.mark.slow)])  # a pool each: a breath has no time
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Play:
    """Plays a scene on either store."""
    if request.param == "dict":
        return run
    return lambda scene: run_on_pool(scene, tmp_path)
