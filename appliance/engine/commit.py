"""The writer: one batch, one record, one barrier, one COMMIT.

    drain the queue -> BEGIN -> apply each command -> gather small bodies -> the record
    -> per device at once: write its pages, write the record, flush      (the barrier)
    -> COMMIT (unsynced) -> acknowledge -> give back what was freed

What arrives during a barrier is the next batch: group commit without a timer (`pacing`).

A batch of whose commands only the durability is waited for (fsync) may run *ahead* of the index (`run_ahead`): it is
acknowledged by its record, which is the truth, and its COMMIT is left to `catch_up`, so that what follows soon shares
it.  Until then no door reads its rows (H2: who would waits for the catching up), and what it freed stays (I5: readers
pin what is `shown`).  Should a later batch fail, what is ahead of the index is put there from its images, as a restart
would.  Their rows are changed in SQLite when a query of the writer's needs them, at the latest before COMMIT
(`postponed`).

    I1  an acknowledgement follows the barrier over the batch's data and its record: `run` returns only then
    I2  the next record is issued after this batch's barrier: one thread, one batch at a time
    I4  the record has only final row images: `Rows.images` is keyed by row; a page made and freed inside is forfeited
    I5  freed pages wait for the barrier (`begin_free` before, `release` after) and for readers' pins
    I6  a live page is never written: every extent written here was reserved by this batch
    I13 `_keepers` says first which journals have what is acknowledged from now on
    I9  `applied_seq` is set in the same transaction
    I10 a failed barrier fails the batch and fences the device (what has its bytes still is the next batch); a record
        that may be durable is made invalid, and where that can't be done, or COMMIT fails after the barrier, the writer
        stops for good: restart and replay

After a failed batch nothing of it is in the catalogue, on the ring, or reserved.
"""

from __future__ import annotations

import collections
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from appliance.catalogue import buckets, commands, names
from appliance.catalogue.apply import apply
from appliance.catalogue.database import (
    ID_STEP,
    UNBOUNDED,
    Prolonged,
    Rows,
    patched_bytes,
    replay,
    set_meta,
)
from appliance.catalogue.names import DirectoryCache
from appliance.catalogue.postponed import Postponed, carry_out
from appliance.catalogue.schema import META, PAGE, SLICE
from appliance.device.buffers import aligned
from appliance.device.fan import Fan
from appliance.engine import journal
from appliance.engine.again import repeatable
from appliance.engine.ahead import Ahead
from appliance.engine.failures import Bug, Fenced, OverQuota, RingFull, catalogue_error
from appliance.engine.gathering import Gathering
from appliance.engine.journal import Place, Ring
from appliance.engine.ledger import NONE, Ledger, Promise
from appliance.engine.pool import Pool, PoolDevice
from appliance.engine.remembered import Remembered
from appliance.engine.retrieve import Retrieval
from appliance.engine.ticket import Batch, Ticket, joined
from appliance.engine.waited import Visits
from appliance.errors import Code, StoreError
from appliance.limits import DROP_STEP, KIB, MIB, PATCHES_MAX
from appliance.model import CUSTOMER, Change
from appliance.ondisk import record

log = logging.getLogger(__name__)

# SQLite gives up the GIL at every statement, and beside a busy loop each return to it costs a switch of threads: half
# of a small PUT's commit.  So the commands of a batch worth it are applied in the loop's own thread, a few at a time
# (each takes some 40 us), while the writer waits, unless it waits for a disk (`waited`).  Barrier and COMMIT stay.
UNDISTURBED_MIN: Final = 4  # commands
UNDISTURBED_STEP: Final = 8  # commands of one visit
UNDISTURBED_BYTES: Final = 256 * KIB  # gathered bytes that may be hashed and copied in a visit

DROP_SHARE: Final = 1 * KIB  # of the ring for each slice that a batch frees: five times what its images take

UNDISTURBED_CHANGES: Final = 24 * UNDISTURBED_STEP  # rows changed in a visit: 1 ms; beyond, the writer does it

_LIMITING: Final = (commands.SetBucketSetting, commands.DeleteBucket)  # may change what a bucket may hold
# hundreds of rows in one command, or thousands looked at: no work for the loop's thread
_LONG: Final = (commands.FoldMap, commands.CopyRange, commands.Reap, commands.CompleteUpload)
AHEAD_CHANGES: Final = 64  # rows of a batch that may be ahead of the index: more are no database's page

_ALONE: Final = (Code.NO_SPACE, Code.TOO_LARGE, Code.DAMAGED)  # failures of one command that undo its batch


class _Job(NamedTuple):
    """What the barrier does on one device."""

    device: PoolDevice
    writes: list[tuple[int, memoryview]]
    record_offset: int | None


class Committer:
    """Runs batches.  Knows no thread: `WriterThread` or a simulation calls `run`."""

    def __init__(
        self,
        pool: Pool,
        ring: Ring,
        connection: sqlite3.Connection,
        retrieval: Retrieval,
        fan: Fan,
        *,
        take_id: Callable[[], int],
        id_limit: int,
        held: Callable[[int], bool],
        make_room: Callable[[], None],
        ledger: Ledger,
        rows: Remembered,
        undisturbed: Callable[[Callable[[], Any]], Any] = lambda function: function(),
    ) -> None:
        self.pool = pool
        self.ring = ring
        self.connection = connection
        self.retrieval = retrieval
        self.cache = DirectoryCache()
        self._buckets: dict[int, bytes | None] = {}  # what `Rows.buckets` learned, until a batch fails
        self._fan = fan
        self._take_id = take_id
        self._id_limit = id_limit
        self._held = held
        self._ledger = ledger
        self._rows = rows
        self._make_room = make_room  # a checkpoint that lets ring space be reused
        self._undisturbed = Visits(undisturbed)  # run a function where no other thread fights for the GIL
        self._gathering = Gathering(pool)
        self._record_buffer = aligned(MIB)
        self._limbo: collections.deque[tuple[int, list[tuple[int, int, int]]]] = collections.deque()
        self._limbo_lock = threading.Lock()
        self._ahead: list[Ahead] = []  # batches that stand and were not given to the caller
        self._ahead_bytes = 0
        self._postponed = Postponed()  # of their rows
        self.shown = ring.seq  # the newest batch whose rows readers see
        self._commits = 0  # batches in the index that the caller was not given
        self.failed: StoreError | None = None
        self.hidden: set[int] = set()  # buckets: the writer stopped, and what it acknowledged in them needs a restart
        self.patched = patched_bytes(connection)  # bytes that patches hold
        self.batches = 0
        self.batch_commands = 0
        self.barrier_seconds = 0.0
        self.record_bytes = 0

    # ------------------------------------------------------------------ one batch
    def run(self, tickets: Sequence[Ticket]) -> Batch:
        """Applies and makes durable; every ticket has its result or error afterwards.  With it come batches that were
        ahead."""
        late = self.catch_up()
        done = self._run_in(tickets, ahead=False)
        return done if late is None else joined([late, done])

    def run_ahead(self, tickets: Sequence[Ticket]) -> Batch | None:
        """The same, but if it can the index lacks the batch until the next `run` or `catch_up`, which gives it with its
        own; then None.  Its tickets are durable all the same, or have their errors."""
        done = self._run_in(tickets, ahead=True)
        if self.is_ahead and self.failed is None:
            return None
        late = self.catch_up()
        return done if late is None else joined([late, done])

    @property
    def is_ahead(self) -> bool:
        """Whether a batch stands of which the index has nothing yet."""
        return bool(self._ahead) and not self._ahead[-1].indexed

    @property
    def ahead(self) -> int:
        """How many do."""
        return len(self._ahead) if self.is_ahead else 0

    def is_ahead_by_less(self, batches: int, size: int) -> bool:
        """Whether some do, but not as many, nor do they carry as many bytes."""
        return 0 < self.ahead < batches and self._ahead_bytes < size

    def catch_up(self) -> Batch | None:
        """What is ahead is put into the index, and given as one batch to be told of.  None: there is nothing."""
        if not self._ahead:
            return None
        behind = self.is_ahead
        if self.failed is None:
            try:
                if behind:
                    self._index()
                self.release_freed()
            except StoreError as error:
                log.debug("what was ahead of the index is refused: %r", error)
            except Exception as error:
                self._stop(error)
            finally:
                if behind:
                    self.retrieval.long.batch.release()
        ahead, self._ahead, self._ahead_bytes = self._ahead, [], 0
        for item in ahead:
            if not item.indexed:
                assert self.failed is not None
                for ticket in item.batch.tickets:
                    if isinstance(ticket.command, commands.WriteFile | commands.CopyRange):  # nothing else is late
                        self.hidden.add(ticket.command.bucket)
                    ticket.result, ticket.error = None, self.failed
        commits, self._commits = self._commits, 0
        return joined([item.batch for item in ahead])._replace(commits=commits)

    def follow(self) -> None:
        """After the answer: of what stands the transaction gets what the next batch's queries will ask for."""
        if self.ahead:  # nothing is when the writer has stopped: then `run_ahead` has given it all to its caller
            try:
                carry_out(self.connection.execute, self._postponed.due, SLICE.number)
            except sqlite3.Error:  # a transaction that has met one is not to be trusted
                self._roll_back()
                if not self.is_ahead or self.failed is not None:
                    self.retrieval.long.batch.release()

    def _run_in(self, tickets: Sequence[Ticket], *, ahead: bool) -> Batch:
        if self.failed is not None:
            return self._refuse(tickets, self.failed)
        if not self.is_ahead:  # else it is held since
            self.retrieval.long.batch.acquire()
        try:
            return self._run(tickets, ahead=ahead)
        except StoreError as error:
            failure = error
        except Exception as error:
            return self._refuse(tickets, self._stop(error))
        finally:
            if not self.is_ahead or self.failed is not None:
                self.retrieval.long.batch.release()
        if self.failed is not None:
            return self._refuse(tickets, failure)
        if len(tickets) > 1 and (failure.code in _ALONE or isinstance(failure, Bug)):
            # one by one: a body that does not fit must not keep a delete from happening (a full box still deletes),
            # nor a damaged file, or a bug that it meets, other people's writes
            return joined([self.run([ticket]) for ticket in tickets])
        again = repeatable(tickets, failure, self.pool.is_online)
        if again:
            return self._repeat(tickets, again, failure)
        return self._refuse(tickets, failure)

    def _stop(self, error: Exception) -> StoreError:
        """A bug: after a COMMIT memory and catalogue may disagree, and nothing more is written on that ground (I10)."""
        log.error("the writer failed in a way that must not happen: writes have stopped", exc_info=error)
        self.failed = StoreError(Code.READ_ONLY, "writes have stopped: restart to recover", cause=repr(error))
        return self.failed

    def _repeat(self, tickets: Sequence[Ticket], again: Sequence[Ticket], error: StoreError) -> Batch:
        """The batch was taken back.  This is the next one; what cannot be in it hears of the failure."""
        for ticket in again:
            ticket.repeated, ticket.result, ticket.error = True, None, None
        refused = self._refuse([ticket for ticket in tickets if not ticket.repeated], error)
        return joined([refused, self.run(again)])

    def _refuse(self, tickets: Sequence[Ticket], error: StoreError) -> Batch:
        for ticket in tickets:
            if ticket.error is None:
                ticket.result, ticket.error = None, StoreError(error.code, error.message, cause=error.cause)
            if self.failed is None:  # else a durable record may name the pages: no stream must get them (I6)
                self._forfeit(ticket)
        return Batch(tickets, [], [], [])

    def _forfeit(self, ticket: Ticket) -> None:
        for chunk in ticket.command.new_chunks:
            for item in chunk.pages:
                self.pool.allocator.forfeit(item.device, item.offset)

    def _run(self, tickets: Sequence[Ticket], *, ahead: bool = False) -> Batch:
        guarded = apart = False
        while True:
            try:
                return self._attempt(tickets, guarded=guarded, apart=apart, ahead=ahead)
            except OverQuota:
                guarded = True
            except Prolonged:
                apart = True

    def _attempt(self, tickets: Sequence[Ticket], *, guarded: bool, apart: bool, ahead: bool) -> Batch:
        """`guarded`: each command can be undone alone.  `apart`: not in the loop's thread."""
        connection = self.connection
        tx = Rows(
            connection,
            self._take_id,
            self._held,
            min(DROP_STEP, self.ring.length // DROP_SHARE),
            PATCHES_MAX - self.patched,
            self.retrieval.long.keep,
            self._postponed if ahead and not guarded else None,
        )
        tx.buckets = self._buckets
        try:
            if not self.is_ahead:
                self._postponed.clear()
                connection.execute("BEGIN IMMEDIATE")
            elif guarded:
                carry_out(connection.execute, self._postponed.due)
        except sqlite3.Error as error:
            raise catalogue_error(error) from error
        offset: int | None = None
        gathered: list[tuple[int, int]] = []  # extents reserved here
        freeing: list[tuple[int, int, int]] = []
        announced: list[Change] = []
        try:
            many = len(tickets) >= UNDISTURBED_MIN and not apart
            many = many and not any(isinstance(ticket.command, _LONG) for ticket in tickets)
            for start in range(0, len(tickets), UNDISTURBED_STEP):
                some = partial(self._apply, tx, tickets[start : start + UNDISTURBED_STEP], announced, guarded=guarded)
                many = many and self._undisturbed.are_short()
                tx.bound = tx.changes + UNDISTURBED_CHANGES if many else UNBOUNDED
                self._undisturbed(some) if many else some()
            tx.bound = UNBOUNDED
            if not tx.changes:
                if not self.is_ahead:
                    connection.execute("ROLLBACK")
                self._ledger.commit()
                self._settle_space(tickets)
                done = Batch(tickets, [], [], [])
                if self.is_ahead:
                    self._ahead.append(Ahead(done, self.ring.seq, tx, []))
                return done
            seq = self.ring.seq + 1
            build = partial(self._build, tx, seq, gathered)
            small = many and sum(ticket.weight for ticket in tickets) <= UNDISTURBED_BYTES
            writes, image, digest, total = self._undisturbed(build) if small else build()
            offset = self.ring.room_for(total)
            if offset is None:
                raise RingFull
            made = set(tx.new_pages)
            freeing = [extent for extent in tx.freed if extent[:2] not in made]
            self.pool.allocator.begin_free(freeing)
            if not ahead:
                set_meta(connection, "applied_seq", seq)
            self._barrier(tx, writes, image, offset)
        except Exception as error:
            self._roll_back()
            self._ledger.rollback()
            self.pool.allocator.cancel_free(freeing)
            if self.failed is None:
                for device_id, at in gathered:
                    self.pool.allocator.forfeit(device_id, at)
            if self.failed is not None:
                raise self.failed from error
            if isinstance(error, RingFull):
                self._checkpoint()
                return self._run(tickets)
            if isinstance(error, StoreError | OverQuota | Prolonged):
                raise
            if isinstance(error, sqlite3.Error):
                raise catalogue_error(error) from error
            log.exception("a batch failed in a way that must not happen")
            kind = Bug if offset is None else StoreError
            raise kind(Code.UNAVAILABLE, "internal error", cause=repr(error)) from error
        if ahead:
            self._postponed.stand(tx.images, tx.due)
        self._stand(tx, tickets, Place(seq, offset, total), digest)
        done = Batch(tickets, tx.notes, announced, tx.dropped, 0, tx.reaps)
        if ahead and tx.changes <= AHEAD_CHANGES:
            self._ahead.append(Ahead(done, seq, tx, freeing))
            self._ahead_bytes += sum(ticket.weight for ticket in tickets)
            return done
        self._index(tx, mark=ahead, announced=bool(announced))
        self._put_in_limbo(seq, freeing)
        self.release_freed()
        for ticket in tickets:
            if isinstance(ticket.command, _LIMITING) and ticket.error is None:
                bucket = (
                    ticket.command.bucket if isinstance(ticket.command, commands.SetBucketSetting) else ticket.result.id
                )
                self._ledger.load(connection, bucket)
        commits, self._commits = self._commits, 0
        return done._replace(commits=commits)

    def _apply(self, tx: Rows, tickets: Sequence[Ticket], announced: list[Change], *, guarded: bool) -> None:
        for ticket in tickets:
            changes, mark, noted = tx.changes, tx.mark() if guarded else None, len(tx.notes)
            failure: StoreError | None = None
            try:
                ticket.result = apply(tx, self.cache, ticket.command)
                self._admit(tx, ticket.command)
            except StoreError as error:
                failure = error
            ticket.error = failure
            tx.charged.clear()
            if failure is not None and tx.changes != changes:  # half of it is in the transaction, which must go
                if failure.code is not Code.QUOTA_EXCEEDED:
                    late = failure.code is Code.DAMAGED
                    assert late, f"{type(ticket.command).__name__} changed rows before it failed"
                    raise failure
                if mark is None:
                    raise OverQuota
                tx.undo(mark)
                self.cache.known.clear()
                ticket.result = None
            elif mark is not None:
                tx.keep_marked()
            if ticket.announce:
                announced += tx.notes[noted:]

    def _admit(self, tx: Rows, command: commands.Command) -> None:
        """Raises QUOTA_EXCEEDED: the command must be undone."""
        if isinstance(command, commands.WriteFile):
            self._ledger.admit(tx.charged, command.bucket, Promise(*command.promised))
        elif tx.charged and self._ledger.limits:
            self._ledger.admit(tx.charged, 0, NONE)

    def _build(
        self, tx: Rows, seq: int, gathered: list[tuple[int, int]]
    ) -> tuple[dict[int, list[tuple[int, memoryview]]], memoryview, bytes, int]:
        """What the barrier writes: pages by device, the record's image; the record's digest and length."""
        self._finish(tx)
        writes = self._gather(tx, gathered)
        return writes, *self._encode(tx, seq)

    def _checkpoint(self) -> None:
        """Room in the ring.  Raises StoreError; the host's disk may be full or broken, too."""
        try:
            self._make_room()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(
                Code.UNAVAILABLE, "the journal is full and the catalogue cannot be copied", cause=str(error)
            ) from error

    def _finish(self, tx: Rows) -> None:
        """Rows that are written once per batch: counters, directories' times and links, the promise of ids."""
        buckets.write_usage(tx)
        names.write_directories(tx)
        if tx.top_id >= self._id_limit:
            tx.put(META, ("next_id", tx.top_id + ID_STEP))  # promised once the batch is durable: see `_commit`

    def _gather(self, tx: Rows, gathered: list[tuple[int, int]]) -> dict[int, list[tuple[int, memoryview]]]:
        return self._gathering.gather(tx, gathered, self.ring.seq + 1)

    # ------------------------------------------------------------------ the record and the barrier
    def _encode(self, tx: Rows, seq: int) -> tuple[memoryview, bytes, int]:
        covered = [list(place) for place, flushed in tx.new_pages.items() if flushed]
        raw = record.encode(self.ring.epoch, seq, self.ring.previous, tx.image_list(), covered, pool=self.pool.uuid)
        if len(raw) > len(self._record_buffer):
            self._record_buffer = aligned(max(2 * len(self._record_buffer), len(raw)))
        image = self._record_buffer[: len(raw)]
        image[:] = raw
        self.record_bytes += len(raw)
        return image, record.digest_of(raw), len(raw)

    def _barrier(
        self, tx: Rows, writes: dict[int, list[tuple[int, memoryview]]], image: memoryview, offset: int
    ) -> None:
        """Data, record, flush: at once on every device concerned (I1).  Raises IO_ERROR; then nothing counts (I10)."""
        pool, journals = self.pool, self._keepers()
        touched = {device_id for (device_id, _), flushed in tx.new_pages.items() if not flushed}
        jobs: list[_Job] = []
        for device in pool.devices.values():
            is_journal = device in journals
            if is_journal or device.id in touched:
                jobs.append(_Job(device, writes.get(device.id, []), offset if is_journal else None))
        started = time.perf_counter()
        outcomes = self._fan.run([self._device_job(job, image) for job in jobs])
        self.barrier_seconds += time.perf_counter() - started
        broken = [(job, error) for job, error in zip(jobs, outcomes, strict=True) if error is not None]
        if not broken:
            return
        for job, error in broken:
            pool.fence(job.device, error)
        self._take_back(offset)
        raise Fenced(Code.UNAVAILABLE, "a device failed: try again", cause=str(broken[0][1]))

    def _keepers(self) -> list[PoolDevice]:
        """The journals that can be written, and a start without them will know that it is they that count (I13)."""
        while True:
            journals = self.pool.journals
            if not journals:
                self.failed = StoreError(Code.READ_ONLY, "no journal device can be written: writes have stopped")
                raise self.failed
            if self.pool.told == {device.id for device in journals}:
                return journals
            self.pool.tell()

    def _device_job(self, job: _Job, image: memoryview) -> Callable[[], None]:
        def work() -> None:
            device = job.device.device
            if device is None or not job.device.online:
                raise OSError(f"device {job.device.id} takes no writes")
            for at, data in job.writes:
                device.write(at, data)
            if job.record_offset is not None:
                journal.write_record(self.pool, job.device, job.record_offset, image)
            device.flush()

        return work

    def _take_back(self, offset: int) -> None:
        """The batch failed but its record may be durable somewhere: it must never be replayed (I10, I12)."""
        if not journal.invalidate(self.pool, offset):
            self.failed = StoreError(
                Code.READ_ONLY, "no journal device is left that can be written: restart to recover"
            )
            log.critical("writes have stopped: %s", self.failed.message)
            return
        try:
            self.pool.tell()  # the survivors outrank the failed device's ring from now on
        except StoreError as error:
            if not self.pool.journals:
                self.failed = error

    def _stand(self, tx: Rows, tickets: Sequence[Ticket], place: Place, digest: bytes) -> None:
        """The record is durable: whatever comes, the batch is part of the truth."""
        self._ledger.commit()
        self.ring.append(place, digest)
        if tx.top_id >= self._id_limit:
            self._id_limit = tx.top_id + ID_STEP
        self.patched += tx.patched
        self.batches += 1
        self.batch_commands += len(tickets)
        allocator = self.pool.allocator
        for device_id, offset in tx.new_pages:
            if tx.images.get((PAGE.number, device_id, offset)) is not None:
                allocator.stand(device_id, offset)
            else:
                allocator.forfeit(device_id, offset)
        for chunk, item in tx.new_data.items():
            if item.key is None or item.key.id != CUSTOMER:
                self.retrieval.cache.put(chunk, item.data)
        self._settle_space(tickets)

    def _index(self, last: Rows | None = None, *, mark: bool = True, announced: bool = False) -> None:
        """COMMIT: readers see the open transaction's batches.  It says which they are (I9), unless it does already.
        What was ahead has nothing that is announced."""
        batches = [item.tx for item in self._ahead if not item.indexed]
        if last is not None:
            batches.append(last)
        begun = [self._rows.begin(tx.images, announced=announced and tx is last) for tx in batches]
        try:
            carry_out(self.connection.execute, self._postponed.due)
            if mark:
                set_meta(self.connection, "applied_seq", self.ring.seq)
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            # the record is durable, the index is not: only a restart's replay makes them one again (I10)
            self.failed = StoreError(Code.READ_ONLY, "the catalogue cannot be written: restart to recover")
            log.critical("COMMIT failed after a durable record: %s", error)
            raise self.failed from error
        self._commits += len(begun)
        self.shown = self.ring.seq
        for commit in begun:
            commit.done = True
        for tx in batches:
            for device_id, offset in tx.new_pages:
                if tx.images.get((PAGE.number, device_id, offset)) is not None:
                    self.pool.allocator.commit(device_id, offset)
        for item in self._ahead:
            if not item.indexed:
                item.indexed = True
                self._put_in_limbo(item.seq, item.freeing)

    def _roll_back(self) -> None:
        """What the open transaction has is in memory no longer, but for what stands, which is put into the index."""
        if self.connection.in_transaction:  # SQLite ends it by itself after some errors ("The ROLLBACK command")
            self.connection.execute("ROLLBACK")
        self._postponed.clear()
        if self.is_ahead:
            self._restore()
        self.cache.known.clear()
        self._buckets.clear()

    def _restore(self) -> None:
        """After a ROLLBACK that took what was ahead of the index with it: from its images, as a restart would (I9)."""
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            for item in self._ahead:
                replay(self.connection, item.tx.image_list())
            self._index()
        except (sqlite3.Error, StoreError) as error:
            self.failed = StoreError(Code.READ_ONLY, "the catalogue cannot be written: restart to recover")
            log.critical("what stands in the journal cannot be put into the catalogue: %r", error)

    def _settle_space(self, tickets: Sequence[Ticket]) -> None:
        for ticket in tickets:
            if ticket.error is not None:
                self._forfeit(ticket)

    def _put_in_limbo(self, seq: int, freeing: list[tuple[int, int, int]]) -> None:
        if freeing:
            with self._limbo_lock:
                self._limbo.append((seq, freeing))

    def release_freed(self) -> None:
        """Gives back pages whose freeing batch is durable and shown, and that no reader can still see (I5)."""
        if not self._limbo:
            return
        with self._limbo_lock:
            oldest = self.retrieval.pins.oldest(self.shown)
            while self._limbo and self._limbo[0][0] <= oldest:
                _, extents = self._limbo.popleft()
                self.pool.allocator.release(extents)
