"""What a running box does by the clock: snapshots of the catalogue, the end of forgotten uploads, new data keys, the
time of locks.

Why: a snapshot bounds how much journal a restart replays even when little is written; an upload that its client forgot
holds space that nobody sees; a data key should not seal for ever (encryption.py); how late it is must be kept where
objects are locked, so that a restart under another clock frees nothing.  All are small, so one task does one after the
other and then rests.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import trio

from appliance import settings
from appliance.errors import StoreError

if TYPE_CHECKING:
    from appliance.store import ObjectStore

log = logging.getLogger(__name__)

ROUND: Final = 60.0  # seconds between two looks
KEY_LOOK: Final = 86_400.0  # seconds between two looks at the newest data key
TIME_KEPT: Final = 3600.0  # seconds between two records of the time
EXPIRED_AT_ONCE: Final = 100  # uploads aborted in one go: each is a small commit


async def run_chores(
    store: ObjectStore, *, snapshot_interval: float, upload_expiry: float, round_seconds: float = ROUND
) -> None:
    """Until cancelled.  Seconds; an `upload_expiry` of 0 keeps uploads for ever."""
    next_snapshot = trio.current_time() + snapshot_interval
    next_key_look = trio.current_time() + KEY_LOOK
    next_time = trio.current_time()
    while True:
        await trio.sleep(round_seconds)
        if upload_expiry:
            await _expire_uploads(store, time.time_ns() - int(upload_expiry * 1e9))
        if trio.current_time() >= next_key_look:
            await renew_data_key(store)
            next_key_look = trio.current_time() + KEY_LOOK
        if trio.current_time() >= next_time and any(settings.LOCK in each.settings for each in store.buckets()):
            await _keep_time(store)
            next_time = trio.current_time() + TIME_KEPT
        if trio.current_time() >= next_snapshot:
            store.checkpoint()
            next_snapshot = trio.current_time() + snapshot_interval


async def _expire_uploads(store: ObjectStore, before_ns: int) -> None:
    try:
        while expired := await store.expire_uploads(before_ns, EXPIRED_AT_ONCE):
            log.info("%d forgotten uploads were aborted", expired)
    except StoreError as error:  # a pool that takes no more changes: what it still serves must not end with its chores
        log.warning("forgotten uploads could not be aborted: %s", error.message)


async def renew_data_key(store: ObjectStore) -> None:
    """Another data key when the newest is due; without its master key the old one goes on sealing."""
    try:
        await store.renew_data_key()
    except StoreError as error:
        log.error("no new data key could be made: %s", error.message)


async def _keep_time(store: ObjectStore) -> None:
    try:
        await store.keep_time()
    except StoreError as error:  # a full box: the next round tries again, and until then nothing is freed too early
        log.warning("the time of object lock could not be kept: %s", error.message)
