"""The catalogue's snapshot in a full and fragmented pool: no run is long enough for its usual pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.engine import snapshot
from appliance.errors import Code, StoreError
from appliance.limits import KIB
from appliance.model import NO_ATTRIBUTES
from appliance.ondisk.record import IndexPage, SnapshotIndex
from appliance.store import ObjectStore
from appliance.upkeep.audit import audit
from tests.models.boxes import make_devices, make_pool, store_over

OBJECTS = 300


def fragmented(store: ObjectStore, longest: int) -> None:
    """From here on no run of any device is longer."""
    allocator: Any = store.engine.pool.allocator
    reserve = allocator.reserve

    def refuse(device: int, length: int, **how: bool) -> int:
        if length > longest:
            raise StoreError(Code.NO_SPACE, cause="no run that long")
        return int(reserve(device, length, **how))

    allocator.reserve = refuse


@pytest.mark.parametrize("longest", [snapshot.SNAPSHOT_PAGE // 2, 40 * KIB, 12 * KIB])
def test_it_is_taken_in_smaller_pages_and_is_whole(tmp_path: Path, longest: int) -> None:
    devices = make_devices(2)
    make_pool(devices)
    database = tmp_path / "catalogue.db"

    async def main() -> None:
        async with store_over(devices, database) as store:
            bucket = await store.create_bucket("bucket", "me")
            for number in range(OBJECTS):
                body = store.small_body(b"%d" % number * 500)
                await store.put_object(bucket, b"%d" % number, body, "e", NO_ATTRIBUTES)
            fragmented(store, longest)
            store.engine.checkpointer.take()
            assert store.engine.ring.used == 0, "the ring has room again"
            pointer = store.engine.pool.snapshot
            assert pointer is not None
            index = snapshot.read_index(store.engine.pool, pointer)
            assert max(item.length for item in index.pages) <= longest
            assert index.length > 2 * snapshot.page_size(index)
            assert (await audit(store, verify=True)).healthy
        database.unlink()
        async with store_over(devices, database) as store:
            found = await store.list_objects(store.bucket("bucket"), limit=1000)
            assert len(found.objects) == OBJECTS
            assert (await audit(store, verify=True)).healthy

    trio.run(main)


def test_where_there_is_no_room_at_all_it_says_so(tmp_path: Path) -> None:
    devices = make_devices(2)
    make_pool(devices)

    async def main() -> None:
        async with store_over(devices, tmp_path / "catalogue.db") as store:
            await store.create_bucket("bucket", "me")
            free = [store.engine.pool.allocator.free(device) for device in store.engine.pool.devices]
            fragmented(store, 0)
            with pytest.raises(StoreError) as caught:
                store.engine.checkpointer.take()
            assert caught.value.code is Code.NO_SPACE
            assert free == [store.engine.pool.allocator.free(device) for device in store.engine.pool.devices]

    trio.run(main)


def test_an_index_that_fits_no_page_is_an_error_and_stops_no_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large catalogue in small pages has too many: who would write hears so, and whoever reads does not notice."""
    monkeypatch.setattr(snapshot, "INDEX_MAX", 100)
    devices = make_devices(2)
    make_pool(devices)

    async def main() -> None:
        async with store_over(devices, tmp_path / "catalogue.db") as store:
            bucket = await store.create_bucket("bucket", "me")
            free = [store.engine.pool.allocator.free(device) for device in store.engine.pool.devices]
            with pytest.raises(StoreError) as caught:
                store.engine.checkpointer.take()
            assert caught.value.code is Code.UNAVAILABLE
            assert free == [store.engine.pool.allocator.free(device) for device in store.engine.pool.devices]
            monkeypatch.undo()
            await store.put_object(bucket, b"k", store.small_body(b"k"), "e", NO_ATTRIBUTES)
            store.engine.checkpointer.take()

    trio.run(main)


def test_the_size_of_its_pages_is_told_by_how_many_there_are() -> None:
    for size in (snapshot.SNAPSHOT_PAGE >> shift for shift in range(0, 7, 2)):
        for length in (2 * size, 2 * size + 1, 3 * size - 1, 100 * size, 64 * snapshot.SNAPSHOT_PAGE):
            pages = tuple(IndexPage(1, 0, 0, b"", number, 0) for number in range(-(-length // size)))
            assert snapshot.page_size(SnapshotIndex(1, length, 1, pages)) == size, (size, length)
