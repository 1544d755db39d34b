"""The interval map against a bytearray."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fusefs.dirty import END, GROW_MAX, KEEP_MIN, OVERHEAD, Overlay, Segment, gather, halve
from tests.effort import examples

SIZE = 600


class Model:
    """An overlay over committed bytes, beside the bytes that a reader must see."""

    def __init__(self) -> None:
        self.overlay = Overlay()
        self.bytes = bytearray()
        self.committed = b""
        self.staging: list[tuple[int, list[Segment]]] = []
        self.pending: list[tuple[int, bytes]] = []  # token, what the committed map shows once it is settled

    def write(self, offset: int, data: bytes) -> None:
        self.overlay.write(offset, data)
        self.bytes.extend(bytes(max(0, offset + len(data) - len(self.bytes))))
        self.bytes[offset : offset + len(data)] = data

    def truncate(self, size: int) -> None:
        self.overlay.truncate(size)
        if size < len(self.bytes):
            del self.bytes[size:]
        else:
            self.bytes.extend(bytes(size - len(self.bytes)))

    def punch(self, start: int, length: int) -> None:
        """As the mount does: within the file, at most to its end."""
        end = min(start + length, len(self.bytes))
        if start < end:
            self.overlay.punch(start, end)
            self.bytes[start:end] = bytes(end - start)

    def stage(self, limit: int, owner: int = 0) -> None:
        """The oldest claim reaches the device."""
        token, taken = self.staging.pop(0)
        for gathering in gather([segment for segment in taken if segment.in_memory], limit):
            assert sum(map(len, gathering.pieces)) <= limit
            self.overlay.stage(token, gathering.placements, (b"".join(gathering.pieces),), owner)

    def claim(self, token: int, *, only_memory: bool = False) -> list[Segment]:
        dirty = [segment for segment in self.overlay if segment.owner == 0]
        assert self.overlay.is_plain == all(segment.in_memory for segment in dirty)
        wanted = [(segment.start, segment.end) for segment in dirty if segment.in_memory or not only_memory]
        taken = self.overlay.claim(token, only_memory=only_memory)
        assert [(segment.start, segment.end) for segment in taken] == wanted
        return taken

    def settle(self) -> None:
        token, self.committed = self.pending.pop(0)
        self.overlay.settle({token})

    def check(self) -> None:
        assert self.shown() == self.bytes
        at = memory = fresh = held = 0
        for segment in self.overlay:
            assert at <= segment.start < segment.end
            at = segment.end
            held += segment.end - segment.start if segment.source is not None else 0
            if segment.in_memory:
                cost = segment.end - segment.start + OVERHEAD
                memory += cost
                fresh += cost if segment.owner == 0 else 0
        assert (self.overlay.memory, self.overlay.fresh, self.overlay.bytes_held()) == (memory, fresh, held)

    def shown(self) -> bytes:
        parts = []
        for start, end, segment in self.overlay.pieces(0, len(self.bytes)):
            if segment is None:
                parts.append(self.committed[start:end].ljust(end - start, b"\0"))
            elif segment.source is None:
                parts.append(bytes(end - start))
            else:
                source: Any = segment.view() if segment.in_memory else segment.source
                if isinstance(source, tuple):
                    source = source[0][segment.skip :]
                parts.append(bytes(source[start - segment.start : end - segment.start]))
        return b"".join(parts)


steps = st.one_of(
    st.tuples(st.just("write"), st.integers(0, SIZE), st.binary(min_size=1, max_size=90)),
    st.tuples(st.just("write large"), st.integers(0, SIZE), st.binary(min_size=1, max_size=4)),
    st.tuples(st.just("append"), st.just(0), st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("truncate"), st.integers(0, SIZE), st.just(b"")),
    st.tuples(st.just("punch"), st.integers(0, SIZE), st.binary(min_size=1, max_size=200)),
    st.tuples(st.sampled_from(["claim", "stage", "unclaim", "commit", "settle"]), st.integers(1, 64), st.just(b"")),
)


@settings(max_examples=examples(400), deadline=None)
@given(st.lists(steps, max_size=40))
def test_readers_see_every_write_whatever_was_staged_committed_or_failed(script: list[tuple[str, int, bytes]]) -> None:
    model = Model()
    for token, (step, number, data) in enumerate(script, 1):
        if step == "write":
            model.write(number, data)
        elif step == "write large":
            model.write(number, data * (KEEP_MIN // len(data) + 1))
        elif step == "append":
            model.write(len(model.bytes), data)
        elif step == "truncate":
            model.truncate(number)
        elif step == "punch":
            model.punch(number, len(data))
        elif step == "claim":
            model.staging.append((token, model.claim(token, only_memory=True)))
        elif step == "stage" and model.staging:
            model.stage(number)
        elif step == "unclaim" and model.staging:
            claimed, _ = model.staging.pop(0)
            model.overlay.unclaim(claimed)
        elif step == "commit" and not model.staging:
            model.claim(token)
            model.pending.append((token, bytes(model.bytes)))
        elif step == "settle" and model.pending:
            model.settle()
        model.check()


@given(st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=50)), max_size=20), st.integers(1, 70))
def test_gather_loses_nothing_and_fills_each_chunk(writes: list[tuple[int, bytes]], limit: int) -> None:
    overlay = Overlay()
    model: dict[int, int] = {}
    for offset, data in writes:
        overlay.write(offset, data)
        model.update(enumerate(data, offset))
    found: dict[int, int] = {}
    gatherings = gather(overlay.claim(1), limit)
    for gathering in gatherings:
        chunk = b"".join(gathering.pieces)
        for start, end, skip in gathering.placements:
            found.update(zip(range(start, end), chunk[skip : skip + end - start], strict=True))
    assert found == model
    assert all(sum(map(len, gathering.pieces)) == limit for gathering in gatherings[:-1])


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=2, max_size=8))
def test_halves_hold_what_the_whole_held(bodies: list[bytes]) -> None:
    overlay = Overlay()
    for number, data in enumerate(bodies):
        overlay.write(number * 100, data)
    whole = gather(overlay.claim(1), 1000)[0]
    found: dict[int, int] = {}
    sizes = []
    for half in halve(whole):
        chunk = b"".join(half.pieces)
        sizes.append(len(chunk))
        for start, end, skip in half.placements:
            found.update(zip(range(start, end), chunk[skip : skip + end - start], strict=True))
    assert found == {number * 100 + at: byte for number, data in enumerate(bodies) for at, byte in enumerate(data)}
    assert sizes[1] - sizes[0] in (0, 1)


def test_a_truncate_to_ten_to_the_fifteen_costs_one_segment() -> None:
    overlay = Overlay()
    overlay.truncate(10**15)
    overlay.write(10**15, b"x")
    assert len(list(overlay)) == 2
    assert [(start, end) for start, end, _ in overlay.pieces(0, 10**15 + 1)] == [(0, 10**15), (10**15, 10**15 + 1)]


def test_holes_in_a_row_are_one() -> None:
    overlay = Overlay()
    overlay.write(0, b"x" * 1000)
    for start in (100, 300, 200, 600):
        overlay.punch(start, start + 100)
    assert [(segment.start, segment.end) for segment in overlay.holes()] == [(100, 400), (600, 700)]
    overlay.claim(1)
    overlay.punch(400, 500)  # what is claimed is frozen
    assert [(segment.start, segment.end) for segment in overlay.holes()] == [(100, 400), (400, 500), (600, 700)]
    overlay.settle({1})
    assert [(segment.start, segment.end) for segment in overlay] == [(400, 500)]


def test_runs_are_whole_multiples_and_leave_the_rest() -> None:
    overlay = Overlay()
    overlay.write(10, b"a" * 70)
    overlay.write(200, b"b" * 15)
    assert overlay.runs(32) == [(10, 74)]
    assert [(segment.start, segment.end) for segment in overlay.claim(1, 10, 74)] == [(10, 74)]
    assert overlay.runs(32) == []


def test_small_appends_share_a_buffer_and_large_writes_keep_theirs() -> None:
    overlay = Overlay()
    for number in range(1000):
        overlay.write(number, b"x")
    assert len(list(overlay)) == 1
    large = bytes(KEEP_MIN)
    overlay.write(5000, large)
    assert list(overlay)[-1].source is large
    overlay.write(5000 + KEEP_MIN, b"y" * GROW_MAX)
    assert overlay.memory == 1000 + KEEP_MIN + GROW_MAX + 3 * OVERHEAD


def test_a_sliver_does_not_keep_a_large_buffer_alive() -> None:
    overlay = Overlay()
    overlay.write(0, bytes(1 << 20))
    overlay.truncate(100)
    first = next(iter(overlay))
    assert isinstance(first.source, bytes)
    assert len(first.source) == 100


def test_what_is_claimed_is_frozen() -> None:
    overlay = Overlay()
    overlay.write(0, b"old")
    taken = overlay.claim(1)
    overlay.write(0, b"new")
    assert bytes(taken[0].view()) == b"old"
    assert [(segment.start, segment.end, segment.owner) for segment in overlay] == [(0, 3, 0)]


def test_the_end_of_the_world_is_a_hole() -> None:
    overlay = Overlay()
    overlay.truncate(7)
    assert [(segment.start, segment.end, segment.source) for segment in overlay] == [(7, END, None)]
