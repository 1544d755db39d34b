"""A mount without a kernel: the handlers called directly, in the order in which a kernel would call them."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pyfuse3
import trio

from appliance.authority import MOUNT, Principal
from appliance.engine.startup import NewDevice, create_pool
from appliance.opening import open_store
from fusefs.inodes import ROOT
from fusefs.operations import Operations
from tests.doubles.disks import MemoryDevice
from tests.fusefs.doors import DictDoor, Door, StoreDoor
from tests.fusefs.memory_store import MemoryStore
from tests.models.boxes import VAULT


class RecordingKernel:
    """Remembers what it was told to forget."""

    def __init__(self) -> None:
        self.names: list[tuple[int, bytes]] = []
        self.inodes: list[int] = []
        self.inode = 0  # that statfs asks about
        self._told = threading.Condition()
        self.given: list[tuple[int, bytes]] = []

    def forget_name(self, parent: int, name: bytes) -> None:
        with self._told:
            self.names.append((parent, name))
            self._told.notify_all()

    def wait_for(self, name: tuple[int, bytes]) -> None:
        """Until it was told to forget it.  In a thread: it is told so in another one."""
        with self._told:
            assert self._told.wait_for(lambda: name in self.names, timeout=60), f"never told to forget {name}"

    def asked(self) -> int:
        return self.inode

    def arrived(self) -> bytes:
        return b""

    def give(self, inode: int, data: bytes) -> None:
        self.given.append((inode, data))

    def forget_attributes(self, inode: int) -> None:
        self.inodes.append(inode)

    def write_back(self, inode: int, offset: int) -> None:
        """Nothing is held back here."""


class SlowKernel(RecordingKernel):
    """Holds a directory's lock: nothing is forgotten before the gate opens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()

    def forget_name(self, parent: int, name: bytes) -> None:
        assert self.gate.wait(60)
        super().forget_name(parent, name)


class Unmounted:
    """Paths instead of inodes.  Errors are FUSEErrors."""

    def __init__(self, store: Any, door: Door, *, durable_close: bool = False, principal: Principal = MOUNT) -> None:
        self.store = store
        self.door = door
        self.kernel = RecordingKernel()
        self.ops = Operations(store, self.kernel, principal=principal, durable_close=durable_close)
        self.ctx: Any = SimpleNamespace(uid=1000, gid=100, pid=1, umask=0o22)
        self.known: dict[bytes, int] = {}

    async def entry(self, path: str | bytes) -> pyfuse3.EntryAttributes:
        """The last component, looked up from the root."""
        found = await self.ops.getattr(ROOT, self.ctx)
        for name in os.fsencode(path).split(b"/"):
            found = await self.ops.lookup(found.st_ino, name, self.ctx)
            if found.st_ino == 0:
                raise pyfuse3.FUSEError(errno.ENOENT)
        return found

    async def inode(self, path: str | bytes) -> int:
        return (await self.entry(path)).st_ino if path else ROOT

    async def split(self, path: str | bytes) -> tuple[Any, Any]:
        parent, _, name = os.fsencode(path).rpartition(b"/")
        return await self.inode(parent), name

    async def exists(self, path: str | bytes) -> bool:
        try:
            await self.entry(path)
        except pyfuse3.FUSEError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    async def stat(self, path: str | bytes) -> pyfuse3.EntryAttributes:
        return await self.ops.getattr(await self.inode(path), self.ctx)

    async def create(self, path: str | bytes, flags: int = os.O_RDWR, mode: int = 0o644) -> Any:
        parent, name = await self.split(path)
        info, _ = await self.ops.create(parent, name, stat.S_IFREG | mode, flags | os.O_CREAT, self.ctx)
        return info.fh

    async def open(self, path: str | bytes, flags: int = os.O_RDONLY) -> Any:
        return (await self.ops.open(await self.inode(path), flags, self.ctx)).fh

    async def close(self, fh: Any) -> None:
        await self.ops.flush(fh)
        await self.ops.release(fh)

    async def write_file(self, path: str | bytes, data: bytes) -> None:
        fh = await (self.open(path, os.O_WRONLY | os.O_TRUNC) if await self.exists(path) else self.create(path))
        await self.ops.write(fh, 0, data)
        await self.close(fh)

    async def read_file(self, path: str | bytes) -> bytes:
        fh = await self.open(path)
        try:
            return await self.read_all(fh)
        finally:
            await self.close(fh)

    async def read_all(self, fh: Any) -> bytes:
        pieces, at = [], 0
        while piece := await self.ops.read(fh, at, 1 << 20):
            pieces.append(piece)
            at += len(piece)
        return b"".join(pieces)

    async def truncate(self, path: str | bytes, size: int) -> None:
        await self.setattr(path, st_size=size)

    async def setattr(self, path: str | bytes, **changes: int) -> pyfuse3.EntryAttributes:
        return await self.setattr_inode(await self.inode(path), changes)

    async def setattr_inode(self, inode: int, changes: dict[str, int], fh: Any = None) -> pyfuse3.EntryAttributes:
        """fchmod and the like: the file may have no name any more.  The kernel gives a handle for ftruncate only."""
        attr = pyfuse3.EntryAttributes()
        fields: Any = SimpleNamespace(
            **{f"update_{name}": False for name in ("atime", "mtime", "ctime", "mode", "uid", "gid", "size")}
        )
        for name, value in changes.items():
            setattr(attr, name, value)
            setattr(fields, "update_" + name.removeprefix("st_").removesuffix("_ns"), True)
        return await self.ops.setattr(cast(Any, inode), attr, fields, fh, self.ctx)

    async def mkdir(self, path: str | bytes, mode: int = 0o755) -> None:
        parent, name = await self.split(path)
        await self.ops.mkdir(parent, name, stat.S_IFDIR | mode, self.ctx)

    async def rmdir(self, path: str | bytes) -> None:
        await self.ops.rmdir(*await self.split(path), self.ctx)

    async def unlink(self, path: str | bytes) -> None:
        await self.ops.unlink(*await self.split(path), self.ctx)

    async def rename(self, old: str | bytes, new: str | bytes, flags: int = 0) -> None:
        await self.ops.rename(*await self.split(old), *await self.split(new), flags, self.ctx)

    async def link(self, old: str | bytes, new: str | bytes) -> None:
        await self.ops.link(await self.inode(old), *await self.split(new), self.ctx)

    async def symlink(self, target: str, path: str | bytes) -> None:
        parent, name = await self.split(path)
        await self.ops.symlink(parent, name, os.fsencode(target), self.ctx)

    async def listdir(self, path: str | bytes, per_call: int = 1 << 30) -> list[bytes]:
        """As readdir(3): `per_call` entries fit one reply."""
        fh = await self.ops.opendir(await self.inode(path), self.ctx)
        names: list[bytes] = []
        cookie = 0
        while batch := await self.list_once(fh, cookie, per_call):
            names += [name for name, _, _ in batch]
            cookie = batch[-1][2]
        await self.ops.releasedir(fh)
        return names

    async def list_once(self, fh: Any, cookie: int, room: int) -> Sequence[tuple[bytes, pyfuse3.EntryAttributes, int]]:
        got: list[tuple[bytes, pyfuse3.EntryAttributes, int]] = []

        def reply(token: object, name: bytes, attr: pyfuse3.EntryAttributes, next_id: int) -> bool:
            if len(got) == room:
                return False
            if name not in (b".", b".."):
                got.append((bytes(name), attr, next_id))
            return True

        real, pyfuse3.readdir_reply = pyfuse3.readdir_reply, reply
        try:
            await self.ops.readdir(fh, cookie, cast("pyfuse3.ReaddirToken", None))
        finally:
            pyfuse3.readdir_reply = real
        return got


@asynccontextmanager
async def unmounted(*, durable_close: bool = False) -> AsyncIterator[Unmounted]:
    """On the store over dicts, with one bucket, `photos`; the write-back's background runs."""
    store = MemoryStore()
    await store.create_bucket("photos", "me")
    async with _running(Unmounted(store, DictDoor(store), durable_close=durable_close)) as mount:
        yield mount
        assert promised(mount) == {bucket: held for bucket, held in store.promised.items() if held != (0, 0)}


@asynccontextmanager
async def unmounted_pool(directory: Path) -> AsyncIterator[Unmounted]:
    """The same on the real store, over devices in memory, in one thread."""
    devices = [MemoryDevice(256 << 20, "ssd"), MemoryDevice(256 << 20, "hdd")]
    new = [NewDevice("ssd", devices[0], "blaze"), NewDevice("hdd", devices[1], "bulk")]
    create_pool(new, name="test", copies=1, now_ns=1, ring_length=1 << 20)
    attached = [(device.name, device) for device in devices]
    async with open_store(attached, directory / "catalogue.db", vault=VAULT, threaded=False) as store:
        await store.create_bucket("photos", "me")
        async with _running(Unmounted(store, StoreDoor(store))) as mount:
            yield mount
            await mount.ops.files.commit_all()
            held = store.engine.ledger.promised()
            assert promised(mount) == {bucket: (each.objects, each.size) for bucket, each in held.items()}


def promised(mount: Unmounted) -> dict[int, tuple[int, int]]:
    """Objects and bytes that the mount's files were promised and no commit has redeemed, by bucket."""
    held: dict[int, tuple[int, int]] = {}
    for file in mount.ops.files.files.values():
        commits: list[Any] = [commit for commit in file.pending if not commit.ticket.settled or commit.ticket.error]
        for objects, size in [file.promised, *(commit.promised for commit in commits)]:
            before = held.get(file.bucket.id, (0, 0))
            held[file.bucket.id] = before[0] + objects, before[1] + size
    return {bucket: each for bucket, each in held.items() if each != (0, 0)}


@asynccontextmanager
async def _running(mount: Unmounted) -> AsyncIterator[Unmounted]:
    async with trio.open_nursery() as nursery:
        await nursery.start(mount.ops.run)
        yield mount
        nursery.cancel_scope.cancel()
