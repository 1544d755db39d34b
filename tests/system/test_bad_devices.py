"""Devices that die, are missing, shrink or are somebody else's: the box goes on with the copies that it has, or says
what is wrong and loses nothing."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from appliance.limits import MIB
from tests.system.box import Box, running
from tests.system.test_bad_input import sparse
from tests.system.test_block_path import recorded_disks
from tests.system.test_service import ask

pytestmark = [pytest.mark.system, pytest.mark.slow]

SIZE = 256 * MIB


def fill(box: Box, keys: range) -> dict[str, bytes]:
    """Objects on both copies' devices, acknowledged."""
    bodies = {f"k{number}": os.urandom(300_000) for number in keys}
    for key, body in bodies.items():
        box.s3().put_object(Bucket="bucket", Key=key, Body=body)
    return bodies


def check(box: Box, bodies: dict[str, bytes]) -> None:
    """Every one is there, whole."""
    client = box.s3()
    for key, body in bodies.items():
        assert client.get_object(Bucket="bucket", Key=key)["Body"].read() == body, key


def states(box: Box) -> list[str]:
    """Of each device, as the command line shows them."""
    return [device["state"] for device in json.loads(box.tierce("device", "list", "--json").stdout)]


def test_a_disk_that_dies_takes_nothing_along_that_has_a_copy(fuse: None, tmp_path: Path) -> None:
    """It answers EIO to everything, in the running box and at its next start; without its path it is as dead."""
    files = sparse(tmp_path / "devices", ["ssd0", "hdd0"], SIZE)
    with recorded_disks(tmp_path, ["hdd1"], SIZE) as ([disk], _, recorder):
        box = Box(tmp_path / "box", [*files, disk])
        try:
            box.make_pool(copies=2)
            box.start()
            box.s3().create_bucket(Bucket="bucket")
            bodies = fill(box, range(12))
            bodies["file"] = b"by the mount" * 40_000
            with (box.mount / "bucket" / "file").open("wb", buffering=0) as file:
                file.write(bodies["file"])
                os.fsync(file.fileno())  # closed alone, it might be on its way to the disk that dies
            recorder.kill()
            recorder.wait()
            check(box, bodies)
            while "failed" not in states(box):  # placement may take the others for a while; who meets it tries again
                with contextlib.suppress(ClientError):
                    fill(box, range(100, 101))
            bodies |= fill(box, range(12, 15))
            box.s3().delete_object(Bucket="bucket", Key="k0")
            del bodies["k0"]
            assert (box.mount / "bucket" / "file").read_bytes() == bodies["file"]
            assert ask(f"{box.admin}/ready") == (200, "ok\n"), "the others answer"
            assert states(box) == ["online", "online", "failed"]
            box.stop()
            for end in (box.stop, box.kill):
                box.start()
                check(box, bodies)
                assert states(box) == ["online", "online", "missing"]
                assert "a device is missing" in box.log()
                end()
                box.devices[2] = str(tmp_path / "devices" / "gone")
        finally:
            box.clean()


def refusal(box: Box) -> str:
    """What a daemon says that does not start."""
    box.launch()
    assert box.process is not None
    code, box.process = box.process.wait(60), None
    assert code == 1
    said = box.log().splitlines()[-1]
    assert said.startswith("tierce: ")
    return said


def test_what_is_not_the_pools_device_is_refused_and_nothing_lost(tmp_path: Path) -> None:
    devices = sparse(tmp_path / "devices", ["ssd0", "hdd0", "hdd1"], SIZE)
    with running(tmp_path / "box", devices, mount=False, copies=2) as box:
        box.s3().create_bucket(Bucket="bucket")
        bodies = fill(box, range(6))
        box.kill()
        shrunk = tmp_path / "shrunk"
        shutil.copy(devices[2], shrunk)
        os.truncate(shrunk, SIZE - 64 * MIB)
        [blank, other] = sparse(tmp_path / "others", ["blank", "other"], SIZE)
        made = Box(tmp_path / "other", [other], mount=False)
        made.make_pool()
        for third, word in ((str(shrunk), "shrank"), (other, "different pools"), (blank, "no readable Tierce")):
            box.devices[2] = third
            said = refusal(box)
            assert word in said
            assert third in said
        box.devices[2] = devices[2]
        box.start()
        check(box, bodies)
        assert states(box) == ["online"] * 3
