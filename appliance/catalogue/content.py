"""Bytes of nodes and parts: maps of slices over reference-counted chunks.

A *content* is (kind, ref, data): EMPTY, INLINE bytes, one whole CHUNK, or a MAP.  Copy, multipart completion, clone and
the mount's overwrites are all moves of references; only `patch` cuts slices.  Everything here runs inside a batch.

Freeing is bounded: a batch frees at most `Rows.drops` slices, or the record of a huge object's deletion would not fit
the ring and its rows would hold the writer for seconds.  What is left stays with a node without a name (links=0) that
`Reap` commands empty step by step, resumed at start; its generation rises, so that nobody takes it for what it was.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

from blake3 import blake3

from appliance.catalogue.database import UNBOUNDED, NewData, Prolonged, Rows
from appliance.catalogue.proven import chunk_in, damaged, held_until, map_in
from appliance.catalogue.schema import CHUNK, MAP, NODE, PAGE, PATCH, SLICE, body_sum, slice_sum
from appliance.errors import StoreError
from appliance.limits import INLINE_MAX, PATCH_MAX
from appliance.model import Body, BodyKind, NewChunk, NewSlice, Node

EMPTY, INLINE, WHOLE, MAPPED = (int(kind) for kind in (BodyKind.EMPTY, BodyKind.INLINE, BodyKind.CHUNK, BodyKind.MAP))


class Content(NamedTuple):
    """Where bytes are.  `data` only for INLINE."""

    kind: int
    ref: int = 0
    data: bytes = b""


NOTHING = Content(EMPTY)
SUM: Final = 16
_STEP: Final = 256  # slices looked at at once

log = logging.getLogger(__name__)

type_all = Callable[..., list[Any]]


def data_sum(data: bytes) -> bytes:
    """What vouches for inline bytes."""
    return blake3(data).digest(length=SUM)


def inline_bytes(node: Node) -> bytes:
    """A node's inline bytes, verified in this read (H3).  Raises DAMAGED."""
    if data_sum(node.data) != node.dsum:
        raise damaged(f"inline bytes of node {node.id}")
    return node.data


def require_body(node: int, kind: int, ref: int, size: int, found: bytes) -> None:
    """That a node's row names its own bytes.  Raises DAMAGED."""
    if found and kind in (WHOLE, MAPPED) and found != body_sum(kind, ref, size):
        raise damaged(f"bytes of node {node}")


def sum_of(node: Node) -> bytes:
    """What its row keeps of what it has: `dsum`."""
    if node.kind == INLINE:
        return data_sum(node.data)
    return body_sum(node.kind, node.ref, node.size) if node.kind in (WHOLE, MAPPED) else b""


class Flat(NamedTuple):
    """`length` bytes at `offset` of the object are bytes `start...` of `chunk`."""

    offset: int
    length: int
    chunk: int
    start: int


class Maker(NamedTuple):
    """Who new chunks belong to."""

    copies: int
    owner: int
    label: bytes


# ---------------------------------------------------------------------- making


def add_chunk(tx: Rows, chunk: NewChunk, maker: Maker, refs: int, *, short: bool = False) -> None:
    """A new chunk with `refs` references: its bytes are gathered by the batch or already in pages, or, the `short` way,
    in the batch's own record."""
    assert refs > 0, "a chunk nobody names must not be committed"
    tx.note_id(chunk.id)
    tx.put(CHUNK, (chunk.id, chunk.length, refs, maker.copies, chunk.key.id if chunk.key is not None else 0))
    if chunk.pages:
        for page in chunk.pages:
            tx.put(PAGE, (page.device, page.offset, page.length, chunk.id, page.index, page.copy, page.hsum))
            tx.new_pages[page.device, page.offset] = chunk.covered
    elif short:
        tx.put(PATCH, (chunk.id, chunk.data, data_sum(chunk.data)))
        tx.patched += chunk.length
    else:
        assert len(chunk.data) == chunk.length, "a chunk without pages carries its bytes"
        tx.new_data[chunk.id] = NewData(chunk.data, maker.copies, maker.owner, maker.label, chunk.key)


def add_body(tx: Rows, body: Body, maker: Maker, *, inline: bool = True) -> Content:
    """The content of a new object or part.  Without `inline` small bytes get a chunk of their own."""
    if body.size == 0:
        return NOTHING
    if body.inline:
        if inline:
            return Content(INLINE, 0, body.inline)
        chunk = NewChunk(tx.new_id(), body.size, body.inline)
        add_chunk(tx, chunk, maker, 1)
        return Content(WHOLE, chunk.id)
    return add_slices(tx, body.chunks, body.slices, body.size, maker)


def add_slices(tx: Rows, chunks: Sequence[NewChunk], slices: Sequence[NewSlice], size: int, maker: Maker) -> Content:
    """New chunks under a new map, or one chunk alone when it is the whole object."""
    if len(chunks) == 1 and len(slices) == 1:
        only, piece = chunks[0], slices[0]
        if piece.offset == 0 and piece.start == 0 and piece.length == only.length == size:
            add_chunk(tx, only, maker, 1)
            return Content(WHOLE, only.id)
    refs: dict[int, int] = {}
    for piece in slices:
        refs[piece.chunk] = refs.get(piece.chunk, 0) + 1
    for chunk in chunks:
        add_chunk(tx, chunk, maker, refs[chunk.id])
    return add_map(tx, [(piece.offset, piece.length, WHOLE, piece.chunk, piece.start) for piece in slices])


def add_map(tx: Rows, slices: Sequence[tuple[int, int, int, int, int]]) -> Content:
    """A new map of (offset, length, kind, ref, start); the references were counted by the caller."""
    number = tx.new_id()
    composed = any(piece[2] == MAPPED for piece in slices)
    tx.put(MAP, (number, 1, int(composed)))
    for piece in slices:
        tx.put(SLICE, (number, *piece))
    return Content(MAPPED, number)


# ---------------------------------------------------------------------- references


def count_chunk(tx: Rows, chunk: int, change: int) -> None:
    """So many references more or, at none, the chunk goes with its pages."""
    _, length, refs, copies, key = chunk_in(tx.row(CHUNK, chunk), chunk)
    refs += change
    assert refs >= 0, f"chunk {chunk} has fewer than no references"
    if refs:
        tx.put(CHUNK, (chunk, length, refs, copies, key))
        return
    tx.delete(CHUNK, (chunk,))
    if tx.new_data.pop(chunk, None) is not None:
        return
    is_patch = tx.at_hand(PATCH, chunk) is not None
    pages = [] if is_patch else tx.all("SELECT dev, off, len FROM page WHERE chunk=?", (chunk,), PAGE)
    for dev, off, size in pages:
        tx.delete(PAGE, (dev, off))
        tx.freed.append((dev, off, size))
    if not pages:
        tx.delete(PATCH, (chunk,))
        tx.patched -= length


def share(tx: Rows, kind: int, ref: int) -> None:
    """One more reference to a chunk or map."""
    if kind == WHOLE:
        count_chunk(tx, ref, 1)
    elif kind == MAPPED:
        _, refs, composed = map_in(tx.row(MAP, ref), ref)
        tx.put(MAP, (ref, refs + 1, composed))


def drop(tx: Rows, kind: int, ref: int) -> None:
    """One reference less; at none the chunks' pages are freed, or left to a nameless node to be reaped."""
    if not _release(tx, kind, ref):
        (end,) = tx.one("SELECT off+len FROM slice WHERE map=? ORDER BY off DESC LIMIT 1", (ref,))
        row: dict[str, Any] = dict(zip(NODE.columns[:-1], NODE.defaults, strict=False))
        row |= {"id": tx.new_id(), "mode": stat.S_IFREG, "size": end, "kind": MAPPED, "ref": ref}
        tx.put(NODE, tuple(row.values()))
        tx.reaps.append(row["id"])


def drop_node(tx: Rows, node: Node) -> None:
    """The node goes, and its bytes with it; of many bytes some remain with it, nameless, to be reaped."""
    try:
        require_body(node.id, node.kind, node.ref, node.size, node.dsum)
    except StoreError as error:
        # whose bytes it names nobody knows: what it had stays counted once too often, and an audit tells
        log.error("node %d is damaged in the catalogue: what it had is not freed: %s", node.id, error.cause)
        tx.delete(NODE, (node.id,))
        return
    if _release(tx, node.kind, node.ref):
        tx.delete(NODE, (node.id,))
        return
    row = dict(zip(NODE.columns[:-1], tx.one("SELECT * FROM node WHERE id=?", (node.id,)), strict=False))
    row |= {"links": 0, "generation": row["generation"] + 1}
    tx.put(NODE, tuple(row.values()))
    tx.reaps.append(node.id)


def _release(tx: Rows, kind: int, ref: int) -> bool:
    """One reference less, if what it alone keeps can be freed here; False: a part was freed, and the reference, with
    the rest under it, is still there."""
    try:
        if kind == WHOLE:
            chunk_in(tx.row(CHUNK, ref), ref)
        _, refs, composed = map_in(tx.row(MAP, ref), ref) if kind == MAPPED else (0, 0, 0)
    except StoreError as error:
        # who else has it nobody knows: it stays counted once too often, and an audit tells
        log.error("what was to be freed is damaged in the catalogue and stays: %s", error.cause)
        return True
    if kind == WHOLE:
        count_chunk(tx, ref, -1)
    elif kind == MAPPED:
        if refs == 1:
            return _empty(tx, ref, composed)
        tx.put(MAP, (ref, refs - 1, composed))
    return True


def _empty(tx: Rows, number: int, composed: int) -> bool:
    """Frees what only this map keeps, then the map; False when the batch has freed enough before that."""
    order = "kind, off" if composed else "off"  # maps last: a map that still has one is still composed
    while rows := tx.all(f"SELECT * FROM slice WHERE map=? ORDER BY {order} LIMIT {_STEP}", (number,)):
        for *row, found in rows:
            _, offset, _, kind, ref, _ = row
            if tx.drops <= 0:
                return False
            if found and found != slice_sum(*row):
                # whom it named nobody knows: what that is stays counted once too often, and an audit tells
                log.error("slice %d+%d is damaged in the catalogue: what it named is not freed", number, offset)
            elif not _release(tx, kind, ref):
                return False
            tx.delete(SLICE, (number, offset))
            tx.drops -= 1
    tx.delete(MAP, (number,))
    return True


# ---------------------------------------------------------------------- reading

_OVERLAP = (
    "SELECT off, len, kind, ref, roff, sum FROM slice WHERE map=?1 AND off<?3 AND off>="
    "coalesce((SELECT max(off) FROM slice WHERE map=?1 AND off<=?2), 0) ORDER BY off LIMIT ?4"
)


def _overlap(
    every: type_all, number: int, start: int, end: int, limit: int = -1
) -> Iterator[tuple[int, int, int, int, int]]:
    """(off, len, kind, ref, roff) of a map's slices in [start, end), and perhaps of the one before; the first `limit`
    of them.  Raises DAMAGED."""
    for *row, found in every(_OVERLAP, (number, start, end, limit)):
        if found and found != slice_sum(number, *row):
            raise damaged(f"slice {number}+{row[0]} of a map")
        yield row[0], row[1], row[2], row[3], row[4]


def patch_data(every: type_all, chunk: int) -> bytes | None:
    """The bytes of a chunk that has no pages, verified in this read (H3); None if it is none.  Raises DAMAGED."""
    rows = every("SELECT data, dsum FROM patch WHERE chunk=?", (chunk,))
    if not rows:
        return None
    data, found = rows[0]
    if data_sum(data) != found:
        raise damaged(f"patch {chunk}")
    return bytes(data)


def flatten(every: type_all, kind: int, ref: int, start: int, end: int) -> list[Flat]:
    """Slices of chunks that cover [start, end) of a content of kind CHUNK or MAP, clipped, in order; gaps are holes.

    `every(sql, parameters)` gives rows: a batch's or the loop's reader.
    """
    if kind == WHOLE:
        return [Flat(start, end - start, ref, start)] if end > start else []
    if kind != MAPPED:
        return []
    found: list[Flat] = []
    for offset, length, inner, inner_ref, inner_start in _overlap(every, ref, start, end):
        low, high = max(start, offset), min(end, offset + length)
        if low >= high:
            continue
        if inner == WHOLE:
            found.append(Flat(low, high - low, inner_ref, inner_start + low - offset))
            continue
        shift = offset - inner_start
        for piece in flatten(every, inner, inner_ref, low - shift, high - shift):
            found.append(Flat(piece.offset + shift, piece.length, piece.chunk, piece.start))
    return found


def pieces(every: type_all, kind: int, ref: int, start: int, end: int) -> Iterator[Flat]:
    """What `flatten` gives, and a chunk alone no longer than it is; a few at a time as they are asked for: who needs
    only the first pays for no more, however long the map is."""
    if kind == WHOLE:
        end = held_until(every, ref, end)
        if start < end:
            yield Flat(start, end - start, ref, start)
    while kind == MAPPED and start < end:
        rows = list(_overlap(every, ref, start, end, _STEP))
        for offset, length, inner, inner_ref, inner_start in rows:
            low, high = max(start, offset), min(end, offset + length)
            if low < high and inner == WHOLE:
                yield Flat(low, high - low, inner_ref, inner_start + low - offset)
            elif low < high:
                shift = offset - inner_start
                for piece in pieces(every, inner, inner_ref, low - shift, high - shift):
                    yield Flat(piece.offset + shift, piece.length, piece.chunk, piece.start)
            start = max(start, high)
        if len(rows) < _STEP:
            return


def clone_range(tx: Rows, content: Content, start: int, length: int, maker: Maker) -> Content:
    """A content that shares bytes [start, start+length) of `content`: no data is read, but inline bytes are copied."""
    if length == 0:
        return NOTHING
    if content.kind == INLINE:
        # beyond the inline bytes lies a hole, if the mount made the file longer
        kept = content.data[start : start + length]
        if not kept:
            return NOTHING
        made = add_body(tx, Body(len(kept), kept), maker, inline=False)
        return made if len(kept) == length else add_map(tx, [(0, len(kept), WHOLE, made.ref, 0)])
    end = start + length
    if content.kind == WHOLE:
        end = min(end, chunk_in(tx.row(CHUNK, content.ref), content.ref)[1])
    pieces = flatten(tx.all, content.kind, content.ref, start, end)
    for piece in pieces:
        count_chunk(tx, piece.chunk, 1)
    if len(pieces) == 1 and pieces[0].length == length and pieces[0].start == 0:
        only = pieces[0].chunk
        is_patch = tx.one("SELECT 1 FROM patch WHERE chunk=?", (only,)) is not None  # in a map folding finds it
        if not is_patch and chunk_in(tx.row(CHUNK, only), only)[1] == length:
            return Content(WHOLE, only)
    if not pieces:
        return NOTHING
    return add_map(tx, [(p.offset - start, p.length, WHOLE, p.chunk, p.start) for p in pieces])


# ---------------------------------------------------------------------- changing (the mount)


def patch(
    tx: Rows,
    content: Content,
    old_size: int,
    size: int,
    cut: int | None,
    chunks: Sequence[NewChunk],
    slices: Sequence[NewSlice],
    maker: Maker,
    punched: Sequence[tuple[int, int]] = (),
    shared: Sequence[Flat] = (),
) -> Content:
    """The content after: everything at or beyond `cut` dropped, `punched` made holes, `slices` laid over, the size set
    to `size`.  `shared` are pieces of chunks that are there already, within what is punched.

    A change of at most PATCH_MAX bytes of a body that stays takes the journal's short path: its bytes are in the record
    that names them, and in `patch` until they are folded."""
    tx.grown = None
    keep = old_size if cut is None else min(cut, old_size)
    keep = min(keep, size)
    apart = bool(shared) or any(chunk.pages or chunk.key is not None for chunk in chunks)  # sealed: never inline
    if size <= INLINE_MAX and content.kind in (EMPTY, INLINE) and not apart:
        return _patch_inline(content.data[:keep], size, chunks, slices, punched)
    for other in shared:  # first: what is dropped here may have had them alone
        count_chunk(tx, other.chunk, 1)
    if keep == 0 or content.kind == EMPTY:
        drop(tx, content.kind, content.ref)
        if shared:
            assert not slices
            return add_map(tx, [(other.offset, other.length, WHOLE, other.chunk, other.start) for other in shared])
        return add_slices(tx, chunks, slices, size, maker) if slices else NOTHING
    if not slices and not punched and keep == old_size:
        return content  # only a hole is appended
    number = _own_map(tx, content, old_size, maker)
    grown = sum(piece.length for piece in slices)
    if keep < old_size:
        grown -= _punch(tx, number, keep, old_size)
    refs: dict[int, int] = {}
    for piece in slices:
        refs[piece.chunk] = refs.get(piece.chunk, 0) + 1
    short = not apart and sum(chunk.length for chunk in chunks) <= min(PATCH_MAX, tx.short - tx.patched)
    for chunk in chunks:
        add_chunk(tx, chunk, maker, refs[chunk.id], short=short)
    for start, end in punched:
        grown -= _punch(tx, number, start, end)
    for piece in slices:
        grown -= _punch(tx, number, piece.offset, piece.offset + piece.length, replaced=True)
        tx.put(SLICE, (number, piece.offset, piece.length, WHOLE, piece.chunk, piece.start))
    for other in shared:
        tx.put(SLICE, (number, other.offset, other.length, WHOLE, other.chunk, other.start))
        grown += other.length
    tx.grown = grown if content.kind == MAPPED else None
    return Content(MAPPED, number)


def _patch_inline(
    kept: bytes,
    size: int,
    chunks: Sequence[NewChunk],
    slices: Sequence[NewSlice],
    punched: Sequence[tuple[int, int]],
) -> Content:
    image = bytearray(size)
    image[: len(kept)] = kept
    for start, end in punched:
        end = min(end, size)
        image[start:end] = bytes(max(0, end - start))
    data = {chunk.id: chunk.data for chunk in chunks}
    for piece in slices:
        image[piece.offset : piece.offset + piece.length] = data[piece.chunk][piece.start : piece.start + piece.length]
    return Content(INLINE, 0, bytes(image)) if size else NOTHING


def _own_map(tx: Rows, content: Content, size: int, maker: Maker) -> int:
    """A flat map that only this node refers to, with the same bytes (ENGINE: a write into a shared map clones it)."""
    if content.kind == INLINE:
        made = add_body(tx, Body(len(content.data), content.data), maker, inline=False)
        return add_map(tx, [(0, len(content.data), WHOLE, made.ref, 0)]).ref
    if content.kind == WHOLE:
        length = chunk_in(tx.row(CHUNK, content.ref), content.ref)[1]
        return add_map(tx, [(0, length, WHOLE, content.ref, 0)]).ref  # the node's reference becomes the slice's
    _, refs, composed = map_in(tx.row(MAP, content.ref), content.ref)
    if refs == 1 and not composed:
        return content.ref
    if tx.bound != UNBOUNDED and len(tx.all("SELECT 1 FROM slice WHERE map=? LIMIT ?", (content.ref, _STEP))) == _STEP:
        raise Prolonged
    pieces = flatten(tx.all, MAPPED, content.ref, 0, size)
    for piece in pieces:
        count_chunk(tx, piece.chunk, 1)
    mine = add_map(tx, [(p.offset, p.length, WHOLE, p.chunk, p.start) for p in pieces]).ref
    drop(tx, MAPPED, content.ref)
    return mine


def _punch(tx: Rows, number: int, start: int, end: int, *, replaced: bool = False) -> int:
    """Makes [start, end) of a flat map a hole; a slice that straddles an edge is cut, one that spans it is split.

    Returns how many bytes of it were none before.  `replaced`: a slice at `start` is put next, so none is deleted."""
    held = 0
    for offset, length, kind, ref, inner in _overlap(tx.slices, number, start, end):
        if offset + length <= start:
            continue
        left, right = start - offset, offset + length - end
        held += length - max(left, 0) - max(right, 0)
        if left > 0:
            tx.put(SLICE, (number, offset, left, kind, ref, inner))
        elif left < 0 or not replaced:
            tx.delete(SLICE, (number, offset))
        if right > 0:
            tx.put(SLICE, (number, end, right, kind, ref, inner + end - offset))
        change = (left > 0) + (right > 0) - 1
        if change:
            count_chunk(tx, ref, change)
    return held
