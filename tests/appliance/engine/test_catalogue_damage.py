"""The host's catalogue file is hurt behind SQLite's back: what leans on a row proves it before serving a byte (R6)."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from appliance.errors import Code, StoreError
from appliance.model import NO_ATTRIBUTES
from appliance.store import ObjectStore
from tests.models.boxes import make_devices, make_pool, store_over


def hurt(path: Path, sql: str) -> None:
    """One row, from a connection of its own, journal and sums left as they were."""
    connection = sqlite3.connect(path)
    assert connection.execute(sql).rowcount == 1
    connection.commit()
    connection.close()


def run(directory: Path, work: Callable[[ObjectStore], Awaitable[None]]) -> None:
    """Without the audit that other tests end with: what is hurt stays hurt."""
    members = make_devices(2)
    make_pool(members, copies=1)

    async def main() -> None:
        async with store_over(members, directory / "catalogue.db", threaded=False) as store:
            await work(store)

    trio.run(main)


def test_a_flipped_bit_of_an_inline_body_is_never_served(tmp_path: Path) -> None:
    async def work(store: ObjectStore) -> None:
        bucket = await store.create_bucket("bucket", "me")
        await store.put_object(bucket, b"k", store.small_body(b"inline bytes"), "e", NO_ATTRIBUTES)
        hurt(tmp_path / "catalogue.db", "UPDATE node SET data=x'006E6C696E65206279746573' WHERE size=12")
        node = await store.look_up(bucket, b"k")
        with pytest.raises(StoreError) as caught:
            store.reader(node)
        assert caught.value.code is Code.DAMAGED
        with pytest.raises(StoreError) as caught:  # nor may a copy give it a new sum
            await store.copy_object(node, bucket, b"copy", None)
        assert caught.value.code is Code.DAMAGED

    run(tmp_path, work)


def test_a_page_row_that_names_another_chunk_is_never_believed(tmp_path: Path) -> None:
    async def work(store: ObjectStore) -> None:
        bucket = await store.create_bucket("bucket", "me", copies=1)
        nodes = []
        for key in (b"a", b"b"):
            await store.put_object(bucket, key, store.small_body(key * 5000), "e", NO_ATTRIBUTES)
            nodes.append(await store.look_up(bucket, key))
        store.engine.retrieval.cache.clear()
        hurt(tmp_path / "catalogue.db", f"UPDATE page SET chunk={nodes[0].ref + 100_000} WHERE chunk={nodes[0].ref}")
        hurt(tmp_path / "catalogue.db", f"UPDATE page SET chunk={nodes[0].ref} WHERE chunk={nodes[1].ref}")
        with store.reader(nodes[0]) as reader, pytest.raises(StoreError) as caught:
            await reader.read()
        assert caught.value.code is Code.DAMAGED

    run(tmp_path, work)
