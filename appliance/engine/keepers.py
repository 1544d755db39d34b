"""Which journals hold everything that was acknowledged, and how a later start knows it.

The *keepers* are the journal devices that every acknowledged batch is on.  Where one falls away, the others go on; from
then on it lacks what is acknowledged, and alone it must never again be taken for the whole.  It cannot say so itself.
So before the first batch that it lacks is acknowledged, its absence is durable wherever a start without the others can
look (I13): in the superblocks of all members that can be written, those without a journal too (a keeper is a journal
member that is `online` there), and in a *note* in the state directory.  A start believes the newest word of all that it
finds, by generation.  A journal that is no keeper by that word is made equal to one that is; where none is here, the
pool is not opened.

    what happened                            what a later start finds           what it does
    ---------------------------------------  ---------------------------------  --------------------------------------
    A failed, or was missing; B went on      A alone, with or without others    refuses, and names B
                                             A and a data device, no note       the same: the data device knows
                                             B alone, or both                   believes B; A is made equal to it
                                             A alone, without note or others    opens: nobody is left who could know
    the same, with A and B exchanged                                            the same
    A was made equal; both went on           either alone                       opens: superblocks are newer than notes
    A was made equal, power cut before
      the superblocks say so                 A alone                            refuses: B is the keeper still
    a device was added                       it alone, of the keepers           opens: it had every record before it
                                                                                was one
    the power went between superblocks       any                                either word is true: nothing was
      and note                                                                  acknowledged between them
    the note cannot be written               (the running pool)                 no batch is acknowledged until it can
    the note cannot be read                  all journals                       opens
                                             a journal is missing               refuses
    the note is older than a superblock      any                                believes the superblock
    the note is another pool's               any                                does not see it: its name is the pool's
    a keeper was put back to a state before  it alone                           refuses: it is older than the note
    the note was lost; A went on, then B     both                               refuses: each lacks what the other
      (or both, each on a machine)                                              acknowledged, be it one batch, and
                                                                                be it long ago
    the catalogue is there, old or lost      any                                all of the above: it plays no part
    the power went when only A had the new
      superblock; A was away, B went on      A alone, or with a data device     refuses: a start without A leaps
    the keepers are lost for good            A alone, and told so by name       opens, and A is the keeper
    they were not, and A went on             both                               refuses: each lacks what the other has

The newest word must be newer than one that was never completed.  A start whose power goes while it writes superblocks
may leave one of them ahead of the others; if that device is away the next time, what the others say then must not have
its number, or a lower one.  So a start without some member leaps by more generations than such starts can have made.

Deliberately unknown here: what a ring holds (journal.py), how one is made equal (startup.py), what is in the catalogue.
"""

from __future__ import annotations

import os
import time
import uuid as uuids
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from blake3 import blake3

from appliance import durable
from appliance.engine.pool import Pool
from appliance.errors import Code, StoreError
from appliance.ondisk.damaged import DamagedError
from appliance.ondisk.superblock import Superblock

LEAP: Final = 1000  # generations, where a member is missing: a start that is cut short makes one or two
_NANOSECONDS: Final = 1_000_000_000


class Note(msgspec.Struct, frozen=True):
    """What the state directory says of a pool: the superblocks of `generation` were durable on all its keepers."""

    generation: int
    epoch: int
    keepers: dict[str, str]  # UUID in hexadecimal digits -> its name, for people
    since_ns: int  # when they became the keepers

    @property
    def uuids(self) -> frozenset[bytes]:
        """The keepers, as superblocks name them."""
        return frozenset(map(bytes.fromhex, self.keepers))


class NoteFile:
    """A pool's note: one line of JSON, and one with its digest.  Each pool's has its own name."""

    def __init__(self, directory: Path, pool: bytes) -> None:
        self.path = directory / f"keepers-{uuids.UUID(bytes=pool)}.json"

    def read(self) -> Note | None:
        """None where there is none.  Raises DamagedError when it is not as it was written or cannot be read."""
        try:
            line, _, rest = self.path.read_bytes().partition(b"\n")
            note = msgspec.json.decode(line, type=Note)
            if any(len(each) != 16 for each in note.uuids):
                raise DamagedError("note: no UUID")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DamagedError(f"note: {error}") from error
        if rest != _digest(line):
            raise DamagedError("note: digest")
        return note

    def write(self, note: Note) -> None:
        """Replaces it, atomically and durably.  Raises UNAVAILABLE."""
        line = msgspec.json.encode(note)
        try:
            durable.replace(self.path, line + b"\n" + _digest(line))
        except OSError as error:
            raise StoreError(
                Code.UNAVAILABLE,
                "it cannot be noted in the state directory which device is up to date: nothing is written meanwhile",
                cause=str(error),
            ) from error


def _digest(line: bytes) -> bytes:
    return blake3(line).hexdigest().encode() + b"\n"


def note(file: NoteFile, pool: Pool) -> None:
    """The superblocks are durable: notes whose they are, unless all journals are keepers and no note says otherwise.
    Raises UNAVAILABLE."""
    keepers = {device.uuid.hex(): os.path.basename(device.path) for device in pool.journals}
    try:
        old = file.read()
    except DamagedError:
        pass
    else:
        if old is None and len(keepers) == sum(device.journal for device in pool.devices.values()):
            return
        if old is not None and old.keepers.keys() == keepers.keys():
            file.write(Note(pool.generation, pool.epoch, keepers, old.since_ns))
            return
    file.write(Note(pool.generation, pool.epoch, keepers, time.time_ns()))


class Word(NamedTuple):
    """What a start goes by."""

    believed: frozenset[bytes]  # journal devices that are here and hold everything that was acknowledged
    keepers: frozenset[bytes]  # those and the others that hold it, here or not
    generation: int  # the highest that anything speaks of
    epoch: int


def keepers_of(superblock: Superblock) -> frozenset[bytes]:
    """The keepers by one superblock's word."""
    return frozenset(member.uuid for member in superblock.members if member.journal and member.state == "online")


def hear(supers: Sequence[Superblock], file: NoteFile, forsaken: Collection[str] = ()) -> Word:
    """The newest word of the superblocks that are here, some with a journal, and of the note.

    `forsaken` names (as the refusal does) keepers that are lost for good, with what only they have.  Raises STALE when
    no keeper is here and one is not forsaken.
    """
    newest = max(supers, key=lambda each: each.generation)
    here = {each.device: each for each in supers if each.journal}
    names = {member.uuid: member.hint for member in newest.members}
    told: Note | None = None
    try:
        told = file.read()
    except DamagedError as error:
        absent = {member.uuid for member in newest.members if member.journal} - here.keys()
        if left := _left(absent, names, forsaken):
            raise StoreError(
                Code.STALE,
                f"{file.path} cannot be read, and {_listed(left)} may have changes that no other device has: attach"
                f" what is missing{_last_resort(absent, names)}",
                cause=str(error),
            ) from error
    generation, epoch = newest.generation, max(each.epoch for each in supers)
    keepers, since = keepers_of(newest), ""
    if told is not None and told.generation > generation:
        names |= {bytes.fromhex(each): name for each, name in told.keepers.items()}
        generation, keepers, since = told.generation, told.uuids, _moment(told.since_ns)
    if told is not None:
        epoch = max(epoch, told.epoch)
    believed = frozenset(each for each in keepers if each in here and not _is_put_back(here[each], told))
    if believed:
        return Word(believed, keepers, generation, epoch)
    if left := _left(keepers, names, forsaken):
        raise StoreError(
            Code.STALE,
            f"the journal that is here lacks what was acknowledged{since}: only {_listed(left)} has it; attach"
            f" {'that' if len(left) == 1 else 'one of them'}, as it was last{_last_resort(keepers, names)}",
        )
    fallen = {member.uuid for member in newest.members if member.state == "failed"}
    rank = {each.device: (each.device not in fallen, each.epoch, each.generation) for each in here.values()}
    best = max(rank.values())
    believed = frozenset(each for each in rank if rank[each] == best)
    return Word(believed, keepers | believed, generation, epoch)


def _is_put_back(superblock: Superblock, told: Note | None) -> bool:
    """A keeper was written before the note: if it is older now, it is not what it was."""
    return told is not None and superblock.device in told.uuids and superblock.generation < told.generation


def _left(keepers: Collection[bytes], names: Mapping[bytes, str], forsaken: Collection[str]) -> list[str]:
    """What is to be called of `keepers`, but for those that are forsaken by name or UUID."""
    left = []
    for each in sorted(keepers, key=lambda each: (names.get(each, ""), each)):
        own = {names.get(each, ""), str(uuids.UUID(bytes=each))} - {""}
        if not own & set(forsaken):
            left.append(_name(each, names))
    return left


def _name(keeper: bytes, names: Mapping[bytes, str]) -> str:
    return names.get(keeper) or str(uuids.UUID(bytes=keeper))


def _listed(names: Sequence[str]) -> str:
    return " or ".join(names)


def _last_resort(keepers: Collection[bytes], names: Mapping[bytes, str]) -> str:
    given = " ".join(f"--without {_name(each, names)}" for each in sorted(keepers))
    return f".  If there is no way to, `tierce pool recover {given}` goes on without those changes: they are lost then"


def _moment(since_ns: int) -> str:
    return time.strftime(" since %Y-%m-%d %H:%M:%S", time.localtime(since_ns // _NANOSECONDS))
