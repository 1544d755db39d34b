"""The service's units: valid, and as closed as they say."""

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
UNITS = [UNIT, UNIT.with_name("tierce-advise.socket"), UNIT.with_name("tierce-advise@.service")]
EXPOSURE_MAX = 2.0  # a unit without hardening has 9.6


@pytest.fixture
def analyze() -> str:
    """systemd-analyze, of Debian's package systemd."""
    found = shutil.which("systemd-analyze")
    if found is None:
        left_out("TIERCE_ALLOW_NO_SYSTEMD", "systemd-analyze is not installed")
    assert found is not None
    return found


def test_the_services_are_closed(analyze: str) -> None:
    for unit in UNITS:
        if unit.suffix != ".service":
            continue
        words = [analyze, "security", "--offline=yes", "--no-pager", str(unit)]
        shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        match = re.search(r"Overall exposure level for \S+\.service: ([0-9.]+)", shown)
        assert match, shown
        assert float(match[1]) <= EXPOSURE_MAX, shown


def test_the_units_have_no_unknown_words(analyze: str, tmp_path: Path) -> None:
    """Verified with programs that exist on this machine in the place of the installed ones."""
    for unit in UNITS:
        (tmp_path / unit.name).write_text(re.sub(r"/opt/tierce/bin/\S+", "/bin/true", unit.read_text()))
    named = [str(tmp_path / unit.name.replace("@", "@1")) for unit in UNITS]
    (tmp_path / "tierce-advise@1.service").symlink_to(tmp_path / "tierce-advise@.service")
    words = [analyze, "verify", "--man=no", "--recursive-errors=no", *named]
    shown = subprocess.run(words, capture_output=True, text=True, check=False)
    complaints = [line for line in shown.stderr.splitlines() if "tierce" in line]
    assert complaints == []


def test_only_one_right_is_given_and_only_to_the_one_that_needs_it() -> None:
    rights = {
        unit.name: re.findall(r"^(?:CapabilityBoundingSet|AmbientCapabilities)=(.*)$", unit.read_text(), re.MULTILINE)
        for unit in UNITS
        if unit.suffix == ".service"
    }
    right = "CAP_DAC_READ_SEARCH"
    assert rights == {"tierce.service": ["", ""], "tierce-advise@.service": [right, right]}


def test_the_watchdog_has_more_patience_than_the_daemon() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(UNIT)
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert int(service["WatchdogSec"]) >= 60, "a commit may take ANSWER_TIMEOUT, and is asked for thrice in that time"
    assert int(service["TimeoutStopSec"]) > 20 + 30, "requests and the kernel's dirty pages get theirs"
