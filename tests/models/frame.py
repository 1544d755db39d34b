"""The frame of the store's state machine: the pool, the model beside it, and how the two are compared."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from unittest import mock

from hypothesis.stateful import RuleBasedStateMachine, initialize

from appliance.catalogue import uploads
from appliance.errors import Code, StoreError
from appliance.model import Bucket
from tests.models.boxes import Box, make_devices, read_all
from tests.models.objects import Bucket as ModelBucket
from tests.models.objects import File

PART_LEAST = 10  # stands for 5 MiB: the rule is the same and the test a thousand times faster
TIME = 1_700_000_000_000_000_000


class StoreFrame(RuleBasedStateMachine):
    """Two buckets, one with two copies of everything; the end of every run is an audit and a rebuild."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = mock.patch.object(uploads, "PART_SIZE_MIN", PART_LEAST)
        self.patch.start()
        self.box = Box(make_devices(2), copies=2)
        self.models = {"one": ModelBucket(), "two": ModelBucket()}
        self.held: list[tuple[str, File]] = []
        self.upload_ids: list[tuple[str, str]] = []
        self.now = TIME

    @initialize()
    def make_buckets(self) -> None:
        self.box.run(lambda: self.store.create_bucket("one-b", "me", copies=2))
        self.box.run(lambda: self.store.create_bucket("two-b", "me", copies=1))

    # ------------------------------------------------------------------ the frame
    @property
    def store(self) -> Any:
        return self.box.store

    def real(self, name: str) -> Bucket:
        bucket: Bucket = self.store.bucket(name + "-b")
        return bucket

    def same(self, real: Callable[[], Awaitable[Any]], model: Callable[[], Any]) -> tuple[Any, Any, Code | None]:
        """Both answers; they fail alike or not at all."""
        try:
            expected, wrong = model(), None
        except StoreError as error:
            expected, wrong = None, error.code
        try:
            answer, code = self.box.run(real), None
        except StoreError as error:
            answer, code = None, error.code
        assert code == wrong, f"the store says {code}, the model {wrong}"
        return answer, expected, code

    def tick(self) -> int:
        self.now += 1_000_000
        return self.now

    def directory(self, name: str, path: bytes) -> int:
        """The real node of a directory of the model."""
        node = self.real(name).root
        for segment in path.split(b"/")[:-1]:
            found = self.store.entry(node, segment, True)
            assert found is not None, f"the model has {path!r}"
            node = found.node.id
        return node

    def some_directory(self, name: str, pick: int) -> bytes:
        """Any directory that exists, or the root."""
        choices = [b"", *sorted(self.models[name].directories())]
        return choices[pick % len(choices)]

    def probe(self, file: File, start: int = 0) -> None:
        """What was just written, asked of the devices: a piece first, then all of it."""
        self.forget()

        async def real() -> tuple[bytes, bytes]:
            node = self.store.node(file.node)
            low = start % (node.size + 1)
            return await read_all(self.store, node, low, 1 + node.size // 2), await read_all(self.store, node)

        low = start % (len(file.content) + 1)
        piece, whole = self.box.run(real)
        assert piece == file.content[low : low + 1 + len(file.content) // 2]
        assert whole == file.content

    def forget(self) -> None:
        """Memory is empty: the devices are asked."""
        self.store.engine.retrieval.cache.clear()
        self.store.engine.pool.forget_headers()

    def reopen(self, *, rebuild: bool) -> None:
        """Nothing is lost; who had files open is gone, and so are the unlinked ones."""
        self.box.reopen(rebuild=rebuild)
        self.held.clear()
        self.compare()

    def compare(self) -> None:
        """All names, all bytes, all counts."""
        for name, model in self.models.items():
            self.box.run(self._compare, name, model)

    async def _compare(self, name: str, model: ModelBucket) -> None:
        store, bucket = self.store, self.real(name)
        usage = store.usage(bucket)
        assert (usage.objects, usage.bytes) == model.usage()
        page = await store.list_objects(bucket)
        assert [item.key for item in page.objects] == sorted(model.objects())
        for key, file in model.objects().items():
            node = await store.look_up(bucket, key)
            assert (node.id, node.size, node.etag) == (file.node, len(file.content), file.etag)
            assert node.links == sum(other is file for other in model.files.values())
            assert await read_all(store, node) == file.content
        todo = [(b"", bucket.root)]
        while todo:
            path, node_id = todo.pop()
            entries = store.entries(node_id, None, 1000)
            assert [(entry.name, entry.directory) for entry in entries] == model.level(path)
            todo += [(path + entry.name + b"/", entry.node.id) for entry in entries if entry.directory]
        found = store.uploads(bucket)
        assert [(item.key, item.id) for item in found.uploads] == sorted(
            (upload.key, number) for number, upload in model.uploads.items()
        )
        for item in found.uploads:
            parts, more = store.parts(item)
            wanted = model.uploads[item.id].parts
            assert not more
            assert [(part.number, part.size, part.etag) for part in parts] == [
                (number, len(data), etag) for number, (data, etag) in sorted(wanted.items())
            ]

    def teardown(self) -> None:
        try:
            self.compare()
            report = self.box.audit(verify=True)
            assert report.healthy, report.problems
            assert report.space_checked
            self.reopen(rebuild=True)
            report = self.box.audit(verify=True)
            assert report.healthy, report.problems
        finally:
            self.patch.stop()
            self.box.__exit__()
