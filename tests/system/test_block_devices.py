"""The same daemon on block devices: what a file cannot show, exclusive opening and the protective label."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.limits import GIB, MIB
from tests.system.box import Box, digest, running
from tests.system.conftest import left_out
from tests.system.test_service import second

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture(scope="module")
def block_box(loops: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A box on loop devices that keeps two copies of everything."""
    with running(tmp_path_factory.mktemp("block"), loops, mount=False, copies=2) as box:
        box.s3().create_bucket(Bucket="bucket")
        yield box


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """A loop device of its own, empty."""
    with (tmp_path / "disk").open("xb") as file:
        file.truncate(GIB)
    made = run("losetup", "--find", "--show", str(tmp_path / "disk"))
    if made.returncode:
        left_out("TIERCE_ALLOW_NO_LOOP", f"no loop device: {made.stderr.strip()}")
    device = made.stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """A tool of the system."""
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_objects_survive_restart_and_kill(block_box: Box) -> None:
    bodies = {f"k{size}": os.urandom(size) for size in (0, 2000, 100_000, 9 * MIB)}
    client = block_box.s3()
    for key, body in bodies.items():
        client.put_object(Bucket="bucket", Key=key, Body=body)
    for end in (block_box.stop, block_box.kill):
        end()
        block_box.start()
        client = block_box.s3()
        for key, body in bodies.items():
            assert digest(client.get_object(Bucket="bucket", Key=key)["Body"].read()) == digest(body)


def test_nobody_else_gets_the_devices(block_box: Box, tmp_path: Path) -> None:
    device = block_box.devices[1]
    refused = run("mkfs.ext4", "-F", "-q", device)
    assert refused.returncode != 0
    assert "in use" in refused.stderr + refused.stdout
    said = second(block_box, tmp_path / "other")
    assert "in use" in said.lower()
    again = block_box.tierce("pool", "create", "--hdd", device, "--erase", device, check=False)
    assert again.returncode == 1


def test_other_tools_see_whose_disk_it_is(block_box: Box) -> None:
    for device in block_box.devices:
        shown = run("blkid", "-p", "-o", "export", device)
        assert "PTTYPE=gpt" in shown.stdout
    label = block_box.tierce("device", "label", block_box.devices[0]).stdout
    assert "blaze" in label


def ends(device: str) -> bytes:
    """Where everything known would be."""
    with open(device, "rb") as file:
        head = file.read(4 * MIB)
        file.seek(-4 * MIB, os.SEEK_END)
        return head + file.read()


def test_what_others_left_is_spared_until_the_disk_is_named(block_box: Box, disk: str) -> None:
    """By both commands that would write to it."""

    def spared(name: str) -> None:
        before = ends(disk)
        for words in (("pool", "create", "--hdd", disk, "--erase", "yes"), ("device", "add", "--hdd", disk)):
            refused = block_box.tierce(*words, check=False)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert name in refused.stderr
            assert f"--erase {disk}" in refused.stderr
        assert ends(disk) == before

    with open(disk, "r+b") as file:
        file.write(bytes(512) + b"LABELONE" + bytes(16) + b"LVM2 001")
    spared("LVM2 physical volume")
    run("mkfs.ext4", "-q", "-F", disk)
    spared("ext4")
    block_box.tierce("pool", "create", "--name", "another", "--hdd", disk, "--erase", disk)
    assert "PTTYPE=gpt" in run("blkid", "-p", "-o", "export", disk).stdout
    spared("of pool another")


def test_every_device_is_online(block_box: Box) -> None:
    rows = block_box.tierce("device", "list").stdout.splitlines()[1:]
    assert [row.split("\t")[3] for row in rows] == ["online"] * 3
