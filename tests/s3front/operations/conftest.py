"""A fresh box for every test."""

from __future__ import annotations

import pytest

from tests.s3front.box import Box


@pytest.fixture
def box() -> Box:
    return Box()
