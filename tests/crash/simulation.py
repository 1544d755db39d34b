"""R2: the whole engine on simulated disks, crashed again and again, from a seed.

A *trial* makes a pool (1 to 4 disks, blaze and bulk, copies 1 to 3, a small ring) and lives several *lives* on it.  A
life opens the pool as a boot would, compares what it finds with the model, audits it, and lets concurrent clients work
until the power goes at a random write or flush.  Then each disk keeps, loses or tears what it had not flushed, and the
host's SQLite file goes back to any commit since its last durable checkpoint, or is gone.  In some lives a device fails
or is missing.  Between lives a copy of some of the disks is opened without the others: it is refused, or nothing that
was acknowledged is missing (I13).

What must hold after each crash: every acknowledged change is there; of the batch under way all or nothing; every byte
reads right; counts, references and free space agree; every copy of every page is good.

The same seed repeats the same trial exactly: trio's scheduler is seeded, nothing runs in another thread, and time is
counted.  `python -m tests.crash.simulation --seed N` replays one, `--seconds N` runs new ones for so long.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import logging
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import trio

from appliance.engine.startup import NewDevice, create_pool
from appliance.errors import Code, StoreError
from appliance.limits import KIB, MIB
from appliance.ondisk.superblock import Tier
from appliance.opening import open_store
from appliance.store import ObjectStore
from tests.crash import observed
from tests.crash.model import Model, Name
from tests.crash.mutations import hasty_reuse, nothing_repeated
from tests.crash.observed import Broken
from tests.crash.scale import scaled
from tests.crash.witness import Host, Witness, failed, simulated
from tests.crash.workload import Clients
from tests.doubles.disks import Crash, CrashMode, Power, SimulatedDisk
from tests.models.boxes import VAULT

LIVES: Final = 6
SHARING: Final = 8  # in one of so many trials clients share ranges of files, and remove what they share
LAYOUTS: Final[tuple[tuple[Tier, ...], ...]] = (
    ("blaze",),
    ("bulk",),
    ("blaze", "bulk"),
    ("blaze", "blaze"),
    ("blaze", "bulk", "bulk"),
    ("blaze", "blaze", "bulk"),
    ("bulk", "bulk", "bulk"),
    ("blaze", "blaze", "bulk", "bulk"),
)
Counts = collections.Counter[str]
Setup = Callable[[], None]


class Trial:
    """One seed's pool and its lives."""

    def __init__(self, seed: int, directory: Path, counts: Counts) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.counts = counts
        self.model = Model()
        self.candidates = [self.model]  # one of them is what recovery must find
        self.torn: set[int] = set()  # chunks of an unacknowledged batch that was recovered though a copy was torn
        self.unseen = False  # such a batch may have been recovered by a life that ended before anybody compared
        self.good: set[int] = set()  # chunks of which every copy was found good
        self.host = Host(directory)
        self.state_directory = directory / "state"  # what is flushed there is never lost
        self.state_directory.mkdir()
        self.asides = random.Random(seed)  # a seed means the same with them and without
        self.once = self.asides.random() < 0.5  # a batch that a device fails has failed
        self.dense = self.random.random() < 0.4  # few keys, few sizes, few devices: each page lies where another lay
        self.sharing = seed % SHARING == SHARING - 1 and not self.dense
        self.hasty = self.dense or self.random.random() < 0.5  # what was freed last is given out first
        self.tiers = self.random.choice(LAYOUTS[:3] if self.dense else LAYOUTS)
        self.copies = self.random.randint(1, min(3, len(self.tiers)))
        self.power = Power()
        size = self.random.choice((8, 9, 12)) * MIB
        self.disks = [
            SimulatedDisk(size, self.random, name=f"disk{number}", power=self.power)
            for number in range(1, len(self.tiers) + 1)
        ]
        self.history: list[str] = [f"{'+'.join(self.tiers)}, {self.copies} copies"]  # for whoever reads a failure
        self.degraded = False  # a device was missing or failed since the last snapshot
        new = [NewDevice(disk.name, disk, tier) for disk, tier in zip(self.disks, self.tiers, strict=True)]
        ring = self.random.choice((64, 96, 160, 256)) * KIB
        create_pool(
            new, name="pool", copies=self.copies, now_ns=1, pool_uuid=self.random.randbytes(16), ring_length=ring
        )

    def run(self, lives: int = LIVES) -> None:
        """Raises Broken, or whatever the engine should not have raised."""
        for life in range(lives):
            last = life == lives - 1
            fault = self._plan_boot_fault() if not last and self.random.random() < 0.08 else False
            missing = self._choose_missing() if not last else None
            if len(self._journals()) > 1 and self.degraded:
                for number in self._journals():
                    self._look_aside(number)
            self._live(faulty_boot=fault, missing=missing, last=last)

    # ------------------------------------------------------------------ one life
    def _live(self, *, faulty_boot: bool, missing: int | None, last: bool) -> None:
        witness = Witness(self.model, self.host, self.random, self.disks)
        self.power = Power()
        for disk in self.disks:
            disk.power = self.power
        if self.random.random() < 0.15 and not last:
            self.power.kill_after(self.random.randrange(1, 30))  # perhaps in the middle of recovery
        seed_scheduler(self.random.getrandbits(64))
        if missing is not None:
            self.degraded = True
        here = [disk for number, disk in enumerate(self.disks, 1) if number != missing]
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(simulated(witness))
                if self.hasty:
                    stack.enter_context(hasty_reuse())
                if self.once:
                    stack.enter_context(nothing_repeated())
                trio.run(self._boot, witness, here, missing, faulty_boot, last)
        except Crash:
            self.counts["crashes while opening or closing"] += 1
            witness.crash()
        except StoreError as error:
            if not faulty_boot or error.code not in (Code.IO_ERROR, Code.UNAVAILABLE, Code.DAMAGED):
                raise
            self.counts["refused to open"] += 1
        self.counts["batches"] += witness.batches
        self.counts["failed batches"] += witness.failed_batches
        self.counts["lives"] += 1
        self._after(witness)

    async def _boot(
        self, witness: Witness, here: list[SimulatedDisk], missing: int | None, faulty_boot: bool, last: bool
    ) -> None:
        devices = [(disk.name, disk) for disk in here]
        notes = self.state_directory
        async with open_store(devices, self.host.path, vault=VAULT, threaded=False, buffers=6, notes=notes) as store:
            with witness.scope:
                await self._use(store, witness, missing, faulty_boot, last)
            for disk in self.disks:
                disk.heal()

    async def _use(
        self, store: ObjectStore, witness: Witness, missing: int | None, faulty_boot: bool, last: bool
    ) -> None:
        await store.settle()
        while store.engine.reaping and not witness.crashed:
            await store.settle()
        if witness.crashed:
            return
        for disk in self.disks:
            disk.heal()
        self._compare(store, witness, missing, faulty_boot)
        if last:
            return
        faulty = self._plan_faults() or missing is not None or faulty_boot
        clients = Clients(store, witness, self.random, faulty=faulty, dense=self.dense, sharing=self.sharing)
        taken = store.engine.checkpointer.taken
        if not self.model.buckets:
            await self._make_buckets(clients)
        self.power.kill_after(self.random.choice((3, 10, 30, 80, 200)) + self.random.randrange(12))
        witness.on_failure = self._perhaps_die_soon
        try:
            await clients.run(
                self.random.choice((1, 2, 5) if self.dense else (1, 2, 3, 4, 5)), self.random.choice((2, 8, 30))
            )
        finally:
            self.counts["operations"] += clients.operations
            self.counts["snapshots"] += store.engine.checkpointer.taken - taken
            broken = failed(list(store.engine.pool.devices.values()))
            if broken:
                self.degraded = True
            elif missing is None and store.engine.checkpointer.taken > taken:
                self.degraded = False
            self.counts["fenced"] += len(broken)
        if self.random.random() < 0.7:
            witness.crash()  # nothing was under way: all of it must survive

    def _perhaps_die_soon(self) -> None:
        """A batch failed: what it left behind matters most before the next one."""
        if self.random.random() < 0.6:
            self.power.kill_after(self.random.randrange(4))

    async def _make_buckets(self, clients: Clients) -> None:
        with contextlib.suppress(StoreError):
            await clients.store.create_bucket("one", "me", copies=self.copies)
            await clients.store.create_bucket("two", "me", copies=self.copies)
        if not clients.store.buckets():
            clients.witness.crash()  # a device failed at once: another life
            await trio.lowlevel.checkpoint()

    def _compare(self, store: ObjectStore, witness: Witness, missing: int | None, faulty_boot: bool) -> None:
        found = observed.observe(store)
        texts = []
        for model in self.candidates:
            text = observed.difference(model.state(), found)
            if not text:
                break
            texts.append(text)
        else:
            raise Broken("what recovery found is neither:\n" + "\nnor:\n".join(texts))
        unsure = len(self.candidates) > 1
        if unsure:
            self.counts["unacknowledged batch " + ("lost" if model is self.candidates[0] else "kept")] += 1
        self.model = witness.model = model
        self.candidates = [model]
        absent = () if missing is None else (missing,)
        good, partly = observed.audit(
            store, absent=absent, excused=lambda chunk: chunk in self.torn or (unsure and chunk not in self.good)
        )
        self.torn |= partly - self.good if unsure else set()
        self.unseen = False
        self.good |= good
        if not faulty_boot and missing is None and observed.unlinked(store):
            raise Broken(f"nodes {observed.unlinked(store)} were not reaped")
        self.counts["compared"] += 1
        witness.compared = True

    # ------------------------------------------------------------------ after it
    def _after(self, witness: Witness) -> None:
        """What the power cut leaves."""
        if witness.compared:  # else only files that nobody sees were reaped
            self.candidates = witness.possible()
        elif len(self.candidates) > 1:
            self.unseen = True
        chance = self.random.random()
        mode: CrashMode | None = (
            "all" if chance < 0.2 else "none" if chance < 0.3 else "writes" if chance < 0.5 else None
        )
        for disk in self.disks:
            disk.heal()
            if not witness.crashed:
                disk.settle_flushes()
            disk.crash(mode)
        self.disks = [disk.reopen() for disk in self.disks]
        self.counts["crashes"] += 1
        if not witness.crashed:
            self.host.settle()
        chance = self.random.random()
        if chance < 0.15:
            files = {}
        elif chance < 0.5:
            files = self.host.states[-1]
        else:
            files = self.random.choice(self.host.states)
        self.history.append(
            f"crashed {witness.crashed}, compared {witness.compared}, {witness.batches} batches,"
            f" {witness.failed_batches} failed, {len(self.candidates)} possible, {mode or 'mixed'},"
            f" host {'gone' if not files else self.host.states.index(files) - len(self.host.states)}"
        )
        self.host.restart(files)

    # ------------------------------------------------------------------ faults
    def _choose_missing(self) -> int | None:
        """A device that is not attached this time: never the last up-to-date journal, and one at a time."""
        if self.degraded or self.torn or self.unseen or self.copies < 2 or self.random.random() > 0.25:
            return None
        journals = self._journals()
        number = self.random.randint(1, len(self.disks))
        if number in journals and len(journals) < 2:
            return None
        self.counts["missing"] += 1
        self.history.append(f"device {number} is missing")
        return number

    def _journals(self) -> list[int]:
        """Numbers of the devices with a journal."""
        return [number for number, tier in enumerate(self.tiers, 1) if tier == "blaze" or "blaze" not in self.tiers]

    def _look_aside(self, journal: int) -> None:
        """A disk with a journal, perhaps with others, on a machine with a copy of the state directory."""
        place = self.state_directory.with_name("aside")
        shutil.copytree(self.state_directory, place)
        for suffix, content in self.host.states[0].items():
            (place / f"catalogue.db{suffix}").write_bytes(content)
        others = [number for number in range(1, len(self.disks) + 1) if number not in self._journals()]
        here = {journal, *(number for number in others if self.asides.random() < 0.5)}
        devices = [
            (disk.name, SimulatedDisk(disk.size, self.asides, name=disk.name, media=disk.durable.copy()))
            for number, disk in enumerate(self.disks, 1)
            if number in here
        ]

        async def look() -> dict[Name, int]:
            async with open_store(devices, place / "catalogue.db", vault=VAULT, threaded=False, buffers=6) as store:
                return observed.names(store)[0]

        try:
            found = trio.run(look)
        except StoreError as error:
            if error.code not in (Code.STALE, Code.DAMAGED, Code.IO_ERROR):  # the snapshot may be on other disks
                raise
            self.counts["looked aside, refused"] += error.code is Code.STALE
        else:
            self.counts["looked aside"] += 1
            if found not in [model.state().files for model in self.candidates]:
                raise Broken(f"devices {sorted(here)} alone have {found}")
        finally:
            shutil.rmtree(place)

    def _plan_faults(self) -> bool:
        if self.random.random() > 0.25:
            return False
        disk = self.random.choice(self.disks)
        verb = self.random.choice(("write", "write", "flush", "flush", "read"))
        nth = self.random.randrange(1, 40)
        disk.fail(verb, nth, for_ever=self.random.random() < 0.5)
        self.counts["faults"] += 1
        self.history.append(f"{verb} {nth} of {disk.name} fails")
        return True

    def _plan_boot_fault(self) -> bool:
        verb = self.random.choice(("read", "write", "flush"))
        disk = self.random.choice(self.disks)
        disk.fail(verb, self.random.randrange(1, 12), for_ever=self.random.random() < 0.5)
        self.history.append(f"a {verb} of {disk.name} fails at boot")
        self.counts["faults while opening"] += 1
        return True


def seed_scheduler(seed: int) -> None:
    """As Hypothesis does: trio then runs tasks in an order that the seed decides."""
    run: Any = trio._core._run
    run._ALLOW_DETERMINISTIC_SCHEDULING = True
    run._r.seed(seed)


@contextmanager
def small_world() -> Iterator[Path]:
    """The small scale, quiet logs, counted time, and a directory in memory where there is one."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    clock = iter(range(10**18, 2 * 10**18, 1000))
    old_time, old_level = time.time_ns, logging.root.manager.disable
    with scaled(), tempfile.TemporaryDirectory(prefix="tierce-crash-", dir=parent) as directory:
        logging.disable(logging.CRITICAL)
        time.time_ns = clock.__next__
        try:
            yield Path(directory)
        finally:
            time.time_ns = old_time
            logging.disable(old_level)


def run_seed(seed: int, directory: Path, counts: Counts, lives: int = LIVES) -> None:
    """One trial.  Its failure says how to replay it."""
    place = directory / str(seed)
    place.mkdir()
    trial = Trial(seed, place, counts)
    try:
        trial.run(lives)
    except BaseException as error:
        error.add_note("\n".join(trial.history))
        error.add_note(f"replay: python -m tests.crash.simulation --seed {seed}")
        raise


def main(
    run: Callable[[int, Path, Counts], None] = run_seed, description: str = "Crashes the engine on simulated disks."
) -> int:
    """The long run's entrance: `run` is one seed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--first", type=int, help="count seeds from here (default: from the clock)")
    parser.add_argument("--count", type=int, default=0, help="so many seeds")
    parser.add_argument("--seconds", type=float, default=60.0, help="for so long, when no count is given")
    arguments = parser.parse_args()
    counts: Counts = collections.Counter()
    if arguments.seed is not None:
        with small_world() as directory:
            run(arguments.seed, directory, counts)
        print(dict(counts))
        return 0
    first = arguments.first if arguments.first is not None else time.time_ns() // 1_000_000_000 * 1000
    begin, seed, bad = time.monotonic(), first, []
    with small_world() as directory:
        while seed - first < arguments.count if arguments.count else time.monotonic() - begin < arguments.seconds:
            try:
                run(seed, directory, counts)
            except Exception as error:
                bad.append(seed)
                print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
            seed += 1
    print(f"seeds {first} to {seed - 1} in {time.monotonic() - begin:.0f} s; failed: {bad}")
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
