"""The README's first screen, done by the letter: its program, its commands, and what they print."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.system.box import BIN, HOUSE, Box
from tests.system.clients import INSTALLED, Clients

pytestmark = [pytest.mark.system, pytest.mark.slow]

README: Final = (HOUSE / "README.md").read_text("utf-8")
CHANGING: Final = (  # what is another each time
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+",
    r"[A-Z][a-z]{2} [ \d]\d +[\d:]{4,5}",
    r"(?<=1 )\w+ \w+(?= )",  # owner and group
)


def blocks(language: str) -> list[str]:
    """The README's, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def same(text: str) -> str:
    """Without what changes."""
    for pattern in CHANGING:
        text = re.sub(pattern, "*", text)
    return text


def test_the_first_screen(box: Box, clients: Clients, tmp_path: Path) -> None:
    (tmp_path / "var").symlink_to(box.state)
    done = subprocess.run([sys.executable, "-c", blocks("python")[0]], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    environment = clients.environment(**clients.rclone_environment())
    environment["PATH"] = f"{INSTALLED / 'bin'}:{BIN}:{environment['PATH']}"
    commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", blocks("console")[0], re.MULTILINE)
    assert len(commands) == 5
    for command, expected in commands:
        said = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert (said.stderr, same(said.stdout.decode())) == (b"", same(expected)), command


def test_the_command_line_of_a_box_that_was_just_started(box: Box, tmp_path: Path) -> None:
    """As the README gives it: without a variable of the daemon's."""
    (words,) = set(re.findall(r"`\.venv/bin/(tierce --state-dir var pool status)`", README))
    (tmp_path / "var").symlink_to(box.state)
    command = [BIN / "tierce", *words.split()[1:], "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(done.stdout)["endpoint"] == box.endpoint
