"""The two doors of one box, as a synchronous test uses them: signed requests and file system calls.

`Direct` has both in this process: the S3 application over a pool on memory devices, and the mount's handlers called as
a kernel would.  Whatever goes wrong on the mount is an OSError.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import urllib.parse
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar
from unittest import mock

import pyfuse3
import trio

from appliance.quota import Quota
from appliance.verbs import objects
from fusefs import writeback
from s3front.sigv4 import format_timestamp
from tests.fusefs.doors import StoreDoor
from tests.fusefs.unmounted import Unmounted
from tests.models import boxes
from tests.models.boxes import read_all
from tests.s3front.box import HOST, KEY, Answer, Box

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
    def times(self, path: bytes) -> tuple[int, int]: ...
    def chmod(self, path: bytes, mode: int) -> None: ...
    def utime(self, path: bytes, mtime_ns: int) -> None: ...
    def attribute(self, path: bytes, name: bytes) -> bytes: ...
    def allocate(self, handle: Any, mode: int, offset: int, length: int) -> None: ...
    def copy_range(self, source: Any, start: int, target: Any, offset: int, length: int) -> int: ...
    def begin_put(self, key: bytes, body: bytes) -> Any: ...
    def finish_put(self, begun: Any) -> Answer: ...
    def finish(self, content: dict[bytes, bytes]) -> None: ...
    def close_all(self) -> None: ...


def wire(bucket: str, key: bytes) -> str:
    """A key as the path of a request; the bucket's own without one."""
    return f"/{bucket}/{urllib.parse.quote(key)}" if key else f"/{bucket}"


class Streaming:
    """A PUT in this process: the second half of its body comes when `rest` is set."""

    def __init__(self, body: bytes) -> None:
        self.halves = [body[: len(body) // 2], body[len(body) // 2 :]]
        self.rest = trio.Event()
        self.waits = trio.Event()
        self.done = trio.Event()
        self.status = 0
        self.headers: dict[str, str] = {}

    async def receive(self) -> dict[str, Any]:
        """As a server's."""
        if len(self.halves) == 1:
            self.waits.set()
            await self.rest.wait()
        if not self.halves:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": self.halves.pop(0), "more_body": bool(self.halves)}

    async def send(self, message: dict[str, Any]) -> None:
        """As a server's."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}

    async def run(self, app: Any, scope: dict[str, Any]) -> None:
        """All of it."""
        try:
            await app(scope, self.receive, self.send)
        finally:
            self.waits.set()
            self.done.set()


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
                await nursery.start(self._mount.ops.run)
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

    def limit(self, full: bool) -> None:
        """A quota that leaves no room, or none."""
        quota = Quota(size=0, objects=0) if full else None
        self.pool.run(self.pool.store.set_quota, self.pool.store.bucket(BUCKET), quota)

    def begin_put(self, key: bytes, body: bytes) -> Any:
        path = wire(BUCKET, key)
        fields = {"host": HOST, "x-amz-date": format_timestamp(int(self.s3.now)).decode()}
        fields |= {"x-amz-content-sha256": hashlib.sha256(body).hexdigest(), "content-length": str(len(body))}
        fields["authorization"] = self.s3.authorization("PUT", path, "", fields, KEY)
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "PUT",
            "scheme": "http",
            "path": urllib.parse.unquote(path),
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
            "client": ("192.0.2.1", 40000),
            "server": ("192.0.2.2", 9000),
            "extensions": {},
        }
        streaming = Streaming(body)

        async def begin() -> None:
            trio.lowlevel.spawn_system_task(streaming.run, self.s3.app, scope)
            await streaming.waits.wait()

        self.pool.run(begin)
        return streaming

    def finish_put(self, begun: Any) -> Answer:
        async def finish() -> None:
            begun.rest.set()
            await begun.done.wait()

        self.pool.run(finish)
        return Answer(begun.status, begun.headers, b"")

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
        self._do(self._mount.setattr_inode, handle[1], {"st_size": size}, handle[0])

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

    def times(self, path: bytes) -> tuple[int, int]:
        """Mode and st_mtime_ns."""
        found = self._do(self._mount.stat, at(path))
        return stat.S_IMODE(found.st_mode), found.st_mtime_ns

    def chmod(self, path: bytes, mode: int) -> None:
        inode = self._do(self._mount.inode, at(path))
        self._do(self._mount.setattr_inode, inode, {"st_mode": mode})

    def utime(self, path: bytes, mtime_ns: int) -> None:
        inode = self._do(self._mount.inode, at(path))
        self._do(self._mount.setattr_inode, inode, {"st_mtime_ns": mtime_ns})

    def allocate(self, handle: Any, mode: int, offset: int, length: int) -> None:
        self._do(self._mount.ops.fallocate, handle[0], mode, offset, length)

    def copy_range(self, source: Any, start: int, target: Any, offset: int, length: int) -> int:
        """As the kernel: what is refused is copied by reading and writing."""
        try:
            return self._do(self._mount.ops.copy_file_range, source[0], start, target[0], offset, length, 0)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        data = self.read(source, start, length)
        if data:
            self.write(target, offset, data)
        return len(data)

    def attribute(self, path: bytes, name: bytes) -> bytes:
        async def ask() -> bytes:
            mounted = self._mount
            return bytes(await mounted.ops.getxattr(await mounted.inode(at(path)), name, mounted.ctx))

        return self._do(ask)


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
