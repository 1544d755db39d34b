"""Request headers to attributes and back."""

from __future__ import annotations

import email.header
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.model import NO_ATTRIBUTES, TIMED, Attributes, Checksum, Node, pack_attributes
from s3front import metadata
from s3front.errors import S3Error
from tests.rows import rows


def node(attributes: Attributes, **changes: object) -> Node:
    base = Node(
        id=1, mode=0o100644, uid=0, gid=0, links=1, size=5, atime_ns=0, mtime_ns=0, ctime_ns=0,
        written_ns=1_700_000_000_500_000_000, generation=1, etag="e" * 32, kind=0, ref=0, data=b"", flags=0,
        packed=pack_attributes(attributes),
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def back(attributes: Attributes) -> dict[str, str]:
    headers = metadata.object_headers(node(attributes))
    for name, value in headers:
        assert not re.search(rb"[\x00-\x1f\x7f]", value), (name, value)
    return {name.decode(): value.decode() for name, value in headers}


def test_everything_said_comes_back() -> None:
    said = {
        b"content-type": b"text/html; charset=utf-8",
        b"cache-control": b"no-cache",
        b"content-disposition": 'attachment; filename="é.txt"'.encode(),
        b"content-encoding": b"gzip",
        b"content-language": b"de",
        b"expires": b"0",
        b"x-amz-storage-class": b"STANDARD_IA",
        b"x-amz-website-redirect-location": b"/other",
        b"x-amz-meta-mtime": b"1700000000.5",
        b"x-amz-meta-empty": b"",
        b"host": b"h",
        b"x-amz-date": b"d",
        b"x-amz-acl": b"private",
    }
    found = metadata.from_headers(said)
    assert found.user == {"mtime": "1700000000.5", "empty": ""}
    answered = back(found)
    for name in (n.decode() for n in said if n not in (b"host", b"x-amz-date", b"x-amz-acl")):
        assert answered[name].encode() == said[name.encode()], name
    assert answered["etag"] == '"' + "e" * 32 + '"'
    assert answered["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"


def test_nothing_said_is_nothing_stored() -> None:
    assert metadata.from_headers({b"host": b"h", b"content-length": b"5"}) is NO_ATTRIBUTES
    assert metadata.from_headers({b"content-type": b"binary/octet-stream"}) == NO_ATTRIBUTES
    assert metadata.from_headers({b"x-amz-storage-class": b"STANDARD"}) == NO_ATTRIBUTES
    answered = back(NO_ATTRIBUTES)
    assert answered["content-type"] == "binary/octet-stream"
    assert "x-amz-storage-class" not in answered


@rows(
    ("sent", "kept"),
    [
        ("aws-chunked", ""),
        ("gzip,aws-chunked", "gzip"),
        ("aws-chunked, gzip , br", "gzip,br"),
        ("gzip, br", "gzip, br"),
    ],
)
def test_the_transfers_own_coding_is_not_stored(sent: str, kept: str) -> None:
    assert metadata.from_headers({b"content-encoding": sent.encode()}).content_encoding == kept


def test_user_metadata_is_bounded() -> None:
    metadata.from_headers({b"x-amz-meta-a": b"x" * 2047})
    with pytest.raises(S3Error) as caught:
        metadata.from_headers({b"x-amz-meta-a": b"x" * 1024, b"x-amz-meta-b": b"x" * 1023})
    assert (caught.value.code, caught.value.status) == ("MetadataTooLarge", 400)


@rows(
    "headers",
    [
        {b"x-amz-write-offset-bytes": b"10"},
    ],
)
def test_what_is_not_here_is_refused_not_ignored(headers: dict[bytes, bytes]) -> None:
    for check in (metadata.from_headers, metadata.check_refused):
        with pytest.raises(S3Error) as caught:
            check(headers)
        assert (caught.value.code, caught.value.status) == ("NotImplemented", 501)


@rows("name", ["GLACIER", "DEEP_ARCHIVE", "standard", "x", ""])
def test_other_storage_classes_are_refused(name: str) -> None:
    with pytest.raises(S3Error) as caught:
        metadata.from_headers({b"x-amz-storage-class": name.encode()})
    assert caught.value.code == "InvalidStorageClass"


def test_a_redirect_is_a_path_or_a_url() -> None:
    with pytest.raises(S3Error):
        metadata.from_headers({b"x-amz-website-redirect-location": b"javascript:alert(1)"})


def test_user_metadata_outside_ascii_becomes_an_encoded_word() -> None:
    for raw in ("grüße".encode(), "grüße".encode("latin-1")):
        answered = back(metadata.from_headers({b"x-amz-meta-a": raw}))["x-amz-meta-a"]
        ((text, charset),) = email.header.decode_header(answered)
        assert isinstance(text, bytes)
        assert text.decode(charset or "") == "grüße"
    encoded = b"=?UTF-8?B?Z3LDvMOfZQ==?="  # what a client encoded itself comes back as it was
    assert back(metadata.from_headers({b"x-amz-meta-a": encoded}))["x-amz-meta-a"].encode() == encoded


values = st.text(max_size=40)


@given(values, values, st.dictionaries(st.text(max_size=10), values, max_size=4))
def test_no_line_end_gets_out(content_type: str, disposition: str, user: dict[str, str]) -> None:
    """Whatever was stored, by whichever door."""
    answered = back(Attributes(content_type=content_type, content_disposition=disposition, user=user))
    shown = sum(name.startswith("x-amz-meta-") for name in answered)
    assert shown + int(answered.get("x-amz-missing-meta", 0)) == len(user)


def test_the_mounts_time_is_shown_as_metadata() -> None:
    headers = dict(metadata.object_headers(node(NO_ATTRIBUTES, flags=TIMED, mtime_ns=1_500_000_000)))
    assert headers[b"x-amz-meta-mtime"] == b"1.5"


def test_checksums_are_shown_with_their_type() -> None:
    checksum = Checksum("CRC32", b"\x00\x01\x02\x03")
    assert metadata.checksum_headers(checksum) == [
        (b"x-amz-checksum-crc32", b"AAECAw=="),
        (b"x-amz-checksum-type", b"FULL_OBJECT"),
    ]
    composite = Checksum("CRC32", b"\x00\x01\x02\x03", composite=True)
    assert dict(metadata.checksum_headers(composite, 3))[b"x-amz-checksum-crc32"] == b"AAECAw==-3"
    assert metadata.checksum_xml(None) == ""
    assert metadata.checksum_xml(composite, 3) == (
        "<ChecksumCRC32>AAECAw==-3</ChecksumCRC32><ChecksumType>COMPOSITE</ChecksumType>"
    )
