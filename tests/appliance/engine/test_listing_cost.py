"""What a page of a large bucket costs, counted: statements, rows and SQLite's steps, not seconds.

The same questions are asked of a bucket and of one four times its size.  A page may cost what it shows; how many keys
there are besides, in the directory, below a common prefix or anywhere else, must not be noticeable.
"""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.catalogue import schema
from appliance.catalogue.uploads import UPLOAD_COLUMNS
from appliance.engine import listing, upload_listing

ROOT: Final = 1
LIMIT: Final = 100
SMALL: Final = 1200  # keys of each shape
LARGE: Final = 4 * SMALL


def shapes(count: int) -> Iterator[bytes]:
    """Keys as people make them: flat, dated, hashed, nested, and each alone in its directory."""
    for number in range(count):
        yield b"flat/obj-%07d" % number
        yield b"dirs/d%04d/f%03d" % (number // 10, number % 10)
        yield b"deep/" + b"/".join(b"%d" % (number // 10**place % 10) for place in (5, 4, 3, 2, 1, 0)) + b"/leaf"
        yield b"logs/%04d-%02d-%02d-host%02d-x" % (number // 500, number // 50 % 10, number // 10 % 5, number % 10)
        yield b"twin/x%04d//y%04d" % (number // 10, number % 10)
        yield b"wide/u%06d/only" % number


class Bucket:
    """A catalogue whose rows were made directly, and a reading function that counts."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        schema.create(self.connection)
        self.keys = sorted(keys)
        nodes: list[tuple[Any, ...]] = []
        entries: list[tuple[int, bytes, int]] = []
        directories = {b"": ROOT}

        def add(parent: int, name: bytes, mode: int) -> int:
            number = len(nodes) + 2
            nodes.append((number, mode, 0, 0, 1, 0, 0, 0, 0, 0, 1, "e", 0, 0, b"", 0, b"", 1, b"", 0, 0))
            entries.append((parent, name, number))
            return number

        for key in self.keys:
            *above, name = key.split(b"/")
            path, parent = b"", ROOT
            for segment in above:
                path += segment + b"/"
                if path not in directories:
                    directories[path] = add(parent, segment + b"/", stat.S_IFDIR | 0o755)
                parent = directories[path]
            add(parent, name, stat.S_IFREG | 0o644)
        marks = ",".join("?" * len(schema.NODE.columns))
        self.connection.executemany(f"INSERT INTO node VALUES ({marks})", nodes)
        self.connection.executemany("INSERT INTO entry VALUES (?,?,?,0)", entries)
        self.statements = self.rows = self.steps = 0
        self.connection.set_progress_handler(self._step, 10)

    def _step(self) -> int:
        self.steps += 10
        return 0

    def every(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        rows = self.connection.execute(sql, parameters).fetchall()
        self.statements += 1
        self.rows += len(rows)
        return rows

    def page(self, prefix: bytes, delimiter: bytes, after: bytes) -> Cost:
        """What a page costs, having checked what it says."""
        self.statements = self.rows = self.steps = 0
        page = listing.list_objects(self.every, ROOT, prefix, delimiter, after, LIMIT)
        cost = Cost(self.statements, self.rows, self.steps)
        assert ([item.key for item in page.objects], page.prefixes, page.truncated) == self.expected(
            prefix, delimiter, after
        )
        return cost

    def expected(self, prefix: bytes, delimiter: bytes, after: bytes) -> tuple[list[bytes], list[bytes], bool]:
        """S3 API, "ListObjectsV2", said in the plainest way."""
        keys: list[bytes] = []
        prefixes: list[bytes] = []
        for key in self.keys:
            if key.startswith(prefix) and key > after:
                at = key.find(delimiter, len(prefix)) if delimiter else -1
                common = key[: at + len(delimiter)] if at >= 0 else b""
                if common and (common <= after or (prefixes and prefixes[-1] == common)):
                    continue
                if len(keys) + len(prefixes) == LIMIT:
                    return keys, prefixes, True
                if common:
                    prefixes.append(common)
                else:
                    keys.append(key)
        return keys, prefixes, False


class Cost(NamedTuple):
    """Of one page."""

    statements: int
    rows: int
    steps: int


DEEP: Final = (b"twin/", b"//y", b"")  # a common prefix in each of many directories, two below: five statements each

QUESTIONS: Final = (
    (b"", b"", b""),
    (b"", b"/", b""),
    (b"", b"", b"flat/obj-0000900"),
    (b"flat/", b"", b""),
    (b"flat/", b"/", b"flat/obj-0000800"),
    (b"flat/obj-0000", b"", b""),
    (b"flat/", b"-", b""),
    (b"flat/obj-", b"0", b""),
    (b"flat/obj-", b"9", b""),
    (b"flat/obj-", b"none", b""),
    (b"fl", b"-", b""),
    (b"dirs/", b"", b""),
    (b"dirs/", b"/", b""),
    (b"dirs/", b"/", b"dirs/d0010/"),
    (b"dirs/d00", b"", b"dirs/d0020/f004"),
    (b"dirs/", b"f", b""),
    (b"dirs/", b"/f", b""),
    (b"dirs/", b"9/", b""),
    (b"deep/", b"", b""),
    (b"deep/", b"/", b""),
    (b"deep/0/0", b"", b"deep/0/0/0/5/5/5/leaf"),
    (b"deep/", b"leaf", b""),
    (b"deep/", b"5", b""),
    (b"deep/", b"//", b""),
    (b"logs/", b"-", b""),
    (b"logs/0000-0", b"-", b""),
    (b"logs/0001-05-", b"-", b"logs/0001-05-03"),
    (b"logs/", b"-host", b""),
    (b"logs/", b"-x", b""),
    (b"twin/", b"//", b""),
    DEEP,
    (b"twin/x0010/", b"/", b""),
    (b"wide/", b"", b"wide/u000500/only"),
    (b"wide/", b"/", b""),
    (b"wide/", b"/only", b""),
    (b"wide/", b"only", b"wide/u000500/only"),
    (b"zzz", b"", b""),
    (b"", b"/", b"zzz"),
)


@pytest.fixture(scope="module")
def small() -> Bucket:
    return Bucket(shapes(SMALL))


@pytest.fixture(scope="module")
def large() -> Bucket:
    return Bucket(shapes(LARGE))


@pytest.mark.slow
def test_a_page_costs_what_it_shows(large: Bucket) -> None:
    """At any prefix, delimiter and marker."""
    for question in QUESTIONS:
        cost = large.page(*question)
        assert cost.statements <= (6 if question is DEEP else 1) * LIMIT, question
        assert cost.rows <= (5 if question is DEEP else 2) * LIMIT, question
        assert cost.steps <= 300 * LIMIT, question


@given(
    st.lists(st.tuples(st.sampled_from([b"", b"d/", b"d/e/", b"f/"]), st.sampled_from([1, 2, 5, 9, 70])), max_size=25),
    st.data(),
)
def test_runs_of_any_length_are_told_apart(runs: list[tuple[bytes, int]], data: st.DataObject) -> None:
    """Keys that share a common prefix: some are dropped, more are leapt over, and the others are all there."""
    bucket = Bucket(
        b"%s%03d%s" % (directory, number, b"-%02d" % place if length > 1 else b"")
        for number, (directory, length) in enumerate(runs)
        for place in range(length)
    )
    for delimiter in (b"-", b"5", b"-0", b"1-", b"/0"):
        prefix = data.draw(st.sampled_from([b"", b"d", b"d/", b"d/0", b"0"]), "prefix")
        bucket.page(prefix, delimiter, data.draw(st.sampled_from([b"", *bucket.keys]), "after"))


@pytest.mark.slow
def test_it_does_not_matter_how_many_keys_there_are(small: Bucket, large: Bucket) -> None:
    for question in QUESTIONS:
        few, many = small.page(*question), large.page(*question)
        assert many.statements <= few.statements + 8, question
        assert many.rows <= 1.2 * few.rows + 32, question
        assert many.steps <= 1.5 * few.steps + 1000, question


@pytest.mark.slow
def test_a_common_prefix_is_one_seek_however_it_ends(small: Bucket, large: Bucket) -> None:
    """A prefix with all keys below it: found, and passed over, by a handful of steps."""
    for bucket in (small, large):
        for prefix, delimiter in (
            (b"fl", b"/"),
            (b"flat/", b"-"),
            (b"flat/o", b"-0"),
            (b"dirs", b"/d"),
            (b"wide/", b"u0"),
            (b"twi", b"n/x"),
            (b"fl", b"at/obj"),
        ):
            cost = bucket.page(prefix, delimiter, b"")
            assert cost.rows <= 24, (prefix, delimiter)
            assert cost.steps <= 1500, (prefix, delimiter)


@pytest.mark.slow
def test_uploads_cost_what_they_show() -> None:
    """A thousand uploads under a common prefix are one row to find and one seek to pass over."""
    bucket = Bucket([])
    rows = [
        (f"u{number}", 1, b"d%02d/k%03d" % (number // 500, number % 500), 0, "me", b"", "", "")
        for number in range(50 * 500)
    ]
    bucket.connection.executemany("INSERT INTO upload VALUES (?,?,?,?,?,?,?,?,0)", rows)
    for prefix, delimiter, after, shown, statements in (
        (b"", b"/", b"", (0, 50), 52),
        (b"d1", b"/", b"", (0, 10), 12),
        (b"", b"", b"", (LIMIT, 0), 2),
        (b"d49/", b"", b"d49/k399", (LIMIT, 0), 2),
        (b"d49/", b"k4", b"", (LIMIT, 0), 8),
    ):
        bucket.statements = bucket.rows = bucket.steps = 0
        page = upload_listing.list_uploads(bucket.every, UPLOAD_COLUMNS, 1, prefix, delimiter, after, "", LIMIT)
        assert (len(page.uploads), len(page.prefixes)) == shown
        assert bucket.statements <= statements, (prefix, delimiter)
        assert bucket.rows <= 4 * LIMIT, (prefix, delimiter)
        assert bucket.steps <= 100 * LIMIT, (prefix, delimiter)
