"""What a file's readers see in place of what is committed: an interval map of segments over the file's bytes.

A segment covers [start, end) and says where those bytes are now:

    memory   bytes, a view of them, or a bytearray
    staged   anything else: bytes that left memory for a device but are not committed (the map never looks inside)
    hole     None: zeros, whatever the committed map says (left by truncate and punch)

and who owns it: 0 while it is dirty, otherwise the token of the one commit or staging that took it.  What is owned is
frozen: a later write puts a new dirty segment over it and never touches its buffer.  So a commit can be built while
writes go on, and ends with `settle(token)`: the segments that still bear its token are dropped, because the committed
map shows them now.

Nothing here is ever proportional to a file's size: truncating to 10^15 bytes is one segment.  Small adjacent writes
grow one bytearray; a large write keeps the kernel's own bytes without a copy.  Whoever hands in a view never changes
what it shows.

Pure: knows neither store nor clock.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from operator import attrgetter
from typing import Final, NamedTuple

END: Final = 1 << 63  # no file is longer
GROW_MAX: Final = 128 << 10  # a bytearray grows up to here
KEEP_MIN: Final = 32 << 10  # writes of this size keep their own buffer; smaller ones may grow
MEMORY: Final = (bytes, bytearray, memoryview)
OVERHEAD: Final = 256  # bytes a segment costs beside its buffer: counted, so that tiny writes cannot evade the bound


class Segment:
    """[start, end) of the file are bytes [skip, skip + end - start) of `source`; None is a hole."""

    __slots__ = ("end", "owner", "skip", "source", "start")

    def __init__(self, start: int, end: int, source: object, skip: int = 0, owner: int = 0) -> None:
        self.start = start
        self.end = end
        self.source = source
        self.skip = skip
        self.owner = owner

    @property
    def in_memory(self) -> bool:
        """Whether its bytes are here."""
        return isinstance(self.source, MEMORY)

    def view(self) -> memoryview:
        """The bytes of a segment in memory."""
        assert isinstance(self.source, MEMORY)
        return memoryview(self.source)[self.skip : self.skip + self.end - self.start]

    def __repr__(self) -> str:
        kind = "hole" if self.source is None else type(self.source).__name__
        return f"Segment({self.start}, {self.end}, {kind}+{self.skip}, owner={self.owner})"


class Placement(NamedTuple):
    """[start, end) of the file are bytes [skip, …) of a chunk."""

    start: int
    end: int
    skip: int


class Gathering(NamedTuple):
    """One chunk to be made: its bytes in pieces, which bytes of the file they are, and who claimed them."""

    pieces: list[memoryview]
    placements: list[Placement]
    token: int


class Overlay:
    """The segments of one file, sorted, never overlapping.  `memory` is their cost in bytes; `fresh` the dirty part.

    Dirty ones are also kept apart: hundreds of commits may be under way, and each new one asks what is dirty."""

    __slots__ = ("_dirty", "_segments", "_starts", "fresh", "memory")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._segments: list[Segment] = []
        self._dirty: set[Segment] = set()  # by identity
        self.memory = 0
        self.fresh = 0

    def __bool__(self) -> bool:
        return bool(self._segments)

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    @property
    def is_plain(self) -> bool:
        """Whether all that is dirty is in memory."""
        return all(segment.in_memory for segment in self._dirty)

    def bytes_held(self) -> int:
        """Bytes that are not holes."""
        return sum(segment.end - segment.start for segment in self._segments if segment.source is not None)

    def holes(self) -> Iterator[Segment]:
        """Those that are."""
        return (segment for segment in self._segments if segment.source is None)

    # ------------------------------------------------------------------ changing
    def write(self, offset: int, data: bytes | memoryview) -> None:
        """`data` becomes the file's bytes at `offset`.  Keeps `data` when it is large; never changes it."""
        if not data:
            return
        end = offset + len(data)
        assert offset >= 0
        assert end <= END
        index = bisect_right(self._starts, offset) - 1
        if index >= 0:
            before = self._segments[index]
            if before.owner == 0 and type(before.source) is bytearray and before.start <= offset <= before.end:
                buffer = before.source
                if end <= before.end:
                    at = before.skip + offset - before.start
                    buffer[at : at + len(data)] = data
                    return
                if (
                    offset == before.end
                    and before.skip + before.end - before.start == len(buffer)
                    and len(buffer) + len(data) <= GROW_MAX
                ):
                    self._carve(offset, end)
                    buffer += data
                    before.end = end
                    self.memory += len(data)
                    self.fresh += len(data)
                    return
        self._carve(offset, end)
        self._insert(Segment(offset, end, data if len(data) >= KEEP_MIN else bytearray(data)))

    def truncate(self, size: int) -> None:
        """Everything at or beyond `size` is a hole."""
        self._carve(size, END)
        if size < END:
            self._insert(Segment(size, END, None))

    def punch(self, start: int, end: int) -> None:
        """[start, end) is a hole."""
        assert 0 <= start < end <= END
        self._carve(start, end)
        index = bisect_left(self._starts, start)
        for at in (index, index - 1):  # many small ones in a row are one
            if 0 <= at < len(self._segments):
                near = self._segments[at]
                if near.source is None and near.owner == 0 and (near.start == end or near.end == start):
                    start, end = min(start, near.start), max(end, near.end)
                    self._remove(at, at + 1)
        self._insert(Segment(start, end, None))

    def discard(self) -> None:
        """Forgets everything."""
        self._starts.clear()
        self._segments.clear()
        self._dirty.clear()
        self.memory = self.fresh = 0

    # ------------------------------------------------------------------ reading
    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, Segment | None]]:
        """[start, end) in order, in parts; None where the committed map shows through."""
        index = max(bisect_right(self._starts, start) - 1, 0)
        at = start
        while at < end:
            while index < len(self._segments) and self._segments[index].end <= at:
                index += 1
            if index == len(self._segments) or self._segments[index].start >= end:
                yield at, end, None
                return
            segment = self._segments[index]
            if segment.start > at:
                yield at, segment.start, None
                at = segment.start
            stop = min(segment.end, end)
            yield at, stop, segment
            at = stop

    # ------------------------------------------------------------------ staging and committing
    def runs(self, size: int) -> list[tuple[int, int]]:
        """Contiguous dirty bytes in memory, cut into exact multiples of `size` from each run's start."""
        found = []
        run_start = run_end = -1
        for segment in self._segments:
            if segment.owner or not segment.in_memory:
                continue
            if segment.start != run_end:
                if run_end - run_start >= size:
                    found.append((run_start, run_end - (run_end - run_start) % size))
                run_start = segment.start
            run_end = segment.end
        if run_end - run_start >= size:
            found.append((run_start, run_end - (run_end - run_start) % size))
        return found

    def claim(self, token: int, start: int = 0, end: int = END, *, only_memory: bool = False) -> list[Segment]:
        """Takes the dirty segments of [start, end) for `token`; returns them as they are now.  They are frozen."""
        assert token > 0
        self._split(start)
        self._split(end)
        low, high = bisect_left(self._starts, start), bisect_left(self._starts, end)
        if len(self._dirty) < high - low:
            found = sorted((each for each in self._dirty if start <= each.start < end), key=attrgetter("start"))
        else:
            found = [segment for segment in self._segments[low:high] if segment.owner == 0]
        if only_memory:
            found = [segment for segment in found if segment.in_memory]
        for segment in found:
            segment.owner = token
            self.fresh -= _cost(segment)
        self._dirty.difference_update(found)
        return [Segment(segment.start, segment.end, segment.source, segment.skip, token) for segment in found]

    def unclaim(self, token: int) -> None:
        """What `token` took is dirty again."""
        for segment in self._segments:
            if segment.owner == token:
                if type(segment.source) is bytearray:
                    segment.source = bytes(segment.view())  # views of it may live on: it must not grow
                    segment.skip = 0
                segment.owner = 0
                self._dirty.add(segment)
                self.fresh += _cost(segment)

    def stage(self, token: int, placements: list[Placement], source: object, owner: int) -> None:
        """The bytes of `placements`, so far as `token` still has them in memory, are in `source` now, for `owner`."""
        for start, end, skip in placements:
            self._split(start)
            self._split(end)
            low, high = bisect_left(self._starts, start), bisect_left(self._starts, end)
            for segment in self._segments[low:high]:
                if segment.owner == token and segment.in_memory:
                    self.memory -= _cost(segment)
                    segment.source = source
                    segment.skip = skip + segment.start - start
                    segment.owner = owner
                    if owner == 0:
                        self._dirty.add(segment)

    def settle(self, tokens: Collection[int]) -> None:
        """The committed map shows what these took."""
        kept = []
        for segment in self._segments:
            if segment.owner in tokens:
                self.memory -= _cost(segment)
            else:
                kept.append(segment)
        self._segments = kept
        self._starts = [segment.start for segment in kept]

    # ------------------------------------------------------------------ leaves
    def _insert(self, segment: Segment) -> None:
        index = bisect_left(self._starts, segment.start)
        self._starts.insert(index, segment.start)
        self._segments.insert(index, segment)
        cost = _cost(segment)
        self.memory += cost
        if segment.owner == 0:
            self._dirty.add(segment)
            self.fresh += cost

    def _remove(self, low: int, high: int) -> None:
        for segment in self._segments[low:high]:
            cost = _cost(segment)
            self.memory -= cost
            if segment.owner == 0:
                self._dirty.discard(segment)
                self.fresh -= cost
        del self._segments[low:high]
        del self._starts[low:high]

    def _split(self, at: int) -> None:
        """No segment has `at` strictly inside."""
        index = bisect_left(self._starts, at) - 1
        if index < 0:
            return
        segment = self._segments[index]
        if not segment.start < at < segment.end:
            return
        old = _cost(segment)
        right = Segment(at, segment.end, segment.source, segment.skip + at - segment.start, segment.owner)
        segment.end = at
        if segment.owner == 0 and type(segment.source) is bytearray:  # two growing owners of one buffer would collide
            right.source, right.skip = bytearray(right.view()), 0
            segment.source, segment.skip = bytearray(segment.view()), 0
        self._segments.insert(index + 1, right)
        self._starts.insert(index + 1, at)
        added = _cost(segment) + _cost(right) - old
        self.memory += added
        if segment.owner == 0:
            self._dirty.add(right)
            self.fresh += added

    def _carve(self, start: int, end: int) -> None:
        """Removes [start, end)."""
        if not self._segments or self._segments[-1].end <= start:
            return
        self._split(start)
        self._split(end)
        low, high = bisect_left(self._starts, start), bisect_left(self._starts, end)
        self._remove(low, high)
        for index in (low - 1, low):  # a sliver must not keep a megabyte alive
            if 0 <= index < len(self._segments):
                segment = self._segments[index]
                if isinstance(segment.source, bytes | memoryview) and segment.owner == 0:
                    visible = segment.end - segment.start
                    if 2 * visible < len(segment.source):
                        segment.source, segment.skip = bytes(segment.view()), 0


def gather(segments: list[Segment], limit: int) -> list[Gathering]:
    """The bytes of segments in memory, all of one claim, in as few chunks of at most `limit` bytes as possible, in file
    order."""
    gatherings: list[Gathering] = []
    room = 0
    for segment in segments:
        view, at = segment.view(), segment.start
        while view:
            if room == 0:
                gatherings.append(Gathering([], [], segment.owner))
                room = limit
            piece, view = view[:room], view[room:]
            gatherings[-1].pieces.append(piece)
            gatherings[-1].placements.append(Placement(at, at + len(piece), limit - room))
            at += len(piece)
            room -= len(piece)
    return gatherings


def halve(gathering: Gathering) -> tuple[Gathering, Gathering]:
    """Two chunks instead of one, for a device without a run long enough."""
    left, right = Gathering([], [], gathering.token), Gathering([], [], gathering.token)
    half = sum(len(piece) for piece in gathering.pieces) // 2
    for piece, (start, end, skip) in zip(gathering.pieces, gathering.placements, strict=True):
        cut = min(max(half - skip, 0), len(piece))
        if cut:
            left.pieces.append(piece[:cut])
            left.placements.append(Placement(start, start + cut, skip))
        if cut < len(piece):
            right.pieces.append(piece[cut:])
            right.placements.append(Placement(start + cut, end, skip + cut - half))
    return left, right


def _cost(segment: Segment) -> int:
    return segment.end - segment.start + OVERHEAD if segment.in_memory else 0


def lower(cut: int | None, other: int | None) -> int | None:
    """Both cuts in one."""
    return other if cut is None else cut if other is None else min(cut, other)
