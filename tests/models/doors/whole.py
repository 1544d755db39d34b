"""All that the two doors do to one another (R1): the machine of plain buckets, and beside its rules versions enabled
and suspended, legal holds, uploads in flight while names move, conditions on what the other door made, metadata.

A bucket is one of three kinds: plain, with versions, with object lock (which has versions that nobody can suspend).
"""

from __future__ import annotations

import base64
import errno
import hashlib
import urllib.parse
from typing import Any
from xml.etree import ElementTree

from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from tests.models.doors.drivers import Direct
from tests.models.doors.machine import XMLNS, DoorsMachine, offsets, places, sizes, unquoted
from tests.models.doors.model import File, mount_name, need, put
from tests.models.frame import PART_LEAST
from tests.models.test_store import content, keys, seeds
from tests.models.versions import ENABLED, SUSPENDED

FLIGHTS_MAX = 3
KEEP_SIZE, ZERO = 1, 16  # linux/falloc.h
PUNCH = 2 | KEEP_SIZE
VERSIONING = "<VersioningConfiguration><Status>{}</Status></VersioningConfiguration>"
LOCKING = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
HOLD = "<LegalHold><Status>{}</Status></LegalHold>"


class WholeMachine(DoorsMachine):
    """One bucket of any kind."""

    def __init__(self) -> None:
        super().__init__()
        self.locking = False
        self.streaming: list[tuple[Any, bytes, bytes]] = []  # what was begun, its key, its body
        self.uploads: list[tuple[bytes, str, str, bytes]] = []  # key, upload id, parts of the document, bytes

    def ask(self, key: bytes, query: str, document: str) -> None:
        """A setting by PUT."""
        body = document.encode()
        answer = self.doors.send("PUT", key, query, {"content-md5": md5(body)}, body)
        assert answer.status == 200, answer

    # ------------------------------------------------------------------ versions and locks
    @initialize(kind=st.sampled_from(["plain", "versions", "versions", "lock"]))
    def choose(self, kind: str) -> None:
        if kind != "plain":
            self.versioning(True)
        if kind == "lock":
            self.ask(b"", "object-lock=", LOCKING)
            self.locking = True

    @precondition(lambda self: self.model.history.state and not self.locking)
    @rule(enabled=st.booleans())
    def versioning(self, enabled: bool) -> None:
        self.model.history.state = ENABLED if enabled else SUSPENDED
        self.ask(b"", "versioning=", VERSIONING.format(self.model.history.state))

    def versions(self, key: bytes) -> list[tuple[str, bool, bool, int]]:
        """(id, latest, delete marker, size) of a key's versions as S3 lists them."""
        query = f"encoding-type=url&prefix={urllib.parse.quote(key, safe='')}&versions="
        page = ElementTree.fromstring(self.doors.send("GET", b"", query).body)
        found = []
        for item in page:
            marker = item.tag == XMLNS + "DeleteMarker"
            if (marker or item.tag == XMLNS + "Version") and unquoted(item.findtext(XMLNS + "Key")) == key:
                size = int(item.findtext(XMLNS + "Size") or 0)
                latest = item.findtext(XMLNS + "IsLatest") == "true"
                found.append((item.findtext(XMLNS + "VersionId") or "", latest, marker, size))
        return found

    @precondition(lambda self: self.model.history.keys)
    @rule(which=seeds, index=st.integers(0, 3))
    def delete_version(self, which: int, index: int) -> None:
        key = sorted(self.model.history.keys)[which % len(self.model.history.keys)]
        index %= len(self.model.history.keys[key])
        version_id = self.versions(key)[index][0]
        answer = self.doors.send("DELETE", key, f"versionId={version_id}")
        wanted = 204 if self.model.delete_version(key, index) else 403
        assert answer.status == wanted, answer
        self.last = [key]

    @precondition(lambda self: self.locking)
    @rule(pick=seeds, held=st.booleans())
    def hold(self, pick: int, held: bool) -> None:
        """Not what somebody has open to write: how he learns of it is told elsewhere."""
        there = sorted(self.model.seen())
        key = there[pick % len(there)] if there else b""
        if not there or any(handle.writable for handle in self.holders(self.model.seen()[key])):
            return
        self.ask(key, "legal-hold=", HOLD.format("ON" if held else "OFF"))
        self.model.hold(key, held)

    @precondition(lambda self: self.model.history.keys)
    @rule(which=seeds)
    def compare_history(self, which: int) -> None:
        """A key's whole past, by S3 and in the mount's directory of the past."""
        key = sorted(self.model.history.keys)[which % len(self.model.history.keys)]
        self.compare_versions(key)
        model, real = self.model.history.keys[key], self.versions(key)
        segments = key.split(b"/")
        path = b"/".join([b".tierce~versions", *(mount_name(segment, False) for segment in segments)])
        current = self.model.seen().get(key)
        for index, (one, (version_id, *_)) in enumerate(zip(model, real, strict=True)):
            if one.content is None:
                continue
            answer = self.doors.send("GET", key, f"versionId={version_id}")
            assert (answer.status, answer.body) == (200, one.content), (key, version_id)
            shown = path + b"@" + version_id.encode()
            if index == 0 and current is not None:
                self.same(lambda shown=shown: self.doors.size(shown), lambda: need(False, errno.ENOENT))  # type: ignore[misc]
                continue
            handle = self.doors.open(shown, make=False, writable=False)
            try:
                assert self.doors.read(handle, 0, len(one.content) + 1) == one.content, (key, version_id)
            finally:
                self.doors.close(handle)

    def compare_versions(self, key: bytes) -> None:
        """Which versions there are."""
        model = self.model.history.keys.get(key, [])
        wanted = [(index == 0, one.content is None, len(one.content or b"")) for index, one in enumerate(model)]
        found = self.versions(key)
        assert [tuple(one[1:]) for one in found] == wanted, key
        assert [one[0] == "null" for one in found] == [one.id == "null" for one in model], key

    @invariant()
    def doors_agree(self) -> None:
        super().doors_agree()
        if self.model.history.state:
            for key in self.last:
                self.compare_versions(key)

    # ------------------------------------------------------------------ in flight
    @precondition(lambda self: len(self.streaming) < FLIGHTS_MAX)
    @rule(key=keys, pick=seeds, size=sizes, seed=seeds)
    def begin_put(self, key: bytes, pick: int, size: int, seed: int) -> None:
        """Half of its body has come: nothing of it is to be seen, whatever names do meanwhile."""
        key = self.some_object(pick, key)
        body = content(seed, size + 2)
        self.streaming.append((self.doors.begin_put(key, body), key, body))

    @precondition(lambda self: self.streaming)
    @rule(which=seeds)
    def finish_put(self, which: int) -> None:
        """It takes the key that it named, wherever what was there has gone."""
        begun, key, body = self.streaming.pop(which % len(self.streaming))
        answer = self.doors.finish_put(begun)
        assert (answer.status, answer.headers["etag"]) == (200, f'"{hashlib.md5(body).hexdigest()}"'), answer
        self.model.put(key, put(body))
        self.last = [key]

    @precondition(lambda self: len(self.uploads) < FLIGHTS_MAX)
    @rule(key=keys, pick=seeds, size=sizes, seed=seeds)
    def begin_upload(self, key: bytes, pick: int, size: int, seed: int) -> None:
        key = self.some_object(pick, key)
        begun = ElementTree.fromstring(self.doors.send("POST", key, "uploads=").body)
        upload = begun.findtext(XMLNS + "UploadId") or ""
        data = content(seed, size + PART_LEAST)
        part = self.doors.send("PUT", key, f"partNumber=1&uploadId={upload}", body=data)
        listed = f"<Part><PartNumber>1</PartNumber><ETag>{part.headers['etag']}</ETag></Part>"
        self.uploads.append((key, upload, listed, data))

    @precondition(lambda self: self.uploads)
    @rule(which=seeds, abort=st.booleans())
    def end_upload(self, which: int, abort: bool) -> None:
        key, upload, listed, data = self.uploads.pop(which % len(self.uploads))
        if abort:
            assert self.doors.send("DELETE", key, f"uploadId={upload}").status == 204
            return
        document = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
        assert self.doors.send("POST", key, f"uploadId={upload}", body=document).status == 200
        self.model.put(key, put(data))
        self.last = [key]

    # ------------------------------------------------------------------ quotas
    @precondition(lambda self: isinstance(self.doors, Direct))
    @rule(key=keys, place=places)
    def full(self, key: bytes, place: tuple[int, bytes]) -> None:
        """Nothing new has room, through neither door; then it has again."""
        assert isinstance(self.doors, Direct)
        self.doors.limit(True)
        try:
            if key not in self.model.seen():
                answer = self.doors.send("PUT", key, body=b"new")
                assert (answer.status, answer.code) == (403, "QuotaExceeded"), answer
            where = self.place(place)
            if self.model.names(where[0]).get(where[1]) is None:
                path = self.path(where)
                self.same(lambda: self.doors.open(path, make=True, writable=True), lambda: need(False, errno.EDQUOT))
        finally:
            self.doors.limit(False)
        self.last = [key]

    # ------------------------------------------------------------------ ranges of open files
    @precondition(lambda self: any(handle.writable for handle in self.handles))
    @rule(
        which=seeds, mode=st.sampled_from([0, KEEP_SIZE, PUNCH, ZERO, ZERO | KEEP_SIZE]), start=offsets, length=offsets
    )
    def allocate(self, which: int, mode: int, start: int, length: int) -> None:
        """fallocate(2): room, holes, zeros."""
        handle = self.writer(which)
        file = handle.file
        length += 1
        try:
            self.doors.allocate(handle.real, mode, start, length)
        except OSError as error:  # where the compiled part of the mount is missing
            if error.errno != errno.EOPNOTSUPP or self.doors.exact:
                raise
            return
        size = len(file.content) if mode & KEEP_SIZE else max(len(file.content), start + length)
        end = min(start + length, len(file.content))
        zeros = [(start, bytes(end - start))] if mode & (2 | ZERO) and end > start else []
        file.write(size, None, zeros)
        self.settle(file)
        self.probe(handle)

    @precondition(lambda self: any(handle.writable for handle in self.handles))
    @rule(which=seeds, source=seeds, start=offsets, offset=offsets, length=offsets)
    def copy_range(self, which: int, source: int, start: int, offset: int, length: int) -> None:
        """copy_file_range(2): shared or copied, the bytes are those of that moment."""
        handle = self.writer(which)
        other = self.handles[source % len(self.handles)]
        data = other.file.content[start : start + length]
        if handle.file is other.file and abs(start - offset) < max(len(data), length):
            return  # EINVAL, told by the kernel
        assert self.doors.copy_range(other.real, start, handle.real, offset, length) == len(data)
        if data:
            # it may have made both durable
            self.settle(other.file)
            handle.file.write(max(len(handle.file.content), offset + len(data)), None, [(offset, data)])
        for file in (other.file, handle.file):
            self.sync_all(file)
        self.probe(handle)

    def sync_all(self, file: File) -> None:
        """It is durable, whoever has it open."""
        holder = self.holders(file)[0]
        self.doors.sync(holder.real)
        self.model.commit(file)

    # ------------------------------------------------------------------ conditions and metadata
    def some_file(self, place: tuple[int, bytes]) -> tuple[bytes, bytes, File] | None:
        """(key, path, file) of a regular file that has a name."""
        where = self.place(place)
        found = self.model.names(where[0]).get(where[1])
        if found is None or found.file is None or found.file.symlink:
            return None
        return found.key, self.path(where), found.file

    @rule(place=places, size=sizes, seed=seeds, stale=st.booleans())
    def put_if_match(self, place: tuple[int, bytes], size: int, seed: int, stale: bool) -> None:
        """By the ETag that the mount shows: it is what S3 has at this moment, and no longer once that changed."""
        some = self.some_file(place)
        if some is None:
            return
        key, path, file = some
        if file is self.model.fresh.get(key):
            self.model.commit(file)  # asking for its ETag makes it an object
        tag = self.doors.attribute(path, b"user.tierce.etag").decode()
        assert self.doors.send("HEAD", key).headers["etag"] == f'"{tag}"'
        if stale:
            self.put(key, 0, size, seed + 1)
            if self.model.seen()[key].committed == file.committed:
                return  # the same bytes have the same ETag
        data = content(seed, size)
        answer = self.doors.send("PUT", key, headers={"if-match": f'"{tag}"'}, body=data)
        assert answer.status == (412 if stale else 200), answer
        if not stale:
            self.model.put(key, put(data))
        self.last = [key]

    @rule(key=keys, pick=seeds, size=sizes, seed=seeds)
    def put_if_none(self, key: bytes, pick: int, size: int, seed: int) -> None:
        """Names that only the mount knows are none."""
        key = self.some_object(pick, key)
        there = key in self.model.seen()
        data = content(seed, size)
        answer = self.doors.send("PUT", key, headers={"if-none-match": "*"}, body=data)
        assert answer.status == (412 if there else 200), answer
        if not there:
            self.model.put(key, put(data))
        self.last = [key]

    @rule(key=keys, seconds=st.integers(0, 2_000_000_000), mode=st.integers(0, 0o777))
    def put_with_metadata(self, key: bytes, seconds: int, mode: int) -> None:
        """As rclone: the mount shows its times and mode."""
        headers = {"x-amz-meta-mtime": f"{seconds}.25", "x-amz-meta-mode": f"{0o100000 | mode:o}"}
        assert self.doors.send("PUT", key, headers=headers, body=b"timed").status == 200
        self.model.put(key, put(b"timed"))
        self.last = [key]
        directory = key[: key.rfind(b"/") + 1]
        if key in self.model.fresh:
            return
        shown = next(name for name, found in self.model.names(directory).items() if found.key == key)
        path = b"/".join(filter(None, [self.model.mount_path(directory), shown]))
        assert self.doors.times(path) == (mode, seconds * 10**9 + 250_000_000)

    @rule(place=places, seconds=st.integers(0, 2_000_000_000), mode=st.integers(0, 0o777))
    def set_times(self, place: tuple[int, bytes], seconds: int, mode: int) -> None:
        """chmod, utime: also of what is held, and no other version."""
        some = self.some_file(place)
        if some is None:
            return
        key, path, file = some
        self.doors.chmod(path, mode | 0o600)
        self.doors.utime(path, seconds * 10**9 + 500_000_000)
        if not any(handle.writable for handle in self.holders(file)):
            self.model.commit(file)
        self.settle(file)
        assert self.doors.times(path) == (mode | 0o600, seconds * 10**9 + 500_000_000)
        if key in self.model.seen() and not any(handle.writable for handle in self.holders(file)):
            assert self.doors.send("HEAD", key).headers["x-amz-meta-mtime"] == f"{seconds}.5"
        self.last = [key]

    # ------------------------------------------------------------------ after every step
    def teardown(self) -> None:
        while self.streaming:
            self.finish_put(0)
        super().teardown()


def md5(body: bytes) -> str:
    """As a header says it."""
    return base64.b64encode(hashlib.md5(body).digest()).decode()
