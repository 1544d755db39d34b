"""A pool on memory devices, opened and reopened by synchronous tests.

`Box` runs a trio loop in a thread of its own for as long as it is open, so that a synchronous test (a Hypothesis state
machine above all) can call the store's verbs one by one; the store itself runs unthreaded, so a seed repeats.
"""

from __future__ import annotations

import contextlib
import shutil
import stat
import tempfile
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypedDict, TypeVar

import trio

from appliance.credentials import Vault
from appliance.device.device import BlockDevice
from appliance.engine.startup import NewDevice, create_pool, put_aside
from appliance.limits import GATHER_MAX, KIB, MIB
from appliance.model import Body, Bucket, DataKey, Node
from appliance.ondisk.superblock import Tier
from appliance.opening import open_store
from appliance.store import ObjectStore, Ticket
from appliance.upkeep.audit import AuditReport, audit
from tests.doubles.disks import MemoryDevice

T = TypeVar("T")

DEVICE_SIZE = 64 * MIB
VAULT = Vault({b"test": bytes(range(32))}, None)
RING = 512 * KIB  # small, so that it wraps and checkpoints happen within a test


def make_devices(count: int = 2, size: int = DEVICE_SIZE) -> list[MemoryDevice]:
    """Empty ones."""
    return [MemoryDevice(size, f"device-{number}") for number in range(1, count + 1)]


def make_pool(
    devices: Sequence[BlockDevice],
    *,
    copies: int = 1,
    ring: int = RING,
    pool_uuid: bytes | None = None,
    journals: int = 1,
) -> bytes:
    """A pool over them, the first `journals` of them SSDs; returns its UUID."""
    tiers: list[Tier] = ["blaze" if number < journals else "bulk" for number in range(len(devices))]
    new = [NewDevice(device.name, device, tier) for device, tier in zip(devices, tiers, strict=True)]
    return create_pool(new, name="test", copies=copies, now_ns=1, ring_length=ring, pool_uuid=pool_uuid)


def store_over(
    devices: Sequence[BlockDevice], database: Path, *, threaded: bool = False, vault: Vault | None = VAULT
) -> contextlib.AbstractAsyncContextManager[ObjectStore]:
    """The store, running."""
    attached = [(device.name, device) for device in devices]
    return open_store(attached, database, vault=vault, threaded=threaded, buffers=3)


class OfRoot(TypedDict):
    """What a file of the mount is besides its content."""

    mode: int
    uid: int
    gid: int
    atime_ns: int
    mtime_ns: int
    now_ns: int


def of_root(now_ns: int) -> OfRoot:
    """A plain file that root has just written."""
    return OfRoot(mode=stat.S_IFREG | 0o644, uid=0, gid=0, atime_ns=now_ns, mtime_ns=now_ns, now_ns=now_ns)


async def body_of(store: ObjectStore, bucket: Bucket, data: bytes, encryption: DataKey | None = None) -> Body:
    """A body of any size; it is the caller's to commit."""
    if len(data) <= GATHER_MAX:
        return store.small_body(data, encryption)
    ingest = await store.ingest(bucket, len(data), encryption=encryption)
    try:
        await ingest.write_async(data)
        body = await ingest.finish_async()
        ingest.keep()
        return body
    finally:
        ingest.close()


async def read_all(
    store: ObjectStore, node: Node, start: int = 0, length: int | None = None, customer: DataKey | None = None
) -> bytes:
    """The node's bytes."""
    with store.reader(node, start, length, customer=customer) as reader:
        ready = reader.ready()
        return ready if ready is not None else await reader.read()


class Box:
    """A pool with its loop.  A context manager."""

    def __init__(self, devices: Sequence[MemoryDevice] | None = None, *, copies: int = 1, journals: int = 1) -> None:
        self.devices: Sequence[MemoryDevice] = make_devices() if devices is None else devices
        self.directory = Path(tempfile.mkdtemp(prefix="tierce-"))
        self.database = self.directory / "catalogue.db"
        make_pool(self.devices, copies=copies, journals=journals)
        started = threading.Event()
        self._end: trio.Event | None = None
        self._thread = threading.Thread(target=trio.run, args=(self._live, started), daemon=True)
        self._thread.start()
        assert started.wait(60)
        self._open()

    async def _live(self, started: threading.Event) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._end = trio.Event()
        started.set()
        await self._end.wait()

    def run(self, function: Callable[..., Awaitable[T] | Ticket], *arguments: object) -> T:
        """`await function(*arguments)` in the loop; of what is only submitted, until it is durable."""

        async def work() -> T:
            answer = function(*arguments)
            result: T = await (answer.wait() if isinstance(answer, Ticket) else answer)
            return result

        return trio.from_thread.run(work, trio_token=self._token)

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """`function(*arguments)` in the loop."""
        return trio.from_thread.run_sync(function, *arguments, trio_token=self._token)

    def _open(self) -> None:
        self._context = store_over(self.devices, self.database)
        self.store = self.run(self._context.__aenter__)

    def _close(self) -> None:
        self.run(self._context.__aexit__, None, None, None)

    def reopen(self, *, rebuild: bool = False) -> None:
        """A clean close and a new start; with `rebuild` from the devices alone."""
        self._close()
        if rebuild:
            put_aside(self.database)
        self._open()

    def audit(self, *, verify: bool = False) -> AuditReport:
        """The whole cross-check."""

        async def look() -> AuditReport:
            return await audit(self.store, verify=verify)

        return self.run(look)

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._close()
        finally:
            assert self._end is not None
            self.call(self._end.set)
            self._thread.join()
            shutil.rmtree(self.directory, ignore_errors=True)


def run_store(
    directory: Path,
    function: Callable[[ObjectStore, Bucket], Awaitable[T]],
    *,
    devices: Sequence[BlockDevice] | None = None,
    copies: int = 1,
    threaded: bool = False,
    pooled: bool = False,
) -> T:
    """`function(store, bucket)` over a pool on `devices`, which is made unless they are `pooled`; the audit ends
    clean."""
    members = make_devices(max(2, copies)) if devices is None else devices

    async def main() -> T:
        async with store_over(members, directory / "catalogue.db", threaded=threaded) as store:
            found = store.buckets()
            bucket = found[0] if found else await store.create_bucket("bucket", "me", copies=copies)
            result = await function(store, bucket)
            report = await audit(store, verify=True)
            assert report.clean, report.problems
            return result

    if not pooled:
        make_pool(members, copies=copies)
    return trio.run(main)
