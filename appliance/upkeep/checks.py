"""What a sound catalogue never shows: each check is a query whose rows are problems.

The checks say in SQL what `catalogue/schema.py` says in words: who names whom, who counts whom, what may not overlap.
A check knows one connection in one read transaction and nothing of devices, engines or time.
"""

from __future__ import annotations

import sqlite3
import stat
from typing import Final

from appliance import settings
from appliance.limits import PAGE_PAYLOAD
from appliance.model import CUSTOMER, MARKER, NULL_VERSION, BodyKind, Frozen

SHOWN_MAX: Final = 100  # problems of one kind that are told one by one

EMPTY, INLINE, WHOLE, MAPPED = (int(kind) for kind in BodyKind)


class Problem(Frozen, frozen=True):
    """One thing that is wrong: of which kind, in which row or extent, and in words."""

    kind: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}: {self.text}"


class Check(Frozen, frozen=True):
    """Rows of `sql` are problems; `where` and `text` are formatted with the row."""

    kind: str
    sql: str
    where: str
    text: str


_REFERENCES: Final = """
    SELECT ref, count(*) AS c FROM (
        SELECT ref FROM node WHERE kind={kind} AND (mode & 61440)=32768
        UNION ALL SELECT ref FROM part WHERE kind={kind}
        UNION ALL SELECT ref FROM slice WHERE kind={kind}
    ) GROUP BY ref
"""
_IS_FILE: Final = f"(n.mode & {stat.S_IFMT(0o170000)})={stat.S_IFREG}"
_IS_DIRECTORY: Final = f"(n.mode & {stat.S_IFMT(0o170000)})={stat.S_IFDIR}"

CHECKS: Final = (
    Check("sqlite", "SELECT * FROM pragma_integrity_check WHERE integrity_check<>'ok'", "catalogue file", "{0}"),
    # -- names
    Check(
        "entry",
        "SELECT e.parent, e.name, e.node FROM entry e LEFT JOIN node n ON n.id=e.node WHERE n.id IS NULL",
        "entry {0}/{1!r}",
        "names node {2}, which is not there",
    ),
    Check(
        "entry",
        "SELECT e.parent, e.name FROM entry e LEFT JOIN node n ON n.id=e.parent"
        f" WHERE n.id IS NULL OR NOT {_IS_DIRECTORY}",
        "entry {0}/{1!r}",
        "its parent is no directory",
    ),
    Check(
        "entry",
        f"SELECT e.parent, e.name FROM entry e JOIN node n ON n.id=e.node WHERE {_IS_DIRECTORY}"
        " <> (substr(e.name, -1)=x'2f') OR instr(substr(e.name, 1, length(e.name)-1), x'2f')",
        "entry {0}/{1!r}",
        "its name does not fit what it names",
    ),
    Check(
        "entry",
        "SELECT e.parent, e.name, n.bucket, p.bucket FROM entry e JOIN node n ON n.id=e.node"
        " JOIN node p ON p.id=e.parent WHERE n.bucket<>p.bucket",
        "entry {0}/{1!r}",
        "is of bucket {2} in a directory of bucket {3}",
    ),
    Check(
        "links",
        "SELECT n.id, n.links, coalesce(c.c, 0) FROM node n"
        " LEFT JOIN (SELECT node, count(*) AS c FROM (SELECT node FROM entry UNION ALL SELECT node FROM version)"
        " GROUP BY node) c ON c.node=n.id"
        f" WHERE NOT {_IS_DIRECTORY} AND n.links<>coalesce(c.c, 0)",
        "node {0}",
        "says {1} links and has {2} names",
    ),
    Check(
        "links",
        "SELECT n.id, n.links, 2 + coalesce(c.c, 0) FROM node n"
        " LEFT JOIN (SELECT parent, count(*) AS c FROM entry WHERE substr(name, -1)=x'2f' GROUP BY parent) c"
        " ON c.parent=n.id"
        f" WHERE {_IS_DIRECTORY} AND n.links<>2 + coalesce(c.c, 0)",
        "directory {0}",
        "says {1} links and has {2}, by its names and its subdirectories",
    ),
    Check(
        "directory",
        "SELECT n.id, n.ref, n.data FROM node n LEFT JOIN entry e ON e.parent=n.ref AND e.name=n.data AND e.node=n.id"
        f" WHERE {_IS_DIRECTORY} AND e.node IS NULL AND n.id NOT IN (SELECT root FROM bucket)",
        "directory {0}",
        "is not where it says: {1}/{2!r}",
    ),
    Check(
        "directory",
        "SELECT n.id, count(*) FROM entry e JOIN node n ON n.id=e.node"
        f" WHERE {_IS_DIRECTORY} GROUP BY n.id HAVING count(*)>1",
        "directory {0}",
        "has {1} names",
    ),
    Check(
        "directory",
        "WITH RECURSIVE reach(id) AS (SELECT root FROM bucket UNION"
        " SELECT e.node FROM reach JOIN entry e ON e.parent=reach.id WHERE substr(e.name, -1)=x'2f')"
        f" SELECT n.id FROM node n WHERE {_IS_DIRECTORY} AND n.id NOT IN (SELECT id FROM reach)",
        "directory {0}",
        "cannot be reached from any bucket",
    ),
    Check(
        "bucket",
        f"SELECT b.name, b.root FROM bucket b LEFT JOIN node n ON n.id=b.root AND {_IS_DIRECTORY} AND n.bucket=b.id"
        " WHERE n.id IS NULL",
        "bucket {0}",
        "its root {1} is no directory of it",
    ),
    # -- versions
    Check(
        "version",
        "SELECT v.key, v.version, v.node FROM version v LEFT JOIN node n ON n.id=v.node AND n.bucket=v.bucket"
        f" AND n.version=v.version AND {_IS_FILE} AND n.flags & {MARKER}=v.flags & {MARKER}"
        f" AND (v.flags & {NULL_VERSION}<>0)=(n.version=0 OR n.flags & {NULL_VERSION}<>0) WHERE n.id IS NULL",
        "version {1} of {0!r}",
        "does not fit its node {2}",
    ),
    Check(
        "version",
        "SELECT v.key, v.version, v.bucket FROM version v LEFT JOIN setting s"
        f" ON s.bucket=v.bucket AND s.name='{settings.VERSIONING}' WHERE s.body IS NULL",
        "version {1} of {0!r}",
        "is in bucket {2}, which never had versions",
    ),
    Check(
        "version",
        f"SELECT bucket, key, count(*) FROM version WHERE flags & {NULL_VERSION} GROUP BY bucket, key"
        " HAVING count(*)>1",
        "key {1!r} of bucket {0}",
        "has {2} null versions",
    ),
    Check(
        "version",
        f"SELECT n.id FROM node n WHERE n.flags & {MARKER} AND (n.size OR n.kind<>{EMPTY} OR n.links>1"
        " OR EXISTS (SELECT 1 FROM entry e WHERE e.node=n.id))",
        "node {0}",
        "is a delete marker with bytes or a name",
    ),
    # -- what is counted
    Check(
        "usage",
        "WITH stored AS (SELECT p.bucket AS bucket, n.size AS size FROM entry e"
        f" JOIN node p ON p.id=e.parent JOIN node n ON n.id=e.node WHERE {_IS_FILE}"
        " UNION ALL SELECT v.bucket, n.size FROM version v JOIN node n ON n.id=v.node),"
        " truth AS (SELECT bucket, count(*) AS objects, sum(size) AS bytes FROM stored GROUP BY bucket),"
        " begun AS (SELECT l.bucket AS bucket, sum(p.size) AS parts FROM part p JOIN upload l ON l.id=p.upload"
        " GROUP BY l.bucket)"
        " SELECT b.id, coalesce(u.objects, 0), coalesce(u.bytes, 0), coalesce(u.parts, 0), coalesce(t.objects, 0),"
        " coalesce(t.bytes, 0), coalesce(a.parts, 0) FROM (SELECT id FROM bucket UNION SELECT bucket FROM usage) b"
        " LEFT JOIN usage u ON u.bucket=b.id LEFT JOIN truth t ON t.bucket=b.id LEFT JOIN begun a ON a.bucket=b.id"
        " WHERE coalesce(u.objects, 0)<>coalesce(t.objects, 0) OR coalesce(u.bytes, 0)<>coalesce(t.bytes, 0)"
        " OR coalesce(u.parts, 0)<>coalesce(a.parts, 0) OR b.id NOT IN (SELECT id FROM bucket)",
        "usage of bucket {0}",
        "says {1} objects of {2} bytes and {3} of parts; there are {4} of {5} and {6}",
    ),
    *(
        Check(
            "refs",
            f"SELECT t.id, t.refs, coalesce(r.c, 0) FROM {table} t"
            f" LEFT JOIN ({_REFERENCES.format(kind=kind)}) r ON r.ref=t.id WHERE t.refs<>coalesce(r.c, 0) OR t.refs<1",
            table + " {0}",
            "says {1} references and has {2}",
        )
        for table, kind in (("chunk", WHOLE), ("map", MAPPED))
    ),
    *(
        Check(
            "refs",
            f"SELECT r.ref, r.c FROM ({_REFERENCES.format(kind=kind)}) r LEFT JOIN {table} t ON t.id=r.ref"
            " WHERE t.id IS NULL",
            table + " {0}",
            "is referred to {1} times and is not there",
        )
        for table, kind in (("chunk", WHOLE), ("map", MAPPED))
    ),
    Check(
        "ids",
        "SELECT m.value, x.id FROM (SELECT coalesce(max(id), 0) AS id FROM (SELECT max(id) AS id FROM node"
        " UNION ALL SELECT max(id) FROM chunk UNION ALL SELECT max(id) FROM map"
        " UNION ALL SELECT max(id) FROM bucket UNION ALL SELECT max(version) FROM node"
        " UNION ALL SELECT max(id) FROM data_key)) x"
        " LEFT JOIN meta m ON m.name='next_id' WHERE x.id>=coalesce(m.value, 0) AND x.id>0",
        "meta next_id",
        "promises {0} but {1} was given out",
    ),
    # -- maps
    Check(
        "slice",
        "SELECT s.map, s.off FROM slice s LEFT JOIN map m ON m.id=s.map WHERE m.id IS NULL",
        "slice {0}+{1}",
        "its map is not there",
    ),
    Check(
        "slice",
        "SELECT map, off, before FROM (SELECT map, off, lag(off+len) OVER (PARTITION BY map ORDER BY off) AS before"
        " FROM slice) WHERE before>off",
        "slice {0}+{1}",
        "overlaps the one before it, which ends at {2}",
    ),
    Check(
        "slice",
        f"SELECT s.map, s.off, s.len, s.roff, c.len FROM slice s LEFT JOIN chunk c ON s.kind={WHOLE} AND c.id=s.ref"
        f" WHERE s.off<0 OR s.len<=0 OR s.roff<0 OR s.kind NOT IN ({WHOLE}, {MAPPED}) OR s.roff+s.len>c.len",
        "slice {0}+{1}",
        "takes {2} bytes from {3} on, of {4}",
    ),
    Check(
        "map",
        "SELECT m.id, m.composed FROM map m WHERE m.composed <>"
        f" EXISTS (SELECT 1 FROM slice s WHERE s.map=m.id AND s.kind={MAPPED})",
        "map {0}",
        "says composed={1} and is not",
    ),
    Check(
        "map",
        f"SELECT s.map, s.ref FROM slice s JOIN map m ON m.id=s.ref WHERE s.kind={MAPPED} AND m.composed",
        "map {0}",
        "is deeper than two: it has the composed map {1}",
    ),
    # -- what nodes and parts say of their bytes
    Check(
        "size",
        "SELECT n.id, n.size, max(s.off+s.len) AS ends FROM node n JOIN slice s ON s.map=n.ref"
        f" WHERE n.kind={MAPPED} AND {_IS_FILE} GROUP BY n.id HAVING ends>n.size",
        "node {0}",
        "has {1} bytes but its map goes to {2}",
    ),
    Check(
        "size",
        f"SELECT n.id, n.size, c.len FROM node n JOIN chunk c ON c.id=n.ref WHERE n.kind={WHOLE} AND {_IS_FILE}"
        " AND c.len>n.size",
        "node {0}",
        "has {1} bytes but its chunk has {2}",
    ),
    Check(
        "size",
        f"SELECT n.id, n.size, length(n.data) FROM node n WHERE n.kind={INLINE} AND length(n.data)>n.size"
        f" OR (n.mode & 61440)={stat.S_IFLNK} AND length(n.data)<>n.size",
        "node {0}",
        "has {1} bytes but {2} inline",
    ),
    Check(
        "size",
        "SELECT p.upload, p.number, p.size, max(s.off+s.len) AS ends FROM part p JOIN slice s ON s.map=p.ref"
        f" WHERE p.kind={MAPPED} GROUP BY p.upload, p.number HAVING ends>p.size"
        " UNION ALL SELECT p.upload, p.number, p.size, c.len FROM part p JOIN chunk c ON c.id=p.ref"
        f" WHERE p.kind={WHOLE} AND c.len>p.size",
        "part {1} of upload {0}",
        "has {2} bytes but its content goes to {3}",
    ),
    Check(
        "upload",
        "SELECT u.id, u.bucket FROM upload u LEFT JOIN bucket b ON b.id=u.bucket WHERE b.id IS NULL",
        "upload {0}",
        "its bucket {1} is not there",
    ),
    Check(
        "upload",
        "SELECT p.upload, p.number, p.kind FROM part p LEFT JOIN upload u ON u.id=p.upload"
        f" WHERE u.id IS NULL OR p.kind NOT IN ({EMPTY}, {WHOLE}, {MAPPED})",
        "part {1} of upload {0}",
        "belongs to nothing or has content of kind {2}",
    ),
    # -- pages
    Check(
        "page",
        "SELECT p.dev, p.off, p.chunk FROM page p LEFT JOIN chunk c ON c.id=p.chunk WHERE c.id IS NULL",
        "page {0}:{1}",
        "its chunk {2} is not there",
    ),
    Check(
        "page",
        f"SELECT p.dev, p.off, p.idx, c.len FROM page p JOIN chunk c ON c.id=p.chunk"
        f" WHERE p.idx<0 OR p.idx*{PAGE_PAYLOAD}>=c.len",
        "page {0}:{1}",
        "is part {2} of a chunk of {3} bytes",
    ),
    Check(
        "page",
        "SELECT p.chunk, p.idx, p.dev FROM page p GROUP BY p.chunk, p.idx, p.dev HAVING count(*)>1",
        "chunk {0} part {1}",
        "has more than one copy on device {2}",
    ),
    Check(
        "lost",
        f"SELECT c.id, c.len, count(DISTINCT p.idx) AS parts, (c.len+{PAGE_PAYLOAD - 1})/{PAGE_PAYLOAD} AS wanted"
        " FROM chunk c LEFT JOIN page p ON p.chunk=c.id WHERE c.id NOT IN (SELECT chunk FROM patch)"
        " GROUP BY c.id HAVING parts<wanted",
        "chunk {0}",
        "of {1} bytes has pages for {2} of {3} parts",
    ),
    Check(
        "patch",
        "SELECT p.chunk, length(p.data), coalesce(c.len, 0), coalesce(c.key, 0) FROM patch p"
        " LEFT JOIN chunk c ON c.id=p.chunk WHERE c.id IS NULL OR c.len<>length(p.data) OR c.key<>0"
        " OR EXISTS (SELECT 1 FROM page g WHERE g.chunk=p.chunk)",
        "patch {0}",
        "has {1} bytes; its chunk has {2}, data key {3}, or pages too",
    ),
    Check(
        "key",
        f"SELECT c.id, c.key FROM chunk c LEFT JOIN data_key k ON k.id=c.key"
        f" WHERE c.key<>0 AND c.key<>{CUSTOMER} AND k.id IS NULL",
        "chunk {0}",
        "is encrypted by data key {1}, which is not there",
    ),
)


def check_catalogue(connection: sqlite3.Connection) -> list[Problem]:
    """Every contradiction inside the catalogue, within the connection's present read transaction."""
    return [problem for check in CHECKS for problem in run(check, connection)]


def run(check: Check, connection: sqlite3.Connection) -> list[Problem]:
    rows = connection.execute(check.sql)
    found = [
        Problem(check.kind, check.where.format(*row), check.text.format(*row)) for row in rows.fetchmany(SHOWN_MAX)
    ]
    if rows.fetchone() is not None:
        found.append(Problem(check.kind, check.where, f"more than {SHOWN_MAX} such problems"))
    return found
