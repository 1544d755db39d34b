"""Programs that trust fsync: databases and every durable call, while the daemon is killed again and again.

What was acknowledged is there, each database is whole, and the last transaction is there or not, never in part.  What a
`kill -9` proves is that nothing acknowledged was only in the daemon; that it is on the media is proven by
tests/crash/mounted.py and test_block_path.py, which cut the power.
"""

from __future__ import annotations

import collections
import contextlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.system.box import Box, is_mounted, running

pytestmark = [pytest.mark.system, pytest.mark.slow]

PROGRAMS: Final = Path(__file__).parent / "programs"
ROUNDS: Final = 3
LOAD: Final = 30  # words at most that each has said before the end
DURABLE_CALLS: Final = {"O_SYNC", "O_DSYNC", "fsync", "fdatasync", "msync", "rename", "directory", "order"}
KINDS: Final = (("wal", "full"), ("wal", "normal"), ("delete", "full"), ("delete", "normal"), ("truncate", "full"))


class Running(NamedTuple):
    """A program and where its words go."""

    process: subprocess.Popen[bytes]
    said: Path

    def lines(self) -> list[str]:
        return self.said.read_text().splitlines()


@contextlib.contextmanager
def programs(box: Box, directory: Path, *commands: list[object]) -> Iterator[list[Running]]:
    """They run within the block, which kills the daemon, and end with it."""
    started: list[Running] = []
    try:
        for number, (script, *arguments) in enumerate(commands):
            said = directory / f"said{number}"
            with said.open("wb") as out, (directory / f"errors{number}").open("wb") as errors:
                command = [sys.executable, str(PROGRAMS / str(script)), *map(str, arguments)]
                started.append(Running(subprocess.Popen(command, stdout=out, stderr=errors), said))
        yield started
        for each in started:
            each.process.terminate()  # who syncs seldom goes on in the kernel's cache of a mount that is gone
            assert each.process.wait(60) in (0, -signal.SIGTERM), box.log()
    finally:
        for each in started:
            each.process.kill()
            each.process.wait()


def kill(box: Box, programs: list[Running], least: int) -> None:
    """In the middle of what they do: each has said something."""
    deadline = time.monotonic() + 120
    while not all(len(each.lines()) >= least for each in programs):
        assert time.monotonic() < deadline, "a program does nothing"
        assert all(each.process.poll() is None for each in programs), box.log()
        time.sleep(0.02)
    box.kill()


def restart(box: Box) -> None:
    box.start()
    assert is_mounted(box.mount)


def check(path: Path, acknowledged: int, *, all_there: bool) -> int:
    """The number of the last transaction."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)], path
        count, last = connection.execute("SELECT count(*), coalesce(max(number), 0) FROM entry").fetchone()
        assert count == last, f"{path}: {count} transactions of {last}"
        assert not all_there or last >= acknowledged, f"{path}: {acknowledged} was acknowledged, {last} is there"
        sums = dict(connection.execute("SELECT place, sum FROM total").fetchall())
        wanted: collections.Counter[int] = collections.Counter()
        for number in range(1, last + 1):
            wanted[number % 50] += number
        assert sums == dict(wanted), f"{path}: a transaction is half there"
        return int(last)
    finally:
        connection.close()


def test_databases_keep_what_they_acknowledged(tmp_path: Path) -> None:
    seed = random.Random(4)
    with running(tmp_path / "box") as box:
        root = box.mount / "bucket"
        root.mkdir()
        last = dict.fromkeys(KINDS, 0)
        for _ in range(ROUNDS):
            commands: list[list[object]] = [
                ["database.py", root / f"{mode}-{synchronous}.db", mode, synchronous, last[mode, synchronous] + 1]
                for mode, synchronous in KINDS
            ]
            with programs(box, tmp_path, *commands) as started:
                kill(box, started, seed.randint(4, LOAD))
            restart(box)
            for (mode, synchronous), program in zip(KINDS, started, strict=True):
                acknowledged = int(program.lines()[-1])
                path = root / f"{mode}-{synchronous}.db"
                # WAL with NORMAL syncs at checkpoints only: it promises order, not the last transactions
                last[mode, synchronous] = check(path, acknowledged, all_there=(mode, synchronous) != ("wal", "normal"))
        del last["wal", "normal"]  # which need not keep any
        assert all(number > ROUNDS for number in last.values()), last


def test_every_durable_call_keeps_its_word(tmp_path: Path) -> None:
    seed = random.Random(5)
    with running(tmp_path / "box") as box:
        root = box.mount / "bucket"
        root.mkdir()
        first = 1
        kinds: set[str] = set()
        for _ in range(ROUNDS):
            with programs(box, tmp_path, ["durable_calls.py", root, first]) as started:
                kill(box, started, seed.randint(len(DURABLE_CALLS), LOAD))
            restart(box)
            for line in started[0].lines():
                kind, name, number = line.split()
                kinds.add(kind)
                first = max(first, int(number) + 1)
                found = (root / name).read_bytes()
                assert found[:8] >= b"%08d" % int(number), f"{line}: {found[:8]!r}"
                assert found[:8] * 512 == found[:4096], f"{line}: torn"
        assert kinds == DURABLE_CALLS


def test_a_durable_close_keeps_its_word(tmp_path: Path) -> None:
    seed = random.Random(6)
    with running(tmp_path / "box", TIERCE_MOUNT_CLOSE="durable") as box:
        root = box.mount / "bucket"
        root.mkdir()
        for number in range(2):
            bodies = {f"{number}-{at}": seed.randbytes(seed.choice((10, 5000, 300_000))) for at in range(40)}
            for name, body in bodies.items():
                (root / name).write_bytes(body)
            box.kill()
            restart(box)
            for name, body in bodies.items():
                assert (root / name).read_bytes() == body
