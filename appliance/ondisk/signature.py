"""What lies on a device already: the signatures of everything that we must not overwrite.

The places are those that util-linux's libblkid looks at.  Being wrong in the one direction costs an administrator an
`--erase`; in the other a file system: so the checks are generous, and damaged or partial structures count.  Given are
the device's first and last bytes (`HEAD`, `TAIL`; less is searched as far as it goes); nothing here reads a device.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Iterator
from typing import Final

from appliance.errors import StoreError
from appliance.limits import KIB, MIB
from appliance.ondisk import label, superblock
from appliance.ondisk.geometry import HEAD_SLOTS, SLOT

HEAD: Final = 2 * MIB  # how much of the start to hand in, and ...
TAIL: Final = 3 * MIB  # ... of the end: our own slots begin at most so far before it

# (name, offset, magic): one of these is proof enough
_FIXED: Final = (
    ("XFS", 0, b"XFSB"),
    ("Btrfs", 0x10040, b"_BHRfS_M"),
    ("F2FS", 1024, b"\x10\x20\xf5\xf2"),
    ("NTFS", 3, b"NTFS    "),
    ("exFAT", 3, b"EXFAT   "),
    ("bcache", 4120, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")),
    ("bcachefs", 4120, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")),
    ("Ceph BlueStore", 0, b"bluestore block device"),
    ("Stratis pool", 516, b"!Stra0tis\x86\xff\x02^\x41rh"),
    ("dm-integrity", 0, b"integrt\0"),
    ("dm-verity", 0, b"verity\0\0"),
    ("VDO", 0, b"dmvdo001"),
    ("squashfs", 0, b"hsqs"),
    ("cramfs", 0, b"\x45\x3d\xcd\x28"),
    ("ISO 9660", 32769, b"CD001"),
    ("JFS", 32768, b"JFS1"),
    ("ReiserFS", 0x10034, b"ReIsEr"),
    ("HFS+", 1024, b"H+\0\4"),
    ("HFS+", 1024, b"HX\0\5"),
    ("APFS", 32, b"NXSB"),
    ("Minix", 1040, b"\x7f\x13\1\0"),  # the magic's two bytes alone would be too little: a clean state follows
    ("Minix", 1040, b"\x8f\x13\1\0"),
    ("Minix", 1040, b"\x68\x24\1\0"),
    ("Minix", 1040, b"\x78\x24\1\0"),
    ("OCFS2", 1024, b"OCFSV2"),
    ("OCFS2", 2048, b"OCFSV2"),
    ("OCFS2", 4096, b"OCFSV2"),
    ("OCFS2", 8192, b"OCFSV2"),
    ("GFS2", 65536, b"\x01\x16\x19\x70\0\0\0\1"),
    ("BitLocker", 3, b"-FVE-FS-"),
    ("hibernated swap", 4086, b"S1SUSPEND"),
    ("hibernated swap", 4086, b"ULSUSPEND"),
)
_LUKS2_SPARE: Final = (0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000, 0x100000, 0x200000, 0x400000)
_MD: Final = 0xA92B4EFC
_UBERBLOCKS: Final = (0x00BAB10C.to_bytes(8, "little"), 0x00BAB10C.to_bytes(8, "big"))
_ZFS_LABEL: Final = 256 * KIB


def recognise(head: bytes, tail: bytes = b"") -> list[str]:
    """Names of every signature found, for people; an empty list means that nothing known is there.

    A device of ours is named with the UUIDs of its pool and of itself; use `tierce` for its superblock.
    """
    found: list[str] = []
    for probe in _PROBES:
        found += [name for name in probe(head, tail) if name not in found]
    return found


def tierce(head: bytes, tail: bytes = b"") -> superblock.Superblock | None:
    """Our own newest superblock among the slots within `head` and `tail`; None if the device is not ours.

    Raises OLD_FORMAT when it is ours, in a format that this program does not know.
    """
    slots = [head[start : start + SLOT] for start in (HEAD_SLOTS, HEAD_SLOTS + SLOT)]
    slots += [tail[at : at + SLOT] for at in _find(tail, superblock.MAGIC)]
    return superblock.choose(slots)


# ------------------------------------------------------------------------------------------------------------- probes
def _ours(head: bytes, tail: bytes) -> Iterator[str]:
    try:
        ours = tierce(head, tail)
    except StoreError as error:  # whole, but not readable by this program: still not free for the taking
        yield f"Tierce device ({error.message})"
        return
    if ours is not None:
        pool, device = uuid.UUID(bytes=ours.pool), uuid.UUID(bytes=ours.device)
        yield f"Tierce device {device} of pool {ours.pool_name} ({pool})"
    elif (name := label.read_name(head)) is not None:
        yield f"Tierce label {name!r} without a superblock"


def _partition_tables(head: bytes, tail: bytes) -> Iterator[str]:
    gpt = head[512:520] == b"EFI PART" or head[4096:4104] == b"EFI PART"
    backup = tail[-512:-504] == b"EFI PART" or tail[-4096:-4088] == b"EFI PART"
    if label.read_name(head) is not None:
        return
    if gpt:
        yield "GPT"
    elif backup:
        yield "GPT (only its backup)"
    if head[510:512] != b"\x55\xaa" or _is_fat(head) or head[3:11] in (b"NTFS    ", b"EXFAT   ", b"-FVE-FS-"):
        return
    entries = [head[446 + 16 * number : 462 + 16 * number] for number in range(4)]
    protective = gpt and any(entry[4] == 0xEE for entry in entries)
    if not protective and all(entry[0] in (0, 0x80) for entry in entries):
        yield "MBR partition table"


def _fixed(head: bytes, tail: bytes) -> Iterator[str]:
    for name, offset, magic in _FIXED:
        if head.startswith(magic, offset):
            yield name


def _ext(head: bytes, tail: bytes) -> Iterator[str]:
    if len(head) < 2048 or head[1080:1082] != b"\x53\xef":
        return
    block_size_shift = _u32(head, 1024 + 24)
    compatible, incompatible, read_only = (_u32(head, 1024 + at) for at in (0x5C, 0x60, 0x64))
    if block_size_shift > 6:
        return
    if incompatible & 0x8:
        yield "ext journal"
    elif incompatible & ~0x16 or read_only & ~0x7:  # beyond what ext2 and ext3 know: extents, 64bit, huge_file …
        yield "ext4"
    else:
        yield "ext3" if compatible & 0x4 else "ext2"


def _fat(head: bytes, tail: bytes) -> Iterator[str]:
    if _is_fat(head):
        yield "FAT"


def _luks(head: bytes, tail: bytes) -> Iterator[str]:
    if head.startswith(b"LUKS\xba\xbe"):
        yield f"LUKS {int.from_bytes(head[6:8], 'big')}"
    elif any(head.startswith(b"SKUL\xba\xbe", offset) for offset in _LUKS2_SPARE):
        yield "LUKS 2"


def _lvm(head: bytes, tail: bytes) -> Iterator[str]:
    if any(head.startswith(b"LABELONE", at) and head.startswith(b"LVM2", at + 24) for at in range(0, 2048, 512)):
        yield "LVM2 physical volume"


def _md(head: bytes, tail: bytes) -> Iterator[str]:
    magic = _MD.to_bytes(4, "little")
    for minor, offset in ((1, 0), (2, 4096)):
        if head.startswith(magic + b"\1\0\0\0", offset):
            yield f"MD RAID member 1.{minor}"
    if any(tail.startswith(b"\1\0\0\0", at + 4) for at in _find(tail, magic)):
        yield "MD RAID member 1.0"
    for order in ("little", "big"):
        old = b"".join(word.to_bytes(4, order) for word in (_MD, 0, 90))
        if any(True for _ in _find(tail, old)):
            yield "MD RAID member 0.90"


def _zfs(head: bytes, tail: bytes) -> Iterator[str]:
    labels = [head[start : start + _ZFS_LABEL] for start in (0, _ZFS_LABEL)]
    in_head = any(_has_nvlist(part[16 * KIB :]) or _has_uberblock(part[128 * KIB :]) for part in labels)
    last = tail[-3 * _ZFS_LABEL :]  # two labels, ending on a multiple of their size
    if in_head or _has_nvlist(last) or _has_uberblock(last):
        yield "ZFS label"


def _swap(head: bytes, tail: bytes) -> Iterator[str]:
    for page in (4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB):
        if head.startswith((b"SWAPSPACE2", b"SWAP-SPACE"), page - 10):
            yield "swap"


_PROBES: Final[tuple[Callable[[bytes, bytes], Iterator[str]], ...]] = (
    _ours,
    _partition_tables,
    _fixed,
    _ext,
    _fat,
    _luks,
    _lvm,
    _md,
    _zfs,
    _swap,
)


# ------------------------------------------------------------------------------------------------------------- leaves
def _u32(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 4], "little")


def _find(raw: bytes, magic: bytes) -> Iterator[int]:
    """Where `magic` stands at a multiple of 512 bytes from the end (device sizes are such multiples)."""
    at = raw.find(magic)
    while at >= 0:
        if (len(raw) - at) % 512 == 0:
            yield at
        at = raw.find(magic, at + 1)


def _is_fat(head: bytes) -> bool:
    """A boot sector whose BIOS parameter block makes sense, whatever its type string says."""
    if head[510:512] != b"\x55\xaa" or head[0:1] not in (b"\xeb", b"\xe9") or head[3:11] in (b"NTFS    ", b"EXFAT   "):
        return False
    if head[54:59] in (b"FAT12", b"FAT16") or head[82:87] == b"FAT32":
        return True
    bytes_per_sector, per_cluster, reserved, fats = struct.unpack_from("<HBHB", head, 11)
    return (
        bytes_per_sector in (512, 1024, 2048, 4096)
        and per_cluster.bit_count() == 1
        and reserved > 0
        and fats in (1, 2)
        and head[21] >= 0xF0
    )


def _has_nvlist(raw: bytes) -> bool:
    """The packed list of a ZFS label names these."""
    return b"pool_guid" in raw and b"vdev_tree" in raw


def _has_uberblock(raw: bytes) -> bool:
    return any(True for magic in _UBERBLOCKS for _ in _find(raw, magic))
