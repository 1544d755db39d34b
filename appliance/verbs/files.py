"""Files by directory and name: the mount's verbs."""

from __future__ import annotations

import secrets
import stat
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from appliance.catalogue import commands, content
from appliance.engine import directories
from appliance.engine.ingest import Ingest, is_placeable
from appliance.engine.pool import PageRef
from appliance.engine.ticket import Ticket
from appliance.engine.waited import bytes_read
from appliance.errors import Code, StoreError
from appliance.limits import CHUNK_SIZE, FILE_SIZE_MAX, GATHER_MAX, MIB
from appliance.model import (
    NO_ATTRIBUTES,
    Attributes,
    Body,
    BodyKind,
    Bucket,
    Change,
    DataKey,
    Entry,
    NewChunk,
    NewSlice,
    Node,
    SharedRange,
    pack_attributes,
    type_named_row,
    type_shown_row,
)
from appliance.verbs.base import label
from appliance.verbs.versions import VersionVerbs

if TYPE_CHECKING:
    from typing_extensions import Buffer


def _fill(ingest: Ingest, parts: Sequence[memoryview]) -> Body:
    for part in parts:
        for start in range(0, len(part), MIB):
            ingest.write(part[start : start + MIB])
    return ingest.finish()


def _warmed(every: directories.type_every, parent: int, after: bytes, limit: int, nodes: bool) -> int:
    before = bytes_read()
    directories.warm(every, parent, after, limit, nodes)
    return bytes_read() - before


class FileVerbs(VersionVerbs):
    """Files, directories, links; staging and committing what a mounted file's writer has."""

    def node(self, node: int) -> Node:
        """Raises NO_SUCH_NODE."""
        found = self.engine.node(node)
        if found is None:
            raise StoreError(Code.NO_SUCH_NODE)
        return found

    def entry(self, parent: int, name: bytes, directory: bool) -> Entry | None:
        """One name of a directory, or None."""
        node = self.engine.node_at(parent, name + b"/" if directory else name)
        return Entry(name, directory, node) if node is not None else None

    def entries(self, parent: int, after: tuple[bytes, bool] | None, limit: int) -> list[Entry]:
        """In the catalogue's order: bytes of the name, a directory's with "/" appended.  `after` is the (name,
        directory) of the last one seen."""
        found = directories.entries(self.every, parent, after, limit)
        if after is None and len(found) < limit and not any(entry.damaged for entry in found):
            self.engine.listed(parent, found)
        return found

    def shown(self, parent: int, after: bytes | None, limit: int) -> list[type_shown_row]:
        """As `entries`, of each what stat(2) shows and no more; `after` is a row name."""
        return directories.shown(self.every, parent, after, limit)

    def named(self, parent: int, after: bytes | None, limit: int) -> list[type_named_row]:
        """The same, of each its number and type."""
        return directories.named(self.every, parent, after, limit)

    async def warm(self, parent: int, after: bytes, limit: int, *, nodes: bool) -> int:
        """What `shown` (with `nodes`) or `named` would read is in memory, as far as that has room: for who has `waited`
        for the disk before, and others with him.  How many bytes the disk had to read."""
        read: int = await self.engine.scans.call(self.snapshot, _warmed, parent, after, limit, nodes)
        return read

    def waited(self) -> int:
        """Bytes for which the calling thread has waited until a disk had read them, so far."""
        return bytes_read()

    async def place_of(self, node: int) -> tuple[int, bytes] | None:
        """A (directory, name) of a file; None without one.  Reads all names: for what must be known and seldom is."""
        found: tuple[int, bytes] | None = await self.engine.scans.call(self.snapshot, directories.place_of, node)
        return found

    def allocated(self, node: Node, start: int = 0, end: int = FILE_SIZE_MAX) -> int:
        """Bytes of the node in [start, end) that are not holes."""
        if start == 0 and end >= node.size:
            return self.engine.filled.of(node, self.every)
        return directories.allocated(self.every, node, start, end)

    def extents(self, node: int, start: int, end: int, limit: int) -> list[tuple[int, int]]:
        """The first `limit` pieces (from, to) of what is no hole in [start, end) of the node as it is now, in order;
        neighbours may touch.  Costs what it gives, however long the map.  Raises NO_SUCH_NODE."""
        self.engine.retrieval.begin()  # the writer may put another map in the place of this one between two statements
        try:
            found = self.node(node)
            end = min(end, found.size)
            if found.kind == BodyKind.INLINE:
                return [(start, end)] if start < (end := min(end, len(found.data))) else []
            pieces = content.pieces(self.every, found.kind, found.ref, start, end)
            return [(piece.offset, piece.offset + piece.length) for piece in islice(pieces, limit)]
        finally:
            self.engine.retrieval.end()

    def make_directory(
        self,
        parent: int,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        now_ns: int,
        attributes: Attributes = NO_ATTRIBUTES,
        *,
        node: int = 0,
    ) -> Ticket:
        """Its `Entry`; `node` is a number from `new_node_id`.  Raises EXISTS, NO_SUCH_NODE (the parent vanished)."""
        packed = pack_attributes(attributes)
        if node:
            self.engine.rows.know(node, {})
        command = commands.MakeDirectory(
            parent=parent, name=name, mode=mode, uid=uid, gid=gid, now_ns=now_ns, packed=packed, node=node
        )
        return self._change(command)

    def remove_directory(self, parent: int, name: bytes, now_ns: int) -> Ticket:
        """Raises NO_SUCH_NODE, NOT_EMPTY, LOCKED.  An object `d/` (entry with the empty name) goes with it."""
        command = commands.RemoveDirectory(parent=parent, name=name, now_ns=now_ns, lock_ns=self.releasing())
        return self._change(command)

    def make_symlink(
        self, parent: int, name: bytes, target: bytes, uid: int, gid: int, now_ns: int, *, node: int = 0
    ) -> Ticket:
        """Its `Entry`.  Stored, never resolved by us.  Raises EXISTS, NO_SUCH_NODE."""
        mode = stat.S_IFLNK | 0o777
        command = commands.MakeSpecial(
            parent=parent, name=name, mode=mode, target=target, uid=uid, gid=gid, now_ns=now_ns, node=node
        )
        return self._change(command)

    def make_special(
        self,
        parent: int,
        name: bytes,
        mode: int,
        rdev: int,
        uid: int,
        gid: int,
        now_ns: int,
        attributes: Attributes = NO_ATTRIBUTES,
    ) -> Ticket:
        """The `Entry` of a FIFO, socket or device, as `mode` says (mknod(2)): stored, never opened by us, and no
        object.  Raises EXISTS, NO_SUCH_NODE."""
        command = commands.MakeSpecial(
            parent=parent,
            name=name,
            mode=mode,
            rdev=rdev,
            uid=uid,
            gid=gid,
            now_ns=now_ns,
            packed=pack_attributes(attributes),
        )
        return self._change(command)

    def make_link(self, node: int, parent: int, name: bytes, now_ns: int) -> Ticket:
        """The `Entry` of a second name of one file.  Raises EXISTS, CROSSES_BUCKETS, NO_SUCH_NODE, NOT_SUPPORTED
        (versions)."""
        command = commands.MakeLink(node=node, parent=parent, name=name, now_ns=now_ns)
        return self._change(command)

    def unlink(self, parent: int, name: bytes, now_ns: int) -> Ticket:
        """Raises NO_SUCH_NODE, LOCKED.  The bytes of a held node live until `release`."""
        command = commands.Unlink(parent=parent, name=name, now_ns=now_ns, lock_ns=self.releasing())
        return self._change(command)

    def rename(
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
    ) -> Ticket:
        """Atomic.  The target, if any, is replaced (a directory only if empty).  Raises NO_SUCH_NODE, EXISTS,
        NOT_EMPTY, CROSSES_BUCKETS (also too many versions in a directory), INVALID_ARGUMENT (into itself; directories
        of versions exchanged), IS_A_DIRECTORY, NOT_A_DIRECTORY, LOCKED."""
        command = commands.Rename(
            parent=parent,
            name=name,
            directory=directory,
            new_parent=new_parent,
            new_name=new_name,
            now_ns=now_ns,
            replace=replace,
            exchange=exchange,
            lock_ns=self.releasing(),
        )
        return self._change(command)

    def set_attributes(
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
    ) -> Ticket:
        """The changed `Node`.  An implied directory becomes explicit.  rclone's and s3fs's metadata are shown equal to
        the node's times and owner.  Raises NO_SUCH_NODE, LOCKED (`attributes` of a locked object)."""
        command = commands.SetAttributes(
            node=node,
            now_ns=now_ns,
            mode=mode,
            uid=uid,
            gid=gid,
            atime_ns=atime_ns,
            mtime_ns=mtime_ns,
            packed=None if attributes is None else pack_attributes(attributes),
            lock_ns=0 if attributes is None else self.releasing(),
        )
        return self._change(command)

    def _change(self, command: commands.Command) -> Ticket:
        """To be awaited, or left pending; then `leave` says so."""
        ticket = self.engine.submit(command, patient=True)
        ticket.born = self.engine.new_id()
        return ticket

    def again(self, ticket: Ticket) -> Ticket:
        """The same change, once more; if its names were given to something else since, it fails with NO_SUCH_NODE."""
        command = ticket.command
        if isinstance(command, commands.Unlink | commands.Rename):
            command = msgspec.structs.replace(command, until=ticket.born)
        return self._change(command)

    def leave(self, bucket: int, ticket: Ticket) -> None:
        """Nobody awaits this change in the bucket: who comes through another door does (H2), and if its batch fails
        with a device, it is committed by the others before what was submitted behind it."""
        ticket.answered = True
        self.unsettled[bucket] = ticket

    @property
    def quiet(self) -> bool:
        """Whether no change by another door than the mount is under way."""
        return self.engine.announced is None or self.engine.announced.settled

    async def set_times(self, times: Sequence[tuple[int, int, int]]) -> None:
        """(node, when it was read, when a directory changed), in nanoseconds, 0 for neither: durable when it returns.
        Of a node that is gone nothing is kept."""
        await self.engine.submit(commands.SetTimes(times=tuple(times))).wait()

    async def stage(self, bucket: Bucket, pieces: Sequence[Buffer], encryption: DataKey | None = None) -> NewChunk:
        """Joins `pieces` (at most limits.CHUNK_SIZE in all) into one new chunk.  Up to limits.GATHER_MAX the bytes are
        copied and travel with the commit; more are written to devices now, not yet durable or committed.  Nobody
        changes the pieces meanwhile: if devices take them as they lie, they are not copied.

        Raises NO_SPACE, also when a fragmented device has no run long enough: stage less at once.
        """
        parts = [memoryview(piece).cast("B") for piece in pieces]
        size = sum(map(len, parts))
        assert 0 < size <= CHUNK_SIZE, "a chunk's worth"
        if size <= GATHER_MAX:
            return self.carried(pieces, encryption)
        in_place = encryption is None and is_placeable(parts)
        ingest = self.ingest_in_place(bucket, size) if in_place else await self.ingest(bucket, size, b"", encryption)
        try:
            body = await self.engine.lanes.call(Ingest.place if in_place else _fill, ingest, parts)
            if len(body.chunks) != 1:
                raise StoreError(Code.NO_SPACE, "the device is too fragmented for one chunk")
            ingest.keep()
            return body.chunks[0]
        finally:
            ingest.close()

    def carried(self, pieces: Sequence[Buffer], encryption: DataKey | None = None) -> NewChunk:
        """The same of at most limits.GATHER_MAX, without a wait."""
        data = b"".join(pieces)
        return NewChunk(self.engine.new_id(), len(data), data, key=encryption)

    async def read_staged(self, chunk: NewChunk, start: int, length: int) -> bytes:
        """Bytes of a staged chunk that no commit took yet, whatever becomes of it while they are read."""
        if not chunk.pages:
            return chunk.data[start : start + length]
        refs: dict[int, list[PageRef]] = {}
        for item in chunk.pages:
            refs.setdefault(item.index, []).append(
                PageRef(item.device, item.offset, item.length, item.index, item.hsum, chunk.id)
            )
        retrieval = self.engine.retrieval
        pin = retrieval.pins.pin(self.engine.shown)  # if a commit takes it, and another one frees it (I11)
        try:
            with self.engine.staged.reading(chunk.id):
                return await self.engine.lanes.call(retrieval.read_pages, refs, start, length)
        finally:
            retrieval.pins.unpin(pin)
            retrieval.unpinned()

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
        ctime_ns: int = 0,
        made_ns: int = 0,
        cut: int | None = None,
        chunks: Sequence[NewChunk] = (),
        slices: Sequence[NewSlice] = (),
        attributes: Attributes | None = None,
        place: tuple[int, bytes] | None = None,
        begins: bool = False,
        stays: int = -1,
        done: bool = False,
        promised: tuple[int, int] = (0, 0),
        punched: Sequence[tuple[int, int]] = (),
        shared: SharedRange | None = None,
        until: int = 0,
        late: bool = False,
    ) -> Ticket:
        """Commits what a mounted file's writer has: one atomic change.

        `create` = (parent, name): a new file; `node` came from `new_node_id`; its entry is made, replacing what is
        there.  Otherwise an existing node's map is changed: first everything at or beyond `cut` is dropped, then the
        ranges `punched` (from, to) become holes and `slices` (each within one of `chunks`) replace what they cover,
        none of which overlap each other, then the size is `size`.  What no slice covers is a hole.  A file of at most
        limits.INLINE_MAX whose bytes all travel with the commit is stored inline.  The ETag becomes a fresh opaque one
        when bytes changed.  The ticket's result is Written; it fails with NO_SUCH_NODE when the node was unlinked and
        is not held.

        `shared`: bytes of another file, or of this one elsewhere, that this one has too from now on, within what is
        punched; no slices come with them.  Fails with CONFLICT (the source became shorter or lost its last name
        meanwhile, or has too many pieces there) and NOT_SUPPORTED (its bytes are kept in another way than this file's
        must be: fewer copies, not encrypted, or in the catalogue).

        In a bucket with versions `begins` makes a change of the bytes a version of its own, and so does each change of
        the version `stays`, in case the commit that was to leave it behind fails; `place` (parent, name) is where the
        file was found, and saves a search for its key.  `done`: no writer has it any more, and the bucket's
        default retention begins.  Then it fails with LOCKED where the file is retained or held.  `ctime_ns` is when the
        file changed last, `made_ns` when its name was made, which is its directory's time; 0: `now_ns`.

        `promised`: objects and bytes that `reserve` promised for this change: redeemed if it succeeds, else the
        caller's to give back.  What it adds beyond that may fail with QUOTA_EXCEEDED.

        `late`: what is waited for is that it is durable (`Ticket.stands`, `Ticket.call`), and its rows may be shown
        after that.

        `until`: the `born` of the ticket that failed, if this is tried again: a new name then replaces nothing that was
        made since, but fails with NO_SUCH_NODE.
        """
        bucket = self.engine.buckets.get(bucket.name, bucket)
        default = self.retained(bucket, NO_ATTRIBUTES, now_ns) if done and bucket.settings else NO_ATTRIBUTES
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
            ctime_ns=ctime_ns,
            made_ns=made_ns,
            cut=cut,
            chunks=tuple(chunks),
            slices=tuple(slices),
            packed=None if attributes is None else pack_attributes(attributes),
            etag=secrets.token_hex(16) + "-1",
            label=label(bucket, create[1] if create is not None else b""),
            place=place,
            begins=begins,
            stays=stays,
            lock_ns=self.releasing() if bucket.settings else 0,
            retention_mode=default.retention_mode,
            retain_until_ns=default.retain_until_ns,
            promised=promised,
            punched=tuple(punched),
            until=until,
        )
        said = command if shared is None else commands.CopyRange(change=command, shared=shared)
        ticket = self.engine.submit(said, patient=shared is None and not late, late=late)
        ticket.born = self.engine.new_id()
        self.leave(bucket.id, ticket)
        return ticket

    def versioned(self, bucket: int) -> bool:
        """Whether the bucket of this number has or had versions.  A set look-up."""
        return bucket in self.engine.versioned

    def new_node_id(self) -> int:
        """An inode number that no other file ever had."""
        return self.engine.new_id()

    def hold(self, node: int) -> bool:
        """While held an unlinked node keeps its bytes, and an implied directory stays.  Counted.

        False when it is too late for that: a commit under way removes the node.  `settle`, and look it up again."""
        return self.engine.hold(node)

    def release(self, node: int) -> None:
        """Ends one hold; the last one frees an unlinked node's bytes in the background."""
        self.engine.release(node)

    async def settle(self) -> None:
        """Everything submitted so far is durable or has failed (fsync of a directory, syncfs, shutdown).  Does not wait
        for who is told of others' changes: the kernel may hold the lock that they want."""
        await self.engine.settle()

    def watch(self, listener: Callable[[Sequence[Change]], Awaitable[object] | None]) -> Callable[[], None]:
        """`listener(changes)` is called on the loop after a commit of changed names and before it is acknowledged, with
        those changes that were not the mount's.  If it returns an awaitable, that is awaited before they are
        acknowledged (H5); the mount's own are not held up by it.  What is returned ends it."""
        return self.engine.watch(listener)
