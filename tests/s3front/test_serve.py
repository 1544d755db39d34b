"""Serving: the same application on our server and on hypercorn's own; TLS, HTTP/2, WebSocket, addresses, shutdown."""

from __future__ import annotations

import logging
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import trio
import wsproto
import wsproto.events
from hypercorn.utils import LifespanFailureError

from s3front.door import Limits
from s3front.serve import TlsFiles, serve
from tests.s3front.serving import Client, application, certificate, pattern, running, trusting

pytestmark = pytest.mark.slow  # in all: most talk to real sockets or run real programs

both = pytest.mark.parametrize("stock", [False, True], ids=["tierce", "hypercorn"])


def on_server(stock: bool, test: Callable[[Client], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with running(stock=stock, **options) as server:
            await test(await server.connect())

    trio.run(main)


# ---------------------------------------------------------------------------------- one application, two servers
@both
def test_the_scope_carries_the_request_as_it_was_sent(stock: bool) -> None:
    async def test(client: Client) -> None:
        answer = await client.ask("GET", "/sc%6Fpe?a=%2F&b", "X-One:  1 ")
        lines = answer.body.split(b"\n")
        assert lines[0] == b"GET /scope /sc%6Fpe a=%2F&b"
        assert b"x-one=1" in lines
        assert answer.headers[b"content-type"] == b"text/plain"

    on_server(stock, test)


@both
@pytest.mark.parametrize("path", ["/echo", "/echo-asgi", "/echo-large"])
@pytest.mark.parametrize("size", [0, 1, 4096, 700_001])
def test_bodies_come_back(stock: bool, path: str, size: int) -> None:
    async def test(client: Client) -> None:
        for _ in range(2):
            answer = await client.ask("PUT", path, body=pattern(size))
            assert (answer.status, answer.body) == (200, pattern(size))

    on_server(stock, test)


@both
@pytest.mark.parametrize("path", ["/echo", "/echo-asgi", "/echo-large"])
def test_chunked_bodies_come_back(stock: bool, path: str) -> None:
    async def test(client: Client) -> None:
        head = f"PUT {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        for size in (1, 7, 100_000):
            body = pattern(150_000)[: 200 if size == 1 else None]
            chunks = [body[i : i + size] for i in range(0, len(body), size)]
            framed = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.write, head + framed + b"0\r\nX-Trailer: 1\r\n\r\n")
                answer = await client.answer()
            assert (answer.status, answer.body) == (200, body)

    on_server(stock, test)


@both
def test_responses_without_a_body(stock: bool) -> None:
    async def test(client: Client) -> None:
        for path in ("/head", "/head-pieces"):
            answer = await client.ask("HEAD", path)
            assert (answer.status, answer.body, answer.headers[b"content-length"]) == (200, b"", b"5")
        answer = await client.ask("GET", "/empty")
        assert (answer.status, answer.body, answer.headers.get(b"content-length")) == (204, b"", None)
        answer = await client.ask("GET", "/unmodified")
        assert (answer.status, answer.headers[b"etag"]) == (304, b'"e"')
        assert (await client.ask("GET", "/head")).body == b"12345"

    on_server(stock, test)


@both
def test_a_source_that_fails_at_once_can_still_be_answered(stock: bool) -> None:
    async def test(client: Client) -> None:
        answer = await client.ask("GET", "/pieces-fail")
        assert (answer.status, answer.body) == (503, b"the device is damaged")
        assert (await client.ask("GET", "/head")).status == 200

    on_server(stock, test)


@both
def test_a_failing_application_gives_500(stock: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def test(client: Client) -> None:
        assert (await client.ask("GET", "/fails")).status == 500

    on_server(stock, test)
    if not stock:
        assert "ValueError: a bug" in caplog.text


def test_http_1_0_by_request_keeps_the_connection() -> None:
    async def test(client: Client) -> None:
        for _ in range(2):
            await client.write(b"GET /head HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            answer = await client.answer()
            assert (answer.body, answer.headers[b"connection"]) == (b"12345", b"keep-alive")
        await client.write(b"GET /head HTTP/1.0\r\n\r\n")
        answer = await client.answer()
        assert (answer.body, answer.headers[b"connection"]) == (b"12345", b"close")
        assert await client.closed() == b""

    on_server(False, test)


# ------------------------------------------------------------------------------------------ TLS, HTTP/2, WebSocket
def test_tls_serves_small_and_large_bodies(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)

    async def main() -> None:
        async with running(tls=TlsFiles(cert, key)) as server:
            assert server.urls[0].startswith("https://127.0.0.1:")
            stream = await trio.open_ssl_over_tcp_stream(
                "127.0.0.1", server.port, ssl_context=trusting(cert, "http/1.1"), https_compatible=True
            )
            client = server.client(stream)
            assert (await client.ask("GET", "/head")).body == b"12345"
            for path in ("/echo", "/echo-asgi", "/echo-large"):
                assert (await client.ask("PUT", path, body=pattern(900_000))).body == pattern(900_000)
            answer = await client.ask("GET", "/head", "Connection: close")
            assert answer.headers[b"connection"] == b"close"
            assert await client.closed() == b""

    trio.run(main)


def test_tls_below_1_3_is_refused(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    old = trusting(cert)
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    async def main() -> None:
        async with running(tls=TlsFiles(cert, key)) as server:
            stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", server.port, ssl_context=old)
            server.client(stream)
            with pytest.raises(trio.BrokenResourceError):
                await stream.do_handshake()
            plain = await server.connect()
            await plain.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            await plain.closed()
            new = await trio.open_ssl_over_tcp_stream("127.0.0.1", server.port, ssl_context=trusting(cert))
            assert (await server.client(new).ask("GET", "/head")).status == 200

    trio.run(main)


async def ask_http2(stream: trio.abc.Stream, body: bytes, scheme: str) -> bytes:
    """PUT /echo-large on a fresh HTTP/2 connection; the response's body."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    connection.send_headers(1, [(":method", "PUT"), (":path", "/echo-large"), (":scheme", scheme), (":authority", "h")])
    sent = 0
    ended = False
    got = bytearray()
    while True:
        window = min(connection.local_flow_control_window(1), connection.max_outbound_frame_size, len(body) - sent)
        if window > 0:
            connection.send_data(1, body[sent : sent + window])
            sent += window
            continue
        if sent == len(body) and not ended:
            connection.end_stream(1)
            ended = True
        await stream.send_all(connection.data_to_send())
        for event in connection.receive_data(bytes(await stream.receive_some(65536))):
            if isinstance(event, h2.events.ResponseReceived):
                assert event.headers is not None
                assert dict(event.headers)[b":status"] == b"200"
            elif isinstance(event, h2.events.DataReceived):
                got += event.data or b""
                connection.acknowledge_received_data(event.flow_controlled_length or 0, 1)
            elif isinstance(event, h2.events.StreamEnded):
                return bytes(got)


def test_http2_by_alpn(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)

    async def main() -> None:
        async with running(tls=TlsFiles(cert, key), http2=True) as server:
            stream = await trio.open_ssl_over_tcp_stream(
                "127.0.0.1", server.port, ssl_context=trusting(cert, "h2"), https_compatible=True
            )
            server.client(stream)
            await stream.do_handshake()
            assert stream.selected_alpn_protocol() == "h2"
            assert await ask_http2(stream, pattern(300_000), "https") == pattern(300_000)
            await stream.aclose()

    trio.run(main)


def test_http2_by_prior_knowledge() -> None:
    async def test(client: Client) -> None:
        assert await ask_http2(client.stream, pattern(100_000), "http") == pattern(100_000)
        await client.stream.aclose()

    on_server(False, test, http2=True)


def test_http2_is_not_offered_unless_asked_for(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)

    async def main() -> None:
        async with running(tls=TlsFiles(cert, key)) as server:
            stream = await trio.open_ssl_over_tcp_stream(
                "127.0.0.1", server.port, ssl_context=trusting(cert, "h2", "http/1.1"), https_compatible=True
            )
            client = server.client(stream)
            await stream.do_handshake()
            assert stream.selected_alpn_protocol() == "http/1.1"
            assert (await client.ask("GET", "/head")).status == 200

    trio.run(main)


def test_http2_by_prior_knowledge_is_refused_then_too() -> None:
    async def test(client: Client) -> None:
        await client.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await client.answer()).status == 505

    on_server(False, test, limits=Limits(linger_timeout=0.01))


def test_a_websocket_is_handed_over_with_what_was_read() -> None:
    async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "websocket":
            await application(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.accept"})
        message = await receive()
        await send({"type": "websocket.send", "text": message["text"].upper()})
        await send({"type": "websocket.close"})

    async def main() -> None:
        async with running(echo, websocket=True) as server:
            stream = (await server.connect()).stream
            protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
            await stream.send_all(protocol.send(wsproto.events.Request(host="h", target="/")))
            heard: list[str] = []
            while not heard:
                protocol.receive_data(bytes(await stream.receive_some(65536)))
                for event in protocol.events():
                    if isinstance(event, wsproto.events.AcceptConnection):
                        await stream.send_all(protocol.send(wsproto.events.TextMessage(data="hello")))
                    elif isinstance(event, wsproto.events.TextMessage):
                        heard.append(event.data)
            assert heard == ["HELLO"]
            await stream.aclose()

    trio.run(main)


# ------------------------------------------------------------------------------------------------------- addresses
def test_several_addresses_of_every_family(tmp_path: Path) -> None:
    path = tmp_path / "s3.sock"

    async def main() -> None:
        async with running(bind=["127.0.0.1:0", "[::1]:0", f"unix:{path}"]) as server:
            first, second, third = server.urls
            assert first.startswith("http://127.0.0.1:")
            assert second.startswith("http://[::1]:")
            assert third == f"http://unix:{path}"
            assert stat.S_ISSOCK(path.stat().st_mode)
            v6 = server.client(await trio.open_tcp_stream("::1", int(second.rsplit(":", 1)[1])))
            unix = server.client(await trio.open_unix_socket(path))
            for client in (await server.connect(), v6, unix):
                assert (await client.ask("GET", "/head")).body == b"12345"
                assert (await client.ask("PUT", "/echo-large", body=pattern(300_000))).body == pattern(300_000)

    trio.run(main)
    assert not path.exists()


def test_an_address_in_use_is_an_oserror() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"

        async def main() -> None:
            await serve(application, bind=address)

        with pytest.raises(OSError, match="in use"):
            trio.run(main)


@pytest.mark.parametrize("address", ["localhost", "9000", "127.0.0.1:http", ""])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    async def main() -> None:
        await serve(application, bind=address)

    with pytest.raises(ValueError, match="is not host:port"):
        trio.run(main)


def test_a_failed_startup_is_told_and_nothing_listens() -> None:
    async def broken(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "lifespan"
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no pool"})

    announced: list[list[str]] = []

    async def main() -> None:
        await serve(broken, bind="127.0.0.1:0", ready=announced.append)

    with pytest.raises(LifespanFailureError, match="no pool"):
        trio.run(main)
    assert announced == []


# -------------------------------------------------------------------------------------------------------- shutdown
@pytest.mark.slow
def test_a_thousand_idle_connections_close_at_shutdown() -> None:
    async def main() -> None:
        async with running(graceful_timeout=1000) as server:
            clients: list[Client] = []
            for number in range(1000):
                client = await server.connect()
                clients.append(client)
                if number % 2:
                    assert (await client.ask("GET", "/head")).status == 200
                if number % 10 == 0:
                    await client.write(b"GET / HT")  # a request that has only begun does not delay the end either
            server.stop.set()
            for client in clients:
                assert await client.closed() == b""
            await server.stopped.wait()

    trio.run(main)


async def hold(entered: trio.Event, leave: trio.Event, scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await application(scope, receive, send)
        return
    entered.set()
    await leave.wait()
    await application(scope, receive, send)


def test_a_request_in_progress_is_finished_at_shutdown() -> None:
    async def main() -> None:
        entered, leave = trio.Event(), trio.Event()

        async def slow(scope: dict[str, Any], receive: Any, send: Any) -> None:
            await hold(entered, leave, scope, receive, send)

        async with running(slow, graceful_timeout=1000) as server:
            client, idle = await server.connect(), await server.connect()
            await client.write(b"GET /head HTTP/1.1\r\nHost: h\r\n\r\n")
            await entered.wait()
            server.stop.set()
            assert await idle.closed() == b""
            leave.set()
            answer = await client.answer()
            assert (answer.body, answer.headers[b"connection"]) == (b"12345", b"close")
            assert await client.closed() == b""
            with pytest.raises(OSError):
                await server.connect()

    trio.run(main)


def test_what_outlasts_the_graceful_timeout_is_cancelled() -> None:
    async def main() -> None:
        entered, leave = trio.Event(), trio.Event()

        async def endless(scope: dict[str, Any], receive: Any, send: Any) -> None:
            await hold(entered, leave, scope, receive, send)

        async with running(endless, graceful_timeout=0) as server:
            client = await server.connect()
            await client.write(b"GET /head HTTP/1.1\r\nHost: h\r\n\r\n")
            await entered.wait()
            server.stop.set()
            assert await client.closed() == b""
            await server.stopped.wait()

    trio.run(main)


def test_too_many_connections_are_told_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> None:
        async with running(limits=Limits(connections_max=1)) as server:
            first: Client = await server.connect()
            assert (await first.ask("GET", "/head")).status == 200
            second = await server.connect()
            answer = await second.answer()
            assert (answer.status, answer.headers[b"connection"]) == (503, b"close")
            assert b"<Code>SlowDown</Code>" in answer.body
            assert (await first.ask("GET", "/head")).status == 200

    trio.run(main)
