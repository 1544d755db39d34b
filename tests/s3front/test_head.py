"""Request heads: what is read, what is refused with which status, and h11 as the second opinion."""

from __future__ import annotations

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.limits import HEADER_BLOCK_MAX, HEADER_COUNT_MAX
from s3front.head import (
    CHUNK_SIZE_DIGITS_MAX,
    Head,
    HeadError,
    Reply,
    chunk_size,
    oversized,
    parse_head,
    render_reply,
)
from tests.rows import rows


def head(*lines: bytes, line: bytes = b"GET /b/k HTTP/1.1", host: bool = True) -> Head:
    return parse_head(b"\r\n".join([line, *([b"Host: h"] if host else []), *lines, b"", b""]))


def status(*lines: bytes, line: bytes = b"GET /b/k HTTP/1.1", host: bool = True) -> int:
    with pytest.raises(HeadError) as caught:
        head(*lines, line=line, host=host)
    return caught.value.status


def test_a_signed_put_is_read_whole() -> None:
    got = head(b"Content-Length: 4096", b"X-Amz-Date:  20260101T000000Z \t", line=b"PUT /b/a%20k?x=%2F&y HTTP/1.1")
    assert got == Head(
        method="PUT",
        target=b"/b/a%20k?x=%2F&y",
        path=b"/b/a%20k",
        query=b"x=%2F&y",
        headers=[(b"host", b"h"), (b"content-length", b"4096"), (b"x-amz-date", b"20260101T000000Z")],
        minor=1,
        content_length=4096,
        chunked=False,
        expect=False,
        keep_alive=True,
        upgrade=b"",
    )
    assert got.http_version == "1.1"
    with pytest.raises(AttributeError):
        got.method = "GET"  # type: ignore[misc]


def test_keep_alive_follows_version_and_connection() -> None:
    assert head().keep_alive
    assert not head(b"Connection: close").keep_alive
    assert not head(b"Connection: keep-alive , Close").keep_alive
    assert not head(b"Connection: keep-alive", b"Connection: close").keep_alive
    assert not head(line=b"GET / HTTP/1.0").keep_alive
    assert head(b"Connection: Keep-Alive", line=b"GET / HTTP/1.0").keep_alive


def test_http_1_0_needs_no_host_and_has_no_expectation() -> None:
    got = head(b"Expect: 100-continue", b"Content-Length: 1", line=b"PUT / HTTP/1.0", host=False)
    assert (got.expect, got.minor, got.http_version) == (False, 0, "1.0")


def test_expect_counts_only_with_a_body() -> None:
    assert head(b"Expect: 100-Continue", b"Content-Length: 1").expect
    assert head(b"Expect: 100-continue", b"Transfer-Encoding: chunked").expect
    assert head(b"Expect: 100-continue", b"Content-Length: 0").expect, "some clients wait even then"
    assert not head(b"Expect: 100-continue").expect


@pytest.mark.parametrize("value", [b"", b"200-ok", b"tea"])
def test_an_expectation_that_nobody_has_is_ignored(value: bytes) -> None:
    assert not head(b"Expect: " + value, b"Content-Length: 1").expect


@rows("value", [b"y 100-continue", b"100-continue, x", b"\x0b100-continue", b"100 - continue"])
def test_an_expectation_that_two_servers_may_read_differently_is_refused(value: bytes) -> None:
    assert status(b"Expect: " + value, b"Content-Length: 1") in (400, 417)


def test_upgrade_is_named_by_both_headers() -> None:
    assert head(b"Connection: Upgrade", b"Upgrade: WebSocket").upgrade == b"websocket"
    assert head(b"Connection: keep-alive, upgrade", b"Upgrade: h2c").upgrade == b"h2c"
    assert head(b"Upgrade: websocket").upgrade == b""


def test_targets_in_other_forms() -> None:
    got = head(line=b"GET http://H/b?c=1 HTTP/1.1")
    assert (got.path, got.query, got.target) == (b"/b", b"c=1", b"http://H/b?c=1")
    assert head(line=b"GET http://h HTTP/1.1").path == b"/"
    assert head(line=b"GET http://h?q HTTP/1.1").path == b"/"
    assert head(line=b"OPTIONS * HTTP/1.1").path == b"*"
    assert head(line=b"GET //a//b HTTP/1.1").path == b"//a//b"


@rows(
    ("line", "answer"),
    [
        (b"GET http://other/b HTTP/1.1", 400),
        (b"GET http://u@h/b HTTP/1.1", 400),
        (b"GET ftp://h/b HTTP/1.1", 400),
        (b"GET * HTTP/1.1", 400),
        (b"CONNECT h:1 HTTP/1.1", 501),
        (b"GET /#x HTTP/1.1", 400),
        (b"GET /\xc3\xa4 HTTP/1.1", 400),
        (b"GET /a b HTTP/1.1", 400),
        (b"GET  / HTTP/1.1", 400),
        (b"GET /", 400),
        (b"GET / HTTP/0.9", 505),
        (b"GET / HTTP/1.2", 505),
        (b"GET / HTTP/2.0", 505),
        (b"GET / RTSP/1.0", 400),
        (b"SOURCE / ICE/1.0", 400),
        (b"BREW / HTTP/1.1", 501),
        (b"get / HTTP/1.1", 501),
        (b"GET / HTTP/1.1 ", 400),
        (b"\r\nGET / HTTP/1.1", 400),
        (b"", 400),
        (b"\x16\x03\x01\x02", 400),
    ],
)
def test_request_lines_that_are_refused(line: bytes, answer: int) -> None:
    assert status(line=line) == answer


@rows(
    ("lines", "answer"),
    [
        ([b"Content-Length: 5", b"Content-Length: 5"], 400),
        ([b"Content-Length: 5, 5"], 400),
        ([b"Content-Length: +5"], 400),
        ([b"Content-Length: 5x"], 400),
        ([b"Content-Length: "], 400),
        ([b"Content-Length: " + b"9" * 19], 413),
        ([b"Content-Length: 5", b"Transfer-Encoding: chunked"], 400),
        ([b"Transfer-Encoding: chunked", b"Content-Length: 5"], 400),
        ([b"Transfer-Encoding: gzip"], 501),
        ([b"Transfer-Encoding: gzip, chunked"], 501),
        ([b"Transfer-Encoding: identity"], 501),
        ([b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], 400),
        ([b"A: x", b" folded"], 400),
        ([b"A: x", b"\tfolded"], 400),
        ([b"A: x\x00y"], 400),
        ([b"A: x\ry"], 400),
        ([b"A: x\ny: z"], 400),
        ([b"A: x\r"], 400),
        ([b"A : x"], 400),
        ([b"A"], 400),
        ([b": x"], 400),
        ([b"Host: h"], 400),
        ([b"Host: other"], 400),
    ],
)
def test_fields_that_are_refused(lines: list[bytes], answer: int) -> None:
    assert status(*lines) == answer


def test_missing_host_is_refused_on_1_1() -> None:
    assert status(host=False) == 400


def test_chunked_from_http_1_0_is_refused() -> None:
    assert status(b"Transfer-Encoding: chunked", line=b"PUT / HTTP/1.0") == 400


def test_header_count_and_size_are_bounded() -> None:
    assert len(head(*[b"a%d: x" % i for i in range(HEADER_COUNT_MAX - 1)]).headers) == HEADER_COUNT_MAX
    assert status(*[b"a%d: x" % i for i in range(HEADER_COUNT_MAX)]) == 431
    fill = HEADER_BLOCK_MAX - len(b"GET /b/k HTTP/1.1\r\nHost: h\r\na: \r\n\r\n")
    assert head(b"a: " + b"x" * fill).headers[-1][1] == b"x" * fill
    assert status(b"a: " + b"x" * (fill + 1)) == 431
    assert oversized(b"GET /" + b"x" * HEADER_BLOCK_MAX).status == 414


def test_a_second_request_in_the_block_is_not_swallowed() -> None:
    with pytest.raises(HeadError):
        parse_head(b"GET / HTTP/1.1\nHost: h\n\nGET /evil HTTP/1.1\r\nHost: h\r\n\r\n")


def test_chunk_lines() -> None:
    assert chunk_size(b"0") == 0
    assert chunk_size(b"1aF") == 0x1AF
    assert chunk_size(b"10;name=value") == 16
    assert chunk_size(b"10 ;chunk-signature=00") == 16
    for bad in (
        b"",
        b"-1",
        b"+1",
        b"0x10",
        b"1_0",
        b" 1",
        b"1 ",
        b"1\x00",
        b"1;\n",
        b"1;\x00",
        b"1" * (CHUNK_SIZE_DIGITS_MAX + 1),
    ):
        with pytest.raises(HeadError):
            chunk_size(bad)


# ------------------------------------------------------------------------------------------------- response heads
TOKEN = st.text("abcXYZ-!#$%&'*+.^_`|~09", min_size=1, max_size=12).map(str.encode)
DATE = b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"


def reply(
    status: int, *headers: tuple[bytes, bytes], line: bytes = b"GET / HTTP/1.1", length: int | None = None
) -> Reply:
    return render_reply(head(line=line), status, headers, length, True, DATE)


def test_response_framing_follows_method_status_and_version() -> None:
    assert reply(200, (b"etag", b'"e"'), length=5) == Reply(
        block=b'HTTP/1.1 200 OK\r\netag: "e"\r\ncontent-length: 5\r\n' + DATE + b"server: Tierce\r\n\r\n",
        content_length=5,
        chunked=False,
        bodiless=False,
        keep_alive=True,
    )
    assert reply(200).chunked
    old = reply(200, line=b"GET / HTTP/1.0")
    assert (old.chunked, old.content_length, old.keep_alive) == (False, None, False)
    assert b"connection: keep-alive" in reply(200, length=1, line=b"GET / HTTP/1.0").block
    for bodiless in (reply(204, length=0), reply(304, length=0), reply(200, length=0, line=b"HEAD / HTTP/1.1")):
        assert bodiless.bodiless
        assert b"content-length" not in bodiless.block
    assert b"content-length: 7" in reply(200, (b"content-length", b"7"), line=b"HEAD / HTTP/1.1").block
    assert b"content-length" not in reply(204, (b"content-length", b"0")).block
    assert not reply(200, (b"connection", b"Close"), length=0).keep_alive
    assert reply(299, length=0).block.startswith(b"HTTP/1.1 299 \r\n")


def test_content_length_of_a_response_is_digits() -> None:
    for bad in (b"", b"-1", b"+1", b"1_0", b" 1", b"1\r\n"):
        with pytest.raises(ValueError, match="one number"):
            reply(200, (b"content-length", bad))


@given(st.lists(st.tuples(st.one_of(TOKEN, st.binary(max_size=5)), st.binary(max_size=8)), max_size=4))
def test_no_header_smuggles_another(headers: list[tuple[bytes, bytes]]) -> None:
    headers = [(name, value) for name, value in headers if name not in (b"content-length", b"connection")]
    try:
        block = reply(200, *headers, length=0).block
    except ValueError:
        return
    names = [line.partition(b":")[0] for line in block.split(b"\r\n")[1:-2]]
    assert names[: len(headers)] == [name for name, _ in headers]
    assert set(names[len(headers) :]) <= {b"content-length", b"date", b"server"}


# ---------------------------------------------------------------------------------------------- h11's opinion
# Where this parser accepts, h11 must accept and read the same.  (The reverse is not asked: refusing more is the point.)
# Exceptions: none.  One empty line before a request is forgiven by the connection, not here; h11 refuses it.


def second_opinion(block: bytes) -> h11.Request:
    """h11's reading; raises RemoteProtocolError."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(block)
    event = connection.next_event()
    assert isinstance(event, h11.Request), event
    return event


def body_kind(block: bytes) -> tuple[str, int]:
    """How h11 frames the body that follows: kind and length."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(block)
    connection.next_event()
    event = connection.next_event()
    if isinstance(event, h11.EndOfMessage):
        return ("none", 0)
    connection.receive_data(b"0\r\n\r\n")
    event = connection.next_event()
    if isinstance(event, h11.EndOfMessage):
        return ("chunked", 0)
    assert isinstance(event, h11.Data)
    return ("length", 0)


VALUE = st.one_of(
    st.binary(max_size=20),
    st.text(' \tabc;=,"\\é\x01\x7f\x0b\x85', max_size=20).map(lambda text: text.encode("latin-1")),
)
FRAMING = st.sampled_from(
    [
        b"Content-Length: 5",
        b"content-length: 05",
        b"Content-Length: 5,5",
        b"Content-Length : 5",
        b"Content-Length: 0x5",
        b"Content-Length: 6",
        b"Transfer-Encoding: chunked",
        b"transfer-encoding: Chunked ",
        b"Transfer-Encoding:\tchunked",
        b"Transfer-Encoding: xchunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: chunked\x0b",
        b"Host: h",
        b"Host: i",
        b"Connection: close",
        b"Connection: upgrade",
        b"Upgrade: websocket",
        b"Expect: 100-continue",
        b" folded: x",
        b"",
    ]
)
FIELD = st.one_of(FRAMING, st.tuples(TOKEN, VALUE).map(lambda pair: pair[0] + b": " + pair[1]))
METHOD = st.one_of(
    st.sampled_from([b"GET", b"PUT", b"HEAD", b"POST", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"]), TOKEN
)
TARGET = st.one_of(
    st.text('/ab%2F?&=#"<>\\^`{|}~ \x7fé', max_size=20).map(lambda text: b"/" + text.encode("latin-1")),
    st.sampled_from([b"*", b"http://h/x", b"http://i/x", b"h:80", b"/"]),
)
VERSION = st.sampled_from(
    [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/1.1 ", b"RTSP/1.0"]
)
EOL = st.sampled_from([b"\r\n"] * 9 + [b"\n", b"\r", b"\r\r\n"])


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    line = draw(METHOD) + draw(st.sampled_from([b" "] * 9 + [b"  ", b"\t"])) + draw(TARGET) + b" " + draw(VERSION)
    fields = draw(st.lists(FIELD, max_size=6))
    if draw(st.integers(0, 3)):
        fields.insert(0, b"Host: h")
    return b"".join([line, draw(EOL), *[part for field in fields for part in (field, draw(EOL))], b"\r\n"])


@given(blocks())
@example(b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n")
@example(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n")
def test_what_is_accepted_h11_accepts_and_reads_the_same(block: bytes) -> None:
    end = block.find(b"\r\n\r\n") + 4
    block = block[:end]
    try:
        got = parse_head(block)
    except HeadError:
        return
    theirs = second_opinion(block)
    assert got.method.encode() == bytes(theirs.method)
    assert got.target == bytes(theirs.target)
    assert got.http_version.encode() == bytes(theirs.http_version)
    ours = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in got.headers]
    assert ours == [(bytes(name), bytes(value)) for name, value in theirs.headers]
    expected = ("chunked", 0) if got.chunked else ("length", 0) if got.content_length else ("none", 0)
    assert body_kind(block) == expected


@given(st.binary(max_size=300))
def test_any_bytes_give_a_head_or_a_head_error(noise: bytes) -> None:
    for block in (noise, b"GET / HTTP/1.1\r\nHost: h\r\n" + noise + b"\r\n\r\n"):
        try:
            got = parse_head(block)
        except HeadError:
            continue
        second_opinion(block)
        assert got.path.startswith(b"/")


@given(st.binary(max_size=20))
def test_chunk_lines_that_pass_are_read_like_h11(line: bytes) -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.next_event()
    try:
        size = chunk_size(line)
    except HeadError:
        return
    connection.receive_data(line + b"\r\n" + b"x" * min(size, 64))
    event = connection.next_event()
    if size:
        assert isinstance(event, h11.Data)
        assert len(event.data) == min(size, 64)
    else:
        connection.receive_data(b"\r\n")
        assert isinstance(connection.next_event(), h11.EndOfMessage)
