"""Rules 3 and 13, and what a hostile or broken client can do to the bytes: each attack on a real socket.

Whatever comes gets a clear answer or a closed connection, nothing of it is stored, the server goes on, and nothing in
its log speaks of trouble (served.py looks at the end).
"""

from __future__ import annotations

import base64
import contextlib
import re
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator

import h2.connection
import h2.events
import pytest

from appliance.limits import GATHER_MAX
from s3front.verified import Payload
from tests.s3front.chunking import encode
from tests.s3front.signing import sign_by_header, sign_by_query
from tests.security.served import BUCKET, QUICK, ServedBox, read_reply, signed_stream, wire

pytestmark = pytest.mark.slow  # in all: most talk to real sockets or run real programs

PATH = f"/{BUCKET}/new"
CRC = "x-amz-checksum-crc32"
DATA = b"the payload"
LARGE = bytes(range(256)) * (GATHER_MAX // 256 + 40)
FORMS = [Payload.STREAMING_SIGNED, Payload.STREAMING_SIGNED_TRAILER, Payload.STREAMING_UNSIGNED_TRAILER]


@pytest.fixture(scope="module")
def box() -> Iterator[ServedBox]:
    with ServedBox() as one:
        one.put(b"mine", b"ours")
        yield one


@pytest.fixture(scope="module")
def quick_box() -> Iterator[ServedBox]:
    """One that soon gives up; a busy machine can make it give up others than the test means."""
    with ServedBox(QUICK) as one:
        yield one


def upload(form: Payload, data: bytes, step: int = 16384, length: int | None = None) -> tuple[bytes, bytes, bytes]:
    """(head without its end, framed body, its CRC) of a streamed upload."""
    trailer = "" if form is Payload.STREAMING_SIGNED else CRC
    request, verified = signed_stream(PATH, form, len(data) if length is None else length, trailer)
    crc = base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    chunks = [data[at : at + step] for at in range(0, len(data), step)]
    body = encode(verified, chunks, [(CRC, crc)] if trailer else [])
    head = wire(request)[:-2]
    return re.sub(rb"\r\ncontent-length: 0\r\n", b"\r\n", head), body, crc.encode()


def framed(head: bytes, length: int) -> bytes:
    return head + b"content-length: %d\r\n\r\n" % length


# ------------------------------------------------------------------ rule 3: chunked uploads
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("data", [DATA, LARGE], ids=["small", "large"])
def test_the_forms_are_accepted_whole(box: ServedBox, form: Payload, data: bytes) -> None:
    """Without this every refusal below would prove nothing."""
    head, body, _ = upload(form, data)
    with box.unchanged():
        assert box.raw(framed(head, len(body)) + body).status == 200
        assert box.ask(sign_by_header("GET", PATH)).body == data
        assert box.ask(sign_by_header("DELETE", PATH)).status == 204


@pytest.mark.parametrize("form", FORMS)
def test_an_upload_cut_at_any_byte_stores_nothing(box: ServedBox, form: Payload) -> None:
    """Cut with an honest length the client has vanished; cut with a length that fits, the framing is short."""
    head, body, _ = upload(form, DATA)
    with box.unchanged():
        for cut in range(len(body)):
            answer = box.raw(framed(head, cut) + body[:cut])
            assert answer.status in (400, 403), cut
            assert answer.code in ("IncompleteBody", "InvalidRequest", "SignatureDoesNotMatch", "MalformedTrailerError")
        for cut in range(0, len(body), 7):
            assert box.raw(framed(head, len(body)) + body[:cut], end=True).status in (0, 400), cut


@pytest.mark.parametrize("form", FORMS)
def test_a_large_upload_cut_at_any_boundary_stores_nothing(box: ServedBox, form: Payload) -> None:
    """The other way in: a thread receives, pages are reserved before the last byte is checked."""
    head, body, _ = upload(form, LARGE)
    ends = [match.end() for match in re.finditer(rb"\r\n", body)]
    cuts = sorted({cut for end in ends for cut in (end - 2, end - 1, end, end + 1) if 0 < cut < len(body)})
    with box.unchanged():
        for cut in cuts[:: max(1, len(cuts) // 40)] + cuts[-8:]:
            answer = box.raw(framed(head, cut) + body[:cut])
            assert answer.status == 400, cut
            assert box.raw(framed(head, len(body)) + body[:cut], end=True).status in (0, 400), cut


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("data", [DATA, LARGE], ids=["small", "large"])
def test_a_wrong_signature_of_any_chunk_or_trailer_stores_nothing(box: ServedBox, form: Payload, data: bytes) -> None:
    head, body, crc = upload(form, data)
    spots = [match.start(1) for match in re.finditer(rb"signature[=:]([0-9a-f]{64})", body)]
    spots += [body.index(data[:8]) + 3]  # the payload itself
    spots += [body.index(crc)] if crc in body else []
    with box.unchanged():
        for at in spots:
            altered = body[:at] + (b"0" if body[at : at + 1] != b"0" else b"1") + body[at + 1 :]
            answer = box.raw(framed(head, len(body)) + altered)
            assert (answer.status, answer.code) in ((403, "SignatureDoesNotMatch"), (400, "BadDigest")), at


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [0, len(DATA) - 1, len(DATA) + 1, 1 << 30, 10**14])
def test_a_decoded_length_that_lies_stores_nothing(box: ServedBox, form: Payload, length: int) -> None:
    head, body, _ = upload(form, DATA, length=length)
    with box.unchanged():
        answer = box.raw(framed(head, len(body)) + body, end=True)
    assert answer.status == 400
    assert answer.code in ("IncompleteBody", "EntityTooLarge")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", [b"", b"b", b"b;chunk-signature=", b"b;" + b"x" * 100, b"0" * 50, b"b\r"])
def test_chunk_headers_are_bounded_and_never_loop(box: ServedBox, form: Payload, start: bytes) -> None:
    head, _, _ = upload(form, DATA)
    body = start.ljust(4000, b"a")
    with box.unchanged():
        began = time.process_time()  # the server's too
        assert box.raw(framed(head, len(body)) + body).status == 400
        assert time.process_time() - began < 2


def test_nothing_is_visible_before_the_last_check(box: ServedBox) -> None:
    head, body, _ = upload(Payload.STREAMING_SIGNED_TRAILER, LARGE)
    with box.unchanged():
        with box.connect() as sock:
            sock.sendall(framed(head, len(body)) + body[:-1])
            before = box.holdings()
            assert box.ask(sign_by_header("GET", PATH)).status == 404
            assert box.ask(sign_by_header("GET", f"/{BUCKET}")).body.count(b"<Key>") == 1
            assert box.holdings() == before
            sock.sendall(body[-1:])
            assert read_reply(sock).status == 200
        assert box.ask(sign_by_header("GET", PATH)).body == LARGE
        assert box.ask(sign_by_header("DELETE", PATH)).status == 204


def test_the_chunks_of_another_request_are_refused(box: ServedBox) -> None:
    _, body, _ = upload(Payload.STREAMING_SIGNED, DATA)
    request, _ = signed_stream(f"/{BUCKET}/elsewhere", Payload.STREAMING_SIGNED, len(DATA))
    head = re.sub(rb"\r\ncontent-length: 0\r\n", b"\r\n", wire(request)[:-2])
    with box.unchanged():
        assert box.raw(framed(head, len(body)) + body).code == "SignatureDoesNotMatch"


# ------------------------------------------------------------------ rule 13: framing
def signed_lines(method: str = "PUT", path: str = PATH, body: bytes = DATA) -> bytes:
    """A head without framing and without its end."""
    head = wire(sign_by_header(method, path, body=body))[:-2]
    return re.sub(rb"\r\ncontent-length: \d+\r\n", b"\r\n", head)


SECOND = b"DELETE /%b/mine HTTP/1.1\r\nHost: h\r\n\r\n" % BUCKET.encode()
AMBIGUOUS = {
    "both lengths": b"content-length: 11\r\ntransfer-encoding: chunked\r\n",
    "both lengths, the other way": b"transfer-encoding: chunked\r\ncontent-length: 11\r\n",
    "two lengths": b"content-length: 11\r\ncontent-length: 0\r\n",
    "two equal lengths": b"content-length: 11\r\ncontent-length: 11\r\n",
    "a list of lengths": b"content-length: 11, 11\r\n",
    "a signed length": b"content-length: +11\r\n",
    "a negative length": b"content-length: -11\r\n",
    "a hexadecimal length": b"content-length: 0xb\r\n",
    "a length with a space": b"content-length: 1 1\r\n",
    "a length too long": b"content-length: " + b"9" * 30 + b"\r\n",
    "an odd coding": b"transfer-encoding: xchunked\r\n",
    "two codings": b"transfer-encoding: gzip, chunked\r\n",
    "chunked twice": b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    "chunked and identity": b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
    "a hidden coding": b"transfer-encoding:\x0bchunked\r\n",
    "a space before the colon": b"transfer-encoding : chunked\r\n",
    "a folded coding": b"x: y\r\n transfer-encoding: chunked\r\n",
    "a bare line feed": b"content-length: 11\ntransfer-encoding: chunked\r\n",
    "a bare carriage return": b"content-length: 11\rtransfer-encoding: chunked\r\n",
    "a nul": b"content-length: 11\x00\r\n",
    "two hosts": b"host: other\r\ncontent-length: 11\r\n",
    "an empty name": b": x\r\ncontent-length: 11\r\n",
    "a quoted name": b'"x": x\r\ncontent-length: 11\r\n',
}


@pytest.mark.parametrize("how", AMBIGUOUS)
def test_framing_that_two_readers_could_read_differently_is_refused(box: ServedBox, how: str) -> None:
    """Smuggling: the second request, hidden in the body of the first, is never answered on its own."""
    body = b"0\r\n\r\n" + SECOND
    with box.unchanged():
        statuses = box.all_replies(signed_lines() + AMBIGUOUS[how] + b"\r\n" + body)
    assert len(statuses) == 1, statuses
    assert statuses[0] in (400, 413, 501)


CHUNKS = {
    "size with a sign": b"+b\r\nthe payload\r\n0\r\n\r\n",
    "size with 0x": b"0xb\r\nthe payload\r\n0\r\n\r\n",
    "size with a space": b"b \r\nthe payload\r\n0\r\n\r\n",
    "size too long": b"0000000000000000000b\r\nthe payload\r\n0\r\n\r\n",
    "size beyond 64 bits": b"fffffffffffffffff\r\nthe payload\r\n0\r\n\r\n",
    "no size": b"\r\nthe payload\r\n0\r\n\r\n",
    "bare line feeds": b"b\nthe payload\n0\n\n",
    "longer than it says": b"a\r\nthe payload\r\n0\r\n\r\n",
    "extension with a line feed": b"b;x\ny\r\nthe payload\r\n0\r\n\r\n",
    "extension without end": b"b;" + b"x" * 100_000,
    "trailers without end": b"b\r\nthe payload\r\n0\r\n" + b"x: y\r\n" * 2000,
    "a trailer that is none": b"b\r\nthe payload\r\n0\r\nnothing\r\n\r\n",
}


@pytest.mark.parametrize("how", CHUNKS)
def test_chunked_framing_is_strict(box: ServedBox, how: str) -> None:
    with box.unchanged():
        statuses = box.all_replies(signed_lines() + b"transfer-encoding: chunked\r\n\r\n" + CHUNKS[how] + SECOND)
    assert statuses == [400]


def test_chunked_framing_serves_a_body_of_unknown_length(box: ServedBox) -> None:
    """Of any size, and nothing of it stays if it is not the one that was signed."""
    with box.unchanged():
        for data in (b"", DATA, LARGE, LARGE * 9):
            framing = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (data[:7], data[7:]) if p) + b"0\r\n\r\n"
            head = signed_lines(body=data) + b"transfer-encoding: chunked\r\n\r\n"
            assert box.raw(head + framing).status == 200
            assert box.ask(sign_by_header("GET", PATH)).body == data
            assert box.ask(sign_by_header("DELETE", PATH)).status == 204
            wrong = signed_lines(body=data + b"x") + b"transfer-encoding: chunked\r\n\r\n"
            assert box.raw(wrong + framing).code == "XAmzContentSHA256Mismatch"
            assert box.raw(head + framing[:-3], end=True).status in (0, 400)


HEADS = {
    "no version": (b"GET /\r\nHost: h\r\n\r\n", {400}),
    "an old version": (b"GET / HTTP/0.9\r\nHost: h\r\n\r\n", {400, 505}),
    "a new version": (b"GET / HTTP/3.0\r\nHost: h\r\n\r\n", {400, 505}),
    "another protocol": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(40) + b"\r\n\r\n", {400}),
    "a proxy's preface": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", {400}),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", {400}),
    "connect": (b"CONNECT 10.0.0.1:22 HTTP/1.1\r\nHost: h\r\n\r\n", {501}),
    "another authority": (b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: h\r\n\r\n", {400}),
    "a fragment": (b"GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", {400}),
    "raw bytes": (b"GET /\xff\xfe HTTP/1.1\r\nHost: h\r\n\r\n", {400}),
    "a nul in the target": (b"GET /a\x00b HTTP/1.1\r\nHost: h\r\n\r\n", {400}),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", {400}),
    "a long target": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", {414}),
    "a huge query": (b"GET /?" + b"a=b&" * 200_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", {414}),
    "a large head": (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 17_000 + b"\r\n\r\n", {431}),
    "a head without end": (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 100_000, {431}),
    "too many fields": (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 150 + b"\r\n", {431}),
    "nothing but line ends": (b"\r\n" * 50_000, {400, 431, 414}),
    "a method nobody knows": (b"STEAL / HTTP/1.1\r\nHost: h\r\n\r\n", {400, 501}),
}


@pytest.mark.parametrize("how", HEADS)
def test_a_head_that_is_none_is_told_so(box: ServedBox, how: str) -> None:
    data, wanted = HEADS[how]
    with box.unchanged():
        answer = box.raw(data)
    assert answer.status in wanted
    assert b"<Error><Code>" in answer.body
    assert answer.headers[b"connection"] == b"close"


@pytest.mark.parametrize("method", ["PATCH", "TRACE", "PROPFIND", "LOCK"])
def test_an_unknown_method_is_refused_before_anything_is_read(box: ServedBox, method: str) -> None:
    """A body of a gibibyte is announced and never asked for."""
    with box.unchanged():
        head = wire(sign_by_header(method, PATH), extra=[b"expect: 100-continue", b"content-length: 1073741824"])
        assert box.all_replies(head) == [405]
        bare = f"{method} {PATH} HTTP/1.1\r\nHost: h\r\nContent-Length: 1073741824\r\nExpect: 100-continue\r\n\r\n"
        assert box.all_replies(bare.encode()) == [403]


def test_a_405_says_what_is_allowed(box: ServedBox) -> None:
    assert set(box.ask(sign_by_header("PATCH", PATH)).headers[b"allow"].split(b", ")) == {
        b"DELETE", b"GET", b"HEAD", b"PUT",
    }  # fmt: skip


@pytest.mark.parametrize("start", [b"", b"GET", b"GET / HTTP/1.1\r\nHost: h\r\n", b"GET / HTTP/1.1\nHost: h\n\n"])
def test_a_slow_head_is_given_up(quick_box: ServedBox, start: bytes) -> None:
    with quick_box.connect() as sock:
        sock.sendall(start or b"\r\n")
        assert read_reply(sock).status in (0, 408)


@pytest.mark.parametrize("size", [len(DATA), len(LARGE)])
def test_a_body_that_stalls_is_given_up(quick_box: ServedBox, size: int) -> None:
    data = LARGE[:size]
    sent = framed(signed_lines(body=data), size) + data[: size // 2]
    before = quick_box.holdings()
    with quick_box.connect() as sock:
        sock.sendall(sent)
        reply = read_reply(sock)
        assert (reply.status, b"<Code>RequestTimeout</Code>" in reply.body) == (400, True)
    assert quick_box.holdings() == before


@pytest.mark.parametrize("how", ["closes", "resets"])
@pytest.mark.parametrize("data", [DATA, LARGE, LARGE * 9], ids=["small", "large", "pages"])
def test_a_client_that_vanishes_leaves_nothing(box: ServedBox, how: str, data: bytes) -> None:
    with box.unchanged():
        for share in (0, 1, 2):
            with box.connect() as sock:
                sock.sendall(framed(signed_lines(body=data), len(data)) + data[: len(data) * share // 3])
                if how == "resets":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_client_that_vanishes_before_its_answer_harms_nobody(box: ServedBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it asked for may have happened; what others see is whole."""
    ended = threading.Semaphore(0)
    monkeypatch.setattr(box.app, "_observe", lambda *_: ended.release())
    with box.unchanged():
        for _ in range(5):
            with box.connect() as sock:
                sock.sendall(framed(signed_lines(), len(DATA)) + DATA)
        for _ in range(5):
            assert ended.acquire(timeout=30)
        assert box.ask(sign_by_header("GET", PATH)).body == DATA
        assert box.ask(sign_by_header("DELETE", PATH)).status == 204


def test_a_length_that_was_signed_and_lies_stores_nothing(box: ServedBox) -> None:
    for claimed, sent in ((len(DATA) + 1, DATA), (len(DATA) - 1, DATA), (0, DATA)):
        request = sign_by_header("PUT", PATH, headers={"Content-Length": str(claimed)}, body=DATA)
        with box.unchanged():
            statuses = box.all_replies(wire(request) + sent)
            assert all(status >= 400 for status in statuses), (claimed, statuses)


def test_a_line_end_in_what_is_echoed_begins_no_header(box: ServedBox) -> None:
    evil = "a%0D%0ASet-Cookie:%20x%0D%0A%0D%0A<script>"
    for query in (f"response-content-type={evil}", f"response-content-disposition={evil}", f"prefix={evil}"):
        answer = box.ask(sign_by_query("GET", f"/{BUCKET}/mine", query))
        assert b"set-cookie" not in answer.headers
        assert b"<script>" not in answer.body
    answer = box.ask(sign_by_header("GET", f"/{BUCKET}/{evil}"))
    assert (answer.status, b"set-cookie" in answer.headers, b"<script>" in answer.body) == (404, False, False)
    for value in ("a\rb", "a\x00b"):
        assert box.raw(wire(sign_by_header("PUT", PATH), extra=[b"x-amz-meta-a: " + value.encode()])).status == 400


def test_many_connections_at_once_do_not_keep_others_out(box: ServedBox) -> None:
    with contextlib.ExitStack() as stack, box.unchanged():
        for number in range(200):
            sock = stack.enter_context(box.connect())
            sock.sendall(b"GET / HTTP/1.1\r\nHost: h\r\nX: "[: number % 30 + 1])
        assert box.ask(sign_by_header("GET", f"/{BUCKET}/mine")).body == b"ours"


def test_a_websocket_or_http_2_opens_no_side_door(box: ServedBox) -> None:
    """What is handed over to another protocol's server meets the same gate."""
    upgrade = (
        b"GET /%b/mine HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n" % BUCKET.encode()
    )
    with box.unchanged():
        statuses = box.all_replies(upgrade + SECOND)
        assert statuses
        assert all(status in (400, 403) for status in statuses)
        broken = upgrade.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"")
        assert all(status in (400, 403) for status in box.all_replies(broken + SECOND))
        assert box.all_replies(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(90)) == [505]  # HTTP/2 is not offered


# ------------------------------------------------------------------ bad input: a full box
def test_a_full_box_says_so_and_still_deletes() -> None:
    with ServedBox() as full:
        block = LARGE * 25
        status, count = 200, 0
        while status == 200:
            request = sign_by_header("PUT", f"/{BUCKET}/{count}", payload="UNSIGNED-PAYLOAD")
            answer = full.raw(wire(request, extra=[b"content-length: %d" % len(block)]) + block)
            status = answer.status
            count += 1
            assert count < 200
        assert (answer.status, answer.code) == (507, "InsufficientStorage")
        assert count > 2
        assert full.ask(sign_by_header("GET", f"/{BUCKET}/0")).body == block
        assert full.ask(sign_by_header("DELETE", f"/{BUCKET}/0")).status == 204
        assert full.ask(sign_by_header("GET", f"/{BUCKET}/1")).body == block


def test_http_2_meets_the_same_gate(box: ServedBox) -> None:
    """Handed over to another server, whose limits are its own: anonymous stays outside, and what is broken breaks only
    its own connection."""
    plain = [(":method", "DELETE"), (":path", f"/{BUCKET}/mine"), (":scheme", "http"), (":authority", "h")]
    lies = [*plain[1:], (":method", "PUT"), ("content-length", "5")]
    with box.unchanged():
        for fields, body in ((plain, b""), (lies, b"more than five"), (lies, None)):
            with box.connect() as sock:
                client = h2.connection.H2Connection()
                client.config.validate_outbound_headers = False
                client.initiate_connection()
                client.send_headers(1, sorted(fields), end_stream=body == b"")
                if body:
                    client.send_data(1, body, end_stream=True)
                sock.sendall(client.data_to_send())
                if body is None:
                    continue  # gone within the body
                statuses: list[bytes] = []
                while not statuses and (data := sock.recv(65536)):
                    for event in client.receive_data(data):
                        if isinstance(event, h2.events.ResponseReceived):
                            statuses.append(dict(event.headers)[b":status"])
                        elif isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)):
                            statuses.append(b"gone")
                assert set(statuses) <= {b"403", b"gone"}
        for noise in (bytes(1000), b"\xff" * 1000, b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00" * 50):
            with box.connect() as sock:
                sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + noise)
                sock.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    while sock.recv(65536):
                        pass
