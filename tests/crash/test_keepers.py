"""I13: a journal that lacks what was acknowledged is never taken for the whole, whoever else is there to say so.

Two SSDs A and B with the journal, an HDD C without.  Each row is a history: lives that end with the power going, and a
last start, which finds everything that was acknowledged or refuses and names what it lacks.  The catalogue's file is as
it was last, as it was first, or lost: it must make no difference.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import trio

from appliance.engine.keepers import Note, NoteFile, keepers_of
from appliance.engine.startup import read_superblock
from appliance.errors import Code, StoreError
from appliance.model import NO_ATTRIBUTES
from appliance.opening import open_store
from appliance.store import ObjectStore
from tests.crash import exhaustive, mutations
from tests.crash.model import Model
from tests.crash.simulation import small_world
from tests.crash.witness import Files, Host, Witness, simulated
from tests.doubles.disks import CrashMode, Power, SimulatedDisk
from tests.models.boxes import VAULT
from tests.rows import rows

NAMES: Final = "ABC"


class Life(NamedTuple):
    """One start, and what is done then."""

    here: str  # devices that are attached
    keys: str = ""  # objects that are put, one letter each
    failing: str = ""  # the device whose flushes fail from the first of them on
    forsaken: str = ""  # what is lost for good, as the administrator was told to say
    meanwhile: Callable[[World], None] | None = None  # after the power went
    torn: str = ""  # the one device that the start's superblocks came to: the power went while they were written


class World:
    """The devices, the state directory, and the host's file."""

    def __init__(self, directory: Path, base: exhaustive.Base, host: Host) -> None:
        self.directory = directory
        self.host = host
        self.files: list[Files] = [base.files]
        self.host.restart(base.files)
        self.disks = {
            name: SimulatedDisk(exhaustive.SIZE, random.Random(number), name=name, media=media.copy())
            for number, (name, media) in enumerate(zip(NAMES, base.media, strict=False))
        }
        self.acknowledged: set[bytes] = set()
        self.earlier: dict[str, SimulatedDisk] = {}
        self.note = b""
        self.note = b""

    def live(self, life: Life) -> set[bytes]:
        """What is there, after it was opened; then the power goes."""
        before = {name: disk.reopen() for name, disk in self.disks.items()}

        async def run() -> set[bytes]:
            devices = [(name, self.disks[name]) for name in life.here]
            async with open_store(
                devices,
                self.host.path,
                vault=VAULT,
                threaded=False,
                buffers=2,
                notes=self.directory,
                forsaken=life.forsaken,
            ) as store:
                await store.settle()
                found = {item.key for item in (await store.list_objects(store.bucket("box"))).objects}
                if life.failing:
                    self.disks[life.failing].fail("flush", for_ever=True)
                for key in life.keys:
                    self.acknowledged.add(await put(store, key.encode()))
                await store.settle()
                self.host.remember()
                for disk in self.disks.values():
                    disk.crash("none")
                store.engine.committer.failed = StoreError(Code.READ_ONLY)  # the power is gone: close writes nothing
                return found

        try:
            return trio.run(run)
        finally:
            self.files.append(self.host.states[-1])
            self.disks = {name: disk.reopen() for name, disk in self.disks.items()}
            if life.torn:
                self.disks = before | {life.torn: self.disks[life.torn]}
            self.host.restart(self.files[-1])
            if life.meanwhile is not None:
                life.meanwhile(self)


async def put(store: ObjectStore, key: bytes) -> bytes:
    """An inline object, put again if a device failed: it needs no page, so one journal device is enough."""
    body = store.small_body(key)
    try:
        await store.put_object(store.bucket("box"), key, body, "etag", NO_ATTRIBUTES)
    except StoreError as error:
        if error.code is not Code.UNAVAILABLE:
            raise
        await store.put_object(store.bucket("box"), key, body, "etag", NO_ATTRIBUTES)
    return key


def note_lost(world: World) -> None:
    """The state directory is lost, with the catalogue."""
    for path in world.directory.glob("keepers-*"):
        path.unlink()
    world.files.append({})
    world.host.restart({})


def note_damaged(world: World) -> None:
    """One letter of it is another."""
    (path,) = world.directory.glob("keepers-*")
    path.write_bytes(path.read_bytes().replace(b"keepers", b"keepfrs"))


def note_put_back(world: World) -> None:
    """It is as it was when it was remembered."""
    (path,) = world.directory.glob("keepers-*")
    path.write_bytes(world.note)


def note_of_another(world: World) -> None:
    """The state directory was another pool's, too, and that one was newer."""
    (path,) = world.directory.glob("keepers-*")
    path.rename(path.with_name("keepers-00000000-0000-0000-0000-000000000000.json"))


def remember(world: World) -> None:
    """Images of everything are taken."""
    world.earlier = {name: disk.reopen() for name, disk in world.disks.items()}
    (path,) = world.directory.glob("keepers-*")
    world.note = path.read_bytes()


def put_back(world: World) -> None:
    """The devices are what they were then; the state directory is not."""
    world.disks = world.earlier


@pytest.fixture(scope="module")
def fresh() -> Iterator[Callable[[], World]]:
    """A new world at each call, at the small scale."""
    with small_world() as directory:
        (directory / "base").mkdir()
        made = exhaustive.make_base(("blaze", "blaze", "bulk"), 2, Host(directory / "base"))

        def new() -> World:
            place = directory / str(len(os.listdir(directory)))
            (place / "state").mkdir(parents=True)
            return World(place / "state", made, Host(place))

        yield new


FAILED: Final = Life("ABC", "pqr", failing="A")  # B goes on
AWAY: Final = Life("BC", "pqr")
IDLE: Final = Life("B")
TORN: Final = Life("ABC", torn="A")
# a snapshot later: the one journal begins where the other had ended, or in the middle of it
LEFT_BEHIND: Final = [Life("B", "s" * 5, meanwhile=note_lost), Life("A", "t" * 60)]
LEFT_BEHIND_BY_LESS: Final = [Life("B", "s" * 60, meanwhile=note_lost), Life("A", "t" * 200)]
OPENS, STALE, HALVES = "opens", "lacks what was acknowledged", "with B and without it"

HISTORIES: Final[list[tuple[str, list[Life], str, str]]] = [
    ("one failed, and is alone", [FAILED], "A", STALE),
    ("one failed, and the data device is there", [FAILED], "AC", STALE),
    ("one failed, and only the data device knows", [FAILED._replace(meanwhile=note_lost)], "AC", STALE),
    ("one failed, and nobody knows", [FAILED._replace(keys="", meanwhile=note_lost)], "A", OPENS),
    ("one failed, and only the note knows", [FAILED._replace(here="AB")], "A", STALE),
    ("one failed, and is there again", [FAILED], "ABC", OPENS),
    ("one failed, and stays away", [FAILED], "B", OPENS),
    ("one was away, and is alone", [AWAY], "A", STALE),
    ("one was away, and the data device is there", [AWAY._replace(meanwhile=note_lost)], "AC", STALE),
    ("one was away, and is there again", [AWAY], "AB", OPENS),
    ("one was away, and nothing was done then", [IDLE], "A", STALE),
    ("one was away for long", [AWAY, Life("B", "s"), Life("BC", "t")], "A", STALE),
    ("one was away that others were to follow", [TORN, AWAY], "A", STALE),
    ("one was away that others were to follow, and the data device is there", [TORN, AWAY], "AC", STALE),
    ("the same, and only the data device knows", [TORN, AWAY._replace(meanwhile=note_lost)], "AC", STALE),
    ("the same, twice", [TORN, TORN, AWAY], "A", STALE),
    ("the same, and all are there", [TORN, TORN, AWAY], "ABC", OPENS),
    ("one was made equal, and is alone", [AWAY, Life("AB", "s")], "A", OPENS),
    ("one was made equal, and the other is alone", [AWAY, Life("AB", "s")], "B", OPENS),
    ("one after the other", [AWAY, Life("AB", "s"), Life("A", "t")], "B", "only A has it"),
    ("one after the other, and both are there", [AWAY, Life("AB", "s"), Life("A", "t")], "AB", OPENS),
    ("both fail, one after the other", [FAILED, Life("ABC", "s", failing="B")], "BC", "only A has it"),
    ("the note is older", [IDLE._replace(meanwhile=remember), Life("AB", "s", meanwhile=note_put_back)], "A", OPENS),
    ("the note is damaged", [AWAY._replace(here="B", meanwhile=note_damaged)], "A", "cannot be read"),
    ("the note is damaged, and nobody is away", [AWAY._replace(meanwhile=note_damaged)], "ABC", OPENS),
    ("the note is another pool's", [IDLE._replace(meanwhile=note_of_another)], "A", OPENS),
    ("a keeper was put back", [IDLE._replace(meanwhile=remember), Life("B", "s", meanwhile=put_back)], "B", STALE),
    ("all were put back", [IDLE._replace(meanwhile=remember), Life("B", "s", meanwhile=put_back)], "ABC", STALE),
    ("each was alone, with one batch", [Life("B", "s", meanwhile=note_lost), Life("A", "t")], "AB", HALVES),
    ("each was alone, with more", [Life("B", "st", meanwhile=note_lost), Life("A", "uv")], "AB", HALVES),
    ("each was alone, and the journal has left the one behind", LEFT_BEHIND, "AB", HALVES),
    ("each was alone, and the one behind had more", LEFT_BEHIND_BY_LESS, "AB", HALVES),
    ("each was alone, and one did nothing", [Life("B", meanwhile=note_lost), Life("A", "uv")], "AB", OPENS),
]


@pytest.mark.slow
@rows("catalogue", ["newest", "first", "lost"])
@rows("exchanged", [False, True])
@rows("what, lives, last, expected", HISTORIES)
def test_the_keepers_are_known(
    fresh: Callable[[], World],
    what: str,
    lives: list[Life],
    last: str,
    expected: str,
    *,
    exchanged: bool,
    catalogue: str,
) -> None:
    assert what
    world = fresh()
    names = {"A": "B", "B": "A", "C": "C"} if exchanged else {}

    def turned(text: str) -> str:
        return "".join(names.get(letter, letter) for letter in text) if names else text

    for life in lives:
        world.live(life._replace(here=turned(life.here), failing=turned(life.failing), torn=turned(life.torn)))
    world.host.restart({"newest": world.files[-1], "first": world.files[0], "lost": {}}[catalogue])
    answer = ""
    found: set[bytes] = set()
    try:
        found = world.live(Life(turned(last)))
    except StoreError as error:
        answer = f"{error.code.name} {error.message}"
    if expected == OPENS:
        assert not answer
        assert world.acknowledged <= found
        return
    assert answer.startswith(("STALE", "JOURNAL_DAMAGED")), answer or found
    wanted = expected.replace("only A", f"only {turned('A')}").replace("with B", f"with {turned('B')}")
    assert wanted in answer.replace(f"with {turned('A')}", f"with {turned('B')}"), answer or found
    if expected == STALE and "put back" not in what:
        world.live(Life(turned("AB")))
        assert world.acknowledged <= world.live(Life(turned("A"))), "all is there once the other one is"


@pytest.mark.slow
def test_what_is_lost_for_good_is_given_up_by_name(fresh: Callable[[], World]) -> None:
    world = fresh()
    world.live(Life("BC", "pqr"))
    world.host.restart({})  # else the catalogue has what the journal has not
    for wrong in ("", "A", "C"):
        with pytest.raises(StoreError, match="pool recover --without B"):
            world.live(Life("AC", forsaken=wrong))
    assert not world.live(Life("AC", "s", forsaken="B")) & world.acknowledged
    assert b"s" in world.live(Life("A", "t")), "it is told once"
    with pytest.raises(StoreError, match="each time without what the other has"):
        world.live(Life("ABC"))


@pytest.mark.slow
def test_nothing_is_acknowledged_that_only_some_know_of(fresh: Callable[[], World], monkeypatch: Any) -> None:
    """The note cannot be written: what is there is read, and writes wait until it can be."""
    world = fresh()
    monkeypatch.setattr(NoteFile, "write", unwritable)
    with pytest.raises(StoreError, match="noted in the state directory"):
        world.live(Life("ABC", "p", failing="A"))
    with pytest.raises(StoreError, match="noted in the state directory"):
        world.live(Life("B", "q"))
    assert b"file" in world.live(Life("B"))
    monkeypatch.undo()
    world.live(Life("B", "r"))
    assert world.acknowledged == {b"r"} <= world.live(Life("AB"))


@pytest.mark.slow
def test_a_device_that_fails_while_the_others_are_told_is_told_of(fresh: Callable[[], World], monkeypatch: Any) -> None:
    """A stream's thread finds it failed, and has not said so everywhere when the writer says who is left."""
    world = fresh()
    devices = [(name, world.disks[name]) for name in "ABC"]

    async def run() -> None:
        async with open_store(
            devices, world.host.path, vault=VAULT, threaded=False, buffers=2, notes=world.directory
        ) as store:
            pool = store.engine.pool
            with monkeypatch.context() as patch:
                patch.setattr("appliance.engine.pool.log.error", lambda *_: pool.tell())  # the writer, meanwhile
                pool.fence(pool.devices[1], OSError("gone"))
            await put(store, b"p")
            left = read_superblock(world.disks["B"])
            assert left is not None
            assert keepers_of(left) == {pool.devices[2].uuid}

    trio.run(run)


def unwritable(file: NoteFile, note: Note) -> None:
    """As on a full disk."""
    raise StoreError(Code.UNAVAILABLE, "it cannot be noted in the state directory")


@pytest.mark.slow
def test_a_broken_variant_is_noticed(fresh: Callable[[], World]) -> None:
    """Without the newest word (I13) what was acknowledged would be missing, and nobody would say so."""
    for lives in ([FAILED], [AWAY], [AWAY._replace(here="B")]):
        world = fresh()
        for life in lives:
            world.live(life)
        world.host.restart(world.files[0])
        with mutations.anybody_believed():
            assert not world.acknowledged <= world.live(Life("A"))


@pytest.mark.slow
def test_a_device_that_was_added_is_a_keeper(fresh: Callable[[], World]) -> None:
    """Also after the others ran in part, of which the note tells: the superblocks are newer."""
    for here in ("ABC", "B"):
        world = fresh()
        world.live(Life(here, "p"))
        world.disks["D"] = SimulatedDisk(exhaustive.SIZE, random.Random(4), name="D")

        async def add(world: World = world, here: str = here) -> None:
            devices = [(name, world.disks[name]) for name in here]
            async with open_store(
                devices, world.host.path, vault=VAULT, threaded=False, buffers=2, notes=world.directory
            ) as store:
                await store.add_device("D", world.disks["D"], "blaze")
                world.acknowledged.add(await put(store, b"q"))
                for disk in world.disks.values():
                    disk.crash("none")
                store.engine.committer.failed = StoreError(Code.READ_ONLY)  # the power is gone: close writes nothing

        trio.run(add)
        world.disks = {name: disk.reopen() for name, disk in world.disks.items()}
        world.host.restart(world.files[-1])
        assert {b"p", b"q"} <= world.live(Life("D", "r"))
        with pytest.raises(StoreError, match="only D has it"):
            world.live(Life("ABC"))


@pytest.mark.slow
def test_the_power_may_go_at_any_call_while_a_journal_falls_away(fresh: Callable[[], World]) -> None:
    """Before the superblocks, between two of them, between them and the note: who starts alone later is refused, or
    lacks nothing that was acknowledged."""
    seen = collections.Counter[str]()
    for step in range(40):
        world = fresh()
        done = falling(world, step)
        modes: tuple[CrashMode, ...] = ("none", "all")
        for mode, here in itertools.product(modes, ("A", "AC", "B")):
            try:
                found = aside(world, mode, here)
            except StoreError as error:
                assert (error.code, here) in ((Code.STALE, "A"), (Code.STALE, "AC"))  # noqa: PT017 - one of many
                seen[f"{here} refused"] += 1
            else:
                assert world.acknowledged <= found, (step, mode, here)
                seen[f"{here} with {len(world.acknowledged)}"] += 1
        if done:
            break
    assert done, "every call had its turn"
    assert {"A refused", "A with 0", "AC refused", "AC with 0", "B with 0", "B with 1", "B with 2"} <= set(seen), seen


def falling(world: World, step: int) -> bool:
    """A's flushes fail; two objects are put; the power goes at the `step`th device call from then on, if it comes."""
    disks = list(world.disks.values())
    power = Power()
    for disk in disks:
        disk.power = power
    witness = Witness(Model(), world.host, random.Random(1), disks)

    async def run() -> None:
        devices = [(disk.name, disk) for disk in disks]
        async with open_store(
            devices, world.host.path, vault=VAULT, threaded=False, buffers=2, notes=world.directory
        ) as store:
            await store.settle()
            world.disks["A"].fail("flush", for_ever=True)
            power.kill_after(step)
            with contextlib.suppress(StoreError):  # the power is gone
                for key in (b"p", b"q"):
                    await put(store, key)
                    world.acknowledged.add(key)
            reached.append(witness.crashed)
            witness.crash()

    reached: list[bool] = []
    with simulated(witness):
        trio.run(run)
    return not reached[0]


def aside(world: World, mode: CrashMode, here: str) -> set[bytes]:
    """What some of the disks show that the crash left."""
    place = world.host.path.parent.parent / f"aside {len(os.listdir(world.host.path.parent.parent))}"
    shutil.copytree(world.directory, place)
    devices = []
    for name in here:
        media = world.disks[name].after_crash(mode)
        devices.append((name, SimulatedDisk(exhaustive.SIZE, random.Random(2), name=name, media=media)))

    async def look() -> set[bytes]:
        database = place / "catalogue.db"
        async with open_store(devices, database, vault=VAULT, threaded=False, buffers=2) as store:
            return {item.key for item in (await store.list_objects(store.bucket("box"))).objects}

    return trio.run(look)
