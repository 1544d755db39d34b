"""What users of delta-rs do: write, append, read as of a version, merge, compact, vacuum; and many writers at once.

A commit is a PUT of the log's next number on the condition that nobody else put it (If-None-Match: *).  Without it
delta-rs would need a lock table; with it, each of several processes that append at once must get every row in.

Arguments: a bucket that exists, then `append NUMBER` in the processes that this one starts.
"""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
from deltalake import DeltaTable, QueryBuilder, write_deltalake

WRITERS = 4
COMMITS = 3
OPTIONS = {"AWS_ALLOW_HTTP": "true"}


def rows(writer: int, commit: int) -> pa.Table:
    return pa.table({"writer": [writer] * 10, "commit": [commit] * 10, "n": list(range(10))})


def content(table: DeltaTable) -> list[dict[str, int]]:
    """Every row, read by delta-rs itself."""
    found: list[dict[str, int]] = pa.table(QueryBuilder().register("t", table).execute("SELECT * FROM t")).to_pylist()
    return found


def append(uri: str, writer: int) -> None:
    for commit in range(COMMITS):
        write_deltalake(uri, rows(writer, commit), mode="append", storage_options=OPTIONS)


def main(bucket: str) -> None:
    uri = f"s3://{bucket}/table"
    write_deltalake(uri, rows(-1, 0), storage_options=OPTIONS)
    try:
        write_deltalake(uri, rows(-1, 0), mode="error", storage_options=OPTIONS)
    except Exception as error:
        if "exist" not in str(error):
            raise
    else:
        raise AssertionError("the table was made twice")

    writers = [subprocess.Popen([sys.executable, __file__, bucket, "append", str(n)]) for n in range(WRITERS)]
    assert [writer.wait() for writer in writers] == [0] * WRITERS
    table = DeltaTable(uri, storage_options=OPTIONS)
    assert table.version() == WRITERS * COMMITS, table.version()
    wanted = [row for writer in range(WRITERS) for commit in range(COMMITS) for row in rows(writer, commit).to_pylist()]
    wanted += rows(-1, 0).to_pylist()
    assert sorted(map(repr, content(table))) == sorted(map(repr, wanted)), "every row of every writer, once"
    assert len(content(DeltaTable(uri, version=0, storage_options=OPTIONS))) == 10

    table.delete("writer = 0")
    table.merge(
        rows(1, 0), "s.writer = t.writer and s.commit = t.commit and s.n = t.n", source_alias="s", target_alias="t"
    ).when_matched_update({"n": "s.n + 100"}).execute()
    table.optimize.compact()
    table.create_checkpoint()
    gone = table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    assert gone, "compaction left files behind that nobody needs"
    after = content(DeltaTable(uri, storage_options=OPTIONS))
    assert len(after) == len(wanted) - 10 * COMMITS
    assert sorted(row["n"] for row in after if (row["writer"], row["commit"]) == (1, 0)) == list(range(100, 110))


if __name__ == "__main__":
    if sys.argv[2:]:
        append(f"s3://{sys.argv[1]}/table", int(sys.argv[3]))
    else:
        main(sys.argv[1])
