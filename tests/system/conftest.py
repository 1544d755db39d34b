"""Boxes for the system tests.  A machine that cannot run one fails, unless it was told by name to leave it out."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.limits import GIB
from tests.fusefs.compiled import build
from tests.system.box import Box, running
from tests.system.clients import Clients, install


def left_out(variable: str, what: str) -> None:
    """Fails, or skips by the machine's owner's word."""
    if os.environ.get(variable) == "1":
        pytest.skip(f"not tested, as {variable}=1 says: {what}")
    pytest.fail(f"{what}; {variable}=1 leaves this out")


@pytest.fixture(scope="session")
def fuse() -> None:
    """A machine that can mount."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        left_out("TIERCE_ALLOW_NO_FUSE", "/dev/fuse cannot be opened")


@pytest.fixture(scope="session")
def loops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Three loop devices: block devices whose content is thrown away."""
    directory = tmp_path_factory.mktemp("loops")
    devices: list[str] = []
    try:
        for name, size in (("ssd", 2 * GIB), ("hdd0", 4 * GIB), ("hdd1", 4 * GIB)):
            with (directory / name).open("xb") as file:
                file.truncate(size)
            made = subprocess.run(
                ["losetup", "--find", "--show", directory / name], capture_output=True, text=True, check=False
            )
            if made.returncode:
                left_out("TIERCE_ALLOW_NO_LOOP", f"no loop device: {made.stderr.strip()}")
            devices.append(made.stdout.strip())
        yield devices
    finally:
        for device in devices:
            subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture(scope="module")
def box(fuse: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A running box on sparse files, shared by a module's tests: each uses buckets of its own."""
    build()
    with running(tmp_path_factory.mktemp("box")) as started:
        yield started


@pytest.fixture(scope="session")
def installed_clients() -> None:
    """Foreign clients that are not among this environment's own packages."""
    install()


@pytest.fixture
def clients(installed_clients: None, box: Box, tmp_path: Path) -> Clients:
    """Every foreign client, with a home of its own."""
    (tmp_path / "home").mkdir()
    return Clients(box, tmp_path / "home")


@pytest.fixture
def bucket(box: Box, request: pytest.FixtureRequest) -> str:
    """A bucket named after the test."""
    name: str = request.node.name.replace("_", "-").replace("[", "-").replace("]", "").lower()[:63].strip("-")
    client = box.s3()
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Files of every interesting size, in directories, with names that are not ASCII."""
    root = tmp_path / "tree"
    written = time.time_ns() - 3_600_123_456_789  # an hour ago: whoever compares times with S3's sees an older file
    for number, size in enumerate((0, 1, 2048, 2049, 4096, 131_072, 131_073, 3_000_000, 20_000_000)):
        path = root / f"dir {number % 3}" / "ärger" / f"file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
        os.utime(path, ns=(written, written))
    return root
