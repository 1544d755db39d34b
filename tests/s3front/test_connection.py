"""One connection: framing, refusals, patience, who closes when.  Time is trio's mock clock where time matters."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

from appliance.limits import HEADER_BLOCK_MAX
from s3front.head import CHUNK_LINE_MAX, TRAILERS_MAX
from s3front.transfer import ClientGone, read_body, read_small, respond
from tests.s3front.serving import Collect, Running, application, http_only, pattern, running, serve_and

pytestmark = pytest.mark.slow  # in all: most talk to real sockets or run real programs

GET = b"GET /head HTTP/1.1\r\nHost: h\r\n\r\n"


def in_mock_time(test: Callable[[Running], Awaitable[None]], app: Any = application, **options: Any) -> float:
    """Runs `test` where waiting costs nothing; how many seconds passed."""

    async def main() -> float:
        async with running(app, patience=100_000, **options) as server:
            await test(server)
            return trio.current_time()

    clock = trio.testing.MockClock(autojump_threshold=0.005)  # a busy kernel delivers a little later what was sent
    start = clock.current_time()
    return trio.run(main, clock=clock) - start


# --------------------------------------------------------------------------------------------------- many requests
def test_pipelined_requests_are_answered_in_order() -> None:
    async def test(server: Running) -> None:
        client = await server.connect()
        bodies = [pattern(n * 100) for n in range(50)]
        requests = [b"PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%b" % (len(b), b) for b in bodies]
        chunked = b"PUT /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.write, b"".join(requests) + chunked + GET)
            for body in bodies:
                assert (await client.answer()).body == body
        assert (await client.answer()).body == b"abc"
        assert (await client.answer()).body == b"12345"

    serve_and(test)


def test_a_head_may_arrive_byte_by_byte() -> None:
    async def test(server: Running) -> None:
        client = await server.connect()
        for byte in GET:
            await client.write(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.answer()).body == b"12345"

    serve_and(test)


def test_one_empty_line_before_a_request_is_forgiven() -> None:
    async def test(server: Running) -> None:
        client = await server.connect()
        await client.write(b"\r\n" + GET + b"\r\n" + GET)
        for _ in range(2):
            assert (await client.answer()).body == b"12345"
        await client.write(b"\r\n\r\n" + GET)
        assert (await client.answer()).status == 400

    serve_and(test)


def test_date_and_server_are_added_once() -> None:
    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        own = [(b"date", b"Thu, 01 Jan 1970 00:00:00 GMT"), (b"server", b"own")] if scope["path"] == "/own" else []
        await respond(scope, send, 200, own)

    async def test(server: Running) -> None:
        client = await server.connect()
        answer = await client.ask("GET", "/")
        assert answer.headers[b"server"] == b"Tierce"
        assert answer.headers[b"date"].endswith(b" GMT")
        answer = await client.ask("GET", "/own")
        assert (answer.headers[b"server"], answer.headers[b"date"][:16]) == (b"own", b"Thu, 01 Jan 1970")

    serve_and(test, http_only(app))


# -------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, b"BadRequest"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, b"BadRequest"),
        (b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", 400, b"BadRequest"),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999999999999999\r\n\r\n", 413, b"EntityTooLarge"),
        (b"GET /" + b"x" * HEADER_BLOCK_MAX + b" HTTP/1.1\r\n", 414, b"RequestURITooLong"),
        (b"GET / HTTP/1.1\r\nA: " + b"x" * HEADER_BLOCK_MAX, 431, b"RequestHeaderSectionTooLarge"),
        (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"a: b\r\n" * 100 + b"\r\n", 431, b"RequestHeaderSectionTooLarge"),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501, b"NotImplemented"),
        (b"BREW / HTTP/1.1\r\nHost: h\r\n\r\n", 501, b"NotImplemented"),
        (b"GET / HTTP/3.0\r\nHost: h\r\n\r\n", 505, b"HTTPVersionNotSupported"),
        (b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-tea\r\nContent-Length: 1\r\n\r\n", 417, b"ExpectationFailed"),
    ],
)
def test_malformed_requests_get_an_error_document_and_the_door(request_bytes: bytes, status: int, code: bytes) -> None:
    async def test(server: Running) -> None:
        client = await server.connect()
        await client.write(GET + request_bytes)
        assert (await client.answer()).body == b"12345"
        answer = await client.answer()
        assert (answer.status, answer.headers[b"connection"]) == (status, b"close")
        assert answer.headers[b"content-type"] == b"application/xml"
        assert b"<Error><Code>" + code + b"</Code><Message>" in answer.body
        assert await client.closed() == b""

    serve_and(test)


CHUNKED = b"PUT %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("path", [b"/echo", b"/echo-large"])
@pytest.mark.parametrize(
    "body",
    [
        b"g\r\n",
        b"-1\r\n",
        b"0x1\r\nx\r\n",
        b"\r\n",
        b" 1\r\nx\r\n",
        b"1\nx\r\n0\r\n\r\n",
        b"1\r\nxx\r\n0\r\n\r\n",
        b"1\r\nx0\r\n\r\n\r\n",
        b"1\r\nx\n0\r\n\r\n",
        b"1;" + b"e" * CHUNK_LINE_MAX + b"\r\nx\r\n",
        b"1" * CHUNK_LINE_MAX + b"1",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nA: x\ry\r\n\r\n",
        b"0\r\nA: " + b"x" * TRAILERS_MAX + b"\r\n\r\n",
        b"0\r\n" + b"A: x\r\n" * TRAILERS_MAX + b"\r\n",
    ],
)
def test_broken_chunks_are_refused(path: bytes, body: bytes) -> None:
    async def test(server: Running) -> None:
        client = await server.connect()
        await client.write(CHUNKED % path + body)
        answer = await client.answer()
        assert (answer.status, answer.headers[b"connection"]) == (400, b"close")
        assert await client.closed() == b""

    serve_and(test)


def test_a_million_tiny_chunks_do_not_cost_quadratic_time() -> None:
    async def test(server: Running) -> None:
        client = await server.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.write, CHUNKED % b"/echo" + b"1\r\nx\r\n" * 60_000 + b"0\r\n\r\n")
            assert (await client.answer()).body == b"x" * 60_000

    serve_and(test)


# ------------------------------------------------------------------------------------------- answers before bodies
def test_100_continue_is_sent_only_when_the_application_asks() -> None:
    async def test(server: Running) -> None:
        for path in ("/echo", "/echo-asgi", "/echo-large"):
            client = await server.connect()
            expecting = f"PUT {path} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
            await client.write(expecting.encode())
            assert await client.stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.write(b"abcde")
            answer = await client.answer()
            assert (answer.status, answer.body, answer.informational) == (200, b"abcde", [])

    serve_and(test)


def test_100_continue_is_sent_before_an_empty_body_too() -> None:
    """botocore takes a final answer to its expectation for a refusal, and misreads the next on that connection."""

    async def test(server: Running) -> None:
        for path in ("/echo", "/echo-asgi"):
            client = await server.connect()
            for _ in range(2):
                expecting = f"PUT {path} HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n"
                await client.write(expecting.encode())
                answer = await client.answer()
                assert (answer.status, answer.body, len(answer.informational)) == (200, b"", 1)
                assert b"connection" not in answer.headers

    serve_and(test)


def test_a_refusal_before_the_body_spares_the_upload() -> None:
    async def test(server: Running) -> None:
        client = await server.connect()
        await client.write(b"PUT /refuse HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        answer = await client.answer()
        assert (answer.status, answer.informational, answer.headers[b"connection"]) == (403, [], b"close")
        assert await client.closed() == b""

    serve_and(test)


def test_a_small_unread_body_is_dropped_and_the_connection_kept() -> None:
    async def test(server: Running) -> None:
        client = await server.connect()
        for _ in range(2):
            answer = await client.ask("PUT", "/refuse", body=bytes(60_000))
            assert (answer.status, answer.headers.get(b"connection")) == (403, None)
        await client.write(CHUNKED % b"/refuse" + b"3\r\nabc\r\n0\r\n\r\n")
        assert (await client.answer()).status == 403
        assert (await client.ask("GET", "/head")).body == b"12345"

    serve_and(test)


def test_a_large_unread_body_ends_the_connection_but_not_the_answer() -> None:
    async def test(server: Running) -> None:
        client = await server.connect()
        answer = await client.ask("PUT", "/refuse", body=bytes(3_000_000))
        assert (answer.status, answer.body, answer.headers[b"connection"]) == (403, b"no", b"close")
        assert await client.closed() == b""

    serve_and(test)


# -------------------------------------------------------------------------------------------------------- patience
def test_slowloris_head_gets_408_after_the_header_timeout() -> None:
    async def test(server: Running) -> None:
        client = await server.connect()
        start = trio.current_time()

        async def drip() -> None:
            for byte in GET[:-2]:
                await client.write(bytes([byte]))
                await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drip)
            answer = await client.answer()
            assert (answer.status, b"<Code>RequestTimeout</Code>" in answer.body) == (408, True)
            nursery.cancel_scope.cancel()
        assert 10 <= trio.current_time() - start <= 12
        assert await client.closed() == b""

    in_mock_time(test)


def test_an_idle_connection_is_closed_silently() -> None:
    async def test(server: Running) -> None:
        client, fresh = await server.connect(), await server.connect()
        await client.ask("GET", "/head")
        start = trio.current_time()
        assert await client.closed() == b""
        assert 75 <= trio.current_time() - start <= 77
        assert await fresh.closed() == b""

    in_mock_time(test)


@pytest.mark.parametrize("path", ["/echo", "/echo-asgi"])
def test_a_body_that_stalls_gets_s3s_request_timeout(path: str) -> None:
    reached: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if path == "/echo":
            with pytest.raises(ClientGone, match="too slow"):
                await read_small(scope, receive, 100)
        else:
            message = await receive()
            while message["type"] == "http.request":
                message = await receive()
            assert message == {"type": "http.disconnect"}
            assert await receive() == message
        reached.append(path)

    async def test(server: Running) -> None:
        client = await server.connect()
        await client.write(f"PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabcde".encode())
        start = trio.current_time()
        answer = await client.answer()
        assert (answer.status, b"<Code>RequestTimeout</Code>" in answer.body) == (400, True)
        assert 60 <= trio.current_time() - start <= 62

    in_mock_time(test, http_only(app))
    assert reached == [path]


def test_a_body_below_the_minimum_rate_is_ended() -> None:
    async def test(server: Running) -> None:
        client = await server.connect()
        await client.write(b"PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n")
        start = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            while trio.current_time() < start + 1000:
                await client.write(b"x")
                await trio.sleep(30)
        assert trio.current_time() - start < 200

    in_mock_time(test)


def test_a_slow_but_steady_body_is_accepted() -> None:
    async def test(server: Running) -> None:
        client = await server.connect()
        await client.write(b"PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 600000\r\n\r\n")
        for _ in range(20):
            await client.write(bytes(30_000))
            await trio.sleep(20)
        assert (await client.answer()).status == 200

    assert in_mock_time(test) >= 400


def test_a_reader_that_stalls_is_dropped() -> None:
    ended = trio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with pytest.raises(ClientGone, match="too slow"):
            while True:
                await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
        ended.set()
        raise ClientGone

    async def test(server: Running) -> None:
        client = await server.connect()
        await client.write(GET)
        await ended.wait()

    assert in_mock_time(test, http_only(app)) < 100
    assert ended.is_set()


# ---------------------------------------------------------------------------------------------- clients that vanish
@pytest.mark.parametrize("how", ["small", "asgi", "large", "chunked"])
def test_a_client_that_vanishes_within_the_body(how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    seen = trio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        try:
            if how == "asgi":
                while (message := await receive())["type"] != "http.disconnect":
                    assert message["more_body"]
            else:
                with pytest.raises(ClientGone):
                    await (read_body(scope, receive, Collect()) if how == "large" else read_small(scope, receive, 999))
            with pytest.raises(ClientGone):
                await respond(scope, send, 200, [])
            raise ClientGone
        finally:
            seen.set()

    async def test(server: Running) -> None:
        client = await server.connect()
        if how == "chunked":
            await client.write(CHUNKED % b"/" + b"5\r\nab")
        else:
            await client.write(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 500\r\n\r\nabc")
        await client.stream.aclose()
        await seen.wait()

    serve_and(test, http_only(app))
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


def test_receive_tells_when_the_peer_closes_after_the_body() -> None:
    told = trio.Event()

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert await receive() == {"type": "http.request", "body": b"abc", "more_body": False}
        assert await receive() == {"type": "http.disconnect"}
        told.set()

    async def test(server: Running) -> None:
        client = await server.connect()
        await client.write(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
        await trio.testing.wait_all_tasks_blocked()
        assert not told.is_set()
        await client.stream.aclose()
        await told.wait()

    serve_and(test, http_only(app))


@pytest.mark.parametrize("pipelined", [False, True])
def test_receive_tells_when_the_response_is_complete(pipelined: bool) -> None:
    messages: list[str] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def listen() -> None:
            await receive()
            messages.append((await receive())["type"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            assert messages.count("http.disconnect") == int(scope["path"][1:])
            await respond(scope, send, 200, [])

    async def test(server: Running) -> None:
        client = await server.connect()
        first, second = (b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n for n in range(2))
        await client.write(first + (second if pipelined else b""))
        assert (await client.answer()).status == 200
        if not pipelined:
            await client.write(second)
        assert (await client.answer()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        assert messages == ["http.disconnect"] * 2

    serve_and(test, http_only(app))
