"""Logs: readable by people, journals and machines, and silent about secrets."""

from __future__ import annotations

import io
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import logs

log = logging.getLogger("tierce.test")


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def logged(form: str, level: str = "info") -> io.StringIO:
    """A stream that the log goes to."""
    stream = io.StringIO()
    logs.configure(form, level, stream)
    return stream


def test_text_has_facts_that_cannot_be_mistaken() -> None:
    stream = logged("text")
    log.info("stored", extra={"facts": {"key": "a b", "size": 3, "note": 'x="1"\nlevel=forged', "empty": ""}})
    line = stream.getvalue()
    assert line.count("\n") == 1, "a value never makes a second line"
    assert line.endswith('INFO    tierce.test: stored key="a b" size=3 note="x=\\"1\\"\\nlevel=forged" empty=""\n')


def test_json_is_one_object_a_line() -> None:
    stream = logged("json")
    log.warning("device %s", "slow", extra={"facts": {"path": "/dev/a", "message": "not this"}})
    entry = json.loads(stream.getvalue())
    assert (entry["level"], entry["message"], entry["path"]) == ("warning", "device slow", "/dev/a")
    assert entry["time"].endswith("Z")


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_is_logged(form: str) -> None:
    stream = logged(form)
    log.info("x", extra={"facts": {"secret_key": "hush", "Authorization": "hush", "x-amz-security-token": "hush"}})
    assert "hush" not in stream.getvalue()
    assert stream.getvalue().count(logs.REDACTED) == 3


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_traceback_comes_along(form: str) -> None:
    stream = logged(form)
    try:
        raise ValueError("reason")
    except ValueError:
        log.exception("failed")
    assert "ValueError: reason" in stream.getvalue()


def test_the_level_is_a_threshold() -> None:
    stream = logged("text", "warning")
    log.info("no")
    log.warning("yes")
    assert "no" not in stream.getvalue().split()
    assert "yes" in stream.getvalue()


def test_the_journal_gets_priorities_on_every_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "journal").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logs.configure("text", "info", stream)
        log.error("one\ntwo")
        stream.seek(0)
        assert stream.read() == "<3>tierce.test: one\n<3>two\n"


def test_warnings_are_logged() -> None:
    stream = logged("text")
    logging.getLogger("py.warnings").warning("careful")
    assert "careful" in stream.getvalue()
