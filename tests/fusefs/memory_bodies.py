"""Bodies in memory for tests of the mount: sparse, 64 KiB blocks by number."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import outcome
import trio
from typing_extensions import Buffer

from appliance.store import Place

BLOCK = 1 << 16


class Content:
    """A sparse body."""

    def __init__(self) -> None:
        self.blocks: dict[int, bytearray] = {}

    def write(self, offset: int, data: Buffer) -> None:
        view = memoryview(data)
        while view:
            number, at = divmod(offset, BLOCK)
            piece = view[: BLOCK - at]
            self.blocks.setdefault(number, bytearray(BLOCK))[at : at + len(piece)] = piece
            offset, view = offset + len(piece), view[len(piece) :]

    def cut(self, size: int) -> None:
        number, at = divmod(size, BLOCK)
        for block in [block for block in self.blocks if block * BLOCK >= size]:
            del self.blocks[block]
        if number in self.blocks:
            self.blocks[number][at:] = bytes(BLOCK - at)

    def punch(self, start: int, end: int) -> None:
        for number in [number for number in self.blocks if number * BLOCK < end and start < (number + 1) * BLOCK]:
            low, high = max(start - number * BLOCK, 0), min(end - number * BLOCK, BLOCK)
            self.blocks[number][low:high] = bytes(high - low)
            if high - low == BLOCK:
                del self.blocks[number]

    def extents(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        for first in [number for number in sorted(self.blocks) if number - 1 not in self.blocks]:
            last = first
            while last in self.blocks:
                last += 1
            low, high = max(first * BLOCK, start), min(last * BLOCK, end)
            if low < high:
                yield low, high

    def read(self, start: int, length: int) -> bytes:
        parts = []
        end = start + length
        while start < end:
            number, at = divmod(start, BLOCK)
            count = min(BLOCK - at, end - start)
            block = self.blocks.get(number)
            parts.append(bytes(count) if block is None else bytes(block[at : at + count]))
            start += count
        return b"".join(parts)


class MemoryReader:
    def __init__(self, content: Content, start: int, length: int, cold: bool) -> None:
        self.content, self.start_at, self.length, self.cold = content, start, length, cold

    def ready(self) -> bytes | None:
        return None if self.cold else self.content.read(self.start_at, self.length)

    async def read(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.content.read(self.start_at, self.length)

    def start(self, use: Callable[[bytes | memoryview], object], done: Callable[[outcome.Outcome[None]], None]) -> None:
        use(self.content.read(self.start_at, self.length))
        done(outcome.Value(None))

    def locate(self, done: Callable[[outcome.Outcome[list[Place]]], None]) -> None:
        done(outcome.Value([]))

    def pieces(self) -> Iterator[memoryview]:
        yield memoryview(self.content.read(self.start_at, self.length))

    def close(self) -> None:
        pass

    def __enter__(self) -> MemoryReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class NoDisk:
    """A catalogue that is never cold."""

    async def warm(self, parent: int, after: bytes, limit: int, *, nodes: bool) -> int:
        await trio.lowlevel.checkpoint()
        return 0

    def waited(self) -> int:
        return 0
