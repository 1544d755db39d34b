"""Many processes change one tree at random, as fsstress does, and each knows what its part must look like.

Every process has a directory of its own, in which nobody else works, and a model of it: names, types, bytes, modes,
owners, times, links, extended attributes.  There each call must succeed or fail as the model says, and the tree must be
the model at every look.  In one more directory, where all work at once and nobody can know what is there, calls may
fail only with what a race explains, and what is left must hang together: readdir and stat agree, a file's links are as
many as its names, and each file has the bytes of one whole write.  At the end the other door must list exactly the
files that a walk finds, with their sizes.

    python -m tests.torture.stress --seed N        one run: what a process does in its own directory comes from it
    python -m tests.torture.stress --seconds S     new seeds
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.torture import kernel
from tests.torture.places import Place, exercise

PROCESSES: Final = 8
STEPS: Final = 1500  # of each process
SHARED: Final = 0.3  # of the steps are in the common directory
LOOK_EVERY: Final = 500  # steps, at the whole of one's own tree
NAMES: Final = ("a", "b", "c", "d", "é", "f" * 200, "g h", "%41", "..i", ".j")
SHARED_NAMES: Final = ("p", "q", "r", "s")
SIZES: Final = (0, 1, 100, 2048, 2049, 10_000, 131_073, 400_000)
ATTRIBUTES: Final = ("user.one", "user.two", "user.meta.three")
POOL: Final = random.Random(1).randbytes(1 << 20)

# What may meet a call in a directory where others work.
RACES: Final = {
    errno.ENOENT,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EINVAL,  # a directory into itself; exchange of unlike things
    errno.EPERM,  # link(2) of a directory
    errno.ELOOP,
    errno.ENODATA,
    errno.EXDEV,
}


@dataclass
class Inode:
    """What several names may share."""

    kind: str  # "file", "directory", "symlink"
    mode: int
    data: bytearray = field(default_factory=bytearray)
    names: dict[str, Inode] = field(default_factory=dict)
    target: str = ""
    links: int = 1
    attributes: dict[str, bytes] = field(default_factory=dict)
    mtime_ns: int = 0  # where it was set and nothing has changed it since

    def walk(self, path: Path) -> Iterator[tuple[Path, Inode]]:
        """Everything below."""
        for name, child in self.names.items():
            yield path / name, child
            yield from child.walk(path / name)


class Wrong(AssertionError):
    """The tree is not the model, or does not hang together."""


class Own:
    """One process's own directory and its model."""

    def __init__(self, directory: Path, rng: random.Random, *, versioned: bool) -> None:
        self.rng = rng
        self.path = directory
        self.versioned = versioned  # where there are no hard links, nor an exchange of directories
        self.root = Inode("directory", 0o755)
        self.open: list[tuple[int, Inode]] = []  # descriptors of files, perhaps without a name
        directory.mkdir()

    # ------------------------------------------------------------------ choosing
    def directory(self) -> tuple[Path, Inode]:
        """Any directory of the tree."""
        found = [(path, node) for path, node in self.root.walk(self.path) if node.kind == "directory"]
        return self.rng.choice([(self.path, self.root), *found])

    def place(self) -> tuple[Path, Inode, str]:
        """Any name in any directory, there or not."""
        path, node = self.directory()
        return path, node, self.rng.choice(NAMES)

    def existing(self, *kinds: str) -> tuple[Path, Inode] | None:
        """Anything of these kinds."""
        found = [(path, node) for path, node in self.root.walk(self.path) if node.kind in kinds]
        return self.rng.choice(found) if found else None

    def bytes(self) -> bytes:
        size = self.rng.choice(SIZES)
        start = self.rng.randrange(len(POOL) - size)
        return POOL[start : start + size]

    def expect(self, number: int, call: Callable[..., object], *words: Any) -> None:
        """`call` fails with `number`, 0 is success."""
        try:
            call(*words)
            got = 0
        except OSError as error:
            got = error.errno or -1
        if got != number:
            words = tuple(str(word).replace(NAMES[5], "fff…") for word in words)
            shown = [errno.errorcode.get(each, "success") for each in (got, number)]
            raise Wrong(f"{getattr(call, '__name__', call)}{words}: {shown[0]} instead of {shown[1]}")

    # ------------------------------------------------------------------ steps
    def create(self) -> None:
        path, node, name = self.place()
        data = self.bytes()
        found = node.names.get(name)
        if found is not None and found.kind != "file":
            number = errno.EISDIR if found.kind == "directory" else errno.EEXIST
            self.expect(errno.EEXIST, os.open, path / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            if found.kind == "directory":
                self.expect(number, os.open, path / name, os.O_CREAT | os.O_WRONLY)
            return
        descriptor = os.open(path / name, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o640)
        if found is None:
            found = node.names[name] = Inode("file", 0o640)
        os.write(descriptor, data)
        found.data[:] = data
        found.mtime_ns = 0
        if self.rng.random() < 0.1:
            os.fsync(descriptor)
        if self.rng.random() < 0.3:
            self.open.append((descriptor, found))
        else:
            os.close(descriptor)

    def mkdir(self) -> None:
        path, node, name = self.place()
        if len(path.parts) > len(self.path.parts) + 5:
            return
        self.expect(errno.EEXIST if name in node.names else 0, os.mkdir, path / name, 0o750)
        node.names.setdefault(name, Inode("directory", 0o750))

    def symlink(self) -> None:
        path, node, name = self.place()
        target = self.rng.choice((*NAMES, "../a/b", "x" * 1000))
        self.expect(errno.EEXIST if name in node.names else 0, os.symlink, target, path / name)
        node.names.setdefault(name, Inode("symlink", 0o777, target=target))

    def link(self) -> None:
        found = self.existing("file")
        path, node, name = self.place()
        if found is None:
            return
        old, inode = found
        number = errno.EEXIST if name in node.names else errno.EPERM if self.versioned else 0
        self.expect(number, os.link, old, path / name)
        if not number:
            node.names[name] = inode
            inode.links += 1

    def unlink(self) -> None:
        path, node, name = self.place()
        found = node.names.get(name)
        number = errno.ENOENT if found is None else errno.EISDIR if found.kind == "directory" else 0
        self.expect(number, os.unlink, path / name)
        if found is not None and not number:
            del node.names[name]
            found.links -= 1

    def rmdir(self) -> None:
        path, node, name = self.place()
        found = node.names.get(name)
        number = errno.ENOENT if found is None else errno.ENOTDIR if found.kind != "directory" else 0
        if found is not None and found.names:
            number = errno.ENOTEMPTY
        self.expect(number, os.rmdir, path / name)
        if not number:
            del node.names[name]

    def rename(self) -> None:
        """renameat2(2) with every flag."""
        path, node, name = self.place()
        to_path, to_node, to_name = self.place()
        flags = self.rng.choice((0, 0, 0, kernel.NOREPLACE, kernel.EXCHANGE))
        source, target = node.names.get(name), to_node.names.get(to_name)
        old, new = path / name, to_path / to_name
        number = self.of_rename(source, target, old, new, flags)
        if not number and flags == kernel.EXCHANGE and "directory" in self.kinds(source, target):
            number = refusal(old, new)
        else:
            self.expect(number, kernel.rename, old, new, flags)
        if number or source is target:
            return
        assert source is not None
        if flags == kernel.EXCHANGE:
            assert target is not None
            node.names[name], to_node.names[to_name] = target, source
            return
        if target is not None:
            target.links -= 1
        del node.names[name]
        to_node.names[to_name] = source

    def of_rename(self, source: Inode | None, target: Inode | None, old: Path, new: Path, flags: int) -> int:
        """How it ends: rename(2).  What several errors explain is judged in the kernel's order."""
        if source is None:
            return errno.ENOENT
        if flags == kernel.NOREPLACE and target is not None:
            return errno.EEXIST
        if flags == kernel.EXCHANGE and target is None:
            return errno.ENOENT
        if old != new and new.is_relative_to(old):
            return errno.EINVAL
        if old != new and old.is_relative_to(new):
            return errno.EINVAL if flags == kernel.EXCHANGE else errno.ENOTEMPTY
        if target is None or source is target:
            return 0
        if flags == kernel.EXCHANGE:
            return 0
        if self.kinds(source, target) > {"directory"}:
            return errno.EISDIR if target.kind == "directory" else errno.ENOTDIR
        return errno.ENOTEMPTY if target.names else 0

    def kinds(self, *nodes: Inode | None) -> set[str]:
        """Of what is there."""
        return {node.kind for node in nodes if node is not None}

    def chmod(self) -> None:
        found = self.existing("file", "directory")
        if found is not None:
            found[1].mode = self.rng.choice((0o600, 0o644, 0o755, 0o700))
            os.chmod(found[0], found[1].mode)

    def utime(self) -> None:
        found = self.existing("file")
        if found is not None:
            found[1].mtime_ns = self.rng.randrange(1, 1 << 61)
            os.utime(found[0], ns=(1, found[1].mtime_ns))

    def attribute(self) -> None:
        found = self.existing("file", "directory")
        if found is None:
            return
        path, node = found
        name = self.rng.choice(ATTRIBUTES)
        if self.rng.random() < 0.3:
            self.expect(0 if name in node.attributes else errno.ENODATA, os.removexattr, path, name)
            node.attributes.pop(name, None)
        else:
            node.attributes[name] = b"value %d" % self.rng.randrange(1000)
            os.setxattr(path, name, node.attributes[name])

    def truncate(self) -> None:
        found = self.existing("file")
        if found is None:
            return
        path, node = found
        size = self.rng.choice(SIZES)
        os.truncate(path, size)
        node.data[:] = node.data[:size].ljust(size, b"\0")
        node.mtime_ns = 0

    def write(self) -> None:
        """Into an open file or through a name."""
        if self.open and self.rng.random() < 0.6:
            descriptor, node = self.rng.choice(self.open)
            close = -1
        else:
            found = self.existing("file")
            if found is None:
                return
            node = found[1]
            descriptor = close = os.open(found[0], os.O_RDWR)
        data, offset = self.bytes()[:50_000], self.rng.randrange(60_000)
        os.pwrite(descriptor, data, offset)
        if data:
            node.data.extend(bytes(max(0, offset - len(node.data))))
            node.data[offset : offset + len(data)] = data
            node.mtime_ns = 0
        if close >= 0:
            os.close(close)

    def close(self) -> None:
        """An open file, checked first: it may have lost its names meanwhile."""
        if not self.open:
            return
        descriptor, node = self.open.pop(self.rng.randrange(len(self.open)))
        facts = os.fstat(descriptor)
        if facts.st_nlink != node.links or facts.st_size != len(node.data):
            raise Wrong(f"an open file has {facts}, {node.links} links and {len(node.data)} bytes in the model")
        if os.pread(descriptor, len(node.data) + 1, 0) != node.data:
            raise Wrong(f"an open file with {node.links} links has other bytes than the model")
        os.close(descriptor)

    def close_all(self) -> None:
        while self.open:
            self.close()

    def look(self) -> None:
        """The tree is the model."""
        seen: dict[int, int] = {}
        for path, node in [(self.path, self.root), *self.root.walk(self.path)]:
            self.compare(path, node, os.lstat(path))
            number = os.lstat(path).st_ino
            if seen.setdefault(id(node), number) != number:
                raise Wrong(f"{path}: another inode number than its other names have")

    def compare(self, path: Path, node: Inode, facts: os.stat_result) -> None:
        shown = {stat.S_IFREG: "file", stat.S_IFDIR: "directory", stat.S_IFLNK: "symlink"}[stat.S_IFMT(facts.st_mode)]
        if shown != node.kind or (node.kind != "symlink" and stat.S_IMODE(facts.st_mode) != node.mode):
            raise Wrong(f"{path}: {facts} is not a {node.kind} of mode {node.mode:o}")
        if node.kind == "directory":
            if sorted(os.listdir(path)) != sorted(node.names):
                raise Wrong(f"{path}: {sorted(os.listdir(path))} instead of {sorted(node.names)}")
        elif node.kind == "symlink":
            if os.readlink(path) != node.target:
                raise Wrong(f"{path}: leads to {os.readlink(path)} instead of {node.target}")
        else:
            if facts.st_nlink != node.links or facts.st_size != len(node.data) or path.read_bytes() != node.data:
                raise Wrong(f"{path}: {facts}, {node.links} links and {len(node.data)} bytes in the model, or others")
            if node.mtime_ns and facts.st_mtime_ns != node.mtime_ns:
                raise Wrong(f"{path}: mtime {facts.st_mtime_ns} instead of {node.mtime_ns}")
        if node.kind != "symlink":
            found = {name: os.getxattr(path, name) for name in os.listxattr(path) if name.startswith("user.")}
            if found != node.attributes:
                raise Wrong(f"{path}: attributes {found} instead of {node.attributes}")


def refusal(old: Path, new: Path) -> int:
    """0 where directories can be exchanged, as on Linux's own file systems, also for files; EINVAL where not."""
    try:
        kernel.rename(old, new, kernel.EXCHANGE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return errno.EINVAL
    return 0


OWN_STEPS: Final[dict[Callable[[Own], None], float]] = {
    Own.create: 8,
    Own.mkdir: 4,
    Own.symlink: 1.5,
    Own.link: 3,
    Own.unlink: 6,
    Own.rmdir: 3,
    Own.rename: 8,
    Own.chmod: 2,
    Own.utime: 1,
    Own.attribute: 2,
    Own.truncate: 2,
    Own.write: 5,
    Own.close: 4,
}


# ---------------------------------------------------------------------- the common directory
def stamp(seed: int) -> bytes:
    """A file's whole content, which says how long it is."""
    rng = random.Random(seed)
    size = rng.choice(SIZES)
    head = b"%d:%d\n" % (seed, size)
    return head + POOL[: max(size - len(head), 0)]


def shared_step(directory: Path, rng: random.Random) -> None:
    """Something that others may be in the midst of."""

    def path() -> Path:
        depth = rng.choice((1, 1, 2, 2, 3))
        return directory.joinpath(*(rng.choice(SHARED_NAMES) for _ in range(depth)))

    one, other = path(), path()
    kind = rng.randrange(11)
    try:
        if kind in (0, 1):
            temporary = directory / f".new-{os.getpid()}"
            temporary.write_bytes(stamp(rng.getrandbits(30)))
            try:
                kernel.rename(temporary, one, rng.choice((0, 0, kernel.NOREPLACE)))
            except OSError:
                temporary.unlink()
                raise
        elif kind == 2:
            one.mkdir()
        elif kind == 3:
            one.unlink()
        elif kind == 4:
            one.rmdir()
        elif kind in (5, 6):
            kernel.rename(one, other, rng.choice((0, 0, kernel.NOREPLACE, kernel.EXCHANGE)))
        elif kind == 7:
            os.link(one, other)
        elif kind == 8:
            os.symlink(other.name, one)
        elif kind == 9:
            check_whole(one)
        else:
            for entry in os.scandir(one):
                entry.stat(follow_symlinks=False)
    except OSError as error:
        if error.errno not in RACES:
            raise


def check_whole(path: Path) -> None:
    """A file has the bytes of one write."""
    content = path.read_bytes()
    head = content.partition(b"\n")[0]
    if not content or content != stamp(int(head.partition(b":")[0])):
        raise Wrong(f"{path}: {len(content)} bytes that nobody wrote as a whole: {content[:40]!r}")


def check_shared(directory: Path) -> None:
    """Nobody works there any more: it hangs together."""
    links: dict[int, int] = {}
    told: dict[int, int] = {}
    for path, directories, files in os.walk(directory):
        for name in (*directories, *files):
            facts = os.lstat(Path(path) / name)
            if stat.S_ISDIR(facts.st_mode):
                continue
            links[facts.st_ino] = links.get(facts.st_ino, 0) + 1
            told[facts.st_ino] = facts.st_nlink
            if stat.S_ISREG(facts.st_mode):
                check_whole(Path(path) / name)
    if links != told:
        raise Wrong(f"names of inodes: {links}; as stat tells: {told}")


# ---------------------------------------------------------------------- runs
def one_process(place: Place, seed: int, number: int, steps: int) -> None:
    """A process's whole life."""
    rng = random.Random(seed * PROCESSES + number)
    races = random.Random(rng.getrandbits(60))  # one's own tree does not depend on how races end
    own = Own(place.directory / f"own-{number}", rng, versioned=place.kind == "versioned")
    done: list[str] = []
    try:
        for step in range(steps):
            if races.random() < SHARED:
                shared_step(place.directory / "shared", races)
                continue
            does = rng.choices(list(OWN_STEPS), list(OWN_STEPS.values()))[0]
            done.append(does.__name__)
            does(own)
            if step % LOOK_EVERY == LOOK_EVERY - 1:
                own.look()
        own.close_all()
        own.look()
    except BaseException as error:
        error.add_note(f"process {number}, after {len(done)} steps of its own, the last: {done[-5:]}")
        raise


def _process(queue: Any, place: Place, seed: int, number: int, steps: int) -> None:
    try:
        one_process(place, seed, number, steps)
        queue.put("")
    except BaseException as error:
        queue.put("\n".join((f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ()))))


def run(place: Place, seed: int, steps: int = STEPS) -> int:
    """One run in a new directory; how many steps it had.  Raises Wrong with what the processes said."""
    inside = place.below(f"stress-{seed}")
    (inside.directory / "shared").mkdir()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [
        context.Process(target=_process, args=(queue, inside, seed, number, steps)) for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    said = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    failures = [each for each in said if each]
    if failures:
        raise Wrong("\n".join((f"replay: python -m tests.torture.stress --seed {seed}", *failures)))
    check_shared(inside.directory / "shared")
    check_other_door(place, inside.directory)
    return steps * PROCESSES


def check_other_door(place: Place, directory: Path) -> None:
    """S3 lists the files that a walk finds, and no others."""
    client = place.s3()
    if client is None:
        return
    walked = {}
    for path, _, files in os.walk(directory):
        for name in files:
            facts = os.lstat(Path(path) / name)
            if stat.S_ISREG(facts.st_mode):
                walked[str((Path(path) / name).relative_to(place.directory))] = facts.st_size
    prefix = f"{directory.relative_to(place.directory)}/"
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=prefix)
    listed = {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", [])}
    if listed != walked:
        wrong = sorted(set(listed.items()) ^ set(walked.items()))
        raise Wrong(f"S3 lists {len(listed)} files, a walk finds {len(walked)}; not in both: {wrong[:20]}")


if __name__ == "__main__":
    sys.exit(exercise(__doc__, "stress", run))
