"""Changes of names are answered before their barrier: nobody at the mount can tell, nobody elsewhere sees them too
soon, and what fails all the same is told."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
import trio
import trio.testing

from appliance.catalogue.commands import Command
from appliance.errors import Code, StoreError
from fusefs import pending
from tests.effort import examples
from tests.fusefs.scenes import refused, run, run_on_pool, settled
from tests.fusefs.unmounted import Unmounted

DIRECTORIES = ("photos", "photos/p", "photos/q", "photos/p/r")
NAMES = ("a", "b", "c", "p", "q", "r")


async def closed(mount: Unmounted) -> trio.Event:
    """From here on no batch ends before the event is set."""
    await settled(mount)
    gate: trio.Event = trio.Event()
    mount.store.gate = gate
    return gate


def test_names_change_before_the_barrier_and_s3_waits_for_it() -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/old", b"old")
        gate = await closed(mount)
        await mount.mkdir("photos/d", 0o750)
        made = await mount.stat("photos/d")
        assert made.st_mode & 0o777 == 0o750
        assert (await mount.stat("photos")).st_mtime_ns == made.st_mtime_ns, "the parent is not touched"
        await mount.setattr("photos/d", st_mode=0o40700)
        assert (await mount.stat("photos/d")).st_mode & 0o777 == 0o700
        await mount.write_file("photos/d/new", b"new")
        await mount.rename("photos/d/new", "photos/old")
        assert await mount.read_file("photos/old") == b"new"
        await mount.symlink("old", "photos/d/link")
        assert (await mount.ops.readlink(await mount.inode("photos/d/link"), mount.ctx)) == b"old"
        assert await mount.listdir("photos/d") == [b"link"]
        async with refused(errno.ENOTEMPTY):
            await mount.rmdir("photos/d")
        await mount.unlink("photos/d/link")
        async with refused(errno.ENOENT):
            await mount.stat("photos/d/link")
        await mount.rmdir("photos/d")
        assert await mount.listdir("photos") == [b"old"]
        with trio.move_on_after(0.01) as waiting:
            await mount.door.get("photos", b"old")
        assert waiting.cancelled_caught, "shown before it was durable (H2)"
        gate.set()
        await settled(mount)
        assert await mount.listdir("photos") == [b"old"]
        assert await mount.door.get("photos", b"old") == b"new"
        assert await mount.read_file("photos/old") == b"new"

    run(scene)


def test_a_handle_keeps_what_is_replaced_or_removed_before_the_barrier() -> None:
    async def scene(mount: Unmounted) -> None:
        for name in ("a", "b", "c"):
            await mount.write_file(f"photos/{name}", name.encode())
        gate = await closed(mount)
        handles = [await mount.open(f"photos/{name}", os.O_RDWR) for name in ("a", "b")]
        await mount.unlink("photos/a")
        await mount.rename("photos/c", "photos/b")
        for handle, data in zip(handles, (b"a", b"b"), strict=True):
            assert await mount.read_all(handle) == data
            await mount.ops.write(handle, 1, b"!")
            assert await mount.read_all(handle) == data + b"!"
        assert await mount.read_file("photos/b") == b"c"
        gate.set()
        await settled(mount)
        for handle, data in zip(handles, (b"a!", b"b!"), strict=True):
            assert await mount.read_all(handle) == data
            await mount.close(handle)
        assert await mount.listdir("photos") == [b"b"]
        assert await mount.read_file("photos/b") == b"c"

    run(scene)


def test_what_was_answered_and_fails_is_told_and_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/f", b"data")
        gate = await closed(mount)
        await mount.unlink("photos/f")
        assert not await mount.exists("photos/f")
        mount.store.fail_next = StoreError(Code.IO_ERROR)
        gate.set()
        directory = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
        async with refused(errno.EIO):
            await mount.ops.fsyncdir(directory, False)
        await mount.ops.fsyncdir(directory, False)  # once
        assert await mount.read_file("photos/f") == b"data"
        await trio.to_thread.run_sync(mount.kernel.wait_for, (await mount.inode("photos"), b"f"))

    run(scene)
    assert "a change of names that was answered failed" in caplog.text


def test_what_a_failed_device_undid_is_done_again() -> None:
    async def scene(mount: Unmounted) -> None:
        gate = await closed(mount)
        await mount.mkdir("photos/d")
        await mount.mkdir("photos/d/e")
        mount.store.fail_next = StoreError(Code.UNAVAILABLE)
        gate.set()
        with trio.fail_after(60):
            while mount.ops.pending.waiting:
                await settled(mount)
        assert await mount.listdir("photos") == [b"d"]
        assert await mount.listdir("photos/d") == [b"e"]
        assert not mount.kernel.names

    run(scene)


def test_fsync_of_a_directory_waits_for_what_is_done_again() -> None:
    async def scene(mount: Unmounted) -> None:
        directory = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
        gate = await closed(mount)
        await mount.mkdir("photos/d")
        mount.store.fail_next = StoreError(Code.UNAVAILABLE)
        gate.set()
        await mount.ops.fsyncdir(directory, False)
        assert mount.store.entry(await mount.inode("photos"), b"d", True), "not durable"
        gate = await closed(mount)
        await mount.write_file("photos/f", b"data")
        mount.store.fail_next = StoreError(Code.UNAVAILABLE)
        gate.set()
        await mount.ops.fsyncdir(directory, False)
        assert mount.store.entry(await mount.inode("photos"), b"f", False), "closed before, not durable"
        await mount.ops.releasedir(directory)

    run(scene)


def test_fsync_of_a_renamed_file_waits_for_its_name() -> None:
    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/old", b"old")
        await mount.write_file("photos/other", b"other")
        gate = await closed(mount)
        fh, other = await mount.open("photos/old", os.O_RDWR), await mount.open("photos/other", os.O_RDWR)
        await mount.rename("photos/old", "photos/new")
        await mount.ops.fsync(other, False)
        with trio.move_on_after(0.01) as waiting:
            await mount.ops.fsync(fh, False)
        assert waiting.cancelled_caught, "synced under a name that a crash can undo"
        gate.set()
        await mount.ops.fsync(fh, False)
        assert mount.store.entry(await mount.inode("photos"), b"new", False) is not None, "in the catalogue itself"

    run(scene)


def test_what_was_synced_is_removed_and_renamed_for_good() -> None:
    """SQLite commits by removing its journal (https://sqlite.org/lockingv3.html, "rollback")."""

    async def scene(mount: Unmounted) -> None:
        for name in ("journal", "next"):
            await mount.write_file(f"photos/{name}", b"pages")
            fh = await mount.open(f"photos/{name}", os.O_RDWR)
            await mount.ops.fsync(fh, False)
            await mount.close(fh)
        gate = await closed(mount)
        for change in (mount.unlink("photos/journal"), mount.rename("photos/next", "photos/now")):
            with trio.move_on_after(0.01) as waiting:
                await change
            assert waiting.cancelled_caught, "a crash could undo what the program was told"
        gate.set()
        await settled(mount)
        assert await mount.listdir("photos") == [b"now"]

    run(scene)


def test_many_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending, "CHANGES_MAX", 3)

    async def scene(mount: Unmounted) -> None:
        gate = await closed(mount)
        for number in range(3):
            await mount.mkdir(f"photos/{number}")
        with trio.move_on_after(0.01) as waiting:
            await mount.mkdir("photos/3")
        assert waiting.cancelled_caught
        gate.set()

    run(scene)


class Model:
    """Paths to None (a directory) or bytes."""

    def __init__(self) -> None:
        self.paths: dict[str, bytes | None] = {"photos": None}

    def below(self, directory: str) -> list[str]:
        return [path for path in self.paths if path.rpartition("/")[0] == directory]

    def change(self, verb: str, path: str, other: str) -> int:
        """An errno; 0: done."""
        there = path in self.paths
        if verb == "mkdir":
            if not there:
                self.paths[path] = None
            return errno.EEXIST if there else 0
        if not there:
            return errno.ENOENT
        is_directory = self.paths[path] is None
        if verb == "unlink" and is_directory:
            return errno.EISDIR
        if verb == "rmdir" and not is_directory:
            return errno.ENOTDIR
        if verb == "rmdir" and self.below(path):
            return errno.ENOTEMPTY
        if verb != "rename":
            del self.paths[path]
            return 0
        if other in self.paths:
            onto = self.paths[other] is None
            if onto != is_directory:
                return errno.EISDIR if onto else errno.ENOTDIR
            if onto and self.below(other):
                return errno.ENOTEMPTY
        moved = {old: data for old, data in self.paths.items() if old == path or old.startswith(path + "/")}
        for old in moved:
            del self.paths[old]
        self.paths |= {other + old.removeprefix(path): data for old, data in moved.items()}
        return 0


async def told(mount: Unmounted, path: str) -> tuple[int, ...]:
    """What must not change when a batch is over."""
    told = await mount.stat(path)
    return told.st_ino, told.st_mode, told.st_nlink, told.st_uid, told.st_gid, told.st_size


async def step(mount: Unmounted, model: Model, chance: random.Random) -> None:
    directories = [path for path in DIRECTORIES if model.paths.get(path, b"") is None]
    path, other = (f"{chance.choice(directories)}/{chance.choice(NAMES)}" for _ in range(2))
    verb = chance.choice(("write", "write", "mkdir", "unlink", "rmdir", "rename", "rename", "settle"))
    if verb == "settle":
        await settled(mount)
        return
    if verb == "write":
        if model.paths.get(path, b"") is not None:
            model.paths[path] = data = chance.randbytes(chance.choice((0, 10, 5000)))
            await mount.write_file(path, data)
        return
    if verb == "rename" and (other + "/").startswith(path + "/"):
        return  # the kernel answers that
    number = model.change(verb, path, other)
    try:
        await (mount.rename(path, other) if verb == "rename" else getattr(mount, verb)(path))
    except pyfuse3.FUSEError as error:
        answer = error.errno
    else:
        answer = 0
    assert answer == number, f"{verb} {path} {other}: {errno.errorcode.get(answer)}, not {errno.errorcode.get(number)}"


@pytest.mark.slow
def test_no_program_can_tell(tmp_path: Path) -> None:
    for seed in range(examples(40)):
        chance, model = random.Random(seed), Model()

        async def scene(mount: Unmounted, chance: random.Random = chance, model: Model = model) -> None:
            for _ in range(60):
                await step(mount, model, chance)
                for directory in [path for path, data in model.paths.items() if data is None]:
                    listed = await mount.listdir(directory, per_call=chance.choice((1, 2, 100)))
                    assert sorted(listed) == sorted(path.rpartition("/")[2].encode() for path in model.below(directory))
            shown = {path: await told(mount, path) for path in model.paths}
            await settled(mount)
            assert {path: await told(mount, path) for path in model.paths} == shown
            for path, data in model.paths.items():
                if data is not None:
                    assert await mount.read_file(path) == data, path

        directory = tmp_path / str(seed)
        directory.mkdir()
        run_on_pool(scene, directory)


async def unlink_it(mount: Unmounted) -> None:
    await mount.unlink("photos/k")


async def rename_onto_it(mount: Unmounted) -> None:
    await mount.rename("photos/other", "photos/k")


async def rename_it(mount: Unmounted) -> None:
    await mount.rename("photos/k", "photos/moved")


async def make_it(mount: Unmounted) -> None:
    await mount.write_file("photos/n", b"the mount's")


@pytest.mark.parametrize(
    ("change", "key"), [(unlink_it, b"k"), (rename_onto_it, b"k"), (rename_it, b"k"), (make_it, b"n")]
)
def test_what_is_tried_again_takes_nothing_that_s3_put_there_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Unmounted], Awaitable[None]], key: bytes
) -> None:
    """The batch of the change fails with a device; the next one has an S3 client's object under its name."""

    async def scene(mount: Unmounted) -> None:
        await mount.write_file("photos/k", b"old")
        await mount.write_file("photos/other", b"other")
        await settled(mount)
        engine, puts = mount.store.engine, list[Command]()
        barrier, submit = engine.committer._barrier, engine.submit

        def keeps(command: Command, **rest: bool) -> None:
            puts.append(command)
            raise StoreError(Code.IO_ERROR)

        def fails(*arguments: Any) -> None:
            monkeypatch.setattr(engine.committer, "_barrier", barrier)
            submit(puts[0], announce=True)  # arrives during the barrier
            raise StoreError(Code.UNAVAILABLE)

        monkeypatch.setattr(engine, "submit", keeps)
        with pytest.raises(StoreError):
            await mount.door.put("photos", key, b"an S3 client's")
        monkeypatch.setattr(engine, "submit", submit)
        monkeypatch.setattr(engine.committer, "_barrier", fails)
        await change(mount)
        await settled(mount)
        await mount.ops.files.commit_all()
        await settled(mount)
        assert engine.committer._barrier == barrier
        assert await mount.door.get("photos", key) == b"an S3 client's", "an acknowledged object is gone"
        if change is rename_it:
            assert await mount.read_file("photos/moved") == b"old", "S3 replaced what had been moved away"

    run_on_pool(scene, tmp_path)


class ByHand:
    """The writer of an engine without threads, which does what it is told when it is told.  With threads the loop runs
    on between a COMMIT and its being told of it; here that instant lasts as long as the test wants."""

    def __init__(self, mount: Unmounted) -> None:
        self.engine = mount.store.engine
        self.engine._inline_running = True

    def commit(self) -> Callable[[], Awaitable[None]]:
        """Whatever is submitted becomes one batch; what is returned tells the loop of it."""
        batch, self.engine._inline[:] = self.engine._inline[:], []
        done = self.engine.committer.run(batch)

        async def tell() -> None:
            self.engine._deliver(done)
            await trio.testing.wait_all_tasks_blocked()

        return tell

    def go_on(self) -> None:
        """As it was."""
        self.engine._inline_running = False


def test_fsync_of_a_directory_waits_for_the_names_that_were_answered(tmp_path: Path) -> None:
    async def scene(mount: Unmounted) -> None:
        directory = await mount.ops.opendir(await mount.inode("photos"), mount.ctx)
        writer = ByHand(mount)
        await mount.mkdir("photos/d")
        answered = trio.Event()

        async def sync() -> None:
            await mount.ops.fsyncdir(directory, False)
            answered.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sync)
            await trio.testing.wait_all_tasks_blocked()
            early = answered.is_set()
            await writer.commit()()
        writer.go_on()
        await mount.ops.releasedir(directory)
        assert not early, "a crash could undo what the program was told"

    run_on_pool(scene, tmp_path)


def test_a_new_name_that_s3_replaces_is_there_in_the_instant_of_the_commit(tmp_path: Path) -> None:
    """The file's making is over, its rename and the PUT of its new name share the next batch: that is in the catalogue
    before the mount hears of it, and the row of the rename leads to a node that is gone."""

    async def scene(mount: Unmounted) -> None:
        writer = ByHand(mount)
        await mount.write_file("photos/temporary", b"the mount's")
        tell_of_the_making = writer.commit()
        await mount.rename("photos/temporary", "photos/k")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(mount.door.put, "photos", b"k", b"an S3 client's")
            await trio.testing.wait_all_tasks_blocked()
            await tell_of_the_making()
            tell = writer.commit()
            listed, there = await mount.listdir("photos"), await mount.exists("photos/k")
            await tell()
        writer.go_on()
        assert (listed, there) == ([b"k"], True)
        assert await mount.read_file("photos/k") == b"an S3 client's"

    run_on_pool(scene, tmp_path)
