"""Making a pool on devices that may carry something."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.device.probe import Probe
from appliance.device.raw import RawDevice
from appliance.engine.startup import NewDevice, create_pool
from appliance.errors import Code, StoreError
from appliance.formatting import describe_label, examine, format_pool, refuse_occupied
from appliance.limits import GIB, MIB
from appliance.ondisk.geometry import default_ring_length
from appliance.ondisk.superblock import Tier


def sparse(path: Path, size: int = 2 * GIB) -> str:
    """A file-backed device."""
    with path.open("xb") as file:
        file.truncate(size)
    return str(path)


def first_bytes(name: str) -> bytes:
    """Where everything known would be."""
    with open(name, "rb") as file:
        return file.read(4 * MIB)


def with_ext4(path: Path) -> str:
    """A device with an ext4 superblock's magic (at 1024 + 56)."""
    name = sparse(path)
    with open(name, "r+b") as file:
        file.seek(1024)
        superblock = bytearray(1024)
        superblock[0:4], superblock[4:8] = b"\x00\x10\x00\x00", b"\x00\x40\x00\x00"  # inodes, blocks
        superblock[56:58] = b"\x53\xef"
        superblock[96:100] = b"\x42\x02\x00\x00"  # incompatible features of ext4: file types, extents
        file.write(superblock)
    return name


def refusal(*arguments: tuple[str, Tier], copies: int = 1, erase: tuple[str, ...] = ()) -> StoreError:
    """The refusal to make a pool."""
    with pytest.raises(StoreError) as caught:
        format_pool(arguments, name="demo", copies=copies, erase=erase)
    return caught.value


def test_a_made_pool_is_described_by_each_of_its_labels(tmp_path: Path) -> None:
    ssd, hdd = sparse(tmp_path / "ssd"), sparse(tmp_path / "hdd")
    pool = format_pool([(ssd, "blaze"), (hdd, "bulk")], name="demo", copies=2)
    first, second = describe_label(ssd), describe_label(hdd)
    assert first["pool_uuid"] == second["pool_uuid"] == pool
    assert (first["pool"], first["tier"], first["journal"]) == ("demo", "blaze", True)
    assert (second["tier"], second["journal"]) == ("bulk", False)
    assert first["members"] == second["members"] == [first["device_uuid"], second["device_uuid"]]


def test_a_sparse_file_stays_sparse(tmp_path: Path) -> None:
    ssd = sparse(tmp_path / "ssd")
    format_pool([(ssd, "blaze")], name="demo", copies=1)
    assert Path(ssd).stat().st_blocks * 512 < 2 * MIB


def test_a_block_devices_journal_has_its_place_before_it_is_used(tmp_path: Path) -> None:
    """Where a device finds room only for what was written, zeros are written as well."""
    device = RawDevice.open(sparse(tmp_path / "ssd", 64 * MIB))
    device.block = True
    create_pool([NewDevice("ssd", device, "blaze")], name="demo", copies=1, now_ns=1)
    device.close()
    assert (tmp_path / "ssd").stat().st_blocks * 512 >= default_ring_length(64 * MIB)


def test_a_file_system_is_refused_until_it_is_named(tmp_path: Path) -> None:
    device = with_ext4(tmp_path / "ext4")
    before = first_bytes(device)
    error = refusal((device, "bulk"))
    assert error.code is Code.WRONG_DEVICE
    assert "ext" in error.message
    assert f"--erase {device}" in error.message
    assert refusal((device, "bulk"), erase=("yes", str(tmp_path / "other"))).code is Code.WRONG_DEVICE
    assert first_bytes(device) == before, "a refusal writes nothing"
    format_pool([(device, "bulk")], name="demo", copies=1, erase=(device,))
    assert not [name for name in examine(device).signatures if "ext" in name]


def test_another_pools_label_is_refused(tmp_path: Path) -> None:
    device = sparse(tmp_path / "a")
    format_pool([(device, "blaze")], name="first", copies=1)
    error = refusal((device, "blaze"))
    assert error.code is Code.WRONG_DEVICE
    assert "of pool first" in error.message
    assert describe_label(device)["pool"] == "first"


def test_one_refused_device_spares_all(tmp_path: Path) -> None:
    free, taken = sparse(tmp_path / "free"), with_ext4(tmp_path / "taken")
    refusal((free, "blaze"), (taken, "bulk"))
    assert examine(free).signatures == ()


def test_a_device_that_a_daemon_holds_is_refused(tmp_path: Path) -> None:
    device = sparse(tmp_path / "a")
    held = RawDevice.open(device)
    try:
        assert refusal((device, "blaze")).code is Code.IN_USE
    finally:
        held.close()


def test_a_device_too_small_is_refused(tmp_path: Path) -> None:
    error = refusal((sparse(tmp_path / "small", 8 * MIB), "blaze"))
    assert error.code is Code.INVALID_ARGUMENT
    assert "too small" in error.message


def test_more_copies_than_devices_are_refused(tmp_path: Path) -> None:
    device = sparse(tmp_path / "a")
    assert refusal((device, "blaze"), copies=2).code is Code.INVALID_ARGUMENT
    assert examine(device).signatures == ()


def test_a_missing_device_is_named(tmp_path: Path) -> None:
    error = refusal((str(tmp_path / "nothing"), "blaze"))
    assert error.code is Code.UNAVAILABLE
    assert "nothing" in error.message


def test_a_stranger_has_no_label(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        describe_label(sparse(tmp_path / "a"))
    assert caught.value.code is Code.WRONG_DEVICE


def found(**changes: object) -> Probe:
    """A disk with an ext4 file system."""
    facts: dict[str, object] = {
        "path": "/dev/sdx",
        "kind": "block",
        "size": GIB,
        "sector": 512,
        "rotational": True,
        "model": "M",
        "serial": "S123",
        "by_id": "/dev/disk/by-id/ata-M_S123",
        "read_only": False,
        "removable": False,
        "used_by": (),
        "signatures": ("ext4",),
    }
    return Probe(**(facts | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["S123", "/dev/sdx", "/dev/disk/by-id/ata-M_S123"])
def test_erasing_takes_the_serial_or_the_path(name: str) -> None:
    refuse_occupied(found(), (name,))


@pytest.mark.parametrize("name", ["", "S12", "/dev/sdy"])
def test_erasing_takes_nothing_else(name: str) -> None:
    with pytest.raises(StoreError, match="--erase S123"):
        refuse_occupied(found(serial="S123"), (name,))


def test_a_device_without_a_serial_is_not_named_by_nothing() -> None:
    with pytest.raises(StoreError, match="--erase /dev/sdx"):
        refuse_occupied(found(serial="", by_id=""), ("",))


def test_a_device_in_use_is_refused_whatever_was_said() -> None:
    with pytest.raises(StoreError) as caught:
        refuse_occupied(found(used_by=("mounted at /x",)), ("S123",))
    assert caught.value.code is Code.IN_USE
    assert "mounted at /x" in caught.value.message


def test_a_read_only_device_is_refused() -> None:
    with pytest.raises(StoreError) as caught:
        refuse_occupied(found(read_only=True, signatures=()), ())
    assert caught.value.code is Code.READ_ONLY
