"""The keys that encrypt objects: whose they are and how they are known again.

Theory.  Two kinds of data keys seal pages (ondisk/cipher.py):

    the box's      32 random bytes, in a row of the catalogue, wrapped by the vault's master key (credentials.py).  So a
                   stolen device, journal or snapshot opens nothing, a rebuilt catalogue has its keys again, and a new
                   master key costs a few rows.  The newest one seals; all of them open.  A new one is taken into use by
                   command, or when the newest is old or has sealed much (`is_due`): not because AES-GCM would need it,
                   as every page has a subkey of its own, but to bound what one leaked key opens.
    a customer's   SSE-C: it comes with each request and is forgotten with it.  What is stored is a verifier: a salt and
                   a digest keyed with the key itself, by which the right key is known and no key can be found.  The key
                   that seals is derived from it, so that neither says anything about the other.

A lost master key loses what its data keys sealed, and nothing else: everything in clear, and new writes under the
master key that is here, go on.

It deliberately doesn't know requests, buckets and rows.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Final

from blake3 import blake3

from appliance.credentials import Vault
from appliance.errors import Code, StoreError
from appliance.limits import DATA_KEY_AGE_MAX, DATA_KEY_BYTES_MAX
from appliance.model import CUSTOMER, DataKey, WrappedKey

KEY: Final = 32  # bytes: AES-256
SALT: Final = 16
_KEY_CONTEXT: Final = "tierce 2026 customer key"
_VERIFIER_CONTEXT: Final = "tierce 2026 customer key verifier"


# ---------------------------------------------------------------------- customers' keys


def customer_key(raw: bytes) -> DataKey:
    """What seals and opens under the customer's 32 bytes."""
    assert len(raw) == KEY
    return DataKey(CUSTOMER, blake3(raw, derive_key_context=_KEY_CONTEXT).digest())


def new_verifier(raw: bytes) -> bytes:
    """By which the customer's key will be known again: salt and digest."""
    return _verifier(raw, secrets.token_bytes(SALT))


def is_key(raw: bytes, verifier: bytes) -> bool:
    """Whether `verifier` was made with this key; in constant time."""
    return hmac.compare_digest(_verifier(raw, verifier[:SALT]), verifier)


def _verifier(raw: bytes, salt: bytes) -> bytes:
    derived = blake3(raw, derive_key_context=_VERIFIER_CONTEXT).digest()
    return salt + blake3(salt, key=derived).digest()


# ---------------------------------------------------------------------- the box's keys


class KeyRing:
    """The box's data keys, opened when they are needed.  From any thread."""

    def __init__(self, vault: Vault | None, rows: Callable[[], Mapping[int, WrappedKey]]) -> None:
        self._vault = vault
        self._rows = rows
        self._opened: dict[int, DataKey] = {}
        self._lock = threading.Lock()

    def secret(self, number: int) -> bytes:
        """The key of that number.  Raises UNAVAILABLE (its master key is not here), DAMAGED."""
        return self.key(number).secret

    def key(self, number: int) -> DataKey:
        """The same as a DataKey."""
        found = self._opened.get(number)
        if found is None:
            row = self._rows().get(number)
            if row is None:
                raise StoreError(Code.DAMAGED, "the data's key is not in the catalogue", cause=f"data key {number}")
            found = DataKey(number, self.require_vault().unwrap(number, row.wrapped))
            with self._lock:
                self._opened[number] = found
        return found

    def newest(self) -> DataKey | None:
        """What seals; None before the first.  Raises as `secret` does."""
        rows = self._rows()
        return self.key(max(rows)) if rows else None

    def require_vault(self) -> Vault:
        """The master keys.  Raises UNAVAILABLE in a process without."""
        if self._vault is None:
            raise StoreError(Code.UNAVAILABLE, "the master key is not here: encrypted data cannot be used")
        return self._vault

    def make(self, number: int, now_ns: int) -> WrappedKey:
        """A new data key for the catalogue."""
        return WrappedKey(number, self.require_vault().wrap(number, secrets.token_bytes(KEY)), now_ns)

    def rewrapped(self) -> tuple[list[WrappedKey], list[int]]:
        """Every key that an older master key wraps, under the current one; and the numbers of those whose master key is
        not here.  Raises DAMAGED."""
        vault = self.require_vault()
        changed: list[WrappedKey] = []
        closed: list[int] = []
        for row in self._rows().values():
            if vault.wraps(row.wrapped):
                continue
            try:
                changed.append(WrappedKey(row.id, vault.wrap(row.id, self.secret(row.id)), row.created_ns))
            except StoreError as error:
                if error.code is not Code.UNAVAILABLE:
                    raise
                closed.append(row.id)
        return changed, closed


def is_due(newest: WrappedKey, sealed: int, now_ns: int) -> bool:
    """Whether another key should take the place of the newest, which has sealed so many bytes."""
    return sealed >= DATA_KEY_BYTES_MAX or now_ns - newest.created_ns >= DATA_KEY_AGE_MAX
