"""H5 on a real kernel: processes that stat, read, list and open names on the mount while S3 changes them.

Every watched name has generations, which one writer numbers: an odd one is an object of `SIZE_BASE + generation` bytes
that tell the generation, an even one is a deletion.  The writer takes either door, mostly S3's, and notes a generation
in shared memory before it asks for it (`begun`) and after it was answered (`acknowledged`).  A look through either
door notes what was acknowledged before it began and what had begun when it was done; what it saw must be a generation
between the two.  So nothing may be older than what was acknowledged before the look, whatever the kernel keeps: names
that are there, names that are not, sizes, pages, directories, links.  A directory that is renamed to and fro is watched
by a name in it.

Beside them others work in the same directories, so that the kernel holds their locks when S3's changes want them: a
daemon that waits in such a request for an invalidation, or the other way round, shows as an answer that takes seconds.

`python -m tests.system.coherence --seconds N` starts a box of its own and runs for so long.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import mmap
import multiprocessing
import os
import random
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.models.doors.kernel import Kernel
from tests.system.box import running

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

    from tests.system.box import Box

NAMES: Final = (b"k0", b"k1", b"d/k2", b"d/k3", b"d/e/k4", b"v/k5")
"""The last one's directory is implied: it comes and goes with its key."""
MOVED: Final = len(NAMES)  # the generations of a directory that is `p` when they are odd and `q` when they are even
WRITERS: Final = 2
WATCHERS: Final = 6
WORKERS: Final = 4
SIZE_BASE: Final = 16
SLOW: Final = 25.0  # seconds; less than an invalidation's own limit, and more than a busy machine makes of an answer
CHANGES_LEAST, LOOKS_LEAST = 20, 200  # however long that takes
BY_MOUNT: Final = 0.25  # of the writes


class Board:
    """Counters shared by processes: for each name what has begun and what was acknowledged, and when to stop."""

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, max(8 * (2 * count + 1), mmap.PAGESIZE))

    def _get(self, index: int) -> int:
        number: int = struct.unpack_from("<q", self._memory, 8 * index)[0]
        return number

    def _set(self, index: int, value: int) -> None:
        struct.pack_into("<q", self._memory, 8 * index, value)

    def begun(self, which: int) -> int:
        return self._get(2 * which + 1)

    def acknowledged(self, which: int) -> int:
        return self._get(2 * which + 2)

    def begin(self, which: int, generation: int) -> None:
        self._set(2 * which + 1, generation)

    def acknowledge(self, which: int, generation: int) -> None:
        self._set(2 * which + 2, generation)

    @property
    def stopped(self) -> bool:
        return bool(self._get(0))

    def stop(self) -> None:
        self._set(0, 1)


def body(generation: int) -> bytes:
    """What an odd generation's object holds: every byte tells which."""
    return struct.pack("<Q", generation) + bytes([generation % 251]) * (SIZE_BASE - 8 + generation)


def read_generation(data: bytes) -> int:
    """The generation whose body this is."""
    (generation,) = struct.unpack_from("<Q", data)
    assert data == body(generation), f"generation {generation} has other bytes"
    assert isinstance(generation, int)
    return generation


# ---------------------------------------------------------------------- looking
class Watcher:
    """Looks at every name, in every way a program can."""

    def __init__(self, door: Kernel, board: Board, seed: int, looks: Synchronized[int]) -> None:
        self.door = door
        self.root = door.root
        self.board = board
        self.random = random.Random(seed)
        self.looks = looks

    def run(self) -> None:
        ways = (
            self.stat,
            self.read,
            self.listed,
            self.absent_or_there,
            self.descend,
            self.mapped,
            self.get,
            self.crossed,
            self.moved,
        )
        while not self.board.stopped:
            self.random.choice(ways)(self.random.randrange(len(NAMES)))
            with self.looks.get_lock():
                self.looks.value += 1

    def judge(self, which: int, before: int, seen: int | None, how: str) -> None:
        """`seen` is a generation; None where the name was not there."""
        after = self.board.begun(which)
        if seen is None:
            possible = any(generation % 2 == 0 for generation in range(before, after + 1))
        else:
            possible = before <= seen <= after
        assert possible, f"{how} {NAMES[which]!r}: saw {seen}, {before} was acknowledged before, {after} has begun"

    def path(self, which: int) -> bytes:
        return self.root + b"/" + NAMES[which]

    def stat(self, which: int) -> None:
        before = self.board.acknowledged(which)
        try:
            seen: int | None = os.stat(self.path(which)).st_size - SIZE_BASE
        except FileNotFoundError:
            seen = None
        self.judge(which, before, seen, "stat")

    def absent_or_there(self, which: int) -> None:
        """Two looks: the second must not be older than the first."""
        for _ in range(2):
            before = self.board.acknowledged(which)
            there = os.access(self.path(which), os.F_OK)
            after = self.board.begun(which)
            wanted = {generation % 2 == 1 for generation in range(before, after + 1)}
            assert there in wanted, f"access {NAMES[which]!r}: {there}, between {before} and {after}"

    def opened(self, which: int) -> int | None:
        """A descriptor; None where the name is not there.  ESTALE means: again (SEMANTICS, "When the other door")."""
        while True:
            try:
                return os.open(self.path(which), os.O_RDONLY)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.ESTALE:
                    raise

    def read(self, which: int) -> None:
        before = self.board.acknowledged(which)
        descriptor = self.opened(which)
        after = self.board.begun(which)
        if descriptor is None:
            self.judge(which, before, None, "open")
            return
        try:
            seen = read_generation(os.pread(descriptor, 1 << 20, 0))
            assert before <= seen <= after, f"read {NAMES[which]!r}: {seen}, not in {before} to {after}"
            again = read_generation(os.pread(descriptor, 1 << 20, 0))
            assert again == seen, f"{NAMES[which]!r}: one handle sees {seen}, then {again} (H4)"
            size = os.fstat(descriptor).st_size
            assert size == SIZE_BASE + seen, f"{NAMES[which]!r}: fstat says {size} of generation {seen}"
        finally:
            os.close(descriptor)

    def mapped(self, which: int) -> None:
        """Through the page cache without read(2)."""
        before = self.board.acknowledged(which)
        descriptor = self.opened(which)
        after = self.board.begun(which)
        if descriptor is None:
            return
        try:
            with mmap.mmap(descriptor, 0, prot=mmap.PROT_READ) as view:
                seen = read_generation(view[:])
            assert before <= seen <= after, f"mmap {NAMES[which]!r}: {seen}, not in {before} to {after}"
        finally:
            os.close(descriptor)

    def get(self, which: int) -> None:
        """Through the other door."""
        before = self.board.acknowledged(which)
        answer = self.door.send("GET", NAMES[which])
        assert answer.status in (200, 404), answer
        self.judge(which, before, read_generation(answer.body) if answer.status == 200 else None, "GET")

    def crossed(self, which: int) -> None:
        """Through the other door first: what S3 has shown, acknowledged or not, the mount must not be older than.  Of
        the mount's own changes the kernel hears by its own answer."""
        answer = self.door.send("GET", NAMES[which])
        if answer.status == 200 and NAMES[which].startswith(b"v/"):
            seen = read_generation(answer.body)
            try:
                found: int | None = os.stat(self.path(which)).st_size - SIZE_BASE
            except FileNotFoundError:
                found = None
            self.judge(which, seen, found, "GET, then stat")

    def moved(self, which: int) -> None:
        """The name in the directory that moves; `which` decides how it is looked for."""
        name = (b"p/m", b"q/m")[which % 2]
        before = self.board.acknowledged(MOVED)
        if which < 2:
            there = self.door.send("HEAD", name).status == 200
        elif which < 4:
            there = os.access(self.root + b"/" + name, os.F_OK)
        else:
            there = name[:1] in os.listdir(self.root)
        after = self.board.begun(MOVED)
        wanted = {generation % 2 == (name == b"p/m") for generation in range(before, after + 1)}
        assert there in wanted, f"{name!r} by way {which}: {there}, between {before} and {after}"

    def listed(self, which: int) -> None:
        """All of a directory by readdir, with sizes by stat of what was found."""
        directory, _, name = NAMES[which].rpartition(b"/")
        before = self.board.acknowledged(which)
        try:
            there = name in os.listdir(self.root + b"/" + directory)
        except FileNotFoundError:
            there = False
        after = self.board.begun(which)
        wanted = {generation % 2 == 1 for generation in range(before, after + 1)}
        assert there in wanted, f"readdir {NAMES[which]!r}: {there}, between {before} and {after}"

    def descend(self, which: int) -> None:
        """From a directory that was opened before: no path is walked but the name."""
        directory, _, name = NAMES[which].rpartition(b"/")
        try:
            descriptor = os.open(self.root + b"/" + directory, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return
        try:
            before = self.board.acknowledged(which)
            try:
                seen: int | None = os.stat(name, dir_fd=descriptor).st_size - SIZE_BASE
            except FileNotFoundError:
                seen = None
            except OSError as error:  # a directory that vanished and came again is another one
                if error.errno != errno.ESTALE:
                    raise
                return
            if directory != b"v":
                self.judge(which, before, seen, "fstatat")
        finally:
            os.close(descriptor)


# ---------------------------------------------------------------------- writing
def write(box: Box, bucket: str, board: Board, which: list[int], seed: int) -> None:
    """One process: the generations of some names."""
    door = Kernel(box, bucket)
    numbers = random.Random(seed)
    temporary = door.root + b"/t%d" % seed
    while not board.stopped:
        index = numbers.choice(which)
        generation = board.begun(index) + 1
        key = NAMES[index]
        path = door.root + b"/" + key
        mounted = numbers.random() < BY_MOUNT and not key.startswith(b"v/")
        board.begin(index, generation)
        begin = time.monotonic()
        if mounted and generation % 2:
            with open(temporary, "wb") as file:
                file.write(body(generation))
            os.rename(temporary, path)
        elif mounted:
            os.unlink(path)
        elif generation % 2:
            answer = door.send("PUT", key, body=body(generation))
            assert answer.status == 200, answer
        else:
            answer = door.send("DELETE", key)
            assert answer.status == 204, answer
        board.acknowledge(index, generation)
        took = time.monotonic() - begin
        assert took < SLOW, f"{key!r}: answered after {took:.1f} s"


def move(door: Kernel, board: Board) -> None:
    """One process: a directory to and fro."""
    paths = {1: door.root + b"/p", 0: door.root + b"/q"}
    while not board.stopped:
        generation = board.begun(MOVED) + 1
        board.begin(MOVED, generation)
        os.rename(paths[1 - generation % 2], paths[generation % 2])
        board.acknowledge(MOVED, generation)
        time.sleep(0.01)


def work_through_s3(box: Box, bucket: str, board: Board, seed: int) -> None:
    """One process: names that others make and remove through the mount, put and deleted."""
    door = Kernel(box, bucket)
    numbers = random.Random(seed)
    while not board.stopped:
        key = numbers.choice([b"w0", b"w1", b"d/w0", b"d/w1", b"d/e/w0", b"s/w0", b"s/w1"])
        begin = time.monotonic()
        if numbers.random() < 0.6:
            assert door.send("PUT", key, body=b"S3").status == 200
        else:
            assert door.send("DELETE", key).status == 204
        took = time.monotonic() - begin
        assert took < SLOW, f"{key!r}: S3 answered after {took:.1f} s"


def work_through_mount(root: bytes, board: Board, seed: int) -> None:
    """One process: everything that makes the kernel hold a directory's lock while it waits for us."""
    numbers = random.Random(seed)

    def at(name: bytes) -> bytes:
        return root + b"/" + numbers.choice([b"", b"", b"d/", b"d/", b"d/e/"]) + name

    def make(name: bytes) -> None:
        descriptor = os.open(at(name), os.O_RDWR | os.O_CREAT, 0o644)
        os.write(descriptor, b"mount")
        os.close(descriptor)

    def settle() -> None:
        descriptor = os.open(at(b""), os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def again() -> None:
        directory = root + b"/" + numbers.choice([b"s", b"t"])
        os.rename(directory, root + b"/" + numbers.choice([b"s", b"t"]))

    doings: list[Callable[[], object]] = [
        lambda: make(numbers.choice([b"w0", b"w1"])),
        lambda: make(b"m%d" % numbers.randrange(4)),
        lambda: os.unlink(at(numbers.choice([b"w0", b"w1", b"m0", b"m1"]))),
        lambda: os.rename(at(b"m%d" % numbers.randrange(4)), at(numbers.choice([b"w0", b"w1", b"m0", b"m1"]))),
        lambda: os.mkdir(at(b"x")),
        lambda: os.rmdir(at(b"x")),
        lambda: os.listdir(at(b"")),
        lambda: os.symlink("k0", at(b"l")),
        lambda: os.unlink(at(b"l")),
        lambda: os.link(at(b"m0"), at(b"h%d" % numbers.randrange(2))),
        lambda: os.unlink(at(b"h%d" % numbers.randrange(2))),
        lambda: os.chmod(at(b"m1"), 0o600 + numbers.randrange(64)),
        settle,
        settle,
        again,
    ]
    allowed = (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY, errno.ESTALE, errno.EINVAL)
    while not board.stopped:
        begin = time.monotonic()
        try:
            numbers.choice(doings)()
        except OSError as error:
            if error.errno not in allowed:
                raise
        took = time.monotonic() - begin
        assert took < SLOW, f"the mount answered after {took:.1f} s"


# ---------------------------------------------------------------------- all of them
def run(box: Box, seconds: float, seed: int) -> tuple[int, int]:
    """Generations that were written, and looks.  Raises AssertionError with what the first process said."""
    door = Kernel(box)
    board = Board(len(NAMES) + 1)
    for directory in (b"d/e", b"p"):
        os.makedirs(os.path.join(door.root, directory))
    assert door.send("PUT", b"p/m").status == 200
    board.begin(MOVED, 1)
    board.acknowledge(MOVED, 1)
    context = multiprocessing.get_context("fork")
    said = context.SimpleQueue()
    looks = context.Value("q", 0)

    def process(function: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            try:
                function(*arguments)
            except BaseException as error:
                said.put("".join(traceback.format_exception(error)))
                board.stop()
                sys.exit(1)

    def watch(number: int) -> None:
        Watcher(Kernel(box, door.bucket), board, number, looks).run()

    parts: list[tuple[object, ...]] = [(watch, seed + number) for number in range(WATCHERS)]
    for number in range(WRITERS):
        mine = list(range(number, len(NAMES), WRITERS))
        parts.append((write, box, door.bucket, board, mine, seed + number))
    parts += [(work_through_mount, door.root, board, seed + number) for number in range(WORKERS)]
    parts += [(work_through_s3, box, door.bucket, board, seed), (move, Kernel(box, door.bucket), board)]
    processes = [context.Process(target=process, args=part) for part in parts]
    for one in processes:
        one.start()
    deadline = time.monotonic() + seconds

    def changes() -> int:
        return sum(board.acknowledged(which) for which in range(len(NAMES)))

    def enough() -> bool:
        return time.monotonic() >= deadline and changes() > CHANGES_LEAST and looks.value > LOOKS_LEAST

    while not (enough() or board.stopped):
        time.sleep(0.1)
    board.stop()
    for one in processes:
        one.join(60)
        assert one.exitcode is not None, f"a process hangs, started as {one.name}"
    complaints = []
    while not said.empty():
        complaints.append(said.get())
    assert not complaints, "\n".join(complaints)
    door.close_all()
    return changes(), looks.value


def too_slow(box: Box) -> list[str]:
    """What the daemon has said of invalidations that took longer than it waits."""
    return [line for line in (box.state / "log").read_text().splitlines() if "the kernel took more than" in line]


def main() -> int:
    """The long run's entrance."""
    parser = argparse.ArgumentParser(description="Watches names through the mount while S3 changes them.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="tierce-") as directory, running(Path(directory) / "box") as box:
        generations, looks = run(box, arguments.seconds, arguments.seed)
        slow = too_slow(box)
        print(f"{generations} changes, {looks} looks; invalidations that took too long: {len(slow)}")
        return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
