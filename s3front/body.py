"""From the body on the wire to bytes in the store, everything promised about it checked before anything is committed.

Theory.  `plan_body` reads the verified head once: how long the payload is, how it is framed, which digests to compute
and which to compare.  Then one of two ways:

    small  `finish_small(plan, data)`: the whole body at hand, everything in one go
    large  `BodySink(plan, ingest)`: room() and filled() from a worker thread, then finish()

A plain payload is received straight into the ingest's own buffer and hashed there: no copy.  An aws-chunked one passes
a small raw buffer and is decoded into the ingest.  MD5 is four fifths of a PUT, so digests are computed in steps of a
mebibyte (each step releases the interpreter lock once, while the bytes are in the cache) and nothing is computed that
nobody asked for.

Nothing is visible before `finish` has returned: length, payload digest, Content-MD5, checksum, every chunk and trailer
signature.  It deliberately doesn't know sockets (s3front/transfer.py drives a BodySink) nor keys and buckets.

Sources: Amazon S3 API Reference, PutObject, UploadPart, "List of error codes".
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec
import trio

from appliance.limits import KIB, MIB, SINGLE_PUT_MAX
from appliance.model import Body, Checksum, Frozen
from s3front import checksums
from s3front.aws_chunked import ChunkedDecoder, wire_length_max
from s3front.checksums import Expected, Hasher
from s3front.errors import S3Error
from s3front.verified import Payload, Verified

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from appliance.store import Ingest

HASH_STEP: Final = 1 * MIB  # one release of the interpreter lock per step; smaller steps cost hand-overs
RAW_BUFFER: Final = 256 * KIB  # aws-chunked bytes on their way to the decoder: fits a core's cache
INLINE_HASH_MAX: Final = 64 * KIB  # above this hashing takes longer than the loop may be held (200 us)

_STREAMING: Final = frozenset(
    {Payload.STREAMING_SIGNED, Payload.STREAMING_SIGNED_TRAILER, Payload.STREAMING_UNSIGNED_TRAILER}
)
_TRAILING: Final = frozenset({Payload.STREAMING_SIGNED_TRAILER, Payload.STREAMING_UNSIGNED_TRAILER})
_PLAIN: Final = frozenset({Payload.EMPTY, Payload.SINGLE_HASH, Payload.UNSIGNED})

Content = TypeVar("Content")


class Received(msgspec.Struct, Generic[Content], frozen=True):
    """A body that kept every promise.

    `body` is bytes on the small path (for `ObjectStore.small_body`), a Body on the large one.  `etag` has no quotes and
    is empty if the plan asked for none; `checksum` is None likewise.
    """

    body: Content
    size: int
    etag: str
    checksum: Checksum | None


class BodyPlan(Frozen, frozen=True):
    """What is to be done with one body.  Sizes in bytes."""

    verified: Verified
    length: int  # of the payload
    wire_max: int  # of the framed body: read no more than this
    chunked: bool  # aws-chunked
    open_ended: bool  # nobody said how long it is: HTTP's own framing ends it, and `length` is only the limit
    etag: str  # md5, fast or none
    algorithm: str  # the checksum to compute, or none
    expected: Expected

    def decoder(self) -> ChunkedDecoder:
        """A fresh decoder of an aws-chunked body."""
        assert self.chunked
        payload = self.verified.payload
        return ChunkedDecoder(
            self.length,
            None if payload is Payload.STREAMING_UNSIGNED_TRAILER else self.verified.chunk_signer(),
            payload in _TRAILING,
            frozenset({self.expected.trailer}) if self.expected.trailer else frozenset(),
        )


def plan_body(
    verified: Verified,
    headers: Mapping[bytes, bytes],
    content_length: int | None,
    *,
    etag: str = "md5",
    default: str = checksums.DEFAULT,
    limit: int = SINGLE_PUT_MAX,
    describes_body: bool = True,
    open_ended: bool = False,
) -> BodyPlan:
    """Reads the head of a request with a body.

    `headers` are the verified ones; `content_length` is HTTP's, None for a chunked transfer coding.  `etag` is the
    bucket's choice ("md5" or "fast"), or "none" for a body that becomes no object; `default` the checksum to compute
    when the client promises none ("" for none; an upload's own algorithm for its parts); `limit` the longest payload.

    `describes_body` is False where the checksum headers are about an object and not about this body
    (CompleteMultipartUpload): then only Content-MD5 is compared.  `open_ended` says that a body without any length may
    come, because HTTP's framing tells its end.

    Raises S3Error MissingContentLength, InvalidArgument, EntityTooLarge, IncompleteBody, and what `checksums.parse`
    does.
    """
    payload = verified.payload
    assert payload in _STREAMING or payload in _PLAIN, "a new kind of payload is refused until it is handled here"
    chunked = payload in _STREAMING
    if chunked:
        length = _decoded_length(headers, content_length)
        wire_max = wire_length_max(length)
        if content_length is not None and not length <= content_length <= wire_max:
            raise S3Error("IncompleteBody", "Content-Length does not fit x-amz-decoded-content-length.")
        open_ended = False
    elif content_length is None:
        if not open_ended:
            raise S3Error("MissingContentLength")
        length = wire_max = limit
    else:
        length = wire_max = content_length
        open_ended = False
    if length > limit:
        raise S3Error("EntityTooLarge", details=(("ProposedSize", str(length)), ("MaxSizeAllowed", str(limit))))
    if not describes_body:
        headers = {name: value for name, value in headers.items() if not name.startswith(b"x-amz-checksum-")}
    expected = checksums.parse(headers, payload in _TRAILING)
    return BodyPlan(
        verified=verified,
        length=length,
        wire_max=wire_max if content_length is None else content_length,
        chunked=chunked,
        open_ended=open_ended,
        etag=etag,
        algorithm=expected.algorithm or default,
        expected=expected,
    )


def _decoded_length(headers: Mapping[bytes, bytes], content_length: int | None) -> int:
    text = headers.get(b"x-amz-decoded-content-length")
    if text is None:
        raise S3Error("MissingContentLength", "You must provide the x-amz-decoded-content-length HTTP header.")
    if not text.isdigit() or len(text) > 15:
        raise S3Error("InvalidArgument", "x-amz-decoded-content-length must be a number of bytes.")
    return int(text)


# ---------------------------------------------------------------- digests


class _Digests:
    """The digests that a plan asks for, each computed once: a SHA256 checksum and the payload's digest are one."""

    def __init__(self, plan: BodyPlan, *, long: bool = False) -> None:
        self._plan = plan
        self._md5: Hasher | None = None
        self._sha256: Hasher | None = None
        self._checksum: Hasher | None = None
        if plan.etag == "md5" or plan.expected.md5 is not None:
            self._md5 = checksums.LongMd5() if long else hashlib.md5(usedforsecurity=False)
        if plan.verified.sha256:
            self._sha256 = hashlib.sha256()
        self._all: list[Hasher] = [one for one in (self._md5, self._sha256) if one is not None]
        if plan.algorithm == "SHA256" and self._sha256 is not None:
            self._checksum = self._sha256
        elif plan.algorithm:
            self._checksum = checksums.hasher(plan.algorithm)
            self._all.append(self._checksum)

    def update(self, data: Buffer) -> None:
        for one in self._all:
            one.update(data)

    def check(self, trailers: Mapping[bytes, bytes]) -> tuple[str, Checksum | None]:
        """(ETag, checksum) if the promises hold.  Raises XAmzContentSHA256Mismatch, BadDigest, InvalidRequest."""
        plan, expected = self._plan, self._plan.expected
        if self._sha256 is not None:
            digest = self._sha256.digest().hex()
            if not hmac.compare_digest(digest, plan.verified.sha256):
                raise S3Error(
                    "XAmzContentSHA256Mismatch",
                    details=(
                        ("ClientComputedContentSHA256", plan.verified.sha256),
                        ("S3ComputedContentSHA256", digest),
                    ),
                )
        md5 = self._md5.digest() if self._md5 is not None else b""
        if expected.md5 is not None and md5 != expected.md5:
            raise S3Error("BadDigest", "The Content-MD5 you specified did not match what we received.")
        checksum = self._check_checksum(trailers)
        if plan.etag == "md5":
            return md5.hex(), checksum
        if plan.etag == "fast":
            return f"{secrets.token_hex(16)}-1", checksum  # the dash says to clients: this is not an MD5
        assert plan.etag == "none", plan.etag
        return "", checksum

    def _check_checksum(self, trailers: Mapping[bytes, bytes]) -> Checksum | None:
        if self._checksum is None:
            return None
        plan, expected = self._plan, self._plan.expected
        value = expected.value
        if expected.trailer:
            value = checksums.decode(trailers[expected.trailer], checksums.ALGORITHMS[plan.algorithm].size)
            if value is None:
                raise checksums.invalid_value(plan.algorithm)
        computed = self._checksum.digest()
        if value is not None and value != computed:
            raise S3Error("BadDigest", f"The {plan.algorithm} you specified did not match the calculated checksum.")
        return Checksum(plan.algorithm, computed)


# ---------------------------------------------------------------- the small path


def finish_small(plan: BodyPlan, data: bytes) -> Received[bytes]:
    """Decodes and checks a body that is wholly at hand.  `data` are the bytes of the HTTP body.

    Raises S3Error.  Takes 2 us per KiB: above INLINE_HASH_MAX call it through `receive_small`.
    """
    trailers: Mapping[bytes, bytes] = {}
    if plan.chunked:
        decoder = plan.decoder()
        data = b"".join(decoder.receive(memoryview(data)))
        trailers = decoder.finish()
    if len(data) != plan.length:
        raise S3Error("IncompleteBody")
    digests = _Digests(plan)
    digests.update(data)
    etag, checksum = digests.check(trailers)
    return Received(data, len(data), etag, checksum)


async def receive_small(plan: BodyPlan, data: bytes) -> Received[bytes]:
    """`finish_small`, in a worker thread when it would hold the loop."""
    if len(data) <= INLINE_HASH_MAX:
        return finish_small(plan, data)
    return await trio.to_thread.run_sync(finish_small, plan, data)


# ---------------------------------------------------------------- the large path


class BodySink:
    """Takes a body as it comes off the socket; for a worker thread.

        room() -> where to receive into; empty when the whole body is here
        filled(n): n bytes have come
        finish() -> Received: every promise held; raises S3Error otherwise, and nothing was committed

    `filled` raises S3Error as soon as the framing or a chunk's signature is wrong.  The ingest stays the caller's: it
    is closed by whoever opened it.
    """

    def __init__(self, plan: BodyPlan, ingest: Ingest) -> None:
        self._plan = plan
        self._ingest = ingest
        self._digests = _Digests(plan, long=True)
        self._target: memoryview | None = None  # the ingest's buffer
        self._at = 0  # bytes in it that neither digests nor ingest have seen
        self._left = plan.length
        self._decoder: ChunkedDecoder | None = None
        self._raw = memoryview(b"")
        self._wire_left = plan.wire_max
        if plan.chunked:
            self._decoder = plan.decoder()
            self._raw = memoryview(bytearray(min(RAW_BUFFER, plan.wire_max)))

    def room(self) -> memoryview:
        """A writable view; never longer than what is still to come."""
        if self._decoder is not None:
            return self._raw[: self._wire_left]
        if not self._left:
            return self._raw
        return self._open()[self._at : self._at + self._left]

    def filled(self, count: int) -> None:
        """The first `count` bytes of the last room() have come."""
        if self._decoder is None:
            self._take(count)
            return
        assert count <= self._wire_left
        self._wire_left -= count
        for piece in self._decoder.receive(self._raw[:count]):
            self._copy(piece)

    def finish(self) -> Received[Body]:
        """Checks everything, then ends the ingest."""
        trailers = self._decoder.finish() if self._decoder is not None else {}
        if self._plan.open_ended:
            self._hand_over()
        elif self._left:
            raise S3Error("IncompleteBody")
        assert self._target is None, "the last step handed everything over"
        etag, checksum = self._digests.check(trailers)
        return Received(self._ingest.finish(), self._plan.length - self._left, etag, checksum)

    def _open(self) -> memoryview:
        if self._target is None:
            self._target = self._ingest.room()
            self._at = 0
        return self._target

    def _copy(self, piece: memoryview) -> None:
        while len(piece):
            target = self._open()
            count = min(len(piece), len(target) - self._at)
            target[self._at : self._at + count] = piece[:count]
            piece = piece[count:]
            self._take(count)

    def _take(self, count: int) -> None:
        """`count` bytes more are in the target: digests and ingest get them in large steps, while they are at hand."""
        target = self._target
        assert target is not None
        assert 0 < count <= self._left
        assert self._at + count <= len(target)
        self._at += count
        self._left -= count
        if self._at >= HASH_STEP or self._at == len(target) or not self._left:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._target is not None and self._at:
            self._digests.update(self._target[: self._at])
            self._ingest.filled(self._at)
        self._target = None
