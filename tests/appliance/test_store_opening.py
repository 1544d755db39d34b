"""Opening a pool: what is recovered, what is refused and how it says so.  Nothing is ever lost by being refused."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from appliance.catalogue import schema
from appliance.catalogue.database import replay
from appliance.catalogue.schema import NODE
from appliance.device.device import BlockDevice
from appliance.engine.snapshot import Checkpointer
from appliance.errors import Code, StoreError
from appliance.limits import MIB
from appliance.model import NO_ATTRIBUTES
from appliance.ondisk.geometry import SLOT, slot_offsets
from appliance.opening import holder, open_pool, open_store, state_lock
from appliance.store import ObjectStore
from appliance.upkeep.audit import audit
from tests.doubles.disks import MemoryDevice
from tests.models.boxes import body_of, make_devices, make_pool, read_all, store_over

CONTENTS = {b"inline": b"abc", b"d/small": b"x" * 5000, b"large": b"y" * 2 * MIB}


def fill(devices: Sequence[BlockDevice], database: Path, *, copies: int = 1) -> None:
    """A bucket with CONTENTS, closed cleanly."""

    async def main() -> None:
        async with store_over(devices, database) as store:
            bucket = await store.create_bucket("bucket", "me", copies=copies)
            for key, data in CONTENTS.items():
                await store.put_object(bucket, key, await body_of(store, bucket, data), "e", NO_ATTRIBUTES)

    trio.run(main)


def check(devices: Sequence[BlockDevice], database: Path) -> None:
    """Opens and finds all of CONTENTS."""

    async def main() -> None:
        async with store_over(devices, database) as store:
            bucket = store.bucket("bucket")
            for key, data in CONTENTS.items():
                assert await read_all(store, await store.look_up(bucket, key)) == data
            report = await audit(store, verify=True)
            assert report.clean, report.problems

    trio.run(main)


def refused(devices: Sequence[BlockDevice], database: Path) -> StoreError:
    """The error with which it does not open."""
    with pytest.raises(StoreError) as caught:
        check(devices, database)
    return caught.value


def clone(device: MemoryDevice, size: int | None = None) -> MemoryDevice:
    """Another device with the same bytes."""
    copy = MemoryDevice(size or device.size, f"{device.name}-copy")
    copy.media = device.media.copy()
    copy.media.size = copy.size
    return copy


@pytest.fixture
def devices() -> list[MemoryDevice]:
    return make_devices(2)


@pytest.fixture
def database(tmp_path: Path, devices: list[MemoryDevice]) -> Path:
    make_pool(devices, copies=2, journals=2)
    path = tmp_path / "catalogue.db"
    fill(devices, path, copies=2)
    return path


# ---------------------------------------------------------------------- recovered


def test_a_clean_restart(devices: list[MemoryDevice], database: Path) -> None:
    check(devices, database)
    check(devices, database)


def test_without_the_hosts_file(devices: list[MemoryDevice], database: Path) -> None:
    database.unlink()
    check(devices, database)


def modes_in(directory: Path) -> dict[str, int]:
    """Permissions of its files."""
    return {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}


def test_others_read_no_file_of_the_host(devices: list[MemoryDevice], database: Path, tmp_path: Path) -> None:
    """Small objects lie in the catalogue, and a state directory that was there before may be open to others."""

    async def main() -> None:
        async with store_over(devices, database) as store:
            await store.put_object(store.bucket("bucket"), b"more", store.small_body(b"z"), "e", NO_ATTRIBUTES)
            found = modes_in(tmp_path)
            assert set(found) >= {"catalogue.db", "catalogue.db-wal", "catalogue.db-shm"}
            assert set(found.values()) == {0o600}, found

    trio.run(main)
    database.unlink()
    trio.run(main)


@pytest.mark.parametrize("damage", [b"", b"not a database at all" * 1000])
def test_a_corrupt_catalogue_file_is_put_aside(devices: list[MemoryDevice], database: Path, damage: bytes) -> None:
    image = database.read_bytes()
    database.write_bytes(damage + image[len(damage) : 20_000] if damage else b"")
    check(devices, database)
    if damage:
        assert database.with_name("catalogue.db.aside").read_bytes().startswith(damage)


def test_a_foreign_catalogue_file_is_put_aside(devices: list[MemoryDevice], database: Path, tmp_path: Path) -> None:
    others = make_devices(1)
    make_pool(others)
    foreign = tmp_path / "foreign.db"
    fill(others, foreign)
    shutil.copy(foreign, database)
    check(devices, database)
    assert database.with_name("catalogue.db.aside").exists()


def test_an_older_catalogue_file_is_brought_up_to_date(devices: list[MemoryDevice], database: Path) -> None:
    old = database.read_bytes()

    async def more() -> None:
        async with store_over(devices, database) as store:
            await store.put_object(store.bucket("bucket"), b"more", store.small_body(b"z" * 5000), "e", NO_ATTRIBUTES)

    trio.run(more)
    database.write_bytes(old)
    check(devices, database)

    async def later() -> None:
        async with store_over(devices, database) as store:
            assert await read_all(store, await store.look_up(store.bucket("bucket"), b"more")) == b"z" * 5000

    trio.run(later)


@pytest.mark.parametrize("slots", [(0,), (1, 3), (0, 2), (0, 1, 2)])
def test_corrupt_superblock_slots(devices: list[MemoryDevice], database: Path, slots: tuple[int, ...]) -> None:
    for device in devices:
        for slot in slots:
            device.media.write(slot_offsets(device.size)[slot] + 100, b"\xff" * 64)
    check(devices, database)


def test_what_a_crash_leaves_behind_the_journal_is_no_record(devices: list[MemoryDevice], database: Path) -> None:
    """The tail of the ring: garbage where the next record would be."""
    heads: list[int] = []

    async def look() -> None:
        async with store_over(devices, database) as store:
            pool = store.engine.pool
            heads.extend(device.geometry.ring_start + store.engine.ring.head for device in pool.devices.values())

    trio.run(look)
    for device, head in zip(devices, heads, strict=True):
        device.media.write(head, b"TIERCEJR" + bytes(range(248)))
    database.unlink()
    check(devices, database)


def test_one_journal_of_two_is_enough(devices: list[MemoryDevice], database: Path) -> None:
    """The other one's ring is wiped: it gets the records again."""
    devices[0].media.zero(2 * MIB, MIB // 2)
    database.unlink()
    check(devices, database)
    devices[1].media.zero(2 * MIB, MIB // 2)
    database.unlink()
    check(devices, database)


def test_a_pool_that_was_run_in_halves_is_not_made_one_by_forgetting_a_half(tmp_path: Path) -> None:
    """I12: each of two journals has batches that were acknowledged without the other, on a host of its own."""
    devices = make_devices(2)
    make_pool(devices, journals=2)
    databases = [tmp_path / str(host) / "catalogue.db" for host in range(6)]
    for database in databases:
        database.parent.mkdir()

    async def main() -> None:
        async with store_over(devices, databases[0]) as store:
            await store.create_bucket("bucket", "me")
        for at in (0, 1):
            async with store_over(devices[at : at + 1], databases[1 + at]) as store:
                for number in range(3):
                    body = store.small_body(b"%d" % number)
                    await store.put_object(store.bucket("bucket"), b"%d/%d" % (at, number), body, "e", NO_ATTRIBUTES)
        with pytest.raises(StoreError) as caught:
            async with store_over(devices, databases[3]):
                pass
        assert caught.value.code is Code.JOURNAL_DAMAGED
        for at in (0, 1):
            async with store_over(devices[at : at + 1], databases[4 + at]) as store:
                found = await store.list_objects(store.bucket("bucket"), limit=10)
                assert [item.key for item in found.objects] == [b"%d/%d" % (at, number) for number in range(3)]

    trio.run(main)


def test_a_missing_device_leaves_the_other_copy(devices: list[MemoryDevice], database: Path) -> None:
    check(devices[:1], database)
    check(devices, database)


def test_ids_of_what_was_committed_never_return(devices: list[MemoryDevice], database: Path) -> None:
    """The promise of ids is in the journal: after a restart, and after a rebuild, counting goes on above it."""
    given: list[int] = []

    async def take() -> None:
        async with store_over(devices, database) as store:
            given.extend(store.new_node_id() for _ in range(10))
            bucket = store.bucket("bucket")
            await store.put_object(bucket, b"new", store.small_body(b"n" * 5000), "e", NO_ATTRIBUTES)
            node = await store.look_up(bucket, b"new")
            given.extend((node.ref, node.id))
            await store.delete_object(bucket, b"new")

    for rebuild in (False, True, False):
        if rebuild:
            database.unlink()
        trio.run(take)
    assert len(set(given)) == len(given)
    assert given == sorted(given)


def test_an_implied_directory_that_was_held_at_the_end_is_reaped(devices: list[MemoryDevice], database: Path) -> None:
    async def leave() -> None:
        async with store_over(devices, database) as store:
            bucket = store.bucket("bucket")
            await store.put_object(bucket, b"held/x", store.small_body(b"x"), "e", NO_ATTRIBUTES)
            entry = store.entry(bucket.root, b"held", True)
            assert entry is not None
            store.hold(entry.node.id)
            await store.delete_object(bucket, b"held/x")
            assert store.entry(bucket.root, b"held", True) is not None

    trio.run(leave)
    check(devices, database)


def test_an_unlinked_file_that_was_held_at_the_end_is_reaped(devices: list[MemoryDevice], database: Path) -> None:
    async def leave() -> None:
        async with store_over(devices, database) as store:
            bucket = store.bucket("bucket")
            node = await store.look_up(bucket, b"large")
            await store.copy_object(node, bucket, b"copy", None)
            store.hold(node.id)
            await store.unlink(bucket.root, b"large", 1)
            assert await read_all(store, store.node(node.id)) == CONTENTS[b"large"]
            again = await store.look_up(bucket, b"copy")
            await store.rename(bucket.root, b"copy", False, bucket.root, b"large", 1)
            assert again.ref == node.ref

    trio.run(leave)
    check(devices, database)


# ---------------------------------------------------------------------- refused


def test_a_device_that_shrank(tmp_path: Path) -> None:
    devices = make_devices(2, size=80 * MIB)
    make_pool(devices)
    fill(devices, tmp_path / "catalogue.db")
    smaller = clone(devices[0], size=72 * MIB)  # the slots at the head still say 80
    error = refused([smaller, devices[1]], tmp_path / "catalogue.db")
    assert error.code is Code.WRONG_DEVICE
    assert "shrank" in error.message
    check(devices, tmp_path / "catalogue.db")


def test_a_clone(devices: list[MemoryDevice], database: Path) -> None:
    error = refused([*devices, clone(devices[1])], database)
    assert error.code is Code.WRONG_DEVICE
    assert "clone" in error.message
    check(devices, database)


def test_a_stranger(devices: list[MemoryDevice], database: Path) -> None:
    error = refused([*devices, MemoryDevice(64 * MIB, "blank")], database)
    assert error.code is Code.WRONG_DEVICE
    assert "blank" in error.message
    check(devices, database)


def test_another_pool(devices: list[MemoryDevice], database: Path) -> None:
    others = make_devices(1)
    make_pool(others)
    error = refused([*devices, *others], database)
    assert error.code is Code.WRONG_DEVICE
    assert "different pools" in error.message
    check(devices, database)


def test_no_device_at_all(database: Path) -> None:
    assert refused([], database).code is Code.WRONG_DEVICE


def test_another_format(devices: list[MemoryDevice], database: Path) -> None:
    """A superblock of another version, whole: what is on the device is not called damaged, nor touched."""
    from blake3 import blake3

    before = [device.media.copy() for device in devices]
    for version, told in ((99, "a newer version of Tierce"), (1, "an older version of Tierce")):
        for slot in slot_offsets(devices[0].size):
            image = bytearray(devices[0].media.read(slot, SLOT))
            image[8:12] = version.to_bytes(4, "little")
            image[-32:] = blake3(image[:-32]).digest()
            devices[0].media.write(slot, image)
        error = refused(devices, database)
        assert error.code is Code.OLD_FORMAT
        assert told in error.message
    for device, media in zip(devices, before, strict=True):
        device.media = media
    check(devices, database)


def test_a_future_catalogue(devices: list[MemoryDevice], database: Path) -> None:
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    error = refused(devices, database)
    assert error.code is Code.OLD_FORMAT
    assert "99" in error.message


OLDER = (
    ("ALTER TABLE node DROP COLUMN sum", "ALTER TABLE node DROP COLUMN version", "PRAGMA user_version=1"),
    ("DROP TABLE setting", "DROP INDEX upload_key", "PRAGMA user_version=1"),
    ("ALTER TABLE node DROP COLUMN sum",),  # the version's number says nothing of it
)
FOREIGN = (
    ("ALTER TABLE slice RENAME COLUMN roff TO elsewhere",),
    ("ALTER TABLE node ADD COLUMN another INTEGER",),
    ("DROP TABLE setting", "CREATE TABLE setting (a, b)", "PRAGMA user_version=1"),
)


@pytest.mark.slow
@pytest.mark.parametrize("older", [True, False])
def test_a_catalogue_of_another_structure(
    devices: list[MemoryDevice], database: Path, caplog: pytest.LogCaptureFixture, older: bool
) -> None:
    """An older one gets what it lacks; what nobody knows is put aside and made again.  Both can be written."""
    image = database.read_bytes()
    aside = database.with_name("catalogue.db.aside")

    async def put(key: bytes) -> None:
        async with store_over(devices, database) as store:
            await store.put_object(store.bucket("bucket"), key, store.small_body(b"z" * 5000), "e", NO_ATTRIBUTES)
            await store.set_bucket_setting(store.bucket("bucket"), "cors", b"x")

    for number, statements in enumerate(OLDER if older else FOREIGN):
        caplog.clear()
        if number:
            database.write_bytes(image)
        connection = sqlite3.connect(database)
        for statement in statements:
            connection.execute(statement)
        connection.close()
        check(devices, database)
        assert ("older tierce" if older else "put aside") in caplog.text, statements
        assert aside.exists() != older
        trio.run(put, b"new%d" % number)
        check(devices, database)
        image = database.read_bytes()
        aside.unlink(missing_ok=True)


def test_rows_of_an_older_journal_get_the_columns_that_they_lack() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    schema.create(connection)
    row = [7, 0o100644, 0, 0, 1, 0, 1, 1, 1, 1, 1, "etag", 0, 0, b"", 0, b"", 3]
    replay(connection, [[NODE.number, 0, *row]])
    found = connection.execute("SELECT * FROM node").fetchone()
    assert found == (*row, b"", 0, 0)
    with pytest.raises(StoreError) as caught:
        replay(connection, [[NODE.number, 0, *found, "one more"]])
    assert caught.value.code is Code.OLD_FORMAT


def test_a_last_batch_that_was_shown_with_a_torn_copy_is_not_dropped_later(tmp_path: Path) -> None:
    """Once by a start that had a good copy of it, then without the device that has that."""
    devices = make_devices(3)
    make_pool(devices, copies=2, journals=2)
    pages: list[tuple[int, int]] = []
    crashed: list[MemoryDevice] = []

    async def put() -> None:
        async with store_over(devices, tmp_path / "first.db") as store:
            bucket = await store.create_bucket("bucket", "me", copies=2)
            body = await body_of(store, bucket, b"x" * 5000)
            await store.put_object(bucket, b"key", body, "e", NO_ATTRIBUTES)
            pages.extend(store.every("SELECT dev, off FROM page"))
            crashed.extend(clone(device) for device in devices)

    async def show(here: list[MemoryDevice], database: Path) -> None:
        async with store_over(here, database) as store:
            await store.look_up(store.bucket("bucket"), b"key")
            crashed.extend(clone(device) for device in here)

    trio.run(put)
    (absent, _), (torn, at) = pages
    crashed[torn - 1].media.write(at, bytes(4096))
    for name in ("second.db", "third.db"):
        here, crashed[:] = list(crashed), []
        trio.run(show, here, tmp_path / name)
        del crashed[absent - 1]


def test_a_journal_damaged_in_the_middle(tmp_path: Path) -> None:
    """With one journal only: it says so, guesses nothing, and changes nothing."""
    devices = make_devices(1)
    make_pool(devices, ring=2 * MIB)
    database = tmp_path / "catalogue.db"
    fill(devices, database)
    offsets: list[int] = []

    async def more() -> None:
        async with store_over(devices, database) as store:
            for number in range(5):
                await store.put_object(
                    store.bucket("bucket"), b"more%d" % number, store.small_body(b"x"), "e", NO_ATTRIBUTES
                )
            start = next(iter(store.engine.pool.devices.values())).geometry.ring_start
            offsets.extend(start + place.offset for place in store.engine.ring.live)

    trio.run(more)
    assert len(offsets) == 5, "the closing took no snapshot: the ring is hardly used"
    for hurt in (1, 4):  # in the middle, and the last one of a pool that was closed cleanly
        device = clone(devices[0])
        device.media.write(offsets[hurt], bytes(4096))
        assert refused([device], tmp_path / "none.db").code is Code.JOURNAL_DAMAGED
    check(devices, database)


def test_a_rebuild_that_is_refused_leaves_the_catalogue_where_it_is(tmp_path: Path) -> None:
    """It may be the only one that has what the devices have not: the box starts with it as before."""
    devices = make_devices(1)
    make_pool(devices, ring=2 * MIB)
    database = tmp_path / "catalogue.db"
    fill(devices, database)
    hurts: list[int] = []  # in the middle of the journal, at its end, the snapshot's index

    async def more() -> None:
        async with store_over(devices, database) as store:
            for key in (b"p", b"q", b"r"):
                await store.put_object(store.bucket("bucket"), key, store.small_body(b"x"), "e", NO_ATTRIBUTES)
            pool = store.engine.pool
            assert pool.snapshot is not None
            start = pool.devices[1].geometry.ring_start
            hurts.extend(start + place.offset for place in list(store.engine.ring.live)[1:])
            hurts.extend(at for _, at, _, _ in pool.snapshot.pages)

    async def rebuild(device: MemoryDevice) -> None:
        async with open_store([(device.name, device)], database, rebuild=True):
            pass

    trio.run(more)
    kept = database.read_bytes()
    assert len(hurts) == 3
    for at in hurts:
        database.write_bytes(kept)
        device = clone(devices[0])
        device.media.write(at, bytes(4096))
        with pytest.raises(StoreError) as caught:
            trio.run(rebuild, device)
        assert caught.value.code in (Code.JOURNAL_DAMAGED, Code.DAMAGED), at
        assert database.exists(), at
        check([device], database)


@pytest.mark.slow
def test_a_damaged_journal_is_no_loss_beside_a_whole_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's file has all that the ring had; older than the ring, hurt or another's it does not help."""
    devices = make_devices(1)
    make_pool(devices, ring=2 * MIB)
    database = tmp_path / "catalogue.db"
    fill(devices, database)
    old = database.read_bytes()
    offsets: list[int] = []

    async def put(store: ObjectStore, numbers: range) -> None:
        for number in numbers:
            body = store.small_body(b"%d" % number)
            await store.put_object(store.bucket("bucket"), b"more%d" % number, body, "e", NO_ATTRIBUTES)

    async def more() -> None:
        async with store_over(devices, database) as store:
            await put(store, range(5))
            start = next(iter(store.engine.pool.devices.values())).geometry.ring_start
            offsets.extend(start + place.offset for place in store.engine.ring.live)

    trio.run(more)
    new = database.read_bytes()
    devices[0].media.write(offsets[2], bytes(4096))
    hurt = bytearray(new)
    for at in range(len(hurt) // 2, len(hurt), 512):  # every page of the file's second half
        hurt[at] ^= 0xFF
    for image in (old, bytes(hurt), b""):
        database.write_bytes(image)
        before = devices[0].media.copy()
        assert refused(devices, database).code is Code.JOURNAL_DAMAGED
        assert devices[0].media.read(0, devices[0].size) == before.read(0, devices[0].size), "nothing was changed"

    database.write_bytes(new)
    with monkeypatch.context() as patch:  # without a snapshot no record may follow
        patch.setattr(Checkpointer, "take", fail)
        assert refused(devices, database).code is Code.NO_SPACE

    async def go_on() -> None:
        async with store_over(devices, database) as store:
            for number in range(5):
                node = await store.look_up(store.bucket("bucket"), b"more%d" % number)
                assert await read_all(store, node) == b"%d" % number
            await put(store, range(5, 8))

    trio.run(go_on)
    check(devices, database)
    database.unlink()
    check(devices, database)  # from the device alone

    async def all_there() -> None:
        async with store_over(devices, database) as store:
            for number in range(8):
                await store.look_up(store.bucket("bucket"), b"more%d" % number)

    trio.run(all_there)


def fail(checkpointer: Checkpointer) -> None:
    """A snapshot that finds no room."""
    raise StoreError(Code.NO_SPACE)


def test_a_state_directory_without_room_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("appliance.opening.os.write", full)
        with pytest.raises(StoreError, match="cannot be written: No space left on device"), state_lock(tmp_path):
            pass
    with state_lock(tmp_path):
        pass


def test_two_of_us_on_one_state_directory(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"")
    with state_lock(tmp_path), pytest.raises(StoreError) as caught, state_lock(tmp_path):
        pass
    assert caught.value.code is Code.IN_USE

    async def main() -> None:
        async with open_pool([str(path)], tmp_path):
            pass

    with state_lock(tmp_path), pytest.raises(StoreError) as caught:
        assert holder(tmp_path) == os.getpid()
        trio.run(main)
    assert caught.value.code is Code.IN_USE
    assert holder(tmp_path) == 0, "its number may be another's by now"
    with state_lock(tmp_path):
        pass
