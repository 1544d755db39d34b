"""A program that makes files durable by every call there is for it, and says each one that returned: kind, name, and
the number that the file then begins with.

    durable_calls.py DIRECTORY FIRST
"""

import itertools
import mmap
import os
import sys
from functools import partial
from pathlib import Path

root, first = Path(sys.argv[1]), int(sys.argv[2])
SIZE = 50_000


def opened(name: str, flags: int = 0) -> int:
    descriptor = os.open(root / name, os.O_RDWR | os.O_CREAT | flags, 0o644)
    if os.fstat(descriptor).st_size < SIZE:
        os.ftruncate(descriptor, SIZE)
    return descriptor


def written(number: int) -> bytes:
    return b"%08d" % number * 512


def by_flag(kind: str, flag: int, number: int) -> str:
    descriptor = opened(kind, flag)
    os.pwrite(descriptor, written(number), 0)
    os.close(descriptor)
    return kind


def by_call(kind: str, number: int) -> str:
    descriptor = opened(kind)
    os.pwrite(descriptor, written(number), 0)
    (os.fsync if kind == "fsync" else os.fdatasync)(descriptor)
    os.close(descriptor)
    return kind


def by_msync(number: int) -> str:
    descriptor = opened("msync")
    with mmap.mmap(descriptor, SIZE) as mapped:
        mapped[:4096] = written(number)
        mapped.flush()
        print("msync", "msync", number, flush=True)  # before munmap and close could do it
    os.close(descriptor)
    return ""


def sync_directory() -> None:
    descriptor = os.open(root, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def by_rename(number: int) -> str:
    (root / "renaming").write_bytes(written(number))  # without fsync: the new bytes come before the new name
    os.rename(root / "renaming", root / "renamed")
    sync_directory()
    return "renamed"


def by_directory(number: int) -> str:
    name = f"closed{number % 20}"
    (root / name).write_bytes(written(number))
    sync_directory()
    return name


def by_other_file(number: int) -> str:
    """Commits are durable in their order: what was closed before is there when a later one is."""
    (root / "earlier").write_bytes(written(number))
    by_call("fsync", number)
    return "earlier"


KINDS = (
    ("O_SYNC", partial(by_flag, "O_SYNC", os.O_SYNC)),
    ("O_DSYNC", partial(by_flag, "O_DSYNC", os.O_DSYNC)),
    ("fsync", partial(by_call, "fsync")),
    ("fdatasync", partial(by_call, "fdatasync")),
    ("msync", by_msync),
    ("rename", by_rename),
    ("directory", by_directory),
    ("order", by_other_file),
)
try:
    for number in itertools.count(first):
        for kind, work in KINDS:
            if name := work(number):
                print(kind, name, number, flush=True)
except OSError as error:
    print(f"ended: {error!r}", file=sys.stderr)
