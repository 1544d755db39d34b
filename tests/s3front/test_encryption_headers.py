"""What a request says of encryption, fuzzed: an answer of S3's or a sealing, never anything else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, TypeVar

import trio
from hypothesis import given
from hypothesis import strategies as st

from appliance import settings
from appliance.model import AES256, CUSTOMER, NO_ATTRIBUTES, SSE_C, Bucket
from s3front import encryption
from s3front.errors import S3Error
from s3front.operations import put_bucket_encryption
from tests.s3front.memory_store import MemoryStore

T = TypeVar("T")

RAW: Final = bytes(range(32))
KEY: Final = base64.b64encode(RAW)
MD5: Final = base64.b64encode(hashlib.md5(RAW, usedforsecurity=False).digest())
PREFIX: Final = b"x-amz-server-side-encryption"
DOOR: Final[Any] = SimpleNamespace(store=MemoryStore())
PLAIN: Final = Bucket(1, "default", "b", 0, 1, "me")
DEFAULT: Final = Bucket(1, "default", "b", 0, 1, "me", settings={settings.ENCRYPTION: b"<any/>"})

values = st.one_of(
    st.sampled_from([b"AES256", b"aes256", b"aws:kms", b"", KEY, MD5, KEY[:-1], KEY + b"=", b"\xff", b" " + KEY]),
    st.binary(max_size=60),
)
names = st.sampled_from(
    [PREFIX + end for end in (b"", b"-customer-algorithm", b"-customer-key", b"-customer-key-md5", b"-context")]
    + [PREFIX + end for end in (b"-aws-kms-key-id", b"-bucket-key-enabled", b"-unknown")]
)


def sealing_of(headers: dict[bytes, bytes], bucket: Bucket = PLAIN) -> encryption.Sealing | None:
    return trio.run(encryption.for_write, DOOR, bucket, headers)


def outcome(attempt: Callable[[], T]) -> T | S3Error:
    """What came of it; any other exception is the test's failure."""
    try:
        return attempt()
    except S3Error as error:
        return error


@given(headers=st.dictionaries(names, values, max_size=5), default=st.booleans())
def test_any_headers_are_a_sealing_or_an_error(headers: dict[bytes, bytes], default: bool) -> None:
    sealing = outcome(lambda: sealing_of(headers, DEFAULT if default else PLAIN))
    if isinstance(sealing, S3Error):
        assert sealing.status in (400, 501)
        elsewhere = [value for name, value in headers.items() if name != PREFIX + b"-customer-key"]
        assert KEY.decode() not in f"{sealing.message}{sealing.details}" or any(KEY in value for value in elsewhere)
        return
    asked = headers.get(PREFIX) == b"AES256"
    if PREFIX + b"-customer-key" in headers:
        assert sealing is not None
        assert (sealing.key.id, headers[PREFIX + b"-customer-key"]) == (CUSTOMER, KEY), "only a whole, right key"
        assert not asked
    else:
        assert (sealing is not None) == (asked or default)
        assert sealing is None or sealing.customer is None


def test_whoever_asks_for_nothing_gets_nothing_or_the_default() -> None:
    assert sealing_of({b"x-amz-meta-a": b"1"}) is None
    found = sealing_of({}, DEFAULT)
    assert found is not None
    described = encryption.described(NO_ATTRIBUTES, found)
    assert (described.sse, described.sse_verifier) == (AES256, b"")
    assert encryption.described(described, None) == NO_ATTRIBUTES


def test_a_verifier_is_made_for_every_object_anew() -> None:
    """Two objects under one key cannot be told to be so by what is stored of them."""
    names = (b"-customer-algorithm", b"-customer-key", b"-customer-key-md5")
    found = sealing_of(dict(zip((PREFIX + name for name in names), (b"AES256", KEY, MD5), strict=True)))
    assert found is not None
    one, two = (encryption.described(NO_ATTRIBUTES, found) for _ in range(2))
    assert (one.sse, two.sse) == (SSE_C, SSE_C)
    assert one.sse_verifier != two.sse_verifier


@given(document=st.binary(max_size=300))
def test_any_document_is_a_default_or_refused(document: bytes) -> None:
    parsed = outcome(lambda: put_bucket_encryption.parse(document))
    if isinstance(parsed, S3Error):
        assert parsed.code in ("MalformedXML", "NotImplemented", "InvalidArgument")
    else:
        assert b"AES256" in document
