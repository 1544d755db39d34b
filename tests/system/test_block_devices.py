"""The same daemon on block devices: what a file cannot show, exclusive opening and the protective label."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.limits import MIB
from tests.system.box import Box, digest, running
from tests.system.test_service import second

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture(scope="module")
def block_box(loops: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A box on loop devices that keeps two copies of everything."""
    with running(tmp_path_factory.mktemp("block"), loops, mount=False, copies=2) as box:
        box.s3().create_bucket(Bucket="bucket")
        yield box


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


def test_every_device_is_online(block_box: Box) -> None:
    rows = block_box.tierce("device", "list").stdout.splitlines()[1:]
    assert [row.split("\t")[3] for row in rows] == ["online"] * 3
