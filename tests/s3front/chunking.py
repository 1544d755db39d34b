"""aws-chunked bodies as clients make them, and requests whose signature seeds their chunks."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

from botocore.httpchecksum import AwsChunkedWrapper, CrtCrc32cChecksum

from s3front.verified import Payload, Verified
from tests.s3front.signing import check, sign_by_header

TRAILER = "x-amz-checksum-crc32c"


def verified_streaming(payload: Payload, length: int, trailer: str = TRAILER) -> Verified:
    """The verified head of an upload in one of the three streaming forms."""
    headers = {"x-amz-decoded-content-length": str(length), "content-encoding": "aws-chunked"}
    if payload is not Payload.STREAMING_SIGNED and trailer:
        headers["x-amz-trailer"] = trailer
    return check(sign_by_header("PUT", headers=headers, payload=payload.value))


def encode(
    verified: Verified, chunks: Sequence[bytes], trailers: Sequence[tuple[str, str]] = (), *, style: str = "java"
) -> bytes:
    """The body on the wire.

    `style` is how the trailers are laid out: "java" (each line ended by CRLF) or "minio" (by a bare line feed, with an
    empty line before the signature, or one more after the end).
    """
    payload = verified.payload
    signer = None if payload is Payload.STREAMING_UNSIGNED_TRAILER else verified.chunk_signer()
    wire = bytearray()
    for chunk in [*chunks, b""]:
        extension = b""
        if signer is not None:
            extension = b";chunk-signature=" + signer.chunk(hashlib.sha256(chunk).hexdigest())
        wire += b"%x%b\r\n" % (len(chunk), extension)
        if chunk:
            wire += chunk + b"\r\n"
    if payload is Payload.STREAMING_SIGNED:
        return bytes(wire + b"\r\n")
    lines = [f"{name}:{value}\n".encode() for name, value in trailers]
    for line in lines:
        wire += line if style == "minio" else line[:-1] + b"\r\n"
    if signer is not None:
        signature = signer.trailer(hashlib.sha256(b"".join(lines)).hexdigest())
        wire += (b"\r\n" if style == "minio" else b"") + b"x-amz-trailer-signature:" + signature + b"\r\n"
    elif style == "minio":
        wire += b"\r\n"
    return bytes(wire + b"\r\n")


def encode_by_botocore(data: bytes, chunk_size: int) -> bytes:
    """The unsigned form with a CRC32C trailer, by botocore itself."""
    wrapper = AwsChunkedWrapper(io.BytesIO(data), CrtCrc32cChecksum, TRAILER, chunk_size)
    return b"".join(wrapper)
