"""Random operations on two files, each checked against bytes in memory: what fsx of 1991 does, and more.

Whatever a program can do to the bytes of an open file is done here, at random and from a seed: read, write, append,
truncate up and down, map and write through the mapping, direct I/O around the page cache, holes, ranges of zeros,
copies within and between the files, fsync, throwing the kernel's pages away, closing and opening again.  After each
operation the size must be the model's; each read, through whatever path, must show the model's bytes, zeros where
nothing was written, and so must the other door after an fsync.

A profile fixes how large files and operations are and what they are aligned to, since bugs live at borders: of a page,
of what is stored inline, of what is gathered, of a chunk.  The sequence of operations depends on the seed alone, never
on what a read returns, so it can be run again; what fails is run again with fewer and fewer operations until each that
is left is needed, and these are printed.

    python -m tests.torture.fsx --seed N --profile NAME     one run of one profile
    python -m tests.torture.fsx --seconds S                 new seeds, all profiles in turn
"""

from __future__ import annotations

import errno
import itertools
import mmap
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from appliance.limits import CHUNK_SIZE, FILE_SIZE_MAX, GATHER_MAX, INLINE_MAX, KIB, MIB
from tests.torture import kernel
from tests.torture.kernel import PAGE
from tests.torture.places import Place, arguments, chosen

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

POOL: Final = random.Random(1991).randbytes(10 * MIB)  # what is written is somewhere in here
FILES: Final = 2
OPEN_DIRECT: Final = os.O_RDWR | os.O_DIRECT  # around the page cache
SHRINK_SECONDS: Final = 60.0
SHOWN_MAX: Final = 60


@dataclass(frozen=True)
class Profile:
    """Bounds of one run."""

    size_max: int  # of a file
    length_max: int  # of one operation
    align: int  # of offsets and lengths
    operations: int  # in one run
    base: int = 0  # where the model begins in the file; a hole before


PROFILES: Final = {
    "inline": Profile(INLINE_MAX + 200, 700, 1, 20_000),
    "small": Profile(40 * KIB, 9 * KIB, 1, 25_000),
    "gathered": Profile(2 * GATHER_MAX, GATHER_MAX + 5000, 1, 25_000),
    "pages": Profile(MIB, 64 * KIB, PAGE, 15_000),
    "sectors": Profile(512 * KIB, 40 * KIB, 512, 10_000),
    "chunks": Profile(3 * CHUNK_SIZE + 12_345, MIB, 1, 4_500),
    "large": Profile(150 * MIB, 9 * MIB, 1, 200),  # past what a file may keep in memory
    "far": Profile(300 * KIB, 40 * KIB, 1, 5_000, base=FILE_SIZE_MAX - 300 * KIB),  # all before it is one hole
}


class Step(NamedTuple):
    """One operation on one file.  `seed` chooses what is written, or what an operation needs besides."""

    number: int
    kind: str
    file: int
    offset: int
    length: int
    seed: int

    def touches(self, file: int, at: int) -> bool:
        """Whether it may have changed that byte."""
        return self.file == file and (self.kind in EVERYWHERE or self.offset <= at < self.offset + self.length)


# kind -> how often
WEIGHTS: Final = {
    "read": 20,
    "write": 22,
    "append": 4,
    "truncate": 6,
    "map_read": 8,
    "map_write": 9,
    "direct_read": 3,
    "direct_write": 3,
    "punch": 6,
    "zero": 5,
    "allocate": 1,
    "copy": 5,
    "holes": 1,
    "fsync": 0.8,
    "fdatasync": 0.4,
    "forget": 1,
    "reopen": 2,
    "empty": 0.2,
    "caches": 0.02,
    "other_door": 0.4,
}
NEEDS: Final = {"punch": "fallocate", "zero": "fallocate", "allocate": "fallocate", "holes": "holes", "copy": "copy"}
EVERYWHERE: Final = {"truncate", "empty", "append", "fsync", "fdatasync", "forget", "reopen", "caches", "copy"}


class Wrong(AssertionError):
    """The file system showed something else than the model."""

    def __init__(self, step: Step, message: str, at: int = -1) -> None:
        super().__init__(f"{step}: {message}")
        self.step = step
        self.at = at


def steps(seed: int, profile: Profile, kinds: Sequence[str]) -> Iterator[Step]:
    """The operations of a run: of the seed alone, without end."""
    rng = random.Random(seed)
    weights = [WEIGHTS[kind] for kind in kinds]
    for number in itertools.count():
        kind = rng.choices(kinds, weights)[0]
        align = PAGE if kind.startswith("direct") else profile.align
        offset = rng.randrange(profile.size_max) // align * align
        length = -(-rng.randrange(1, profile.length_max + 1) // align) * align
        if rng.random() < 0.1:  # at a border that something inside may have
            border = rng.choice((PAGE, INLINE_MAX, 64 * KIB, GATHER_MAX, MIB, CHUNK_SIZE))
            offset = offset // border * border
        if kind != "truncate":
            length = min(length, profile.size_max - offset) // align * align
            if not length:
                kind = "truncate"
        yield Step(number, kind, rng.randrange(FILES), offset, length, rng.getrandbits(22))


class Run:
    """Two files and what they should be."""

    def __init__(self, place: Place, s3: S3Client | None, name: str, profile: Profile) -> None:
        self.place = place
        self.s3 = s3
        self.profile = profile
        self.base = profile.base
        self.names = [f"{name}-{number}" for number in range(FILES)]
        self.paths = [place.directory / each for each in self.names]
        self.models = [bytearray() for _ in range(FILES)]
        self.descriptors = [os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644) for path in self.paths]
        self.appending = [os.open(path, os.O_WRONLY | os.O_APPEND) for path in self.paths]
        self.direct = [os.open(path, OPEN_DIRECT) for path in self.paths]
        for descriptor in self.descriptors:
            os.ftruncate(descriptor, self.base)

    def close(self) -> None:
        """Removes the files."""
        for descriptor in (*self.descriptors, *self.appending, *self.direct):
            if descriptor >= 0:
                os.close(descriptor)
        for path in self.paths:
            path.unlink()

    def apply(self, step: Step) -> None:
        """Does it to the file and to the model, and compares.  Raises Wrong, OSError."""
        getattr(self, step.kind)(step)
        size = os.fstat(self.descriptors[step.file]).st_size - self.base
        if size != len(self.models[step.file]):
            raise Wrong(step, f"the file has {size} bytes, the model {len(self.models[step.file])}")

    def finish(self, step: Step) -> None:
        """Every byte of every file: as cached, as stored, as the other door has it."""
        for file in range(FILES):
            last = step._replace(kind="read", file=file, offset=0, length=len(self.models[file]))
            for look in (self.read, self.forget, self.read, self.reopen, self.read, self.other_door):
                look(last)

    # ------------------------------------------------------------------ reading
    def compare(self, step: Step, found: bytes | bytearray | memoryview, path: str, offset: int) -> None:
        wanted = memoryview(self.models[step.file])[offset : offset + len(found)]
        if found == wanted:
            return
        at = next(index for index, (one, two) in enumerate(zip(found, wanted, strict=True)) if one != two)
        count = sum(one != two for one, two in zip(found, wanted, strict=True))
        shown = f"{bytes(found[at : at + 16]).hex()} instead of {bytes(wanted[at : at + 16]).hex()}"
        raise Wrong(step, f"{path}: {count} wrong bytes from {offset + at} ({offset + at:#x}): {shown}", offset + at)

    def expect(self, step: Step, got: int, wanted: int, what: str) -> None:
        if got != wanted:
            raise Wrong(step, f"{what}: {got} bytes instead of {wanted}")

    def read(self, step: Step) -> None:
        model = self.models[step.file]
        found = os.pread(self.descriptors[step.file], step.length, self.base + step.offset)
        self.expect(step, len(found), min(step.length, max(len(model) - step.offset, 0)), "pread")
        self.compare(step, found, "read", step.offset)

    def map_read(self, step: Step) -> None:
        end = min(step.offset + step.length, len(self.models[step.file]))
        if step.offset >= end:
            return
        start = step.offset // PAGE * PAGE
        with mmap.mmap(
            self.descriptors[step.file], end - start, mmap.MAP_SHARED, mmap.PROT_READ, offset=self.base + start
        ) as view:
            self.compare(step, view[step.offset - start : end - start], "mapping", step.offset)

    def direct_read(self, step: Step) -> None:
        model = self.models[step.file]
        with mmap.mmap(-1, step.length) as buffer:
            count = os.preadv(self.direct[step.file], [buffer], self.base + step.offset)
            self.expect(step, count, min(step.length, max(len(model) - step.offset, 0)), "direct preadv")
            self.compare(step, buffer[:count], "direct read", step.offset)

    def holes(self, step: Step) -> None:
        """lseek(2): from any place there is data and then a hole, or a hole and then data; what is not zero is data."""
        model, at = self.models[step.file], step.offset
        while at < len(model):
            data = self.seek(step, at, os.SEEK_DATA)
            if model.count(0, at, data) != data - at:
                raise Wrong(step, f"[{at}, {data}) is told to be a hole", at)
            hole = self.seek(step, at, os.SEEK_HOLE)
            if min(data, hole) != at or max(data, hole) == at:
                raise Wrong(step, f"from {at} data begins at {data} and a hole at {hole}", at)
            at = max(data, hole)

    def seek(self, step: Step, at: int, whence: int) -> int:
        """The end of the file where there is no data any more."""
        try:
            return os.lseek(self.descriptors[step.file], self.base + at, whence) - self.base
        except OSError as error:
            if error.errno != errno.ENXIO or whence != os.SEEK_DATA:
                raise
            return len(self.models[step.file])

    def other_door(self, step: Step) -> None:
        """S3 shows what was synced, whole or in part."""
        os.fsync(self.descriptors[step.file])
        if self.s3 is None:
            return
        model, name = self.models[step.file], self.names[step.file]
        if not self.base and (step.offset >= len(model) or step.seed % 4 == 0):
            found = self.s3.get_object(Bucket=self.place.bucket, Key=name)["Body"].read()
            self.expect(step, len(found), len(model), "GetObject")
            self.compare(step, found, "GetObject", 0)
            return
        end = min(step.offset + step.length, len(model))
        if step.offset >= end:
            return
        wanted = f"bytes={self.base + step.offset}-{self.base + end - 1}"
        answer = self.s3.get_object(Bucket=self.place.bucket, Key=name, Range=wanted)
        found = answer["Body"].read()
        self.expect(step, len(found), end - step.offset, "GetObject of a range")
        self.compare(step, found, "GetObject of a range", step.offset)

    # ------------------------------------------------------------------ writing
    def put(self, file: int, offset: int, data: bytes) -> None:
        """Into the model."""
        model = self.models[file]
        if offset > len(model):
            model.extend(bytes(offset - len(model)))
        model[offset : offset + len(data)] = data

    def content(self, step: Step) -> bytes:
        """What the step writes: of its seed alone, never a zero too many."""
        start = step.seed % (len(POOL) - step.length)
        return POOL[start : start + step.length]

    def write(self, step: Step) -> None:
        data = self.content(step)
        self.expect(step, os.pwrite(self.descriptors[step.file], data, self.base + step.offset), len(data), "pwrite")
        self.put(step.file, step.offset, data)

    def append(self, step: Step) -> None:
        model = self.models[step.file]
        if len(model) + step.length > self.profile.size_max:
            return
        data = self.content(step)
        self.expect(step, os.write(self.appending[step.file], data), len(data), "write with O_APPEND")
        self.put(step.file, len(model), data)

    def map_write(self, step: Step) -> None:
        """Through a shared mapping, as far as the file goes; a file that ends before grows first, as fsx does."""
        model, descriptor, end = self.models[step.file], self.descriptors[step.file], step.offset + step.length
        if end > len(model):
            os.ftruncate(descriptor, self.base + end)
            model.extend(bytes(end - len(model)))
        start = step.offset // PAGE * PAGE
        with mmap.mmap(
            descriptor, end - start, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=self.base + start
        ) as view:
            view[step.offset - start :] = self.content(step)
            if step.seed % 8 == 0:  # otherwise munmap(2) alone: the pages come when they come
                view.flush()
        self.put(step.file, step.offset, self.content(step))

    def direct_write(self, step: Step) -> None:
        with mmap.mmap(-1, step.length) as buffer:
            buffer[:] = self.content(step)
            self.expect(
                step,
                os.pwritev(self.direct[step.file], [buffer], self.base + step.offset),
                step.length,
                "direct pwritev",
            )
        self.put(step.file, step.offset, self.content(step))

    def truncate(self, step: Step) -> None:
        model = self.models[step.file]
        if step.seed % 2:
            os.ftruncate(self.descriptors[step.file], self.base + step.offset)
        else:
            os.truncate(self.paths[step.file], self.base + step.offset)
        del model[step.offset :]
        model.extend(bytes(step.offset - len(model)))

    def empty(self, step: Step) -> None:
        """open(2) with O_TRUNC, while it is open already."""
        os.close(os.open(self.paths[step.file], os.O_WRONLY | os.O_TRUNC))
        os.ftruncate(self.descriptors[step.file], self.base)
        self.models[step.file].clear()

    def punch(self, step: Step) -> None:
        model, end = self.models[step.file], min(step.offset + step.length, len(self.models[step.file]))
        mode = kernel.PUNCH_HOLE | kernel.KEEP_SIZE
        kernel.fallocate(self.descriptors[step.file], mode, self.base + step.offset, step.length)
        if end > step.offset:
            model[step.offset : end] = bytes(end - step.offset)

    def zero(self, step: Step) -> None:
        keep = step.seed % 2
        mode = kernel.ZERO_RANGE | (kernel.KEEP_SIZE if keep else 0)
        kernel.fallocate(self.descriptors[step.file], mode, self.base + step.offset, step.length)
        size = len(self.models[step.file])
        end = min(step.offset + step.length, size) if keep else step.offset + step.length
        if end > step.offset:
            self.put(step.file, step.offset, bytes(end - step.offset))

    def allocate(self, step: Step) -> None:
        keep = step.seed % 2
        kernel.fallocate(self.descriptors[step.file], keep and kernel.KEEP_SIZE, self.base + step.offset, step.length)
        model = self.models[step.file]
        if not keep and step.offset + step.length > len(model):
            model.extend(bytes(step.offset + step.length - len(model)))

    def copy(self, step: Step) -> None:
        """copy_file_range(2), from the other file or from elsewhere in this one."""
        source = step.seed % FILES
        model = self.models[source]
        start = step.seed * 7919 % (len(model) + 1)
        start -= start % (step.offset & -step.offset if step.seed % 3 and step.offset else 1)  # alike aligned, mostly
        length = min(step.length, len(model) - start)
        if source == step.file and start < step.offset + length and step.offset < start + length:
            return  # EINVAL: they overlap
        data, done = bytes(model[start : start + length]), 0
        while done < length:
            into = self.descriptors[step.file]
            count = os.copy_file_range(
                self.descriptors[source], into, length - done, self.base + start + done, self.base + step.offset + done
            )
            if count <= 0:
                raise Wrong(step, f"copy_file_range copied {done} of {length}, then {count}")
            done += count
        if length:
            self.put(step.file, step.offset, data)

    # ------------------------------------------------------------------ what changes nothing
    def fsync(self, step: Step) -> None:
        os.fsync(self.descriptors[step.file])

    def fdatasync(self, step: Step) -> None:
        os.fdatasync(self.descriptors[step.file])

    def forget(self, step: Step) -> None:
        """The kernel's clean pages go: what is read next comes from us."""
        os.fsync(self.descriptors[step.file])
        os.posix_fadvise(self.descriptors[step.file], 0, 0, os.POSIX_FADV_DONTNEED)

    def caches(self, step: Step) -> None:
        kernel.drop_caches()

    def reopen(self, step: Step) -> None:
        ways = (self.descriptors, os.O_RDWR), (self.appending, os.O_WRONLY | os.O_APPEND), (self.direct, OPEN_DIRECT)
        for descriptors, _ in ways:
            descriptor, descriptors[step.file] = descriptors[step.file], -1  # gone, also where close(2) fails
            os.close(descriptor)
        for descriptors, flags in ways:
            descriptors[step.file] = os.open(self.paths[step.file], flags)


# ---------------------------------------------------------------------- runs
class Exerciser:
    """Runs of one place."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.s3 = place.s3()
        self.absent = kernel.missing(place.directory)
        self.kinds = [kind for kind in WEIGHTS if NEEDS.get(kind) not in self.absent]
        self._numbers = itertools.count()

    def run(self, seed: int, name: str, operations: int = 0) -> int:
        """One run of a profile, and how many operations it had.  Its failure says what is needed for it."""
        profile = PROFILES[name]
        done: list[Step] = []
        error = self.attempt(
            itertools.islice(steps(seed, profile, self.kinds), operations or profile.operations), profile, done
        )
        if error is None:
            return len(done)
        error.add_note(f"replay: python -m tests.torture.fsx --seed {seed} --profile {name} --operations {len(done)}")
        error.add_note("\n".join(self.explain(done, profile, error)))
        raise error

    def attempt(self, wanted: Iterator[Step], profile: Profile, done: list[Step]) -> Exception | None:
        """Runs operations on new files until one fails; `done` takes those that were begun."""
        run = Run(self.place, self.s3, f"fsx-{os.getpid()}-{next(self._numbers)}", profile)
        failed: Exception | None = None
        try:
            for step in wanted:
                done.append(step)
                run.apply(step)
            run.finish(Step(len(done), "read", 0, 0, 1, 0))
        except (OSError, Wrong) as error:
            error.add_note(f"in {done[-1]}")
            failed = error
        try:
            run.close()
        except OSError as error:
            error.add_note("when the files were removed")
            failed = failed or error
        return failed

    def explain(self, done: list[Step], profile: Profile, error: Exception) -> list[str]:
        """The fewest operations that still fail; where they do not fail again, those that touched the wrong byte."""
        needed = self.shrink(done, profile, time.monotonic() + SHRINK_SECONDS)
        if len(needed) < len(done):
            return [f"{len(needed)} of {len(done)} operations still fail:", *map(str, needed[-SHOWN_MAX:])]
        touching = [
            step for step in done[:-1] if not isinstance(error, Wrong) or step.touches(error.step.file, error.at)
        ]
        return ["not seen again; what touched the wrong place:", *map(str, touching[-SHOWN_MAX:])]

    def shrink(self, done: list[Step], profile: Profile, deadline: float) -> list[Step]:
        """Leaves out ever smaller parts as long as it fails without them (Zeller, Hildebrandt: ddmin)."""
        needed, part = list(done), len(done)
        while part >= 1 and time.monotonic() < deadline:
            start = 0
            while start < len(needed) and time.monotonic() < deadline:
                tried = needed[:start] + needed[start + part :]
                begun: list[Step] = []
                if self.attempt(iter(tried), profile, begun) is not None:
                    needed = begun
                else:
                    start += part
            part //= 2
        return needed


def main() -> int:
    """The long run's entrance."""
    parser = arguments(__doc__.partition("\n")[0])
    parser.add_argument("--profile", choices=PROFILES, action="append", help="only these")
    parser.add_argument("--operations", type=int, default=0, help="in one run")
    options = parser.parse_args()
    profiles = options.profile or list(PROFILES)
    failed, count, runs = [], 0, 0
    begin = time.monotonic()
    with chosen(options) as place:
        exerciser = Exerciser(place)
        if exerciser.absent:
            print("not there:", *sorted(exerciser.absent))
        while runs == 0 or (options.seed is None and time.monotonic() - begin < options.seconds):
            seed = options.first + runs if options.seed is None else options.seed
            for name in profiles if options.seed is not None else [profiles[runs % len(profiles)]]:
                try:
                    count += exerciser.run(seed, name, options.operations)
                except (OSError, Wrong) as error:
                    failed.append((seed, name))
                    print(f"{error!r}", *getattr(error, "__notes__", ()), sep="\n", flush=True)
            runs += 1
    print(f"fsx: {runs} runs, {count} operations, {time.monotonic() - begin:.0f} s; failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
