"""Page headers: round trips, damage, identity, blocks."""

from __future__ import annotations

import msgspec
import pytest
from blake3 import blake3
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.limits import BLOCK, GATHER_MAX, PAGE_PAYLOAD
from appliance.ondisk import cipher, page
from appliance.ondisk.damaged import DamagedError
from appliance.ondisk.geometry import UNIT
from tests.appliance.ondisk.samples import DEVICE, LONG_PAGE, POOL, SHORT_PAGE, flips, page_header, payload
from tests.rows import rows

u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)
uuids = st.binary(min_size=16, max_size=16)
payloads = st.integers(1, PAGE_PAYLOAD)


@st.composite
def headers(draw: st.DrawFn) -> page.PageHeader:
    length = draw(payloads)
    flags = draw(u32)
    seal = cipher.seal_length(page.block_count(length)) if flags & page.SEALED else 0
    return page.PageHeader(
        pool=draw(uuids),
        device=draw(uuids),
        offset=draw(u64),
        birth=draw(u64),
        chunk=draw(u64),
        owner=draw(u64),
        logical=draw(u64),
        object_size=draw(u64),
        payload=length,
        units=page.extent_length(length) // UNIT,
        index=draw(u32),
        copies=draw(st.integers(1, 255)),
        flags=flags,
        mtime_ns=draw(st.integers(-(1 << 63), (1 << 63) - 1)),
        block_shift=16,
        sums=draw(st.binary(min_size=page.SUM, max_size=page.SUM)) * page.block_count(length),
        label=draw(st.binary(max_size=200)),
        seal=(bytes(range(256)) * 5)[:seal],
    )


@given(header=headers(), before=st.integers(0, 600))
def test_round_trip_anywhere_in_a_buffer(header: page.PageHeader, before: int) -> None:
    encoded = page.encode(header)
    assert len(encoded) == page.header_length(header.payload)
    assert page.decode(encoded) == header
    assert page.decode(bytearray(before) + encoded + b"more", before) == header
    assert page.header_sum(encoded) == blake3(encoded[:-32]).digest()[:16]


@given(length=payloads)
@example(length=1)
@example(length=BLOCK)
@example(length=GATHER_MAX)
@example(length=GATHER_MAX + 1)
@example(length=PAGE_PAYLOAD)
def test_lengths(length: int) -> None:
    assert page.small_header_fits(length) == (length <= 2 * BLOCK)
    assert page.header_length(length) == (512 if page.small_header_fits(length) else 4096)
    extent = page.extent_length(length)
    assert extent % UNIT == 0
    assert 0 <= extent - page.header_length(length) - length < UNIT
    assert page.block_count(length) == len(range(0, length, BLOCK))


@rows("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_blocks_are_proven_one_by_one(length: int) -> None:
    body = payload(length)
    header = msgspec.structs.replace(page_header(length), sums=page.block_sums(memoryview(body)))
    for index in range(page.block_count(length)):
        block = body[index * BLOCK : (index + 1) * BLOCK]
        assert page.bad_block(header, index, memoryview(block)) is None
        assert page.bad_block(header, index, memoryview(block[:-1])) == (index if len(block) > 1 else None)
        assert page.bad_block(header, index, memoryview(block + b"\1")) is not None
        assert page.bad_block(header, index, memoryview(bytes([block[0] ^ 1]) + block[1:])) == index
        assert page.bad_block(header, index, memoryview(body[index * BLOCK :])) is None


def test_the_first_bad_block_is_named() -> None:
    body = bytearray(payload(4 * BLOCK + 5))
    header = msgspec.structs.replace(page_header(len(body)), sums=page.block_sums(memoryview(body)))
    body[3 * BLOCK + 7] ^= 1
    body[4 * BLOCK] ^= 1
    view = memoryview(body)
    assert page.bad_block(header, 0, view) == 3
    assert page.bad_block(header, 0, view[: 3 * BLOCK]) is None
    assert page.bad_block(header, 2, view[2 * BLOCK :]) == 3
    assert page.bad_block(header, 4, view[4 * BLOCK :]) == 4
    assert page.bad_block(header, 1, view[: 2 * BLOCK]) == 1, "the right bytes in the wrong place"
    assert page.bad_block(header, 5, memoryview(b"x")) == 5, "beyond the page's end"


@pytest.mark.parametrize(("header", "step"), [(SHORT_PAGE, 1), (LONG_PAGE, 3)])
def test_every_flipped_bit_is_found(header: page.PageHeader, step: int) -> None:
    encoded = page.encode(header)
    for damaged in flips(encoded, range(0, len(encoded) * 8, step)):
        with pytest.raises(DamagedError):
            page.decode(damaged)


@pytest.mark.parametrize("header", [SHORT_PAGE, LONG_PAGE])
def test_a_cut_header_is_damaged(header: page.PageHeader) -> None:
    encoded = page.encode(header)
    for length in (0, 1, 127, 511, len(encoded) - 1):
        with pytest.raises(DamagedError):
            page.decode(encoded[:length])
    with pytest.raises(DamagedError):
        page.decode(encoded, 8)
    with pytest.raises(DamagedError):
        page.decode(bytes(4096))


@pytest.mark.parametrize("length", [2, GATHER_MAX, PAGE_PAYLOAD])
def test_a_long_label_is_cut_to_the_room_there_is(length: int) -> None:
    name = b"b" * 63 + b"\0" + b"k" * 5000
    kept = page.decode(page.encode(page_header(length, name))).label
    assert name.startswith(kept)
    assert len(kept) >= (280 if page.small_header_fits(length) else 63 + 1 + 1024)


def resealed(encoded: bytes, offset: int, replacement: bytes) -> bytes:
    """`encoded` as a program would have written it that puts `replacement` at `offset`."""
    content = bytearray(encoded[:-32])
    content[offset : offset + len(replacement)] = replacement
    return bytes(content) + blake3(content).digest()


@rows(
    ("offset", "replacement"),
    [
        (8, b"\1\0"),  # version
        (10, b"\0\x10"),  # header length beyond the buffer
        (10, b"\0\0"),
        (96, b"\xff\xff\xff\xff"),  # payload
        (100, b"\1\0\0\0"),  # units
        (109, b"\x0c"),  # block shift
        (110, b"\xff\xff"),  # block count
        (120, b"\xff\xff"),  # label length
    ],
)
def test_a_whole_header_of_nonsense_is_damaged(offset: int, replacement: bytes) -> None:
    with pytest.raises(DamagedError):
        page.decode(resealed(page.encode(SHORT_PAGE), offset, replacement))


def test_check_takes_the_page_that_was_meant() -> None:
    encoded = page.encode(SHORT_PAGE)
    hsum = page.header_sum(encoded)
    assert page.check(encoded, pool=POOL, device=DEVICE, offset=1 << 30, hsum=hsum) == SHORT_PAGE
    assert page.check(b"12345" + encoded, pool=POOL, device=DEVICE, offset=1 << 30, hsum=hsum, start=5) == SHORT_PAGE


@rows(
    ("field", "value", "says"),
    [
        ("pool", bytes(16), "another device"),
        ("device", bytes(16), "another device"),
        ("offset", (1 << 30) + 4096, "misdirected"),
        ("hsum", bytes(16), "catalogue"),
    ],
)
def test_check_refuses_a_whole_page_that_was_not_meant(field: str, value: object, says: str) -> None:
    encoded = page.encode(SHORT_PAGE)
    meant = {"pool": POOL, "device": DEVICE, "offset": 1 << 30, "hsum": page.header_sum(encoded), field: value}
    with pytest.raises(DamagedError, match=says):
        page.check(encoded, **meant)  # type: ignore[arg-type]


def test_a_lost_write_shows_by_its_header_sum() -> None:
    """The page that lay there before is whole and in its place: only the catalogue knows better."""
    before, after = page.encode(SHORT_PAGE), page.encode(msgspec.structs.replace(SHORT_PAGE, birth=78))
    with pytest.raises(DamagedError, match="catalogue"):
        page.check(before, pool=POOL, device=DEVICE, offset=1 << 30, hsum=page.header_sum(after))


def test_a_copy_has_the_header_that_is_made_for_its_place() -> None:
    for size in (1, PAGE_PAYLOAD):
        header = page_header(size)
        other = msgspec.structs.replace(header, device=bytes(range(16)), offset=7 << 40)
        assert page.moved(page.encode(header), other.device, other.offset) == page.encode(other)
