"""Raw devices: on files for every verb and refusal; on loop devices for what only block devices do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from appliance.device.buffers import aligned
from appliance.device.probe import list_devices, probe
from appliance.device.raw import RawDevice
from appliance.errors import Code, StoreError
from appliance.limits import MIB


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(8 * MIB + 100)
    return path


def filled(length: int, seed: int) -> memoryview:
    buffer = aligned(length)
    buffer[:] = b"".join(bytes([(seed + sector) % 256]) * 512 for sector in range(length // 512))
    return buffer


def exercise(device: RawDevice) -> None:
    """The contract of a BlockDevice."""
    first, second = filled(4096, 1), filled(1 * MIB, 2)
    device.write(4096, first)
    device.write(device.size - MIB, second)
    device.flush()
    read = aligned(MIB)
    device.read_into(device.size - MIB, read)
    assert read == second
    small = aligned(12288)
    device.read_into(0, small)
    assert small[4096:8192] == first
    assert bytes(small[:4096]) == bytes(4096)
    device.write_parts(0, [small[:4096], second[: 64 * 1024], first])
    device.read_into(0, read)
    assert read[:4096] == bytes(4096)
    assert read[4096 : 4096 + 64 * 1024] == second[: 64 * 1024]
    assert read[4096 + 64 * 1024 : 8192 + 64 * 1024] == first
    device.discard(4096, 4096)
    device.read_into(4096, small[:4096])
    assert bytes(small[:4096]) in (bytes(4096), bytes(first), bytes(second[:4096]))


def test_what_is_written_is_read(path: Path) -> None:
    device = RawDevice.open(path)
    assert device.size == 8 * MIB
    exercise(device)
    device.close()
    again = RawDevice.open(path, read_only=True)
    buffer = aligned(MIB)
    again.read_into(again.size - MIB, buffer)
    assert buffer == filled(MIB, 2)
    again.close()
    again.close()


def test_a_discarded_range_of_a_file_is_given_back(path: Path) -> None:
    device = RawDevice.open(path)
    device.write(0, filled(4 * MIB, 1))
    device.flush()
    before = path.stat().st_blocks
    device.discard(MIB, 2 * MIB)
    device.flush()
    device.close()
    assert path.stat().st_blocks <= before - 2 * MIB // 512
    assert path.stat().st_size == 8 * MIB + 100


def test_a_second_opener_is_refused_and_the_first_goes_on(path: Path) -> None:
    first = RawDevice.open(path)
    with pytest.raises(StoreError, match="in use by another process") as caught:
        RawDevice.open(path)
    assert caught.value.code is Code.IN_USE
    with pytest.raises(StoreError):
        RawDevice.open(path, read_only=True)
    RawDevice.open(path, read_only=True, exclusive=False).close()
    first.write(0, filled(4096, 3))
    first.close()
    RawDevice.open(path).close()


def test_another_process_is_refused_too(path: Path) -> None:
    device = RawDevice.open(path)
    program = (
        "import sys; from appliance.device.raw import RawDevice; from appliance.errors import StoreError\n"
        "try: RawDevice.open(sys.argv[1])\n"
        "except StoreError as error: print(error.code.name)"
    )
    answer = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert answer.stdout == "IN_USE\n"
    device.close()


def test_a_device_that_shrank_is_the_wrong_one(path: Path) -> None:
    RawDevice.open(path, expected_size=8 * MIB).close()
    with pytest.raises(StoreError, match="shrank") as caught:
        RawDevice.open(path, expected_size=8 * MIB + 4096)
    assert caught.value.code is Code.WRONG_DEVICE
    RawDevice.open(path).close()  # the refusal left no lock behind


@pytest.mark.parametrize("what", ["missing", "directory", "character device"])
def test_what_is_no_device_is_unavailable(tmp_path: Path, what: str) -> None:
    target = {"missing": tmp_path / "none", "directory": tmp_path, "character device": Path("/dev/null")}[what]
    for call in (RawDevice.open, probe):
        with pytest.raises(StoreError, match=str(target)) as caught:
            call(target)
        assert caught.value.code is Code.UNAVAILABLE


def test_errors_name_the_device_and_a_short_transfer_is_one(path: Path) -> None:
    device = RawDevice.open(path)
    with mock.patch("os.pwritev", return_value=512), pytest.raises(OSError, match="only 512 bytes") as caught:
        device.write(0, filled(4096, 1))
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))
    with mock.patch("os.preadv", side_effect=OSError(errno.EIO, "broken")), pytest.raises(OSError) as caught:
        device.read_into(4096, aligned(4096))
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(path))
    with mock.patch("os.fdatasync", side_effect=OSError(errno.ENOSPC, "full")), pytest.raises(OSError) as caught:
        device.flush()
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    device.close()


def test_a_truncated_file_reads_as_an_error_not_as_zeros(path: Path) -> None:
    device = RawDevice.open(path)
    os.truncate(path, MIB)
    with pytest.raises(OSError) as caught:
        device.read_into(2 * MIB, aligned(4096))
    assert caught.value.errno == errno.EIO
    device.close()


def test_a_closed_device_touches_no_other_file(path: Path) -> None:
    device = RawDevice.open(path)
    device.close()
    for call in (device.flush, lambda: device.write(0, filled(4096, 1)), lambda: device.read_into(0, aligned(4096))):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF


@pytest.mark.parametrize(("offset", "length"), [(512, 4096), (0, 512), (8 * MIB, 4096), (-4096, 4096)])
def test_unaligned_or_outside_is_a_bug(path: Path, offset: int, length: int) -> None:
    device = RawDevice.open(path)
    with pytest.raises(AssertionError):
        device.write(offset, aligned(length))
    with pytest.raises(AssertionError):
        device.read_into(offset, aligned(length))
    device.close()


def test_without_direct_io_the_cache_is_used_and_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    real = os.open

    def refuse_direct(name: str, flags: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument", name)
        return real(name, flags)

    with mock.patch("os.open", refuse_direct):
        device = RawDevice.open(path)
    assert not device.direct
    assert "no direct I/O" in caplog.text
    exercise(device)
    device.close()


def test_probing_a_file(path: Path) -> None:
    heads: list[tuple[int, int]] = []

    def recognise(head: bytes, tail: bytes) -> list[str]:
        heads.append((len(head), len(tail)))
        return ["XFS"]

    found = probe(path, recognise)
    assert (found.kind, found.size, found.signatures, found.used_by) == ("file", 8 * MIB, ("XFS",), ())
    assert heads == [(2 * MIB, 3 * MIB)]
    assert probe(path).signatures == ()


def test_what_may_not_be_opened_says_who_may(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: object, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", name)

    monkeypatch.setattr("appliance.device.probe.os.open", refuse)
    with pytest.raises(StoreError, match="Permission denied; run as root or give this user access"):
        probe(path, lambda head, tail: [])


def test_listing_devices_writes_nothing_and_names_paths() -> None:
    devices = list_devices()
    assert all(device.kind == "block" and device.path.startswith("/dev/") and device.size > 0 for device in devices)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[str]:
    backing = tmp_path / "backing"
    with backing.open("wb") as file:
        file.truncate(64 * MIB)
    device = subprocess.run(
        ["losetup", "--find", "--show", "--direct-io=on", backing], capture_output=True, text=True, check=True
    ).stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.system
def test_a_loop_device_is_a_device(loop: str, tmp_path: Path) -> None:
    device = RawDevice.open(loop, expected_size=64 * MIB)
    assert device.direct
    assert device.sector in (512, 4096)
    exercise(device)
    with pytest.raises(StoreError) as caught:
        RawDevice.open(loop)
    assert caught.value.code is Code.IN_USE
    refused = subprocess.run(["mkfs.ext4", "-F", "-q", loop], capture_output=True, check=False)
    assert refused.returncode != 0
    device.close()
    found = probe(loop)
    assert (found.kind, found.size, found.used_by, found.read_only) == ("block", 64 * MIB, (), False)
    assert loop in {entry.path for entry in list_devices()}


@pytest.mark.system
def test_a_mounted_device_is_in_use(loop: str, tmp_path: Path) -> None:
    subprocess.run(["mkfs.ext4", "-F", "-q", loop], check=True)
    place = tmp_path / "a place"
    place.mkdir()
    subprocess.run(["mount", loop, place], check=True)
    try:
        assert probe(loop).used_by == (f"mounted at {place}",)
        with pytest.raises(StoreError) as caught:
            RawDevice.open(loop)
        assert caught.value.code is Code.IN_USE
    finally:
        subprocess.run(["umount", place], check=True)
    RawDevice.open(loop).close()
