"""From paths to a running store, and back: the one place where devices, recovery, engine and store are put together.

The daemon, the offline commands and the tests open a pool here.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from appliance.credentials import Vault
from appliance.device.device import BlockDevice
from appliance.device.lanes import CallLanes, InlineLanes, Lanes
from appliance.device.raw import RawDevice
from appliance.encryption import KeyRing
from appliance.engine.engine import Engine
from appliance.engine.startup import Attached, OpenParts, open_parts, read_superblock, unlinked_nodes
from appliance.errors import Code, StoreError
from appliance.store import ObjectStore

log = logging.getLogger(__name__)

CATALOGUE = "catalogue.db"
LOCK = "lock"
READ_THREADS = 8


@contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """One process at a time works on a state directory.  Raises IN_USE, NO_SPACE."""
    state_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(state_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(
                Code.IN_USE, f"{state_dir} is in use: another tierce runs on this pool (`tierce pool status` asks it)"
            ) from None
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, b"%d\n" % os.getpid())
        except OSError as error:
            raise StoreError(Code.NO_SPACE, f"{state_dir} cannot be written: {error.strerror}") from error
        yield
    finally:
        os.close(descriptor)


def holder(state_dir: Path) -> int:
    """The process that holds the lock; 0 where none does, whoever has the number of the last one by now."""
    try:
        descriptor = os.open(state_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return 0
    except BlockingIOError:
        return int(os.read(descriptor, 20) or 0)
    finally:
        os.close(descriptor)


def attach(paths: Sequence[str], *, read_only: bool = False) -> list[Attached]:
    """Opens devices exclusively and reads where the superblock is: a dead disk may well be opened.  Raises IN_USE,
    UNAVAILABLE, OLD_FORMAT, IO_ERROR; then none stays open."""
    opened: list[Attached] = []
    try:
        for path in paths:
            opened.append(Attached(path, RawDevice.open(path, read_only=read_only)))
            read_superblock(opened[-1].device)
    except BaseException:
        for item in opened:
            item.device.close()
        raise
    return opened


def close_all(devices: Sequence[Attached]) -> None:
    """Closes what `attach` opened."""
    for item in devices:
        item.device.close()


@asynccontextmanager
async def open_store(
    devices: Sequence[tuple[str, BlockDevice]],
    database: Path,
    *,
    vault: Vault | None = None,
    threaded: bool = True,
    buffers: int | None = None,
    notes: Path | None = None,
    forsaken: Collection[str] = (),
    rebuild: bool = False,
) -> AsyncIterator[ObjectStore]:
    """Recovers the pool on open devices and runs it; closes both at the end.  `notes`: the state directory, if the
    database lies elsewhere; `forsaken`: journals that are lost for good, as the refusal to do without names them;
    `rebuild` puts the catalogue aside, so that it is made again from the devices alone.

    Without a `vault` encrypted objects are there but cannot be read or made.  `threaded=False` runs everything in the
    loop's own thread, for simulations.  Raises what `startup.open_parts` raises.
    """
    attached = [Attached(path, device) for path, device in devices]
    recover = partial(
        open_parts,
        attached,
        database,
        notes=notes or database.parent,
        forsaken=forsaken,
        rebuild=rebuild,
        buffers=buffers,
    )
    if threaded:
        lanes: CallLanes = Lanes(READ_THREADS, "device")
        scans: CallLanes = Lanes(1, "scan")
        try:
            parts = await lanes.call(recover)
        except BaseException:
            lanes.close()
            scans.close()
            raise
    else:
        lanes, scans = InlineLanes(), InlineLanes()
        parts = recover()
    if parts.must_checkpoint:
        await lanes.call(_checkpoint, parts)  # before there is a writer: the ring is nobody's
    engine = Engine(parts, lanes, scans, threaded=threaded)
    store = ObjectStore(engine, str(database), KeyRing(vault, lambda: engine.data_keys))
    for node in unlinked_nodes(parts.reader):
        engine.reap(node)
    try:
        yield store
    finally:
        await store.close()


def _checkpoint(parts: OpenParts) -> None:
    """A snapshot that recovery wants.  What the host's file holds is served without it, so a failure stops nothing but
    where the records to come could not be found behind those that are there."""
    try:
        parts.checkpointer.take()
    except (StoreError, OSError, sqlite3.Error) as error:
        if parts.unchained:
            parts.reader.close()
            parts.writer.close()
            raise
        log.error("the catalogue's snapshot could not be taken: %s", error)


@asynccontextmanager
async def open_pool(paths: Sequence[str], state_dir: Path) -> AsyncIterator[ObjectStore]:
    """The pool on these paths, locked against a second process."""
    with state_lock(state_dir):
        devices = attach(paths)
        database = state_dir / CATALOGUE
        try:
            async with open_store([(item.path, item.device) for item in devices], database) as store:
                yield store
        finally:
            close_all(devices)
