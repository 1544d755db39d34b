"""How many bytes of a mapped file are no hole: counted once, and then carried on from commit to commit.

The kernel asks at every fsync (it sets the times), and a fragmented file has tens of thousands of slices.  A number is
believed for just the generation of the node that it was counted for.  Loop only; knows no other state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from appliance.catalogue.commands import Command, CopyRange, WriteFile
from appliance.engine import directories
from appliance.model import BodyKind, Node, Written

KEPT: Final = 4096  # files

type_every = Callable[..., list[Any]]


class Settled(Protocol):
    """A ticket that has its result or error."""

    command: Command
    result: Any
    error: BaseException | None


class Filled:
    """Bytes of files, by node."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}  # node -> generation, bytes

    def of(self, node: Node, every: type_every) -> int:
        """Bytes of the node that are not holes."""
        if node.kind != BodyKind.MAP:
            return directories.allocated(every, node)
        generation, count = self._known.get(node.id, (-1, 0))
        if generation > node.generation:
            return count  # the newest is as good, if it is ahead of the row that the caller has
        if generation != node.generation:
            count = directories.allocated(every, node)
            if every("SELECT generation FROM node WHERE id=?", (node.id,)) != [(node.generation,)]:
                return count  # perhaps of a commit that `follow` is still to hear of: it would count that twice
            if len(self._known) >= KEPT:  # rare, and cheaper than an order
                self._known.clear()
            self._known[node.id] = node.generation, count
        return count

    def follow(self, tickets: Iterable[Settled]) -> None:
        """Files that a batch wrote, in order."""
        if not self._known:
            return
        for ticket in tickets:
            if type(ticket.command) not in (WriteFile, CopyRange) or ticket.error is not None:
                continue
            written: Written = ticket.result
            known = self._known.get(written.node)
            if known is None or known[0] == written.generation:
                continue
            if known[0] == written.generation - 1 and written.grown is not None:
                self._known[written.node] = written.generation, known[1] + written.grown
            else:
                del self._known[written.node]
