"""Buckets and credentials: plain functions of a batch's `Rows` and a command."""

from __future__ import annotations

import logging
import stat
from typing import Final

from appliance import settings
from appliance.catalogue import uploads
from appliance.catalogue.commands import (
    CreateBucket,
    DeleteBucket,
    KeepTime,
    PutAccessKey,
    PutDataKeys,
    PutUser,
    RemoveAccessKey,
    RemoveUser,
    SetBucketSetting,
)
from appliance.catalogue.database import Rows
from appliance.catalogue.names import DirectoryCache
from appliance.catalogue.proven import is_proven, require, rows_of, settings_of, type_all, type_row
from appliance.catalogue.schema import ACCESS_KEY, BUCKET, DATA_KEY, ENTRY, META, NODE, SETTING, USAGE, USER
from appliance.errors import Code, StoreError
from appliance.model import UNOWNED, AccessKey, Bucket, Change, User, WrappedKey

log = logging.getLogger(__name__)

# What `usage` says of a bucket; slow.
_STORED: Final = (
    "SELECT count(*), coalesce(sum(size), 0) FROM (SELECT n.size AS size FROM entry e JOIN node p ON p.id=e.parent"
    f" JOIN node n ON n.id=e.node WHERE p.bucket=?1 AND (n.mode & {stat.S_IFMT(0o170000)})={stat.S_IFREG}"
    " UNION ALL SELECT n.size FROM version v JOIN node n ON n.id=v.node WHERE v.bucket=?1)"
)
_BEGUN: Final = "SELECT coalesce(sum(p.size), 0) FROM part p JOIN upload l ON l.id=p.upload WHERE l.bucket=?"

SEEN = "seen_ns"  # the row of META that `keep_time` writes


def _bucket(row: type_row, settings: dict[str, bytes]) -> Bucket:
    """From a row without its sum."""
    number, _, project, name, created_ns, root, owner, copies, etag = row
    return Bucket(number, project, name, created_ns, root, owner, copies, etag, settings)


def all_buckets(every: type_all) -> tuple[list[Bucket], list[str]]:
    """Every bucket, by name; and what is damaged.  One that has a damaged setting is not among them."""
    held: dict[int, dict[str, bytes]] = {}
    rows, hurt = rows_of(every, SETTING, "bucket, name")
    for bucket, name, body in rows:
        held.setdefault(bucket, {})[name] = body
    withheld = {key[0] for key in hurt}
    rows, bad = rows_of(every, BUCKET, "name")
    found = [_bucket(row, held.get(row[0], {})) for row in rows if row[0] not in withheld]
    return found, [f"setting {key}" for key in hurt] + [f"bucket {key}" for key in bad]


def all_access_keys(every: type_all) -> tuple[list[AccessKey], list[str]]:
    """Every credential, by name; and what is damaged."""
    rows, bad = rows_of(every, ACCESS_KEY, "name, id")
    found = [
        AccessKey(number, name, owner, created, sealed, bool(read_only), tuple(allowed.split("\n")) if allowed else ())
        for number, name, owner, created, sealed, read_only, allowed in rows
    ]
    return found, [f"access_key {key}" for key in bad]


def create_bucket(tx: Rows, command: CreateBucket) -> Bucket:
    """Raises BUCKET_OWNED, BUCKET_EXISTS."""
    row = tx.one("SELECT owner FROM bucket WHERE name=?", (command.name,))
    if row is not None:
        raise StoreError(Code.BUCKET_OWNED if row[0] == command.owner else Code.BUCKET_EXISTS)
    number, root, now = tx.new_id(), tx.new_id(), command.now_ns
    tx.put(
        BUCKET,
        (
            number,
            "default",
            command.project,
            command.name,
            now,
            root,
            command.owner,
            command.copies,
            command.etag,
        ),
    )
    mode = stat.S_IFDIR | 0o755
    tx.put(NODE, (root, mode, 0, 0, 2, 0, now, now, now, now, 0, "", 0, 0, b"", UNOWNED, b"", number, b"", 0))
    for name, body in command.settings.items():
        tx.put(SETTING, (number, name, body))
    tx.note(Change(0, command.name.encode(), True, 0, False))
    return Bucket(
        number,
        command.project,
        command.name,
        now,
        root,
        command.owner,
        command.copies,
        command.etag,
        command.settings,
    )


def delete_bucket(tx: Rows, cache: DirectoryCache, command: DeleteBucket) -> Bucket:
    """Raises NO_SUCH_BUCKET, BUCKET_NOT_EMPTY, DAMAGED.  Empty directories go with it, for S3 cannot see them, and so
    do unfinished uploads, which a crashed client leaves behind and no listing of objects shows."""
    row = tx.one(f"SELECT {', '.join(BUCKET.columns)} FROM bucket WHERE name=?", (command.name,))
    if row is None:
        raise StoreError(Code.NO_SUCH_BUCKET)
    bucket = _bucket(require(BUCKET, row), {})
    if tx.one("SELECT 1 FROM version WHERE bucket=? LIMIT 1", (bucket.id,)) is not None:
        raise StoreError(Code.BUCKET_NOT_EMPTY, "older versions or delete markers remain: delete them by version id")
    directories = [(0, b"", bucket.root)]
    for _, _, directory in directories:  # grows while it is walked
        for name, node in tx.all("SELECT name, node FROM entry WHERE parent=? ORDER BY name", (directory,)):
            if not name.endswith(b"/"):
                raise StoreError(Code.BUCKET_NOT_EMPTY)
            directories.append((directory, name, node))
    uploads.abort_all(tx, bucket.id)
    for parent, name, node in reversed(directories):
        tx.delete(NODE, (node,))
        if node != bucket.root:
            tx.delete(ENTRY, (parent, name))
            tx.drop_directory(parent, name)
            cache.drop(parent, name)
    for (setting,) in tx.all("SELECT name FROM setting WHERE bucket=?", (bucket.id,)):
        tx.delete(SETTING, (bucket.id, setting))
    tx.delete(BUCKET, (bucket.id,))
    tx.delete(USAGE, (bucket.id,))
    tx.usage.pop(bucket.id, None)
    tx.charged.pop(bucket.id, None)
    tx.buckets.pop(bucket.id, None)
    tx.note(Change(0, bucket.label, True, bucket.root, True))
    return bucket


def put_access_key(tx: Rows, command: PutAccessKey) -> None:
    """Adds or replaces a credential.  Raises NO_SUCH_KEY."""
    key = command.key
    if command.replaces and tx.one("SELECT 1 FROM access_key WHERE id=?", (key.id,)) is None:
        raise StoreError(Code.NO_SUCH_KEY, "no such access key")
    buckets = "\n".join(key.buckets)
    tx.put(ACCESS_KEY, (key.id, key.name, key.owner, key.created_ns, key.sealed, int(key.read_only), buckets))


def remove_access_key(tx: Rows, command: RemoveAccessKey) -> None:
    """Raises NO_SUCH_KEY."""
    if tx.one("SELECT 1 FROM access_key WHERE id=?", (command.id,)) is None:
        raise StoreError(Code.NO_SUCH_KEY, "no such access key")
    tx.delete(ACCESS_KEY, (command.id,))


def write_usage(tx: Rows) -> None:
    """The end of a batch: what its buckets hold, one row each.  From a row that lies nothing is counted on: all that
    the bucket holds is counted again, or the lie would have a sum, and be in the journal."""
    for bucket, (objects, size, parts) in tx.usage.items():
        row = tx.one("SELECT * FROM usage WHERE bucket=?", (bucket,)) or (bucket, 0, 0, 0, 0)
        if is_proven(USAGE, row):
            tx.put(USAGE, (bucket, row[1] + objects, row[2] + size, row[3] + parts))
        else:
            log.error("what bucket %d holds is damaged in the catalogue: it is counted again", bucket)
            stored, begun = tx.one(_STORED, (bucket,)), tx.one(_BEGUN, (bucket,))
            tx.put(USAGE, (bucket, *stored, *begun))


def set_setting(tx: Rows, command: SetBucketSetting) -> None:
    """Stores a bucket's document, or takes it away.  Raises NO_SUCH_BUCKET, LOCKED (object lock without versions)."""
    if tx.one("SELECT 1 FROM bucket WHERE id=?", (command.bucket,)) is None:
        raise StoreError(Code.NO_SUCH_BUCKET)
    if command.name in (settings.VERSIONING, settings.LOCK):
        _check_lock(tx, command)
    tx.buckets.pop(command.bucket, None)
    if command.body is not None:
        tx.put(SETTING, (command.bucket, command.name, command.body))
    elif tx.one("SELECT 1 FROM setting WHERE bucket=? AND name=?", (command.bucket, command.name)) is not None:
        tx.delete(SETTING, (command.bucket, command.name))


def _check_lock(tx: Rows, command: SetBucketSetting) -> None:
    """A lock needs versions, and neither ever goes again."""
    assert command.body is not None, "versions and locks are never taken away"
    now = {**settings_of(tx.all, command.bucket), command.name: command.body}
    if settings.LOCK in now and now.get(settings.VERSIONING) != settings.ENABLED:
        raise StoreError(Code.LOCKED, "object lock needs versions, which stay enabled")


def keep_time(tx: Rows, command: KeepTime) -> None:
    """Never back.  Raises DAMAGED."""
    if seen_time(tx.all) < command.seen_ns:
        tx.put(META, (SEEN, command.seen_ns))


def seen_time(every: type_all) -> int:
    """What `keep_time` kept; 0 in a new pool.  Raises DAMAGED."""
    rows = every(f"SELECT {', '.join(META.columns)} FROM meta WHERE name=?", (SEEN,))
    return int(require(META, rows[0])[1]) if rows else 0


def all_users(every: type_all) -> tuple[list[User], list[str]]:
    """Every user that was made, by name; and what is damaged."""
    rows, bad = rows_of(every, USER, "name")
    return [User(*row) for row in rows], [f"user {key}" for key in bad]


def put_user(tx: Rows, command: PutUser) -> User:
    """Adds or replaces a user.  Raises EXISTS when another has the name or the e-mail address."""
    user = command.user
    if tx.one(
        "SELECT 1 FROM user WHERE id<>?1 AND (name=?2 OR (email=?3 AND email<>''))", (user.id, user.name, user.email)
    ):
        raise StoreError(Code.EXISTS, "another user has this name or e-mail address")
    tx.put(USER, (user.id, user.name, user.display, user.email, user.created_ns))
    return user


def remove_user(tx: Rows, command: RemoveUser) -> None:
    """Raises NO_SUCH_KEY, NOT_EMPTY while the user owns a bucket or an access key."""
    if tx.one("SELECT 1 FROM user WHERE id=?", (command.id,)) is None:
        raise StoreError(Code.NO_SUCH_KEY, "no such user")
    for table in ("bucket", "access_key"):
        if tx.one(f"SELECT 1 FROM {table} WHERE owner=? LIMIT 1", (command.id,)) is not None:
            raise StoreError(Code.NOT_EMPTY, f"the user still owns a {table.replace('_', ' ')}")
    tx.delete(USER, (command.id,))


def all_data_keys(every: type_all) -> tuple[list[WrappedKey], list[str]]:
    """Every data key, oldest first; and what is damaged."""
    rows, bad = rows_of(every, DATA_KEY, "id")
    return [WrappedKey(*row) for row in rows], [f"data_key {key}" for key in bad]


def put_data_keys(tx: Rows, command: PutDataKeys) -> None:
    """Adds keys, or wraps them anew: none is ever removed while the box lives."""
    for key in command.keys:
        tx.note_id(key.id)
        tx.put(DATA_KEY, (key.id, key.wrapped, key.created_ns))
