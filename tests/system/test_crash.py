"""R8: a daemon on five devices, eight clients, and an end again and again, mostly by kill -9: whatever was acknowledged
is there, whole, nothing is half done, and it is back within seconds.

Until it was killed twenty times, or for as long as TIERCE_TEST_SECONDS says: scripts/torture tells how often."""

from __future__ import annotations

import contextlib
import io
import os
import random
import threading
import time
from pathlib import Path

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from appliance.limits import GIB, MIB
from tests.system.box import Box, digest, running

pytestmark = [pytest.mark.system, pytest.mark.slow]

KILLED = 20  # times, at least
LOAD = 80  # acknowledged changes at most before the end
DEVICES = (("ssd0", 2), ("hdd0", 2), ("hdd1", 4), ("hdd2", 2), ("hdd3", 3))  # GiB
CLIENTS = 8
KILLS = 0.9  # of all ends; the others are SIGTERM
RESTART_MAX = 5.0  # seconds to be ready again, on a machine that does nothing else: of CPU, for waits are short
GONE = None  # the state of a key without an object
SIZES = (0, 100, 2048, 5000, 60_000, 131_072, 400_000)

State = set[str | None]
"""What a key may hold: one digest (or GONE) once a change was acknowledged, two while it was not."""


class Load(threading.Thread):
    """Changes its own keys as fast as the daemon answers, remembering what each may hold, until the daemon is gone."""

    def __init__(
        self, box: Box, name: str, states: dict[str, State], seed: int, acknowledged: threading.Semaphore
    ) -> None:
        super().__init__()
        self.told = acknowledged  # released once for each
        self.box = box
        self.prefix = name
        self.states = states
        self.random = random.Random(seed)
        self.failure: BaseException | None = None
        self.acknowledged = 0
        self.ending = False

    def run(self) -> None:
        try:
            self.prepare()
            while True:
                self.change()
                self.acknowledged += 1
                self.told.release()
        except (BotoCoreError, ClientError, OSError, EOFError) as error:
            if not self.ending:  # before the kill nothing may fail
                self.failure = error
        except BaseException as error:
            self.failure = error

    def prepare(self) -> None:
        """Before the first change."""

    def change(self) -> None:
        """One change, acknowledged when it returns."""
        raise AssertionError

    @contextlib.contextmanager
    def becoming(self, key: str, after: str | None):  # type: ignore[no-untyped-def]  # noqa: ANN201
        """The key may hold the old or the new until the block has ended well."""
        before = self.states.get(key, {GONE})
        self.states[key] = before | {after}
        yield
        self.states[key] = {after}


class S3Load(Load):
    """PUT, overwrite, DELETE, copy, multipart."""

    def prepare(self) -> None:
        self.client = self.box.s3()

    def change(self) -> None:
        key = f"{self.prefix}/{self.random.randrange(12)}"
        choice = self.random.random()
        if choice < 0.2:
            with self.becoming(key, GONE):
                self.client.delete_object(Bucket="bucket", Key=key)
        elif choice < 0.3 and len(self.states.get(key, ())) == 1 and GONE not in self.states[key]:
            [held] = self.states[key]
            copy = f"{self.prefix}/copy{self.random.randrange(4)}"
            with self.becoming(copy, held):
                self.client.copy_object(Bucket="bucket", Key=copy, CopySource={"Bucket": "bucket", "Key": key})
        elif choice < 0.34:
            body = self.random.randbytes(6 * MIB)
            parts = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, use_threads=False)
            with self.becoming(key, digest(body)):
                self.client.upload_fileobj(io.BytesIO(body), "bucket", key, Config=parts)
        else:
            body = self.random.randbytes(self.random.choice(SIZES))
            with self.becoming(key, digest(body)):
                self.client.put_object(Bucket="bucket", Key=key, Body=body)


class MountLoad(Load):
    """write + fsync, rename, unlink."""

    def prepare(self) -> None:
        self.root = self.box.mount / "bucket" / self.prefix
        self.root.mkdir(exist_ok=True)

    def change(self) -> None:
        name = str(self.random.randrange(8))
        key = f"{self.prefix}/{name}"
        body = self.random.randbytes(self.random.choice(SIZES))
        path = self.root / name
        if self.random.random() < 0.2 and GONE not in self.states.get(key, {GONE}):
            self.states[key] = self.states[key] | {GONE}
            path.unlink()
            self.sync(self.root)
            self.states[key] = {GONE}
            return
        temporary = self.root / f".{name}"
        with temporary.open("wb", buffering=0) as file:
            file.write(body)
            os.fsync(file.fileno())
        with self.becoming(key, digest(body)):
            temporary.rename(path)
            self.sync(self.root)

    def sync(self, directory: Path) -> None:
        """fsync of a directory: its names are durable."""
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def held(box: Box) -> dict[str, str]:
    """Digest of every object, by key; temporary names, which may or may not have survived, were never promised."""
    client = box.s3()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket")
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    keys = [key for key in keys if not key.endswith("/") and "/." not in key]
    return {key: digest(client.get_object(Bucket="bucket", Key=key)["Body"].read()) for key in keys}


def spent(box: Box) -> float:
    """Seconds of CPU that the daemon has taken since its process began (proc(5), fields 14 and 15)."""
    assert box.process is not None
    fields = Path(f"/proc/{box.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_nothing_acknowledged_is_lost_to_kill_9(fuse: None, tmp_path: Path) -> None:
    seconds = float(os.environ.get("TIERCE_TEST_SECONDS", 0))
    seed = int(os.environ.get("TIERCE_TEST_SEED", time.time_ns() % 1_000_000 if seconds else 1))
    print(f"TIERCE_TEST_SEED={seed}")
    chance = random.Random(seed)
    states: dict[str, State] = {}
    acknowledged = kills = turn = 0
    restarts: list[float] = []
    paths = []
    for name, size in DEVICES:
        with (tmp_path / name).open("xb") as file:
            file.truncate(size * GIB)
        paths.append(str(tmp_path / name))
    deadline = time.monotonic() + seconds
    with running(tmp_path / "box", paths, copies=2) as box:
        box.s3().create_bucket(Bucket="bucket")
        while kills < KILLED or time.monotonic() < deadline:
            turn += 1
            kinds: list[type[Load]] = [S3Load, S3Load, S3Load, MountLoad] * (CLIENTS // 4)
            told = threading.Semaphore(0)
            loads = [
                kind(box, f"t{number}", states, seed + 97 * turn + number, told) for number, kind in enumerate(kinds)
            ]
            for load in loads:
                load.start()
            for _ in range(chance.randint(4, LOAD)):
                assert told.acquire(timeout=120), "the daemon answers nothing more"
            for load in loads:
                load.ending = True
            if chance.random() < KILLS:
                box.kill()
                kills += 1
            else:
                box.stop()
            for load in loads:
                load.join(120)
                assert not load.is_alive(), "a request hangs after the daemon's end"
                assert load.failure is None, f"seed {seed}, round {turn}: {load.failure!r}"
                acknowledged += load.acknowledged
            box.start()
            restarts.append(spent(box))
            found = held(box)
            for key, allowed in states.items():
                assert found.get(key, GONE) in allowed, f"seed {seed}, round {turn}: {key}"
                states[key] = {found.get(key, GONE)}
            assert set(found) <= set(states), f"seed {seed}, round {turn}: objects that nobody wrote"
            box.audit()
    assert acknowledged > turn * 10, "a load that does nothing proves nothing"
    assert kills >= 0.5 * turn, "an end in peace proves little"
    assert max(restarts) <= RESTART_MAX, restarts
    print(f"{turn} passes, {kills} kills, {acknowledged} changes, restarts {max(restarts):.1f} s of CPU at most")
