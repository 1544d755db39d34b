"""Long reads on a real mount, answered by the compiled part: the same bytes, and damage stays where it is."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from appliance.limits import BLOCK, MIB
from appliance.ondisk.page import SUM, block_sums
from fusefs.streams import WORTH
from tests.fusefs.compiled import build
from tests.fusefs.served import Served, served

pytestmark = pytest.mark.system


def forgotten(path: Path) -> int:
    """Open, and nothing of it in the kernel's cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return descriptor


def taken(mount: Served) -> int:
    count: int = mount.ask("statistics")["taken"]
    return count


def flip(pool: Path, beginning: bytes) -> None:
    """One bit of the block that begins so, on whichever device it lies."""
    for path in pool.iterdir():
        with path.open("rb+") as device, suppress(OSError):  # beyond its last bytes nothing is found
            at = 0
            while os.fstat(device.fileno()).st_size > 1 << 30:  # a device
                at = os.lseek(device.fileno(), at, os.SEEK_DATA)
                inner = (piece := os.pread(device.fileno(), 2 * MIB, at)).find(beginning)
                if inner >= 0:
                    os.pwrite(device.fileno(), bytes([piece[inner + 99] ^ 1]), at + inner + 99)
                    os.fsync(device.fileno())
                    return
                at += MIB
    raise AssertionError("the block lies nowhere")


def test_the_sum_of_a_block_is_the_formats() -> None:
    library, chance = ctypes.CDLL(str(build())), random.Random(3)
    for length in (0, 1, 16, 17, 128, 129, 240, 241, 256, 257, 1023, 1024, 1025, 1088, 1089, 2048, 2049, 65_535, BLOCK):
        block, found = chance.randbytes(length), ctypes.create_string_buffer(SUM)
        library.block_sum(block, ctypes.c_size_t(length), found)
        assert found.raw == block_sums(block), length


def test_what_is_read_in_order_is_what_was_written(tmp_path: Path) -> None:
    build()
    data = random.Random(4).randbytes(WORTH + 17 * MIB + 12_345)
    with served(tmp_path / "mnt", "pool") as mount:
        path = mount.bucket / "f"
        path.write_bytes(data)
        before = taken(mount)
        for size in (MIB, 700_001):
            descriptor = forgotten(path)
            assert b"".join(iter(lambda: os.read(descriptor, size), b"")) == data, size  # noqa: B023
            os.close(descriptor)
        handed = taken(mount)
        assert handed > before
        direct, room = os.open(path, os.O_RDWR | os.O_DIRECT), mmap.mmap(-1, MIB)
        model = bytearray(data)
        for start in range(0, 20 * MIB, MIB):  # what is changed meanwhile is not read from where it was
            if start % (4 * MIB) == 0:
                room[:] = bytes([start >> 20]) * MIB
                assert os.pwrite(direct, room, start + 2 * MIB) == MIB
                model[start + 2 * MIB : start + 3 * MIB] = room
            assert os.preadv(direct, [room], start) == MIB
            assert room[:] == model[start : start + MIB], start
        os.close(direct)
        assert path.read_bytes() == model


def test_a_damaged_block_is_an_error_for_itself_alone(tmp_path: Path) -> None:
    build()
    data = random.Random(5).randbytes(24 * MIB)
    bad = 13 * MIB + 5 * BLOCK
    mount = Served(tmp_path / "mnt", "pool")
    try:
        path = mount.bucket / "f"
        path.write_bytes(data)
        descriptor = forgotten(path)
        flip(tmp_path / "mnt.pool", data[bad : bad + 512])
        wrong = []
        for start in range(0, len(data), BLOCK):
            try:
                found_here = os.pread(descriptor, BLOCK, start)
            except OSError as error:
                wrong.append((start, error.errno))
            else:
                assert found_here == data[start : start + BLOCK], start
        assert wrong == [(bad, errno.EIO)]
        assert taken(mount) > 0
        os.close(descriptor)
    finally:
        assert mount.stop() == 0
    assert any("does not match its digest" in line for line in mount.log), mount.log
