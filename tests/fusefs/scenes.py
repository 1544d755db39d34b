"""Scenes: what happens on a mount without a kernel, played on either store."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pyfuse3
import pytest
import trio
import trio.testing

from appliance.upkeep.audit import audit
from tests.fusefs.unmounted import Unmounted, unmounted, unmounted_pool

Scene = Callable[[Unmounted], Awaitable[None]]


def run(scene: Scene, *, durable_close: bool = False, clock: trio.abc.Clock | None = None) -> None:
    """Plays a scene on a fresh mount over dicts."""

    async def main() -> None:
        async with unmounted(durable_close=durable_close) as mount:
            await scene(mount)
            await check_memory(mount)

    trio.run(main, clock=clock)


async def check_memory(mount: Unmounted) -> None:
    """When all is committed memory holds open files and nothing else, and has counted right."""
    files = mount.ops.files
    await files.commit_all()
    for file in files.files.values():
        assert file.opens
        assert not file.pending
    carried = sum(len(chunk.data) for file in files.files.values() for chunk in file.staged)
    assert files.memory == carried + sum(file.overlay.memory for file in files.files.values())


Play = Callable[[Scene], None]


def run_on_pool(scene: Scene, directory: Path) -> None:
    """The same on the real store, which is audited afterwards."""

    async def main() -> None:
        async with unmounted_pool(directory) as mount:
            await scene(mount)
            await check_memory(mount)
            report = await audit(mount.store)
            assert not report.problems, report.problems

    trio.run(main)


@asynccontextmanager
async def refused(number: int) -> AsyncIterator[None]:
    with pytest.raises(pyfuse3.FUSEError) as caught:
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[number]


async def settled(mount: Unmounted) -> None:
    """Every submitted commit is durable and the mount has taken it in."""
    await mount.store.settle()
    await trio.testing.wait_all_tasks_blocked()
