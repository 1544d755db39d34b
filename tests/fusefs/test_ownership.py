"""Whose things are that came through S3: what the mount says, until somebody says otherwise."""

from __future__ import annotations

import stat
from pathlib import Path

import trio

from appliance.model import Attributes
from fusefs.operations import Operations
from fusefs.ownership import Ownership
from tests.fusefs.unmounted import Unmounted, unmounted_pool


async def shown(mount: Unmounted, path: str) -> tuple[int, int, int]:
    found = await mount.stat(path)
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


async def put(mount: Unmounted, key: bytes, **user: str) -> None:
    bucket = mount.store.bucket("photos")
    await mount.store.put_object(bucket, key, mount.store.small_body(b"s3"), "e", Attributes(user=user))


def again(mount: Unmounted, ownership: Ownership) -> Unmounted:
    """Another mount of the same store."""
    other = Unmounted(mount.store, mount.door)
    other.ops = Operations(mount.store, other.kernel, ownership=ownership)
    return other


def test_what_nobody_said_the_mount_says(tmp_path: Path) -> None:
    async def main() -> None:
        async with unmounted_pool(tmp_path) as plain:
            mount = again(plain, Ownership(1000, 100, 0o027))
            await put(mount, b"d/plain")
            await put(mount, b"d/rclone", mtime="1700000000.5")
            await put(mount, b"d/said", mode="600", uid="7", gid="8")
            await put(mount, b"d/root", uid="0")
            for path, expected in (
                ("photos", (0o750, 1000, 100)),
                ("photos/d", (0o750, 1000, 100)),
                ("photos/d/plain", (0o640, 1000, 100)),
                ("photos/d/rclone", (0o640, 1000, 100)),
                ("photos/d/said", (0o600, 7, 8)),
                ("photos/d/root", (0o644, 0, 0)),
            ):
                assert await shown(mount, path) == expected, path
            assert await shown(plain, "photos/d/plain") == (0o644, 0, 0)

    trio.run(main)


def test_what_somebody_says_is_so_in_every_mount(tmp_path: Path) -> None:
    async def main() -> None:
        async with unmounted_pool(tmp_path) as plain:
            mount = again(plain, Ownership(1000, 100, 0o077))
            for name in (b"a", b"b", b"c", b"d/f"):
                await put(mount, name)
            await mount.setattr("photos/a", st_mode=stat.S_IFREG | 0o644)  # as it lies in the catalogue
            await mount.setattr("photos/d", st_gid=50)
            handle = await mount.open("photos/b", 2)
            await mount.ops.write(handle, 0, b"changed")
            await mount.close(handle)
            await mount.ops.files.commit_all()
            for each in (mount, again(plain, Ownership())):
                assert await shown(each, "photos/a") == (0o644, 1000, 100)
                assert await shown(each, "photos/b") == (0o600, 1000, 100)
                assert await shown(each, "photos/d") == (0o700, 1000, 50)
            assert await shown(again(plain, Ownership(5)), "photos/c") == (0o644, 5, 0)

    trio.run(main)


def test_a_copy_and_an_older_version_keep_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with unmounted_pool(tmp_path) as plain:
            mount = again(plain, Ownership(1000, 100, 0o002))
            bucket = mount.store.bucket("photos")
            await put(mount, b"a")
            await mount.store.copy_object(await mount.store.look_up(bucket, b"a"), bucket, b"b", None)
            assert await shown(mount, "photos/b") == (0o664, 1000, 100)
            await mount.store.set_bucket_setting(bucket, "versioning", b"Enabled")
            await put(mount, b"a")
            assert await shown(mount, "photos/.tierce~versions/a@null") == (0o444, 1000, 100)

    trio.run(main)
