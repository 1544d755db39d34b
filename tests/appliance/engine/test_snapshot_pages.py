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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("longest", "sizes", "count"),
    [
        (snapshot.SIZES[0] // 2, snapshot.SIZES, 1),
        (40 * KIB, snapshot.SIZES, 1),
        (8 * KIB, snapshot.SIZES, 1),
        (4 * KIB, snapshot.SIZES, 2),
        (4 * KIB, (900, 600), 3),
    ],
)
def test_it_is_taken_in_smaller_pages_and_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: int, sizes: tuple[int, ...], count: int
) -> None:
    """Its index as well, which has so many levels then: a large catalogue's has more."""
    monkeypatch.setattr(snapshot, "SIZES", sizes)
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
            levels = snapshot.indexes(store.engine.pool, pointer)
            items = [item for level in levels for item in level.pages]
            assert max(item.length for item in items) <= longest
            assert {item.copy for item in items} == {0, 1}
            assert [level.depth for level in levels] == list(range(len(levels)))[::-1]
            assert len(levels) == count
            assert (await audit(store, verify=True)).healthy
            free = [store.engine.pool.allocator.free(device) for device in store.engine.pool.devices]
            store.engine.checkpointer.take()
            assert free == [store.engine.pool.allocator.free(device) for device in store.engine.pool.devices]
        database.unlink()
        async with store_over(devices, database) as store:
            found = await store.list_objects(store.bucket("bucket"), limit=1000)
            assert len(found.objects) == OBJECTS
            assert (await audit(store, verify=True)).healthy

    trio.run(main)


def test_what_is_used_up_on_the_way_is_not_asked_again(tmp_path: Path) -> None:
    """Long runs first, then shorter ones; and where one device has nothing at all, the others have long ones still."""
    devices = make_devices(3)
    make_pool(devices)
    database = tmp_path / "catalogue.db"

    async def main() -> None:
        async with store_over(devices, database) as store:
            bucket = await store.create_bucket("bucket", "me")
            for number in range(OBJECTS):
                await store.put_object(bucket, b"%d" % number, store.small_body(bytes(2000)), "e", NO_ATTRIBUTES)
            allocator: Any = store.engine.pool.allocator
            reserve = allocator.reserve
            calls: list[tuple[int, int]] = []

            def refuse(device: int, length: int, **how: bool) -> int:
                calls.append((device, length))
                if device == 1 or length > (600 * KIB if len(calls) < 4 else 40 * KIB):
                    raise StoreError(Code.NO_SPACE)
                return int(reserve(device, length, **how))

            allocator.reserve = refuse
            allocator.free = lambda device: 1 << 40 if device == 1 else 1 << 30
            store.engine.checkpointer.take()
            del allocator.reserve, allocator.free
            asked = [length for device, length in calls if device == 1]
            assert asked == sorted(set(asked), reverse=True)
            pointer = store.engine.pool.snapshot
            assert pointer is not None
            index = snapshot.indexes(store.engine.pool, pointer)[-1]
            assert {item.device for item in index.pages} == {2, 3}
            payloads = [item.payload for item in index.pages][:-2]
            assert payloads == sorted(payloads, reverse=True)
            assert len(set(payloads)) > 1
            assert (await audit(store, verify=True)).healthy
        database.unlink()
        async with store_over(devices, database) as store:
            assert len((await store.list_objects(store.bucket("bucket"), limit=1000)).objects) == OBJECTS

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
