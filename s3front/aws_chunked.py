"""The aws-chunked framing: bytes in, pieces of payload out, every signature on the way checked.

Theory.  A body is a row of chunks, each `<hex size>[;chunk-signature=<64 hex>]\\r\\n<bytes>\\r\\n`, ended by a chunk
of size 0 and, in the two forms with trailers, by `name:value` lines and (if signed) `x-amz-trailer-signature`.  The
decoder is a state machine over views: payload is handed out as slices of what came in, uncopied; only the short lines
are gathered, bounded.  A chunk's SHA-256 runs along, so no chunk is ever held.  A piece is therefore handed out
**before** the signature that covers it has been checked: whoever takes the pieces shows nothing to anyone before
`finish` has returned.  A decoder that has raised is spent.

It deliberately doesn't know sockets, checksums or stores.  Strict, with two tolerances that clients in the field need:
trailer lines may end in a bare line feed and the signature's line may follow an empty one; an unsigned trailer may be
followed by one more empty line (minio-go does both).

Sources: Amazon S3 API Reference, "Signature Calculations for the Authorization Header: Transferring Payload in Multiple
Chunks" and "… Including Trailing Headers"; chunks but the last are at least 8 KiB ("InvalidChunkSizeError").
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
from typing import Final, NoReturn

from s3front.errors import S3Error
from s3front.sigv4 import ChunkSigner

CHUNK_MIN: Final = 8192  # of every chunk but the last: bounds the work that one byte of payload can cause
LINE_MAX: Final = 1024  # a chunk's head takes at most 99 bytes, a trailer about 110
TRAILERS_MAX: Final = 4096  # all trailer lines together
CHUNK_OVERHEAD_MAX: Final = 16 + len(";chunk-signature=") + 64 + 4

_SIGNED_HEAD: Final = re.compile(rb"([0-9a-fA-F]{1,16});chunk-signature=([0-9a-f]{64})\r\n")
_UNSIGNED_HEAD: Final = re.compile(rb"([0-9a-fA-F]{1,16})\r\n")
_TRAILER_LINE: Final = re.compile(rb"([a-z0-9-]+):[ \t]*([!-~]+)")
_SIGNATURE_NAME: Final = b"x-amz-trailer-signature"


class _State(enum.Enum):
    HEAD = "a chunk's head"
    PAYLOAD = "a chunk's payload"
    CHUNK_END = "the line end after a chunk"
    TRAILERS = "trailers"
    SIGNATURE = "the trailers' signature"
    LAST_LINE = "the empty last line"
    DONE = "nothing more"
    FAILED = "spent"


def wire_length_max(decoded_length: int) -> int:
    """The most bytes that a body of this payload may take on the wire."""
    return decoded_length + (decoded_length // CHUNK_MIN + 2) * CHUNK_OVERHEAD_MAX + TRAILERS_MAX


def stored_content_encoding(value: str) -> str:
    """The Content-Encoding to keep: `aws-chunked` belongs to the transfer, not to the object."""
    return ",".join(part for part in (item.strip() for item in value.split(",")) if part and part != "aws-chunked")


class ChunkedDecoder:
    """Decodes one body.

        receive(data) -> views of payload, slices of `data`, in order
        finish() -> the trailers; only then the payload is what the client signed

    `length` is x-amz-decoded-content-length, `signer` None for unsigned chunks, `trailing` whether trailers follow,
    `announced` the names that may (x-amz-trailer).  All raise S3Error: SignatureDoesNotMatch, IncompleteBody (too short
    or too long), InvalidChunkSizeError, MalformedTrailerError, InvalidRequest (framing).
    """

    def __init__(
        self, length: int, signer: ChunkSigner | None, trailing: bool, announced: frozenset[bytes] = frozenset()
    ) -> None:
        assert trailing or not announced
        assert trailing or signer is not None, "unsigned chunks without trailers are no form of S3's"
        self._left = length  # payload still to come
        self._signer = signer
        self._trailing = trailing
        self._announced = announced
        self._state = _State.HEAD
        self._line = bytearray()
        self._chunk_left = 0
        self._chunk_size = CHUNK_MIN  # of the chunk before this one
        self._signature = b""
        self._sha256 = hashlib.sha256()
        self._trailers: dict[bytes, bytes] = {}
        self._trailers_size = 0
        self._extra_line = trailing and signer is None

    @property
    def done(self) -> bool:
        """Whether the last byte has come."""
        return self._state is _State.DONE

    def receive(self, data: memoryview) -> list[memoryview]:
        """Takes the next bytes off the wire, split anywhere."""
        assert self._state is not _State.FAILED, "a decoder that raised is spent"
        pieces: list[memoryview] = []
        at, end = 0, len(data)
        while at < end:
            before = at
            if self._state is _State.PAYLOAD:
                taken = min(self._chunk_left, end - at)
                piece = data[at : at + taken]
                pieces.append(piece)
                at += taken
                self._pay(piece)
            else:
                at = self._gather(data, at)
            assert at > before, "every turn consumes"
        return pieces

    def finish(self) -> dict[bytes, bytes]:
        """The trailers by name, once the stream has ended.  Raises S3Error IncompleteBody if it was cut."""
        if self._state is not _State.DONE:
            self._fail("IncompleteBody", f"The body ended where {self._state.value} was expected.")
        if self._line:
            self._fail("InvalidRequest", "The body goes on after its end.")
        assert self._left == 0
        return self._trailers

    # ------------------------------------------------------------ payload

    def _pay(self, piece: memoryview) -> None:
        if self._signer is not None:
            self._sha256.update(piece)
        self._left -= len(piece)
        self._chunk_left -= len(piece)
        if self._chunk_left == 0:
            self._check_chunk()
            self._state = _State.CHUNK_END

    def _check_chunk(self) -> None:
        if self._signer is None:
            return
        if not hmac.compare_digest(self._signer.chunk(self._sha256.hexdigest()), self._signature):
            self._fail("SignatureDoesNotMatch")
        self._sha256 = hashlib.sha256()

    # ------------------------------------------------------------ lines

    def _gather(self, data: memoryview, at: int) -> int:
        """Adds to the line; acts on it when it is whole.  Returns where to go on."""
        if self._state is _State.DONE and not self._extra_line:
            self._fail("InvalidRequest", "The body goes on after its end.")
        bound = 2 if self._state in (_State.CHUNK_END, _State.LAST_LINE, _State.DONE) else LINE_MAX
        fresh = bytes(data[at : at + bound - len(self._line)])
        found = fresh.find(b"\n")
        if found < 0:
            self._line += fresh
            if len(self._line) >= bound:
                self._fail("InvalidRequest", f"The body is malformed where {self._state.value} was expected.")
            return at + len(fresh)
        line = bytes(self._line) + fresh[: found + 1]
        self._line.clear()
        self._act(line)
        return at + found + 1

    def _act(self, line: bytes) -> None:
        if self._state is _State.HEAD:
            self._head(line)
        elif self._state is _State.TRAILERS:
            self._trailer(line)
        elif self._state is _State.SIGNATURE:
            self._trailer_signature(line)
        elif line != b"\r\n":
            self._fail("InvalidRequest", f"The body is malformed where {self._state.value} was expected.")
        elif self._state is _State.CHUNK_END:
            self._state = _State.HEAD
        elif self._state is _State.LAST_LINE:
            self._state = _State.DONE
        else:
            assert self._state is _State.DONE
            self._extra_line = False

    def _head(self, line: bytes) -> None:
        match = (_UNSIGNED_HEAD if self._signer is None else _SIGNED_HEAD).fullmatch(line)
        if match is None:
            self._fail("InvalidRequest", "The head of a chunk is malformed.")
        size = int(match[1], 16)
        if size > self._left:
            self._fail("IncompleteBody", "The body is longer than x-amz-decoded-content-length.")
        if self._signer is not None:
            self._signature = match[2]
        if size:
            if self._chunk_size < CHUNK_MIN:
                self._fail("InvalidChunkSizeError")
            self._chunk_left = self._chunk_size = size
            self._state = _State.PAYLOAD
            return
        if self._left:
            self._fail("IncompleteBody", "The body is shorter than x-amz-decoded-content-length.")
        self._check_chunk()
        self._state = _State.TRAILERS if self._trailing else _State.LAST_LINE

    def _trailer(self, line: bytes) -> None:
        self._trailers_size += len(line)
        if self._trailers_size > TRAILERS_MAX:
            self._fail("MalformedTrailerError")
        stripped = line[:-2] if line.endswith(b"\r\n") else line[:-1]
        if not stripped:
            self._require_announced()
            self._state = _State.DONE if self._signer is None else _State.SIGNATURE
            return
        if self._signer is not None and stripped.startswith(_SIGNATURE_NAME):
            self._require_announced()
            self._trailer_signature(line)
            return
        match = _TRAILER_LINE.fullmatch(stripped)
        if match is None or match[1] not in self._announced or match[1] in self._trailers:
            self._fail("MalformedTrailerError")
        self._trailers[match[1]] = match[2]

    def _require_announced(self) -> None:
        if self._trailers.keys() != self._announced:
            self._fail("MalformedTrailerError", "An announced trailer is missing.")

    def _trailer_signature(self, line: bytes) -> None:
        assert self._signer is not None
        name, _, signature = line.rstrip(b"\r\n").partition(b":")
        if name != _SIGNATURE_NAME or line.count(b"\r") > 1:
            self._fail("MalformedTrailerError", "The trailers' signature is missing.")
        lines = b"".join(b"%b:%b\n" % trailer for trailer in self._trailers.items())
        if not hmac.compare_digest(self._signer.trailer(hashlib.sha256(lines).hexdigest()), signature.strip(b" \t")):
            self._fail("SignatureDoesNotMatch")
        self._state = _State.LAST_LINE

    def _fail(self, code: str, message: str = "") -> NoReturn:
        self._state = _State.FAILED
        raise S3Error(code, message)
