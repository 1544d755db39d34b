"""A change whose rows do not fit the journal: it is refused alone, and says what can be done."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import Code, StoreError
from appliance.limits import KIB
from appliance.model import Bucket, NewChunk, NewSlice, Node
from appliance.store import ObjectStore, Ticket
from tests.models.boxes import of_root, run_store

STEP = 4000
COUNT = 8 * STEP  # pieces: a ring of 512 KiB takes the rows of some 20,000
PIECE = 8


async def pieces(store: ObjectStore, bucket: Bucket) -> Node:
    """A file of many, every second byte of it a hole, so that none are joined."""
    number = store.new_node_id()
    for first in range(0, COUNT, STEP):
        chunk = await store.stage(bucket, [bytes(range(256)) * 128])
        await submit(
            store,
            bucket,
            number,
            (first + STEP) * 2 * PIECE,
            [NewSlice((first + at) * 2 * PIECE, PIECE, chunk.id, at * PIECE) for at in range(STEP)],
            chunk,
            create=first == 0,
        )
    return store.node(number)


def submit(
    store: ObjectStore, bucket: Bucket, node: int, size: int, slices: list[NewSlice], chunk: NewChunk, *, create: bool
) -> Ticket:
    return store.submit_file(
        bucket,
        node=node,
        create=(bucket.root, b"f") if create else None,
        **of_root(1),
        size=size,
        chunks=[chunk],
        slices=slices,
    )


@pytest.mark.slow
def test_a_file_in_too_many_pieces_is_not_changed_while_a_copy_shares_them(tmp_path: Path) -> None:
    async def main(store: ObjectStore, bucket: Bucket) -> None:
        node = await pieces(store, bucket)
        await store.copy_object(await store.look_up(bucket, b"f"), bucket, b"copy", None)
        node = store.node(node.id)

        async def write() -> Ticket:
            chunk = await store.stage(bucket, [b"x" * KIB])
            return submit(store, bucket, node.id, node.size, [NewSlice(0, KIB, chunk.id)], chunk, create=False)

        ticket = await write()
        other = store.make_directory(bucket.root, b"d", 0o755, 0, 0, 1)
        with pytest.raises(StoreError, match="too many pieces") as caught:
            await ticket
        assert caught.value.code is Code.TOO_LARGE
        await other
        await store.delete_object(bucket, b"copy")
        while store.engine.reaping:
            await store.engine.settle()
        await (await write())
        with store.reader(await store.look_up(bucket, b"f"), 0, 2 * KIB) as reader:
            assert (await reader.read())[: KIB + PIECE] == b"x" * KIB + bytes(range(PIECE))

    run_store(tmp_path, main)
