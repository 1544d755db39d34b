"""Whatever comes, signed and well-formed as HTTP, the answer is S3's and never an accident."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3front.errors import ERRORS
from s3front.router import SUBRESOURCES
from tests.s3front.box import Box

pytestmark = pytest.mark.slow  # in all: most talk to real sockets or run real programs

segments = st.sampled_from(
    ["b", "b", "new-bucket", "none", "k", "d/", "%", "%41", "%FF", "%00", "a%2Fb", "..", "+", ""]
)
names = st.sampled_from(
    [
        *sorted(SUBRESOURCES), "prefix", "marker", "max-keys", "partNumber", "versionId", "encoding-type", "delimiter",
        "continuation-token", "start-after", "response-content-type", "key-marker", "upload-id-marker", "x-id",
    ]
)  # fmt: skip
values = st.sampled_from(
    ["", "1", "2", "-1", "null", "url", "%2F", "%0D%0A", "%FF", "%", "a", "upload-00000003", "99999999999"]
)
headers = st.dictionaries(
    st.sampled_from(
        [
            "range", "if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "content-md5",
            "x-amz-copy-source", "x-amz-copy-source-range", "x-amz-metadata-directive", "x-amz-meta-a", "x-amz-acl",
            "x-amz-object-attributes", "x-amz-checksum-crc32", "x-amz-checksum-algorithm", "x-amz-checksum-type",
            "x-amz-max-parts", "x-amz-storage-class", "x-amz-mp-object-size", "content-encoding", "content-type",
            "x-amz-if-match-size", "x-amz-checksum-mode", "x-amz-trailer", "x-amz-decoded-content-length",
        ]
    ),
    st.sampled_from(
        [
            "", "*", "bytes=0-1", '"x"', "/b/k", "b/k?versionId=null", "COPY", "REPLACE", "private", "1", "ETag",
            "CRC32", "AAAAAA==", "é", "private, x",
        ]
    ),
    max_size=3,
)  # fmt: skip
bodies = st.sampled_from(
    [
        b"", b"x", b"<a/>", b"<Delete><Object><Key>k</Key></Object></Delete>",
        (
            b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber>"
            b"<ETag>0123456789abcdef0123456789abcdef</ETag></Part></CompleteMultipartUpload>"
        ),
        b"<CreateBucketConfiguration/>",
    ]
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH"]),
    st.lists(segments, max_size=4),
    st.lists(st.tuples(names, values), max_size=3),
    headers,
    bodies,
)
def test_every_answer_is_s3s(
    method: str, path: list[str], query: list[tuple[str, str]], fields: dict[str, str], body: bytes
) -> None:
    box = Box()
    box.send("PUT", "/b/k", body=b"content")
    wire = "&".join(f"{name}={value}" for name, value in query)
    answer = box.send(method, "/" + "/".join(path), wire, fields, body if method in ("PUT", "POST") else b"")
    assert answer.status in (200, 204, 206, 304) or 400 <= answer.status < 500 or answer.status == 501, answer
    assert answer.headers["x-amz-request-id"]
    if answer.status >= 400 and method != "HEAD":
        assert ERRORS[answer.code][0] == answer.status
    if answer.headers.get("content-type") == "application/xml" and answer.body:
        if answer.status >= 400:
            ET.fromstring(answer.body)  # an error can be read whatever it is about
        else:
            ET.fromstring(answer.body.replace(b"&#x0;", b""))  # AWS's own way to write what XML 1.0 cannot hold
    if answer.status in (204, 304) or method == "HEAD":
        assert answer.body == b""
    else:
        assert answer.headers["content-length"] == str(len(answer.body))
