"""The checker itself: histories made by hand, good and bad, and an oracle that tries every order."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from tests.models.linearizability import Kind, Operation, Value, linearizable, step_of_all, view
from tests.rows import rows

R, W, C, S, D = Kind.READ, Kind.WRITE, Kind.CREATE, Kind.SWAP, Kind.REMOVE
M, P, T = Kind.MOVE, Kind.APPEND, Kind.CUT
A, B = b"a", b"b"
NEVER = math.inf


def op(kind: Kind, called: float, returned: float, **fields: object) -> Operation:
    return Operation(0, kind, called, returned, **fields)  # type: ignore[arg-type]


@rows(
    "history",
    [
        [],
        [op(W, 1, 2, argument=A), op(R, 3, 4, result=A)],
        [op(R, 1, 2, result=None), op(D, 3, 4, result=False)],
        # a write seen by one reader before it returns; the other reader, before the first, does not see it
        [op(W, 1, 9, argument=A), op(R, 2, 3, result=None), op(R, 4, 5, result=A)],
        # two writes at once: either may be last
        [op(W, 1, 5, argument=A), op(W, 2, 4, argument=B), op(R, 6, 7, result=A)],
        [op(W, 1, 5, argument=A), op(W, 2, 4, argument=B), op(R, 6, 7, result=B)],
        [op(C, 1, 5, argument=A, result=True), op(C, 2, 4, argument=B, result=False), op(R, 6, 7, result=A)],
        [op(W, 1, 2, argument=A), op(S, 3, 4, expected=A, argument=B, result=True), op(R, 5, 6, result=B)],
        [op(W, 1, 2, argument=A), op(M, 3, 4, target=1, result=True), op(R, 5, 6, register=1, result=A)],
        [op(M, 1, 2, target=1, result=False), op(R, 3, 4, register=1, result=None)],
        [op(W, 1, 2, argument=A), op(P, 3, 4, argument=B, result=True), op(R, 5, 6, result=A + B)],
        [op(P, 1, 2, argument=B, result=False), op(R, 3, 4, result=None)],
        [op(W, 1, 2, argument=b"abc"), op(T, 3, 4, argument=b"12", result=True), op(R, 5, 6, result=b"ab")],
        [op(W, 1, 2, argument=A), op(T, 3, 4, argument=b"12", result=True), op(R, 5, 6, result=b"a\0")],
        # one that never returned may have happened, at any time from its call on, or not
        [op(W, 1, NEVER, argument=A), op(R, 2, 3, result=None)],
        [op(W, 1, NEVER, argument=A), op(R, 2, 3, result=None), op(R, 4, 5, result=A)],
    ],
)
def test_what_can_have_happened(history: list[Operation]) -> None:
    assert linearizable(history)


@rows(
    ("name", "history"),
    [
        ("a lost write", [op(W, 1, 2, argument=A), op(R, 3, 4, result=None)]),
        ("a value from nowhere", [op(R, 1, 2, result=A)]),
        ("a value before its time", [op(R, 1, 2, result=A), op(W, 3, 4, argument=A)]),
        ("an old value", [op(W, 1, 2, argument=A), op(W, 3, 4, argument=B), op(R, 5, 6, result=A)]),
        ("new, then old", [op(W, 1, 9, argument=A), op(R, 2, 3, result=A), op(R, 4, 5, result=None)]),
        (
            "two readers, two orders",
            [
                op(W, 1, 20, argument=A),
                op(W, 2, 20, argument=B),
                op(R, 3, 4, result=A),
                op(R, 5, 6, result=B),
                op(R, 7, 8, result=A),
            ],
        ),
        ("two creations", [op(C, 1, 5, argument=A, result=True), op(C, 2, 4, argument=B, result=True)]),
        ("a creation that should", [op(C, 1, 2, argument=A, result=False)]),
        ("a swap of what is gone", [op(W, 1, 2, argument=A), op(S, 3, 4, expected=B, argument=B, result=True)]),
        ("removed twice", [op(W, 1, 2, argument=A), op(D, 3, 6, result=True), op(D, 4, 5, result=True)]),
        ("back from the dead", [op(W, 1, 2, argument=A), op(D, 3, 4, result=True), op(R, 5, 6, result=A)]),
        ("moved and still there", [op(W, 1, 2, argument=A), op(M, 3, 4, target=1, result=True), op(R, 5, 6, result=A)]),
        (
            "seen where it comes before it is gone where it was",
            [
                op(W, 1, 2, argument=A),
                op(M, 3, 9, target=1, result=True),
                op(R, 4, 5, register=1, result=A),
                op(R, 6, 7, result=A),
            ],
        ),
        ("a lost end", [op(W, 1, 2, argument=A), op(P, 3, 4, argument=B, result=True), op(R, 5, 6, result=A)]),
        ("an end of nothing", [op(P, 1, 2, argument=B, result=True)]),
        ("cut to nothing", [op(W, 1, 2, argument=A), op(T, 3, 4, argument=b"", result=True), op(R, 5, 6, result=None)]),
        ("never returned, never seen, then seen before its call", [op(R, 1, 2, result=A), op(W, 3, NEVER, argument=A)]),
    ],
)
def test_what_cannot_have_happened(name: str, history: list[Operation]) -> None:
    assert not linearizable(history), name


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    ticks = draw(st.permutations(range(8)))
    found = []
    for one, other in zip(ticks[::2], ticks[1::2], strict=True):
        kind = draw(st.sampled_from(Kind))
        values: st.SearchStrategy[Value] = st.sampled_from([None, A, B])
        result = draw(values if kind is R else st.booleans())
        returned = draw(st.sampled_from([max(one, other)] * 4 + [NEVER]))
        found.append(
            op(
                kind,
                min(one, other),
                returned,
                argument=draw(st.sampled_from([A, B])),
                expected=A,
                result=result,
                register=draw(st.sampled_from([0, 0, 1])),
                target=1,
            )
        )
    return found


def by_trying(history: list[Operation]) -> bool:
    """Every order of every subset that has all that returned."""
    must = {index for index, operation in enumerate(history) if operation.returned < NEVER}
    for count in range(len(must), len(history) + 1):
        for order in itertools.permutations(range(len(history)), count):
            if not must <= set(order):
                continue
            if any(
                history[later].returned < history[earlier].called
                for place, earlier in enumerate(order)
                for later in order[place + 1 :]
            ):
                continue
            values: tuple[Value, ...] = (None, None)
            for index in order:
                possible, values = step_of_all(values, history[index])
                if not possible:
                    break
            else:
                return True
    return False


@given(histories())
def test_it_says_what_trying_everything_says(history: list[Operation]) -> None:
    assert linearizable(history) == by_trying(history)


def test_what_one_door_saw_binds_the_other_only_by_what_was_done() -> None:
    history = [
        op(W, 1, 2, argument=A, door="mount"),
        op(P, 3, 9, argument=B, result=True, door="mount"),
        op(R, 4, 5, result=A + B, door="mount"),
        op(R, 6, 7, result=A, door="S3"),
        op(C, 10, 11, argument=B, result=False, door="S3"),
        op(D, 12, 13, result=True, door="mount"),
        op(D, 14, 15, result=False, door="mount"),
        op(R, 16, 17, result=None, door="S3"),
    ]
    assert not linearizable(history)
    assert linearizable(view(history, "S3"))
    assert linearizable(view(history, "mount"))
    lost = [*history[:2], op(R, 10, 11, result=A, door="S3")]
    assert linearizable(view(lost, "mount"))
    assert not linearizable(view(lost, "S3"))


def test_a_swap_may_be_refused_where_what_was_appended_was_cut_off_again() -> None:
    """The same bytes, and another ETag."""
    swap = op(S, 9, 10, argument=B, expected=A, result=False, door="S3")
    history = [
        op(W, 1, 2, argument=A, door="mount"),
        op(P, 3, 4, argument=B, result=True, door="mount"),
        op(T, 5, 6, argument=bytes(len(A)), result=True, door="mount"),
        swap,
    ]
    assert linearizable(view(history, "S3"))
    assert not linearizable(view([history[0], swap], "S3")), "nothing but the swap's own value was ever there"
