"""Multipart uploads (S3 API, "Multipart upload overview"): plain functions of a batch's `Rows` and a command."""

from __future__ import annotations

import logging
import stat
from typing import Any, Final

from appliance.catalogue import content, names, objects, versions
from appliance.catalogue.commands import AbortUpload, CompleteUpload, CopyPart, CreateUpload, PutPart
from appliance.catalogue.content import NOTHING, Content, Maker
from appliance.catalogue.database import Rows
from appliance.catalogue.names import DirectoryCache
from appliance.catalogue.nodes import content_of
from appliance.catalogue.proven import damaged, require
from appliance.catalogue.schema import PART, UPLOAD, part_sum
from appliance.errors import Code, StoreError
from appliance.limits import OBJECT_SIZE_MAX, PART_NUMBER_MAX, PART_SIZE_MIN
from appliance.model import MARKER, Checksum, Node, Part, Upload, Written

log = logging.getLogger(__name__)

UPLOAD_COLUMNS: Final = "id, bucket, key, created_ns, owner, packed, checksum_algorithm, checksum_type"
_PARTS: Final = (
    "SELECT number, size, etag, written_ns, kind, ref, checksum_algorithm, checksum, sum FROM part WHERE upload=?"
)


def find(one: names.type_one, upload: str) -> Upload:
    """Raises NO_SUCH_UPLOAD, DAMAGED."""
    row = one(f"SELECT {UPLOAD_COLUMNS}, sum FROM upload WHERE id=?", (upload,))
    if row is None:
        raise StoreError(Code.NO_SUCH_UPLOAD)
    return Upload(*require(UPLOAD, row))


def part_of(row: Any) -> Part:
    """A Part from a row of `_PARTS`' columns."""
    number, size, etag, written, _, _, algorithm, value = row
    return Part(number, size, etag, written, Checksum(algorithm, value) if algorithm else None)


def _proven(upload: str, row: Any) -> Any:
    """A row of `_PARTS` without its sum, which says the same.  Raises DAMAGED."""
    *columns, total = row
    if total and total != part_sum(upload, *columns):
        raise damaged(f"part {row[0]} of {upload}")
    return columns


def _drop(tx: Rows, upload: str, row: Any) -> None:
    """The bytes of a part that nobody wants, unless nobody knows whose they are."""
    try:
        kind, ref = _proven(upload, row)[4:6]
    except StoreError as error:
        log.error("a part is damaged in the catalogue: what it had is not freed: %s", error.cause)
        return
    content.drop(tx, kind, ref)


def parts_after(tx_all: names.type_one, upload: str, after: int, limit: int) -> list[Part]:
    """At most `limit` parts with number > after.  Raises DAMAGED."""
    rows = tx_all(_PARTS + " AND number>? ORDER BY number LIMIT ?", (upload, after, limit))
    return [part_of(_proven(upload, row)) for row in rows]


def create_upload(tx: Rows, command: CreateUpload) -> Upload:
    """Raises NO_SUCH_BUCKET."""
    versions.state_of(tx, command.bucket)
    row = (
        command.id,
        command.bucket,
        command.key,
        command.now_ns,
        command.owner,
        command.packed,
        command.checksum_algorithm,
        command.checksum_type,
    )
    tx.put(UPLOAD, row)
    return Upload(*row)


def _set_part(
    tx: Rows,
    upload: Upload,
    number: int,
    size: int,
    etag: str,
    now_ns: int,
    made: Content,
    algorithm: str,
    checksum: bytes,
) -> Part:
    """The part takes the place of the one with its number."""
    old = tx.one(_PARTS + " AND number=?", (upload.id, number))
    if old is not None:
        _drop(tx, upload.id, old)
    tx.charge(upload.bucket, 0, 0, parts=size - (old[1] if old is not None else 0))
    row = (upload.id, number, size, etag, now_ns, made.kind, made.ref, algorithm, checksum)
    tx.put(PART, row)
    return part_of(row[1:])


def put_part(tx: Rows, command: PutPart) -> Part:
    """Raises NO_SUCH_UPLOAD, INVALID_ARGUMENT."""
    upload = find(tx.one, command.upload)
    if not 1 <= command.number <= PART_NUMBER_MAX:
        raise StoreError(Code.INVALID_ARGUMENT, f"part numbers go from 1 to {PART_NUMBER_MAX}")
    made = content.add_body(tx, command.body, Maker(command.copies, 0, command.label), inline=False)
    return _set_part(
        tx,
        upload,
        command.number,
        command.body.size,
        command.etag,
        command.now_ns,
        made,
        command.checksum_algorithm,
        command.checksum,
    )


def copy_part(tx: Rows, command: CopyPart) -> Part:
    """Raises NO_SUCH_UPLOAD, NO_SUCH_NODE (the source is gone or changed), INVALID_ARGUMENT (beyond its end)."""
    upload = find(tx.one, command.upload)
    if not 1 <= command.number <= PART_NUMBER_MAX:
        raise StoreError(Code.INVALID_ARGUMENT, f"part numbers go from 1 to {PART_NUMBER_MAX}")
    source = names.node_by_id(tx.one, command.source)
    if (
        source is None
        or source.generation != command.generation
        or not stat.S_ISREG(source.mode)
        or source.flags & MARKER
    ):
        raise StoreError(Code.NO_SUCH_NODE, "the source was replaced meanwhile")
    if command.start + command.length > source.size:
        raise StoreError(Code.INVALID_ARGUMENT, "the range is beyond the end of the source")
    made = content.clone_range(
        tx, content_of(source), command.start, command.length, Maker(command.copies, 0, command.label)
    )
    return _set_part(
        tx,
        upload,
        command.number,
        command.length,
        command.etag,
        command.now_ns,
        made,
        command.checksum_algorithm,
        command.checksum,
    )


def _chosen(tx: Rows, command: CompleteUpload) -> list[Any]:
    rows = {row[0]: _proven(command.upload, row) for row in tx.all(_PARTS, (command.upload,))}
    chosen: list[Any] = []
    last = 0
    for number, etag in command.parts:
        if number <= last:
            raise StoreError(Code.INVALID_PART_ORDER)
        last = number
        row = rows.get(number)
        if row is None or row[2] != etag:
            raise StoreError(Code.INVALID_PART)
        chosen.append(row)
    if not chosen:
        raise StoreError(Code.INVALID_ARGUMENT, "an upload needs at least one part")
    if any(row[1] < PART_SIZE_MIN for row in chosen[:-1]):
        raise StoreError(Code.PART_TOO_SMALL)
    if sum(row[1] for row in chosen) > OBJECT_SIZE_MAX:
        raise StoreError(Code.TOO_LARGE)
    return chosen


def complete_upload(tx: Rows, cache: DirectoryCache, command: CompleteUpload) -> Written:
    """O(parts): each part's reference moves into the new object's map.

    Raises NO_SUCH_UPLOAD, INVALID_PART, INVALID_PART_ORDER, PART_TOO_SMALL, TOO_LARGE, PRECONDITION_FAILED,
    NO_SUCH_KEY, DAMAGED.
    """
    upload = find(tx.one, command.upload)
    state = versions.state_of(tx, upload.bucket)
    chosen = _chosen(tx, command)
    directories, name = names.split(upload.key)
    parent, replaced = objects.current_at(tx, cache, command.root, directories, name)
    objects.check(command.precondition, objects.seen(replaced))
    slices: list[tuple[int, int, int, int, int]] = []
    size = 0
    for _, length, _, _, kind, ref, _, _ in chosen:
        if kind:
            slices.append((size, length, kind, ref, 0))
        size += length
    if not slices:
        made = NOTHING
    elif len(slices) == 1 and slices[0][0] == 0:
        made = Content(slices[0][2], slices[0][3])  # what follows, if anything, is a hole
    else:
        made = content.add_map(tx, slices)
    taken = {row[0] for row in chosen}
    _remove(tx, upload, taken)
    version, flags = versions.numbered(tx, state, command.flags)
    node = Node(
        tx.new_id(),
        command.mode,
        command.uid,
        command.gid,
        1,
        size,
        command.atime_ns,
        command.mtime_ns,
        command.now_ns,
        command.now_ns,
        1,
        command.etag,
        made.kind,
        made.ref,
        b"",
        flags,
        command.packed,
        upload.bucket,
        b"",
        version,
    )
    return objects.place(tx, cache, command.root, upload.key, parent, directories, name, replaced, node, state)


def _remove(tx: Rows, upload: Upload, taken: set[int]) -> None:
    """The upload's rows go; parts that no object took lose their bytes."""
    for row in tx.all(_PARTS, (upload.id,)):
        number, size = row[:2]
        tx.delete(PART, (upload.id, number))
        tx.charge(upload.bucket, 0, 0, parts=-size)
        if number not in taken:
            _drop(tx, upload.id, row)
    tx.delete(UPLOAD, (upload.id,))


def abort_all(tx: Rows, bucket: int) -> None:
    """Every upload of a bucket that is going."""
    for row in tx.all(f"SELECT {UPLOAD_COLUMNS}, sum FROM upload WHERE bucket=?", (bucket,)):
        _remove(tx, Upload(*require(UPLOAD, row)), set())


def abort_upload(tx: Rows, command: AbortUpload) -> None:
    """Raises NO_SUCH_UPLOAD."""
    _remove(tx, find(tx.one, command.upload), set())
