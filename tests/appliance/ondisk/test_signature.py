"""What others left on a device is recognised: as the real tools leave it, and by planted magics for the rest."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from pathlib import Path

import msgspec
import pytest

from appliance.limits import KIB, MIB
from appliance.ondisk import label, signature, superblock
from tests.appliance.ondisk.samples import DEVICE, POOL, SUPERBLOCK

pytestmark = pytest.mark.slow  # in all: most talk to real sockets or run real programs

SIZE = 512 * MIB
SBIN = os.pathsep.join(("/usr/sbin", "/sbin", os.environ.get("PATH", "")))


class Image:
    """A sparse device of which only the ends exist."""

    def __init__(self, size: int = SIZE) -> None:
        self.size = size
        self.head = bytearray(signature.HEAD)
        self.tail = bytearray(signature.TAIL)

    def plant(self, offset: int, content: bytes) -> Image:
        """Writes `content` at `offset` of the device; a negative one counts from the end."""
        at = offset if offset >= 0 else self.size + offset
        if at < len(self.head):
            self.head[at : at + len(content)] = content
        else:
            at -= self.size - len(self.tail)
            assert at >= 0
            self.tail[at : at + len(content)] = content
        assert len(self.head) == signature.HEAD
        assert len(self.tail) == signature.TAIL
        return self

    def names(self) -> list[str]:
        """What is recognised."""
        return signature.recognise(bytes(self.head), bytes(self.tail))


# What the tool is called -> its arguments before the device, and the name that we give to the result.
REQUIRED = {
    "mkfs.ext2": (["-q", "-F"], "ext2"),
    "mkfs.ext3": (["-q", "-F"], "ext3"),
    "mkfs.ext4": (["-q", "-F"], "ext4"),
    "mkswap": ([], "swap"),
}
OPTIONAL = {
    "mkfs.xfs": (["-q"], "XFS"),
    "mkfs.btrfs": (["-q"], "Btrfs"),
    "mkfs.f2fs": (["-q"], "F2FS"),
    "mkfs.vfat": ([], "FAT"),
    "mkfs.exfat": ([], "exFAT"),
    "mkntfs": (["-F", "-Q"], "NTFS"),
    "mkfs.minix": ([], "Minix"),
}
TOOLS = REQUIRED | {name: how for name, how in OPTIONAL.items() if shutil.which(name, path=SBIN)}


@pytest.mark.parametrize("tool", TOOLS)
def test_what_real_tools_leave(tool: str, tmp_path: Path) -> None:
    arguments, name = TOOLS[tool]
    device = tmp_path / "device"
    device.touch()
    os.truncate(device, SIZE)
    command = [shutil.which(tool, path=SBIN) or tool, *arguments, str(device)]
    subprocess.run(command, check=True, capture_output=True)
    with device.open("r+b") as file:
        head = file.read(signature.HEAD)
        file.seek(SIZE - signature.TAIL)
        assert signature.recognise(head, file.read()) == [name]
        assert signature.recognise(head[: 256 * KIB]) == [name]  # less is searched as far as it goes
        for offset, content in label.clear(SIZE):
            file.seek(offset)
            file.write(content)
        file.seek(0)
        head = file.read(signature.HEAD)
        file.seek(SIZE - signature.TAIL)
        assert signature.recognise(head, file.read()) == []


def lvm(sector: int) -> Image:
    return Image().plant(sector * 512, b"LABELONE" + bytes(16) + b"LVM2 001")


def fat(kind: bytes, at: int) -> Image:
    return Image().plant(0, b"\xeb\x3c\x90mkfs.fat").plant(at, kind).plant(510, b"\x55\xaa")


def mbr(*entries: bytes) -> Image:
    return Image().plant(0, b"\xfa\x33\xc0").plant(446, b"".join(entries)).plant(510, b"\x55\xaa")


def ext(compatible: int, incompatible: int, read_only: int) -> Image:
    flags = b"".join(word.to_bytes(4, "little") for word in (compatible, incompatible, read_only))
    return Image().plant(1080, b"\x53\xef").plant(1024 + 0x5C, flags)


MD = bytes.fromhex("fc4e2ba9")
MD_OLD = MD + bytes(4) + bytes([90, 0, 0, 0])
MD_OLD_BIG = bytes.fromhex("a92b4efc") + bytes(4) + bytes([0, 0, 0, 90])
NVLIST = b"\1\1\0\0" + bytes(8) + b"\0\0\0\7version" + bytes(20) + b"pool_guid" + bytes(90) + b"vdev_tree"
PARTITION = b"\x80\0\1\0\x83\xfe\xff\xff" + b"\0\x08\0\0\0\0\x10\0"

PLANTED: dict[str, tuple[Image, list[str]]] = {
    "nothing": (Image(), []),
    "noise": (Image().plant(0, bytes(range(1, 255)) * 400), []),
    "gpt": (Image().plant(512, b"EFI PART").plant(510, b"\x55\xaa").plant(450, b"\xee"), ["GPT"]),
    "gpt-4k": (Image().plant(4096, b"EFI PART"), ["GPT"]),
    "gpt-backup": (Image().plant(-512, b"EFI PART"), ["GPT (only its backup)"]),
    "gpt-backup-4k": (Image().plant(-4096, b"EFI PART"), ["GPT (only its backup)"]),
    "mbr": (mbr(PARTITION), ["MBR partition table"]),
    "mbr-empty": (mbr(), ["MBR partition table"]),
    "mbr-protective-only": (mbr(b"\0\0\2\0\xee\xff\xff\xff\1\0\0\0\xff\xff\x0f\0"), ["MBR partition table"]),
    "ext2": (ext(0x38, 0x2, 0x3), ["ext2"]),
    "ext3": (ext(0x3C, 0x2, 0x3), ["ext3"]),
    "ext4": (ext(0x3C, 0x2C2, 0x46B), ["ext4"]),
    "ext-journal": (ext(0, 0x8, 0), ["ext journal"]),
    "xfs": (Image().plant(0, b"XFSB\0\0\x10\0"), ["XFS"]),
    "btrfs": (Image().plant(65_600, b"_BHRfS_M"), ["Btrfs"]),
    "f2fs": (Image().plant(1024, bytes.fromhex("1020f5f2")), ["F2FS"]),
    "ntfs": (Image().plant(0, b"\xeb\x52\x90NTFS    ").plant(510, b"\x55\xaa"), ["NTFS"]),
    "exfat": (Image().plant(0, b"\xeb\x76\x90EXFAT   ").plant(510, b"\x55\xaa"), ["exFAT"]),
    "bitlocker": (Image().plant(0, b"\xeb\x58\x90-FVE-FS-").plant(510, b"\x55\xaa"), ["BitLocker"]),
    "fat12": (fat(b"FAT12   ", 54), ["FAT"]),
    "fat16": (fat(b"FAT16   ", 54), ["FAT"]),
    "fat32": (fat(b"FAT32   ", 82), ["FAT"]),
    "fat-without-name": (fat(b"\0\2\4\1\0\2\0\2\0\0\xf8", 11), ["FAT"]),
    "luks1": (Image().plant(0, b"LUKS\xba\xbe\0\1"), ["LUKS 1"]),
    "luks2": (Image().plant(0, b"LUKS\xba\xbe\0\2"), ["LUKS 2"]),
    "luks2-spare": (Image().plant(0x4000, b"SKUL\xba\xbe\0\2"), ["LUKS 2"]),
    "lvm-0": (lvm(0), ["LVM2 physical volume"]),
    "lvm-1": (lvm(1), ["LVM2 physical volume"]),
    "lvm-3": (lvm(3), ["LVM2 physical volume"]),
    "md-0.90": (Image().plant(-64 * KIB, MD_OLD), ["MD RAID member 0.90"]),
    "md-0.90-odd-size": (Image(SIZE + 512).plant(SIZE - 64 * KIB, MD_OLD), ["MD RAID member 0.90"]),
    "md-0.90-big": (Image().plant(-128 * KIB + 512, MD_OLD_BIG), ["MD RAID member 0.90"]),
    "md-1.0": (Image().plant(-8 * KIB, MD + b"\1\0\0\0"), ["MD RAID member 1.0"]),
    "md-1.1": (Image().plant(0, MD + b"\1\0\0\0"), ["MD RAID member 1.1"]),
    "md-1.2": (Image().plant(4096, MD + b"\1\0\0\0"), ["MD RAID member 1.2"]),
    "zfs-nvlist": (Image().plant(16 * KIB, NVLIST), ["ZFS label"]),
    "zfs-uberblock": (Image().plant(128 * KIB + 5 * KIB, bytes.fromhex("0cb1ba0000000000")), ["ZFS label"]),
    "zfs-uberblock-big": (Image().plant((256 + 128) * KIB, bytes.fromhex("0000000000bab10c")), ["ZFS label"]),
    "zfs-last-label": (Image().plant(-240 * KIB, NVLIST), ["ZFS label"]),
    "zfs-third-label": (Image().plant(-512 * KIB + 130 * KIB, bytes.fromhex("0cb1ba0000000000")), ["ZFS label"]),
    "swap-4k": (Image().plant(4086, b"SWAPSPACE2"), ["swap"]),
    "swap-64k": (Image().plant(65_526, b"SWAPSPACE2"), ["swap"]),
    "swap-old": (Image().plant(4086, b"SWAP-SPACE"), ["swap"]),
    "hibernated": (Image().plant(4086, b"S1SUSPEND\0"), ["hibernated swap"]),
    "bcache": (Image().plant(4120, bytes.fromhex("c68573f64e1a45ca8265f57f48ba6d81")), ["bcache"]),
    "bcachefs": (Image().plant(4120, bytes.fromhex("c68573f666ce90a9d96a60cf803df7ef")), ["bcachefs"]),
    "bluestore": (Image().plant(0, b"bluestore block device\n" + b"0" * 36), ["Ceph BlueStore"]),
    "two": (Image().plant(1024, bytes.fromhex("1020f5f2")).plant(65_600, b"_BHRfS_M"), ["Btrfs", "F2FS"]),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_signatures(name: str) -> None:
    image, expected = PLANTED[name]
    assert image.names() == expected


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1079, 4096, 70_000])
def test_the_ends_of_a_tiny_file_are_searched_as_far_as_they_go(size: int) -> None:
    for content in (bytes(size), b"\xff" * size, (b"\xeb\x3c\x90" + bytes(507) + b"\x55\xaa" + bytes(size))[:size]):
        assert "Tierce" not in "".join(signature.recognise(content, content))


@pytest.mark.parametrize("place", [1 * MIB, 1 * MIB + 64 * KIB, -2 * MIB, -2 * MIB + 64 * KIB, -2 * MIB - 512])
def test_a_device_of_ours_is_known_by_any_slot(place: int) -> None:
    image = Image().plant(place, superblock.encode(SUPERBLOCK))
    assert signature.tierce(bytes(image.head), bytes(image.tail)) == SUPERBLOCK
    (name,) = image.names()
    assert str(uuid.UUID(bytes=POOL)) in name
    assert str(uuid.UUID(bytes=DEVICE)) in name
    assert "häuschen" in name


def test_the_newest_of_our_superblocks_counts() -> None:
    newer = msgspec.structs.replace(SUPERBLOCK, generation=SUPERBLOCK.generation + 1)
    image = Image().plant(MIB, superblock.encode(SUPERBLOCK)).plant(-2 * MIB, superblock.encode(newer))
    assert signature.tierce(bytes(image.head), bytes(image.tail)) == newer


def test_a_device_of_a_later_program_is_not_free_for_the_taking() -> None:
    later = msgspec.structs.replace(SUPERBLOCK, incompatible=1 << 9)
    (name,) = Image().plant(MIB, superblock.encode(later)).names()
    assert name.startswith("Tierce device (")


def test_our_label_alone_is_not_free_for_the_taking() -> None:
    image = Image()
    for offset, content in label.protect(SIZE, 512, "tierce:a:b", disk=uuid.UUID(int=1), partition=uuid.UUID(int=2)):
        image.plant(offset, content)
    assert image.names() == ["Tierce label 'tierce:a:b' without a superblock"]
    image.plant(MIB, superblock.encode(SUPERBLOCK))
    assert len(image.names()) == 1
    assert signature.tierce(bytes(image.head), bytes(image.tail)) == SUPERBLOCK
