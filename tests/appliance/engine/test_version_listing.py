"""Listings of versions by page, prefix and delimiter, against one long listing cut up by hand."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance import settings
from appliance.catalogue.commands import DeleteObject, SetBucketSetting
from appliance.engine import version_listing
from appliance.model import Bucket, ListedVersion
from tests.appliance.catalogue.batches import NOW, Catalogue
from tests.appliance.engine.test_listing import keys, put

PREFIXES = st.sampled_from([b"", b"a", b"a/", b"a-", b"b/", b"b/a"])
DELIMITERS = st.sampled_from([b"/", b"-", b"a", b"//", b"/a"])


def cut(
    every: list[ListedVersion], prefix: bytes, delimiter: bytes, after: tuple[bytes, str], limit: int
) -> tuple[list[tuple[bytes, str]], list[bytes], bool]:
    """S3 API, "ListObjectVersions", said in the plainest way: a marker is a key, or a version of it."""
    marker, version = after
    place = next((i for i, one in enumerate(every) if (one.key, one.version_id) == after), -1) if version else -1
    versions: list[tuple[bytes, str]] = []
    prefixes: list[bytes] = []
    for number, one in enumerate(every):
        if not one.key.startswith(prefix) or (number <= place if version else bool(marker) and one.key <= marker):
            continue
        at = one.key.find(delimiter, len(prefix))
        common = one.key[: at + len(delimiter)] if at >= 0 else b""
        if common and (marker.startswith(common) or (prefixes and prefixes[-1] == common)):
            continue
        if len(versions) + len(prefixes) == limit:
            return versions, prefixes, True
        if common:
            prefixes.append(common)
        else:
            versions.append((one.key, one.version_id))
    return versions, prefixes, False


def filled(before: list[bytes], actions: list[tuple[bytes, bool]]) -> tuple[Catalogue, Bucket]:
    """A bucket with objects from before it had versions, and what was put and deleted since."""
    catalogue = Catalogue()
    bucket = catalogue.create_bucket()
    for key in before:
        put(catalogue, bucket, key)
    catalogue.do(SetBucketSetting(bucket=bucket.id, name=settings.VERSIONING, body=settings.ENABLED))
    for key, there in actions:
        if there:
            put(catalogue, bucket, key)
        else:
            catalogue.do(DeleteObject(bucket=bucket.id, root=bucket.root, key=key, now_ns=NOW, precondition=None))
    return catalogue, bucket


@given(st.lists(keys, max_size=8), st.lists(st.tuples(keys, st.booleans()), max_size=8), st.data())
def test_pages_are_the_whole_cut_up(
    before: list[bytes], actions: list[tuple[bytes, bool]], data: st.DataObject
) -> None:
    catalogue, bucket = filled(before, actions)
    whole = version_listing.list_versions(catalogue.every, bucket, b"", b"", b"", "", 1000)
    assert not whole.truncated
    for _ in range(4):
        prefix, delimiter = data.draw(PREFIXES, "prefix"), data.draw(DELIMITERS, "delimiter")
        limit = data.draw(st.sampled_from([1, 2, 5, 1000]), "limit")
        key, version = b"", ""
        for _ in range(2 * len(whole.versions) + 2):
            page = version_listing.list_versions(catalogue.every, bucket, prefix, delimiter, key, version, limit)
            found = ([(one.key, one.version_id) for one in page.versions], page.prefixes, page.truncated)
            assert found == cut(whole.versions, prefix, delimiter, (key, version), limit)
            if not page.truncated:
                break
            key, version = page.next_key, page.next_version
        else:
            raise AssertionError("a listing ends")


def test_common_prefixes_cost_one_statement_for_many_where_nothing_is_old() -> None:
    catalogue, bucket = filled([b"d%02d/%d" % (one, two) for one in range(60) for two in range(3)], [(b"d00/0", True)])
    statements = 0

    def every(sql: str, parameters: tuple[object, ...]) -> list[object]:
        nonlocal statements
        statements += 1
        return catalogue.every(sql, parameters)

    page = version_listing.list_versions(every, bucket, b"", b"/", b"", "", 50)
    assert (len(page.prefixes), page.truncated) == (50, True)
    assert statements < 12
