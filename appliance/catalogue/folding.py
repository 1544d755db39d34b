"""The same bytes in other chunks: what folding does to a map, as one change.

Chunks never change and their ids never return, so a slice that is still what was read still has the bytes that were
read.  That is the whole condition, slice by slice: no generation is asked, and whoever writes elsewhere in the file
disturbs nobody (H9).  Nodes do not know of it: no version, no ETag, no time changes; all that share the map have the
gain.
"""

from __future__ import annotations

import json
from collections import Counter

from appliance.catalogue.commands import FoldMap
from appliance.catalogue.content import WHOLE, Maker, add_chunk, count_chunk
from appliance.catalogue.database import Rows
from appliance.catalogue.proven import damaged
from appliance.catalogue.schema import SLICE, slice_sum
from appliance.errors import Code, StoreError
from appliance.model import NewSlice

# of the new chunk: below it what could be replaced is not worth the space of what could not
WORTH_PERCENT = 50


def fold_map(tx: Rows, command: FoldMap) -> int:
    """Bytes of slices that were replaced.  Raises CONFLICT when too few of them are what they were, DAMAGED."""
    found = _found(tx, command)
    kept: list[NewSlice] = []
    gone: list[NewSlice] = []
    at = 0
    for piece in command.slices:
        covered = []
        while at < len(command.before) and command.before[at].offset < piece.offset + piece.length:
            covered.append(command.before[at])
            at += 1
        if all(found.get(old.offset) == old for old in covered):
            kept.append(piece)
            gone += covered
    held = sum(piece.length for piece in kept)
    if not held or 100 * held < WORTH_PERCENT * command.chunk.length:
        raise StoreError(Code.CONFLICT, "the map was changed while it was folded")
    add_chunk(tx, command.chunk, Maker(command.copies, 0, command.label), len(kept))
    starts = {piece.offset for piece in kept}
    for old in gone:
        if old.offset not in starts:
            tx.delete(SLICE, (command.map, old.offset))
    for piece in kept:
        tx.put(SLICE, (command.map, piece.offset, piece.length, WHOLE, piece.chunk, piece.start))
    for chunk, count in Counter(old.chunk for old in gone).items():
        count_chunk(tx, chunk, -count)
    return held


def _found(tx: Rows, command: FoldMap) -> dict[int, NewSlice]:
    """The slices of chunks that are where those of `before` were."""
    offsets = json.dumps([old.offset for old in command.before])
    found: dict[int, NewSlice] = {}
    for offset, length, kind, ref, start, total in tx.all(
        "SELECT off, len, kind, ref, roff, sum FROM slice WHERE map=? AND off IN (SELECT value FROM json_each(?))",
        (command.map, offsets),
    ):
        if total and total != slice_sum(command.map, offset, length, kind, ref, start):
            raise damaged(f"slice {command.map}+{offset}")
        if kind == WHOLE:
            found[offset] = NewSlice(offset, length, ref, start)
    return found
