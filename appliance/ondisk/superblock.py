"""The superblock: who a device is, how it is divided, and where recovery starts.  FORMAT.md, "Superblock".

Four identical slots of 64 KiB hold it.  A new generation is written to slots 0 and 2, flushed, then to 1 and 3
(`WRITE_ORDER`): at every moment one whole pair is stable, and one of each pair lies at either end of the device.  The
highest generation whose digest holds wins.

The digest's place and extent (the last 32 bytes, over all before them) and the fields up to `generation` are the same
in every version for ever, so that any program can tell damage from a format that it does not know.

Nothing here reads or writes a device, or knows when a superblock has to change.  A changed one is made with
`msgspec.structs.replace`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, Literal, get_args

import msgspec
from blake3 import blake3

from appliance.errors import Code, StoreError
from appliance.ondisk.damaged import DamagedError
from appliance.ondisk.geometry import SLOT, UNIT, Geometry

MAGIC: Final = b"TIERCESB"
VERSION: Final = 2  # 1: unreleased programs, whose blocks had other sums
DIGEST: Final = 32

KNOWN_READ_ONLY: Final = 0  # features that a program without them may read but not write: none yet
SEALED_PAGES: Final = 1  # an incompatible feature: there may be pages whose payload is encrypted
KNOWN_INCOMPATIBLE: Final = SEALED_PAGES  # features that a program without them must not open

# Write both slots of a pair, flush, then the next pair, flush.
WRITE_ORDER: Final = ((0, 2), (1, 3))

FIELDS: Final = (
    ("magic", "8s"),
    ("version", "I"),
    ("body length", "I"),
    ("compatible features", "Q"),
    ("read-only features", "Q"),
    ("incompatible features", "Q"),
    ("generation", "Q"),
    ("pool", "16s"),
    ("device", "16s"),
    ("size", "Q"),
    ("region size", "Q"),
    ("ring start", "Q"),
    ("ring length", "Q"),
    ("pages start", "Q"),
    ("pages end", "Q"),
    ("epoch", "Q"),
    ("ring tail sequence", "Q"),
    ("ring tail offset", "Q"),
    ("applied sequence", "Q"),
    ("created", "q"),
    ("allocation unit", "I"),
    ("device number", "I"),
    ("tier", "B"),
    ("state", "B"),
    ("zero", "78x"),
)
_HEAD: Final = struct.Struct("<" + "".join(code for _, code in FIELDS))
BODY_OFFSET: Final = _HEAD.size
BODY_MAX: Final = SLOT - DIGEST - BODY_OFFSET
_PREFIX: Final = struct.Struct("<8sIIQQQQ")  # what never changes: magic … generation

Tier = Literal["blaze", "bulk"]
State = Literal["clean", "open", "failed"]
MemberState = Literal["online", "missing", "failed"]
_TIERS: Final[tuple[Tier, ...]] = get_args(Tier)  # on disk: the position, from 0
_STATES: Final[tuple[State, ...]] = get_args(State)


class SnapshotPointer(msgspec.Struct, frozen=True):
    """Where the newest catalogue snapshot's index is.

    `seq` is the last batch that the snapshot contains, `length` the bytes of its index payload, `pages` the copies of
    the index page: (device number, offset, extent length, header sum).
    """

    seq: int
    length: int
    pages: tuple[tuple[int, int, int, bytes], ...]


class Member(msgspec.Struct, frozen=True):
    """One device of the pool, as every other one remembers it.  `hint` (serial or path) is for people only."""

    id: int
    uuid: bytes
    tier: Tier
    size: int
    journal: bool
    state: MemberState = "online"
    hint: str = ""


class Superblock(msgspec.Struct, frozen=True, kw_only=True):
    """One device's superblock.  `pool` and `device` are 16-byte UUIDs; times are nanoseconds since 1970."""

    version: int = VERSION
    compatible: int = 0
    read_only_features: int = 0
    incompatible: int = 0
    generation: int
    pool: bytes
    device: bytes
    device_id: int  # the number by which the catalogue knows this device
    geometry: Geometry
    tier: Tier
    state: State
    epoch: int  # rises at every opening of the pool
    ring_tail_seq: int = 0  # the oldest record that recovery may need ...
    ring_tail_offset: int = 0  # ... and its offset from the ring's start
    applied_seq: int = 0  # everything up to here was in the catalogue at a clean close
    created_ns: int = 0
    # the body:
    pool_name: str
    copies: int = 1  # of a new bucket's bodies, unless it says otherwise
    members: tuple[Member, ...]
    snapshot: SnapshotPointer | None = None

    @property
    def read_only(self) -> bool:
        """True when a feature that this program does not know forbids writing."""
        return bool(self.read_only_features & ~KNOWN_READ_ONLY)

    @property
    def journal(self) -> bool:
        """True when this device carries a journal ring."""
        return self.geometry.ring_length > 0


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    """The variable part, as JSON so that a person with a hex editor can read it.  Unknown members are ignored."""

    pool_name: str
    copies: int
    members: tuple[Member, ...]
    snapshot: SnapshotPointer | None


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(_Body)


def encode(superblock: Superblock) -> bytes:
    """The 64 KiB of one slot.  Raises TOO_LARGE when the members do not fit (some 300 devices do)."""
    sb, zones = superblock, superblock.geometry
    assert len(sb.pool) == 16
    assert len(sb.device) == 16
    assert zones.is_sound(), zones
    body = _encoder.encode(_Body(pool_name=sb.pool_name, copies=sb.copies, members=sb.members, snapshot=sb.snapshot))
    if len(body) > BODY_MAX:
        raise StoreError(Code.TOO_LARGE, f"a superblock cannot hold {len(sb.members)} devices")
    head = _HEAD.pack(
        MAGIC,
        sb.version,
        len(body),
        sb.compatible,
        sb.read_only_features,
        sb.incompatible,
        sb.generation,
        sb.pool,
        sb.device,
        zones.size,
        zones.region_size,
        zones.ring_start,
        zones.ring_length,
        zones.pages_start,
        zones.pages_end,
        sb.epoch,
        sb.ring_tail_seq,
        sb.ring_tail_offset,
        sb.applied_seq,
        sb.created_ns,
        UNIT,
        sb.device_id,
        _TIERS.index(sb.tier),
        _STATES.index(sb.state),
    )
    content = (head + body).ljust(SLOT - DIGEST, b"\0")
    return content + blake3(content).digest()


def decode(slot: bytes) -> Superblock:
    """The superblock in the 64 KiB of one slot.

    Raises DamagedError when it is none or is damaged; OLD_FORMAT when it is whole but of a version, or with an
    incompatible feature, that this program does not know.
    """
    generation = _generation(slot)
    _, version, length, compatible, read_only, incompatible, _ = _PREFIX.unpack_from(slot)
    if version != VERSION:
        age = "an older" if version < VERSION else "a newer"
        raise StoreError(
            Code.OLD_FORMAT,
            f"the device was written by {age} version of Tierce: it has format {version}, and this program knows"
            f" {VERSION}; nothing was changed",
        )
    if unknown := incompatible & ~KNOWN_INCOMPATIBLE:
        raise StoreError(
            Code.OLD_FORMAT, f"the device uses features that this program does not know (bits {unknown:#x})"
        )
    (
        *_,
        pool,
        device,
        size,
        region_size,
        ring_start,
        ring_length,
        pages_start,
        pages_end,
        epoch,
        tail_seq,
        tail_offset,
        applied_seq,
        created_ns,
        unit,
        device_id,
        tier,
        state,
    ) = _HEAD.unpack_from(slot)
    geometry = Geometry(size, region_size, ring_start, ring_length, pages_start, pages_end)
    if unit != UNIT or not geometry.is_sound() or tier >= len(_TIERS) or state >= len(_STATES) or length > BODY_MAX:
        raise DamagedError("superblock: fields out of bounds")
    try:
        body = _decoder.decode(slot[BODY_OFFSET : BODY_OFFSET + length])
    except msgspec.MsgspecError as error:
        raise DamagedError(f"superblock: body: {error}") from error
    return Superblock(
        version=version,
        compatible=compatible,
        read_only_features=read_only,
        incompatible=incompatible,
        generation=generation,
        pool=pool,
        device=device,
        device_id=device_id,
        geometry=geometry,
        tier=_TIERS[tier],
        state=_STATES[state],
        epoch=epoch,
        ring_tail_seq=tail_seq,
        ring_tail_offset=tail_offset,
        applied_seq=applied_seq,
        created_ns=created_ns,
        pool_name=body.pool_name,
        copies=body.copies,
        members=body.members,
        snapshot=body.snapshot,
    )


def choose(slots: Sequence[bytes]) -> Superblock | None:
    """The superblock of the highest generation among the undamaged `slots`; None if there is none.

    Raises OLD_FORMAT when that one is of a format that this program does not know: an older slot beside it must not be
    taken for the truth.
    """
    newest: tuple[int, bytes] | None = None
    for slot in slots:
        try:
            generation = _generation(slot)
        except DamagedError:  # torn, never written, or rotten: the other slots answer for it
            continue
        if newest is None or generation > newest[0]:
            newest = generation, slot
    return None if newest is None else decode(newest[1])


def _generation(slot: bytes) -> int:
    """The generation of an undamaged slot of any version.  Raises DamagedError."""
    if len(slot) != SLOT:
        raise DamagedError("superblock: short")
    if slot[:8] != MAGIC:
        raise DamagedError("superblock: no magic")
    if blake3(slot[:-DIGEST]).digest() != slot[-DIGEST:]:
        raise DamagedError("superblock: digest")
    generation: int = _PREFIX.unpack_from(slot)[-1]
    return generation
