"""Opening a pool: census, recovery, free map; and making a new one.

    superblocks -> who is here            (a clone, a stranger, a second pool: refused)
    and note    -> whose journals count   (none of them here: refused; keepers.py)
    ring        -> every whole record     (the longest over all journals; a damaged one: refused, never guessed)
    catalogue   -> the host's file, or the snapshot when the file is gone, foreign, damaged or too old
    replay      -> records that the catalogue lacks; the last one only after its pages have proved whole (I3)
    free map    -> what no page row and no snapshot claims (I7)
    superblocks -> a new epoch, state open

I12: what is recovered is a prefix of the acknowledged batches plus at most one whole unacknowledged one.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import uuid as uuids
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from appliance.catalogue import database as catalogue
from appliance.device.buffers import scratch
from appliance.device.device import BlockDevice
from appliance.device.raw import RawDevice
from appliance.engine import journal, keepers, snapshot
from appliance.engine.journal import Found, Ring, RingDamaged
from appliance.engine.keepers import LEAP, NoteFile, Word, keepers_of
from appliance.engine.pool import Pool, PoolDevice
from appliance.engine.snapshot import Checkpointer
from appliance.engine.whole import examine
from appliance.errors import Code, StoreError
from appliance.limits import COPIES_MAX, MIB
from appliance.model import IMPLIED
from appliance.ondisk.damaged import DamagedError
from appliance.ondisk.geometry import SIZE_MIN, SLOT, Geometry, default_ring_length, plan, slot_offsets
from appliance.ondisk.record import SnapshotIndex
from appliance.ondisk.superblock import Member, Superblock, Tier, choose

log = logging.getLogger(__name__)

FIRST_ID: Final = 1024  # smaller numbers are for roots and sentinels (the mount's root is 1)
_ZERO_STEP: Final = 4 * MIB


class Attached(NamedTuple):
    """An open device and the path by which it was found."""

    path: str
    device: BlockDevice


class NewDevice(NamedTuple):
    """A device to be made a member."""

    path: str
    device: BlockDevice
    tier: Tier


class OpenParts(NamedTuple):
    """A recovered pool, ready for an engine."""

    pool: Pool
    ring: Ring
    database: Path
    writer: sqlite3.Connection
    reader: sqlite3.Connection
    next_id: int
    id_limit: int
    checkpointer: Checkpointer
    must_checkpoint: bool
    unchained: bool  # records to come do not follow those in the ring: none may be written before that checkpoint
    replayed: int
    rebuilt: bool


# ---------------------------------------------------------------------- making


def create_pool(
    devices: Sequence[NewDevice],
    *,
    name: str,
    copies: int,
    now_ns: int,
    pool_uuid: bytes | None = None,
    ring_length: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> bytes:
    """Writes superblocks and empty rings; returns the pool's UUID.  The caller has made sure that nobody's data is
    there.

    The journal goes to the blaze devices, or to the bulk ones when there is none.  Raises INVALID_ARGUMENT,
    WRONG_DEVICE.
    """
    if not devices:
        raise StoreError(Code.INVALID_ARGUMENT, "a pool needs at least one device")
    if not 1 <= copies <= min(COPIES_MAX, len(devices)):
        raise StoreError(
            Code.INVALID_ARGUMENT, f"{copies} copies need {copies} devices (at most {COPIES_MAX}); {len(devices)} given"
        )
    has_blaze = any(device.tier == "blaze" for device in devices)
    members = []
    for number, new in enumerate(devices, 1):
        zones = plan(new.device.size, journal=new.tier == "blaze" or not has_blaze, ring_length=ring_length)
        members.append(PoolDevice(number, uuids.uuid4().bytes, new.tier, zones, new.device, new.path, "online"))
    pool = Pool(
        uuid=pool_uuid or uuids.uuid4().bytes,
        name=name,
        copies=copies,
        devices=members,
        generation=0,
        epoch=0,
        created_ns=now_ns,
        buffers=1,
    )
    total = sum(member.geometry.ring_length for member in members)
    done = 0
    for member in members:
        clear_ring(member, _shifted(progress, done, total))
        done += member.geometry.ring_length
    pool.write_superblocks("clean")
    if any(not member.online for member in members):
        raise StoreError(Code.IO_ERROR, "a device failed while the pool was being made: see the log")
    return pool.uuid


def _shifted(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int], None]:
    return lambda done: progress(before + done, total)


def clear_ring(member: PoolDevice, progress: Callable[[int], None] = lambda done: None) -> None:
    """An empty ring, durably: an earlier pool's records must not be taken for ours."""
    assert member.device is not None
    length = member.geometry.ring_length
    for at in range(0, length, _ZERO_STEP):
        _clear(member.device, member.geometry.ring_start + at, min(_ZERO_STEP, length - at))
        progress(min(at + _ZERO_STEP, length))
    member.device.flush()


def _clear(device: BlockDevice, offset: int, length: int) -> None:
    """Zeros.  A block device gets them even where it has them: a thin volume, a loop device or a cloud's disk has to
    find a place for what is written there first, and the flush of a record took twice as long (0.2 ms, not 0.1).  In a
    file they are written only where there is something else: a sparse one stays sparse."""
    with scratch(length) as buffer:
        if not (isinstance(device, RawDevice) and device.block):
            device.read_into(offset, buffer)
            if buffer.tobytes() == bytes(length):  # compared as one: a loop over the bytes took a second per 64 MiB
                return
        buffer[:] = bytes(length)
        device.write(offset, buffer)


def read_superblock(device: BlockDevice) -> Superblock | None:
    """The newest valid one, or None.  Raises OLD_FORMAT, IO_ERROR."""
    if device.size < SIZE_MIN:
        return None
    slots = []
    unreadable: OSError | None = None
    for offset in slot_offsets(device.size):
        with scratch(SLOT) as buffer:
            try:
                device.read_into(offset, buffer)
            except OSError as error:  # there are four so that one may be lost
                unreadable = error
                continue
            slots.append(bytes(buffer))
    if not slots:
        assert unreadable is not None
        raise StoreError(Code.IO_ERROR, f"{device.name} cannot be read", cause=str(unreadable)) from unreadable
    return choose(slots)


# ---------------------------------------------------------------------- opening


def open_parts(
    attached: Sequence[Attached],
    database: Path,
    *,
    notes: Path,
    forsaken: Collection[str] = (),
    rebuild: bool = False,
    buffers: int | None = None,
) -> OpenParts:
    """Recovers the pool on `attached` devices with the catalogue file `database` (rebuilt if it must or shall be) and
    the note in the directory `notes`, without journals that are lost for good (`forsaken`: keepers.py).

    Raises WRONG_DEVICE, OLD_FORMAT, JOURNAL_DAMAGED, STALE, IO_ERROR, DAMAGED: always before anything was written.
    """
    supers = _census(attached)
    _require_journal(supers)
    file = NoteFile(notes, supers[0][1].pool)
    word = keepers.hear([item for _, item in supers], file, forsaken)
    newest = max((item for _, item in supers), key=lambda item: item.generation)
    devices = _members(supers, newest)
    pool = Pool(
        uuid=newest.pool,
        name=newest.pool_name,
        copies=newest.copies,
        devices=devices,
        # who is not here may be ahead of all that are, by a start or two that ended while they wrote superblocks
        generation=word.generation + (LEAP if any(device.device is None for device in devices) else 0),
        epoch=word.epoch + 1,
        created_ns=newest.created_ns,
        **({"buffers": buffers} if buffers is not None else {}),
    )
    pool.features = newest.incompatible
    pool.snapshot = newest.snapshot
    pool.tail_seq, pool.tail_offset = newest.ring_tail_seq or 1, newest.ring_tail_offset
    try:
        found = _read_journals(pool, word, {item.device: item for _, item in supers}, newest)
    except RingDamaged as error:
        if rebuild:
            raise
        found = _without_journal(pool, database, error)
    levels = _read_indexes(pool)
    index = levels[-1] if levels else None
    closed_at = newest.applied_seq if newest.state == "clean" else 0
    if rebuild:
        _require_all(index.seq if index else 0, found, closed_at)
        writer, rebuilt = _rebuild(pool, database, index), True
    else:
        writer, rebuilt = _open_catalogue(pool, database, index)
    kept, replayed, behind, unsure = _replay(pool, writer, found, closed_at)
    ring = Ring(pool.ring_length, pool.epoch)
    applied = catalogue.applied_seq(writer)
    if behind:
        log.warning("the journal ends before the catalogue does: a journal device is missing; a snapshot follows")
        last = found[-1].place if found else None
        ring.restore([], applied, last.offset + last.length if last else pool.tail_offset)
    else:
        ring.restore(kept, max(applied, pool.tail_seq - 1), pool.tail_offset)
    reader = catalogue.connect(database, cache_kib=catalogue.READER_CACHE_KIB)
    claims = catalogue.connect(database)
    pool.closing.append(claims.close)
    pool.add_space(
        lambda device: catalogue.used_by_region(
            claims, device.id, device.geometry.pages_start, device.geometry.region_size
        ),
        lambda device, low, high: claims.execute(
            "SELECT off, len FROM page WHERE dev=? AND off>=? AND off<?", (device, low, high)
        ).fetchall(),
    )
    checkpointer = Checkpointer(pool, ring, database)
    checkpointer.claim(levels)
    pool.note = partial(keepers.note, file, pool)
    try:
        pool.tell()
    except StoreError as error:
        if not pool.journals:
            raise
        log.error("%s (%s)", error.message, error.cause)  # what is there can be read: the writer tries again
    row = writer.execute("SELECT value FROM meta WHERE name='next_id'").fetchone()
    next_id = max(int(row[0]) if row else 0, FIRST_ID)
    # a snapshot whose index can't be read does not say which pages it needs: they may be used otherwise from now on
    must_checkpoint = behind or unsure or (pool.snapshot is not None and index is None)
    return OpenParts(
        pool, ring, database, writer, reader, next_id, next_id, checkpointer, must_checkpoint, behind, replayed, rebuilt
    )


def _census(attached: Sequence[Attached]) -> list[tuple[Attached, Superblock]]:
    """The superblocks of all attached devices.  Raises WRONG_DEVICE for strangers, clones and mixed pools, IO_ERROR."""
    found: list[tuple[Attached, Superblock]] = []
    for item in attached:
        superblock = read_superblock(item.device)
        if superblock is None:
            raise StoreError(
                Code.WRONG_DEVICE,
                f"{item.path} carries no readable Tierce superblock: is it the right device?"
                f" (`tierce device label {item.path}`)",
            )
        if item.device.size < superblock.geometry.size:
            raise StoreError(
                Code.WRONG_DEVICE,
                f"{item.path} has {item.device.size} bytes but its superblock says {superblock.geometry.size}: it "
                f"shrank",
            )
        found.append((item, superblock))
    if not found:
        raise StoreError(Code.WRONG_DEVICE, "no device was given: name them in the configuration's `devices`")
    pools = {superblock.pool for _, superblock in found}
    if len(pools) > 1:
        lines = ", ".join(f"{item.path}: pool {_show(superblock.pool)}" for item, superblock in found)
        raise StoreError(Code.WRONG_DEVICE, f"the devices belong to different pools ({lines})")
    seen: dict[bytes, str] = {}
    for item, superblock in found:
        if superblock.device in seen:
            raise StoreError(
                Code.WRONG_DEVICE,
                f"{item.path} and {seen[superblock.device]} are copies of one device: detach the clone",
            )
        seen[superblock.device] = item.path
    return found


def _show(identity: bytes) -> str:
    return str(uuids.UUID(bytes=identity))


def _members(supers: Iterable[tuple[Attached, Superblock]], newest: Superblock) -> list[PoolDevice]:
    """Every member that the newest superblock names, attached or missing."""
    here = {superblock.device: (item, superblock) for item, superblock in supers}
    devices = []
    for member in newest.members:
        if member.uuid in here:
            item, superblock = here.pop(member.uuid)
            if member.state == "failed":
                log.warning("%s had failed; it was reopened and is used again", item.path)
            devices.append(
                PoolDevice(member.id, member.uuid, member.tier, superblock.geometry, item.device, item.path, "online")
            )
        else:
            log.warning("device %d (%s, %s) is missing", member.id, member.hint, _show(member.uuid))
            zones = _zones_of_missing(member, [superblock.geometry for _, superblock in supers])
            devices.append(PoolDevice(member.id, member.uuid, member.tier, zones, None, member.hint, "missing"))
    for item, _ in here.values():
        raise StoreError(Code.WRONG_DEVICE, f"{item.path} was removed from this pool: take it out of `devices`")
    return devices


def _zones_of_missing(member: Member, here: Sequence[Geometry]) -> Geometry:
    """How a device that can't be asked is divided.  Rings have their default lengths or all the one that was chosen
    when
    the pool was made, so the devices that are here tell."""
    rings = [zones.ring_length for zones in here if zones.ring_length]
    defaults = [default_ring_length(zones.size) for zones in here if zones.ring_length]
    chosen = min(rings) if rings and rings != defaults else None
    return plan(member.size, journal=member.journal, ring_length=chosen if member.journal else None)


def _require_journal(supers: Iterable[tuple[Attached, Superblock]]) -> None:
    if not any(superblock.journal for _, superblock in supers):
        raise StoreError(
            Code.UNAVAILABLE,
            "none of the pool's journal devices is attached: without one nothing can be recovered; attach one",
        )


def _read_journals(pool: Pool, word: Word, supers: dict[bytes, Superblock], newest: Superblock) -> list[Found]:
    """The chain of the believed journals; every other one is made equal to it.

    Theirs miss what was acknowledged, and may hold what was taken back.  Among the believed the longest is right, for
    it holds the record that was being written.  Raises JOURNAL_DAMAGED, IO_ERROR.
    """
    members = [device for device in pool.journals if device.device is not None]
    chains: list[tuple[PoolDevice, list[Found] | None]] = []
    damage: StoreError | None = None
    for device in members:
        found: list[Found] | None = None
        try:
            found = journal.read_ring(device, pool.uuid, pool.ring_length, pool.tail_seq, pool.tail_offset)
        except RingDamaged as error:
            damage = error if not isinstance(damage, RingDamaged) or damage.last < error.last else damage
        except OSError as error:
            device.read_errors += 1
            damage = StoreError(Code.IO_ERROR, f"the journal on {device.path} cannot be read", cause=str(error))
        chains.append((device, found))

    whole = [found for device, found in chains if found is not None and device.uuid in word.believed]
    if not whole:  # what is older must not stand in for what cannot be read now
        assert damage is not None
        raise damage
    best = max(whole, key=len)
    if damage is not None and newest.state == "clean" and _last_seq(best, pool) < newest.applied_seq:
        raise damage
    for device, found in chains:
        own = supers[device.uuid]
        if keepers_of(own).isdisjoint(word.keepers):
            _require_known(device, found, best, 0, touching=bool(found) or own.snapshot == pool.snapshot)
        else:
            _require_known(device, found or [], best, 1)
    for device, found in chains:
        _align(pool, device, found or [], best)
    return best


def _require_known(
    device: PoolDevice, found: Sequence[Found] | None, best: Sequence[Found], most: int, *, touching: bool = True
) -> None:
    """A ring may end in one batch that the best has otherwise or not at all: what nobody acknowledged (I12).  If there
    are more, or one although the device was a keeper without the others, the pool was run without that device, and on
    that device without the others: what was acknowledged on one side would be lost.  Such a device's ring must also be
    `touching` the best one, which may have left it behind: else nobody can tell.  Raises JOURNAL_DAMAGED."""
    same = _common(found or [], best)
    if found is None or len(found) - same > most or not touching:
        raise StoreError(
            Code.JOURNAL_DAMAGED,
            f"the pool was written with {device.path} and without it, each time without what the other has: attach it"
            " alone, or all but it, and keep what the other side holds",
            cause=f"{len(found) - same} batches from {found[same].place.seq} on are only there" if found else "",
        )


def _common(found: Sequence[Found], best: Sequence[Found]) -> int:
    """By how many records both begin."""
    same = 0
    while same < min(len(found), len(best)) and found[same].digest == best[same].digest:
        same += 1
    return same


def _without_journal(pool: Pool, database: Path, damage: RingDamaged) -> list[Found]:
    """A damaged ring is no loss where the host's file has every batch that the ring still knows of.

    Its rows are the state after `applied_seq` (I9), so no record up to there is needed for them; the ring is needed
    again once the file is lost, and by then a snapshot that contains all of it is named (I8): the caller takes one
    before it writes any record.  Raises the damage where the file is missing, hurt, another pool's or older than the
    ring.
    """
    if not database.exists():
        raise damage
    try:
        connection = catalogue.connect(database, read_only=True)
        try:
            whole = connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok" and _is_ours(pool, connection)
            applied = catalogue.applied_seq(connection) if whole else 0
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise damage from error
    if applied < damage.last:
        raise damage
    log.warning("%s; the catalogue has all of it up to batch %d and is used, a snapshot follows", damage, applied)
    return []


def _align(pool: Pool, device: PoolDevice, found: list[Found], best: list[Found]) -> None:
    """Makes a ring hold the best chain and nothing beyond it: what it lacks, what it has otherwise (a batch that the
    others took back), what it has too much.  A device that can't be written is fenced."""
    same = _common(found, best)
    if same == len(best) == len(found):
        return
    log.warning("the journal on %s differs after %d records: made equal to the others", device.path, same)
    try:
        journal.erase_records(device, found[same:])
        journal.copy_records(device, best[same:])
    except OSError as error:
        pool.fence(device, error)


def _last_seq(found: Sequence[Found], pool: Pool) -> int:
    return found[-1].place.seq if found else pool.tail_seq - 1


def _read_indexes(pool: Pool) -> list[SnapshotIndex]:
    """`snapshot.indexes`; [] where there is no snapshot, or one can't be read (the host's file may still do)."""
    if pool.snapshot is None:
        return []
    try:
        return snapshot.indexes(pool, pool.snapshot)
    except (StoreError, DamagedError) as error:
        log.error("the catalogue's snapshot cannot be read: %s", error)
        return []


# ---------------------------------------------------------------------- the catalogue


def _identity(pool: Pool) -> tuple[int, int]:
    high, low = pool.uuid[:8], pool.uuid[8:]
    return int.from_bytes(high, "little", signed=True), int.from_bytes(low, "little", signed=True)


def _is_ours(pool: Pool, connection: sqlite3.Connection) -> bool:
    names = ("pool_high", "pool_low")
    rows = [connection.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone() for name in names]
    return tuple(row[0] if row else None for row in rows) == _identity(pool)


def _open_catalogue(pool: Pool, database: Path, index: SnapshotIndex | None) -> tuple[sqlite3.Connection, bool]:
    """The host's file if it is this pool's and young enough, else one made from the snapshot (or empty)."""
    if database.exists():
        reason = ""
        try:
            connection = catalogue.open_writer(database)
            applied = catalogue.applied_seq(connection)
            if not _is_ours(pool, connection):
                reason = "it belongs to another pool"
            elif applied + 1 < pool.tail_seq:
                reason = f"it ends at batch {applied} and the journal begins at {pool.tail_seq}"
            else:
                return connection, False
            connection.close()
        except sqlite3.DatabaseError as error:
            reason = str(error)
        log.warning("the catalogue %s cannot be used (%s): it is put aside and rebuilt", database, reason)
    return _rebuild(pool, database, index), True


def put_aside(database: Path) -> None:
    """Renames the catalogue and its WAL away: nothing is deleted."""
    for suffix in ("", "-wal", "-shm"):
        old = database.with_name(database.name + suffix)
        with suppress(FileNotFoundError):
            os.replace(old, database.with_name(f"{database.name}.aside{suffix}"))


def _rebuild(pool: Pool, database: Path, index: SnapshotIndex | None) -> sqlite3.Connection:
    """From the devices alone.  Raises DAMAGED, IO_ERROR: then what is there was not put aside."""
    temporary = database.with_name(database.name + ".rebuilding")
    if pool.snapshot is not None:
        if index is None:
            raise StoreError(
                Code.DAMAGED,
                "neither the catalogue nor its snapshot can be read: attach every device of the pool",
            )
        snapshot.restore(pool, index, temporary)
    elif pool.tail_seq > 1:
        raise StoreError(Code.DAMAGED, "the journal does not begin at the first batch and no snapshot is named")
    put_aside(database)  # a WAL without its file (a crash between two renames) must never meet another file
    if pool.snapshot is not None:
        os.replace(temporary, database)
    connection = catalogue.open_writer(database)
    for name, value in zip(("pool_high", "pool_low"), _identity(pool), strict=True):
        catalogue.set_meta(connection, name, value)
    return connection


def _replay(
    pool: Pool, writer: sqlite3.Connection, found: list[Found], closed_at: int
) -> tuple[list[Found], int, bool, bool]:
    """Brings the catalogue up to the journal.  Returns the records that stand, how many were replayed, whether the
    journal ends before the catalogue, and whether the last record might seem torn to a start with other devices: then
    a snapshot must have it, before anybody sees what is in it.

    `closed_at` is the last batch of a pool that was closed cleanly, else 0: up to it nothing can be torn, so what is
    missing was damaged since, and must not be dropped as if it had never been acknowledged.  Raises JOURNAL_DAMAGED.
    """
    applied = catalogue.applied_seq(writer)
    try:
        _require_all(applied, found, closed_at)
    except StoreError:
        writer.close()
        raise
    kept, unsure = found, False
    if found and found[-1].place.seq > max(applied, closed_at):
        last = found[-1].place
        verdict = examine(pool, found[-1])
        unsure = verdict.stands and not verdict.full
        if not verdict.stands:
            log.warning("the last batch (%d) was torn by the crash and was never acknowledged: dropped", last.seq)
            if not journal.invalidate(pool, last.offset):
                raise StoreError(Code.IO_ERROR, "the journal cannot be written")
            kept = found[:-1]
    todo = [item for item in kept if item.place.seq > applied]
    if todo:
        assert todo[0].place.seq == applied + 1, "the chain has no gap"
        writer.execute("BEGIN IMMEDIATE")
        for item in todo:
            catalogue.replay(writer, item.decode().images)
        catalogue.set_meta(writer, "applied_seq", todo[-1].place.seq)
        writer.execute("COMMIT")
    return kept, len(todo), _last_seq(kept, pool) < applied, unsure


def _require_all(applied: int, found: Sequence[Found], closed_at: int) -> None:
    there = max(applied, found[-1].place.seq if found else 0)
    if there < closed_at:
        raise StoreError(
            Code.JOURNAL_DAMAGED,
            f"the pool was closed after batch {closed_at} but its journal can be read only up to batch {there}:"
            " attach another journal device, or put the catalogue file back",
        )


def unlinked_nodes(connection: sqlite3.Connection) -> list[int]:
    """Nodes that only an open file or directory kept when the box stopped: nobody holds them now."""
    rows: list[Any] = connection.execute(
        "SELECT id FROM node WHERE links=0 UNION ALL"
        f" SELECT id FROM node WHERE flags & {IMPLIED} AND NOT EXISTS (SELECT 1 FROM entry WHERE parent=node.id)"
    ).fetchall()
    return [row[0] for row in rows]
