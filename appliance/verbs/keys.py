"""Data keys: the one that seals what is written, a new one, and all of them under a new master key."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import trio

from appliance import encryption
from appliance.catalogue import commands
from appliance.encryption import KeyRing
from appliance.engine.engine import Engine
from appliance.errors import Code, StoreError
from appliance.model import DataKey, WrappedKey
from appliance.verbs.base import Verbs, now

log = logging.getLogger(__name__)

type_every = Callable[..., list[Any]]


class KeyVerbs(Verbs):
    """What SSE-S3 needs.  A key is durable before anything is sealed with it."""

    def __init__(self, engine: Engine, database_path: str, ring: KeyRing) -> None:
        super().__init__(engine, database_path)
        self._ring = ring
        self._making = trio.Lock()
        self.rotating = trio.Lock()  # one rotation of the master key at a time: each forgets what it did not make
        engine.pool.data_key = ring.secret

    async def data_key(self) -> DataKey:
        """What seals new data; made when there is none, or when the newest is under a master key that is lost.  Raises
        UNAVAILABLE in a process without master keys, READ_ONLY."""
        found = self._newest()
        if found is None:
            async with self._making:
                found = self._newest() or await self._make()
        return found

    def _newest(self) -> DataKey | None:
        try:
            return self._ring.newest()
        except StoreError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
            self._ring.require_vault()
            log.warning("new data gets a new data key: %s", error.message)
            return None

    async def customer_key(self, raw: bytes) -> DataKey:
        """What seals new data under a customer's 32 bytes.  Raises IO_ERROR when no device could be written."""
        await self._declare()
        return encryption.customer_key(raw)

    async def _declare(self) -> None:
        pool = self.engine.pool
        if not pool.sealed:
            await self.engine.between_batches(pool.declare_sealed)

    async def new_data_key(self) -> DataKey:
        """From now on another key seals; what is there stays as it is, and readable."""
        async with self._making:
            return await self._make()

    async def _make(self) -> DataKey:
        await self._declare()
        made = self._ring.make(self.engine.new_id(), now())
        await self.engine.submit(commands.PutDataKeys(keys=(made,))).wait()  # the mount may wait for it: nobody is told
        log.info("data key %d seals from now on", made.id)
        return self._ring.key(made.id)

    async def rewrap_data_keys(self) -> tuple[int, list[int]]:
        """Every data key under the vault's current master key, durable; how many were changed, and the numbers of those
        that an absent master key wraps.  Raises DAMAGED, UNAVAILABLE (no master keys at all)."""
        async with self._making:  # a key that is being made may be under the master key that is about to go
            keys, closed = self._ring.rewrapped()
            if keys:
                await self.commit(commands.PutDataKeys(keys=tuple(keys)))
            return len(keys), closed

    def data_keys(self) -> list[WrappedKey]:
        """All, oldest first."""
        return list(self.engine.data_keys.values())

    async def renew_data_key(self) -> bool:
        """Makes another one if the newest is due to be replaced (encryption.is_due); whether it did."""
        keys = self.data_keys()
        if not keys:
            return False
        sealed = await self.engine.scans.call(self.snapshot, _sealed, keys[-1].id)
        if not encryption.is_due(keys[-1], sealed, now()):
            return False
        await self.new_data_key()
        return True


def _sealed(every: type_every, number: int) -> int:
    """Bytes that a key has sealed and that are still there."""
    return int(every("SELECT coalesce(sum(len), 0) FROM chunk WHERE key=?", (number,))[0][0])
