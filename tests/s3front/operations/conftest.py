"""A fresh box for every test: once over the store's double, once over the real store, so that the two cannot drift
apart.  What needs the double's own levers (damage, objects replaced under one's hands) asks for `double`."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from appliance.verbs import base, objects
from tests.s3front.box import Box
from tests.s3front.memory_store import NOW_NS


@pytest.fixture(params=["double", pytest.param("real", marks=pytest.mark.slow)])  # a pool each: a breath has no time
def box(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Box]:
    monkeypatch.setattr(base, "time", SimpleNamespace(time_ns=lambda: NOW_NS))
    monkeypatch.setattr(objects, "BUCKET_NAME_MIN", 1)  # the bucket of these tests is called b
    with Box(real=request.param == "real") as one:
        yield one


@pytest.fixture
def double() -> Box:
    return Box()
