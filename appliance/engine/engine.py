"""The running engine: the pool, the writer, the readers, and what they share.

`submit` queues a command and returns its ticket; a thread of its own turns the queue into batches, so that what arrives
during a barrier is the next batch.  Everything acknowledged passes `_deliver` on the loop, in the order of commit.
"""

from __future__ import annotations

import itertools
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import outcome
import trio

from appliance import lock
from appliance.catalogue import buckets, commands
from appliance.catalogue.database import connect
from appliance.catalogue.names import DirectoryCache, node_at, node_by_id
from appliance.device.fan import Fan
from appliance.device.lanes import CallLanes
from appliance.engine import registry
from appliance.engine.answering import Answering
from appliance.engine.commit import Committer
from appliance.engine.filled import Filled
from appliance.engine.full import Full
from appliance.engine.housekeeper import Housekeeper
from appliance.engine.ingest import Staged
from appliance.engine.ledger import Ledger
from appliance.engine.pacing import Pacing
from appliance.engine.remembered import ABSENT, Remembered
from appliance.engine.retrieve import Retrieval
from appliance.engine.snapshot import FREE_SHARE
from appliance.engine.startup import OpenParts
from appliance.engine.telling import Tellings
from appliance.engine.ticket import Batch, Ticket
from appliance.engine.worn import Worn
from appliance.errors import Code, StoreError
from appliance.limits import BATCH_BODY_MAX, BATCH_COMMANDS_MAX, MIB, WRITE_CEILING
from appliance.model import AccessKey, Bucket, Change, Entry, Node, Usage, User, WrappedKey

log = logging.getLogger(__name__)

WAL_LOOK = 64  # batches between two looks at its size

# What is ahead of the index is put there when nothing has come for so long, or when it is so much: a COMMIT costs as
# much as the rest of a small change, but most of SQLite's pages in it are the same from one to the next.
AHEAD_IDLE = 0.003  # seconds
AHEAD_MAX, AHEAD_BYTES = 256, 4 * MIB  # batches, and what they carry: memory has it until then


class Engine:
    """Built by startup inside a trio loop; `close` ends it."""

    def __init__(self, parts: OpenParts, lanes: CallLanes, scans: CallLanes, *, threaded: bool) -> None:
        self.pool = parts.pool
        self.ring = parts.ring
        self.lanes = lanes
        self.scans = scans  # one thread: SQLite gives up the GIL at each row, and a second scan would fight for it
        self.reader = parts.reader
        self._writer_connection = parts.writer
        self.checkpointer = parts.checkpointer
        self.directories = DirectoryCache()
        self.rows = Remembered()
        self.filled = Filled()
        self.worn = Worn()
        self._ids = itertools.count(parts.next_id)
        self._held: dict[int, int] = {}
        self._kept: set[int] = set()  # held nodes that a commit kept although it would have removed them
        self._removing: dict[int, int] = {}  # nodes that a batch removes, with its number, until the loop is told of it
        self._runs = self._delivered = 0  # batches that the writer began, that the loop was told of
        self._reaping: set[int] = set()  # nameless nodes whose bytes are being freed step by step
        self._stuck: set[int] = set()  # those of them whose last step failed
        self._closing = False
        self.retrieval = Retrieval(self.pool, lanes, self.reader, partial(connect, parts.database, read_only=True))
        self.retrieval.unread = self._unread
        self.staged = Staged(self.pool)
        self.ledger = Ledger(parts.writer)
        self._full = Full(self.pool, parts.writer)
        fan = Fan(len(self.pool.devices) + 1 if threaded else 0)
        self._fan = fan
        self.committer = Committer(
            self.pool,
            self.ring,
            parts.writer,
            self.retrieval,
            fan,
            take_id=self._ids.__next__,
            id_limit=parts.id_limit,
            held=self._is_held,
            make_room=self.checkpointer.take,
            ledger=self.ledger,
            rows=self.rows,
            undisturbed=self._in_loop if threaded else _at_once,
        )
        self.tellings = Tellings(self.rows, lambda: self.committer.failed is not None)
        self.retrieval.unpinned = self.committer.release_freed
        self._threaded = threaded
        self._token = trio.lowlevel.current_trio_token()
        self._queue: queue.SimpleQueue[Ticket | _Job | None] = queue.SimpleQueue()
        self.retrieval.long.show = self._catch_up
        self._housekeeper = Housekeeper(
            parts.database, parts.writer, self.checkpointer, apart=self._apart, threaded=threaded
        )
        self.answering = Answering(self.pool, lanes)
        self._pacing = Pacing(self._queue.put)
        self._inline: list[Ticket] = []
        self._inline_running = False
        self._thread: threading.Thread | None = None
        self._listeners: list[Callable[[Sequence[Change]], Awaitable[object] | None]] = []
        self.when_hidden: list[Callable[[], None]] = []  # who shows what was acknowledged, and must show it no longer
        self.last: Ticket | None = None  # the newest submission: whoever waits for it has waited for all (I2)
        self.announced: Ticket | None = None  # the newest that others are told of
        self._registry = registry.NOTHING
        self.buckets: dict[str, Bucket]
        self.access_keys: dict[str, AccessKey]
        self.users: dict[str, User]
        self.versioned: frozenset[int]
        self.clock = lock.Clock(buckets.seen_time(self._every), time.time_ns(), time.monotonic_ns())
        self.data_keys: dict[int, WrappedKey]
        self.reload()
        if threaded:
            self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
            self._thread.start()

    # ------------------------------------------------------------------ ids and holds
    def new_id(self) -> int:
        """An id that no node, chunk or map ever had.  From any thread: one `next` of a counter is atomic."""
        return next(self._ids)

    def hold(self, node: int) -> bool:
        """An unlinked node keeps its row and bytes while held.  False, and not held, when it is too late: the batch
        under way removes the node, though nobody sees that yet, or it is being freed.  `settle`, and look again."""
        if node in self._held:
            self._held[node] += 1
            return True
        self._held[node] = 1
        if node in self._removing or node in self._reaping:
            self.release(node)
            return False
        return True

    def _is_held(self, node: int) -> bool:
        """Asked by a commit that is about to remove the node.  First noted, then asked: `release`, which forgets the
        hold first and then looks at the note, can't miss it; nor can `hold`, which looks after it has held."""
        self._kept.add(node)
        self._removing[node] = self._runs
        if node in self._held or self.retrieval.long.reads(node):
            del self._removing[node]
            return True
        self._kept.discard(node)
        return False

    def release(self, node: int) -> None:
        """Ends one hold; the last one reaps what a commit kept only because of it."""
        left = self._held[node] - 1
        if left:
            self._held[node] = left
            return
        del self._held[node]
        self._unread(node)

    def _unread(self, node: int) -> None:
        """One less holds or reads the node: what was kept for the last of them goes."""
        if node in self._kept and node not in self._held and not self.retrieval.long.reads(node):
            self._kept.discard(node)
            self.reap(node)

    def held_nodes(self) -> frozenset[int]:
        """Nodes held at this moment, by whoever reads or by what remains to be freed of them."""
        return frozenset(self._held) | self._reaping | self.retrieval.long.nodes()

    @property
    def reaping(self) -> frozenset[int]:
        """Nodes whose bytes are being freed by steps, but for those whose last step failed."""
        return frozenset(self._reaping - self._stuck)

    def reap(self, node: int) -> None:
        """Frees a nameless node, in as many batches as it takes."""
        self._reaping.add(node)
        self.submit(commands.Reap(node=node, now_ns=time.time_ns()), patient=True)

    def _reap_on(self, batch: Batch) -> None:
        """The next step for each node that has one; what failed is tried again after a batch that did not."""
        for ticket in batch.tickets:
            if isinstance(ticket.command, commands.Reap):
                (self._reaping.discard if ticket.error is None else self._stuck.add)(ticket.command.node)
        if self._closing:
            return  # the next start goes on
        for node in batch.reaps:
            self.reap(node)
        if batch.commits and self._stuck:
            self.reap(self._stuck.pop())

    # ------------------------------------------------------------------ submitting
    def submit(
        self,
        command: commands.Command,
        *,
        announce: bool = False,
        patient: bool = False,
        late: bool = False,
    ) -> Ticket:
        """Queues a command.  Order of submission is order of commit.  A `patient` one may linger (`Pacing`), until
        somebody waits for it or submits one that is not.  The rows of a `late` one may be shown later than they are
        durable, unless somebody waits for them."""
        command = self._full.admitted(command)
        chunks = command.new_chunks
        weight = 0
        for chunk in chunks:
            weight += len(chunk.data)
            if chunk.pages:
                self.staged.take(chunk.id)
        ticket = Ticket(command, weight, announce=announce)
        if late:
            ticket.late, ticket.show = True, self._catch_up
        self.last = ticket
        if announce:
            self.announced = ticket
        if self._threaded:
            self._pacing.add(ticket, patient=patient)
        else:
            self._inline.append(ticket)
            if not self._inline_running:
                self._inline_running = True
                trio.lowlevel.spawn_system_task(self._work_inline)
        return ticket

    async def settle(self) -> None:
        """Everything submitted so far is durable or has failed."""
        if self.last is not None:
            await self.last.wait_done()

    async def pass_writer(self) -> None:
        """Returns when the writer has come to where a batch submitted now would begin; never if it hangs: cancel it."""
        if not self._threaded:
            await self.settle()
            return
        passed = trio.Event()
        self._pacing.hurry()
        self._queue.put(_Job(lambda: self._token.run_sync_soon(passed.set)))
        await passed.wait()

    async def between_batches(self, function: Callable[[], None]) -> None:
        """Runs `function` where no batch is under way; raises what it raises.  For changes of the pool itself."""
        if not self._threaded:
            await self.settle()
            function()
            return
        job = _Job(function)
        self._pacing.hurry()
        self._queue.put(job)
        await self.lanes.call(job.done.wait)
        if job.error is not None:
            raise job.error

    def _work(self) -> None:
        """The writer thread's life."""
        carried: Ticket | _Job | None = None
        while True:
            first = carried or self._next()
            carried = None
            if first is None or isinstance(first, _Job):
                if not self._index() or first is None:
                    return
                first.run()
                continue
            batch = [first]
            weight = first.weight
            while len(batch) < BATCH_COMMANDS_MAX:
                try:
                    ticket = self._queue.get_nowait()
                except queue.Empty:
                    break
                if ticket is None:
                    self._queue.put(None)
                    break
                if isinstance(ticket, _Job) or weight + ticket.weight > BATCH_BODY_MAX:
                    carried = ticket
                    break
                weight += ticket.weight
                batch.append(ticket)
            if not self._run(batch):
                return
            self._between_batches()

    def _next(self) -> Ticket | _Job | None:
        """What the writer is to do next: while something is ahead of the index it does not wait long."""
        if not self.committer.is_ahead:
            return self._queue.get()
        try:
            return self._queue.get(timeout=AHEAD_IDLE)
        except queue.Empty:
            return _Job()

    def _run(self, batch: Sequence[Ticket]) -> bool:
        """One batch.  Who only waits until it is durable is answered, then the loop is told, then what is ahead of the
        index is put there if it is much.  False when the loop has ended."""
        self._runs += 1
        done = (self.committer.run_ahead if all(ticket.late for ticket in batch) else self.committer.run)(batch)
        for ticket in batch:
            ticket.answer()
        if done is not None:
            return self._tell(self._deliver, done, self._runs)
        awaited = self._pacing.holds or any(ticket.is_awaited for ticket in batch)
        told = not awaited or self._tell(self._stand, batch)
        self.committer.follow()
        return told and (self.committer.is_ahead_by_less(AHEAD_MAX, AHEAD_BYTES) or self._index())

    def _index(self) -> bool:
        """What is ahead of the index is put there, and the loop told of it; False when the loop has ended."""
        late = self.committer.catch_up()
        return late is None or self._tell(self._deliver, late, self._runs)

    def _tell(self, function: Callable[..., None], *arguments: Any) -> bool:
        """The loop; False when it has ended."""
        if not self._threaded:
            function(*arguments)
            return True
        try:
            self._token.run_sync_soon(function, *arguments)
        except trio.RunFinishedError:
            return False
        return True

    def _stand(self, tickets: Sequence[Ticket]) -> None:
        """On the loop: they are durable."""
        for ticket in tickets:
            ticket.stand()
        self._pacing.follow()

    def _catch_up(self) -> None:
        """Somebody waits for rows that may be ahead of the index.  From any thread."""
        if self._threaded:
            self._queue.put(_Job())
        else:
            self._index()

    def _in_loop(self, function: Callable[[], Any]) -> Any:
        """Called by the writer's thread: `function` runs in the loop's, which is busy with nothing else meanwhile."""
        done = threading.Event()
        results: list[outcome.Outcome[Any]] = []

        def work() -> None:
            results.append(outcome.capture(function))
            done.set()

        try:
            self._token.run_sync_soon(work)
        except trio.RunFinishedError:
            return function()
        done.wait()
        return results[0].unwrap()

    async def _work_inline(self) -> None:
        while self._inline or self.committer.is_ahead:
            await self._pause()
            if not self._inline:
                self._index()
                continue
            batch, self._inline[:] = self._inline[:BATCH_COMMANDS_MAX], self._inline[BATCH_COMMANDS_MAX:]
            self._run(batch)
            self._between_batches()
        self._inline_running = False

    async def _pause(self) -> None:
        """What comes meanwhile is in the next batch, or ahead of the index with the last."""
        await trio.lowlevel.checkpoint()

    def _between_batches(self) -> None:
        """Housekeeping that needs the writer's connection and no open transaction."""
        if self.committer.batches % WAL_LOOK == 0:
            self._housekeeper.fold_wal()
        self._full.look()
        if self.ring.used > self.ring.length * FREE_SHARE:
            self._housekeeper.snapshot()

    def _apart(self, function: Callable[[], None]) -> None:
        """Has it called where no batch is under way, and nothing ahead of the index."""
        if self._threaded:
            self._queue.put(_Job(function))
        else:
            self._index()
            function()

    def checkpoint(self) -> None:
        """Begins a snapshot unless one is under way or nothing happened since the last; a failure is logged."""
        if self.committer.failed is None and self.ring.live:
            self._housekeeper.snapshot()

    # ------------------------------------------------------------------ acknowledging
    def _deliver(self, batch: Batch, runs: int | None = None) -> None:
        """On the loop, in commit order: caches first, then who caches names (H5), then the waiters (H1).  `runs` is the
        number of the newest that it has."""
        self.rows.deliver(batch.commits)
        self._delivered = self._delivered + 1 if runs is None else runs
        if self.committer.hidden:
            for hide in self.when_hidden:
                hide()
        if self._removing:
            for node, run in list(self._removing.items()):  # the writer may be at its next batch
                if run <= self._delivered:
                    self._removing.pop(node, None)
        for parent, name in batch.dropped:
            self.directories.drop(parent, name)
        if batch.reaps or self._reaping:
            self._reap_on(batch)
        self.filled.follow(batch.tickets)
        self.worn.follow(batch.tickets)
        for ticket in batch.tickets:
            if ticket.error is None and isinstance(ticket.command, _RELOADING):
                self.reload()
                break
        waiting: list[Awaitable[object]] = []
        if batch.notes:
            waiting = [answer for listener in self._listeners if (answer := listener(batch.announced)) is not None]
        if waiting or self.tellings.under_way:
            self.tellings.settle(batch.tickets, waiting)
        else:
            for ticket in batch.tickets:
                ticket.settle()
        self.tellings.delivered()
        self._pacing.follow()

    def watch(self, listener: Callable[[Sequence[Change]], Awaitable[object] | None]) -> Callable[[], None]:
        """Adds a listener, called for each batch that changed names, with those changes that are announced; what is
        returned takes it away again."""
        self._listeners.append(listener)
        return partial(self._listeners.remove, listener)

    def reload(self) -> None:
        """Buckets, users, credentials and data keys as the catalogue has them."""
        self._registry = registry.load(self._every, self._registry)
        self.buckets, self.versioned, self.access_keys, self.users, self.data_keys = self._registry

    def _every(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        return self.reader.execute(sql, parameters).fetchall()

    def node_at(self, parent: int, name: bytes) -> Node | None:
        """The node of an entry: from memory if it is known there, else from the catalogue."""
        if self.reader.in_transaction:  # the caller wants one state for several statements
            return node_at(self._first, parent, name)
        number = self.rows.entry(parent, name)
        if number == ABSENT:
            return None
        found = self.rows.node(number) if number is not None else None
        if found is None:
            found = node_at(self._first, parent, name)
            self.rows.put(parent, name, found)
        return found

    def node(self, number: int) -> Node | None:
        """A node by its number, in the same way."""
        if self.reader.in_transaction:
            return node_by_id(self._first, number)
        found = self.rows.node(number)
        if found is None:
            found = node_by_id(self._first, number)
            if found is not None:
                self.rows.put_node(found)
        return found

    def listed(self, directory: int, entries: Sequence[Entry]) -> None:
        """These are all of a directory's, just read: who lists it often asks for each next."""
        if not self.reader.in_transaction:
            self.rows.know(directory, {each.name + b"/" * each.directory: each.node.id for each in entries})
            for each in entries:
                self.rows.put_node(each.node)

    def _first(self, sql: str, parameters: tuple[Any, ...]) -> Any:
        return self.reader.execute(sql, parameters).fetchone()

    # ------------------------------------------------------------------ the end
    async def close(self) -> None:
        """Settles, ends the threads, takes a snapshot when that is cheap, marks the pool clean."""
        with trio.CancelScope(shield=True):
            self._closing = True
            await self.settle()
            await self.lanes.call(self._housekeeper.close)  # first: it may still have a job for the writer
            if self._thread is not None:
                self._queue.put(None)
                await self.lanes.call(self._thread.join)
            await self.lanes.call(self._finish)
            self.lanes.close()
            self.scans.close()
            self._fan.close()

    def _finish(self) -> None:
        self.committer.release_freed()
        try:
            if self.committer.failed is None:
                if self.ring.used > self.ring.length // 8 or self.pool.snapshot is None:
                    self.checkpointer.take()
                self._writer_connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self.pool.write_superblocks("clean", self.ring.seq)
        except (StoreError, OSError, sqlite3.Error) as error:
            log.error("the pool could not be closed cleanly (the next start replays its journal): %s", error)
        finally:
            self.retrieval.long.close()
            self.reader.close()
            self._writer_connection.close()
            self.pool.close()

    def usage(self, bucket: Bucket | None) -> Usage:
        """Counted at each commit."""
        where = " WHERE bucket=?" if bucket is not None else ""
        parameters = (bucket.id,) if bucket is not None else ()
        sql = f"SELECT coalesce(sum(objects), 0), coalesce(sum(bytes), 0), coalesce(sum(parts), 0) FROM usage{where}"
        return Usage(*self.reader.execute(sql, parameters).fetchone())

    def space(self, copies: int = 1) -> tuple[int, int]:
        """(total, available) bytes as a user of a bucket with so many copies sees them."""
        allocator = self.pool.allocator
        total = available = 0
        for device in self.pool.devices.values():
            if device.online:
                size = allocator.size(device.id)
                total += size
                available += max(0, int(allocator.free(device.id) - size * (1 - WRITE_CEILING)))
        return total // copies, self._full.available(available) // copies

    @property
    def shown(self) -> int:
        """The newest batch whose rows readers see: what they pin."""
        return self.committer.shown

    def require_writable(self) -> None:
        """Raises READ_ONLY once the writer has stopped."""
        if self.committer.failed is not None:
            raise StoreError(Code.READ_ONLY, self.committer.failed.message)


def _at_once(function: Callable[[], Any]) -> Any:
    return function()


class _Job:
    """A function for the writer's thread, which first puts there what is ahead of the index."""

    def __init__(self, function: Callable[[], None] = lambda: None) -> None:
        self._function = function
        self.done = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._function()
        except Exception as error:  # handed to who waits
            self.error = error
        finally:
            self.done.set()


_RELOADING = (
    commands.CreateBucket,
    commands.DeleteBucket,
    commands.PutAccessKey,
    commands.RemoveAccessKey,
    commands.SetBucketSetting,
    commands.PutUser,
    commands.RemoveUser,
    commands.PutDataKeys,
)
