"""Several processes write one file at once.

    ranges    each process owns every n-th block of one file and rewrites its blocks at random, with fsync now and then:
              at the end each block is the last that its owner wrote
    records   each process appends records with O_APPEND: every record is there once, whole, and each process's in order

Both are read back cached and uncached, and through the other door.

    python -m tests.torture.writers --seed N | --seconds S
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.torture.forked import forked
from tests.torture.places import Place, exercise

PROCESSES: Final = 6
BLOCKS: Final = 40  # of each process
BLOCK_SIZES: Final = (700, 4096, 30_000, 300_000)
WRITES: Final = 150  # of each process
RECORDS: Final = 400  # of each process
RECORD_MAX: Final = 9_000


class Wrong(AssertionError):
    """Bytes that no process wrote there."""


def block(seed: int, size: int) -> bytes:
    """What one write writes: of its seed, so that the parent knows it too."""
    return random.Random(seed).randbytes(size)


def ranges_plan(seed: int, number: int) -> list[tuple[int, int]]:
    """(block, seed of its content) of each write of process `number`."""
    rng = random.Random(seed * 100 + number)
    return [(rng.randrange(BLOCKS) * PROCESSES + number, rng.getrandbits(40)) for _ in range(WRITES)]


def write_ranges(path: Path, seed: int, number: int) -> None:
    """One process's writes."""
    size = BLOCK_SIZES[seed % len(BLOCK_SIZES)]
    descriptor = os.open(path, os.O_RDWR)
    try:
        for index, content in ranges_plan(seed, number):
            os.pwrite(descriptor, block(content, size), index * size)
            if content % 20 == 0:
                os.fsync(descriptor)
    finally:
        os.close(descriptor)


def record(seed: int, number: int, index: int) -> bytes:
    """One line that says whose it is, which, and what its bytes must be."""
    rng = random.Random(seed * 1_000_003 + number * 10_007 + index)
    return b"%d %d %s\n" % (number, index, rng.randbytes(rng.randrange(RECORD_MAX // 2)).hex().encode())


def append_records(path: Path, seed: int, number: int) -> None:
    """One process's records."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        for index in range(RECORDS):
            data = record(seed, number, index)
            if os.write(descriptor, data) != len(data):
                raise Wrong("a short write")
            if index % 100 == 99:
                os.fsync(descriptor)
    finally:
        os.close(descriptor)


def together(work: Callable[[Path, int, int], None], path: Path, seed: int) -> None:
    """All processes at once."""
    forked(work, [(path, seed, number) for number in range(PROCESSES)])


def everywhere(place: Place, path: Path) -> dict[str, bytes]:
    """The file's bytes as each way shows them."""
    found = {"cached": path.read_bytes()}
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    found["stored"] = path.read_bytes()
    client = place.s3()
    if client is not None:
        key = str(path.relative_to(place.directory))
        found["S3"] = client.get_object(Bucket=place.bucket, Key=key)["Body"].read()
    return found


def run(place: Place, seed: int) -> int:
    """Both parts; how many writes there were."""
    path = place.directory / f"ranges-{seed}"
    path.touch()
    together(write_ranges, path, seed)
    size = BLOCK_SIZES[seed % len(BLOCK_SIZES)]
    last = {index: content for number in range(PROCESSES) for index, content in ranges_plan(seed, number)}
    wanted = b"".join(block(last[i], size) if i in last else bytes(size) for i in range(max(last) + 1))
    for way, found in everywhere(place, path).items():
        if found != wanted:
            wrong = [i for i in range(max(last) + 1) if found[i * size :][:size] != wanted[i * size :][:size]]
            raise Wrong(f"seed {seed}, {way}: {len(found)} of {len(wanted)} bytes, wrong blocks of {size}: {wrong}")
    path = place.directory / f"records-{seed}"
    path.touch()
    together(append_records, path, seed)
    for way, found in everywhere(place, path).items():
        lines = found.splitlines(keepends=True)
        for number in range(PROCESSES):
            mine = [line for line in lines if line.startswith(b"%d " % number)]
            if mine != [record(seed, number, index) for index in range(RECORDS)]:
                raise Wrong(f"seed {seed}, {way}: records of process {number}: {len(mine)} of {RECORDS}, or not whole")
        if len(lines) != PROCESSES * RECORDS:
            raise Wrong(f"seed {seed}, {way}: {len(lines)} records of {PROCESSES * RECORDS}")
    return PROCESSES * (WRITES + RECORDS)


if __name__ == "__main__":
    sys.exit(exercise(__doc__, "writers", run))
