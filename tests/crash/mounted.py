"""The mount's promises when the power goes: the write-back over simulated disks, without a kernel (R2).

Programs create, write, truncate, sync, close, rename and remove files through the mount's own handlers while commits by
age, folding and the other door go on, until the power goes at a random write or flush.  The next boot may show of each
file

    any state that it had since the last one that is *sure*, and nothing else (H8): a prefix of what was done to it,
    whole

Sure is what fsync returned for, of a file or a directory; what the other door has shown (H2); and what was closed,
renamed or removed before another file's commit that is sure was submitted, for commits are durable in their order.  A
rename happened for both of its names or for neither.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import pytest
import trio

from appliance.errors import Code, StoreError
from appliance.ondisk.superblock import Tier
from appliance.opening import open_store
from appliance.store import ObjectStore
from appliance.upkeep.fold import Folder
from fusefs import operations, syncing
from fusefs.handles import FileHandle
from tests.crash import exhaustive, observed
from tests.crash.model import Model
from tests.crash.observed import Broken
from tests.crash.simulation import Counts, main, seed_scheduler
from tests.crash.witness import Host, Witness, simulated
from tests.doubles.disks import Crash, CrashMode, Power, SimulatedDisk
from tests.fusefs.doors import StoreDoor
from tests.fusefs.unmounted import Unmounted
from tests.models.boxes import VAULT, read_all

LIVES: Final = 5
NAMES: Final = 6  # of each program
PROGRAMS: Final = 2
SIZES: Final = (1, 100, 700, 3000, 3000, 9000, 9000, 40_000, 140_000)
LENGTH_MAX: Final = 200_000  # of a file: the disks are small
MODES: Final[tuple[CrashMode | None, ...]] = (None, None, "all", "none", "writes")

LAYOUTS: Final[tuple[tuple[tuple[Tier, ...], int], ...]] = (
    (("blaze",), 1),
    (("blaze", "bulk"), 2),
    (("blaze", "blaze"), 2),
)

State = bytes | None
"""A file's bytes, or that there is none."""


class Unmodelled(Model):
    """The engine's own model is not asked here: the oracle is the programs' own."""

    def copy(self) -> Unmodelled:
        return self

    def apply_all(self, tickets: Any) -> Unmodelled:
        return self


class Name:
    """What a name was, from the last known state on."""

    def __init__(self, state: State) -> None:
        self.states: list[State] = [state]
        self.sure = 0  # older states must not come back
        self.closed = 0  # the newest state that was closed

    @property
    def now(self) -> State:
        return self.states[-1]

    def becomes(self, state: State) -> int:
        """From here on it may be found; its number."""
        self.states.append(state)
        return len(self.states) - 1


class World:
    """Every name and what may be found of it."""

    def __init__(self) -> None:
        self.names: dict[str, Name] = {}
        self.ties: list[tuple[str, int, str, int]] = []
        self.alive: Callable[[], bool] = lambda: True  # what returns once the power is gone returns to nobody

    def closed(self) -> dict[str, int]:
        """What whoever returns successfully later makes sure."""
        return {name: item.closed for name, item in self.names.items()}

    def make_sure(self, states: dict[str, int]) -> None:
        for name, number in states.items() if self.alive() else ():
            self.names[name].sure = max(self.names[name].sure, number)

    def explain(self, found: dict[str, State]) -> None:
        """Raises Broken unless all of it can be as it is."""
        candidates: dict[str, list[int]] = {}
        for name, item in self.names.items():
            candidates[name] = [n for n in range(item.sure, len(item.states)) if item.states[n] == found.get(name)]
            if not candidates[name]:
                older = [n for n in range(item.sure) if item.states[n] == found.get(name)]
                raise Broken(
                    f"{name} is {_told(found.get(name))}: none of states {item.sure} to {len(item.states) - 1}"
                    f" ({', '.join(_told(state) for state in item.states[item.sure :])}); as old as state {older}"
                )
        concerned = sorted({name for tie in self.ties for name in (tie[0], tie[2])})
        for choice in itertools.islice(itertools.product(*(candidates[name] for name in concerned)), 100_000):
            at = dict(zip(concerned, choice, strict=True))
            if all((at[a] >= n) == (at[b] >= m) for a, n, b, m in self.ties):
                return
        raise Broken(f"a rename is half done: {self.ties}, {candidates}")


def _told(state: State) -> str:
    return "absent" if state is None else f"{len(state)} bytes {state[:4].hex()}"


class Program:
    """One task with names of its own."""

    def __init__(self, mount: Unmounted, world: World, seed: random.Random, prefix: str, counts: Counts) -> None:
        self.mount = mount
        self.world = world
        self.random = seed
        self.counts = counts
        self.names = [f"{prefix}{number}" for number in range(NAMES)]
        self.open: dict[str, Any] = {}
        for name in self.names:
            world.names.setdefault(name, Name(None))

    async def run(self, steps: int) -> None:
        verbs = (
            [self.write] * 8 + [self.truncate] * 2 + [self.fsync] * 4 + [self.close] * 3 + [self.rename] * 2
            + [self.unlink, self.age, self.fold, self.other_door, self.fsync_directory, self.pages]
        )  # fmt: skip
        for _ in range(steps):
            verb = self.random.choice(verbs)
            await verb(self.random.choice(self.names))
            self.counts[verb.__name__] += 1
            if self.random.random() < 0.3:
                await trio.lowlevel.checkpoint()

    async def _handle(self, name: str) -> Any:
        if name not in self.open:
            path = f"box/{name}"
            if self.world.names[name].now is None:
                self.world.names[name].becomes(b"")
                self.open[name] = await self.mount.create(path)
            else:
                self.open[name] = await self.mount.open(path, os.O_RDWR)
        return self.open[name]

    async def write(self, name: str) -> None:
        for _ in range(self.random.choice((1, 1, 1, 4))):
            await self._write(name, self.random.choice(SIZES))

    async def _write(self, name: str, size: int) -> None:
        fh = await self._handle(name)
        item = self.world.names[name]
        assert item.now is not None
        data = self.random.randbytes(size)
        at = self.random.choice((0, len(item.now), self.random.randrange(len(item.now) + 2000)))
        at = min(at, LENGTH_MAX - len(data))
        image = bytearray(item.now) + bytes(max(0, at - len(item.now)))
        image[at : at + len(data)] = data
        item.becomes(bytes(image))
        await self.mount.ops.write(fh, at, data)

    async def pages(self, name: str) -> None:
        """As a database does: nearly each write is synced."""
        await self._write(name, 3000)
        await self.fsync(name)
        for _ in range(self.random.choice((6, 12))):
            await self._write(name, self.random.choice((100, 700, 3000)))
            if self.random.random() < 0.2:
                await trio.lowlevel.checkpoint()
            if self.random.random() < 0.05:
                await self.random.choice([self.truncate, self.rename, self.age, self.close, self.other_door])(name)
                if name not in self.open:
                    return
            await self.fsync(name)

    async def truncate(self, name: str) -> None:
        if (now := self.world.names[name].now) is None:
            return
        size = self.random.choice((0, len(now) // 2, len(now) + 3000))
        number = self.world.names[name].becomes(now[:size] + bytes(size - len(now[:size])))
        await self.mount.truncate(f"box/{name}", size)
        if name not in self.open:  # as a close
            self.world.names[name].closed = number

    async def fsync(self, name: str) -> None:
        fh = await self._handle(name)
        if self.random.random() < 0.3:
            await self.write(name)
        file = cast(FileHandle, self.mount.ops.handles[fh]).file
        self.counts["submitted early"] += file.early is not None
        sure = self.world.closed() if file.dirty else {}  # its commit comes after whatever was closed before
        sure[name] = len(self.world.names[name].states) - 1
        ended = trio.Event()
        replies: list[None] = []

        def reply() -> None:
            self.world.make_sure(sure)  # this very moment: the program has its answer before the loop hears of it
            replies.append(None)

        if self.mount.ops.sync_directly(fh, reply, ended.set):
            self.counts["synced directly"] += 1
            while not replies and not ended.is_set():
                await trio.lowlevel.checkpoint()
        if not replies:
            await self.mount.ops.fsync(fh, self.random.random() < 0.5)
            self.world.make_sure(sure)

    async def fsync_directory(self, _: str) -> None:
        sure = self.world.closed()
        fh = await self.mount.ops.opendir(cast(Any, await self.mount.inode("box")), self.mount.ctx)
        await self.mount.ops.fsyncdir(fh, False)
        await self.mount.ops.releasedir(fh)
        self.world.make_sure(sure)

    async def close(self, name: str) -> None:
        if name in self.open:
            number = len(self.world.names[name].states) - 1
            await self.mount.close(self.open.pop(name))
            self.world.names[name].closed = number

    async def rename(self, name: str) -> None:
        target = self.random.choice(self.names)
        old, new = self.world.names[name], self.world.names[target]
        if target == name or old.now is None:
            return
        await self.close(target)
        tie = (name, old.becomes(None), target, new.becomes(old.states[-2]))
        self.world.ties.append(tie)
        await self.mount.rename(f"box/{name}", f"box/{target}")
        if name in self.open:
            self.open[target] = self.open.pop(name)
        old.closed, new.closed = tie[1], tie[3]

    async def unlink(self, name: str) -> None:
        item = self.world.names[name]
        if item.now is None:
            return
        await self.close(name)
        number = item.becomes(None)
        await self.mount.unlink(f"box/{name}")
        item.closed = number

    async def age(self, _: str) -> None:
        """As after five seconds."""
        files = self.mount.ops.files
        for file in list(files._dirty.values()):
            if self.random.random() < 0.5:
                await files._commit_quietly(file)

    async def fold(self, _: str) -> None:
        store: ObjectStore = self.mount.store
        try:
            await Folder(store, idle=self.random.choice((0.0, 1e9)), pace=0.0).round()
        except StoreError as error:  # the disks are small, and a copy of the catalogue has its room
            if error.code is not Code.NO_SPACE:
                raise

    async def other_door(self, name: str) -> None:
        """What S3 shows is durable."""
        store: ObjectStore = self.mount.store
        item = self.world.names[name]
        try:
            node = await store.look_up(store.bucket("box"), name.encode())
            data = await read_all(store, node)
        except StoreError:
            return  # not there yet, or it was replaced in this instant
        seen = [number for number, state in enumerate(item.states) if state == data]
        if not seen:
            raise Broken(f"S3 shows {_told(data)} of {name}, which it never was")
        if seen[-1] >= item.sure:
            self.world.make_sure({name: min(number for number in seen if number >= item.sure)})


class Trial:
    """One seed's pool and its lives."""

    def __init__(self, seed: int, directory: Path, counts: Counts) -> None:
        self.random = random.Random(seed)
        self.counts = counts
        self.host = Host(directory)
        tiers, copies = self.random.choice(LAYOUTS)
        base = exhaustive.make_base(tiers, copies, self.host)
        self.host.restart(base.files)
        self.disks = [
            SimulatedDisk(exhaustive.SIZE, self.random, name=f"disk{number}", media=media)
            for number, media in enumerate(base.media)
        ]
        self.world = World()
        self.history: list[str] = ["+".join(tiers)]

    def run(self, lives: int = LIVES) -> None:
        for life in range(lives):
            self._live(last=life == lives - 1)

    def _live(self, *, last: bool) -> None:
        witness = Witness(Unmodelled(), self.host, self.random, self.disks)
        power = Power()
        for disk in self.disks:
            disk.power = power
        seed_scheduler(self.random.getrandbits(64))
        try:
            with simulated(witness):
                trio.run(self._boot, witness, power, last)
        except Crash:  # while it closed
            witness.crash()
        mode = self.random.choice(MODES)
        for disk in self.disks:
            if not witness.crashed:
                disk.settle_flushes()
            disk.crash(mode)
        self.disks = [disk.reopen() for disk in self.disks]
        if not witness.crashed:
            self.host.settle()
        files = {} if self.random.random() < 0.2 else self.random.choice(self.host.states)
        self.history.append(f"crashed {witness.crashed}, {witness.batches} batches, {mode}, host {bool(files)}")
        self.host.restart(files)
        self.counts["crashes"] += witness.crashed

    async def _boot(self, witness: Witness, power: Power, last: bool) -> None:
        devices = [(disk.name, disk) for disk in self.disks]
        async with open_store(devices, self.host.path, vault=VAULT, threaded=False, buffers=6) as store:
            await store.settle()
            observed.audit(store, excused=lambda chunk: True)  # one copy of what was under way may be torn
            mount = Unmounted(store, StoreDoor(store))
            self.world.alive = lambda: power.on and not witness.crashed
            await self._compare(mount)
            if last:
                return
            power.kill_after(self.random.choice((5, 20, 60, 150)) + self.random.randrange(20))
            try:
                with witness.scope:
                    async with trio.open_nursery() as nursery:
                        await nursery.start(mount.ops.files.run)
                        await self._use(mount)
                        nursery.cancel_scope.cancel()
            except* Crash:
                witness.crash()
            except* Exception as errors:
                if self.world.alive():  # else it is what a dead process would have made of it
                    raise errors
            if not witness.crashed and self.random.random() < 0.7:
                witness.crash()

    async def _use(self, mount: Unmounted) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(PROGRAMS):
                program = Program(mount, self.world, self.random, "ab"[number], self.counts)
                nursery.start_soon(program.run, self.random.choice((5, 20, 60)))

    async def _compare(self, mount: Unmounted) -> None:
        """What was found becomes what is known."""
        found: dict[str, State] = {}
        for name in self.world.names:
            path = f"box/{name}"
            found[name] = await mount.read_file(path) if await mount.exists(path) else None
        self.world.explain(found)
        self.world.ties.clear()
        self.world.names = {name: Name(found[name]) for name in self.world.names}
        self.counts["compared"] += 1


def run_seed(seed: int, directory: Path, counts: Counts, lives: int = LIVES) -> None:
    """One trial.  Its failure says how to replay it."""
    place = directory / f"mounted-{seed}"
    place.mkdir()
    trial = Trial(seed, place, counts)
    ticks = itertools.count()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operations, "clock_ns", lambda: 10**18 + next(ticks) // 16 * 4_000_000)
        patch.setattr(syncing, "STEADY", seed % 2 * syncing.STEADY)  # 0: each write's commit is early
        try:
            trial.run(lives)
        except BaseException as error:
            error.add_note("\n".join(trial.history))
            error.add_note(f"replay: python -m tests.crash.mounted --seed {seed}")
            raise


if __name__ == "__main__":
    sys.exit(main(run_seed, __doc__))
