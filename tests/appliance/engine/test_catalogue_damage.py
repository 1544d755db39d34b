"""The host's catalogue file is hurt behind SQLite's back: what leans on a row proves it before serving a byte (R6)."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from appliance import settings
from appliance.catalogue.schema import NODE
from appliance.errors import Code, StoreError
from appliance.model import NO_ATTRIBUTES, Bucket, NewSlice
from appliance.store import ObjectStore
from appliance.upkeep.audit import audit
from fusefs.times import Times
from tests.models.boxes import make_devices, make_pool, of_root, store_over


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
        damage = "UPDATE node SET data=x'006E6C696E65206279746573', sum={} WHERE size=12"
        hurt(tmp_path / "catalogue.db", damage.format("sum"))
        with pytest.raises(StoreError) as caught:
            await store.look_up(bucket, b"k")
        assert caught.value.code is Code.DAMAGED
        hurt(tmp_path / "catalogue.db", damage.format(0))  # a row of an older program
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


def forget(store: ObjectStore) -> None:
    """What the loop remembers of rows."""
    rows = store.engine.rows
    for remembered in (rows._entries, rows._nodes, rows._whole):
        remembered.clear()


async def two_objects(store: ObjectStore, size: int = 5000, pieces: int = 1) -> Bucket:
    """`d/a` and `d/b`: of one chunk each, or as many slices."""
    bucket = await store.create_bucket("bucket", "me", copies=1)
    directory = (await store.make_directory(bucket.root, b"d", 0o755, 0, 0, 1)).node.id
    for key in (b"a", b"b"):
        if pieces == 1:
            await store.put_object(bucket, b"d/" + key, store.small_body(key * size), "e", NO_ATTRIBUTES)
            continue
        chunks = [await store.stage(bucket, [key * size]) for _ in range(pieces)]
        ticket = store.submit_file(
            bucket,
            node=store.engine.new_id(),
            create=(directory, key),
            **of_root(1),
            size=size * pieces,
            cut=None,
            chunks=chunks,
            slices=[NewSlice(at * size, size, chunk.id) for at, chunk in enumerate(chunks)],
        )
        await ticket.wait()
    return bucket


async def read(store: ObjectStore, bucket: Bucket, key: bytes) -> bytes:
    """The object's bytes, by every step from its name."""
    with store.reader(await store.look_up(bucket, key)) as reader:
        return await reader.read()


OTHER = "(SELECT node FROM entry WHERE name=x'62')"
HURT = "(SELECT node FROM entry WHERE name=x'61')"
REF = f"(SELECT ref FROM node WHERE id={HURT})"
# what is hurt, and how many slices the objects have
LEADS = {
    "a name leads to another's node": (f"UPDATE entry SET node={OTHER} WHERE name=x'61'", 1),
    "a name is another's": ("UPDATE entry SET name=x'63' WHERE name=x'61'", 1),
    "a directory's name leads elsewhere": ("UPDATE entry SET node=node+1 WHERE name=x'642F'", 1),
    "a node has another's chunk": (
        f"UPDATE node SET ref=(SELECT ref FROM node WHERE id={OTHER}) WHERE id={HURT}",
        1,
    ),
    "a node has another's map": (
        f"UPDATE node SET ref=(SELECT ref FROM node WHERE id={OTHER}) WHERE id={HURT}",
        3,
    ),
    "a node has another size": (f"UPDATE node SET size=size-1 WHERE id={HURT}", 3),
    "a slice is of another's chunk": (
        "UPDATE slice SET ref=(SELECT max(ref) FROM slice) WHERE off=0 AND map=(SELECT min(map) FROM slice)",
        3,
    ),
    "a slice begins elsewhere": ("UPDATE slice SET roff=1 WHERE off=0 AND map=(SELECT min(map) FROM slice)", 3),
}


@pytest.mark.parametrize("what", [*[each for each in LEADS if "name" in each], "a node is hurt", "a node is gone"])
def test_a_name_that_leads_elsewhere_is_listed_as_damaged_among_the_others(tmp_path: Path, what: str) -> None:
    """The kernel would follow it without asking again, and memory would believe it; but a listing without it would have
    programs remove it from the other side."""
    wanted = b"d/" if "directory" in what else b"c" if "name is" in what else b"a"
    sql = {
        "a node is hurt": f"UPDATE node SET mode=mode | 8 WHERE id={HURT}",
        "a node is gone": f"DELETE FROM node WHERE id={HURT}",
    }.get(what) or LEADS[what][0]

    async def work(store: ObjectStore) -> None:
        bucket = await two_objects(store)
        await store.put_object(bucket, b"other", store.small_body(b"other"), "e", NO_ATTRIBUTES)
        (directory, _) = store.entries(bucket.root, None, 10)
        for entry in store.entries(directory.node.id, None, 10):
            store.node(entry.node.id)
        hurt(tmp_path / "catalogue.db", sql)
        at = bucket.root if "directory" in what else directory.node.id
        sound = b"other" if "directory" in what else b"b"
        for after in (None, (b"", False)):
            listed = {entry.name: entry for entry in store.entries(at, after, 10)}
            assert set(listed) == {wanted.rstrip(b"/"), sound}
            assert listed[wanted.rstrip(b"/")].damaged
            assert not listed[sound].damaged
        for rows, unseen in (  # a listing does not look at all of a node, and one of names at none
            (store.shown(at, None, 10), ["a node is hurt"]),
            (store.shown(at, b"", 10), ["a node is hurt"]),
            (store.named(at, None, 10), ["a node is hurt", "a node is gone"]),
            (store.named(at, b"", 10), ["a node is hurt", "a node is gone"]),
        ):
            numbers = {row[0]: row[1] for row in rows}
            assert set(numbers) == {wanted, sound}
            assert bool(numbers[wanted]) is (what in unseen)
            assert numbers[sound] == listed[sound].node.id
        forget(store)
        with pytest.raises(StoreError) as caught:
            store.entry(at, wanted.rstrip(b"/"), wanted.endswith(b"/"))
        assert caught.value.code is Code.DAMAGED

    run(tmp_path, work)


@pytest.mark.parametrize("what", LEADS)
def test_a_row_that_leads_elsewhere_is_never_followed(tmp_path: Path, what: str) -> None:
    sql, pieces = LEADS[what]

    async def work(store: ObjectStore) -> None:
        bucket = await two_objects(store, pieces=pieces)
        store.engine.retrieval.cache.clear()
        store.engine.directories.known.clear()
        hurt(tmp_path / "catalogue.db", sql)
        key = b"d/c" if "name is" in what else b"d/a"
        with pytest.raises(StoreError) as caught:
            await read(store, bucket, key)
        assert caught.value.code is Code.DAMAGED
        assert any(problem.kind == "sum" for problem in (await audit(store)).problems)

    run(tmp_path, work)


@pytest.mark.parametrize("what", [what for what in LEADS if what.startswith(("a node has another's", "a slice"))])
def test_what_a_damaged_row_names_is_not_freed(tmp_path: Path, what: str) -> None:
    """Deleting the object whose row was hurt leaves the other's bytes alone."""
    sql, pieces = LEADS[what]

    async def work(store: ObjectStore) -> None:
        bucket = await two_objects(store, pieces=pieces)
        hurt(tmp_path / "catalogue.db", sql)
        await store.delete_object(bucket, b"d/a")
        while store.engine.reaping:
            await store.engine.settle()
        store.engine.retrieval.cache.clear()
        assert await read(store, bucket, b"d/b") == b"b" * 5000 * pieces

    run(tmp_path, work)


@pytest.mark.parametrize("what", ["inline", "a node has another's chunk", "a node has another's map"])
def test_damage_gets_no_new_sum_from_a_change_of_attributes(tmp_path: Path, what: str) -> None:
    sql, pieces = LEADS.get(what, (f"UPDATE node SET data=x'62' WHERE id={HURT}", 1))

    async def work(store: ObjectStore) -> None:
        bucket = await two_objects(store, size=1 if what == "inline" else 5000, pieces=pieces)
        store.engine.retrieval.cache.clear()
        hurt(tmp_path / "catalogue.db", sql)
        directory = await store.look_up(bucket, b"d/b")
        (number,) = store.one("SELECT node FROM entry WHERE name=x'61'")
        tag = lambda _, held: msgspec.structs.replace(held, tags={"a": "b"})  # noqa: E731
        for change in (
            lambda: store.change_attributes(bucket, b"d/a", tag),
            lambda: store.set_attributes(number, 1, mode=0o600),
            lambda: store.set_times([(number, 1, 1)]),
        ):
            with pytest.raises(StoreError) as caught:
                await change()
            assert caught.value.code is Code.DAMAGED
        hurt(tmp_path / "catalogue.db", f"UPDATE node SET sum=0 WHERE id={number}")  # a row of an older program
        await change()
        assert directory == await store.look_up(bucket, b"d/b")
        with pytest.raises(StoreError) as caught:
            await read(store, bucket, b"d/a")
        assert caught.value.code is Code.DAMAGED

    run(tmp_path, work)


def test_no_column_of_a_node_is_believed_that_was_hurt(tmp_path: Path) -> None:
    """R6: mode, owner, times, ETag and metadata as well as bytes."""
    texts = {name: f"CAST(x'00' || {name} AS BLOB)" for name in ("data", "packed", "dsum")} | {"etag": "'f' || etag"}

    async def work(store: ObjectStore) -> None:
        bucket = await two_objects(store)
        (directory,) = store.entries(bucket.root, None, 10)
        node = await store.look_up(bucket, b"d/a")

        async def stat() -> object:
            return store.node(node.id)

        for column in NODE.columns[1:]:
            ((value,),) = store.every(f"SELECT {column} FROM node WHERE id={node.id}")
            hurt(
                tmp_path / "catalogue.db",
                f"UPDATE node SET {column}={texts.get(column, f'{column} | 1 << 40')} WHERE id={node.id}",
            )
            forget(store)
            assert [entry.damaged for entry in store.entries(directory.node.id, None, 10)] == [True, False], column
            for ask in (partial(store.look_up, bucket, b"d/a"), stat):
                with pytest.raises(StoreError) as caught:
                    await ask()
                assert caught.value.code is Code.DAMAGED, column
            assert any(problem.kind == "sum" for problem in (await audit(store)).problems), column
            connection = sqlite3.connect(tmp_path / "catalogue.db")
            connection.execute(f"UPDATE node SET {column}=? WHERE id=?", (value, node.id))
            connection.commit()
            connection.close()
            assert await store.look_up(bucket, b"d/a") == node

    run(tmp_path, work)


def test_a_node_that_was_hurt_can_be_removed_and_replaced(tmp_path: Path) -> None:
    """Its own bytes are not freed, since nobody knows which they are, nor another's."""

    async def work(store: ObjectStore) -> None:
        bucket = await two_objects(store)
        (directory,) = store.entries(bucket.root, None, 10)
        for remove in (
            partial(store.delete_object, bucket, b"d/a"),
            partial(store.put_object, bucket, b"d/a", store.small_body(b"new"), "e", NO_ATTRIBUTES),
            lambda: store.unlink(directory.node.id, b"a", 1),
        ):
            await store.put_object(bucket, b"d/a", store.small_body(b"a" * 5000), "e", NO_ATTRIBUTES)
            hurt(tmp_path / "catalogue.db", f"UPDATE node SET mode=mode | 8 WHERE id={HURT}")
            forget(store)
            await remove()
            assert await read(store, bucket, b"d/b") == b"b" * 5000
        assert store.entry(directory.node.id, b"a", False) is None
        await store.make_link((await store.look_up(bucket, b"d/b")).id, directory.node.id, b"other", 1)
        hurt(tmp_path / "catalogue.db", f"UPDATE node SET mode=mode | 8 WHERE id={OTHER}")
        with pytest.raises(StoreError) as caught:  # its other name still needs the row
            await store.unlink(directory.node.id, b"b", 1)
        assert caught.value.code is Code.DAMAGED

    run(tmp_path, work)


def test_a_version_that_names_another_node_is_never_followed(tmp_path: Path) -> None:
    async def work(store: ObjectStore) -> None:
        bucket = await store.create_bucket("bucket", "me", settings={settings.VERSIONING: settings.ENABLED})
        old = [
            await store.put_object(bucket, key, store.small_body(data), "e", NO_ATTRIBUTES)
            for data in (b"old", b"new")
            for key in (b"a", b"b")
        ]
        hurt(tmp_path / "catalogue.db", f"UPDATE version SET node={old[1].node} WHERE key=x'61'")
        id_of_a = old[0].version_id
        for verb in (
            partial(store.look_up_version, bucket, b"a", id_of_a),
            partial(store.delete_object, bucket, b"a", version_id=id_of_a),
            partial(store.delete_object, bucket, b"a", version_id=old[2].version_id),  # promotes it
        ):
            with pytest.raises(StoreError) as caught:
                await verb()
            assert caught.value.code is Code.DAMAGED
        assert (await store.look_up_version(bucket, b"b", old[1].version_id)).data == b"old"

    run(tmp_path, work)


def test_a_version_under_another_key_is_never_followed(tmp_path: Path) -> None:
    async def work(store: ObjectStore) -> None:
        bucket = await store.create_bucket("bucket", "me", settings={settings.VERSIONING: settings.ENABLED})
        for key in (b"a", b"c"):
            old, _ = [
                await store.put_object(bucket, key, store.small_body(data), "e", NO_ATTRIBUTES)
                for data in (b"old", b"new")
            ]
            if key == b"a":
                id_of_a = old.version_id
        hurt(tmp_path / "catalogue.db", "UPDATE version SET key=x'63' WHERE key=x'61'")
        for verb in (
            partial(store.look_up_version, bucket, b"c", id_of_a),
            partial(store.delete_object, bucket, b"c", version_id=id_of_a),
        ):
            with pytest.raises(StoreError) as caught:
                await verb()
            assert caught.value.code is Code.DAMAGED
        assert any(problem.kind == "sum" for problem in (await audit(store)).problems)

    run(tmp_path, work)


def test_a_part_that_was_hurt_is_no_part_of_an_object(tmp_path: Path) -> None:
    """Nor are another's bytes freed with it."""
    others = "(SELECT {0} FROM node WHERE kind<>0 AND mode & 0x8000)"

    async def work(store: ObjectStore) -> None:
        bucket = await store.create_bucket("bucket", "me", copies=1)
        await store.put_object(bucket, b"k", store.small_body(b"k" * 5000), "e", NO_ATTRIBUTES)
        for change in (
            f"ref={others.format('ref')}",
            "kind=3",
            "size=size-1",
            "etag='f'",
            "number=2",
            "checksum=x'00'",
        ):
            upload = await store.create_upload(bucket, b"u", NO_ATTRIBUTES, "me")
            await store.put_part(upload, 1, store.small_body(b"u" * 5000), "e")
            hurt(tmp_path / "catalogue.db", f"UPDATE part SET {change}")
            number = 2 if change == "number=2" else 1
            etag = "f" if change == "etag='f'" else "e"
            with pytest.raises(StoreError) as caught:
                await store.complete_upload(upload, [(number, etag)], "e", NO_ATTRIBUTES)
            assert caught.value.code is Code.DAMAGED, change
            with pytest.raises(StoreError) as caught:
                store.parts(upload)
            assert caught.value.code is Code.DAMAGED, change
            assert any(problem.kind == "sum" for problem in (await audit(store)).problems), change
            await store.abort_upload(upload)
            store.engine.retrieval.cache.clear()
            assert await read(store, bucket, b"k") == b"k" * 5000, change

    run(tmp_path, work)


def test_a_damaged_file_fails_alone(tmp_path: Path) -> None:
    """A slice is met, and found to lie, after the first rows of the command were changed."""

    async def work(store: ObjectStore) -> None:
        bucket = await two_objects(store, pieces=3)
        hurt(tmp_path / "catalogue.db", f"UPDATE slice SET roff=1 WHERE off=5000 AND map={REF}")
        node = await store.look_up(bucket, b"d/a")
        chunk = await store.stage(bucket, [b"x" * 20])
        ticket = store.submit_file(
            bucket,
            node=node.id,
            create=None,
            mode=node.mode,
            uid=0,
            gid=0,
            atime_ns=1,
            mtime_ns=1,
            now_ns=1,
            size=node.size,
            chunks=[chunk],
            slices=[NewSlice(0, 10, chunk.id), NewSlice(5000, 10, chunk.id, 10)],
        )
        await store.put_object(bucket, b"d/other", store.small_body(b"other"), "e", NO_ATTRIBUTES)
        with pytest.raises(StoreError) as caught:
            await ticket.wait()
        assert caught.value.code is Code.DAMAGED
        assert await read(store, bucket, b"d/other") == b"other"
        with store.reader(await store.look_up(bucket, b"d/a"), 0, 10) as reader:
            assert await reader.read() == b"a" * 10

    run(tmp_path, work)


def test_rows_of_an_older_program_are_followed(tmp_path: Path) -> None:
    async def work(store: ObjectStore) -> None:
        bucket = await two_objects(store, pieces=3)
        connection = sqlite3.connect(tmp_path / "catalogue.db")
        for sql in ("UPDATE entry SET sum=0", "UPDATE slice SET sum=0", "UPDATE node SET sum=0, dsum=x'' WHERE kind=3"):
            connection.execute(sql)
        connection.commit()
        connection.close()
        assert await read(store, bucket, b"d/a") == b"a" * 15_000
        report = await audit(store)
        assert report.clean, report.problems

    run(tmp_path, work)


def test_s3_lists_what_has_lost_its_node(tmp_path: Path) -> None:
    """Who mirrors a bucket removes what its listing lacks; who asks for the key is told."""

    async def work(store: ObjectStore) -> None:
        bucket = await two_objects(store)
        await store.put_object(bucket, b"e/only", store.small_body(b"x"), "e", NO_ATTRIBUTES)
        for key in (b"a", b"only"):
            hurt(
                tmp_path / "catalogue.db",
                f"DELETE FROM node WHERE id=(SELECT node FROM entry WHERE name=x'{key.hex()}')",
            )
        forget(store)
        page = await store.list_objects(bucket)
        assert [(each.key, each.size, each.etag) for each in page.objects] == [
            (b"d/a", 0, ""),
            (b"d/b", 5000, "e"),
            (b"e/only", 0, ""),
        ]
        assert (await store.list_objects(bucket, delimiter=b"/")).prefixes == [b"d/", b"e/"]
        found = await store.list_objects(bucket, prefix=b"d/", delimiter=b"/")
        assert [each.key for each in found.objects] == [b"d/a", b"d/b"]
        for delimiter, wanted in ((b"b", [b"d/a", b"e/only"]), (b"n", [b"d/a", b"d/b"])):
            assert [each.key for each in (await store.list_objects(bucket, delimiter=delimiter)).objects] == wanted
        versions = (await store.list_versions(bucket)).versions
        assert [(each.key, each.etag) for each in versions] == [(b"d/a", ""), (b"d/b", "e"), (b"e/only", "")]
        with pytest.raises(StoreError) as caught:
            await store.look_up(bucket, b"d/a")
        assert caught.value.code is Code.DAMAGED

    run(tmp_path, work)


def test_a_node_that_was_hurt_takes_no_other_times_along(tmp_path: Path) -> None:
    """The mount commits times of many inodes as one change."""

    async def work(store: ObjectStore) -> None:
        bucket = await two_objects(store)
        (directory,) = store.entries(bucket.root, None, 10)
        others = [directory.node.id, (await store.look_up(bucket, b"d/b")).id]
        hurt(tmp_path / "catalogue.db", f"UPDATE node SET mode=mode | 8 WHERE id={HURT}")
        forget(store)
        ((number,),) = store.every(f"SELECT id FROM node WHERE id={HURT}")
        times = Times(store)
        now = directory.node.ctime_ns + 1
        for inode in (number, *others):
            times.accessed(inode, now)
        await times.commit()
        assert not times.read
        assert [row[0] for row in store.every("SELECT atime_ns FROM node WHERE id IN (?, ?)", tuple(others))] == [
            now
        ] * 2

    run(tmp_path, work)
