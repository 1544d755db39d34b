"""The two doors of one box, as a synchronous test uses them: signed requests and file system calls.

`Direct` has both in this process: the S3 application over a pool on memory devices, and the mount's handlers called as
a kernel would.  Whatever goes wrong on the mount is an OSError.
"""

from __future__ import annotations

import contextlib
import os
import urllib.parse
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar
from unittest import mock

import pyfuse3
import trio

from appliance.verbs import objects
from fusefs import writeback
from tests.fusefs.doors import StoreDoor
from tests.fusefs.unmounted import Unmounted
from tests.models import boxes
from tests.models.boxes import read_all
from tests.s3front.box import Answer, Box

T = TypeVar("T")

BUCKET = "b"


class Doors(Protocol):
    """Signed requests to one bucket, and file system calls on paths below it.  A handle stands for an open file."""

    bucket: str
    exact: bool
    """Whether nothing is committed but by a call: then what S3 sees of a file that is being written is known."""

    def send(
        self, method: str, key: bytes, query: str = "", headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Answer: ...
    def open(self, path: bytes, *, make: bool, writable: bool, truncate: bool = False) -> Any: ...
    def read(self, handle: Any, offset: int, length: int) -> bytes: ...
    def write(self, handle: Any, offset: int, data: bytes) -> None: ...
    def cut(self, handle: Any, size: int) -> None: ...
    def sync(self, handle: Any) -> None: ...
    def close(self, handle: Any) -> None: ...
    def truncate(self, path: bytes, size: int) -> None: ...
    def mkdir(self, path: bytes) -> None: ...
    def rmdir(self, path: bytes) -> None: ...
    def unlink(self, path: bytes) -> None: ...
    def link(self, old: bytes, new: bytes) -> None: ...
    def symlink(self, target: bytes, path: bytes) -> None: ...
    def rename(self, old: bytes, new: bytes, flags: int) -> None: ...
    def names(self, path: bytes) -> list[bytes]: ...
    def size(self, path: bytes) -> int: ...
    def finish(self, content: dict[bytes, bytes]) -> None: ...
    def close_all(self) -> None: ...


def wire(bucket: str, key: bytes) -> str:
    """A key as the path of a request; the bucket's own without one."""
    return f"/{bucket}/{urllib.parse.quote(key)}" if key else f"/{bucket}"


class Direct:
    """Both doors without sockets and kernel."""

    bucket = BUCKET
    exact = True

    def __init__(self) -> None:
        # Nothing is committed by its age: what S3 may see is then exact.
        self._patch = mock.patch.object(writeback, "AGE", 1e9)
        self._patch.start()
        self.pool = boxes.Box(boxes.make_devices(2), copies=1)
        with mock.patch.object(objects, "BUCKET_NAME_MIN", 1):  # the application's box has a bucket called b
            self.s3 = Box(real=self.pool)
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self.pool.run(self._start)

    def close_all(self) -> None:
        """Whatever happened."""
        self._patch.stop()
        self.pool.__exit__()

    async def _start(self) -> None:
        self._mount = Unmounted(self.pool.store, StoreDoor(self.pool.store))
        started = trio.Event()
        trio.lowlevel.spawn_system_task(self._live, started)
        await started.wait()

    async def _live(self, started: trio.Event) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._mount.ops.files.run)
                started.set()
        self._ended.set()

    def finish(self, content: dict[bytes, bytes]) -> None:
        """Unmounts, audits, rebuilds the catalogue from the devices alone, and finds `content` again."""

        async def unmount() -> None:
            files = self._mount.ops.files
            await files.commit_all()
            assert not files.files, "closed and committed, but still in memory"
            assert files.memory == 0
            await self._mount.ops.invalidation.close()
            self._scope.cancel()
            await self._ended.wait()

        async def stored() -> dict[bytes, bytes]:
            store = self.pool.store
            page = await store.list_objects(store.bucket(BUCKET))
            return {
                item.key: await read_all(store, await store.look_up(store.bucket(BUCKET), item.key))
                for item in page.objects
            }

        self.pool.run(unmount)
        for _ in range(2):
            report = self.pool.audit(verify=True)
            assert report.healthy, report.problems
            self.pool.reopen(rebuild=True)
            assert self.pool.run(stored) == content

    # ------------------------------------------------------------------ S3
    def send(
        self, method: str, key: bytes, query: str = "", headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        return self.s3.send(method, wire(BUCKET, key), query, headers, body)

    # ------------------------------------------------------------------ the mount
    def _do(self, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        with errors():
            return self.pool.run(function, *arguments)

    def open(self, path: bytes, *, make: bool, writable: bool, truncate: bool = False) -> Any:
        flags = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_TRUNC if truncate else 0)

        async def opening() -> Any:
            mounted = self._mount
            if make and not await mounted.exists(at(path)):
                handle = await mounted.create(at(path), flags)
                return handle, await mounted.inode(at(path))
            inode = await mounted.inode(at(path))
            return (await mounted.ops.open(inode, flags, mounted.ctx)).fh, inode

        return self._do(opening)

    def read(self, handle: Any, offset: int, length: int) -> bytes:
        return self._do(self._mount.ops.read, handle[0], offset, length)

    def write(self, handle: Any, offset: int, data: bytes) -> None:
        assert self._do(self._mount.ops.write, handle[0], offset, data) == len(data)

    def cut(self, handle: Any, size: int) -> None:
        self._do(self._mount.setattr_inode, handle[1], {"st_size": size})

    def sync(self, handle: Any) -> None:
        self._do(self._mount.ops.fsync, handle[0], False)

    def close(self, handle: Any) -> None:
        self._do(self._mount.close, handle[0])

    def truncate(self, path: bytes, size: int) -> None:
        self._do(self._mount.truncate, at(path), size)

    def mkdir(self, path: bytes) -> None:
        self._do(self._mount.mkdir, at(path))

    def rmdir(self, path: bytes) -> None:
        self._do(self._mount.rmdir, at(path))

    def unlink(self, path: bytes) -> None:
        self._do(self._mount.unlink, at(path))

    def link(self, old: bytes, new: bytes) -> None:
        self._do(self._mount.link, at(old), at(new))

    def symlink(self, target: bytes, path: bytes) -> None:
        self._do(self._mount.symlink, target.decode(), at(path))

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        self._do(self._mount.rename, at(old), at(new), flags)

    def names(self, path: bytes) -> list[bytes]:
        return self._do(self._mount.listdir, at(path))

    def size(self, path: bytes) -> int:
        return self._do(self._mount.stat, at(path)).st_size


def at(path: bytes) -> bytes:
    """From the mount's root."""
    return BUCKET.encode() + b"/" + path if path else BUCKET.encode()


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """FUSEErrors as what a program gets."""
    try:
        yield
    except pyfuse3.FUSEError as error:
        raise OSError(error.errno, str(error)) from None
