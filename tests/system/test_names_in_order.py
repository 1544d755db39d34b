"""A program's changes of names are answered before they are durable: a kill -9 leaves all of them up to some moment."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from itertools import count
from pathlib import Path
from typing import Final

import pytest

from tests.effort import examples
from tests.system.box import Box, running

pytestmark = [pytest.mark.system, pytest.mark.slow]

STATES: Final[tuple[set[str], ...]] = (
    set(),
    {"d"},
    {"d", "f"},
    {"d", "g"},
    {"d", "g", "l"},
    {"d", "g", "l", "s"},
    {"g", "l", "s"},
)
"""Which names of one step there are, after each of its changes."""
STEPS_MAX: Final = 200  # before the kill


def step(place: Path, number: int) -> None:
    """mkdir, a file, rename, symlink, a second file, rmdir."""
    (place / f"d{number}").mkdir()
    (place / f"f{number}").write_bytes(b"%d" % number * 1000)
    (place / f"f{number}").rename(place / f"g{number}")
    (place / f"l{number}").symlink_to(f"g{number}")
    (place / f"s{number}").write_bytes(b"")
    (place / f"d{number}").rmdir()


def changed(place: Path, done: threading.Semaphore) -> None:
    """Steps until nobody answers, each released once it is done; the first two are durable."""
    for number in count():
        step(place, number)
        if number == 1:
            sync(place)
        done.release()


def sync(directory: Path) -> None:
    """Its names are durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def kill_after(box: Box, steps: int, done: threading.Semaphore) -> None:
    """Wherever it happens to be then."""
    for _ in range(steps):
        done.acquire(timeout=60)
    box.kill()


def test_a_kill_leaves_what_was_done_up_to_some_moment(tmp_path: Path) -> None:
    chance, steps = random.Random(3), 0
    with running(tmp_path / "box") as box:
        (box.mount / "bucket").mkdir()
        for end in range(examples(3)):
            place = box.mount / f"bucket/{end}"
            place.mkdir()
            sync(place)
            done = threading.Semaphore(0)
            killer = threading.Thread(target=kill_after, args=(box, chance.randint(2, STEPS_MAX), done))
            killer.start()
            with contextlib.suppress(OSError):
                changed(place, done)
            killer.join()
            box.start()
            names: dict[int, set[str]] = {}
            for name in os.listdir(place):
                names.setdefault(int(name[1:]), set()).add(name[0])
            last = max(names, default=0)
            steps += last
            assert all(names.get(number) == STATES[-1] for number in range(last)), "a change is missing before the last"
            assert names.get(last, set()) in STATES, "the last changes are not in order"
            for number in range(last):
                assert (place / f"l{number}").read_bytes() == b"%d" % number * 1000
        assert steps >= examples(3)
