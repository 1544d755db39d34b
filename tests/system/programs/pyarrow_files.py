"""What users of pyarrow's own S3 file system do (AWS's SDK for C++): files, streams, datasets, directories.

Arguments: a bucket to make, a directory to keep.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

MIB = 1 << 20


def main(bucket: str, tree: Path) -> None:
    s3 = fs.S3FileSystem(
        endpoint_override=os.environ["AWS_ENDPOINT_URL"], allow_bucket_creation=True, allow_bucket_deletion=True
    )
    s3.create_dir(bucket)
    fs.copy_files(str(tree), f"{bucket}/tree", source_filesystem=fs.LocalFileSystem(), destination_filesystem=s3)
    found = {i.path: i.size for i in s3.get_file_info(fs.FileSelector(f"{bucket}/tree", recursive=True)) if i.is_file}
    local = {f"{bucket}/tree/{p.relative_to(tree)}": p.stat().st_size for p in tree.rglob("*") if p.is_file()}
    assert found == local

    body = os.urandom(23 * MIB)
    with s3.open_output_stream(f"{bucket}/stream", metadata={"Content-Type": "x/y"}) as out:
        for start in range(0, len(body), 4_000_000):
            out.write(body[start : start + 4_000_000])
    with s3.open_input_file(f"{bucket}/stream") as file:
        assert file.size() == len(body)
        assert file.read_at(100, 10 * MIB) == body[10 * MIB :][:100]
        assert file.metadata()["Content-Type"] == b"x/y"
    with s3.open_input_stream(f"{bucket}/stream") as stream:
        assert stream.read() == body

    table = pa.table({"n": list(range(50_000)), "g": [str(n % 4) for n in range(50_000)]})
    pq.write_table(table, f"{bucket}/one.parquet", filesystem=s3)
    assert pq.read_table(f"{bucket}/one.parquet", filesystem=s3).equals(table)
    ds.write_dataset(table, f"{bucket}/set", filesystem=s3, format="parquet", partitioning=["g"])
    dataset = ds.dataset(f"{bucket}/set", filesystem=s3, partitioning=["g"])
    assert dataset.count_rows(filter=ds.field("g") == 1) == 12_500

    s3.move(f"{bucket}/one.parquet", f"{bucket}/moved.parquet")
    s3.create_dir(f"{bucket}/made/deep", recursive=True)
    assert s3.get_file_info(f"{bucket}/made/deep").type is fs.FileType.Directory
    s3.delete_dir(f"{bucket}/set")
    assert s3.get_file_info(f"{bucket}/set").type is fs.FileType.NotFound
    assert s3.get_file_info(f"{bucket}/one.parquet").type is fs.FileType.NotFound
    s3.create_dir(f"{bucket}-2")
    s3.delete_dir(f"{bucket}-2")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
