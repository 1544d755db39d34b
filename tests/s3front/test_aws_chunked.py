"""The aws-chunked decoder: any split gives the same payload, any change of framing or signature is refused."""

from __future__ import annotations

import base64
import itertools
import string

import pytest
from awscrt import checksums as crt
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from s3front.aws_chunked import CHUNK_MIN, LINE_MAX, ChunkedDecoder, stored_content_encoding, wire_length_max
from s3front.errors import S3Error
from s3front.verified import Payload, Verified
from tests.effort import examples
from tests.rows import rows
from tests.s3front.chunking import TRAILER, encode, encode_by_botocore, verified_streaming

FORMS = [Payload.STREAMING_SIGNED, Payload.STREAMING_SIGNED_TRAILER, Payload.STREAMING_UNSIGNED_TRAILER]
TRAILING = FORMS[1:]
VALUE = "sOO8/Q=="
BLOCK = bytes(range(256)) * (CHUNK_MIN // 256)


def decoder(verified: Verified, length: int) -> ChunkedDecoder:
    payload = verified.payload
    return ChunkedDecoder(
        length,
        None if payload is Payload.STREAMING_UNSIGNED_TRAILER else verified.chunk_signer(),
        payload is not Payload.STREAMING_SIGNED,
        frozenset({TRAILER.encode()}) if b"x-amz-trailer" in verified.headers else frozenset(),
    )


def decode(verified: Verified, length: int, *reads: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    one = decoder(verified, length)
    payload = b"".join(bytes(piece) for read in reads for piece in one.receive(memoryview(read)))
    trailers = one.finish()
    assert one.done
    return payload, trailers


def trailers_of(form: Payload) -> list[tuple[str, str]]:
    return [] if form is Payload.STREAMING_SIGNED else [(TRAILER, VALUE)]


def upload(form: Payload, chunks: list[bytes], style: str = "java") -> tuple[Verified, bytes]:
    verified = verified_streaming(form, sum(map(len, chunks)))
    return verified, encode(verified, chunks, trailers_of(form), style=style)


def refused(verified: Verified, length: int, wire: bytes) -> S3Error:
    with pytest.raises(S3Error) as caught:
        decode(verified, length, wire)
    return caught.value


CHUNKS = st.tuples(
    st.lists(st.binary(max_size=30).map(lambda extra: BLOCK + extra), max_size=3), st.binary(min_size=1, max_size=50)
).map(lambda parts: [*parts[0], parts[1]])


@given(
    st.sampled_from(FORMS), st.sampled_from(["java", "minio"]), CHUNKS, st.lists(st.integers(0, 40_000), max_size=12)
)
def test_any_split_gives_the_same_payload(form: Payload, style: str, chunks: list[bytes], cuts: list[int]) -> None:
    verified, wire = upload(form, chunks, style)
    at = sorted({0, len(wire), *(cut % len(wire) for cut in cuts)})
    reads = [wire[start:end] for start, end in itertools.pairwise(at)]
    payload, trailers = decode(verified, sum(map(len, chunks)), *reads)
    assert payload == b"".join(chunks)
    assert trailers == {name.encode(): value.encode() for name, value in trailers_of(form)}
    assert len(wire) <= wire_length_max(len(payload))


@rows("form", FORMS)
@rows("style", ["java", "minio"])
def test_byte_by_byte(form: Payload, style: str) -> None:
    verified, wire = upload(form, [BLOCK, b"tail"], style)
    payload, _ = decode(verified, CHUNK_MIN + 4, *(wire[i : i + 1] for i in range(len(wire))))
    assert payload == BLOCK + b"tail"


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_body(form: Payload) -> None:
    verified, wire = upload(form, [])
    assert decode(verified, 0, wire)[0] == b""


@given(st.binary(max_size=40_000), st.integers(CHUNK_MIN, 20_000))
def test_what_botocore_frames_is_decoded(data: bytes, chunk_size: int) -> None:
    verified = verified_streaming(Payload.STREAMING_UNSIGNED_TRAILER, len(data))
    payload, trailers = decode(verified, len(data), encode_by_botocore(data, chunk_size))
    assert payload == data
    assert trailers == {TRAILER.encode(): base64.b64encode(crt.crc32c(data).to_bytes(4, "big"))}


def test_pieces_are_views_of_what_came_in() -> None:
    verified, wire = upload(Payload.STREAMING_SIGNED, [BLOCK])
    pieces = decoder(verified, CHUNK_MIN).receive(memoryview(wire))
    assert [piece.obj for piece in pieces] == [wire]


def test_a_large_chunk_is_handed_out_as_it_comes() -> None:
    """Nothing of a chunk is kept: the memory of a decoder does not depend on the chunks' size."""
    verified, wire = upload(Payload.STREAMING_SIGNED, [BLOCK * 100])
    one = decoder(verified, CHUNK_MIN * 100)
    out = 0
    for at in range(0, len(wire), 1000):
        out += sum(map(len, one.receive(memoryview(wire)[at : at + 1000])))
        assert out >= at + 1000 - 200 or one.done or at + 1000 >= len(wire)
    one.finish()


# ---------------------------------------------------------------- refused


def framing_of(wire: bytes, chunks: list[bytes]) -> list[int]:
    """The offsets of the bytes that are not payload."""
    offsets, at = [], 0
    for chunk in chunks:
        end = wire.index(b"\r\n", at) + 2
        offsets += [*range(at, end), end + len(chunk), end + len(chunk) + 1]
        at = end + len(chunk) + 2
    return offsets + list(range(at, len(wire)))


@settings(max_examples=examples(400))
@given(st.sampled_from(FORMS), st.integers(0, 10_000), st.integers(0, 255))
def test_any_byte_of_the_framing_changed_is_refused(form: Payload, where: int, to: int) -> None:
    chunks = [BLOCK, b"tail" * 3]
    verified, wire = upload(form, chunks)
    offsets = framing_of(wire, chunks)
    at = offsets[where % len(offsets)]
    altered = wire[:at] + bytes([to]) + wire[at + 1 :]
    assume(altered[at : at + 1].lower() != wire[at : at + 1].lower())  # hexadecimal sizes may be capitals
    try:
        payload, trailers = decode(verified, CHUNK_MIN + 12, altered)
    except S3Error:
        return
    # The unsigned form's trailer value is a checksum: whoever compares it notices.
    assert form is Payload.STREAMING_UNSIGNED_TRAILER
    assert payload == b"".join(chunks)
    if at < wire.rindex(VALUE.encode()) + len(VALUE):  # the line ends that follow have two accepted spellings
        assert trailers != {TRAILER.encode(): VALUE.encode()}


@pytest.mark.parametrize("form", FORMS[:2])
@given(st.integers(0, CHUNK_MIN + 3), st.integers(1, 255))
def test_any_byte_of_a_signed_payload_changed_is_refused(form: Payload, at: int, flip: int) -> None:
    chunks = [BLOCK, b"tail"]
    verified, wire = upload(form, chunks)
    start = wire.index(b"\r\n") + 2 if at < CHUNK_MIN else wire.index(b"tail") - CHUNK_MIN
    altered = bytearray(wire)
    altered[start + at] ^= flip
    assert refused(verified, CHUNK_MIN + 4, bytes(altered)).code == "SignatureDoesNotMatch"


@rows("form", FORMS)
@rows("style", ["java", "minio"])
def test_a_stream_that_was_cut_is_refused(form: Payload, style: str) -> None:
    verified, wire = upload(form, [BLOCK, b"tail"], style)
    whole = len(wire) - 2 if style == "minio" and form is Payload.STREAMING_UNSIGNED_TRAILER else len(wire)
    for length in [*range(200), *range(CHUNK_MIN, whole)]:
        assert refused(verified, CHUNK_MIN + 4, wire[:length]).code == "IncompleteBody"


@rows("form", FORMS)
@rows("extra", [b"\r\n\r\n", b"x", b"\n", b"0\r\n\r\n", b"\r\nGET / HTTP/1.1\r\n"])
def test_a_stream_that_goes_on_is_refused(form: Payload, extra: bytes) -> None:
    verified, wire = upload(form, [b"tail"])
    assert refused(verified, 4, wire + extra).code == "InvalidRequest"


@pytest.mark.parametrize("form", FORMS)
def test_a_length_that_lies_is_refused(form: Payload) -> None:
    verified, wire = upload(form, [BLOCK, b"tail"])
    for length in (0, 1, CHUNK_MIN, CHUNK_MIN + 3, CHUNK_MIN + 5, 1 << 40):
        assert refused(verified, length, wire).code == "IncompleteBody"


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_handed_out_beyond_the_announced_length(form: Payload) -> None:
    """Refused by the chunk's head, before a byte of it goes anywhere."""
    verified, wire = upload(form, [BLOCK])
    one = decoder(verified, CHUNK_MIN - 1)
    with pytest.raises(S3Error):
        one.receive(memoryview(wire)[: wire.index(b"\r\n") + 2])


@rows("form", FORMS)
@rows("size", [b"f" * 16, b"8000000000000000", b"f" * 17, b"-1", b"+4", b"0x4", b" 4", b"4 ", b"", b"4_0"])
def test_a_size_out_of_bounds_is_refused(form: Payload, size: bytes) -> None:
    verified, wire = upload(form, [b"tail"])
    assert refused(verified, 4, size + wire[1:]).code in ("InvalidRequest", "IncompleteBody")


@pytest.mark.parametrize("form", FORMS)
def test_chunk_headers_are_bounded(form: Payload) -> None:
    """A line without an end is refused long before it fills memory."""
    verified, _ = upload(form, [b"tail"])
    one = decoder(verified, 4)
    with pytest.raises(S3Error) as caught:
        for _ in range(LINE_MAX + 1):
            one.receive(memoryview(b"0"))
    assert caught.value.code == "InvalidRequest"
    with pytest.raises(AssertionError):
        one.receive(memoryview(b"0"))


@pytest.mark.parametrize("form", FORMS)
def test_many_small_chunks_are_refused(form: Payload) -> None:
    verified, wire = upload(form, [b"a", b"b"])
    error = refused(verified, 2, wire)
    assert (error.code, error.status) == ("InvalidChunkSizeError", 403)


@pytest.mark.parametrize("form", FORMS[:2])
def test_chunks_exchanged_or_left_out_are_refused(form: Payload) -> None:
    first, second = BLOCK + b"1", BLOCK + b"2"
    verified, wire = upload(form, [first, second])
    head = len(first) + len("2001;chunk-signature=") + 64 + 4
    exchanged = wire[head : 2 * head] + wire[:head] + wire[2 * head :]
    assert refused(verified, len(first) * 2, exchanged).code == "SignatureDoesNotMatch"
    assert refused(verified, len(first), wire[head:]).code == "SignatureDoesNotMatch"
    assert refused(verified, len(first), wire[:head] + wire[2 * head :]).code == "SignatureDoesNotMatch"


def test_chunks_of_another_request_are_refused() -> None:
    verified, wire = upload(Payload.STREAMING_SIGNED, [b"tail"])
    other = verified_streaming(Payload.STREAMING_SIGNED_TRAILER, 4)
    wire_of_other = encode(other, [b"tail"], [(TRAILER, VALUE)])
    assert refused(verified, 4, wire_of_other).code == "SignatureDoesNotMatch"
    assert refused(other, 4, wire).code == "SignatureDoesNotMatch"


def test_unsigned_chunks_in_a_signed_body_are_refused() -> None:
    verified, _ = upload(Payload.STREAMING_SIGNED, [b"tail"])
    assert refused(verified, 4, b"4\r\ntail\r\n0\r\n\r\n").code == "InvalidRequest"


# ---------------------------------------------------------------- trailers


@rows("form", TRAILING)
@rows(
    "trailers",
    [
        [],
        [("x-amz-checksum-crc32", VALUE)],
        [(TRAILER, VALUE), (TRAILER, VALUE)],
        [(TRAILER, VALUE), ("x-amz-meta-a", "b")],
        [(TRAILER.upper(), VALUE)],
        [(TRAILER, "")],
        [(TRAILER, "a b")],
        [(TRAILER, "ä")],
        [("", VALUE)],
    ],
)
def test_trailers_other_than_announced_are_refused(form: Payload, trailers: list[tuple[str, str]]) -> None:
    verified = verified_streaming(form, 4)
    assert refused(verified, 4, encode(verified, [b"tail"], trailers)).code == "MalformedTrailerError"


def test_a_trailer_without_its_signature_is_refused() -> None:
    verified, wire = upload(Payload.STREAMING_SIGNED_TRAILER, [b"tail"])
    cut = wire[: wire.index(b"x-amz-trailer-signature")]
    assert refused(verified, 4, cut + b"\r\n").code == "IncompleteBody"
    assert refused(verified, 4, cut + b"\r\n\r\n").code == "MalformedTrailerError"


@given(st.text(st.sampled_from(string.hexdigits.lower()), max_size=70))
def test_a_trailer_with_another_signature_is_refused(signature: str) -> None:
    verified, wire = upload(Payload.STREAMING_SIGNED_TRAILER, [b"tail"])
    start = wire.index(b"x-amz-trailer-signature:") + 24
    assume(wire[start : start + 64] != signature.encode())
    altered = wire[:start] + signature.encode() + wire[start + 64 :]
    assert refused(verified, 4, altered).code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("form", TRAILING)
def test_trailers_are_bounded(form: Payload) -> None:
    verified = verified_streaming(form, 4)
    wire = encode(verified, [b"tail"], [(TRAILER, "a" * 2000)])
    assert refused(verified, 4, wire).code == "InvalidRequest"


@pytest.mark.parametrize("form", TRAILING)
def test_none_announced_none_sent(form: Payload) -> None:
    verified = verified_streaming(form, 4, trailer="")
    assert decode(verified, 4, encode(verified, [b"tail"])) == (b"tail", {})
    assert refused(verified, 4, encode(verified, [b"tail"], [(TRAILER, VALUE)])).code == "MalformedTrailerError"


# ---------------------------------------------------------------- robustness


@settings(max_examples=examples(300))
@given(st.sampled_from(FORMS), st.lists(st.binary(max_size=40), max_size=20))
def test_no_bytes_make_it_loop_or_break(form: Payload, reads: list[bytes]) -> None:
    verified, _ = upload(form, [b"tail"])
    with pytest.raises(S3Error):
        decode(verified, 4, *reads)


@rows(
    ("sent", "kept"),
    [
        ("aws-chunked", ""),
        ("aws-chunked,gzip", "gzip"),
        ("gzip, aws-chunked", "gzip"),
        ("gzip", "gzip"),
        ("a, b", "a,b"),
    ],
)
def test_the_objects_own_content_encoding_is_kept(sent: str, kept: str) -> None:
    assert stored_content_encoding(sent) == kept
