"""The other door, as far as tests of the mount need it: S3's verbs on either store."""

from __future__ import annotations

import hashlib
from typing import Protocol

from appliance.model import NO_ATTRIBUTES
from appliance.store import ObjectStore
from tests.fusefs.memory_store import MemoryStore


class Door(Protocol):
    """PUT, GET, DELETE."""

    async def put(self, bucket: str, key: bytes, data: bytes) -> None: ...
    async def get(self, bucket: str, key: bytes) -> bytes: ...
    async def delete(self, bucket: str, key: bytes) -> None: ...


class DictDoor:
    """The other door of the store over dicts."""

    def __init__(self, store: MemoryStore) -> None:
        self.store = store

    async def put(self, bucket: str, key: bytes, data: bytes) -> None:
        await self.store.put(bucket, key, data)

    async def get(self, bucket: str, key: bytes) -> bytes:
        return await self.store.get(bucket, key)

    async def delete(self, bucket: str, key: bytes) -> None:
        await self.store.delete(bucket, key)


class StoreDoor:
    """The other door of the real store: the S3 verbs."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    async def put(self, bucket: str, key: bytes, data: bytes) -> None:
        where = self.store.bucket(bucket)
        with await self.store.ingest(where, len(data)) as ingest:
            await ingest.write_async(data)
            body = await ingest.finish_async()
            await self.store.put_object(where, key, body, hashlib.md5(data).hexdigest(), NO_ATTRIBUTES)

    async def get(self, bucket: str, key: bytes) -> bytes:
        node = await self.store.look_up(self.store.bucket(bucket), key)
        with self.store.reader(node) as reader:
            return await reader.read()

    async def delete(self, bucket: str, key: bytes) -> None:
        await self.store.delete_object(self.store.bucket(bucket), key)
