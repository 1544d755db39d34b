"""Where bytes are said to lie is where they lie, with the sums of their blocks; all else is left out."""

from __future__ import annotations

import os
from pathlib import Path

import outcome
import pytest
import trio

from appliance.device.buffers import aligned
from appliance.device.device import ALIGNMENT
from appliance.device.raw import RawDevice
from appliance.limits import BLOCK, GATHER_MAX, KIB, MIB
from appliance.model import Node
from appliance.ondisk.page import block_sums
from appliance.store import ObjectStore, Place
from tests.appliance.engine.test_retrieve import change, put
from tests.models.boxes import DEVICE_SIZE, make_devices, make_pool, read_all, store_over


def located(store: ObjectStore, node: Node, start: int = 0, length: int | None = None) -> list[Place]:
    """The places of a range; the store is not threaded."""
    results: list[outcome.Outcome[list[Place]]] = []
    with store.reader(node, start, length) as reader:
        reader.locate(results.append)
    return results[0].unwrap()


async def check(store: ObjectStore, node: Node, places: list[Place]) -> int:
    """How many bytes they are; each as the store reads it."""
    data, last = await read_all(store, node), 0
    for place in places:
        assert last <= place.start < place.end
        room = aligned(-(-place.payload // ALIGNMENT) * ALIGNMENT)
        assert os.preadv(place.descriptor, [room], place.offset) == len(room)
        payload = bytes(room[: place.payload])
        assert payload[place.start - place.base : place.end - place.base] == data[place.start : place.end]
        assert block_sums(payload) == place.sums
        last = place.end
    return sum(place.end - place.start for place in places)


@pytest.mark.slow
def test_places_are_where_the_bytes_are(tmp_path: Path) -> None:
    async def main() -> None:
        paths = [tmp_path / name for name in ("a", "b")]
        for path in paths:
            path.touch()
            os.truncate(path, DEVICE_SIZE)
        devices = [RawDevice.open(path) for path in paths]
        make_pool(devices)
        async with store_over(devices, tmp_path / "catalogue.db") as store:
            bucket = await store.create_bucket("photos", "me")
            for size, told in ((9 * MIB, 9 * MIB), (5 * MIB + 300, 5 * MIB + 300), (9 * MIB + 240, 9 * MIB)):
                node = await put(store, bucket, b"plain", os.urandom(size))
                assert await check(store, node, located(store, node)) == told, size
                some = located(store, node, MIB + 5, 4 * MIB)
                assert await check(store, node, some) == 4 * MIB, size
                assert (some[0].start, some[-1].end) == (MIB + 5, 5 * MIB + 5)
            short = await put(store, bucket, b"short", os.urandom(GATHER_MAX))
            assert located(store, short) == []
            sealed = await put(store, bucket, b"sealed", b"")
            sealed = await change(
                store, bucket, sealed, 3 * MIB, [(0, os.urandom(3 * MIB))], key=await store.data_key()
            )
            assert located(store, sealed) == []
            with store.reader(node) as reader:
                await put(store, bucket, b"another", b"x" * GATHER_MAX)
                assert store.stands(reader)
                pieces = [(MIB, os.urandom(4 * KIB)), (4 * MIB, os.urandom(3 * BLOCK)), (12 * MIB, os.urandom(MIB))]
                node = await change(store, bucket, node, 16 * MIB, pieces)
                assert not store.stands(reader)
            places = located(store, node)
            assert await check(store, node, places) == 9 * MIB - 4 * KIB + MIB
            await store.delete_object(bucket, b"plain")

    trio.run(main)


def test_a_device_that_only_plays_one_has_no_places(tmp_path: Path) -> None:
    async def main() -> None:
        devices = make_devices(1)
        make_pool(devices)
        async with store_over(devices, tmp_path / "catalogue.db") as store:
            node = await put(store, await store.create_bucket("photos", "me"), b"plain", bytes(MIB))
            assert located(store, node) == []

    trio.run(main)
