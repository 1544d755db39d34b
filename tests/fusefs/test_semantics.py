"""SEMANTICS.md, run: every `console` block is one test."""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
import trio

import fusefs
from appliance import lock, settings
from appliance.errors import StoreError
from appliance.lock import Default
from appliance.model import Bucket, ListedVersion
from tests.fusefs.unmounted import Unmounted, unmounted, unmounted_pool

DOCUMENT = Path(fusefs.__file__).parent / "SEMANTICS.md"


def blocks() -> list[tuple[str, str]]:
    """(the heading above, the block)."""
    found = []
    heading = ""
    for match in re.finditer(r"^## ([^\n]*)$|^```console\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL):
        if match[1]:
            heading = match[1]
        else:
            found.append((heading, match[2]))
    return found


class Console:
    """What the document's commands do."""

    def __init__(self, mount: Unmounted) -> None:
        self.mount = mount
        self.fh: Any = None
        self.at = 0

    async def run(self, line: str) -> list[str]:
        """The lines that a command answers."""
        door, *words = line.encode().decode("unicode_escape").encode("latin-1").split(b" ")
        try:
            answer = await (self.s3(*words) if door == b"s3>" else self.shell(*words))
        except pyfuse3.FUSEError as error:
            return [f"error {errno.errorcode[error.errno]}"]
        except StoreError as error:
            return [f"error {error.code.name}"]
        if answer is None or answer == b"":
            return []
        return [
            os.fsdecode(part).encode("ascii", "backslashreplace").decode().replace("\\udc", "\\x")
            for part in answer.splitlines()
        ]

    async def s3(self, verb: bytes, bucket: bytes, key: bytes = b"", *data: bytes) -> bytes | None:
        if verb == b"put":
            await self.mount.door.put(bucket.decode(), key, b" ".join(data))
            return None
        if verb == b"get":
            return await self.mount.door.get(bucket.decode(), key)
        store = self.mount.store
        if verb == b"enable":
            await store.set_bucket_setting(store.bucket(bucket.decode()), settings.VERSIONING, settings.ENABLED)
            return None
        where = store.bucket(bucket.decode())
        if verb == b"lock":
            await store.set_bucket_setting(where, settings.VERSIONING, settings.ENABLED)
            await store.set_bucket_setting(where, settings.LOCK, lock.pack_default(Default()))
            return None
        if verb == b"retain":
            await store.set_retention(where, key, lock.COMPLIANCE, time.time_ns() + lock.DAY_NS)
            return None
        assert verb == b"versions"
        page = await store.list_versions(where, key)
        return b"\n".join([b"marker" if one.marker else await self.version(where, one) for one in page.versions])

    async def version(self, bucket: Bucket, one: ListedVersion) -> bytes:
        node = await self.mount.store.look_up_version(bucket, one.key, one.version_id)
        with self.mount.store.reader(node) as reader:
            data: bytes = await reader.read()
        return data

    async def shell(self, command: bytes, *words: bytes) -> bytes | None:
        if command == b"echo":
            text, arrow, path = words
            assert arrow == b">"
            await self.mount.write_file(path, text)
            return None
        verb: Callable[..., Awaitable[bytes | None]] = getattr(self, "do_" + command.decode())
        return await verb(*words)

    async def do_mkdir(self, path: bytes) -> None:
        await self.mount.mkdir(path)

    async def do_rmdir(self, path: bytes) -> None:
        await self.mount.rmdir(path)

    async def do_rm(self, path: bytes) -> None:
        await self.mount.unlink(path)

    async def do_mv(self, old: bytes, new: bytes) -> None:
        await self.mount.rename(old, new)

    async def do_ls(self, path: bytes) -> bytes:
        return b"\n".join(await self.mount.listdir(path))

    async def do_cat(self, path: bytes) -> bytes:
        return await self.mount.read_file(path)

    async def do_open(self, path: bytes) -> None:
        exists = await self.mount.exists(path)
        self.fh = await (self.mount.open(path, os.O_RDWR) if exists else self.mount.create(path))
        self.at = 0

    async def do_write(self, data: bytes) -> None:
        self.at += await self.mount.ops.write(self.fh, self.at, data)

    async def do_read(self) -> bytes:
        return await self.mount.read_all(self.fh)

    async def do_fsync(self) -> None:
        await self.mount.ops.fsync(self.fh, False)

    async def do_close(self) -> None:
        await self.mount.close(self.fh)

    async def do_setfattr(self, name: bytes, value: bytes, path: bytes) -> None:
        inode: Any = await self.mount.inode(path)
        await self.mount.ops.setxattr(inode, pyfuse3.XAttrNameT(name), value, self.mount.ctx)

    async def do_getfattr(self, name: bytes, path: bytes) -> bytes:
        inode: Any = await self.mount.inode(path)
        return await self.mount.ops.getxattr(inode, pyfuse3.XAttrNameT(name), self.mount.ctx)

    async def do_mkfifo(self, path: bytes) -> None:
        parent, name = await self.mount.split(path)
        await self.mount.ops.mknod(parent, name, pyfuse3.ModeT(stat.S_IFIFO | 0o644), 0, self.mount.ctx)

    async def do_truncate(self, size: bytes, path: bytes) -> None:
        if not await self.mount.exists(path):
            await self.mount.write_file(path, b"")
        await self.mount.truncate(path, int(size))

    async def do_du(self, path: bytes) -> bytes:
        return b"%d" % (await self.mount.stat(path)).st_blocks


@pytest.mark.parametrize(
    ("kind", "heading", "block"),
    [
        (kind, heading, block)
        for heading, block in blocks()
        for kind in (["pool"] if heading == "Versions and locks" else ["dict", "pool"])  # the dicts have neither
    ],
)
def test_the_document(heading: str, block: str, kind: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with unmounted() if kind == "dict" else unmounted_pool(tmp_path) as mount:
            console = Console(mount)
            lines = block.splitlines()
            while lines:
                command = lines.pop(0)
                assert command.startswith(("$ ", "s3> ")), f"not a command: {command}"
                expected = []
                while lines and not lines[0].startswith(("$ ", "s3> ")):
                    expected.append(lines.pop(0))
                assert await console.run(command) == expected, command

    trio.run(main)


def test_the_document_has_examples_under_every_subject() -> None:
    assert {heading for heading, _ in blocks()} == {
        "Places",
        "When the other door sees it",
        "Names",
        "Renaming",
        "Versions and locks",
        "Attributes",
    }
