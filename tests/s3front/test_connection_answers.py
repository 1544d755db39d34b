"""The application's side of a connection: its mistakes, the framing of its answers, the extension."""

from __future__ import annotations

import logging
import socket
from typing import Any

import pytest
import trio
import trio.testing

from s3front.connection import Connection
from s3front.transfer import BodyTooLarge, read_small, respond, send_pieces
from tests.s3front.serving import Pieces, Running, http_only, pattern, serve_and

GET = b"GET /head HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"PUT %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


# ------------------------------------------------------------------------------------- what applications get wrong
async def two_pieces(send: Any, headers: list[tuple[bytes, bytes]], first: bytes, second: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": first, "more_body": True})
    await send({"type": "http.response.body", "body": second})


FIVE = [(b"content-length", b"5")]


@pytest.mark.parametrize(
    ("path", "log"),
    [
        ("/long-at-once", "does not have the length"),
        ("/short-at-once", "does not have the length"),
        ("/respond-long", "does not have the length"),
        ("/pieces-none", "ended 5 bytes before"),
        ("/pieces-long-at-once", "longer than its Content-Length"),
        ("/crlf", "CR, LF or NUL"),
        ("/name", "not a lower-case token"),
        ("/twice", "must be one number"),
        ("/status", "no final response"),
        ("/nothing", "gave no response"),
        ("/start-only", "gave no response"),
        ("/unknown", "unexpected message"),
        ("/body-first", "was not started"),
    ],
)
def test_mistakes_before_the_first_byte_give_500(path: str, log: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        match path:
            case "/long-at-once":
                await two_pieces(send, FIVE, b"123456", b"")
            case "/short-at-once":
                await send({"type": "http.response.start", "status": 200, "headers": FIVE})
                await send({"type": "http.response.body", "body": b"1234"})
            case "/respond-long":
                await respond(scope, send, 200, FIVE, b"123456")
            case "/pieces-none":
                await send_pieces(scope, send, 200, [], 5, Pieces([]))
            case "/pieces-long-at-once":
                await send_pieces(scope, send, 200, [], 5, Pieces([b"123456"]))
            case "/crlf":
                await respond(scope, send, 200, [(b"x-amz-meta-a", b"1\r\nset-cookie: x")])
            case "/name":
                await respond(scope, send, 200, [(b"x: y\r\nset-cookie", b"x")])
            case "/twice":
                await respond(scope, send, 200, FIVE + FIVE, b"12345")
            case "/status":
                await respond(scope, send, 103, [])
            case "/start-only":
                await send({"type": "http.response.start", "status": 200, "headers": []})
            case "/unknown":
                await send({"type": "http.response.trailers"})
            case "/body-first":
                await send({"type": "http.response.body", "body": b"x"})

    async def test(server: Running) -> None:
        client = await server.connect()
        answer = await client.ask("GET", path)
        assert (answer.status, answer.headers[b"connection"]) == (500, b"close")
        assert b"<Code>InternalError</Code>" in answer.body
        assert b"set-cookie" not in answer.headers
        assert await client.closed() == b""

    serve_and(test, http_only(app))
    assert log in caplog.text


@pytest.mark.parametrize("path", ["/long", "/short", "/pieces-short", "/pieces-long", "/raises", "/unfinished"])
def test_mistakes_after_the_first_byte_close_the_connection(path: str, caplog: pytest.LogCaptureFixture) -> None:
    pieces = Pieces([b"123"] if path == "/pieces-short" else [b"123", b"456"])

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        match path:
            case "/long":
                await two_pieces(send, FIVE, b"123", b"456")
            case "/short":
                await two_pieces(send, FIVE, b"123", b"")
            case "/pieces-short" | "/pieces-long":
                await send_pieces(scope, send, 200, [], 5, pieces)
            case _:
                await send({"type": "http.response.start", "status": 200, "headers": FIVE})
                await send({"type": "http.response.body", "body": b"123", "more_body": True})
                if path == "/raises":
                    raise ValueError("a bug")

    async def test(server: Running) -> None:
        client = await server.connect()
        await client.write(GET)
        heard = await client.closed()
        assert heard.startswith(b"HTTP/1.1 200 OK\r\n")
        assert heard.endswith(b"\r\n\r\n123")

    serve_and(test, http_only(app))
    assert [record for record in caplog.records if record.levelno == logging.ERROR]
    assert pieces.closed == path.startswith("/pieces")


def test_a_mistake_after_the_response_is_logged_and_harmless(caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await respond(scope, send, 200, [], b"ok")
        raise ValueError("too late")

    async def test(server: Running) -> None:
        client = await server.connect()
        for _ in range(2):
            assert (await client.ask("GET", "/")).body == b"ok"

    serve_and(test, http_only(app))
    assert caplog.text.count("ValueError: too late") == 2


# ------------------------------------------------------------------------------------------------ response framing
def test_a_response_of_unknown_length_is_chunked_or_ends_with_the_connection() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await two_pieces(send, [(b"transfer-encoding", b"chunked")], b"123", b"45")

    async def test(server: Running) -> None:
        client = await server.connect()
        answer = await client.ask("GET", "/")
        assert (answer.body, answer.headers[b"transfer-encoding"]) == (b"12345", b"chunked")
        await client.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        heard = await client.closed()
        assert b"connection: close\r\n" in heard
        assert b"transfer-encoding" not in heard
        assert heard.endswith(b"\r\n\r\n12345")

    serve_and(test, http_only(app))


def test_the_application_may_ask_to_close() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await respond(scope, send, 200, [(b"connection", b"close")], b"bye")

    async def test(server: Running) -> None:
        client = await server.connect()
        answer = await client.ask("GET", "/")
        assert (answer.body, answer.headers[b"connection"]) == (b"bye", b"close")
        assert await client.closed() == b""

    serve_and(test, http_only(app))


# ---------------------------------------------------------------------------------------------------- the extension
def test_receive_into_and_body_left() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        connection: Connection = scope["extensions"]["tierce.connection"]
        chunked = scope["path"] == "/chunked"
        assert connection.body_left == (None if chunked else 1000)
        got = bytearray()
        view = memoryview(bytearray(300))
        while n := await connection.receive_into(view):
            got += view[:n]
            assert chunked or connection.body_left == 1000 - len(got)
        assert bytes(got) == pattern(1000)
        assert connection.body_left == 0
        assert await connection.receive_into(view) == 0
        await connection.respond(200, [])

    async def test(server: Running) -> None:
        client = await server.connect()
        assert (await client.ask("PUT", "/", body=pattern(1000))).status == 200
        await client.write(CHUNKED % b"/chunked" + b"3e8\r\n" + pattern(1000) + b"\r\n0\r\n\r\n")
        assert (await client.answer()).status == 200
        await client.write(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n")
        for start in range(0, 1000, 100):
            await trio.testing.wait_all_tasks_blocked()
            await client.write(pattern(1000)[start : start + 100])
        assert (await client.answer()).status == 200

    serve_and(test, http_only(app))


def test_receive_all_refuses_more_than_its_limit() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        try:
            await respond(scope, send, 200, [], await read_small(scope, receive, 10))
        except BodyTooLarge:
            await respond(scope, send, 413, [])

    async def test(server: Running) -> None:
        client = await server.connect()
        assert (await client.ask("PUT", "/", body=bytes(10))).body == bytes(10)
        assert (await client.ask("PUT", "/", body=bytes(11))).status == 413
        await client.write(CHUNKED % b"/" + b"6\r\n123456\r\n5\r\n12345\r\n0\r\n\r\n")
        assert (await client.answer()).status == 413
        answer = await client.ask("PUT", "/", body=bytes(200_000))
        assert (answer.status, answer.headers[b"connection"]) == (413, b"close")

    serve_and(test, http_only(app))


def test_small_answers_do_not_wait_for_nagle() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        connection: Connection = scope["extensions"]["tierce.connection"]
        nodelay = connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        await respond(scope, send, 200, [], b"%d" % nodelay)

    async def test(server: Running) -> None:
        assert (await (await server.connect()).ask("GET", "/")).body == b"1"

    serve_and(test, http_only(app))
