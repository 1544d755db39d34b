"""The store's file and object verbs over dicts, for tests of the mount.

Commits are queued in order and applied when somebody waits, as a group commit would; `gate` holds them back,
`fail_next` makes the next one fail.
"""

from __future__ import annotations

import stat
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import msgspec
import trio
from typing_extensions import Buffer

from appliance.device.buffers import aligned
from appliance.errors import Code, StoreError
from appliance.limits import GATHER_MAX
from appliance.model import (
    NO_ATTRIBUTES,
    Attributes,
    BodyKind,
    Bucket,
    Change,
    DataKey,
    Entry,
    NewChunk,
    NewPage,
    NewSlice,
    Node,
    SharedRange,
    Usage,
    Written,
    pack_attributes,
    type_named_row,
    type_shown_row,
)
from tests.fusefs.memory_bodies import Content, MemoryReader, NoDisk
from tests.fusefs.memory_ticket import MemoryTicket


class MemoryStore(NoDisk):
    def __init__(self) -> None:
        self.next_id = 2
        self.by_name: dict[str, Bucket] = {}
        self.nodes: dict[int, Node] = {}
        self.contents: dict[int, Content] = {}
        self.directories: dict[int, dict[bytes, int]] = {}  # node -> {name, or name + "/": node}
        self.order: dict[int, list[bytes]] = {}  # sorted names; dropped on change
        self.holds: dict[int, int] = {}
        self.queue: list[MemoryTicket] = []
        self.chunks: dict[int, bytes] = {}  # staged to "devices"
        self.committed: dict[int, bytes] = {}
        self.listeners: list[Callable[[Sequence[Change]], Any]] = []
        self.gate: trio.Event | None = None
        self.longest_run = 1 << 40
        self.stage_gate: trio.Event | None = None
        self.fail_next: StoreError | None = None
        self.stage_error: StoreError | None = None
        self.cold = False  # readers answer only through read()
        self.commits = 0
        self.quiet = True
        self.promised: dict[int, tuple[int, int]] = {}

    # ------------------------------------------------------------------ commits
    async def drain(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        while self.queue:
            self.queue.pop(0).run()

    async def settle(self) -> None:
        await self.drain()

    def _later(self, apply: Callable[[], Any]) -> MemoryTicket:
        ticket = MemoryTicket(self, apply)
        self.queue.append(ticket)
        return ticket

    def again(self, ticket: MemoryTicket) -> MemoryTicket:
        return self._later(ticket.apply)

    def leave(self, bucket: int, ticket: MemoryTicket) -> None: ...

    # ------------------------------------------------------------------ buckets
    def bucket(self, name: str) -> Bucket:
        try:
            return self.by_name[name]
        except KeyError:
            raise StoreError(Code.NO_SUCH_BUCKET) from None

    def buckets(self) -> list[Bucket]:
        return [self.by_name[name] for name in sorted(self.by_name)]

    async def create_bucket(
        self, name: str, owner: str, *, copies: int | None = None, etag: str = "md5", announce: bool = True
    ) -> Bucket:
        if not 3 <= len(name) <= 63 or not name.replace("-", "").replace(".", "").isalnum() or name != name.lower():
            raise StoreError(Code.INVALID_NAME, f"{name} is not a bucket name")
        if name in self.by_name:
            raise StoreError(Code.BUCKET_OWNED)
        root = self._new_node(stat.S_IFDIR | 0o755, 0, 0, 1).id
        bucket = Bucket(self.new_node_id(), "default", name, 1, root, owner)
        self.by_name[name] = bucket
        return bucket

    async def delete_bucket(self, name: str, *, announce: bool = True) -> None:
        await self.drain()
        bucket = self.bucket(name)
        if self.directories[bucket.root]:
            raise StoreError(Code.BUCKET_NOT_EMPTY)
        del self.by_name[name]

    # ------------------------------------------------------------------ nodes and names
    def new_node_id(self) -> int:
        self.next_id += 1
        return self.next_id

    def _new_node(self, mode: int, uid: int, gid: int, now: int, number: int = 0, data: bytes = b"") -> Node:
        number = number or self.new_node_id()
        links = 2 if stat.S_ISDIR(mode) else 1
        node = Node(
            number, mode, uid, gid, links, len(data), now, now, now, now, 1, f"{number:032x}-1", 0, 0, data, 0, b""
        )
        self.nodes[number] = node
        if stat.S_ISDIR(mode):
            self.directories[number] = {}
        elif stat.S_ISREG(mode):
            self.contents[number] = Content()
        return node

    def node(self, node: int) -> Node:
        try:
            return self.nodes[node]
        except KeyError:
            raise StoreError(Code.NO_SUCH_NODE) from None

    def _row(self, name: bytes, directory: bool) -> bytes:
        return name + b"/" if directory else name

    def _set(self, parent: int, row: bytes, node: int) -> None:
        if parent not in self.directories:
            raise StoreError(Code.NO_SUCH_NODE)
        if row.endswith(b"/") and row not in self.directories[parent]:
            self._link(parent, 1)
        self.directories[parent][row] = node
        self.order.pop(parent, None)

    def _link(self, directory: int, count: int) -> None:
        node = self.nodes[directory]
        self.nodes[directory] = msgspec.structs.replace(node, links=node.links + count)

    def _drop(self, parent: int, row: bytes) -> Node:
        node = self.nodes[self.directories[parent].pop(row)]
        self.order.pop(parent, None)
        links = 0 if row.endswith(b"/") else node.links - 1
        if row.endswith(b"/"):
            self._link(parent, -1)
        node = self.nodes[node.id] = msgspec.structs.replace(node, links=links)
        if node.links == 0:
            self.directories.pop(node.id, None)
            if not self.holds.get(node.id):
                self._erase(node.id)
        return node

    def _erase(self, node: int) -> None:
        self.nodes.pop(node, None)
        self.contents.pop(node, None)

    def entry(self, parent: int, name: bytes, directory: bool) -> Entry | None:
        node = self.directories.get(parent, {}).get(self._row(name, directory))
        return None if node is None else Entry(name, directory, self.nodes[node])

    def entries(self, parent: int, after: tuple[bytes, bool] | None, limit: int) -> list[Entry]:
        rows = self.directories.get(parent, {})
        order = self.order.get(parent)
        if order is None:
            order = self.order[parent] = sorted(rows)
        start = 0 if after is None else bisect_right(order, self._row(*after))
        return [
            Entry(row.removesuffix(b"/"), row.endswith(b"/"), self.nodes[rows[row]])
            for row in order[start : start + limit]
        ]

    def shown(self, parent: int, after: bytes | None, limit: int) -> list[type_shown_row]:
        last = None if after is None else (after.removesuffix(b"/"), after.endswith(b"/"))
        return [
            (
                self._row(entry.name, entry.directory), node.id, node.mode, node.uid, node.gid, node.links, node.size,
                node.kind, node.atime_ns, node.mtime_ns, node.ctime_ns, node.flags, 0,
            )
            for entry in self.entries(parent, last, limit)
            for node in (entry.node,)
        ]  # fmt: skip

    def named(self, parent: int, after: bytes | None, limit: int) -> list[type_named_row]:
        return [(*row[:3], 0) for row in self.shown(parent, after, limit)]

    def hold(self, node: int) -> bool:
        self.holds[node] = self.holds.get(node, 0) + 1
        return True

    def release(self, node: int) -> None:
        self.holds[node] -= 1
        if not self.holds[node]:
            del self.holds[node]
            if node in self.nodes and self.nodes[node].links == 0:
                self._erase(node)

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
    ) -> MemoryTicket:
        def apply() -> Entry:
            if self.entry(parent, name, True) is not None:
                raise StoreError(Code.EXISTS)
            if parent not in self.directories:
                raise StoreError(Code.NO_SUCH_NODE)
            number = self._new_node(mode, uid, gid, now_ns, node).id
            made = self.nodes[number] = msgspec.structs.replace(self.nodes[number], packed=pack_attributes(attributes))
            self._set(parent, self._row(name, True), made.id)
            return Entry(name, True, made)

        return self._later(apply)

    def remove_directory(self, parent: int, name: bytes, now_ns: int) -> MemoryTicket:
        def apply() -> None:
            entry = self.entry(parent, name, True)
            if entry is None:
                raise StoreError(Code.NO_SUCH_NODE)
            rows = self.directories[entry.node.id]
            if set(rows) - {b""}:
                raise StoreError(Code.NOT_EMPTY)
            if b"" in rows:
                self._drop(entry.node.id, b"")
            self._drop(parent, self._row(name, True))

        return self._later(apply)

    def make_symlink(
        self, parent: int, name: bytes, target: bytes, uid: int, gid: int, now_ns: int, *, node: int = 0
    ) -> MemoryTicket:
        def apply() -> Entry:
            made = self._new_node(stat.S_IFLNK | 0o777, uid, gid, now_ns, node, data=target)
            self._set(parent, name, made.id)
            return Entry(name, False, made)

        return self._later(apply)

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
    ) -> MemoryTicket:
        def apply() -> Entry:
            node = self._new_node(mode, uid, gid, now_ns)
            node = self.nodes[node.id] = msgspec.structs.replace(node, ref=rdev, packed=pack_attributes(attributes))
            self._set(parent, name, node.id)
            return Entry(name, False, node)

        return self._later(apply)

    def make_link(self, node: int, parent: int, name: bytes, now_ns: int) -> MemoryTicket:
        def apply() -> Entry:
            if self.entry(parent, name, False) is not None:
                raise StoreError(Code.EXISTS)
            row = self.nodes[node] = msgspec.structs.replace(self.node(node), links=self.node(node).links + 1)
            self._set(parent, name, node)
            return Entry(name, False, row)

        return self._later(apply)

    def unlink(self, parent: int, name: bytes, now_ns: int) -> MemoryTicket:
        def apply() -> None:
            if self.entry(parent, name, False) is None:
                raise StoreError(Code.NO_SUCH_NODE)
            self._drop(parent, name)

        return self._later(apply)

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
    ) -> MemoryTicket:
        def apply() -> None:
            row, new_row = self._row(name, directory), self._row(new_name, directory)
            source, target = self.directories[parent].get(row), self.directories[new_parent].get(new_row)
            if source is None:
                raise StoreError(Code.NO_SUCH_NODE)
            if exchange:
                if target is None:
                    new_row = self._row(new_name, not directory)
                    target = self.directories[new_parent][new_row]
                for at, each in ((parent, row), (new_parent, new_row)):
                    del self.directories[at][each]
                    self._link(at, -each.endswith(b"/"))
                self._set(parent, self._row(name, new_row.endswith(b"/")), target)
                self._set(new_parent, self._row(new_name, directory), source)
                return
            if target is not None:
                if not replace:
                    raise StoreError(Code.EXISTS)
                if directory and self.directories[target]:
                    raise StoreError(Code.NOT_EMPTY)
                if target != source:
                    self._drop(new_parent, new_row)
            del self.directories[parent][row]
            if directory:
                self._link(parent, -1)
            self.order.pop(parent, None)
            self._set(new_parent, new_row, source)

        return self._later(apply)

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
    ) -> MemoryTicket:
        def apply() -> Node:
            row = self.node(node)
            row = self.nodes[node] = msgspec.structs.replace(
                row,
                mode=row.mode if mode is None else mode,
                uid=row.uid if uid is None else uid,
                gid=row.gid if gid is None else gid,
                atime_ns=row.atime_ns if atime_ns is None else atime_ns,
                mtime_ns=row.mtime_ns if mtime_ns is None else mtime_ns,
                ctime_ns=now_ns,
                packed=row.packed if attributes is None else pack_attributes(attributes),
            )
            return row

        return self._later(apply)

    async def set_times(self, times: Sequence[tuple[int, int, int]]) -> None:
        def apply() -> None:
            for number, read_ns, _ in times:
                if read_ns and number in self.nodes:
                    self.nodes[number] = msgspec.structs.replace(self.nodes[number], atime_ns=read_ns)

        await self._later(apply)

    # ------------------------------------------------------------------ files
    def reader(self, node: Node, start: int = 0, length: int | None = None) -> MemoryReader:
        length = node.size - start if length is None else length
        assert start >= 0
        assert start + length <= node.size
        return MemoryReader(self.contents[node.id], start, length, self.cold)

    async def stage(self, bucket: Bucket, pieces: Sequence[Buffer], encryption: DataKey | None = None) -> NewChunk:
        assert encryption is None, "the double encrypts nothing"
        if self.stage_error is not None:
            raise self.stage_error
        data = b"".join(pieces)
        if len(data) > self.longest_run:
            raise StoreError(Code.NO_SPACE, "fragmented")
        if len(data) <= GATHER_MAX:
            return self.carried(pieces)
        chunk = NewChunk(self.new_node_id(), len(data), b"", (NewPage(1, 0, len(data), 0, 0, b""),))
        await trio.lowlevel.checkpoint()
        if self.stage_gate is not None:
            await self.stage_gate.wait()
        self.chunks[chunk.id] = data
        return chunk

    def carried(self, pieces: Sequence[Buffer], encryption: DataKey | None = None) -> NewChunk:
        data = b"".join(pieces)
        return NewChunk(self.new_node_id(), len(data), data)

    async def read_staged(self, chunk: NewChunk, start: int, length: int) -> bytes:
        data = chunk.data or self.chunks.get(chunk.id) or self.committed[chunk.id]
        data = data[start : start + length]
        await trio.lowlevel.checkpoint()
        return data

    copies = 1
    memory = staticmethod(aligned)

    def usage(self, bucket: Bucket | None = None) -> Usage:
        return Usage(len(self.nodes), 0)

    def quota(self, bucket: int) -> None:
        """None has one."""

    def limited(self, bucket: int) -> bool:
        return False

    def reserve(self, bucket: int, objects: int, size: int, *, ask: bool = True) -> None:
        held = self.promised.get(bucket, (0, 0))
        self.promised[bucket] = held[0] + objects, held[1] + size

    def unreserve(self, bucket: int, objects: int, size: int) -> None:
        held = self.promised.get(bucket, (0, 0))
        self.promised[bucket] = held[0] - objects, held[1] - size
        assert min(self.promised[bucket]) >= 0, "more is given back than was promised"

    def versioned(self, bucket: int) -> bool:
        return False  # versions are the real store's

    def forfeit(self, chunks: Sequence[NewChunk]) -> None:
        for chunk in chunks:
            if chunk.pages:
                del self.chunks[chunk.id]

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
    ) -> MemoryTicket:
        bodies = {chunk.id: chunk.data or self.chunks[chunk.id] for chunk in chunks}
        assert {piece.chunk for piece in slices} == set(bodies), "every chunk is used and every slice has its chunk"

        def apply() -> Written:
            if create is not None:
                parent, name = create
                if parent not in self.directories:
                    raise StoreError(Code.NO_SUCH_NODE)
                if name in self.directories[parent]:
                    self._drop(parent, name)
                self._new_node(mode, uid, gid, now_ns, node)
                self._set(parent, name, node)
            row = self.node(node)
            if shared is not None and not self.node(shared.source).links:
                raise StoreError(Code.CONFLICT)
            content = self.contents[node]
            if cut is not None:
                content.cut(cut)
            for start, end in punched:
                content.punch(start, end)
            if shared is not None:
                content.write(shared.offset, self.contents[shared.source].read(shared.start, shared.length))
            for piece in slices:
                content.write(piece.offset, memoryview(bodies[piece.chunk])[piece.start : piece.start + piece.length])
            for chunk in chunks:
                if chunk.pages:
                    self.committed[chunk.id] = self.chunks.pop(chunk.id)
            self.nodes[node] = msgspec.structs.replace(
                row,
                mode=mode,
                uid=uid,
                gid=gid,
                size=size,
                atime_ns=atime_ns,
                mtime_ns=mtime_ns,
                ctime_ns=ctime_ns,
                written_ns=now_ns,
                generation=row.generation + 1,
                etag=f"{row.generation + 1:032x}-1",
                kind=BodyKind.MAP if content.blocks else BodyKind.EMPTY,
                packed=row.packed if attributes is None else pack_attributes(attributes),
            )
            self.commits += 1
            self.unreserve(bucket.id, *promised)
            return Written(node, self.nodes[node].etag, size, now_ns)

        ticket = MemoryTicket(self, apply)
        self.queue.append(ticket)
        return ticket

    def allocated(self, node: Node, start: int = 0, end: int = 1 << 63) -> int:
        return sum(high - low for low, high in self.contents[node.id].extents(start, end))

    def extents(self, node: int, start: int, end: int, limit: int) -> list[tuple[int, int]]:
        return list(islice(self.contents[node].extents(start, min(end, self.nodes[node].size)), limit))

    def space(self, copies: int = 1) -> tuple[int, int]:
        return 1 << 40, 1 << 39

    async def place_of(self, node: int) -> tuple[int, bytes] | None:
        found = (
            (parent, name) for parent, names in self.directories.items() for name, each in names.items() if each == node
        )
        return next(found, None)

    # ------------------------------------------------------------------ the other door
    def watch(self, listener: Callable[[Sequence[Change]], Any]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def watch_hidden(self, listener: Callable[[], None]) -> Callable[[], None]:
        return lambda: None

    async def put(self, bucket: str, key: bytes, data: bytes) -> int:
        """As an S3 PUT: implied directories, a new node, the listener before the answer."""
        await self.drain()
        changes = []
        parent = self.bucket(bucket).root
        *segments, name = key.split(b"/")
        for segment in segments:
            entry = self.entry(parent, segment, True)
            if entry is None:
                node = self._new_node(stat.S_IFDIR | 0o755, 0, 0, 1)
                self._set(parent, self._row(segment, True), node.id)
                changes.append(Change(parent, segment, True, 0, False))
                entry = Entry(segment, True, node)
            parent = entry.node.id
        old = self.entry(parent, name, False)
        if old is not None:
            self._drop(parent, name)
        node = self._new_node(stat.S_IFREG | 0o644, 0, 0, 1)
        self.contents[node.id].write(0, data)
        self.nodes[node.id] = msgspec.structs.replace(node, size=len(data), kind=BodyKind.MAP)
        self._set(parent, name, node.id)
        changes.append(Change(parent, name, False, 0 if old is None else old.node.id, False))
        await self._tell(changes)
        return node.id

    async def delete(self, bucket: str, key: bytes) -> None:
        """As an S3 DELETE."""
        await self.drain()
        parent = self.bucket(bucket).root
        *segments, name = key.split(b"/")
        for segment in segments:
            entry = self.entry(parent, segment, True)
            assert entry is not None
            parent = entry.node.id
        if name not in self.directories[parent]:
            return
        old = self._drop(parent, name)
        await self._tell([Change(parent, name, False, old.id, True)])

    async def get(self, bucket: str, key: bytes) -> bytes:
        """As an S3 GET: waits for pending commits."""
        await self.drain()
        parent = self.bucket(bucket).root
        *segments, name = key.split(b"/")
        for segment in segments:
            entry = self.entry(parent, segment, True)
            if entry is None:
                raise StoreError(Code.NO_SUCH_KEY)
            parent = entry.node.id
        found = self.entry(parent, name, False)
        if found is None or not stat.S_ISREG(found.node.mode):
            raise StoreError(Code.NO_SUCH_KEY)
        return self.contents[found.node.id].read(0, found.node.size)

    async def _tell(self, changes: list[Change]) -> None:
        for listener in self.listeners:
            waiting = listener(changes)
            if waiting is not None:
                await waiting
