"""Buckets and objects by key: the S3 door's verbs."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Mapping, Sequence

import msgspec

from appliance import posix as posix_metadata
from appliance.catalogue import commands, names, versions
from appliance.catalogue.objects import FILE_MODE
from appliance.engine import listing, version_listing
from appliance.engine.ingest import Ingest, small_body
from appliance.engine.retrieve import Reader
from appliance.errors import Code, StoreError
from appliance.limits import BUCKET_NAME_MAX, BUCKET_NAME_MIN, COPIES_MAX
from appliance.model import (
    MARKER,
    TIMED,
    Attributes,
    Body,
    Bucket,
    DataKey,
    Deleted,
    Deletion,
    Node,
    Page,
    Precondition,
    Usage,
    VersionPage,
    Written,
    pack_attributes,
    unpack_attributes,
)
from appliance.verbs.base import Verbs, label, now

_BUCKET_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")


def check_bucket_name(name: str) -> None:
    """S3's "General purpose bucket naming rules".  Raises INVALID_NAME saying which."""
    if not BUCKET_NAME_MIN <= len(name) <= BUCKET_NAME_MAX:
        raise StoreError(Code.INVALID_NAME, f"a bucket's name has {BUCKET_NAME_MIN} to {BUCKET_NAME_MAX} characters")
    if not _BUCKET_NAME.fullmatch(name) or ".." in name:
        raise StoreError(
            Code.INVALID_NAME, "a bucket's name has lower-case letters, digits, dots and hyphens, no dot next to a dot"
        )
    if _ADDRESS.fullmatch(name):
        raise StoreError(Code.INVALID_NAME, "a bucket's name must not look like an IP address")
    if name.startswith(("xn--", "sthree-")) or name.endswith(("-s3alias", "--ol-s3")):
        raise StoreError(Code.INVALID_NAME, "this beginning or ending of a bucket's name is reserved by S3")


def posix_of(
    attributes: Attributes, given: Mapping[str, int] | None, now_ns: int
) -> tuple[int, int, int, int, int, int]:
    """mode, uid, gid, mtime, atime, flags of a new object."""
    if not attributes.user and not given:
        return FILE_MODE, 0, 0, now_ns, now_ns, 0
    said = posix_metadata.read(attributes.user)
    if given:
        said |= given
    mode = stat.S_IFREG | (stat.S_IMODE(said["mode"]) if "mode" in said else 0o644)
    mtime = said.get("mtime_ns", now_ns)
    flags = TIMED if "mtime_ns" in said else 0
    return mode, said.get("uid", 0), said.get("gid", 0), mtime, said.get("atime_ns", mtime), flags


class ObjectVerbs(Verbs):
    """Buckets and objects."""

    # ------------------------------------------------------------------ buckets
    def bucket(self, name: str) -> Bucket:
        """Raises NO_SUCH_BUCKET.  A dict look-up."""
        found = self.engine.buckets.get(name)
        if found is None:
            raise StoreError(Code.NO_SUCH_BUCKET)
        return found

    def buckets(self) -> list[Bucket]:
        """All, by name."""
        return list(self.engine.buckets.values())

    async def create_bucket(
        self,
        name: str,
        owner: str,
        *,
        copies: int | None = None,
        etag: str = "md5",
        settings: Mapping[str, bytes] | None = None,
    ) -> Bucket:
        """With its `settings` from the first moment on.  Raises BUCKET_OWNED, BUCKET_EXISTS, INVALID_NAME,
        INVALID_ARGUMENT (more copies than devices)."""
        check_bucket_name(name)
        wanted = self.engine.pool.copies if copies is None else copies
        count = len(self.engine.pool.devices)
        if not 1 <= wanted <= min(COPIES_MAX, count):
            raise StoreError(
                Code.INVALID_ARGUMENT, f"copies go from 1 to {min(COPIES_MAX, count)}: the pool has {count} devices"
            )
        if etag not in ("md5", "fast"):
            raise StoreError(Code.INVALID_ARGUMENT, "etag is 'md5' or 'fast'")
        command = commands.CreateBucket(
            name=name,
            project="default",
            owner=owner,
            copies=wanted,
            etag=etag,
            now_ns=now(),
            settings=dict(settings or {}),
        )
        bucket: Bucket = await self.commit(command)
        return bucket

    async def delete_bucket(self, name: str) -> None:
        """Raises NO_SUCH_BUCKET, BUCKET_NOT_EMPTY (an object or an upload remains; empty directories do not count)."""
        await self.commit(commands.DeleteBucket(name=name, now_ns=now()))

    async def set_bucket_setting(self, bucket: Bucket, name: str, body: bytes | None) -> None:
        """Stores a document under a name of appliance/settings.py, or takes it away.  Raises NO_SUCH_BUCKET.

        The Bucket in hand keeps what it had: ask `bucket(name)` for the new one."""
        await self.commit(commands.SetBucketSetting(bucket=bucket.id, name=name, body=body))

    def usage(self, bucket: Bucket | None = None) -> Usage:
        """Objects and bytes of one bucket, or of all."""
        return self.engine.usage(bucket)

    # ------------------------------------------------------------------ objects, by key
    async def look_up(self, bucket: Bucket, key: bytes) -> Node:
        """The object.  Waits for the mount's pending commits in the bucket (H2).

        Raises NO_SUCH_KEY, also for a directory: `d/` is an object only if one was put there.
        """
        if self.unsettled:
            await self.settled(bucket)
        directories, name = names.split(key)
        parent = names.find_parent(self.one, self.engine.directories, bucket.root, directories)
        node = self.engine.node_at(parent, name) if parent is not None else None
        if node is None or not stat.S_ISREG(node.mode):
            raise StoreError(Code.NO_SUCH_KEY)
        return node

    def reader(
        self, node: Node, start: int = 0, length: int | None = None, *, customer: DataKey | None = None
    ) -> Reader:
        """A pinned state of the node's bytes; `customer` opens what SSE-C sealed, and reading that without it is
        ACCESS_DENIED.  Raises NO_SUCH_NODE when the node was replaced since it was looked up: look it up again."""
        end = node.size if length is None else min(node.size, start + length)
        return Reader(
            self.engine.retrieval,
            node,
            min(start, node.size),
            max(0, end - start),
            self.engine.ring.seq,
            customer.secret if customer is not None else None,
        )

    async def ingest(
        self, bucket: Bucket, size: int | None, key: bytes = b"", encryption: DataKey | None = None
    ) -> Ingest:
        """Waits for a buffer.  `size` as announced, None if unknown; `encryption` seals what is written.  Raises
        NO_SPACE at once when it cannot fit, UNAVAILABLE when devices failed."""
        self.engine.require_writable()
        if size is not None and size > self.engine.space(bucket.copies)[1]:
            if sum(device.online for device in self.engine.pool.devices.values()) < bucket.copies:
                raise StoreError(Code.UNAVAILABLE, "too few devices are left for the bucket's copies")
            raise StoreError(Code.NO_SPACE, "the pool is full: delete something or add a device")
        buffer = await self.engine.pool.buffers.acquire_async()
        return Ingest(
            self.engine.pool,
            self.engine.staged,
            self.engine.lanes,
            buffer,
            self.engine.new_id,
            bucket.copies,
            size,
            label(bucket, key),
            self.engine.ring.seq + 1,
            encryption,
        )

    def small_body(self, data: bytes, encryption: DataKey | None = None) -> Body:
        """A body of at most limits.GATHER_MAX bytes: inline or gathered, no I/O before the commit."""
        return small_body(data, self.engine.new_id, encryption)

    async def put_object(
        self,
        bucket: Bucket,
        key: bytes,
        body: Body,
        etag: str,
        attributes: Attributes,
        *,
        precondition: Precondition | None = None,
        posix: Mapping[str, int] | None = None,
    ) -> Written:
        """A new node takes the key's place.  `posix` may give mode, uid, gid, mtime_ns, atime_ns; else the metadata of
        rclone and s3fs; else defaults.  Raises PRECONDITION_FAILED, NO_SUCH_KEY (If-Match on nothing), NO_SUCH_BUCKET,
        NO_SPACE, UNAVAILABLE."""
        moment = now()
        mode, uid, gid, mtime_ns, atime_ns, flags = posix_of(attributes, posix, moment)
        command = commands.PutObject(
            bucket=bucket.id,
            root=bucket.root,
            copies=bucket.copies,
            key=key,
            body=body,
            etag=etag,
            packed=pack_attributes(attributes),
            mode=mode,
            uid=uid,
            gid=gid,
            mtime_ns=mtime_ns,
            atime_ns=atime_ns,
            flags=flags,
            now_ns=moment,
            label=label(bucket, key),
            precondition=precondition,
        )
        written: Written = await self.commit(command)
        return written

    async def copy_object(
        self,
        source: Node,
        bucket: Bucket,
        key: bytes,
        attributes: Attributes | None,
        *,
        precondition: Precondition | None = None,
    ) -> Written:
        """O(1): shares the source's bytes, keeps its ETag.  `attributes` None keeps the source's.  Between buckets of
        different copies the bytes keep the source's copies.  Raises NO_SUCH_NODE if the source was replaced meanwhile
        (look it up again), PRECONDITION_FAILED, NO_SUCH_KEY, NO_SUCH_BUCKET."""
        moment = now()
        command = commands.CopyObject(
            source=source.id,
            generation=source.generation,
            bucket=bucket.id,
            root=bucket.root,
            copies=bucket.copies,
            key=key,
            packed=None if attributes is None else pack_attributes(attributes),
            posix=None if attributes is None else posix_of(attributes, None, moment),
            now_ns=moment,
            label=label(bucket, key),
            precondition=precondition,
        )
        written: Written = await self.commit(command)
        return written

    async def change_attributes(
        self, bucket: Bucket, key: bytes, change: Callable[[Node, Attributes], Attributes], *, version_id: str = ""
    ) -> Node:
        """Rewrites what is said about an object or one version (tags, ACL, retention): bytes, ETag and LastModified
        stay.  `change` may be asked again when somebody else was faster; what it raises stops.  Returns the node as it
        was changed.  Raises NO_SUCH_KEY, NO_SUCH_VERSION."""
        while True:
            node = await self.look_up_version(bucket, key, version_id)
            packed = pack_attributes(change(node, unpack_attributes(node.packed)))
            command = commands.ChangeAttributes(node=node.id, before=node.packed, packed=packed, now_ns=now())
            try:
                await self.commit(command)
            except StoreError as error:
                if error.code not in (Code.CONFLICT, Code.NO_SUCH_NODE):
                    raise
            else:
                return msgspec.structs.replace(node, packed=packed)

    async def look_up_version(self, bucket: Bucket, key: bytes, version_id: str) -> Node:
        """The object, or one version of it.  `version_id` "" is the current one.

        Raises NO_SUCH_KEY, NO_SUCH_VERSION.  A delete marker is a Node with the flag MARKER: only its own id finds it.
        """
        if not version_id:
            return await self.look_up(bucket, key)
        try:
            node = await self.look_up(bucket, key)
        except StoreError as error:
            if error.code is not Code.NO_SUCH_KEY:
                raise
        else:
            if node.version_id == version_id:
                return node
        found = versions.node_of(self.one, bucket.id, key, version_id) if bucket.settings else None
        if found is None:
            raise StoreError(Code.NO_SUCH_VERSION)
        return found

    def delete_marker(self, bucket: Bucket, key: bytes) -> Node | None:
        """What hides the key, after `look_up` said NO_SUCH_KEY: its newest delete marker; None without any version."""
        row = versions.newest(self.one, bucket.id, key) if bucket.settings else None
        return names.node_by_id(self.one, row[1]) if row is not None and row[2] & MARKER else None

    async def delete_object(
        self,
        bucket: Bucket,
        key: bytes,
        *,
        version_id: str = "",
        precondition: Precondition | None = None,
        owner: str = "",
    ) -> Deleted:
        """In a bucket with versions a key is hidden by a delete marker of `owner`; with a `version_id` that version is
        gone for good and the next one takes its place.  Without precondition what is not there is success.

        Raises NO_SUCH_BUCKET, PRECONDITION_FAILED, NO_SUCH_KEY (a condition on nothing), LOCKED."""
        deleted: Deleted = await self.commit(self._deletion(bucket, Deletion(key, version_id, precondition), owner))
        return deleted

    async def delete_objects(
        self, bucket: Bucket, targets: Sequence[Deletion], *, owner: str = ""
    ) -> list[Deleted | Exception]:
        """One result per target; they share batches."""
        tickets = [self.engine.submit(self._deletion(bucket, target, owner), announce=True) for target in targets]
        results: list[Deleted | Exception] = []
        for ticket in tickets:
            try:
                results.append(await ticket.wait())
            except StoreError as error:
                results.append(error)
        return results

    def _deletion(self, bucket: Bucket, target: Deletion, owner: str) -> commands.DeleteObject:
        marked = bucket.settings and not target.version_id and owner and owner != bucket.owner
        return commands.DeleteObject(
            bucket=bucket.id,
            root=bucket.root,
            key=target.key,
            now_ns=now(),
            precondition=target.precondition,
            version_id=target.version_id,
            packed=pack_attributes(Attributes(owner=owner)) if marked else b"",
        )

    async def list_versions(
        self,
        bucket: Bucket,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_version: str = "",
        limit: int = 1000,
    ) -> VersionPage:
        """Versions and delete markers by key, then newest first: those of keys > `after_key` and, with
        `after_version`, the older ones of that key.  Common prefixes as in `list_objects`."""
        if self.unsettled:
            await self.settled(bucket)
        page: VersionPage = await self.engine.scans.call(
            self.snapshot, version_listing.list_versions, bucket, prefix, delimiter, after_key, after_version, limit
        )
        return page

    async def list_objects(
        self, bucket: Bucket, prefix: bytes = b"", delimiter: bytes = b"", after: bytes = b"", limit: int = 1000
    ) -> Page:
        """Keys > `after` in byte order, at most `limit` objects and prefixes together.  A common prefix <= `after`, or
        one that is a prefix of `after` and was thereby already given, is skipped (S3's marker rules)."""
        if self.unsettled:
            await self.settled(bucket)
        page: Page = await self.engine.scans.call(
            self.snapshot, listing.list_objects, bucket.root, prefix, delimiter, after, limit
        )
        return page
