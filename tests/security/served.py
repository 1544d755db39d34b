"""The S3 door as an attacker meets it: the real server on a real port, the real gate with sealed secrets, the real
store over memory devices.  Nothing of it is replaced but the clock of signatures.

`ServedBox` runs it in a thread, so that tests are plain sockets and plain calls.  When it ends the store's audit must
be clean and nothing may have been logged as a failure: an attack that left a traceback has found something.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import shutil
import socket
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import trio

from appliance.credentials import open_vault
from appliance.model import NO_ATTRIBUTES, AccessKey, Bucket
from appliance.upkeep.audit import audit
from s3front.app import S3App, s3_app
from s3front.door import Limits
from s3front.serve import serve
from s3front.verified import Payload, SignedRequest, Verified
from tests.models.boxes import make_devices, make_pool, store_over
from tests.s3front.signing import KEY_ID, NOW, REGION, SECRET, check, sign_by_header

T = TypeVar("T")

BUCKET, OTHER = "bucket-of-ours", "bucket-of-others"
SCOPED_ID, READER_ID = "TCSCOPEDSCOPED123456", "TCREADERREADER123456"
PATIENT = Limits(linger_timeout=0.3, sweep_interval=0.05)
QUICK = Limits(header_timeout=0.5, stall_timeout=0.6, linger_timeout=0.3, sweep_interval=0.05)  # to wait for them


class Reply(NamedTuple):
    """One answer off the wire."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes

    @property
    def code(self) -> str:
        """The S3 code of an error."""
        found = re.search(rb"<Code>(\w+)</Code>", self.body)
        return found[1].decode() if found else ""


class _Failures(logging.Handler):
    """Collects what a server says when something went wrong that should not have."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.name}: {record.getMessage()}")


class ServedBox:
    """A context manager."""

    def __init__(self, limits: Limits = PATIENT) -> None:
        self._limits = limits
        self._directory = Path(tempfile.mkdtemp(prefix="tierce-"))
        self._failures = _Failures()
        self.app: S3App
        self.store: Any
        self.port = 0

    def __enter__(self) -> Self:
        self._devices = make_devices()
        make_pool(self._devices)
        logging.getLogger().addHandler(self._failures)
        started = threading.Event()
        self._result: list[BaseException] = []
        self._thread = threading.Thread(target=self._main, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(60)
        assert not self._result, self._result
        return self

    def __exit__(self, *exc: object) -> None:
        self.call(self._stop.set)
        self._thread.join(60)
        logging.getLogger().removeHandler(self._failures)
        shutil.rmtree(self._directory, ignore_errors=True)
        assert not self._thread.is_alive()
        assert not self._result, self._result
        assert self._failures.texts == []

    def _main(self, started: threading.Event) -> None:
        try:
            trio.run(self._live, started)
        except BaseException as error:  # told to the test's own thread
            self._result.append(error)
            started.set()

    async def _live(self, started: threading.Event) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        vault = open_vault(self._directory / "master.key", {})
        async with store_over(self._devices, self._directory / "catalogue.db", threaded=True) as store:
            for key_id, name, buckets, read_only in (
                (KEY_ID, "all", (), False),
                (SCOPED_ID, "scoped", (BUCKET,), False),
                (READER_ID, "reader", (), True),
            ):
                sealed = vault.seal(key_id, SECRET)
                await store.put_access_key(AccessKey(key_id, name, "default", 0, sealed, read_only, buckets))
            for bucket in (BUCKET, OTHER):
                await store.create_bucket(bucket, "default")
            self.store = store
            self.app = s3_app(store, region=REGION, unseal=vault.unseal, clock=lambda: NOW)

            def ready(urls: list[str]) -> None:
                self.port = int(urls[0].rpartition(":")[2])
                started.set()

            await serve(
                self.app, bind="127.0.0.1:0", shutdown=self._stop.wait, ready=ready, limits=self._limits,
                graceful_timeout=5,
            )  # fmt: skip
            report = await audit(store, verify=True)
            assert report.clean, report.problems

    # ------------------------------------------------------------------ from the test's thread
    def run(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """`await function(*arguments)` in the server's loop."""
        return trio.from_thread.run(function, *arguments, trio_token=self._token)

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """`function(*arguments)` in the server's loop."""
        return trio.from_thread.run_sync(function, *arguments, trio_token=self._token)

    def put(self, key: bytes, data: bytes, bucket: str = BUCKET) -> None:
        """An object, straight into the store."""

        async def main() -> None:
            found = self.store.bucket(bucket)
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
            await self.store.put_object(found, key, self.store.small_body(data), etag, NO_ATTRIBUTES)

        self.run(main)

    def holdings(self) -> object:
        """Everything that a client could have changed: buckets, objects with their ETags, uploads with their parts."""

        async def main() -> object:
            def look(bucket: Bucket) -> object:
                uploads = self.store.uploads(bucket, b"", b"", b"", "", 1000).uploads
                return [(u.key, u.id, [p.etag for p in self.store.parts(u, 0, 1000)[0]]) for u in uploads]

            found = []
            for bucket in self.store.buckets():
                page = await self.store.list_objects(bucket, b"", b"", b"", 1000)
                found.append((bucket.name, [(o.key, o.etag, o.size) for o in page.objects], look(bucket)))
            return found

        return self.run(main)

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Nothing in the store differs afterwards, and the server still serves."""
        before = self.holdings()
        yield
        assert self.holdings() == before
        assert self.ask(sign_by_header("GET", "/")).status == 200

    def connect(self) -> socket.socket:
        """A fresh connection, patient for half a minute: less than the product's limits, and more than a busy machine
        needs."""
        return socket.create_connection(("127.0.0.1", self.port), 30)

    def ask(self, request: SignedRequest, body: bytes = b"") -> Reply:
        """One request on its own connection, as it was signed; Content-Length is added where it is missing."""
        return self.raw(wire(request, body) + body)

    def raw(self, data: bytes, *, end: bool = False, method: bytes = b"") -> Reply:
        """Whatever bytes; `end` closes our half after them.  A Reply of status 0: closed without a word."""
        with self.connect() as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # an early answer is an answer
                sock.sendall(data)
                if end:
                    sock.shutdown(socket.SHUT_WR)
            return read_reply(sock, (method or data.partition(b" ")[0]) == b"HEAD")

    def all_replies(self, data: bytes) -> list[int]:
        """The statuses of everything that comes back for `data` until the server closes or falls silent."""
        with self.connect() as sock:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
            received = bytearray()
            with contextlib.suppress(ConnectionResetError):
                while part := sock.recv(65536):
                    received += part
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", bytes(received))]


def wire(request: SignedRequest, body: bytes = b"", extra: Sequence[bytes] = ()) -> bytes:
    """The head on the wire."""
    target = request.path + (b"?" + request.query if request.query else b"")
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), target)]
    lines += [b"%b: %b" % field for field in request.headers]
    names = {name for name, _ in request.headers}
    said = (b"content-length", b"transfer-encoding")
    framed = b"content-length" in names or any(line.lower().startswith(said) for line in extra)
    if not framed and (body or request.method in ("PUT", "POST")):
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, *extra, b"", b""])


def read_reply(sock: socket.socket, bodiless: bool = False) -> Reply:
    """One answer; status 0 when the server closes without one."""
    received = bytearray()
    try:
        while b"\r\n\r\n" not in received:
            part = sock.recv(65536)
            if not part:
                assert not received, "half a head"
                return Reply(0, {}, b"")
            received += part
        head, _, body = bytes(received).partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        status = int(lines[0].split(b" ")[1])
        if status == 100:
            return read_reply(sock, bodiless)
        headers = {name.lower(): value for name, value in (line.split(b": ", 1) for line in lines[1:])}
        assert len(headers) == len(lines) - 1, "a header came twice"
        length = 0 if bodiless or status in (204, 304) else int(headers.get(b"content-length", b"0"))
        while len(body) < length and (part := sock.recv(65536)):
            body += part
        return Reply(status, headers, body)
    except ConnectionResetError:
        return Reply(0, {}, b"")


def signed_stream(path: str, payload: Payload, length: int, trailer: str = "") -> tuple[SignedRequest, Verified]:
    """An upload in a streaming form, and its verified head, which seeds the chunks."""
    headers = {"x-amz-decoded-content-length": str(length), "content-encoding": "aws-chunked"}
    if trailer:
        headers["x-amz-trailer"] = trailer
    request = sign_by_header("PUT", path, headers=headers, payload=payload.value)
    return request, check(request)
