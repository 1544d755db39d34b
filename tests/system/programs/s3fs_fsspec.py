"""What users of s3fs and fsspec do: trees, files opened for reading, writing and appending, globs, renames, blocks.

Arguments: a bucket to make, a directory to keep, a directory to make.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import fsspec
import s3fs

MIB = 1 << 20


def main(bucket: str, tree: Path, back: Path) -> None:
    fs = s3fs.S3FileSystem(use_listings_cache=False, default_block_size=5 * MIB)
    fs.mkdir(bucket)
    assert bucket in fs.ls("")
    assert fs.exists(bucket)
    assert not fs.exists(f"{bucket}/absent")

    fs.put(f"{tree}/", f"{bucket}/tree/", recursive=True)
    fs.get(f"{bucket}/tree/", f"{back}/", recursive=True)
    found = {path: fs.size(path) for path in fs.find(f"{bucket}/tree")}
    local = {f"{bucket}/tree/{p.relative_to(tree)}": p.stat().st_size for p in tree.rglob("*") if p.is_file()}
    assert found == local
    assert fs.du(f"{bucket}/tree") == sum(local.values())
    assert len(fs.glob(f"{bucket}/tree/dir 1/**/file-*")) == 3
    assert fs.isdir(f"{bucket}/tree/dir 1")
    assert not fs.isfile(f"{bucket}/tree/dir 1")

    body = os.urandom(16 * MIB + 11)
    with fs.open(f"{bucket}/written", "wb", block_size=5 * MIB) as file:
        for start in range(0, len(body), 3_000_000):
            file.write(body[start : start + 3_000_000])
    assert fs.info(f"{bucket}/written")["size"] == len(body)
    with fs.open(f"{bucket}/written", "rb", block_size=64 * 1024, cache_type="readahead") as file:
        for seed in range(40):
            at = random.Random(seed).randrange(len(body))
            file.seek(at)
            assert file.read(1000) == body[at : at + 1000]
    assert fs.read_block(f"{bucket}/written", 5 * MIB - 5, 10) == body[5 * MIB - 5 :][:10]
    assert fs.cat_ranges([f"{bucket}/written"] * 2, [0, 100], [10, 110]) == [body[:10], body[100:110]]
    assert fs.tail(f"{bucket}/written", 9) == body[-9:]

    # An append copies what is there as a first part, or writes it again if it is too small to be one.
    for path, first in ((f"{bucket}/written", body), (f"{bucket}/small", b"abc")):
        if first == b"abc":
            fs.pipe_file(path, first)
        with fs.open(path, "ab") as file:
            file.write(b"appended")
        assert fs.cat_file(path) == first + b"appended", path
    fs.touch(f"{bucket}/empty")
    assert fs.size(f"{bucket}/empty") == 0
    fs.pipe_file(f"{bucket}/exclusive", b"1", mode="create")
    try:
        fs.pipe_file(f"{bucket}/exclusive", b"2", mode="create")
    except FileExistsError:
        pass
    else:
        raise AssertionError("created twice")
    fs.pipe_file(f"{bucket}/exclusive", os.urandom(12 * MIB), chunksize=5 * MIB)
    try:
        fs.pipe_file(f"{bucket}/exclusive", os.urandom(12 * MIB), chunksize=5 * MIB, mode="create")
    except FileExistsError:
        pass
    else:
        raise AssertionError("created twice, in parts")

    fs.cp(f"{bucket}/tree/dir 0/", f"{bucket}/copied/", recursive=True)
    fs.mv(f"{bucket}/small", f"{bucket}/moved")
    assert (fs.exists(f"{bucket}/small"), fs.exists(f"{bucket}/moved")) == (False, True)
    fs.setxattr(f"{bucket}/moved", colour="blue")
    assert fs.getxattr(f"{bucket}/moved", "colour") == "blue"
    assert fs.metadata(f"{bucket}/moved") == {"colour": "blue"}
    assert fs.url(f"{bucket}/moved").startswith("http")
    fs.rm(f"{bucket}/copied", recursive=True)
    assert fs.find(f"{bucket}/copied") == []

    with fsspec.open(f"s3://{bucket}/text.csv.gz", "wt", compression="gzip") as file:
        file.write("a,b\n1,ä\n")
    with fsspec.open(f"s3://{bucket}/text.csv.gz", "rt", compression="gzip") as file:
        assert file.read() == "a,b\n1,ä\n"
    mapped = fsspec.get_mapper(f"s3://{bucket}/mapped")  # as zarr keeps its arrays
    mapped["0.0"] = b"chunk"
    assert (list(mapped), mapped["0.0"]) == (["0.0"], b"chunk")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
