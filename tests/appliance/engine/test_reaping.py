"""A huge object's deletion through a small ring: by steps, interrupted and resumed, to the last page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from appliance.catalogue.commands import Reap
from appliance.device.device import BlockDevice
from appliance.engine.ticket import Batch, Ticket
from appliance.errors import Code, StoreError
from appliance.limits import KIB
from appliance.model import NO_ATTRIBUTES, Bucket, NewSlice
from appliance.store import ObjectStore
from appliance.upkeep.audit import audit
from tests.models.boxes import make_devices, make_pool, of_root, store_over

RING = 64 * KIB
PIECES = 1500  # their images take twice the ring
AT_ONCE = 100


async def make_fragmented(store: ObjectStore, bucket: Bucket, name: bytes) -> None:
    """A file of PIECES slices, each of its own chunk, as random writes leave it."""
    number = store.engine.new_id()
    for start in range(0, PIECES, AT_ONCE):
        chunks = [await store.stage(bucket, [b"%4d" % at]) for at in range(start, start + AT_ONCE)]
        ticket = store.submit_file(
            bucket,
            node=number,
            create=None if start else (bucket.root, name),
            **of_root(1),
            size=(start + AT_ONCE) * 8192,
            cut=None,
            chunks=chunks,
            slices=[NewSlice((start + at) * 8192, 4, chunk.id) for at, chunk in enumerate(chunks)],
        )
        await ticket.wait()


async def reaped(store: ObjectStore) -> int:
    """Until nothing is left to free; how many batches it took."""
    before = store.engine.committer.batches
    while store.engine.reaping:
        await store.engine.settle()
    return store.engine.committer.batches - before


def pool() -> Sequence[BlockDevice]:
    members = make_devices(2)
    make_pool(members, ring=RING)
    return members


@pytest.mark.slow
@pytest.mark.parametrize("threaded", [False, True])
def test_a_huge_object_is_deleted_through_a_tiny_ring(tmp_path: Path, threaded: bool) -> None:
    members = pool()

    async def main() -> None:
        async with store_over(members, tmp_path / "catalogue.db", threaded=threaded) as store:
            bucket = await store.create_bucket("bucket", "me")
            await make_fragmented(store, bucket, b"huge")
            await store.delete_object(bucket, b"huge")
            with pytest.raises(StoreError) as caught:
                await store.look_up(bucket, b"huge")
            assert caught.value.code is Code.NO_SUCH_KEY
            assert store.usage(bucket).objects == 0
            assert await reaped(store) >= PIECES * KIB // RING - 1
            await store.delete_bucket("bucket")
            report = await audit(store, verify=True)
            assert report.clean, report.problems
            assert (report.nodes, report.maps, report.chunks) == (0, 0, 0)

    trio.run(main)


def test_an_overwrite_of_a_huge_object_leaves_the_new_one_whole(tmp_path: Path) -> None:
    members = pool()

    async def main() -> None:
        async with store_over(members, tmp_path / "catalogue.db") as store:
            bucket = await store.create_bucket("bucket", "me")
            await make_fragmented(store, bucket, b"huge")
            await store.put_object(bucket, b"huge", store.small_body(b"small now"), "e", NO_ATTRIBUTES)
            node = await store.look_up(bucket, b"huge")
            assert store.reader(node).ready() == b"small now"
            await reaped(store)
            report = await audit(store, verify=True)
            assert report.clean, report.problems
            assert report.chunks == 0

    trio.run(main)


@pytest.mark.slow
@pytest.mark.parametrize("rebuild", [False, True])
def test_a_stop_between_two_steps_is_made_up_at_start(tmp_path: Path, rebuild: bool) -> None:
    members = pool()

    async def begin() -> None:
        async with store_over(members, tmp_path / "catalogue.db") as store:
            bucket = await store.create_bucket("bucket", "me")
            await make_fragmented(store, bucket, b"huge")
            await store.delete_object(bucket, b"huge")

    async def go_on() -> None:
        async with store_over(members, tmp_path / "catalogue.db") as store:
            (rest,) = store.engine.reader.execute("SELECT count(*) FROM slice").fetchone()
            assert 0 < rest < PIECES, "some steps were done and some were not"
            await reaped(store)
            report = await audit(store, verify=True)
            assert report.clean, report.problems
            assert (report.maps, report.chunks) == (0, 0)

    trio.run(begin)
    if rebuild:
        (tmp_path / "catalogue.db").unlink()
    trio.run(go_on)


def test_a_step_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members = pool()

    async def main() -> None:
        async with store_over(members, tmp_path / "catalogue.db") as store:
            bucket = await store.create_bucket("bucket", "me")
            await make_fragmented(store, bucket, b"huge")
            broken, sound = iter([True]), store.engine.committer._run

            def run(tickets: Sequence[Ticket], *, ahead: bool) -> Batch:
                if isinstance(tickets[0].command, Reap) and next(broken, False):
                    raise StoreError(Code.UNAVAILABLE, "a device failed")
                return sound(tickets, ahead=ahead)

            monkeypatch.setattr(store.engine.committer, "_run", run)
            await store.delete_object(bucket, b"huge")
            while store.engine.reaping:
                await store.engine.settle()
            assert store.engine._stuck, "one step failed"
            await store.put_object(bucket, b"k", store.small_body(b"x"), "e", NO_ATTRIBUTES)
            await reaped(store)
            report = await audit(store)
            assert report.clean, report.problems
            assert report.chunks == 0

    trio.run(main)
