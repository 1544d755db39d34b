"""A new master key: everything that the old ones seal is sealed again, and they are forgotten.

The order makes every moment safe: the new key is durable in the vault before anything is sealed with it; every secret
is durable in the catalogue before the old keys go.  An interruption leaves more master keys than needed, never too few;
the next rotation takes them along.  The objects themselves are not touched: only the keys that seal them are.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
import trio

from appliance.errors import Code, StoreError

if TYPE_CHECKING:
    from appliance.credentials import Vault
    from appliance.store import ObjectStore

log = logging.getLogger(__name__)


class Rotated(msgspec.Struct, frozen=True):
    """What a rotation did.  `lost` names what an absent master key seals: it stays as it is, and closed."""

    master_key: str
    access_keys: int
    data_keys: int
    lost: list[str]


async def rotate_master_key(store: ObjectStore, vault: Vault) -> Rotated:
    """Raises READ_ONLY when the master key comes from systemd, DAMAGED when a sealed secret was altered: then the old
    keys stay."""
    async with store.rotating:
        master = await trio.to_thread.run_sync(vault.rotate)
        await store.settle()  # a key that was sealed with the old one and is not there yet
        lost: list[str] = []
        access_keys = 0
        for key in store.access_keys():
            if vault.is_current(key):
                continue
            try:
                fresh = vault.reseal(key)
            except StoreError as error:
                if error.code is not Code.UNAVAILABLE:
                    raise
                lost.append(key.id)
                continue
            try:
                await store.put_access_key(fresh, replaces=True)
            except StoreError as error:
                if error.code is not Code.NO_SUCH_KEY:
                    raise
                continue  # revoked meanwhile
            access_keys += 1
        data_keys, closed = await store.rewrap_data_keys()
        lost += [f"data key {number}" for number in closed]
        await trio.to_thread.run_sync(vault.forget_old)
    log.info("master key %s seals from now on", master)
    return Rotated(master, access_keys, data_keys, lost)
