"""R4: power cuts on the real block path.  A daemon works on loop devices whose every write and flush is recorded; then
moments of that record are made again on copies, and each must open to what had been acknowledged by then.

Half of the moments lose nothing: all writes up to them.  Half lose what a disk may lose: each disk has what was flushed
before, and of the writes after that any.  Most are opened by the product's own opening, in this process; a few by the
daemon itself.  TIERCE_TEST_STATES is how many (200; scripts/torture: 1,000 at a time).
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import trio
from botocore.exceptions import BotoCoreError, ClientError

from appliance.limits import MIB
from appliance.model import BodyKind
from appliance.opening import open_pool
from appliance.upkeep.audit import audit
from tests.models.boxes import read_all
from tests.system.box import Box, digest, is_mounted, running
from tests.system.conftest import left_out
from tests.system.recorder import WRITE, Entry, entries
from tests.system.test_crash import held

pytestmark = [pytest.mark.system, pytest.mark.slow]

DISKS: Final = ("ssd0", "hdd0", "hdd1")
SIZE: Final = 256 * MIB
STATES: Final = 200
DAEMONS: Final = 4  # of them opened by a daemon
CLIENTS: Final = 4
SIZES: Final = (0, 300, 2049, 60_000, 131_073, 400_000)
CHANGES_LEAST: Final = 15  # of each client, however long that takes
GONE: Final = ""
PROGRAMS: Final = 2
TEMPORARY: Final = ".new"  # what a program has not renamed yet: nothing was said of it


class Change(NamedTuple):
    """What a client did to a key, by the log's length before the call and after its answer."""

    key: str
    digest: str
    began: int
    ended: float


class Client(threading.Thread):
    """Changes its own keys for a while."""

    def __init__(self, box: Box, log: Path, number: int, seed: int, until: float) -> None:
        super().__init__()
        self.client = box.s3()
        self.log = log
        self.number = number
        self.random = random.Random(seed)
        self.until = until
        self.changes: list[Change] = []
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            while time.monotonic() < self.until or len(self.changes) < CHANGES_LEAST:
                self.change(f"client{self.number}/{self.random.randrange(6)}")
        except (BotoCoreError, ClientError) as error:
            self.failure = error

    def change(self, key: str) -> None:
        began = self.log.stat().st_size
        if self.random.random() < 0.2:
            self.client.delete_object(Bucket="bucket", Key=key)
            becomes = GONE
        else:
            body = self.random.randbytes(self.random.choice(SIZES))
            self.client.put_object(Bucket="bucket", Key=key, Body=body)
            becomes = digest(body)
        self.changes.append(Change(key, becomes, began, self.log.stat().st_size))


class Program(Client):
    """The same through the mount: pages of a database synced one by one, files replaced by rename, files removed."""

    def __init__(self, box: Box, log: Path, number: int, seed: int, until: float) -> None:
        super().__init__(box, log, number, seed, until)
        self.root = box.mount / "bucket"
        (self.root / f"client{number}").mkdir()
        self.databases: dict[str, bytearray] = {}

    def run(self) -> None:
        try:
            super().run()
        except OSError as error:
            self.failure = error

    def change(self, key: str) -> None:
        began = self.log.stat().st_size
        path = self.root / key
        if key[-1] in "01":  # 20 pages, of which one changes each time: the journal's short path
            becomes = self._sync_page(path, self.databases.setdefault(key, bytearray(20 * 4096)))
        elif self.random.random() < 0.2:
            path.unlink(missing_ok=True)
            sync(path.parent)
            becomes = GONE
        else:
            body = self.random.randbytes(self.random.choice(SIZES))
            temporary = path.with_suffix(TEMPORARY)
            temporary.write_bytes(body)  # not synced: the new bytes come before the new name
            temporary.rename(path)
            sync(path.parent)
            becomes = digest(body)
        self.changes.append(Change(key, becomes, began, self.log.stat().st_size))

    def _sync_page(self, path: Path, image: bytearray) -> str:
        at = self.random.randrange(20) * 4096 if path.exists() else 0
        page = self.random.randbytes(4096)
        image[at : at + 4096] = page
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.pwrite(descriptor, page if path.stat().st_size else bytes(image), at)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        return digest(bytes(image))


def sync(directory: Path) -> None:
    """What happened to its names is durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def recorded_disks(
    place: Path, names: Sequence[str] = DISKS, size: int = SIZE
) -> Iterator[tuple[list[str], Path, subprocess.Popen[bytes]]]:
    """Loop devices over the recorder's files, the log, and the recorder: killed, all of its disks are dead."""
    point, log = place / "disks", place / "log"
    point.mkdir()
    command = [sys.executable, "-m", "tests.system.recorder", str(point), str(log), str(size), *names]
    recorder = subprocess.Popen(command)
    loops: list[str] = []
    try:
        deadline = time.monotonic() + 120
        while not is_mounted(point):
            assert recorder.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for name in names:
            made = subprocess.run(
                ["losetup", "--find", "--show", point / name], capture_output=True, text=True, check=False
            )
            if made.returncode:
                left_out("TIERCE_ALLOW_NO_LOOP", f"no loop device: {made.stderr.strip()}")
            loops.append(made.stdout.strip())
        yield loops, log, recorder
    finally:
        for device in loops:
            subprocess.run(["losetup", "--detach", device], check=True)
        subprocess.run(["fusermount3", "-u", point], check=True)
        recorder.wait(120)


def allowed(changes: list[Change], moment: int) -> dict[str, set[str]]:
    """What each key may hold at a moment of the log."""
    found: dict[str, set[str]] = {}
    for change in changes:  # of one key: in order, one after the other
        if change.ended <= moment:
            found[change.key] = {change.digest}
        elif change.began < moment:
            found.setdefault(change.key, {GONE}).add(change.digest)
    return found


class Replay:
    """Copies of the disks as they were at moments that only go forward."""

    def __init__(self, place: Path, log: Path) -> None:
        self.flushed = place / "flushed"  # the disks as of their last flush
        self.flushed.mkdir()
        self.log = entries(log)
        self.ahead: Entry | None = next(self.log, None)
        self.unflushed: list[list[Entry]] = [[] for _ in DISKS]
        for name in DISKS:
            with (self.flushed / name).open("wb") as file:
                file.truncate(SIZE)

    def go(self, moment: int) -> None:
        """Forward to a moment."""
        while self.ahead is not None and self.ahead.end <= moment:
            entry = self.ahead
            if entry.kind == WRITE:
                self.unflushed[entry.disk].append(entry)
            else:
                write(self.flushed / DISKS[entry.disk], self.unflushed[entry.disk])
                self.unflushed[entry.disk] = []
            self.ahead = next(self.log, None)

    def copy(self, target: Path, chance: random.Random | None) -> list[str]:
        """The disks now: with all writes, or with what `chance` leaves of those that were not flushed."""
        target.mkdir()
        for name, pending in zip(DISKS, self.unflushed, strict=True):
            subprocess.run(["cp", "--sparse=always", self.flushed / name, target / name], check=True)
            write(target / name, [entry for entry in pending if chance is None or chance.random() < 0.5])
        return [str(target / name) for name in DISKS]


def write(path: Path, writes: list[Entry]) -> None:
    """Onto a copy."""
    with path.open("r+b") as file:
        for entry in writes:
            file.seek(entry.offset)
            file.write(entry.data)


async def content(paths: list[str], state: Path) -> tuple[dict[str, str], set[str]]:
    """Opens the pool without the host's files, audits it, reads everything; also the keys of which a copy is damaged.

    A batch that was not acknowledged yet may stand with one good copy of its pages: an acknowledged one must not be
    dropped because a copy has become bad (I3)."""
    async with open_pool(paths, state) as store:
        report = await audit(store, verify=True)
        others = [problem for problem in report.problems if problem.kind != "damaged"]
        assert not others, others
        hurt = set()
        for problem in report.problems:
            place = [int(number) for number in problem.where.removeprefix("page ").split(":")]
            hurt |= set(store.engine.reader.execute("SELECT chunk FROM page WHERE dev=? AND off=?", place).fetchone())
        bucket = store.bucket("bucket")
        found, partly = {}, set()
        for item in (await store.list_objects(bucket)).objects:
            node = await store.look_up(bucket, item.key)
            found[item.key.decode()] = digest(await read_all(store, node))
            if node.kind == BodyKind.CHUNK and node.ref in hurt:
                partly.add(item.key.decode())
        return found, partly


def test_every_moment_of_the_block_path_opens_to_what_was_acknowledged(fuse: None, tmp_path: Path) -> None:
    states = int(os.environ.get("TIERCE_TEST_STATES", STATES))
    seed = int(os.environ.get("TIERCE_TEST_SEED", 1 if states == STATES else time.time_ns() % 1_000_000))
    print(f"TIERCE_TEST_SEED={seed}")
    chance = random.Random(seed)
    changes: list[Change] = []
    with recorded_disks(tmp_path) as (loops, log, _), running(tmp_path / "box", loops, copies=2) as box:
        box.s3().create_bucket(Bucket="bucket")
        first = log.stat().st_size
        until = time.monotonic() + 3 + states / 100
        clients = [Client(box, log, number, seed + number, until) for number in range(CLIENTS)]
        clients += [Program(box, log, CLIENTS + number, seed - number, until) for number in range(PROGRAMS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
            assert client.failure is None, client.failure
            changes += client.changes
        last = log.stat().st_size
        box.kill()
        box.clean()  # the dead mount
        master = (box.state / "master.key").read_bytes()
    moments = sorted(chance.randint(first, last) for _ in range(states))
    by_daemon = set(chance.sample(range(states), DAEMONS))
    replay = Replay(tmp_path, log)
    for number, moment in enumerate(moments):
        replay.go(moment)
        place = tmp_path / "state"
        place.mkdir()
        paths = replay.copy(place / "disks", chance if number % 2 else None)
        state = place / "box"
        state.mkdir(mode=0o700)
        (state / "master.key").write_bytes(master)
        (state / "master.key").chmod(0o600)
        partly: set[str] = set()
        if number in by_daemon:
            box = Box(state, paths, mount=False)
            try:
                box.start()
                found = held(box)
                box.audit()
                box.stop()
            finally:
                box.clean()
        else:
            found, partly = trio.run(content, paths, state)
        found = {key: told for key, told in found.items() if not key.endswith(TEMPORARY)}
        may = allowed(changes, moment)
        where = f"seed {seed}, state {number} at {moment}"
        assert set(found) <= set(may), f"{where}: objects that nobody wrote"
        for key, digests in may.items():
            assert found.get(key, GONE) in digests, f"{where}: {key}"
            assert key not in partly or len(digests) > 1, f"{where}: a copy of {key}, acknowledged, is damaged"
        shutil.rmtree(place)
