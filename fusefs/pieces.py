"""From segments of a file's bytes to what a commit of them carries: chunks, slices of them, holes.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from appliance.model import NewChunk, NewSlice
from fusefs.dirty import Segment


def punched_of(segments: list[Segment], end: int) -> Iterator[tuple[int, int]]:
    """What is to become a hole below `end`; from there on everything goes."""
    for segment in segments:
        if segment.source is None and segment.start < end:
            yield segment.start, min(segment.end, end)


def chunks_of(segments: list[Segment]) -> list[NewChunk]:
    """The chunks that segments are in, each once, in order."""
    chunks = {}
    for segment in segments:
        assert isinstance(segment.source, NewChunk)
        chunks[segment.source.id] = segment.source
    return list(chunks.values())


def slices_of(segments: list[Segment]) -> list[NewSlice]:
    """In file order; neighbours in one chunk become one slice."""
    return list(_join(sorted(segments, key=lambda segment: segment.start)))


def _join(segments: list[Segment]) -> Iterator[NewSlice]:
    start = end = skip = chunk = -1
    for segment in segments:
        assert isinstance(segment.source, NewChunk)
        if segment.start == end and segment.source.id == chunk and segment.skip == skip + end - start:
            end = segment.end
            continue
        if chunk >= 0:
            yield NewSlice(start, end - start, chunk, skip)
        start, end, skip, chunk = segment.start, segment.end, segment.skip, segment.source.id
    if chunk >= 0:
        yield NewSlice(start, end - start, chunk, skip)
