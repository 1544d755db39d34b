"""A mail server's load, as postmark made it: many small files that live briefly.

Messages are delivered as mail servers do (written as tmp/NAME, fsync, then a link or a rename into new/), read, moved
to cur/ with flags in the name, appended to an mbox, removed.  Every message says what its bytes must be; at the end the
folders hold exactly what was not removed, here and through the other door.

    python -m tests.torture.mail --seed N | --seconds S
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Final

from tests.torture.places import Place, exercise

USERS: Final = 3
TRANSACTIONS: Final = 400
SIZE_MIN, SIZE_MAX = 500, 20_000  # postmark's own default sizes are 500 to 9,770
FOLDERS: Final = ("tmp", "new", "cur")


class Wrong(AssertionError):
    """A message that is lost, changed or twice there."""


class Mail:
    """One run's folders, and what should be in them."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.directory = directory
        self.rng = rng
        self.messages: dict[Path, bytes] = {}
        self.boxes = dict.fromkeys(range(USERS), b"")
        self.count = 0
        for user in range(USERS):
            for folder in FOLDERS:
                (directory / f"user{user}" / folder).mkdir(parents=True)
            (directory / f"user{user}" / "mbox").touch()

    def deliver(self) -> None:
        self.count += 1
        user = self.directory / f"user{self.rng.randrange(USERS)}"
        body = f"Message-Id: {self.count}\r\n\r\n".encode()
        body += self.rng.randbytes(self.rng.randrange(SIZE_MIN, SIZE_MAX)).hex().encode()[: SIZE_MAX // 2]
        name = f"{1_700_000_000 + self.count}.M{self.count}P{os.getpid()}.host"
        with (user / "tmp" / name).open("xb") as file:
            file.write(body)
            file.flush()
            if self.count % 4 == 0:
                os.fsync(file.fileno())
        if self.count % 3:
            os.rename(user / "tmp" / name, user / "new" / name)
        else:
            os.link(user / "tmp" / name, user / "new" / name)
            os.unlink(user / "tmp" / name)
        self.messages[user / "new" / name] = body

    def any(self) -> Path | None:
        return self.rng.choice(list(self.messages)) if self.messages else None

    def read(self) -> None:
        path = self.any()
        if path is not None and path.read_bytes() != self.messages[path]:
            raise Wrong(f"{path}: not what was delivered")

    def flag(self) -> None:
        """Seen, replied: the name says so."""
        path = self.any()
        if path is None:
            return
        flagged = path.parent.parent / "cur" / f"{path.name.partition(':')[0]}:2,{self.rng.choice(('S', 'RS', 'F'))}"
        os.rename(path, flagged)
        body = self.messages.pop(path)
        self.messages[flagged] = body

    def append(self) -> None:
        """To an mbox, as the other kind of mail server does."""
        user = self.rng.randrange(USERS)
        line = b"From %d " % self.count + self.rng.randbytes(self.rng.randrange(3000)).hex().encode() + b"\n"
        with (self.directory / f"user{user}" / "mbox").open("ab") as file:
            file.write(line)
        self.boxes[user] += line

    def expunge(self) -> None:
        path = self.any()
        if path is not None:
            os.unlink(path)
            del self.messages[path]

    def check(self, place: Place) -> None:
        wanted = {**self.messages}
        for user, content in self.boxes.items():
            wanted[self.directory / f"user{user}" / "mbox"] = content
        found = {path for path in self.directory.rglob("*") if path.is_file()}
        if found != set(wanted):
            raise Wrong(f"{len(found)} files instead of {len(wanted)}: {sorted(found ^ set(wanted))[:9]}")
        for path, content in wanted.items():
            if path.read_bytes() != content:
                raise Wrong(f"{path}: not what was delivered")
        client = place.s3()
        if client is None:
            return
        prefix = f"{self.directory.relative_to(place.directory)}/"
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=place.bucket, Prefix=prefix)
        listed = {place.directory / item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}
        if listed != {path: len(content) for path, content in wanted.items()}:
            raise Wrong(f"S3 lists {len(listed)} files, there are {len(wanted)}")


def run(place: Place, seed: int, transactions: int = TRANSACTIONS) -> int:
    """One run in a new directory; how many transactions it had."""
    rng = random.Random(seed)
    directory = place.directory / f"mail-{seed}"
    directory.mkdir()
    mail = Mail(directory, rng)
    kinds = (mail.deliver, mail.read, mail.flag, mail.append, mail.expunge)
    for _ in range(transactions):
        rng.choices(kinds, (5, 3, 3, 2, 3))[0]()
    mail.check(place)
    return transactions


if __name__ == "__main__":
    sys.exit(exercise(__doc__, "mail", run))
