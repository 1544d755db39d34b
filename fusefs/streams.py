"""Who reads a file from its beginning to its end, in large pieces: answered by threads without the interpreter.

A long read is bounded by what a request costs: planning it, the hops from the loop to a thread and back, and threads
that wait for one interpreter.  So for a handle that reads in order a *window* is planned at once, ahead of the reads:
where its bytes lie, and which sums their blocks have.  The next requests within it are handed to the compiled part
(reads.c) as they come, and Python hears of one again only if it cannot be answered: then it is asked like any other.

Who reads slowly, a player of music for one, is answered like all others: the kernel asks for some MiB at once and then
for nothing for long, and a window would be planned for each such burst.  So after a pause the reads must have gone on
for STEADY bytes before there is another.

A window is a reader, pinned like every other (I11), and is used only while a new reader would see the same: while the
file has the node that it was made of, nothing of it is changed in memory, and the catalogue has the node as it was.  It
is closed when the reads have left it, when the file is closed or changed, after IDLE without a read, and when it is
LASTS old, for what is pinned is not used again, whoever freed it.

Deliberately unknown here: requests, replies (`extra`); what a block is (reads.c, appliance/engine/places.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import outcome
import trio

from appliance.errors import StoreError
from appliance.limits import MIB, PLAN_WINDOW
from fusefs.observed import operation
from fusefs.unexpected import UNEXPECTED

if TYPE_CHECKING:
    from appliance.model import Node
    from appliance.store import ObjectStore, Place, Reader

LONG: Final = MIB // 4  # bytes of a read that may be one of many in order: shorter ones leave their blocks in memory
WORTH: Final = 4 * MIB  # bytes still to be read: for less no window is made
WINDOWS_MAX: Final = 64  # of all files
IDLE: Final = 1.0  # seconds
LASTS: Final = 10.0  # seconds: who reads slower than PLAN_WINDOW in so many has it planned again
STEADY: Final = 8 * MIB  # four bursts of the kernel's reading ahead (mountpoints.READ_AHEAD_KIB)

type_take = Callable[[int, int], object]


class Threads(Protocol):
    """The compiled part's (reads.c).  A window is a number here; it never is 0."""

    def window(self, places: Sequence[Place]) -> int:
        """One of these places, which it keeps."""

    def busy(self, window: int) -> bool:
        """Whether a request still needs it."""

    def free(self, window: int) -> None:
        """Nobody will name it again."""

    def ended(self) -> tuple[Sequence[float], int]:
        """How many seconds the requests took that were answered since this was called last, and how many bytes they
        got."""

    def wait(self) -> None:
        """Blocks until no request is under way."""


class Window:
    """[start, end) of a file, as far as a place is known of it."""

    __slots__ = ("base", "end", "number", "planned", "reader", "start", "used")

    def __init__(self, base: Node, reader: Reader, start: int, end: int, number: int, planned: float) -> None:
        self.base = base
        self.reader = reader
        self.start = start
        self.end = end
        self.number = number
        self.planned = planned  # when
        self.used = True


class Stream:
    """How one handle is read."""

    __slots__ = ("ahead", "bare", "closed", "gone", "last", "planning", "windows")

    def __init__(self) -> None:
        self.ahead = 0  # where the next read begins if it is in order
        self.windows: list[Window] = []  # in order; the last one is read next
        self.planning = False  # another is made
        self.bare: tuple[Node, int, int] | None = None  # where no place can be told
        self.last = 0.0  # when it was read
        self.gone = STEADY  # bytes since it paused; there was no pause at first
        self.closed = False


class Streamed(Protocol):
    """A handle, as far as it is known here."""

    stream: Stream | None


class Streams:
    """One mount's."""

    def __init__(self, store: ObjectStore, threads: Threads, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` in seconds."""
        self._clock = clock
        self._store = store
        self._threads = threads
        self._streams: set[Stream] = set()  # those that have windows
        self._left: list[Window] = []  # that no new request may need
        self._count = 0  # of windows made, or being made
        self._woken = trio.Event()
        self._made = trio.Event()
        self._ends = False
        self.taken = 0  # reads
        self._observed = operation("read")

    def take(self, handle: Streamed, base: Node, start: int, end: int, take: type_take) -> bool:
        """Whether `take(window, end)` has taken a read of [start, end), which the file has, all of it committed."""
        stream = handle.stream
        if stream is None:
            stream = handle.stream = Stream()
            stream.last = self._clock()
        in_order, stream.ahead = start == stream.ahead, end
        now = self._clock()
        stream.gone, stream.last = end - start if now - stream.last > IDLE else stream.gone + end - start, now
        for window in stream.windows:
            if window.start <= start and end <= window.end:
                if window.base is not base or not self._store.stands(window.reader):
                    self._leave(stream)
                    break
                if window is stream.windows[-1]:
                    if len(stream.windows) > 1:  # who reads ahead may still ask for the end of the one before
                        self._leave(stream, stream.windows[:-1])
                    if 2 * end > window.start + window.end:
                        self._plan(stream, base, window.end)
                self.hear()
                if take(window.number, end):  # from here on nothing may be raised: it is answered elsewhere
                    window.used = True
                    self.taken += 1
                    return True
                break
        if in_order and stream.gone > STEADY and not any(window.start <= end < window.end for window in stream.windows):
            self._leave(stream)
            self._plan(stream, base, end)
        return False

    def close(self, handle: Streamed) -> None:
        """The handle is not read any more."""
        stream, handle.stream = handle.stream, None
        if stream is not None:
            stream.closed = True
            self._leave(stream)
            self.sweep()

    def hear(self) -> None:
        """Counts what was answered."""
        took, count = self._threads.ended()
        for seconds in took:
            self._observed.ended(seconds)
        self._observed.bytes += count

    def sweep(self) -> None:
        """Closes what no request needs any more."""
        left = self._left
        self._left = []
        for window in left:
            if self._threads.busy(window.number):
                self._left.append(window)
            else:
                self._threads.free(window.number)
                window.reader.close()
                self._count -= 1

    async def run(self) -> None:
        """Closes windows that nobody uses.  Ends only by cancellation."""
        while True:
            await self._woken.wait()
            while self._count:
                await trio.sleep(IDLE)
                self.tick()
            self._woken = trio.Event()

    def tick(self) -> None:
        """IDLE has gone by."""
        self.hear()
        for stream in list(self._streams):
            oldest = self._clock() - LASTS
            self._leave(stream, [window for window in stream.windows if not window.used or window.planned <= oldest])
            for window in stream.windows:
                window.used = False
        self.sweep()

    async def idle(self) -> None:
        """All are answered, and no window is left: the session may end."""
        self._ends = True
        for stream in list(self._streams):
            self._leave(stream)
        while self._count > len(self._left):  # a thread looks for places
            self._made = trio.Event()
            await self._made.wait()
        await trio.to_thread.run_sync(self._threads.wait)  # what failed is asked for again before this returns
        self.hear()
        self.sweep()
        assert not self._count

    def _plan(self, stream: Stream, base: Node, start: int) -> None:
        """Another window from there on, if it is worth one."""
        end = min((start // PLAN_WINDOW + 1) * PLAN_WINDOW, base.size)
        if self._ends or stream.planning or end - start < WORTH or self._count >= WINDOWS_MAX:
            return
        if stream.bare is not None and stream.bare[0] is base and stream.bare[1] <= start < stream.bare[2]:
            return
        planned = self._clock()
        try:
            reader = self._store.reader(base, start, end - start)
        except StoreError:  # whoever reads it without us is told
            return

        def located(result: outcome.Outcome[list[Place]]) -> None:
            stream.planning = False
            places = result.value if isinstance(result, outcome.Value) else []
            if isinstance(result, outcome.Error):
                UNEXPECTED.met("a look for places", self._observed, result.error)
            if not places:
                stream.bare = base, start, end
            number = self._threads.window(places) if places and not stream.closed and not self._ends else 0
            if number:
                stream.windows.append(Window(base, reader, start, end, number, planned))
                self._streams.add(stream)
                self._woken.set()
            else:
                reader.close()
                self._count -= 1
            self._made.set()

        stream.planning = True
        self._count += 1
        try:
            reader.locate(located)
        except BaseException:  # nobody will be called
            stream.planning = False
            self._count -= 1
            reader.close()
            raise

    def _leave(self, stream: Stream, windows: Sequence[Window] | None = None) -> None:
        """No new request needs these windows of a stream, or any of it."""
        leaving = list(stream.windows if windows is None else windows)
        self._left.extend(leaving)
        stream.windows = [window for window in stream.windows if window not in leaving]
        if not stream.windows:
            self._streams.discard(stream)
