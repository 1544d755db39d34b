"""The two doors of a real daemon: HTTP on a socket, system calls on its mount.

Here the kernel's caches of names, attributes and pages take part, so that what S3 changes must have been invalidated
(H5).  The kernel also keeps writes back: whoever wants to know what S3 sees must sync.
"""

from __future__ import annotations

import ctypes
import http.client
import itertools
import os
import stat
from collections.abc import Iterator
from errno import EISDIR
from typing import TYPE_CHECKING, Any, Final

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.models.doors.drivers import wire
from tests.s3front.box import Answer

if TYPE_CHECKING:
    from tests.system.box import Box

AT_FDCWD: Final = -100
LIBC: Final = ctypes.CDLL(None, use_errno=True)


class Kernel:
    """One new bucket of a running box."""

    exact = False
    _numbers: Iterator[int] = itertools.count(1)

    def __init__(self, box: Box, bucket: str = "") -> None:
        """Makes a bucket unless one is named."""
        self.bucket = bucket or f"doors-{next(self._numbers)}"
        self.root = os.fsencode(box.mount / self.bucket)
        address = box.endpoint.partition("://")[2]
        self._address = address
        self._connection = http.client.HTTPConnection(address, timeout=60)
        self._signer = S3SigV4Auth(Credentials(box.facts["access_key"], box.facts["secret_key"]), "s3", "us-east-1")
        self._endpoint = box.endpoint
        self._handles: set[int] = set()
        if not bucket:
            assert self.send("PUT", b"").status == 200

    # ------------------------------------------------------------------ S3
    def send(
        self, method: str, key: bytes, query: str = "", headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        path = wire(self.bucket, key)
        target = f"{path}?{query}" if query else path
        request = AWSRequest(method, self._endpoint + target, headers=dict(headers or {}), data=body)
        self._signer.add_auth(request)
        self._connection.request(method, target, body, dict(request.headers.items()))
        answer = self._connection.getresponse()
        content = answer.read()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, content)

    def begin_put(self, key: bytes, body: bytes) -> Any:
        """A connection that has sent half of the body."""
        path = wire(self.bucket, key)
        request = AWSRequest("PUT", self._endpoint + path, data=body)
        self._signer.add_auth(request)
        connection = http.client.HTTPConnection(self._address, timeout=60)
        connection.putrequest("PUT", path)
        for name, value in request.headers.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders()
        half = len(body) // 2
        connection.send(body[:half])
        return connection, body[half:]

    def finish_put(self, begun: Any) -> Answer:
        connection, rest = begun
        connection.send(rest)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, content)

    # ------------------------------------------------------------------ the mount
    def at(self, path: bytes) -> bytes:
        return self.root + b"/" + path if path else self.root

    def open(self, path: bytes, *, make: bool, writable: bool, truncate: bool = False) -> Any:
        flags = os.O_RDWR if writable else os.O_RDONLY
        flags |= (os.O_CREAT if make else 0) | (os.O_TRUNC if truncate else 0)
        handle = os.open(self.at(path), flags | os.O_NOFOLLOW, 0o644)
        if stat.S_ISDIR(os.fstat(handle).st_mode):  # Linux opens directories for reading
            os.close(handle)
            raise IsADirectoryError(EISDIR, "opened")
        self._handles.add(handle)
        return handle

    def read(self, handle: Any, offset: int, length: int) -> bytes:
        pieces = []
        while length > 0 and (piece := os.pread(handle, length, offset)):
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return b"".join(pieces)

    def write(self, handle: Any, offset: int, data: bytes) -> None:
        while data:
            count = os.pwrite(handle, data, offset)
            offset, data = offset + count, data[count:]

    def cut(self, handle: Any, size: int) -> None:
        os.ftruncate(handle, size)

    def sync(self, handle: Any) -> None:
        os.fsync(handle)

    def close(self, handle: Any) -> None:
        self._handles.discard(handle)
        os.close(handle)

    def truncate(self, path: bytes, size: int) -> None:
        os.truncate(self.at(path), size)

    def mkdir(self, path: bytes) -> None:
        os.mkdir(self.at(path))

    def rmdir(self, path: bytes) -> None:
        os.rmdir(self.at(path))

    def unlink(self, path: bytes) -> None:
        os.unlink(self.at(path))

    def link(self, old: bytes, new: bytes) -> None:
        os.link(self.at(old), self.at(new), follow_symlinks=False)

    def symlink(self, target: bytes, path: bytes) -> None:
        os.symlink(target, self.at(path))

    def rename(self, old: bytes, new: bytes, flags: int) -> None:
        if LIBC.renameat2(AT_FDCWD, self.at(old), AT_FDCWD, self.at(new), flags):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def names(self, path: bytes) -> list[bytes]:
        return os.listdir(self.at(path))

    def size(self, path: bytes) -> int:
        return os.lstat(self.at(path)).st_size

    def times(self, path: bytes) -> tuple[int, int]:
        found = os.lstat(self.at(path))
        return stat.S_IMODE(found.st_mode), found.st_mtime_ns

    def chmod(self, path: bytes, mode: int) -> None:
        os.chmod(self.at(path), mode)

    def utime(self, path: bytes, mtime_ns: int) -> None:
        os.utime(self.at(path), ns=(mtime_ns, mtime_ns))

    def allocate(self, handle: Any, mode: int, offset: int, length: int) -> None:
        if LIBC.fallocate(handle, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def copy_range(self, source: Any, start: int, target: Any, offset: int, length: int) -> int:
        done = 0
        while done < length:
            count = os.copy_file_range(source, target, length - done, start + done, offset + done)
            if count == 0:
                break
            done += count
        return done

    def attribute(self, path: bytes, name: bytes) -> bytes:
        return os.getxattr(self.at(path), name)

    # ------------------------------------------------------------------ the end
    def finish(self, content: dict[bytes, bytes]) -> None:
        """All bytes once more through S3; the audit is the box's, at its end."""
        for key, data in content.items():
            assert self.send("GET", key).body == data

    def close_all(self) -> None:
        """Whatever happened."""
        for handle in list(self._handles):
            self.close(handle)
        self._connection.close()
