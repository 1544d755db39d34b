"""H5 seen from S3: who has been shown a change there does not find what is older in the mount."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.errors import Code, StoreError
from appliance.model import NO_ATTRIBUTES, Precondition
from tests.fusefs.scenes import run_on_pool
from tests.fusefs.unmounted import SlowKernel, Unmounted


class StuckKernel(SlowKernel):
    """Attributes are not forgotten either."""

    def forget_attributes(self, inode: int) -> None:
        assert self.gate.wait(60)
        super().forget_attributes(inode)


class S3:
    """What S3 can see, and when it was answered."""

    def __init__(self, mount: Unmounted) -> None:
        self.store = mount.store
        self.door = mount.door
        self.bucket = mount.store.bucket("photos")

    async def get(self, key: bytes) -> bytes | None:
        try:
            return await self.door.get("photos", key)
        except StoreError as error:
            if error.code is not Code.NO_SUCH_KEY:
                raise
            return None

    async def keys(self, prefix: bytes = b"", delimiter: bytes = b"", after: bytes = b"") -> list[bytes]:
        page = await self.store.list_objects(self.bucket, prefix, delimiter, after)
        return sorted([each.key for each in page.objects] + page.prefixes)

    async def versions(self) -> int:
        return len((await self.store.list_versions(self.bucket, b"d/")).versions)

    async def create(self, key: bytes) -> str:
        """PUT if there is none."""
        try:
            body = self.store.small_body(b"created")
            condition = Precondition(if_none_match="*")
            await self.store.put_object(self.bucket, key, body, "e", NO_ATTRIBUTES, precondition=condition)
        except StoreError as error:
            return error.code.name
        return "done"

    async def delete(self, key: bytes) -> None:
        await self.door.delete("photos", key)

    async def buckets(self) -> list[str]:
        await self.store.told_of()
        return [bucket.name for bucket in self.store.buckets()]


async def beside(
    mount: Unmounted,
    change: Callable[[], Awaitable[object]],
    looks: dict[str, Callable[[], Awaitable[object]]],
    free: dict[str, Callable[[], Awaitable[object]]],
) -> dict[str, object]:
    """While the kernel has yet to forget what `change` changed: nothing of `looks` is answered, and all of `free` is.
    What they were answered."""
    kernel = mount.ops.invalidation.kernel = StuckKernel()
    answered: dict[str, object] = {}

    async def note(name: str, function: Callable[[], Awaitable[object]]) -> None:
        answered[name] = await function()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(note, "the change", change)
        await trio.testing.wait_all_tasks_blocked(0.02)
        for name, look in (looks | free).items():
            nursery.start_soon(note, name, look)
        await trio.testing.wait_all_tasks_blocked(0.02)
        early = set(answered)
        kernel.gate.set()
    assert early == set(free)
    assert not mount.store.engine.tellings.under_way
    return answered


def test_h5_what_replaced_a_file_is_seen_through_s3_when_the_kernel_has_forgotten_the_old_one(tmp_path: Path) -> None:
    async def scene(mount: Unmounted) -> None:
        s3 = S3(mount)
        for key in (b"d/f", b"d/other", b"e/f"):
            await mount.door.put("photos", key, b"old")
        await mount.inode("photos/d/f")
        answered = await beside(
            mount,
            lambda: mount.door.put("photos", b"d/f", b"newer"),
            {
                "get": lambda: s3.get(b"d/f"),
                "list": lambda: s3.keys(b"d/"),
                "versions": s3.versions,
                "create": lambda: s3.create(b"d/f"),
            },
            {
                "another": lambda: s3.get(b"d/other"),
                "another place": lambda: s3.keys(b"e/"),
                "behind": lambda: s3.keys(b"d/", after=b"d/f"),
                "another's creation": lambda: s3.create(b"e/f"),
                "buckets": s3.buckets,
            },
        )
        assert answered["get"] == b"newer"
        assert answered["create"] == answered["another's creation"] == "PRECONDITION_FAILED"
        assert (await mount.stat("photos/d/f")).st_size == 5

    run_on_pool(scene, tmp_path)


def test_h5_what_is_gone_is_missed_through_s3_when_the_kernel_has_forgotten_it(tmp_path: Path) -> None:
    async def scene(mount: Unmounted) -> None:
        s3 = S3(mount)
        await mount.door.put("photos", b"d/f", b"old")
        await mount.inode("photos/d/f")
        answered = await beside(
            mount,
            lambda: s3.delete(b"d/f"),
            {
                "get": lambda: s3.get(b"d/f"),
                "list": lambda: s3.keys(delimiter=b"/"),
                "deleted again": lambda: s3.delete(b"d/f"),
            },
            {"never there": lambda: s3.get(b"d/g")},
        )
        assert (answered["get"], answered["list"]) == (None, [])
        assert not await mount.exists("photos/d/f")

    run_on_pool(scene, tmp_path)


def test_h5_a_name_of_which_the_kernel_remembers_that_there_was_nothing(tmp_path: Path) -> None:
    async def scene(mount: Unmounted) -> None:
        s3 = S3(mount)
        assert not await mount.exists("photos/d")
        answered = await beside(
            mount,
            lambda: mount.door.put("photos", b"d/f", b"new"),
            {"get": lambda: s3.get(b"d/f"), "list": lambda: s3.keys(delimiter=b"/")},
            {"absent": lambda: s3.get(b"d")},
        )
        assert (answered["get"], answered["list"]) == (b"new", [b"d/"])
        await mount.store.create_bucket("more", "me")
        await mount.inode("more")
        answered = await beside(
            mount,
            lambda: mount.store.delete_bucket("more"),
            {"buckets": s3.buckets, "bucket": lambda: mount.store.told_of("more")},
            {"another bucket": lambda: mount.store.told_of("photos"), "get": lambda: s3.get(b"d/f")},
        )
        assert answered["buckets"] == ["photos"]

    run_on_pool(scene, tmp_path)


def test_s3_reads_wait_no_longer_for_a_stuck_kernel_than_the_change_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fusefs.invalidation.INVALIDATION_TIMEOUT", 0.05)

    async def scene(mount: Unmounted) -> None:
        s3 = S3(mount)
        await mount.door.put("photos", b"f", b"old")
        await mount.inode("photos/f")
        kernel = mount.ops.invalidation.kernel = StuckKernel()
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mount.door.put, "photos", b"f", b"new")
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert await s3.get(b"f") == b"new"
            assert await s3.get(b"f") == b"new"
        assert not kernel.gate.is_set()
        kernel.gate.set()
        await mount.ops.invalidation.close()

    run_on_pool(scene, tmp_path)
