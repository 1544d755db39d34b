"""Sealed payloads: round trips, and nothing that was touched opens."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.limits import BLOCK, PAGE_PAYLOAD
from appliance.model import CUSTOMER, DataKey
from appliance.ondisk import cipher, page
from appliance.ondisk.damaged import DamagedError
from tests.appliance.ondisk.samples import SEALED_KEY, flips, page_header, payload

KEY = DataKey(7, bytes(range(32)))
SALT = bytes(range(16, 32))


def sealed(body: bytes, key: DataKey = KEY, salt: bytes = SALT, chunk: int = 5, part: int = 1) -> tuple[bytes, bytes]:
    room = bytearray(body)
    seal = cipher.seal(key, salt, chunk, part, memoryview(room))
    return bytes(room), seal


def opened(ciphertext: bytes, seal: bytes, secret: bytes = KEY.secret, first: int = 0, chunk: int = 5) -> bytes:
    room = bytearray(ciphertext)
    cipher.unseal(secret, seal, chunk, 1, first, memoryview(room))
    return bytes(room)


@given(
    body=st.binary(min_size=1, max_size=300),
    lead=st.sampled_from([0, BLOCK - 100, 2 * BLOCK]),
    secret=st.binary(min_size=32, max_size=32),
    number=st.sampled_from([CUSTOMER, 1, (1 << 63) - 1]),
)
@example(body=b"x", lead=PAGE_PAYLOAD - 1, secret=bytes(32), number=1)
def test_what_was_sealed_opens_whole_and_by_block(body: bytes, lead: int, secret: bytes, number: int) -> None:
    body = payload(lead) + body
    ciphertext, seal = sealed(body, DataKey(number, secret))
    assert len(ciphertext) == len(body)
    assert len(seal) == cipher.seal_length(page.block_count(len(body)))
    assert cipher.key_of(seal) == number
    assert opened(ciphertext, seal, secret) == body
    last = (len(body) - 1) // BLOCK
    assert opened(ciphertext[last * BLOCK :], seal, secret, last) == body[last * BLOCK :]


def test_it_is_what_it_says_it_is() -> None:
    """The stored bytes are those of the one-shot AES-GCM interface under the documented subkey."""
    body = payload(BLOCK + 9)
    ciphertext, seal = sealed(body)
    gcm = AESGCM(cipher._subkey(KEY.secret, SALT, 5, 1))
    for number, block in enumerate((body[:BLOCK], body[BLOCK:])):
        joined = gcm.encrypt(number.to_bytes(12, "big"), block, None)
        assert ciphertext[number * BLOCK : number * BLOCK + len(block)] == joined[: len(block)]
        assert seal[24 + number * 16 : 40 + number * 16] == joined[len(block) :]


@pytest.mark.parametrize("size", [1, 40])
def test_any_flipped_bit_of_ciphertext_salt_and_tag_is_an_error(size: int) -> None:
    ciphertext, seal = sealed(payload(size))
    for changed in flips(ciphertext, range(8 * len(ciphertext))):
        with pytest.raises(DamagedError):
            opened(changed, seal)
    for changed in flips(seal, range(8 * 8, 8 * len(seal))):  # the first eight bytes only say which key
        with pytest.raises(DamagedError):
            opened(ciphertext, changed)


def test_another_key_place_or_length_does_not_open() -> None:
    body = payload(2 * BLOCK + 50)
    ciphertext, seal = sealed(body)
    first, second, rest = ciphertext[:BLOCK], ciphertext[BLOCK : 2 * BLOCK], ciphertext[2 * BLOCK :]
    wrong: list[tuple[str, bytes, bytes, int, int]] = [
        ("another key", ciphertext, bytes(32), 0, 5),
        ("another chunk", ciphertext, KEY.secret, 0, 6),
        ("blocks that changed places", second + first + rest, KEY.secret, 0, 5),
        ("a block under another number", second, KEY.secret, 0, 5),
        ("a shorter last block", rest[:-1], KEY.secret, 2, 5),
        ("a longer last block", rest + b"\0", KEY.secret, 2, 5),
    ]
    for what, data, secret, start, chunk in wrong:
        with pytest.raises(DamagedError):
            opened(data, seal, secret, start, chunk)
            pytest.fail(what)
    with pytest.raises(DamagedError):
        cipher.unseal(KEY.secret, seal, 5, 2, 0, memoryview(bytearray(ciphertext)))  # another part of the chunk


def test_equal_bytes_in_other_pages_and_blocks_are_not_equal_sealed() -> None:
    body = payload(64) * (2 * BLOCK // 64)
    images = {
        sealed(body, salt=salt, chunk=chunk, part=part)[0][start : start + BLOCK]
        for salt in (SALT, bytes(16))
        for chunk in (1, 2)
        for part in (0, 1)
        for start in (0, BLOCK)
    }
    assert len(images) == 16


def test_a_sealed_page_keeps_its_seal() -> None:
    """The greatest page: sums, tags and a long name share the header; the name gives way."""
    for size in (1, 2 * BLOCK, 2 * BLOCK + 1, PAGE_PAYLOAD):
        ciphertext, seal = sealed(payload(size))
        header = msgspec.structs.replace(
            page_header(size, label=b"n" * 1500),
            flags=page.SEALED | page.LAST,
            sums=page.block_sums(ciphertext),
            seal=seal,
        )
        encoded = page.encode(header)
        assert len(encoded) == page.header_length(size)
        found = page.decode(encoded)
        assert (found.seal, found.sums, found.flags) == (seal, header.sums, header.flags)
        assert set(found.label) == {ord("n")}
        assert len(found.label) >= 200


def test_a_key_shows_nothing_of_itself() -> None:
    assert repr(SEALED_KEY) == "DataKey(3)"
    assert SEALED_KEY.secret.hex() not in f"{SEALED_KEY!r}{SEALED_KEY}"
