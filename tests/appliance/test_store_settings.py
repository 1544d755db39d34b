"""Settings of buckets, users, and what is said about objects: found again after a rebuild, gone with their owner."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import msgspec
import pytest
import trio

from appliance import settings
from appliance.errors import Code, StoreError
from appliance.model import (
    EMPTY_BODY,
    NO_ATTRIBUTES,
    Attributes,
    Bucket,
    Grant,
    NewChunk,
    NewSlice,
    Node,
    User,
    version_id,
    version_number,
)
from appliance.store import DEFAULT_USER, ObjectStore
from appliance.upkeep.audit import audit
from tests.models.boxes import make_devices, make_pool, run_store, store_over

ANN = User("a" * 64, "ann", "Ann", "ann@example.com", 1)
BOB = User("b" * 64, "bob", "Bob", "", 2)


def test_settings_and_users_survive_a_rebuild(tmp_path: Path) -> None:
    devices = make_devices(2)
    make_pool(devices, copies=1, journals=2)

    async def fill() -> None:
        async with store_over(devices, tmp_path / "one.db") as store:
            await store.put_user(ANN)
            bucket = await store.create_bucket("bucket", ANN.id)
            other = await store.create_bucket("other", ANN.id, settings={settings.ACL: b"[]"})
            assert store.bucket("other").settings == {settings.ACL: b"[]"}
            await store.create_bucket("third", ANN.id, settings={settings.OWNERSHIP: b"ObjectWriter"})
            await store.set_bucket_setting(bucket, settings.VERSIONING, settings.SUSPENDED)
            await store.set_bucket_setting(bucket, settings.VERSIONING, settings.ENABLED)
            await store.set_bucket_setting(bucket, settings.CORS, b"<CORSConfiguration/>")
            await store.set_bucket_setting(bucket, settings.CORS, None)
            await store.set_bucket_setting(bucket, settings.WEBSITE, None)  # nothing to take away
            await store.set_bucket_setting(other, settings.POLICY, b"{}")
            await store.delete_bucket("other")

    async def check() -> None:
        async with store_over(devices, tmp_path / "another.db") as store:
            assert store.bucket("bucket").settings == {settings.VERSIONING: settings.ENABLED}
            assert store.user(ANN.id) == ANN
            assert store.users() == [DEFAULT_USER, ANN]
            assert store.bucket("third").settings == {settings.OWNERSHIP: b"ObjectWriter"}
            assert store.every("SELECT count(*) FROM setting")[0][0] == 2
            report = await audit(store, verify=True)
            assert report.clean, report.problems

    trio.run(fill)
    trio.run(check)


async def refused(work: Awaitable[object]) -> Code:
    with pytest.raises(StoreError) as caught:
        await work
    return caught.value.code


def test_users_have_names_of_their_own_and_stay_while_they_own_something(tmp_path: Path) -> None:
    devices = make_devices(1)
    make_pool(devices, copies=1, journals=1)

    async def main() -> None:
        async with store_over(devices, tmp_path / "catalogue.db") as store:
            await store.put_user(ANN)
            await store.put_user(BOB)
            same_name = msgspec.structs.replace(BOB, name="ann")
            same_email = msgspec.structs.replace(BOB, email=ANN.email)
            assert await refused(store.put_user(same_name)) is Code.EXISTS
            assert await refused(store.put_user(same_email)) is Code.EXISTS
            await store.create_bucket("bucket", BOB.id)
            assert await refused(store.remove_user(BOB.id)) is Code.NOT_EMPTY
            await store.delete_bucket("bucket")
            await store.remove_user(BOB.id)
            assert await refused(store.remove_user(BOB.id)) is Code.NO_SUCH_KEY
            assert store.users() == [DEFAULT_USER, ANN]

    trio.run(main)


def test_attributes_change_without_the_bytes(tmp_path: Path) -> None:
    devices = make_devices(1)
    make_pool(devices, copies=1, journals=1)

    async def main() -> None:
        async with store_over(devices, tmp_path / "catalogue.db") as store:
            bucket = await store.create_bucket("bucket", ANN.id)
            await store.put_object(bucket, b"key", EMPTY_BODY, "e", NO_ATTRIBUTES)
            before = await store.look_up(bucket, b"key")

            def change(node: Node, attributes: Attributes) -> Attributes:
                acl = (*attributes.acl, Grant("READ", user=BOB.id))
                return msgspec.structs.replace(attributes, tags=attributes.tags | {str(len(acl)): "x"}, acl=acl)

            async with trio.open_nursery() as nursery:
                for _ in range(5):  # each change sees those before it
                    nursery.start_soon(store.change_attributes, bucket, b"key", change)
            after = await store.look_up(bucket, b"key")
            assert set(after.attributes.tags) == {"1", "2", "3", "4", "5"}
            assert len(after.attributes.acl) == 5
            assert (after.id, after.written_ns, after.etag) == (before.id, before.written_ns, before.etag)

    trio.run(main)


def test_a_version_that_moves_to_another_node_keeps_what_was_said_of_it(tmp_path: Path) -> None:
    """A mounted file keeps its node: what was its version when the change was made is a clone when it is committed."""

    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        await store.set_bucket_setting(bucket, settings.VERSIONING, settings.ENABLED)
        bucket = store.bucket(bucket.name)
        written = await store.put_object(bucket, b"key", store.small_body(b"old"), "e", NO_ATTRIBUTES)

        def change(node: Node, attributes: Attributes) -> Attributes:
            if node.id == written.node:
                chunk = NewChunk(store.engine.new_id(), 3, b"new")
                store.submit_file(
                    bucket, node=node.id, create=None, mode=node.mode, uid=0, gid=0, atime_ns=1, mtime_ns=1, now_ns=1,
                    size=3, chunks=[chunk], slices=[NewSlice(0, 3, chunk.id)], begins=True,
                )  # fmt: skip
            return msgspec.structs.replace(attributes, legal_hold="ON")

        await store.change_attributes(bucket, b"key", change, version_id=written.version_id)
        held = await store.look_up_version(bucket, b"key", written.version_id)
        assert (held.data, held.attributes.legal_hold) == (b"old", "ON")
        assert (await store.look_up(bucket, b"key")).attributes.legal_hold == ""

    run_store(tmp_path, scene)


def test_version_ids_are_read_back() -> None:
    for number in (1, 77, 1 << 40):
        assert version_number(version_id(number, 0)) == number
    assert version_id(0, 0) == version_id(5, 4) == "null"
    assert version_number("null") == 0
    for wrong in ("", "0", "0" * 16, "G" * 16, "f" * 17):
        assert version_number(wrong) is None
