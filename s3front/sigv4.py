"""AWS Signature Version 4 as arithmetic: parse claims, build the canonical request, sign.

Theory.  A client sends a signature over (method, path, query, some headers, a word for the payload).  We rebuild the
same text and sign it with the key that both know.  The text is made **from the bytes as they came**: S3 does not
normalise paths, and encoding what was received again would be a second decoding by the back door.  Only when that
signature does not match are the spellings tried which AWS derives by decoding and encoding again (`~` against `%7E`,
`+` against `%20`, lower-case hexadecimal, characters sent bare); every such spelling decodes to the very same request,
so accepting it lets no altered request through.  For that to hold, a router reads `+` in a query as a space.

What it deliberately doesn't know: clocks (`timestamp` is the claim's own), credentials, policy (s3front/verified.py),
the bodies' framing (s3front/aws_chunked.py).

Sources: Amazon S3 API Reference, "Authenticating Requests (AWS Signature Version 4)": header, query and chunked forms.
"""

from __future__ import annotations

import calendar
import datetime as dt
import functools
import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from appliance.limits import HEADER_COUNT_MAX

ALGORITHM: Final = b"AWS4-HMAC-SHA256"
TERMINATOR: Final = b"aws4_request"
EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest().encode()

# A signing key is good for one key, day and region.  A thousand live ones is far beyond a box; each takes ~400 bytes.
KEYS_MAX: Final = 1024


class Malformed(ValueError):
    """A credential, header or timestamp that is not in SigV4's form.  The message is fit for the client."""


class Scope(NamedTuple):
    """`<key id>/<yyyymmdd>/<region>/<service>/aws4_request`; `text` is all but the key id."""

    key_id: str
    date: bytes
    region: bytes
    service: bytes
    text: bytes


class Claim(NamedTuple):
    """What an Authorization header or a presigned query says about itself: nothing of it is believed yet."""

    scope: Scope
    signed_headers: bytes  # as it stands: lower-case names joined by ";"
    signature: bytes


# ---------------------------------------------------------------- what the client claims


def parse_authorization(value: bytes) -> Claim:
    """The Authorization header's value.  The three parts may come in any order.  Raises Malformed."""
    # In practice the signature comes last, and what is before it is the same in a client's every request of a kind.
    head, _, signature = value.rpartition(b"Signature=")
    if signature.isalnum():
        return Claim(*_parse_head(head), signature)
    parts = _split_parts(value)
    signature = parts.pop(b"Signature", b"")
    if not signature or parts.keys() != {b"Credential", b"SignedHeaders"}:
        raise Malformed("expecting Credential, SignedHeaders and Signature.")
    return Claim(parse_credential(parts[b"Credential"]), parts[b"SignedHeaders"], signature)


@functools.lru_cache(maxsize=256)
def _parse_head(head: bytes) -> tuple[Scope, bytes]:
    """Credential and SignedHeaders of a header whose signature is cut off."""
    head = head.rstrip(b" \t")
    parts = _split_parts(head[:-1]) if head.endswith(b",") else {}
    if parts.keys() != {b"Credential", b"SignedHeaders"}:
        raise Malformed("expecting Credential, SignedHeaders and Signature.")
    return parse_credential(parts[b"Credential"]), parts[b"SignedHeaders"]


def _split_parts(value: bytes) -> dict[bytes, bytes]:
    algorithm, _, rest = value.partition(b" ")
    if algorithm != ALGORITHM:
        raise Malformed("it must start with AWS4-HMAC-SHA256.")
    parts: dict[bytes, bytes] = {}
    for item in rest.split(b","):
        name, equals, text = item.strip(b" \t").partition(b"=")
        if not equals or name in parts or not text or text.split() != [text]:
            raise Malformed("expecting Credential, SignedHeaders and Signature.")
        parts[name] = text
    return parts


@functools.lru_cache(maxsize=256)
def parse_credential(credential: bytes) -> Scope:
    """The credential with its scope.  Raises Malformed."""
    parts = credential.rsplit(b"/", 4)
    if len(parts) != 5 or parts[4] != TERMINATOR or not all(parts) or not credential.isascii() or len(credential) > 512:
        raise Malformed('the Credential is mal-formed; expecting "<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request".')
    if len(parts[1]) != 8 or not parts[1].isdigit():
        raise Malformed("the Credential's date must be in the form YYYYMMDD.")
    return Scope(parts[0].decode("ascii"), parts[1], parts[2], parts[3], b"/".join(parts[1:]))


@functools.lru_cache(maxsize=256)
def signed_names(signed_headers: bytes) -> tuple[tuple[bytes, ...], frozenset[bytes]]:
    """The names of a SignedHeaders list, in its order, and as a set.

    Raises Malformed unless they are lower-case, sorted and different: AWS signs them so, and a list in another order
    would be a second spelling of the same signature.
    """
    if signed_headers.count(b";") >= HEADER_COUNT_MAX:
        raise Malformed("SignedHeaders has too many names.")  # bounds what the cache of this function holds
    names = tuple(signed_headers.split(b";"))
    unique = frozenset(names)
    if not all(names) or len(unique) != len(names) or signed_headers != signed_headers.lower():
        raise Malformed("SignedHeaders must be a list of different lower-case names.")
    if list(names) != sorted(names):
        raise Malformed("SignedHeaders must be sorted.")
    return names, unique


_TIMESTAMP: Final = re.compile(rb"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z")


@functools.lru_cache(maxsize=256)
def parse_timestamp(value: bytes) -> int:
    """`yyyymmddThhmmssZ` in seconds since the epoch.  Raises Malformed."""
    match = _TIMESTAMP.fullmatch(value)
    if match is None:
        raise Malformed("the date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"")
    year, month, day, hour, minute, second = map(int, match.groups())
    try:
        moment = dt.datetime(year, month, day, hour, minute, second, tzinfo=dt.UTC)
    except ValueError as error:
        raise Malformed("the date does not exist") from error
    return calendar.timegm(moment.utctimetuple())


def format_timestamp(seconds: int) -> bytes:
    """The reverse of `parse_timestamp`."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y%m%dT%H%M%SZ").encode("ascii")


# ---------------------------------------------------------------- the canonical request


def canonical_headers(fields: Mapping[bytes, bytes], names: tuple[bytes, ...]) -> bytes | None:
    """The block of signed headers, each line ended.  None when one of them was not sent.

    `fields` maps lower-case names to values, repeated ones joined by ",".
    """
    parts: list[bytes] = []
    for name in names:
        value = fields.get(name)
        if value is None:
            return None
        if b" " in value or b"\t" in value:
            value = b" ".join(value.split())
        parts += (name, b":", value, b"\n")
    return b"".join(parts)


def canonical_query(query: bytes, presigned: bool = False) -> bytes:
    """The query as received, sorted by name and then by value, `name` written `name=`.

    A presigned request's own X-Amz-Signature is left out.
    """
    if not query:
        return b""
    if b"&" not in query and not presigned:
        return query if b"=" in query else query + b"="
    pairs = []
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        if presigned and name == b"X-Amz-Signature":
            continue
        pairs.append((name, value))
    pairs.sort()
    return b"&".join([b"%b=%b" % pair for pair in pairs])


def respell_path(path: bytes) -> bytes:
    """The path decoded once and encoded as AWS encodes: every byte but `A-Z a-z 0-9 - . _ ~ /`, capital hexadecimal."""
    return quote_from_bytes(unquote_to_bytes(path), safe="/").encode("ascii")


def respell_query(query: bytes) -> bytes:
    """Every name and value decoded once (`+` is a space) and encoded as AWS encodes; empty pairs are dropped."""
    pairs = []
    for pair in query.replace(b"+", b"%20").split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            pairs.append(
                f"{quote_from_bytes(unquote_to_bytes(name), '')}={quote_from_bytes(unquote_to_bytes(value), '')}"
            )
    return "&".join(pairs).encode("ascii")


def respellings(path: bytes, query: bytes, presigned: bool) -> Iterator[tuple[bytes, bytes]]:
    """(path, canonical query) of the same request in AWS's own encoding, where that differs from what was received."""
    paths = (path, respell_path(path))
    received = canonical_query(query, presigned)
    queries = (received, canonical_query(respell_query(query), presigned))
    tried = {(path, received)}
    for pair in ((paths[1], queries[1]), (paths[0], queries[1]), (paths[1], queries[0])):
        if pair not in tried:
            tried.add(pair)
            yield pair


def string_to_sign(
    timestamp: bytes,
    scope: Scope,
    method: bytes,
    path: bytes,
    query: bytes,
    headers: bytes,
    names: bytes,
    payload: bytes,
) -> bytes:
    """The text whose HMAC is the signature.

    `headers` from `canonical_headers`, `names` the SignedHeaders list, `payload` the value of x-amz-content-sha256.
    """
    request = hashlib.sha256(b"%b\n%b\n%b\n%b\n%b\n%b" % (method, path, query, headers, names, payload))
    return b"AWS4-HMAC-SHA256\n%b\n%b\n%b" % (timestamp, scope.text, request.hexdigest().encode())


# ---------------------------------------------------------------- keys and signatures


class SigningKey:
    """The key of one secret, day, region and service; its bytes are never shown.

    HMAC's two inner states are computed once (RFC 2104, section 4): a signature then takes half the time.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: str, scope: Scope) -> None:
        key = b"AWS4" + secret.encode()
        for part in (scope.date, scope.region, scope.service, TERMINATOR):
            key = hmac.digest(key, part, "sha256")
        block = key.ljust(64, b"\x00")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def __repr__(self) -> str:
        return "<SigningKey>"

    def sign(self, text: bytes) -> bytes:
        """HMAC-SHA256 of the text in lower-case hexadecimal."""
        inner = self._inner.copy()
        inner.update(text)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest().encode()


class SigningKeys:
    """Signing keys of late, the least recently used dropped.

    An entry is bound to the sealed secret that it came from: a key id that was revoked and made anew does not find the
    old one.  Not for use from several threads.
    """

    def __init__(self, limit: int = KEYS_MAX) -> None:
        self._limit = limit
        self._keys: OrderedDict[Scope, tuple[bytes, SigningKey]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<SigningKeys: {len(self._keys)}>"

    def find(self, scope: Scope, sealed: bytes) -> SigningKey | None:
        """The signing key, or None when it must be derived."""
        entry = self._keys.get(scope)
        if entry is None or entry[0] != sealed:
            return None
        self._keys.move_to_end(scope)
        return entry[1]

    def derive(self, scope: Scope, sealed: bytes, secret: str) -> SigningKey:
        """Derives and keeps it."""
        key = SigningKey(secret, scope)
        self._keys[scope] = (sealed, key)
        self._keys.move_to_end(scope)
        if len(self._keys) > self._limit:
            self._keys.popitem(last=False)
        return key


class ChunkSigner:
    """The chain of signatures over an aws-chunked body: each covers the one before it, the first the request's own.

    Source: Amazon S3 API Reference, "Signature Calculations for the Authorization Header: Transferring Payload in
    Multiple Chunks" and "… Including Trailing Headers".
    """

    def __init__(self, key: SigningKey, timestamp: bytes, scope: Scope, seed: bytes) -> None:
        self._key = key
        self._head = b"%b\n%b\n" % (timestamp, scope.text)
        self._previous = seed

    def __repr__(self) -> str:
        return "<ChunkSigner>"

    def chunk(self, sha256: str) -> bytes:
        """The signature of the next chunk, whose payload has this digest (hexadecimal)."""
        text = b"AWS4-HMAC-SHA256-PAYLOAD\n%b%b\n%b\n%b" % (self._head, self._previous, EMPTY_SHA256, sha256.encode())
        self._previous = self._key.sign(text)
        return self._previous

    def trailer(self, sha256: str) -> bytes:
        """The signature of the trailers: `sha256` is that of their `name:value\\n` lines."""
        text = b"AWS4-HMAC-SHA256-TRAILER\n%b%b\n%b" % (self._head, self._previous, sha256.encode())
        self._previous = self._key.sign(text)
        return self._previous
