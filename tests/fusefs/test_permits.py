"""H6 at the mount: every verb asks `authorize`, once for each bucket; what is not allowed is neither shown nor done."""

from __future__ import annotations

import errno
import inspect
import os
import stat
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pyfuse3
import pytest
import trio

from appliance import authority
from appliance.authority import MOUNT, Principal
from fusefs import permits
from fusefs.handles import DirectoryHandle, FileHandle
from fusefs.inodes import ROOT
from fusefs.operations import Operations
from fusefs.places import Places
from tests.fusefs.doors import DictDoor
from tests.fusefs.memory_store import MemoryStore
from tests.fusefs.unmounted import Unmounted

BOUNDED = msgspec.structs.replace(MOUNT, buckets=("photos",))
READ_ONLY = msgspec.structs.replace(MOUNT, read_only=True)
EXEMPT = {"forget", "release", "releasedir", "statfs", "run"}  # they reach no object

Verb = Callable[[Operations, Any, Any], Awaitable[object]]


def fields() -> pyfuse3.SetattrFields:
    return pyfuse3.SetattrFields()


# name -> the verb on a directory `d` and a file `f` in it (handles or inodes), whether it writes
VERBS: dict[str, tuple[Verb, bool]] = {
    "lookup": (lambda ops, d, f: ops.lookup(d, b"f", CTX), False),
    "readlink": (lambda ops, d, f: ops.readlink(f, CTX), False),
    "getattr": (lambda ops, d, f: ops.getattr(f, CTX), False),
    "access": (lambda ops, d, f: ops.access(f, os.R_OK, CTX), False),
    "getxattr": (lambda ops, d, f: ops.getxattr(f, b"user.x", CTX), False),
    "listxattr": (lambda ops, d, f: ops.listxattr(f, CTX), False),
    "open": (lambda ops, d, f: ops.open(f, os.O_RDONLY, CTX), False),
    "opendir": (lambda ops, d, f: ops.opendir(d, CTX), False),
    "mkdir": (lambda ops, d, f: ops.mkdir(d, b"new", 0o755, CTX), True),
    "symlink": (lambda ops, d, f: ops.symlink(d, b"new", b"target", CTX), True),
    "mknod": (lambda ops, d, f: ops.mknod(d, b"new", stat.S_IFREG | 0o644, 0, CTX), True),
    "link": (lambda ops, d, f: ops.link(f, d, b"new", CTX), True),
    "unlink": (lambda ops, d, f: ops.unlink(d, b"f", CTX), True),
    "rmdir": (lambda ops, d, f: ops.rmdir(d, b"f", CTX), True),
    "rename": (lambda ops, d, f: ops.rename(d, b"f", d, b"new", 0, CTX), True),
    "setattr": (lambda ops, d, f: ops.setattr(f, pyfuse3.EntryAttributes(), fields(), None, CTX), True),
    "setxattr": (lambda ops, d, f: ops.setxattr(f, b"user.x", b"1", CTX), True),
    "removexattr": (lambda ops, d, f: ops.removexattr(f, b"user.x", CTX), True),
    "create": (lambda ops, d, f: ops.create(d, b"new", 0o644, os.O_RDWR, CTX), True),
}
HANDLED: dict[str, tuple[Verb, bool]] = {
    "read": (lambda ops, d, f: ops.read(f, 0, 1), False),
    "write": (lambda ops, d, f: ops.write(f, 0, b"x"), True),
    "flush": (lambda ops, d, f: ops.flush(f), True),
    "lseek": (lambda ops, d, f: ops.lseek(f, 0, os.SEEK_DATA), False),
    "fallocate": (lambda ops, d, f: ops.fallocate(f, 0, 0, 1), True),
    "copy_file_range": (lambda ops, d, f: ops.copy_file_range(f, 0, f, 0, 1, 0), True),
    "fsync": (lambda ops, d, f: ops.fsync(f, False), True),
    "readdir": (lambda ops, d, f: ops.readdir(d, 0, None), False),  # type: ignore[arg-type]
    "readdirplus": (lambda ops, d, f: ops.readdirplus(d, 0, 4096), False),
    "fsyncdir": (lambda ops, d, f: ops.fsyncdir(d, False), False),
}


class Context:
    uid, gid, pid, umask = 1000, 100, 1, 0o22


CTX: Any = Context()


async def made() -> tuple[MemoryStore, Unmounted]:
    """Two buckets, a file in each."""
    store = MemoryStore()
    for label in ("photos", "secret"):
        await store.create_bucket(label, "me")
    mount = Unmounted(store, DictDoor(store))
    for name in (b"photos", b"secret"):
        info, _ = await mount.ops.create((await mount.entry(name)).st_ino, b"f", 0o644, os.O_RDWR, CTX)
        await mount.ops.write(info.fh, 0, b"bytes")
        await mount.ops.release(info.fh)
    await mount.ops.files.commit_all()
    return store, mount


def smuggled(store: MemoryStore, bounded: Unmounted) -> tuple[int, int, int, int]:
    """The secret bucket's inodes and handles, as if the kernel had them from before."""
    bucket = store.bucket("secret")
    entry = store.entry(bucket.root, b"f", False)
    assert entry is not None
    for inode in (bucket.root, entry.node.id):
        bounded.ops.inodes.looked_up(inode, bucket.id)
    file = bounded.ops.files.of_node(entry.node, bucket)
    file.opens += 1
    bounded.ops.handles[77] = FileHandle(file, True, direct=False)
    bounded.ops.handles[78] = DirectoryHandle(bucket.root, bucket.id, None, Places())
    return bucket.root, entry.node.id, 78, 77


async def error_of(verb: Verb, ops: Operations, d: int, f: int) -> int:
    """The errno; 0 when it was done."""
    try:
        await verb(ops, d, f)
    except pyfuse3.FUSEError as error:
        return error.errno
    return 0


def test_the_tables_know_every_verb() -> None:
    overridden = {
        name
        for name, member in vars(Operations).items()
        if not name.startswith("_") and inspect.iscoroutinefunction(member)
    }
    assert overridden == VERBS.keys() | HANDLED.keys() | EXEMPT


def test_a_bucket_outside_of_the_principals_is_not_there() -> None:
    async def main() -> None:
        store, _ = await made()
        bounded = Unmounted(store, DictDoor(store), principal=BOUNDED)
        shown = [name for name, _, _ in await bounded.list_once(await bounded.ops.opendir(ROOT, CTX), 0, 100)]
        assert shown == [b"photos"]
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await bounded.entry(b"secret")
        assert caught.value.errno == errno.ENOENT
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await bounded.ops.mkdir(ROOT, b"another", 0o755, CTX)
        assert caught.value.errno == errno.EACCES
        directory, file, opened, handle = smuggled(store, bounded)
        for name, (verb, _) in VERBS.items():
            assert await error_of(verb, bounded.ops, directory, file) == errno.EACCES, name
        for name, (verb, _) in HANDLED.items():
            assert await error_of(verb, bounded.ops, opened, handle) == errno.EACCES, name
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await bounded.ops.rmdir(ROOT, b"secret", CTX)
        assert caught.value.errno == errno.EACCES
        assert (await bounded.entry(b"photos/f")).st_size == 5

    trio.run(main)


def test_a_read_only_mount_shows_and_changes_nothing() -> None:
    async def main() -> None:
        store, _ = await made()
        shown = Unmounted(store, DictDoor(store), principal=READ_ONLY)
        directory = (await shown.entry(b"secret")).st_ino
        file = (await shown.entry(b"secret/f")).st_ino
        for name, (verb, writes) in VERBS.items():
            found = await error_of(verb, shown.ops, directory, file)
            assert (found == errno.EROFS) == writes, (name, found)
            assert found in (0, errno.EROFS, pyfuse3.ENOATTR), (name, found)
        for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDONLY | os.O_TRUNC):
            with pytest.raises(pyfuse3.FUSEError) as caught:
                await shown.ops.open(file, flags, CTX)
            assert caught.value.errno == errno.EROFS
        info = await shown.ops.open(file, os.O_RDONLY, CTX)
        assert await shown.ops.read(info.fh, 0, 10) == b"bytes"
        await shown.ops.flush(info.fh)
        await shown.ops.fsync(info.fh, False)
        for refused in (
            shown.ops.mkdir(ROOT, b"another", 0o755, CTX),
            shown.ops.rmdir(ROOT, b"secret", CTX),
        ):
            with pytest.raises(pyfuse3.FUSEError) as caught:
                await refused
            assert caught.value.errno == errno.EROFS
        assert [bucket.name for bucket in store.buckets()] == ["photos", "secret"]

    trio.run(main)


def test_a_decision_is_made_once_for_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Principal | None, str]] = []
    real = authority.authorize

    def counted(principal: Principal | None, action: Any, bucket: Any) -> None:
        asked.append((principal, action.value))
        real(principal, action, bucket)

    monkeypatch.setattr(permits, "authorize", counted)

    async def main() -> None:
        _, mount = await made()
        for _ in range(20):
            await mount.ops.getattr((await mount.entry(b"photos/f")).st_ino, CTX)
        assert len(asked) == len(set(asked)) * 2, "each action once for each of two buckets"
        assert {principal for principal, _ in asked} == {MOUNT}

    trio.run(main)
