"""Both doors as dictionaries: what SEMANTICS.md says, for one bucket (R1).

`objects.Bucket` is the committed state, all that S3 sees.  The mount lays over it what is not committed: bytes of open
files (`content` runs ahead of `committed`), and names of files that were created and never committed (`fresh`).  Names
are the mount's where a method says "name", and the catalogue's everywhere else.
"""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from typing import Final

from appliance.errors import StoreError
from fusefs.errors import to_errno
from tests.models import objects

NOREPLACE: Final = 1
EXCHANGE: Final = 2


@dataclasses.dataclass(eq=False)
class File(objects.File):
    """A file as its holders see it (`content`) and as S3 does (`committed`)."""

    committed: bytes = b""


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
        for key, other in list(self.fresh.items()):
            if other is file:
                del self.fresh[key]
                self.files[key] = file
        if self.links(file):
            file.committed = file.content

    def keep(self, directory: bytes) -> None:
        """A program that removes a directory's last entry doesn't lose the directory."""
        if directory:
            self.explicit.add(directory)

    # ------------------------------------------------------------------ the mount's verbs
    def open(self, directory: bytes, name: bytes, *, make: bool) -> File:
        """The file, made if it is not there."""
        found = self.names(directory).get(name)
        if found is None:
            need(make, errno.ENOENT)
            file = File(b"", "")
            self.fresh[directory + name] = file
            return file
        need(found.file is not None, errno.EISDIR)
        assert found.file is not None
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
        self.files[directory + name] = file

    def remove(self, directory: bytes, name: bytes) -> None:
        """unlink."""
        found = self.names(directory).get(name)
        need(found, errno.ENOENT)
        assert found is not None
        need(not found.directory, errno.EISDIR)
        if self.fresh.pop(found.key, None) is None:
            self.keep(directory)
            del self.files[found.key]

    def remove_empty(self, directory: bytes, name: bytes) -> None:
        """rmdir."""
        found = self.names(directory).get(name)
        need(found, errno.ENOENT)
        assert found is not None
        need(found.directory, errno.ENOTDIR)
        need(not any(key.startswith(found.key) for key in self.fresh), errno.ENOTEMPTY)
        self.keep(directory)
        self._store(lambda: self.remove_directory(b"", found.key[:-1]))

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
                need(not exchange, errno.EINVAL)
                need(old.directory, errno.EISDIR)
                need(not old.directory, errno.ENOTDIR)
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
    def seen(self) -> dict[bytes, File]:
        """What S3 sees."""
        return {key: file for key, file in self.objects().items() if isinstance(file, File)}
