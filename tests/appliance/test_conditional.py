"""Conditional writes are an exact compare-and-swap: of many writers with one expectation exactly one wins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from appliance import settings
from appliance.errors import Code, StoreError
from appliance.model import EMPTY_BODY, NO_ATTRIBUTES, Bucket, Precondition
from appliance.store import ObjectStore
from tests.models.boxes import read_all, run_store

CROWD = 40
KEY = b"dir/key"


async def put(store: ObjectStore, bucket: Bucket, etag: str, precondition: Precondition | None = None) -> str:
    body = store.small_body(etag.encode())
    return (await store.put_object(bucket, KEY, body, etag, NO_ATTRIBUTES, precondition=precondition)).etag


async def code_of(work: Awaitable[object]) -> str:
    try:
        await work
    except StoreError as error:
        return error.code.name
    return ""


async def crowd(work: Callable[[int], Awaitable[object]]) -> list[str]:
    """How each of many ended that began together."""
    ends: list[str] = []

    async def one(number: int) -> None:
        ends.append(await code_of(work(number)))

    async with trio.open_nursery() as nursery:
        for number in range(CROWD):
            nursery.start_soon(one, number)
    return sorted(ends)


def one_wins(ends: list[str], loser: str = "PRECONDITION_FAILED") -> None:
    assert ends == ["", *[loser] * (CROWD - 1)]


@pytest.mark.slow
@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("threaded", [False, True])
def test_exactly_one_of_many_wins(tmp_path: Path, threaded: bool, versioned: bool) -> None:
    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        if versioned:
            await store.set_bucket_setting(bucket, settings.VERSIONING, settings.ENABLED)
            bucket = store.bucket(bucket.name)
        absent, first = Precondition(if_none_match="*"), Precondition(if_match="first")
        one_wins(await crowd(lambda number: put(store, bucket, f"e{number}", absent)))
        await put(store, bucket, "first")
        one_wins(await crowd(lambda number: put(store, bucket, f"e{number}", first)))
        await put(store, bucket, "first")
        source = await store.look_up(bucket, KEY)
        await store.put_object(bucket, b"other", store.small_body(b"x"), "other", NO_ATTRIBUTES)
        other = await store.look_up(bucket, b"other")
        assert source.etag == "first"
        one_wins(await crowd(lambda number: store.copy_object(other, bucket, KEY, NO_ATTRIBUTES, precondition=first)))
        await put(store, bucket, "first")
        uploads = [await store.create_upload(bucket, KEY, NO_ATTRIBUTES, "me") for _ in range(CROWD)]
        for upload in uploads:
            await store.put_part(upload, 1, store.small_body(b"part"), "p")
        one_wins(
            await crowd(
                lambda number: store.complete_upload(
                    uploads[number], [(1, "p")], f"whole-{number}", NO_ATTRIBUTES, precondition=first
                )
            )
        )
        assert len(store.uploads(bucket).uploads) == CROWD - 1  # a loser can try again
        await put(store, bucket, "first")
        loser = "PRECONDITION_FAILED" if versioned else "NO_SUCH_KEY"
        one_wins(await crowd(lambda number: store.delete_object(bucket, KEY, precondition=first)), loser)

    run_store(tmp_path, scene, threaded=threaded)


def test_counting_together_loses_no_count(tmp_path: Path) -> None:
    """Each of several adds one by read and conditional write, again whenever another was faster."""

    async def add(store: ObjectStore, bucket: Bucket, times: int) -> None:
        done = 0
        while done < times:
            node = await store.look_up(bucket, KEY)
            count = int(await read_all(store, node))
            code = await code_of(put(store, bucket, str(count + 1), Precondition(if_match=node.etag)))
            assert code in ("", "PRECONDITION_FAILED")
            done += not code

    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        await put(store, bucket, "0")
        async with trio.open_nursery() as nursery:
            for _ in range(6):
                nursery.start_soon(partial(add, store, bucket, 5))
        assert (await store.look_up(bucket, KEY)).etag == "30"

    run_store(tmp_path, scene, threaded=True)


def test_what_each_condition_says_of_what_is_there(tmp_path: Path) -> None:
    async def scene(store: ObjectStore, bucket: Bucket) -> None:
        second = 1_000_000_000
        conditions: dict[str, Callable[[int], Precondition]] = {
            "etag": lambda written: Precondition(if_match="e"),
            "any": lambda written: Precondition(if_match="*"),
            "another etag": lambda written: Precondition(if_match="f"),
            "size": lambda written: Precondition(if_size=1),
            "another size": lambda written: Precondition(if_size=2),
            "time": lambda written: Precondition(if_written_ns=written),
            "another time": lambda written: Precondition(if_written_ns=written + 2 * second),
            "all three": lambda written: Precondition("e", None, 1, written),
            "two of three": lambda written: Precondition("e", None, 2, written),
        }
        good = {"etag", "any", "size", "time", "all three"}
        on_nothing = {"size", "another size", "time", "another time"}  # AWS: success where there is nothing
        for versioning in (None, settings.ENABLED):
            if versioning is not None:
                await store.set_bucket_setting(bucket, settings.VERSIONING, versioning)
                bucket = store.bucket(bucket.name)
            for name, condition in conditions.items():
                key = f"{name} {versioning!r}".encode()
                code = await code_of(store.delete_object(bucket, key, precondition=condition(0)))
                assert code == ("" if name in on_nothing else Code.NO_SUCH_KEY.name), (name, "nothing")
                written = await store.put_object(bucket, key, store.small_body(b"x"), "e", NO_ATTRIBUTES)
                wanted = condition(written.written_ns)
                code = await code_of(store.delete_object(bucket, key, precondition=wanted))
                assert code == ("" if name in good else Code.PRECONDITION_FAILED.name), (name, "object")
                await store.delete_object(bucket, key)
                if versioning is not None:
                    code = await code_of(store.delete_object(bucket, key, precondition=wanted))
                    assert code == Code.PRECONDITION_FAILED.name, (name, "marker")
        body = EMPTY_BODY
        assert await code_of(
            store.put_object(bucket, b"new", body, "e", NO_ATTRIBUTES, precondition=Precondition(if_match="*"))
        ) == Code.NO_SUCH_KEY.name  # fmt: skip

    run_store(tmp_path, scene)
