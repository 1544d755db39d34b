"""How a batch can fail, for the writer alone: what its caller sees is a StoreError."""

from __future__ import annotations

import sqlite3

from appliance.errors import Code, StoreError


def catalogue_error(error: sqlite3.Error) -> StoreError:
    """SQLite's failure before anything was written to a device: the batch is as if it had never been."""
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return StoreError(Code.NO_SPACE, "the host's disk is full: the catalogue cannot grow", cause=str(error))
    return StoreError(Code.UNAVAILABLE, "the catalogue cannot be written now", cause=str(error))


class Fenced(StoreError):
    """A device failed the barrier and takes no more writes: the batch is as if it had never been."""


class OverQuota(Exception):
    """A command adds more than a quota allows: the batch is applied again so that the command can be left out."""


class Bug(StoreError):
    """A failed assertion or the like, before anything was written: the command that met it must fail, and no other."""


class RingFull(Exception):
    """The ring must be checkpointed before this record fits (I8)."""
