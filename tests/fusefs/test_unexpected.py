"""What is told of errors that nobody expects: each kind once, and again after an hour with how many there were."""

from __future__ import annotations

import errno

import pytest
import trio
from pyfuse3 import FUSEError

from appliance.errors import Code, StoreError
from fusefs.observed import Operation
from fusefs.unexpected import AGAIN, KINDS_MAX, Unexpected


def raised(error: Exception) -> Exception:
    """With a traceback."""
    try:
        raise error
    except type(error) as caught:
        return caught


def test_each_kind_is_logged_once_an_hour_and_all_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    unexpected, observed = Unexpected(lambda: now), Operation()
    for expected in (StoreError(Code.DAMAGED), OSError(), FUSEError(errno.EROFS), trio.ClosedResourceError()):
        unexpected.met("here", observed, expected)
    assert (observed.unexpected, caplog.records) == (0, [])
    for _ in range(5):
        for where in ("here", "there"):
            for bug in (raised(KeyError("a")), AssertionError()):
                unexpected.met(where, observed, bug)
    assert observed.unexpected == 20
    assert len(caplog.records) == 4
    assert "in raised" in caplog.text
    now = AGAIN
    unexpected.met("here", observed, AssertionError())
    assert "here met a bug and left it to the usual way; 4 more of this kind" in caplog.text
    assert len(caplog.records) == 5


def test_there_are_not_more_kinds_than_one_can_read(caplog: pytest.LogCaptureFixture) -> None:
    unexpected, observed = Unexpected(), Operation()
    for number in range(2 * KINDS_MAX):
        unexpected.met(str(number), observed, KeyError())
    assert len(caplog.records) == KINDS_MAX
    assert observed.unexpected == 2 * KINDS_MAX
