"""The gate's rules, named after what they prevent; and one table: every kind of authentication by every way to fail."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from urllib.parse import quote

import pytest

from appliance.authority import Principal
from appliance.model import AccessKey
from s3front import sigv4
from s3front.guessing import GuessSlowdown
from s3front.sigv4 import SigningKeys
from s3front.verified import AuthError, Payload, SignedRequest, Verified, verify
from tests.rows import rows
from tests.s3front.signing import (
    KEY,
    KEY_ID,
    NOW,
    REGION,
    SECRET,
    check,
    credentials,
    sign_by_header,
    sign_by_query,
    unseal,
)


def refused(request: SignedRequest, now: float = NOW) -> AuthError:
    with pytest.raises(AuthError) as caught:
        check(request, now)
    return caught.value


def with_header(request: SignedRequest, name: bytes, value: bytes) -> SignedRequest:
    return request._replace(headers=[*request.headers, (name, value)])


def without_header(request: SignedRequest, name: bytes) -> SignedRequest:
    return request._replace(headers=[header for header in request.headers if header[0] != name])


def replaced(request: SignedRequest, name: bytes, value: bytes) -> SignedRequest:
    return with_header(without_header(request, name), name, value)


def query_with(request: SignedRequest, name: bytes, value: bytes | None) -> SignedRequest:
    """The presigned request with one parameter set to `value`, or left out."""
    pairs = [pair for pair in request.query.split(b"&") if pair.partition(b"=")[0] != name]
    if value is not None:
        pairs.append(name + b"=" + value)
    return request._replace(query=b"&".join(pairs))


# ---------------------------------------------------------------- the table

Sign = Callable[..., SignedRequest]


def streaming(payload: Payload) -> Sign:
    trailer = {"x-amz-trailer": "x-amz-checksum-crc32"} if "TRAILER" in payload.value else {}

    def sign(**changes: object) -> SignedRequest:
        headers = {"x-amz-decoded-content-length": "3", "content-encoding": "aws-chunked", **trailer}
        return sign_by_header("PUT", query="x-id=PutObject", headers=headers, payload=payload.value, **changes)  # type: ignore[arg-type]

    return sign


def header(**changes: object) -> SignedRequest:
    return sign_by_header("PUT", query="x-id=PutObject", body=b"abc", **changes)  # type: ignore[arg-type]


def unsigned_payload(**changes: object) -> SignedRequest:
    return sign_by_header("PUT", query="x-id=PutObject", payload="UNSIGNED-PAYLOAD", **changes)  # type: ignore[arg-type]


def empty(**changes: object) -> SignedRequest:
    return sign_by_header("GET", query="x-id=GetObject", **changes)  # type: ignore[arg-type]


def in_query(**changes: object) -> SignedRequest:
    return sign_by_query("PUT", query="x-id=PutObject", **changes)  # type: ignore[arg-type]


def anonymous(**changes: object) -> SignedRequest:
    return SignedRequest("GET", b"/bucket/key", b"x-id=GetObject", [(b"host", b"box")])


KINDS: dict[str, tuple[Sign, Payload | None]] = {
    "none": (anonymous, None),
    "header": (header, Payload.SINGLE_HASH),
    "header, empty": (empty, Payload.EMPTY),
    "header, unsigned payload": (unsigned_payload, Payload.UNSIGNED),
    "query": (in_query, Payload.UNSIGNED),
    "streaming signed": (streaming(Payload.STREAMING_SIGNED), Payload.STREAMING_SIGNED),
    "streaming signed trailer": (streaming(Payload.STREAMING_SIGNED_TRAILER), Payload.STREAMING_SIGNED_TRAILER),
    "streaming unsigned trailer": (streaming(Payload.STREAMING_UNSIGNED_TRAILER), Payload.STREAMING_UNSIGNED_TRAILER),
}

# way to fail -> (how, code by header, code in the query)
WAYS: dict[str, tuple[Callable[[Sign], SignedRequest], str, str]] = {
    "bad signature": (lambda sign: sign(secret=SECRET[::-1]), "SignatureDoesNotMatch", "SignatureDoesNotMatch"),
    "unknown key": (lambda sign: sign(key_id="TCNOBODYNOBODYNOBODY"), "InvalidAccessKeyId", "InvalidAccessKeyId"),
    "expired": (lambda sign: sign(at=NOW - 3601), "RequestTimeTooSkewed", "AccessDenied"),
    "future": (lambda sign: sign(at=NOW + 901), "RequestTimeTooSkewed", "AccessDenied"),
    "wrong region": (
        lambda sign: sign(region="eu-west-1"),
        "AuthorizationHeaderMalformed",
        "AuthorizationQueryParametersError",
    ),
    "wrong service": (
        lambda sign: sign(service="iam"),
        "AuthorizationHeaderMalformed",
        "AuthorizationQueryParametersError",
    ),
    "wrong date": (
        lambda sign: other_date(sign()),
        "AuthorizationHeaderMalformed",
        "AuthorizationQueryParametersError",
    ),
    "unsigned x-amz header": (
        lambda sign: with_header(sign(), b"x-amz-copy-source", b"secret/key"),
        "AccessDenied",
        "AccessDenied",
    ),
    "tampered path": (
        lambda sign: sign()._replace(path=b"/bucket/other"),
        "SignatureDoesNotMatch",
        "SignatureDoesNotMatch",
    ),
    "tampered query": (
        lambda sign: added_parameter(sign()),
        "SignatureDoesNotMatch",
        "SignatureDoesNotMatch",
    ),
    "tampered method": (
        lambda sign: sign()._replace(method="DELETE"),
        "SignatureDoesNotMatch",
        "SignatureDoesNotMatch",
    ),
}


def other_date(request: SignedRequest) -> SignedRequest:
    """The same credential of the day before."""
    return request._replace(
        query=request.query.replace(b"%2F20270115%2F", b"%2F20270114%2F"),
        headers=[(name, value.replace(b"/20270115/", b"/20270114/")) for name, value in request.headers],
    )


def added_parameter(request: SignedRequest) -> SignedRequest:
    return request._replace(query=request.query + b"&versionId=1")


@rows("way", ["good", *WAYS])
@rows("kind", KINDS)
def test_every_authentication_by_every_way_to_fail(kind: str, way: str) -> None:
    sign, payload = KINDS[kind]
    if way == "good":
        if payload is None:
            assert check(sign()).principal is None
            return
        verified = check(sign())
        assert verified.payload is payload
        assert verified.presigned == (kind == "query")
        assert verified.principal == Principal(KEY_ID, "default")
        return
    fail, by_header, by_query = WAYS[way]
    if payload is None:
        assert check(fail(sign)).principal is None  # nobody, whatever else it says
        return
    error = refused(fail(sign))
    assert error.code == (by_query if kind == "query" else by_header)
    assert error.status == (400 if error.code.startswith("Authorization") else 403)


# ---------------------------------------------------------------- lessons


@rows("sign", [sign_by_header, sign_by_query])
@rows("name", [b"x-amz-copy-source", b"x-amz-acl", b"x-amz-meta-owner", b"x-amz-tagging", b"x-amz-anything"])
def test_unsigned_copy_source_is_refused(sign: Sign, name: bytes) -> None:
    error = refused(with_header(sign("PUT"), name, b"/secret/key"))
    assert (error.code, error.status) == ("AccessDenied", 403)
    assert error.message == "There were headers present in the request which were not signed"
    assert ("HeadersNotSigned", name.decode()) in error.details


def test_headers_that_need_not_be_signed() -> None:
    request = sign_by_header("PUT")
    for name in (b"content-md5", b"content-type", b"user-agent", b"x-amzn-trace-id", b"expect"):
        request = with_header(request, name, b"x")
    assert check(request).headers[b"content-md5"] == b"x"


def test_a_request_that_does_not_sign_its_host_is_refused() -> None:
    request = sign_by_header()
    value = dict(request.headers)[b"authorization"].replace(b"SignedHeaders=host;", b"SignedHeaders=")
    error = refused(replaced(request, b"authorization", value))
    assert ("HeadersNotSigned", "host") in error.details


def test_a_signed_header_that_did_not_arrive_is_refused() -> None:
    request = sign_by_header("PUT", headers={"content-type": "text/plain"})
    assert refused(without_header(request, b"content-type")).code == "SignatureDoesNotMatch"


def test_a_request_that_names_nobody_is_anonymous() -> None:
    verified = check(SignedRequest("PUT", b"/", b"", [(b"host", b"box"), (b"x-amz-acl", b"private")]))
    assert (verified.principal, verified.payload, verified.signed) == (None, Payload.UNSIGNED, frozenset())
    assert "nobody" in repr(verified)


def test_an_anonymous_body_may_promise_its_digest_and_cannot_sign_its_chunks() -> None:
    def of(word: bytes) -> SignedRequest:
        return SignedRequest("PUT", b"/b/k", b"", [(b"host", b"box"), (b"x-amz-content-sha256", word)])

    assert check(of(b"a" * 64)).sha256 == "a" * 64
    assert check(of(b"STREAMING-UNSIGNED-PAYLOAD-TRAILER")).payload is Payload.STREAMING_UNSIGNED_TRAILER
    for word in (b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD", b"STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"):
        assert refused(of(word)).code == "InvalidRequest"
    assert refused(of(b"x")).code == "InvalidArgument"


def test_two_authentications_are_refused() -> None:
    query = sign_by_query().query
    error = refused(sign_by_header()._replace(query=query))
    assert error.code == "InvalidArgument"
    error = refused(sign_by_header("GET", query=query.decode()))
    assert error.code == "InvalidArgument"


def test_two_authorization_headers_are_refused() -> None:
    request = sign_by_header()
    twice = with_header(request, b"authorization", dict(request.headers)[b"authorization"])
    assert refused(twice).code == "InvalidRequest"


@pytest.mark.parametrize("name", [b"x-amz-date", b"x-amz-content-sha256", b"host"])
def test_a_second_value_of_what_authentication_reads_is_refused(name: bytes) -> None:
    assert refused(with_header(sign_by_header(), name, b"other")).code == "InvalidRequest"


def test_a_repeated_header_is_signed_with_all_its_values() -> None:
    request = sign_by_header("PUT", headers={"x-amz-meta-a": "1,2"})
    split = with_header(replaced(request, b"x-amz-meta-a", b"1"), b"x-amz-meta-a", b"2")
    assert check(split).headers[b"x-amz-meta-a"] == b"1,2"
    assert refused(with_header(request, b"x-amz-meta-a", b"3")).code == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    "value", [b"AWS AKIAIOSFODNN7EXAMPLE:frJIUN8DYpKDtOLCwo//yllqDzg=", b"AWS4-ECDSA-P256-SHA256 Credential=a"]
)
def test_other_signature_versions_are_refused(value: bytes) -> None:
    error = refused(replaced(sign_by_header(), b"authorization", value))
    assert (error.code, error.status) == ("InvalidRequest", 400)
    assert "Please use AWS4-HMAC-SHA256" in error.message


def test_a_version_2_query_is_refused() -> None:
    request = SignedRequest("GET", b"/b/k", b"AWSAccessKeyId=a&Expires=1&Signature=b", [(b"host", b"box")])
    assert refused(request).code == "InvalidRequest"


@rows("value", [b"Basic YTpi", b"Bearer abc", b"", b"AWS4-HMAC-SHA256", b"aws4-hmac-sha256 x"])
def test_other_authorization_types_are_refused(value: bytes) -> None:
    assert refused(replaced(sign_by_header(), b"authorization", value)).code == "InvalidArgument"


def test_session_tokens_are_refused() -> None:
    assert refused(sign_by_header(headers={"x-amz-security-token": "t"})).code == "InvalidToken"
    assert refused(sign_by_query(query="X-Amz-Security-Token=t")).code == "InvalidToken"


# ---------------------------------------------------------------- time


@rows(("seconds", "good"), [(-901, False), (-900, True), (0, True), (900, True), (901, False)])
def test_the_clock_may_differ_by_fifteen_minutes(seconds: int, good: bool) -> None:
    request = sign_by_header(at=NOW + seconds)
    if good:
        assert check(request).timestamp == sigv4.format_timestamp(NOW + seconds)
    else:
        assert (refused(request).code, refused(request).status) == ("RequestTimeTooSkewed", 403)


@rows(
    ("at", "expires", "message"),
    [
        (NOW - 60, 60, ""),
        (NOW - 61, 60, "Request has expired"),
        (NOW + 900, 60, ""),
        (NOW + 901, 60, "Request is not valid yet"),
        (NOW - 604_800, 604_800, ""),
        (NOW - 604_801, 604_800, "Request has expired"),
    ],
)
def test_a_presigned_url_lives_as_long_as_it_says(at: int, expires: int, message: str) -> None:
    request = sign_by_query(at=at, expires=expires)
    if message:
        error = refused(request)
        assert (error.code, error.status, error.message) == ("AccessDenied", 403, message)
    else:
        assert check(request).presigned


@rows("expires", [b"99999999999", b"1e3", b"", b"x", b"%20", b"1.5"])
def test_a_lifetime_that_is_no_number_is_refused(expires: bytes) -> None:
    error = refused(query_with(sign_by_query(), b"X-Amz-Expires", expires))
    assert (error.code, error.status) == ("AuthorizationQueryParametersError", 400)


@rows("expires", [b"604801", b"9999999999"])
def test_a_lifetime_of_more_than_a_week_is_refused(expires: bytes) -> None:
    error = refused(query_with(sign_by_query(), b"X-Amz-Expires", expires))
    assert (error.code, error.status) == ("AccessDenied", 403)


@pytest.mark.parametrize("expires", [b"0", b"-1", b"-1000"])
def test_a_lifetime_that_never_was_has_expired(expires: bytes) -> None:
    error = refused(query_with(sign_by_query(), b"X-Amz-Expires", expires))
    assert (error.code, error.status, error.message) == ("AccessDenied", 403, "Request has expired")


def test_a_date_header_serves_when_there_is_no_other() -> None:
    """botocore signs with Date when the request carries one."""
    request = sign_by_header(headers={"Date": "Fri, 15 Jan 2027 08:00:00 GMT"})
    assert b"x-amz-date" not in dict(request.headers)
    assert check(request).timestamp == b"20270115T080000Z"
    assert refused(without_header(request, b"date")).code == "AccessDenied"
    assert refused(replaced(request, b"date", b"yesterday")).code == "AccessDenied"


# ---------------------------------------------------------------- presigned parameters

PARAMETERS = [
    b"X-Amz-Algorithm",
    b"X-Amz-Credential",
    b"X-Amz-Date",
    b"X-Amz-Expires",
    b"X-Amz-SignedHeaders",
    b"X-Amz-Signature",
]


@rows("name", PARAMETERS)
def test_a_missing_parameter_is_refused(name: bytes) -> None:
    assert refused(query_with(sign_by_query(), name, None)).code == "AuthorizationQueryParametersError"


@rows("name", PARAMETERS)
@rows("respell", [bytes, bytes.lower, lambda name: name.replace(b"-", b"%2D", 1)])
def test_a_parameter_given_twice_is_refused(name: bytes, respell: Callable[[bytes], bytes]) -> None:
    request = sign_by_query()
    for query in (request.query + b"&" + respell(name) + b"=x", respell(name) + b"=x&" + request.query):
        assert refused(request._replace(query=query)).code == "AuthorizationQueryParametersError"


@rows(
    ("name", "value"),
    [
        (b"X-Amz-Algorithm", b"AWS4-HMAC-SHA1"),
        (b"X-Amz-Date", b"2027-01-15"),
        (b"X-Amz-Credential", b"nobody"),
        (b"X-Amz-SignedHeaders", b"Host"),
    ],
)
def test_a_malformed_parameter_is_refused(name: bytes, value: bytes) -> None:
    assert refused(query_with(sign_by_query(), name, value)).code == "AuthorizationQueryParametersError"


def test_presigned_signed_headers_are_honoured() -> None:
    request = sign_by_query("PUT", headers={"content-type": "text/plain"})
    assert b"content-type" in check(request).signed
    assert refused(replaced(request, b"content-type", b"text/html")).code == "SignatureDoesNotMatch"


def test_a_presigned_body_may_be_hashed_but_its_chunks_not_signed() -> None:
    assert refused(sign_by_query(query="X-Amz-Content-Sha256=" + Payload.STREAMING_SIGNED.value)).code == (
        "InvalidRequest"
    )


# ---------------------------------------------------------------- payload


def test_a_missing_payload_digest_is_refused() -> None:
    error = refused(without_header(sign_by_header(), b"x-amz-content-sha256"))
    assert (error.code, error.status) == ("InvalidRequest", 400)
    assert error.message == "Missing required header for this request: x-amz-content-sha256"


@rows("word", ["", "x", "UNSIGNED", "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", "AB" * 32, "0" * 63])
def test_an_unknown_payload_word_is_refused(word: str) -> None:
    assert refused(sign_by_header(payload=word)).code == "InvalidArgument"


# ---------------------------------------------------------------- what comes out


def test_only_the_gate_makes_a_verified() -> None:
    good = check(sign_by_header())
    fields = {name: getattr(good, name) for name in Verified.__struct_fields__}
    fields["seal"] = object()
    with pytest.raises(AssertionError):
        Verified(**fields)


def test_a_verified_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        check(sign_by_header()).method = "DELETE"  # type: ignore[misc]


def test_the_principal_has_the_keys_bounds() -> None:
    bound = AccessKey(KEY_ID, "n", "anna", 0, SECRET.encode(), True, ("mine",))
    verified = verify(sign_by_header(), {KEY_ID: bound}.get, unseal, NOW, REGION, SigningKeys())
    assert verified.principal == Principal(KEY_ID, "anna", True, ("mine",))


def test_a_revoked_key_is_refused_although_its_signing_key_is_cached() -> None:
    keys = SigningKeys()
    check(sign_by_header(), keys=keys)
    with pytest.raises(AuthError) as caught:
        verify(sign_by_header(), lambda _: None, unseal, NOW, REGION, keys)
    assert caught.value.code == "InvalidAccessKeyId"


def test_the_key_of_the_unknown_opens_nothing() -> None:
    """The dummy that unknown keys are signed with is no secret: what it signs is refused all the same."""
    for key_id in ("TCNOBODY", ""):
        request = sign_by_header(key_id=key_id or "x", secret="")
        assert refused(request).code == "InvalidAccessKeyId"


def test_an_unknown_key_does_the_work_of_a_bad_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    signed: list[bytes] = []
    real = sigv4.SigningKey.sign

    def counting(self: sigv4.SigningKey, text: bytes) -> bytes:
        signed.append(text)
        return real(self, text)

    monkeypatch.setattr(sigv4.SigningKey, "sign", counting)
    refused(sign_by_header(secret="wrong"))
    bad = len(signed)
    refused(sign_by_header(key_id="TCNOBODY"))
    assert bad > 0
    assert len(signed) == 2 * bad


def test_every_refusal_of_a_guess_is_marked() -> None:
    assert refused(sign_by_header(secret="wrong")).guess
    assert refused(sign_by_header(key_id="TCNOBODY")).guess
    assert not refused(sign_by_header(at=NOW - 5000)).guess


# ---------------------------------------------------------------- guessing


def test_guessing_is_slowed_and_forgotten() -> None:
    slowdown = GuessSlowdown(free=3, first=1.0, most=10.0, forget=10.0)
    assert [slowdown.failed("192.0.2.1", 0.0) for _ in range(8)] == [0, 0, 0, 1, 2, 4, 8, 10]
    assert slowdown.failed("192.0.2.2", 0.0) == 0
    assert slowdown.delay("192.0.2.1", 0.0) == 10
    assert slowdown.delay("192.0.2.1", 1000.0) == 0
    assert slowdown.failed("192.0.2.1", 50.0) == 1  # five of eight forgotten


def test_one_hosts_ipv6_addresses_are_one_source() -> None:
    slowdown = GuessSlowdown(free=1)
    slowdown.failed("2001:db8::1", 0.0)
    assert slowdown.failed("2001:db8::ffff", 0.0) > 0
    assert slowdown.failed("2001:db8:0:1::1", 0.0) == 0
    slowdown.failed("192.0.2.9", 0.0)
    assert slowdown.failed("::ffff:192.0.2.9", 0.0) > 0


def test_a_clock_that_goes_back_forgets_nothing_and_breaks_nothing() -> None:
    slowdown = GuessSlowdown(free=1)
    slowdown.failed("a", 100.0)
    assert slowdown.failed("a", 50.0) > 0


def test_memory_of_guessers_is_bounded() -> None:
    slowdown = GuessSlowdown(sources=100)
    for number in range(1000):
        slowdown.failed(f"192.0.2.{number}", 0.0)
    assert len(slowdown) == 100


@pytest.mark.slow
def test_caches_stay_bounded_under_random_claims() -> None:
    request = sign_by_header()
    tracemalloc.start()
    for number in range(1500):
        value = b"AWS4-HMAC-SHA256 Credential=%d/20270115/us-east-1/s3/aws4_request,SignedHeaders=host,Signature=a"
        with pytest.raises(AuthError):
            check(replaced(request, b"authorization", value % number))
        if number == 600:
            before = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 200_000


def test_header_and_query_sign_the_same_key_characters() -> None:
    for key in ("ä ö", "a//b", "%2F", "~", "+"):
        path = "/bucket/" + quote(key, safe="/~")
        assert check(sign_by_header("GET", path)).path == check(sign_by_query("GET", path)).path
    assert KEY.id == KEY_ID
    assert credentials("nobody") is None
