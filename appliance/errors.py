"""The one family of errors that the store raises.

A `StoreError` carries a `Code`; each door turns codes into its own language by one table (s3front/errors.py: S3 codes
and
HTTP statuses; fusefs/errors.py: errno).  This module knows neither HTTP nor errno.  Bugs are assertions, never
StoreErrors.
"""

from __future__ import annotations

import enum


class Code(enum.Enum):
    """What went wrong, in the store's words."""

    # names
    NO_SUCH_BUCKET = "no such bucket"
    NO_SUCH_KEY = "no such key"
    NO_SUCH_VERSION = "no such version"
    NO_SUCH_UPLOAD = "no such upload"
    NO_SUCH_NODE = "no such file"
    BUCKET_EXISTS = "bucket exists"
    BUCKET_OWNED = "bucket exists and is yours"
    BUCKET_NOT_EMPTY = "bucket is not empty"
    EXISTS = "name exists"
    NOT_A_DIRECTORY = "not a directory"
    IS_A_DIRECTORY = "is a directory"
    NOT_EMPTY = "directory is not empty"
    CROSSES_BUCKETS = "crosses buckets"
    NAME_TOO_LONG = "name is too long"
    INVALID_NAME = "invalid name"
    NOT_SUPPORTED = "not supported here"
    # requests
    INVALID_ARGUMENT = "invalid argument"
    PRECONDITION_FAILED = "precondition failed"
    CONFLICT = "changed meanwhile"
    LOCKED = "protected by object lock"
    NOT_LOCKABLE = "bucket without object lock"
    INVALID_PART = "invalid part"
    INVALID_PART_ORDER = "parts are out of order"
    PART_TOO_SMALL = "part is too small"
    TOO_LARGE = "too large"
    ACCESS_DENIED = "access denied"
    MALFORMED_POLICY = "malformed policy"
    # space and devices
    NO_SPACE = "no space left"
    QUOTA_EXCEEDED = "quota exceeded"
    DAMAGED = "data is damaged"
    IO_ERROR = "device error"
    UNAVAILABLE = "not available now"
    READ_ONLY = "read-only"
    # opening a pool
    WRONG_DEVICE = "wrong device"
    IN_USE = "in use"
    OLD_FORMAT = "format is not supported"
    JOURNAL_DAMAGED = "journal is damaged"
    STALE = "what is up to date is missing"


class StoreError(Exception):
    """An operating error: expected, answered, harmless to what is stored.

    `code` decides what a door answers; `message` is for people and says what to do next where something can be done;
    `cause` for logs (a device, an offset) never reaches a client.
    """

    def __init__(self, code: Code, message: str = "", *, cause: str = "") -> None:
        super().__init__(message or code.value)
        self.code = code
        self.message = message or code.value
        self.cause = cause

    def __repr__(self) -> str:
        return f"StoreError({self.code.name}, {self.message!r}, cause={self.cause!r})"
