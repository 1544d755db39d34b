"""Programs that never heard of us do a day's work on the mount, and check it themselves.

git       a repository with history: clone, commit, gc --aggressive, fsck --full --strict
rsync     -aHAX of a tree with everything in it, twice: the second time nothing is left to do
tar       a large tree in and out, diff -r finds nothing
compile   make -j4 of generated C files, again after a touch: only that is rebuilt, and the program runs
fio       random writes by several jobs, each block verified
dbench    a file server's load

python -m tests.torture.programs --seed N | --seconds S
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.torture import kernel
from tests.torture.places import Place, exercise

TIMEOUT: Final = 900.0
ENVIRONMENT: Final = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "T",
    "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "T",
    "GIT_COMMITTER_EMAIL": "t@example.org",
    "LC_ALL": "C.UTF-8",
}

NOBODY: Final = 0xFFFFFFFF
ACL: Final = struct.pack("<I", 2) + b"".join(  # acl(5) as the kernel keeps it: tag, permissions, id
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, NOBODY), (2, 4, 1000), (4, 4, NOBODY), (8, 5, 1001), (16, 5, NOBODY), (32, 0, NOBODY))
)


class Failed(AssertionError):
    """A program that did not end well, or did not do what it should."""


def call(*words: str | Path, where: Path | None = None) -> str:
    """A program's output; raises Failed with it if the program does."""
    done = subprocess.run(
        words, cwd=where, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False, timeout=TIMEOUT
    )
    if done.returncode:
        raise Failed(f"{words} in {where}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def plant(root: Path, rng: random.Random, files: int) -> None:
    """A tree of text and noise, of every size."""
    words = [rng.randbytes(4).hex() for _ in range(500)]
    for number in range(files):
        path = root / f"d{number % 7}" / f"e{number % 31}" / f"file {number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = rng.random()
        if kind < 0.85:
            path.write_text("\n".join(" ".join(rng.choices(words, k=9)) for _ in range(rng.randrange(80))))
        else:
            path.write_bytes(rng.randbytes(rng.choice((0, 1, 2048, 2049, 131_073, 700_000))))


def git(place: Path, rng: random.Random, size: int) -> None:
    """A repository's life."""
    work, clone = place / "work", place / "clone"
    work.mkdir()
    call("git", "init", "-q", "-b", "main", where=work)
    for commit in range(4):
        plant(work / f"part{commit % 2}", rng, size // 4)
        call("git", "add", "-A", where=work)
        call("git", "commit", "-q", "-m", f"commit {commit}", where=work)
    call("git", "clone", "-q", "--no-hardlinks", work, clone)
    plant(clone / "part3", rng, size // 8)
    call("git", "checkout", "-q", "-b", "side", where=clone)
    call("git", "add", "-A", where=clone)
    call("git", "commit", "-q", "-m", "side", where=clone)
    call("git", "push", "-q", "origin", "side", where=clone)
    call("git", "merge", "-q", "side", where=work)
    for repository in (work, clone):
        call("git", "gc", "-q", "--aggressive", "--prune=now", where=repository)
        call("git", "fsck", "--full", "--strict", where=repository)
        if call("git", "status", "--porcelain", where=repository):
            raise Failed("git status shows changes that nobody made")
    call("diff", "-r", "-x", ".git", work, clone)


def rsync(place: Path, rng: random.Random, size: int) -> None:
    """Onto the mount, from the mount, within the mount."""
    with tempfile.TemporaryDirectory(prefix="tierce-") as name:
        source = Path(name) / "source"
        plant(source, rng, size)
        files = sorted(path for path in source.rglob("*") if path.is_file())
        for number, path in enumerate(files):
            os.utime(path, ns=(1, 1_600_000_000_123_456_789 + number))
            os.chmod(path, rng.choice((0o600, 0o644, 0o755, 0o440)))
            if number % 9 == 0:
                os.link(path, path.with_suffix(".link"))
            if number % 10 == 0:
                path.with_suffix(".symlink").symlink_to(path.name)
            if number % 11 == 0:
                os.setxattr(path, "user.colour", b"blue %d" % number)
        (source / "d0" / "empty").mkdir()
        os.chmod(source / "d1", 0o711)
        os.mkfifo(source / "d0" / "pipe")
        options = ["-aHAX" if acls(place) and acls(source) else "-aHX", "--itemize-changes"]
        if "-aHAX" in options:
            for path in files[::7]:
                os.setxattr(path, "system.posix_acl_access", ACL)
            os.setxattr(source / "d2", "system.posix_acl_default", ACL)
        there, back = place / "rsync", Path(name) / "back"
        for one, other in ((source, there), (there, place / "again"), (there, back)):
            call("rsync", *options, f"{one}/", f"{other}/")
            left = call("rsync", *options, f"{one}/", f"{other}/")
            if left:
                raise Failed(f"rsync {one} {other}, the second time: {left[:2000]}")
        left = call("rsync", *options, "--checksum", "--dry-run", f"{source}/", f"{back}/")
        if left:
            raise Failed(f"what came back differs: {left[:2000]}")


def acls(directory: Path) -> bool:
    """Whether access control lists can be kept there."""
    probe = directory / ".probe"
    probe.touch()
    try:
        os.setxattr(probe, "system.posix_acl_access", ACL)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False
    finally:
        probe.unlink()
    return True


def tar(place: Path, rng: random.Random, size: int) -> None:
    """Into the mount from an archive in the mount, and back."""
    with tempfile.TemporaryDirectory(prefix="tierce-") as name:
        source = Path(name) / "tree"
        plant(source, rng, size)
        call("tar", "cf", place / "tree.tar", "-C", name, "tree")
        call("tar", "xf", place / "tree.tar", "-C", place)
        call("diff", "-r", source, place / "tree")
        call("tar", "df", place / "tree.tar", "-C", place)
        call("tar", "czf", place / "again.tar.gz", "-C", place, "tree")
        (Path(name) / "back").mkdir()
        call("tar", "xzf", place / "again.tar.gz", "-C", Path(name) / "back")
        call("diff", "-r", source, Path(name) / "back" / "tree")


def compile(place: Path, rng: random.Random, size: int) -> None:
    """Sources, objects and program on the mount; times decide what make does."""
    count = max(size // 20, 4)
    for number in range(count):
        body = "\n".join(f"    x = x * {rng.randrange(1 << 20) | 1}u + {rng.randrange(1 << 20)}u;" for _ in range(200))
        (place / f"part{number}.c").write_text(
            f'#include "parts.h"\n#include <stdio.h>\nunsigned part{number}(unsigned x) {{\n{body}\n    return x;\n}}\n'
        )
    (place / "parts.h").write_text("\n".join(f"unsigned part{number}(unsigned);" for number in range(count)) + "\n")
    calls = "\n".join(f"    x = part{number}(x);" for number in range(count))
    (place / "main.c").write_text(
        f'#include "parts.h"\n#include <stdio.h>\nint main(void) {{\n    unsigned x = 1;\n{calls}\n'
        '    printf("%u\\n", x);\n    return 0;\n}\n'
    )
    objects = " ".join(["main.o", *(f"part{number}.o" for number in range(count))])
    (place / "Makefile").write_text(
        f"program: {objects}\n\tcc -g -o $@ $^\n%.o: %.c parts.h\n\tcc -g -O1 -c -o $@ $<\n"
    )
    call("make", "-j4", where=place)
    first = call(place / "program")
    if "up to date" not in call("make", "-j4", where=place):
        raise Failed("make builds again what nobody touched")
    time.sleep(0.02)  # make compares times: the kernel's clock ticks every 4 ms
    (place / "part1.c").touch()
    again = call("make", "-j4", where=place)
    if again.count("cc -g -O1") != 1:
        raise Failed(f"one source was touched, and make did:\n{again}")
    if call(place / "program") != first:
        raise Failed("the same sources make another program")


def fio(place: Path, rng: random.Random, size: int) -> None:
    """Each block carries its own checksum and place."""
    jobs: list[str] = []
    for block, extra in (
        ("4k", []),
        ("16k", ["--fsync=32"]),
        ("1k-64k", ["--bsrange=1k-64k"]),
        ("4k", ["--ioengine=mmap"]),
    ):
        name = f"job{len(jobs)}"
        jobs += [
            f"--name={name}",
            f"--filename={place / name}",
            f"--size={max(size // 25, 4)}m",
            f"--bs={block}",
            *extra,
        ]
    options = ["--rw=randwrite", "--ioengine=psync", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1"]
    call("fio", "--output-format=terse", f"--randseed={rng.getrandbits(31)}", *spread(options, jobs))


def spread(options: list[str], jobs: list[str]) -> list[str]:
    """fio's options before the first job hold for it alone: each job is given them, its own after them."""
    words: list[str] = []
    for word in jobs:
        words += [word, *options] if word.startswith("--name") else [word]
    return words


def dbench(place: Path, rng: random.Random, size: int) -> None:
    """Four clients of a file server; dbench compares sizes itself and ends with an error where they differ."""
    said = call("dbench", "-t", str(max(size // 40, 3)), "-D", place, "-c", "/usr/share/dbench/client.txt", "4")
    said = said.replace("failed to create barrier semaphore", "")  # it starts its clients without one, then
    if "Throughput" not in said or "failed" in said.lower():
        raise Failed(said[-3000:])


PROGRAMS: Final[dict[str, Callable[[Path, random.Random, int], None]]] = {
    "git": git,
    "rsync": rsync,
    "tar": tar,
    "compile": compile,
    "fio": fio,
    "dbench": dbench,
}
SIZE: Final = 800  # files of a tree, and what else grows with it


def one(place: Place, name: str, seed: int, size: int = SIZE) -> None:
    """One program in a new directory, which it leaves empty behind it."""
    directory = place.directory / f"{name}-{seed}"
    directory.mkdir()
    try:
        PROGRAMS[name](directory, random.Random(seed), size)
    except Failed as failure:
        failure.add_note(f"replay: python -m tests.torture.programs --seed {seed} ({name})")
        raise
    shutil.rmtree(directory)


def run(place: Place, seed: int) -> int:
    """All programs, one after the other; how many they were."""
    for name in PROGRAMS:
        kernel.drop_caches()
        begin = time.monotonic()
        one(place, name, seed)
        print(f"{name}: {time.monotonic() - begin:.1f} s", flush=True)
    return len(PROGRAMS)


if __name__ == "__main__":
    sys.exit(exercise(__doc__, "programs", run))
