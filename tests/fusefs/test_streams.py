"""Which reads are handed to the compiled part's threads, and how long what they need is kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import outcome
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.errors import Code, StoreError
from appliance.limits import KIB, MIB, PLAN_WINDOW
from appliance.model import Node
from appliance.store import ObjectStore, Place
from fusefs.handles import FileHandle
from fusefs.observed import OPERATIONS
from fusefs.streams import IDLE, LASTS, LONG, Streams
from fusefs.unexpected import UNEXPECTED

SIZE = 3 * PLAN_WINDOW + 5 * MIB
PLACES = [Place(0, SIZE, 0, 0, SIZE, 0, b"")]


class Reader:
    """Tells its places when it is asked to."""

    def __init__(self, store: Store, start: int, length: int) -> None:
        self.store, self.start, self.end = store, start, start + length
        self.open, self.stands = True, True
        self._done: Callable[[outcome.Outcome[list[Place]]], None] | None = None

    def locate(self, done: Callable[[outcome.Outcome[list[Place]]], None]) -> None:
        if self.store.closed:
            raise trio.ClosedResourceError
        self._done = done

    def found(self, result: outcome.Outcome[list[Place]] | None = None) -> None:
        assert self._done is not None
        self._done(result or outcome.Value(PLACES))

    def close(self) -> None:
        assert self.open
        self.open = False


class Store:
    """Makes readers."""

    def __init__(self) -> None:
        self.readers: list[Reader] = []
        self.closed = self.moved = False

    def reader(self, base: Node, start: int, length: int) -> Reader:
        if self.moved:
            raise StoreError(Code.NO_SUCH_NODE)
        assert start + length <= base.size
        self.readers.append(Reader(self, start, length))
        return self.readers[-1]

    def stands(self, reader: Reader) -> bool:
        return reader.stands


class Threads:
    """Takes what it is given and answers when it is told to."""

    def __init__(self) -> None:
        self.windows: dict[int, int] = {}  # number -> requests under way
        self.made = self.answered = 0

    def window(self, places: Sequence[Place]) -> int:
        self.made += 1
        self.windows[self.made] = 0
        return self.made

    def busy(self, window: int) -> bool:
        return self.windows[window] > 0

    def free(self, window: int) -> None:
        assert self.windows.pop(window) == 0

    def answer(self) -> None:
        self.answered += sum(self.windows.values())
        self.windows = dict.fromkeys(self.windows, 0)

    def ended(self) -> tuple[Sequence[float], int]:
        count, self.answered = self.answered, 0
        return [0.001] * count, count * MIB

    def wait(self) -> None:
        self.answer()


class Scene:
    """One file that is read."""

    def __init__(self, size: int = SIZE) -> None:
        self.store, self.threads = Store(), Threads()
        self.now = 0.0
        self.streams = Streams(cast("ObjectStore", self.store), self.threads, lambda: self.now)
        self.base = cast("Node", SimpleNamespace(size=size))
        self.handle = FileHandle(cast("Any", SimpleNamespace()), writable=False, direct=False)

    @property
    def readers(self) -> list[Reader]:
        return self.store.readers

    def read(self, start: int, size: int = MIB, *, takes: bool = True) -> bool:
        """Whether it was taken."""

        def take(window: int, end: int) -> bool:
            assert end == start + size
            self.threads.windows[window] += takes
            return takes

        return self.streams.take(self.handle, self.base, start, start + size, take)

    def begin(self) -> Reader:
        """Reads until there is a window."""
        assert not self.read(0)
        self.readers[-1].found()
        assert self.read(MIB)
        return self.readers[-1]


def test_what_is_read_again_and_again_is_not_pinned_for_ever() -> None:
    """What was freed since a window was planned waits for it, of the whole pool."""
    scene = Scene()
    first = scene.begin()
    while first.open:
        assert scene.now < 2 * LASTS
        scene.now += IDLE / 2
        for start in (2 * MIB, 9 * MIB):
            assert scene.read(start)
        scene.threads.answer()
        scene.streams.tick()
    assert scene.now >= LASTS
    assert not scene.read(10 * MIB)  # it goes on: with another one
    second = scene.readers[-1]
    assert (second.start, second.end) == (11 * MIB, PLAN_WINDOW)
    second.found()
    assert scene.read(11 * MIB)


def test_a_look_for_places_that_fails_is_told_of_only_if_it_is_a_bug(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UNEXPECTED, "_kinds", {})
    for error, is_bug in ((OSError("a disk"), False), (StoreError(Code.DAMAGED), False), (KeyError("a bug"), True)):
        scene, counted = Scene(), OPERATIONS["read"].unexpected
        assert not scene.read(0)
        scene.readers[-1].found(outcome.Error(error))
        assert not scene.read(MIB)
        assert not scene.readers[-1].open
        assert len(scene.readers) == 1, "nobody looks again"
        assert OPERATIONS["read"].unexpected - counted == is_bug, error
        assert ("met a bug" in caplog.text) is is_bug, error


def test_where_no_place_can_be_told_nobody_looks_again_for_each_read() -> None:
    scene = Scene()
    assert not scene.read(0)
    scene.readers[-1].found(outcome.Value([]))
    for start in range(MIB, SIZE, MIB):  # sealed, or holes
        assert not scene.read(start)
        if scene.readers[-1].open:
            scene.readers[-1].found(outcome.Value([]))
    assert [reader.start for reader in scene.readers] == [MIB, PLAN_WINDOW, 2 * PLAN_WINDOW, 3 * PLAN_WINDOW]
    assert not scene.read(0)
    assert not scene.read(MIB)
    scene.readers[-1].found(outcome.Value([]))
    scene.base = cast("Node", SimpleNamespace(size=SIZE))  # what is there now may be otherwise
    assert not scene.read(2 * MIB)
    scene.readers[-1].found()
    assert scene.read(3 * MIB)


def test_a_file_is_read_window_by_window_and_each_is_planned_ahead() -> None:
    scene = Scene()
    assert not scene.read(0)  # it says that the file is read from its beginning
    (first,) = scene.readers
    assert (first.start, first.end) == (MIB, PLAN_WINDOW)
    assert not scene.read(MIB)  # nobody waits for its places
    assert len(scene.readers) == 1
    first.found()
    for start in range(2 * MIB, SIZE, MIB):
        assert scene.read(start), start
        if scene.threads.made < len(scene.readers):
            scene.readers[-1].found()
        assert scene.streams._count <= 3, start
        scene.threads.answer()
        scene.streams.sweep()
    assert [(reader.start, reader.end) for reader in scene.readers[1:]] == [
        (PLAN_WINDOW, 2 * PLAN_WINDOW),
        (2 * PLAN_WINDOW, 3 * PLAN_WINDOW),
        (3 * PLAN_WINDOW, SIZE),
    ]
    scene.streams.close(scene.handle)
    assert not any(reader.open for reader in scene.readers)
    assert scene.threads.windows == {}


def test_what_is_short_or_in_no_order_gets_no_window() -> None:
    for size, reads in ((SIZE, [5 * MIB, 9 * MIB, MIB, 30 * MIB]), (4 * MIB, [0, MIB, 2 * MIB, 3 * MIB])):
        scene = Scene(size)
        assert not any(scene.read(start) for start in reads)
        assert scene.readers == [], reads
    assert LONG > 64 * KIB  # such reads are `prefetch`'s


def test_who_reads_slowly_gets_none() -> None:
    """The kernel reads some MiB ahead at once."""
    scene = Scene()
    scene.begin()
    scene.streams.tick()
    scene.threads.answer()
    scene.streams.tick()
    assert not any(reader.open for reader in scene.readers)
    for start in range(2 * MIB, 42 * MIB, MIB):
        if start % (4 * MIB) == 0 or start == 2 * MIB:
            scene.now += 1.5 * IDLE
        assert not scene.read(start)
    assert len(scene.readers) == 1
    for start in range(42 * MIB, 49 * MIB, MIB):  # now it goes on and on
        assert not scene.read(start)
    assert len(scene.readers) == 2
    scene.readers[-1].found()
    assert scene.read(49 * MIB)


def test_a_second_pass_and_a_leap_begin_anew() -> None:
    scene = Scene()
    scene.begin()
    for start in (100 * MIB, 0):
        assert not scene.read(start + 9 * MIB // 2, 100 * KIB + MIB)
        assert not scene.read(start + 9 * MIB // 2 + 100 * KIB + MIB) or start == 0
        scene.readers[-1].found()
        assert scene.read(start + 9 * MIB // 2 + 100 * KIB + 2 * MIB)
    scene.threads.answer()
    scene.streams.tick()
    scene.streams.tick()
    assert not any(reader.open for reader in scene.readers)


def test_a_window_is_used_while_the_file_is_what_it_was() -> None:
    def moved(scene: Scene) -> None:
        scene.base = cast("Node", SimpleNamespace(size=SIZE))

    def replaced(scene: Scene) -> None:
        scene.readers[0].stands = False

    for change in (moved, replaced):
        scene = Scene()
        old = scene.begin()
        change(scene)
        assert not scene.read(2 * MIB)
        assert not scene.read(3 * MIB)
        scene.readers[-1].found()
        assert scene.read(4 * MIB)
        scene.streams.sweep()
        assert old.open, "a request that began before still needs it"
        scene.threads.answer()
        scene.streams.sweep()
        assert not old.open
        assert scene.readers[-1].open


def test_what_threads_do_not_take_is_the_usual_handlers() -> None:
    scene = Scene()
    scene.begin()
    assert not scene.read(2 * MIB, takes=False)
    assert scene.read(3 * MIB)


def test_nothing_is_raised_when_a_read_is_taken() -> None:
    """It would be answered twice."""
    scene = Scene()
    scene.begin()
    scene.store.closed = True
    with pytest.raises(trio.ClosedResourceError):  # another window is due
        scene.read(PLAN_WINDOW - 2 * MIB)
    assert sum(scene.threads.windows.values()) == 1


def test_what_nobody_reads_is_closed() -> None:
    async def main() -> None:
        scene = Scene()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.streams.run)
            for _ in range(2):  # it begins again
                reader = scene.begin()
                await trio.sleep(0.9)
                assert reader.open
                await trio.sleep(5)
                assert reader.open, "a request is under way"
                scene.threads.answer()
                await trio.sleep(2)
                assert not reader.open
                scene.handle.stream = None
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_a_closed_file_needs_no_places_any_more() -> None:
    scene = Scene()
    assert not scene.read(0)
    scene.streams.close(scene.handle)
    (reader,) = scene.readers
    assert reader.open, "a thread looks at it"
    reader.found()
    assert not reader.open
    assert scene.threads.made == 0


def test_no_window_is_made_where_nothing_is_known() -> None:
    scene = Scene()
    results: list[outcome.Outcome[list[Place]]] = [outcome.Value([]), outcome.Error(ValueError("a bug"))]
    for result in results:
        assert not scene.read(0)
        scene.readers[-1].found(result)
        assert not scene.readers[-1].open
        scene.handle.stream = None
    scene.store.moved = True
    assert not scene.read(0)
    scene.store.moved, scene.store.closed, scene.handle.stream = False, True, None
    with pytest.raises(trio.ClosedResourceError):
        scene.read(0)
    assert not scene.readers[-1].open
    assert scene.streams._count == 0


def test_the_end_waits_for_all() -> None:
    async def main() -> None:
        scene = Scene()
        scene.begin()
        before = sum(OPERATIONS["read"].counts), OPERATIONS["read"].bytes
        other = FileHandle(cast("Any", SimpleNamespace()), writable=False, direct=False)
        assert not scene.streams.take(other, scene.base, 0, MIB, lambda window, end: False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scene.streams.idle)
            await wait_all_tasks_blocked()
            assert scene.readers[-1].open
            scene.readers[-1].found()
        assert not any(reader.open for reader in scene.readers)
        assert (sum(OPERATIONS["read"].counts), OPERATIONS["read"].bytes) == (before[0] + 1, before[1] + MIB)
        assert not scene.read(2 * MIB)
        assert not scene.read(3 * MIB)

    trio.run(main)
