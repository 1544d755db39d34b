"""R1: the real store against the model, driven by Hypothesis: every answer, every listing, every byte, every count.

Each run ends with an audit that must be clean, and with the whole content compared after a clean restart and after a
rebuild from the devices alone.
"""

from __future__ import annotations

import random
import stat
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from appliance.errors import Code, StoreError
from appliance.limits import GATHER_MAX, INLINE_MAX, KIB
from appliance.model import NO_ATTRIBUTES, Attributes, DataKey, Deleted, Deletion, NewSlice, Precondition
from tests.models.boxes import body_of, read_all
from tests.models.frame import PART_LEAST, StoreFrame
from tests.models.objects import File, Upload

SEGMENTS = [b"a", b"b", b"a", b"b", b"a-", b"a0", b"", "é".encode()]
keys = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4).map(b"/".join).filter(bool)
names = st.sampled_from([b"a", b"b", b"a", b"b", b"a-"])
sizes = st.one_of(
    st.integers(0, 40),
    st.sampled_from([INLINE_MAX - 1, INLINE_MAX, INLINE_MAX + 1, 4096, 65536, GATHER_MAX, GATHER_MAX + 1, 200 * KIB]),
)
offsets = st.one_of(st.sampled_from([0, 0, 1, 5, 300_000]), st.integers(0, 300_000))
seeds = st.integers(0, 1 << 16)
preconditions = st.one_of(
    st.none(),
    st.none(),
    st.builds(Precondition, if_match=st.sampled_from(["*", "e1", "e2"])),
    st.builds(Precondition, if_none_match=st.sampled_from(["*", "e1", "e2"])),
)
etags = st.sampled_from(["e1", "e2", "e3"])
buckets = st.sampled_from(["one", "two"])


def content(seed: int, size: int) -> bytes:
    """Bytes that are nowhere like themselves."""
    return random.Random(seed).randbytes(size)


class StoreMachine(StoreFrame):
    """The rules: one verb each.  What is written to the second bucket is encrypted."""

    async def data_key(self, name: str) -> DataKey | None:
        """What seals the bytes."""
        return await self.store.data_key() if name == "two" else None

    # ------------------------------------------------------------------ objects by key
    @rule(name=buckets, key=keys, size=sizes, seed=seeds, etag=etags, condition=preconditions)
    def put(self, name: str, key: bytes, size: int, seed: int, etag: str, condition: Precondition | None) -> None:
        data = content(seed, size)
        file = File(data, etag)

        async def real() -> Any:
            ingest_body = await body_of(self.store, self.real(name), data, await self.data_key(name))
            return await self.store.put_object(
                self.real(name), key, ingest_body, etag, NO_ATTRIBUTES, precondition=condition
            )

        written, _, code = self.same(real, lambda: self.models[name].put(key, file, condition))
        if code is None:
            file.node = written.node
            assert (written.size, written.etag) == (size, etag)
            self.probe(file, seed % 3)

    @rule(name=buckets, key=keys, condition=preconditions)
    def delete(self, name: str, key: bytes, condition: Precondition | None) -> None:
        answer, expected, _ = self.same(
            lambda: self.store.delete_object(self.real(name), key, precondition=condition),
            lambda: self.models[name].delete(key, condition),
        )
        assert answer == (None if expected is None else Deleted(expected))

    @rule(name=buckets, chosen=st.lists(keys, max_size=6))
    def delete_many(self, name: str, chosen: list[bytes]) -> None:
        answers = self.box.run(lambda: self.store.delete_objects(self.real(name), [Deletion(key) for key in chosen]))
        assert answers == [Deleted(self.models[name].delete(key)) for key in chosen]

    @rule(source=buckets, into=buckets, old=keys, pick=seeds, new=keys, condition=preconditions, replace=st.booleans())
    def copy(
        self,
        source: str,
        into: str,
        old: bytes,
        pick: int,
        new: bytes,
        condition: Precondition | None,
        replace: bool,
    ) -> None:
        objects = sorted(self.models[source].objects())
        old = objects[pick % len(objects)] if objects else old
        attributes = Attributes(content_type="text/plain") if replace else None

        async def real() -> Any:
            node = await self.store.look_up(self.real(source), old)
            return await self.store.copy_object(node, self.real(into), new, attributes, precondition=condition)

        def model() -> File:
            found = self.models[source].look_up(old)
            file = File(found.content, found.etag, found.mode)
            self.models[into].put(new, file, condition)
            return file

        written, file, code = self.same(real, model)
        if code is None:
            file.node = written.node
            self.probe(file)

    @rule(name=buckets, key=keys, pick=seeds, start=offsets, length=offsets)
    def read_range(self, name: str, key: bytes, pick: int, start: int, length: int) -> None:
        objects = sorted(self.models[name].objects())
        key = objects[pick % len(objects)] if objects else key

        async def real() -> bytes:
            node = await self.store.look_up(self.real(name), key)
            low = start % (node.size + 1)
            return await read_all(self.store, node, low, length)

        def model() -> bytes:
            data = self.models[name].look_up(key).content
            low = start % (len(data) + 1)
            return data[low : low + length]

        answer, expected, _ = self.same(real, model)
        assert answer == expected

    @rule(
        name=buckets,
        prefix=st.one_of(st.just(b""), keys, keys.map(lambda key: key[:2])),
        delimiter=st.sampled_from([b"", b"/", b"-", b"a", b"//", b"/a"]),
        after=st.one_of(st.just(b""), keys, keys.map(lambda key: key + b"/")),
        limit=st.sampled_from([0, 1, 2, 3, 1000]),
    )
    def list_pages(self, name: str, prefix: bytes, delimiter: bytes, after: bytes, limit: int) -> None:
        for _ in range(40):
            page = self.box.run(lambda at=after: self.store.list_objects(self.real(name), prefix, delimiter, at, limit))
            expected = self.models[name].listing(prefix, delimiter, after, limit)
            assert ([item.key for item in page.objects], page.prefixes, page.truncated) == expected
            for item in page.objects:
                file = self.models[name].files[item.key]
                assert (item.size, item.etag) == (len(file.content), file.etag)
            if not page.truncated:
                return
            after = page.next
        raise AssertionError("a listing ends")

    # ------------------------------------------------------------------ multipart
    @rule(name=buckets, key=keys)
    def create_upload(self, name: str, key: bytes) -> None:
        upload = self.box.run(lambda: self.store.create_upload(self.real(name), key, NO_ATTRIBUTES, "me"))
        self.models[name].uploads[upload.id] = Upload(key)
        self.upload_ids.append((name, upload.id))

    def _upload(self, pick: int) -> tuple[str, str, Upload, Any]:
        name, number = self.upload_ids[pick % len(self.upload_ids)]
        upload = self.models[name].uploads[number]
        return name, number, upload, self.store.upload(self.real(name), upload.key, number)

    @precondition(lambda self: self.upload_ids)
    @rule(pick=seeds, number=st.integers(1, 4), size=sizes, seed=seeds, etag=etags)
    def put_part(self, pick: int, number: int, size: int, seed: int, etag: str) -> None:
        name, _, upload, real = self._upload(pick)
        data = content(seed, size)

        async def put() -> Any:
            body = await body_of(self.store, self.real(name), data, await self.data_key(name))
            return await self.store.put_part(real, number, body, etag)

        assert self.box.run(put).size == size
        upload.parts[number] = (data, etag)

    @precondition(lambda self: self.upload_ids)
    @rule(
        pick=seeds,
        number=st.integers(1, 4),
        source=buckets,
        which=seeds,
        start=offsets,
        length=offsets,
        etag=etags,
    )
    def copy_part(self, pick: int, number: int, source: str, which: int, start: int, length: int, etag: str) -> None:
        objects = sorted(self.models[source].objects())
        if not objects:
            return
        key = objects[which % len(objects)]
        data = self.models[source].files[key].content
        low = start % (len(data) + 1)
        count = min(length, len(data) - low)
        _, _, upload, real = self._upload(pick)

        async def copy() -> Any:
            node = await self.store.look_up(self.real(source), key)
            return await self.store.copy_part(real, number, node, low, count, etag)

        assert self.box.run(copy).size == count
        upload.parts[number] = (data[low : low + count], etag)

    @precondition(lambda self: self.upload_ids)
    @rule(pick=seeds, numbers=st.lists(st.integers(1, 4), max_size=4), good=st.booleans(), condition=preconditions)
    def complete(self, pick: int, numbers: list[int], good: bool, condition: Precondition | None) -> None:
        name, upload_id, upload, real = self._upload(pick)
        if good:
            numbers = sorted(set(numbers) & set(upload.parts)) or sorted(upload.parts)
        chosen = [(number, upload.parts.get(number, (b"", "none"))[1]) for number in numbers]
        written, file, code = self.same(
            lambda: self.store.complete_upload(real, chosen, "e9-2", NO_ATTRIBUTES, precondition=condition),
            lambda: self.models[name].complete(upload_id, chosen, "e9-2", PART_LEAST, condition),
        )
        if code is None:
            file.node = written.node
            self.upload_ids.remove((name, upload_id))
            self.probe(file)

    @rule(
        name=buckets,
        key=keys,
        chosen=st.lists(st.tuples(st.booleans(), seeds, offsets, sizes), min_size=1, max_size=3),
    )
    def multipart_at_once(self, name: str, key: bytes, chosen: list[tuple[bool, int, int, int]]) -> None:
        """A whole upload, some of its parts copied from what is there (holes too)."""
        self.create_upload(name, key)
        last = len(self.upload_ids) - 1
        for number, (copied, seed, start, size) in enumerate(chosen, 1):
            if copied and self.models[name].objects():
                self.copy_part(last, number, name, seed, start, size, "e1")
            else:
                self.put_part(last, number, size, seed, "e1")
        self.complete(last, [], True, None)

    @precondition(lambda self: self.upload_ids)
    @rule(pick=seeds)
    def abort(self, pick: int) -> None:
        name, upload_id, _, real = self._upload(pick)
        self.box.run(lambda: self.store.abort_upload(real))
        del self.models[name].uploads[upload_id]
        self.upload_ids.remove((name, upload_id))

    # ------------------------------------------------------------------ the mount's verbs
    @rule(name=buckets, pick=seeds, child=names)
    def make_directory(self, name: str, pick: int, child: bytes) -> None:
        at = self.some_directory(name, pick)
        parent = self.directory(name, at)
        self.same(
            lambda: self.store.make_directory(parent, child, 0o750, 1, 2, self.tick()),
            lambda: self.models[name].make_directory(at, child),
        )

    @rule(name=buckets, pick=seeds, child=names)
    def remove_directory(self, name: str, pick: int, child: bytes) -> None:
        at = self.some_directory(name, pick)
        parent = self.directory(name, at)
        self.same(
            lambda: self.store.remove_directory(parent, child, self.tick()),
            lambda: self.models[name].remove_directory(at, child),
        )

    @rule(name=buckets, pick=seeds)
    def set_directory_mode(self, name: str, pick: int) -> None:
        at = self.some_directory(name, pick)
        node = self.directory(name, at)
        changed = self.box.run(lambda: self.store.set_attributes(node, self.tick(), mode=0o700))
        assert stat.S_IMODE(changed.mode) == 0o700
        if at:
            self.models[name].explicit.add(at)

    @rule(name=buckets, pick=seeds, child=names)
    def make_symlink(self, name: str, pick: int, child: bytes) -> None:
        at = self.some_directory(name, pick)
        parent = self.directory(name, at)
        file = File(b"target", "", symlink=True)
        entry, _, code = self.same(
            lambda: self.store.make_symlink(parent, child, b"target", 1, 2, self.tick()),
            lambda: self.models[name].add_name(at, child, file),
        )
        if code is None:
            file.node = entry.node.id

    def _file(self, name: str, pick: int) -> tuple[bytes, File] | None:
        found = sorted(self.models[name].files)
        return (found[pick % len(found)], self.models[name].files[found[pick % len(found)]]) if found else None

    @rule(name=buckets, which=seeds, pick=seeds, child=names)
    def make_link(self, name: str, which: int, pick: int, child: bytes) -> None:
        found = self._file(name, which)
        if found is None:
            return
        at = self.some_directory(name, pick)
        parent = self.directory(name, at)
        self.same(
            lambda: self.store.make_link(found[1].node, parent, child, self.tick()),
            lambda: self.models[name].add_name(at, child, found[1]),
        )

    @rule(name=buckets, which=seeds)
    def unlink(self, name: str, which: int) -> None:
        found = self._file(name, which)
        if found is None:
            return
        at, slash, child = found[0].rpartition(b"/")
        parent = self.directory(name, at + slash)
        self.same(
            lambda: self.store.unlink(parent, child, self.tick()),
            lambda: self.models[name].unlink(at + slash, child),
        )

    @rule(
        name=buckets,
        which=seeds,
        directory=st.booleans(),
        pick=seeds,
        child=names,
        replace=st.booleans(),
    )
    def rename_or_move(self, name: str, which: int, directory: bool, pick: int, child: bytes, replace: bool) -> None:
        self.rename(name, which, directory, pick, child, replace, exchange=False)

    @rule(name=buckets, which=seeds, directory=st.booleans(), pick=seeds, child=names)
    def exchange(self, name: str, which: int, directory: bool, pick: int, child: bytes) -> None:
        self.rename(name, which, directory, pick, child, replace=True, exchange=True)

    def rename(
        self, name: str, which: int, directory: bool, pick: int, child: bytes, replace: bool, exchange: bool
    ) -> None:
        model = self.models[name]
        choices = sorted(model.directories()) if directory else sorted(model.files)
        if not choices:
            return
        chosen = choices[which % len(choices)]
        old = chosen[:-1] if directory else chosen
        at, slash, old_name = old.rpartition(b"/")
        parent = self.directory(name, at + slash)
        to = self.some_directory(name, pick)
        new_parent = self.directory(name, to)
        self.same(
            lambda: self.store.rename(
                parent,
                old_name,
                directory,
                new_parent,
                child,
                self.tick(),
                replace=replace,
                exchange=exchange,
            ),
            lambda: model.rename(
                old,
                to + child,
                directory=directory,
                new_parent=to,
                parent=at + slash,
                replace=replace,
                exchange=exchange,
            ),
        )

    @rule(
        name=buckets,
        pick=seeds,
        child=names,
        which=seeds,
        create=st.booleans(),
        unlinked=st.booleans(),
        size=sizes,
        cut=st.one_of(st.none(), sizes),
        pieces=st.lists(st.tuples(sizes, sizes, seeds), max_size=3),
        joined=st.booleans(),
        holes=st.booleans(),
    )
    def write_file(
        self,
        name: str,
        pick: int,
        child: bytes,
        which: int,
        create: bool,
        unlinked: bool,
        size: int,
        cut: int | None,
        pieces: list[tuple[int, int, int]],
        joined: bool,
        holes: bool,
    ) -> None:
        """What the mount's writer commits: holes, overwrites, truncation, several slices of one chunk."""
        laid: list[tuple[int, bytes]] = []
        punched: list[tuple[int, int]] = []
        end = 0
        for gap, length, seed in pieces:
            if length:
                if holes and gap and not create:
                    punched.append((end, end + gap))
                laid.append((end + gap, content(seed, length)))
                end += gap + length
        size = max(size, end)
        at = self.some_directory(name, pick)
        target: tuple[int, bytes] | None = None
        if create:
            file = File(b"", "")
            cut = None
            file.node = self.box.call(self.store.new_node_id)
            target = (self.directory(name, at), child)
        else:
            if unlinked and self.held:
                name, file = self.held[which % len(self.held)]
            else:
                found = self._file(name, which)
                if found is None or found[1].symlink:
                    return
                file = found[1]
        changed = create or bool(laid or punched) or size != len(file.content) or cut is not None
        old_etag = file.etag

        async def real() -> Any:
            bucket = self.real(name)
            chunks, slices = [], []
            key = await self.data_key(name)
            if joined and laid:
                chunk = await self.store.stage(bucket, [data for _, data in laid], key)
                chunks.append(chunk)
                start = 0
                for offset, data in laid:
                    slices.append(NewSlice(offset, len(data), chunk.id, start))
                    start += len(data)
            else:
                for offset, data in laid:
                    chunk = await self.store.stage(bucket, [data], key)
                    chunks.append(chunk)
                    slices.append(NewSlice(offset, len(data), chunk.id))
            ticket = self.store.submit_file(
                bucket,
                node=file.node,
                create=target,
                mode=stat.S_IFREG | 0o600,
                uid=1,
                gid=2,
                atime_ns=self.now,
                mtime_ns=self.now,
                now_ns=self.tick(),
                size=size,
                cut=cut,
                chunks=chunks,
                slices=slices,
                punched=punched,
            )
            return await ticket.wait()

        written = self.box.run(real)
        file.patch(size, cut, [*((start, bytes(max(0, min(end, size) - start))) for start, end in punched), *laid])
        assert (written.node, written.size) == (file.node, size)
        assert (written.etag != old_etag) == changed
        file.etag = written.etag
        if create:
            self.models[name].files[at + child] = file
        self.probe(file, which)

    @rule(name=buckets, which=seeds)
    def hold(self, name: str, which: int) -> None:
        found = self._file(name, which)
        if found is not None and len(self.held) < 6 and not found[1].symlink:
            self.box.call(self.store.hold, found[1].node)
            self.held.append((name, found[1]))

    @precondition(lambda self: self.held)
    @rule(which=seeds)
    def read_held(self, which: int) -> None:
        """An unlinked file keeps its bytes while somebody has it open."""
        _, file = self.held[which % len(self.held)]

        async def real() -> bytes:
            return await read_all(self.store, self.store.node(file.node))

        assert self.box.run(real) == file.content

    @precondition(lambda self: self.held)
    @rule(which=seeds)
    def release(self, which: int) -> None:
        _, file = self.held.pop(which % len(self.held))
        self.box.call(self.store.release, file.node)
        self.box.run(self.store.settle)
        named = any(file is other for model in self.models.values() for other in model.files.values())
        if not named and not any(file is other for _, other in self.held):
            with pytest.raises(StoreError) as caught:
                self.box.call(self.store.node, file.node)
            assert caught.value.code is Code.NO_SUCH_NODE

    # ------------------------------------------------------------------ the whole
    @rule(chance=st.integers(0, 3), rebuild=st.booleans())
    def reopen_sometimes(self, chance: int, rebuild: bool) -> None:
        """Seldom: it takes as long as thirty other steps."""
        if chance == 0:
            self.reopen(rebuild=rebuild)

    @rule()
    def compare_all(self) -> None:
        self.compare()


def test_the_store_does_what_the_model_says() -> None:
    settings = hypothesis.settings(max_examples=6, stateful_step_count=30, deadline=None, derandomize=True)
    run_state_machine_as_test(StoreMachine, settings=settings)


@pytest.mark.slow
def test_the_store_does_what_the_model_says_500_times() -> None:
    """R1, every change: 500 runs of 50 steps."""
    settings = hypothesis.settings(
        max_examples=500,
        stateful_step_count=50,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    run_state_machine_as_test(StoreMachine, settings=settings)
