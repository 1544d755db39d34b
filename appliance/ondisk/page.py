"""Pages: immutable extents that say who they are and vouch for every block.  FORMAT.md, "Page".

    | header, 512 B or 4 KiB | payload, at most 4 MiB | padding to the allocation unit |

The chain of trust runs away from the bytes: the catalogue keeps 16 bytes of the header's digest (`hsum`), the header
keeps the XXH3-128 of each 64 KiB block.  So a flipped bit, a write that never arrived and one that arrived elsewhere
all show.  A block's sum need only notice damage: what binds it to its place, page and time is the header, under a
cryptographic digest.  It is computed for every byte that passes, and there XXH3 costs a quarter of BLAKE3.
The header also repeats owner, place in the object and name, for salvage when there is no catalogue left.  Where the
payload is encrypted the sums are of the ciphertext.

Small pages (up to `limits.GATHER_MAX`: two blocks) use the short header, which shares its allocation unit with the
payload.  The codecs are on the path of every request; hence positional arguments, one struct and one digest.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import msgspec
from blake3 import blake3
from xxhash import xxh3_128_digest

from appliance.limits import BLOCK, GATHER_MAX, PAGE_PAYLOAD
from appliance.ondisk.cipher import seal_length
from appliance.ondisk.damaged import DamagedError
from appliance.ondisk.geometry import UNIT, round_up

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12

MAGIC: Final = b"TIERCEPG"
VERSION: Final = 2
SHORT: Final = 512  # header lengths
LONG: Final = 4096
DIGEST: Final = 32  # of the header
HSUM: Final = 16
SUM: Final = 16  # of a block
BLOCK_SHIFT: Final = BLOCK.bit_length() - 1
UNKNOWN_SIZE: Final = (1 << 64) - 1  # `object_size` of a page written before its stream ended

# flags
LAST: Final = 1  # the last page of its chunk
SNAPSHOT: Final = 2  # the catalogue's snapshot, not an object's bytes
INDEX: Final = 4  # a snapshot's index
SEGMENT: Final = 8  # journal records spilled out of the ring
SEALED: Final = 1 << 16  # the payload is encrypted, and a seal follows the sums (cipher.py)

FIELDS: Final = (
    ("magic", "8s"),
    ("version", "H"),
    ("header length", "H"),
    ("flags", "I"),
    ("pool", "16s"),
    ("device", "16s"),
    ("offset", "Q"),
    ("birth", "Q"),
    ("chunk", "Q"),
    ("owner", "Q"),
    ("logical", "Q"),
    ("object size", "Q"),
    ("payload", "I"),
    ("units", "I"),
    ("index", "I"),
    ("copies", "B"),
    ("block shift", "B"),
    ("block count", "H"),
    ("modified", "q"),
    ("label length", "H"),
    ("zero", "6x"),
)
_HEAD: Final = struct.Struct("<" + "".join(code for _, code in FIELDS))
SUMS_OFFSET: Final = _HEAD.size
_PLACE: Final = struct.Struct("<16sQ")  # device and offset
_DEVICE: Final = 32
_pack: Final = _HEAD.pack
_unpack_from: Final = _HEAD.unpack_from


class PageHeader(msgspec.Struct, frozen=True, gc=False):
    """What a page says about itself."""

    pool: bytes  # 16-byte UUIDs
    device: bytes
    offset: int  # where on the device this header lies
    birth: int  # sequence of the batch that was being gathered when the page was written
    chunk: int
    owner: int  # node that first owned the chunk
    logical: int  # offset of the payload's first byte within that node
    object_size: int  # or UNKNOWN_SIZE
    payload: int  # bytes
    units: int  # allocation units of the whole extent
    index: int  # which part of the chunk, from 0
    copies: int  # how many copies were written, this one included
    flags: int
    mtime_ns: int
    block_shift: int
    sums: bytes  # 16 for each block
    label: bytes  # bucket name, NUL, key as written; cut to the room there is
    seal: bytes = b""  # of an encrypted payload: data key, salt and tags, as cipher.py makes them


def small_header_fits(payload: int) -> bool:
    """True when a page of so many payload bytes uses the short header."""
    return payload <= GATHER_MAX


def header_length(payload: int) -> int:
    """Bytes before the payload."""
    return SHORT if payload <= GATHER_MAX else LONG


def extent_length(payload: int) -> int:
    """Bytes of the whole extent: a multiple of the allocation unit."""
    return round_up((SHORT if payload <= GATHER_MAX else LONG) + payload)


def block_count(payload: int) -> int:
    """Blocks of a payload, the last one perhaps short."""
    return -(-payload // BLOCK)


def block_sums(payload: Buffer) -> bytes:
    """XXH3-128 of each 64 KiB block of the payload, joined.  A whole page takes less than half a millisecond."""
    view = memoryview(payload)
    if len(view) <= BLOCK:
        return xxh3_128_digest(view)
    return b"".join([xxh3_128_digest(view[start : start + BLOCK]) for start in range(0, len(view), BLOCK)])


def encode(header: PageHeader) -> bytes:
    """The header as written: exactly `header_length(header.payload)` bytes."""
    payload, sums = header.payload, header.sums
    length = SHORT if payload <= GATHER_MAX else LONG
    count = len(sums) // SUM
    assert 0 < payload <= PAGE_PAYLOAD
    assert count == -(-payload // BLOCK)
    assert header.block_shift == BLOCK_SHIFT
    seal = header.seal
    assert len(seal) == (seal_length(count) if header.flags & SEALED else 0)
    label = header.label[: length - DIGEST - SUMS_OFFSET - len(sums) - len(seal)]
    head = _pack(
        MAGIC,
        VERSION,
        length,
        header.flags,
        header.pool,
        header.device,
        header.offset,
        header.birth,
        header.chunk,
        header.owner,
        header.logical,
        header.object_size,
        payload,
        header.units,
        header.index,
        header.copies,
        BLOCK_SHIFT,
        count,
        header.mtime_ns,
        len(label),
    )
    content = (head + sums + seal + label).ljust(length - DIGEST, b"\0")
    return content + blake3(content).digest()


def moved(encoded: bytes, device: bytes, offset: int) -> bytes:
    """An encoded header as the same page's copy has it on `device`, at `offset`."""
    content = encoded[:_DEVICE] + _PLACE.pack(device, offset) + encoded[_DEVICE + _PLACE.size : -DIGEST]
    return content + blake3(content).digest()


def header_sum(encoded: bytes) -> bytes:
    """What the catalogue keeps of an encoded header: the first 16 bytes of its digest."""
    return encoded[-DIGEST : HSUM - DIGEST]


def decode(buffer: Buffer, offset: int = 0) -> PageHeader:
    """The header at `offset` of `buffer`.  Raises DamagedError: magic, version, length or digest.

    Says nothing about whether it is the page that was wanted: see `check`.
    """
    return _decode(memoryview(buffer), offset)[0]


def check(buffer: Buffer, *, pool: bytes, device: bytes, offset: int, hsum: bytes, start: int = 0) -> PageHeader:
    """The header at `start` of `buffer`, proven to be the one wanted.

    `offset` is where on the device it was read, `hsum` what the catalogue expects.  Raises DamagedError, also for a
    whole header that belongs elsewhere (a misdirected write) or to an earlier time (a lost write).
    """
    header, digest = _decode(memoryview(buffer), start)
    if header.pool != pool or header.device != device:
        raise DamagedError("page: of another device")
    if header.offset != offset:
        raise DamagedError(f"page: misdirected: it belongs at {header.offset}")
    if digest[:HSUM] != hsum:
        raise DamagedError("page: not the one that the catalogue expects")
    return header


def bad_block(header: PageHeader, first: int, payload: memoryview) -> int | None:
    """None when `payload` is exactly the page's payload from block `first` on, for as many blocks as it holds; else the
    first block that is not.  One pass and one comparison: the sums of a page lie side by side."""
    if not payload:
        return None
    found = block_sums(payload)
    wanted = header.sums[first * SUM : first * SUM + len(found)]
    if found == wanted:
        return None
    return next(first + at // SUM for at in range(0, len(found), SUM) if found[at : at + SUM] != wanted[at : at + SUM])


def _decode(view: memoryview, start: int) -> tuple[PageHeader, bytes]:
    """The header and its stored digest, found equal to the computed one."""
    if len(view) - start < SHORT:
        raise DamagedError("page: short")
    (
        magic,
        version,
        length,
        flags,
        pool,
        device,
        offset,
        birth,
        chunk,
        owner,
        logical,
        object_size,
        payload,
        units,
        index,
        copies,
        block_shift,
        count,
        mtime_ns,
        label_length,
    ) = _unpack_from(view, start)
    if magic != MAGIC:
        raise DamagedError("page: no magic")
    if (length != SHORT and length != LONG) or len(view) - start < length:
        raise DamagedError("page: header length")
    content = bytes(view[start : start + length])
    digest = content[-DIGEST:]
    if blake3(content[:-DIGEST]).digest() != digest:
        raise DamagedError("page: digest")
    if version != VERSION or block_shift != BLOCK_SHIFT:
        raise DamagedError(f"page: unknown version {version} or block size")
    seals = SUMS_OFFSET + count * SUM
    labels = seals + seal_length(count) if flags & SEALED else seals
    if count != -(-payload // BLOCK) or labels + label_length > length - DIGEST or units * UNIT < length + payload:
        raise DamagedError("page: lengths disagree")
    return PageHeader(
        pool,
        device,
        offset,
        birth,
        chunk,
        owner,
        logical,
        object_size,
        payload,
        units,
        index,
        copies,
        flags,
        mtime_ns,
        block_shift,
        content[SUMS_OFFSET:seals],
        content[labels : labels + label_length],
        content[seals:labels],
    ), digest


# The greatest page's sums and the longest name fit the long header; beside a seal the name may be cut.
assert SUMS_OFFSET + (PAGE_PAYLOAD // BLOCK) * SUM + 64 + 1024 + DIGEST <= LONG
assert SUMS_OFFSET + (PAGE_PAYLOAD // BLOCK) * SUM + seal_length(PAGE_PAYLOAD // BLOCK) + 512 + DIGEST <= LONG
assert SUMS_OFFSET + (GATHER_MAX // BLOCK) * SUM + seal_length(GATHER_MAX // BLOCK) + DIGEST <= SHORT
