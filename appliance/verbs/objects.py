"""Buckets and objects by key: the S3 door's verbs."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping

import msgspec

from appliance import lock
from appliance import posix as posix_metadata
from appliance import settings as setting_names
from appliance.catalogue import commands, names
from appliance.catalogue.objects import FILE_MODE
from appliance.engine import listing
from appliance.engine.ingest import Ingest, small_body
from appliance.engine.retrieve import Reader
from appliance.errors import Code, StoreError
from appliance.limits import BUCKET_NAME_MAX, BUCKET_NAME_MIN, COPIES_MAX
from appliance.model import (
    TIMED,
    UNOWNED,
    Attributes,
    Body,
    Bucket,
    DataKey,
    Node,
    Page,
    Precondition,
    Usage,
    Written,
    pack_attributes,
    unpack_attributes,
)
from appliance.verbs.base import Verbs, label, now

_BUCKET_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")
ROOTS = "trusted."  # extended attributes for root alone, xattr(7)


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
        return FILE_MODE, 0, 0, now_ns, now_ns, UNOWNED
    said = posix_metadata.read(attributes.user)
    if given:
        said |= given
    mode = stat.S_IFREG | (stat.S_IMODE(said["mode"]) if "mode" in said else 0o644)
    mtime = said.get("mtime_ns", now_ns)
    flags = (TIMED if "mtime_ns" in said else 0) | (0 if said.keys() & {"mode", "uid", "gid"} else UNOWNED)
    return mode, said.get("uid", 0), said.get("gid", 0), mtime, said.get("atime_ns", mtime), flags


def posix_of_copy(source: Node) -> dict[str, int]:
    """What a copy takes of the source's POSIX side, as `put_object` wants it: so it is open to nobody to whom the
    source is not.  What nobody said stays unsaid, and a copy acts for nobody else (as POSIX chown has it)."""
    found: dict[str, int] = {}
    if not source.flags & UNOWNED:
        mode = stat.S_IMODE(source.mode) & ~(stat.S_ISUID | stat.S_ISGID)
        found |= {"mode": mode, "uid": source.uid, "gid": source.gid}
    if source.flags & TIMED:
        found |= {"mtime_ns": source.mtime_ns, "atime_ns": source.atime_ns}
    return found


def attributes_of_copy(held: Attributes) -> Attributes:
    """What a copy takes of the source's attributes unless it says its own: not what protects it, nor what only the
    machine's root may say."""
    held = lock.unlocked(held)
    if not any(name.startswith(ROOTS) for name in held.xattrs):
        return held
    kept = {name: value for name, value in held.xattrs.items() if not name.startswith(ROOTS)}
    return msgspec.structs.replace(held, xattrs=kept)


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

    @property
    def telling(self) -> bool:
        """Whether there may be anything for `told_of` to wait for."""
        return bool(self.engine.tellings.under_way)

    async def told_of(self, bucket: str | None = None) -> None:
        """H5: until the kernel has forgotten whether the bucket was there before, or any (None).  For S3, which has
        just looked; the mount never waits for that."""
        await self.engine.tellings.buckets(None if bucket is None else bucket.encode())

    async def create_bucket(
        self,
        name: str,
        owner: str,
        *,
        copies: int | None = None,
        etag: str = "md5",
        settings: Mapping[str, bytes] | None = None,
        announce: bool = True,
    ) -> Bucket:
        """With its `settings` from the first moment on.  The mount, which needs not be told, says `announce` False.
        Raises BUCKET_OWNED, BUCKET_EXISTS, INVALID_NAME, INVALID_ARGUMENT (more copies than devices)."""
        check_bucket_name(name)
        wanted = self.engine.pool.copies if copies is None else copies
        count = len(self.engine.pool.devices)
        if not 1 <= wanted <= min(COPIES_MAX, count):
            raise StoreError(
                Code.INVALID_ARGUMENT, f"copies go from 1 to {min(COPIES_MAX, count)}: the pool has {count} devices"
            )
        if etag not in ("md5", "fast"):
            raise StoreError(Code.INVALID_ARGUMENT, "etag is 'md5' or 'fast'")
        if settings and setting_names.LOCK in settings:
            await self.keep_time()
        command = commands.CreateBucket(
            name=name,
            project="default",
            owner=owner,
            copies=wanted,
            etag=etag,
            now_ns=now(),
            settings=dict(settings or {}),
        )
        bucket: Bucket = await self.engine.submit(command, announce=announce).wait()
        return bucket

    async def delete_bucket(self, name: str, *, announce: bool = True) -> None:
        """Raises NO_SUCH_BUCKET, BUCKET_NOT_EMPTY (an object or a version remains).  Unfinished uploads go with it."""
        await self.engine.submit(commands.DeleteBucket(name=name, now_ns=now()), announce=announce).wait()

    async def set_bucket_setting(self, bucket: Bucket, name: str, body: bytes | None) -> None:
        """Stores a document under a name of appliance/settings.py, or takes it away.  Raises NO_SUCH_BUCKET.

        The Bucket in hand keeps what it had: ask `bucket(name)` for the new one.  Raises LOCKED (object lock without
        versions)."""
        if name == setting_names.LOCK:
            await self.keep_time()
        await self.commit(commands.SetBucketSetting(bucket=bucket.id, name=name, body=body))

    def usage(self, bucket: Bucket | None = None) -> Usage:
        """Objects and bytes of one bucket, or of all."""
        return self.engine.usage(bucket)

    # ------------------------------------------------------------------ objects, by key
    async def look_up(self, bucket: Bucket, key: bytes) -> Node:
        """The object.  Waits for the mount's pending commits in the bucket (H2), and until the kernel has forgotten
        what was there before (H5).

        Raises NO_SUCH_KEY, also for a directory: `d/` is an object only if one was put there.
        """
        if self.unsettled:
            await self.settled(bucket)
        parent: int | None = bucket.root
        name = key
        if b"/" in key:
            directories, name = names.split(key)
            parent = names.find_parent(self.one, self.engine.directories, bucket.root, directories)
        node = self.engine.node_at(parent, name) if parent is not None else None
        if self.engine.tellings.under_way or self.engine.rows.untold:
            await self.engine.tellings.key(bucket.root, key, parent, name)
        if node is None or not stat.S_ISREG(node.mode):
            raise StoreError(Code.NO_SUCH_KEY)
        return node

    def reader(
        self, node: Node, start: int = 0, length: int | None = None, *, customer: DataKey | None = None
    ) -> Reader:
        """A pinned state of the node's bytes; `customer` opens what SSE-C sealed, and reading that without it is
        ACCESS_DENIED.  Raises NO_SUCH_NODE when the node was replaced since it was looked up: look it up again."""
        size = node.size
        if length is None or start or length != size:
            end = size if length is None else min(size, start + length)
            start, length = min(start, size), max(0, end - start)
        return Reader(
            self.engine.retrieval,
            node,
            start,
            length,
            self.engine.shown,
            customer.secret if customer is not None else None,
        )

    def stands(self, reader: Reader) -> bool:
        """Whether a new reader of the same node would read the same."""
        return reader.stands(self.engine.shown)

    async def ingest(
        self, bucket: Bucket, size: int | None, key: bytes = b"", encryption: DataKey | None = None
    ) -> Ingest:
        """Waits for a buffer.  `size` as announced, None if unknown; `encryption` seals what is written.  Raises
        NO_SPACE and QUOTA_EXCEEDED at once when it cannot fit, UNAVAILABLE when devices failed."""
        self.engine.require_writable()
        if size is not None and key:
            await self._require_quota(bucket, key, size)
        if size is not None:
            self._require_room(bucket, size)
        return self._ingest(bucket, size, key, await self.engine.pool.buffers.acquire_async(), encryption)

    def ingest_in_place(self, bucket: Bucket, size: int) -> Ingest:
        """The same for what lies in memory as devices take it: it needs no buffer, and waits for none."""
        self.engine.require_writable()
        self._require_room(bucket, size)
        return self._ingest(bucket, size, b"", None, None)

    def _ingest(
        self, bucket: Bucket, size: int | None, key: bytes, buffer: memoryview | None, encryption: DataKey | None
    ) -> Ingest:
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

    def _require_room(self, bucket: Bucket, size: int) -> None:
        if size > self.engine.space(bucket.copies)[1]:
            if sum(device.online for device in self.engine.pool.devices.values()) < bucket.copies:
                raise StoreError(Code.UNAVAILABLE, "too few devices are left for the bucket's copies")
            raise StoreError(Code.NO_SPACE, "the pool is full: delete something or add a device")

    async def _require_quota(self, bucket: Bucket, key: bytes, size: int) -> None:
        """A body that cannot fit, whatever of the key it will replace, is not received at all.  Its commit decides.
        What is counted is in the catalogue by then: the mount may just have written what will be replaced (H2)."""
        for waited in (False, True):
            found = self.engine.ledger.room(bucket.id)
            if found is None or found[0].size is None:
                return
            limit, taken = found[0].size, found[2]
            if taken + size <= limit:
                return  # whatever it replaces: an upload's parts, which each of them would count, may be thousands
            if not waited:
                await self.settled(bucket)
        directories, name = names.split(key)
        parent = names.find_parent(self.one, self.engine.directories, bucket.root, directories)
        node = names.node_at(self.one, parent, name) if parent is not None else None
        (parts,) = self.one(
            "SELECT coalesce(sum(p.size), 0) FROM upload u JOIN part p ON p.upload=u.id WHERE u.bucket=? AND u.key=?",
            (bucket.id, key),
        )
        if taken + size - parts - (0 if node is None else node.size) > limit:
            raise StoreError(Code.QUOTA_EXCEEDED, f"the bucket's quota is {limit} bytes: delete something")

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
        NO_SPACE, UNAVAILABLE; of a retention or hold NOT_LOCKABLE, INVALID_ARGUMENT (one in the past)."""
        moment = now()
        attributes = self.locked(bucket, attributes, moment)
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
        posix: Mapping[str, int] | None = None,
    ) -> Written:
        """O(1): shares the source's bytes, keeps its ETag.  `attributes` None: `attributes_of_copy`, and `posix` is
        `posix_of_copy`.  Between buckets of
        different copies the bytes keep the source's copies.  Retention and hold are never copied.  Raises NO_SUCH_NODE
        if the source was replaced meanwhile (look it up again), PRECONDITION_FAILED, NO_SUCH_KEY, NO_SUCH_BUCKET, and
        what `put_object` raises of locks."""
        moment = now()
        held = unpack_attributes(source.packed)
        if attributes is None:
            attributes, posix = attributes_of_copy(held), posix_of_copy(source)
        said = self.locked(bucket, attributes, moment)
        command = commands.CopyObject(
            source=source.id,
            generation=source.generation,
            bucket=bucket.id,
            root=bucket.root,
            copies=bucket.copies,
            key=key,
            packed=None if said == held else pack_attributes(said),
            posix=posix_of(said, posix, moment),
            now_ns=moment,
            label=label(bucket, key),
            precondition=precondition,
        )
        written: Written = await self.commit(command)
        return written

    async def rename_object(
        self, source: Node, bucket: Bucket, key: bytes, new_key: bytes, *, precondition: Precondition | None = None
    ) -> None:
        """Atomic: the object `source` at `key` is at `new_key` from now on, unchanged; what was there is gone, or
        where the bucket has versions an older one.

        Raises NO_SUCH_NODE if the source was replaced meanwhile (look it up again), LOCKED (either object),
        PRECONDITION_FAILED and NO_SUCH_KEY (of what is at the new key), NO_SUCH_BUCKET."""
        command = commands.RenameObject(
            bucket=bucket.id,
            root=bucket.root,
            key=key,
            source=source.id,
            generation=source.generation,
            new_key=new_key,
            now_ns=now(),
            precondition=precondition,
            lock_ns=self.releasing() if bucket.settings else 0,
        )
        await self.commit(command)

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
        await self.listed(bucket, prefix, after)
        return page
