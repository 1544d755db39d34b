"""R6: a bit or a sector is changed in every kind of structure, and never is a wrong byte served.

Two ways.  On a running store pages are hurt and read: the hurt copy is always noticed, counted, and passed over where
another copy exists, else the read fails.  On a closed pool what recovery reads is hurt (superblocks, journal, snapshot,
the host's catalogue file), and the pool either opens with everything in it or says clearly that it can't; with two
devices of everything it always opens.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from appliance.device.buffers import scratch
from appliance.engine.pool import PageRef, page_room
from appliance.engine.snapshot import Checkpointer, indexes
from appliance.errors import Code, StoreError
from appliance.limits import BLOCK, GATHER_MAX, PAGE_PAYLOAD
from appliance.model import NO_ATTRIBUTES, Bucket, NewSlice
from appliance.ondisk import page
from appliance.ondisk.damaged import DamagedError
from appliance.ondisk.geometry import SLOT
from appliance.store import ObjectStore
from appliance.upkeep.audit import audit
from tests.doubles.disks import MemoryDevice
from tests.models.boxes import body_of, make_devices, make_pool, of_root, read_all, store_over

NOW = 1_700_000_000_000_000_000
SIZES = {b"inline": 100, b"small": 3000, b"dir/middle": 100_000, b"long": GATHER_MAX + 1, b"two": PAGE_PAYLOAD + 70_000}

OPENING_CODES = {Code.DAMAGED, Code.JOURNAL_DAMAGED}


class Place(NamedTuple):
    """Where a structure lies: on device number `device` (from 0), or in the catalogue file (-1)."""

    kind: str
    device: int
    offset: int
    length: int


class Patient(NamedTuple):
    """A pool that was closed cleanly, what is in it, and where its structures are."""

    devices: list[MemoryDevice]
    database: Path
    contents: dict[bytes, bytes]
    places: list[Place]


async def fill(store: ObjectStore, bucket: Bucket) -> dict[bytes, bytes]:
    """Objects of every shape."""
    contents = {}
    for key, size in SIZES.items():
        contents[key] = random.Random(size).randbytes(size)
        await store.put_object(bucket, key, await body_of(store, bucket, contents[key]), "e", NO_ATTRIBUTES)
    for key, size in ((b"sealed small", 4000), (b"sealed long", GATHER_MAX + 70_000)):
        contents[key] = random.Random(size).randbytes(size)
        body = await body_of(store, bucket, contents[key], await store.data_key())
        await store.put_object(bucket, key, body, "e", NO_ATTRIBUTES)
    node = store.new_node_id()
    chunks = [await store.stage(bucket, [letter * size]) for letter, size in ((b"a", 5000), (b"b", 200_000))]
    ticket = store.submit_file(
        bucket,
        node=node,
        create=(bucket.root, b"file"),
        **of_root(NOW),
        size=400_000,
        chunks=chunks,
        slices=[NewSlice(100, 4000, chunks[0].id, 500), NewSlice(100_000, 200_000, chunks[1].id)],
    )
    await ticket.wait()
    image = bytearray(400_000)
    image[100:4100] = b"a" * 4000
    image[100_000:300_000] = b"b" * 200_000
    contents[b"file"] = bytes(image)
    return contents


def patient(directory: Path, copies: int) -> Patient:
    """`copies` devices, each with a journal."""
    devices = make_devices(copies)
    make_pool(devices, copies=copies, journals=copies)
    database = directory / "catalogue.db"
    places: list[Place] = []

    async def main() -> dict[bytes, bytes]:
        async with store_over(devices, database) as store:
            bucket = await store.create_bucket("bucket", "me")
            await store.put_object(bucket, b"early", store.small_body(b"x" * 5000), "e", NO_ATTRIBUTES)
            store.engine.checkpointer.take()
            contents = await fill(store, bucket)
            contents[b"early"] = b"x" * 5000
            pool = store.engine.pool
            for at, device in enumerate(pool.devices.values()):
                places.extend(Place("superblock", at, offset, SLOT) for offset in device.geometry.slots())
                base = device.geometry.ring_start
                for record in store.engine.ring.live:
                    places.append(Place("record head", at, base + record.offset, 80))
                    places.append(Place("record body", at, base + record.offset + 80, record.length - 80))
            assert pool.snapshot is not None
            for number, offset, length, _ in pool.snapshot.pages:
                places.append(Place("snapshot index", number - 1, offset, length))
            for item in indexes(pool, pool.snapshot)[-1].pages:
                places.append(Place("snapshot page", item.device - 1, item.offset, item.length))
            checkpointers.append(store.engine.checkpointer)
            return contents

    checkpointers: list[Checkpointer] = []
    contents = trio.run(main)
    assert checkpointers[0].taken == 1, "closing took no other snapshot: the places are the closed pool's"
    places.append(Place("catalogue", -1, 0, database.stat().st_size))
    return Patient(devices, database, contents, places)


@pytest.fixture(scope="module", params=[1, 2], ids=["one copy", "two copies"])
def one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Patient:
    """The pool of this round."""
    return patient(tmp_path_factory.mktemp("patient"), request.param)


class Harm(NamedTuple):
    """What happens at a place: one bit flips, or a sector is zeroed."""

    offset: int
    bit: int | None

    def do(self, old: bytes) -> bytes:
        """The changed byte or sector."""
        return bytes([old[0] ^ (1 << self.bit)]) if self.bit is not None else bytes(len(old))

    @property
    def length(self) -> int:
        """Bytes touched."""
        return 1 if self.bit is not None else 512


def harm(place: Place, seed: random.Random) -> Harm:
    """Nine bits for every zeroed sector."""
    if seed.random() < 0.9 or place.length < 512:
        return Harm(place.offset + seed.randrange(place.length), seed.randrange(8))
    return Harm(place.offset + seed.randrange(place.length // 512) * 512, None)


# ---------------------------------------------------------------------- a running store


class Hurt(NamedTuple):
    """A page row and the object that needs it."""

    key: bytes
    ref: PageRef
    payload: int
    copies: int
    logical: int  # where its payload begins in the object
    taken: tuple[int, int]  # the part of the payload that the object uses


async def pages_of(store: ObjectStore, bucket: Bucket, contents: dict[bytes, bytes]) -> list[Hurt]:
    """Every page copy of every object."""
    found = []
    for key in contents:
        node = await store.look_up(bucket, key)
        slices = store.engine.reader.execute(
            "SELECT off, len, ref, roff FROM slice WHERE map=?1 AND ?2=3 UNION ALL SELECT 0, ?3, ?1, 0 WHERE ?2=2",
            (node.ref, node.kind, node.size),
        ).fetchall()
        for offset, length, chunk, start in slices:
            rows = store.engine.reader.execute(
                "SELECT p.dev, p.off, p.len, p.idx, p.hsum, c.len, c.copies FROM page p JOIN chunk c ON c.id=p.chunk"
                " WHERE p.chunk=?",
                (chunk,),
            ).fetchall()
            for row in rows:
                base = row[3] * PAGE_PAYLOAD
                payload = min(PAGE_PAYLOAD, row[5] - base)
                low, high = max(start - base, 0), min(start + length - base, payload)
                found.append(Hurt(key, PageRef(*row[:5]), payload, row[6], offset - start + base, (low, high)))
    return found


async def hurt_and_read(
    store: ObjectStore,
    devices: list[MemoryDevice],
    contents: dict[bytes, bytes],
    pages: list[Hurt],
    seed: random.Random,
) -> None:
    """One change in one page, noticed; then mended."""
    hurt = seed.choice(pages)
    lead = page.header_length(hurt.payload)
    if seed.random() < 0.4:
        place = Place("header", hurt.ref.device - 1, hurt.ref.offset, lead)
    else:
        low, high = hurt.taken
        place = Place("payload", hurt.ref.device - 1, hurt.ref.offset + lead + low, high - low)
    change = harm(place, seed)
    media = devices[place.device].media
    old = media.read(change.offset, change.length)
    new = change.do(old)
    if new == old:
        return
    media.write(change.offset, new)
    try:
        store.engine.retrieval.cache.clear()
        store.engine.pool.forget_headers()
        at = max(0, min(change.offset - hurt.ref.offset - lead, hurt.payload - 1))
        low = at // BLOCK * BLOCK
        high = min(low + BLOCK, hurt.payload)
        with scratch(page_room(low, high)) as room, pytest.raises(DamagedError):
            store.engine.pool.read_page_part(hurt.ref, low, high, room)
        low, high = max(low, hurt.taken[0]), min(high, hurt.taken[1])
        bucket = store.bucket("bucket")
        node = await store.look_up(bucket, hurt.key)
        start, length = hurt.logical + low, high - low
        device = store.engine.pool.devices[hurt.ref.device]
        before, passed = device.checksum_errors, store.engine.pool.failovers
        if hurt.copies == 1:
            with pytest.raises(StoreError) as caught:
                await read_all(store, node, start, length)
            assert caught.value.code is Code.DAMAGED
            assert device.checksum_errors == before + 1
            return
        assert await read_all(store, node, start, length) == contents[hurt.key][start : start + length]
        assert store.engine.pool.failovers - passed == device.checksum_errors - before
    finally:
        media.write(change.offset, old)


def run_live(one: Patient, count: int, seed: int, tmp_path: Path) -> None:
    """`count` changes of pages."""
    source = random.Random(seed)
    devices = copy_of(one)
    database = tmp_path / "catalogue.db"
    shutil.copy(one.database, database)

    async def main() -> None:
        async with store_over(devices, database) as store:
            pages = await pages_of(store, store.bucket("bucket"), one.contents)
            for _ in range(count):
                await hurt_and_read(store, devices, one.contents, pages, source)
            report = await audit(store, verify=True)
            assert report.healthy, report.problems

    trio.run(main)


def copy_of(one: Patient) -> list[MemoryDevice]:
    """Devices with the same bytes."""
    copies = []
    for device in one.devices:
        copy = MemoryDevice(device.size, device.name)
        copy.media = device.media.copy()
        copies.append(copy)
    return copies


@pytest.mark.slow
@pytest.mark.usefixtures("_quiet")
def test_hurt_pages_are_never_served(one: Patient, tmp_path: Path) -> None:
    run_live(one, 150, 1, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("_quiet")
def test_hurt_pages_are_never_served_20000(one: Patient, tmp_path: Path) -> None:
    run_live(one, 10_000, 2, tmp_path)


@pytest.fixture
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of warnings are expected."""
    caplog.set_level("CRITICAL")


# ---------------------------------------------------------------------- a closed pool


def hurt_and_open(one: Patient, place: Place, change: Harm, directory: Path, *, rebuild: bool) -> Code | None:
    """Opens a hurt copy and compares everything; the code if it refused."""
    directory.mkdir()
    devices = copy_of(one)
    database = directory / "catalogue.db"
    if not rebuild or place.device < 0:
        shutil.copy(one.database, database)
    if place.device < 0:
        image = bytearray(database.read_bytes())
        image[change.offset : change.offset + change.length] = change.do(
            bytes(image[change.offset : change.offset + change.length])
        )
        database.write_bytes(image)
    else:
        media = devices[place.device].media
        media.write(change.offset, change.do(media.read(change.offset, change.length)))

    async def main() -> None:
        async with store_over(devices, database) as store:
            bucket = store.bucket("bucket")
            listed = await store.list_objects(bucket)
            assert [item.key for item in listed.objects] == sorted(one.contents)
            for key, expected in one.contents.items():
                assert await read_all(store, await store.look_up(bucket, key)) == expected, key

    refusal: Code | None = None
    try:
        trio.run(main)
    except StoreError as error:
        refusal = error.code
    finally:
        shutil.rmtree(directory)
    return refusal


def run_closed(one: Patient, count: int, seed: int, tmp_path: Path, chosen: Callable[[Place], bool]) -> None:
    """`count` changes of what recovery reads."""
    source = random.Random(seed)
    places = [place for place in one.places if chosen(place)]
    kinds = sorted({place.kind for place in places})
    for number in range(count):
        kind = kinds[number % len(kinds)]
        place = source.choice([place for place in places if place.kind == kind])
        change = harm(place, source)
        rebuild = source.random() < 0.6
        code = hurt_and_open(one, place, change, tmp_path / str(number), rebuild=rebuild)
        if code is not None:
            assert len(one.devices) == 1, f"{place} {change} rebuild={rebuild}: the other device has it all ({code})"
            assert kind in ("record head", "record body", "snapshot index", "snapshot page"), (place, change)
            assert rebuild or kind.startswith("record")
            assert code in OPENING_CODES


def on_devices(place: Place) -> bool:
    """Not the host's file."""
    return place.device >= 0


@pytest.mark.slow
@pytest.mark.usefixtures("_quiet")
def test_a_hurt_pool_opens_whole_or_refuses(one: Patient, tmp_path: Path) -> None:
    run_closed(one, 20, 3, tmp_path, on_devices)


@pytest.mark.slow
@pytest.mark.usefixtures("_quiet")
def test_a_hurt_pool_opens_whole_or_refuses_400(one: Patient, tmp_path: Path) -> None:
    run_closed(one, 400, 4, tmp_path, on_devices)
