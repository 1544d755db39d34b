"""The store's versions against the list-per-key model: every sequence of writes and deletions, every page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance import settings as names
from appliance.errors import Code, StoreError
from appliance.limits import INLINE_MAX
from appliance.model import MARKER, NO_ATTRIBUTES, Bucket, Precondition
from tests.models.boxes import Box, body_of, read_all
from tests.models.versions import SUSPENDED, Versions

KEYS = [b"a", b"a/b", b"a/", b"d/e/f", b"d/x", b"\xff", b"z//"]
SIZES = [0, 1, INLINE_MAX + 1]
STATES = {names.ENABLED.decode(): names.ENABLED, SUSPENDED: names.SUSPENDED}

keys = st.sampled_from(KEYS)
steps = st.one_of(
    st.tuples(st.just("put"), keys, st.sampled_from(SIZES)),
    st.tuples(st.just("copy"), keys, st.integers(0, 50)),
    st.tuples(st.just("upload"), keys, st.just(0)),
    st.tuples(st.just("delete"), keys, st.just(0)),
    st.tuples(st.just("remove"), keys, st.integers(0, 5)),
    st.tuples(st.just("state"), st.sampled_from([b"Enabled", b"Suspended"]), st.just(0)),
)


@pytest.fixture(scope="module")
def box() -> Iterator[Box]:
    with Box() as one:
        yield one
        report = one.audit(verify=True)
        assert report.clean, report.problems


_numbers = count(1)


class Twins:
    """A bucket of the store and its model, doing the same."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.store = box.store
        self.name = f"bucket-{next(_numbers)}"
        self.box.run(self.store.create_bucket, self.name, "owner")
        self.model = Versions()
        self.made = 0

    @property
    def bucket(self) -> Bucket:
        return self.store.bucket(self.name)

    def content(self, size: int) -> bytes:
        self.made += 1
        return (b"%d," % self.made * (size // 2 + 1))[:size]

    async def step(self, what: str, key: bytes, number: int) -> None:
        store, bucket, model = self.store, self.bucket, self.model
        if what == "state":
            model.state = key.decode()
            await store.set_bucket_setting(bucket, names.VERSIONING, key)
        elif what == "put":
            content = self.content(number)
            body = await body_of(store, bucket, content)
            written = await store.put_object(bucket, key, body, "e", NO_ATTRIBUTES)
            model.add(key, content, written.version_id)
        elif what == "upload":
            upload = await store.create_upload(bucket, key, NO_ATTRIBUTES, "owner")
            content = self.content(5)
            await store.put_part(upload, 1, await body_of(store, bucket, content), "p")
            written = await store.complete_upload(upload, [(1, "p")], "e-1", NO_ATTRIBUTES)
            model.add(key, content, written.version_id)
        elif what == "delete":
            found = model.current(key) is not None
            deleted = await store.delete_object(bucket, key)
            assert (deleted.found, deleted.marker) == (found, bool(model.state))
            model.add(key, None, deleted.version_id)
        elif what == "remove":
            await self.remove(key, number)
        else:
            every = [(k, one) for k, found in sorted(model.keys.items()) for one in found if one.content is not None]
            if every:
                source, one = every[number % len(every)]
                assert one.content is not None
                node = await store.look_up_version(bucket, source, one.id)
                written = await store.copy_object(node, bucket, key, None)
                model.add(key, one.content, written.version_id)

    async def remove(self, key: bytes, number: int) -> None:
        there = self.model.keys.get(key, [])
        chosen = there[number].id if number < len(there) else ["null", "00000000000000ff"][number % 2]
        one = self.model.find(key, chosen)
        deleted = await self.store.delete_object(self.bucket, key, version_id=chosen)
        expected = (one is not None, bool(self.model.state) and one is not None and one.content is None)
        assert (deleted.found, deleted.marker) == expected
        self.model.remove(key, chosen)

    async def compare(self) -> None:
        store, bucket, model = self.store, self.bucket, self.model
        for key in KEYS:
            current = model.current(key)
            if current is None:
                with pytest.raises(StoreError):
                    await store.look_up(bucket, key)
                assert (store.delete_marker(bucket, key) is not None) == (key in model.keys)
            else:
                assert await read_all(store, await store.look_up(bucket, key)) == current
            for one in model.keys.get(key, []):
                node = await store.look_up_version(bucket, key, one.id)
                assert bool(node.flags & MARKER) == (one.content is None)
                assert await read_all(store, node) == (one.content or b"")
        usage = store.usage(bucket)
        assert (usage.objects, usage.bytes) == model.usage()
        page = await store.list_objects(bucket)
        assert [item.key for item in page.objects] == [k for k in sorted(model.keys) if model.current(k) is not None]

    async def pages(self, prefix: bytes, delimiter: bytes, limit: int) -> None:
        found: list[tuple[bytes, str, bool, bool] | bytes] = []
        key, version = b"", ""
        while True:
            page = await self.store.list_versions(self.bucket, prefix, delimiter, key, version, limit)
            rows = [(one.key, one.version_id, one.latest, one.marker) for one in page.versions]
            merged: list[tuple[bytes, tuple[bytes, str, bool, bool] | bytes]] = [(row[0], row) for row in rows]
            merged += [(common, common) for common in page.prefixes]
            found += [item for _, item in sorted(merged, key=lambda pair: pair[0])]
            if not page.truncated:
                break
            assert len(merged) == limit
            key, version = page.next_key, page.next_version
        assert found == self.model.listing(prefix, delimiter)


@given(st.lists(steps, max_size=40), st.sampled_from([b"", b"a", b"d/"]), st.sampled_from([b"", b"/", b"e"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_versions_are_lists(box: Box, script: list[tuple[str, bytes, int]], prefix: bytes, delimiter: bytes) -> None:
    twins = Twins(box)

    async def main() -> None:
        for what, key, number in script:
            await twins.step(what, key, number)
        await twins.compare()
        for limit in (1, 3, 1000):
            await twins.pages(prefix, delimiter, limit)

    box.run(main)


def test_a_page_inside_of_a_key_with_many_versions(box: Box) -> None:
    twins = Twins(box)

    async def main() -> None:
        await twins.step("state", names.ENABLED, 0)
        for key in (b"a", b"d/x", b"z//"):
            for _ in range(70):
                await twins.step("put", key, 1)
        await twins.step("delete", b"a", 0)
        for limit in (1, 7, 69, 70, 71, 1000):
            await twins.pages(b"", b"", limit)
            await twins.pages(b"", b"/", limit)
        with pytest.raises(StoreError) as caught:
            await twins.store.delete_bucket(twins.name)
        assert caught.value.code is Code.BUCKET_NOT_EMPTY

    box.run(main)


def test_conditions_see_the_current_version(box: Box) -> None:
    twins = Twins(box)
    star, absent, other = Precondition(if_match="*"), Precondition(if_none_match="*"), Precondition(if_match="x")

    async def main() -> None:
        store = twins.store
        await twins.step("state", names.ENABLED, 0)
        await twins.step("put", b"a", 1)
        body = store.small_body(b"new")
        for condition, code in ((absent, Code.PRECONDITION_FAILED), (other, Code.PRECONDITION_FAILED)):
            with pytest.raises(StoreError) as caught:
                await store.put_object(twins.bucket, b"a", body, "e", NO_ATTRIBUTES, precondition=condition)
            assert caught.value.code is code
        first = twins.model.keys[b"a"][0]
        await twins.step("delete", b"a", 0)
        with pytest.raises(StoreError) as caught:  # a delete marker is nothing
            await store.put_object(twins.bucket, b"a", body, "e", NO_ATTRIBUTES, precondition=star)
        assert caught.value.code is Code.NO_SUCH_KEY
        written = await store.put_object(twins.bucket, b"a", body, "e", NO_ATTRIBUTES, precondition=absent)
        twins.model.add(b"a", b"new", written.version_id)
        with pytest.raises(StoreError) as caught:  # of a version that is named, that version counts
            await store.delete_object(twins.bucket, b"a", version_id=first.id, precondition=other)
        assert caught.value.code is Code.PRECONDITION_FAILED
        await twins.compare()

    box.run(main)
