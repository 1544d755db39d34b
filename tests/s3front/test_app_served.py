"""The application behind real sockets: our connection class, and stock hypercorn (any ASGI server will do)."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

import boto3
import botocore.config
import botocore.exceptions
import hypercorn.config
import hypercorn.trio
import pytest
import trio

from appliance.limits import MIB
from s3front.serve import serve
from tests.s3front.box import KEY, SECRET, Box

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

pytestmark = pytest.mark.system

Run = Callable[[Any, Callable[[str], object], Callable[[], Awaitable[None]]], Awaitable[None]]


async def ours(app: Any, ready: Callable[[str], object], shutdown: Callable[[], Awaitable[None]]) -> None:
    await serve(app, bind="127.0.0.1:0", shutdown=shutdown, ready=lambda urls: ready(urls[0]))


async def stock(app: Any, ready: Callable[[str], object], shutdown: Callable[[], Awaitable[None]]) -> None:
    config = hypercorn.config.Config()
    config.bind = ["127.0.0.1:0"]
    async with trio.open_nursery() as nursery:
        urls = await nursery.start(
            lambda task_status: hypercorn.trio.serve(
                app, config, shutdown_trigger=shutdown, task_status=task_status, mode="asgi"
            )
        )
        ready(urls[0])


@contextlib.contextmanager
def served(box: Box, run: Run) -> Iterator[S3Client]:
    """A boto3 client of a server in another thread."""
    box.now = time.time()
    started, url = threading.Event(), []
    stop: list[Callable[[], None]] = []

    def main() -> None:
        async def live() -> None:
            over = trio.Event()
            token = trio.lowlevel.current_trio_token()
            stop.append(lambda: trio.from_thread.run_sync(over.set, trio_token=token))

            def ready(found: str) -> None:
                url.append(found)
                started.set()

            await run(box.app, ready, over.wait)

        trio.run(live)

    thread = threading.Thread(target=main)
    thread.start()
    assert started.wait(60)
    client = boto3.client(
        "s3",
        endpoint_url=url[0],
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name=box.region,
        config=botocore.config.Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
    )
    try:
        yield client
    finally:
        client.close()
        stop[0]()
        thread.join(60)
    assert not thread.is_alive()
    assert box.store.open_readers == box.store.open_ingests == 0


@pytest.mark.parametrize("run", [ours, stock])
def test_small_and_large_both_ways(run: Run) -> None:
    box = Box()
    large = hashlib.shake_128(b"seed").digest(6 * MIB + 7)
    with served(box, run) as client:
        for key, body in (("empty", b""), ("small", b"s" * 4096), ("middle", large[:300_000]), ("large", large)):
            put = client.put_object(Bucket="b", Key=key, Body=body, Metadata={"n": key})
            got = client.get_object(Bucket="b", Key=key, ChecksumMode="ENABLED")
            assert got["Body"].read() == body
            assert got["ETag"] == put["ETag"]
            head = client.head_object(Bucket="b", Key=key)
            assert (head["ContentLength"], head["Metadata"]) == (len(body), {"n": key})
        got = client.get_object(Bucket="b", Key="large", Range="bytes=1-5000000")
        assert (got["ContentRange"], got["Body"].read()) == (f"bytes 1-5000000/{len(large)}", large[1:5000001])
        for verb in (client.get_object, client.head_object):
            with pytest.raises(botocore.exceptions.ClientError) as caught:
                verb(Bucket="b", Key="large", IfNoneMatch=got["ETag"])
            assert caught.value.response["Error"]["Code"] == "304"
        with pytest.raises(client.exceptions.NoSuchKey):
            client.get_object(Bucket="b", Key="none")
        with pytest.raises(botocore.exceptions.ClientError):
            client.put_object(Bucket="none", Key="k", Body=large)  # refused while the body is on its way
        assert client.list_objects_v2(Bucket="b")["KeyCount"] == 4


@pytest.mark.parametrize("run", [ours, stock])
def test_damage_within_a_stream_is_a_short_answer(run: Run) -> None:
    box = Box()
    with served(box, run) as client:
        client.put_object(Bucket="b", Key="k", Body=bytes(3 * MIB))
        box.store.damaged_from = 2 * MIB
        with pytest.raises((botocore.exceptions.ResponseStreamingError, botocore.exceptions.IncompleteReadError)):
            client.get_object(Bucket="b", Key="k")["Body"].read()
        box.store.damaged_from = 0
        with pytest.raises(botocore.exceptions.ClientError) as caught:
            client.get_object(Bucket="b", Key="k")
        assert caught.value.response["Error"]["Code"] == "InternalError"
