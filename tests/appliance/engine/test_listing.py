"""Listings against the model's, over trees made to be awkward, and what they cost."""

from __future__ import annotations

import stat
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.catalogue.commands import CreateUpload, MakeDirectory, MakeSpecial, PutObject
from appliance.catalogue.uploads import UPLOAD_COLUMNS
from appliance.engine import directories, listing, upload_listing
from appliance.model import Body, Bucket, UploadPage
from tests.appliance.catalogue.batches import NOW, Catalogue
from tests.models.objects import Bucket as ModelBucket
from tests.models.objects import File

SEGMENTS = [b"a", b"b", b"a-", b"a0", b"", b"\xff", b"\x00", b"."]
keys = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4).map(b"/".join).filter(bool)
loose = st.one_of(
    st.just(b""), keys, keys.map(lambda key: key[:-1]), keys.map(lambda key: key + b"/"), st.binary(max_size=3)
)
delimiters = st.sampled_from([b"", b"/", b"-", b"a", b"//", b"/a", b"\xff", b"a/"])


def put(catalogue: Catalogue, bucket: Bucket, key: bytes) -> None:
    catalogue.do(
        PutObject(
            bucket=bucket.id,
            root=bucket.root,
            copies=1,
            key=key,
            body=Body(len(key), key),
            etag="e",
            packed=b"",
            mode=stat.S_IFREG | 0o644,
            uid=0,
            gid=0,
            mtime_ns=NOW,
            atime_ns=NOW,
            flags=0,
            now_ns=NOW,
            label=b"",
            precondition=None,
        )
    )


def make_directory(catalogue: Catalogue, parent: int, name: bytes) -> None:
    catalogue.do(MakeDirectory(parent=parent, name=name, mode=0o755, uid=0, gid=0, now_ns=NOW))


def test_an_empty_directory_that_comes_first_hides_no_prefix() -> None:
    for depth in range(5):
        catalogue = Catalogue()
        bucket = catalogue.create_bucket()
        path = b"a/" * (depth + 1)
        put(catalogue, bucket, path + b"key")
        parent = bucket.root
        for _ in range(depth + 1):
            (parent,) = catalogue.every("SELECT node FROM entry WHERE parent=? AND name=?", (parent, b"a/"))[0]
        make_directory(catalogue, parent, b"!")
        page = listing.list_objects(catalogue.every, bucket.root, b"", b"/", b"", 10)
        assert page.prefixes == [b"a/"], depth


def test_names_that_s3_does_not_see_make_no_common_prefix() -> None:
    """Leapt over like any others: a prefix under which there are symbolic links alone is none."""
    catalogue = Catalogue()
    bucket = catalogue.create_bucket()
    for run in range(12):
        for number in range(9):
            name = b"p%02d-%d" % (run, number)
            if run % 5 == 3:
                catalogue.do(MakeSpecial(parent=bucket.root, name=name, mode=stat.S_IFLNK, uid=0, gid=0, now_ns=NOW))
            else:
                put(catalogue, bucket, name)
    page = listing.list_objects(catalogue.every, bucket.root, b"", b"-", b"", 100)
    assert page.prefixes == [b"p%02d-" % run for run in range(12) if run % 5 != 3]


@given(st.lists(keys, max_size=25, unique=True), st.data())
def test_listings_are_the_models(present: list[bytes], data: st.DataObject) -> None:
    catalogue, model = Catalogue(), ModelBucket()
    bucket = catalogue.create_bucket()
    for key in present:
        put(catalogue, bucket, key)
        model.put(key, File(key, "e"))
    for name in (b"hollow", b"z"):
        make_directory(catalogue, bucket.root, name)
    within = [row[0] for row in catalogue.every("SELECT id FROM node WHERE mode & 61440=16384", ())]
    for directory in data.draw(st.lists(st.sampled_from(within), unique=True, max_size=3), "hollow within"):
        make_directory(catalogue, directory, b"!")  # comes first where it is
    for directory in data.draw(st.lists(st.sampled_from(within), unique=True, max_size=2), "link within"):
        catalogue.do(MakeSpecial(parent=directory, name=b"!link", mode=stat.S_IFLNK, uid=0, gid=0, now_ns=NOW))
    for _ in range(6):
        prefix, delimiter = data.draw(loose, "prefix"), data.draw(delimiters, "delimiter")
        after, limit = data.draw(loose, "after"), data.draw(st.sampled_from([0, 1, 2, 5, 1000]), "limit")
        for _ in range(2 * len(present) + 2):
            page = listing.list_objects(catalogue.every, bucket.root, prefix, delimiter, after, limit)
            found = ([item.key for item in page.objects], page.prefixes, page.truncated)
            assert found == model.listing(prefix, delimiter, after, limit)
            if not page.truncated:
                break
            after = page.next
        else:
            raise AssertionError("a listing ends")


class Counted:
    """A reading function that counts rows and statements."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.rows = 0
        self.statements = 0

    def __call__(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        rows = self.catalogue.every(sql, parameters)
        self.rows += len(rows)
        self.statements += 1
        return rows


@pytest.fixture(scope="module")
def large() -> tuple[Catalogue, Bucket]:
    """20 x 20 directories of 10 objects, and one flat one of 3,000."""
    catalogue = Catalogue()
    bucket = catalogue.create_bucket()
    for one in range(20):
        for two in range(20):
            for three in range(10):
                put(catalogue, bucket, b"tree/%02d/%02d/%d" % (one, two, three))
    for number in range(3000):
        put(catalogue, bucket, b"flat/%05d" % number)
    return catalogue, bucket


@pytest.mark.slow
def test_a_page_costs_what_it_shows(large: tuple[Catalogue, Bucket]) -> None:
    catalogue, bucket = large
    for prefix, after in ((b"flat/", b"flat/01500"), (b"tree/", b"tree/10/10/5"), (b"", b"flat/02950")):
        counted = Counted(catalogue)
        page = listing.list_objects(counted, bucket.root, prefix, b"", after, 100)
        assert (len(page.objects), page.truncated) == (100, True)
        assert counted.rows < 100 * 4 + 64


def test_a_common_prefix_is_one_seek(large: tuple[Catalogue, Bucket]) -> None:
    """However many keys lie below it."""
    catalogue, bucket = large
    for delimiter in (b"/", b"t/", b"/0"):
        counted = Counted(catalogue)
        page = listing.list_objects(counted, bucket.root, b"flat", delimiter, b"", 1000)
        expected = {b"/": [b"flat/"], b"t/": [], b"/0": [b"flat/0"]}[delimiter]
        assert page.prefixes == expected
        if expected:
            assert counted.rows < 64
    counted = Counted(catalogue)
    page = listing.list_objects(counted, bucket.root, b"tree/", b"/", b"tree/05/", 3)
    assert page.prefixes == [b"tree/06/", b"tree/07/", b"tree/08/"]
    assert counted.rows < 20


def test_walk_begins_where_it_is_told(large: tuple[Catalogue, Bucket]) -> None:
    catalogue, bucket = large
    for lower, first in (
        (b"", b"flat/00000"),
        (b"flat/02999\0", b"tree/00/00/0"),
        (b"tree/05/19/9\0", b"tree/06/00/0"),
        (b"tree/05/19/", b"tree/05/19/0"),
        (b"tree/05/199", b"tree/06/00/0"),
        (b"tree/0", b"tree/00/00/0"),
        (b"nowhere/x/y", b"tree/00/00/0"),
    ):
        found = next(listing.walk(catalogue.every, bucket.root, lower, 1))
        assert found[0] == first
    assert next(listing.walk(catalogue.every, bucket.root, b"zz", 1), None) is None


def test_entries_in_pages(large: tuple[Catalogue, Bucket]) -> None:
    catalogue, bucket = large
    for name in (b"flat", b"flat.txt"):
        put(catalogue, bucket, name)
    seen: list[tuple[bytes, bool]] = []
    after = None
    while found := directories.entries(catalogue.every, bucket.root, after, 1):
        after = (found[-1].name, found[-1].directory)
        seen.append(after)
    assert seen == [(b"flat", False), (b"flat.txt", False), (b"flat", True), (b"tree", True)]


# ---------------------------------------------------------------------- uploads


def uploads_of(
    present: list[tuple[bytes, str]],
    prefix: bytes,
    delimiter: bytes,
    after_key: bytes,
    after_upload: str,
    limit: int,
) -> tuple[list[tuple[bytes, str]], list[bytes], bool]:
    """S3 API, "ListMultipartUploads", said in the plainest way."""
    shown: list[tuple[bytes, str]] = []
    prefixes: list[bytes] = []
    for key, number in sorted(present):
        if not key.startswith(prefix) or key < after_key or (key == after_key and not after_upload and after_key):
            continue
        if key == after_key and after_upload and number <= after_upload:
            continue
        at = key.find(delimiter, len(prefix)) if delimiter else -1
        common = key[: at + len(delimiter)] if at >= 0 else b""
        if common and ((after_key and common <= after_key) or (prefixes and prefixes[-1] == common)):
            continue
        if len(shown) + len(prefixes) == limit:
            return shown, prefixes, True
        if common:
            prefixes.append(common)
        else:
            shown.append((key, number))
    return shown, prefixes, False


def test_a_page_of_uploads_ends_with_the_last_prefix_that_there_can_be() -> None:
    """No key is greater than all that begin with 0xff: there is nowhere to go on."""
    catalogue = Catalogue()
    bucket = catalogue.create_bucket()
    for number in "abc":
        begin_upload(catalogue, bucket, b"\xff", number)
    page = upload_listing.list_uploads(catalogue.every, UPLOAD_COLUMNS, bucket.id, b"", b"\xff", b"", "", 1)
    assert (page.uploads, page.prefixes, page.truncated) == ([], [b"\xff"], False)


def begin_upload(catalogue: Catalogue, bucket: Bucket, key: bytes, number: str) -> None:
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


@given(st.lists(keys, max_size=12), st.data())
def test_uploads_by_key_and_then_by_id(present: list[bytes], data: st.DataObject) -> None:
    catalogue = Catalogue()
    bucket = catalogue.create_bucket()
    rows = [(key, f"u{number:02}") for number, key in enumerate(present)]
    for key, number in rows:
        begin_upload(catalogue, bucket, key, number)
    prefix, delimiter = data.draw(loose, "prefix"), data.draw(delimiters, "delimiter")
    after_key, after_upload = data.draw(loose, "key marker"), ""
    limit = data.draw(st.sampled_from([1, 2, 3, 1000]), "limit")
    for _ in range(2 * len(present) + 2):
        page: UploadPage = upload_listing.list_uploads(
            catalogue.every, UPLOAD_COLUMNS, bucket.id, prefix, delimiter, after_key, after_upload, limit
        )
        found = ([(item.key, item.id) for item in page.uploads], page.prefixes, page.truncated)
        assert found == uploads_of(rows, prefix, delimiter, after_key, after_upload, limit)
        if not page.truncated:
            return
        after_key, after_upload = page.next_key, page.next_upload
    raise AssertionError("a listing ends")
