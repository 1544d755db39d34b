"""The audit over versions: a sound history is clean, and every contradiction in it is found."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import trio

from appliance import settings
from appliance.model import NO_ATTRIBUTES
from appliance.store import ObjectStore
from appliance.upkeep.audit import audit, check_newest
from appliance.upkeep.checks import check_catalogue
from tests.models.boxes import body_of, make_devices, make_pool, store_over


async def fill(store: ObjectStore) -> None:
    """A key with three versions, one behind a delete marker, one with an older null version."""
    await store.create_bucket("bucket", "me")
    for key, state in (
        (b"d/hidden", None),
        (b"kept", settings.ENABLED),
        (b"kept", None),
        (b"kept", None),
        (b"d/hidden", None),
        (b"null", settings.SUSPENDED),
    ):
        if state is not None:
            await store.set_bucket_setting(store.bucket("bucket"), settings.VERSIONING, state)
        bucket = store.bucket("bucket")
        await store.put_object(bucket, key, await body_of(store, bucket, bytes(3000)), "e", NO_ATTRIBUTES)
    await store.set_bucket_setting(store.bucket("bucket"), settings.VERSIONING, settings.ENABLED)
    await store.put_object(store.bucket("bucket"), b"null", await body_of(store, bucket, b"x"), "e", NO_ATTRIBUTES)
    await store.delete_object(store.bucket("bucket"), b"d/hidden")
    report = await audit(store, verify=True)
    assert report.clean, report.problems


BROKEN = {
    "a version without its node": ("DELETE FROM node WHERE id=(SELECT min(node) FROM version)", "version"),
    "a version under another number": (
        "UPDATE version SET version=version+1000 WHERE key=CAST('kept' AS BLOB)",
        "version",
    ),
    "a version called null": ("UPDATE version SET flags=4 WHERE key=CAST('kept' AS BLOB)", "version"),
    "a version of a bucket without": ("DELETE FROM setting", "version"),
    "a marker that is none": ("UPDATE node SET flags=flags & ~8 WHERE flags & 8", "version"),
    "a marker with bytes": ("UPDATE node SET size=1 WHERE flags & 8", "version"),
    "two null versions": ("UPDATE version SET flags=flags | 4 WHERE key=CAST('d/hidden' AS BLOB)", "version"),
    "a newest version that nobody sees": ("DELETE FROM version WHERE flags & 8", "version"),
    "an older version in the place of the newest": (
        "UPDATE entry SET sum=0, node=(SELECT min(node) FROM version) WHERE name=CAST('kept' AS BLOB)",
        "version",
    ),
    "a version that is older than one before": ("UPDATE node SET version=1 WHERE etag='e' AND version>0", "version"),
    "a version nobody names": ("DELETE FROM version WHERE key=CAST('kept' AS BLOB)", "links"),
    "versions that nobody counts": ("UPDATE usage SET objects=3", "usage"),
}


def test_every_contradiction_is_found(tmp_path: Path) -> None:
    devices = make_devices(1)
    make_pool(devices, copies=1)
    database = tmp_path / "catalogue.db"

    async def main() -> None:
        async with store_over(devices, database) as store:
            await fill(store)

    trio.run(main)
    source = sqlite3.connect(database)
    for name, (sql, kind) in BROKEN.items():
        connection = sqlite3.connect(":memory:")
        source.backup(connection)
        found = [*check_catalogue(connection), *check_newest(connection)]
        assert not [problem for problem in found if problem.kind in ("version", "links", "usage")], found
        assert connection.execute(sql).rowcount > 0, name
        found = [*check_catalogue(connection), *check_newest(connection)]
        assert kind in {problem.kind for problem in found}, (name, found)
        connection.close()
    source.close()
