"""A pool that is full to the last page that a write may take: its catalogue still has room for a copy, so that the
journal goes on and what is there can be deleted."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import trio

from appliance.engine.full import Full
from appliance.errors import Code, StoreError
from appliance.limits import KIB, MIB
from appliance.model import NO_ATTRIBUTES, Bucket
from appliance.store import ObjectStore
from appliance.upkeep.audit import audit
from tests.models.boxes import body_of, make_devices, make_pool, store_over


async def fill(store: ObjectStore, bucket: Bucket, size: int) -> list[bytes]:
    """Keys of as many objects as there is room for."""
    keys: list[bytes] = []
    with pytest.raises(StoreError) as caught:
        while True:
            key = b"%d-%d" % (size, len(keys))
            await store.put_object(bucket, key, await body_of(store, bucket, key[:1] * size), "e", NO_ATTRIBUTES)
            keys.append(key)
    assert caught.value.code is Code.NO_SPACE
    assert "delete something" in caught.value.message
    return keys


@pytest.mark.slow
def test_a_full_pool_copies_its_catalogue_and_deletes(tmp_path: Path) -> None:
    """Full of data first, then of what the catalogue itself holds."""
    devices = make_devices(2, 64 * MIB)
    make_pool(devices, ring=MIB)
    database = tmp_path / "catalogue.db"

    async def main() -> None:
        async with store_over(devices, database, threaded=False) as store:
            bucket = await store.create_bucket("bucket", "me", copies=1)
            keys = [key for each in (300 * KIB, 2 * KIB) for key in await fill(store, bucket, each)]
            total, available = store.space()
            assert available < total // 50
            store.engine.checkpointer.take()
            with pytest.raises(StoreError) as caught:
                await store.make_directory(bucket.root, b"d", 0o755, 0, 0, 1)
            assert caught.value.code is Code.NO_SPACE
            for key in keys:
                await store.delete_object(bucket, key)
            assert (await audit(store)).healthy
            await store.put_object(bucket, b"k", await body_of(store, bucket, bytes(MIB)), "e", NO_ATTRIBUTES)
        async with store_over(devices, database, threaded=False) as store:
            assert [each.key for each in (await store.list_objects(store.bucket("bucket"))).objects] == [b"k"]

    trio.run(main)


def test_a_catalogue_that_cannot_be_asked_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    connection = sqlite3.connect(":memory:")
    connection.close()

    async def main() -> None:
        devices = make_devices(2, 64 * MIB)
        make_pool(devices, ring=MIB)
        async with store_over(devices, tmp_path / "catalogue.db", threaded=False) as store:
            Full(store.engine.pool, connection).look()
            assert "cannot be asked" in caplog.text
            await store.create_bucket("bucket", "me")

    trio.run(main)
