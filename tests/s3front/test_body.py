"""Bodies: what was promised is checked on both paths before anything reaches a commit, and nothing is copied in
vain."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Any, cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from appliance.limits import GATHER_MAX, MIB, SINGLE_PUT_MAX
from appliance.model import Body, Checksum
from appliance.store import Ingest
from s3front import checksums
from s3front.aws_chunked import CHUNK_MIN, wire_length_max
from s3front.body import BodyPlan, BodySink, Received, finish_small, plan_body, receive_small
from s3front.errors import S3Error
from s3front.verified import Payload, Verified
from tests.rows import rows
from tests.s3front.chunking import TRAILER, encode, encode_by_botocore, verified_streaming
from tests.s3front.signing import check, sign_by_header, sign_by_query


class MemoryIngest:
    """An ingest into memory, by buffers of `size` bytes that are wiped once they were given over: whoever reads a view
    too late reads rubbish."""

    def __init__(self, size: int = 4 * MIB) -> None:
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self._at = 0
        self.content = bytearray()
        self.steps: list[int] = []
        self.finished = False

    def room(self) -> memoryview:
        if self._at == len(self._buffer):
            self._buffer[:] = b"\xee" * len(self._buffer)
            self._at = 0
        return self._view[self._at :]

    def filled(self, count: int) -> None:
        assert 0 < count <= len(self._buffer) - self._at
        self.content += self._view[self._at : self._at + count]
        self._at += count
        self.steps.append(count)

    def finish(self) -> Body:
        assert not self.finished
        self.finished = True
        return Body(len(self.content), bytes(self.content))


def through_sink(
    plan: BodyPlan, wire: bytes, step: int = 100_000, ingest: MemoryIngest | None = None
) -> Received[Body]:
    """Drives a sink as a transfer does: receive into room(), say how much came."""
    taken = MemoryIngest() if ingest is None else ingest
    sink = BodySink(plan, cast(Ingest, taken))
    at = 0
    while at < len(wire):
        room = sink.room()
        count = min(len(room), step, len(wire) - at)
        if not count:
            break
        room[:count] = wire[at : at + count]
        sink.filled(count)
        at += count
    received = sink.finish()
    assert taken.finished
    return received


def through_small(plan: BodyPlan, wire: bytes) -> Received[bytes]:
    return finish_small(plan, wire)


Way = Callable[[BodyPlan, bytes], Received[Any]]
WAYS: list[Way] = [through_small, through_sink]


def content(received: Received[Any]) -> bytes:
    return received.body.inline if isinstance(received.body, Body) else bytes(received.body)


def signed(body: bytes, promised: bytes | None = None, **headers: str) -> Verified:
    """A PUT of `body`; its head promises `promised` if that is given."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return check(sign_by_header("PUT", headers=named, body=body if promised is None else promised))


def plan(verified: Verified, length: int | None, **options: Any) -> BodyPlan:
    return plan_body(verified, verified.headers, length, **options)


def refused(call: Callable[..., object], *arguments: object) -> S3Error:
    with pytest.raises(S3Error) as caught:
        call(*arguments)
    return caught.value


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# ---------------------------------------------------------------- good bodies


@rows("way", WAYS)
@rows("size", [0, 1, 4096, GATHER_MAX, 3 * MIB + 7])
def test_a_signed_body(way: Way, size: int) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    body = body[:size]
    received = way(plan(signed(body), size), body)
    assert content(received) == body
    assert received.size == size
    assert received.etag == hashlib.md5(body).hexdigest()
    assert received.checksum == Checksum("CRC64NVME", checksums.digest("CRC64NVME", body))


@rows("way", WAYS)
@rows("algorithm", checksums.ALGORITHMS)
def test_a_promised_checksum_is_kept(way: Way, algorithm: str) -> None:
    body = b"body"
    value = checksums.digest(algorithm, body)
    headers = {f"x-amz-checksum-{algorithm.lower()}": b64(value), "content-md5": b64(hashlib.md5(body).digest())}
    verified = check(sign_by_header("PUT", headers=headers, body=body))
    assert way(plan(verified, 4), body).checksum == Checksum(algorithm, value)


@rows("way", WAYS)
@rows("payload", [p for p in Payload if p.value.startswith("STREAMING")])
def test_a_streamed_body(way: Way, payload: Payload) -> None:
    body = bytes(range(256)) * 2000
    trailer = b64(checksums.digest("CRC32C", body))
    verified = verified_streaming(payload, len(body))
    chunks = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    trailers = [] if payload is Payload.STREAMING_SIGNED else [(TRAILER, trailer)]
    wire = encode(verified, chunks, trailers)
    for length in (len(wire), None):  # with Content-Length, and with a chunked transfer coding around it
        received = way(plan(verified, length), wire)
        assert content(received) == body
        assert received.etag == hashlib.md5(body).hexdigest()
        algorithm = "CRC64NVME" if payload is Payload.STREAMING_SIGNED else "CRC32C"
        assert received.checksum == Checksum(algorithm, checksums.digest(algorithm, body))


@given(st.integers(0, 5000), st.integers(1, 3000), st.integers(1, 700))
def test_any_sizes_of_reads_and_buffers_give_the_same_body(size: int, step: int, buffer: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    assert content(through_sink(plan(signed(body), size), body, step, MemoryIngest(buffer))) == body
    verified = verified_streaming(Payload.STREAMING_UNSIGNED_TRAILER, size)
    wire = encode_by_botocore(body, CHUNK_MIN)
    received = through_sink(plan(verified, len(wire)), wire, step, MemoryIngest(buffer))
    assert content(received) == body
    assert received.etag == hashlib.md5(body).hexdigest()


def test_a_fast_etag_is_opaque_and_no_md5_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = signed(b"body")
    first = finish_small(plan(verified, 4, etag="fast"), b"body").etag
    assert re.fullmatch(r"[0-9a-f]{32}-1", first)
    assert finish_small(plan(verified, 4, etag="fast"), b"body").etag != first

    def no_md5(*_: object, **__: object) -> None:
        raise AssertionError("MD5 was computed")

    monkeypatch.setattr(hashlib, "md5", no_md5)
    assert finish_small(plan(verified, 4, etag="fast"), b"body").body == b"body"
    assert finish_small(plan(verified, 4, etag="none", default=""), b"body") == Received(b"body", 4, "", None)


def test_a_presigned_upload_has_no_promises() -> None:
    verified = check(sign_by_query("PUT"))
    assert finish_small(plan(verified, 4), b"body").etag == hashlib.md5(b"body").hexdigest()


def test_a_part_gets_the_checksum_of_its_upload() -> None:
    received = finish_small(plan(signed(b"part"), 4, default="SHA1"), b"part")
    assert received.checksum == Checksum("SHA1", hashlib.sha1(b"part").digest())


@pytest.mark.parametrize("size", [1000, GATHER_MAX])
def test_large_small_bodies_leave_the_loop(size: int) -> None:
    body = bytes(size)
    received = trio.run(receive_small, plan(signed(body), size), body)
    assert received.etag == hashlib.md5(body).hexdigest()


# ---------------------------------------------------------------- broken promises

BODY = b"what was promised"
OTHER = b"what is not same!"
assert len(BODY) == len(OTHER)


@rows("way", WAYS)
@rows(
    ("headers", "code"),
    [
        ({}, "XAmzContentSHA256Mismatch"),
        ({"content-md5": b64(hashlib.md5(BODY).digest())}, "XAmzContentSHA256Mismatch"),
    ],
)
def test_another_body_than_was_signed_is_refused(way: Way, headers: dict[str, str], code: str) -> None:
    verified = check(sign_by_header("PUT", headers=headers, body=BODY))
    error = refused(way, plan(verified, len(OTHER)), OTHER)
    assert (error.code, error.status) == (code, 400)


@rows("way", WAYS)
@rows("etag", ["md5", "fast"])
@rows("promise", ["content-md5", *(a.header.decode() for a in checksums.ALGORITHMS.values())])
def test_a_digest_that_does_not_match_is_a_bad_digest(way: Way, etag: str, promise: str) -> None:
    algorithm = promise.rpartition("-")[2].upper()
    value = hashlib.md5(BODY).digest() if algorithm == "MD5" else checksums.digest(algorithm, BODY)
    verified = check(sign_by_header("PUT", headers={promise: b64(value)}, payload="UNSIGNED-PAYLOAD"))
    assert content(way(plan(verified, len(BODY), etag=etag), BODY)) == BODY
    error = refused(way, plan(verified, len(OTHER), etag=etag), OTHER)
    assert (error.code, error.status) == ("BadDigest", 400)


@rows("way", WAYS)
@rows("payload", [Payload.STREAMING_SIGNED_TRAILER, Payload.STREAMING_UNSIGNED_TRAILER])
@rows("value", [b64(bytes(4)), "AAAA"])
def test_a_trailer_that_does_not_match_is_refused(way: Way, payload: Payload, value: str) -> None:
    verified = verified_streaming(payload, len(BODY))
    wire = encode(verified, [BODY], [(TRAILER, value)])
    assert refused(way, plan(verified, len(wire)), wire).code == "BadDigest"


@pytest.mark.parametrize("way", WAYS)
def test_a_body_where_none_was_signed_is_refused(way: Way) -> None:
    verified = check(sign_by_header("PUT"))
    assert verified.payload is Payload.EMPTY
    assert refused(way, plan(verified, 4), b"body").code == "XAmzContentSHA256Mismatch"


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_torn_upload_is_refused(way: Way) -> None:
    assert refused(way, plan(signed(BODY), len(BODY)), BODY[:-1]).code == "IncompleteBody"
    for payload in (p for p in Payload if p.value.startswith("STREAMING")):
        verified = verified_streaming(payload, len(BODY))
        trailers = [] if payload is Payload.STREAMING_SIGNED else [(TRAILER, b64(checksums.digest("CRC32C", BODY)))]
        wire = encode(verified, [BODY], trailers)
        for length in range(len(wire)):
            assert refused(way, plan(verified, len(wire)), wire[:length]).code == "IncompleteBody"


def test_nothing_is_finished_before_the_last_check() -> None:
    ingest = MemoryIngest()
    assert refused(lambda: through_sink(plan(signed(BODY), len(BODY)), OTHER, ingest=ingest)).code == (
        "XAmzContentSHA256Mismatch"
    )
    assert not ingest.finished
    verified = verified_streaming(Payload.STREAMING_SIGNED, len(BODY))
    wire = encode(verified, [BODY]).replace(BODY, OTHER)
    assert refused(lambda: through_sink(plan(verified, len(wire)), wire, ingest=ingest)).code == "SignatureDoesNotMatch"
    assert not ingest.finished


def test_a_small_body_that_is_too_long_is_refused() -> None:
    assert refused(lambda: finish_small(plan(signed(BODY), len(BODY) - 1), BODY)).code == "IncompleteBody"


# ---------------------------------------------------------------- plans


def test_lengths_that_are_missing_or_too_large() -> None:
    verified = signed(b"")
    error = refused(plan, verified, None)
    assert (error.code, error.status) == ("MissingContentLength", 411)
    assert refused(plan, verified, SINGLE_PUT_MAX + 1).code == "EntityTooLarge"
    assert refused(lambda: plan(verified, 11, limit=10)).code == "EntityTooLarge"
    assert plan(verified, 10, limit=10).length == 10


@rows(
    ("length", "code"),
    [(None, "MissingContentLength"), ("", "InvalidArgument"), ("-1", "InvalidArgument"), ("1e3", "InvalidArgument")],
)
def test_decoded_lengths_that_are_none(length: str | None, code: str) -> None:
    headers = {} if length is None else {"x-amz-decoded-content-length": length}
    verified = check(sign_by_header("PUT", headers=headers, payload=Payload.STREAMING_SIGNED.value))
    assert refused(plan, verified, 100).code == code


def test_a_content_length_that_cannot_be_is_refused_at_once() -> None:
    verified = verified_streaming(Payload.STREAMING_SIGNED, 1000)
    for length in (0, 999, wire_length_max(1000) + 1):
        assert refused(plan, verified, length).code == "IncompleteBody"
    assert plan(verified, None).wire_max == wire_length_max(1000)
    too_large = verified_streaming(Payload.STREAMING_SIGNED, SINGLE_PUT_MAX + 1)
    assert refused(plan, too_large, None).code == "EntityTooLarge"


def test_a_checksum_of_the_object_is_not_compared_with_the_document() -> None:
    """CompleteMultipartUpload's checksum headers are about what it makes."""
    verified = signed(BODY, x_amz_checksum_crc32="AAAAAA==", content_md5=b64(hashlib.md5(OTHER).digest()))
    assert refused(finish_small, plan(verified, len(BODY)), BODY).message.startswith("The Content-MD5")
    verified = signed(BODY, x_amz_checksum_crc32="AAAAAA==-2")
    planned = plan(verified, len(BODY), etag="none", default="", describes_body=False)
    assert finish_small(planned, BODY) == Received(BODY, len(BODY), "", None)


def test_a_signed_trailer_announced_on_a_plain_body_is_refused() -> None:
    assert refused(lambda: plan(signed(BODY, x_amz_trailer=TRAILER), len(BODY))).code == "InvalidRequest"


# ---------------------------------------------------------------- no work in vain


def test_a_plain_body_is_received_into_the_ingests_own_buffer() -> None:
    ingest = MemoryIngest()
    sink = BodySink(plan(signed(bytes(100)), 100), cast(Ingest, ingest))
    room = sink.room()
    assert room.obj is ingest.room().obj
    assert len(room) == 100
    sink.filled(40)
    assert len(sink.room()) == 60
    sink.room()[:] = bytes(60)
    sink.filled(60)
    assert len(sink.room()) == 0


def test_digests_are_fed_in_large_steps() -> None:
    ingest = MemoryIngest()
    body = bytes(5 * MIB + 5)
    through_sink(plan(signed(body), len(body)), body, 64 * 1024, ingest)
    assert ingest.steps == [MIB, MIB, MIB, MIB, MIB, 5]


def test_a_sha256_checksum_of_a_signed_body_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    real = hashlib.sha256

    def counting(*args: Any, **options: Any) -> Any:
        made.append("sha256")
        return real(*args, **options)

    verified = signed(BODY, x_amz_checksum_sha256=b64(real(BODY).digest()))
    planned = plan(verified, len(BODY))
    monkeypatch.setattr(hashlib, "sha256", counting)
    finish_small(planned, BODY)
    assert made == ["sha256"]
