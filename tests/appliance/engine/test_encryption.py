"""Encrypted chunks below every verb: read in any way, copied, patched, rebuilt; and in clear nowhere but in memory."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from appliance import encryption
from appliance.catalogue import commands
from appliance.credentials import Vault, new_access_key, open_vault
from appliance.engine.pool import PageRef
from appliance.errors import Code, StoreError
from appliance.limits import BLOCK, CHUNK_SIZE, GATHER_MAX, MIB, PAGE_PAYLOAD
from appliance.model import CUSTOMER, NO_ATTRIBUTES, Bucket, DataKey, NewSlice, Node, WrappedKey
from appliance.ondisk import superblock
from appliance.ondisk.geometry import SLOT
from appliance.rotation import rotate_master_key
from appliance.store import ObjectStore
from appliance.upkeep.audit import audit
from tests.appliance.engine.test_retrieve import change, forget
from tests.doubles.disks import MemoryDevice
from tests.models.boxes import body_of, make_devices, make_pool, read_all, run_store, store_over

RAW = bytes(range(50, 82))
OTHER = bytes(range(90, 122))
SIZES = [1, 2048, 2049, BLOCK, GATHER_MAX, GATHER_MAX + 1]
LONG = [PAGE_PAYLOAD + 1, CHUNK_SIZE + 5]


async def put(store: ObjectStore, bucket: Bucket, key: bytes, data: bytes, sealed_by: DataKey | None) -> Node:
    body = await body_of(store, bucket, data, sealed_by)
    await store.put_object(bucket, key, body, "e", NO_ATTRIBUTES)
    return await store.look_up(bucket, key)


async def refused(store: ObjectStore, node: Node, customer: DataKey | None = None) -> Code:
    forget(store)
    with pytest.raises(StoreError) as caught:
        await read_all(store, node, customer=customer)
    return caught.value.code


@pytest.mark.parametrize("size", [*SIZES, *(pytest.param(size, marks=pytest.mark.slow) for size in LONG)])
@pytest.mark.parametrize("whose", ["box", "customer"])
def test_any_range_of_any_size(tmp_path: Path, size: int, whose: str) -> None:
    data = random.Random(size).randbytes(size)
    starts = sorted({edge for edge in (0, 1, size // 2, BLOCK - 1, BLOCK, PAGE_PAYLOAD, size) if edge <= size})

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        key = await store.data_key() if whose == "box" else await store.customer_key(RAW)
        customer = key if whose == "customer" else None
        node = await put(store, bucket, b"k", data, key)
        rows = store.every("SELECT DISTINCT key FROM chunk")
        assert [row[0] for row in rows] == [key.id]
        for start in starts:
            for length in (0, 1, BLOCK + 1, 2 * MIB + 7, size):
                for _ in range(2):  # from the device, and then from memory
                    assert await read_all(store, node, start, length, customer) == data[start : start + length]
                forget(store)
        with store.reader(node, customer=customer) as reader:
            assert b"".join(bytes(view) for view in reader.pieces()) == data
        if customer is not None:
            assert store.engine.retrieval.cache.bytes == 0, "what a customer's key opens is never remembered"
            assert await refused(store, node) is Code.ACCESS_DENIED
            assert await refused(store, node, encryption.customer_key(OTHER)) is Code.DAMAGED

    run_store(tmp_path, main)


MARK = b"nobody may find this sentence, "


def everything(devices: Iterable[MemoryDevice], directory: Path) -> Iterable[bytes]:
    for device in devices:
        for number in sorted(device.media._pages):
            yield bytes(device.media._pages[number])
    for path in directory.iterdir():
        yield path.read_bytes()


def test_no_plaintext_on_any_medium(tmp_path: Path) -> None:
    """Devices, journal, snapshot, the host's catalogue and its WAL: the mark is there once it is written in clear."""
    devices = make_devices(2)

    async def fill(store: ObjectStore, bucket: Bucket) -> None:
        for whose, key in ((b"box", await store.data_key()), (b"customer", await store.customer_key(RAW))):
            for size in (40, 2048, 3000, GATHER_MAX + 500, PAGE_PAYLOAD + 5000):
                data = (MARK * (size // len(MARK) + 1))[:size]
                node = await put(store, bucket, whose + b"%d" % size, data, key)
                await store.copy_object(node, bucket, b"copy of " + whose + b"%d" % size, None)
            upload = await store.create_upload(bucket, whose, NO_ATTRIBUTES, "me")
            await store.put_part(upload, 1, store.small_body(MARK * 3, key), "e")
            await store.complete_upload(upload, [(1, "e")], "e-1", NO_ATTRIBUTES)
            chunk = await store.stage(bucket, [MARK], key)
            assert await store.read_staged(chunk, 0, 5) == MARK[:5]
            plain = await put(store, bucket, b"patched by " + whose, b"clear", None)
            file = await change(store, bucket, plain, 20, [])
            ticket = store.submit_file(
                bucket,
                node=file.id,
                create=None,
                mode=file.mode,
                uid=0,
                gid=0,
                atime_ns=1,
                mtime_ns=1,
                now_ns=1,
                size=20 + len(MARK),
                chunks=[chunk],
                slices=[NewSlice(20, len(MARK), chunk.id)],
            )
            await ticket.wait()
            customer = key if key.id == CUSTOMER else None
            image = b"clear" + bytes(15) + MARK
            assert await read_all(store, store.node(file.id), customer=customer) == image
        store.engine.checkpointer.take()
        assert [found for found in everything(devices, tmp_path) if MARK[:16] in found] == []
        assert [found for found in everything(devices, tmp_path) if RAW in found] == []

    async def in_clear(store: ObjectStore, bucket: Bucket) -> None:
        await put(store, bucket, b"inline", MARK, None)
        assert any(MARK[:16] in found for found in everything(devices, tmp_path)), "the search finds what is there"

    run_store(tmp_path, fill, devices=devices)
    assert [found for found in everything(devices, tmp_path) if MARK[:16] in found] == []
    run_store(tmp_path, in_clear, devices=devices, pooled=True)


def test_keys_come_back_with_a_rebuilt_catalogue(tmp_path: Path) -> None:
    devices = make_devices(1)
    make_pool(devices)
    data = random.Random(1).randbytes(300_000)

    async def main() -> None:
        async with store_over(devices, tmp_path / "one.db") as store:
            assert features(devices[0]) == 0
            bucket = await store.create_bucket("bucket", "me")
            await put(store, bucket, b"k", data, await store.data_key())
            assert features(devices[0]) == superblock.SEALED_PAGES
        async with store_over(devices, tmp_path / "another.db") as store:
            node = await store.look_up(store.bucket("bucket"), b"k")
            assert await read_all(store, node) == data
            assert len(store.data_keys()) == 1
            assert await store.data_key() == await store.data_key()
            assert len(store.data_keys()) == 1
        assert features(devices[0]) == superblock.SEALED_PAGES

    trio.run(main)


def features(device: MemoryDevice) -> int:
    """What the device's newest superblock says."""
    found = superblock.choose([device.media.read(MIB + slot * SLOT, SLOT) for slot in (0, 1)])
    assert found is not None
    return found.incompatible


def test_a_lost_master_key_loses_what_it_sealed_and_nothing_else(tmp_path: Path) -> None:
    devices = make_devices(1)
    make_pool(devices)
    fresh = Vault({b"new1": bytes(32)}, None)

    async def main() -> None:
        async with store_over(devices, tmp_path / "c.db") as store:
            bucket = await store.create_bucket("bucket", "me")
            await put(store, bucket, b"sealed", bytes(5000), await store.data_key())
            await put(store, bucket, b"customer", bytes(5000), await store.customer_key(RAW))
            await put(store, bucket, b"plain", bytes(5000), None)
        for vault in (fresh, None):
            async with store_over(devices, tmp_path / "c.db", vault=vault) as store:
                bucket = store.bucket("bucket")
                assert await refused(store, await store.look_up(bucket, b"sealed")) is Code.UNAVAILABLE
                plain = await store.look_up(bucket, b"plain")
                assert await read_all(store, plain) == bytes(5000)
                customer = await store.look_up(bucket, b"customer")
                assert await read_all(store, customer, customer=encryption.customer_key(RAW)) == bytes(5000)
                report = await audit(store, verify=True)
                assert report.clean, report.problems
                if vault is None:
                    with pytest.raises(StoreError) as caught:
                        await store.data_key()
                    assert caught.value.code is Code.UNAVAILABLE
                else:
                    (lost,) = store.data_keys()
                    assert await store.rewrap_data_keys() == (0, [lost.id])
                    node = await put(store, bucket, b"again", b"new" * 2000, await store.data_key())
                    forget(store)
                    assert await read_all(store, node) == b"new" * 2000

    trio.run(main)


def test_a_new_master_key_wraps_every_data_key(tmp_path: Path) -> None:
    devices = make_devices(1)
    make_pool(devices)
    vault = open_vault(tmp_path / "master.key", {})

    async def main() -> None:
        async with store_over(devices, tmp_path / "c.db", vault=vault) as store:
            bucket = await store.create_bucket("bucket", "me")
            first = await store.data_key()
            await put(store, bucket, b"old", b"old" * 1000, first)
            second = await store.new_data_key()
            assert second.id != first.id
            assert second.secret != first.secret
            assert await store.data_key() == second
            await put(store, bucket, b"new", b"new" * 1000, second)
            assert await store.rewrap_data_keys() == (0, [])
            vault.rotate()
            assert await store.rewrap_data_keys() == (2, [])
            vault.forget_old()
        async with store_over(devices, tmp_path / "c.db", vault=open_vault(tmp_path / "master.key", {})) as store:
            bucket = store.bucket("bucket")
            for name in (b"old", b"new"):
                assert await read_all(store, await store.look_up(bucket, name)) == name * 1000

    trio.run(main)


def test_keys_that_are_made_while_the_master_key_changes_are_not_lost(tmp_path: Path) -> None:
    devices = make_devices(1)
    make_pool(devices, copies=1)
    vault = open_vault(tmp_path / "master.key", {})

    async def main() -> None:
        making, go = trio.Event(), trio.Event()
        async with store_over(devices, tmp_path / "c.db", vault=vault) as store:
            revoked, _ = new_access_key("me", "revoked", vault, 1)
            await store.put_access_key(revoked)
            commit = store.commit

            submit = store.engine.submit

            class Late:
                """A data key that is sealed, and not yet on its way to the devices."""

                def __init__(self, command: commands.Command) -> None:
                    self.command = command

                async def wait(self) -> object:
                    making.set()
                    await go.wait()
                    return await submit(self.command).wait()

            def submit_late(command: commands.Command, *, announce: bool = False) -> Any:
                if isinstance(command, commands.PutDataKeys) and not making.is_set():
                    return Late(command)
                return submit(command, announce=announce)

            async def late(command: commands.Command) -> object:
                if isinstance(command, commands.PutAccessKey) and command.key.id == revoked.id:
                    await store.remove_access_key(revoked.id)
                return await commit(command)

            store.commit = late  # type: ignore[method-assign]
            store.engine.submit = submit_late  # type: ignore[method-assign,assignment]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.new_data_key)
                await making.wait()
                pending, secret = new_access_key("me", "pending", vault, 1)
                store.engine.submit(commands.PutAccessKey(key=pending))
                for _ in range(2):  # rotations wait for each other, and for what is under way
                    nursery.start_soon(rotate_master_key, store, vault)
                await trio.testing.wait_all_tasks_blocked(0.05)
                go.set()
        async with store_over(devices, tmp_path / "c.db", vault=open_vault(tmp_path / "master.key", {})) as store:
            assert len((await store.data_key()).secret) == 32
            assert len(store.data_keys()) == 1
            (found,) = store.access_keys()
            assert open_vault(tmp_path / "master.key", {}).unseal(found) == secret

    trio.run(main)


def test_a_key_is_renewed_when_it_is_old_or_has_sealed_much(tmp_path: Path) -> None:
    day = 86_400 * 10**9
    young = WrappedKey(1, b"", 1000 * day)
    assert not encryption.is_due(young, 0, 1364 * day)
    assert encryption.is_due(young, 0, 1366 * day)
    assert encryption.is_due(young, 16 << 40, 1000 * day)

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        assert not await store.renew_data_key()
        await put(store, bucket, b"k", bytes(5000), await store.data_key())
        assert not await store.renew_data_key()
        (key,) = store.data_keys()
        store.engine.data_keys[key.id] = WrappedKey(key.id, key.wrapped, key.created_ns - 366 * day)
        assert await store.renew_data_key()
        assert len(store.data_keys()) == 2

    run_store(tmp_path, main)


def test_copies_hold_the_same_ciphertext_and_answer_for_each_other(tmp_path: Path) -> None:
    devices = make_devices(2)
    data = {size: random.Random(size).randbytes(size) for size in (5000, GATHER_MAX + 9)}

    async def main(store: ObjectStore, bucket: Bucket) -> None:
        key = await store.data_key()
        for size, content in data.items():
            node = await put(store, bucket, b"%d" % size, content, key)
            rows = store.every(
                "SELECT dev, off, len, idx, hsum, chunk FROM page WHERE chunk=? ORDER BY copy", (node.ref,)
            )
            refs = [PageRef(*row) for row in rows]
            images = [devices[ref.device - 1].media.read(ref.offset, ref.length) for ref in refs]
            lead = 512 if size <= GATHER_MAX else 4096
            assert len(images) == 2
            assert images[0][lead:] == images[1][lead:]
            assert content[:32] not in images[0]
            hurt = devices[refs[0].device - 1]
            hurt.media.write(refs[0].offset + lead + 100, bytes([images[0][lead + 100] ^ 1]))
            forget(store)
            assert await read_all(store, node) == content
            hurt.media.write(refs[0].offset, images[0])
        assert store.engine.pool.failovers == 2

    run_store(tmp_path, main, devices=devices, copies=2)


def test_verifiers_know_their_key_and_no_other() -> None:
    verifier = encryption.new_verifier(RAW)
    assert verifier != encryption.new_verifier(RAW)
    assert encryption.is_key(RAW, verifier)
    assert not encryption.is_key(OTHER, verifier)
    assert not encryption.is_key(RAW, verifier[:-1] + bytes([verifier[-1] ^ 1]))
    assert encryption.customer_key(RAW).secret not in verifier


def test_recovery_needs_no_key(tmp_path: Path) -> None:
    """As a crash leaves the pool right after an acknowledgement: the last record's pages are verified as they are."""
    devices = make_devices(1)
    make_pool(devices)

    async def main() -> None:
        async with store_over(devices, tmp_path / "c.db") as store:
            bucket = await store.create_bucket("bucket", "me")
            key = await store.customer_key(RAW)
            await put(store, bucket, b"k", b"x" * 70_000, key)
            left = MemoryDevice(devices[0].size, devices[0].name)
            left.media = devices[0].media.copy()
        async with store_over([left], tmp_path / "another.db", vault=None) as store:
            node = await store.look_up(store.bucket("bucket"), b"k")
            assert await refused(store, node) is Code.ACCESS_DENIED
            assert await read_all(store, node, customer=key) == b"x" * 70_000

    trio.run(main)
