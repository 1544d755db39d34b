"""The protective label: by its own reader, by the rules of UEFI, and in the eyes of util-linux."""

from __future__ import annotations

import struct
import subprocess
import uuid
import zlib
from pathlib import Path

import pytest

from appliance.limits import MIB
from appliance.ondisk import label
from appliance.ondisk.geometry import SLOT, slot_offsets
from tests.appliance.ondisk.samples import flips
from tests.rows import rows

DISK = uuid.UUID("11111111-2222-3333-4444-555555555555")
PARTITION = uuid.UUID("66666666-7777-8888-9999-aaaaaaaaaaaa")
SIZES = (64 * MIB, 65 * MIB - 4096, 70 * MIB + 8192)


def writes(size: int, sector: int, name: str = "tierce:home:ssd0") -> list[tuple[int, bytes]]:
    """A label for a disk of `size`."""
    return label.protect(size, sector, name, disk=DISK, partition=PARTITION)


@pytest.mark.slow
@rows("sector", label.SECTORS)
@rows("size", SIZES)
def test_both_tables_hold_and_agree(size: int, sector: int) -> None:
    image = bytearray(size)
    for offset, content in writes(size, sector):
        image[offset : offset + len(content)] = content
    assert len(image) == size
    last = size // sector - 1
    headers = {}
    for own in (1, last):
        raw = bytes(image[own * sector : own * sector + 92])
        fields = struct.unpack("<8sIIIIQQQQ16sQIII", raw)
        assert fields[:3] == (b"EFI PART", 0x10000, 92)
        assert fields[3] == zlib.crc32(raw[:16] + bytes(4) + raw[20:])
        assert fields[5:7] == (own, last + 1 - own)
        array = bytes(image[fields[10] * sector : fields[10] * sector + 128 * 128])
        assert fields[13] == zlib.crc32(array)
        headers[own] = (fields[7:10], array)
    assert headers[1] == headers[last]
    (first_usable, last_usable, disk), array = headers[1]
    assert disk == DISK.bytes_le
    kind, partition, first, end, _, name = struct.unpack_from("<16s16sQQQ72s", array)
    assert (kind, partition) == (label.TYPE.bytes_le, PARTITION.bytes_le)
    assert name.decode("utf-16-le").rstrip("\0") == "tierce:home:ssd0"
    assert first_usable <= first
    assert end <= last_usable
    assert first * sector <= slot_offsets(size)[0]
    assert slot_offsets(size)[3] + SLOT <= (end + 1) * sector
    assert image[510:512] == b"\x55\xaa"
    assert image[450] == 0xEE


@rows("sector", label.SECTORS)
@rows("size", SIZES)
def test_a_label_touches_no_slot_and_no_page(size: int, sector: int) -> None:
    slots = slot_offsets(size)
    for offset, content in writes(size, sector):
        assert offset % 4096 == 0
        assert len(content) % sector == 0
        end = offset + len(content)
        assert end <= slots[0] or (offset >= slots[3] + SLOT and end == size)


@pytest.mark.parametrize("sector", label.SECTORS)
def test_the_name_is_read_back_unless_damaged(sector: int) -> None:
    head = dict(writes(64 * MIB, sector))[0]
    assert label.read_name(head) == "tierce:home:ssd0"
    assert label.read_name(head[:sector]) is None
    assert label.read_name(bytes(MIB)) is None
    table = head[: 2 * sector + 256]
    rest = head[2 * sector + 256 :]
    for damaged in flips(table, range(sector * 8, (sector + 92) * 8, 3)):
        assert label.read_name(damaged + rest) is None
    for damaged in flips(table, range(2 * sector * 8, (2 * sector + 128) * 8, 3)):
        assert label.read_name(damaged + rest) is None


def test_another_type_of_partition_is_not_ours() -> None:
    head = bytearray(dict(writes(64 * MIB, 512))[0])
    head[1024:1040] = uuid.uuid5(uuid.NAMESPACE_DNS, "example.org").bytes_le
    head[512 + 88 : 512 + 92] = zlib.crc32(head[1024 : 1024 + 128 * 128]).to_bytes(4, "little")
    head[512 + 16 : 512 + 20] = bytes(4)
    head[512 + 16 : 512 + 20] = zlib.crc32(head[512 : 512 + 92]).to_bytes(4, "little")
    assert label.read_name(bytes(head)) is None


@rows(
    ("pool", "device", "name"),
    [
        ("home", "ssd0", "tierce:home:ssd0"),
        ("p" * 40, "d", "tierce:" + "p" * 29),
        ("\N{SNOWMAN}" * 3, "d", "tierce:\N{SNOWMAN}\N{SNOWMAN}\N{SNOWMAN}:d"),
        ("\U0001f600" * 20, "d", "tierce:" + "\U0001f600" * 14),
    ],
)
def test_names_fit_an_entry(pool: str, device: str, name: str) -> None:
    assert label.name_of(pool, device) == name
    assert len(name.encode("utf-16-le")) <= 72
    assert label.read_name(dict(writes(64 * MIB, 512, name))[0]) == name


def probe(tool: str, *arguments: str) -> str:
    """What a util-linux tool says (they live in sbin, which need not be on the PATH)."""
    environment = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", "LC_ALL": "C"}
    return subprocess.run([tool, *arguments], env=environment, capture_output=True, text=True, check=True).stdout


def test_util_linux_sees_the_table_and_the_name(tmp_path: Path) -> None:
    disk, size = tmp_path / "disk", 64 * MIB
    with disk.open("wb") as file:
        file.truncate(size)
        for offset, content in writes(size, 512):
            file.seek(offset)
            file.write(content)
    assert 'PTTYPE="gpt"' in probe("blkid", "-p", str(disk))
    assert str(DISK) in probe("blkid", "-p", str(disk))
    signatures = probe("wipefs", "--no-act", "--noheadings", "--output", "OFFSET,TYPE", str(disk)).split()
    assert signatures == ["0x200", "gpt", hex(size - 512), "gpt", "0x1fe", "PMBR"]
    partition = probe("partx", "--show", "--noheadings", "--output", "START,END,UUID,NAME", str(disk)).split()
    assert partition == ["2048", str((slot_offsets(size)[2] + MIB) // 512 - 1), str(PARTITION), "tierce:home:ssd0"]
    with disk.open("r+b") as file:
        for offset, content in label.clear(size):
            file.seek(offset)
            file.write(content)
    assert probe("wipefs", "--no-act", str(disk)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_clearing_covers_labels_and_slots(size: int) -> None:
    image = bytearray(b"\xff" * size)
    for offset, content in label.clear(size):
        image[offset : offset + len(content)] = content
    assert len(image) == size
    for slot in slot_offsets(size):
        assert not any(image[slot : slot + SLOT])
    for offset, content in writes(size, 512):
        assert not any(image[offset : offset + len(content)])
