"""Single stories of recovery, each of which once ended badly or easily could."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import pytest
import trio

from appliance.errors import Code, StoreError
from appliance.model import NO_ATTRIBUTES
from appliance.opening import open_store
from appliance.store import ObjectStore
from tests.crash import exhaustive, mutations, observed
from tests.crash.simulation import small_world
from tests.crash.witness import Host
from tests.doubles.disks import SimulatedDisk
from tests.models.boxes import VAULT

Story = Callable[[ObjectStore], Awaitable[None]]
PAGE: Final = bytes(range(100)) * 50  # two copies of it need both devices: where one failed it can't be tried again


class Machine:
    """Two mirrored SSDs, both with the journal, and a host."""

    def __init__(self, directory: Path) -> None:
        self.host = Host(directory)
        base = exhaustive.make_base(("blaze", "blaze"), 2, self.host)
        self.host.restart(base.files)
        self.disks = [
            SimulatedDisk(exhaustive.SIZE, random.Random(number), name=f"disk{number}", media=media)
            for number, media in enumerate(base.media)
        ]

    def boot(self, story: Story, *, without: int | None = None, host_lost: bool = False) -> None:
        """Opens the pool, lets the story happen, and cuts the power: everything flushed stays, nothing else."""
        if host_lost:
            self.host.restart({})

        async def run() -> None:
            devices = [(disk.name, disk) for number, disk in enumerate(self.disks) if number != without]
            async with open_store(devices, self.host.path, vault=VAULT, threaded=False, buffers=2) as store:
                await store.settle()
                await story(store)
                await store.settle()
                self.host.remember()
                for disk in self.disks:
                    disk.crash("none")
                store.engine.committer.failed = StoreError(Code.READ_ONLY)  # the power is gone: close writes nothing

        trio.run(run)
        self.disks = [disk.reopen() for disk in self.disks]
        self.host.restart(self.host.states[-1])


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """At the small scale."""
    with small_world() as directory:
        yield Machine(directory)


async def put(store: ObjectStore, key: bytes, content: bytes) -> None:
    """An inline object: it needs no page, so a pool with one device missing takes it."""
    await store.put_object(store.bucket("box"), key, store.small_body(content), "etag", NO_ATTRIBUTES)


async def get(store: ObjectStore, key: bytes) -> bytes:
    """Its bytes."""
    with store.reader(await store.look_up(store.bucket("box"), key)) as reader:
        return await reader.read()


def putting(key: bytes, content: bytes) -> Story:
    """A story of one object."""

    async def story(store: ObjectStore) -> None:
        await put(store, key, content)

    return story


def reading(key: bytes, content: bytes) -> Story:
    """The object is there, and nothing else is wrong."""

    async def story(store: ObjectStore) -> None:
        assert await get(store, key) == content
        absent = [device.id for device in store.engine.pool.devices.values() if device.device is None]
        observed.audit(store, absent=absent)

    return story


def test_a_journal_that_was_away_does_not_outvote_the_one_that_was_not(machine: Machine) -> None:
    """Its ring is as long and comes first, but its records are of an older epoch."""

    async def failing(store: ObjectStore) -> None:
        machine.disks[1].fail("flush")  # the batch reaches the first ring, durable, and is then taken back there
        with pytest.raises(StoreError):
            await put(store, b"taken back", PAGE)
        await put(store, b"kept", b"2")

    machine.disks.reverse()  # the failing device's ring is read first
    machine.boot(failing)
    machine.boot(reading(b"kept", b"2"), host_lost=True)


async def put_failing(machine: Machine, store: ObjectStore, key: bytes) -> None:
    """The record is durable on the first device, and is then taken back there."""
    machine.disks[1].fail("flush")
    with pytest.raises(StoreError):
        await put(store, key, PAGE)


def test_a_batch_that_failed_does_not_come_back(machine: Machine) -> None:
    """I12: the client was told so."""

    async def failing(store: ObjectStore) -> None:
        await put_failing(machine, store, b"taken back")

    async def look(store: ObjectStore) -> None:
        keys = [item.key for item in (await store.list_objects(store.bucket("box"))).objects]
        assert (b"before" in keys, b"taken back" in keys) == (True, False)

    machine.boot(putting(b"before", b"0"))
    machine.boot(failing)
    machine.boot(look)


def test_ids_are_promised_by_a_batch_that_did_not_fail(machine: Machine) -> None:
    """The first batch of a life promises them; when it fails the next one does."""

    async def failing(store: ObjectStore) -> None:
        await put_failing(machine, store, b"failed")
        await put(store, b"k", b"1")

    async def look(store: ObjectStore) -> None:
        assert store.engine.new_id() > (await store.look_up(store.bucket("box"), b"k")).id

    machine.boot(failing)
    machine.boot(look)


@pytest.mark.parametrize(
    ("fault", "scene"),
    [
        (mutations.no_invalidation, test_a_batch_that_failed_does_not_come_back),
        (mutations.ids_promised_too_early, test_ids_are_promised_by_a_batch_that_did_not_fail),
    ],
    ids=["no_invalidation", "ids_promised_too_early"],
)
def test_a_broken_variant_is_noticed(
    machine: Machine, fault: Callable[[], AbstractContextManager[None]], scene: Callable[[Machine], None]
) -> None:
    """In the scene that was made for it: the simulation meets it in one seed of a hundred."""
    with fault(), pytest.raises((AssertionError, StoreError, ExceptionGroup)):
        scene(machine)


def test_a_returned_journal_is_made_equal(machine: Machine) -> None:
    machine.boot(putting(b"a", b"1"))
    machine.boot(putting(b"b", b"2"), without=0)
    machine.boot(putting(b"c", b"3"))
    for key, content in ((b"a", b"1"), (b"b", b"2"), (b"c", b"3")):
        machine.boot(reading(key, content), without=1, host_lost=True)
        machine.boot(reading(key, content), host_lost=True)


def test_an_old_journal_does_not_stand_in_for_one_that_cannot_be_read(machine: Machine) -> None:
    machine.boot(putting(b"a", b"1"))
    machine.boot(putting(b"b", b"2"), without=0)
    machine.disks[1].fail("read", 5, for_ever=True)  # four superblock slots, then the ring
    with pytest.raises(StoreError) as raised:
        machine.boot(reading(b"b", b"2"))
    assert raised.value.code is Code.IO_ERROR
    machine.disks = [disk.reopen() for disk in machine.disks]
    machine.boot(reading(b"b", b"2"), host_lost=True)


def test_a_log_without_its_file_is_not_read_into_another(machine: Machine) -> None:
    """A crash between the two renames that put a catalogue aside leaves only its WAL."""
    machine.boot(putting(b"a", b"1"))
    log = machine.host.states[-1]["-wal"]
    machine.host.restart({"-wal": log})
    machine.boot(reading(b"a", b"1"))


def test_a_snapshot_that_cannot_be_read_is_replaced(machine: Machine) -> None:
    """Its pages are not known to be in use; before they are used otherwise there must be another."""

    async def snapshot(store: ObjectStore) -> None:
        store.engine.checkpointer.take()

    machine.boot(snapshot)
    before: list[object] = []

    async def replaced(store: ObjectStore) -> None:
        before.append(store.engine.pool.snapshot)
        observed.audit(store)

    async def note(store: ObjectStore) -> None:
        before.append(store.engine.pool.snapshot)
        for number, offset, length, _ in store.engine.pool.snapshot.pages if store.engine.pool.snapshot else ():
            for bit in range(0, length * 8, 4096):
                machine.disks[number - 1].flip(offset + bit // 8, 1)

    machine.boot(note)
    machine.boot(replaced)
    assert before[0] != before[1]
    machine.boot(replaced, host_lost=True)


def test_one_unreadable_superblock_slot_is_no_loss(machine: Machine) -> None:
    machine.boot(putting(b"a", b"1"))
    machine.disks[0].fail("read", 1)
    machine.disks[1].fail("read", 3)
    machine.boot(reading(b"a", b"1"))


def test_a_device_that_fails_while_the_pool_opens_is_fenced(machine: Machine) -> None:
    machine.boot(putting(b"a", b"1"))
    machine.disks[0].fail("write", 1, for_ever=True)

    async def story(store: ObjectStore) -> None:
        assert [device.state for device in store.engine.pool.devices.values()].count("failed") == 1
        assert await get(store, b"a") == b"1"
        await put(store, b"b", b"2")

    machine.boot(story)
    machine.boot(reading(b"b", b"2"), host_lost=True)
