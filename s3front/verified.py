"""The authentication gate: raw requests go in, `Verified` comes out, and handlers take nothing else.

Rules kept here (each is a named test): every `x-amz-*` header that is present is signed; comparison takes constant
time; an unknown key costs the work of a bad signature; the clock may differ by 15 minutes; a presigned URL lives at
most a week; a request that authenticates in two ways, or twice in one, is refused.  What names nobody at all is
anonymous (`principal` None), and authorised as such; what tries to name somebody and fails is refused.  A payload kind
that a handler does not know fails in that handler (s3front/body.py); a form (`verify_form`) is admitted by PostObject
alone (s3front/app.py).

Pure: `now` is passed, credentials and unsealing are functions, the only state is a bounded cache of signing keys.  It
doesn't know what the request asks for; `appliance/authority.py` decides whether the principal may.

Sources: Amazon S3 API Reference, "Authenticating Requests (AWS Signature Version 4)" and "List of error codes".
"""

from __future__ import annotations

import base64
import email.utils
import enum
import hmac
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from appliance.authority import Principal, principal_of
from appliance.limits import CLOCK_SKEW_MAX, PRESIGNED_EXPIRY_MAX
from appliance.model import AccessKey
from s3front import sigv4
from s3front.errors import S3Error
from s3front.sigv4 import Claim, Malformed, Scope, SigningKey, SigningKeys


class SignedRequest(NamedTuple):
    """A request's head as it came over the wire: nothing decoded, names of headers in lower case."""

    method: str
    path: bytes  # ASGI's raw_path: percent-encoded, without the query
    query: bytes  # ASGI's query_string: percent-encoded, without the question mark
    headers: Sequence[tuple[bytes, bytes]]


class AuthError(S3Error):
    """The request is refused before anything is done.  Code, status and message are S3's own.

    `guess` is true when a wrong key or signature was tried: what GuessSlowdown counts.
    """

    def __init__(self, code: str, message: str = "", *, details: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(code, message, details=details)
        self.guess = code in ("InvalidAccessKeyId", "SignatureDoesNotMatch")


class Payload(enum.Enum):
    """What was signed about the body."""

    EMPTY = "the digest of nothing"
    SINGLE_HASH = "its SHA-256"
    UNSIGNED = "UNSIGNED-PAYLOAD"
    STREAMING_SIGNED = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    STREAMING_SIGNED_TRAILER = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"
    STREAMING_UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    FORM = "a form: its policy was signed, and stands for the fields"


_PAYLOADS: Final = {
    sigv4.EMPTY_SHA256: Payload.EMPTY,
    **{
        kind.value.encode(): kind
        for kind in (
            Payload.UNSIGNED,
            Payload.STREAMING_SIGNED,
            Payload.STREAMING_SIGNED_TRAILER,
            Payload.STREAMING_UNSIGNED_TRAILER,
        )
    },
}
_SHA256: Final = re.compile(rb"[0-9a-f]{64}")

_SEAL: Final = object()


class Verified(msgspec.Struct, frozen=True, gc=False):
    """A request whose signature held, or that names nobody.  Only `verify` and `verify_form` make one.

    `headers` maps lower-case names to values, repeated ones joined by ","; `signed` says which of them were signed.
    `sha256` is the promised digest of the body in hexadecimal for EMPTY and SINGLE_HASH, else empty.
    """

    seal: object
    principal: Principal | None  # None: anonymous
    method: str
    path: bytes
    query: bytes
    headers: Mapping[bytes, bytes]
    payload: Payload
    sha256: str
    presigned: bool
    signed: frozenset[bytes]
    signature: bytes  # the seed of the chunks' chain
    signing_key: SigningKey
    timestamp: bytes
    scope: Scope

    def __post_init__(self) -> None:
        assert self.seal is _SEAL, "only s3front/verified.py makes a Verified"

    def chunk_signer(self) -> sigv4.ChunkSigner:
        """The chain of chunk signatures, standing at the request's own."""
        return sigv4.ChunkSigner(self.signing_key, self.timestamp, self.scope, self.signature)

    def __repr__(self) -> str:
        who = self.principal.key_id if self.principal is not None else "nobody"
        return f"<Verified {self.method} {self.path!r} by {who}, {self.payload.name}>"


_KEYS: Final = SigningKeys()


def verify(
    request: SignedRequest,
    credentials: Callable[[str], AccessKey | None],
    unseal: Callable[[AccessKey], str],
    now: float,
    region: str,
    keys: SigningKeys = _KEYS,
) -> Verified:
    """Authenticates one request.

    `now` in seconds since the epoch; `region` is the box's; `unseal` gives a key's secret and is asked once per key,
    day and region as long as `keys` remembers.  Raises AuthError.
    """
    fields = _join_repeated(request.headers)
    authorization = fields.get(b"authorization")
    in_query = bool(request.query) and _query_authenticates(request.query)
    if authorization is None:
        if not in_query:
            return _anonymous(request, fields)
        claim, timestamp, payload_word = _presigned_claim(request.query, fields, now)
    else:
        if in_query:
            raise AuthError(
                "InvalidArgument",
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string "
                "parameter or the Authorization header should be specified",
            )
        claim, timestamp, payload_word = _header_claim(authorization, fields, now)
    wrong = "AuthorizationQueryParametersError" if in_query else "AuthorizationHeaderMalformed"
    scope = claim.scope
    if scope.date != timestamp[:8] or scope.service != b"s3" or scope.region != region.encode():
        raise _scope_error(wrong, scope, timestamp, region)
    if b"x-amz-security-token" in fields or (in_query and b"X-Amz-Security-Token=" in request.query):
        raise AuthError("InvalidToken")  # session credentials are not issued here, so none can be valid
    payload = _payload(payload_word, in_query)
    try:
        names, signed = sigv4.signed_names(claim.signed_headers)
    except Malformed as error:
        raise AuthError(wrong, str(error)) from error
    _require_signed(fields, signed)

    key = credentials(scope.key_id)
    signing_key = _signing_key(key, scope, unseal, keys)
    if not _signature_holds(request, fields, claim, names, timestamp, payload_word, in_query, signing_key):
        raise AuthError("InvalidAccessKeyId" if key is None else "SignatureDoesNotMatch")
    if key is None:  # someone signs with the key of those who have none
        raise AuthError("InvalidAccessKeyId")
    hashed = payload is Payload.SINGLE_HASH or payload is Payload.EMPTY
    return Verified(
        seal=_SEAL,
        principal=principal_of(key),
        method=request.method,
        path=request.path,
        query=request.query,
        headers=fields,
        payload=payload,
        sha256=payload_word.decode("ascii") if hashed else "",
        presigned=in_query,
        signed=signed,
        signature=claim.signature,
        signing_key=signing_key,
        timestamp=timestamp,
        scope=scope,
    )


def verify_nobody(request: SignedRequest) -> Verified:
    """A visitor of a website: whatever the request says of itself, it is nobody's.  Raises AuthError (a header that
    must not come twice)."""
    return _anonymous(request, _join_repeated(request.headers))


def _anonymous(request: SignedRequest, fields: Mapping[bytes, bytes]) -> Verified:
    """A request that names nobody.  Nothing is refused here for being anonymous: it is authorised as any other is, and
    denied unless somebody allowed it to everybody."""
    word = fields.get(b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD")
    payload = _payload(word, True)
    hashed = payload is Payload.SINGLE_HASH or payload is Payload.EMPTY
    return Verified(
        seal=_SEAL,
        principal=None,
        method=request.method,
        path=request.path,
        query=request.query,
        headers=fields,
        payload=payload,
        sha256=word.decode("ascii") if hashed else "",
        presigned=False,
        signed=frozenset(),
        signature=b"",
        signing_key=_NO_KEY,
        timestamp=b"",
        scope=_NO_SCOPE,
    )


_NO_SCOPE: Final = Scope("", b"", b"", b"", b"")
_NO_KEY: Final = SigningKey("", _NO_SCOPE)  # signs nothing: neither an anonymous body nor a form's has signed chunks

# ---------------------------------------------------------------- forms

_FORM_V4: Final = ("x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-signature")
_FORM_V2: Final = ("awsaccesskeyid", "signature")


def verify_form(
    request: SignedRequest,
    fields: Mapping[str, str],
    headers: Mapping[bytes, bytes],
    credentials: Callable[[str], AccessKey | None],
    unseal: Callable[[AccessKey], str],
    now: float,
    region: str,
    keys: SigningKeys = _KEYS,
) -> Verified:
    """Authenticates a form by the signature of its policy; one without policy and signature is nobody's.

    `fields` are those before the file, names in lower case; `headers` what they say in the words of headers.  Whether
    the form obeys the policy is s3front/post_policy.py's.  Version 2 of the signature is known here and nowhere else:
    what it signs, the policy, is whole.  Raises AuthError.
    """
    version_4 = any(name in fields for name in _FORM_V4)
    version_2 = any(name in fields for name in _FORM_V2)
    if version_4 and version_2:
        raise AuthError("InvalidArgument", "Only one auth mechanism allowed")
    principal: Principal | None = None
    scope, timestamp, signing_key, signature = _NO_SCOPE, b"", _NO_KEY, b""
    if version_4 or version_2 or "policy" in fields:
        for name in ("policy", *(_FORM_V4 if version_4 else _FORM_V2)):
            if not fields.get(name):
                raise AuthError(
                    "InvalidArgument",
                    f"Bucket POST must contain a field named '{name}'.  If it is specified, please check the order of "
                    "the fields.",
                    details=(("ArgumentName", name), ("ArgumentValue", "")),
                )
        if "x-amz-security-token" in fields:
            raise AuthError("InvalidToken")
        policy = fields["policy"].encode()
        if version_4:
            scope, timestamp = _form_scope(fields, now, region)
            key = credentials(scope.key_id)
            signing_key = _signing_key(key, scope, unseal, keys)
            signature = fields["x-amz-signature"].encode()
            computed = signing_key.sign(policy)
        else:
            key = credentials(fields["awsaccesskeyid"])
            secret = "" if key is None else unseal(key)
            signature = fields["signature"].encode()
            computed = base64.b64encode(hmac.digest(secret.encode(), policy, "sha1"))
        holds = hmac.compare_digest(computed, signature)
        if key is None:
            raise AuthError("InvalidAccessKeyId")
        if not holds:
            raise AuthError("SignatureDoesNotMatch")
        principal = principal_of(key)
    return Verified(
        seal=_SEAL,
        principal=principal,
        method=request.method,
        path=request.path,
        query=request.query,
        headers=headers,
        payload=Payload.FORM,
        sha256="",
        presigned=False,
        signed=frozenset(),
        signature=signature,
        signing_key=signing_key,
        timestamp=timestamp,
        scope=scope,
    )


def _form_scope(fields: Mapping[str, str], now: float, region: str) -> tuple[Scope, bytes]:
    """(scope, timestamp) of a form signed in version 4.  A signing key is good for a week (S3 API, "POST Policy")."""
    wrong = "AuthorizationQueryParametersError"
    if fields["x-amz-algorithm"].encode() != sigv4.ALGORITHM:
        raise AuthError(wrong, 'X-Amz-Algorithm only supports "AWS4-HMAC-SHA256"')
    timestamp = fields["x-amz-date"].encode()
    try:
        scope = sigv4.parse_credential(fields["x-amz-credential"].encode())
        moment = sigv4.parse_timestamp(timestamp)
    except Malformed as error:
        raise AuthError(wrong, str(error)) from error
    if scope.date != timestamp[:8] or scope.service != b"s3" or scope.region != region.encode():
        raise _scope_error(wrong, scope, timestamp, region)
    if moment - now > CLOCK_SKEW_MAX:
        raise AuthError("AccessDenied", "Request is not valid yet")
    if now - moment > PRESIGNED_EXPIRY_MAX:
        raise AuthError("AccessDenied", "Request has expired")
    return scope, timestamp


# ---------------------------------------------------------------- which authentication, and what it claims


def _join_repeated(headers: Sequence[tuple[bytes, bytes]]) -> Mapping[bytes, bytes]:
    """Headers by name, repeated ones joined by "," as a signature does.  A second Authorization is refused, and so is
    a second value of what authentication itself is read from: which of the two would count?"""
    fields = dict(headers)
    if len(fields) == len(headers):
        return fields
    joined: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in joined:
            if name in _SINGLE:
                raise AuthError("InvalidRequest", f"The header {name.decode('ascii', 'replace')} was sent twice.")
            joined[name] += b"," + value
        else:
            joined[name] = value
    return joined


_SINGLE: Final = frozenset(
    {
        b"authorization",
        b"host",
        b"date",
        b"x-amz-date",
        b"x-amz-content-sha256",
        b"x-amz-decoded-content-length",
        b"x-amz-copy-source",
        b"content-length",
        b"content-md5",
    }
)

_AUTH_NAMES: Final = (
    b"x-amz-algorithm",
    b"x-amz-credential",
    b"x-amz-date",
    b"x-amz-expires",
    b"x-amz-signedheaders",
    b"x-amz-signature",
)
_REQUIRED: Final = (
    b"X-Amz-Algorithm",
    b"X-Amz-Credential",
    b"X-Amz-Date",
    b"X-Amz-Expires",
    b"X-Amz-SignedHeaders",
    b"X-Amz-Signature",
)


def _query_authenticates(query: bytes) -> bool:
    """Whether the query holds parameters of authentication.  Version 2's are refused here."""
    names = [pair.partition(b"=")[0] for pair in query.split(b"&")]
    if b"AWSAccessKeyId" in names or b"Signature" in names:
        raise _version_2()
    if b"x-amz-" not in query.lower():
        return False
    return any(name.lower() in _AUTH_NAMES for name in names)


def _version_2() -> AuthError:
    return AuthError(
        "InvalidRequest",
        "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
    )


def _header_claim(authorization: bytes, fields: Mapping[bytes, bytes], now: float) -> tuple[Claim, bytes, bytes]:
    """(claim, timestamp, word for the payload) of a request signed by its Authorization header."""
    if not authorization.startswith(b"AWS4-HMAC-SHA256 "):
        if authorization.split(b" ", 1)[0] in (b"AWS", b"AWS4-ECDSA-P256-SHA256"):
            raise _version_2()
        raise AuthError("InvalidArgument", "Unsupported Authorization Type")
    try:
        claim = sigv4.parse_authorization(authorization)
    except Malformed as error:
        raise AuthError("AuthorizationHeaderMalformed", f"The authorization header is malformed; {error}") from error
    timestamp = fields.get(b"x-amz-date")
    if timestamp is None:
        timestamp = _from_date(fields.get(b"date", b""))
    try:
        moment = sigv4.parse_timestamp(timestamp)
    except Malformed as error:
        raise AuthError("AccessDenied", "AWS authentication requires a valid Date or x-amz-date header") from error
    if abs(now - moment) > CLOCK_SKEW_MAX:
        raise AuthError(
            "RequestTimeTooSkewed",
            details=(
                ("RequestTime", timestamp.decode("ascii")),
                ("ServerTime", sigv4.format_timestamp(int(now)).decode("ascii")),
                ("MaxAllowedSkewMilliseconds", str(CLOCK_SKEW_MAX * 1000)),
            ),
        )
    payload = fields.get(b"x-amz-content-sha256")
    if payload is None:
        raise AuthError("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    return claim, timestamp, payload


def _from_date(value: bytes) -> bytes:
    """The Date header (RFC 9110 or already in SigV4's form) as a timestamp; empty if it is neither."""
    text = value.decode("latin-1").strip()
    if text.endswith("Z"):
        return value.strip()
    try:
        return sigv4.format_timestamp(int(email.utils.parsedate_to_datetime(text).timestamp()))
    except (ValueError, OverflowError):
        return b""


def _presigned_claim(query: bytes, fields: Mapping[bytes, bytes], now: float) -> tuple[Claim, bytes, bytes]:
    """(claim, timestamp, word for the payload) of a request signed in its query."""

    def refuse(message: str, cause: Exception | None = None) -> AuthError:
        error = AuthError("AuthorizationQueryParametersError", message)
        error.__cause__ = cause
        return error

    parameters: dict[bytes, bytes] = {}
    seen: set[bytes] = set()
    for pair in query.split(b"&"):
        name, _, value = pair.partition(b"=")
        folded = unquote_to_bytes(name.replace(b"+", b" ")).lower()
        if folded.startswith(b"x-amz-"):
            if folded in seen:
                raise refuse("A query parameter of authentication was given twice.")
            seen.add(folded)
            parameters[name] = unquote_to_bytes(value)
    if not all(parameters.get(name) for name in _REQUIRED):
        raise refuse(
            "Query-string authentication version 4 requires the X-Amz-Algorithm, X-Amz-Credential, X-Amz-Signature, "
            "X-Amz-Date, X-Amz-SignedHeaders, and X-Amz-Expires parameters."
        )
    if parameters[b"X-Amz-Algorithm"] != sigv4.ALGORITHM:
        raise refuse('X-Amz-Algorithm only supports "AWS4-HMAC-SHA256"')
    try:
        scope = sigv4.parse_credential(parameters[b"X-Amz-Credential"])
    except Malformed as error:
        raise refuse(f"Error parsing the X-Amz-Credential parameter; {error}", error) from error
    timestamp = parameters[b"X-Amz-Date"]
    try:
        moment = sigv4.parse_timestamp(timestamp)
    except Malformed as error:
        raise refuse("X-Amz-Date must be in the ISO8601 Long Format \"yyyyMMdd'T'HHmmss'Z'\"", error) from error
    expires = parameters[b"X-Amz-Expires"]
    if not re.fullmatch(rb"-?[0-9]{1,10}", expires):
        raise refuse("X-Amz-Expires should be a number")
    lifetime = int(expires)
    if lifetime > PRESIGNED_EXPIRY_MAX:
        raise AuthError("AccessDenied", f"X-Amz-Expires must be at most {PRESIGNED_EXPIRY_MAX} seconds (a week)")
    if moment - now > CLOCK_SKEW_MAX:
        raise AuthError("AccessDenied", "Request is not valid yet")
    if lifetime < 1 or now > moment + lifetime:  # one that never lived has expired
        raise AuthError(
            "AccessDenied",
            "Request has expired",
            details=(
                ("X-Amz-Expires", str(lifetime)),
                ("ServerTime", sigv4.format_timestamp(int(now)).decode("ascii")),
            ),
        )
    word = parameters.get(b"X-Amz-Content-Sha256") or fields.get(b"x-amz-content-sha256", b"UNSIGNED-PAYLOAD")
    if b"X-Amz-Content-Sha256" in parameters and fields.get(b"x-amz-content-sha256", word) != word:
        raise refuse("X-Amz-Content-Sha256 differs between query and header")
    return (
        Claim(scope, parameters[b"X-Amz-SignedHeaders"], parameters[b"X-Amz-Signature"]),
        timestamp,
        word,
    )


def _scope_error(code: str, scope: Scope, timestamp: bytes, region: str) -> AuthError:
    start = (
        "The authorization header is malformed; "
        if code == "AuthorizationHeaderMalformed"
        else "Error parsing the X-Amz-Credential parameter; "
    )
    if scope.date != timestamp[:8]:
        return AuthError(
            code,
            f'{start}Invalid credential date "{scope.date.decode()}". '
            f'This date is not the same as X-Amz-Date: "{timestamp[:8].decode()}".',
        )
    if scope.service != b"s3":
        service = scope.service.decode("ascii")
        return AuthError(code, f'{start}incorrect service "{service}". This endpoint belongs to "s3".')
    given = scope.region.decode("ascii")
    return AuthError(code, f"{start}the region '{given}' is wrong; expecting '{region}'", details=(("Region", region),))


def _payload(word: bytes, presigned: bool) -> Payload:
    kind = _PAYLOADS.get(word)
    if kind is None:
        if len(word) != 64 or _SHA256.fullmatch(word) is None:
            raise AuthError(
                "InvalidArgument",
                "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-UNSIGNED-PAYLOAD-TRAILER, "
                "STREAMING-AWS4-HMAC-SHA256-PAYLOAD, STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER or a valid sha256 "
                "value.",
            )
        return Payload.SINGLE_HASH
    if presigned and kind in (Payload.STREAMING_SIGNED, Payload.STREAMING_SIGNED_TRAILER):
        raise AuthError("InvalidRequest", "Only a request that signs its headers can sign the chunks of its body.")
    return kind


# ---------------------------------------------------------------- what must be signed, and whether it is


def _require_signed(fields: Mapping[bytes, bytes], signed: frozenset[bytes]) -> None:
    """Host, and every `x-amz-*` header that is present.  Three servers forgot x-amz-copy-source in one year."""
    missing: list[bytes] = []
    for name in fields:
        if name not in signed and name.startswith(b"x-amz-"):
            missing.append(name)  # a comprehension is a call, at every request
    if b"host" not in signed:
        missing.append(b"host")
    if missing:
        raise AuthError(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            details=(("HeadersNotSigned", ", ".join(name.decode("latin-1") for name in missing)),),
        )


def _signing_key(
    key: AccessKey | None, scope: Scope, unseal: Callable[[AccessKey], str], keys: SigningKeys
) -> SigningKey:
    sealed = b"no key" if key is None else key.sealed
    if key is None:
        scope = scope._replace(key_id="")  # signs for all who have none; nothing that it signs is ever accepted
    found = keys.find(scope, sealed)
    if found is None:
        found = keys.derive(scope, sealed, "" if key is None else unseal(key))
    return found


def _signature_holds(
    request: SignedRequest,
    fields: Mapping[bytes, bytes],
    claim: Claim,
    names: tuple[bytes, ...],
    timestamp: bytes,
    payload_word: bytes,
    presigned: bool,
    signing_key: SigningKey,
) -> bool:
    headers = sigv4.canonical_headers(fields, names)
    if headers is None:
        return False  # a header that was signed did not arrive
    method = request.method.encode()
    path, query = request.path, request.query
    spelling: tuple[bytes, bytes] | None = (path, sigv4.canonical_query(query, presigned) if query else b"")
    others: Iterator[tuple[bytes, bytes]] | None = None  # made only for a request that is not signed as it was sent
    while spelling is not None:
        text = sigv4.string_to_sign(
            timestamp, claim.scope, method, *spelling, headers, claim.signed_headers, payload_word
        )
        if hmac.compare_digest(signing_key.sign(text), claim.signature):
            return True
        others = others or sigv4.respellings(path, query, presigned)
        spelling = next(others, None)
    return False
