"""The protective label of a whole disk: a GPT with one partition of our own type.  FORMAT.md, "Label".

A private magic alone is invisible to the tools of the world: `blkid` sees nothing and `mkfs.xfs` overwrites without a
word.  A partition table with our type and a speaking name (`tierce:pool:device`) makes mkfs.xfs refuse, pvcreate ask
and parted show whose disk it is (UEFI Specification 2.10, chapter 5, "GUID Partition Table Format").  The partition
spans the slots, the ring and the pages; nobody is expected to use it.

The functions return what to write where, as (device offset, bytes), in the order of writing; they write nothing.
Random UUIDs come from the caller.  Files get no label: their first and last MiB stay zero.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from typing import Final

from appliance.limits import MIB
from appliance.ondisk.geometry import LABEL_ZONE, SIZE_MIN, slot_offsets

TYPE: Final = uuid.UUID("e1e54e50-7739-4090-b363-37f31c7ca57e")  # the partition type of every Tierce device
SECTORS: Final = (512, 4096)
NAME_UNITS: Final = 36  # of UTF-16, in a partition entry
ENTRIES: Final = 128

HEADER_FIELDS: Final = (
    ("signature", "8s"),
    ("revision", "I"),
    ("header size", "I"),
    ("header CRC-32", "I"),
    ("reserved", "I"),
    ("own sector", "Q"),
    ("other header's sector", "Q"),
    ("first usable sector", "Q"),
    ("last usable sector", "Q"),
    ("disk", "16s"),
    ("entries' sector", "Q"),
    ("entry count", "I"),
    ("entry size", "I"),
    ("entries' CRC-32", "I"),
)
_HEADER: Final = struct.Struct("<" + "".join(code for _, code in HEADER_FIELDS))
_ENTRY: Final = struct.Struct("<16s16sQQQ72s")  # type, partition, first, last, attributes, name
_MBR_ENTRY: Final = struct.Struct("<B3sB3sII")
_SIGNATURE: Final = b"EFI PART"
_CLEARED_HEAD: Final = 5 * MIB  # beyond our own slots: LUKS2 keeps spare headers up to 4 MiB

assert _CLEARED_HEAD <= SIZE_MIN // 2


def name_of(pool: str, device: str) -> str:
    """The partition's name: `tierce:pool:device`, cut to what an entry holds."""
    name = f"tierce:{pool}:{device}"
    while len(name.encode("utf-16-le")) > 2 * NAME_UNITS:
        name = name[:-1]
    return name


def protect(size: int, sector: int, name: str, *, disk: uuid.UUID, partition: uuid.UUID) -> list[tuple[int, bytes]]:
    """What to write to label a disk of `size` bytes with `sector`-byte logical sectors: both label zones, whole.

    The backup comes first: a disk whose primary table is there has both.
    """
    assert sector in SECTORS
    assert size >= SIZE_MIN
    assert size % sector == 0
    array_sectors = ENTRIES * _ENTRY.size // sector
    last = size // sector - 1
    first_usable, last_usable = 2 + array_sectors, last - array_sectors - 1
    tail_zone = _tail_zone(size)
    entry = _ENTRY.pack(
        TYPE.bytes_le,
        partition.bytes_le,
        LABEL_ZONE // sector,
        tail_zone // sector - 1,
        0,
        name.encode("utf-16-le"),
    )
    array = entry.ljust(ENTRIES * _ENTRY.size, b"\0")

    def header(own: int, other: int, array_sector: int) -> bytes:
        def pack(crc: int) -> bytes:
            return _HEADER.pack(
                _SIGNATURE,
                0x10000,
                _HEADER.size,
                crc,
                0,
                own,
                other,
                first_usable,
                last_usable,
                disk.bytes_le,
                array_sector,
                ENTRIES,
                _ENTRY.size,
                zlib.crc32(array),
            )

        return pack(zlib.crc32(pack(0))).ljust(sector, b"\0")

    primary = _protective_mbr(last).ljust(sector, b"\0") + header(1, last, 2) + array
    backup = array + header(last, 1, last - array_sectors)
    return [
        (tail_zone, backup.rjust(size - tail_zone, b"\0")),
        (0, primary.ljust(LABEL_ZONE, b"\0")),
    ]


def clear(size: int) -> list[tuple[int, bytes]]:
    """What to write so that nothing at either end is recognised any more: labels, superblocks, foreign signatures."""
    assert size >= SIZE_MIN
    tail = slot_offsets(size)[2]
    return [(0, bytes(_CLEARED_HEAD)), (tail, bytes(size - tail))]


def read_name(head: bytes) -> str | None:
    """The name of our partition if the disk that begins with `head` carries an undamaged label of ours, else None."""
    for sector in SECTORS:
        raw = head[sector : sector + _HEADER.size]
        if len(raw) < _HEADER.size or raw[:8] != _SIGNATURE:
            continue
        *_, crc, _reserved, _own, _other, _first, _last, _disk, array_sector, count, entry_size, array_crc = (
            _HEADER.unpack(raw)
        )
        if zlib.crc32(raw[:16] + bytes(4) + raw[20:]) != crc or entry_size != _ENTRY.size or count != ENTRIES:
            continue
        array = head[array_sector * sector : array_sector * sector + ENTRIES * _ENTRY.size]
        if zlib.crc32(array) != array_crc:
            continue
        kind, _, _, _, _, name = _ENTRY.unpack_from(array)
        if kind == TYPE.bytes_le:
            return str(name, "utf-16-le", "replace").rstrip("\0")
    return None


def _tail_zone(size: int) -> int:
    """Where the last label zone begins: a whole MiB, behind slots 2 and 3, at least 1 MiB before the end."""
    return slot_offsets(size)[2] + LABEL_ZONE


def _protective_mbr(last_sector: int) -> bytes:
    """A classic partition table that says the whole disk is taken (type 0xEE)."""
    entry = _MBR_ENTRY.pack(0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(last_sector, 0xFFFFFFFF))
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"
