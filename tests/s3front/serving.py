"""What the tests of the server share: an application with many faces, servers to run it on, a client by h11."""

from __future__ import annotations

import contextlib
import datetime
import functools
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import h11
import hypercorn.trio
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypercorn.config import Config

from s3front.door import Limits
from s3front.serve import serve
from s3front.transfer import read_body, read_small, respond, send_pieces

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


class Collect:
    """A sink that keeps the bytes and notes misuse."""

    def __init__(self, room_size: int = 65536) -> None:
        self.buffer = bytearray(room_size)
        self.data = bytearray()
        self.busy = False

    def room(self) -> memoryview:
        return memoryview(self.buffer)

    def filled(self, n: int) -> None:
        assert not self.busy
        self.busy = True
        assert 0 < n <= len(self.buffer)
        self.data += self.buffer[:n]
        self.busy = False


class Pieces:
    """An iterator of views that counts its closes; `fail_at` raises instead of that piece."""

    def __init__(self, pieces: list[bytes], fail_at: int | None = None) -> None:
        self.pieces = pieces
        self.fail_at = fail_at
        self.given = 0
        self.closed = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> memoryview:
        assert not self.closed
        if self.given == self.fail_at:
            raise RuntimeError("the device is damaged")
        if self.given == len(self.pieces):
            raise StopIteration
        self.given += 1
        return memoryview(self.pieces[self.given - 1])

    def close(self) -> None:
        self.closed += 1


@functools.cache
def pattern(size: int) -> bytes:
    """Bytes in which every position shows."""
    return (b"".join(i.to_bytes(4, "big") for i in range(size // 4 + 1)))[:size]


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers by path; every behaviour of the ASGI contract that a server can get wrong."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    if path == "/scope":
        headers = b"\n".join(name + b"=" + value for name, value in scope["headers"])
        text = f"{scope['method']} {scope['path']} ".encode() + scope["raw_path"] + b" " + scope["query_string"]
        await respond(scope, send, 200, [(b"content-type", b"text/plain")], text + b"\n" + headers)
    elif path == "/echo":
        await respond(scope, send, 200, [], await read_small(scope, receive, 1 << 20))
    elif path == "/echo-asgi":
        parts = []
        more = True
        while more:
            message = await receive()
            assert message["type"] == "http.request", message
            parts.append(message["body"])
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})
    elif path == "/echo-large":
        sink = Collect()
        size = await read_body(scope, receive, sink)
        assert size == len(sink.data)
        body = bytes(sink.data)
        pieces = Pieces([body[i : i + 300_000] for i in range(0, len(body), 300_000)])
        await send_pieces(scope, send, 200, [], size, pieces)
        assert pieces.closed == 1
    elif path == "/refuse":
        await respond(scope, send, 403, [], b"no")
    elif path == "/head":
        await respond(scope, send, 200, [], b"12345")
    elif path == "/head-pieces":
        pieces = Pieces([b"12345"])
        await send_pieces(scope, send, 200, [], 5, pieces)
        assert pieces.closed == 1
    elif path == "/empty":
        await respond(scope, send, 204, [])
    elif path == "/unmodified":
        await respond(scope, send, 304, [(b"etag", b'"e"')])
    elif path == "/fails":
        raise ValueError("a bug")
    elif path == "/pieces-fail":
        try:
            await send_pieces(scope, send, 200, [], 5, Pieces([], fail_at=0))
        except RuntimeError as error:
            await respond(scope, send, 503, [], str(error).encode())
    else:
        await respond(scope, send, 404, [])


class Client:
    """An HTTP/1.1 client on one stream; h11 reads the answers, so that they are checked strictly."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.left_over = b""

    async def write(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def answer(self, method: bytes = b"GET") -> Answer:
        """One response to a request that was written by hand."""
        protocol = h11.Connection(h11.CLIENT)
        protocol.send(h11.Request(method=method, target="/", headers=[("host", "h")]))
        protocol.send(h11.EndOfMessage())
        if self.left_over:
            protocol.receive_data(self.left_over)
        answer = Answer()
        while True:
            event = protocol.next_event()
            if event is h11.NEED_DATA:
                protocol.receive_data(bytes(await self.stream.receive_some(65536)))
            elif isinstance(event, h11.InformationalResponse):
                answer.informational.append(event.status_code)
            elif isinstance(event, h11.Response):
                answer.status = event.status_code
                answer.headers = {bytes(name): bytes(value) for name, value in event.headers}
                assert len(answer.headers) == len(list(event.headers)), "a header appears twice"
            elif isinstance(event, h11.Data):
                answer.body += event.data
            elif isinstance(event, h11.EndOfMessage):
                self.left_over = protocol.trailing_data[0]
                return answer
            else:
                raise AssertionError(event)

    async def ask(self, method: str, target: str, *lines: str, body: bytes = b"") -> Answer:
        """One request with Content-Length where there is a body, and its response."""
        length = [f"Content-Length: {len(body)}"] if body or method in ("PUT", "POST") else []
        head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: h", *lines, *length, "", ""])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.write, head.encode() + body)
            return await self.answer(method.encode())

    async def closed(self) -> bytes:
        """What else arrives until the server closes."""
        rest = bytearray(self.left_over)
        try:
            while part := await self.stream.receive_some(65536):
                rest += part
        except trio.BrokenResourceError:
            pass
        return bytes(rest)


class Answer:
    """One response."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.informational: list[int] = []


class Running:
    """A server that runs."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self.stop = trio.Event()
        self.stopped = trio.Event()
        self.streams: list[trio.abc.Stream] = []

    @property
    def port(self) -> int:
        return int(self.urls[0].rsplit(":", 1)[1])

    def client(self, stream: trio.abc.Stream) -> Client:
        """A client on `stream`, closed when the server has ended."""
        self.streams.append(stream)
        return Client(stream)

    async def connect(self) -> Client:
        return self.client(await trio.open_tcp_stream("127.0.0.1", self.port))


@contextlib.asynccontextmanager
async def running(
    app: Any = application, *, stock: bool = False, patience: float = 120, **options: Any
) -> AsyncIterator[Running]:
    """`app` on an ephemeral port of ours, or of hypercorn's own server; stopped and waited for at the end."""
    server = Running([])
    ready = trio.Event()

    def announce(urls: list[str]) -> None:
        server.urls = urls
        ready.set()

    async def run() -> None:
        if stock:
            config = Config()
            config.bind = ["127.0.0.1:0"]
            config.errorlog = None
            async with trio.open_nursery() as inner:
                announce(await inner.start(functools.partial(_stock, app, config, server)))
        else:
            await serve(app, **{"bind": "127.0.0.1:0", **options}, shutdown=server.stop.wait, ready=announce)
        server.stopped.set()

    try:
        with trio.fail_after(patience):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await ready.wait()
                try:
                    yield server
                finally:
                    server.stop.set()
    finally:
        for stream in server.streams:
            await trio.aclose_forcefully(stream)


async def _stock(app: Any, config: Config, server: Running, *, task_status: Any) -> None:
    await hypercorn.trio.serve(app, config, shutdown_trigger=server.stop.wait, task_status=task_status, mode="asgi")


def certificate(directory: Path) -> tuple[str, str]:
    """A self-signed certificate for localhost and 127.0.0.1; paths of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    alternatives = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(alternatives, critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_path, key_path = directory / "cert.pem", directory / "key.pem"
    cert_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return str(cert_path), str(key_path)


def trusting(cert_path: str, *protocols: str) -> ssl.SSLContext:
    """A client's context that trusts that certificate."""
    context = ssl.create_default_context(cafile=cert_path)
    context.set_alpn_protocols(list(protocols))
    return context


QUICK = Limits(linger_timeout=0.05)


def serve_and(test: Callable[[Running], Awaitable[None]], app: Any = application, **options: Any) -> None:
    """Runs `test` beside our server."""

    async def main() -> None:
        async with running(app, **{"limits": QUICK, **options}) as server:
            await test(server)

    trio.run(main)


def http_only(app: App) -> App:
    """`app` with the lifespan protocol of the shared application."""

    async def wrapped(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await (application if scope["type"] == "lifespan" else app)(scope, receive, send)

    return wrapped
