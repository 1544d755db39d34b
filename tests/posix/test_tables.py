"""System calls on a real mount, by several users: tables of what POSIX and Linux say of each."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fusefs.served import Served
from tests.posix.script import TABLES, Users, differs, read
from tests.posix.script import Step as ScriptStep
from tests.system.conftest import left_out

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory of a mount that every user may enter: pytest's own are closed to others."""
    if os.geteuid() != 0:
        left_out("TIERCE_ALLOW_NO_LOOP", "needs root, to become other users")
    with tempfile.TemporaryDirectory(prefix="tierce-posix-", dir="/var/tmp") as directory:
        os.chmod(directory, 0o755)
        mount = Served(Path(directory) / "mnt", "pool")
        try:
            yield mount.bucket
        finally:
            assert mount.stop() == 0


@pytest.fixture(scope="module")
def users() -> Iterator[Users]:
    with Users() as found:
        yield found


@pytest.mark.parametrize("table", sorted(TABLES.glob("*.txt")), ids=lambda path: path.stem)
def test_calls(place: Path, users: Users, table: Path) -> None:
    wrong = []
    for number, scene in enumerate(read(table)):
        found = users.play(scene, place / f"{table.stem}-{number}")
        if found is not None:
            wrong.append(found)
    assert not wrong, "\n".join(wrong)


def test_the_tables_are_checked() -> None:
    """A table that agrees with everything tests nothing."""
    step = ScriptStep("", "root", "stat", ["f"], "mode=644 m=newer")
    told = {"mode": "644", "mtime": "5.000000002"}
    assert differs(step, "ok", told, {"mtime": "5.000000001"}) is None
    assert differs(step, "ok", told, {"mtime": "5.000000002"}) is not None
    assert differs(step, "ok", {**told, "mode": "600"}, {"mtime": "5.000000001"}) == "mode=600"
    assert differs(step, "error", 2, {}) == "ENOENT"
    assert differs(step._replace(answer="ENOENT"), "ok", None, {}) == "was done"
    assert differs(step._replace(answer="EPERM|EACCES"), "error", 13, {}) is None
    assert differs(step._replace(answer=None), "error", 13, {}) == "EACCES"
    assert differs(step._replace(answer="x*3 y"), "ok", "xxx y", {}) is None
