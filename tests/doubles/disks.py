"""Devices for tests.

`MemoryDevice` is a perfect one, sparse.  `SimulatedDisk` is one that may lose power, tear and lie, from a seed: see
its class.
"""

from __future__ import annotations

import collections
import dataclasses
import errno
import random
import threading
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from appliance.device.device import Buffer, check_range

PAGE: Final = 1 << 16  # memory is taken in such steps, where something other than zeros was written


class Media:
    """Bytes, zero until written, taking memory only where they were.  A copy shares them until one of both writes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._pages: dict[int, bytearray] = {}
        self._own: set[int] = set()  # numbers of the pages that no copy shares

    def read_into(self, offset: int, buffer: memoryview) -> None:
        position = 0
        while position < len(buffer):
            number, start = divmod(offset + position, PAGE)
            count = min(PAGE - start, len(buffer) - position)
            page = self._pages.get(number)
            buffer[position : position + count] = page[start : start + count] if page is not None else bytes(count)
            position += count

    def read(self, offset: int, length: int) -> bytes:
        content = bytearray(length)
        self.read_into(offset, memoryview(content))
        return bytes(content)

    def write(self, offset: int, content: Buffer) -> None:
        view = memoryview(content).cast("B")
        assert 0 <= offset <= offset + len(view) <= self.size
        position = 0
        while position < len(view):
            number, start = divmod(offset + position, PAGE)
            count = min(PAGE - start, len(view) - position)
            self._page(number)[start : start + count] = view[position : position + count]
            position += count

    def zero(self, offset: int, length: int) -> None:
        while length:
            number, start = divmod(offset, PAGE)
            count = min(PAGE - start, length)
            if count == PAGE:
                self._pages.pop(number, None)
            elif number in self._pages:
                self._page(number)[start : start + count] = bytes(count)
            offset += count
            length -= count

    def copy(self) -> Media:
        twin = Media(self.size)
        twin._pages = dict(self._pages)
        self._own.clear()
        return twin

    def _page(self, number: int) -> bytearray:
        """The page, to be written: not shared with any copy."""
        page = self._pages.get(number)
        if page is None:
            page = self._pages[number] = bytearray(PAGE)
        elif number not in self._own:
            page = self._pages[number] = bytearray(page)
        self._own.add(number)
        return page


class MemoryDevice:
    """A `BlockDevice` in memory: nothing is ever lost, torn or late.  Discarded ranges read as zeros."""

    def __init__(self, size: int, name: str = "memory") -> None:
        self.name = name
        self.size = size
        self.sector = 4096
        self.media = Media(size)
        self.flushes = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        check_range(offset, len(buffer), self.size)
        self.media.read_into(offset, buffer)

    def write(self, offset: int, buffer: Buffer) -> None:
        view = memoryview(buffer).cast("B")
        check_range(offset, len(view), self.size)
        self.media.write(offset, view)

    def write_parts(self, offset: int, parts: Sequence[Buffer]) -> None:
        self.write(offset, b"".join(parts))

    def flush(self) -> None:
        self.flushes += 1

    def discard(self, offset: int, length: int) -> None:
        check_range(offset, length, self.size)
        self.media.zero(offset, length)

    def close(self) -> None:
        """The content stays: the same object may be used as the reopened device."""


class Crash(BaseException):
    """The power went.  A BaseException, so that no error handling of the product takes it for an operating error."""


class Call(NamedTuple):
    """One line of a disk's log."""

    disk: str
    verb: str  # read, write, flush, discard
    offset: int
    length: int


class Power:
    """What several disks hang on: counts their writes and flushes together, and fails for all at once."""

    def __init__(self) -> None:
        self.on = True
        self.steps = 0  # writes, discards and flushes so far
        self._last: int | None = None

    def kill_after(self, count: int) -> None:
        """The first `count` writes, discards and flushes from now on succeed; the next one raises Crash, like
        everything after."""
        self._last = self.steps + count

    def check(self) -> None:
        if not self.on:
            raise Crash

    def step(self) -> bool:
        """Counts; False if the power goes now."""
        self.check()
        if self._last is not None and self.steps >= self._last:
            self.on = False
            return False
        self.steps += 1
        return True


class _Fault(NamedTuple):
    """What happens to the n-th call of a verb."""

    nth: int
    kind: str  # error, short, lost, misdirected
    error: int = errno.EIO
    amount: int = 0  # bytes of a short write; distance of a misdirected one
    for_ever: bool = False


@dataclasses.dataclass(frozen=True)
class Rates:
    """Chances per call of faults by the disk's own random; all 0 by default."""

    read_error: float = 0.0
    write_error: float = 0.0
    flush_error: float = 0.0
    lost: float = 0.0
    misdirected: float = 0.0
    flipped: float = 0.0  # a read finds one bit of its range changed on the media


CrashMode = Literal["none", "all", "sectors", "blocks", "writes", "prefix", "torn"]
CRASH_MODES: Final[tuple[CrashMode, ...]] = ("none", "all", "sectors", "blocks", "writes", "prefix", "torn")


class SimulatedDisk:
    """A `BlockDevice` with a volatile write cache, that can lose power and be faulty.

    Laws: a read sees every write at once.  A write is durable after the next flush.  At a crash each unflushed write
    may be kept, dropped or torn; what had been flushed stays.  What it may break beyond that, and only when told:
    the n-th call of a verb (an error, a short write, a write that is acknowledged and dropped, a write that lands
    elsewhere) and bits of the media.

    Crash modes: `none` drops everything unflushed; `all` keeps it; `sectors` and `blocks` keep a random half of the
    512-byte or 4-KiB pieces; `writes` keeps whole writes at random; `prefix` keeps the first `count` writes (random
    by default); `torn` keeps all but the last write, of which a random prefix of 512-byte sectors stays.
    """

    def __init__(
        self,
        size: int,
        seed: random.Random,
        *,
        name: str = "disk",
        power: Power | None = None,
        rates: Rates | None = None,
        media: Media | None = None,
    ) -> None:
        self.name = name
        self.size = size
        self.sector = 512
        self.power = power or Power()
        self.rates = rates or Rates()
        self.random = seed
        self.log: list[Call] = []
        self.durable = media if media is not None else Media(size)
        self._current = self.durable.copy()
        self._unflushed: list[tuple[int, bytes | int]] = []  # content, or the length of a discard
        self._faults: dict[str, list[_Fault]] = {}
        self._calls: collections.Counter[str] = collections.Counter()
        self.struck = 0  # planned faults that have happened
        self._lock = threading.Lock()
        self._closed = False
        self._holding = False
        self._held: list[int] = []  # how many of `_unflushed` each flush of a held barrier covers

    # ------------------------------------------------------------------ BlockDevice
    def read_into(self, offset: int, buffer: memoryview) -> None:
        check_range(offset, len(buffer), self.size)
        with self._lock:
            self.power.check()
            self._begin("read", offset, len(buffer), self.rates.read_error)
            if self._chance(self.rates.flipped):
                self._flip(offset + self.random.randrange(len(buffer)), self.random.randrange(8))
            self._current.read_into(offset, buffer)

    def write(self, offset: int, buffer: Buffer) -> None:
        content = bytes(buffer)
        check_range(offset, len(content), self.size)
        with self._lock:
            if not self.power.step():
                self._unflushed.append((offset, content))  # in flight when the power went: it may be torn
                raise Crash
            fault = self._begin("write", offset, len(content), self.rates.write_error)
            kind = fault.kind if fault else ""
            if kind == "short":
                assert fault is not None
                self._store(offset, content[: fault.amount])
                raise OSError(fault.error, f"write: only {fault.amount} bytes", self.name)
            if kind == "lost" or self._chance(self.rates.lost):
                return
            if kind == "misdirected":
                assert fault is not None
                offset += fault.amount
            elif self._chance(self.rates.misdirected):
                offset = self.random.randrange((self.size - len(content)) // 4096 + 1) * 4096
            self._store(offset, content)

    def write_parts(self, offset: int, parts: Sequence[Buffer]) -> None:
        self.write(offset, b"".join(parts))

    def flush(self) -> None:
        with self._lock:
            if not self.power.step():
                raise Crash
            self._begin("flush", 0, 0, self.rates.flush_error)
            if self._holding:
                self._held.append(len(self._unflushed))
            else:
                self._settle(len(self._unflushed))

    def discard(self, offset: int, length: int) -> None:
        check_range(offset, length, self.size)
        with self._lock:
            if not self.power.step():
                raise Crash
            self._begin("discard", offset, length, 0.0)
            self._current.zero(offset, length)
            self._unflushed.append((offset, length))

    def close(self) -> None:
        self._closed = True

    # ------------------------------------------------------------------ barriers over several disks
    def hold_flushes(self) -> None:
        """Until `settle_flushes` a flush may still be under way: several disks' flushes run beside each other, so at a
        crash before the last of them returns each disk may be in any state, even one whose turn had come first."""
        self._holding = True

    def settle_flushes(self) -> None:
        """What was flushed since `hold_flushes` is durable."""
        self._holding = False
        if self._held:
            self._settle(self._held[-1])
            self._held.clear()

    # ------------------------------------------------------------------ faults
    def fail(self, verb: str, nth: int = 1, *, error: int = errno.EIO, for_ever: bool = False) -> None:
        """The `nth` call of `verb` from now on (1: the next) raises OSError(error); with `for_ever`, all after it
        too."""
        self._plan(verb, _Fault(nth, "error", error=error, for_ever=for_ever))

    def shorten_write(self, nth: int, length: int) -> None:
        """The `nth` write stores its first `length` bytes only, and raises EIO."""
        self._plan("write", _Fault(nth, "short", amount=length))

    def lose_write(self, nth: int = 1) -> None:
        """The `nth` write is acknowledged and never stored."""
        self._plan("write", _Fault(nth, "lost"))

    def misdirect_write(self, nth: int, distance: int) -> None:
        """The `nth` write lands `distance` bytes further on."""
        self._plan("write", _Fault(nth, "misdirected", amount=distance))

    def flip(self, offset: int, bit: int) -> None:
        """Changes one bit of the media."""
        with self._lock:
            self._flip(offset, bit)

    def heal(self) -> None:
        """Forgets every planned fault.  The media stay as they are."""
        self._faults.clear()
        self.rates = Rates()

    # ------------------------------------------------------------------ power
    @property
    def unflushed(self) -> int:
        """Writes and discards since the last flush."""
        return len(self._unflushed)

    def kill_after(self, count: int) -> None:
        """See `Power.kill_after`."""
        self.power.kill_after(count)

    def crash(self, mode: CrashMode | None = None, *, count: int | None = None) -> None:
        """The power goes now (or went); the media are what `mode` (by default a random one) leaves.  Then `reopen`."""
        self.power.on = False
        self.durable = self.after_crash(mode, count=count)
        self._unflushed.clear()

    def after_crash(self, mode: CrashMode | None = None, *, count: int | None = None) -> Media:
        """The media that a crash at this moment might leave; this disk goes on undisturbed."""
        if mode is None:
            mode = self.random.choice(CRASH_MODES)
        media = self.durable.copy()
        writes = list(self._unflushed)
        if mode == "none":
            return media
        if mode == "prefix":
            writes = writes[: self.random.randint(0, len(writes)) if count is None else count]
        elif mode == "writes":
            writes = [write for write in writes if self.random.random() < 0.5]
        elif mode == "torn" and writes:
            offset, content = writes[-1]
            if isinstance(content, bytes):
                kept = self.random.randrange(0, max(1, len(content) // 512)) * 512 if count is None else count
                writes[-1] = (offset, content[:kept])
        step = 512 if mode == "sectors" else 4096 if mode == "blocks" else 0
        for offset, content in writes:
            if not step or isinstance(content, int):
                if not step or self.random.random() < 0.5:
                    _apply(media, offset, content)
                continue
            for position in range(0, len(content), step):
                if self.random.random() < 0.5:
                    media.write(offset + position, content[position : position + step])
        return media

    def reopen(self, power: Power | None = None) -> SimulatedDisk:
        """A fresh disk over what is durable here: what the next boot finds.  Planned faults don't survive."""
        return SimulatedDisk(self.size, self.random, name=self.name, power=power, media=self.durable.copy())

    # ------------------------------------------------------------------ inside
    def _plan(self, verb: str, fault: _Fault) -> None:
        assert verb in ("read", "write", "flush", "discard")
        assert fault.nth >= 1
        self._faults.setdefault(verb, []).append(fault._replace(nth=self._calls[verb] + fault.nth))

    def _begin(self, verb: str, offset: int, length: int, rate: float) -> _Fault | None:
        """Logs and counts a call; raises the error that was planned for it, or returns another fault."""
        if self._closed:
            raise OSError(errno.EBADF, "the disk is closed", self.name)
        self.log.append(Call(self.name, verb, offset, length))
        self._calls[verb] += 1
        if self._chance(rate):
            raise OSError(errno.EIO, f"{verb}: by chance", self.name)
        for fault in self._faults.get(verb, ()):
            due = self._calls[verb] >= fault.nth if fault.for_ever else self._calls[verb] == fault.nth
            self.struck += due
            if due and fault.kind == "error":
                raise OSError(fault.error, f"{verb} {offset}+{length}", self.name)
            if due:
                return fault
        return None

    def _settle(self, count: int) -> None:
        for offset, content in self._unflushed[:count]:
            _apply(self.durable, offset, content)
        del self._unflushed[:count]

    def _chance(self, rate: float) -> bool:
        return rate > 0 and self.random.random() < rate  # draws nothing for a rate of 0: seeds keep their meaning

    def _store(self, offset: int, content: bytes) -> None:
        self._current.write(offset, content)
        self._unflushed.append((offset, content))

    def _flip(self, offset: int, bit: int) -> None:
        for media in (self.durable, self._current):
            old = media.read(offset, 1)[0]
            media.write(offset, bytes([old ^ (1 << bit)]))


def _apply(media: Media, offset: int, content: bytes | int) -> None:
    if isinstance(content, int):
        media.zero(offset, content)
    else:
        media.write(offset, content)
