"""Journal records, segments, snapshot indexes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import Code, StoreError
from appliance.ondisk import record
from appliance.ondisk.damaged import DamagedError
from tests.appliance.ondisk.samples import COVERED, IMAGES, INDEX, POOL, PREVIOUS, encoded_record, flips
from tests.rows import rows

u32 = st.integers(0, (1 << 32) - 1)
u64 = st.integers(0, (1 << 64) - 1)
columns = (
    st.none()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=3000)
)
images = st.lists(
    st.builds(
        lambda table, op, rest: [table, op, *rest],
        st.integers(0, 30),
        st.sampled_from((record.PUT, record.DELETE)),
        st.lists(columns, max_size=8),
    ),
    max_size=12,
)
covered = st.lists(st.tuples(u32, u64), max_size=5)
sums = st.binary(min_size=16, max_size=16)


@given(epoch=u64, seq=u64, previous=sums, images=images, covered=covered, after=st.binary(max_size=100))
def test_round_trip(
    epoch: int, seq: int, previous: bytes, images: list[list[Any]], covered: list[tuple[int, int]], after: bytes
) -> None:
    encoded = record.encode(epoch, seq, previous, images, covered, pool=POOL)
    assert len(encoded) % 4096 == 0
    head = record.decode_head(encoded[:4096])
    assert head is not None
    assert (head.epoch, head.seq, head.previous) == (epoch, seq, previous)
    assert head.total_length == len(encoded)
    assert record.digest_of(encoded) == head.digest[:16]
    decoded = record.decode(encoded + after, pool=POOL)
    assert decoded == record.Record(head, images, covered)


def test_every_flipped_bit_is_found() -> None:
    encoded = encoded_record()
    head = record.decode_head(encoded)
    assert head is not None
    used = record.HEAD + head.body_length
    for damaged in flips(encoded, range(used * 8)):
        with pytest.raises(DamagedError):
            record.decode(damaged, pool=POOL)
    whole = record.decode(encoded, pool=POOL)
    for padded in flips(encoded, range(used * 8, len(encoded) * 8, 7)):
        assert record.decode(padded, pool=POOL) == whole  # the padding carries nothing


def test_a_torn_record_is_damaged() -> None:
    """Any sector of the record may be the one that did not arrive."""
    encoded = record.encode(1, 2, PREVIOUS, [[1, record.PUT, number.to_bytes(64, "big")] for number in range(200)], [])
    for sector in range(0, len(encoded) - 4096, 512):
        for old in (bytes(512), b"\xff" * 512):
            with pytest.raises(DamagedError):
                record.decode(encoded[:sector] + old + encoded[sector + 512 :])
        with pytest.raises(DamagedError):
            record.decode(encoded[:sector])


@pytest.mark.parametrize("length", [0, 1, 79])
def test_less_than_a_head_is_no_record(length: int) -> None:
    assert record.decode_head(encoded_record()[:length]) is None
    assert record.decode_head(bytes(4096)) is None


@pytest.mark.parametrize("body_length", [0, record.BODY_MAX + 1, (1 << 32) - 1])
def test_an_absurd_length_is_no_record(body_length: int) -> None:
    encoded = bytearray(encoded_record())
    encoded[24:28] = body_length.to_bytes(4, "little")
    assert record.decode_head(encoded) is None


def sealed(body: bytes, count: int) -> bytes:
    """A record whose digest holds around any body."""
    start = b"TIERCEJR" + bytes(16) + len(body).to_bytes(4, "little") + count.to_bytes(4, "little") + bytes(16)
    key = blake3(POOL, derive_key_context=record.KEY_CONTEXT).digest()
    return start + blake3(start + body, key=key).digest() + body


@rows(
    ("body", "count"),
    [
        (b"\xc1", 0),  # never used in MessagePack
        (b"\x92\x90", 0),  # cut
        (b"\x92\x90\x91\x91\x01", 0),  # a covered page without its offset
        (b"\x92\x91\x01\x90", 1),  # an image that is no list
        (b"\x92\x90\x90", 1),  # a wrong count
    ],
)
def test_a_whole_record_of_nonsense_is_damaged(body: bytes, count: int) -> None:
    with pytest.raises(DamagedError):
        record.decode(sealed(body, count), pool=POOL)
    assert record.decode(sealed(b"\x92\x90\x90", 0), pool=POOL).images == []


def test_a_record_of_another_pool_is_none_of_ours() -> None:
    """What an earlier pool left in the ring, or a client wrote into a small object to look like a record."""
    forged = record.encode(7, 1_002, record.digest_of(encoded_record()), IMAGES, [])
    elsewhere = record.encode(7, 1_002, record.digest_of(encoded_record()), IMAGES, [], pool=bytes([1]) * 16)
    for strange in (forged, elsewhere):
        with pytest.raises(DamagedError):
            record.decode(strange, pool=POOL)
    carrier = record.encode(7, 1_001, PREVIOUS, [[1, record.PUT, forged[:2048]]], [], pool=POOL)
    inside = carrier.index(record.MAGIC, 8)
    assert record.decode_head(carrier[inside:]) is not None
    with pytest.raises(DamagedError):
        record.decode(carrier[inside:], pool=POOL)


def test_a_batch_beyond_all_bounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "BODY_MAX", 1000)
    assert record.encode(1, 1, PREVIOUS, [[1, 0, bytes(900)]], [])
    with pytest.raises(StoreError) as caught:
        record.encode(1, 1, PREVIOUS, [[1, 0, bytes(1000)]], [])
    assert caught.value.code is Code.TOO_LARGE


@given(st.lists(images, max_size=6))
def test_segments_keep_records_and_their_chain(batches: list[list[list[Any]]]) -> None:
    ring: list[bytes] = []
    for number, batch in enumerate(batches):
        previous = record.digest_of(ring[-1]) if ring else bytes(16)
        ring.append(record.encode(3, 100 + number, previous, batch, []))
    segment = record.pack_segment(ring)
    assert list(record.unpack_segment(segment)) == [record.decode(each) for each in ring]
    assert len(segment) <= sum(map(len, ring))
    chained = list(record.unpack_segment(memoryview(segment)))
    for before, after in pairwise(chained):
        assert after.head.previous == before.head.digest[:16]
        assert after.head.seq == before.head.seq + 1


def test_a_damaged_segment_gives_what_comes_before_the_damage() -> None:
    segment = record.pack_segment([encoded_record(), encoded_record()])
    damaged = segment[:-1] + bytes([segment[-1] ^ 1])
    for cut in (damaged, segment[:-1], segment[: len(segment) // 2] + b"\0"):
        records = record.unpack_segment(cut, pool=POOL)
        assert next(records).images == IMAGES
        with pytest.raises(DamagedError):
            next(records)


pages = st.builds(record.IndexPage, u32, u64, u64, sums, u32, st.integers(0, 2), u32)
page_tuples = st.lists(pages, max_size=5).map(lambda each: tuple(each))
segments = st.lists(st.builds(record.Segment, u64, u64, u64, page_tuples), max_size=3).map(lambda each: tuple(each))


@given(st.builds(record.SnapshotIndex, u64, u64, u64, page_tuples, segments, st.integers(0, 5)))
def test_index_round_trip(index: record.SnapshotIndex) -> None:
    assert record.decode_index(record.encode_index(index)) == index


def test_every_flipped_bit_of_an_index_is_found() -> None:
    encoded = record.encode_index(INDEX)
    for damaged in flips(encoded, range(len(encoded) * 8)):
        with pytest.raises(DamagedError):
            record.decode_index(damaged)
    for length in (0, 47, len(encoded) - 1):
        with pytest.raises(DamagedError):
            record.decode_index(encoded[:length])


def test_an_index_of_nonsense_is_damaged() -> None:
    body = b"\x93\x01\x02\x03"
    whole = b"TIERCEIX" + b"\1\0\0\0" + len(body).to_bytes(4, "little") + blake3(body).digest() + body
    with pytest.raises(DamagedError):
        record.decode_index(whole)


def test_images_may_hold_views() -> None:
    encoded = record.encode(1, 1, PREVIOUS, [[1, 0, memoryview(b"view")], (2, 1, bytearray(b"key"))], COVERED)
    assert record.decode(encoded).images == [[1, 0, b"view"], [2, 1, b"key"]]
