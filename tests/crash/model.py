"""What the store should hold: plain dictionaries, changed by the same commands.

The model follows commands that succeeded, in the order of commit; it takes from their results only the ids that the
engine chose.  It knows no page, no map and no device: a file is its bytes.  `State` is what is compared, read from a
store by `observed.py`.
"""

from __future__ import annotations

import copy
import stat
from collections.abc import Sequence
from typing import Any, NamedTuple

from appliance.catalogue import commands
from appliance.engine.ticket import Ticket
from appliance.model import Body, NewChunk, NewSlice

SLASH = b"/"
Name = tuple[int, bytes]  # bucket, path from its root; a directory's ends with "/"


class State(NamedTuple):
    """Everything that a client could find out."""

    files: dict[Name, int]  # name -> node
    contents: dict[int, bytes]  # node -> bytes
    etags: dict[int, str]
    directories: frozenset[Name]  # explicit ones and those that keys imply
    uploads: dict[str, tuple[int, bytes]]
    parts: dict[tuple[str, int], bytes]
    buckets: frozenset[str]
    older: dict[tuple[int, bytes, str], bytes | None]  # bucket, key, version id -> bytes, None of a delete marker


class Older(NamedTuple):
    """A version that is not current; `node` 0 for a delete marker."""

    node: int
    content: bytes | None
    etag: str


class Model:
    """A reference store."""

    def __init__(self) -> None:
        self.files: dict[Name, int] = {}
        self.contents: dict[int, bytes] = {}
        self.etags: dict[int, str] = {}
        self.explicit: dict[Name, int] = {}  # directories that were made, by name -> node
        self.paths: dict[int, Name] = {}  # directory's node -> its name; a bucket's root: (bucket, b"")
        self.uploads: dict[str, tuple[int, bytes]] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.buckets: dict[str, int] = {}
        self.versioned: dict[int, bytes] = {}  # buckets whose versions are enabled
        self.ids: dict[Name, str] = {}  # version ids of current objects there
        self.older: dict[tuple[int, bytes, str], Older] = {}
        self.chunks: dict[int, bytes] = {}  # bytes of every chunk that was ever staged: the workload says them

    def copy(self) -> Model:
        """An independent one; the bytes are shared."""
        twin = copy.copy(self)
        for name, value in vars(self).items():
            if name != "chunks":
                setattr(twin, name, dict(value))
        return twin

    def state(self) -> State:
        """What a store should show now."""
        directories = set(self.explicit)
        for bucket, path in (*self.files, *self.explicit):
            parts = path.split(SLASH)[: -2 if path.endswith(SLASH) and (bucket, path) in self.explicit else -1]
            for count in range(1, len(parts) + 1):
                directories.add((bucket, SLASH.join(parts[:count]) + SLASH))
        live = set(self.files.values())
        return State(
            dict(self.files),
            {node: content for node, content in self.contents.items() if node in live},
            {node: etag for node, etag in self.etags.items() if node in live},
            frozenset(directories),
            dict(self.uploads),
            dict(self.parts),
            frozenset(self.buckets),
            {name: older.content for name, older in self.older.items()},
        )

    # ------------------------------------------------------------------ commands
    def apply_all(self, tickets: Sequence[Ticket]) -> Model:
        """Every command of a batch that succeeded."""
        for ticket in tickets:
            if ticket.error is None:
                self.apply(ticket.command, ticket.result)
        return self

    def apply(self, command: commands.Command, result: Any) -> None:
        """One command that succeeded with `result`."""
        getattr(self, "_" + type(command).__name__)(command, result)

    def body(self, body: Body) -> bytes:
        """The bytes of a staged body."""
        if not body.chunks:
            return body.inline
        return self._laid(b"", body.size, body.chunks, body.slices)

    def _laid(self, below: bytes, size: int, chunks: Sequence[NewChunk], slices: Sequence[NewSlice]) -> bytes:
        image = bytearray(size)
        image[: len(below)] = below
        for piece in slices:
            chunk = self.chunks[piece.chunk]
            image[piece.offset : piece.offset + piece.length] = chunk[piece.start : piece.start + piece.length]
        return bytes(image)

    def _place(self, name: Name, node: int, content: bytes, etag: str, version_id: str = "") -> None:
        self._retire(name)
        if version_id:
            self.ids[name] = version_id
        self.files[name] = node
        self.contents[node] = content
        self.etags[node] = etag

    def _retire(self, name: Name) -> None:
        """What is current becomes an older version, where there are versions."""
        node = self.files.get(name)
        if node is not None and name[0] in self.versioned:
            self.older[*name, self.ids[name]] = Older(node, self.contents[node], self.etags[node])

    def _SetBucketSetting(self, command: commands.SetBucketSetting, result: Any) -> None:
        assert command.body is not None
        self.versioned[command.bucket] = command.body

    def _CreateBucket(self, command: commands.CreateBucket, result: Any) -> None:
        self.buckets[command.name] = result.id
        self.paths[result.root] = (result.id, b"")

    def _PutObject(self, command: commands.PutObject, result: Any) -> None:
        self._place(
            (command.bucket, command.key), result.node, self.body(command.body), command.etag, result.version_id
        )

    def _CopyObject(self, command: commands.CopyObject, result: Any) -> None:
        content, etag = self.contents[command.source], self.etags[command.source]
        self._place((command.bucket, command.key), result.node, content, etag, result.version_id)

    def _DeleteObject(self, command: commands.DeleteObject, result: Any) -> None:
        name = command.bucket, command.key
        if command.version_id:
            self._remove_version(name, command.version_id)
            return
        assert (name in self.files) == result.found, "the engine and the model disagree"
        self._retire(name)
        self.files.pop(name, None)
        if command.bucket in self.versioned:
            self.older[*name, result.version_id] = Older(0, None, "")

    def _remove_version(self, name: Name, version_id: str) -> None:
        """The next one is current, unless it is a delete marker."""
        if name in self.files and self.ids[name] == version_id:
            del self.files[name]
        else:
            self.older.pop((*name, version_id), None)
        ids = [number for *place, number in self.older if (place[0], place[1]) == name]
        if name not in self.files and ids:
            newest = max(ids)
            node, content, etag = self.older[*name, newest]
            if content is not None:
                del self.older[*name, newest]
                self.files[name], self.ids[name] = node, newest
                self.contents[node], self.etags[node] = content, etag

    def _CreateUpload(self, command: commands.CreateUpload, result: Any) -> None:
        self.uploads[command.id] = (command.bucket, command.key)

    def _PutPart(self, command: commands.PutPart, result: Any) -> None:
        self.parts[command.upload, command.number] = self.body(command.body)

    def _CopyPart(self, command: commands.CopyPart, result: Any) -> None:
        content = self.contents[command.source][command.start : command.start + command.length]
        self.parts[command.upload, command.number] = content

    def _CompleteUpload(self, command: commands.CompleteUpload, result: Any) -> None:
        content = b"".join(self.parts[command.upload, number] for number, _ in command.parts)
        bucket, key = self.uploads[command.upload]
        self._place((bucket, key), result.node, content, command.etag, result.version_id)
        self._end(command.upload)

    def _AbortUpload(self, command: commands.AbortUpload, result: Any) -> None:
        self._end(command.upload)

    def _end(self, upload: str) -> None:
        del self.uploads[upload]
        self.parts = {key: value for key, value in self.parts.items() if key[0] != upload}

    def _WriteFile(self, command: commands.WriteFile, result: Any) -> None:
        if command.create is not None:
            parent, name = command.create
            bucket, path = self.paths[parent]
            below = b""
            self.files[bucket, path + name] = command.node
        else:
            below = self.contents[command.node]
            if command.begins and command.place is not None and command.bucket in self.versioned:
                bucket, path = self.paths[command.place[0]]
                self._retire((bucket, path + command.place[1]))
                self.ids[bucket, path + command.place[1]] = result.version_id
        keep = len(below) if command.cut is None else min(command.cut, len(below))
        below = below[: min(keep, command.size)]
        for start, end in command.punched:
            below = below[:start] + bytes(max(0, min(end, len(below)) - start)) + below[end:]
        self.contents[command.node] = self._laid(below, command.size, command.chunks, command.slices)
        self.etags[command.node] = result.etag

    def _CopyRange(self, command: commands.CopyRange, result: Any) -> None:
        shared, node = command.shared, command.change.node
        data = self.contents[shared.source][shared.start : shared.start + shared.length]
        assert len(data) == shared.length
        self._WriteFile(command.change, result)
        content = self.contents[node]
        self.contents[node] = content[: shared.offset] + data + content[shared.offset + shared.length :]

    def _MakeDirectory(self, command: commands.MakeDirectory, result: Any) -> None:
        bucket, path = self.paths[command.parent]
        name = (bucket, path + command.name + SLASH)
        self.explicit[name] = result.node.id
        self.paths[result.node.id] = name

    def _RemoveDirectory(self, command: commands.RemoveDirectory, result: Any) -> None:
        bucket, path = self.paths[command.parent]
        node = self.explicit.pop((bucket, path + command.name + SLASH))
        del self.paths[node]

    def _Unlink(self, command: commands.Unlink, result: Any) -> None:
        bucket, path = self.paths[command.parent]
        del self.files[bucket, path + command.name]

    def _SetAttributes(self, command: commands.SetAttributes, result: Any) -> None:
        assert stat.S_ISREG(result.mode), "the workload changes files only"

    def _Rename(self, command: commands.Rename, result: Any) -> None:
        bucket, path = self.paths[command.parent]
        _, new_path = self.paths[command.new_parent]
        old, new = path + command.name, new_path + command.new_name
        if old == new:
            return
        if not command.directory:
            self.files[bucket, new] = self.files.pop((bucket, old))
            return
        old, new = old + SLASH, new + SLASH

        def moved(name: Name) -> Name:
            return (bucket, new + name[1][len(old) :]) if name[0] == bucket and name[1].startswith(old) else name

        replaced = self.explicit.pop((bucket, new), None)
        if replaced is not None:
            del self.paths[replaced]
        self.files = {moved(name): node for name, node in self.files.items()}
        self.explicit = {moved(name): node for name, node in self.explicit.items()}
        self.paths = {node: moved(name) for node, name in self.paths.items()}

    def _FoldMap(self, command: commands.FoldMap, result: Any) -> None:
        """The same bytes."""

    def _PutDataKeys(self, command: commands.PutDataKeys, result: Any) -> None:
        """Nothing that a client sees."""

    def _Reap(self, command: commands.Reap, result: Any) -> None:
        """Nothing that a client sees."""
