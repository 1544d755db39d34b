"""A fresh box for every test: once over the store's double, once over the real store, so that the two cannot drift
apart.  What needs the double's own levers (damage, objects replaced under one's hands) asks for `double`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from appliance.verbs import base
from tests.s3front.box import Box
from tests.s3front.memory_store import NOW_NS


@pytest.fixture(params=["double", "real"])
def box(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setattr(base, "NOW_NAME", lambda: NOW_NS)
    with Box(real=request.param == "real") as one:
        yield one


@pytest.fixture
def double() -> Box:
    return Box()
