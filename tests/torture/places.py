"""Where an exerciser works, and how its command line begins.

An exerciser needs a directory and, to look at the same files through the other door, a bucket.  It gets either a box of
its own, made and audited for the occasion, or the place it is pointed at: a running box by its box.json, or any
directory at all (then there is no other door; on a local file system this shows that the exerciser itself is right).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.system.box import Box, running, s3_client

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class Place:
    """A directory to work in.  With `facts` (a box.json) it is the mount of `bucket`."""

    directory: Path
    bucket: str = ""
    facts: dict[str, Any] | None = None
    kind: str = "plain"  # or "encrypted", "versioned"

    def below(self, name: str) -> Place:
        """A new directory in it, as a place."""
        (self.directory / name).mkdir()
        return replace(self, directory=self.directory / name)

    def s3(self) -> S3Client | None:
        """A client of the other door, if there is one: for one process and thread."""
        return s3_client(self.facts) if self.facts else None

    def daemon(self) -> int | None:
        """The daemon's process id."""
        return int(self.facts["pid"]) if self.facts else None


def place_in(box: Box, bucket: str, kind: str = "plain") -> Place:
    """A new bucket of a running box."""
    return made(Place(box.mount / bucket, bucket, box.facts, kind))


def made(place: Place) -> Place:
    """Makes its bucket."""
    place.directory.mkdir()
    client = place.s3()
    assert client is not None
    if place.kind == "encrypted":
        client.put_bucket_encryption(
            Bucket=place.bucket,
            ServerSideEncryptionConfiguration={
                "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            },
        )
    elif place.kind == "versioned":
        client.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"})
    return place


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that every exerciser has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--first", type=int, default=time.time_ns() // 1000, help="count seeds from here")
    parser.add_argument("--seconds", type=float, default=60.0, help="for so long")
    parser.add_argument("--box", type=Path, help="box.json of a running box, instead of one made for the occasion")
    parser.add_argument("--directory", type=Path, help="any directory, instead of a box")
    parser.add_argument("--bucket", choices=("plain", "encrypted", "versioned"), default="plain", help="of which kind")
    return parser


def exercise(description: str, name: str, run: Callable[[Place, int], int]) -> int:
    """The command line of an exerciser: seeds one after the other, what failed, and an exit code.

    `run(place, seed)` returns how many operations it did; it raises what went wrong, with how to replay it.
    """
    options = arguments(description.partition("\n")[0]).parse_args()
    failed, count, seed = [], 0, options.first if options.seed is None else options.seed
    begin = time.monotonic()
    with chosen(options) as place:
        while True:
            try:
                count += run(place, seed)
            except (OSError, AssertionError) as error:
                failed.append(seed)
                print(
                    f"seed {seed}: {type(error).__name__}: {error}",
                    *getattr(error, "__notes__", ()),
                    sep="\n",
                    flush=True,
                )
            seed += 1
            if options.seed is not None or time.monotonic() - begin >= options.seconds:
                break
    print(f"{name}: {count} operations, {time.monotonic() - begin:.0f} s; failed: {failed}")
    return 1 if failed else 0


@contextlib.contextmanager
def chosen(options: argparse.Namespace) -> Iterator[Place]:
    """The place that the options name: a new directory or bucket in it."""
    name = f"torture-{os.getpid()}-{time.time_ns() // 1_000_000 % 1_000_000}"
    if options.directory:
        place = Place(options.directory / name)
        place.directory.mkdir()
        yield place
    elif options.box:
        facts = json.loads(options.box.read_text())
        yield made(Place(Path(facts["mount"]) / name, name, facts, options.bucket))
    else:
        with (
            tempfile.TemporaryDirectory(prefix="tierce-") as state,
            running(Path(state), TIERCE_MOUNT_ALLOW_OTHER="yes") as box,
        ):
            yield place_in(box, name, options.bucket)
