"""Whether a history of one register could have happened one operation after the other (R12).

Theory: a history is linearizable if each operation can be given one moment between its call and its return such that a
single register, doing them in that order, gives every answer that was given (Herlihy and Wing, 1990).  The search is
Wing and Gong's with Lowe's memory: among the operations that no other unfinished one has to precede, try each that the
register would answer as recorded; never look twice at the same set of done operations with the same value.  It is
exponential only in how many operations overlap.

Linearizability is local: keys are checked one by one.  Pure; knows nothing of doors.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterable, Sequence

Value = bytes | None
"""What the register holds; None is an absent object."""


class Kind(enum.Enum):
    """What an operation does to the register, and what its result must then be."""

    READ = "read"  # result: the value
    WRITE = "write"  # argument becomes the value
    CREATE = "create"  # the same if there is none; result: whether
    SWAP = "swap"  # the same if the value is `expected`; result: whether
    REMOVE = "remove"  # none becomes the value; result: whether there was one


@dataclasses.dataclass(frozen=True)
class Operation:
    """`called` and `returned` are ticks of one clock; a call that never returned has math.inf and may never happen."""

    client: int
    kind: Kind
    called: float
    returned: float
    argument: Value = None
    expected: Value = None
    result: Value | bool = None

    def __str__(self) -> str:
        given = "" if self.argument is None else f" {self.argument[:12]!r}"
        when = f"{self.called:>5} .. {self.returned:<5}"
        result = self.result[:12] if isinstance(self.result, bytes) else self.result
        return f"{when} client {self.client}: {self.kind.value}{given} -> {result!r}"


def step(value: Value, operation: Operation) -> tuple[bool, Value]:
    """Whether a register that holds `value` gives the recorded answer, and what it holds then."""
    kind, result = operation.kind, operation.result
    pending = operation.returned == math.inf
    if kind is Kind.READ:
        return pending or result == value, value
    if kind is Kind.WRITE:
        return True, operation.argument
    if kind is Kind.REMOVE:
        return pending or result == (value is not None), None
    done = value is None if kind is Kind.CREATE else value == operation.expected
    return pending or result == done, operation.argument if done else value


def linearizable(history: Sequence[Operation], initial: Value = None) -> bool:
    """Whether an order exists."""
    operations = sorted(history, key=lambda operation: operation.called)
    wanted = sum(1 << index for index, operation in enumerate(operations) if operation.returned < math.inf)
    seen: set[tuple[int, Value]] = set()
    todo: list[tuple[int, Value]] = [(0, initial)]
    while todo:
        done, value = todo.pop()
        if done & wanted == wanted:
            return True
        if (done, value) in seen:
            continue
        seen.add((done, value))
        left = [(index, operation) for index, operation in enumerate(operations) if not done >> index & 1]
        first_return = min(operation.returned for _, operation in left)
        for index, operation in left:
            if operation.called > first_return:
                break
            possible, after = step(value, operation)
            if possible:
                todo.append((done | 1 << index, after))
    return False


def describe(history: Iterable[Operation]) -> str:
    """A history for a person, by the order of calls."""
    return "\n".join(str(operation) for operation in sorted(history, key=lambda operation: operation.called))
