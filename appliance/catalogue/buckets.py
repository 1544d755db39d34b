"""Buckets and credentials: plain functions of a batch's `Rows` and a command."""

from __future__ import annotations

import stat

from appliance.catalogue import names
from appliance.catalogue.commands import CreateBucket, DeleteBucket, PutAccessKey, RemoveAccessKey
from appliance.catalogue.database import Rows
from appliance.catalogue.names import DirectoryCache
from appliance.catalogue.schema import ACCESS_KEY, BUCKET, ENTRY, NODE, USAGE
from appliance.errors import Code, StoreError
from appliance.model import AccessKey, Bucket, Change

_COLUMNS = "id, project, name, created_ns, root, owner, copies, etag"


def all_buckets(tx_all: names.type_one) -> list[Bucket]:
    """Every bucket, by name."""
    return [Bucket(*row) for row in tx_all(f"SELECT {_COLUMNS} FROM bucket ORDER BY name", ())]


def all_access_keys(tx_all: names.type_one) -> list[AccessKey]:
    """Every credential, by name."""
    rows = tx_all(
        "SELECT id, name, owner, created_ns, sealed, read_only, buckets FROM access_key ORDER BY name, id", ()
    )
    return [
        AccessKey(number, name, owner, created, sealed, bool(read_only), tuple(allowed.split("\n")) if allowed else ())
        for number, name, owner, created, sealed, read_only, allowed in rows
    ]


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
    tx.put(NODE, (root, mode, 0, 0, 2, 0, now, now, now, now, 0, "", 0, 0, b"", 0, b"", number, b""))
    tx.note(Change(0, command.name.encode(), True, 0, False))
    return Bucket(number, command.project, command.name, now, root, command.owner, command.copies, command.etag)


def delete_bucket(tx: Rows, cache: DirectoryCache, command: DeleteBucket) -> Bucket:
    """Raises NO_SUCH_BUCKET, BUCKET_NOT_EMPTY.  Empty directories go with it: S3 cannot see them."""
    row = tx.one(f"SELECT {_COLUMNS} FROM bucket WHERE name=?", (command.name,))
    if row is None:
        raise StoreError(Code.NO_SUCH_BUCKET)
    bucket = Bucket(*row)
    if tx.one("SELECT 1 FROM upload WHERE bucket=? LIMIT 1", (bucket.id,)) is not None:
        raise StoreError(Code.BUCKET_NOT_EMPTY, "an unfinished multipart upload remains: abort it first")
    directories = [(0, b"", bucket.root)]
    for _, _, directory in directories:  # grows while it is walked
        for name, node in tx.all("SELECT name, node FROM entry WHERE parent=? ORDER BY name", (directory,)):
            if not name.endswith(b"/"):
                raise StoreError(Code.BUCKET_NOT_EMPTY)
            directories.append((directory, name, node))
    for parent, name, node in reversed(directories):
        tx.delete(NODE, (node,))
        if node != bucket.root:
            tx.delete(ENTRY, (parent, name))
            tx.drop_directory(parent, name)
            cache.drop(parent, name)
    tx.delete(BUCKET, (bucket.id,))
    tx.delete(USAGE, (bucket.id,))
    tx.usage.pop(bucket.id, None)
    tx.buckets.discard(bucket.id)
    tx.note(Change(0, bucket.label, True, bucket.root, True))
    return bucket


def put_access_key(tx: Rows, command: PutAccessKey) -> None:
    """Adds or replaces a credential."""
    key = command.key
    buckets = "\n".join(key.buckets)
    tx.put(ACCESS_KEY, (key.id, key.name, key.owner, key.created_ns, key.sealed, int(key.read_only), buckets))


def remove_access_key(tx: Rows, command: RemoveAccessKey) -> None:
    """Raises NO_SUCH_KEY."""
    if tx.one("SELECT 1 FROM access_key WHERE id=?", (command.id,)) is None:
        raise StoreError(Code.NO_SUCH_KEY, "no such access key")
    tx.delete(ACCESS_KEY, (command.id,))
