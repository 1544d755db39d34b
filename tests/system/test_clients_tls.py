"""Clients through TLS, where most of them stop signing bodies: what they send then is a checksum in a trailer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.limits import MIB
from tests.system.box import Box, digest, running
from tests.system.clients import Clients, files

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture(scope="module")
def box(fuse: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """A box with a certificate of its own."""
    with running(tmp_path_factory.mktemp("box"), tls=True) as started:
        yield started


def test_boto3(box: Box, bucket: str, tmp_path: Path) -> None:
    client, body = box.s3(), os.urandom(11 * MIB)
    (tmp_path / "body").write_bytes(body)
    client.upload_file(str(tmp_path / "body"), bucket, "parts")
    with (tmp_path / "body").open("rb") as stream:
        assert "ChecksumCRC32" in client.put_object(Bucket=bucket, Key="stream", Body=stream)
    client.download_file(bucket, "parts", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == body
    assert [digest((box.mount / bucket / name).read_bytes()) for name in ("parts", "stream")] == [digest(body)] * 2


def test_awscli(box: Box, clients: Clients, bucket: str, tree: Path) -> None:
    clients.aws("s3", "sync", "--quiet", tree, f"s3://{bucket}/tree")
    assert files(box.mount / bucket / "tree") == files(tree)


@pytest.mark.parametrize("provider", ["AWS", "Other", "Minio", "Ceph"])
def test_rclone(box: Box, clients: Clients, bucket: str, tree: Path, provider: str) -> None:
    """Each provider's own set of workarounds."""
    flags = ("--s3-provider", provider, "--s3-force-path-style")
    clients.rclone("sync", *flags, tree, f"box:{bucket}/tree")
    clients.rclone("check", "--download", *flags, tree, f"box:{bucket}/tree")
    assert files(box.mount / bucket / "tree") == files(tree)


def test_s5cmd(box: Box, clients: Clients, bucket: str, tree: Path) -> None:
    clients.s5cmd("cp", f"{tree}/*", f"s3://{bucket}/tree/")
    assert files(box.mount / bucket / "tree") == files(tree)


def test_s5cmd_with_more_workers_than_the_box_has_buffers(
    box: Box, clients: Clients, bucket: str, tmp_path: Path
) -> None:
    """Through one connection of HTTP/2 they would wait for each other for ever."""
    for number in range(300):
        (tmp_path / "many" / str(number)).parent.mkdir(exist_ok=True)
        (tmp_path / "many" / str(number)).write_bytes(os.urandom(200_000))
    clients.s5cmd("--numworkers", "128", "cp", f"{tmp_path}/many/*", f"s3://{bucket}/many/")
    assert files(box.mount / bucket / "many") == files(tmp_path / "many")


def test_javascript(box: Box, clients: Clients, tree: Path) -> None:
    clients.javascript("javascript", "javascript", tree)
    assert files(box.mount / "javascript" / "tree") == files(tree)


def test_restic(clients: Clients, bucket: str, tree: Path, tmp_path: Path) -> None:
    clients.restic(bucket, "init")
    clients.restic(bucket, "backup", "--quiet", tree)
    clients.restic(bucket, "check", "--read-data")
    clients.restic(bucket, "restore", "latest", "--target", tmp_path / "back")
    assert files(tmp_path / "back" / tree.relative_to("/")) == files(tree)
