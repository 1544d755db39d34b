"""The only door between the fronts and the engine.

Reads of the catalogue are plain functions: they run inline on the loop (4-20 us).  `async` means "may suspend".  A write
returns only after the barrier of the batch that did it (H1), unless it says `submit`.  Keys and names are bytes; a name
of the mount's verbs is the catalogue's: raw bytes without "/", of any length.  In one directory a file `a` and a directory
`a` may both exist (keys `a` and `a/b`): hence the `directory` arguments.

The doors know nothing below this file; the engine knows nothing above it.
"""

from __future__ import annotations

import re
import secrets
import sqlite3
import stat
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from appliance import posix as posix_metadata
from appliance.catalogue import commands, database, names, uploads
from appliance.catalogue.objects import FILE_MODE
from appliance.engine import listing
from appliance.engine.commit import Ticket as EngineTicket
from appliance.engine.engine import Engine
from appliance.engine.ingest import Ingest as EngineIngest
from appliance.engine.ingest import small_body
from appliance.engine.pool import PageRef
from appliance.engine.retrieve import Reader as EngineReader
from appliance.errors import Code, StoreError
from appliance.limits import BUCKET_NAME_MAX, BUCKET_NAME_MIN, CHUNK_SIZE, COPIES_MAX, GATHER_MAX, MIB, WRITE_CEILING
from appliance.model import (
    TIMED,
    AccessKey,
    Attributes,
    Body,
    Bucket,
    Change,
    Checksum,
    DeviceStatus,
    Entry,
    NewChunk,
    NewSlice,
    Node,
    Page,
    Part,
    Precondition,
    Upload,
    UploadPage,
    Usage,
    Written,
    pack_attributes,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BUCKET_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")


class Ticket(Protocol):
    """A submitted commit.  Order of submission is order of commit."""

    @property
    def settled(self) -> bool:
        """True when the commit is durable or has failed."""

    async def wait(self) -> Any:
        """Returns the command's result once durable; raises its StoreError."""


class Ingest(Protocol):
    """Bytes on their way to devices: constant memory, no copy.  Every method but `close` may block: call them from a
    worker thread (the doors' lane), or use the `async` ones from the loop.

        room() -> view of free space, at least 1 byte        (waits for a device write when the buffer is full)
        filled(n): the first n bytes of the last room() are data
        finish() -> Body                                      (the last page is written; nothing is committed)
        close(): forfeits what no commit took; always call it (context manager)
    """

    size: int  # bytes so far

    def room(self) -> memoryview: ...
    def filled(self, count: int) -> None: ...
    def write(self, data: Buffer) -> None: ...
    def finish(self) -> Body: ...
    async def write_async(self, data: Buffer) -> None: ...
    async def finish_async(self) -> Body: ...
    def close(self) -> None: ...
    def __enter__(self) -> Ingest: ...
    def __exit__(self, *exc: object) -> None: ...


class Reader(Protocol):
    """One pinned state of one object's bytes (H4, I11), a range of them.

    ready(): the whole range as bytes when memory answers without I/O, else None.  Never blocks.
    read():  the whole range, for ranges up to a few MiB; one thread hop.
    pieces(): verified views of at most 1 MiB, in order, each valid until the next step; blocks: for a worker thread.
    Holes read as zeros.  Raises StoreError DAMAGED or IO_ERROR when no copy of a block is good: never a wrong byte.
    """

    length: int

    def ready(self) -> bytes | None: ...
    async def read(self) -> bytes: ...
    def pieces(self) -> Iterator[memoryview]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Reader: ...
    def __exit__(self, *exc: object) -> None: ...


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


def _now() -> int:
    return time.time_ns()


class ObjectStore:
    """Buckets, objects, uploads, files, credentials, and the state of the box."""

    def __init__(self, engine: Engine, database_path: str) -> None:
        self.engine = engine
        self._database_path = database_path
        self._threads = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._unsettled: dict[int, EngineTicket] = {}  # bucket -> the mount's last submitted, perhaps pending commit

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

    async def create_bucket(self, name: str, owner: str, *, copies: int | None = None, etag: str = "md5") -> Bucket:
        """Raises BUCKET_OWNED, BUCKET_EXISTS, INVALID_NAME, INVALID_ARGUMENT (more copies than devices)."""
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
            name=name, project="default", owner=owner, copies=wanted, etag=etag, now_ns=_now()
        )
        bucket: Bucket = await self._commit(command)
        return bucket

    async def delete_bucket(self, name: str) -> None:
        """Raises NO_SUCH_BUCKET, BUCKET_NOT_EMPTY (an object or an upload remains; empty directories do not count)."""
        await self._commit(commands.DeleteBucket(name=name, now_ns=_now()))

    def usage(self, bucket: Bucket | None = None) -> Usage:
        """Objects and bytes of one bucket, or of all."""
        return self.engine.usage(bucket)

    # ------------------------------------------------------------------ objects, by key
    async def look_up(self, bucket: Bucket, key: bytes) -> Node:
        """The object.  Waits for the mount's pending commits in the bucket (H2).

        Raises NO_SUCH_KEY, also for a directory: `d/` is an object only if one was put there.
        """
        if self._unsettled:
            await self._settled(bucket)
        directories, name = names.split(key)
        parent = names.find_parent(self._one, self.engine.directories, bucket.root, directories)
        node = names.node_at(self._one, parent, name) if parent is not None else None
        if node is None or not stat.S_ISREG(node.mode):
            raise StoreError(Code.NO_SUCH_KEY)
        return node

    def reader(self, node: Node, start: int = 0, length: int | None = None) -> EngineReader:
        """A pinned state of the node's bytes.  Raises NO_SUCH_NODE when the node was replaced since it was looked up:
        look it up again."""
        end = node.size if length is None else min(node.size, start + length)
        return EngineReader(
            self.engine.retrieval, node, min(start, node.size), max(0, end - start), self.engine.ring.seq
        )

    async def ingest(self, bucket: Bucket, size: int | None, key: bytes = b"") -> EngineIngest:
        """Waits for a buffer.  `size` as announced, None if unknown.  Raises NO_SPACE at once when it cannot fit."""
        self.engine.require_writable()
        if size is not None and size > self.space(bucket.copies)[1]:
            raise StoreError(Code.NO_SPACE, "the pool is full: delete something or add a device")
        buffer = await self.engine.pool.buffers.acquire_async()
        return EngineIngest(
            self.engine.pool,
            self.engine.staged,
            self.engine.lanes,
            buffer,
            self.engine.new_id,
            bucket.copies,
            size,
            _label(bucket, key),
            self.engine.ring.seq + 1,
        )

    def small_body(self, data: bytes) -> Body:
        """A body of at most limits.GATHER_MAX bytes: inline or gathered, no I/O before the commit."""
        return small_body(data, self.engine.new_id)

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
        now = _now()
        mode, uid, gid, mtime_ns, atime_ns, flags = _posix(attributes, posix, now)
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
            now_ns=now,
            label=_label(bucket, key),
            precondition=precondition,
        )
        written: Written = await self._commit(command)
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
        now = _now()
        command = commands.CopyObject(
            source=source.id,
            generation=source.generation,
            bucket=bucket.id,
            root=bucket.root,
            copies=bucket.copies,
            key=key,
            packed=None if attributes is None else pack_attributes(attributes),
            posix=None if attributes is None else _posix(attributes, None, now),
            now_ns=now,
            label=_label(bucket, key),
            precondition=precondition,
        )
        written: Written = await self._commit(command)
        return written

    async def delete_object(self, bucket: Bucket, key: bytes, *, precondition: Precondition | None = None) -> bool:
        """True if something was there.  Without precondition a missing key is success."""
        gone: bool = await self._commit(self._deletion(bucket, key, precondition))
        return gone

    async def delete_objects(
        self, bucket: Bucket, keys: Sequence[tuple[bytes, Precondition | None]]
    ) -> list[bool | Exception]:
        """One result per key; they share batches."""
        tickets = [
            self.engine.submit(self._deletion(bucket, key, precondition), announce=True) for key, precondition in keys
        ]
        results: list[bool | Exception] = []
        for ticket in tickets:
            try:
                results.append(await ticket.wait())
            except StoreError as error:
                results.append(error)
        return results

    def _deletion(self, bucket: Bucket, key: bytes, precondition: Precondition | None) -> commands.DeleteObject:
        return commands.DeleteObject(
            bucket=bucket.id, root=bucket.root, key=key, now_ns=_now(), precondition=precondition
        )

    async def list_objects(
        self, bucket: Bucket, prefix: bytes = b"", delimiter: bytes = b"", after: bytes = b"", limit: int = 1000
    ) -> Page:
        """Keys > `after` in byte order, at most `limit` objects and prefixes together.  A common prefix <= `after`, or
        one that is a prefix of `after` and was thereby already given, is skipped (S3's marker rules)."""
        if self._unsettled:
            await self._settled(bucket)
        page: Page = await self.engine.lanes.call(
            self._snapshot, listing.list_objects, bucket.root, prefix, delimiter, after, limit
        )
        return page

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
        """Raises NO_SUCH_BUCKET."""
        command = commands.CreateUpload(
            id=secrets.token_urlsafe(24),
            bucket=bucket.id,
            key=key,
            owner=owner,
            packed=pack_attributes(attributes),
            checksum_algorithm=checksum_algorithm,
            checksum_type=checksum_type,
            now_ns=_now(),
        )
        upload: Upload = await self._commit(command)
        return upload

    def upload(self, bucket: Bucket, key: bytes, upload_id: str) -> Upload:
        """Raises NO_SUCH_UPLOAD, also when the id belongs to another bucket or key."""
        found = uploads.find(self._one, upload_id)
        if found.bucket != bucket.id or found.key != key:
            raise StoreError(Code.NO_SUCH_UPLOAD)
        return found

    async def put_part(
        self, upload: Upload, number: int, body: Body, etag: str, checksum: Checksum | None = None
    ) -> Part:
        """Replaces a part of the same number.  Raises NO_SUCH_UPLOAD if it was ended meanwhile."""
        bucket = self._bucket_by_id(upload.bucket)
        command = commands.PutPart(
            upload=upload.id,
            number=number,
            body=body,
            copies=bucket.copies,
            etag=etag,
            checksum_algorithm=checksum.algorithm if checksum is not None else "",
            checksum=checksum.value if checksum is not None else b"",
            now_ns=_now(),
            label=_label(bucket, upload.key),
        )
        part: Part = await self._commit(command)
        return part

    async def copy_part(self, upload: Upload, number: int, source: Node, start: int, length: int, etag: str) -> Part:
        """A part that shares the source's bytes [start, start+length): no data is read.  Raises NO_SUCH_UPLOAD,
        NO_SUCH_NODE (the source was replaced meanwhile), INVALID_ARGUMENT."""
        bucket = self._bucket_by_id(upload.bucket)
        command = commands.CopyPart(
            upload=upload.id,
            number=number,
            source=source.id,
            generation=source.generation,
            start=start,
            length=length,
            copies=bucket.copies,
            etag=etag,
            now_ns=_now(),
            label=_label(bucket, upload.key),
        )
        part: Part = await self._commit(command)
        return part

    def parts(self, upload: Upload, after: int = 0, limit: int = 1000) -> tuple[list[Part], bool]:
        """Parts with number > after; whether more follow."""
        found = uploads.parts_after(self._every, upload.id, after, limit + 1)
        return found[:limit], len(found) > limit

    def uploads(
        self,
        bucket: Bucket,
        prefix: bytes = b"",
        delimiter: bytes = b"",
        after_key: bytes = b"",
        after_upload: str = "",
        limit: int = 1000,
    ) -> UploadPage:
        """By key, then by upload id."""
        return listing.list_uploads(
            self._every, uploads.UPLOAD_COLUMNS, bucket.id, prefix, delimiter, after_key, after_upload, limit
        )

    async def complete_upload(
        self,
        upload: Upload,
        parts: Sequence[tuple[int, str]],
        etag: str,
        attributes: Attributes,
        *,
        precondition: Precondition | None = None,
    ) -> Written:
        """O(parts).  `parts` are (number, ETag) in ascending order; the door computed the composite `etag` and has put
        checksum and part sizes into `attributes`.  Raises INVALID_PART, INVALID_PART_ORDER, PART_TOO_SMALL (any but
        the last under 5 MiB), TOO_LARGE, PRECONDITION_FAILED, NO_SUCH_UPLOAD."""
        now = _now()
        mode, uid, gid, mtime_ns, atime_ns, flags = _posix(attributes, None, now)
        command = commands.CompleteUpload(
            upload=upload.id,
            root=self._bucket_by_id(upload.bucket).root,
            parts=tuple(parts),
            etag=etag,
            packed=pack_attributes(attributes),
            mode=mode,
            uid=uid,
            gid=gid,
            mtime_ns=mtime_ns,
            atime_ns=atime_ns,
            flags=flags,
            now_ns=now,
            precondition=precondition,
        )
        written: Written = await self._commit(command)
        return written

    async def abort_upload(self, upload: Upload) -> None:
        """Frees its parts.  Raises NO_SUCH_UPLOAD."""
        await self._commit(commands.AbortUpload(upload=upload.id))

    # ------------------------------------------------------------------ files, by directory and name
    def node(self, node: int) -> Node:
        """Raises NO_SUCH_NODE."""
        found = names.node_by_id(self._one, node)
        if found is None:
            raise StoreError(Code.NO_SUCH_NODE)
        return found

    def entry(self, parent: int, name: bytes, directory: bool) -> Entry | None:
        """One name of a directory, or None."""
        node = names.node_at(self._one, parent, name + b"/" if directory else name)
        return Entry(name, directory, node) if node is not None else None

    def entries(self, parent: int, after: tuple[bytes, bool] | None, limit: int) -> list[Entry]:
        """In the catalogue's order: bytes of the name, a directory's with "/" appended.  `after` is the (name,
        directory) of the last one seen."""
        return listing.entries(self._every, parent, after, limit)

    def allocated(self, node: Node) -> int:
        """Bytes of the node that are not holes."""
        return listing.allocated(self._every, node)

    async def make_directory(self, parent: int, name: bytes, mode: int, uid: int, gid: int, now_ns: int) -> Entry:
        """Raises EXISTS, NO_SUCH_NODE (the parent vanished)."""
        command = commands.MakeDirectory(parent=parent, name=name, mode=mode, uid=uid, gid=gid, now_ns=now_ns)
        entry: Entry = await self.engine.submit(command).wait()
        return entry

    async def remove_directory(self, parent: int, name: bytes, now_ns: int) -> None:
        """Raises NO_SUCH_NODE, NOT_EMPTY.  An object `d/` (entry with the empty name) goes with it."""
        await self.engine.submit(commands.RemoveDirectory(parent=parent, name=name, now_ns=now_ns)).wait()

    async def make_symlink(
        self, parent: int, name: bytes, target: bytes, uid: int, gid: int, now_ns: int
    ) -> Entry:
        """Stored, never resolved by us.  Raises EXISTS, NO_SUCH_NODE."""
        command = commands.MakeSymlink(parent=parent, name=name, target=target, uid=uid, gid=gid, now_ns=now_ns)
        entry: Entry = await self.engine.submit(command).wait()
        return entry

    async def make_link(self, node: int, parent: int, name: bytes, now_ns: int) -> Entry:
        """A second name of one file.  Raises EXISTS, CROSSES_BUCKETS, NO_SUCH_NODE."""
        command = commands.MakeLink(node=node, parent=parent, name=name, now_ns=now_ns)
        entry: Entry = await self.engine.submit(command).wait()
        return entry

    async def unlink(self, parent: int, name: bytes, now_ns: int) -> None:
        """Raises NO_SUCH_NODE.  The bytes of a held node live until `release`."""
        await self.engine.submit(commands.Unlink(parent=parent, name=name, now_ns=now_ns)).wait()

    async def rename(
        self,
        parent: int,
        name: bytes,
        directory: bool,
        new_parent: int,
        new_name: bytes,
        now_ns: int,
        *,
        replace: bool = True,
        exchange: bool = False,
    ) -> None:
        """Atomic.  The target, if any, is replaced (a directory only if empty).  Raises NO_SUCH_NODE, EXISTS,
        NOT_EMPTY, CROSSES_BUCKETS, INVALID_ARGUMENT (into itself), IS_A_DIRECTORY, NOT_A_DIRECTORY."""
        command = commands.Rename(
            parent=parent,
            name=name,
            directory=directory,
            new_parent=new_parent,
            new_name=new_name,
            now_ns=now_ns,
            replace=replace,
            exchange=exchange,
        )
        await self.engine.submit(command).wait()

    async def set_attributes(
        self,
        node: int,
        now_ns: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
        attributes: Attributes | None = None,
    ) -> Node:
        """An implied directory becomes explicit.  rclone's and s3fs's metadata are shown equal to the node's times and
        owner.  Raises NO_SUCH_NODE."""
        command = commands.SetAttributes(
            node=node,
            now_ns=now_ns,
            mode=mode,
            uid=uid,
            gid=gid,
            atime_ns=atime_ns,
            mtime_ns=mtime_ns,
            packed=None if attributes is None else pack_attributes(attributes),
        )
        changed: Node = await self.engine.submit(command).wait()
        return changed

    async def stage(self, bucket: Bucket, pieces: Sequence[Buffer]) -> NewChunk:
        """Joins `pieces` (at most limits.CHUNK_SIZE in all) into one new chunk.  Up to limits.GATHER_MAX the bytes are
        copied and travel with the commit; more are written to devices now, not yet durable or committed.

        Raises NO_SPACE, also when a fragmented device has no run long enough: stage less at once.
        """
        size = sum(memoryview(piece).nbytes for piece in pieces)
        assert 0 < size <= CHUNK_SIZE, "a chunk's worth"
        if size <= GATHER_MAX:
            return NewChunk(self.engine.new_id(), size, b"".join(pieces))
        ingest = await self.ingest(bucket, size)
        try:
            body = await self.engine.lanes.call(_fill, ingest, pieces)
            if len(body.chunks) != 1:
                raise StoreError(Code.NO_SPACE, "the device is too fragmented for one chunk")
            ingest.keep()
            return body.chunks[0]
        finally:
            ingest.close()

    async def read_staged(self, chunk: NewChunk, start: int, length: int) -> bytes:
        """Bytes of a staged chunk that no commit took yet."""
        if not chunk.pages:
            return chunk.data[start : start + length]
        refs: dict[int, list[PageRef]] = {}
        for item in chunk.pages:
            refs.setdefault(item.index, []).append(
                PageRef(item.device, item.offset, item.length, item.index, item.hsum)
            )
        return await self.engine.lanes.call(self.engine.retrieval.read_pages, refs, start, length)

    def forfeit(self, chunks: Sequence[NewChunk]) -> None:
        """Gives back staged chunks that no commit took."""
        for chunk in chunks:
            self.engine.staged.forfeit(chunk.id)

    def submit_file(
        self,
        bucket: Bucket,
        *,
        node: int,
        create: tuple[int, bytes] | None,
        mode: int,
        uid: int,
        gid: int,
        atime_ns: int,
        mtime_ns: int,
        now_ns: int,
        size: int,
        cut: int | None = None,
        chunks: Sequence[NewChunk] = (),
        slices: Sequence[NewSlice] = (),
        attributes: Attributes | None = None,
    ) -> Ticket:
        """Commits what a mounted file's writer has: one atomic change.

        `create` = (parent, name): a new file; `node` came from `new_node_id`; its entry is made, replacing what is
        there.  Otherwise an existing node's map is changed: first everything at or beyond `cut` is dropped, then
        `slices` (not overlapping each other, each within one of `chunks`) replace what they cover, then the size is
        `size`.  What no slice covers is a hole.  A file of at most limits.INLINE_MAX whose bytes all travel with the
        commit is stored inline.  The ETag becomes a fresh opaque one when bytes changed.  The ticket's result is
        Written; it fails with NO_SUCH_NODE when the node was unlinked and is not held.
        """
        command = commands.WriteFile(
            node=node,
            create=create,
            bucket=bucket.id,
            copies=bucket.copies,
            mode=mode,
            uid=uid,
            gid=gid,
            atime_ns=atime_ns,
            mtime_ns=mtime_ns,
            now_ns=now_ns,
            size=size,
            cut=cut,
            chunks=tuple(chunks),
            slices=tuple(slices),
            packed=None if attributes is None else pack_attributes(attributes),
            etag=secrets.token_hex(16) + "-1",
            label=_label(bucket, create[1] if create is not None else b""),
        )
        ticket = self.engine.submit(command)
        self._unsettled[bucket.id] = ticket
        return ticket

    def new_node_id(self) -> int:
        """An inode number that no other file ever had."""
        return self.engine.new_id()

    def hold(self, node: int) -> None:
        """While held an unlinked node keeps its bytes, and an implied directory stays.  Counted."""
        self.engine.hold(node)

    def release(self, node: int) -> None:
        """Ends one hold; the last one frees an unlinked node's bytes in the background."""
        self.engine.release(node)

    async def settle(self) -> None:
        """Everything submitted so far is durable (fsync of a directory, syncfs, shutdown)."""
        await self.engine.settle()

    def watch(self, listener: Callable[[Sequence[Change]], Awaitable[object] | None]) -> None:
        """`listener(changes)` is called on the loop after a commit and before it is acknowledged.  If it returns an
        awaitable, that is awaited before a change made through S3 is acknowledged (H5); the mount's own are not held
        up by it."""
        self.engine.watch(listener)

    # ------------------------------------------------------------------ credentials
    def access_key(self, key_id: str) -> AccessKey | None:
        """A dict look-up; None also for a revoked one."""
        return self.engine.access_keys.get(key_id)

    def access_keys(self) -> list[AccessKey]:
        """All, by name."""
        return list(self.engine.access_keys.values())

    async def put_access_key(self, key: AccessKey) -> None:
        """Adds or replaces one."""
        await self._commit(commands.PutAccessKey(key=key))

    async def remove_access_key(self, key_id: str) -> None:
        """Raises NO_SUCH_KEY."""
        await self._commit(commands.RemoveAccessKey(id=key_id))

    # ------------------------------------------------------------------ the box
    def space(self, copies: int = 1) -> tuple[int, int]:
        """(total, available) bytes as a user of a bucket with so many copies sees them."""
        allocator = self.engine.pool.allocator
        total = available = 0
        for device in self.engine.pool.devices.values():
            if device.online:
                size = allocator.size(device.id)
                total += size
                available += max(0, int(allocator.free(device.id) - size * (1 - WRITE_CEILING)))
        return total // copies, available // copies

    def devices(self) -> list[DeviceStatus]:
        """Every member, attached or not."""
        allocator = self.engine.pool.allocator
        return [
            DeviceStatus(
                device.id,
                device.uuid.hex(),
                device.path,
                device.tier,
                device.state,
                device.geometry.size,
                allocator.size(device.id),
                allocator.free(device.id),
                device.journal,
                device.read_errors,
                device.checksum_errors,
                device.write_errors,
            )
            for device in self.engine.pool.devices.values()
        ]

    def statistics(self) -> Mapping[str, float]:
        """Counters and gauges of the engine by name."""
        engine = self.engine
        usage = self.usage()
        devices = engine.pool.devices.values()
        return {
            "batches": engine.committer.batches,
            "batch_commands": engine.committer.batch_commands,
            "barrier_seconds": engine.committer.barrier_seconds,
            "record_bytes": engine.committer.record_bytes,
            "journal_used_bytes": engine.ring.used,
            "journal_size_bytes": engine.ring.length,
            "snapshots": engine.checkpointer.taken,
            "verify_failures": sum(device.checksum_errors for device in devices),
            "read_errors": sum(device.read_errors for device in devices),
            "write_errors": sum(device.write_errors for device in devices),
            "read_failovers": engine.pool.failovers,
            "cache_hits": engine.retrieval.cache.hits,
            "cache_misses": engine.retrieval.cache.misses,
            "cache_bytes": engine.retrieval.cache.bytes,
            "buffers_waiting": engine.pool.buffers.waiting,
            "uploads_active": self._one("SELECT count(*) FROM upload")[0],
            "objects": usage.objects,
            "bytes": usage.bytes,
            "writable": 0.0 if engine.committer.failed is not None else 1.0,
        }

    async def check_ready(self) -> None:
        """The writer and the catalogue answer.  Raises StoreError."""
        self.engine.require_writable()
        self._one("SELECT 1 FROM meta LIMIT 1")
        await self.engine.settle()

    async def close(self) -> None:
        """Settles and closes the pool."""
        await self.engine.close()
        for connection in self._connections:
            connection.close()

    # ------------------------------------------------------------------ inside
    def _one(self, sql: str, parameters: tuple[Any, ...] = ()) -> Any:
        return self.engine.reader.execute(sql, parameters).fetchone()

    def _every(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        return self.engine.reader.execute(sql, parameters).fetchall()

    async def _commit(self, command: commands.Command) -> Any:
        """A change through S3 or administration: others hear of it before the answer (H5)."""
        return await self.engine.submit(command, announce=True).wait()

    async def _settled(self, bucket: Bucket) -> None:
        """H2: what the mount has closed in this bucket is durable before anybody else sees around it."""
        ticket = self._unsettled.get(bucket.id)
        if ticket is None:
            return
        if not ticket.settled:
            try:
                await ticket.wait()
            except StoreError:
                pass  # told to the file's own writer; here only the order matters
        if self._unsettled.get(bucket.id) is ticket:
            del self._unsettled[bucket.id]

    def _snapshot(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(every, *arguments)` over one state, on the calling thread's own connection (H4)."""
        connection: sqlite3.Connection | None = getattr(self._threads, "connection", None)
        if connection is None:
            connection = self._threads.connection = database.connect(self._database_path, read_only=True)
            self._connections.append(connection)
        execute = connection.execute
        execute("BEGIN")
        try:
            return function(lambda sql, parameters: execute(sql, parameters).fetchall(), *arguments)
        finally:
            execute("COMMIT")

    def _bucket_by_id(self, number: int) -> Bucket:
        for bucket in self.engine.buckets.values():
            if bucket.id == number:
                return bucket
        raise StoreError(Code.NO_SUCH_BUCKET)


def _label(bucket: Bucket, key: bytes) -> bytes:
    return bucket.label + b"\0" + key


def _posix(
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


def _fill(ingest: EngineIngest, pieces: Sequence[Buffer]) -> Body:
    for piece in pieces:
        view = memoryview(piece).cast("B")
        for start in range(0, len(view), MIB):
            ingest.write(view[start : start + MIB])
    return ingest.finish()
