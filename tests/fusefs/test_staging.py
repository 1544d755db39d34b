"""Several chunks of one file on their way to devices at once: how many, in which order, and what one failure means."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytest
import trio

from appliance.errors import Code, StoreError
from appliance.limits import CHUNK_SIZE
from appliance.model import Bucket, NewChunk
from fusefs import staging
from tests.fusefs.scenes import refused, run
from tests.fusefs.unmounted import Unmounted

if TYPE_CHECKING:
    from typing_extensions import Buffer

CHUNKS = 7
DATA = b"".join(bytes([number + 1]) * CHUNK_SIZE for number in range(CHUNKS))


class Slow:
    """Stages as the store does, the earlier ones longer; the one with `fails` in it fails."""

    def __init__(self, mount: Unmounted, monkeypatch: pytest.MonkeyPatch, fails: int = 0) -> None:
        self._stage: Any = mount.store.stage
        self._fails = fails
        self.begun: list[int] = []
        self.under_way = self.most = 0
        monkeypatch.setattr(mount.store, "stage", self.stage)

    async def stage(self, bucket: Bucket, pieces: Sequence[Buffer], key: object = None) -> NewChunk:
        number = memoryview(pieces[0])[0]
        self.begun.append(number)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            for _ in range(5 * (CHUNKS - number)):
                await trio.lowlevel.checkpoint()
            if number == self._fails:
                raise StoreError(Code.IO_ERROR)
            chunk: NewChunk = await self._stage(bucket, pieces)
        finally:
            self.under_way -= 1
        return chunk


def test_several_are_under_way_and_the_file_is_what_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(mount: Unmounted) -> None:
        slow = Slow(mount, monkeypatch)
        fh = await mount.create("photos/f")
        await mount.ops.write(fh, 0, DATA)
        await mount.ops.fsync(fh, False)
        assert slow.most == staging.AT_ONCE
        assert slow.begun == list(range(1, CHUNKS + 1))
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == DATA

    run(scene)


def test_one_that_fails_is_told_when_none_is_under_way_and_no_further_one_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(mount: Unmounted) -> None:
        slow = Slow(mount, monkeypatch, fails=3)
        fh = await mount.create("photos/f")
        await mount.ops.write(fh, 0, DATA)
        async with refused(errno.EIO):
            await mount.ops.fsync(fh, False)
        assert slow.under_way == 0
        assert 3 in slow.begun
        assert len(slow.begun) < CHUNKS
        slow._fails = 0
        await mount.ops.fsync(fh, False)
        assert sorted(set(slow.begun)) == list(range(1, CHUNKS + 1))
        await mount.close(fh)
        assert await mount.door.get("photos", b"f") == DATA

    run(scene)
