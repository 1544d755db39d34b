"""FORMAT.md says what the code does, and what was once written is read for ever."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from appliance.ondisk import cipher, geometry, label, page, record, superblock
from tests.appliance.ondisk import samples
from tests.rows import rows

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden"
TEXT = (ROOT / "appliance" / "ondisk" / "FORMAT.md").read_text("utf-8")

TABLES = {
    "GPT header": label.HEADER_FIELDS,
    "superblock": superblock.FIELDS,
    "page header": page.FIELDS,
    "seal": cipher.FIELDS,
    "journal record": record.FIELDS,
    "snapshot index": record.INDEX_FIELDS,
}


def documented(heading: str) -> list[tuple[int, int, str]]:
    """(offset, size, field) of the table under "### Fields of the <heading>"."""
    section = TEXT.split(f"### Fields of the {heading}\n", 1)[1]
    rows = []
    for line in section.lstrip("\n").splitlines():
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].isdigit():
            rows.append((int(cells[0]), int(cells[1]), cells[2]))
    return rows


@rows("heading", TABLES)
def test_tables_agree_with_the_code(heading: str) -> None:
    expected, offset = [], 0
    for name, code in TABLES[heading]:
        expected.append((offset, struct.calcsize("<" + code), name))
        offset += struct.calcsize("<" + code)
    assert documented(heading) == expected


def test_every_table_of_fields_is_compared() -> None:
    assert set(re.findall(r"^### Fields of the (.+)$", TEXT, re.MULTILINE)) == set(TABLES)


def test_numbers_in_the_text_agree_with_the_code() -> None:
    assert str(label.TYPE) in TEXT
    for module in (superblock, page, record):
        assert f"`{module.MAGIC.decode()}`" in TEXT
    assert f"`{record.INDEX_MAGIC.decode()}`" in TEXT
    assert f"`{record.KEY_CONTEXT}`" in TEXT
    assert geometry.SIZE_MIN == 64 << 20
    assert "Least size 64 MiB" in TEXT
    assert geometry.UNIT == 4 << 10
    assert "allocation unit is 4 KiB" in TEXT
    assert superblock.BODY_OFFSET == 256
    assert page.SUMS_OFFSET == 128
    assert record.HEAD == 80
    assert f"# The format on devices, version {superblock.VERSION}\n" in TEXT


@rows("name", samples.GOLDEN)
def test_todays_writer_makes_the_golden_bytes(name: str) -> None:
    assert samples.GOLDEN[name]() == (GOLDEN / name).read_bytes()


def test_todays_reader_reads_the_golden_bytes() -> None:
    def golden(name: str) -> bytes:
        return (GOLDEN / name).read_bytes()

    assert superblock.decode(golden("superblock-2.bin")) == samples.SUPERBLOCK
    assert page.decode(golden("page-short-2.bin")) == samples.SHORT_PAGE
    assert page.decode(golden("page-long-2.bin")) == samples.LONG_PAGE
    header, ciphertext = samples.SEALED_PAGE
    assert page.decode(golden("page-sealed-2.bin")) == header
    body = bytearray(golden("page-sealed-2.bin")[page.header_length(header.payload) :])
    assert body == ciphertext
    cipher.unseal(samples.SEALED_KEY.secret, header.seal, header.chunk, header.index, 0, memoryview(body))
    assert body == samples.payload(header.payload)
    one = record.decode(golden("record-1.bin"), pool=samples.POOL)
    assert (one.head.epoch, one.head.seq, one.head.previous) == (7, 1_001, samples.PREVIOUS)
    assert (one.images, one.covered) == (samples.IMAGES, samples.COVERED)
    assert list(record.unpack_segment(golden("segment-1.bin"), pool=samples.POOL)) == [one, one]
    assert record.decode_index(golden("snapshot-index-2.bin")) == samples.INDEX
    for sector in label.SECTORS:
        head = golden(f"label-{sector}-1.bin").ljust(1 << 20, b"\0")
        assert label.read_name(head) == "tierce:häuschen:ssd0"
