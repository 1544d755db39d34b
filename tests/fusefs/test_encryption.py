"""The mount and encryption: SSE-S3 unseen, a bucket's default obeyed, SSE-C closed."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pyfuse3
import pytest
import trio

from appliance import settings
from appliance.limits import GATHER_MAX, MIB
from appliance.model import NO_ATTRIBUTES, Attributes, Node
from tests.fusefs.unmounted import Unmounted, unmounted_pool
from tests.models.boxes import body_of, read_all

RAW = bytes(range(32))


def run(directory: Path, function: Callable[[Unmounted], Awaitable[None]]) -> None:
    async def main() -> None:
        async with unmounted_pool(directory) as mount:
            await function(mount)

    trio.run(main)


async def found(mount: Unmounted, key: bytes) -> Node:
    node: Node = await mount.store.look_up(mount.store.bucket("photos"), key)
    return node


def keys_of(mount: Unmounted, node: Node) -> set[int]:
    """The data keys of a file's chunks."""
    rows = mount.store.every(
        "SELECT chunk.key FROM chunk WHERE id=?1 OR id IN (SELECT ref FROM slice WHERE map=?1)", (node.ref,)
    )
    return {row[0] for row in rows}


def test_a_bucket_with_a_default_encrypts_what_is_written(tmp_path: Path) -> None:
    async def main(mount: Unmounted) -> None:
        await mount.write_file("photos/plain", b"p" * 5000)
        store = mount.store
        await store.set_bucket_setting(store.bucket("photos"), settings.ENCRYPTION, b"<any/>")
        key = await store.data_key()
        for size in (1, 5000, GATHER_MAX + 9, 9 * MIB):
            data = os.urandom(size)
            await mount.write_file("photos/f", data)
            assert await mount.read_file("photos/f") == data
            node = await found(mount, b"f")
            assert keys_of(mount, node) == {key.id}
            assert node.attributes.sse == "AES256"
            assert await read_all(store, node) == data
        await mount.write_file("photos/empty", b"")
        assert (await found(mount, b"plain")).attributes.sse == ""
        fh = await mount.open("photos/plain", os.O_RDWR)
        await mount.ops.write(fh, 2, b"new")
        assert await mount.read_all(fh) == b"ppnew" + b"p" * 4995
        await mount.close(fh)
        assert await read_all(store, await found(mount, b"plain")) == b"ppnew" + b"p" * 4995
        await mount.truncate("photos/f", 3 * MIB)
        assert await mount.read_file("photos/f") == data[: 3 * MIB]

    run(tmp_path, main)


def test_an_encrypted_file_stays_encrypted_anywhere(tmp_path: Path) -> None:
    """Also where its bucket has no default: appended to, overwritten in the middle, rewritten."""

    async def main(mount: Unmounted) -> None:
        store = mount.store
        bucket = store.bucket("photos")
        key = await store.data_key()
        body = await body_of(store, bucket, b"s" * 300_000, key)
        await store.put_object(bucket, b"f", body, "e", Attributes(sse="AES256"))
        fh = await mount.open("photos/f", os.O_RDWR)
        await mount.ops.write(fh, 300_000, b"end")
        await mount.ops.write(fh, 100, b"middle")
        await mount.close(fh)
        image = bytearray(b"s" * 300_000 + b"end")
        image[100:106] = b"middle"
        node = await found(mount, b"f")
        assert (keys_of(mount, node), node.attributes.sse) == ({key.id}, "AES256")
        assert await read_all(store, node) == image
        await mount.write_file("photos/f", b"rewritten")
        node = await found(mount, b"f")
        assert (keys_of(mount, node), node.attributes.sse) == ({key.id}, "AES256")
        assert await read_all(store, node) == b"rewritten"

    run(tmp_path, main)


def test_what_a_customers_key_sealed_is_only_a_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="fusefs.handles")

    async def main(mount: Unmounted) -> None:
        store = mount.store
        bucket = store.bucket("photos")
        body = await body_of(store, bucket, b"c" * 5000, await store.customer_key(RAW))
        await store.put_object(bucket, b"f", body, "e", Attributes(sse="SSE-C", sse_verifier=b"v"))
        assert (await mount.stat("photos/f")).st_size == 5000
        refused: list[Callable[[], Awaitable[object]]] = [
            lambda: mount.open("photos/f"),
            lambda: mount.open("photos/f", os.O_WRONLY | os.O_TRUNC),
            lambda: mount.create("photos/f"),
            lambda: mount.truncate("photos/f", 10),
        ]
        for attempt in refused:
            with pytest.raises(pyfuse3.FUSEError) as caught:
                await attempt()
            assert caught.value.errno == errno.EACCES
        assert "customer's key" in caplog.text
        assert not mount.ops.files.files, "nothing stays in memory"
        await mount.setattr("photos/f", st_mode=0o600)
        await mount.rename("photos/f", "photos/g")
        assert await read_all(store, await found(mount, b"g"), customer=await store.customer_key(RAW)) == b"c" * 5000
        await mount.unlink("photos/g")
        await store.put_object(bucket, b"plain", store.small_body(b"x"), "e", NO_ATTRIBUTES)
        await store.put_object(bucket, b"named", store.small_body(b"x"), "e", Attributes(user={"a": "SSE-C"}))
        assert await mount.read_file("photos/named") == b"x"

    run(tmp_path, main)
