"""What a mount on a real kernel answers when devices, sizes, names or clients are bad."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.limits import FILE_SIZE_MAX, KIB, MIB, TIB
from tests.system.box import Box, digest, running

pytestmark = [pytest.mark.system, pytest.mark.slow]

BLOCK = 64 * KIB  # what a page's header vouches for at a time
SMALL = 192 * MIB  # of a device that is soon full


def sparse(directory: Path, names: list[str], size: int) -> list[str]:
    """Files that stand for devices."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        with (directory / name).open("xb") as file:
            file.truncate(size)
    return [str(directory / name) for name in names]


def refused(function: object, *arguments: object) -> int:
    """The errno of a call that must fail."""
    assert callable(function)
    try:
        function(*arguments)
    except OSError as error:
        return error.errno or 0
    raise AssertionError("it was done")


# ---------------------------------------------------------------------- damaged devices
def blocks(count: int) -> bytes:
    """Blocks that are found again on a device."""
    return b"".join((b"block %06d of a file. " % number * 4096)[:BLOCK] for number in range(count))


def damage(devices: list[str], block: int) -> int:
    """Changes one byte of the block on the first of the devices that has it; on how many."""
    needle = b"block %06d of a file. " % block * 3
    for device in devices:
        with open(device, "r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            at = view.find(needle)
            if at >= 0:
                view[at + 5] ^= 1
                view.flush()
                return 1
    return 0


def unreadable(path: Path, size: int) -> set[int]:
    """The blocks of which a page of 4 KiB cannot be read; the others are as they were written."""
    wanted, bad = blocks(size // BLOCK), set()
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for at in range(0, size, 4 * KIB):
            try:
                assert os.pread(file.fileno(), 4 * KIB, at) == wanted[at : at + 4 * KIB], at
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                bad.add(at // BLOCK)
    return bad


@pytest.mark.parametrize("copies", [1, 2])
def test_a_corrupt_block_is_an_error_for_itself_alone_or_read_from_the_other_copy(
    fuse: None, tmp_path: Path, copies: int
) -> None:
    """H3 under a mounted file: never zeroes, never other bytes; the neighbours stay readable."""
    devices = sparse(tmp_path / "devices", ["a", "b", "c"], 512 * MIB)
    with running(tmp_path / "box", devices, copies=copies) as box:
        box.s3().create_bucket(Bucket="damaged")
        path = box.mount / "damaged" / "file"
        size = 64 * BLOCK
        path.write_bytes(blocks(64))
        with path.open("rb") as file:
            os.fsync(file.fileno())
        box.stop()
        assert damage(devices, 20) == 1
        box.start()
        bad = unreadable(path, size)
        assert bad == ({20} if copies == 1 else set())
        assert "does not match its digest" in box.log()
        if copies == 1:
            with path.open("r+b") as file:  # what was lost can be written again
                file.seek(20 * BLOCK)
                file.write(blocks(21)[-BLOCK:])
                file.flush()
                os.fsync(file.fileno())
            assert unreadable(path, size) == set()


# ---------------------------------------------------------------------- sizes
def test_sizes_that_no_file_may_have(box: Box, bucket: str) -> None:
    """A sparse file of an exabyte costs nothing and is refused; so is a write beyond 5 TiB, by fsync at the latest."""
    path = box.mount / bucket / "sparse"
    path.write_bytes(b"begin")
    begin = time.process_time()
    for size in (1 << 60, (1 << 63) - 1, FILE_SIZE_MAX + 1):
        assert refused(os.truncate, path, size) == errno.EFBIG
    assert path.stat().st_size == 5
    os.truncate(path, FILE_SIZE_MAX)
    assert (path.stat().st_size, path.stat().st_blocks * 512) == (FILE_SIZE_MAX, 4 * KIB)
    os.truncate(path, 5)
    for at in (FILE_SIZE_MAX, FILE_SIZE_MAX - 1, 1 << 60):
        descriptor = os.open(path, os.O_RDWR)
        told = []
        for call in (lambda fd, at=at: os.pwrite(fd, b"xx", at), os.fsync, os.close):
            try:
                call(descriptor)
            except OSError as error:
                told.append(error.errno)
        assert errno.EFBIG in told, (at, told)
        assert path.read_bytes() == b"begin"
        assert box.s3().get_object(Bucket=bucket, Key="sparse")["Body"].read() == b"begin"
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), b"end", FILE_SIZE_MAX - 3)
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 10, FILE_SIZE_MAX - 6) == b"\0\0\0end"
        assert os.pread(file.fileno(), 8, 3 * TIB) == bytes(8)
        assert os.fstat(file.fileno()).st_blocks * 512 <= 16 * KIB
    head = box.s3().head_object(Bucket=bucket, Key="sparse")
    assert head["ContentLength"] == FILE_SIZE_MAX
    assert time.process_time() - begin < 5


# ---------------------------------------------------------------------- names
def test_names_that_s3_cannot_hold_or_show(box: Box, bucket: str) -> None:
    """Each is refused with the right errno, or there for both doors; a listing of them never breaks."""
    root = os.fsencode(box.mount / bucket)
    s3 = box.s3()
    names = [b"n" * 255, "ä".encode() * 127, b"\xff\xfe latin", b"\x01\x02\x1f\x7f", b"new\nline", b" ", b"&<>\"'%25+"]
    names += ["\u202ertl \U0001f600".encode(), b".tierce", b"\xed\xa0\x80 surrogate"]
    for name in names:
        with open(root + b"/" + name, "wb") as file:
            file.write(name)
    assert set(os.listdir(root)) == set(names)
    for name in names:
        with open(root + b"/" + name, "rb") as file:
            assert file.read() == name
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert len(listed) == len(names)
    for item in listed:  # boto3 asks for URL encoding and undoes it
        assert s3.head_object(Bucket=bucket, Key=item["Key"])["ContentLength"] == item["Size"]
    for name in (b"n" * 256, "ä".encode() * 128):
        assert refused(os.mkdir, root + b"/" + name) == errno.ENAMETOOLONG
        assert refused(os.open, root + b"/" + name, os.O_CREAT | os.O_WRONLY) == errno.ENAMETOOLONG
        assert refused(os.stat, root + b"/" + name) == errno.ENAMETOOLONG
        assert refused(os.rename, root + b"/ ", root + b"/" + name) == errno.ENAMETOOLONG
    for name in (b".tierce~mine", b".tierce~f~absent", b".tierce~h~n~00~x"):
        assert refused(os.open, root + b"/" + name, os.O_CREAT | os.O_WRONLY) == errno.EINVAL
        assert refused(os.mkdir, root + b"/" + name) == errno.EINVAL
        assert refused(os.rename, root + b"/ ", root + b"/" + name) == errno.EINVAL
        assert refused(os.stat, root + b"/" + name) == errno.ENOENT


def test_paths_longer_than_any_key(box: Box, bucket: str) -> None:
    """The kernel bounds a path by 4,096 bytes, but not a tree; S3 keys have 1,024.  Nothing breaks, everything can be
    removed."""
    top = os.open(box.mount / bucket, os.O_RDONLY)
    here = os.dup(top)
    segment = "d" * 200
    for depth in range(25):
        os.mkdir(segment, dir_fd=here)
        below = os.open(segment, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
        descriptor = os.open(f"file{depth}", os.O_CREAT | os.O_WRONLY, dir_fd=here)
        os.write(descriptor, b"%d" % depth)
        os.close(descriptor)
    os.fsync(here)
    assert os.listdir(here) == ["file24"]
    assert refused(os.stat, "/".join([str(box.mount / bucket), *[segment] * 25, "file24"])) == errno.ENAMETOOLONG
    s3 = box.s3()
    keys = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]]
    assert len(keys) == 25
    for key in keys:
        if len(key) <= 1024:
            assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.rpartition("file")[2].encode()
    os.close(here)
    os.close(top)
    subprocess.run(["rm", "-rf", box.mount / bucket / segment], check=True)
    assert os.listdir(box.mount / bucket) == []


# ---------------------------------------------------------------------- clients that die
DIE = """
import mmap, os, signal, sys
descriptor = os.open(sys.argv[1] + "/mapped", os.O_CREAT | os.O_RDWR)
os.ftruncate(descriptor, 3 << 20)
view = mmap.mmap(descriptor, 0)
view[:] = b"m" * len(view)
written = os.open(sys.argv[1] + "/written", os.O_CREAT | os.O_RDWR)
os.write(written, b"w" * (5 << 20))
removed = os.open(sys.argv[1] + "/removed", os.O_CREAT | os.O_RDWR)
os.write(removed, b"r" * (5 << 20))
os.unlink(sys.argv[1] + "/removed")
print("dirty", flush=True)
signal.pause()
"""


def test_a_client_killed_with_dirty_pages_leaves_what_it_wrote(box: Box, bucket: str) -> None:
    """Its death closes its files: what it wrote is in the kernel's cache or ours, and becomes the objects."""
    with subprocess.Popen([sys.executable, "-c", DIE, box.mount / bucket], stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == b"dirty\n"
        client.send_signal(signal.SIGKILL)
    s3 = box.s3()
    assert digest(s3.get_object(Bucket=bucket, Key="mapped")["Body"].read()) == digest(b"m" * (3 << 20))
    assert digest(s3.get_object(Bucket=bucket, Key="written")["Body"].read()) == digest(b"w" * (5 << 20))
    assert sorted(os.listdir(box.mount / bucket)) == ["mapped", "written"]


# ---------------------------------------------------------------------- a full box
@pytest.fixture
def tiny(fuse: None, tmp_path: Path) -> Iterator[Box]:
    """A box with little room."""
    with running(tmp_path / "box", sparse(tmp_path / "devices", ["a", "b", "c"], SMALL)) as box:
        box.s3().create_bucket(Bucket="full")
        yield box


def test_a_full_box_loses_nothing_that_it_acknowledged_and_rm_frees_it(tiny: Box) -> None:
    """fsync tells ENOSPC; what it told to be written is there; names can still be removed, moved, listed; then there is
    room again."""
    root = tiny.mount / "full"
    kept: dict[str, bytes] = {}
    told: list[int] = []
    for number in range(200):
        path = root / f"file{number}"
        data = b"%08d" % number * (5 * MIB // 8)
        try:
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            kept[path.name] = data
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            told.append(number)
            if len(told) == 3:
                break
    assert len(told) == 3, "it is never full"
    assert len(kept) > 5
    assert os.statvfs(root).f_bavail * 4096 < 32 * MIB
    os.sync()
    for name, data in kept.items():
        assert digest((root / name).read_bytes()) == digest(data), name
    os.rename(root / "file0", root / "moved")
    kept["moved"] = kept.pop("file0")
    names = os.listdir(root)
    assert set(kept) <= set(names)
    for name in names:
        if name not in kept:
            os.unlink(root / name)
    for name in sorted(kept)[: len(kept) // 2]:
        os.unlink(root / name)
        del kept[name]
    deadline = time.monotonic() + 120
    while os.statvfs(root).f_bavail * 4096 < 32 * MIB:
        assert time.monotonic() < deadline, "what was removed is not free"
        time.sleep(0.05)
    with (root / "again").open("wb") as file:
        file.write(bytes(16 * MIB))
        file.flush()
        os.fsync(file.fileno())
    for name, data in kept.items():
        assert tiny.s3().get_object(Bucket="full", Key=name)["Body"].read() == data
