"""The audit finds what it is for: every kind of contradiction, made by hand; and a sound pool has none."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.catalogue.commands import AbortUpload
from appliance.engine.pool import PageRef
from appliance.limits import GATHER_MAX, MIB
from appliance.model import NO_ATTRIBUTES, Bucket
from appliance.store import ObjectStore
from appliance.upkeep import audit as module
from appliance.upkeep.audit import AuditReport, audit
from appliance.upkeep.checks import SHOWN_MAX
from tests.models.boxes import body_of, make_devices, make_pool, store_over

pytestmark = pytest.mark.slow  # in all


async def fill(store: ObjectStore) -> Bucket:
    """One of everything: directories, a link, maps flat and composed, two pages, an upload."""
    bucket = await store.create_bucket("bucket", "me", copies=2)
    for key, size in ((b"a/b/inline", 10), (b"a/small", 5000), (b"large", 5 * MIB)):
        await store.put_object(bucket, key, await body_of(store, bucket, bytes(size)), "e", NO_ATTRIBUTES)
    node = await store.look_up(bucket, b"a/small")
    await store.make_link(node.id, bucket.root, b"link", 1)
    await store.make_symlink(bucket.root, b"symlink", b"target", 0, 0, 1)
    await store.make_directory(bucket.root, b"explicit", 0o755, 0, 0, 1)
    large = await store.look_up(bucket, b"large")
    for key, numbers in ((b"composed", (1, 2)), (b"pending", ())):
        upload = await store.create_upload(bucket, key, NO_ATTRIBUTES, "me")
        await store.copy_part(upload, 1, large, 0, 5 * MIB, "e1")
        await store.copy_part(upload, 2, large, 3 * MIB, 2 * MIB, "e2")
        if numbers:
            await store.complete_upload(upload, [(number, f"e{number}") for number in numbers], "x-2", NO_ATTRIBUTES)
    return bucket


def examine(tmp_path: Path, sabotage: Any = None, *, verify: bool = False, threaded: bool = False) -> AuditReport:
    """The report after `sabotage(store)`."""
    devices = make_devices(2)
    make_pool(devices, copies=2)

    async def main() -> AuditReport:
        async with store_over(devices, tmp_path / "catalogue.db", threaded=threaded) as store:
            await fill(store)
            await store.settle()
            if sabotage is not None:
                sabotage(store, devices)
            return await audit(store, verify=verify)

    return trio.run(main)


@pytest.mark.parametrize("threaded", [False, True])
def test_a_sound_pool_is_clean(tmp_path: Path, threaded: bool) -> None:
    report = examine(tmp_path, verify=True, threaded=threaded)
    assert report.problems == ()
    assert (report.clean, report.healthy, report.space_checked) == (True, True, True)
    assert (report.buckets, report.uploads, report.under_replicated) == (1, 1, 0)
    assert report.verified >= report.pages > 0
    plain = report.to_json()
    assert (plain["problems"], plain["clean"], plain["chunks"]) == ([], True, report.chunks)


BROKEN = {
    "an entry without its node": ("DELETE FROM node WHERE size=10", "entry"),
    "an entry without its parent": ("UPDATE entry SET parent=999999 WHERE name=x'6c61726765'", "entry"),
    "a file's name with a slash": ("UPDATE entry SET name=x'782f' WHERE name=x'6c61726765'", "entry"),
    "a node of another bucket": ("UPDATE node SET bucket=5 WHERE size=10", "entry"),
    "a wrong count of links": ("UPDATE node SET links=7 WHERE size=10", "links"),
    "a wrong count of subdirectories": ("UPDATE node SET links=links+1 WHERE data=x'612f'", "links"),
    "a directory that is elsewhere": ("UPDATE node SET data=x'7a2f' WHERE data=x'612f'", "directory"),
    "a directory that leads nowhere": ("UPDATE entry SET parent=node WHERE name=x'612f'", "directory"),
    "a bucket without a root": ("UPDATE bucket SET root=3", "bucket"),
    "a wrong count of objects": ("UPDATE usage SET objects=objects+1", "usage"),
    "a wrong count of bytes": ("UPDATE usage SET bytes=bytes-1", "usage"),
    "a wrong count of parts": ("UPDATE usage SET parts=parts+1", "usage"),
    "counts of no bucket": ("INSERT INTO usage VALUES (77, 0, 0, 0, 0)", "usage"),
    "a chunk counted too high": ("UPDATE chunk SET refs=refs+1 WHERE len=5000", "refs"),
    "a chunk nobody names": ("INSERT INTO chunk VALUES (2000, 5, 1, 1, 0, 0)", "refs"),
    "a map counted too low": ("UPDATE map SET refs=refs-1", "refs"),
    "a missing chunk": ("DELETE FROM chunk WHERE len=5000", "refs"),
    "a missing map": ("DELETE FROM map WHERE composed", "refs"),
    "an id beyond the promise": ("UPDATE meta SET value=5 WHERE name='next_id'", "ids"),
    "slices that overlap": (
        "UPDATE slice SET len=len+1 WHERE off=0 AND map IN (SELECT id FROM map WHERE composed)",
        "slice",
    ),
    "a slice beyond its chunk": ("UPDATE slice SET roff=roff+1 WHERE kind=2", "slice"),
    "a slice of no map": ("INSERT INTO slice SELECT 999999, off, len, kind, ref, roff, 0 FROM slice LIMIT 1", "slice"),
    "a map that hides its depth": ("UPDATE map SET composed=1-composed", "map"),
    "a map of composed maps": ("UPDATE slice SET ref=map WHERE kind=3", "map"),
    "a node shorter than its bytes": ("UPDATE node SET size=4 WHERE size=5000", "size"),
    "a node shorter than its inline bytes": ("UPDATE node SET size=4 WHERE size=10", "size"),
    "a part shorter than its bytes": ("UPDATE part SET size=4 WHERE number=2", "size"),
    "an upload of no bucket": ("UPDATE upload SET bucket=88", "upload"),
    "a part of no upload": ("UPDATE part SET upload='nobody'", "upload"),
    "a page of no chunk": ("UPDATE page SET chunk=999999", "page"),
    "a page beyond its chunk": ("UPDATE page SET idx=9 WHERE idx=1", "page"),
    "a chunk without its pages": ("DELETE FROM page WHERE idx=1", "lost"),
    "a chunk whose key is gone": ("UPDATE chunk SET key=77 WHERE len=5000", "key"),
    "a data key beyond the promise": ("INSERT INTO data_key VALUES (9999999, x'', 0, 0)", "ids"),
    "pages that overlap": ("UPDATE page SET len=len+4096", "extent"),
    "a page that is out of its zone": ("UPDATE page SET off=0 WHERE idx=1 AND dev=1", "extent"),
    "a page on no device": ("UPDATE page SET dev=9 WHERE dev=2", "extent"),
    "a page that is not aligned": ("UPDATE page SET off=off+512 WHERE idx=1", "extent"),
    "space that nobody accounts for": ("DELETE FROM page WHERE dev=2", "space"),
    "an unlinked node that nobody holds": (
        "INSERT INTO node VALUES (3000, 33188, 0, 0, 0, 9, 0, 0, 0, 0, 1, '', 0, 0, x'', 0, x'', 1, x'', 0, 0)",
        "unlinked",
    ),
    "an implied directory without a reason": ("UPDATE node SET flags=1 WHERE data=x'6578706c696369742f'", "implied"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_every_contradiction_is_found(tmp_path: Path, name: str) -> None:
    sql, kind = BROKEN[name]

    def sabotage(store: ObjectStore, _: object) -> None:
        connection = sqlite3.connect(tmp_path / "catalogue.db")
        changed = connection.execute(sql).rowcount
        connection.commit()
        connection.close()
        assert changed > 0, "the sabotage does something"

    report = examine(tmp_path, sabotage)
    assert kind in {problem.kind for problem in report.problems}, report.problems
    assert not report.clean
    assert report.to_json()["problems"]


def test_a_lost_copy_is_counted(tmp_path: Path) -> None:
    def sabotage(store: ObjectStore, _: object) -> None:
        store.engine.pool.devices[2].device = None

    report = examine(tmp_path, sabotage)
    assert report.clean
    assert not report.healthy
    assert report.under_replicated == report.chunks


def test_a_device_that_takes_no_writes_is_named(tmp_path: Path) -> None:
    """Its pages are read still; but the pool is not what it should be."""

    def sabotage(store: ObjectStore, _: object) -> None:
        pool = store.engine.pool
        pool.fence(pool.devices[2], OSError(5, "gone"))

    report = examine(tmp_path, sabotage)
    assert (report.clean, report.healthy) == (True, False)
    assert report.under_replicated == report.chunks
    told = report.to_json()["degraded"]
    assert told[0].startswith("failed: device 2 (device-2): takes no more writes"), told
    assert told[1].startswith(f"copies: {report.chunks} chunks: have fewer copies"), told


@pytest.mark.parametrize("bit", [0, 8 * 600, 8 * 4500])
def test_every_copy_is_read(tmp_path: Path, bit: int) -> None:
    def sabotage(store: ObjectStore, devices: Any) -> None:
        row = store.engine.reader.execute(
            "SELECT dev, off, p.len, idx, hsum FROM page p JOIN chunk c ON c.id=p.chunk WHERE c.len=5000 AND dev=2"
        ).fetchone()
        ref = PageRef(*row)
        media = devices[1].media
        old = media.read(ref.offset + bit // 8, 1)[0]
        media.write(ref.offset + bit // 8, bytes([old ^ 1]))

    report = examine(tmp_path, sabotage, verify=True)
    assert report.damaged == {2: 1}
    assert [problem.kind for problem in report.problems] == ["damaged"]


def test_it_tells_how_far_it_is(tmp_path: Path) -> None:
    devices = make_devices(2)
    make_pool(devices)
    events: list[dict[str, Any]] = []

    async def main() -> None:
        async with store_over(devices, tmp_path / "catalogue.db") as store:
            bucket = await fill(store)
            for number in range(module.PAGES_STEP):
                await store.put_object(bucket, b"k%d" % number, store.small_body(bytes(3000)), "e", NO_ATTRIBUTES)
            await audit(store, verify=True, progress=lambda event: events.append(dict(event)))

    trio.run(main)
    stages = [event["stage"] for event in events]
    assert stages.index("pages") > stages.index("catalogue")
    assert stages.count("pages") > 1
    assert all(0 <= event["done"] <= event["total"] for event in events)


def test_it_looks_at_one_state_while_work_goes_on(tmp_path: Path) -> None:
    """Pages that are freed during the audit stay until it has read them."""
    devices = make_devices(2)
    make_pool(devices)
    reports: list[AuditReport] = []

    async def main() -> None:
        async with store_over(devices, tmp_path / "catalogue.db") as store:
            bucket = await fill(store)

            async def churn() -> None:
                for number in range(60):
                    body = await body_of(store, bucket, bytes([number]) * (GATHER_MAX + 1))
                    await store.put_object(bucket, b"k%d" % (number % 3), body, "e", NO_ATTRIBUTES)
                    await store.delete_object(bucket, b"large")
                    uploads = store.uploads(bucket).uploads
                    if uploads:
                        await store.engine.submit(AbortUpload(upload=uploads[0].id)).wait()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(churn)
                for _ in range(10):
                    reports.append(await audit(store, verify=True))

    trio.run(main)
    assert [report.problems for report in reports] == [()] * 10
    assert len({report.seq for report in reports}) > 1


def test_a_flood_of_problems_is_cut(tmp_path: Path) -> None:
    def sabotage(store: ObjectStore, _: object) -> None:
        connection = sqlite3.connect(tmp_path / "catalogue.db")
        rows = [(5000 + number, 10, 1, 1) for number in range(2 * SHOWN_MAX)]
        connection.executemany("INSERT INTO chunk VALUES (?, ?, ?, ?, 0, 0)", rows)
        connection.commit()
        connection.close()

    report = examine(tmp_path, sabotage)
    told = [problem for problem in report.problems if problem.kind == "refs"]
    assert len(told) == SHOWN_MAX + 1
    assert "more than" in told[-1].text
