"""Versions and open files: what one handle is while the other door makes and removes versions."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from appliance.quota import Quota
from tests.fusefs.test_versions import History, run


def test_an_older_version_that_becomes_current_while_it_is_read_can_be_written(tmp_path: Path) -> None:
    """What the past shows as read-only is not so any more."""

    async def main(scene: History) -> None:
        mount, store = scene.mount, scene.store
        for content in (b"one", b"two"):
            await mount.door.put("bucket", b"f", content)
        bucket = store.bucket("bucket")
        newest, older = (one.version_id for one in (await store.list_versions(bucket, b"f")).versions)
        past = f"bucket/.tierce~versions/f@{older}"
        inode = await mount.inode(past)
        reader = await mount.open(past)
        await store.delete_object(bucket, b"f", version_id=newest)
        assert (await mount.stat("bucket/f")).st_mode & 0o777 == 0o644
        assert await mount.inode("bucket/f") == inode, "this is about one inode in two places"
        await mount.write_file("bucket/f", b"three")
        await mount.close(reader)
        await scene.store.settle()
        assert (await mount.stat("bucket/f")).st_mode & 0o777 == 0o644
        assert await mount.door.get("bucket", b"f") == b"three"
        assert await scene.contents(b"f") == [b"three", b"one"]

    run(tmp_path, main)


def test_that_something_is_not_in_the_past_is_never_remembered(tmp_path: Path) -> None:
    """S3 makes versions without a word to the kernel: it must ask again (H5)."""

    async def main(scene: History) -> None:
        mount = scene.mount
        await mount.mkdir("plain")
        await mount.door.put("bucket", b"f", b"one")
        await mount.door.put("bucket", b"f", b"two")
        plain, past = await mount.inode("plain"), await mount.inode("bucket/.tierce~versions")
        for parent, name in ((plain, b".tierce~versions"), (past, b"f@0000000000000001"), (past, b"d")):
            await scene.refused(mount.ops.lookup(parent, name, mount.ctx), errno.ENOENT)

    run(tmp_path, main)


def test_an_open_that_a_quota_refuses_leaves_nothing_open(tmp_path: Path) -> None:
    """O_TRUNC begins a version, for which there is no room."""

    async def main(scene: History) -> None:
        mount, store = scene.mount, scene.store
        await mount.door.put("bucket", b"f", b"one")
        await store.set_quota(store.bucket("bucket"), Quota(objects=1))
        await scene.refused(mount.open("bucket/f", os.O_WRONLY | os.O_TRUNC), errno.EDQUOT)
        assert not mount.ops.files.files
        assert not mount.ops.handles
        assert await mount.read_file("bucket/f") == b"one"

    run(tmp_path, main)


def test_a_version_for_each_truncation_though_a_reader_has_it_open(tmp_path: Path) -> None:
    async def main(scene: History) -> None:
        mount = scene.mount
        await mount.write_file("bucket/f", b"whole")
        reader = await mount.open("bucket/f")
        for size in (4, 3):
            await mount.truncate("bucket/f", size)
        assert await scene.contents(b"f") == [b"who", b"whol", b"whole"]
        await mount.close(reader)

    run(tmp_path, main)
