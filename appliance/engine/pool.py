"""The pool: its devices, their superblocks, and verified reading and writing of pages.

Everything that touches a device for the engine goes through here, so that counting errors, fencing a device and
checking a page are each in one place.  All verbs that move bytes block: they run in worker threads.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from appliance.device.buffers import BufferPool, scratch
from appliance.device.device import BlockDevice
from appliance.errors import Code, StoreError
from appliance.limits import BLOCK, BUFFER_COUNT, GATHER_MAX, HEADER_CACHE, PAGE_PAYLOAD
from appliance.model import CUSTOMER
from appliance.ondisk import cipher, page
from appliance.ondisk.damaged import DamagedError
from appliance.ondisk.geometry import SLOT, UNIT, Geometry, round_up
from appliance.ondisk.page import LONG, PageHeader
from appliance.ondisk.superblock import SEALED_PAGES, WRITE_ORDER, Member, SnapshotPointer, State, Superblock, Tier
from appliance.ondisk.superblock import encode as encode_superblock
from appliance.space.allocator import Allocator
from appliance.space.placement import Candidate, place

log = logging.getLogger(__name__)


class PageRef(NamedTuple):
    """A page as the catalogue names it."""

    device: int
    offset: int
    length: int
    part: int  # which part of the chunk
    hsum: bytes
    chunk: int | None = None  # if given, the page must be this chunk's: a row may be damaged like a page


class PoolDevice:
    """One member.  `state`: online, missing (not attached) or failed (fenced: read, never written)."""

    def __init__(
        self,
        number: int,
        uuid: bytes,
        tier: Tier,
        geometry: Geometry,
        device: BlockDevice | None,
        path: str,
        state: str,
    ) -> None:
        self.id = number
        self.uuid = uuid
        self.tier: Tier = tier
        self.geometry = geometry
        self.device = device
        self.path = path
        self.state = state
        self.read_errors = 0
        self.checksum_errors = 0
        self.write_errors = 0

    @property
    def journal(self) -> bool:
        """True when it carries a journal ring."""
        return self.geometry.ring_length > 0

    @property
    def online(self) -> bool:
        """True when it may be written."""
        return self.state == "online" and self.device is not None


class Pool:
    """An open pool.  Built by engine.startup; `close` closes the devices."""

    def __init__(
        self,
        *,
        uuid: bytes,
        name: str,
        copies: int,
        devices: Iterable[PoolDevice],
        generation: int,
        epoch: int,
        created_ns: int,
        buffers: int = BUFFER_COUNT,
    ) -> None:
        self.uuid = uuid
        self.name = name
        self.copies = copies
        self.devices = {device.id: device for device in devices}
        self.generation = generation
        self.epoch = epoch
        self.created_ns = created_ns
        self.features = 0  # incompatible ones that are in use (superblock.py)
        self.snapshot: SnapshotPointer | None = None
        self.tail_seq = 1
        self.tail_offset = 0
        self.allocator = Allocator(threading.Lock())
        self.buffers = BufferPool(buffers, LONG + PAGE_PAYLOAD)
        self.failovers = 0
        self.data_key: Callable[[int], bytes] = _no_data_key  # who has the box's keys puts itself here
        self.closing: list[Callable[[], None]] = []  # what the pool's end also ends
        self.told: frozenset[int] = frozenset()  # the journals that a later start will take for the keepers (I13)
        self.note: Callable[[], None] = lambda: None  # says it in the state directory; may raise UNAVAILABLE
        self._turn = 0
        self._rows: Any = None
        self._headers: OrderedDict[tuple[int, int, bytes], PageHeader] = OrderedDict()
        self._headers_lock = threading.Lock()
        self._superblock_lock = threading.Lock()

    # ------------------------------------------------------------------ members
    @property
    def journals(self) -> list[PoolDevice]:
        """Members that carry the journal and may be written."""
        return [device for device in self.devices.values() if device.journal and device.online]

    def is_online(self, device: int) -> bool:
        """Whether a device, by its number, may be written."""
        found = self.devices.get(device)
        return found is not None and found.online

    @property
    def ring_length(self) -> int:
        """Of every journal: the shortest one's."""
        lengths = [device.geometry.ring_length for device in self.devices.values() if device.journal]
        return min(lengths) if lengths else 0

    def add_space(self, used: Callable[[PoolDevice], dict[int, int]], rows: Any) -> None:
        """Derives the free space of every member from what the catalogue claims (I7)."""
        self._rows = rows
        for device in self.devices.values():
            self._add_zone(device, used(device))

    def _add_zone(self, device: PoolDevice, used: dict[int, int]) -> None:
        zones = device.geometry
        self.allocator.add(device.id, zones.pages_start, zones.pages_end, zones.region_size, used, self._rows)
        if not device.online:
            self.allocator.fence(device.id)

    def admit(self, device: PoolDevice) -> None:
        """A new, empty member.  Its superblock and everybody else's are written before it is used."""
        assert device.id not in self.devices
        self.devices[device.id] = device
        self._add_zone(device, {})
        self.write_superblocks()

    def fence(self, device: PoolDevice, error: BaseException) -> None:
        """A write or flush failed: nothing more is written there until it was reopened and checked."""
        device.write_errors += 1
        if device.state == "failed":
            return
        log.error("device %s (%s) failed and takes no more writes: %s", device.id, device.path, error)
        device.state = "failed"
        if self._rows is not None and device.id in self.devices:  # else `_add_zone` will
            self.allocator.fence(device.id)

    def place(self, copies: int, length: int, announced: int | None = None) -> list[int]:
        """Distinct devices for the copies of a body.  Raises NO_SPACE, UNAVAILABLE."""
        self._turn += 1
        allocator = self.allocator
        candidates = [
            Candidate(device.id, device.tier, allocator.free(device.id), allocator.size(device.id), device.online)
            for device in self.devices.values()
        ]
        return place(candidates, copies, length, announced=announced, turn=self._turn)

    # ------------------------------------------------------------------ superblocks
    def write_superblocks(self, state: State = "open", applied_seq: int = 0) -> frozenset[int]:
        """A new generation on every member that can be written, in the order that keeps one pair whole.  The numbers of
        the journals that it names as keepers.

        A member that fails is fenced, and the rest are written again without it: all say who is left.  Raises IO_ERROR
        when that is no journal; none is then said to be without.
        """
        with self._superblock_lock:
            while True:
                targets = sorted(
                    (each for each in self.devices.values() if each.online), key=lambda each: not each.journal
                )
                if not any(device.journal for device in targets):
                    raise StoreError(Code.IO_ERROR, "no journal device could be written")
                self.generation += 1
                members = self._members()
                for pair in WRITE_ORDER:
                    for device in targets:
                        self._write_pair(device, pair, self._superblock(device, members, state, applied_seq))
                if all(device.online for device in targets):
                    return frozenset(device.id for device in targets if device.journal)

    def tell(self) -> None:
        """Which journals may be written is said wherever a start without them looks (I13).  In the writer's thread, or
        while there is none.  Raises IO_ERROR when no journal is left, UNAVAILABLE when the note cannot be written."""
        self.told = frozenset()
        named = self.write_superblocks()
        self.note()
        self.told = named  # another thread may have found one of them failed since: then it is to be told again

    def declare_sealed(self) -> None:
        """Sealed pages may follow: a program that would take them for plain ones must not open the pool any more.
        Where no batch is under way.  Raises IO_ERROR."""
        if not self.features & SEALED_PAGES:
            self.features |= SEALED_PAGES
            try:
                self.write_superblocks()
            except StoreError:
                self.features &= ~SEALED_PAGES
                raise

    @property
    def sealed(self) -> bool:
        """Whether `declare_sealed` was ever called."""
        return bool(self.features & SEALED_PAGES)

    def _write_pair(self, device: PoolDevice, pair: Sequence[int], superblock: Superblock) -> None:
        if device.device is None or not device.online:
            return
        image = encode_superblock(superblock)
        slots = device.geometry.slots()
        try:
            with scratch(SLOT) as buffer:
                buffer[:] = image
                for slot in pair:
                    device.device.write(slots[slot], buffer)
            device.device.flush()
        except OSError as error:
            self.fence(device, error)

    def _members(self) -> tuple[Member, ...]:
        return tuple(
            Member(
                member.id,
                member.uuid,
                member.tier,
                member.geometry.size,
                member.journal,
                "online" if member.online else "failed" if member.state == "failed" else "missing",
                os.path.basename(member.path),
            )
            for member in self.devices.values()
        )

    def _superblock(
        self, device: PoolDevice, members: tuple[Member, ...], state: State, applied_seq: int
    ) -> Superblock:
        return Superblock(
            incompatible=self.features,
            generation=self.generation,
            pool=self.uuid,
            device=device.uuid,
            device_id=device.id,
            geometry=device.geometry,
            tier=device.tier,
            state=state,
            epoch=self.epoch,
            ring_tail_seq=self.tail_seq,
            ring_tail_offset=self.tail_offset,
            applied_seq=applied_seq,
            created_ns=self.created_ns,
            pool_name=self.name,
            copies=self.copies,
            members=members,
            snapshot=self.snapshot,
        )

    # ------------------------------------------------------------------ pages
    def read_page_part(
        self,
        ref: PageRef,
        start: int,
        end: int,
        into: memoryview,
        *,
        whole_blocks: bool = False,
        customer: bytes | None = None,
        in_clear: bool = True,
    ) -> memoryview:
        """Payload bytes [start, end) of one copy, verified block by block; the view lies within `into`.

        With `whole_blocks` the view begins at the first byte of the first block and ends with the last block: what was
        verified anyway.  `into` must be aligned and hold `page_room(start, end)`.  What is sealed is opened, by
        `customer` where it is a customer's, unless it is only to be verified and not `in_clear`.  Raises DamagedError
        or OSError: never a wrong byte; StoreError where a key is not here.
        """
        device = self.devices.get(ref.device)
        if device is None or device.device is None:
            raise OSError(f"device {ref.device} is missing")
        if ref.length <= page.extent_length(GATHER_MAX):
            assert not whole_blocks, "a small page is remembered whole"
            return self._read_small(device, ref, start, end, into, customer, in_clear)
        header = self.proven_header(device, ref)
        low = start // BLOCK * BLOCK
        high = min(-(-end // BLOCK) * BLOCK, header.payload)
        if not start <= end <= header.payload:
            raise DamagedError("page: shorter than the catalogue says")
        room = into[: round_up(high - low)]
        device.device.read_into(ref.offset + LONG + low, room)
        _require_sound(header, low // BLOCK, room[: high - low])
        if header.seal and in_clear:
            self._unseal(header, low // BLOCK, room[: high - low], customer)
        return room[: high - low] if whole_blocks else room[start - low : end - low]

    def _read_small(
        self,
        device: PoolDevice,
        ref: PageRef,
        start: int,
        end: int,
        into: memoryview,
        customer: bytes | None,
        in_clear: bool,
    ) -> memoryview:
        room = into[: ref.length]
        assert device.device is not None
        device.device.read_into(ref.offset, room)
        header = page.check(room, pool=self.uuid, device=device.uuid, offset=ref.offset, hsum=ref.hsum)
        _require_chunk(header, ref)
        at = page.header_length(header.payload)
        if not start <= end <= header.payload:
            raise DamagedError("page: shorter than the catalogue says")
        low = start // BLOCK * BLOCK
        high = min(-(-end // BLOCK) * BLOCK, header.payload)
        _require_sound(header, low // BLOCK, room[at + low : at + high])
        if header.seal and in_clear and start < end:
            self._unseal(header, low // BLOCK, room[at + low : at + high], customer)
        return room[at + start : at + end]

    def _unseal(self, header: PageHeader, first: int, blocks: memoryview, customer: bytes | None) -> None:
        """Decrypts verified blocks in place.  Raises ACCESS_DENIED (only its customer has the key), what `data_key`
        raises, DamagedError (it does not open)."""
        number = cipher.key_of(header.seal)
        if number == CUSTOMER:
            if customer is None:
                raise StoreError(Code.ACCESS_DENIED, "the data is encrypted with a key that only its customer has")
            secret = customer
        else:
            secret = self.data_key(number)
        cipher.unseal(secret, header.seal, header.chunk, header.index, first, blocks)

    def proven_header(self, device: PoolDevice, ref: PageRef) -> PageHeader:
        """A long page's header, which is the one that `ref` means.  Raises DamagedError, OSError."""
        header = self.header(device, ref)
        _require_chunk(header, ref)
        return header

    def header(self, device: PoolDevice, ref: PageRef) -> PageHeader:
        """A long page's header, from memory (verified when it was read: H3) or the device."""
        key = (ref.device, ref.offset, ref.hsum)
        with self._headers_lock:
            found = self._headers.get(key)
            if found is not None:
                self._headers.move_to_end(key)
                return found
        assert device.device is not None
        with scratch(LONG) as buffer:
            device.device.read_into(ref.offset, buffer)
            found = page.check(buffer, pool=self.uuid, device=device.uuid, offset=ref.offset, hsum=ref.hsum)
        with self._headers_lock:
            self._headers[key] = found
            if len(self._headers) > HEADER_CACHE:
                self._headers.popitem(last=False)
        return found

    def forget_headers(self) -> None:
        """Drops what memory holds of pages: a scrub or a test wants the devices' own word."""
        with self._headers_lock:
            self._headers.clear()

    def read_any(
        self,
        copies: Sequence[PageRef],
        start: int,
        end: int,
        into: memoryview,
        *,
        whole_blocks: bool = False,
        customer: bytes | None = None,
    ) -> memoryview:
        """Like `read_page_part` from the first copy that is good; every other one is counted.

        Raises DAMAGED when all copies are bad, IO_ERROR when none could be read.
        """
        problems: list[str] = []
        damaged = False
        for ref in copies:
            try:
                view = self.read_page_part(ref, start, end, into, whole_blocks=whole_blocks, customer=customer)
            except (DamagedError, OSError) as error:
                device = self.devices.get(ref.device)
                problems.append(f"device {ref.device} at {ref.offset}: {error}")
                if isinstance(error, DamagedError):
                    damaged = True
                if device is not None and device.device is not None:
                    if isinstance(error, DamagedError):
                        device.checksum_errors += 1
                    else:
                        device.read_errors += 1
                    log.warning("a copy could not be used: %s", problems[-1])
                continue
            if problems:
                self.failovers += 1
            return view
        cause = "; ".join(problems) or "no page in the catalogue"
        log.error("no good copy: %s", cause)
        if damaged:
            raise StoreError(Code.DAMAGED, "no good copy of the data is left", cause=cause)
        raise StoreError(Code.IO_ERROR, "the data cannot be read now", cause=cause)

    def preferred(self, copies: list[PageRef]) -> list[PageRef]:
        """Copies in the order to try them: fast and online first."""
        if len(copies) < 2:
            return copies
        return sorted(copies, key=self._preference)

    def _preference(self, ref: PageRef) -> int:
        device = self.devices.get(ref.device)
        if device is None or device.device is None:
            return 9
        return (0 if device.tier == "blaze" else 1) + (4 if device.state != "online" else 0)

    def write_page(self, device_id: int, offset: int, *image: memoryview) -> None:
        """Writes one whole extent, which may lie in several parts of memory.  Raises UNAVAILABLE after fencing the
        device: another try goes to others."""
        device = self.devices[device_id]
        if device.device is None or not device.online:
            raise StoreError(
                Code.UNAVAILABLE, "a device failed: try again", cause=f"device {device_id} takes no writes"
            )
        try:
            device.device.write_parts(offset, image)
        except OSError as error:
            self.fence(device, error)
            raise StoreError(Code.UNAVAILABLE, "a device failed: try again", cause=str(error)) from error

    def flush(self, device_ids: Iterable[int]) -> None:
        """A barrier over some devices, one after the other.  Raises UNAVAILABLE after fencing the one that failed."""
        for device_id in device_ids:
            device = self.devices[device_id]
            try:
                if device.device is None or not device.online:
                    raise OSError(f"device {device_id} takes no writes")
                device.device.flush()
            except OSError as error:
                self.fence(device, error)
                raise StoreError(Code.UNAVAILABLE, "a device failed: try again", cause=str(error)) from error

    def close(self) -> None:
        """Closes every device, and what was opened beside them."""
        for close in self.closing:
            close()
        for device in self.devices.values():
            if device.device is not None:
                device.device.close()


def _require_chunk(header: PageHeader, ref: PageRef) -> None:
    if ref.chunk is not None and (header.chunk != ref.chunk or header.index != ref.part):
        raise DamagedError("page: it is another chunk's, or another part's, than its row says")


def _no_data_key(number: int) -> bytes:
    raise StoreError(Code.UNAVAILABLE, "the data is encrypted, and no keys are here", cause=f"data key {number}")


def _require_sound(header: PageHeader, first: int, payload: memoryview) -> None:
    bad = page.bad_block(header, first, payload)
    if bad is not None:
        raise DamagedError(f"page: block {bad} does not match its digest")


def page_room(start: int, end: int) -> int:
    """Bytes of aligned memory that reading payload [start, end) of any page takes."""
    low = start // BLOCK * BLOCK
    high = -(-end // BLOCK) * BLOCK
    return max(round_up(high - low), page.extent_length(GATHER_MAX))


def header_for(
    pool: Pool,
    device_id: int,
    offset: int,
    *,
    birth: int,
    chunk: int,
    owner: int,
    logical: int,
    payload: int,
    index: int,
    copies: int,
    sums: bytes,
    label: bytes,
    flags: int = 0,
    mtime_ns: int = 0,
    seal: bytes = b"",
) -> bytes:
    """An encoded page header for one copy."""
    return page.encode(
        PageHeader(
            pool.uuid,
            pool.devices[device_id].uuid,
            offset,
            birth,
            chunk,
            owner,
            logical,
            page.UNKNOWN_SIZE,
            payload,
            page.extent_length(payload) // UNIT,
            index,
            copies,
            flags | page.SEALED if seal else flags,
            mtime_ns,
            page.BLOCK_SHIFT,
            sums,
            label,
            seal,
        )
    )
