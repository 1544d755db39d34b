"""Aligned memory for direct I/O.

Anonymous mmaps begin at a page boundary, which is the alignment that O_DIRECT wants (open(2), "O_DIRECT"), and take
no memory until they are touched.  They are private (Python's default, shared, is a file in tmpfs) and where they are
long in huge pages: for direct I/O the kernel looks up and pins every page, which costs a GiB 0.08 s of CPU for small
shared ones, 0.06 s for small private ones and 0.02 s for huge ones; and a request of many small pages is many requests
to most devices: reads of 1 MiB into huge pages came twice as fast.

`BufferPool` is the product's back-pressure: a fixed number of large buffers shared by all large transfers.  Whoever
finds none waits, thread or trio task alike, in order of arrival; a released buffer is handed to the first waiter
directly, so that a late-comer can't overtake.

`scratch` gives each thread its own small buffers for reads, by size class: a mapping costs ~10 us, reuse nothing.
"""

from __future__ import annotations

import collections
import ctypes
import mmap
import threading
from bisect import bisect_left
from contextlib import suppress
from types import TracebackType
from typing import Final

import trio

from appliance.device.device import ALIGNMENT
from appliance.limits import KIB, MIB

# A block or a page's payload, plus the 4 KiB of header or of a straddling block that comes along.
SCRATCH_SIZES: Final = (
    8 * KIB,
    68 * KIB,
    132 * KIB,
    260 * KIB,
    1 * MIB + 4 * KIB,
    2 * MIB + 132 * KIB,
    4 * MIB + 4 * KIB,
)
# Per class and thread.  A stream may end in another thread than it began in, and would leave its buffer there: of the
# large ones a thread keeps one.
SCRATCH_KEPT: Final = (2, 2, 2, 2, 1, 1, 1)


HUGE: Final = 2 * MIB  # of x86-64, and of most arm64 machines
HUGE_FROM: Final = MIB  # buffers of at least this lie in huge pages, though the last be half used


def aligned(length: int) -> memoryview:
    """`length` writable zero bytes at a page boundary; the memory lives as long as a view of it does.

    From `HUGE_FROM` on it lies at a boundary of `HUGE` and in huge pages, if the kernel has some to give; what is left
    over of a last one only if it is the first.
    """
    assert length > 0
    if length < HUGE_FROM:
        return memoryview(mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    memory = mmap.mmap(-1, max(length, HUGE) + HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without them says EINVAL
        memory.madvise(mmap.MADV_HUGEPAGE)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % HUGE
    return memoryview(memory)[start : start + length]


def is_aligned(view: memoryview) -> bool:
    """Whether a device takes it from where it lies, but for its length.  What cannot be written to says no: `bytes`
    are never aligned."""
    return not view.readonly and ctypes.addressof(ctypes.c_char.from_buffer(view)) % ALIGNMENT == 0


class BufferPool:
    """`count` aligned buffers of `size` bytes.  `acquire` from threads, `acquire_async` from trio tasks, `release`
    from anywhere.

    A buffer's content is whatever its last user left.  Its user must drop or stop using every slice of it before
    `release`.
    """

    def __init__(self, count: int, size: int) -> None:
        assert count > 0
        assert size % ALIGNMENT == 0
        self.count = count
        self.size = size
        self._lock = threading.Lock()
        memory = aligned(count * size)
        # a stack: what was touched last is reused first
        self._free = [memory[start : start + size] for start in range(0, count * size, size)]
        self._lent: set[int] = set()
        self._waiters: collections.deque[_ThreadWaiter | _TaskWaiter] = collections.deque()

    @property
    def available(self) -> int:
        """Buffers that an acquire would get at once."""
        return len(self._free)

    @property
    def waiting(self) -> int:
        """Threads and tasks waiting for one."""
        return len(self._waiters)

    def acquire_nowait(self) -> memoryview | None:
        """A buffer, or None."""
        with self._lock:
            return self._lend()

    def acquire(self, timeout: float | None = None) -> memoryview:
        """Blocks the calling thread.  Never call it in the loop's thread: the loop might be who releases.  Raises
        TimeoutError after `timeout` seconds."""
        with self._lock:
            buffer = self._lend()
            if buffer is not None:
                return buffer
            waiter = _ThreadWaiter()
            self._waiters.append(waiter)
        if not waiter.event.wait(timeout):
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                    raise TimeoutError(f"no buffer within {timeout} seconds")
        assert waiter.buffer is not None
        return waiter.buffer

    async def acquire_async(self) -> memoryview:
        """A checkpoint.  Cancellation loses no buffer."""
        await trio.lowlevel.checkpoint_if_cancelled()
        with self._lock:
            buffer = self._lend()
            if buffer is None:
                waiter = _TaskWaiter(trio.lowlevel.current_task(), trio.lowlevel.current_trio_token())
                self._waiters.append(waiter)
        if buffer is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
            return buffer

        def abort(_: object) -> trio.lowlevel.Abort:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                    return trio.lowlevel.Abort.SUCCEEDED
            return trio.lowlevel.Abort.FAILED  # a buffer is on its way: take it, the next checkpoint is cancelled

        await trio.lowlevel.wait_task_rescheduled(abort)
        assert waiter.buffer is not None
        return waiter.buffer

    def release(self, buffer: memoryview) -> None:
        """Gives back what an acquire returned: that very view."""
        with self._lock:
            assert id(buffer) in self._lent, "not a buffer of this pool, or released twice"
            while self._waiters:
                waiter = self._waiters.popleft()
                waiter.buffer = buffer
                if waiter.wake():
                    return
                # its loop has ended: the buffer goes to the next
            self._lent.discard(id(buffer))
            self._free.append(buffer)

    def statistics(self) -> dict[str, int]:
        """Gauges."""
        return {"count": self.count, "size": self.size, "available": self.available, "waiting": self.waiting}

    def _lend(self) -> memoryview | None:
        # While there are waiters none is free: release hands over directly.
        if not self._free:
            return None
        buffer = self._free.pop()
        self._lent.add(id(buffer))
        return buffer


class _ThreadWaiter:
    """A thread that waits for a buffer."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.buffer: memoryview | None = None

    def wake(self) -> bool:
        self.event.set()
        return True


class _TaskWaiter:
    """A trio task that waits for a buffer."""

    def __init__(self, task: trio.lowlevel.Task, token: trio.lowlevel.TrioToken) -> None:
        self._task = task
        self._token = token
        self.buffer: memoryview | None = None

    def wake(self) -> bool:
        try:
            self._token.run_sync_soon(trio.lowlevel.reschedule, self._task)
        except trio.RunFinishedError:
            return False
        return True


class scratch:
    """`with scratch(length) as buffer:` an aligned buffer of exactly `length` bytes, recycled in the calling thread.

    No view of it may outlive the block.  Lengths above the largest class are mapped for this once.
    """

    __slots__ = ("_buffer", "_length", "_size_class")

    _threads = threading.local()

    def __init__(self, length: int) -> None:
        assert length > 0
        self._length = length
        self._size_class = bisect_left(SCRATCH_SIZES, length)

    def __enter__(self) -> memoryview:
        kept = self._kept()
        if kept:
            self._buffer = kept.pop()
        elif self._size_class < len(SCRATCH_SIZES):
            self._buffer = aligned(SCRATCH_SIZES[self._size_class])
        else:
            self._buffer = aligned(-(-self._length // ALIGNMENT) * ALIGNMENT)
        return self._buffer[: self._length]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        kept = self._kept()
        if self._size_class < len(SCRATCH_SIZES) and len(kept) < SCRATCH_KEPT[self._size_class]:
            kept.append(self._buffer)
        del self._buffer

    def _kept(self) -> list[memoryview]:
        """This thread's idle buffers of the class."""
        classes: list[list[memoryview]] | None = getattr(self._threads, "classes", None)
        if classes is None:
            classes = self._threads.classes = [[] for _ in range(len(SCRATCH_SIZES) + 1)]
        return classes[self._size_class]
