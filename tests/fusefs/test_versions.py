"""The mount in a bucket with versions, over the real store: what it leaves behind, and what a lock forbids it."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pyfuse3
import pytest
import trio

from appliance import lock, settings
from appliance.catalogue import history
from appliance.engine import engine
from appliance.errors import Code, StoreError
from appliance.lock import Default
from appliance.model import Attributes, Node
from appliance.upkeep.audit import audit
from tests.fusefs.unmounted import Unmounted, unmounted_pool

Main = Callable[["History"], Awaitable[None]]
LATER = 4 * 10**18


class History:
    """A mount with a bucket `b` that has versions."""

    def __init__(self, mount: Unmounted) -> None:
        self.mount = mount
        self.store = mount.store

    async def enable(self, state: bytes = settings.ENABLED) -> None:
        await self.store.set_bucket_setting(self.store.bucket("bucket"), settings.VERSIONING, state)

    async def versions(self, key: bytes = b"") -> list[tuple[bytes, bytes | None, bool]]:
        """(key, content or None of a delete marker, is it the null version) of all, by key, newest first."""
        bucket = self.store.bucket("bucket")
        await self.store.settle()
        page = await self.store.list_versions(bucket, key)
        found: list[tuple[bytes, bytes | None, bool]] = []
        for one in page.versions:
            content = None
            if not one.marker:
                node = await self.store.look_up_version(bucket, one.key, one.version_id)
                with self.store.reader(node) as reader:
                    content = await reader.read()
            assert one.latest == (not found or found[-1][0] != one.key)
            found.append((one.key, content, one.version_id == "null"))
        return found

    async def contents(self, key: bytes) -> list[bytes | None]:
        return [content for found, content, _ in await self.versions() if found == key]

    async def refused(self, work: Awaitable[object], number: int = errno.EPERM) -> None:
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await work
        assert caught.value.errno == number


def run(tmp_path: Path, main: Main) -> None:
    async def body() -> None:
        async with unmounted_pool(tmp_path) as mount:
            await mount.mkdir("bucket")
            scene = History(mount)
            await scene.enable()
            await main(scene)
            await mount.store.settle()
            report = await audit(mount.store, verify=True)
            assert report.clean, report.problems

    trio.run(body)


def test_a_version_for_each_close(tmp_path: Path) -> None:
    async def main(scene: History) -> None:
        mount = scene.mount
        await mount.write_file("bucket/f", b"one")
        inode = await mount.inode("bucket/f")
        await mount.write_file("bucket/f", b"two!")
        assert await scene.contents(b"f") == [b"two!", b"one"]
        handle = await mount.open("bucket/f", os.O_RDWR)
        for at, data in enumerate((b"a", b"b", b"c")):
            await mount.ops.write(handle, at, data)
            await mount.ops.fsync(handle, False)
        await mount.close(handle)
        assert await scene.contents(b"f") == [b"abc!", b"two!", b"one"]
        await mount.truncate("bucket/f", 2)
        assert await scene.contents(b"f") == [b"ab", b"abc!", b"two!", b"one"]
        assert await mount.inode("bucket/f") == inode
        handle = await mount.open("bucket/f", os.O_RDWR)  # nothing written: nothing begins
        await mount.close(handle)
        assert len(await scene.contents(b"f")) == 4
        large = bytes(range(256)) * 4096
        await mount.write_file("bucket/large", large)
        handle = await mount.open("bucket/large", os.O_RDWR)
        await mount.ops.write(handle, 1000, b"patched")
        await mount.close(handle)
        assert await scene.contents(b"large") == [large[:1000] + b"patched" + large[1007:], large]

    run(tmp_path, main)


def test_removal_and_s3(tmp_path: Path) -> None:
    async def main(scene: History) -> None:
        mount = scene.mount
        await mount.mkdir("bucket/d")
        await mount.write_file("bucket/d/f", b"one")
        await mount.unlink("bucket/d/f")
        assert not await mount.exists("bucket/d/f")
        assert await scene.contents(b"d/f") == [None, b"one"]
        await mount.door.put("bucket", b"d/f", b"two")
        assert await mount.read_file("bucket/d/f") == b"two"
        await mount.door.delete("bucket", b"d/f")
        assert not await mount.exists("bucket/d/f")
        bucket = scene.store.bucket("bucket")
        marker = (await scene.store.list_versions(bucket, b"d/f")).versions[0]
        await scene.store.delete_object(bucket, b"d/f", version_id=marker.version_id)
        assert await mount.read_file("bucket/d/f") == b"two"
        await mount.unlink("bucket/d/f")
        await mount.rmdir("bucket/d")
        assert await scene.contents(b"d/f") == [None, b"two", None, b"one"]
        await scene.refused(mount.rmdir("bucket"), errno.ENOTEMPTY)

    run(tmp_path, main)


def test_the_number_of_a_delete_marker_leads_nowhere(tmp_path: Path) -> None:
    """NFS asks by number alone; a marker has one, too."""

    async def main(scene: History) -> None:
        mount = scene.mount
        await mount.write_file("bucket/f", b"one")
        await mount.unlink("bucket/f")
        bucket = scene.store.bucket("bucket")
        newest = (await scene.store.list_versions(bucket, b"f")).versions[0]
        assert newest.marker
        marker: Any = await scene.store.look_up_version(bucket, b"f", newest.version_id)
        await scene.refused(mount.ops.lookup(marker.id, b".", mount.ctx), errno.ESTALE)

    run(tmp_path, main)


def test_who_has_the_old_one_open(tmp_path: Path) -> None:
    """H4: an open file is what it was; what is written to it after S3 replaced it is in no version."""

    async def main(scene: History) -> None:
        mount = scene.mount
        await mount.write_file("bucket/f", b"old")
        await scene.store.settle()
        handle = await mount.open("bucket/f", os.O_RDWR)
        await mount.door.put("bucket", b"f", b"new")
        assert await mount.read_all(handle) == b"old"
        await mount.ops.write(handle, 0, b"lost")
        await mount.close(handle)
        assert await mount.read_file("bucket/f") == b"new"
        assert await scene.contents(b"f") == [b"new", b"old"]
        stale = await mount.inode("bucket/f")
        await mount.door.put("bucket", b"f", b"newer")  # nobody holds it: the very node is the older version now
        await scene.refused(mount.ops.open(stale, os.O_RDWR, mount.ctx), errno.ESTALE)
        assert await scene.contents(b"f") == [b"newer", b"new", b"old"]

    run(tmp_path, main)


def test_renames(tmp_path: Path) -> None:
    async def main(scene: History) -> None:
        mount = scene.mount
        await mount.write_file("bucket/a", b"A")
        await mount.write_file("bucket/b", b"B")
        inode = await mount.inode("bucket/a")
        await mount.rename("bucket/a", "bucket/b")
        assert await mount.inode("bucket/b") == inode
        assert await scene.contents(b"a") == [None, b"A"]
        assert await scene.contents(b"b") == [b"A", b"B"]
        await mount.write_file("bucket/b", b"AA")  # the file knows its new key
        assert await scene.contents(b"b") == [b"AA", b"A", b"B"]
        await mount.mkdir("bucket/d")
        await mount.mkdir("bucket/d/e")
        await mount.mkdir("bucket/empty")
        await mount.write_file("bucket/d/x", b"X")
        await mount.write_file("bucket/d/e/y", b"Y")
        await mount.rename("bucket/d", "bucket/empty")
        assert await mount.read_file("bucket/empty/e/y") == b"Y"
        assert await scene.contents(b"d/e/y") == [None, b"Y"]
        assert await scene.contents(b"empty/e/y") == [b"Y"]
        await mount.write_file("bucket/empty/x", b"XX")
        assert await scene.contents(b"empty/x") == [b"XX", b"X"]
        parent, name = await mount.split("bucket/b")
        await mount.write_file("bucket/c", b"C")
        await mount.ops.rename(parent, name, parent, b"c", pyfuse3.RENAME_EXCHANGE, mount.ctx)
        assert await scene.contents(b"b") == [b"C", b"AA", b"A", b"B"]
        assert await scene.contents(b"c") == [b"AA", b"C"]
        await scene.refused(mount.ops.link(await mount.inode("bucket/c"), parent, b"linked", mount.ctx))

    run(tmp_path, main)


def test_a_directory_of_too_many_keys_is_copied_by_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "RENAMED_MAX", 2)

    async def main(scene: History) -> None:
        mount = scene.mount
        await mount.mkdir("bucket/d")
        for name in ("1", "2", "3"):
            await mount.write_file(f"bucket/d/{name}", b"x")
        await scene.refused(mount.rename("bucket/d", "bucket/e"), errno.EXDEV)
        await mount.unlink("bucket/d/1")
        await mount.rename("bucket/d", "bucket/e")
        assert await scene.contents(b"e/2") == [b"x"]

    run(tmp_path, main)


def test_suspended(tmp_path: Path) -> None:
    async def main(scene: History) -> None:
        mount = scene.mount
        await mount.write_file("bucket/f", b"one")
        await scene.store.settle()
        await scene.enable(settings.SUSPENDED)
        await mount.write_file("bucket/f", b"two")
        await mount.write_file("bucket/f", b"three")
        assert await scene.versions() == [(b"f", b"three", True), (b"f", b"one", False)]
        await mount.rename("bucket/f", "bucket/g")
        assert await scene.versions() == [(b"f", None, True), (b"f", b"one", False), (b"g", b"three", True)]
        await mount.unlink("bucket/g")
        assert await scene.contents(b"g") == [None]
        await mount.write_file("bucket/g", b"four")
        assert await scene.contents(b"g") == [b"four"]
        await scene.store.settle()
        handle = await mount.open("bucket/g", os.O_RDWR)
        await mount.ops.write(handle, 0, b"F")
        await mount.ops.fsync(handle, False)
        await scene.enable()
        await mount.ops.write(handle, 1, b"O")  # the null version is safe from now on, though the file was open
        await mount.close(handle)
        assert await scene.contents(b"g") == [b"FOur", b"Four"]

    run(tmp_path, main)


def test_a_lock_is_honoured(tmp_path: Path) -> None:
    async def main(scene: History) -> None:
        mount, store = scene.mount, scene.store
        await store.set_bucket_setting(store.bucket("bucket"), settings.LOCK, lock.pack_default(Default()))
        bucket = store.bucket("bucket")
        await mount.mkdir("bucket/d")
        for name in ("f", "free", "d/held"):
            await mount.write_file(f"bucket/{name}", b"kept")
        await store.settle()
        await store.set_retention(bucket, b"f", lock.COMPLIANCE, LATER)
        await store.set_legal_hold(bucket, b"d/held", lock.ON)
        parent, name = await mount.split("bucket/f")
        inode = await mount.inode("bucket/f")
        await scene.refused(mount.open("bucket/f", os.O_RDWR))
        await scene.refused(mount.open("bucket/f", os.O_RDONLY | os.O_TRUNC))
        await scene.refused(mount.truncate("bucket/f", 0))
        await scene.refused(mount.unlink("bucket/f"))
        await scene.refused(mount.rename("bucket/f", "bucket/g"))
        await scene.refused(mount.rename("bucket/free", "bucket/f"))
        await scene.refused(mount.rename("bucket/d", "bucket/e"))
        await scene.refused(mount.ops.rename(parent, b"free", parent, name, pyfuse3.RENAME_EXCHANGE, mount.ctx))
        await scene.refused(mount.ops.setxattr(inode, b"user.meta.a", b"b", mount.ctx))
        assert await mount.read_file("bucket/f") == b"kept"
        assert len(await scene.versions()) == 3
        await store.set_legal_hold(bucket, b"d/held", lock.OFF)
        await mount.rename("bucket/d", "bucket/e")
        await mount.door.put("bucket", b"f", b"newer")  # S3 may: the locked one stays
        assert await scene.contents(b"f") == [b"newer", b"kept"]

    run(tmp_path, main)


def test_a_file_that_is_retained_while_it_is_open(tmp_path: Path) -> None:
    async def main(scene: History) -> None:
        mount, store = scene.mount, scene.store
        await store.set_bucket_setting(store.bucket("bucket"), settings.LOCK, lock.pack_default(Default()))
        bucket = store.bucket("bucket")
        await mount.write_file("bucket/f", b"kept")
        await store.settle()
        handle = await mount.open("bucket/f", os.O_RDWR)
        await store.set_retention(bucket, b"f", lock.COMPLIANCE, LATER)
        await mount.ops.write(handle, 0, b"X")
        await scene.refused(mount.ops.fsync(handle, False))
        await mount.ops.release(handle)
        assert await scene.contents(b"f") == [b"kept"]

    run(tmp_path, main)


def test_the_default_retention_begins_with_the_last_close(tmp_path: Path) -> None:
    async def main(scene: History) -> None:
        mount, store = scene.mount, scene.store
        default = lock.pack_default(Default(lock.COMPLIANCE, days=1))
        await store.set_bucket_setting(store.bucket("bucket"), settings.LOCK, default)
        bucket = store.bucket("bucket")
        handle = await mount.create("bucket/f")
        for at in range(3):
            await mount.ops.write(handle, at, b"x")
            await mount.ops.fsync(handle, False)
        assert (await store.look_up(bucket, b"f")).attributes.retention_mode == ""
        await mount.close(handle)
        node = await store.look_up(bucket, b"f")
        assert node.attributes.retention_mode == lock.COMPLIANCE
        assert 0 < node.attributes.retain_until_ns - time.time_ns() <= lock.DAY_NS
        await scene.refused(mount.open("bucket/f", os.O_RDWR))
        with pytest.raises(StoreError) as caught:
            await store.delete_object(bucket, b"f", version_id=node.version_id, bypass=True)
        assert caught.value.code is Code.LOCKED
        assert await scene.contents(b"f") == [b"xxx"]

    run(tmp_path, main)


def test_a_new_files_retention_holds_before_the_mount_has_heard_of_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main(scene: History) -> None:
        mount, store, heard = scene.mount, scene.store, trio.Event()
        default = lock.pack_default(Default(lock.COMPLIANCE, days=1))
        await store.set_bucket_setting(store.bucket("bucket"), settings.LOCK, default)

        async def take_in() -> None:
            await heard.wait()
            await through()

        through = mount.ops.files._take_in_settled
        monkeypatch.setattr(mount.ops.files, "_take_in_settled", take_in)
        await mount.close(await mount.create("bucket/f"))
        await store.settle()
        await scene.refused(mount.open("bucket/f", os.O_RDWR))
        heard.set()

    run(tmp_path, main)


def test_who_may_not_enter_a_directory_sees_nothing_of_its_past(tmp_path: Path) -> None:
    async def main(scene: History) -> None:
        mount = scene.mount
        past = "bucket/.tierce~versions"
        await mount.mkdir("bucket/private")
        await mount.mkdir("bucket/private/d")
        await mount.setattr("bucket/private", st_mode=0o40710, st_uid=1234, st_gid=99)
        for content in (b"one", b"two"):
            await mount.write_file("bucket/private/d/f", content)
        await mount.store.settle()

        async def permissions(path: str) -> tuple[int, int, int]:
            looked_up = await mount.stat(path)
            told = await mount.ops.getattr(looked_up.st_ino, mount.ctx)
            assert (told.st_mode, told.st_uid, told.st_gid) == (looked_up.st_mode, looked_up.st_uid, looked_up.st_gid)
            return looked_up.st_mode & 0o7777, looked_up.st_uid, looked_up.st_gid

        whose = await permissions("bucket")
        assert await permissions(past) == (whose[0] & 0o555, *whose[1:])
        assert await permissions(past + "/private") == (0o510, 1234, 99)
        await mount.unlink("bucket/private/d/f")
        await mount.rmdir("bucket/private/d")
        assert await permissions(past + "/private/d") == (0o500, 1234, 99), "gone: for the owner of what it was in"
        await mount.rmdir("bucket/private")
        for gone in ("/private", "/private/d"):
            assert await permissions(past + gone) == (whose[0] & 0o500, *whose[1:])

    run(tmp_path, main)


def test_a_new_version_inherits_no_retention_that_is_over(tmp_path: Path) -> None:
    """It would be protected by nothing: neither by what was over nor by the bucket's default."""

    def ended(_: Node, held: Attributes) -> Attributes:
        return msgspec.structs.replace(held, retain_until_ns=1, legal_hold=lock.OFF)

    async def main(scene: History) -> None:
        mount, store = scene.mount, scene.store
        default = lock.pack_default(Default(lock.GOVERNANCE, days=1))
        await store.set_bucket_setting(store.bucket("bucket"), settings.LOCK, default)
        bucket = store.bucket("bucket")
        for flushes in (False, True):
            path, key = (f"bucket/{flushes}", str(flushes).encode())
            await mount.write_file(path, b"old")
            await store.settle()
            await store.change_attributes(bucket, key, ended)
            handle = await mount.open(path, os.O_WRONLY)
            await mount.ops.write(handle, 0, b"new")
            if flushes:
                await mount.ops.flush(handle)
            await mount.ops.release(handle)
            await store.settle()
            made = (await store.look_up(bucket, key)).attributes
            assert (made.retention_mode, made.legal_hold) == (lock.GOVERNANCE, "")
            assert made.retain_until_ns > time.time_ns()
            assert await scene.contents(key) == [b"new", b"old"]
            await scene.refused(mount.open(path, os.O_RDWR))

    run(tmp_path, main)


def test_a_renamed_file_begins_its_default_retention_anew(tmp_path: Path) -> None:
    """As every new version, but while it is open: its writer would be locked out."""

    def ended(_: Node, held: Attributes) -> Attributes:
        return msgspec.structs.replace(held, retain_until_ns=1)

    async def main(scene: History) -> None:
        mount, store = scene.mount, scene.store
        await mount.write_file("bucket/before", b"before")
        default = lock.pack_default(Default(lock.GOVERNANCE, days=1))
        await store.set_bucket_setting(store.bucket("bucket"), settings.LOCK, default)
        bucket = store.bucket("bucket")
        await mount.mkdir("bucket/d")
        for name in ("a", "d/b"):
            await mount.write_file(f"bucket/{name}", b"old")
            await store.settle()
            await store.change_attributes(bucket, name.encode(), ended)
        for old, new, key in (("before", "after", b"after"), ("a", "c", b"c"), ("d", "e", b"e/b")):
            await mount.rename(f"bucket/{old}", f"bucket/{new}")
            made = (await store.look_up(bucket, key)).attributes
            assert made.retention_mode == lock.GOVERNANCE, key
            assert made.retain_until_ns > time.time_ns(), key
            await scene.refused(mount.rename(f"bucket/{new}", "bucket/x"))
        handle = await mount.create("bucket/temporary")
        await mount.rename("bucket/temporary", "bucket/done")
        await mount.ops.write(handle, 0, b"x")
        await mount.close(handle)
        await store.settle()
        assert (await store.look_up(bucket, b"done")).attributes.retention_mode == lock.GOVERNANCE
        assert (await scene.contents(b"done"))[0] == b"x"

    run(tmp_path, main)


def test_older_versions_are_read_in_a_directory_of_their_own(tmp_path: Path) -> None:
    async def main(scene: History) -> None:
        mount, store = scene.mount, scene.store
        names = (b"f", b"d/x", b"d/e/y", b"d@null/z", b"odd//name", b".tierce~versions", b"gone")
        for content in (b"one", b"two", b"three"):
            for name in names:
                await mount.door.put("bucket", name, content)
        await mount.door.delete("bucket", b"gone")
        bucket = store.bucket("bucket")
        ids = {name: [one.version_id for one in (await store.list_versions(bucket, name)).versions] for name in names}
        past = b"bucket/.tierce~versions"
        assert b".tierce~versions" not in await mount.listdir("bucket")
        at_root = [b".tierce~d~d@null", b"d", b"odd"]
        for name in (b".tierce~versions", b"f"):
            shown = b".tierce~n~.tierce~versions" if name == b".tierce~versions" else name
            at_root += [b"%b@%b" % (shown, each.encode()) for each in ids[name][1:]]
        at_root += [b"gone@" + each.encode() for each in ids[b"gone"][1:]]
        for per_call in (1, 1 << 30):
            assert sorted(await mount.listdir(past, per_call)) == sorted(at_root)
        for name, directory in ((b"d/x", b"d/"), (b"d/e/y", b"d/e/"), (b"d@null/z", b".tierce~d~d@null/")):
            listed = await mount.listdir(past + b"/" + directory.rstrip(b"/"))
            for each, content in zip(ids[name][1:], (b"two", b"one"), strict=True):
                shown = name.rpartition(b"/")[2] + b"@" + each.encode()
                assert shown in listed
                assert await mount.read_file(past + b"/" + directory + shown) == content
        assert await mount.read_file(past + b"/odd/.tierce~n~/name@" + ids[b"odd//name"][2].encode()) == b"one"
        oldest = past + b"/f@" + ids[b"f"][2].encode()
        assert (await mount.stat(oldest)).st_mode & 0o777 == 0o444
        inode = await mount.inode(oldest)
        assert await mount.ops.getxattr(inode, b"user.tierce.version-id", mount.ctx) == ids[b"f"][2].encode()
        await scene.refused(mount.open(oldest, os.O_RDWR), errno.EROFS)
        await scene.refused(mount.truncate(oldest, 0), errno.EROFS)
        await scene.refused(mount.setattr(oldest, st_mode=0o100644), errno.EROFS)
        await scene.refused(mount.ops.setxattr(inode, b"user.a", b"b", mount.ctx), errno.EROFS)
        await scene.refused(mount.unlink(oldest), errno.EROFS)
        await scene.refused(mount.rename(oldest, "bucket/g"), errno.EROFS)
        await scene.refused(mount.rename("bucket/f", past + b"/f"), errno.EROFS)
        await scene.refused(mount.rename("bucket/f", oldest), errno.EROFS)
        await mount.mkdir("bucket/full")
        await mount.write_file("bucket/full/f", b"")
        for flags in (0, pyfuse3.RENAME_EXCHANGE):
            await scene.refused(mount.rename("bucket/full", past, flags), errno.EROFS)
        await mount.unlink("bucket/full/f")
        await mount.rmdir("bucket/full")
        await scene.refused(mount.mkdir(past + b"/new"), errno.EROFS)
        await scene.refused(mount.rmdir(past), errno.EROFS)
        await scene.refused(mount.rename(past, "bucket/other"), errno.EROFS)
        await scene.refused(mount.mkdir(past), errno.EINVAL)
        for absent in (b"/f", b"/f@" + ids[b"f"][0].encode(), b"/f@null", b"/gone@" + ids[b"gone"][0].encode(), b"/n"):
            assert not await mount.exists(past + absent)
        await store.delete_object(bucket, b"f", version_id=ids[b"f"][0])  # the next one is current, and no longer here
        assert await mount.read_file("bucket/f") == b"two"
        await mount.write_file("bucket/f", b"four")
        assert await scene.contents(b"f") == [b"four", b"two", b"one"]
        await mount.mkdir("other")
        assert not await mount.exists("other/.tierce~versions")
        assert not await mount.exists("bucket/d/.tierce~versions")
        for number in list(mount.ops.names.past._folders):
            mount.ops.names.past.forget(number)
        assert not mount.ops.names.past._numbers

    run(tmp_path, main)


def test_symbolic_links_take_and_leave_keys(tmp_path: Path) -> None:
    """A link is nothing to S3: a key that it takes is hidden by a delete marker, also while versions are suspended."""

    async def main(scene: History) -> None:
        mount = scene.mount
        for state in (settings.ENABLED, settings.SUSPENDED):
            await scene.enable(state)
            await mount.write_file("bucket/f", b"one")
            await mount.symlink("f", "bucket/l")
            await mount.rename("bucket/l", "bucket/f")
            assert (await scene.contents(b"f"))[0] is None
            await mount.write_file("bucket/g", b"two")
            await mount.rename("bucket/f", "bucket/g", pyfuse3.RENAME_EXCHANGE)
            assert (await scene.contents(b"f"))[0] == b"two"
            assert (await scene.contents(b"g"))[0] is None
            report = await audit(scene.store, verify=True)
            assert report.clean, (state, report.problems)
            await mount.unlink("bucket/f")
            await mount.unlink("bucket/g")

    run(tmp_path, main)


def test_a_version_whose_commit_failed_has_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written after the error must not change what the key was before."""

    async def main(scene: History) -> None:
        mount = scene.mount
        await mount.write_file("bucket/f", b"one")
        assert await scene.contents(b"f") == [b"one"]
        handle = await mount.open("bucket/f", os.O_RDWR)
        await mount.ops.write(handle, 0, b"a")

        def fail(*_: object) -> None:
            raise StoreError(Code.UNAVAILABLE, "a device failed: try again")

        with monkeypatch.context() as patch:
            patch.setattr(scene.store.engine.committer, "_barrier", fail)
            with pytest.raises(pyfuse3.FUSEError):
                await mount.ops.fsync(handle, False)
        await mount.ops.write(handle, 0, b"b")
        await mount.ops.fsync(handle, False)
        await mount.close(handle)
        assert await scene.contents(b"f") == [b"bne", b"one"]

    run(tmp_path, main)


def test_a_commit_that_follows_a_failed_one_begins_the_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both were under way when the first failed."""

    async def main(scene: History) -> None:
        mount = scene.mount
        await mount.write_file("bucket/f", b"one")
        assert await scene.contents(b"f") == [b"one"]
        monkeypatch.setattr(engine, "BATCH_COMMANDS_MAX", 1)
        barrier, calls = scene.store.engine.committer._barrier, 0

        def fail_twice(*arguments: Any) -> None:  # what was answered is tried once more at once
            nonlocal calls
            calls += 1
            if calls <= 2:
                raise StoreError(Code.UNAVAILABLE, "a device failed: try again")
            barrier(*arguments)

        handle = await mount.open("bucket/f", os.O_RDWR)
        file = mount.ops.files.files[await mount.inode("bucket/f")]
        monkeypatch.setattr(scene.store.engine.committer, "_barrier", fail_twice)
        for data in (b"a", b"b"):
            await mount.ops.write(handle, 0, data)
            await mount.ops.files.commit(file)
        with pytest.raises(pyfuse3.FUSEError):
            await mount.ops.fsync(handle, False)
        await mount.close(handle)
        assert calls == 3
        assert await scene.contents(b"f") == [b"bne", b"one"]

    run(tmp_path, main)
