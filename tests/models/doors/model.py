"""Both doors as dictionaries: what SEMANTICS.md says, for one bucket (R1).

`objects.Bucket` is the committed state, all that S3 sees.  The mount lays over it what is not committed: bytes of open
files (`content` runs ahead of `committed`), and names of files that were created and never committed (`fresh`).  Names
are the mount's where a method says "name", and the catalogue's everywhere else.

A bucket with versions has beside it what S3 shows of each key's past (`history`, newest first): every committed change
of the names and bytes of objects is also written there.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
from collections.abc import Callable
from typing import Final

from appliance.errors import StoreError
from appliance.model import Precondition
from fusefs.errors import to_errno
from tests.models import objects
from tests.models.versions import ENABLED, Versions

NOREPLACE: Final = 1
EXCHANGE: Final = 2


@dataclasses.dataclass(eq=False)
class File(objects.File):
    """A file as its holders see it (`content`) and as S3 does (`committed`).

    `changed`: bytes since the last commit.  `begins`: in a bucket with versions, the next change is another version:
    nobody has changed it since the last writer closed it.  `held`: by a legal hold.
    """

    committed: bytes = b""
    changed: bool = False
    begins: bool = True
    held: bool = False

    def write(self, size: int, cut: int | None, pieces: list[tuple[int, bytes]]) -> None:
        """A change of its bytes through the mount."""
        self.changed = self.changed or bool(pieces) or size != len(self.content)
        self.patch(size, cut, pieces)

    def truncate(self, size: int) -> None:
        """truncate(2)."""
        self.write(size, min(size, len(self.content)), [])


def put(data: bytes) -> File:
    """What S3 makes."""
    return File(data, "", committed=data)


def need(condition: object, number: int) -> None:
    """Raises the errno unless the condition holds."""
    if not condition:
        raise OSError(number, errno.errorcode[number])


def mount_name(segment: bytes, shadowed: bool) -> bytes:
    """The segments that these tests use: the empty one is the only odd one."""
    if shadowed:
        return b".tierce~f~" + segment
    return segment or b".tierce~n~"


@dataclasses.dataclass(frozen=True)
class Found:
    """What a name of the mount stands for: a directory (key ending in "/") or a file."""

    key: bytes
    file: File | None = None

    @property
    def directory(self) -> bool:
        return self.file is None


class Model(objects.Bucket):
    """One bucket behind two doors.  Directories are keys that end in "/"; b"" is the root."""

    def __init__(self) -> None:
        super().__init__()
        self.fresh: dict[bytes, File] = {}
        self.history = Versions()
        self._numbers = itertools.count(1)

    # ------------------------------------------------------------------ what the mount shows
    def directories(self) -> set[bytes]:
        found = super().directories()
        for key in self.fresh:  # a directory that is held by a file being made stays, though S3 delete its last key
            found.update(objects.parents(key))
        return found

    def shown(self) -> dict[bytes, File]:
        """Every file of the mount, by key."""
        return {key: file for key, file in {**self.files, **self.fresh}.items() if isinstance(file, File)}

    def names(self, directory: bytes) -> dict[bytes, Found]:
        """A directory as readdir gives it."""
        start = len(directory)
        found: dict[bytes, Found] = {}
        below = {key[start:-1] for key in self.directories() if key.startswith(directory) and key != directory}
        below = {segment for segment in below if b"/" not in segment}
        for segment in below:
            found[mount_name(segment, False)] = Found(directory + segment + b"/")
        for key, file in self.shown().items():
            segment = key[start:]
            if key.startswith(directory) and b"/" not in segment:
                found[mount_name(segment, segment in below)] = Found(key, file)
        return found

    def mount_path(self, directory: bytes) -> bytes:
        """Where a directory is, below the bucket's."""
        return b"/".join(mount_name(segment, False) for segment in directory.split(b"/")[:-1])

    def links(self, file: File) -> int:
        """How many names a file has."""
        return sum(other is file for other in (*self.files.values(), *self.fresh.values()))

    # ------------------------------------------------------------------ commits
    def commit(self, file: File) -> None:
        """What close, fsync and everything that must not lose bytes do.  An orphan is never committed."""
        new = [key for key, other in self.fresh.items() if other is file]
        for key in new:
            del self.fresh[key]
            self.files[key] = file
        if self.links(file):
            if file.changed or new:
                self._version(file)
            file.committed = file.content
        file.changed = False

    def _version(self, file: File) -> None:
        """The first change since it was opened begins a version; the others change that one, unless versions were
        enabled or suspended in between."""
        for key, other in self.files.items():
            if other is file and self.history.state:
                there = self.history.keys.get(key)
                if file.begins or not there or (there[0].id == "null") != (self.history.state != ENABLED):
                    self.add(key, file.content)
                else:
                    there[0].content = file.content
        file.begins = False

    def add(self, key: bytes, content: bytes | None) -> None:
        """Another version of the key, or with None a delete marker."""
        if self.history.state:
            self.history.add(key, content, f"number {next(self._numbers)}")

    def left(self, file: File) -> None:
        """No writer has it any more."""
        file.begins = True

    def keep(self, directory: bytes) -> None:
        """A program that removes a directory's last entry doesn't lose the directory."""
        if directory:
            self.explicit.add(directory)

    # ------------------------------------------------------------------ the mount's verbs
    def open(self, directory: bytes, name: bytes, *, make: bool, writable: bool = False) -> File:
        """The file, made if it is not there."""
        found = self.names(directory).get(name)
        if found is None:
            need(make, errno.ENOENT)
            file = File(b"", "")
            self.fresh[directory + name] = file
            return file
        need(found.file is not None, errno.EISDIR)
        assert found.file is not None
        need(not (writable and found.file.held), errno.EPERM)
        return found.file

    def make(self, directory: bytes, name: bytes) -> None:
        """mkdir."""
        need(name not in self.names(directory), errno.EEXIST)
        self.explicit.add(directory + name + b"/")

    def make_symbolic_link(self, directory: bytes, name: bytes, target: bytes) -> None:
        """symlink."""
        need(name not in self.names(directory), errno.EEXIST)
        self.files[directory + name] = File(target, "", symlink=True, committed=target)

    def make_link(self, file: File, directory: bytes, name: bytes) -> None:
        """link."""
        need(name not in self.names(directory), errno.EEXIST)
        self.commit(file)
        need(file.symlink or not self.history.state, errno.EPERM)
        self.files[directory + name] = file

    def remove(self, directory: bytes, name: bytes) -> None:
        """unlink."""
        found = self.names(directory).get(name)
        need(found, errno.ENOENT)
        assert found is not None
        need(not found.directory, errno.EISDIR)
        if self.fresh.pop(found.key, None) is None:
            self.keep(directory)
            assert found.file is not None
            need(not found.file.held, errno.EPERM)
            del self.files[found.key]
            if not found.file.symlink:
                self.add(found.key, None)

    def remove_empty(self, directory: bytes, name: bytes) -> None:
        """rmdir."""
        found = self.names(directory).get(name)
        need(found, errno.ENOENT)
        assert found is not None
        need(found.directory, errno.ENOTDIR)
        need(not any(key.startswith(found.key) for key in self.fresh), errno.ENOTEMPTY)
        self.keep(directory)
        marker = self.files.get(found.key)
        self._store(lambda: self.remove_directory(b"", found.key[:-1]))
        if marker is not None:
            self.add(found.key, None)

    def move(self, source: tuple[bytes, bytes], target: tuple[bytes, bytes], flags: int) -> None:
        """rename, renameat2."""
        old = self.names(source[0]).get(source[1])
        new = self.names(target[0]).get(target[1])
        need(old, errno.ENOENT)
        assert old is not None
        exchange = bool(flags & EXCHANGE)
        if new is None:
            need(not exchange, errno.ENOENT)
            key = target[0] + target[1]
        else:
            need(not flags & NOREPLACE, errno.EEXIST)
            if old.directory != new.directory:
                need(exchange or old.directory, errno.EISDIR)
                need(exchange or not old.directory, errno.ENOTDIR)
                need(not self._has_twin(new), errno.EINVAL)  # the other of that name would be taken
            held = any(other.startswith(new.key) for other in self.fresh)
            need(exchange or not (new.directory and held), errno.ENOTEMPTY)
            key = new.key.removesuffix(b"/") if new.directory else new.key
        if old.file is not None:
            self.commit(old.file)
        if new is not None and new.file is not None:
            if exchange:
                self.commit(new.file)
            else:
                self.fresh.pop(new.key, None)
        self.keep(source[0])
        if exchange and self.history.state and new is not None and (old.directory or new.directory):
            need(old.directory == new.directory or not self._has_twin(old, committed=True), errno.EEXIST)
            need(False, errno.EINVAL)
        need(not any(each is not None and each.file is not None and each.file.held for each in (old, new)), errno.EPERM)
        before = self.seen()
        self._store(
            lambda: self.rename(
                old.key[:-1] if old.directory else old.key,
                key,
                directory=old.directory,
                new_parent=target[0],
                parent=source[0],
                replace=not flags & NOREPLACE,
                exchange=exchange,
            )
        )
        self._versions_of_move(before)

    def _has_twin(self, found: Found, *, committed: bool = False) -> bool:
        """Whether a file has the name of this directory too, or a directory that of this file."""
        if found.directory:
            return found.key[:-1] in (self.files if committed else self.shown())
        return self.exists(found.key + b"/")

    def _versions_of_move(self, before: dict[bytes, File]) -> None:
        """Every object that is at another key now: a new version there; where it was, and nothing else is, a delete
        marker."""
        after = self.seen()
        for key, file in after.items():
            if before.get(key) is not file:
                self.add(key, file.committed)
        for key in before.keys() - after.keys():
            self.add(key, None)

    def _move_all(self, moves: list[tuple[bytes, bytes, bool]]) -> None:
        super()._move_all(moves)

        def moved(key: bytes) -> bytes:
            for source, target, directory in moves:
                if directory and key.startswith(source):
                    return target + key[len(source) :]
            return key

        self.fresh = {moved(key): file for key, file in self.fresh.items()}

    def _store(self, verb: Callable[[], None]) -> None:
        """The store's refusal as the mount tells it."""
        try:
            verb()
        except StoreError as error:
            raise OSError(to_errno(error.code), error.code.name) from None

    # ------------------------------------------------------------------ S3's verbs
    def put(self, key: bytes, file: objects.File, precondition: Precondition | None = None) -> None:
        super().put(key, file, precondition)
        self.add(key, file.content)

    def delete(self, key: bytes, precondition: Precondition | None = None) -> bool:
        found = super().delete(key, precondition)
        self.add(key, None)
        return found

    def delete_version(self, key: bytes, index: int) -> bool:
        """One version is gone for good; of the newest the next one takes the place.  False where it is held."""
        versions = self.history.keys[key]
        if versions[index].held:
            return False
        self.history.remove(key, versions[index].id)
        if index == 0:
            next_one = versions[0] if versions else None
            current = self.files.get(key)
            if next_one is not None and next_one.content is not None:
                self.files[key] = promoted = put(next_one.content)
                promoted.held = next_one.held
            elif current is not None and not current.symlink:
                del self.files[key]
        return True

    def hold(self, key: bytes, held: bool) -> None:
        """PutObjectLegalHold on what is current."""
        file = self.seen()[key]
        file.held = self.history.keys[key][0].held = held

    def seen(self) -> dict[bytes, File]:
        """What S3 sees."""
        return {key: file for key, file in self.objects().items() if isinstance(file, File)}
