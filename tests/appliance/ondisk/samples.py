"""One of everything this room encodes, with fixed contents: what the golden files hold and other tests vary."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from appliance.limits import BLOCK, MIB
from appliance.model import DataKey
from appliance.ondisk import cipher, label, page, record, superblock
from appliance.ondisk.geometry import plan

POOL: Final = bytes(range(16))
DEVICE: Final = bytes(range(16, 32))

SUPERBLOCK: Final = superblock.Superblock(
    compatible=1,
    generation=41,
    pool=POOL,
    device=DEVICE,
    device_id=2,
    geometry=plan(256 * MIB + 12_345 * 512, journal=True),
    tier="blaze",
    state="open",
    epoch=7,
    ring_tail_seq=1_000,
    ring_tail_offset=65_536,
    applied_seq=999,
    created_ns=1_700_000_000_000_000_000,
    pool_name="häuschen",
    copies=2,
    members=(
        superblock.Member(1, bytes(range(32, 48)), "bulk", 1 << 40, journal=False, state="missing", hint="WD-1"),
        superblock.Member(2, DEVICE, "blaze", 256 * MIB, journal=True, hint="/dev/disk/by-id/nvme-2"),
    ),
    snapshot=superblock.SnapshotPointer(
        990, 54_321, ((1, 64 * MIB, 57_344, bytes(16)), (2, 8 * MIB, 57_344, bytes(range(16))))
    ),
)


def payload(length: int) -> bytes:
    """Bytes that differ from block to block."""
    return struct.pack(f"<{-(-length // 8)}Q", *range(-(-length // 8)))[:length]


def page_header(length: int, label: bytes = "bucket\0a/ключ".encode()) -> page.PageHeader:
    """The header of a page of `length` payload bytes at 1 GiB."""
    return page.PageHeader(
        pool=POOL,
        device=DEVICE,
        offset=1 << 30,
        birth=77,
        chunk=1 << 40,
        owner=5,
        logical=8 * MIB,
        object_size=page.UNKNOWN_SIZE,
        payload=length,
        units=page.extent_length(length) // 4096,
        index=1,
        copies=2,
        flags=page.LAST,
        mtime_ns=-1,
        block_shift=16,
        sums=page.block_sums(payload(length)),
        label=label,
    )


SHORT_PAGE: Final = page_header(5_000)
LONG_PAGE: Final = page_header(4 * MIB - BLOCK // 2)

SEALED_KEY: Final = DataKey(3, bytes(range(100, 132)))


def sealed_page(length: int) -> tuple[page.PageHeader, bytes]:
    """A sealed page's header and its ciphertext."""
    body = bytearray(payload(length))
    seal = cipher.seal(SEALED_KEY, bytes(range(200, 216)), 1 << 40, 1, memoryview(body))
    header = msgspec.structs.replace(
        page_header(length), flags=page.LAST | page.SEALED, sums=page.block_sums(body), seal=seal
    )
    return header, bytes(body)


SEALED_PAGE: Final = sealed_page(BLOCK + 77)

IMAGES: Final[list[list[object]]] = [
    [1, record.PUT, 1, b"name", None, -(1 << 63), 1.5, "text"],
    [2, record.DELETE, (1 << 63) - 1],
]
COVERED: Final = [(1, 64 * MIB), (2, 8 * MIB)]
PREVIOUS: Final = bytes(range(16))

INDEX: Final = record.SnapshotIndex(
    seq=990,
    length=9 * MIB,
    generation=40,
    pages=tuple(
        record.IndexPage(device, 64 * MIB * (index + 1), 4 * MIB + 4096, bytes([index] * 16), index, copy, 3 * MIB)
        for copy, device in enumerate((1, 2))
        for index in range(3)
    ),
    segments=(record.Segment(991, 995, 5_000, (record.IndexPage(1, 20 * MIB, 8192, bytes(16), 0, 0, 5_000),)),),
    depth=1,
)


def encoded_record() -> bytes:
    """The sample record, padded as in the ring."""
    return record.encode(7, 1_001, PREVIOUS, IMAGES, COVERED, pool=POOL)


def encoded_label(sector: int) -> bytes:
    """The used part of a primary label."""
    writes = label.protect(
        256 * MIB,
        sector,
        label.name_of("häuschen", "ssd0"),
        disk=uuid.UUID(bytes=POOL),
        partition=uuid.UUID(bytes=DEVICE),
    )
    return dict(writes)[0][: 6 * 4096].rstrip(b"\0")


GOLDEN: Final[dict[str, Callable[[], bytes]]] = {
    "superblock-2.bin": lambda: superblock.encode(SUPERBLOCK),
    "page-short-2.bin": lambda: page.encode(SHORT_PAGE),
    "page-long-2.bin": lambda: page.encode(LONG_PAGE),
    "page-sealed-2.bin": lambda: page.encode(SEALED_PAGE[0]) + SEALED_PAGE[1],
    "record-1.bin": encoded_record,
    "segment-1.bin": lambda: record.pack_segment([encoded_record(), encoded_record()]),
    "snapshot-index-2.bin": lambda: record.encode_index(INDEX),
    "label-512-1.bin": lambda: encoded_label(512),
    "label-4096-1.bin": lambda: encoded_label(4096),
}
"""File in tests/golden -> what makes its bytes today.  A new format version adds files; none is ever changed."""


def flips(encoded: bytes, bits: range | Iterator[int]) -> Iterator[bytes]:
    """`encoded` with each single one of `bits` flipped."""
    changed = bytearray(encoded)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)
        changed[bit // 8] ^= 1 << bit % 8
