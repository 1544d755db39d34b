"""Multipart uploads on a bare catalogue: what the parts become."""

from __future__ import annotations

import stat
from unittest import mock

import pytest

from appliance.catalogue import names, uploads
from appliance.catalogue.commands import (
    AbortUpload,
    CompleteUpload,
    CopyPart,
    CreateUpload,
    DeleteBucket,
    PutPart,
    WriteFile,
)
from appliance.errors import Code, StoreError
from appliance.limits import PART_NUMBER_MAX, PART_SIZE_MIN
from appliance.model import Body, Bucket, NewChunk, NewSlice, Node
from tests.appliance.catalogue.batches import NOW, Catalogue
from tests.models.boxes import of_root


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue()


def begin(catalogue: Catalogue, bucket: Bucket, key: bytes = b"k", number: str = "u") -> None:
    catalogue.do(
        CreateUpload(
            id=number,
            bucket=bucket.id,
            key=key,
            owner="me",
            packed=b"",
            checksum_algorithm="",
            checksum_type="",
            now_ns=NOW,
        )
    )


def put_part(catalogue: Catalogue, number: int, data: bytes, upload: str = "u") -> None:
    catalogue.do(
        PutPart(
            upload=upload,
            number=number,
            body=Body(len(data), data),
            copies=1,
            etag=f"e{number}",
            checksum_algorithm="",
            checksum=b"",
            now_ns=NOW,
            label=b"",
        )
    )


def sparse_file(catalogue: Catalogue, bucket: Bucket, size: int, pieces: list[tuple[int, bytes]]) -> Node:
    """A mounted file of holes and `pieces`."""
    node = next(catalogue.ids)
    chunks = tuple(NewChunk(next(catalogue.ids), len(data), data) for _, data in pieces)
    slices = tuple(NewSlice(offset, len(data), chunk.id) for (offset, data), chunk in zip(pieces, chunks, strict=True))
    catalogue.do(
        WriteFile(
            node=node,
            create=(bucket.root, b"sparse"),
            bucket=bucket.id,
            copies=1,
            **of_root(NOW),
            size=size,
            cut=None,
            chunks=chunks,
            slices=slices,
            packed=None,
            etag="f-1",
            label=b"",
        )
    )
    found = names.node_by_id(catalogue.one, node)
    assert found is not None
    return found


def copy_part(catalogue: Catalogue, number: int, source: Node, start: int, length: int) -> None:
    catalogue.do(
        CopyPart(
            upload="u",
            number=number,
            source=source.id,
            generation=source.generation,
            start=start,
            length=length,
            copies=1,
            etag=f"e{number}",
            now_ns=NOW,
            label=b"",
        )
    )


def complete(catalogue: Catalogue, bucket: Bucket, numbers: list[int], key: bytes = b"k") -> Node:
    catalogue.do(
        CompleteUpload(
            upload="u",
            root=bucket.root,
            key=key,
            parts=[(number, f"e{number}") for number in numbers],
            etag="x-2",
            packed=b"",
            mode=stat.S_IFREG | 0o644,
            uid=0,
            gid=0,
            mtime_ns=NOW,
            atime_ns=NOW,
            flags=0,
            now_ns=NOW,
            precondition=None,
        )
    )
    found = names.node_at(catalogue.one, bucket.root, key)
    assert found is not None
    return found


@pytest.fixture
def short_parts() -> object:
    with mock.patch.object(uploads, "PART_SIZE_MIN", 0):
        yield


@pytest.mark.usefixtures("short_parts")
@pytest.mark.parametrize("where", [(0, 2500), (0, 7000), (7000, 0), (7000, 1000)])
def test_a_part_that_is_a_hole_keeps_its_place(catalogue: Catalogue, where: tuple[int, int]) -> None:
    """UploadPartCopy from a sparse file: a part without any chunk still has a length."""
    bucket = catalogue.create_bucket()
    image = bytearray(10_000)
    image[3000:6000] = b"x" * 3000
    source = sparse_file(catalogue, bucket, 10_000, [(3000, b"x" * 3000)])
    starts = [*where, 3000]
    begin(catalogue, bucket)
    for number, start in enumerate(starts, 1):
        copy_part(catalogue, number, source, start, 2500)
    node = complete(catalogue, bucket, [1, 2, 3])
    expected = b"".join(image[start : start + 2500] for start in starts)
    assert node.size == len(expected)
    assert catalogue.read_node(node) == expected
    assert catalogue.problems() == []


@pytest.mark.usefixtures("short_parts")
def test_one_part_alone_is_the_object(catalogue: Catalogue) -> None:
    bucket = catalogue.create_bucket()
    begin(catalogue, bucket)
    put_part(catalogue, 3, b"abc")
    node = complete(catalogue, bucket, [3])
    assert catalogue.read_node(node) == b"abc"
    assert catalogue.one("SELECT count(*) FROM map")[0] == 0
    assert catalogue.problems() == []


@pytest.mark.usefixtures("short_parts")
def test_parts_that_nobody_chose_are_freed(catalogue: Catalogue) -> None:
    bucket = catalogue.create_bucket()
    begin(catalogue, bucket)
    for number in (1, 2, 3):
        put_part(catalogue, number, b"abc" * number)
    put_part(catalogue, 2, b"again")
    node = complete(catalogue, bucket, [1, 3])
    assert catalogue.read_node(node) == b"abc" + b"abc" * 3
    assert catalogue.one("SELECT count(*) FROM chunk")[0] == 2
    assert catalogue.problems() == []


def test_an_aborted_upload_leaves_nothing(catalogue: Catalogue) -> None:
    bucket = catalogue.create_bucket()
    begin(catalogue, bucket)
    put_part(catalogue, 1, b"abc")
    catalogue.do(AbortUpload(upload="u"))
    for table in ("upload", "part", "chunk", "page"):
        assert catalogue.one(f"SELECT count(*) FROM {table}")[0] == 0
    with pytest.raises(StoreError) as caught:
        catalogue.do(AbortUpload(upload="u"))
    assert caught.value.code is Code.NO_SUCH_UPLOAD


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([], Code.INVALID_ARGUMENT),
        ([2, 1], Code.INVALID_PART_ORDER),
        ([1, 1], Code.INVALID_PART_ORDER),
        ([4], Code.INVALID_PART),
        ([1, 2], Code.PART_TOO_SMALL),
    ],
)
def test_a_completion_that_is_refused_changes_nothing(catalogue: Catalogue, parts: list[int], code: Code) -> None:
    bucket = catalogue.create_bucket()
    begin(catalogue, bucket)
    put_part(catalogue, 1, b"abc")
    put_part(catalogue, 2, b"def")
    before = catalogue.every("SELECT * FROM part")
    with pytest.raises(StoreError) as caught:
        complete(catalogue, bucket, parts)
    assert caught.value.code is code
    assert catalogue.every("SELECT * FROM part") == before
    assert PART_SIZE_MIN > 3


@pytest.mark.parametrize("number", [0, PART_NUMBER_MAX + 1])
def test_part_numbers_have_bounds(catalogue: Catalogue, number: int) -> None:
    begin(catalogue, catalogue.create_bucket())
    with pytest.raises(StoreError) as caught:
        put_part(catalogue, number, b"abc")
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_bucket_takes_its_uploads_along(catalogue: Catalogue) -> None:
    """In one step: a client that crashed between the two would leave what no listing shows."""
    bucket, other = catalogue.create_bucket(), catalogue.create_bucket("other")
    for number in range(3):
        begin(catalogue, bucket, b"k%d" % number, f"u{number}")
        put_part(catalogue, 1, b"x" * 5000, f"u{number}")
    begin(catalogue, other, b"k", "stays")
    catalogue.do(DeleteBucket(name=bucket.name, now_ns=NOW))
    assert catalogue.every("SELECT id FROM upload") == [("stays",)]
    assert catalogue.every("SELECT * FROM part") == catalogue.every("SELECT * FROM chunk") == []
    assert catalogue.problems() == []


def test_a_bucket_with_an_object_keeps_its_uploads(catalogue: Catalogue) -> None:
    bucket = catalogue.create_bucket()
    begin(catalogue, bucket)
    sparse_file(catalogue, bucket, 10, [(0, b"x")])
    with pytest.raises(StoreError) as caught:
        catalogue.do(DeleteBucket(name=bucket.name, now_ns=NOW))
    assert caught.value.code is Code.BUCKET_NOT_EMPTY
    assert catalogue.every("SELECT id FROM upload") == [("u",)]
