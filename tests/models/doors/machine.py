"""The rules of both doors (R1): one verb each, and after every step both doors show what the model says."""

from __future__ import annotations

import errno
import hashlib
import re
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock
from xml.etree import ElementTree

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from appliance.catalogue import uploads
from appliance.limits import GATHER_MAX, INLINE_MAX, KIB
from s3front.operations import complete_multipart_upload as completing
from tests.models.doors.drivers import Direct, Doors
from tests.models.doors.model import EXCHANGE, NOREPLACE, File, Model, put
from tests.models.frame import PART_LEAST
from tests.models.test_store import content, keys, seeds

HANDLES_MAX = 4
XMLNS = "{http://s3.amazonaws.com/doc/2006-03-01/}"

children = st.sampled_from([b"a", b"b", b"a", b"b", b"a-", b"c"])
sizes = st.one_of(
    st.integers(0, 40),
    st.sampled_from([INLINE_MAX, INLINE_MAX + 1, 4096, 65536, GATHER_MAX, GATHER_MAX + 1, 200 * KIB]),
)
offsets = st.one_of(st.sampled_from([0, 0, 1, 5, 4096, 150_000]), st.integers(0, 200_000))
places = st.tuples(seeds, children)
"""(which directory, which name in it); with an odd number a name that is there, if any is."""


class Handle(NamedTuple):
    """One open file, real and model."""

    real: Any
    file: File
    writable: bool


class DoorsMachine(RuleBasedStateMachine):
    """One bucket, two doors, one dict."""

    def make_doors(self) -> Doors:
        """The real ones."""
        return Direct()

    def __init__(self) -> None:
        super().__init__()
        self.patches = [mock.patch.object(module, "PART_SIZE_MIN", PART_LEAST) for module in (uploads, completing)]
        for patch in self.patches:
            patch.start()
        self.doors = self.make_doors()
        self.model = Model()
        self.handles: list[Handle] = []
        self.turn = 0
        self.last: list[bytes] = []

    # ------------------------------------------------------------------ the frame
    def place(self, place: tuple[int, bytes]) -> tuple[bytes, bytes]:
        """A directory of the model and a name of the mount in it."""
        pick, name = place
        directories = [b"", *sorted(self.model.directories())]
        directory = directories[pick // 2 % len(directories)]
        there = sorted(self.model.names(directory))
        return directory, there[pick // 64 % len(there)] if pick % 2 and there else name

    def path(self, place: tuple[bytes, bytes]) -> bytes:
        """The mount's path of a place."""
        return b"/".join(filter(None, [self.model.mount_path(place[0]), place[1]]))

    def same(self, real: Callable[[], Any], model: Callable[[], Any]) -> Any:
        """Both do it, or both refuse with one errno.  The real answer, None if refused."""
        try:
            model()
            wrong = 0
        except OSError as error:
            wrong = error.errno or -1
        try:
            answer, refused = real(), 0
        except OSError as error:
            answer, refused = None, error.errno or -1
        assert refused == wrong, f"the mount says {named(refused)}, the model {named(wrong)}"
        return answer

    def holders(self, file: File) -> list[Handle]:
        """Who has it open."""
        return [handle for handle in self.handles if handle.file is file]

    def some_object(self, pick: int, key: bytes) -> bytes:
        """A key that is there, mostly."""
        there = sorted(self.model.seen())
        return there[pick // 4 % len(there)] if there and pick % 4 else key

    # ------------------------------------------------------------------ S3
    @rule(key=keys, pick=seeds, size=sizes, seed=seeds)
    def put(self, key: bytes, pick: int, size: int, seed: int) -> None:
        key = self.some_object(pick, key) if pick % 3 == 0 else key
        data = content(seed, size)
        answer = self.doors.send("PUT", key, body=data)
        assert (answer.status, answer.headers["etag"]) == (200, f'"{hashlib.md5(data).hexdigest()}"'), answer
        self.model.put(key, put(data))
        self.last = [key]

    @rule(key=keys, pick=seeds)
    def delete(self, key: bytes, pick: int) -> None:
        key = self.some_object(pick, key)
        assert self.doors.send("DELETE", key).status == 204
        self.model.delete(key)
        self.last = [key]

    @rule(key=keys, pick=seeds, new=keys)
    def copy(self, key: bytes, pick: int, new: bytes) -> None:
        key = self.some_object(pick, key)
        source = f"/{self.doors.bucket}/{urllib.parse.quote(key)}"
        headers = {"x-amz-copy-source": source, "x-amz-metadata-directive": "REPLACE"}
        answer = self.doors.send("PUT", new, headers=headers)
        found = self.model.seen().get(key)
        if found is None:
            assert (answer.status, answer.code) == (404, "NoSuchKey")
            return
        assert answer.status == 200, answer
        self.model.put(new, put(found.committed))
        self.last = [new]

    @rule(key=keys, chosen=st.lists(st.tuples(sizes, seeds), min_size=1, max_size=3))
    def multipart(self, key: bytes, chosen: list[tuple[int, int]]) -> None:
        begun = self.doors.send("POST", key, "uploads=")
        found = re.search(rb"<UploadId>(.*)</UploadId>", begun.body)
        assert found, begun
        upload = found[1].decode()
        if not self.doors.exact:  # a part but the last has 5 MiB
            chosen = chosen[:1]
        document, whole = "", b""
        for number, (size, seed) in enumerate(chosen, 1):
            data = content(seed, size + PART_LEAST)
            part = self.doors.send("PUT", key, f"partNumber={number}&uploadId={upload}", body=data)
            document += f"<Part><PartNumber>{number}</PartNumber><ETag>{part.headers['etag']}</ETag></Part>"
            whole += data
        document = f"<CompleteMultipartUpload>{document}</CompleteMultipartUpload>"
        done = self.doors.send("POST", key, f"uploadId={upload}", body=document.encode())
        assert done.status == 200, done
        self.model.put(key, put(whole))
        self.last = [key]

    @rule(key=keys, pick=seeds, start=offsets, length=offsets)
    def get_range(self, key: bytes, pick: int, start: int, length: int) -> None:
        key = self.some_object(pick, key)
        seen = self.model.seen().get(key)
        data = b"" if seen is None else seen.committed
        start %= len(data) + 1
        answer = self.doors.send("GET", key, headers={"range": f"bytes={start}-{start + length}"})
        if seen is None:
            assert (answer.status, answer.code) == (404, "NoSuchKey")
        elif start >= len(data):
            assert (answer.status, answer.code) == (416, "InvalidRange")
        else:
            assert (answer.status, answer.body) == (206, data[start : start + length + 1])

    @rule(prefix=st.one_of(st.just(b""), keys), delimiter=st.sampled_from([b"", b"/"]), limit=st.integers(1, 3))
    def list_pages(self, prefix: bytes, delimiter: bytes, limit: int) -> None:
        wanted = self.model.listing(prefix, delimiter, b"", 1000)
        assert self.listed(prefix, delimiter, limit) == wanted[:2]

    def listed(self, prefix: bytes = b"", delimiter: bytes = b"", limit: int = 1000) -> tuple[list[bytes], list[bytes]]:
        """Keys and prefixes of all pages."""
        found: list[bytes] = []
        prefixes: list[bytes] = []
        token = ""
        for _ in range(100):
            fields = [("delimiter", delimiter), ("encoding-type", b"url"), ("list-type", b"2"), ("prefix", prefix)]
            fields += [("max-keys", b"%d" % limit), ("continuation-token", token.encode())]
            query = "&".join(f"{name}={urllib.parse.quote(value, safe='')}" for name, value in sorted(fields) if value)
            page = ElementTree.fromstring(self.doors.send("GET", b"", query).body)
            for item in page.iter(XMLNS + "Contents"):
                key = unquoted(item.findtext(XMLNS + "Key"))
                found.append(key)
                assert item.findtext(XMLNS + "Size") == str(len(self.model.seen()[key].committed)), key
            for item in page.iter(XMLNS + "CommonPrefixes"):
                prefixes.append(unquoted(item.findtext(XMLNS + "Prefix")))
            token = page.findtext(XMLNS + "NextContinuationToken") or ""
            if not token:
                return found, prefixes
        raise AssertionError("a listing ends")

    # ------------------------------------------------------------------ the mount: whole files
    @rule(place=places, size=sizes, seed=seeds)
    def write_whole(self, place: tuple[int, bytes], size: int, seed: int) -> None:
        """As `cp` does: open, truncate, write, close."""
        where = self.place(place)
        data = content(seed, size)
        if not self.reachable(where):
            return

        def real() -> None:
            handle = self.doors.open(self.path(where), make=True, writable=True, truncate=True)
            if data:
                self.doors.write(handle, 0, data)
            self.doors.close(handle)

        def model() -> None:
            file = self.model.open(*where, make=True, writable=True)
            file.truncate(0)
            file.write(len(data), None, [(0, data)] if data else [])
            self.model.commit(file)
            self.left(file)

        self.same(real, model)
        self.remember(where)

    @rule(place=places, size=offsets)
    def truncate(self, place: tuple[int, bytes], size: int) -> None:
        where = self.place(place)
        if not self.reachable(where):
            return

        def model() -> None:
            file = self.model.open(*where, make=False, writable=True)
            file.truncate(size)
            self.model.commit(file)  # who truncates by name closes nothing
            if not any(handle.writable for handle in self.holders(file)):
                self.model.left(file)

        found = self.model.names(where[0]).get(where[1])
        if found is None or not found.directory:  # truncate(2) of a directory is refused by the kernel
            self.same(lambda: self.doors.truncate(self.path(where), size), model)
            if found is not None and found.file is not None:
                self.settle(found.file)
            self.remember(where)

    def reachable(self, where: tuple[bytes, bytes]) -> bool:
        """Not a symbolic link: the kernel follows those."""
        found = self.model.names(where[0]).get(where[1])
        return found is None or found.file is None or not found.file.symlink

    def remember(self, where: tuple[bytes, bytes]) -> None:
        """Its bytes are compared after this step."""
        found = self.model.names(where[0]).get(where[1])
        self.last = [found.key] if found is not None and found.file is not None else []

    # ------------------------------------------------------------------ the mount: open files
    @precondition(lambda self: len(self.handles) < HANDLES_MAX)
    @rule(place=places, writable=st.booleans(), truncate=st.booleans())
    def open(self, place: tuple[int, bytes], writable: bool, truncate: bool) -> None:
        where = self.place(place)
        if not self.reachable(where):
            return
        truncate = truncate and writable
        opened: list[File] = []

        def model() -> None:
            file = self.model.open(*where, make=writable, writable=writable)
            if truncate:
                file.truncate(0)
            opened.append(file)

        path = self.path(where)
        handle = self.same(lambda: self.doors.open(path, make=writable, writable=writable, truncate=truncate), model)
        if handle is not None:
            self.handles.append(Handle(handle, opened[0], writable))
            self.settle(opened[0])
        self.remember(where)

    @precondition(lambda self: any(handle.writable for handle in self.handles))
    @rule(which=seeds, start=offsets, size=sizes, seed=seeds)
    def write(self, which: int, start: int, size: int, seed: int) -> None:
        handle = self.writer(which)
        data = content(seed, size + 1)
        self.doors.write(handle.real, start, data)
        handle.file.write(max(len(handle.file.content), start + len(data)), None, [(start, data)])
        self.settle(handle.file)
        self.probe(handle)

    @precondition(lambda self: any(handle.writable for handle in self.handles))
    @rule(which=seeds, size=offsets)
    def cut(self, which: int, size: int) -> None:
        handle = self.writer(which)
        self.doors.cut(handle.real, size)
        handle.file.truncate(size)
        self.settle(handle.file)
        self.probe(handle)

    def settle(self, file: File) -> None:
        """A kernel keeps writes as long as it likes: where it does, each is synced, so that S3's view is exact."""
        writers = [handle for handle in self.holders(file) if handle.writable]
        if not self.doors.exact and writers:
            self.doors.sync(writers[0].real)
            self.model.commit(file)

    def writer(self, which: int) -> Handle:
        """A handle that may write."""
        writers = [handle for handle in self.handles if handle.writable]
        return writers[which % len(writers)]

    @precondition(lambda self: self.handles)
    @rule(which=seeds)
    def sync(self, which: int) -> None:
        handle = self.handles[which % len(self.handles)]
        self.doors.sync(handle.real)
        self.model.commit(handle.file)
        self.probe(handle)

    @precondition(lambda self: self.handles)
    @rule(which=seeds)
    def close(self, which: int) -> None:
        handle = self.handles.pop(which % len(self.handles))
        self.probe(handle)
        self.doors.close(handle.real)
        if handle.writable:
            self.model.commit(handle.file)
            self.left(handle.file)

    def left(self, file: File) -> None:
        """A writer has closed it."""
        if not any(handle.writable for handle in self.holders(file)):
            self.model.left(file)

    @precondition(lambda self: self.handles)
    @rule(which=seeds, start=offsets, length=offsets)
    def read(self, which: int, start: int, length: int) -> None:
        """H4: whoever has a file open sees that file, whatever its name stands for by now."""
        handle = self.handles[which % len(self.handles)]
        assert self.doors.read(handle.real, start, length) == handle.file.content[start : start + length]

    def probe(self, handle: Handle) -> None:
        """All bytes of an open file."""
        assert self.doors.read(handle.real, 0, len(handle.file.content) + 1) == handle.file.content

    # ------------------------------------------------------------------ the mount: names
    @rule(place=places)
    def mkdir(self, place: tuple[int, bytes]) -> None:
        where = self.place(place)
        self.same(lambda: self.doors.mkdir(self.path(where)), lambda: self.model.make(*where))

    @rule(place=places)
    def rmdir(self, place: tuple[int, bytes]) -> None:
        where = self.place(place)
        self.same(lambda: self.doors.rmdir(self.path(where)), lambda: self.model.remove_empty(*where))

    @rule(place=places)
    def unlink(self, place: tuple[int, bytes]) -> None:
        where = self.place(place)
        self.same(lambda: self.doors.unlink(self.path(where)), lambda: self.model.remove(*where))

    @rule(place=places)
    def symlink(self, place: tuple[int, bytes]) -> None:
        where = self.place(place)
        self.same(
            lambda: self.doors.symlink(b"target", self.path(where)),
            lambda: self.model.make_symbolic_link(*where, b"target"),
        )

    @rule(place=places, new=places)
    def link(self, place: tuple[int, bytes], new: tuple[int, bytes]) -> None:
        where, to = self.place(place), self.place(new)
        found = self.model.names(where[0]).get(where[1])
        if found is None or found.file is None:
            return
        file = found.file
        old_path, new_path = self.path(where), self.path(to)
        self.same(lambda: self.doors.link(old_path, new_path), lambda: self.model.make_link(file, *to))
        self.remember(to)

    @rule(place=places, new=places, flags=st.sampled_from([0, 0, 0, NOREPLACE, EXCHANGE]))
    def rename(self, place: tuple[int, bytes], new: tuple[int, bytes], flags: int) -> None:
        where, to = self.place(place), self.place(new)
        old, target = (self.model.names(at[0]).get(at[1]) for at in (where, to))
        if old is not None and target is not None and (old.key == target.key or old.file is target.file is not None):
            return  # two names of one thing: nothing happens, but whether anything is kept is not said
        old_path, new_path = self.path(where), self.path(to)
        nested = old_path.startswith(new_path + b"/") or new_path.startswith(old_path + b"/")
        unseen = target is not None and any(key.startswith(target.key) for key in self.model.fresh)
        if nested and (unseen or not self.doors.exact):
            return  # the kernel itself refuses, by its own errno; of two that are right the mount says either
        self.same(lambda: self.doors.rename(old_path, new_path, flags), lambda: self.model.move(where, to, flags))
        self.last = []

    # ------------------------------------------------------------------ after every step
    @invariant()
    def doors_agree(self) -> None:
        """All names on both doors; the bytes of what the step touched and of one more."""
        assert self.listed() == (sorted(self.model.seen()), [])
        shown: dict[bytes, bytes] = {}
        for directory in [b"", *sorted(self.model.directories())]:
            path = self.model.mount_path(directory)
            found = self.model.names(directory)
            assert sorted(self.doors.names(path)) == sorted(found), (directory, path)
            shown |= {item.key: b"/".join(filter(None, [path, name])) for name, item in found.items() if item.file}
        self.turn += 1
        chosen = [key for key in self.last if key in shown]
        if shown:
            chosen.append(sorted(shown)[self.turn % len(shown)])
        for key in chosen:
            self.compare(key, shown[key])
        gone = [key for key in self.last if key not in self.model.seen()]
        for key in gone:
            assert self.doors.send("HEAD", key).status == 404

    def compare(self, key: bytes, path: bytes) -> None:
        """One object's bytes on both doors."""
        file = self.model.shown()[key]
        assert self.doors.size(path) == len(file.content)
        if not file.symlink:
            handle = self.doors.open(path, make=False, writable=False)
            try:
                assert self.doors.read(handle, 0, len(file.content) + 1) == file.content
            finally:
                self.doors.close(handle)
        seen = self.model.seen().get(key)
        answer = self.doors.send("GET", key)
        if seen is None:
            assert answer.status == 404
        else:
            assert (answer.status, answer.body) == (200, seen.committed)

    def teardown(self) -> None:
        """Everything closed, compared, and compared again by the doors themselves, without the mount."""
        try:
            while self.handles:
                self.close(0)
            self.last = sorted(self.model.shown())
            self.doors_agree()
            self.doors.finish({key: file.content for key, file in self.model.seen().items()})
        finally:
            for patch in self.patches:
                patch.stop()
            self.doors.close_all()


def unquoted(text: str | None) -> bytes:
    """A key of a listing with encoding-type=url."""
    assert text is not None
    return urllib.parse.unquote_to_bytes(text)


def named(number: int) -> str:
    """ENOENT, not 2."""
    return errno.errorcode.get(number, str(number)) if number else "yes"
