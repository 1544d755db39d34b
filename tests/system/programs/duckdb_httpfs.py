"""What users of DuckDB do: parquet and CSV written to and read from a bucket by SQL, in parts, by globs, by partitions.

DuckDB fetches its extensions from its own site; here httpfs is loaded from the wheel that carries it.

Arguments: a bucket that exists.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import duckdb
import duckdb_extension_httpfs

ROWS = 400_000


def main(bucket: str) -> None:
    db = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    (extension,) = Path(duckdb_extension_httpfs.__file__).parent.rglob("httpfs.duckdb_extension")
    db.execute(f"LOAD '{extension}'")
    db.execute(
        f"""CREATE SECRET box (TYPE s3, KEY_ID '{os.environ["AWS_ACCESS_KEY_ID"]}',
            SECRET '{os.environ["AWS_SECRET_ACCESS_KEY"]}', REGION '{os.environ["AWS_REGION"]}', USE_SSL false,
            URL_STYLE 'path', ENDPOINT '{os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")}')"""
    )
    db.execute("SET s3_uploader_max_filesize = '50GB'")  # parts of 5 MiB
    db.execute(f"CREATE TABLE t AS SELECT i, i % 3 AS g, hash(i) AS h, 'text ä ' || i AS s FROM range({ROWS}) r(i)")

    db.execute(f"COPY t TO 's3://{bucket}/one.parquet' (FORMAT parquet, COMPRESSION uncompressed)")
    assert db.sql(f"SELECT * FROM 's3://{bucket}/one.parquet' EXCEPT SELECT * FROM t").fetchall() == []
    count, total = db.sql(f"SELECT count(*), sum(i) FROM 's3://{bucket}/one.parquet'").fetchall()[0]
    assert (count, total) == (ROWS, ROWS * (ROWS - 1) // 2)
    found = db.sql(f"SELECT s FROM 's3://{bucket}/one.parquet' WHERE i = 123456").fetchall()
    assert found == [("text ä 123456",)], "a range of the file, found by its statistics"

    db.execute(f"COPY t TO 's3://{bucket}/parts' (FORMAT parquet, PARTITION_BY g)")
    query = f"SELECT g, count(*) FROM read_parquet('s3://{bucket}/parts/*/*.parquet', hive_partitioning = true)"
    assert (
        db.sql(query + " GROUP BY g ORDER BY g").fetchall()
        == db.sql("SELECT g, count(*) FROM t GROUP BY g ORDER BY g").fetchall()
    )
    files = db.sql(f"SELECT file FROM glob('s3://{bucket}/parts/g=1/*')").fetchall()
    assert files
    assert all(name.startswith(f"s3://{bucket}/parts/g=1/") for (name,) in files)

    db.execute(f"COPY (FROM t LIMIT 1000) TO 's3://{bucket}/few.csv' (HEADER)")
    assert db.sql(f"SELECT count(*), max(i) FROM 's3://{bucket}/few.csv'").fetchall() == [(1000, 999)]
    db.execute(f"COPY (SELECT 1 AS a) TO 's3://{bucket}/one.parquet' (FORMAT parquet)")
    assert db.sql(f"FROM 's3://{bucket}/one.parquet'").fetchall() == [(1,)], "an object that was overwritten"
    db.execute(f"COPY t TO 's3://{bucket}/one.parquet' (FORMAT parquet, COMPRESSION uncompressed)")


if __name__ == "__main__":
    main(sys.argv[1])
