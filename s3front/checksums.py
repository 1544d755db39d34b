"""The checksums that clients see: what a request promises, what is computed, how parts combine.

Theory.  A client may promise a digest of the body in up to two ways: Content-MD5, and one of S3's five checksums by
header or by trailer.  `parse` turns the headers into a frozen `Expected`; `hasher` gives the object that computes one;
comparing is s3front/body.py's.  A multipart object has either a COMPOSITE checksum (the digest of the parts' digests,
shown with `-N`) or, for CRCs, a FULL_OBJECT one: CRCs are linear, so that of a whole follows from those of its parts
and their lengths without reading a byte.

It deliberately doesn't know the engine's own block digests: those detect damage, these are what S3 promised.

Sources: Amazon S3 User Guide, "Checking object integrity"; RFC 1864 (Content-MD5).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from awscrt import checksums as crt
from cryptography.hazmat.primitives import hashes
from isal import isal_zlib

from appliance.model import Checksum, Frozen
from s3front.errors import S3Error

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Hasher(Protocol):
    """Computes one digest piece by piece.  Releases the interpreter lock for large pieces."""

    def update(self, data: Buffer, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc:
    """A running CRC; its digest is big-endian, as S3 writes it."""

    __slots__ = ("_function", "_size", "_value")

    def __init__(self, function: Callable[[Buffer, int], int], size: int) -> None:
        self._function = function
        self._size = size
        self._value = 0

    def update(self, data: Buffer, /) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size, "big")


class LongMd5:
    """MD5 for a long body: the library's OpenSSL is newer than the interpreter's, and takes 6 % less time."""

    __slots__ = ("_context",)

    def __init__(self) -> None:
        self._context = hashes.Hash(hashes.MD5())  # noqa: S303  an ETag, not a proof

    def update(self, data: Buffer, /) -> None:
        self._context.update(memoryview(data))

    def digest(self) -> bytes:
        return self._context.finalize()


class Algorithm(NamedTuple):
    """One of S3's five.  `combine` (first, second, length of the second's data) is None where digests cannot be."""

    name: str
    header: bytes
    size: int
    new: Callable[[], Hasher]
    combine: Callable[[int, int, int], int] | None
    composite: bool  # whether S3 offers COMPOSITE for it


def _sha1() -> Hasher:
    return hashlib.sha1(usedforsecurity=False)


# All three CRCs run at memory speed and release the interpreter lock; zlib would take ten times as long for CRC32.
ALGORITHMS: Final[Mapping[str, Algorithm]] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm("CRC32", b"x-amz-checksum-crc32", 4, lambda: _Crc(isal_zlib.crc32, 4), crt.combine_crc32, True),
        Algorithm("CRC32C", b"x-amz-checksum-crc32c", 4, lambda: _Crc(crt.crc32c, 4), crt.combine_crc32c, True),
        Algorithm(
            "CRC64NVME", b"x-amz-checksum-crc64nvme", 8, lambda: _Crc(crt.crc64nvme, 8), crt.combine_crc64nvme, False
        ),
        Algorithm("SHA1", b"x-amz-checksum-sha1", 20, _sha1, None, True),
        Algorithm("SHA256", b"x-amz-checksum-sha256", 32, hashlib.sha256, None, True),
    )
}
BY_HEADER: Final[Mapping[bytes, Algorithm]] = {algorithm.header: algorithm for algorithm in ALGORITHMS.values()}

# What AWS computes when the client promises nothing: cheap, and it combines across parts.
DEFAULT: Final = "CRC64NVME"

_ETAG: Final = re.compile(r"[0-9a-fA-F]{32}(-[0-9]{1,5})?", re.ASCII)

# Headers that share the prefix of the values but are not values.
_NOT_VALUES: Final = frozenset({b"x-amz-checksum-algorithm", b"x-amz-checksum-mode", b"x-amz-checksum-type"})


class Expected(Frozen, frozen=True):
    """What the client promised about the body."""

    md5: bytes | None = None  # Content-MD5
    algorithm: str = ""  # one of ALGORITHMS, or none
    value: bytes | None = None  # promised in a header ...
    trailer: bytes = b""  # ... or announced under this name


NOTHING: Final = Expected()


def hasher(algorithm: str) -> Hasher:
    """A fresh one for a name of ALGORITHMS."""
    return ALGORITHMS[algorithm].new()


def digest(algorithm: str, data: Buffer) -> bytes:
    """Of bytes at hand."""
    one = ALGORITHMS[algorithm].new()
    one.update(data)
    return one.digest()


def parse(headers: Mapping[bytes, bytes], trailing: bool) -> Expected:
    """Reads the headers of a request with a body.

    `headers` maps lower-case names to values; `trailing` says that the payload's form has trailers.  Raises S3Error
    InvalidDigest (Content-MD5 is not 16 bytes in base64), BadDigest (x-amz-checksum-* is not base64 of its length) and
    InvalidRequest (everything else about x-amz-checksum-*,
    x-amz-sdk-checksum-algorithm and x-amz-trailer).
    """
    md5 = _content_md5(headers[b"content-md5"]) if b"content-md5" in headers else None
    algorithm, value = _from_headers(headers)
    trailer = headers.get(b"x-amz-trailer", b"").strip().lower()
    if trailer:
        announced = BY_HEADER.get(trailer)
        if announced is None:
            raise S3Error("InvalidRequest", "The value specified in the x-amz-trailer header is not supported")
        if not trailing:
            raise S3Error("InvalidRequest", "x-amz-trailer needs a payload with trailers")
        if algorithm is not None:
            raise _several()
        algorithm = announced
    named = headers.get(b"x-amz-sdk-checksum-algorithm")
    if named is not None:
        _check_named(named, algorithm)
    if algorithm is None:
        return NOTHING if md5 is None else Expected(md5)
    return Expected(md5, algorithm.name, value, trailer)


def _content_md5(text: bytes) -> bytes:
    value = decode(text, 16)
    if value is None:
        raise S3Error("InvalidDigest", "The Content-MD5 you specified was invalid.")
    return value


def _from_headers(headers: Mapping[bytes, bytes]) -> tuple[Algorithm | None, bytes | None]:
    found: tuple[Algorithm | None, bytes | None] = (None, None)
    for name in headers:
        if name.startswith(b"x-amz-checksum-") and name not in _NOT_VALUES:
            algorithm = BY_HEADER.get(name)
            if algorithm is None:
                raise S3Error("InvalidRequest", f"The checksum of {name.decode('latin-1')} is not supported.")
            if found[0] is not None:
                raise _several()
            value = decode(headers[name], algorithm.size)
            if value is None:
                raise invalid_value(algorithm.name)
            found = (algorithm, value)
    return found


def _check_named(named: bytes, algorithm: Algorithm | None) -> None:
    name = named.decode("latin-1").upper()
    if name not in ALGORITHMS:
        raise S3Error(
            "InvalidRequest",
            "Checksum algorithm provided is unsupported. Please try again with one of " + (", ".join(ALGORITHMS) + "."),
        )
    if algorithm is None:
        raise S3Error(
            "InvalidRequest",
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer headers "
            "were found.",
        )
    if algorithm.name != name:
        raise S3Error("InvalidRequest", "Value for x-amz-sdk-checksum-algorithm header is invalid.")


def _several() -> S3Error:
    return S3Error(
        "InvalidRequest",
        "Expecting a single x-amz-checksum- header. Multiple checksum Types are not allowed.",
    )


def invalid_value(algorithm: str) -> S3Error:
    """The error for a checksum that is not base64 of the right length: no body has it."""
    return S3Error("BadDigest", f"Value for x-amz-checksum-{algorithm.lower()} header is invalid.")


def decode(text: bytes | str, size: int) -> bytes | None:
    """Strict base64 of exactly `size` bytes, else None."""
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(value) != size or base64.b64encode(value) != (text if isinstance(text, bytes) else text.encode()):
        return None
    return value


# ---------------------------------------------------------------- as text


def header_of(checksum: Checksum) -> bytes:
    """The name of the header that shows it."""
    return ALGORITHMS[checksum.algorithm].header


def text(checksum: Checksum, parts: int = 0) -> str:
    """Base64 as S3 shows it; a composite one of `parts` parts ends in `-N`."""
    encoded = base64.b64encode(checksum.value).decode("ascii")
    return f"{encoded}-{parts}" if checksum.composite else encoded


def type_of(checksum: Checksum) -> str:
    """x-amz-checksum-type."""
    return "COMPOSITE" if checksum.composite else "FULL_OBJECT"


# ---------------------------------------------------------------- across parts


def upload_type(algorithm: str, asked: str = "") -> str:
    """COMPOSITE or FULL_OBJECT for a new multipart upload; `asked` is x-amz-checksum-type.  Raises InvalidRequest."""
    chosen = ALGORITHMS[algorithm]
    kind = asked.upper() or ("COMPOSITE" if chosen.composite else "FULL_OBJECT")
    if kind == "COMPOSITE" and chosen.composite:
        return kind
    if kind == "FULL_OBJECT" and chosen.combine is not None:
        return kind
    if kind not in ("COMPOSITE", "FULL_OBJECT"):
        raise S3Error("InvalidRequest", "Value for x-amz-checksum-type header is invalid.")
    raise S3Error(
        "InvalidRequest", f"The {kind} checksum type cannot be used with the {algorithm.lower()} checksum algorithm."
    )


def composite(algorithm: str, values: Iterable[bytes]) -> Checksum:
    """The digest of the parts' digests, in order of the parts."""
    return Checksum(algorithm, digest(algorithm, b"".join(values)), composite=True)


def full_object(algorithm: str, parts: Sequence[tuple[bytes, int]]) -> Checksum:
    """The CRC of the whole from the parts' (value, length in bytes), at least one, in order.

    Costs the logarithm of each length.
    """
    join = ALGORITHMS[algorithm].combine
    assert join is not None, algorithm
    whole = int.from_bytes(parts[0][0], "big")
    for value, length in parts[1:]:
        whole = join(whole, int.from_bytes(value, "big"), length)
    return Checksum(algorithm, whole.to_bytes(ALGORITHMS[algorithm].size, "big"))


def multipart_etag(etags: Sequence[str]) -> str:
    """The MD5 of the parts' MD5s with `-N`.  `etags` without quotes; of an opaque one the first 32 digits count.

    Raises S3Error InvalidPart for what no part's ETag can be: clients send these.
    """
    if not all(_ETAG.fullmatch(etag) for etag in etags):
        raise S3Error("InvalidPart")
    joined = b"".join(bytes.fromhex(etag[:32]) for etag in etags)
    return f"{hashlib.md5(joined, usedforsecurity=False).hexdigest()}-{len(etags)}"
