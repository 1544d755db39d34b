"""The service's unit: valid, and as closed as it says."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.system.box import HOUSE
from tests.system.conftest import left_out

pytestmark = [pytest.mark.system, pytest.mark.slow]

UNIT = HOUSE / "systemd" / "tierce.service"
EXPOSURE_MAX = 2.0  # a unit without hardening has 9.6


@pytest.fixture
def analyze() -> str:
    """systemd-analyze, of Debian's package systemd."""
    found = shutil.which("systemd-analyze")
    if found is None:
        left_out("TIERCE_ALLOW_NO_SYSTEMD", "systemd-analyze is not installed")
    assert found is not None
    return found


def test_the_service_is_closed(analyze: str) -> None:
    words = [analyze, "security", "--offline=yes", "--no-pager", str(UNIT)]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    match = re.search(r"Overall exposure level for tierce.service: ([0-9.]+)", shown)
    assert match, shown
    assert float(match[1]) <= EXPOSURE_MAX, shown


def test_the_unit_has_no_unknown_words(analyze: str, tmp_path: Path) -> None:
    """Verified with programs that exist on this machine in the place of the installed ones."""
    unit = re.sub(r"/opt/tierce/bin/\S+", "/bin/true", UNIT.read_text())
    (tmp_path / "tierce.service").write_text(unit)
    words = [analyze, "verify", "--man=no", "--recursive-errors=no", str(tmp_path / "tierce.service")]
    shown = subprocess.run(words, capture_output=True, text=True, check=False)
    complaints = [line for line in shown.stderr.splitlines() if "tierce.service" in line]
    assert complaints == []


def test_the_watchdog_has_more_patience_than_the_daemon() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) >= 60, "a commit may take ANSWER_TIMEOUT, and is asked for thrice in that time"
    assert int(service["TimeoutStopSec"]) > 20 + 30, "requests and the kernel's dirty pages get theirs"
