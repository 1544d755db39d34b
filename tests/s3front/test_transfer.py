"""Bodies on lanes: every byte once, threads held only while bytes flow, iterators closed once, cancellation waits."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import s3front.transfer
from s3front.connection import Connection
from s3front.door import Limits
from s3front.transfer import (
    BodyLengthError,
    BodyTooLarge,
    ClientGone,
    drip,
    pour,
    read_body,
    read_small,
    respond,
    send_pieces,
)
from tests.s3front.serving import Collect, Pieces, Running, application, pattern, running

pytestmark = pytest.mark.slow  # in all: most talk to real sockets or run real programs

LARGE = 9_000_000  # beyond every socket buffer of loopback, so that both directions block
App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]


def serving(app: App, test: Callable[[Running], Awaitable[None]], **options: Any) -> None:
    async def wrapped(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await (application if scope["type"] == "lifespan" else app)(scope, receive, send)

    async def main() -> None:
        async with running(wrapped, **{"limits": Limits(linger_timeout=0.05), **options}) as server:
            await test(server)

    trio.run(main)


def put(size: int, path: str = "/") -> bytes:
    return f"PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {size}\r\n\r\n".encode()


# ------------------------------------------------------------------------------------------- without any connection
@given(st.lists(st.binary(max_size=50), max_size=20), st.integers(1, 40), st.integers(1, 60))
def test_pour_delivers_every_byte_once(parts: list[bytes], room: int, hop: int) -> None:
    parts = [part for part in parts if part]
    sink = Collect(room)

    async def main() -> int:
        queue = iter([*parts, b""])

        async def fetch() -> bytes:
            return next(queue)

        return await pour(fetch, sink)

    size = s3front.transfer.HOP_SIZE
    s3front.transfer.HOP_SIZE = hop  # type: ignore[misc]
    try:
        assert trio.run(main) == len(sink.data)
    finally:
        s3front.transfer.HOP_SIZE = size  # type: ignore[misc]
    assert sink.data == b"".join(parts)


@pytest.mark.parametrize("room", [0, 3])
def test_a_sink_without_room_ends_a_body_that_goes_on(room: int) -> None:
    """It must not be asked again and again for room that it does not have."""

    class Full(Collect):
        def room(self) -> memoryview:
            return memoryview(self.buffer)[len(self.data) :]

    async def main() -> None:
        async def fetch() -> bytes:
            return b"more and more"

        with pytest.raises(BodyTooLarge):
            await pour(fetch, Full(room))

    trio.run(main)


@pytest.mark.parametrize(("length", "fails"), [(6, None), (None, None), (5, "longer"), (7, "ended 1 bytes before")])
def test_drip_keeps_count_and_closes_once(length: int | None, fails: str | None) -> None:
    pieces = Pieces([b"123", b"", b"456"])
    written = bytearray()

    async def write(view: memoryview) -> None:
        written.extend(view)

    async def main() -> None:
        await drip(pieces, length, write)

    if fails:
        with pytest.raises(BodyLengthError, match=fails):
            trio.run(main)
    else:
        trio.run(main)
        assert written == b"123456"
    assert pieces.closed == 1


def test_drip_closes_once_when_cancelled() -> None:
    pieces = Pieces([b"123", b"456"])

    async def write(view: memoryview) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drip, pieces, 6, write)
                while not pieces.given:
                    await trio.testing.wait_all_tasks_blocked()
                scope.cancel()

    trio.run(main)
    assert pieces.closed == 1


# --------------------------------------------------------------------------------------------------- bodies coming in
@pytest.mark.parametrize("room", [1 << 20, 65_537, 4 << 20])
def test_a_large_body_arrives_whole_and_off_the_loop(room: int) -> None:
    threads: set[int] = set()

    class Watched(Collect):
        def filled(self, n: int) -> None:
            threads.add(threading.get_ident())
            super().filled(n)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        sink = Watched(room)
        assert await read_body(scope, receive, sink) == LARGE
        assert sink.data == pattern(LARGE)
        await respond(scope, send, 200, [])

    async def test(server: Running) -> None:
        client = await server.connect()
        for _ in range(2):
            assert (await client.ask("PUT", "/", body=pattern(LARGE))).status == 200
        assert threading.get_ident() not in threads

    serving(app, test)


def test_a_pipelined_request_behind_a_large_body_is_kept() -> None:
    async def test(server: Running) -> None:
        client = await server.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.write, (put(1000, "/echo-large") + pattern(1000)) * 3)
            for _ in range(3):
                assert (await client.answer()).body == pattern(1000)

    serving(application, test)


def test_waiting_uploads_hold_no_lane() -> None:
    async def test(server: Running) -> None:
        waiting = [await server.connect() for _ in range(5)]
        for client in waiting:
            await client.write(put(LARGE, "/echo-large") + pattern(LARGE)[: LARGE - 1000])
        busy = await server.connect()
        assert (await busy.ask("PUT", "/echo-large", body=pattern(LARGE))).body == pattern(LARGE)
        for client in waiting:
            await client.write(pattern(LARGE)[LARGE - 1000 :])
        for client in waiting:
            assert (await client.answer()).body == pattern(LARGE)

    serving(application, test, lanes=1)


def test_small_transfers_do_not_wait_for_lanes() -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(Collect):
        def filled(self, n: int) -> None:
            entered.set()
            leave.wait()
            super().filled(n)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await read_body(scope, receive, Slow())
        else:
            await read_small(scope, receive, 100_000)
        await respond(scope, send, 200, [])

    async def test(server: Running) -> None:
        slow, quick = await server.connect(), await server.connect()
        await slow.write(put(1000, "/slow") + bytes(1000))
        await trio.to_thread.run_sync(entered.wait)
        assert (await quick.ask("PUT", "/quick", body=bytes(60_000))).status == 200
        leave.set()
        assert (await slow.answer()).status == 200

    serving(app, test, lanes=1)


def test_lanes_are_shared_by_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3front.transfer, "LANE_TURN", 100_000)
    sizes: list[int] = []

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        sink = Collect()
        await read_body(scope, receive, sink)
        sizes.append(len(sink.data))
        await send_pieces(scope, send, 200, [], len(sink.data), Pieces([bytes(sink.data)]))

    async def test(server: Running) -> None:
        async def one() -> None:
            client = await server.connect()
            assert (await client.ask("PUT", "/", body=pattern(3_000_000))).body == pattern(3_000_000)

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(one)
        assert sizes == [3_000_000] * 4

    serving(app, test, lanes=1)


def test_a_sink_that_fails_is_answered_and_the_rest_is_not_read() -> None:
    class Full(Collect):
        def filled(self, n: int) -> None:
            super().filled(n)
            if len(self.data) > 100_000:
                raise OSError("no space")

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        connection: Connection = scope["extensions"]["tierce.connection"]
        sink = Full()
        try:
            await read_body(scope, receive, sink)
        except OSError as error:
            assert connection.body_left == int(scope["query_string"]) - len(sink.data)
            await respond(scope, send, 507, [], str(error).encode())

    async def test(server: Running) -> None:
        client = await server.connect()
        answer = await client.ask("PUT", "/?150000", body=bytes(150_000))
        assert (answer.status, answer.body, answer.headers.get(b"connection")) == (507, b"no space", None)
        answer = await client.ask("PUT", f"/?{LARGE}", body=bytes(LARGE))
        assert (answer.status, answer.body, answer.headers[b"connection"]) == (507, b"no space", b"close")

    serving(app, test)


def test_a_cancelled_upload_waits_for_its_thread() -> None:
    entered, leave = threading.Event(), threading.Event()
    order: list[str] = []

    class Slow(Collect):
        def filled(self, n: int) -> None:
            entered.set()
            leave.wait()
            super().filled(n)
            order.append("thread left the buffer")

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        with trio.CancelScope() as scope_of_upload:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_body, scope, receive, Slow())
                await trio.to_thread.run_sync(entered.wait)
                scope_of_upload.cancel()
                leave.set()
        order.append("buffer may die")
        await respond(scope, send, 503, [])

    async def test(server: Running) -> None:
        client = await server.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.write, put(LARGE) + bytes(LARGE))
            assert (await client.answer()).status == 503

    serving(app, test)
    assert order == ["thread left the buffer", "buffer may die"]


# --------------------------------------------------------------------------------------------------- bodies going out
def blocks(size: int, step: int) -> list[bytes]:
    body = pattern(size)
    return [body[i : i + step] for i in range(0, size, step)]


@pytest.mark.parametrize("step", [1 << 20, 70_000, LARGE])
def test_a_large_body_leaves_whole_although_the_client_is_slow(step: int) -> None:
    pieces = Pieces(blocks(LARGE, step))

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send_pieces(scope, send, 206, [(b"etag", b'"e"')], LARGE, pieces)
        assert pieces.closed == 1

    async def test(server: Running) -> None:
        client = await server.connect()
        await client.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        with trio.testing.assert_checkpoints():
            for _ in range(3):
                await trio.testing.wait_all_tasks_blocked(0.01)  # the socket is full: the lane was given back
        answer = await client.answer()
        assert (answer.status, answer.body) == (206, pattern(LARGE))
        assert answer.headers[b"content-length"] == b"%d" % LARGE

    serving(app, test)


@pytest.mark.parametrize("how", ["early", "late"])
def test_a_generator_is_closed_once_when_the_client_vanishes(how: str) -> None:
    log: list[str] = []
    ended = trio.Event()

    def produce() -> Iterator[memoryview]:
        try:
            for block in blocks(LARGE, 1 << 20):
                yield memoryview(block)
        finally:
            log.append("closed")
            log.append("loop" if threading.current_thread() is threading.main_thread() else "thread")

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        with pytest.raises(ClientGone):
            await send_pieces(scope, send, 200, [], LARGE, produce())
        ended.set()
        raise ClientGone

    async def test(server: Running) -> None:
        client = await server.connect()
        await client.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        if how == "late":
            await client.stream.receive_some(100_000)
        await client.stream.aclose()
        await ended.wait()

    serving(app, test)
    assert log == ["closed", "thread"]


def test_a_cancelled_download_closes_its_generator_and_the_connection() -> None:
    pieces = Pieces(blocks(LARGE, 1 << 20))

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        with trio.CancelScope() as download:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_pieces, scope, send, 200, [], LARGE, pieces)
                while not pieces.given:
                    await trio.testing.wait_all_tasks_blocked(0.01)
                download.cancel()
        assert pieces.closed == 1

    async def test(server: Running) -> None:
        client = await server.connect()
        await client.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        while not pieces.closed:
            await trio.testing.wait_all_tasks_blocked(0.01)
        heard = await client.closed()
        assert 0 < len(heard) < LARGE

    serving(app, test)


@pytest.mark.parametrize("fail_at", [0, 3])
def test_a_source_that_fails_truncates_or_is_answered(fail_at: int) -> None:
    pieces = Pieces(blocks(5000, 1000), fail_at=fail_at)

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        try:
            await send_pieces(scope, send, 200, [], 5000, pieces)
        except RuntimeError:
            if not fail_at:
                await respond(scope, send, 503, [])

    async def test(server: Running) -> None:
        client = await server.connect()
        await client.write(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        heard = await client.closed()
        assert heard.startswith(b"HTTP/1.1 200" if fail_at else b"HTTP/1.1 503")
        assert heard.endswith(b"\r\n\r\n" + pattern(5000)[: fail_at * 1000])

    serving(app, test)
    assert pieces.closed == 1


def test_an_empty_body_is_a_head_alone() -> None:
    pieces = [Pieces([]), Pieces([b"", b""])]

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        await send_pieces(scope, send, 200, [], 0, pieces[int(scope["path"][1:])])

    async def test(server: Running) -> None:
        client = await server.connect()
        for number in range(2):
            answer = await client.ask("GET", f"/{number}")
            assert (answer.status, answer.body, answer.headers[b"content-length"]) == (200, b"", b"0")

    serving(app, test)
    assert [one.closed for one in pieces] == [1, 1]


@pytest.mark.parametrize("why", ["bad header", "already started", "gone", "head", "chunked"])
def test_pieces_are_closed_once_on_every_path(why: str) -> None:
    pieces = Pieces([b"12345"])

    async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
        connection: Connection = scope["extensions"]["tierce.connection"]
        if why == "bad header":
            with pytest.raises(ValueError, match="CR, LF or NUL"):
                await send_pieces(scope, send, 200, [(b"a", b"\n")], 5, pieces)
        elif why == "already started":
            await respond(scope, send, 200, [], b"done")
            with pytest.raises(RuntimeError, match="already started"):
                await send_pieces(scope, send, 200, [], 5, pieces)
            return
        elif why == "gone":
            with pytest.raises(ClientGone):
                await read_small(scope, receive, 100)
            with pytest.raises(ClientGone):
                await send_pieces(scope, send, 200, [], 5, pieces)
            return
        elif why == "head":
            await send_pieces(scope, send, 200, [], 5, pieces)
            return
        else:
            await connection.pump_out(200, [], pieces)
            return
        await respond(scope, send, 200, [], b"done")

    async def test(server: Running) -> None:
        client = await server.connect()
        if why == "gone":
            await client.write(put(10) + b"abc")
            await client.stream.aclose()
            while not pieces.closed:
                await trio.testing.wait_all_tasks_blocked(0.01)
        else:
            answer = await client.ask("HEAD" if why == "head" else "GET", "/")
            assert answer.body == {"head": b"", "chunked": b"12345"}.get(why, b"done")

    serving(app, test)
    assert pieces.closed == 1
