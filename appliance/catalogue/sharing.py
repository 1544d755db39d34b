"""Ranges that two files share (copy_file_range(2)): references to chunks, no bytes.

A chunk is kept in one way: with so many copies, in clear or sealed by one key.  So a range is shared only where the
file that gets it would be kept no worse: with as many copies as its bucket wants, and encrypted if it is.  Whoever is
refused copies the bytes.

Nor is anything shared of a file that has lost its last name: steps may be freeing it (`content.drop_node`), and what is
freed already would read as zeros in the copy.  Copies of objects know it by the generation, which a file that is being
written has no use for.
"""

from __future__ import annotations

import stat
from itertools import islice

from appliance.catalogue import content, files, names
from appliance.catalogue.commands import CopyRange
from appliance.catalogue.content import INLINE, Flat
from appliance.catalogue.database import Rows
from appliance.catalogue.names import DirectoryCache
from appliance.catalogue.nodes import content_of
from appliance.catalogue.proven import chunk_in
from appliance.catalogue.schema import CHUNK
from appliance.errors import Code, StoreError
from appliance.limits import SHARED_PIECES_MAX
from appliance.model import CUSTOMER, Node, Written


def copy_range(tx: Rows, cache: DirectoryCache, command: CopyRange) -> Written:
    """Raises NO_SUCH_NODE, CONFLICT (the source lost its name, became shorter, or has too many pieces there),
    NOT_SUPPORTED (its bytes are kept in another way than the file's), and what `write_file` raises."""
    shared = command.shared
    source = names.node_by_id(tx.one, shared.source)
    if source is None or not stat.S_ISREG(source.mode):
        raise StoreError(Code.NO_SUCH_NODE)
    _require_named(source)
    end = shared.start + shared.length
    if end > source.size:
        raise StoreError(Code.CONFLICT, "the source became shorter meanwhile")
    found = content_of(source)
    if found.kind == INLINE:
        raise StoreError(Code.NOT_SUPPORTED, "the source is too small to share")
    pieces = list(islice(content.pieces(tx.all, found.kind, found.ref, shared.start, end), SHARED_PIECES_MAX + 1))
    if len(pieces) > SHARED_PIECES_MAX:
        raise StoreError(Code.CONFLICT, "the source has too many pieces for one commit")
    encrypted = bool(pieces)
    for chunk in {piece.chunk for piece in pieces}:
        copies, key = chunk_in(tx.row(CHUNK, chunk), chunk)[3:]
        if copies < command.change.copies or key == CUSTOMER or (shared.sealed and not key):
            raise StoreError(Code.NOT_SUPPORTED, "the source is kept in another way")
        encrypted = encrypted and bool(key)
    shift = shared.offset - shared.start
    moved = [Flat(piece.offset + shift, piece.length, piece.chunk, piece.start) for piece in pieces]
    return files.write_file(tx, cache, command.change, moved, encrypted=encrypted)


def _require_named(source: Node) -> None:
    """Held or not: who begins to hold what is being freed is told so, but only after that."""
    if not source.links:
        raise StoreError(Code.CONFLICT, "the source was removed meanwhile")
