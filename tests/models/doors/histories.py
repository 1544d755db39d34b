"""R12: eight clients on both doors at once, from a seed; what they saw must be possible.

Half of the clients are S3's (PUT, GET, DELETE, PUT if there is none, PUT if it is still the one that was read), half
use the mount.  There are three kinds of histories:

    replacing  programs write a temporary file and rename it over the name; open, read, close; unlink.  Both doors see
               one register for each key
    moving     the same, and keys are renamed onto each other: the keys are judged together
    in place   files are also appended to and truncated.  What is written to an open file is seen through the mount at
               once and through S3 when it is closed or synced (SEMANTICS.md): each door's view is judged alone

Both doors are in this process over one store; the order in which tasks run comes from the seed, as do the sizes, so
that bodies travel inline, gathered and in pages of their own.

`python -m tests.models.doors.histories --seed N` replays one, `--seconds N` records new ones for so long.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pyfuse3
import trio

from appliance.limits import GATHER_MAX, INLINE_MAX, KIB
from appliance.upkeep.audit import audit
from s3front.app import s3_app
from tests.crash.simulation import seed_scheduler
from tests.fusefs.doors import StoreDoor
from tests.fusefs.unmounted import Unmounted
from tests.models.boxes import make_devices, make_pool, store_over
from tests.models.linearizability import Kind, Operation, Value, describe, linearizable, view
from tests.s3front.box import Answer
from tests.s3front.signing import KEY, NOW, REGION, sign_by_header, unseal

CLIENTS: Final = 8
STEPS: Final = 6  # of each client
KEYS: Final = (b"k", b"d/k", b"d/e/k")
BUCKET: Final = "histories"
SIZES: Final = (20, INLINE_MAX + 1, GATHER_MAX, GATHER_MAX + 1, 300 * KIB)
ATTEMPTS_MAX: Final = 50
REPLACING, MOVING, IN_PLACE = "replacing", "moving", "in place"
STYLES: Final = (REPLACING, MOVING, IN_PLACE)
S3, MOUNT = "S3", "mount"


class Recorder:
    """One history: what was called, and what came back."""

    def __init__(self, seed: int, mount: Unmounted, app: Any) -> None:
        self.style = STYLES[seed % len(STYLES)]
        self.random = random.Random(seed)
        self.mount = mount
        self.app = app
        self.ticks = itertools.count(1)
        self.histories: dict[bytes, list[Operation]] = collections.defaultdict(list)
        self.numbers = itertools.count(1)
        self.names = trio.Lock()  # the kernel changes names of one directory, and moves anything, one at a time
        self.tags: dict[str, bytes] = {}  # ETag -> content: the mount's are not MD5s

    @property
    def operations(self) -> int:
        """How many."""
        return sum(map(len, self.histories.values()))

    def fresh(self, client: int) -> bytes:
        """A value that was never written before."""
        start = b"client %d value %d " % (client, next(self.numbers))
        return start.ljust(self.random.choice(SIZES), b".")

    async def record(
        self,
        client: int,
        key: bytes,
        kind: Kind,
        function: Callable[[], Awaitable[Value | bool]],
        argument: Value = None,
        expected: Value = None,
        *,
        target: bytes | None = None,
    ) -> Value | bool:
        """Calls, and remembers when."""
        called = next(self.ticks)
        result = await function()
        returned = next(self.ticks)
        together = self.style == MOVING
        operation = Operation(
            client,
            kind,
            called,
            returned,
            argument,
            expected,
            result,
            KEYS.index(key) if together else 0,
            KEYS.index(target) if target is not None else 0,
            S3 if client % 2 else MOUNT,
        )
        self.histories[b"" if together else key].append(operation)
        return result

    # ------------------------------------------------------------------ S3
    async def ask(self, method: str, key: bytes, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
        """One request.  Its body comes in three messages, and anybody may run between them."""
        signed = sign_by_header(method, f"/{BUCKET}/{key.decode()}", headers=headers, body=body)
        fields = [*signed.headers, (b"content-length", b"%d" % len(body))] if method == "PUT" else list(signed.headers)
        step = len(body) // 3 + 1
        parts = [body[start : start + step] for start in range(0, len(body), step)] or [b""]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": f"/{BUCKET}/{key.decode()}",
            "raw_path": signed.path,
            "query_string": b"",
            "headers": fields,
            "client": ("192.0.2.1", 40000),
            "server": ("192.0.2.2", 9000),
            "extensions": {},
        }
        status = 0
        answered: dict[str, str] = {}
        content = bytearray()

        async def receive() -> dict[str, Any]:
            await trio.lowlevel.checkpoint()
            if parts:
                return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            await trio.lowlevel.checkpoint()
            if message["type"] == "http.response.start":
                status = message["status"]
                answered.update({name.decode(): value.decode() for name, value in message["headers"]})
            else:
                content.extend(message.get("body", b""))

        await self.app(scope, receive, send)
        return Answer(status, answered, bytes(content))

    async def get(self, key: bytes) -> Value:
        answer = await self.ask("GET", key)
        assert answer.status in (200, 404), answer
        if answer.status == 404:
            return None
        assert self.tags.setdefault(answer.headers["etag"], answer.body) == answer.body, "one ETag, two contents"
        return answer.body

    async def put(self, key: bytes, body: bytes, headers: dict[str, str] | None = None) -> bool:
        """Whether its condition held."""
        answer = await self.ask("PUT", key, headers, body)
        refused = answer.status == 412 or (answer.status == 404 and headers is not None and "if-match" in headers)
        assert refused or answer.status == 200, answer
        return not refused

    async def delete(self, key: bytes) -> Value:
        assert (await self.ask("DELETE", key)).status == 204
        return None

    async def s3_client(self, client: int) -> None:
        known: dict[bytes, Value] = {}  # what this client read last
        for _ in range(STEPS):
            key = self.random.choice(KEYS)
            choice = self.random.random()
            if choice < 0.4:
                known[key] = await self.read(client, key, self.get)
            elif choice < 0.6:
                await self.write(client, key, lambda key, body: self.put(key, body))
            elif choice < 0.7:
                await self.record(client, key, Kind.WRITE, lambda key=key: self.delete(key))  # type: ignore[misc]
            elif choice < 0.85 or known.get(key) is None:
                body = self.fresh(client)
                condition = {"if-none-match": "*"}
                await self.record(client, key, Kind.CREATE, lambda: self.put(key, body, condition), body)  # noqa: B023
            else:
                body, expected = self.fresh(client), known[key]
                assert expected is not None
                tags = {content: tag for tag, content in self.tags.items()}
                condition = {"if-match": tags[expected]}
                await self.record(
                    client,
                    key,
                    Kind.SWAP,
                    lambda: self.put(key, body, condition),  # noqa: B023
                    body,
                    expected,
                )

    # ------------------------------------------------------------------ the mount
    async def opened(self, key: bytes, flags: int) -> Any:
        """A handle; None if there is none.  As a kernel: what became stale between look-up and open is looked up
        again."""
        mount = self.mount
        for _ in range(ATTEMPTS_MAX):
            try:
                inode = await mount.inode(self.path(key))
                await trio.lowlevel.checkpoint()
                return (await mount.ops.open(inode, flags, mount.ctx)).fh
            except pyfuse3.FUSEError as error:
                if error.errno == errno.ENOENT:
                    return None
                if error.errno != errno.ESTALE:
                    raise
        raise AssertionError("stale again and again")

    async def open_and_read(self, key: bytes) -> Value:
        handle = await self.opened(key, os.O_RDONLY)
        if handle is None:
            return None
        try:
            await trio.lowlevel.checkpoint()
            if self.style == IN_PLACE:  # one read(2): two may see two moments of a file that is written
                return await self.mount.ops.read(handle, 0, 1 << 24)
            return await self.mount.read_all(handle)
        finally:
            await self.mount.close(handle)

    async def replace(self, key: bytes, body: bytes) -> bool:
        """A new file, renamed over the name."""
        mount = self.mount
        temporary = self.path(b"temporary%d" % next(self.numbers))
        handle = await mount.create(temporary)
        for start in range(0, len(body), 100 * KIB):
            await mount.ops.write(handle, start, body[start : start + 100 * KIB])
            await trio.lowlevel.checkpoint()
        if self.random.random() < 0.3:
            await mount.ops.fsync(handle, False)
        await mount.close(handle)
        async with self.names:
            await mount.rename(temporary, self.path(key))
        return True

    async def move(self, key: bytes, target: bytes) -> bool:
        """Whether there was one."""
        try:
            async with self.names:
                await self.mount.rename(self.path(key), self.path(target))
        except pyfuse3.FUSEError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    async def append(self, key: bytes, data: bytes) -> bool:
        """To what is there; whether there was one."""
        mount = self.mount
        handle = await self.opened(key, os.O_WRONLY)
        if handle is None:
            return False
        await trio.lowlevel.checkpoint()
        file = mount.ops._file_handle(handle).file
        await mount.ops.write(handle, file.size, data)  # O_APPEND: the kernel's lock is between these two
        await trio.lowlevel.checkpoint()
        if self.random.random() < 0.3:
            await mount.ops.fsync(handle, False)
        await mount.close(handle)
        return True

    async def cut(self, key: bytes, size: int) -> bool:
        """Whether there was one."""
        for _ in range(ATTEMPTS_MAX):
            try:
                await self.mount.truncate(self.path(key), size)
            except pyfuse3.FUSEError as error:
                if error.errno == errno.ENOENT:
                    return False
                if error.errno != errno.ESTALE:
                    raise
            else:
                return True
        raise AssertionError("stale again and again")

    async def unlink(self, key: bytes) -> bool:
        """Whether there was one."""
        try:
            async with self.names:
                await self.mount.unlink(self.path(key))
        except pyfuse3.FUSEError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    def path(self, key: bytes) -> bytes:
        return BUCKET.encode() + b"/" + key

    async def mount_client(self, client: int) -> None:
        for _ in range(STEPS):
            key = self.random.choice(KEYS)
            choice = self.random.random()
            if choice < 0.45:
                await self.read(client, key, self.open_and_read)
            elif choice < 0.6 and self.style == MOVING:
                target = self.random.choice([other for other in KEYS if other != key])
                await self.record(client, key, Kind.MOVE, lambda: self.move(key, target), target=target)  # noqa: B023
            elif choice < 0.6 and self.style == IN_PLACE:
                await self.change_in_place(client, key)
            elif choice < 0.8:
                await self.write(client, key, self.replace)
            else:
                await self.record(client, key, Kind.REMOVE, lambda key=key: self.unlink(key))  # type: ignore[misc]

    async def change_in_place(self, client: int, key: bytes) -> None:
        if self.random.random() < 0.7:
            data = self.fresh(client)
            await self.record(client, key, Kind.APPEND, lambda: self.append(key, data), data)
        else:
            size = self.random.choice([0, 5, 30, *SIZES])
            await self.record(client, key, Kind.CUT, lambda: self.cut(key, size), bytes(size))

    # ------------------------------------------------------------------ both
    async def read(self, client: int, key: bytes, function: Callable[[bytes], Awaitable[Value]]) -> Value:
        result = await self.record(client, key, Kind.READ, lambda: function(key))
        assert not isinstance(result, bool)
        return result

    async def write(self, client: int, key: bytes, function: Callable[[bytes, bytes], Awaitable[bool]]) -> None:
        body = self.fresh(client)
        await self.record(client, key, Kind.WRITE, lambda: function(key, body), body)

    async def all_clients(self) -> None:
        """The history, and one last look through each door."""
        for directory in (b"d", b"d/e"):
            await self.mount.mkdir(self.path(directory))
        async with trio.open_nursery() as nursery:
            for client in range(CLIENTS):
                nursery.start_soon(self.s3_client if client % 2 else self.mount_client, client)
        for key in KEYS:
            await self.read(CLIENTS + 1, key, self.get)
            await self.read(CLIENTS, key, self.open_and_read)


async def record_history(seed: int, directory: Path, *, threaded: bool) -> Recorder:
    """On a new pool; the audit at its end is clean."""
    devices = make_devices(2)
    make_pool(devices, pool_uuid=random.Random(seed).randbytes(16))
    async with store_over(devices, directory / "catalogue.db", threaded=threaded) as store:
        await store.create_bucket(BUCKET, KEY.owner)
        await store.put_access_key(KEY)
        mount = Unmounted(store, StoreDoor(store))
        app = s3_app(store, region=REGION, unseal=unseal, clock=lambda: NOW)
        recorder = Recorder(seed, mount, app)
        async with trio.open_nursery() as nursery:
            await nursery.start(mount.ops.run)
            await recorder.all_clients()
            await mount.ops.files.commit_all()
            nursery.cancel_scope.cancel()
        assert not mount.ops.files.files
        report = await audit(store, verify=True)
        assert report.healthy, report.problems
    return recorder


async def _in_the_loop(function: Callable[..., object], *arguments: object, **_: object) -> object:
    """A thread's work that repeats."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


def run_seed(seed: int, *, threaded: bool = False) -> Recorder:
    """Records one history and judges it.  Its failure says how to replay it (with threads not exactly: they run as they
    like; without there are none, not even those that tell the kernel what to forget)."""
    seed_scheduler(seed)
    alone = contextlib.nullcontext() if threaded else mock.patch.object(trio.to_thread, "run_sync", _in_the_loop)
    try:
        with alone, tempfile.TemporaryDirectory(prefix="tierce-") as directory:

            async def record() -> Recorder:
                return await record_history(seed, Path(directory), threaded=threaded)

            recorder = trio.run(record)
        for key, history in recorder.histories.items():
            views = [view(history, S3), view(history, MOUNT)] if recorder.style == IN_PLACE else [history]
            for seen in views:
                assert linearizable(seen), f"{key!r} cannot have been one object:\n{describe(seen)}"
    except BaseException as error:
        error.add_note(f"replay: python -m tests.models.doors.histories --seed {seed}{' --threaded' * threaded}")
        raise
    return recorder


def main() -> int:
    """The long run's entrance."""
    parser = argparse.ArgumentParser(description="Records what clients of both doors see, and judges it.")
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--threaded", action="store_true", help="with the daemon's threads")
    parser.add_argument("--first", type=int, default=time.time_ns() // 1000, help="count seeds from here")
    parser.add_argument("--seconds", type=float, default=60.0, help="for so long")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        print(run_seed(arguments.seed, threaded=arguments.threaded).operations, "operations")
        return 0
    begin, seed, bad, operations = time.monotonic(), arguments.first, [], 0
    while time.monotonic() - begin < arguments.seconds:
        try:
            operations += run_seed(seed, threaded=seed % 4 == 0).operations
        except Exception as error:
            bad.append(seed)
            print(f"seed {seed}: {error!r}", *getattr(error, "__notes__", ()), sep="\n", flush=True)
        seed += 1
    print(f"histories {arguments.first} to {seed - 1}: {operations} operations; failed: {bad}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
