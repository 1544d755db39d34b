"""The write path of large bodies: buffer, hash, write; nothing is flushed or committed here.

Bytes are received straight into an aligned buffer that leaves room for the page's header before them; a full buffer is
hashed block by block and goes to each copy's device in one direct write, or to others where one fails.  What already
lies in memory as a device takes it needs no buffer and is not copied (`place`): its pages are written from several
places.

Pages so written belong to nobody until a command names their chunk: the engine's `staged` table owns their
reservations, a commit takes them from it, and closing the ingest forfeits what is left.  A crash forgets them all: free
space is derived (I7).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from secrets import token_bytes
from typing import TYPE_CHECKING, Final

from appliance.device.buffers import aligned, is_aligned
from appliance.device.lanes import CallLanes
from appliance.engine.pool import Pool, header_for
from appliance.errors import Code, StoreError
from appliance.limits import BLOCK, CHUNK_SIZE, GATHER_MAX, INLINE_MAX, KIB, PAGE_PAYLOAD, UNCOVERED_MAX
from appliance.model import EMPTY_BODY, Body, DataKey, NewChunk, NewPage, NewSlice
from appliance.ondisk import cipher, page
from appliance.ondisk.geometry import UNIT
from appliance.ondisk.page import LONG

if TYPE_CHECKING:
    from typing_extensions import Buffer

PIECE_MIN: Final = 64 * KIB  # a nearly full device is filled by pieces down to this
PARTS_MAX: Final = 64  # of a body that lies in parts; smaller parts are as cheaply copied


def small_body(data: bytes, new_id: Callable[[], int], key: DataKey | None = None) -> Body:
    """A body whose bytes travel with its commit: inline, or gathered into the batch's one write.  What a `key` seals is
    never inline: then neither journal nor snapshot has it in any form."""
    size = len(data)
    assert size <= GATHER_MAX, "larger bodies are streamed"
    if size == 0:
        return EMPTY_BODY
    if size <= INLINE_MAX and key is None:
        return Body(size, data)
    chunk = NewChunk(new_id(), size, data, key=key)
    return Body(size, b"", (chunk,), (NewSlice(0, size, chunk.id),))


def is_placeable(parts: Sequence[memoryview]) -> bool:
    """Whether `Ingest.place` takes a body that lies in these parts of memory: all but the last are whole allocation
    units, and most of it is aligned."""
    if len(parts) > PARTS_MAX or any(len(part) % UNIT for part in parts[:-1]):
        return False
    return sum(len(part) if is_aligned(part) else -len(part) for part in parts) > 0


class Staged:
    """Extents of chunks that are written but not committed: who owns a reservation is in exactly one place."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._chunks: dict[int, tuple[NewPage, ...]] = {}
        self._readers: dict[int, int] = {}  # chunk -> how many read it
        self._left: dict[int, tuple[NewPage, ...]] = {}  # given back, but read
        self._lock = threading.Lock()

    def add(self, chunk: NewChunk) -> None:
        """The chunk's reservations are ours until `take` or `forfeit`."""
        with self._lock:
            self._chunks[chunk.id] = chunk.pages

    def take(self, chunk_id: int) -> None:
        """A command owns them now: the writer will commit or forfeit them."""
        with self._lock:
            self._chunks.pop(chunk_id, None)

    def pages(self, chunk_id: int) -> tuple[NewPage, ...] | None:
        """Where a chunk that is not committed yet lies."""
        with self._lock:
            return self._chunks.get(chunk_id)

    def forfeit(self, chunk_id: int) -> None:
        """Gives the space back, if no command took it, and when nobody reads it any more."""
        with self._lock:
            pages = self._chunks.pop(chunk_id, ())
            if pages and chunk_id in self._readers:
                self._left[chunk_id] = pages
                return
        self._give_back(pages)

    @contextmanager
    def reading(self, chunk_id: int) -> Iterator[None]:
        """Inside, the chunk's pages are nobody else's, unless a command took them."""
        with self._lock:
            self._readers[chunk_id] = self._readers.get(chunk_id, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._readers[chunk_id] -= 1
                pages: tuple[NewPage, ...] = ()
                if not self._readers[chunk_id]:
                    del self._readers[chunk_id]
                    pages = self._left.pop(chunk_id, ())
            self._give_back(pages)

    def _give_back(self, pages: tuple[NewPage, ...]) -> None:
        for item in pages:
            self._pool.allocator.forfeit(item.device, item.offset)


class Ingest:
    """One body on its way in.  `store.Ingest` says how it is used; one thread at a time."""

    def __init__(
        self,
        pool: Pool,
        staged: Staged,
        lanes: CallLanes,
        buffer: memoryview | None,
        new_id: Callable[[], int],
        copies: int,
        announced: int | None,
        label: bytes,
        birth: int,
        key: DataKey | None = None,
    ) -> None:
        """Without a `buffer` nothing but `place` can be done."""
        self.size = 0
        self._pool = pool
        self._staged = staged
        self._lanes = lanes
        self._buffer = buffer
        self._parts: Sequence[memoryview] = ()
        self._new_id = new_id
        self._copies = copies
        self._announced = announced
        self._label = label
        self._birth = birth
        self._key = key
        self._fill = 0
        self._chunks: list[NewChunk] = []
        self._slices: list[NewSlice] = []
        self._uncovered: list[int] = []  # indexes into _chunks
        self._uncovered_bytes = 0

    # ------------------------------------------------------------------ bytes in
    def room(self) -> memoryview:
        """Where the next bytes go: at least one.  Blocks on a device when the buffer is full."""
        assert self._buffer is not None, "the ingest is open"
        if self._fill == PAGE_PAYLOAD:
            self._drain()
        return self._buffer[LONG + self._fill :]

    def filled(self, count: int) -> None:
        """The first `count` bytes of the last room are data."""
        assert 0 <= count <= PAGE_PAYLOAD - self._fill, "no more than the room"
        self._fill += count
        self.size += count

    def write(self, data: Buffer) -> None:
        """Copies `data` in."""
        view = memoryview(data)
        while view:
            room = self.room()
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self.filled(count)
            view = view[count:]

    def finish(self) -> Body:
        """The last page is written; the body waits for its commit."""
        assert self._buffer is not None, "the ingest is open"
        if not self._chunks and self._fill <= GATHER_MAX:
            return small_body(bytes(self._buffer[LONG : LONG + self._fill]), self._new_id, self._key)
        if self._fill:
            self._drain()
        return Body(self.size, b"", tuple(self._chunks), tuple(self._slices))

    def place(self, parts: Sequence[memoryview]) -> Body:
        """The whole body, which `is_placeable` and nobody changes before this returns; not to be sealed.  As `finish`
        of one too large to be small."""
        assert self._buffer is None
        assert self._key is None
        self._parts = [part if is_aligned(part) else _aligned_copy(part) for part in parts]
        total = sum(map(len, parts))
        assert total > GATHER_MAX, "smaller bodies travel with their commit"
        for begin in range(0, total, PAGE_PAYLOAD):
            length = min(PAGE_PAYLOAD, total - begin)
            self._write_piece(begin, length, begin)
            self.size += length
        self._parts = ()
        return Body(self.size, b"", tuple(self._chunks), tuple(self._slices))

    async def write_async(self, data: Buffer) -> None:
        """`write` in a worker thread."""
        await self._lanes.call(self.write, data)

    async def finish_async(self) -> Body:
        """`finish` in a worker thread."""
        return await self._lanes.call(self.finish)

    def keep(self) -> None:
        """The caller answers for the chunks from now on: `close` only gives back the buffer."""
        self._chunks = []

    def close(self) -> None:
        """Gives back the buffer and every page that no commit took."""
        if self._buffer is not None:
            self._pool.buffers.release(self._buffer)
            self._buffer = None
        for chunk in self._chunks:
            self._staged.forfeit(chunk.id)

    def __enter__(self) -> Ingest:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ------------------------------------------------------------------ pages out
    def _drain(self) -> None:
        """Writes the buffer's bytes as pages and empties it."""
        start = self.size - self._fill
        self._write_piece(0, self._fill, start)
        self._fill = 0
        if self._uncovered_bytes >= UNCOVERED_MAX:
            self._cover()

    def _write_piece(self, begin: int, length: int, logical: int, *, fresh: bool = False) -> None:
        """Bytes [begin, begin+length) of the buffer, or of what is placed, become one page per copy; on a fragmented
        device several smaller ones.  `fresh` begins a new chunk."""
        joined = None if fresh else self._open_chunk(length)
        try:
            places = self._reserve(length, joined)
        except StoreError as error:
            if error.code is Code.NO_SPACE and joined is not None:
                # the chunk's own devices are full: a new chunk may go elsewhere
                self._write_piece(begin, length, logical, fresh=True)
                return
            if error.code is not Code.NO_SPACE or length <= PIECE_MIN:
                raise
            half = max(length // 2 // PIECE_MIN * PIECE_MIN, PIECE_MIN)
            self._write_piece(begin, half, logical)
            self._write_piece(begin + half, length - half, logical + half)
            return
        try:
            chunk_id = joined.id if joined is not None else self._new_id()
            index = joined.length // PAGE_PAYLOAD if joined is not None else 0
            pages = self._write_copies(begin, length, logical, places, chunk_id, index)
        except BaseException as error:
            for device_id, offset in places:
                self._pool.allocator.forfeit(device_id, offset)
            if isinstance(error, StoreError) and error.code is Code.UNAVAILABLE and self._is_whole():
                self._write_piece(begin, length, logical, fresh=True)
                return
            raise
        self._remember(chunk_id, pages, length, logical, joined)

    def _is_whole(self) -> bool:
        """A device failed: whether what lies elsewhere already can stay, and what is in memory is as it was."""
        online = self._pool.is_online
        return self._key is None and all(online(item.device) for chunk in self._chunks for item in chunk.pages)

    def _open_chunk(self, length: int) -> NewChunk | None:
        """The last chunk, if this page can be its next one."""
        if not self._chunks:
            return None
        last = self._chunks[-1]
        fits = last.length % PAGE_PAYLOAD == 0 and last.length + length <= CHUNK_SIZE and not last.covered
        return last if fits and last.length else None

    def _reserve(self, length: int, joined: NewChunk | None) -> list[tuple[int, int]]:
        pool = self._pool
        extent = page.extent_length(length)
        if joined is not None:
            devices = [item.device for item in joined.pages if item.index == 0]  # a chunk's pages stay together
        else:
            devices = pool.place(self._copies, extent, self._announced)
        places: list[tuple[int, int]] = []
        try:
            for device_id in devices:
                places.append((device_id, pool.allocator.reserve(device_id, extent)))
        except StoreError:
            for device_id, offset in places:
                pool.allocator.forfeit(device_id, offset)
            raise
        return places

    def _write_copies(
        self, begin: int, length: int, logical: int, places: list[tuple[int, int]], chunk: int, index: int
    ) -> list[NewPage]:
        payload = self._payload(begin, length)
        seal = b""
        if self._key is not None:  # in place: the buffer is written once more or not at all
            seal = cipher.seal(self._key, token_bytes(cipher.SALT), chunk, index, *payload)
        sums = _block_sums(payload)
        image = self._image(payload, begin, length)
        extent, lead = page.extent_length(length), page.header_length(length)
        pages: list[NewPage] = []
        for copy, (device_id, offset) in enumerate(places):
            header = header_for(
                self._pool,
                device_id,
                offset,
                birth=self._birth,
                chunk=chunk,
                owner=0,
                logical=logical,
                payload=length,
                index=index,
                copies=len(places),
                sums=sums,
                label=self._label,
                seal=seal,
            )
            image[0][:lead] = header
            self._pool.write_page(device_id, offset, *image)
            pages.append(NewPage(device_id, offset, extent, index, copy, page.header_sum(header)))
        return pages

    def _payload(self, begin: int, length: int) -> list[memoryview]:
        """Bytes [begin, begin+length), where they are."""
        if self._buffer is not None:
            return [self._buffer[LONG + begin : LONG + begin + length]]
        found = []
        for part in self._parts:
            if begin < len(part) and length:
                found.append(part[begin : begin + length])
                length -= len(found[-1])
            begin = max(begin - len(part), 0)
        return found

    def _image(self, payload: list[memoryview], begin: int, length: int) -> list[memoryview]:
        """The page as it is written, in parts; the first one begins with room for the header."""
        extent, lead = page.extent_length(length), page.header_length(length)
        if lead == LONG and self._buffer is None:
            ends = aligned(LONG + UNIT)
            over = length % UNIT
            if over:
                ends[LONG : LONG + over] = payload[-1][-over:]
                payload = [*payload[:-1], payload[-1][:-over]]
            return [ends[:LONG], *filter(len, payload), *([ends[LONG:]] if over else [])]
        if lead == LONG and begin == 0 and length == self._fill:
            assert self._buffer is not None
            self._buffer[lead + length : extent] = bytes(extent - lead - length)
            return [self._buffer[:extent]]
        image = aligned(extent)
        for part in payload:
            image[lead : lead + len(part)] = part
            lead += len(part)
        return [image]

    def _remember(
        self, chunk_id: int, pages: list[NewPage], length: int, logical: int, joined: NewChunk | None
    ) -> None:
        if joined is not None:
            chunk = NewChunk(joined.id, joined.length + length, b"", (*joined.pages, *pages), key=self._key)
            self._chunks[-1] = chunk
            piece = self._slices[-1]
            self._slices[-1] = NewSlice(piece.offset, piece.length + length, chunk.id)
        else:
            chunk = NewChunk(chunk_id, length, b"", tuple(pages), key=self._key)
            self._chunks.append(chunk)
            self._slices.append(NewSlice(logical, length, chunk.id))
            self._uncovered.append(len(self._chunks) - 1)
        self._staged.add(chunk)
        self._uncovered_bytes += length

    def _cover(self) -> None:
        """Flushes what this stream wrote, so that recovery need not verify a huge object's pages (I3)."""
        touched = {item.device for index in self._uncovered for item in self._chunks[index].pages}
        self._pool.flush(sorted(touched))
        for index in self._uncovered:
            chunk = self._chunks[index]
            self._chunks[index] = NewChunk(chunk.id, chunk.length, b"", chunk.pages, True, self._key)
        self._uncovered.clear()
        self._uncovered_bytes = 0


def _aligned_copy(part: memoryview) -> memoryview:
    copy = aligned(len(part))
    copy[:] = part
    return copy


def _block_sums(parts: list[memoryview]) -> bytes:
    """`page.block_sums` of a payload in parts: a block that lies in two of them is joined."""
    sums, begun = [], b""
    for part in parts:
        if begun:
            missing = BLOCK - len(begun)
            begun += part[:missing]
            part = part[missing:]
            if len(begun) < BLOCK:
                continue
            sums.append(page.block_sums(begun))
        whole = len(part) - len(part) % BLOCK
        if whole:
            sums.append(page.block_sums(part[:whole]))
        begun = bytes(part[whole:])
    if begun:
        sums.append(page.block_sums(begun))
    return b"".join(sums)
