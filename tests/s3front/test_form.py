"""Forms as they come in pieces: the same fields and file however the bytes are cut, and bounds before the file."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from s3front import form
from s3front.errors import S3Error
from s3front.form import Form
from s3front.transfer import ClientGone
from tests.rows import rows
from tests.s3front.posting import BOUNDARY, Part, multipart

HEADERS = [(b"content-type", b"multipart/form-data; boundary=" + BOUNDARY)]


def read(body: bytes, step: int = 1 << 20, headers: Any = HEADERS, gone: bool = False) -> tuple[dict[str, str], bytes]:
    """Fields and file."""
    pieces = [body[start : start + step] for start in range(0, len(body), step)] or [b""]

    async def receive() -> dict[str, Any]:
        if not pieces:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces) or gone}

    async def go() -> tuple[dict[str, str], bytes]:
        one = Form(headers, receive)
        fields = dict(await one.read_fields())
        file = bytearray()
        while piece := await one.file_piece():
            file += piece
        assert await one.file_piece() == b""
        return fields, bytes(file)

    return trio.run(go)


@given(
    fields=st.dictionaries(st.sampled_from(["key", "acl", "x-amz-meta-a", "Content-Type"]), st.text(max_size=40)),
    file=st.binary(max_size=300) | st.just(b"\r\n--" + BOUNDARY[:-1]) | st.just(b"\r\n--\r\n\r\r\n"),
    step=st.integers(1, 200),
)
def test_how_the_bytes_are_cut_does_not_matter(fields: dict[str, str], file: bytes, step: int) -> None:
    body = multipart([*fields.items(), ("file", file), ("submit", "after the file nothing counts")])
    expected = {name.lower(): value.replace("${filename}", "a.txt") for name, value in fields.items()}
    assert read(body, step) == (expected, file)


PIECES = (
    b"--" + BOUNDARY,
    b"\r\n--" + BOUNDARY,
    b"\r\n",
    b"--",
    b'Content-Disposition: form-data; name="file"',
    b'Content-Disposition: form-data; name="key"',
    b"\r\n\r\n",
    b"x",
    b"\xff",
    b":",
    b"Content-Length: 3",
)


@given(st.lists(st.sampled_from(PIECES), max_size=14), st.integers(1, 60))
def test_whatever_comes_is_read_or_refused(pieces: list[bytes], step: int) -> None:
    with contextlib.suppress(S3Error):
        read(b"".join(pieces), step)


@rows(
    "given_name,shown",
    [
        ("photo.jpg", "photo.jpg"),
        ("/fotos/anna/photo.jpg", "photo.jpg"),
        ("C:\\fotos\\photo.jpg", "photo.jpg"),
        ("../../etc/passwd", "passwd"),
        ("", ""),
    ],
)
def test_the_file_name_takes_its_place_in_every_field(given_name: str, shown: str) -> None:
    body = multipart(
        [
            ("key", "u/${filename}/${filename}"),
            ("x-amz-meta-n", "${filename}"),
            ("policy", "${filename}"),
            ("file", b""),
        ],
        filename=given_name,
    )
    fields, _ = read(body)
    assert fields == {"key": f"u/{shown}/{shown}", "x-amz-meta-n": shown, "policy": "${filename}"}


def code_of(body: bytes, **how: Any) -> str:
    with pytest.raises(S3Error) as caught:
        read(body, **how)
    assert caught.value.status == 400
    return caught.value.code


def test_what_is_wrong_with_a_form_has_its_name() -> None:
    file = ("file", b"content")
    assert code_of(b"") == "MalformedPOSTRequest"
    assert code_of(b"no boundary at all") == "MalformedPOSTRequest"
    assert code_of(multipart([("key", "k")])) == "IncorrectNumberOfFilesInPostRequest"
    assert code_of(multipart([("key", "k"), file, file])) == "IncorrectNumberOfFilesInPostRequest"
    assert code_of(multipart([("key", "k"), ("KEY", "l"), file])) == "InvalidArgument"
    assert code_of(multipart([("key", b"\xff"), file])) == "MalformedPOSTRequest"
    assert code_of(multipart([("", "x"), file])) == "MalformedPOSTRequest"
    assert code_of(multipart([("key", "k"), file], closed=False)) == "MalformedPOSTRequest"
    for bad in (b"", b"; boundary=", b'; boundary="a\x01b"', b"; boundary=" + b"x" * 201):
        headers = [(b"content-type", b"multipart/form-data" + bad)]
        assert code_of(multipart([file]), headers=headers) == "MalformedPOSTRequest"


def test_what_comes_before_the_file_is_bounded() -> None:
    file = ("file", b"x" * 100_000)
    fits, too_much = "v" * 19_000, "v" * 30_000
    assert read(multipart([("a", fits), file]), 999)[0] == {"a": fits}
    long: list[Part] = [("a", too_much), file]
    many: list[Part] = [*((f"n{number}", "v") for number in range(400)), file]
    for parts in (long, many):
        for step in (500, 1 << 20):
            assert code_of(multipart(parts), step=step) == "MaxPostPreDataLengthExceeded"
    preamble = b"x" * 30_000 + b"\r\n" + multipart([file])
    assert code_of(preamble, step=500) == "MaxPostPreDataLengthExceeded"
    assert code_of(multipart([file, ("after", b"x" * 100_000)]), step=9_000) == "MaxPostPreDataLengthExceeded"


def test_a_client_that_leaves_in_the_middle_is_no_form() -> None:
    with pytest.raises(ClientGone):
        read(multipart([("key", "k"), ("file", b"abc")])[:-40], gone=True)


@rows(
    "headers,expected",
    [
        ([(b"content-type", b"multipart/form-data; boundary=x")], True),
        ([(b"content-type", b"Multipart/Form-Data; boundary=x")], True),
        ([(b"content-type", b"application/xml")], False),
        ([], False),
        ([(b"content-type", b"multipart/form-data; boundary=x"), (b"authorization", b"AWS4-HMAC-SHA256 C")], False),
    ],
)
def test_what_counts_as_a_form(headers: list[tuple[bytes, bytes]], expected: bool) -> None:
    assert form.comes(b"", headers) is expected
    assert not form.comes(b"X-Amz-Signature=00", headers)
