"""The store as a person would explain it: dictionaries of keys.  What the real one is compared with (R1).

A bucket here is flat where the catalogue is a tree: `files` maps whole keys to files, `explicit` has the keys (ending
with "/") of the directories that were made on purpose.  A directory exists if it is explicit or if the key of a file or
of an explicit directory lies below it; so implied directories vanish by themselves.  Errors are the store's codes.

It knows nothing of nodes, chunks, pages, batches or time, and is written for being right, not fast.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from appliance.errors import Code, StoreError
from appliance.model import Precondition


@dataclasses.dataclass(eq=False)
class File:
    """One node: several keys may name it, or none while it is held open."""

    content: bytes
    etag: str
    mode: int = 0o644
    symlink: bool = False
    node: int = 0  # the real one's id, once it is known
    holds: int = 0

    def patch(self, size: int, cut: int | None, pieces: list[tuple[int, bytes]]) -> None:
        """What the mount's writer does: everything at or beyond `cut` dropped, pieces laid over, the size set."""
        image = bytearray(self.content if cut is None else self.content[:cut])
        image = image[:size] + bytes(max(0, size - len(image)))
        for offset, data in pieces:
            image[offset : offset + len(data)] = data
        self.content = bytes(image)


@dataclasses.dataclass
class Upload:
    """A multipart upload: number -> (content, ETag)."""

    key: bytes
    parts: dict[int, tuple[bytes, str]] = dataclasses.field(default_factory=dict)


def parents(key: bytes) -> Iterator[bytes]:
    """Every directory above a key, outermost first, each with its "/".  Of `a/b/` (a directory): `a/`."""
    at = key.find(b"/")
    while 0 <= at < len(key) - 1:
        yield key[: at + 1]
        at = key.find(b"/", at + 1)


def require(condition: object, code: Code) -> None:
    """Raises the store's error unless the condition holds."""
    if not condition:
        raise StoreError(code)


class Bucket:
    """One bucket's names."""

    def __init__(self) -> None:
        self.files: dict[bytes, File] = {}
        self.explicit: set[bytes] = set()
        self.uploads: dict[str, Upload] = {}

    # ------------------------------------------------------------------ questions
    def directories(self) -> set[bytes]:
        """Every directory but the root."""
        found = set(self.explicit)
        for key in self.files:
            found.update(parents(key))
            if key.endswith(b"/"):
                found.add(key)  # the marker `d/` lies in the directory `d/`
        for key in self.explicit:
            found.update(parents(key))
        return found

    def exists(self, directory: bytes) -> bool:
        """Whether the directory (b"" is the root) exists."""
        return directory == b"" or directory in self.directories()

    def objects(self) -> dict[bytes, File]:
        """What S3 sees: no symlinks."""
        return {key: file for key, file in self.files.items() if not file.symlink}

    def usage(self) -> tuple[int, int]:
        """Objects and bytes; a file with two names counts twice, as it does for S3."""
        sizes = [len(file.content) for file in self.objects().values()]
        return len(sizes), sum(sizes)

    def look_up(self, key: bytes) -> File:
        """The object.  Raises NO_SUCH_KEY."""
        require(key in self.objects(), Code.NO_SUCH_KEY)
        return self.files[key]

    def level(self, directory: bytes) -> list[tuple[bytes, bool]]:
        """(name, is it a directory) of everything in a directory, in the catalogue's order."""
        rows = {key[len(directory) :] for key in self.files if key.startswith(directory) and self._in(directory, key)}
        rows |= {
            key[len(directory) :]
            for key in self.directories()
            if key.startswith(directory) and key != directory and key.find(b"/", len(directory)) == len(key) - 1
        }
        return [(row[:-1], True) if row.endswith(b"/") else (row, False) for row in sorted(rows)]

    def _in(self, directory: bytes, key: bytes) -> bool:
        return b"/" not in key[len(directory) :]

    def listing(
        self, prefix: bytes, delimiter: bytes, after: bytes, limit: int
    ) -> tuple[list[bytes], list[bytes], bool]:
        """Keys, common prefixes, truncated (S3 API, "ListObjectsV2")."""
        keys: list[bytes] = []
        prefixes: list[bytes] = []
        if limit <= 0:
            return keys, prefixes, False
        for key in sorted(self.objects()):
            if not key.startswith(prefix) or key <= after:
                continue
            at = key.find(delimiter, len(prefix)) if delimiter else -1
            common = key[: at + len(delimiter)] if at >= 0 else b""
            if common and (common <= after or (prefixes and prefixes[-1] == common)):
                continue
            if len(keys) + len(prefixes) == limit:
                return keys, prefixes, True
            if common:
                prefixes.append(common)
            else:
                keys.append(key)
        return keys, prefixes, False

    # ------------------------------------------------------------------ by key
    def check(self, key: bytes, precondition: Precondition | None) -> None:
        """S3 API, "Conditional requests"."""
        if precondition is None:
            return
        current = self.objects().get(key)  # a symbolic link is nothing to S3
        if precondition.if_match is not None:
            require(current, Code.NO_SUCH_KEY)
            assert current is not None
            require(precondition.if_match in ("*", current.etag), Code.PRECONDITION_FAILED)
        if precondition.if_none_match is not None and current is not None:
            require(precondition.if_none_match not in ("*", current.etag), Code.PRECONDITION_FAILED)

    def put(self, key: bytes, file: File, precondition: Precondition | None = None) -> None:
        """A new file takes the key's place."""
        self.check(key, precondition)
        self.files[key] = file

    def delete(self, key: bytes, precondition: Precondition | None = None) -> bool:
        """Whether something was there."""
        self.check(key, precondition)
        if key not in self.objects():
            return False
        del self.files[key]
        return True

    # ------------------------------------------------------------------ multipart
    def complete(
        self, upload_id: str, chosen: list[tuple[int, str]], etag: str, least: int, precondition: Precondition | None
    ) -> File:
        """The object of the chosen parts; the rest is dropped."""
        require(upload_id in self.uploads, Code.NO_SUCH_UPLOAD)
        upload = self.uploads[upload_id]
        last = 0
        for number, part_etag in chosen:
            require(number > last, Code.INVALID_PART_ORDER)
            require(number in upload.parts and upload.parts[number][1] == part_etag, Code.INVALID_PART)
            last = number
        require(chosen, Code.INVALID_ARGUMENT)
        bodies = [upload.parts[number][0] for number, _ in chosen]
        require(all(len(body) >= least for body in bodies[:-1]), Code.PART_TOO_SMALL)
        self.check(upload.key, precondition)
        file = File(b"".join(bodies), etag)
        self.put(upload.key, file)
        del self.uploads[upload_id]
        return file

    # ------------------------------------------------------------------ by directory and name
    def make_directory(self, directory: bytes, name: bytes) -> None:
        """Neither a file nor a directory may have the name."""
        self._require_free(directory + name)
        self.explicit.add(directory + name + b"/")

    def _require_free(self, path: bytes) -> None:
        require(path not in self.files and not self.exists(path + b"/"), Code.EXISTS)

    def remove_directory(self, directory: bytes, name: bytes) -> None:
        """Only its marker may be in it."""
        path = directory + name + b"/"
        require(self.exists(path), Code.NO_SUCH_NODE)
        below = {key for key in (*self.files, *self.explicit) if key.startswith(path) and key != path}
        require(not below, Code.NOT_EMPTY)
        self.files.pop(path, None)
        self.explicit.discard(path)

    def add_name(self, directory: bytes, name: bytes, file: File) -> None:
        """link, symlink: the name must be free."""
        self._require_free(directory + name)
        self.files[directory + name] = file

    def unlink(self, directory: bytes, name: bytes) -> None:
        """A file's name goes."""
        require(directory + name in self.files, Code.NO_SUCH_NODE)
        del self.files[directory + name]

    def rename(
        self,
        old: bytes,
        new: bytes,
        *,
        directory: bool,
        new_parent: bytes,
        parent: bytes,
        replace: bool,
        exchange: bool,
    ) -> None:
        """Paths without a final "/"; `directory` says which of the two that may share a name is meant."""
        source = old + b"/" if directory else old
        require(self.exists(source) if directory else source in self.files, Code.NO_SUCH_NODE)
        require(not (directory and new_parent.startswith(source)), Code.INVALID_ARGUMENT)
        if exchange:
            self._exchange(old, new, directory, parent)
            return
        target = new + b"/" if directory else new
        if target == source or (not directory and self.files.get(target) is self.files[source]):
            return
        other_there = new in self.files if directory else self.exists(new + b"/")
        if other_there:
            require(replace, Code.EXISTS)
            raise StoreError(Code.NOT_A_DIRECTORY if directory else Code.IS_A_DIRECTORY)
        if directory and self.exists(target):
            require(replace, Code.EXISTS)
            require(not any(key.startswith(target) for key in self.files), Code.NOT_EMPTY)
            require(not any(key.startswith(target) and key != target for key in self.explicit), Code.NOT_EMPTY)
            self.explicit.discard(target)
        elif target in self.files:
            require(replace, Code.EXISTS)
        if directory:
            self._move_all([(source, target, True)])
        else:
            self.files[target] = self.files.pop(source)

    def _exchange(self, old: bytes, new: bytes, directory: bool, parent: bytes) -> None:
        """Of two that share the target's name the one of the source's own kind is meant."""
        same_kind = self.exists(new + b"/") if directory else new in self.files
        other_kind = new in self.files if directory else self.exists(new + b"/")
        require(same_kind or other_kind, Code.NO_SUCH_NODE)
        target_directory = directory if same_kind else not directory
        if not same_kind:
            crossing = old in self.files if directory else self.exists(old + b"/")
            require(not crossing, Code.EXISTS)
        if target_directory:
            require(not parent.startswith(new + b"/"), Code.INVALID_ARGUMENT)
        moves = []
        for here, there, is_directory in ((old, new, directory), (new, old, target_directory)):
            ending = b"/" if is_directory else b""
            moves.append((here + ending, there + ending, is_directory))
        self._move_all(moves)

    def _move_all(self, moves: list[tuple[bytes, bytes, bool]]) -> None:
        """Renames at once; with a directory goes everything below it."""

        def moved(key: bytes, explicit: bool) -> bytes:
            for source, target, is_directory in moves:
                if key.startswith(source) if is_directory else key == source and not explicit:
                    return target + key[len(source) :]
            return key

        self.files = {moved(key, False): file for key, file in self.files.items()}
        self.explicit = {moved(key, True) for key in self.explicit}
