"""A quota through the mount: who writes is told in time, and what was accepted is kept."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
import trio

from appliance import settings
from appliance.errors import Code, StoreError
from appliance.limits import KIB
from appliance.model import NO_ATTRIBUTES
from appliance.quota import Quota
from appliance.upkeep.audit import audit
from fusefs import writeback
from fusefs.operations import NAMELESS
from tests.fusefs.unmounted import Unmounted, unmounted_pool


@asynccontextmanager
async def limited(directory: Path, quota: Quota) -> AsyncIterator[Unmounted]:
    """A mount whose bucket `photos` has a quota."""
    async with unmounted_pool(directory) as mount:
        await mount.store.set_quota(mount.store.bucket("photos"), quota)
        yield mount


async def refused(work: Awaitable[object]) -> None:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await work
    assert caught.value.errno == errno.EDQUOT


async def put(mount: Unmounted, key: bytes, size: int) -> None:
    bucket = mount.store.bucket("photos")
    await mount.store.put_object(bucket, key, mount.store.small_body(b"s" * size), "e", NO_ATTRIBUTES)


def used(mount: Unmounted) -> tuple[int, int]:
    found = mount.store.quota(mount.store.bucket("photos").id)
    return found[1], found[2]


def test_direct_writes_are_refused_at_once_and_cached_ones_at_fsync_and_close(tmp_path: Path) -> None:
    async def main() -> None:
        async with limited(tmp_path, Quota(10_000)) as mount:
            direct = await mount.create("photos/direct", os.O_WRONLY | os.O_DIRECT)
            assert await mount.ops.write(direct, 0, b"1" * 6000) == 6000
            await refused(mount.ops.write(direct, 6000, b"1" * 6000))
            assert used(mount) == (1, 6000)
            await mount.close(direct)
            cached = await mount.create("photos/cached", os.O_WRONLY)
            other = await mount.open("photos/cached", os.O_RDWR)
            assert await mount.ops.write(cached, 0, b"2" * 4000) == 4000
            assert await mount.ops.write(cached, 4000, b"2" * 100) == 100, "the kernel's own copy: nobody waits for it"
            for _ in range(2):
                await refused(mount.ops.fsync(cached, False))
            for handle in (cached, other):
                await refused(mount.ops.flush(handle))
            assert mount.kernel.names, "the kernel must not go on believing in its size"
            for handle in (cached, other):
                await mount.ops.release(handle)
            assert (await mount.stat("photos/cached")).st_size == 4000
            again = await mount.open("photos/cached", os.O_RDWR)
            await mount.ops.write(again, 0, b"3" * 4000)
            await mount.close(again)
            assert await mount.read_file("photos/cached") == b"3" * 4000

    trio.run(main)


def test_names_truncation_and_links_are_refused_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with limited(tmp_path, Quota(10_000, 2)) as mount:
            await mount.write_file("photos/a", b"1" * 4000)
            await refused(mount.truncate("photos/a", 10_001))
            await mount.truncate("photos/a", 10_000)
            assert used(mount) == (1, 10_000)
            await mount.truncate("photos/a", 4000)
            await mount.link("photos/a", "photos/b")
            assert used(mount) == (2, 8000)
            await refused(mount.create("photos/c"))
            await refused(mount.link("photos/a", "photos/c"))
            await mount.mkdir("photos/d")
            await mount.symlink("a", "photos/s")
            handle = await mount.open("photos/b", os.O_WRONLY | os.O_DIRECT)
            await refused(mount.ops.write(handle, 0, b"2" * 5001))  # counts twice
            await mount.ops.write(handle, 0, b"2" * 5000)
            await mount.close(handle)
            await mount.unlink("photos/a")
            await mount.ops.files.commit_all()
            assert used(mount) == (1, 5000)
            await mount.write_file("photos/c", b"3" * 5000)
            await mount.rename("photos/c", "photos/b")
            assert used(mount) == (1, 5000)

    trio.run(main)


def test_a_file_that_lost_the_name_it_was_found_by_is_there(tmp_path: Path) -> None:
    """The kernel has the inode, also by its other name: it opens it, and sets its times when it writes back."""

    async def main() -> None:
        async with limited(tmp_path, Quota(10_000)) as mount:
            await mount.write_file("photos/a", b"a" * 100)
            inode: Any = await mount.inode("photos/a")
            await mount.link("photos/a", "photos/b")
            await mount.inode("photos/a")
            await mount.unlink("photos/a")
            assert (await mount.setattr_inode(inode, {"st_mode": 0o100600})).st_mode == 0o100600
            info = await mount.ops.open(inode, os.O_RDWR, mount.ctx)
            await mount.ops.write(info.fh, 0, b"b")
            await mount.close(info.fh)
            assert await mount.read_file("photos/b") == b"b" + b"a" * 99

    trio.run(main)


def test_a_full_bucket_can_be_rewritten(tmp_path: Path) -> None:
    """By O_TRUNC, while S3 waits for the very bytes that the truncation frees."""

    async def main() -> None:
        async with limited(tmp_path, Quota(10_000, 2)) as mount:
            await mount.write_file("photos/a", b"1" * 10_000)
            handle = await mount.open("photos/a", os.O_WRONLY | os.O_TRUNC)
            await mount.ops.fsync(handle, False)
            await put(mount, b"small", 1000)
            await mount.ops.write(handle, 0, b"2" * 9000)
            with pytest.raises(StoreError):
                await put(mount, b"small", 1001)
            await mount.close(handle)
            await mount.ops.files.commit_all()
            assert await mount.read_file("photos/a") == b"2" * 9000
            assert used(mount) == (2, 10_000)

    trio.run(main)


def test_what_a_truncation_is_about_to_free_is_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with limited(tmp_path, Quota(10_000)) as mount:
            await mount.write_file("photos/a", b"1" * 9000)
            shrunk = await mount.open("photos/a", os.O_WRONLY | os.O_TRUNC)
            await mount.ops.write(shrunk, 0, b"2" * 1000)
            other = await mount.create("photos/b", os.O_WRONLY | os.O_DIRECT)
            assert await mount.ops.write(other, 0, b"3" * 9000) == 9000
            await refused(mount.ops.write(other, 9000, b"3"))
            await mount.close(shrunk)
            await mount.close(other)
            await mount.truncate("photos/b", 1)
            await mount.truncate("photos/a", 9999)
            await mount.ops.files.commit_all()
            assert used(mount) == (2, 10_000)

    trio.run(main)


def test_a_file_cut_while_its_commit_is_built_keeps_what_that_commit_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with limited(tmp_path, Quota(10_000)) as mount, trio.open_nursery() as nursery:
            stage, staging, gate = mount.store.stage, trio.Event(), trio.Event()

            async def slow(*arguments: Any) -> Any:
                staging.set()
                await gate.wait()
                return await stage(*arguments)

            handle = await mount.create("photos/f")
            await mount.ops.write(handle, 0, b"f" * 9000)
            monkeypatch.setattr(mount.store, "stage", slow)
            nursery.start_soon(mount.ops.fsync, handle, False)
            await staging.wait()
            inode = await mount.inode("photos/f")  # by the handle: who truncates a name waits for commits
            await mount.setattr_inode(inode, {"st_size": 3000}, handle)
            with pytest.raises(StoreError, match="quota"):
                await put(mount, b"s3", 6000)
            gate.set()
            await mount.close(handle)
            assert await mount.read_file("photos/f") == b"f" * 3000
            await put(mount, b"s3", 7000)

    trio.run(main)


def test_what_is_written_but_not_committed_counts_for_s3(tmp_path: Path) -> None:
    async def main() -> None:
        async with limited(tmp_path, Quota(10_000, 2)) as mount:
            handle = await mount.create("photos/a")
            await mount.ops.write(handle, 0, b"1" * 9000)
            assert used(mount) == (1, 9000)
            with pytest.raises(StoreError) as caught:
                await put(mount, b"b", 1001)
            assert caught.value.code is Code.QUOTA_EXCEEDED
            await put(mount, b"b", 1000)
            with pytest.raises(StoreError):
                await put(mount, b"c", 0)
            await mount.close(handle)
            await mount.ops.files.commit_all()
            assert used(mount) == (2, 10_000)
            gone = await mount.create("photos/b", os.O_RDWR)
            await mount.ops.write(gone, 0, b"4" * 500)
            await mount.unlink("photos/b")
            await mount.close(gone)
            assert used(mount) == (1, 9000)

    trio.run(main)


def test_df_shows_the_quota_of_a_bucket_and_half_of_the_pool_for_two_copies(tmp_path: Path) -> None:
    async def space(mount: Unmounted, path: str) -> tuple[int, int, int, int]:
        mount.kernel.inode = await mount.inode(path)
        found = await mount.ops.statfs(mount.ctx)
        assert found.f_bavail == found.f_bfree
        return found.f_blocks * found.f_frsize, found.f_bfree * found.f_frsize, found.f_files, found.f_ffree

    async def main() -> None:
        async with limited(tmp_path, Quota(1 << 20, 3)) as mount:
            await mount.store.create_bucket("twice", "me", copies=2)
            handle = await mount.create("photos/a")
            await mount.ops.write(handle, 0, b"1" * (1 << 18))
            assert await space(mount, "photos") == (1 << 20, 3 << 18, 3, 2), "what is not committed yet counts"
            assert await space(mount, "photos/a") == await space(mount, "photos")
            await mount.close(handle)
            await mount.ops.files.commit_all()
            total, free, _, _ = await space(mount, "")
            assert 0 < free <= total
            twice = await space(mount, "twice")
            assert twice[0] == pytest.approx(total / 2, abs=8192)
            assert twice[1] == pytest.approx(free / 2, abs=8192)
            photos = mount.store.bucket("photos")
            await mount.store.set_quota(photos, Quota(1 << 50))
            assert await space(mount, "photos") == pytest.approx((total, free, 1 << 40, 1 << 40))
            await mount.store.set_quota(photos, Quota(1000, 0))
            assert (await space(mount, "photos"))[1:] == (0, 1, 0)

    trio.run(main)


def test_a_version_that_stays_counts(tmp_path: Path) -> None:
    async def main() -> None:
        async with limited(tmp_path, Quota(10_000, 3)) as mount:
            await mount.store.set_bucket_setting(mount.store.bucket("photos"), settings.VERSIONING, settings.ENABLED)
            await mount.write_file("photos/a", b"1" * 4000)
            handle = await mount.open("photos/a", os.O_WRONLY | os.O_DIRECT)
            await refused(mount.ops.write(handle, 4000, b"2" * 2001))  # 4000 stay, and the file is to have 6001
            await mount.ops.write(handle, 4000, b"2" * 2000)
            await mount.close(handle)
            await mount.ops.files.commit_all()
            assert used(mount) == (2, 10_000)
            await mount.unlink("photos/a")
            assert used(mount) == (3, 10_000)

    trio.run(main)


async def nameless(mount: Unmounted, size: int) -> tuple[int, int]:
    """Handle and inode of a file without a name, of so many bytes."""
    info, entry = await mount.ops.create(
        await mount.inode("photos"), NAMELESS, stat.S_IFREG | 0o600, os.O_TMPFILE | os.O_RDWR, mount.ctx
    )
    handle = mount.ops.handles[info.fh]
    handle.direct = True  # type: ignore[union-attr]
    await mount.ops.write(info.fh, 0, b"n" * size)
    return info.fh, entry.st_ino


def test_what_is_open_without_a_name_takes_room(tmp_path: Path) -> None:
    async def main() -> None:
        async with limited(tmp_path, Quota(10_000, 2)) as mount:
            await mount.write_file("photos/a", b"1" * 4000)
            await mount.ops.files.commit_all()
            removed = await mount.open("photos/a", os.O_RDWR)
            await mount.unlink("photos/a")
            await mount.ops.pending.make_durable()
            assert used(mount) == (0, 4000), "no object, but its bytes"
            never, inode = await nameless(mount, 5000)
            assert used(mount) == (0, 9000)
            await refused(mount.ops.write(never, 5000, b"n" * 1001))
            await refused(mount.setattr_inode(inode, {"st_size": 6001}))
            with pytest.raises(StoreError):
                await put(mount, b"b", 1001)
            await put(mount, b"b", 1000)
            await mount.close(removed)
            assert used(mount) == (1, 6000)
            replaced = await mount.open("photos/b", os.O_RDWR)
            await put(mount, b"b", 2000)
            assert used(mount) == (1, 8000), "the old one is open, the new one there"
            await mount.close(replaced)
            assert used(mount) == (1, 7000)
            parent = await mount.inode("photos")
            await mount.ops.link(inode, parent, b"c", mount.ctx)
            assert used(mount) == (2, 7000)
            other, other_inode = await nameless(mount, 100)
            await refused(mount.ops.link(other_inode, parent, b"d", mount.ctx))
            assert used(mount) == (2, 7100), "it is as it was"
            for handle in (never, other):
                await mount.close(handle)
            assert used(mount) == (2, 7000)
            assert await mount.read_file("photos/c") == b"n" * 5000
            created = await mount.open("photos/c", os.O_RDWR)
            await mount.unlink("photos/c")
            await mount.close(created)
            await mount.ops.pending.make_durable()
            assert used(mount) == (1, 2000)

    trio.run(main)


def test_an_older_version_that_is_open_is_counted_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with limited(tmp_path, Quota(10_000)) as mount:
            await mount.store.set_bucket_setting(mount.store.bucket("photos"), settings.VERSIONING, settings.ENABLED)
            await put(mount, b"a", 4000)
            handle = await mount.open("photos/a", os.O_RDWR)
            await put(mount, b"a", 3000)
            assert used(mount)[1] == 7000
            await mount.close(handle)
            assert used(mount)[1] == 7000

    trio.run(main)


def test_many_small_files_without_a_name_do_not_fill_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size, bound = 20_000, 1 << 18
    monkeypatch.setattr(writeback, "TOTAL_MEMORY_MAX", bound)

    async def main() -> None:
        async with unmounted_pool(tmp_path) as mount:
            made = [await nameless(mount, size) for _ in range(60)]
            assert mount.ops.files.memory <= bound + size
            for handle, _ in made:
                assert await mount.read_all(handle) == b"n" * size
            for number, (_, inode) in enumerate(made[:3]):
                await mount.ops.link(inode, await mount.inode("photos"), b"f%d" % number, mount.ctx)
            await mount.ops.write(made[0][0], 5, b"changed")
            for handle, _ in made:
                await mount.close(handle)
            for number in range(3):
                whole = b"n" * size if number else b"nnnnnchanged" + b"n" * (size - 12)
                assert await mount.read_file(f"photos/f{number}") == whole
            await mount.ops.files.commit_all()
            assert mount.ops.files.memory == 0
            assert (await audit(mount.store, verify=True)).problems == ()

    trio.run(main)


@pytest.mark.parametrize("seed", range(2))
def test_the_doors_fill_a_bucket_exactly(tmp_path: Path, seed: int) -> None:
    """Writers of both doors at once; nothing that was accepted is refused later, nor is the quota passed."""
    chance = random.Random(seed)

    async def by_mount(mount: Unmounted, number: int) -> None:
        for turn in range(12):
            name = f"photos/m{number}-{chance.randrange(3)}"
            try:
                handle = await (mount.open(name, os.O_RDWR) if await mount.exists(name) else mount.create(name))
            except pyfuse3.FUSEError as error:
                if error.errno != errno.EDQUOT:
                    raise
                continue
            inode = await mount.inode(name)
            with_direct = mount.ops.handles[handle]
            with_direct.direct = True  # type: ignore[union-attr]
            for _ in range(chance.randrange(4)):
                try:
                    await mount.ops.write(handle, chance.randrange(3000), bytes([turn]) * chance.randrange(1, 2000))
                    if chance.random() < 0.3:
                        await mount.setattr_inode(inode, {"st_size": chance.randrange(2500)})
                except pyfuse3.FUSEError as error:
                    if error.errno != errno.EDQUOT:
                        raise
                if chance.random() < 0.3:
                    await mount.ops.fsync(handle, False)
            await mount.close(handle)  # never EDQUOT: what is in the file was accepted
            if chance.random() < 0.3:
                await mount.unlink(name)
            await trio.lowlevel.checkpoint()

    async def by_s3(mount: Unmounted, number: int) -> None:
        for _ in range(25):
            key = b"s%d-%d" % (number, chance.randrange(3))
            try:
                await put(mount, key, chance.randrange(3000))
            except StoreError as error:
                if error.code is not Code.QUOTA_EXCEEDED:
                    raise
                await mount.store.delete_object(mount.store.bucket("photos"), key)

    async def main() -> None:
        async with limited(tmp_path, Quota(12_000, 9)) as mount:
            work: list[Callable[[Unmounted, int], Awaitable[None]]] = [by_mount, by_s3]
            async with trio.open_nursery() as nursery:
                for number in range(6):
                    nursery.start_soon(work[number % 2], mount, number)
            await mount.ops.files.commit_all()
            usage = mount.store.usage(mount.store.bucket("photos"))
            assert (usage.objects, usage.bytes) == used(mount)
            assert usage.objects <= 9
            assert usage.bytes <= 12_000

    trio.run(main)


def test_a_shared_copy_counts_as_much_as_one_of_bytes(tmp_path: Path) -> None:
    """copy_file_range asks the quota in its commit: what does not fit changes nothing, in the bucket or in the file."""

    async def main() -> None:
        size = 256 * KIB
        async with limited(tmp_path, Quota(2 * size + 1000)) as mount:
            await mount.write_file("photos/source", data := random.Random(1).randbytes(size))
            source, copy = await mount.open("photos/source"), await mount.create("photos/copy")
            assert await mount.ops.copy_file_range(source, 0, copy, 0, size, 0) == size
            assert used(mount) == (2, 2 * size)
            await refused(mount.ops.copy_file_range(source, 0, copy, size, size, 0))
            assert await mount.ops.copy_file_range(source, 0, copy, 0, size, 0) == size, "it adds nothing"
            assert used(mount) == (2, 2 * size)
            assert await mount.read_all(copy) == data
            for handle in (source, copy):
                await mount.close(handle)
            await mount.unlink("photos/source")
            await mount.store.settle()
            assert used(mount) == (1, size), "counted by sizes, whoever shares the pieces"

    trio.run(main)
