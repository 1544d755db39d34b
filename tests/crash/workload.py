"""Clients of both doors' kinds, at random: each task does one thing after another until the power goes.

Every operation goes through `ObjectStore`, as the doors' do.  An operation may fail with a StoreError: names vanish
under concurrent tasks, space runs out, devices fail.  What it must never do is read wrong bytes.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import trio

from appliance.errors import Code, StoreError
from appliance.limits import KIB
from appliance.model import NO_ATTRIBUTES, Body, Bucket, DataKey, NewSlice, Node, SharedRange
from appliance.store import ObjectStore
from appliance.upkeep.fold import Folder
from tests.crash.observed import Broken
from tests.crash.witness import Witness
from tests.doubles.disks import Crash
from tests.models.boxes import of_root

KEYS: Final = (b"a", b"b", b"c", b"d/a", b"d/b", b"d/e/a", b"f/a")
NAMES: Final = (b"a", b"b", b"m", b"n", b"o")
DIRECTORIES: Final = (b"x", b"y", b"z")
SMALL: Final = (0, 1, 700, 2048, 2049, 5000, 8192)
STREAMED: Final = (9 * KIB, 20 * KIB, 128 * KIB, 140 * KIB, 256 * KIB, 300 * KIB, 520 * KIB)
PART: Final = (16 * KIB, 17 * KIB, 150 * KIB)

EXPECTED: Final = {
    Code.NO_SUCH_KEY,
    Code.NO_SUCH_NODE,
    Code.NO_SUCH_UPLOAD,
    Code.EXISTS,
    Code.NOT_EMPTY,
    Code.NOT_A_DIRECTORY,
    Code.IS_A_DIRECTORY,
    Code.INVALID_ARGUMENT,
    Code.NO_SPACE,
    Code.TOO_LARGE,
    Code.CONFLICT,
    Code.NOT_SUPPORTED,
}
FAULTS: Final = {Code.UNAVAILABLE, Code.IO_ERROR, Code.READ_ONLY, Code.DAMAGED}


class Clients:
    """What several tasks do to one store."""

    def __init__(
        self,
        store: ObjectStore,
        witness: Witness,
        seed: random.Random,
        *,
        faulty: bool,
        dense: bool = False,
        sharing: bool = False,
    ) -> None:
        self.store = store
        self.witness = witness
        self.random = seed
        self.faulty = faulty  # devices fail in this life: operations may fail for that
        self.operations = 0
        # few keys, few sizes: every page soon lies where another one lay
        self.dense = dense
        # few names, files of several pieces: bytes are soon those of many, and each goes at some time
        self.sharing = sharing
        self.keys = KEYS[:2] if dense or sharing else KEYS
        self.names = NAMES[:2] if sharing else NAMES
        self.small = (5000,) if dense else SMALL
        self.streamed = (9 * KIB,) if dense else STREAMED[-2:] if sharing else STREAMED

    async def run(self, tasks: int, operations: int) -> None:
        """Until the power goes, or every task has done so many."""
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(self._client, operations)

    async def _client(self, operations: int) -> None:
        actions: list[tuple[Callable[[Bucket], Awaitable[None]], int]] = [
            (self.put_small, 6),
            (self.put_streamed, 6),
            (self.delete, 3),
            (self.copy, 2),
            (self.multipart, 2),
            (self.create_file, 3),
            (self.change_file, 4),
            (self.copy_range, 2),
            (self.wear, 3),
            (self.fold, 3),
            (self.make_directory, 2),
            (self.remove_directory, 1),
            (self.rename, 3),
            (self.unlink_held, 2),
            (self.read, 4),
            (self.burst, 2),
        ]
        if self.dense:
            actions = [(self.put_small, 3), (self.put_streamed, 4), (self.burst, 4), (self.delete, 1), (self.read, 4)]
        if self.sharing:
            actions = [
                (self.put_streamed, 6),
                (self.create_file, 1),
                (self.change_file, 3),
                (self.copy, 2),
                (self.copy_range, 6),
                (self.copy_removed, 6),
                (self.fold, 1),
                (self.delete, 1),
            ]
        kinds = [action for action, weight in actions for _ in range(weight)]
        for _ in range(operations):
            bucket = self.random.choice(self.store.buckets())
            try:
                await self.random.choice(kinds)(bucket)
            except StoreError as error:
                self._require_expected(error)
                await trio.lowlevel.checkpoint()
            except Crash:
                self.witness.crash()
                return
            self.operations += 1

    def _require_expected(self, error: StoreError) -> None:
        if error.code not in EXPECTED and not self.witness.crashed and not (self.faulty and error.code in FAULTS):
            raise error

    # ------------------------------------------------------------------ objects
    def _key(self) -> bytes:
        return self.random.choice(self.keys)

    async def _data_key(self, bucket: Bucket) -> DataKey | None:
        """One of the two buckets is encrypted."""
        return await self.store.data_key() if bucket.name == "two" else None

    async def _small(self, bucket: Bucket) -> tuple[bytes, Body]:
        data = self.random.randbytes(self.random.choice(self.small))
        body = self.store.small_body(data, await self._data_key(bucket))
        self._learn(data, body)
        return data, body

    def _learn(self, data: bytes, body: Body) -> None:
        for piece in body.slices:
            assert piece.start == 0
            self.witness.model.chunks[piece.chunk] = data[piece.offset : piece.offset + piece.length]

    async def put_small(self, bucket: Bucket) -> None:
        _, body = await self._small(bucket)
        await self.store.put_object(bucket, self._key(), body, self._etag(), NO_ATTRIBUTES)

    def _etag(self) -> str:
        return self.random.randbytes(8).hex()

    async def _streamed(self, bucket: Bucket, size: int, commit: Callable[[Body], Awaitable[Any]]) -> None:
        data = self.random.randbytes(size)
        announced = size if self.random.random() < 0.7 else None
        ingest = await self.store.ingest(bucket, announced, b"a key", await self._data_key(bucket))
        with ingest:
            step = self.random.choice((30_000, 100_000, 300_000))
            for start in range(0, size, step):
                await ingest.write_async(data[start : start + step])
            body = await ingest.finish_async()
            self._learn(data, body)
            if self.random.random() < 0.9:  # else a client that vanished
                await commit(body)

    async def put_streamed(self, bucket: Bucket) -> None:
        key = self._key()

        async def commit(body: Body) -> None:
            await self.store.put_object(bucket, key, body, self._etag(), NO_ATTRIBUTES)

        await self._streamed(bucket, self.random.choice(self.streamed), commit)

    async def burst(self, bucket: Bucket) -> None:
        """The same key again and again, so that pages are made and freed inside one batch (I4)."""
        key = self._key()
        async with trio.open_nursery() as nursery:
            for _ in range(self.random.randrange(2, 5)):
                nursery.start_soon(self._one_of_burst, bucket, key)

    async def _one_of_burst(self, bucket: Bucket, key: bytes) -> None:
        async def commit(body: Body) -> None:
            await self.store.put_object(bucket, key, body, self._etag(), NO_ATTRIBUTES)

        try:
            await self._streamed(bucket, self.random.choice(self.streamed[:3]), commit)
        except StoreError as error:
            self._require_expected(error)
        except Crash:
            self.witness.crash()

    async def delete(self, bucket: Bucket) -> None:
        await self.store.delete_object(bucket, self._key())

    async def copy(self, bucket: Bucket) -> None:
        source = await self.store.look_up(self.random.choice(self.store.buckets()), self._key())
        await self.store.copy_object(source, bucket, self._key(), None)

    async def multipart(self, bucket: Bucket) -> None:
        upload = await self.store.create_upload(bucket, self._key(), NO_ATTRIBUTES, "me")
        etags: list[tuple[int, str]] = []
        for number in range(1, self.random.randrange(2, 5)):
            etag = self._etag()

            async def commit(body: Body, number: int = number, etag: str = etag) -> None:
                await self.store.put_part(upload, number, body, etag)
                etags.append((number, etag))

            await self._streamed(bucket, self.random.choice(PART), commit)
        chance = self.random.random()
        if etags and chance < 0.7:
            await self.store.complete_upload(upload, etags, self._etag(), NO_ATTRIBUTES)
        elif chance < 0.9:
            await self.store.abort_upload(upload)

    # ------------------------------------------------------------------ files
    def _directory(self, bucket: Bucket) -> int:
        """A bucket's root, or a directory that was made in it."""
        made = [entry.node.id for name in DIRECTORIES if (entry := self.store.entry(bucket.root, name, True))]
        return self.random.choice([bucket.root, bucket.root, *made])

    async def create_file(self, bucket: Bucket) -> None:
        node = self.store.new_node_id()
        size = self.random.choice((*SMALL, *STREAMED[:3]))
        place = (self._directory(bucket), self.random.choice(self.names))
        await self._write(bucket, node, place, size, None, 0, size, late=self.random.random() < 0.5)

    async def _write(
        self,
        bucket: Bucket,
        node: int,
        create: tuple[int, bytes] | None,
        size: int,
        cut: int | None,
        at: int,
        length: int,
        punched: Sequence[tuple[int, int]] = (),
        shared: SharedRange | None = None,
        late: bool = False,
    ) -> None:
        chunks, slices = [], []
        if length:
            data = self.random.randbytes(length)
            half = length // 2
            pieces = [data[:half], data[half:]] if half else [data]
            chunk = await self.store.stage(bucket, pieces, await self._data_key(bucket))
            self.witness.model.chunks[chunk.id] = data
            chunks.append(chunk)
            slices.append(NewSlice(at, length, chunk.id))
        if create is None:
            try:
                size = max(self.store.node(node).size if cut is None else size, at + length)
            except StoreError:
                self.store.forfeit(chunks)
                raise
        ticket = self.store.submit_file(
            bucket,
            node=node,
            create=create,
            **of_root(1),
            size=size,
            cut=cut,
            chunks=chunks,
            slices=slices,
            punched=punched,
            shared=shared,
            late=late,
        )
        if late:
            if not await ticket.stands():  # fsync
                await ticket.wait()
        elif self.random.random() < 0.7:
            await ticket.wait()  # else close, and nobody asks

    def _file(self, bucket: Bucket) -> Node:
        names = self.names if self.sharing else (*NAMES, b"c")
        entry = self.store.entry(self._directory(bucket), self.random.choice(names), False)
        if entry is None:
            raise StoreError(Code.NO_SUCH_NODE)
        return entry.node

    async def change_file(self, bucket: Bucket) -> None:
        node = self._file(bucket)
        kind = self.random.choice(("patch", "append", "truncate", "extend", "punch", "attributes"))
        length = self.random.choice((1, 500, 4096, 9000, 40_000))
        if kind == "attributes":
            await self.store.set_attributes(node.id, 2, mode=0o600)
        elif kind == "truncate":
            size = self.random.randrange(node.size + 1)
            await self._write(bucket, node.id, None, size, size, 0, 0)
        elif kind == "extend":
            await self._write(bucket, node.id, None, node.size + length, node.size, 0, 0)
        elif kind == "punch":
            start = self.random.randrange(node.size + 1)
            await self._write(bucket, node.id, None, 0, None, 0, 0, [(start, start + length)])
        else:
            at = node.size if kind == "append" else self.random.randrange(node.size + 1)
            await self._write(bucket, node.id, None, 0, None, at, length, late=self.random.random() < 0.5)

    async def copy_removed(self, bucket: Bucket) -> None:
        """The same while the source loses its name, perhaps in the same batch, and is freed by steps."""
        there = [
            (place, name, entry.node)
            for place in self.store.buckets()
            for name in self.names
            if (entry := self.store.entry(place.root, name, False))
        ]
        if len(there) < 2:
            raise StoreError(Code.NO_SUCH_NODE)
        (place, name, source), (goal, _, target) = self.random.sample(there, 2)

        async def each(action: Callable[[], Awaitable[object]]) -> None:
            try:
                await action()
            except StoreError as error:
                self._require_expected(error)
            except Crash:
                self.witness.crash()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(each, lambda: self.store.delete_object(place, name))
            nursery.start_soon(each, lambda: self.copy_range(goal, source, target))

    async def copy_range(self, bucket: Bucket, source: Node | None = None, target: Node | None = None) -> None:
        """What two files share: of this bucket or the encrypted one, or of one file."""
        source = source or self._file(self.random.choice(self.store.buckets()))
        target = target or self._file(bucket)
        start = self.random.randrange(source.size + 1)
        length = min(source.size - start, self.random.choice((1, 4096, 30_000, 300_000)))
        offset = self.random.randrange(target.size + 1)
        if source.id == target.id and abs(offset - start) < length:
            offset = start + length
        sealed = bucket.name == "two"
        shared = SharedRange(source.id, start, offset, length, sealed)
        end = offset + length
        await self._write(bucket, target.id, None, 0, None, end, 0, [(offset, end)], shared)

    async def wear(self, bucket: Bucket) -> None:
        """A file that keeps its name, changed in a few places, as a database does."""
        parent, name = self._directory(bucket), b"w"
        entry = self.store.entry(parent, name, False)
        if entry is None:
            await self._write(bucket, self.store.new_node_id(), (parent, name), 20_000, None, 0, 20_000)
            return
        late = self.random.random() < 0.7
        for _ in range(self.random.randint(1, 6)):
            await self._write(bucket, entry.node.id, None, 0, None, self.random.randrange(20_000), 700, late=late)

    async def fold(self, bucket: Bucket) -> None:
        """Half of the time before the file has rested: then only its patches."""
        await Folder(self.store, idle=self.random.choice((0.0, 1e9)), pace=0.0).round()
        await trio.lowlevel.checkpoint()

    async def make_directory(self, bucket: Bucket) -> None:
        await self.store.make_directory(self._directory(bucket), self.random.choice(DIRECTORIES), 0o755, 0, 0, 1)

    async def remove_directory(self, bucket: Bucket) -> None:
        await self.store.remove_directory(bucket.root, self.random.choice(DIRECTORIES), 1)

    async def rename(self, bucket: Bucket) -> None:
        directory = self.random.random() < 0.3
        choice = DIRECTORIES if directory else (*NAMES, b"c")
        old, new = self.random.choice(choice), self.random.choice(choice)
        await self.store.rename(self._directory(bucket), old, directory, self._directory(bucket), new, 1)

    async def unlink_held(self, bucket: Bucket) -> None:
        """An open file whose last name goes: its bytes stay until it is closed."""
        parent, name = self._directory(bucket), self.random.choice(NAMES)
        entry = self.store.entry(parent, name, False)
        if entry is None:
            raise StoreError(Code.NO_SUCH_NODE)
        if not self.store.hold(entry.node.id):  # a batch under way removes it
            raise StoreError(Code.NO_SUCH_NODE)
        try:
            await self.store.unlink(parent, name, 1)
            await trio.lowlevel.checkpoint()
        finally:
            self.store.release(entry.node.id)

    # ------------------------------------------------------------------ reading
    async def read(self, bucket: Bucket) -> None:
        """A pinned state stays readable whatever happens meanwhile (I11)."""
        node = await self.store.look_up(bucket, self._key())
        wanted = self.witness.shown.contents.get(node.id)
        with self.store.reader(node) as reader:
            if reader.ready() is None:
                for _ in range(self.random.randrange(12)):
                    await trio.lowlevel.checkpoint()
            found = reader.read_now()
        if self.witness.shown.contents.get(node.id) == wanted and found != wanted:
            raise Broken(f"a reader of node {node.id} got wrong bytes")
