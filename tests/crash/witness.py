"""The engine under watch: what was acknowledged, what was under way, and what a crash may leave.

`simulated(witness)` replaces three parts of a running engine by subclasses that behave the same and tell the witness:

    the writer    after a batch the model has it; a crash inside one leaves it as the only batch that may or may not be
    the fan       runs devices' jobs in a seeded order and lets all their flushes end together (they run side by side)
    the engine    when the power goes, nothing more happens: no close, no snapshot

`Host` is the machine's own disk with the SQLite file: unsynced commits may be lost in a crash, so it remembers what the
file was at commits since its last durable checkpoint.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import trio

from appliance import opening
from appliance.engine import engine as engine_room
from appliance.engine.commit import Committer
from appliance.engine.engine import Engine
from appliance.engine.pool import PoolDevice
from appliance.engine.ticket import Batch, Ticket
from appliance.errors import Code, StoreError
from tests.crash.model import Model
from tests.doubles.disks import Crash, SimulatedDisk

SUFFIXES: Final = ("", "-wal")
KEPT: Final = 6  # older states of the SQLite file that a crash may bring back

Files = dict[str, bytes]


class Host:
    """Where the SQLite file is.  Each boot has a directory of its own, so that a dead boot's open files do no harm."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._boot = 0
        self.path = directory / "0" / "catalogue.db"
        self.path.parent.mkdir()
        self.states: list[Files] = [{}]  # what a crash may leave, oldest first

    def read(self) -> Files:
        """The files as they are."""
        found = {}
        for suffix in SUFFIXES:
            path = self.path.with_name(self.path.name + suffix)
            if path.exists():
                found[suffix] = path.read_bytes()
        return found

    def remember(self) -> None:
        """A commit: from now on a crash may leave this."""
        self.states.append(self.read())
        if len(self.states) > KEPT:
            del self.states[1]

    def settle(self) -> None:
        """SQLite synced its file: nothing older comes back."""
        self.states = [self.read()]

    def restart(self, files: Files) -> None:
        """The next boot finds these."""
        for old in self.path.parent.iterdir():
            old.unlink()
        self.path.parent.rmdir()
        self._boot += 1
        self.path = self._directory / str(self._boot) / "catalogue.db"
        self.path.parent.mkdir()
        for suffix, content in files.items():
            self.path.with_name(self.path.name + suffix).write_bytes(content)
        self.states = [files]


class Witness:
    """One boot's observer."""

    def __init__(self, model: Model, host: Host, seed: random.Random, disks: Sequence[SimulatedDisk]) -> None:
        self.model = model
        self.host = host
        self.random = seed
        self.disks = disks
        self.remember = 0.3  # chance that a commit's SQLite state is kept
        self.crashed = False
        self.in_flight: Sequence[Ticket] | None = None
        self.uncertain: list[Model] = []  # with a batch that failed though its record may be durable
        self.compared = False  # the model is what the store has, from now on
        self.batches = 0
        self.failed_batches = 0
        self.error: Exception | None = None  # of the model
        self.scope = trio.CancelScope()
        self._possible: list[Model] = [model]
        self.behind: Model | None = None
        self.on_failure: Callable[[], None] = lambda: None

    @property
    def shown(self) -> Model:
        """What readers see: the model without what is durable and not in the index yet."""
        return self.model if self.behind is None else self.behind

    def crash(self) -> None:
        """The power went."""
        if not self.crashed:
            self._possible = self._now_possible()
            self.crashed = True
            self.host.remember()
            self.scope.cancel()

    def possible(self) -> list[Model]:
        """What recovery may find (I12): everything acknowledged, or with one batch more."""
        return self._possible if self.crashed else self._now_possible()

    def _now_possible(self) -> list[Model]:
        models = [self.model, *self.uncertain]
        if self.in_flight is not None:
            models.append(self.model.copy().apply_all(self.in_flight))
        return models


_now: list[Witness] = []


def _nothing(tickets: Sequence[Ticket]) -> Batch:
    """A batch that did nothing."""
    return Batch(tickets, [], [], [])


class WatchedCommitter(Committer):
    """Tells the witness of each batch."""

    def run(self, tickets: Sequence[Ticket]) -> Batch:
        witness = _now[-1]
        if not witness.crashed:
            try:
                return super().run(tickets)
            except Crash:
                witness.crash()
        return self._end(tickets)

    def run_ahead(self, tickets: Sequence[Ticket]) -> Batch | None:
        witness = _now[-1]
        if not witness.crashed:
            try:
                return super().run_ahead(tickets)
            except Crash:
                witness.crash()
        return self._end(tickets)

    def catch_up(self) -> Batch | None:
        witness = _now[-1]
        if witness.crashed and self._ahead:
            return self._end([])
        was_ahead = self.is_ahead
        late = super().catch_up()
        if self.failed is None or not was_ahead:
            witness.behind = None
        return late

    def _end(self, tickets: Sequence[Ticket]) -> Batch:
        """Nobody is told anything: this only ends the tasks that wait."""
        tickets = [*(ticket for item in self._ahead for ticket in item.batch.tickets), *tickets]
        self._ahead = []
        if self.retrieval.long.batch.locked():
            self.retrieval.long.batch.release()
        for ticket in tickets:
            ticket.error = StoreError(Code.READ_ONLY, "the power is gone")
        return _nothing(tickets)

    def _run(self, tickets: Sequence[Ticket], *, ahead: bool = False) -> Batch:
        witness = _now[-1]
        before = witness.batches, self.batches
        witness.in_flight = tickets
        try:
            batch = super()._run(tickets, ahead=ahead)
        except StoreError:
            witness.in_flight = None
            witness.failed_batches += 1
            if not self.is_ahead:  # what was went into the index
                witness.behind = None
            witness.on_failure()
            if self.failed is not None and before[0] == witness.batches:
                witness.uncertain.append(witness.model.copy().apply_all(tickets))
            raise
        witness.in_flight = None
        if self.batches > before[1] and witness.batches == before[0]:  # not counted by a retry inside
            witness.batches += 1
            if self.is_ahead and witness.behind is None:
                witness.behind = witness.model.copy()
            try:
                witness.model.apply_all(tickets)
            except Exception as error:
                witness.error = error  # the writer would take it for its own
                raise
            if witness.random.random() < witness.remember:
                witness.host.remember()
        if not self.is_ahead:
            witness.behind = None
        return batch


class WatchedEngine(Engine):
    """Dies when the power does."""

    async def _work_inline(self) -> None:
        """A barrier takes its time: what arrives meanwhile is one batch."""
        for _ in range(_now[-1].random.choice((0, 0, 3, 10, 30))):
            await trio.lowlevel.checkpoint()
        await super()._work_inline()

    async def _pause(self) -> None:
        for _ in range(_now[-1].random.choice((0, 2, 9, 40)) if self.committer.is_ahead else 0):
            await trio.lowlevel.checkpoint()
        await super()._pause()

    def _between_batches(self) -> None:
        if _now[-1].crashed:
            return
        try:
            super()._between_batches()
        except Crash:
            _now[-1].crash()

    async def close(self) -> None:
        if not _now[-1].crashed:
            await super().close()
            return
        self.reader.close()
        self._writer_connection.close()
        self.pool.close()
        await trio.lowlevel.checkpoint()


class WatchedFan:
    """Several devices at once, in one thread: a seeded order, and one moment for all flushes."""

    def __init__(self, _: int) -> None:
        pass

    def run(self, jobs: Sequence[Callable[[], None]]) -> list[OSError | None]:
        witness = _now[-1]
        order = list(range(len(jobs)))
        witness.random.shuffle(order)
        outcomes: list[OSError | None] = [None] * len(jobs)
        for disk in witness.disks:
            disk.hold_flushes()
        for number in order:
            try:
                jobs[number]()
            except OSError as error:
                outcomes[number] = error
        for disk in witness.disks:
            disk.settle_flushes()
        return outcomes

    def close(self) -> None:
        pass


@contextmanager
def simulated(witness: Witness) -> Iterator[None]:
    """Pools opened within the block are watched."""
    replaced: list[tuple[Any, str, Any]] = [
        (opening, "Engine", WatchedEngine),
        (engine_room, "Committer", WatchedCommitter),
        (engine_room, "Fan", WatchedFan),
    ]
    olds = [getattr(module, name) for module, name, _ in replaced]
    for module, name, new in replaced:
        setattr(module, name, new)
    _now.append(witness)
    try:
        yield
    finally:
        _now.pop()
        for (module, name, _), old in zip(replaced, olds, strict=True):
            setattr(module, name, old)
        if witness.error is not None:
            raise witness.error


def failed(devices: Sequence[PoolDevice]) -> set[int]:
    """Numbers of fenced ones."""
    return {device.id for device in devices if device.state == "failed"}
