"""Signatures against two oracles: the examples of Amazon's own documentation, and botocore on random requests."""

from __future__ import annotations

import hashlib
import hmac
import string
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from appliance.authority import principal_of
from s3front import sigv4
from s3front.sigv4 import ChunkSigner, Malformed, SigningKey, SigningKeys, parse_credential
from s3front.verified import AuthError, SignedRequest, verify
from tests.rows import rows
from tests.s3front.signing import KEY, check, credentials, sign_by_header, sign_by_query, unseal

# ---------------------------------------------------------------- Amazon's documentation

AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
AWS_SCOPE = parse_credential(b"AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request")
AWS_KEY = SigningKey(AWS_SECRET, AWS_SCOPE)
AWS_TIME = b"20130524T000000Z"
AWS_HOST = b"examplebucket.s3.amazonaws.com"


def sign_example(method: bytes, path: bytes, query: bytes, fields: dict[bytes, bytes], payload: bytes) -> bytes:
    names = tuple(sorted(fields))
    headers = sigv4.canonical_headers(fields, names)
    assert headers is not None
    text = sigv4.string_to_sign(
        AWS_TIME, AWS_SCOPE, method, path, sigv4.canonical_query(query), headers, b";".join(names), payload
    )
    return AWS_KEY.sign(text)


def test_documented_example_get_object() -> None:
    fields = {
        b"host": AWS_HOST,
        b"range": b"bytes=0-9",
        b"x-amz-content-sha256": sigv4.EMPTY_SHA256,
        b"x-amz-date": AWS_TIME,
    }
    assert sign_example(b"GET", b"/test.txt", b"", fields, sigv4.EMPTY_SHA256) == (
        b"f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_documented_example_put_object() -> None:
    body = hashlib.sha256(b"Welcome to Amazon S3.").hexdigest().encode()
    fields = {
        b"date": b"Fri, 24 May 2013 00:00:00 GMT",
        b"host": AWS_HOST,
        b"x-amz-content-sha256": body,
        b"x-amz-date": AWS_TIME,
        b"x-amz-storage-class": b"REDUCED_REDUNDANCY",
    }
    assert sign_example(b"PUT", b"/test%24file.text", b"", fields, body) == (
        b"98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    )


def test_documented_example_get_bucket_lifecycle() -> None:
    fields = {b"host": AWS_HOST, b"x-amz-content-sha256": sigv4.EMPTY_SHA256, b"x-amz-date": AWS_TIME}
    assert sign_example(b"GET", b"/", b"lifecycle", fields, sigv4.EMPTY_SHA256) == (
        b"fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    )


def test_documented_example_list_objects() -> None:
    fields = {b"host": AWS_HOST, b"x-amz-content-sha256": sigv4.EMPTY_SHA256, b"x-amz-date": AWS_TIME}
    assert sign_example(b"GET", b"/", b"prefix=J&max-keys=2", fields, sigv4.EMPTY_SHA256) == (
        b"34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_documented_example_chunks() -> None:
    chain = ChunkSigner(
        AWS_KEY, AWS_TIME, AWS_SCOPE, b"4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
    )
    assert [chain.chunk(sha256(data)) for data in (b"a" * 65536, b"a" * 1024, b"")] == [
        b"ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
        b"0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
        b"b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
    ]


def test_documented_example_trailer() -> None:
    chain = ChunkSigner(
        AWS_KEY, AWS_TIME, AWS_SCOPE, b"106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e"
    )
    assert [chain.chunk(sha256(data)) for data in (b"a" * 65536, b"a" * 1024, b"")] == [
        b"b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2",
        b"1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7",
        b"2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992",
    ]
    assert chain.trailer(sha256(b"x-amz-checksum-crc32c:sOO8/Q==\n")) == (
        b"d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435"
    )


@given(st.text(st.characters(categories=("L", "M", "N", "P", "S")), min_size=1), st.binary())
def test_a_prepared_key_signs_as_hmac_does(secret: str, text: bytes) -> None:
    key = b"AWS4" + secret.encode()
    for part in (b"20130524", b"us-east-1", b"s3", b"aws4_request"):
        key = hmac.digest(key, part, "sha256")
    assert SigningKey(secret, AWS_SCOPE).sign(text) == hmac.digest(key, text, "sha256").hex().encode()


# ---------------------------------------------------------------- botocore on random requests

KEY_TEXT = st.text(
    st.sampled_from(string.ascii_letters + string.digits + " /%+~!*'()&=;:@,$?#[]\"<>\\^`{|}-._äß€漢\U0001f600\t"),
    max_size=40,
)
PATHS = st.one_of(
    KEY_TEXT.map(lambda key: "/bucket/" + quote(key, safe="/~")),
    st.sampled_from(
        ["/", "/bucket", "/bucket/", "/bucket//", "/bucket/a//b", "/bucket/%2F", "/bucket/..%2f..", "/b/./.."]
    ),
)
# A name of authentication is the signer's to give: a second one is refused, in a test of its own.
NAMES = KEY_TEXT.map(lambda name: name.replace("-", "_") if name.lower().startswith("x-amz-") else name)
PAIRS = st.lists(st.tuples(NAMES, st.one_of(st.just(""), KEY_TEXT)), max_size=5)
QUERIES = st.one_of(
    PAIRS.map(lambda pairs: "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in pairs)),
    st.sampled_from(["uploads", "uploads=", "a=1&a=2&a=1", "a=2&a=1", "a-b=1&a=1", "list-type=2&prefix=a%20b", "b&a"]),
)
HEADERS = st.dictionaries(
    st.sampled_from(["x-amz-meta-a", "x-amz-acl", "x-amz-copy-source", "content-type", "range", "cache-control"]),
    st.text(st.sampled_from(string.ascii_letters + string.digits + "  ,;=/%\t-"), min_size=1, max_size=20).map(
        str.strip
    ),
    max_size=4,
)
METHODS = st.sampled_from(["GET", "PUT", "HEAD", "DELETE", "POST"])


@given(METHODS, PATHS, QUERIES, HEADERS, st.binary(max_size=20))
def test_what_botocore_signs_in_headers_is_verified(
    method: str, path: str, query: str, headers: dict[str, str], body: bytes
) -> None:
    verified = check(sign_by_header(method, path, query, headers=headers, body=body))
    assert verified.principal == principal_of(KEY)
    assert verified.sha256 == hashlib.sha256(body).hexdigest()


@given(METHODS, PATHS, PAIRS, HEADERS)
def test_what_botocore_signs_in_the_query_is_verified(
    method: str, path: str, pairs: list[tuple[str, str]], headers: dict[str, str]
) -> None:
    query = "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in pairs)
    verified = check(sign_by_query(method, path, query, headers=headers))
    assert verified.presigned
    assert verified.sha256 == ""


def decoded_query(query: bytes) -> list[tuple[bytes, bytes]]:
    """What a router would see, but for the order of different names."""
    pairs = [pair.partition(b"=") for pair in query.replace(b"+", b" ").split(b"&") if pair]
    return sorted((unquote_to_bytes(name), unquote_to_bytes(value)) for name, _, value in pairs)


def changed(data: bytes, at: int, to: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([to]) + data[at + 1 :]


@given(
    st.booleans(),
    PATHS,
    QUERIES,
    HEADERS,
    st.data(),
    st.integers(0, 10_000),
    st.integers(0x21, 0x7E).filter(lambda b: b != 35),
)
def test_any_byte_changed_is_refused(
    presigned: bool, path: str, query: str, headers: dict[str, str], data: st.DataObject, at: int, to: int
) -> None:
    sign = sign_by_query if presigned else sign_by_header
    request = sign("PUT", path, query, headers=headers)
    what = data.draw(st.sampled_from(["path", "query", "header", "method"]))
    if what == "path":
        other = request._replace(path=changed(request.path, at, to))
        assume(unquote_to_bytes(other.path) != unquote_to_bytes(request.path))
    elif what == "query":
        assume(request.query)
        other = request._replace(query=changed(request.query, at, to))
        assume(decoded_query(other.query) != decoded_query(request.query))
    elif what == "method":
        other = request._replace(method=data.draw(st.sampled_from(["GET", "POST", "put", "DELETE"])))
    else:
        index = data.draw(st.integers(0, len(request.headers) - 1))
        name, value = request.headers[index]
        assume(value)  # an empty one has no byte to change
        altered = changed(value, at, to)
        assume(name != b"authorization" or altered.strip() != value.strip())
        assume(b" ".join(altered.split()) != b" ".join(value.split()))
        other = request._replace(headers=[*request.headers[:index], (name, altered), *request.headers[index + 1 :]])
    with pytest.raises(AuthError):
        check(other)


# ---------------------------------------------------------------- clients that spell differently


@rows(
    ("signed", "sent"),
    [
        ("/bucket/a~b", "/bucket/a%7Eb"),
        ("/bucket/a~b", "/bucket/a%7eb"),
        ("/bucket/%C3%A4", "/bucket/%c3%a4"),
        ("/bucket/a%28b%29%21", "/bucket/a(b)!"),
        ("/bucket/a%2Bb", "/bucket/a+b"),
        ("/bucket/a%3Db%26c", "/bucket/a=b&c"),
        ("/bucket/dir/file", "/bucket/dir%2Ffile"),
        ("/bucket/%40x%3A", "/bucket/@x:"),
        ("/bucket/a%20b", "/bucket/a%20b"),
    ],
)
def test_another_spelling_of_the_path_is_verified(signed: str, sent: str) -> None:
    for sign in (sign_by_header, sign_by_query):
        request = sign("GET", signed)
        assert check(request._replace(path=sent.encode())).path == sent.encode()


@rows(
    ("signed", "sent"),
    [
        ("prefix=a%20b", "prefix=a+b"),
        ("prefix=a%2Fb", "prefix=a/b"),
        ("prefix=a%2Fb", "prefix=a%2fb"),
        ("prefix=~", "prefix=%7E"),
        ("delimiter=%2F&prefix=%28", "prefix=(&delimiter=/"),
        ("uploads=", "uploads"),
        ("a=&b=1", "a&b=1"),
        ("a=1", "a=1&"),
    ],
)
def test_another_spelling_of_the_query_is_verified(signed: str, sent: str) -> None:
    assert check(sign_by_header("GET", "/bucket", signed)._replace(query=sent.encode())).query == sent.encode()


@rows("path", ["/bucket/a%2fb", "/bucket/a(b", "/bucket/%7e", "/bucket/a+b", "/bucket/%41"])
def test_a_path_signed_as_it_was_sent_is_verified(path: str) -> None:
    assert check(sign_by_header("GET", path)).path == path.encode()


@rows(
    ("signed", "sent"),
    [("prefix=a%2Bb", "prefix=a+b"), ("prefix=a+b", "prefix=a%2Bb"), ("a=1&b=2", "a=1%26b=2"), ("a=1", "a=1&a=1")],
)
def test_another_meaning_of_the_query_is_refused(signed: str, sent: str) -> None:
    with pytest.raises(AuthError) as caught:
        check(sign_by_header("GET", "/bucket", signed)._replace(query=sent.encode()))
    assert caught.value.code == "SignatureDoesNotMatch"


@rows(
    ("signed", "sent"),
    [
        ("/bucket/a%2520b", "/bucket/a%20b"),
        ("/bucket/a", "/bucket//a"),
        ("/bucket/a", "/bucket/./a"),
        ("/b/../a", "/a"),
    ],
)
def test_another_meaning_of_the_path_is_refused(signed: str, sent: str) -> None:
    with pytest.raises(AuthError) as caught:
        check(sign_by_header("GET", signed)._replace(path=sent.encode()))
    assert caught.value.code == "SignatureDoesNotMatch"


# ---------------------------------------------------------------- the Authorization header


def authorization(request: SignedRequest, value: bytes) -> SignedRequest:
    return request._replace(
        headers=[(name, value if name == b"authorization" else old) for name, old in request.headers]
    )


def parts_of(request: SignedRequest) -> list[bytes]:
    value = dict(request.headers)[b"authorization"]
    return [part.strip() for part in value.removeprefix(b"AWS4-HMAC-SHA256 ").split(b",")]


@rows("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
@rows("separator", [b",", b", ", b" , ", b",\t"])
def test_the_parts_of_the_header_may_come_in_any_order(order: tuple[int, int, int], separator: bytes) -> None:
    request = sign_by_header()
    parts = parts_of(request)
    value = b"AWS4-HMAC-SHA256 " + separator.join(parts[i] for i in order)
    assert check(authorization(request, value)).principal == principal_of(KEY)


@rows(
    "value",
    [
        b"AWS4-HMAC-SHA256 ",
        b"AWS4-HMAC-SHA256 Signature=",
        b"AWS4-HMAC-SHA256 Signature=abc",
        b"AWS4-HMAC-SHA256 Credential=a/20270115/us-east-1/s3/aws4_request,Signature=abc",
        b"AWS4-HMAC-SHA256 SignedHeaders=host,Signature=abc",
        b"AWS4-HMAC-SHA256 Credential=a,SignedHeaders=host,Signature=abc",
        b"AWS4-HMAC-SHA256 Credential=a/b/c/d/e,SignedHeaders=host,Signature=abc",
        b"AWS4-HMAC-SHA256 Credential=a/20270115/us-east-1/s3/aws4_request,SignedHeaders=host;host,Signature=abc",
        b"AWS4-HMAC-SHA256 Credential=a/20270115/us-east-1/s3/aws4_request,SignedHeaders=Host,Signature=abc",
        b"AWS4-HMAC-SHA256 Credential=a/20270115/us-east-1/s3/aws4_request,SignedHeaders=host;date,Signature=abc",
        b"AWS4-HMAC-SHA256 Credential=a/20270115/us-east-1/s3/aws4_request,SignedHeaders=;,Signature=abc",
        b"AWS4-HMAC-SHA256 Credential=\xff/20270115/us-east-1/s3/aws4_request,SignedHeaders=host,Signature=abc",
        b"AWS4-HMAC-SHA256 Credential=/20270115/us-east-1/s3/aws4_request,SignedHeaders=host,Signature=abc",
        b"AWS4-HMAC-SHA256 Credential=a/1/b/s3/aws4_request,Credential=a/1/b/s3/aws4_request,Signature=abc",
        b"AWS4-HMAC-SHA256 Credential=a/20270115/us-east-1/s3/aws4_request,SignedHeaders=host,Signature=a,Signature=b",
        b"AWS4-HMAC-SHA256 Credential=a/20270115/us-east-1/s3/aws4_request,SignedHeaders=host x,Signature=abc",
        b"AWS4-HMAC-SHA256 Credential=a/20270115/us-east-1/s3/aws4_request;SignedHeaders=host;Signature=abc",
    ],
)
def test_a_malformed_header_is_refused(value: bytes) -> None:
    with pytest.raises(AuthError) as caught:
        check(authorization(sign_by_header(), value))
    assert caught.value.code == "AuthorizationHeaderMalformed"


def test_signed_headers_are_bounded() -> None:
    names = b";".join(b"h%03d" % number for number in range(101))
    with pytest.raises(Malformed):
        sigv4.signed_names(names)
    assert len(sigv4.signed_names(names[5:])[0]) == 100


@given(st.binary(max_size=120))
def test_no_header_breaks_the_parser(value: bytes) -> None:
    with pytest.raises(AuthError):
        check(authorization(sign_by_header(), b"AWS4-HMAC-SHA256 " + value))


@rows("value", [b"", b"20270115", b"20271315T080000Z", b"20270115T080060Z", b"20270115T080000", b"x" * 16])
def test_a_timestamp_that_is_none_is_malformed(value: bytes) -> None:
    with pytest.raises(Malformed):
        sigv4.parse_timestamp(value)


@given(st.integers(0, 4_000_000_000))
def test_timestamps_round_trip(seconds: int) -> None:
    assert sigv4.parse_timestamp(sigv4.format_timestamp(seconds)) == seconds


# ---------------------------------------------------------------- the cache of signing keys


def test_the_secret_is_unsealed_once_a_day_and_region() -> None:
    asked: list[str] = []
    keys = SigningKeys()

    def unsealing(key: object) -> str:
        asked.append("asked")
        return unseal(KEY)

    for _ in range(3):
        verify(sign_by_header(), credentials, unsealing, 1_800_000_000, "us-east-1", keys)
    assert len(asked) == 1


def test_the_cache_is_bounded_and_drops_the_oldest() -> None:
    keys = SigningKeys(limit=3)
    scopes = [parse_credential(b"TC%d/20270115/us-east-1/s3/aws4_request" % number) for number in range(4)]
    for scope in scopes[:3]:
        keys.derive(scope, b"sealed", "secret")
    assert keys.find(scopes[0], b"sealed") is not None
    keys.derive(scopes[3], b"sealed", "secret")
    assert len(keys) == 3
    assert keys.find(scopes[1], b"sealed") is None
    assert keys.find(scopes[0], b"sealed") is not None


def test_a_key_made_anew_does_not_find_the_old_signing_key() -> None:
    keys = SigningKeys()
    scope = parse_credential(b"TC/20270115/us-east-1/s3/aws4_request")
    keys.derive(scope, b"old seal", "old secret")
    assert keys.find(scope, b"new seal") is None


def test_no_secret_in_any_repr() -> None:
    keys = SigningKeys()
    verified = check(sign_by_header(), keys=keys)
    shown = repr(verified) + repr(verified.signing_key) + repr(keys) + repr(verified.chunk_signer())
    assert verified.signature.decode() not in shown
    assert "sealed" not in shown
