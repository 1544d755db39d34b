"""Both doors at once on a few names: nothing fails, nothing hangs, and at the end both show the same."""

from __future__ import annotations

import errno
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fusefs.served import Served, served

pytestmark = [pytest.mark.system, pytest.mark.slow]

NAMES = 8


def use_files(mount: Served, seed: int, steps: int) -> None:
    """A program on the mount.  Files come and go under it."""
    chance = random.Random(seed)
    for _ in range(steps):
        path, other = (mount.bucket / f"d/f{chance.randrange(NAMES)}" for _ in range(2))
        try:
            step = chance.randrange(7)
            if step <= 1:
                path.write_bytes(chance.randbytes(chance.randrange(9000)))
            elif step == 2:
                path.unlink()
            elif step == 3:
                os.rename(path, other)
            elif step == 4:
                os.listdir(mount.bucket / "d")
            elif step == 5:
                path.read_bytes()
            else:
                with open(path, "ab") as file:
                    file.write(b"x" * 100)
                    os.fsync(file.fileno())
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno != errno.ESTALE:  # SEMANTICS.md: S3 changed the name twice within one open
                raise


@pytest.mark.parametrize("kind", ["dict", "pool"])
def test_the_doors_agree_after_a_crowd(tmp_path: Path, kind: str) -> None:
    with served(tmp_path / "mnt", kind) as mount, ThreadPoolExecutor(3) as pool:
        (mount.bucket / "d").mkdir()
        work = [pool.submit(use_files, mount, seed, 500) for seed in range(3)]
        chance = random.Random(99)
        while not all(job.done() for job in work):
            key = f"d/f{chance.randrange(NAMES)}"
            if chance.random() < 0.7:
                mount.put(key, chance.randbytes(chance.randrange(5000)))
            else:
                mount.delete(key)
        for job in work:
            job.result()
        names = os.listdir(mount.bucket / "d")
        for number in range(NAMES):
            path, stored = mount.bucket / f"d/f{number}", mount.get(f"d/f{number}")
            assert path.exists() == (stored is not None) == (path.name in names)
            if stored is not None:
                assert path.read_bytes() == stored
                assert path.stat().st_size == len(stored)
        while mount.ask("statistics")["files"]:
            pass  # close(2) waits neither for what the kernel says of it afterwards, nor for the commit
        assert mount.ask("statistics")["memory"] == 0
