"""Client-visible checksums: against the published check values and botocore, whole and in parts."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from botocore import httpchecksum
from hypothesis import given
from hypothesis import strategies as st

from appliance.model import Checksum
from s3front import checksums
from s3front.checksums import ALGORITHMS, Expected, parse
from s3front.errors import S3Error
from tests.rows import rows

BOTOCORE: dict[str, Any] = {
    "CRC32": httpchecksum.Crc32Checksum,
    "CRC32C": httpchecksum.CrtCrc32cChecksum,
    "CRC64NVME": httpchecksum.CrtCrc64NvmeChecksum,
    "SHA1": httpchecksum.Sha1Checksum,
    "SHA256": httpchecksum.Sha256Checksum,
}
CRCS = ["CRC32", "CRC32C", "CRC64NVME"]


@rows(
    ("algorithm", "value"),
    [
        # "Check" of the CRC catalogue: the CRC of "123456789"
        ("CRC32", "cbf43926"),
        ("CRC32C", "e3069283"),
        ("CRC64NVME", "ae8b14860a799888"),
        ("SHA1", "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        ("SHA256", "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
    ],
)
def test_published_check_values(algorithm: str, value: str) -> None:
    assert checksums.digest(algorithm, b"123456789").hex() == value


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@given(st.lists(st.binary(max_size=200), max_size=6))
def test_pieces_give_what_botocore_computes_of_the_whole(algorithm: str, pieces: list[bytes]) -> None:
    one = checksums.hasher(algorithm)
    for piece in pieces:
        one.update(memoryview(bytearray(piece)))
    oracle = BOTOCORE[algorithm]()
    oracle.update(b"".join(pieces))
    assert base64.b64encode(one.digest()).decode() == oracle.b64digest()
    assert len(one.digest()) == ALGORITHMS[algorithm].size


# ---------------------------------------------------------------- what a request promises


def promised(**headers: str) -> dict[bytes, bytes]:
    return {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}


def refused(headers: dict[bytes, bytes], trailing: bool = False) -> S3Error:
    with pytest.raises(S3Error) as caught:
        parse(headers, trailing)
    return caught.value


CRC32 = base64.b64encode(bytes(4)).decode()
MD5 = base64.b64encode(hashlib.md5(b"x").digest()).decode()


def test_nothing_promised() -> None:
    assert parse({b"x-amz-checksum-mode": b"ENABLED", b"content-type": b"a"}, False) == Expected()


def test_the_md5_of_long_bodies() -> None:
    long = checksums.LongMd5()
    for piece in (b"", b"x", bytearray(b"yz" * 1000), memoryview(b"abc" * 70_000)):
        long.update(piece)
    assert long.digest() == hashlib.md5(b"x" + b"yz" * 1000 + b"abc" * 70_000).digest()


def test_a_content_md5() -> None:
    assert parse(promised(content_md5=MD5), False) == Expected(md5=hashlib.md5(b"x").digest())


@rows("algorithm", ALGORITHMS)
def test_a_checksum_by_header_or_by_trailer(algorithm: str) -> None:
    name = ALGORITHMS[algorithm].header
    value = checksums.digest(algorithm, b"x")
    assert parse({name: base64.b64encode(value)}, False) == Expected(algorithm=algorithm, value=value)
    assert parse({b"x-amz-trailer": name}, True) == Expected(algorithm=algorithm, trailer=name)
    named = {b"x-amz-sdk-checksum-algorithm": algorithm.lower().encode()}
    assert parse({name: base64.b64encode(value), **named}, False).value == value
    assert parse({b"x-amz-trailer": name, **named}, True).trailer == name


@rows("value", ["", "x", MD5[:-1], MD5 + "=", MD5 + "\n", CRC32, "=" * 24, MD5[:-3] + "h==", "é"])
def test_a_content_md5_that_is_none_is_an_invalid_digest(value: str) -> None:
    error = refused(promised(content_md5=value))
    assert (error.code, error.status) == ("InvalidDigest", 400)


@rows(
    "headers",
    [
        promised(x_amz_checksum_md4=MD5),
        promised(x_amz_checksum_crc32=CRC32, x_amz_checksum_crc32c=CRC32),
        promised(x_amz_sdk_checksum_algorithm="CRC32"),
        promised(x_amz_sdk_checksum_algorithm="MD4", x_amz_checksum_crc32=CRC32),
        promised(x_amz_sdk_checksum_algorithm="SHA1", x_amz_checksum_crc32=CRC32),
    ],
)
def test_a_checksum_that_is_none_is_an_invalid_request(headers: dict[bytes, bytes]) -> None:
    assert (refused(headers).code, refused(headers).status) == ("InvalidRequest", 400)


@rows(
    "headers",
    [
        promised(x_amz_checksum_crc32="AAAA"),
        promised(x_amz_checksum_crc32="AAAAAB=="),  # bits beyond the value
        promised(x_amz_checksum_crc32="!!!!!!=="),
        promised(x_amz_checksum_sha256=CRC32),
    ],
)
def test_a_checksum_that_no_body_has_is_a_bad_digest(headers: dict[bytes, bytes]) -> None:
    assert (refused(headers).code, refused(headers).status) == ("BadDigest", 400)


@rows(
    ("headers", "trailing"),
    [
        (promised(x_amz_trailer="x-amz-checksum-crc32"), False),
        (promised(x_amz_trailer="x-amz-checksum-crc32", x_amz_checksum_crc32c=CRC32), True),
        (promised(x_amz_trailer="x-amz-checksum-crc32,x-amz-checksum-sha1"), True),
        (promised(x_amz_trailer="content-length"), True),
        (promised(x_amz_trailer="authorization"), True),
    ],
)
def test_a_trailer_that_may_not_be_announced_is_an_invalid_request(headers: dict[bytes, bytes], trailing: bool) -> None:
    assert refused(headers, trailing).code == "InvalidRequest"


@given(st.binary(max_size=12), st.integers(0, 8))
def test_base64_is_strict(data: bytes, size: int) -> None:
    encoded = base64.b64encode(data)
    assert checksums.decode(encoded, size) == (data if len(data) == size else None)
    assert checksums.decode(encoded + b" ", len(data)) is None
    assert checksums.decode(b"\n" + encoded, len(data)) is None


# ---------------------------------------------------------------- across parts

PARTS = st.lists(st.binary(max_size=300), min_size=1, max_size=6)


@pytest.mark.parametrize("algorithm", CRCS)
@given(PARTS)
def test_parts_combine_to_the_crc_of_the_whole(algorithm: str, parts: list[bytes]) -> None:
    combined = checksums.full_object(algorithm, [(checksums.digest(algorithm, part), len(part)) for part in parts])
    assert combined == Checksum(algorithm, checksums.digest(algorithm, b"".join(parts)))


@pytest.mark.parametrize("algorithm", CRCS)
def test_long_parts_combine(algorithm: str) -> None:
    """CRC(zeros of 5 GiB) by doubling, against one combination over that length."""
    doubled, length = checksums.digest(algorithm, bytes(1 << 20)), 1 << 20
    while length < 4 << 30:
        doubled = checksums.full_object(algorithm, [(doubled, length), (doubled, length)]).value
        length *= 2
    head = checksums.digest(algorithm, b"head")
    once = checksums.full_object(algorithm, [(head, 4), (doubled, length)])
    half = checksums.digest(algorithm, bytes(1 << 20))
    step, done = checksums.full_object(algorithm, [(head, 4), (half, 1 << 20)]).value, 1 << 20
    block = half
    while done < length:  # … 1, 1, 2, 4 … MiB: the same zeros in another order of combining
        step = checksums.full_object(algorithm, [(step, 4 + done), (block, done)]).value
        block = checksums.full_object(algorithm, [(block, done), (block, done)]).value
        done *= 2
    assert once.value == step


@given(st.sampled_from(["CRC32", "CRC32C", "SHA1", "SHA256"]), PARTS)
def test_a_composite_is_the_digest_of_the_parts_digests(algorithm: str, parts: list[bytes]) -> None:
    values = [checksums.digest(algorithm, part) for part in parts]
    made = checksums.composite(algorithm, values)
    assert made == Checksum(algorithm, checksums.digest(algorithm, b"".join(values)), composite=True)
    assert checksums.text(made, len(parts)) == base64.b64encode(made.value).decode() + f"-{len(parts)}"
    assert checksums.type_of(made) == "COMPOSITE"


def test_a_full_object_checksum_has_no_count() -> None:
    made = checksums.full_object("CRC32", [(bytes(4), 0)])
    assert checksums.text(made, 3) == CRC32
    assert checksums.type_of(made) == "FULL_OBJECT"
    assert checksums.header_of(made) == b"x-amz-checksum-crc32"


@rows(
    ("algorithm", "asked", "kind"),
    [
        ("CRC32", "", "COMPOSITE"),
        ("CRC32", "FULL_OBJECT", "FULL_OBJECT"),
        ("CRC32C", "composite", "COMPOSITE"),
        ("CRC64NVME", "", "FULL_OBJECT"),
        ("SHA256", "", "COMPOSITE"),
    ],
)
def test_types_of_an_upload(algorithm: str, asked: str, kind: str) -> None:
    assert checksums.upload_type(algorithm, asked) == kind


@pytest.mark.parametrize(
    ("algorithm", "asked"), [("CRC64NVME", "COMPOSITE"), ("SHA1", "FULL_OBJECT"), ("CRC32", "HALF")]
)
def test_types_that_do_not_exist_are_refused(algorithm: str, asked: str) -> None:
    with pytest.raises(S3Error) as caught:
        checksums.upload_type(algorithm, asked)
    assert caught.value.code == "InvalidRequest"


def test_the_multipart_etag() -> None:
    """The form that clients compute themselves: MD5 of the parts' MD5s, a dash, their number."""
    parts = [b"a" * 10, b"b" * 20, b"c"]
    etags = [hashlib.md5(part).hexdigest() for part in parts]
    joined = b"".join(hashlib.md5(part).digest() for part in parts)
    assert checksums.multipart_etag(etags) == hashlib.md5(joined).hexdigest() + "-3"
    assert checksums.multipart_etag([etags[0] + "-1", *etags[1:]]) == checksums.multipart_etag(etags)


@rows("etag", ["", "x" * 32, "0" * 31, "0" * 33, "0" * 32 + "-", " " * 32, "0" * 30 + " 0", "é" * 32])
def test_what_is_no_etag_is_an_invalid_part(etag: str) -> None:
    with pytest.raises(S3Error) as caught:
        checksums.multipart_etag(["0" * 32, etag])
    assert caught.value.code == "InvalidPart"
