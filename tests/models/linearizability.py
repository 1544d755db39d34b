"""Whether a history of registers could have happened one operation after the other (R12).

Theory: a history is linearizable if each operation can be given one moment between its call and its return such that
registers, doing them in that order, give every answer that was given (Herlihy and Wing, 1990).  The search is
Wing and Gong's with Lowe's memory: among the operations that no other unfinished one has to precede, try each that the
register would answer as recorded; never look twice at the same set of done operations with the same value.  It is
exponential only in how many operations overlap.

Linearizability is local: registers are checked one by one, but for those between which values move.  Pure; knows of
doors only that what is changed in place may be seen through one before it is seen through the other (`view`).
"""

from __future__ import annotations

import dataclasses
import enum
import math
import zlib
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
    MOVE = "move"  # the value becomes that of the register `target`, and none this one's; result: whether there was one
    APPEND = "append"  # argument comes after the value, if there is one; result: whether
    CUT = "cut"  # the value gets the length of the argument, by zeros if need be, if there is one; result: whether


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
    register: int = 0
    target: int = 0
    door: str = ""
    optional: bool = False  # perhaps it did nothing, whatever it said

    def __str__(self) -> str:
        given = "" if self.argument is None else f" {_shown(self.argument)}"
        when = f"{self.called:>5} .. {self.returned:<5}"
        where = f" {self.register}" + (f" to {self.target}" if self.kind is Kind.MOVE else "")
        door = f" ({self.door})" if self.door else ""
        return f"{when} client {self.client}{door}: {self.kind.value}{where}{given} -> {_shown(self.result)}"


def _shown(value: Value | bool) -> str:
    """How a value begins, how long it is, and a sum that tells it from others that begin so."""
    if not isinstance(value, bytes):
        return repr(value)
    return f"{value[:20]!r} ({len(value)} bytes, {zlib.crc32(value):08x})"


def step(value: Value, operation: Operation) -> tuple[bool, Value]:
    """Whether a register that holds `value` gives the recorded answer, and what it holds then."""
    kind, result = operation.kind, operation.result
    pending = operation.returned == math.inf
    if kind is Kind.READ:
        return pending or result == value, value
    if kind is Kind.WRITE:
        return True, operation.argument
    if kind in (Kind.REMOVE, Kind.MOVE):
        return pending or result == (value is not None), None
    if kind in (Kind.APPEND, Kind.CUT):
        after = None if value is None else _changed(value, operation)
        return pending or result == (value is not None), after
    done = value is None if kind is Kind.CREATE else value == operation.expected
    return pending or result == done, operation.argument if done else value


def _changed(value: bytes, operation: Operation) -> bytes:
    argument = operation.argument or b""
    if operation.kind is Kind.APPEND:
        return value + argument
    return value[: len(argument)].ljust(len(argument), b"\0")


def step_of_all(values: tuple[Value, ...], operation: Operation) -> tuple[bool, tuple[Value, ...]]:
    """The same of several registers."""
    index, target = operation.register, operation.target
    possible, after = step(values[index], operation)
    changed = list(values)
    changed[index] = after
    if operation.kind is Kind.MOVE and values[index] is not None:
        changed[target] = values[index]
    return possible, tuple(changed)


def view(history: Sequence[Operation], door: str) -> list[Operation]:
    """What was seen through one door.  What went through another is known to have been done or not to have been done;
    what it saw is not asked.  A change in place that met a replacement may have gone to what was replaced, which only
    who has it open still sees.  Who cuts off what was appended leaves what was there before, but another version of it:
    a swap may have been refused though the value is the expected one."""
    found = []
    for operation in history:
        if operation.door == door:
            refused = operation.kind is Kind.SWAP and operation.result is False
            again = refused and any(
                other.kind is Kind.CUT and other.result is not False and other.called < operation.returned
                for other in history
            )
            found.append(dataclasses.replace(operation, optional=again))
        elif operation.kind is Kind.READ or operation.result is False:
            continue
        elif operation.kind in (Kind.CREATE, Kind.SWAP):
            found.append(dataclasses.replace(operation, kind=Kind.WRITE))
        elif operation.kind is Kind.REMOVE:
            found.append(dataclasses.replace(operation, kind=Kind.WRITE, argument=None))
        elif operation.kind is Kind.WRITE:
            found.append(operation)
        else:
            assert operation.kind in (Kind.APPEND, Kind.CUT)
            met = any(
                other.kind not in (Kind.READ, Kind.APPEND, Kind.CUT)
                and other.result is not False
                and other.called < operation.returned
                and other.returned > operation.called
                for other in history
            )
            found.append(dataclasses.replace(operation, optional=met))
    return found


def linearizable(history: Sequence[Operation]) -> bool:
    """Whether an order exists; every register holds nothing at first."""
    operations = sorted(history, key=lambda operation: operation.called)
    wanted = sum(1 << index for index, operation in enumerate(operations) if operation.returned < math.inf)
    count = 1 + max((max(operation.register, operation.target) for operation in operations), default=0)
    nothing: tuple[Value, ...] = (None,) * count
    seen: set[tuple[int, tuple[Value, ...]]] = set()
    todo = [(0, nothing)]
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
            if operation.optional:
                todo.append((done | 1 << index, value))
            possible, after = step_of_all(value, operation)
            if possible:
                todo.append((done | 1 << index, after))
    return False


def describe(history: Iterable[Operation]) -> str:
    """A history for a person, by the order of calls."""
    return "\n".join(str(operation) for operation in sorted(history, key=lambda operation: operation.called))
