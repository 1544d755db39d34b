"""A dictionary that behaves like appliance.store.ObjectStore as far as the S3 door uses it.

Bytes are kept whole in memory; nothing is durable.  It is a model, not a mock: tests look at what it holds, never at
how it was called.  `fail` makes the next look at an object raise, to see what the door answers; `overtaken` makes a
record stale between look-up and use.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from appliance import limits
from appliance.encryption import customer_key
from appliance.errors import Code, StoreError
from appliance.model import (
    CUSTOMER,
    TIMED,
    AccessKey,
    Attributes,
    Body,
    BodyKind,
    Bucket,
    Checksum,
    DataKey,
    Deleted,
    Deletion,
    Listed,
    ListedVersion,
    NewChunk,
    NewSlice,
    Node,
    Page,
    Part,
    Precondition,
    Upload,
    UploadPage,
    Usage,
    User,
    VersionPage,
    Written,
    pack_attributes,
)
from appliance.posix import read as read_posix
from tests.s3front.memory_bodies import MemoryIngest, MemoryReader

NOW_NS = 1_700_000_000_123_456_789
_CHUNK = 1


class MemoryStore:
    """Buckets, objects, uploads and credentials in dictionaries."""

    def __init__(self) -> None:
        self._buckets: dict[str, Bucket] = {}
        self._objects: dict[int, dict[bytes, Node]] = {}
        self._bytes: dict[int, bytes] = {}  # by Node.ref
        self._sealed: dict[int, DataKey] = {}  # likewise; the bytes are in clear all the same
        self._uploads: dict[str, Upload] = {}
        self._parts: dict[str, dict[int, tuple[Part, int]]] = {}
        self._keys: dict[str, AccessKey] = {}
        self._users: dict[str, User] = {}
        self._ids = itertools.count(1)
        self.now_ns = NOW_NS
        self.open_ingests = 0
        self.open_readers = 0
        self.ready_max = 64 * 1024
        self.damaged_from: int | None = None
        self.fail: Exception | None = None
        self.overtaken = 0  # so many times the record was replaced between look-up and use

    # ------------------------------------------------------------------ users
    def user(self, user_id: str) -> User | None:
        return self._users.get(user_id)

    def users(self) -> list[User]:
        return list(self._users.values())

    async def put_user(self, user: User) -> None:
        self._users[user.id] = user

    # ------------------------------------------------------------------ buckets
    def bucket(self, name: str) -> Bucket:
        try:
            return self._buckets[name]
        except KeyError:
            raise StoreError(Code.NO_SUCH_BUCKET) from None

    def buckets(self) -> list[Bucket]:
        return [self._buckets[name] for name in sorted(self._buckets)]

    telling = False  # nobody caches names

    async def told_of(self, bucket: str | None = None) -> None:
        """Nothing to wait for."""

    async def create_bucket(
        self,
        name: str,
        owner: str,
        *,
        copies: int | None = None,
        etag: str = "md5",
        settings: Mapping[str, bytes] | None = None,
    ) -> Bucket:
        if name in self._buckets:
            raise StoreError(Code.BUCKET_OWNED if self._buckets[name].owner == owner else Code.BUCKET_EXISTS)
        number = next(self._ids)
        bucket = Bucket(
            number, "default", name, self.now_ns, next(self._ids), owner, copies or 1, etag, dict(settings or {})
        )
        self._buckets[name] = bucket
        self._objects[number] = {}
        return bucket

    async def delete_bucket(self, name: str) -> None:
        bucket = self.bucket(name)
        if self._objects[bucket.id]:
            raise StoreError(Code.BUCKET_NOT_EMPTY)
        for upload in [u for u in self._uploads.values() if u.bucket == bucket.id]:
            await self.abort_upload(upload)
        del self._buckets[name], self._objects[bucket.id]

    async def set_bucket_setting(self, bucket: Bucket, name: str, body: bytes | None) -> None:
        current = self.bucket(bucket.name)
        settings = {known: value for known, value in current.settings.items() if known != name}
        if body is not None:
            settings[name] = body
        self._buckets[bucket.name] = msgspec.structs.replace(current, settings=settings)

    def usage(self, bucket: Bucket | None = None) -> Usage:
        nodes = [n for i, o in self._objects.items() if bucket is None or i == bucket.id for n in o.values()]
        return Usage(len(nodes), sum(n.size for n in nodes))

    # ------------------------------------------------------------------ objects
    async def look_up(self, bucket: Bucket, key: bytes) -> Node:
        if self.fail is not None:
            failure, self.fail = self.fail, None
            raise failure
        try:
            return self._objects[bucket.id][key]
        except KeyError:
            raise StoreError(Code.NO_SUCH_KEY) from None

    async def look_up_version(self, bucket: Bucket, key: bytes, version_id: str) -> Node:
        node = await self.look_up(bucket, key)
        if version_id and node.version_id != version_id:
            raise StoreError(Code.NO_SUCH_VERSION)
        return node

    async def change_attributes(
        self, bucket: Bucket, key: bytes, change: Callable[[Node, Attributes], Attributes], *, version_id: str = ""
    ) -> Node:
        node = await self.look_up_version(bucket, key, version_id)
        node = msgspec.structs.replace(node, packed=pack_attributes(change(node, node.attributes)))
        self._objects[bucket.id][key] = node
        return node

    def _pass(self, node: Node) -> None:
        if self.overtaken:
            self.overtaken -= 1
            raise StoreError(Code.NO_SUCH_NODE, f"{node.id} was replaced")

    def content(self, node: Node) -> bytes:
        """A test's view of the bytes."""
        return self._bytes[node.ref]

    def reader(
        self, node: Node, start: int = 0, length: int | None = None, *, customer: DataKey | None = None
    ) -> MemoryReader:
        self._pass(node)
        key = self._sealed.get(node.ref)
        if key is not None and key.id == CUSTOMER and key != customer:
            raise StoreError(Code.ACCESS_DENIED if customer is None else Code.DAMAGED)
        data = self.content(node)
        return MemoryReader(self, data[start:] if length is None else data[start : start + length])

    async def data_key(self) -> DataKey:
        return DataKey(1, bytes(range(32)))

    async def customer_key(self, raw: bytes) -> DataKey:
        return customer_key(raw)

    async def ingest(
        self, bucket: Bucket, size: int | None, key: bytes = b"", encryption: DataKey | None = None
    ) -> MemoryIngest:
        return MemoryIngest(self, encryption)

    def body(self, data: bytes, key: DataKey | None = None) -> Body:
        """All of `data` as one chunk."""
        if not data:
            return Body(0)
        chunk = next(self._ids)
        return Body(
            len(data), chunks=(NewChunk(chunk, len(data), data, key=key),), slices=(NewSlice(0, len(data), chunk),)
        )

    def small_body(self, data: bytes, encryption: DataKey | None = None) -> Body:
        assert len(data) <= limits.GATHER_MAX
        inline = len(data) <= limits.INLINE_MAX and encryption is None
        return Body(len(data), inline=data) if inline else self.body(data, encryption)

    def _keep(self, body: Body) -> int:
        data = body.inline or b"".join(chunk.data for chunk in body.chunks)
        assert len(data) == body.size
        return self._keep_bytes(data, body.chunks[0].key if body.chunks else None)

    def _keep_bytes(self, data: bytes, key: DataKey | None = None) -> int:
        ref = next(self._ids)
        if key is not None:
            self._sealed[ref] = key
        self._bytes[ref] = data
        return ref

    def _check(self, bucket: Bucket, key: bytes, precondition: Precondition | None) -> None:
        if precondition is None:
            return
        node = self._objects[bucket.id].get(key)
        if precondition.if_match is not None:
            if node is None:
                raise StoreError(Code.NO_SUCH_KEY)
            if precondition.if_match not in ("*", node.etag):
                raise StoreError(Code.PRECONDITION_FAILED)
        if node is None:
            return
        written = precondition.if_written_ns
        if (
            precondition.if_none_match in ("*", node.etag)
            or precondition.if_size not in (None, node.size)
            or (written is not None and written // 10**9 != node.written_ns // 10**9)
        ):
            raise StoreError(Code.PRECONDITION_FAILED)

    def _place(
        self,
        bucket: Bucket,
        key: bytes,
        size: int,
        ref: int,
        etag: str,
        attributes: Attributes,
        posix: Mapping[str, int],
    ) -> Written:
        said = {**read_posix(attributes.user), **posix}
        node = Node(
            id=next(self._ids),
            mode=0o100644,
            uid=said.get("uid", 0),
            gid=said.get("gid", 0),
            links=1,
            size=size,
            atime_ns=said.get("atime_ns", self.now_ns),
            mtime_ns=said.get("mtime_ns", self.now_ns),
            ctime_ns=self.now_ns,
            written_ns=self.now_ns,
            generation=1,
            etag=etag,
            kind=BodyKind.CHUNK,
            ref=ref,
            data=b"",
            flags=TIMED if "mtime_ns" in said else 0,
            packed=pack_attributes(attributes),
            bucket=bucket.id,
        )
        self._objects[bucket.id][key] = node
        return Written(node.id, etag, size, self.now_ns)

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
        if self.fail is not None:
            failure, self.fail = self.fail, None
            raise failure
        self._check(bucket, key, precondition)
        return self._place(bucket, key, body.size, self._keep(body), etag, attributes, posix or {})

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
        self._pass(source)
        self._check(bucket, key, precondition)
        return self._place(bucket, key, source.size, source.ref, source.etag, attributes or source.attributes, {})

    def delete_marker(self, bucket: Bucket, key: bytes) -> Node | None:
        return None  # buckets here have no versions: those are the real store's

    async def rename_object(
        self, source: Node, bucket: Bucket, key: bytes, new_key: bytes, precondition: Precondition | None = None
    ) -> None:
        self._pass(source)
        self._check(bucket, new_key, precondition)
        self._objects[bucket.id][new_key] = self._objects[bucket.id].pop(key)

    async def delete_object(
        self,
        bucket: Bucket,
        key: bytes,
        *,
        version_id: str = "",
        precondition: Precondition | None = None,
        owner: str = "",
        bypass: bool = False,
    ) -> Deleted:
        self._check(bucket, key, precondition)
        if version_id not in ("", "null"):
            return Deleted(False)
        return Deleted(self._objects[bucket.id].pop(key, None) is not None)

    async def delete_objects(
        self, bucket: Bucket, targets: Sequence[Deletion], *, owner: str = "", bypass: bool = False
    ) -> list[Deleted | Exception]:
        results: list[Deleted | Exception] = []
        for key, version_id, precondition in map(msgspec.structs.astuple, targets):
            try:
                results.append(await self.delete_object(bucket, key, version_id=version_id, precondition=precondition))
            except StoreError as error:
                results.append(error)
        return results

    async def list_versions(
        self,
        bucket: Bucket,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_version: str = "",
        limit: int = 1000,
    ) -> VersionPage:
        page = await self.list_objects(bucket, prefix, delimiter, after_key, limit)
        versions = [
            ListedVersion(
                o.key, "null", True, False, o.size, o.etag, o.written_ns, o.storage_class, o.owner, o.checksum
            )
            for o in page.objects
        ]
        return VersionPage(versions, page.prefixes, page.truncated, page.next, "null" if page.truncated else "")

    async def list_objects(
        self, bucket: Bucket, prefix: bytes = b"", delimiter: bytes = b"", after: bytes = b"", limit: int = 1000
    ) -> Page:
        objects: list[Listed] = []
        prefixes: list[bytes] = []
        last = after
        for key, node in sorted(self._objects[bucket.id].items()):
            if not key.startswith(prefix):
                continue
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            item = key if cut < 0 else key[: cut + len(delimiter)]
            if item <= after or (cut >= 0 and after.startswith(item)):
                continue
            if cut >= 0 and prefixes and prefixes[-1] == item:
                continue
            if len(objects) + len(prefixes) >= limit:
                return Page(objects, prefixes, True, last)
            last = item
            if cut >= 0:
                prefixes.append(item)
            else:
                attributes = node.attributes
                checksum = attributes.checksum.algorithm if attributes.checksum else ""
                kept = (attributes.storage_class, checksum, attributes.owner)
                objects.append(Listed(key, node.size, node.etag, node.written_ns, *kept))
        return Page(objects, prefixes, False, b"")

    # ------------------------------------------------------------------ multipart
    async def create_upload(
        self,
        bucket: Bucket,
        key: bytes,
        attributes: Attributes,
        owner: str,
        *,
        checksum_algorithm: str = "",
        checksum_type: str = "",
    ) -> Upload:
        number = f"upload-{next(self._ids):08d}"
        packed = pack_attributes(attributes)
        upload = Upload(number, bucket.id, key, self.now_ns, owner, packed, checksum_algorithm, checksum_type)
        self._uploads[number] = upload
        self._parts[number] = {}
        return upload

    def upload(self, bucket: Bucket, key: bytes, upload_id: str) -> Upload:
        upload = self._uploads.get(upload_id)
        if upload is None or upload.bucket != bucket.id or upload.key != key:
            raise StoreError(Code.NO_SUCH_UPLOAD)
        return upload

    def _open(self, upload: Upload) -> dict[int, tuple[Part, int]]:
        if upload.id not in self._parts:
            raise StoreError(Code.NO_SUCH_UPLOAD)
        return self._parts[upload.id]

    async def put_part(
        self, upload: Upload, number: int, body: Body, etag: str, checksum: Checksum | None = None
    ) -> Part:
        part = Part(number, body.size, etag, self.now_ns, checksum)
        self._open(upload)[number] = (part, self._keep(body))
        return part

    async def copy_part(
        self,
        upload: Upload,
        number: int,
        source: Node,
        start: int,
        length: int,
        etag: str,
        checksum: Checksum | None = None,
    ) -> Part:
        self._pass(source)
        part = Part(number, length, etag, self.now_ns, checksum)
        self._open(upload)[number] = (part, self._keep_bytes(self.content(source)[start : start + length]))
        return part

    def parts(self, upload: Upload, after: int = 0, limit: int = 1000) -> tuple[list[Part], bool]:
        found = [part for number, (part, _) in sorted(self._open(upload).items()) if number > after]
        return found[:limit], len(found) > limit

    async def list_parts(self, upload: Upload, after: int = 0, limit: int = 1000) -> tuple[list[Part], bool]:
        return self.parts(upload, after, limit)

    async def list_uploads(self, bucket: Bucket, *where: Any) -> UploadPage:
        return self.uploads(bucket, *where)

    def uploads(
        self,
        bucket: Bucket,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_upload: str = "",
        limit: int = 1000,
    ) -> UploadPage:
        found: list[Upload] = []
        prefixes: list[bytes] = []
        last_key, last_upload = after_key, after_upload
        for upload in sorted(self._uploads.values(), key=lambda u: (u.key, u.id)):
            if upload.bucket != bucket.id or not upload.key.startswith(prefix):
                continue
            cut = upload.key.find(delimiter, len(prefix)) if delimiter else -1
            item = upload.key if cut < 0 else upload.key[: cut + len(delimiter)]
            if after_upload and cut < 0:
                if (upload.key, upload.id) <= (after_key, after_upload):
                    continue
            elif after_key and (item <= after_key or (cut >= 0 and after_key.startswith(item))):
                continue
            if cut >= 0 and prefixes and prefixes[-1] == item:
                continue
            if len(found) + len(prefixes) >= limit:
                return UploadPage(found, prefixes, True, last_key, last_upload)
            last_key, last_upload = item, "" if cut >= 0 else upload.id
            if cut >= 0:
                prefixes.append(item)
            else:
                found.append(upload)
        return UploadPage(found, prefixes, False, b"", "")

    async def complete_upload(
        self,
        upload: Upload,
        parts: Sequence[tuple[int, str]],
        etag: str,
        attributes: Attributes,
        *,
        precondition: Precondition | None = None,
    ) -> Written:
        held = self._open(upload)
        bucket = next(b for b in self._buckets.values() if b.id == upload.bucket)
        self._check(bucket, upload.key, precondition)
        data = b""
        for index, (number, part_etag) in enumerate(parts):
            if index and number <= parts[index - 1][0]:
                raise StoreError(Code.INVALID_PART_ORDER)
            if number not in held or held[number][0].etag != part_etag:
                raise StoreError(Code.INVALID_PART)
            if index + 1 < len(parts) and held[number][0].size < limits.PART_SIZE_MIN:
                raise StoreError(Code.PART_TOO_SMALL)
            data += self._bytes[held[number][1]]
        key = self._sealed.get(held[parts[0][0]][1])
        written = self._place(bucket, upload.key, len(data), self._keep_bytes(data, key), etag, attributes, {})
        del self._parts[upload.id], self._uploads[upload.id]
        return written

    async def abort_upload(self, upload: Upload) -> None:
        self._open(upload)
        del self._parts[upload.id], self._uploads[upload.id]

    # ------------------------------------------------------------------ credentials and the rest
    def access_key(self, key_id: str) -> AccessKey | None:
        return self._keys.get(key_id)

    def access_keys(self) -> list[AccessKey]:
        return list(self._keys.values())

    async def put_access_key(self, key: AccessKey) -> None:
        self._keys[key.id] = key

    async def remove_access_key(self, key_id: str) -> None:
        if self._keys.pop(key_id, None) is None:
            raise StoreError(Code.NO_SUCH_KEY)

    def watch(self, listener: Callable[[Sequence[Any]], object]) -> None:
        """Nobody caches names here."""

    def fresh_etag(self) -> str:
        """An opaque ETag, as the mount makes them."""
        return hashlib.md5(str(next(self._ids)).encode(), usedforsecurity=False).hexdigest() + "-1"


def with_attributes(node: Node, attributes: Attributes) -> Node:
    """A copy of the record that says something else."""
    return msgspec.structs.replace(node, packed=pack_attributes(attributes))
