"""The pool is the back-pressure: nobody gets more than there is, nobody is forgotten, nothing is lost."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.device.buffers import HUGE, HUGE_FROM, SCRATCH_SIZES, BufferPool, aligned, is_aligned, scratch
from tests.rows import rows


def address(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


@rows("length", [1, 4096, 5000, *SCRATCH_SIZES, SCRATCH_SIZES[-1] + 1])
def test_memory_is_aligned_and_of_the_length_asked_for(length: int) -> None:
    buffer = aligned(length)
    assert address(buffer) % (HUGE if length >= HUGE_FROM else 4096) == 0
    assert len(buffer) == length
    assert not any(buffer[:: max(length // 100, 1)])
    with scratch(length) as small:
        assert address(small) % 4096 == 0
        assert len(small) == length
        small[-1] = 1


def test_what_lies_as_devices_take_it() -> None:
    buffer = aligned(3 * 4096)
    assert is_aligned(buffer)
    assert is_aligned(buffer[4096:4097])
    assert not is_aligned(buffer[1:])
    assert not is_aligned(memoryview(bytes(4096)))


def test_memory_is_private() -> None:
    """Shared memory, Python's default, belongs to tmpfs: it costs direct I/O twice as much and is in no huge pages."""
    for length in (5000, HUGE):
        buffer = aligned(length)
        where = address(buffer)
        maps = [line.split(None, 2) for line in Path("/proc/self/maps").read_text().splitlines()]
        held = []
        for area, permissions, _ in maps:
            low, _, high = area.partition("-")
            if int(low, 16) <= where < int(high, 16):
                held.append(permissions)
        assert held == ["rw-p"], length


def test_scratch_is_reused_but_never_shared() -> None:
    with scratch(5000) as first:
        where = address(first)
        with scratch(6000) as second:
            assert address(second) != where
    with scratch(100) as third, scratch(100) as fourth:
        assert where in (address(third), address(fourth))
        assert address(third) != address(fourth)


def test_a_thread_waits_for_a_release() -> None:
    pool = BufferPool(1, 4096)
    buffer = pool.acquire()
    got: list[memoryview] = []
    thread = threading.Thread(target=lambda: got.append(pool.acquire(60.0)))
    thread.start()
    while not pool.waiting:
        os.sched_yield()
    assert got == []
    pool.release(buffer)
    thread.join(60.0)
    assert got[0] is buffer
    assert pool.available == 0
    pool.release(got[0])
    assert pool.available == 1


def test_an_expired_wait_leaves_no_waiter() -> None:
    pool = BufferPool(1, 4096)
    buffer = pool.acquire()
    with pytest.raises(TimeoutError):
        pool.acquire(0.001)
    assert pool.waiting == 0
    pool.release(buffer)
    assert pool.available == 1


def test_tasks_and_threads_share_one_queue_in_order() -> None:
    async def main() -> None:
        pool = BufferPool(2, 4096)
        served: list[str] = []

        async def task(name: str) -> None:
            buffer = await pool.acquire_async()
            served.append(name)
            pool.release(buffer)

        def thread(name: str) -> None:
            buffer = pool.acquire(60.0)
            served.append(name)
            pool.release(buffer)

        first, second = await pool.acquire_async(), await pool.acquire_async()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task, "a")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(trio.to_thread.run_sync, thread, "b")
            while pool.waiting < 2:
                await trio.lowlevel.checkpoint()
            nursery.start_soon(task, "c")
            await trio.testing.wait_all_tasks_blocked()
            assert pool.waiting == 3
            assert pool.acquire_nowait() is None
            pool.release(first)
        pool.release(second)
        assert served == ["a", "b", "c"]
        assert pool.available == 2

    trio.run(main)


def test_cancelled_tasks_lose_no_buffer() -> None:
    async def main() -> None:
        pool = BufferPool(1, 4096)
        buffer = await pool.acquire_async()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pool.acquire_async)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert pool.waiting == 0

        got: list[memoryview] = []

        async def late(scope: trio.CancelScope) -> None:
            with scope:
                got.append(await pool.acquire_async())

        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(late, scope)
            await trio.testing.wait_all_tasks_blocked()
            pool.release(buffer)  # on its way to the task ...
            scope.cancel()  # ... which is cancelled before it runs
        assert got == [buffer]
        pool.release(buffer)
        assert pool.available == 1

    trio.run(main)


def test_a_buffer_is_released_once_and_to_its_own_pool() -> None:
    pool = BufferPool(1, 4096)
    buffer = pool.acquire()
    with pytest.raises(AssertionError):
        pool.release(aligned(4096))
    pool.release(buffer)
    with pytest.raises(AssertionError):
        pool.release(buffer)
