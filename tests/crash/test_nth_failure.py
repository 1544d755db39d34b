"""R5: the n-th call fails, for every n, once and for ever (in SQLite's manner).

Whatever fails, the operation answers with a StoreError or succeeds; the store then shows exactly what was acknowledged;
no reservation leaks; the engine goes on, or has fenced the device, or has stopped; and a restart finds every
acknowledged change, and of a batch of unknown fate all or nothing.
"""

from __future__ import annotations

import errno
import random
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import trio

from appliance.errors import Code, StoreError
from appliance.model import NO_ATTRIBUTES
from appliance.ondisk.superblock import Tier
from appliance.opening import open_store
from appliance.store import ObjectStore
from tests.crash import exhaustive, observed
from tests.crash.exhaustive import PLAIN, Base, Operation, Session, delete_version, put_version
from tests.crash.model import Model
from tests.crash.simulation import small_world
from tests.crash.witness import Files, Host, Witness, simulated
from tests.doubles.disks import Media, SimulatedDisk
from tests.models.boxes import VAULT

ANSWERS: Final = {Code.UNAVAILABLE, Code.IO_ERROR, Code.READ_ONLY, Code.NO_SPACE}
Fault = Callable[[SimulatedDisk, int], None]


async def snapshot(session: Session) -> None:
    """A checkpoint."""
    session.store.engine.checkpointer.take()


ALPHABET: Final[tuple[Operation, ...]] = (*PLAIN, put_version, delete_version)
WORKFLOWS: Final[tuple[Operation, ...]] = (*ALPHABET, snapshot)
LAYOUTS: Final[dict[str, tuple[tuple[Tier, ...], int]]] = {
    "alone": (("blaze",), 1),
    "mirrored": (("blaze", "blaze", "bulk"), 2),
}


def _error(verb: str, number: int, *, for_ever: bool) -> Fault:
    return lambda disk, nth: disk.fail(verb, nth, error=number, for_ever=for_ever)


FAULTS: Final[dict[str, Fault]] = {
    "write EIO once": _error("write", errno.EIO, for_ever=False),
    "write EIO for ever": _error("write", errno.EIO, for_ever=True),
    "write ENOSPC": _error("write", errno.ENOSPC, for_ever=False),
    "short write": lambda disk, nth: disk.shorten_write(nth, 512),
    "flush EIO once": _error("flush", errno.EIO, for_ever=False),
    "flush EIO for ever": _error("flush", errno.EIO, for_ever=True),
    "read EIO once": _error("read", errno.EIO, for_ever=False),
    "read EIO for ever": _error("read", errno.EIO, for_ever=True),
}


class Bench:
    """One base, used again and again."""

    def __init__(self, directory: Path, layout: str) -> None:
        tiers, copies = LAYOUTS[layout]
        self.host = Host(directory)
        self.base: Base = exhaustive.make_base(tiers, copies, self.host)

    def disks(self, media: list[Media]) -> list[SimulatedDisk]:
        return [
            SimulatedDisk(exhaustive.SIZE, random.Random(number), name=f"disk{number}", media=one.copy())
            for number, one in enumerate(media)
        ]

    def open_and_compare(self, media: list[Media], files: Files, models: list[Model]) -> None:
        """A restart on sound devices."""
        self.host.restart(files)
        disks = self.disks(media)
        witness = Witness(models[0].copy(), self.host, random.Random(1), disks)

        async def run() -> None:
            async with open_store(
                [(disk.name, disk) for disk in disks], self.host.path, vault=VAULT, threaded=False, buffers=2
            ) as store:
                found = observed.observe(store)
                texts = [observed.difference(model.state(), found) for model in models]
                assert not all(texts), "\nnor:\n".join(texts)
                observed.audit(store, excused=lambda chunk: len(models) > 1)
                await store.put_object(store.bucket("box"), b"after", store.small_body(b"x" * 700), "e", NO_ATTRIBUTES)

        with simulated(witness):
            trio.run(run)

    def run(
        self,
        workflow: Operation,
        arm: Callable[[ObjectStore, list[SimulatedDisk]], None],
        struck: Callable[[list[SimulatedDisk]], bool],
    ) -> bool:
        """The workflow with a fault; False when the fault no longer happens."""
        base = self.base
        self.host.restart(base.files)
        disks = self.disks(base.media)
        witness = Witness(base.model.copy(), self.host, random.Random(1), disks)
        hit = False

        async def use() -> None:
            nonlocal hit
            async with open_store(
                [(disk.name, disk) for disk in disks], self.host.path, vault=VAULT, threaded=False, buffers=2
            ) as store:
                session = Session(store, witness, base.upload)
                arm(store, disks)
                answer: StoreError | None = None
                try:
                    await workflow(session)
                except StoreError as error:
                    answer = error
                assert answer is None or answer.code in ANSWERS, repr(answer)
                hit = struck(disks)
                for disk in disks:
                    disk.heal()
                await store.settle()
                self._check_alive(store, witness)
                await self._go_on(store, session)
                witness.crash()

        with simulated(witness):
            trio.run(use)
        for disk in disks:
            disk.crash("all")
        for files in (self.host.states[-1], {}):
            self.open_and_compare([disk.durable for disk in disks], files, witness.possible())
        return hit

    def _check_alive(self, store: ObjectStore, witness: Witness) -> None:
        """No half state in the running engine."""
        found = observed.observe(store)
        assert not observed.difference(witness.shown.state(), found)
        if store.engine.committer.failed is None and store.engine.pool.journals:  # else what is held is uncertain
            observed.audit(store)
        for device in store.engine.pool.devices.values():
            assert (device.state == "failed") == (device.write_errors > 0), "a device that failed a write takes no more"

    async def _go_on(self, store: ObjectStore, session: Session) -> None:
        """Another write works, or says that it can't."""
        online = sum(device.online for device in store.engine.pool.devices.values())
        stopped = store.engine.committer.failed is not None
        answer: StoreError | None = None
        try:
            await session.put(b"next", 5000)
        except StoreError as error:
            answer = error
        if answer is None:
            assert not stopped
        else:
            assert answer.code in (Code.READ_ONLY, Code.UNAVAILABLE), repr(answer)
            assert stopped or online < session.bucket.copies or not store.engine.pool.journals


@pytest.fixture
def world() -> Iterator[Path]:
    """The small scale."""
    with small_world() as directory:
        yield directory


@pytest.fixture(params=LAYOUTS)
def bench(world: Path, request: pytest.FixtureRequest) -> Bench:
    """One pool."""
    return Bench(world, request.param)


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_every_device_call_may_fail(bench: Bench, fault: str) -> None:
    failures = 0
    for workflow in WORKFLOWS:
        for number in range(len(bench.base.tiers)):
            nth = 1
            while bench.run(
                workflow,
                lambda store, disks: FAULTS[fault](disks[number], nth),  # noqa: B023 - called at once
                lambda disks: disks[number].struck > 0,  # noqa: B023
            ):
                nth += 1
                failures += 1
                assert nth < 100
    assert failures >= (0 if fault.startswith("read") else len(WORKFLOWS))


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_every_device_call_of_recovery_may_fail(bench: Bench, fault: str) -> None:
    """The pool opens all the same, or says why not; a second start on sound devices finds everything."""
    base = bench.base
    moment = exhaustive.moments(base, [exhaustive.put_large, exhaustive.put_gathered], bench.host)[-1]
    assert all(len(writes) == 0 for writes in moment.unflushed)
    opened = refused = 0
    for files in (moment.hosts[0], {}):
        for number in range(len(base.tiers)):
            for nth in range(1, 60):
                bench.host.restart(files)
                disks = bench.disks(moment.durable)
                FAULTS[fault](disks[number], nth)
                witness = Witness(moment.models[0].copy(), bench.host, random.Random(1), disks)
                answer: StoreError | None = None
                try:
                    with simulated(witness):
                        trio.run(_only_open, disks, bench.host, witness)
                except StoreError as error:
                    answer = error
                # DAMAGED: the host has no file and the snapshot cannot be read
                assert answer is None or answer.code in ANSWERS | {Code.DAMAGED}, repr(answer)
                opened += answer is None
                refused += answer is not None
                bench.host.remember()
                for disk in disks:
                    disk.crash("all")
                bench.open_and_compare([disk.durable for disk in disks], bench.host.states[-1], moment.models)
                if not disks[number].struck:
                    break
    assert opened + refused > 2 * len(base.tiers)


async def _only_open(disks: list[SimulatedDisk], host: Host, witness: Witness) -> None:
    async with open_store([(disk.name, disk) for disk in disks], host.path, vault=VAULT, threaded=False, buffers=2):
        witness.crash()


# ---------------------------------------------------------------------- SQLite


class FailingConnection:
    """A connection whose n-th statement fails; `ends`: SQLite has then ended the transaction by itself."""

    def __init__(self, connection: sqlite3.Connection, nth: int, code: int, *, for_ever: bool, ends: bool) -> None:
        self._connection = connection
        self._nth = nth
        self._code = code
        self._for_ever = for_ever
        self._ends = ends
        self.calls = 0
        self.struck = 0

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        self.calls += 1
        if self.calls == self._nth or (self._for_ever and self.calls > self._nth and sql != "ROLLBACK"):
            self.struck += 1
            if self._ends and self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            error = sqlite3.OperationalError("the planned failure")
            error.sqlite_errorcode = self._code
            raise error
        return self._connection.execute(sql, parameters)


@pytest.mark.slow
@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR], ids=["FULL", "IOERR"])
@pytest.mark.parametrize(("for_ever", "ends"), [(False, False), (False, True), (True, False)])
def test_every_statement_of_the_writer_may_fail(world: Path, code: int, for_ever: bool, ends: bool) -> None:
    bench = Bench(world, "alone")
    failures = 0
    for workflow in ALPHABET:
        nth = 1
        while True:
            connections: list[FailingConnection] = []

            def arm(store: ObjectStore, disks: list[SimulatedDisk]) -> None:
                real = store.engine.committer.connection
                failing: Any = FailingConnection(real, nth, code, for_ever=for_ever, ends=ends)  # noqa: B023
                connections.append(failing)  # noqa: B023
                store.engine.committer.connection = failing
                del disks[0].log[:]

            def struck(disks: list[SimulatedDisk]) -> bool:
                hit = connections[0].struck > 0  # noqa: B023
                connections[0]._nth = -1  # noqa: B023 - healed
                connections[0]._for_ever = False  # noqa: B023
                return hit

            if not bench.run(workflow, arm, struck):
                break
            nth += 1
            failures += 1
    assert failures > 5 * len(ALPHABET)


def test_a_full_host_answers_no_space_and_still_deletes(world: Path) -> None:
    """SQLite's own SQLITE_FULL, by PRAGMA max_page_count."""
    bench = Bench(world, "alone")
    bench.host.restart(bench.base.files)
    disks = bench.disks(bench.base.media)
    witness = Witness(bench.base.model.copy(), bench.host, random.Random(1), disks)

    async def use() -> None:
        async with open_store(
            [(disk.name, disk) for disk in disks], bench.host.path, vault=VAULT, threaded=False, buffers=2
        ) as store:
            session = Session(store, witness, bench.base.upload)
            (pages,) = store.engine.committer.connection.execute("PRAGMA page_count").fetchone()
            store.engine.committer.connection.execute(f"PRAGMA max_page_count={pages}")
            with pytest.raises(StoreError) as raised:
                for number in range(100):
                    await session.put(b"%d" % number, 2000)
            assert raised.value.code is Code.NO_SPACE
            assert not observed.difference(witness.model.state(), observed.observe(store))
            observed.audit(store)
            assert (await store.delete_object(session.bucket, b"0")).found
            await session.put(b"0", 100)

    with simulated(witness):
        trio.run(use)
