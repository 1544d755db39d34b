"""A real mount, of the store over dicts or of a pool on sparse files, in a process of its own, with the other door on
its standard input.

    python -m tests.fusefs.served MOUNTPOINT [dict | pool [durable] [settling]]

Each line is a JSON list: ["put", bucket, key, hex], ["get", bucket, key], ["delete", bucket, key], ["fill", count],
["statistics"].  The answer is one line of JSON.  The end of input unmounts.
"""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import trio

from appliance.errors import StoreError
from appliance.formatting import format_pool
from appliance.mountpoints import type_at
from appliance.opening import open_pool
from appliance.store import ObjectStore
from fusefs import prefetch
from fusefs.mount import Mount
from fusefs.observed import OPERATIONS
from tests.fusefs.doors import DictDoor, Door, StoreDoor
from tests.fusefs.memory_store import MemoryStore

log = logging.getLogger(__name__)


async def answer(door: Door, mount: Mount, verb: str, *arguments: str) -> object:
    """One request of the other door."""
    if verb == "statistics":
        files = mount.operations.files
        return {
            "files": len(files.files),
            "memory": files.memory,
            "known": len(mount.operations.inodes),
            "cpu": sum(os.times()[:2]),
            "reads": sum(OPERATIONS["read"].counts),
            "written": OPERATIONS["write"].bytes,
            "fetched": OPERATIONS["prefetch"].bytes,
            "fetching": len(mount.prefetch._wanted) + len(mount.prefetch._flying),
            "taken": 0 if (streams := mount.operations.direct.streams) is None else streams.taken,
        }
    if verb == "fill":
        async with trio.open_nursery() as nursery:
            for number in range(int(arguments[0])):
                nursery.start_soon(door.put, "photos", b"many/%06d" % number, b"")
        return None
    bucket, key, *rest = arguments
    name = os.fsencode(key)
    if verb == "put":
        await door.put(bucket, name, bytes.fromhex(rest[0]))
        return None
    if verb == "get":
        return (await door.get(bucket, name)).hex()
    assert verb == "delete"
    await door.delete(bucket, name)
    return None


def _make_pool(state: Path) -> tuple[bool, list[str]]:
    """Three sparse files, made into a pool at first; whether this was the first time."""
    paths = [str(state / name) for name in ("ssd", "hdd1", "hdd2")]
    if state.exists():
        return False, paths
    state.mkdir()
    for path in paths:
        with open(path, "wb") as file:
            file.truncate(6 << 30)
    format_pool([(paths[0], "blaze"), (paths[1], "bulk"), (paths[2], "bulk")], name="test", copies=1)
    return True, paths


@asynccontextmanager
async def opened(kind: str, state: Path) -> AsyncIterator[tuple[ObjectStore, Door]]:
    """A store with one bucket: `dict`, or `pool` on sparse files in `state`."""
    if kind == "dict":
        memory = MemoryStore()
        await memory.create_bucket("photos", "me")
        yield cast("ObjectStore", memory), DictDoor(memory)
        return
    fresh, paths = _make_pool(state)
    async with open_pool(paths, state) as store:
        if fresh:
            await store.create_bucket("photos", "me")
        yield store, StoreDoor(store)


async def main(point: str, kind: str = "dict", *flags: str) -> None:
    """Serves until the input ends."""
    async with opened(kind, Path(point + ".pool")) as (store, door):
        root = os.geteuid() == 0  # others need the machine's word in /etc/fuse.conf
        mount = Mount(store, Path(point), allow_other=root, durable_close="durable" in flags)
        if "settling" in flags:
            prefetch.SETTLE_TIMEOUT = 60.0  # type: ignore[misc]
        async with trio.open_nursery() as nursery:
            await nursery.start(mount.run)
            print(json.dumps("ready"), flush=True)
            async for line in trio.wrap_file(io.TextIOWrapper(sys.stdin.buffer)):
                try:
                    reply: object = await answer(door, mount, *json.loads(line))
                except StoreError as error:
                    reply = {"error": error.code.name}
                print(json.dumps(reply), flush=True)
            await mount.close()
        for entry in store.entries(store.bucket("photos").root, None, 10):
            log.info("left photos/%s %d", os.fsdecode(entry.name), entry.node.size)


class Served:
    """The mount at `point`, from the outside."""

    def __init__(self, point: Path, *flags: str) -> None:
        self.point = point
        self.bucket = point / "photos"
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fusefs.served", str(point), *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": ""},  # print() without a buffer loses what a full pipe leaves over
        )
        self._reader = threading.Thread(target=self._read_log)
        self._reader.start()
        assert self._answer() == "ready", self.log

    def ask(self, *request: str) -> Any:
        """The other door's answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def put(self, key: str, data: bytes) -> None:
        self.ask("put", "photos", key, data.hex())

    def get(self, key: str) -> bytes | None:
        found = self.ask("get", "photos", key)
        return bytes.fromhex(found) if isinstance(found, str) else None

    def delete(self, key: str) -> None:
        self.ask("delete", "photos", key)

    def stop(self) -> int:
        """Unmounts; the exit code."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it ended before
            self.process.stdin.close()
        try:
            return self.process.wait(120)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join()
            for pipe in (self.process.stdout, self.process.stderr):
                assert pipe is not None
                pipe.close()
            if type_at(self.point) is not None:
                subprocess.run(["fusermount3", "-u", "-z", str(self.point)], check=True)

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else None

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self.log += self.process.stderr.readlines()


@contextmanager
def served(point: Path, *flags: str) -> Iterator[Served]:
    """Mounted inside; afterwards unmounted, with a clean exit and nothing alarming in the log."""
    mount = Served(point, *flags)
    try:
        yield mount
    finally:
        code = mount.stop()
    assert code == 0, mount.log
    assert not [line for line in mount.log if "ERROR" in line or "Traceback" in line], mount.log


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    trio.run(partial(main, *sys.argv[1:]))
