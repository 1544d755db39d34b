"""R3: every short sequence of operations, crashed at every device call, by every rule of what stays (CrashMonkey, ACE).

A *base* is a pool with a little of everything.  A *sequence* runs on a copy of it; before each write and flush of its
last operation, and at its end, the state of the world is kept: what each disk has durable and what it has not, the
host's SQLite files, and which models are then possible.  Copies share memory, so a state costs next to nothing.  From
each state follow the media that a crash may leave, by rule:

    nothing of what was not flushed; all of it; all with the last write torn in half; only each disk's last write;
    of each disk in turn every prefix, and all but each one write, while the others keep all

Each is opened twice: with a SQLite file (the newest or the oldest that a crash may bring back), and with none.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import trio

from appliance import settings
from appliance.engine.startup import NewDevice, create_pool
from appliance.limits import KIB, MIB
from appliance.model import NO_ATTRIBUTES, Bucket, DataKey, NewSlice, SharedRange
from appliance.ondisk.superblock import Tier
from appliance.opening import open_store
from appliance.store import ObjectStore
from appliance.upkeep.fold import Folder
from tests.crash import observed
from tests.crash.model import Model
from tests.crash.observed import Broken
from tests.crash.witness import Files, Host, Witness, simulated
from tests.doubles.disks import Media, Power, SimulatedDisk
from tests.models.boxes import VAULT, of_root

SIZE: Final = 8 * MIB
RING: Final = 64 * KIB
Unflushed = tuple[tuple[int, bytes | int], ...]


class Base(NamedTuple):
    """A pool at rest."""

    tiers: tuple[Tier, ...]
    media: list[Media]
    files: Files
    model: Model
    upload: str


class Moment(NamedTuple):
    """The world before one device call."""

    durable: list[Media]
    unflushed: list[Unflushed]
    hosts: list[Files]  # the oldest and the newest that a crash may bring back
    models: list[Model]


class Leftover(NamedTuple):
    """What a crash left, and by which rule."""

    rule: str
    media: list[Media]
    files: Files
    models: list[Model]


# ---------------------------------------------------------------------- the operations


class Session:
    """One store in use, for the operations below."""

    def __init__(self, store: ObjectStore, witness: Witness, upload: str) -> None:
        self.store = store
        self.witness = witness
        self.bucket = store.bucket("box")
        self.kept = store.bucket("kept")  # has versions
        self.upload = upload
        self.random = random.Random(5)
        self._etags = 0

    def etag(self) -> str:
        self._etags += 1
        return f"{self._etags:032x}"

    async def put(self, key: bytes, size: int, encryption: DataKey | None = None) -> None:
        await self.put_in(self.bucket, key, size, encryption)

    async def put_in(self, bucket: Bucket, key: bytes, size: int, encryption: DataKey | None = None) -> None:
        data = self.random.randbytes(size)
        with await self.store.ingest(bucket, size, key, encryption) as ingest:
            await ingest.write_async(data)
            body = await ingest.finish_async()
            for piece in body.slices:
                self.witness.model.chunks[piece.chunk] = data[piece.offset : piece.offset + piece.length]
            await self.store.put_object(bucket, key, body, self.etag(), NO_ATTRIBUTES)

    async def part(self, number: int, size: int) -> None:
        data = self.random.randbytes(size)
        upload = self.store.upload(self.bucket, b"joined", self.upload)
        with await self.store.ingest(self.bucket, size, b"joined") as ingest:
            await ingest.write_async(data)
            body = await ingest.finish_async()
            for piece in body.slices:
                self.witness.model.chunks[piece.chunk] = data[piece.offset : piece.offset + piece.length]
            await self.store.put_part(upload, number, body, str(number))

    async def write_file(
        self,
        name: bytes,
        *,
        at: int | None,
        length: int,
        cut: int | None,
        wait: bool,
        late: bool = False,
        punched: Sequence[tuple[int, int]] = (),
        shared: SharedRange | None = None,
    ) -> None:
        entry = self.store.entry(self.bucket.root, name, False)
        if entry is None:
            return
        chunks, slices, size = [], [], entry.node.size if cut is None else cut
        if length:
            at = size if at is None else at
            data = self.random.randbytes(length)
            chunk = await self.store.stage(self.bucket, [data])
            self.witness.model.chunks[chunk.id] = data
            chunks.append(chunk)
            slices.append(NewSlice(at, length, chunk.id))
            size = max(size, at + length)
        if shared is not None:
            size = max(size, shared.offset + shared.length)
        ticket = self.store.submit_file(
            self.bucket,
            node=entry.node.id,
            create=None,
            **of_root(1),
            size=size,
            cut=cut,
            chunks=chunks,
            slices=slices,
            punched=punched,
            shared=shared,
            late=late,
        )
        if wait and not (late and await ticket.stands()):
            await ticket.wait()


async def put_small(session: Session) -> None:
    await session.put(b"new/small", 900)


async def put_gathered(session: Session) -> None:
    await session.put(b"new/gathered", 5000)


async def put_large(session: Session) -> None:
    await session.put(b"new/large", 300 * KIB)


async def put_sealed(session: Session) -> None:
    """Also the first data key, and the word of it in the superblocks."""
    await session.put(b"file", 6000, await session.store.data_key())


async def overwrite(session: Session) -> None:
    await session.put(b"file", 6000)


async def overwrite_large(session: Session) -> None:
    await session.put(b"large", 140 * KIB)


async def delete(session: Session) -> None:
    await session.store.delete_object(session.bucket, b"large")


async def complete(session: Session) -> None:
    if any(upload == session.upload for upload in session.witness.model.uploads):
        upload = session.store.upload(session.bucket, b"joined", session.upload)
        await session.store.complete_upload(upload, [(1, "1"), (2, "2")], session.etag(), NO_ATTRIBUTES)


async def copy(session: Session) -> None:
    name = b"file" if session.store.entry(session.bucket.root, b"file", False) is not None else b"other"
    source = await session.store.look_up(session.bucket, name)
    await session.store.copy_object(source, session.bucket, b"copied", None)


async def rename(session: Session) -> None:
    root = session.bucket.root
    if session.store.entry(root, b"file", False) is not None:
        await session.store.rename(root, b"file", False, root, b"other", 1)
    else:
        await session.store.rename(root, b"other", False, root, b"file", 1)


async def rename_directory(session: Session) -> None:
    root = session.bucket.root
    old, new = (b"d", b"e") if session.store.entry(root, b"d", True) is not None else (b"e", b"d")
    await session.store.rename(root, old, True, root, new, 1)


async def append(session: Session) -> None:
    await session.write_file(b"other", at=None, length=3000, cut=None, wait=True)


async def truncate(session: Session) -> None:
    await session.write_file(b"other", at=None, length=0, cut=1000, wait=True)


async def punch(session: Session) -> None:
    """A hole in the middle, and bytes behind it."""
    await session.write_file(b"other", at=30_000, length=500, cut=None, wait=True, punched=[(4000, 25_000)])


async def sync_and_fold(session: Session) -> None:
    """Small synced changes by the journal's short path, ahead of the index, and then by pages of their own."""
    for at in (100, 5000, 3000):
        await session.write_file(b"large", at=at, length=700, cut=None, wait=True, late=at != 3000)
    await Folder(session.store, idle=0.0, pace=0.0).round()


async def copy_range(session: Session) -> None:
    """Bytes of one file become another's, across a piece's end."""
    entry = session.store.entry(session.bucket.root, b"other", False)
    source = session.store.entry(session.bucket.root, b"large", False)
    if entry is not None and source is not None:
        shared = SharedRange(source.node.id, 1000, 20_000, 100_000, False)
        await session.write_file(
            b"other", at=None, length=0, cut=None, wait=True, punched=[(20_000, 120_000)], shared=shared
        )


async def close_and_settle(session: Session) -> None:
    """Two writes of a mounted file that nobody waits for, then fsync."""
    await session.write_file(b"other", at=10, length=20_000, cut=None, wait=False)
    await session.write_file(b"other", at=5, length=100, cut=None, wait=False)
    await session.store.settle()


async def make_directory(session: Session) -> None:
    name = b"m" if session.store.entry(session.bucket.root, b"m", True) is None else b"n"
    await session.store.make_directory(session.bucket.root, name, 0o755, 0, 0, 1)


async def put_version(session: Session) -> None:
    await session.put_in(session.kept, b"file", 6000)


async def hide_version(session: Session) -> None:
    """A delete marker."""
    await session.store.delete_object(session.kept, b"file")


async def delete_version(session: Session) -> None:
    """The newest goes for good: the one before it is the object again."""
    page = await session.store.list_versions(session.kept, b"file")
    newest = page.versions[0]
    await session.store.delete_object(session.kept, newest.key, version_id=newest.version_id)


async def delete_older(session: Session) -> None:
    page = await session.store.list_versions(session.kept, b"file")
    oldest = page.versions[-1]
    await session.store.delete_object(session.kept, oldest.key, version_id=oldest.version_id)


async def write_version(session: Session) -> None:
    """Through the mount: the old content stays under a node of its own."""
    await session.store.settle()
    entry = session.store.entry(session.kept.root, b"mounted", False)
    if entry is not None:
        data = session.random.randbytes(900)
        chunk = await session.store.stage(session.kept, [data])
        session.witness.model.chunks[chunk.id] = data
        ticket = session.store.submit_file(
            session.kept,
            node=entry.node.id,
            create=None,
            **of_root(1),
            size=max(entry.node.size, 900),
            chunks=[chunk],
            slices=[NewSlice(0, 900, chunk.id)],
            place=(session.kept.root, b"mounted"),
            begins=True,
        )
        await ticket.wait()


Operation = Callable[[Session], Awaitable[None]]
PLAIN: Final[tuple[Operation, ...]] = (
    put_small,
    put_gathered,
    put_large,
    put_sealed,
    overwrite,
    overwrite_large,
    delete,
    complete,
    copy,
    rename,
    rename_directory,
    append,
    truncate,
    punch,
    sync_and_fold,
    copy_range,
    close_and_settle,
    make_directory,
)
VERSIONED: Final[tuple[Operation, ...]] = (
    put_version,
    hide_version,
    delete_version,
    delete_older,
    write_version,
)
ALPHABET: Final = PLAIN + VERSIONED


# ---------------------------------------------------------------------- running


class _Recording(Power):
    """Tells before each write and flush."""

    def __init__(self, before: Callable[[], None]) -> None:
        super().__init__()
        self._before = before

    def step(self) -> bool:
        self._before()
        return super().step()


def make_base(tiers: tuple[Tier, ...], copies: int, host: Host) -> Base:
    """A pool with files, directories and an upload."""
    disks = [SimulatedDisk(SIZE, random.Random(number), name=f"disk{number}") for number in range(len(tiers))]
    new = [NewDevice(disk.name, disk, tier) for disk, tier in zip(disks, tiers, strict=True)]
    create_pool(new, name="pool", copies=copies, now_ns=1, pool_uuid=bytes(range(16)), ring_length=RING)
    witness = Witness(Model(), host, random.Random(1), disks)

    async def fill() -> str:
        async with open_store(
            [(disk.name, disk) for disk in disks], host.path, vault=VAULT, threaded=False, buffers=2
        ) as store:
            bucket = await store.create_bucket("box", "me", copies=copies)
            upload = await store.create_upload(bucket, b"joined", NO_ATTRIBUTES, "me")
            kept = await store.create_bucket("kept", "me", copies=copies)
            await store.set_bucket_setting(kept, settings.VERSIONING, settings.ENABLED)
            session = Session(store, witness, upload.id)
            await session.put(b"file", 7000)
            await session.put(b"other", 40_000)
            await session.put(b"large", 300 * KIB)
            await session.part(1, 20_000)
            await session.part(2, 5000)
            await store.make_directory(bucket.root, b"d", 0o755, 0, 0, 1)
            await session.put(b"d/inside", 100)
            for size in (5000, 100, 7000):
                await session.put_in(session.kept, b"file", size)
            await session.put_in(session.kept, b"mounted", 5000)
        return upload.id

    with simulated(witness):
        upload = trio.run(fill)
    return Base(tiers, [disk.durable for disk in disks], host.read(), witness.model, upload)


def moments(base: Base, sequence: Sequence[Operation], host: Host) -> list[Moment]:
    """The world before every device call of the sequence's last operation, and after it."""
    found: list[Moment] = []
    host.restart(base.files)
    recording = False
    power = _Recording(lambda: record() if recording else None)
    disks = [
        SimulatedDisk(SIZE, random.Random(number), name=f"disk{number}", power=power, media=media.copy())
        for number, media in enumerate(base.media)
    ]
    witness = Witness(base.model.copy(), host, random.Random(1), disks)
    witness.remember = 1.0

    def record() -> None:
        durable = [disk.durable.copy() for disk in disks]
        unflushed: list[Unflushed] = [tuple(disk._unflushed) for disk in disks]
        models = [model.copy() for model in witness.possible()]
        found.append(Moment(durable, unflushed, [host.states[0], host.states[-1]], models))

    async def run() -> None:
        nonlocal recording
        async with open_store(
            [(disk.name, disk) for disk in disks], host.path, vault=VAULT, threaded=False, buffers=2
        ) as store:
            session = Session(store, witness, base.upload)
            for number, operation in enumerate(sequence):
                recording = number == len(sequence) - 1
                await operation(session)
            recording = False
            record()
            witness.crash()

    with simulated(witness):
        trio.run(run)
    return found


def leftovers(moment: Moment) -> Iterator[Leftover]:
    """What a crash at this moment may leave; each only once."""
    whole = [tuple(range(len(writes))) for writes in moment.unflushed]
    rules: dict[tuple[tuple[tuple[int, ...], bool], ...], str] = {}  # of each disk: which writes stay, is the last torn

    def rule(name: str, kept: Sequence[tuple[int, ...]], torn: bool = False) -> None:
        rules.setdefault(tuple((numbers, torn and bool(numbers)) for numbers in kept), name)

    rule("none", [()] * len(whole))
    rule("all", whole)
    rule("torn", whole, torn=True)
    rule("only the last", [numbers[-1:] for numbers in whole])
    for disk, numbers in enumerate(whole):
        for count in range(len(numbers)):
            rule(f"disk{disk} keeps {count}", [*whole[:disk], numbers[:count], *whole[disk + 1 :]])
            rest = (*numbers[:count], *numbers[count + 1 :])
            rule(f"disk{disk} lacks {count}", [*whole[:disk], rest, *whole[disk + 1 :]])
    for turn, (kept, name) in enumerate(rules.items()):
        media = [
            _keep(durable, [writes[number] for number in numbers], torn)
            for durable, writes, (numbers, torn) in zip(moment.durable, moment.unflushed, kept, strict=True)
        ]
        yield Leftover(name, media, moment.hosts[turn % 2], moment.models)


def _keep(durable: Media, writes: Sequence[tuple[int, bytes | int]], torn: bool) -> Media:
    media = durable.copy()
    for number, (offset, content) in enumerate(writes):
        assert isinstance(content, bytes), "nothing is discarded here"
        kept = content[: len(content) // 1024 * 512] if torn and number == len(writes) - 1 else content
        media.write(offset, kept)
    return media


def check(leftover: Leftover, tiers: Sequence[Tier], host: Host) -> None:
    """Persistence, atomicity, a clean audit, and a rebuilt catalogue that equals the recovered one.  Raises Broken."""
    recovered = _open(leftover, leftover.files, host)
    rebuilt = _open(leftover, {}, host)
    for table, rows in recovered.items():
        if rows != rebuilt[table]:
            raise Broken(f"{leftover.rule}: table {table}: recovered {rows}, rebuilt {rebuilt[table]}")


def _open(leftover: Leftover, files: Files, host: Host) -> dict[str, list[Any]]:
    host.restart(files)
    disks = [
        SimulatedDisk(SIZE, random.Random(number), name=f"disk{number}", media=media.copy())
        for number, media in enumerate(leftover.media)
    ]
    witness = Witness(leftover.models[0], host, random.Random(1), disks)

    async def run() -> dict[str, list[Any]]:
        async with open_store(
            [(disk.name, disk) for disk in disks], host.path, vault=VAULT, threaded=False, buffers=1
        ) as store:
            found = observed.observe(store)
            texts = [observed.difference(model.state(), found) for model in leftover.models]
            if all(texts):
                raise Broken(f"{leftover.rule}: what was found is neither:\n" + "\nnor:\n".join(texts))
            unsure = len(leftover.models) > 1
            observed.audit(store, excused=lambda chunk: unsure)
            rows = observed.dump(store.engine.reader)
            witness.crash()
            return rows

    with simulated(witness):
        return trio.run(run)
