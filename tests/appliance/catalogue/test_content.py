"""Contents against byte arrays: every way that bytes are made, shared, cut and overwritten."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.catalogue import content
from appliance.catalogue.content import EMPTY, INLINE, MAPPED, NOTHING, WHOLE, Content, Flat, Maker
from appliance.catalogue.database import Rows
from appliance.catalogue.schema import PART, UPLOAD
from appliance.limits import INLINE_MAX
from appliance.model import Body, NewChunk, NewSlice
from tests.appliance.catalogue.batches import NOW, Catalogue
from tests.rows import rows

MAKER = Maker(1, 7, b"bucket\0key")


@dataclasses.dataclass
class Held:
    """One content and the bytes that it should have."""

    content: Content
    image: bytes


class Shelf:
    """Contents that are referred to by the parts of an upload, so that the audit counts their references too."""

    def __init__(self) -> None:
        self.catalogue = Catalogue()
        self.bucket = bucket = self.catalogue.create_bucket().id
        self.catalogue.within(lambda tx: tx.put(UPLOAD, ("u", bucket, b"k", NOW, "me", b"", "", "")))
        self.held: list[Held] = []

    def write(self, tx: Rows, data: bytes) -> NewChunk:
        return NewChunk(tx.new_id(), len(data), data)

    def check(self) -> None:
        """Bytes, and what the audit says."""
        self.catalogue.within(self._name_parts)
        for item in self.held:
            assert self.catalogue.read(item.content, len(item.image)) == item.image
        assert self.catalogue.problems() == []

    def _name_parts(self, tx: Rows) -> None:
        for number, size in tx.all("SELECT number, size FROM part"):
            tx.delete(PART, ("u", number))
            tx.charge(self.bucket, 0, 0, parts=-size)
        for number, item in enumerate(self.held, 1):
            tx.charge(self.bucket, 0, 0, parts=len(item.image))
            kind = item.content.kind if item.content.kind != INLINE else EMPTY
            tx.put(PART, ("u", number, len(item.image), "e", NOW, kind, item.content.ref, "", b""))

    def put(self, data: bytes, *, inline: bool = True) -> Held:
        """New."""
        body = Body(len(data), data) if len(data) <= INLINE_MAX else None

        def make(tx: Rows) -> Content:
            if body is not None:
                return content.add_body(tx, body, MAKER, inline=inline)
            chunk = self.write(tx, data)
            return content.add_body(tx, Body(len(data), b"", (chunk,), (NewSlice(0, len(data), chunk.id),)), MAKER)

        self.held.append(Held(self.catalogue.within(make), data))
        return self.held[-1]

    def share(self, item: Held) -> Held:
        """A copy."""
        self.catalogue.within(lambda tx: content.share(tx, item.content.kind, item.content.ref))
        self.held.append(Held(item.content, item.image))
        return self.held[-1]

    def clone(self, item: Held, start: int, length: int) -> Held:
        """A part copied from a range."""
        made = self.catalogue.within(lambda tx: content.clone_range(tx, item.content, start, length, MAKER))
        self.held.append(Held(made, item.image[start : start + length]))
        return self.held[-1]

    def join(self, items: list[Held]) -> Held:
        """A composed map, as CompleteMultipartUpload makes it: the references move."""
        slices = []
        size = 0
        for item in items:
            if item.content.kind:
                slices.append((size, len(item.image), item.content.kind, item.content.ref, 0))
            size += len(item.image)
        made = self.catalogue.within(lambda tx: content.add_map(tx, slices)) if slices else NOTHING
        image = b"".join(item.image for item in items)
        self.held = [item for item in self.held if not any(item is other for other in items)]
        self.held.append(Held(made, image))
        return self.held[-1]

    def patch(
        self,
        item: Held,
        size: int,
        cut: int | None,
        pieces: list[tuple[int, bytes]],
        *,
        joined: bool = False,
        punched: Sequence[tuple[int, int]] = (),
    ) -> None:
        """The mount's writer."""

        def change(tx: Rows) -> Content:
            if joined and pieces:
                chunks = [self.write(tx, b"".join(data for _, data in pieces))]
                slices, start = [], 0
                for offset, data in pieces:
                    slices.append(NewSlice(offset, len(data), chunks[0].id, start))
                    start += len(data)
            else:
                chunks = [self.write(tx, data) for _, data in pieces]
                slices = [
                    NewSlice(offset, len(data), chunk.id) for (offset, data), chunk in zip(pieces, chunks, strict=True)
                ]
            return content.patch(tx, item.content, len(item.image), size, cut, chunks, slices, MAKER, punched)

        item.content = self.catalogue.within(change)
        image = bytearray(item.image if cut is None else item.image[:cut])[:size]
        image += bytes(size - len(image))
        for start, end in punched:
            image[start:end] = bytes(max(0, min(end, size) - start))
        for offset, data in pieces:
            image[offset : offset + len(data)] = data
        item.image = bytes(image)

    def lay(self, item: Held, size: int, source: Held, start: int, offset: int, length: int) -> None:
        """copy_file_range(2)."""

        def change(tx: Rows) -> Content:
            kind, ref = source.content.kind, source.content.ref
            pieces = [
                Flat(piece.offset + offset - start, piece.length, piece.chunk, piece.start)
                for piece in content.pieces(tx.all, kind, ref, start, start + length)
            ]
            hole = [(offset, offset + length)]
            return content.patch(tx, item.content, len(item.image), size, None, [], [], MAKER, hole, pieces)

        data = source.image[start : start + length]
        item.content = self.catalogue.within(change)
        image = item.image.ljust(size, b"\0")
        item.image = image[:offset] + data + image[offset + length :]

    def drop(self, item: Held) -> None:
        """Gone."""
        self.catalogue.within(lambda tx: content.drop(tx, item.content.kind, item.content.ref))
        self.held = [other for other in self.held if other is not item]


small = st.integers(0, 60)
sizes = st.one_of(small, st.sampled_from([INLINE_MAX - 1, INLINE_MAX, INLINE_MAX + 1, INLINE_MAX + 40]))


@given(st.data())
def test_contents_are_byte_arrays(data: st.DataObject) -> None:
    shelf = Shelf()
    seed = random.Random(1)

    def pick() -> Held:
        return shelf.held[data.draw(st.integers(0, len(shelf.held) - 1), "which")]

    for _ in range(data.draw(st.integers(1, 14), "steps")):
        verbs = ["put", "put"] + (
            ["patch", "patch", "patch", "share", "clone", "lay", "join", "drop"] if shelf.held else []
        )
        verb = data.draw(st.sampled_from(verbs), "verb")
        if verb == "put":
            shelf.put(seed.randbytes(data.draw(sizes, "size")), inline=data.draw(st.booleans(), "inline"))
        elif verb == "share":
            item = pick()
            shelf.share(item)
        elif verb == "clone":
            item = pick()
            start = data.draw(st.integers(0, len(item.image)), "start")
            shelf.clone(item, start, data.draw(st.integers(0, len(item.image) - start), "length"))
        elif verb == "lay":
            source, item = pick(), pick()
            start = data.draw(st.integers(0, len(source.image)), "start")
            length = data.draw(st.integers(0, len(source.image) - start), "length")
            offset = data.draw(small, "offset") + (start + length if source is item else 0)
            if length and source.content.kind != INLINE:
                shelf.lay(item, max(len(item.image), offset + length), source, start, offset, length)
        elif verb == "join":
            chosen = shelf.held[: data.draw(st.integers(1, 4), "count")]
            shelf.join([shelf.clone(item, 0, len(item.image)) for item in chosen])  # as UploadPartCopy makes parts
        elif verb == "drop":
            shelf.drop(pick())
        else:
            item = pick()
            pieces, punched, end = [], [], 0
            for _ in range(data.draw(st.integers(0, 3), "pieces")):
                gap, length = data.draw(small, "gap"), data.draw(st.integers(1, 50), "length")
                if gap and data.draw(st.booleans(), "a hole in the gap"):
                    punched.append((end + data.draw(st.integers(0, gap - 1), "from"), end + gap))
                pieces.append((end + gap, seed.randbytes(length)))
                end += gap + length
            size = max(end, data.draw(sizes, "new size"))
            cut = data.draw(st.one_of(st.none(), st.integers(0, len(item.image))), "cut")
            if data.draw(st.booleans(), "a hole behind"):
                punched.append((end, end + data.draw(st.integers(1, INLINE_MAX + 100), "length")))
            shelf.patch(item, size, cut, pieces, joined=data.draw(st.booleans(), "joined"), punched=punched)
        shelf.check()
    for item in list(shelf.held):
        shelf.drop(item)
    shelf.check()
    assert shelf.catalogue.every("SELECT id, len, refs FROM chunk UNION ALL SELECT id, refs, composed FROM map") == []
    assert shelf.catalogue.every("SELECT * FROM page") == []
    assert shelf.catalogue.every("SELECT * FROM slice") == []


def _composed(shelf: Shelf, item: Held) -> bool:
    if item.content.kind != MAPPED:
        return False
    return bool(shelf.catalogue.one("SELECT composed FROM map WHERE id=?", (item.content.ref,))[0])


def test_a_range_of_a_chunk_that_a_hole_follows_ends_with_the_chunk() -> None:
    """A file may be longer than its only chunk: what the mount appended as a hole."""
    shelf = Shelf()
    item = shelf.put(b"x" * 3000)
    shelf.patch(item, 5000, None, [])
    assert item.content.kind == WHOLE
    for start, length in ((0, 5000), (1000, 3500), (2999, 2), (3000, 100), (4000, 1000)):
        shelf.clone(item, start, length)
        shelf.check()


def test_a_range_of_inline_bytes_that_a_hole_follows() -> None:
    shelf = Shelf()
    item = shelf.put(b"abc")
    shelf.patch(item, INLINE_MAX + 100, None, [])
    assert item.content.kind == INLINE
    for start, length in ((0, 100), (2, 3000 - 1000), (3, 50), (2000, 148)):
        shelf.clone(item, start, length)
        shelf.check()


def test_flatten_clips_and_leaves_holes() -> None:
    shelf = Shelf()
    item = shelf.put(b"")
    shelf.patch(item, 10_000, None, [(1000, b"a" * 100), (5000, b"b" * 2000)])
    pieces = content.flatten(shelf.catalogue.every, item.content.kind, item.content.ref, 1050, 5001)
    assert [(piece.offset, piece.length, piece.start) for piece in pieces] == [(1050, 50, 50), (5000, 1, 0)]
    assert content.flatten(shelf.catalogue.every, item.content.kind, item.content.ref, 1100, 5000) == []
    assert content.flatten(shelf.catalogue.every, EMPTY, 0, 0, 100) == []


def test_a_write_into_a_shared_map_leaves_the_other_alone() -> None:
    shelf = Shelf()
    item = shelf.put(b"")
    shelf.patch(item, 5000, None, [(0, b"a" * 2500), (2500, b"b" * 2500)])
    other = shelf.share(item)
    shelf.patch(item, 5000, None, [(2000, b"c" * 1000)])
    assert item.content.ref != other.content.ref
    shelf.check()


def test_a_composed_map_is_flattened_by_the_first_write() -> None:
    shelf = Shelf()
    parts = []
    for letter in (b"a", b"b"):
        part = shelf.put(b"")
        shelf.patch(part, 3000, None, [(0, letter * 1000), (2000, letter * 500)])
        parts.append(part)
    whole = shelf.join(parts)
    assert _composed(shelf, whole)
    shelf.check()
    shelf.patch(whole, 6000, None, [(2900, b"c" * 200)])
    assert not _composed(shelf, whole)
    shelf.check()


@rows("size", [0, 1, INLINE_MAX, INLINE_MAX + 1])
def test_where_a_body_goes(size: int) -> None:
    item = Shelf().put(bytes(size))
    assert item.content.kind == (EMPTY if size == 0 else INLINE if size <= INLINE_MAX else WHOLE)


def test_to_free_what_is_whole_complains_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever kind it is of: bytes in the node's own row have no map."""
    shelf = Shelf()
    for size in (0, 1, INLINE_MAX, INLINE_MAX + 1):
        item = shelf.put(bytes(size))
        shelf.held.remove(item)
        shelf.catalogue.within(lambda tx, item=item: content.drop(tx, item.content.kind, item.content.ref))  # type: ignore[misc]
        assert caplog.messages == [], size
    shelf.check()


def test_pieces_are_what_is_no_hole_and_cost_what_is_asked_for() -> None:
    """Through a composed map, whose parts have holes of their own; and lazily, in a map of many pieces."""
    shelf = Shelf()
    parts = []
    for letter in (b"a", b"b"):
        part = shelf.put(letter * 3000)
        shelf.patch(part, 3000, None, [], punched=[(1000, 2000)])
        parts.append(part)
    whole = shelf.join(parts)
    assert _composed(shelf, whole)
    every = shelf.catalogue.every

    def extents(every: Callable[..., list[Any]], item: Held, start: int, end: int) -> Iterator[tuple[int, int]]:
        for piece in content.pieces(every, item.content.kind, item.content.ref, start, end):
            yield piece.offset, piece.offset + piece.length

    assert list(content.pieces(every, MAPPED, whole.content.ref, 500, 5500)) == content.flatten(
        every, MAPPED, whole.content.ref, 500, 5500
    )
    assert list(extents(every, whole, 500, 5500)) == [(500, 1000), (2000, 3000), (3000, 4000), (5000, 5500)]
    assert list(extents(every, whole, 1200, 1300)) == []
    long = shelf.put(b"x" * 5000)
    for start in range(0, 5000, 10):
        shelf.patch(long, 5000, None, [], punched=[(start, start + 5)])
    asked = 0

    def counted(sql: str, parameters: tuple[int, ...]) -> list[Any]:
        nonlocal asked
        rows = every(sql, parameters)
        asked += len(rows)
        return rows

    found = extents(counted, long, 7, 5000)
    assert [next(found), next(found)] == [(7, 10), (15, 20)]
    assert asked <= 256
    assert len(list(found)) == 498
    shelf.check()


def test_a_range_is_shared_by_references_and_stays_when_its_owner_goes() -> None:
    shelf = Shelf()
    source, target = shelf.put(b"s" * 5000), shelf.put(b"t" * 9000)
    shelf.patch(source, 5000, None, [(2000, b"u" * 500)], punched=[(3000, 3500)])
    shelf.lay(target, 9000, source, 1000, 3000, 4000)
    shelf.check()
    shelf.lay(target, 20_000, target, 5000, 12_000, 2000)  # of itself
    shelf.check()
    shelf.lay(target, 20_000, target, 12_000, 0, 2000)
    shelf.check()
    empty = shelf.put(b"")
    shelf.lay(empty, 4000, source, 1000, 0, 4000)
    shelf.check()
    shelf.drop(source)
    shelf.check()
    shelf.drop(target)
    shelf.check()
    assert empty.image == b"s" * 1000 + b"u" * 500 + b"s" * 500 + bytes(500) + b"s" * 1500
