"""Where there is no more room, no right or no whole data: what programs on the mount and clients of S3 are told."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from appliance.limits import MIB
from tests.system.box import Box, running

pytestmark = [pytest.mark.system, pytest.mark.slow]

LOSER = """
import mmap, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.write(file, b"written" * 1000)
os.ftruncate(file, 20_000)
mapped = mmap.mmap(file, 20_000)
mapped[10_000:10_006] = b"mapped"
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def small(fuse: None, tmp_path: Path) -> Iterator[Box]:
    """A box on two devices of little room."""
    devices = []
    for name, size in (("ssd", 256), ("hdd", 256)):
        with (tmp_path / name).open("xb") as file:
            file.truncate(size * MIB)
        devices.append(str(tmp_path / name))
    with running(tmp_path / "box", devices) as box:
        box.s3().create_bucket(Bucket="bucket")
        yield box


def failure(work: Callable[[], object]) -> int:
    """Its errno; 0 for none."""
    try:
        work()
    except OSError as error:
        return error.errno or -1
    return 0


def refusal(work: Callable[[], object]) -> tuple[int, str]:
    """Status and code of S3's answer."""
    with pytest.raises(ClientError) as caught:
        work()
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def test_a_quota_through_both_doors(box: Box, bucket: str) -> None:
    box.tierce("bucket", "quota", bucket, "--size", "3MiB", "--objects", "3")
    client, there = box.s3(), box.mount / bucket
    if "mount_lacks" not in box.tierce("pool", "status", "--json").stdout.replace('"mount_lacks": ""', ""):
        space = os.statvfs(there)
        assert (space.f_blocks * space.f_frsize, space.f_files) == (3 * MIB, 3)
    cached = os.open(there / "cached", os.O_WRONLY | os.O_CREAT)
    os.write(cached, b"c" * 4 * MIB)
    for _ in range(2):
        assert failure(lambda: os.fsync(cached)) == errno.EDQUOT
    assert failure(lambda: os.close(cached)) == errno.EDQUOT
    size = (there / "cached").stat().st_size
    assert size <= 3 * MIB, "the kernel believes the size no more"
    assert client.head_object(Bucket=bucket, Key="cached")["ContentLength"] == size
    (there / "cached").write_bytes(b"c" * 2 * MIB)
    direct = os.open(there / "direct", os.O_WRONLY | os.O_CREAT | os.O_DIRECT)
    page = mmap.mmap(-1, MIB)
    assert os.write(direct, page) == MIB
    assert failure(lambda: os.write(direct, page)) == errno.EDQUOT
    os.close(direct)
    assert refusal(lambda: client.put_object(Bucket=bucket, Key="s3", Body=b"s")) == (403, "QuotaExceeded")
    client.put_object(Bucket=bucket, Key="direct", Body=b"less")
    client.put_object(Bucket=bucket, Key="s3", Body=b"s")
    assert failure(lambda: os.close(os.open(there / "fourth", os.O_WRONLY | os.O_CREAT))) == errno.EDQUOT
    assert failure(lambda: os.link(there / "s3", there / "fourth")) == errno.EDQUOT
    assert failure(lambda: os.truncate(there / "s3", 3 * MIB)) == errno.EDQUOT
    assert refusal(lambda: client.put_object(Bucket=bucket, Key="fourth", Body=b"")) == (403, "QuotaExceeded")
    (there / "s3").unlink()
    upload = client.create_multipart_upload(Bucket=bucket, Key="parts")["UploadId"]
    part = {"Bucket": bucket, "Key": "parts", "UploadId": upload}
    client.upload_part(**part, PartNumber=1, Body=b"p" * (MIB - 4))  # type: ignore[arg-type]
    refused = refusal(lambda: client.upload_part(**part, PartNumber=2, Body=b"p"))  # type: ignore[arg-type]
    assert refused == (403, "QuotaExceeded")
    large = refusal(lambda: client.put_object(Bucket=bucket, Key="large", Body=b"l" * 4 * MIB))
    assert large == (403, "QuotaExceeded")
    client.abort_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload)
    (there / "more").write_bytes(b"m" * (MIB - 4))
    assert f"{bucket}\t3\t3.0 MiB" in box.tierce("bucket", "list").stdout
    box.tierce("bucket", "quota", bucket, "--none")
    (there / "more").write_bytes(b"m" * 2 * MIB)


def test_both_doors_at_once_never_pass_the_quota(box: Box, bucket: str) -> None:
    box.tierce("bucket", "quota", bucket, "--size", "1MB", "--objects", "60")
    there = box.mount / bucket
    accepted: list[int] = []
    strange: list[object] = []

    def by_mount(number: int) -> None:
        for turn in range(60):
            size = 1 + (turn * 7919) % 30_000
            failed = failure(lambda: (there / f"m{number}-{turn}").write_bytes(b"m" * size))  # noqa: B023  called here
            if failed == 0:
                accepted.append(size)
            elif failed != errno.EDQUOT:
                strange.append(failed)
            else:
                (there / f"m{number}-{turn}").unlink(missing_ok=True)

    def by_s3(number: int) -> None:
        client = box.s3()
        for turn in range(60):
            size = 1 + (turn * 6007) % 30_000
            try:
                client.put_object(Bucket=bucket, Key=f"s{number}-{turn}", Body=b"s" * size)
                accepted.append(size)
            except ClientError as error:
                if error.response["Error"]["Code"] != "QuotaExceeded":
                    strange.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2) for work in (by_mount, by_s3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert strange == []
    found = [item["Size"] for item in box.s3().list_objects_v2(Bucket=bucket)["Contents"]]
    assert (len(found), sum(found)) == (len(accepted), sum(accepted)), "what was accepted is there, and nothing else"
    assert len(found) <= 60
    assert sum(found) <= 1_000_000
    assert len(found) == 60 or sum(found) > 1_000_000 - 30_000, "and it is used"


def test_a_full_pool(small: Box) -> None:
    there, kept = small.mount / "bucket", {}
    number = 0
    while True:
        body = os.urandom(8 * MIB)
        file = os.open(there / f"{number}", os.O_WRONLY | os.O_CREAT)
        os.write(file, body)
        synced = failure(lambda: os.fsync(file))  # noqa: B023  called here
        closed = failure(lambda: os.close(file))  # noqa: B023
        if synced or closed:
            assert synced == errno.ENOSPC
            assert closed in (0, errno.ENOSPC)
            break
        kept[f"{number}"] = body
        number += 1
    assert len(kept) > 10
    client = small.s3()
    status, code = refusal(lambda: client.put_object(Bucket="bucket", Key="s3", Body=os.urandom(8 * MIB)))
    assert (status, code) == (507, "InsufficientStorage")
    for name, body in kept.items():
        assert (there / name).read_bytes() == body
    (there / f"{number}").unlink()
    for name in ("0", "1", "2"):
        (there / name).unlink()
        del kept[name]
    (there / "again").write_bytes(os.urandom(8 * MIB))
    assert client.head_object(Bucket="bucket", Key="again")["ContentLength"] == 8 * MIB


def test_a_mount_that_only_shows(fuse: None, tmp_path: Path) -> None:
    with running(tmp_path / "box", TIERCE_MOUNT_READ_ONLY="yes") as box:
        client, there = box.s3(), box.mount / "bucket"
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="k", Body=b"shown")
        assert (there / "k").read_bytes() == b"shown"
        for work in (
            lambda: (there / "k").write_bytes(b"x"),
            lambda: (there / "new").touch(),
            lambda: (there / "k").unlink(),
            lambda: (there / "k").rename(there / "l"),
            lambda: (there / "d").mkdir(),
            lambda: os.truncate(there / "k", 0),
            lambda: os.chmod(there / "k", 0o600),
            lambda: os.setxattr(there / "k", "user.meta.a", b"b"),
            lambda: (box.mount / "other").mkdir(),
        ):
            assert failure(work) == errno.EROFS
        assert os.statvfs(there).f_flag & os.ST_RDONLY
        assert not os.access(there / "k", os.W_OK)
        assert client.get_object(Bucket="bucket", Key="k")["Body"].read() == b"shown"


def test_a_damaged_block_is_an_error_for_that_block_alone(small: Box) -> None:
    """Never zeroes, never other bytes; the log says which device and where."""
    there, block = small.mount / "bucket" / "file", 64 * 1024
    body = b"".join(b"%08d" % number * (block // 8) for number in range(32))
    there.write_bytes(body)
    small.stop()
    damaged = 0
    for device in small.devices:
        with open(device, "r+b") as file:
            data = file.read()
            at = data.find(b"00000009" * 100)
            if at >= 0:
                file.seek(at + 50)
                file.write(b"?")
                damaged += 1
    assert damaged == 1
    small.start()
    with there.open("rb", buffering=0) as opened:
        for number in range(32):
            opened.seek(number * block)
            if number == 9:
                assert failure(lambda: opened.read(4096)) == errno.EIO
            else:
                assert opened.read(4096) == body[number * block :][:4096]
    assert "DAMAGED" in small.log() or "damaged" in small.log()
    there.unlink()


def test_a_program_that_dies_with_dirty_pages_loses_nothing_that_it_wrote(box: Box, bucket: str) -> None:
    path = box.mount / bucket / "left"
    process = subprocess.Popen([sys.executable, "-c", LOSER, path], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    expected = bytearray(20_000)
    expected[:7000] = b"written" * 1000
    expected[10_000:10_006] = b"mapped"
    assert box.s3().get_object(Bucket=bucket, Key="left")["Body"].read() == expected


def test_names_that_s3_cannot_hold(box: Box, bucket: str) -> None:
    client, there = box.s3(), box.mount / bucket
    deep = there.joinpath(*["d" * 200] * 6)  # a key of 1,205 bytes
    deep.mkdir(parents=True)
    (deep / "file").write_bytes(b"deep")
    raw = os.fsencode(there) + b"/not-utf8-\xff\xfe"
    with open(raw, "wb") as file:
        file.write(b"raw")
    (there / "line\nbreak").write_bytes(b"line")
    keys = {item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]}
    assert {".tierce~q~not-utf8-%FF%FE", "line\nbreak"} <= keys
    assert client.get_object(Bucket=bucket, Key=".tierce~q~not-utf8-%FF%FE")["Body"].read() == b"raw"
    assert b"not-utf8-\xff\xfe" in os.listdir(os.fsencode(there))
    assert (deep / "file").read_bytes() == b"deep"
    assert failure(lambda: (there / (256 * "x")).touch()) == errno.ENAMETOOLONG
    assert failure(lambda: (there / ".tierce~mine").touch()) == errno.EINVAL
    assert failure(lambda: (box.mount / "Not_A_Bucket").mkdir()) == errno.EINVAL
    (deep / "file").rename(there / "shallow")
    assert client.get_object(Bucket=bucket, Key="shallow")["Body"].read() == b"deep"
