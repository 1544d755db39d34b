"""Rows that lead to no bytes but say how much, whose and for whom: one that was hurt is never believed (R6).

What says who may do what is proven when the catalogue is opened, and the catalogue rebuilt from the devices if it
lies; and by whoever leans on a row later."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from appliance import settings
from appliance.catalogue.proven import FEW
from appliance.catalogue.schema import PAGE, PATCH, SUMS, TABLES, Table
from appliance.errors import Code, StoreError
from appliance.model import NO_ATTRIBUTES, AccessKey, Bucket, NewSlice, Usage, User
from appliance.store import ObjectStore
from appliance.upkeep.audit import audit
from tests.appliance.engine.test_catalogue_damage import LEADS, forget, hurt, read, run, two_objects
from tests.models.boxes import make_devices, make_pool, of_root, store_over

POLICY = b'{"Version": "2012-10-17", "Statement": []}'
KEY = AccessKey("AKIA", "mine", "me", 1, b"sealed", True, ("bucket",))
LARGER = {"INTEGER": "{0} | 1 << 40", "TEXT": "{0} || 'x'", "BLOB": "CAST(x'00' || {0} AS BLOB)"}


def changed(table: Table, column: str) -> str:
    """SQL that hurts a column of the table's first row."""
    kind = table.declared[table.columns.index(column)].split()[1]
    first = f"SELECT {table.columns[0]} FROM {table.name} LIMIT 1"
    return (
        f"UPDATE {table.name} SET {column}={LARGER[kind].format(column)} WHERE {table.columns[0]}=({first})"
        f" AND {table.columns[table.key - 1]}=(SELECT {table.columns[table.key - 1]} FROM {table.name} LIMIT 1)"
    )


async def furnished(store: ObjectStore) -> Bucket:
    """Something in every table of few rows."""
    bucket = await store.create_bucket(
        "bucket", "me", copies=1, settings={settings.POLICY: POLICY, settings.VERSIONING: settings.ENABLED}
    )
    await store.put_user(User("me", "me", "Me", "me@example.com", 1))
    await store.put_access_key(KEY)
    await store.put_object(bucket, b"k", store.small_body(b"k" * 5000), "e", NO_ATTRIBUTES)
    return store.bucket("bucket")


def test_something_vouches_for_every_row() -> None:
    """A page for its row, and the sum of its bytes for a patch."""
    assert {table.number for table in TABLES} == {*SUMS, PAGE.number, PATCH.number}
    assert all(table.columns[-1] == "sum" for table in TABLES if table.number in SUMS)


def heal(directory: Path, columns: Callable[[Table], tuple[str, ...]]) -> None:
    members = make_devices(2)
    make_pool(members, copies=1)
    database = directory / "catalogue.db"
    known: list[object] = []

    async def main() -> None:
        async with store_over(members, database, threaded=False) as store:
            if not known:
                await furnished(store)
            known.append((store.buckets(), store.engine.access_keys, store.engine.users, store.usage()))
            assert (await audit(store)).clean

    trio.run(main)
    connection = sqlite3.connect(database)
    there = [table for table in FEW if connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0] > 0]
    connection.close()
    assert {table.name for table in FEW} - {table.name for table in there} == {"data_key"}
    for table in there:
        for column in columns(table):
            hurt(database, changed(table, column))
            trio.run(main)
            assert known[-1] == known[0], (table.name, column)


def test_a_catalogue_that_lies_of_who_may_do_what_is_rebuilt(tmp_path: Path) -> None:
    heal(tmp_path, lambda table: table.columns[-2:-1])


@pytest.mark.slow
def test_a_catalogue_that_lies_in_any_column_is_rebuilt(tmp_path: Path) -> None:
    heal(tmp_path, lambda table: table.columns[:-1])


def test_what_is_hurt_while_it_is_used_gives_way_to_what_is_known(tmp_path: Path) -> None:
    """A policy, the owner of a bucket, an access key: none is read anew as another; nor is it copied to the devices."""

    async def work(store: ObjectStore) -> None:
        await furnished(store)
        before = store.bucket("bucket")
        for number, sql in enumerate(
            (
                "UPDATE setting SET body=body || 'x' WHERE name='policy'",
                "UPDATE bucket SET owner='you' WHERE name='bucket'",
                "UPDATE access_key SET read_only=0",
                "UPDATE user SET name=CAST(x'ff' AS TEXT)",
            )
        ):
            hurt(tmp_path / "catalogue.db", sql)
            await store.create_bucket(f"another-{number}", "me")
            assert store.bucket("bucket") == before, sql
            assert store.bucket(f"another-{number}").owner == "me"
            assert store.engine.access_keys == {KEY.id: KEY}, sql
            assert [user.name for user in store.engine.users.values()] == ["me"], sql
            with pytest.raises((StoreError, sqlite3.DatabaseError)):
                store.engine.checkpointer.take()

    run(tmp_path, work)


def test_a_count_that_was_hurt_is_not_counted_on(tmp_path: Path) -> None:
    """Else it would have a sum again, and the devices would have it, too."""

    async def work(store: ObjectStore) -> None:
        bucket = await furnished(store)
        upload = await store.create_upload(bucket, b"u", NO_ATTRIBUTES, "me")
        await store.put_part(upload, 1, store.small_body(b"part"), "e")
        await store.put_object(bucket, b"k", store.small_body(b"again"), "e", NO_ATTRIBUTES)
        before = store.usage()
        for column in ("objects", "bytes", "parts"):
            hurt(tmp_path / "catalogue.db", f"UPDATE usage SET {column}={column}+1000")
            await store.put_object(bucket, column.encode(), store.small_body(b"x" * 100), "e", NO_ATTRIBUTES)
            before = Usage(before.objects + 1, before.bytes + 100, before.parts)
            assert store.usage() == before, column
            assert (await audit(store)).clean

    run(tmp_path, work)


def test_versions_are_kept_or_nothing_is_written(tmp_path: Path) -> None:
    """A bucket that seems to have no versions any more would have its objects replaced."""

    async def work(store: ObjectStore) -> None:
        bucket = await furnished(store)
        for sql in (
            "UPDATE setting SET body=x'00' WHERE name='versioning'",
            "UPDATE setting SET name='wersioning' WHERE name='versioning'",
        ):
            connection = sqlite3.connect(tmp_path / "catalogue.db")
            kept = connection.execute("SELECT * FROM setting WHERE name='versioning'").fetchone()
            connection.close()
            hurt(tmp_path / "catalogue.db", sql)
            store.engine.committer._buckets.clear()
            with pytest.raises(StoreError) as caught:
                await store.put_object(bucket, b"k", store.small_body(b"new"), "e", NO_ATTRIBUTES)
            assert caught.value.code is Code.DAMAGED
            assert "tierce rebuild-catalogue" in caught.value.message
            assert any(problem.kind == "sum" for problem in (await audit(store)).problems)
            connection = sqlite3.connect(tmp_path / "catalogue.db")
            connection.execute("DELETE FROM setting WHERE name LIKE '%ersioning'")
            connection.execute("INSERT INTO setting VALUES (?, ?, ?, ?)", kept)
            connection.commit()
            connection.close()
        await store.put_object(bucket, b"k", store.small_body(b"new"), "e", NO_ATTRIBUTES)

    run(tmp_path, work)


@pytest.mark.parametrize("column", ["len", "refs", "copies", "key"])
def test_no_column_of_a_chunk_is_believed_that_was_hurt(tmp_path: Path, column: str) -> None:
    """A shorter one would be read as zeros at its end; one that fewer name would be freed under the others."""

    async def work(store: ObjectStore) -> None:
        bucket = await two_objects(store)
        node = await store.look_up(bucket, b"d/a")
        await store.copy_object(node, bucket, b"copy", None)
        hurt(tmp_path / "catalogue.db", f"UPDATE chunk SET {column}={column}-1 WHERE id={node.ref}")
        store.engine.retrieval.cache.clear()
        if column == "len":
            with pytest.raises(StoreError) as caught:
                await read(store, bucket, b"d/a")
            assert caught.value.code is Code.DAMAGED
        else:
            assert await read(store, bucket, b"d/a") == b"a" * 5000
        with pytest.raises(StoreError) as caught:
            await store.copy_object(node, bucket, b"another", None)
        assert caught.value.code is Code.DAMAGED
        assert any(problem.kind == "sum" for problem in (await audit(store)).problems)
        for key in (b"d/a", b"copy"):  # what it was is not known: it stays, and a rebuilt catalogue has it right
            await store.delete_object(bucket, key)
        assert store.every("SELECT count(*) FROM page") == [(2,)]
        assert await read(store, bucket, b"d/b") == b"b" * 5000

    run(tmp_path, work)


@pytest.mark.parametrize("change", ["refs=refs+1", "composed=1"])
def test_a_map_that_was_hurt_is_not_written_to_and_not_freed(tmp_path: Path, change: str) -> None:
    async def work(store: ObjectStore) -> None:
        bucket = await two_objects(store, pieces=3)
        node = await store.look_up(bucket, b"d/a")
        hurt(tmp_path / "catalogue.db", f"UPDATE map SET {change} WHERE id={node.ref}")
        chunk = await store.stage(bucket, [b"x" * 20])
        ticket = store.submit_file(
            bucket,
            node=node.id,
            create=None,
            **of_root(1),
            size=node.size,
            chunks=[chunk],
            slices=[NewSlice(0, 20, chunk.id)],
        )
        with pytest.raises(StoreError) as caught:
            await ticket.wait()
        assert caught.value.code is Code.DAMAGED
        assert await read(store, bucket, b"d/a") == b"a" * 15_000
        await store.delete_object(bucket, b"d/a")
        assert store.every("SELECT count(*) FROM map") == [(2,)]

    run(tmp_path, work)


def test_an_upload_that_was_hurt_becomes_no_object(tmp_path: Path) -> None:
    """Under another key, or with what another sent."""

    async def work(store: ObjectStore) -> None:
        bucket = await store.create_bucket("bucket", "me", copies=1)
        for change in ("key=x'6b'", "packed=x'00'", "bucket=bucket+1", "owner='you'"):
            upload = await store.create_upload(bucket, b"u", NO_ATTRIBUTES, "me")
            await store.put_part(upload, 1, store.small_body(b"u" * 5000), "e")
            hurt(tmp_path / "catalogue.db", f"UPDATE upload SET {change} WHERE id='{upload.id}'")
            with pytest.raises(StoreError) as caught:
                await store.complete_upload(upload, [(1, "e")], "e", NO_ATTRIBUTES)
            assert caught.value.code is Code.DAMAGED, change
            assert any(problem.kind == "sum" for problem in (await audit(store)).problems), change

    run(tmp_path, work)


def test_what_is_whole_is_freed_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(store: ObjectStore) -> None:
        bucket = await two_objects(store, pieces=3)
        for key, size in ((b"empty", 0), (b"inline", 5), (b"chunk", 5000)):
            await store.put_object(bucket, key, store.small_body(key[:1] * size), "e", NO_ATTRIBUTES)
        for key in (b"empty", b"inline", b"chunk", b"d/a", b"d/b"):
            await store.delete_object(bucket, key)
        assert (await audit(store)).clean

    run(tmp_path, work)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_every_damage_says_what_helps(tmp_path: Path) -> None:
    async def work(store: ObjectStore) -> None:
        bucket = await two_objects(store)
        store.engine.directories.known.clear()
        hurt(tmp_path / "catalogue.db", LEADS["a name leads to another's node"][0])
        with pytest.raises(StoreError) as caught:
            await read(store, bucket, b"d/a")
        assert "tierce rebuild-catalogue" in caught.value.message

    run(tmp_path, work)


@pytest.mark.parametrize("explicit", [True, False])
def test_what_is_in_a_damaged_directory_can_be_deleted(tmp_path: Path, explicit: bool) -> None:
    """And written: only its own row waits for the catalogue to be rebuilt."""

    async def work(store: ObjectStore) -> None:
        if explicit:
            bucket = await two_objects(store)
        else:
            bucket = await store.create_bucket("bucket", "me")
            for key in (b"d/a", b"d/b"):
                await store.put_object(bucket, key, store.small_body(key), "e", NO_ATTRIBUTES)
        (directory,) = store.entries(bucket.root, None, 10)
        number = directory.node.id
        hurt(tmp_path / "catalogue.db", f"UPDATE node SET uid=uid | 8 WHERE id={number}")
        before = store.every(f"SELECT * FROM node WHERE id={number}")
        forget(store)
        await store.put_object(bucket, b"d/c", store.small_body(b"c"), "e", NO_ATTRIBUTES)
        with pytest.raises(StoreError) as caught:
            await store.put_object(bucket, b"d/e/f", store.small_body(b"f"), "e", NO_ATTRIBUTES)
        assert caught.value.code is Code.DAMAGED
        assert "tierce rebuild-catalogue" in caught.value.message
        for key in (b"d/a", b"d/b", b"d/c"):
            await store.delete_object(bucket, key)
        assert not (await store.list_objects(bucket)).objects
        assert before == store.every(f"SELECT * FROM node WHERE id={number}"), "damage gets no new sum"

    run(tmp_path, work)
