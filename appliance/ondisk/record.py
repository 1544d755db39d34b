"""Journal records: one batch's final row images, and what is made of records.  FORMAT.md, "Journal record".

A record is physical redo: the final image of every row that the batch changed (I4), so replaying it needs no code of
its time and may be repeated (I9).  It also names the pages that an earlier barrier covered, which recovery need not
verify (I3).  Each record carries 16 bytes of its predecessor's digest: the journal is a chain, and an old record in a
reused place of the ring cannot pass for the next one.

The digest is keyed by the pool's UUID, which no client ever sees.  Without that the bytes of a small object, which
travel inside records, could be made to look like a record where a ring position happens to fall into them; and the ring
of a pool that lived on the device before could be taken for this one's.

In the ring a record is padded to the allocation unit; the padding carries nothing and is not read.  In a segment
(records spilled out of the ring into pages) records follow each other unpadded.  A snapshot's index lists the pages of
a catalogue snapshot and of the segments after it; where it is longer than one page it is cut into pages itself, and
another index lists these.

Nothing here knows tables, columns or where the ring's head is.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from blake3 import blake3

from appliance.errors import Code, StoreError
from appliance.limits import MIB
from appliance.ondisk.damaged import DamagedError
from appliance.ondisk.geometry import round_up

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12

MAGIC: Final = b"TIERCEJR"
CHAIN: Final = 16  # bytes of a predecessor's digest
BODY_MAX: Final = 256 * MIB  # bounds what a damaged length field can make recovery read

KEY_CONTEXT: Final = "tierce 2026 journal record"  # BLAKE3's key derivation: application, date, purpose
NO_POOL: Final = bytes(16)

PUT: Final = 0  # op of a row image: the row is this
DELETE: Final = 1  # op of a row image: no row has this primary key

FIELDS: Final = (
    ("magic", "8s"),
    ("epoch", "Q"),
    ("sequence", "Q"),
    ("body length", "I"),
    ("image count", "I"),
    ("previous", "16s"),
    ("digest", "32s"),
)
_HEAD: Final = struct.Struct("<" + "".join(code for _, code in FIELDS))
HEAD: Final = _HEAD.size
_UNSIGNED: Final = struct.Struct("<8sQQII16s")  # what the digest covers of the head: all but itself
_DIGEST_AT: Final = _UNSIGNED.size

# A row image: [table, op, column, ...]; columns are None, int, float, str or bytes.
Image = Sequence[Any]
Covered = tuple[int, int]  # device number, offset


class RecordHead(msgspec.Struct, frozen=True):
    """The first 80 bytes.  `total_length` is what the record takes in the ring."""

    epoch: int
    seq: int
    body_length: int
    total_length: int
    previous: bytes
    digest: bytes
    image_count: int


class Record(msgspec.Struct, frozen=True):
    """A verified record."""

    head: RecordHead
    images: list[list[Any]]
    covered: list[tuple[int, int]]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(tuple[list[list[Any]], list[tuple[int, int]]])


def too_large(size: int) -> StoreError:
    """What is said of a change whose rows take so many bytes, more than the journal has."""
    return StoreError(
        Code.TOO_LARGE,
        "the file is in too many pieces to be changed while a copy or an older version shares them: remove that, or "
        "copy its bytes to a new file",
        cause=f"{size:,} bytes do not fit the journal",
    )


def encode(
    epoch: int,
    seq: int,
    previous: bytes,
    images: Sequence[Image],
    covered: Sequence[Covered | Sequence[int]],
    *,
    pool: bytes = NO_POOL,
) -> bytes:
    """One record, padded to the allocation unit.  `previous` is `digest_of` the record before, or zeros for the first.

    `pool` is the pool's UUID; only `decode` with the same one will take the record.
    Raises TOO_LARGE for a batch that no journal takes.
    """
    body = _encoder.encode((images, covered))
    if len(body) > BODY_MAX:
        raise too_large(len(body))
    assert len(previous) == CHAIN
    start = _UNSIGNED.pack(MAGIC, epoch, seq, len(body), len(images), previous)
    digest = blake3(start, key=_key(pool)).update(body).digest()
    total = HEAD + len(body)
    return b"".join((start, digest, body, bytes(round_up(total) - total)))


def digest_of(record: Buffer) -> bytes:
    """What the next record says as its `previous`: the first 16 bytes of this one's digest."""
    return bytes(memoryview(record)[_DIGEST_AT : _DIGEST_AT + CHAIN])


def decode_head(first: Buffer) -> RecordHead | None:
    """The head at the start of `first`, or None where no record starts.  Proves nothing: only `decode` does."""
    if len(memoryview(first)) < HEAD:
        return None
    magic, epoch, seq, body_length, image_count, previous, digest = _HEAD.unpack_from(first)
    if magic != MAGIC or not 0 < body_length <= BODY_MAX or image_count > body_length:
        return None
    return RecordHead(epoch, seq, body_length, round_up(HEAD + body_length), previous, digest, image_count)


def check(buffer: Buffer, *, pool: bytes = NO_POOL) -> RecordHead:
    """The head of the record at the start of `buffer`, proven by its digest together with the body.

    What follows the body is not read.  Raises DamagedError, also for a record of another pool.
    """
    view = memoryview(buffer)
    head = decode_head(view)
    if head is None:
        raise DamagedError("record: no head")
    end = HEAD + head.body_length
    if len(view) < end:
        raise DamagedError("record: short")
    if blake3(view[:_DIGEST_AT], key=_key(pool)).update(view[HEAD:end]).digest() != head.digest:
        raise DamagedError("record: digest")
    return head


def decode(buffer: Buffer, *, pool: bytes = NO_POOL) -> Record:
    """The record at the start of `buffer`.  Raises DamagedError like `check`, and for a body that is no rows."""
    head = check(buffer, pool=pool)
    view = memoryview(buffer)
    end = HEAD + head.body_length
    try:
        images, covered = _decoder.decode(view[HEAD:end])
    except msgspec.MsgspecError as error:
        raise DamagedError(f"record: body: {error}") from error
    if len(images) != head.image_count:
        raise DamagedError("record: image count")
    return Record(head, images, covered)


@functools.lru_cache(8)
def _key(pool: bytes) -> bytes:
    return blake3(pool, derive_key_context=KEY_CONTEXT).digest()


# ---------------------------------------------------------------------------------------------------------- segments
def pack_segment(records: Iterable[Buffer]) -> bytes:
    """Records as they are in the ring, joined without their padding."""
    pieces = []
    for record in records:
        head = decode_head(record)
        assert head is not None
        pieces.append(memoryview(record)[: HEAD + head.body_length])
    return b"".join(pieces)


def unpack_segment(segment: Buffer, *, pool: bytes = NO_POOL) -> Iterator[Record]:
    """The records of a segment in order.  Raises DamagedError at the first one that does not hold."""
    view = memoryview(segment)
    while view:
        record = decode(view, pool=pool)
        yield record
        view = view[HEAD + record.head.body_length :]


# ---------------------------------------------------------------------------------------------------- snapshot's index
INDEX_MAGIC: Final = b"TIERCEIX"
INDEX_VERSION: Final = 2
INDEX_FIELDS: Final = (("magic", "8s"), ("version", "I"), ("body length", "I"), ("digest", "32s"))
_INDEX_HEAD: Final = struct.Struct("<" + "".join(code for _, code in INDEX_FIELDS))


class IndexPage(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One copy of one page of a snapshot or segment.  `length` is that of the extent, `payload` what it holds."""

    device: int
    offset: int
    length: int
    hsum: bytes
    index: int
    copy: int
    payload: int


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Records `first_seq` … `last_seq`, `length` bytes in `pages`."""

    first_seq: int
    last_seq: int
    length: int
    pages: tuple[IndexPage, ...]


class SnapshotIndex(msgspec.Struct, frozen=True, array_like=True):
    """What lists the pages of `length` bytes: of a catalogue file that contains every batch up to `seq`, with the
    segments after it, or, of a `depth` above 0, of the index of the depth below."""

    seq: int
    length: int
    generation: int  # of the superblock that was the newest when the snapshot was taken
    pages: tuple[IndexPage, ...]
    segments: tuple[Segment, ...] = ()
    depth: int = 0


_index_decoder: Final = msgspec.msgpack.Decoder(SnapshotIndex)


def encode_index(index: SnapshotIndex) -> bytes:
    """The payload of the index page, or of the pages that another index lists."""
    body = _encoder.encode(index)
    return _INDEX_HEAD.pack(INDEX_MAGIC, INDEX_VERSION, len(body), blake3(body).digest()) + body


def decode_index(payload: Buffer) -> SnapshotIndex:
    """The reverse of `encode_index`.  Raises DamagedError."""
    view = memoryview(payload)
    if len(view) < _INDEX_HEAD.size:
        raise DamagedError("snapshot index: short")
    magic, version, length, digest = _INDEX_HEAD.unpack_from(view)
    body = view[_INDEX_HEAD.size : _INDEX_HEAD.size + length]
    if magic != INDEX_MAGIC or version != INDEX_VERSION:
        raise DamagedError("snapshot index: no magic, or an unknown version")
    if len(body) != length or blake3(body).digest() != digest:
        raise DamagedError("snapshot index: digest")
    try:
        return _index_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise DamagedError(f"snapshot index: {error}") from error
