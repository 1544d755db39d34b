"""Buckets, users, credentials and data keys: few, looked up by every request, and so kept in memory.

They are read again after each change of one.  A row that lies by then gives way to what memory has, which was proven
when it was read; without that what it is of is withheld: no key lets in whom it should not, and no bucket is shown that
lacks a policy, a lock or a version.  (When the pool is opened such a catalogue is not used: `open_writer`.)
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

from appliance import settings
from appliance.catalogue import buckets
from appliance.catalogue.proven import type_all
from appliance.model import AccessKey, Bucket, User, WrappedKey

log = logging.getLogger(__name__)

T = TypeVar("T")
K = TypeVar("K")


class Registry(NamedTuple):
    """What one state of the catalogue has."""

    buckets: dict[str, Bucket]
    versioned: frozenset[int]  # buckets that have or had versions
    access_keys: dict[str, AccessKey]
    users: dict[str, User]
    data_keys: dict[int, WrappedKey]


NOTHING: Final = Registry({}, frozenset(), {}, {}, {})


def load(every: type_all, before: Registry) -> Registry:
    """As the catalogue has them; of what is damaged as they were `before`."""
    found = _read(every, buckets.all_buckets, before.buckets, lambda bucket: bucket.name)
    return Registry(
        found,
        frozenset(bucket.id for bucket in found.values() if settings.VERSIONING in bucket.settings),
        _read(every, buckets.all_access_keys, before.access_keys, lambda key: key.id),
        _read(every, buckets.all_users, before.users, lambda user: user.id),
        _read(every, buckets.all_data_keys, before.data_keys, lambda key: key.id),
    )


def _read(
    every: type_all,
    table: Callable[[type_all], tuple[list[T], list[str]]],
    before: dict[K, T],
    key: Callable[[T], K],
) -> dict[K, T]:
    """What a table has; with what was known before if any of it is damaged."""
    try:
        found, bad = table(every)
    except sqlite3.DatabaseError as error:  # text that is none any more
        found, bad = [], [str(error)]
    rows = {key(item): item for item in found}
    if not bad:
        return rows
    log.error("the catalogue is damaged (%s): restart, and it is rebuilt from the devices", "; ".join(bad))
    return before | rows
