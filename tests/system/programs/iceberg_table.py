"""What users of pyiceberg do: a table in a catalogue, appends by several writers, time travel, deletes, a filter.

Twice: by pyarrow's S3 (AWS's SDK for C++) and by s3fs.  The catalogue decides who commits; the bucket must show each
metadata file to everybody as soon as it is written, and refuse none.

Arguments: a bucket that exists, a directory for the catalogue, the class that does the I/O.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.expressions import EqualTo

WRITERS = 4


def main(bucket: str, directory: str, io: str) -> None:
    settings = {
        "type": "sql",
        "uri": f"sqlite:///{directory}/{io}.db",
        "warehouse": f"s3://{bucket}/{io}",
        "py-io-impl": f"pyiceberg.io.{io}",
        "s3.endpoint": os.environ["AWS_ENDPOINT_URL"],
        "s3.access-key-id": os.environ["AWS_ACCESS_KEY_ID"],
        "s3.secret-access-key": os.environ["AWS_SECRET_ACCESS_KEY"],
        "s3.region": os.environ["AWS_REGION"],
    }
    catalogue = load_catalog("box", **settings)
    catalogue.create_namespace("n")
    schema = pa.schema([("writer", pa.int64()), ("n", pa.int64()), ("text", pa.string())])
    catalogue.create_table("n.t", schema=schema)

    def rows(writer: int) -> pa.Table:
        return pa.table(
            {"writer": [writer] * 1000, "n": list(range(1000)), "text": [f"{writer} ä {n}" for n in range(1000)]},
            schema=schema,
        )

    def append(writer: int) -> int:
        for attempt in range(100):
            try:
                load_catalog("box", **settings).load_table("n.t").append(rows(writer))
                return attempt
            except CommitFailedException:
                continue
        raise AssertionError(f"writer {writer} never won")

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(append, range(WRITERS)))
    table = catalogue.load_table("n.t")
    assert table.scan().to_arrow().num_rows == WRITERS * 1000
    assert len(table.history()) == WRITERS
    first = table.history()[0].snapshot_id
    assert table.scan(snapshot_id=first).to_arrow().num_rows == 1000
    one = table.scan(row_filter=EqualTo("writer", 2), selected_fields=("n",)).to_arrow()
    assert sorted(one["n"].to_pylist()) == list(range(1000))
    table.delete(EqualTo("writer", 3))
    table.overwrite(rows(9), overwrite_filter=EqualTo("writer", 1))
    left = catalogue.load_table("n.t").scan().to_arrow()
    assert sorted(set(left["writer"].to_pylist())) == [0, 2, 9]
    assert left.num_rows == 3000


if __name__ == "__main__":
    main(*sys.argv[1:])
