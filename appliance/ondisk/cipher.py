"""Sealing the payload of a page: AES-256-GCM, block by block.  FORMAT.md, "Sealed pages".

    subkey  = BLAKE3, keyed with the data key, of (salt, chunk, part)
    block n = AES-256-GCM(subkey, nonce n, no associated data); its tag lies in the page's header, beside the salt

A block of 64 KiB can be opened alone, so a range costs what it costs in clear.  Digests are of the ciphertext: whoever
checks, copies or recovers a page needs no key, and all copies of a page hold the same bytes.

No (subkey, nonce) ever seals twice.  Within a page every block has a number of its own.  Every page that is written
draws 16 random bytes of salt, hence a subkey of its own: also a page that is written again after a crash, which may
get the chunk number, the part and even the place of one that was forgotten.  That two of 2^40 pages draw the same salt
under one data key has a probability below 2^-48, and then chunk or part must be the same as well.

A wrong key, a changed bit of ciphertext, tag or salt, and a block moved to another number, page or chunk do not open.

Deliberately unknown here: where data keys come from, and chance: the salt is the caller's.
"""

from __future__ import annotations

import struct
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM

from appliance.limits import BLOCK
from appliance.model import DataKey
from appliance.ondisk.damaged import DamagedError

SALT: Final = 16
TAG: Final = 16
SUBKEY: Final = 32

FIELDS: Final = (("data key", "q"), ("salt", "16s"))
_HEAD: Final = struct.Struct("<" + "".join(code for _, code in FIELDS))
_BOUND: Final = struct.Struct("<16sQI")
HEAD: Final = _HEAD.size


def seal_length(blocks: int) -> int:
    """Bytes that a page of so many blocks needs for its seal: the number of the data key, the salt, the tags."""
    return HEAD + blocks * TAG


def key_of(seal: bytes) -> int:
    """The number of the data key; model.CUSTOMER if it is the customer's."""
    number: int = _HEAD.unpack_from(seal)[0]
    return number


def seal(key: DataKey, salt: bytes, chunk: int, part: int, payload: memoryview) -> bytes:
    """Encrypts a page's payload in place; its seal.  `salt` must be fresh chance."""
    assert len(salt) == SALT
    algorithm = AES256(_subkey(key.secret, salt, chunk, part))
    tags = []
    for number in range(-(-len(payload) // BLOCK)):
        block = payload[number * BLOCK : (number + 1) * BLOCK]
        encryptor = Cipher(algorithm, GCM(_nonce(number))).encryptor()
        encryptor.update_into(block, block)
        encryptor.finalize()
        tags.append(encryptor.tag)
    return _HEAD.pack(key.id, salt) + b"".join(tags)


def unseal(secret: bytes, seal: bytes, chunk: int, part: int, first: int, blocks: memoryview) -> None:
    """Decrypts whole blocks in place, the first of which has number `first`.

    Raises DamagedError when one does not open; `blocks` holds nothing usable then.
    """
    _, salt = _HEAD.unpack_from(seal)
    algorithm = AES256(_subkey(secret, salt, chunk, part))
    number = first
    for start in range(0, len(blocks), BLOCK):
        block = blocks[start : start + BLOCK]
        at = HEAD + number * TAG
        decryptor = Cipher(algorithm, GCM(_nonce(number), seal[at : at + TAG])).decryptor()
        decryptor.update_into(block, block)
        try:
            decryptor.finalize()
        except InvalidTag:
            raise DamagedError(f"page: block {number} does not open with data key {key_of(seal)}") from None
        number += 1


def _subkey(secret: bytes, salt: bytes, chunk: int, part: int) -> bytes:
    return blake3(_BOUND.pack(salt, chunk, part), key=secret).digest(length=SUBKEY)


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
