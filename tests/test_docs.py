"""Documents that cannot drift: what they name exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any, Final

import click

from appliance import config
from appliance.cli import main
from tests.rows import rows

HOUSE: Final = Path(__file__).parent.parent
README: Final = (HOUSE / "README.md").read_text("utf-8")
PROJECT: Final[dict[str, Any]] = tomllib.loads((HOUSE / "pyproject.toml").read_text("utf-8"))
ROOMS: Final = [path for path in HOUSE.iterdir() if path.is_dir() and not path.name.startswith((".", "var"))]
DOCUMENTS: Final = sorted([*HOUSE.glob("*.md"), *(path for room in ROOMS for path in room.rglob("*.md"))])


@rows("path", DOCUMENTS, ids=lambda path: str(path.relative_to(HOUSE)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target


@rows("path", DOCUMENTS, ids=lambda path: str(path.relative_to(HOUSE)))
def test_scripts_that_are_named_exist(path: Path) -> None:
    for name in re.findall(r"\bscripts/([a-z]+)\b", path.read_text("utf-8")):
        assert (HOUSE / "scripts" / name).exists(), name


def commands() -> set[str]:
    """What documents call: `tierce a b` in code or in a console."""
    return set(re.findall(r"\btierce (?:--state-dir \w+ )?((?:[a-z-]+ ?)+)", README))


def test_commands_that_the_readme_names_exist() -> None:
    assert len(commands()) > 8
    for words in commands():
        command: click.Command = main
        for word in shlex.split(words):
            if not isinstance(command, click.Group):
                break
            assert word in command.commands, f"tierce {words}"
            command = command.commands[word]


def test_every_command_is_in_the_readme() -> None:
    for name, command in main.commands.items():
        inner = command.commands if isinstance(command, click.Group) else {}
        assert f"tierce {name}" in README or name in ("serve", "version"), name
        for word in inner:
            assert re.search(rf"tierce {name} [^|`]*`?.*\b{word}\b", README) or word in ("label",), f"{name} {word}"


def test_variables_that_the_readme_names_exist() -> None:
    known = {config.environment_name(key) for key in config.known_keys()}
    assert set(re.findall(r"\bTIERCE_[A-Z0-9_]+", README)) <= known


def test_the_first_screen_has_what_a_visitor_looks_for() -> None:
    first = "\n".join(README.splitlines()[:40])
    for wanted in ("S3", "mount", "scripts/run", "scripts/test", "boto3", "rclone", "ls -l"):
        assert wanted in first, wanted


def test_the_changelog_knows_this_version() -> None:
    changes = (HOUSE / "CHANGELOG.md").read_text("utf-8")
    assert f"## {PROJECT['project']['version']}\n" in changes


def pins() -> dict[str, str]:
    """Name and version of every line of constraints.txt."""
    lines = (HOUSE / "constraints.txt").read_text("utf-8").splitlines()
    return dict(line.split("==", 1) for line in lines if line and not line.startswith("#") and ";" not in line)


def test_every_dependency_is_pinned_twice_alike() -> None:
    project = PROJECT["project"]
    direct = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    for requirement in direct:
        text, _, marker = requirement.partition(";")
        match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[\w+\])?==([0-9][\w.]*)\s*", text)
        assert match, f"{requirement} is not pinned exactly"
        if not marker:
            assert pins()[match[1].lower()] == match[2], requirement


def test_no_registry_is_named() -> None:
    clients = ("tests/system/programs/requirements.txt", "tests/system/node/package-lock.json")
    for name in ("pyproject.toml", "constraints.txt", *clients):
        assert '"resolved"' not in (HOUSE / name).read_text("utf-8")
        assert not re.search(r"index-url|find-links|://[^\s\"]*(?:pypi|simple)", (HOUSE / name).read_text("utf-8"))
