"""The writer: one batch, one record, one barrier, one COMMIT.

    drain the queue -> BEGIN -> apply each command -> gather small bodies -> the record
    -> per device at once: write its pages, write the record, flush      (the barrier)
    -> COMMIT (unsynced) -> acknowledge -> give back what was freed

What arrives during a barrier is the next batch: group commit without a timer.

    I1  an acknowledgement follows the barrier over the batch's data and its record: `run` returns only then
    I2  the next record is issued after this batch's barrier: one thread, one batch at a time
    I4  the record has only final row images: `Rows.images` is keyed by row; a page made and freed inside is forfeited
    I5  freed pages wait for the barrier (`begin_free` before, `release` after) and for readers' pins
    I6  a live page is never written: every extent written here was reserved by this batch
    I9  `applied_seq` is set in the same transaction
    I10 a failed barrier fails the batch and fences the device (what of it the mount has answered is the next batch, on
        the devices that are left); a record that may be durable is made invalid, and where
        that can't be done, or COMMIT fails after the barrier, the writer stops for good: restart and replay

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
from secrets import token_bytes
from typing import Any, Final, NamedTuple

from appliance.catalogue import commands, names
from appliance.catalogue.apply import apply
from appliance.catalogue.database import ID_STEP, UNBOUNDED, NewData, Prolonged, Rows, patched_bytes, set_meta
from appliance.catalogue.names import DirectoryCache
from appliance.catalogue.schema import META, PAGE, USAGE
from appliance.device.buffers import aligned
from appliance.device.fan import Fan
from appliance.engine import journal
from appliance.engine.journal import Place, Ring
from appliance.engine.ledger import NONE, Ledger, Promise
from appliance.engine.pool import Pool, PoolDevice, header_for
from appliance.engine.remembered import Remembered
from appliance.engine.retrieve import Retrieval
from appliance.engine.ticket import Batch, Ticket, joined
from appliance.errors import Code, StoreError
from appliance.limits import BATCH_BODY_MAX, COPIES_MAX, DROP_STEP, KIB, MIB, PATCHES_MAX
from appliance.model import CUSTOMER, Change
from appliance.ondisk import cipher, page, record

log = logging.getLogger(__name__)

# SQLite gives up the GIL at every statement, and beside a busy loop each return to it costs a switch of threads: half
# of a small PUT's commit.  So the commands of a batch worth it are applied in the loop's own thread, a few at a time
# (each takes some 40 us), while the writer waits; the barrier and the COMMIT stay in the writer.
UNDISTURBED_MIN: Final = 4  # commands
UNDISTURBED_STEP: Final = 8  # commands of one visit
UNDISTURBED_BYTES: Final = 256 * KIB  # gathered bytes that may be hashed and copied in a visit

DROP_SHARE: Final = 1 * KIB  # of the ring for each slice that a batch frees: five times what its images take

GATHER_MEMORY: Final = COPIES_MAX * (BATCH_BODY_MAX + 2 * MIB)  # bodies, headers and padding, for each copy's device

UNDISTURBED_CHANGES: Final = 24 * UNDISTURBED_STEP  # rows changed in a visit: 1 ms; beyond, the writer does it

# hundreds of rows in one command, or thousands looked at: no work for the loop's thread
_LONG: Final = (commands.FoldMap, commands.CopyRange, commands.Reap, commands.CompleteUpload)
_ALONE: Final = (Code.NO_SPACE, Code.TOO_LARGE, Code.DAMAGED)  # failures of one command that undo its batch


class _Job(NamedTuple):
    """What the barrier does on one device."""

    device: PoolDevice
    writes: list[tuple[int, memoryview]]
    record_offset: int | None


class Prepared(NamedTuple):
    """A gathered body as it lies on devices: sealed, if it has a key."""

    data: bytes | bytearray
    digests: bytes
    seal: bytes


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
        self._undisturbed = undisturbed  # runs a function where no other thread fights for the GIL
        self._buffer = aligned(GATHER_MEMORY)  # takes memory only where it was touched
        self._record_buffer = aligned(MIB)
        self._limbo: collections.deque[tuple[int, list[tuple[int, int, int]]]] = collections.deque()
        self._limbo_lock = threading.Lock()
        self.failed: StoreError | None = None
        self.patched = patched_bytes(connection)  # bytes that patches hold
        self.batches = 0
        self.batch_commands = 0
        self.barrier_seconds = 0.0
        self.record_bytes = 0

    # ------------------------------------------------------------------ one batch
    def run(self, tickets: Sequence[Ticket]) -> Batch:
        """Applies and makes durable; every ticket has its result or error afterwards."""
        if self.failed is not None:
            return self._refuse(tickets, self.failed)
        try:
            with self.retrieval.long.batch:
                return self._run(tickets)
        except StoreError as error:
            alone = error.code in _ALONE or isinstance(error, _Bug)
            if alone and len(tickets) > 1 and self.failed is None:
                # one by one: a body that does not fit must not keep a delete from happening (a full box still deletes),
                # nor a damaged file, or a bug that it meets, other people's writes
                return joined(tickets, [self.run([ticket]) for ticket in tickets])
            answered = _answered(tickets)
            if answered and error.code is Code.UNAVAILABLE and self.failed is None:
                return self._repeat(tickets, answered, error)
            return self._refuse(tickets, error)
        except Exception as error:
            # after a COMMIT memory and catalogue may disagree: nothing more is written on that ground (I10)
            log.exception("the writer failed in a way that must not happen: writes have stopped")
            self.failed = StoreError(Code.READ_ONLY, "writes have stopped: restart to recover", cause=repr(error))
            return self._refuse(tickets, self.failed)

    def _repeat(self, tickets: Sequence[Ticket], answered: Sequence[Ticket], error: StoreError) -> Batch:
        """A device failed the batch and is fenced.  Others hear of it; what was answered is the next batch, once:
        what S3 has submitted behind it must not find the names as they were before, and replace what was moved away."""
        for ticket in answered:
            ticket.answered, ticket.result, ticket.error = False, None, None
        refused = self._refuse([ticket for ticket in tickets if ticket not in answered], error)
        return joined(tickets, [refused, self.run(answered)])

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

    def _run(self, tickets: Sequence[Ticket]) -> Batch:
        guarded = apart = False
        while True:
            try:
                return self._attempt(tickets, guarded=guarded, apart=apart)
            except _OverQuota:
                guarded = True
            except Prolonged:
                apart = True

    def _attempt(self, tickets: Sequence[Ticket], *, guarded: bool, apart: bool) -> Batch:
        """`guarded`: each command can be undone alone.  `apart`: not in the loop's thread."""
        connection = self.connection
        tx = Rows(
            connection,
            self._take_id,
            self._held,
            min(DROP_STEP, self.ring.length // DROP_SHARE),
            PATCHES_MAX - self.patched,
            self.retrieval.long.keep,
        )
        tx.buckets = self._buckets
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise _catalogue_error(error) from error
        offset: int | None = None
        gathered: list[tuple[int, int]] = []  # extents reserved here
        freeing: list[tuple[int, int, int]] = []
        announced: list[Change] = []
        try:
            many = len(tickets) >= UNDISTURBED_MIN and not apart
            many = many and not any(isinstance(ticket.command, _LONG) for ticket in tickets)
            for start in range(0, len(tickets), UNDISTURBED_STEP):
                some = partial(self._apply, tx, tickets[start : start + UNDISTURBED_STEP], announced, guarded=guarded)
                if many:
                    tx.bound = tx.changes + UNDISTURBED_CHANGES
                self._undisturbed(some) if many else some()
            tx.bound = UNBOUNDED
            if not tx.changes:
                connection.execute("ROLLBACK")
                self._ledger.commit()
                self._settle_space(tickets, [])
                return Batch(tickets, [], [], [])
            seq = self.ring.seq + 1
            build = partial(self._build, tx, seq, gathered)
            small = many and sum(ticket.weight for ticket in tickets) <= UNDISTURBED_BYTES
            writes, image, digest, total = self._undisturbed(build) if small else build()
            offset = self.ring.room_for(total)
            if offset is None:
                raise _RingFull
            made = set(tx.new_pages)
            freeing = [extent for extent in tx.freed if extent[:2] not in made]
            self.pool.allocator.begin_free(freeing)
            set_meta(connection, "applied_seq", seq)
            self._barrier(tx, writes, image, offset)
        except Exception as error:
            if connection.in_transaction:  # SQLite ends it by itself after some errors ("The ROLLBACK command")
                connection.execute("ROLLBACK")
            self.cache.known.clear()
            self._buckets.clear()
            self._ledger.rollback()
            self.pool.allocator.cancel_free(freeing)
            if self.failed is None:
                for device_id, at in gathered:
                    self.pool.allocator.forfeit(device_id, at)
            if isinstance(error, _RingFull):
                self._checkpoint()
                return self._run(tickets)
            if isinstance(error, StoreError | _OverQuota | Prolonged):
                raise
            if isinstance(error, sqlite3.Error):
                raise _catalogue_error(error) from error
            log.exception("a batch failed in a way that must not happen")
            kind = _Bug if offset is None else StoreError
            raise kind(Code.UNAVAILABLE, "internal error", cause=repr(error)) from error
        self._commit(tx, tickets, Place(seq, offset, total), digest, gathered, freeing)
        return Batch(tickets, tx.notes, announced, tx.dropped, 1, tx.reaps)

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
                    raise _OverQuota
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
        elif tx.charged:
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
        for bucket, (objects, size, parts) in tx.usage.items():
            row = tx.one("SELECT objects, bytes, parts FROM usage WHERE bucket=?", (bucket,)) or (0, 0, 0)
            tx.put(USAGE, (bucket, row[0] + objects, row[1] + size, row[2] + parts))
        names.write_directories(tx)
        if tx.top_id >= self._id_limit:
            tx.put(META, ("next_id", tx.top_id + ID_STEP))  # promised once the batch is durable: see `_commit`

    # ------------------------------------------------------------------ gathered bodies
    def _gather(self, tx: Rows, gathered: list[tuple[int, int]]) -> dict[int, list[tuple[int, memoryview]]]:
        """Pages for every body that travels with the batch: one run per device where space allows."""
        writes: dict[int, list[tuple[int, memoryview]]] = {}
        if not tx.new_data:
            return writes
        items = list(tx.new_data.items())
        lengths = [page.extent_length(len(item.data)) for _, item in items]
        copies = max(item.copies for _, item in items)
        devices = self.pool.place(copies, max(lengths))
        bodies = [_prepared(chunk, item) for chunk, item in items]
        used = 0
        rows: list[tuple[Any, ...]] = []
        for copy, device_id in enumerate(devices):
            chosen = [at for at, (_, item) in enumerate(items) if item.copies > copy]
            offsets = self._reserve_run(device_id, [lengths[at] for at in chosen], gathered)
            run_start: int | None = None
            run_from = used
            run_end = 0
            for at, offset in zip(chosen, offsets, strict=True):
                if run_start is not None and offset != run_end:
                    writes.setdefault(device_id, []).append((run_start, self._buffer[run_from:used]))
                    run_start = None
                if run_start is None:
                    run_start, run_from = offset, used
                chunk, item = items[at]
                rows.append(self._place_page(chunk, item, device_id, offset, copy, bodies[at], used))
                tx.new_pages[device_id, offset] = False
                used += lengths[at]
                run_end = offset + lengths[at]
            if run_start is not None:
                writes.setdefault(device_id, []).append((run_start, self._buffer[run_from:used]))
        tx.put_many(PAGE, rows)
        return writes

    def _reserve_run(self, device_id: int, lengths: list[int], gathered: list[tuple[int, int]]) -> list[int]:
        """Adjacent extents; where no run is long enough, two halves."""
        allocator = self.pool.allocator
        try:
            start = allocator.reserve(device_id, sum(lengths))
        except StoreError as error:
            if error.code is not Code.NO_SPACE or len(lengths) == 1:
                raise
            half = len(lengths) // 2
            first = self._reserve_run(device_id, lengths[:half], gathered)
            return first + self._reserve_run(device_id, lengths[half:], gathered)
        offsets = allocator.divide(device_id, start, lengths) if len(lengths) > 1 else [start]
        gathered.extend((device_id, offset) for offset in offsets)
        return offsets

    def _place_page(
        self, chunk: int, item: NewData, device_id: int, offset: int, copy: int, body: Prepared, at: int
    ) -> tuple[Any, ...]:
        """The page's image into the buffer at `at`; its row."""
        size = len(body.data)
        header = header_for(
            self.pool,
            device_id,
            offset,
            birth=self.ring.seq + 1,
            chunk=chunk,
            owner=item.owner,
            logical=0,
            payload=size,
            index=0,
            copies=item.copies,
            digests=body.digests,
            label=item.label,
            seal=body.seal,
        )
        extent = page.extent_length(size)
        lead = len(header)
        image = self._buffer[at : at + extent]
        image[:lead] = header
        image[lead : lead + size] = body.data
        image[lead + size :] = bytes(extent - lead - size)
        return device_id, offset, extent, chunk, 0, copy, page.header_sum(header)

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
        pool = self.pool
        journals = pool.journals
        if not journals:
            self.failed = StoreError(Code.READ_ONLY, "no journal device can be written: writes have stopped")
            raise self.failed
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
        raise StoreError(Code.UNAVAILABLE, "a device failed: try again", cause=str(broken[0][1]))

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
            self.pool.write_superblocks()  # the survivors outrank the failed device's ring from now on
        except StoreError as error:
            self.failed = error

    def _commit(
        self,
        tx: Rows,
        tickets: Sequence[Ticket],
        place: Place,
        digest: bytes,
        gathered: list[tuple[int, int]],
        freeing: list[tuple[int, int, int]],
    ) -> None:
        begun = self._rows.begin(tx.images)
        try:
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            # the record is durable, the index is not: only a restart's replay makes them one again (I10)
            self.failed = StoreError(Code.READ_ONLY, "the catalogue cannot be written: restart to recover")
            log.critical("COMMIT failed after a durable record: %s", error)
            raise self.failed from error
        begun.done = True
        self._ledger.commit()
        for ticket in tickets:
            if isinstance(ticket.command, commands.SetBucketSetting | commands.DeleteBucket) and ticket.error is None:
                bucket = (
                    ticket.command.bucket if isinstance(ticket.command, commands.SetBucketSetting) else ticket.result.id
                )
                self._ledger.load(self.connection, bucket)
        self.ring.append(place, digest)
        if tx.top_id >= self._id_limit:
            self._id_limit = tx.top_id + ID_STEP
        self.patched += tx.patched
        self.batches += 1
        self.batch_commands += len(tickets)
        allocator = self.pool.allocator
        for device_id, offset in tx.new_pages:
            if (PAGE.number, device_id, offset) in tx.images and tx.images[PAGE.number, device_id, offset] is not None:
                allocator.commit(device_id, offset)
            else:
                allocator.forfeit(device_id, offset)
        for chunk, item in tx.new_data.items():
            if item.key is None or item.key.id != CUSTOMER:
                self.retrieval.cache.put(chunk, item.data)
        self._settle_space(tickets, freeing)

    def _settle_space(self, tickets: Sequence[Ticket], freeing: list[tuple[int, int, int]]) -> None:
        for ticket in tickets:
            if ticket.error is not None:
                self._forfeit(ticket)
        if freeing:
            with self._limbo_lock:
                self._limbo.append((self.ring.seq, freeing))
        self.release_freed()

    def release_freed(self) -> None:
        """Gives back pages whose freeing batch is durable and that no reader can still see (I5)."""
        if not self._limbo:
            return
        with self._limbo_lock:
            oldest = self.retrieval.pins.oldest(self.ring.seq)
            while self._limbo and self._limbo[0][0] <= oldest:
                _, extents = self._limbo.popleft()
                self.pool.allocator.release(extents)


def _answered(tickets: Sequence[Ticket]) -> list[Ticket]:
    """What of a failed batch can be committed once more: its bytes are in memory, not in pages that are given back, and
    so are those of what may stand on it."""
    found = []
    for ticket in tickets:
        if ticket.answered:
            if any(chunk.pages for chunk in ticket.command.new_chunks):
                break
            found.append(ticket)
    return found


def _prepared(chunk: int, item: NewData) -> Prepared:
    """A gathered body as its pages will hold it, the same for every copy."""
    if item.key is None:
        return Prepared(item.data, page.block_digests(item.data), b"")
    data = bytearray(item.data)
    seal = cipher.seal(item.key, token_bytes(cipher.SALT), chunk, 0, memoryview(data))
    return Prepared(data, page.block_digests(data), seal)


def _catalogue_error(error: sqlite3.Error) -> StoreError:
    """SQLite's failure before anything was written to a device: the batch is as if it had never been."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return StoreError(Code.NO_SPACE, "the host's disk is full: the catalogue cannot grow", cause=str(error))
    return StoreError(Code.UNAVAILABLE, "the catalogue cannot be written now", cause=str(error))


class _OverQuota(Exception):
    """A command adds more than a quota allows: the batch is applied again so that the command can be left out."""


class _Bug(StoreError):
    """A failed assertion or the like, before anything was written: the command that met it must fail, and no other."""


class _RingFull(Exception):
    """The ring must be checkpointed before this record fits (I8)."""
