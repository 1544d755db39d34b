"""Very many files in one directory, and a very deep tree: neither may cost more as it grows.

Files are made, listed, found by name and removed.  What each phase cost the daemon is told per tenth, in CPU time,
which noise does not touch, and so is its memory; the last tenth may not be much dearer than the first, and memory may
grow by no more than what the kernel itself makes us remember: an inode that it knows.  The catalogue's WAL stays short,
though the writer is never idle.

The other door lists every file, too.

    python -m tests.torture.crowd --count 1000000 --depth 1000      as many, however long it takes
    python -m tests.torture.crowd --seconds 600                     as many of a million as that suffices for
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from appliance.limits import KIB, MIB
from tests.torture import kernel
from tests.torture.forked import forked
from tests.torture.places import Place, arguments, chosen

PROCESSES: Final = 8  # that make and remove: a name is durable when the call returns, and many wait together
FLAT: Final = 2.0  # the last tenths of a phase may cost so many times the first
MEMORY_EACH: Final = KIB // 2  # bytes of the daemon for a file that the kernel knows
MEMORY_FREE: Final = 96 * MIB  # caches with bounds of their own
LOG_EACH: Final = 1 * KIB  # bytes of the catalogue's WAL for a file: a tenth of what is written to it ...
LOG_FREE: Final = 256 * MIB  # ... and what comes while a snapshot or a slow disk holds it back
TENTHS: Final = 10
FIRST: Final = 20_000  # files, which tell how many there is time for
TICK: Final = 1 / os.sysconf("SC_CLK_TCK")


class Wrong(AssertionError):
    """A file too many or too few, or a cost that grows."""


@dataclass
class Phase:
    """What one phase cost, tenth by tenth."""

    name: str
    entries: int  # in a tenth
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)  # seconds of the daemon
    memory: int = 0  # bytes of the daemon at the end
    log: int = 0  # bytes of the catalogue's WAL then

    def describe(self) -> str:
        """One line of the report."""
        first, last = (1e6 * each / self.entries for each in self.ends())
        wall = 1e6 * sum(self.seconds) / self.entries / len(self.seconds)
        growth = f"daemon's CPU {first:.0f} us each in the first tenths, {last:.0f} in the last"
        return f"{self.name}: {wall:.0f} us each, {growth}, {self.memory / MIB:.0f} MiB, log {self.log / MIB:.0f} MiB"

    def ends(self) -> tuple[float, float]:
        """Seconds of a tenth, at first and at last: the middle one of three, as a snapshot may fall into one."""
        return statistics.median(self.cpu[:3]), statistics.median(self.cpu[-3:])

    def check(self) -> None:
        """A tenth that took next to nothing tells nothing: ticks of the clock are 10 ms."""
        first, last = self.ends()
        if last > FLAT * max(first, 20 * TICK):
            raise Wrong(f"{self.describe()}: {[round(each, 2) for each in self.cpu]}")


class Meter:
    """Reads what the daemon has used from proc(5)."""

    def __init__(self, place: Place) -> None:
        self.pid = place.daemon()
        self.wal = Path(place.facts["mount"]).with_name("catalogue.db-wal") if place.facts else None
        self.phases: list[Phase] = []

    def cpu(self) -> float:
        if self.pid is None:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK

    def memory(self) -> int:
        if self.pid is None:
            return 0
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * kernel.PAGE

    def log(self) -> int:
        """0 where the state directory is not the mount's."""
        return self.wal.stat().st_size if self.wal is not None and self.wal.exists() else 0

    def run(self, name: str, count: int, work: Callable[[range], None]) -> None:
        """`work(range)` for each tenth of `count`."""
        phase = Phase(name, count // TENTHS)
        for tenth in range(TENTHS):
            begin, cpu = time.monotonic(), self.cpu()
            work(range(tenth * count // TENTHS, (tenth + 1) * count // TENTHS))
            phase.seconds.append(time.monotonic() - begin)
            phase.cpu.append(self.cpu() - cpu)
        phase.memory, phase.log = self.memory(), self.log()
        print(phase.describe(), flush=True)
        self.phases.append(phase)


def name_of(number: int) -> str:
    """Names in no order, of several lengths."""
    return f"{number * 2654435761 % (1 << 32):08x}-{number}{'x' * (number % 40)}"


def make(directory: Path, numbers: range) -> None:
    """Small files, every fourth with bytes."""
    for number in numbers:
        descriptor = os.open(directory / name_of(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        if number % 4 == 0:
            os.write(descriptor, b"%d" % number)
        os.close(descriptor)


def remove(directory: Path, numbers: range) -> None:
    """The same files."""
    for number in numbers:
        os.unlink(directory / name_of(number))


def in_parallel(work: Callable[[Path, range], None], directory: Path, numbers: range) -> None:
    """Each process its share."""
    forked(work, [(directory, numbers[part::PROCESSES]) for part in range(PROCESSES)])


def crowd(place: Place, count: int) -> list[Phase]:
    """One directory of `count` files.  Returns what each phase cost, checked."""
    assert count % TENTHS == 0
    directory = place.directory / "crowd"
    directory.mkdir()
    meter = Meter(place)
    before = meter.memory()
    meter.run("create", count, lambda numbers: in_parallel(make, directory, numbers))
    remember(meter)
    listed(meter, directory, count)
    listed_by_s3(meter, place, count)

    def find(numbers: range) -> None:
        rng = random.Random(numbers.start)
        for _ in numbers:
            number = rng.randrange(2 * count)
            try:
                size = os.stat(directory / name_of(number)).st_size
            except FileNotFoundError:
                size = -1
            if size != (-1 if number >= count else len(str(number)) if number % 4 == 0 else 0):
                raise Wrong(f"file {number} of {count} has {size} bytes (-1: is not found)")

    meter.run("stat", count, find)
    meter.run("remove", count, lambda numbers: in_parallel(remove, directory, numbers))
    if os.listdir(directory):
        raise Wrong(f"{len(os.listdir(directory))} files are left")
    directory.rmdir()
    for phase in meter.phases:
        phase.check()
        allowed = before + MEMORY_FREE + MEMORY_EACH * count
        if phase.memory > allowed:
            raise Wrong(f"{phase.describe()}: more than {allowed / MIB:.0f} MiB, {before / MIB:.0f} before")
        if phase.log > LOG_FREE + LOG_EACH * count:
            raise Wrong(f"{phase.describe()}: the log of {count} files")
    return meter.phases


def remember(meter: Meter) -> None:
    """The kernel forgets what it knew, where we may ask it to: the listing is ours, not its."""
    kernel.drop_caches()
    print(f"the kernel's caches dropped: {meter.memory() / MIB:.0f} MiB", flush=True)


def listed(meter: Meter, directory: Path, count: int) -> None:
    """Every name once, with its attributes."""
    numbers = bytearray(count)

    def look(entries: Iterator[os.DirEntry[str]], wanted: range) -> None:
        for _ in wanted:
            number = int(next(entries).name.partition("-")[2].rstrip("x"))
            if numbers[number]:
                raise Wrong(f"file {number} is listed twice")
            numbers[number] = 1

    with os.scandir(directory) as entries:
        meter.run("list", count, lambda wanted: look(entries, wanted))
        if next(entries, None) is not None:
            raise Wrong("more is listed than was made")
    if not all(numbers):
        raise Wrong(f"{numbers.count(0)} files are not listed")


def listed_by_s3(meter: Meter, place: Place, count: int) -> None:
    """Every key once, page by page."""
    client = place.s3()
    if client is None:
        return
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix="crowd/")
    keys = (item["Key"] for page in pages for item in page.get("Contents", []))
    last = ""

    def look(wanted: range) -> None:
        nonlocal last
        for _ in wanted:
            key = next(keys, "")
            if key <= last or key != "crowd/" + name_of(int(key.partition("-")[2].rstrip("x"))):
                raise Wrong(f"{key} is listed after {last}")
            last = key

    meter.run("list by S3", count, look)
    if next(keys, None) is not None:
        raise Wrong("S3 lists more than was made")


def next_count(count: int, took: float, left: float, most: int = 1_000_000) -> int:
    """How many files `left` seconds suffice for, with a margin, after `count` of them took `took`; 0 when that is not
    many more."""
    possible = min(most, int(0.8 * left / took * count) // TENTHS * TENTHS)
    return possible if possible >= 2 * count else 0


def deep(place: Place, depth: int) -> list[Phase]:
    """A chain of directories with a file in each, made and removed through descriptors: no path is that long."""
    meter = Meter(place)
    (place.directory / "deep").mkdir()
    flags = os.O_RDONLY | os.O_DIRECTORY
    descriptors = [os.open(place.directory / "deep", flags)]
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: collections.deque(map(os.close, descriptors), maxlen=0))

        def descend(numbers: range) -> None:
            for number in numbers:
                os.mkdir(f"d{number}", dir_fd=descriptors[-1])
                descriptors.append(os.open(f"d{number}", flags, dir_fd=descriptors[-1]))
                file = os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=descriptors[-1])
                os.write(file, b"%d" % number)
                os.close(file)

        def find(numbers: range) -> None:
            for number in numbers:
                if os.stat("file", dir_fd=descriptors[number + 1]).st_size != len(str(number)):
                    raise Wrong(f"the file {number} directories down is another")

        def ascend(numbers: range) -> None:
            for number in reversed(range(depth - numbers.stop, depth - numbers.start)):
                os.unlink("file", dir_fd=descriptors[-1])
                os.close(descriptors.pop())
                os.rmdir(f"d{number}", dir_fd=descriptors[-1])

        meter.run("descend", depth, descend)
        check_listing(place, depth)
        meter.run("look", depth, find)
        meter.run("ascend", depth, ascend)
    (place.directory / "deep").rmdir()
    for phase in meter.phases:
        phase.check()
    return meter.phases


def check_listing(place: Place, depth: int) -> None:
    """The other door lists what it can name: keys end at 1,024 bytes, and the rest spoils nothing."""
    client = place.s3()
    if client is None:
        return
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix="deep/")
    keys = {item["Key"] for page in pages for item in page.get("Contents", []) if item["Key"].endswith("/file")}
    wanted, path = set(), "deep"
    for number in range(depth):
        path += f"/d{number}"
        if len(path) + len("/file") > 1024:
            break
        wanted.add(f"{path}/file")
    if not wanted <= keys:
        raise Wrong(f"{len(wanted - keys)} of {len(wanted)} files that have a key are not listed")


def main() -> int:
    """The long run's entrance."""
    parser: argparse.ArgumentParser = arguments(__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, help="files in one directory, however long it takes")
    parser.add_argument("--depth", type=int, default=1000, help="directories in one another")
    options = parser.parse_args()
    begin = time.monotonic()
    with chosen(options) as place:
        deep(place, options.depth)
        count = options.count or FIRST
        while count:
            started = time.monotonic()
            crowd(place, count)
            now = time.monotonic()
            count = 0 if options.count else next_count(count, now - started, begin + options.seconds - now)
    return 0


if __name__ == "__main__":
    sys.exit(main())
