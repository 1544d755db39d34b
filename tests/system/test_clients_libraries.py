"""Libraries that speak S3, each by a program of its own (programs/), and their bytes through the mount."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.box import Box, digest
from tests.system.clients import Clients, files

pytestmark = [pytest.mark.system, pytest.mark.slow]


def objects(box: Box, bucket: str) -> dict[str, str]:
    """Digest of every object, read through S3, by its name on the mount: what `files` must find there."""
    pages = box.s3().get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [item["Key"] for page in pages for item in page["Contents"]]
    names = {key: f"{key}.tierce~n~" if key.endswith("/") else key for key in keys}
    return {name: digest(box.s3().get_object(Bucket=bucket, Key=key)["Body"].read()) for key, name in names.items()}


def test_minio_python(box: Box, clients: Clients, tree: Path) -> None:
    clients.python("minio_python", "minio-python", tree)
    bucket = box.mount / "minio-python"
    assert files(bucket / "tree") == files(tree)
    assert sorted(path.name for path in bucket.iterdir()) == ["stream", "tree"]


def test_s3fs(box: Box, clients: Clients, tree: Path, tmp_path: Path) -> None:
    clients.python("s3fs_fsspec", "s3fs", tree, tmp_path / "back")
    assert files(box.mount / "s3fs" / "tree") == files(tree) == files(tmp_path / "back")
    assert (box.mount / "s3fs" / "moved").read_bytes() == b"abcappended"
    assert (box.mount / "s3fs" / "mapped" / "0.0").read_bytes() == b"chunk"


def test_pyarrow(box: Box, clients: Clients, tree: Path) -> None:
    clients.python("pyarrow_files", "pyarrow", tree)
    found = files(box.mount / "pyarrow" / "tree")
    markers = {name for name in found if name.endswith(".tierce~n~")}
    assert len(markers) == 7, "pyarrow makes an empty object for each directory: `tree/`, which is none by name"
    assert {name: text for name, text in found.items() if name not in markers} == files(tree)
    assert (box.mount / "pyarrow" / "made" / "deep").is_dir()


def test_javascript(box: Box, clients: Clients, tree: Path) -> None:
    clients.javascript("javascript", "javascript", tree)
    assert files(box.mount / "javascript" / "tree") == files(tree)
    assert (box.mount / "javascript" / "presigned").read_bytes() == b"presigned"


def test_delta_tables(box: Box, clients: Clients, bucket: str) -> None:
    clients.python("delta_table", bucket)
    log = sorted(path.name for path in (box.mount / bucket / "table" / "_delta_log").glob("*.json"))
    assert log[:13] == [f"{number:020}.json" for number in range(13)], "no commit is missing"
    assert files(box.mount / bucket) == objects(box, bucket)
    # What vacuum left is the table: four writers' rows without the first's, of which ten were raised by 100.
    clients.python("parquet_sums", box.mount / bucket / "table" / "*.parquet", "n", str(10 * 45 + 10 * 100))


@pytest.mark.parametrize("io", ["pyarrow.PyArrowFileIO", "fsspec.FsspecFileIO"])
def test_iceberg_tables(box: Box, clients: Clients, bucket: str, tmp_path: Path, io: str) -> None:
    clients.python("iceberg_table", bucket, tmp_path, io)
    assert list((box.mount / bucket / io).rglob("*.metadata.json"))
    assert files(box.mount / bucket) == objects(box, bucket)
    # Nothing is vacuumed: four writers' files and the one that took the second's place, 1,000 rows each.
    clients.python("parquet_sums", box.mount / bucket / io / "**" / "*.parquet", "n", str(5 * 1000 * 999 // 2))


def test_duckdb(box: Box, clients: Clients, bucket: str, tmp_path: Path) -> None:
    """What DuckDB wrote, the mount's DuckDB reads: parquet's own structure is the comparison."""
    clients.python("duckdb_httpfs", bucket)
    clients.python("parquet_sums", box.mount / bucket / "one.parquet", "i", str(400_000 * 399_999 // 2))
