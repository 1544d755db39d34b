"""Bodies on their way into and out of the store's double."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from appliance import limits
from appliance.errors import Code, StoreError
from appliance.model import Body, DataKey

if TYPE_CHECKING:
    from tests.s3front.memory_store import MemoryStore


class MemoryIngest:
    """Collects into one bytearray; `room` hands out at most 64 KiB at a time, so that callers loop."""

    def __init__(self, store: MemoryStore, key: DataKey | None = None) -> None:
        self.store = store
        self.key = key
        self.size = 0
        self.data = bytearray()
        self.buffer = bytearray(64 * 1024)
        self.closed = False
        store.open_ingests += 1

    def room(self) -> memoryview:
        assert not self.closed
        return memoryview(self.buffer)

    def filled(self, count: int) -> None:
        self.data += self.buffer[:count]
        self.size += count

    def write(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data).cast("B")
        self.data += view
        self.size += len(view)

    def finish(self) -> Body:
        return self.store.body(bytes(self.data), self.key)

    async def write_async(self, data: bytes | bytearray | memoryview) -> None:
        self.write(data)

    async def finish_async(self) -> Body:
        return self.finish()

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.store.open_ingests -= 1

    def __enter__(self) -> MemoryIngest:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class MemoryReader:
    """Answers at once up to `store.ready_max` bytes."""

    def __init__(self, store: MemoryStore, data: bytes) -> None:
        self.store = store
        self.data = data
        self.length = len(data)
        self.closed = False
        store.open_readers += 1

    def ready(self) -> bytes | None:
        return self.data if self.length <= self.store.ready_max else None

    async def begin(self) -> None:
        pass

    async def read(self) -> bytes:
        return self.data

    def pieces(self) -> Iterator[memoryview]:
        for start in range(0, self.length, limits.MIB):
            if self.store.damaged_from is not None and start >= self.store.damaged_from:
                raise StoreError(Code.DAMAGED, cause="device 1, offset 4096")
            yield memoryview(self.data)[start : start + limits.MIB]

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.store.open_readers -= 1

    def __enter__(self) -> MemoryReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
