"""The bytes of a file as its readers see them: what memory holds over what is staged over what is committed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from appliance.errors import StoreError
from appliance.model import BodyKind, NewChunk
from fusefs.attributes import BLOCK_SIZE
from fusefs.handles import File

if TYPE_CHECKING:
    from appliance.store import ObjectStore

REWRITE_MAX: Final = 16 * 1024  # a changed file of at most this size is rewritten whole: no map of crumbs


async def read(store: ObjectStore, file: File, start: int, end: int) -> bytes:
    """[start, end) of the file, which must lie below its size.  Raises DAMAGED, IO_ERROR: never a wrong byte (H3)."""
    assert start < end <= file.size
    if not file.overlay:
        return await _committed(store, file, start, end)
    parts = []
    while start < end:  # the overlay may have changed during each wait
        _, stop, segment = next(file.overlay.pieces(start, end))
        if segment is None:
            parts.append(await _committed(store, file, start, stop))
        elif segment.source is None:
            parts.append(bytes(stop - start))
        elif isinstance(segment.source, NewChunk):
            chunk = segment.source
            try:
                parts.append(await _staged(store, chunk, segment.skip + start - segment.start, stop - start))
            except StoreError:
                _, _, now = next(file.overlay.pieces(start, stop))
                if now is not None and now.source is chunk:
                    raise
                continue  # it was written over and given back meanwhile: its place may be another's
        else:
            parts.append(bytes(segment.view()[start - segment.start : stop - segment.start]))
        start = stop
    return parts[0] if len(parts) == 1 else b"".join(parts)


async def _committed(store: ObjectStore, file: File, start: int, end: int) -> bytes:
    """The committed map; zeros beyond its end.  A base that was moved since it was looked up is looked up again."""
    while True:
        base = file.base
        stop = 0 if base is None else min(end, base.size)
        if base is None or stop <= start:
            return bytes(end - start)
        try:
            with store.reader(base, start, stop - start) as reader:
                data = reader.ready()
                if data is None:
                    data = await reader.read()
        except StoreError as error:
            file.base = store.node(file.inode)
            if file.base == base:
                error.add_note(f"inode {file.inode}, bytes {start} to {stop}")  # for the log: whose bytes are lost
                raise
        else:
            return data + bytes(end - stop) if stop < end else data


def committed_now(store: ObjectStore, file: File, start: int, end: int) -> bytes | None:
    """The same, if memory has it."""
    while True:
        base = file.base
        stop = 0 if base is None else min(end, base.size)
        if base is None or stop <= start:
            return bytes(end - start)
        try:
            with store.reader(base, start, stop - start) as reader:
                data = reader.ready()
        except StoreError:  # the writer has changed it, and its ticket is not taken in yet
            file.base = store.node(file.inode)
            if file.base == base:
                raise
        else:
            return None if data is None else data + bytes(end - stop)


async def _staged(store: ObjectStore, chunk: NewChunk, start: int, length: int) -> bytes:
    if chunk.data:
        return chunk.data[start : start + length]
    return await store.read_staged(chunk, start, length)


def whole_small(store: ObjectStore, file: File) -> bytes | None:
    """All bytes of a small file, if a part of it changed and the rest needs no device; otherwise None."""
    if not 0 < file.size <= REWRITE_MAX:
        return None
    base = file.base
    if base is not None and base.kind == BodyKind.MAP and store.allocated(base) <= base.size - BLOCK_SIZE:
        return None  # as it is: a map with holes
    changed = [segment for segment in file.overlay if segment.owner == 0]
    if not changed or (changed[0].in_memory and changed[0].start == 0 and changed[0].end == file.size):
        return None  # nothing to do, or whole already
    parts = []
    for start, end, segment in file.overlay.pieces(0, file.size):
        if segment is not None and segment.source is None and end - start >= BLOCK_SIZE:
            return None  # a hole worth keeping
        if segment is None:
            data = committed_now(store, file, start, end)
            if data is None:
                return None
            parts.append(data)
        elif segment.source is None:
            parts.append(bytes(end - start))
        elif isinstance(segment.source, NewChunk):
            if not segment.source.data:
                return None
            at = segment.skip + start - segment.start
            parts.append(segment.source.data[at : at + end - start])
        else:
            parts.append(bytes(segment.view()[start - segment.start : end - segment.start]))
    return b"".join(parts)
