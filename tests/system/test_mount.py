"""The mount as programs use it, and the same bytes through the other door."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.system.box import Box, digest
from tests.system.clients import files

pytestmark = [pytest.mark.system, pytest.mark.slow]


def run(*words: str | Path, where: Path | None = None) -> str:
    """A program's output; fails with it if the program does."""
    environment = os.environ | {
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "GIT_AUTHOR_NAME": "T",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "T",
        "GIT_COMMITTER_EMAIL": "t@example.org",
    }
    done = subprocess.run(words, cwd=where, env=environment, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def through_s3(box: Box, bucket: str, prefix: str = "") -> dict[str, str]:
    """Digest of every object below a prefix, by the rest of its key."""
    client = box.s3()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", []) if not item["Key"].endswith("/")]

    def fetch(key: str) -> str:
        return digest(client.get_object(Bucket=bucket, Key=key)["Body"].read())

    with ThreadPoolExecutor(8) as threads:
        digests = list(threads.map(fetch, keys))
    return {key.removeprefix(prefix): value for key, value in zip(keys, digests, strict=True)}


def test_cp_is_seen_through_s3(box: Box, bucket: str, tree: Path) -> None:
    run("cp", "-a", tree, box.mount / bucket / "tree")
    assert through_s3(box, bucket, "tree/") == files(tree)
    run("diff", "-r", tree, box.mount / bucket / "tree")


def test_rsync_both_ways(box: Box, bucket: str, tree: Path, tmp_path: Path) -> None:
    there = box.mount / bucket
    run("rsync", "-a", "--no-owner", "--no-group", f"{tree}/", f"{there}/tree/")
    assert through_s3(box, bucket, "tree/") == files(tree)
    left = run("rsync", "-ai", "--no-owner", "--no-group", f"{tree}/", f"{there}/tree/")
    assert left == "", "times and sizes are kept: nothing is left to do"
    run("rsync", "-a", "--checksum", f"{there}/tree/", f"{tmp_path}/back/")
    assert files(tmp_path / "back") == files(tree)


def test_tar_packs_and_unpacks(box: Box, bucket: str, tree: Path, tmp_path: Path) -> None:
    run("tar", "cf", box.mount / bucket / "tree.tar", "-C", tree.parent, tree.name)
    run("tar", "xf", box.mount / bucket / "tree.tar", "-C", box.mount / bucket)
    assert files(box.mount / bucket / "tree") == files(tree)
    with box.s3().get_object(Bucket=bucket, Key="tree.tar")["Body"] as body:
        (tmp_path / "tree.tar").write_bytes(body.read())
    run("tar", "df", tmp_path / "tree.tar", "-C", tree.parent)


def test_git_works_in_the_mount(box: Box, bucket: str, tree: Path) -> None:
    work = box.mount / bucket / "work"
    work.mkdir()
    run("git", "init", "-q", "-b", "main", where=work)
    run("cp", "-r", tree, work / "tree")
    run("git", "add", ".", where=work)
    run("git", "commit", "-q", "-m", "first", where=work)
    next(path for path in (work / "tree").rglob("*") if path.is_file()).write_text("changed")
    run("git", "commit", "-q", "-a", "-m", "second", where=work)
    run("git", "clone", "-q", work, box.mount / bucket / "clone")
    run("git", "gc", "-q", "--prune=now", where=box.mount / bucket / "clone")
    run("git", "fsck", "--strict", where=box.mount / bucket / "clone")
    assert files(work / "tree") == files(box.mount / bucket / "clone" / "tree")
    assert run("git", "status", "--porcelain", where=work) == ""


def test_s3_writes_are_seen_at_once(box: Box, bucket: str) -> None:
    client, path = box.s3(), box.mount / bucket / "d" / "k"
    assert not path.exists()
    for body in (b"first", b"a longer second", b"3rd"):
        client.put_object(Bucket=bucket, Key="d/k", Body=body)
        assert path.read_bytes() == body, "no cache of the kernel survives a PUT"
        assert path.stat().st_size == len(body)
    client.delete_object(Bucket=bucket, Key="d/k")
    assert not path.exists()
    assert os.listdir(box.mount / bucket) == [], "an implied directory goes with its last entry"


def test_closed_files_are_seen_at_once(box: Box, bucket: str) -> None:
    client, path = box.s3(), box.mount / bucket / "k"
    for body in (b"first", os.urandom(200_000), b"3rd", b""):
        path.write_bytes(body)
        assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == body
    with path.open("ab") as file:
        file.write(b"appended")
    assert client.get_object(Bucket=bucket, Key="k")["Body"].read() == b"appended"
    path.rename(box.mount / bucket / "renamed")
    assert [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["renamed"]


def test_a_handle_keeps_what_it_opened(box: Box, bucket: str) -> None:
    client, path = box.s3(), box.mount / bucket / "k"
    old = os.urandom(300_000)
    client.put_object(Bucket=bucket, Key="k", Body=old)
    with path.open("rb") as file:
        first = file.read(10)
        client.put_object(Bucket=bucket, Key="k", Body=b"new")
        assert first + file.read() == old
    assert path.read_bytes() == b"new"


def test_holes_and_shared_copies_are_the_same_bytes_through_s3(box: Box, bucket: str) -> None:
    """By the programs that people use for them."""
    there, other = box.mount / bucket, box.mount / f"{bucket[:50]}-other"
    other.mkdir()
    data = bytearray(os.urandom(24 << 20))
    whole = digest(bytes(data))
    (there / "disk").write_bytes(data)
    run("sync", there / "disk")
    before = os.statvfs(there)
    run("cp", there / "disk", other / "copy")  # of files with holes it reads what is between them
    taken = before.f_bavail - os.statvfs(there).f_bavail
    assert taken * before.f_frsize < 1 << 20, "no byte of it is there twice"
    run("fallocate", "--punch-hole", "--offset", "1MiB", "--length", "8MiB", there / "disk")
    run("fallocate", "--zero-range", "--offset", "20000000", "--length", "12345", there / "disk")
    data[1 << 20 : 9 << 20] = bytes(8 << 20)
    data[20_000_000:20_012_345] = bytes(12_345)
    assert (there / "disk").stat().st_blocks * 512 < 17 << 20
    with box.s3().get_object(Bucket=other.name, Key="copy")["Body"] as body:
        assert digest(body.read()) == whole
    run("cp", there / "disk", other / "copy")
    for place, key in ((bucket, "disk"), (other.name, "copy")):
        with box.s3().get_object(Bucket=place, Key=key)["Body"] as body:
            assert digest(body.read()) == digest(bytes(data))
    run("fallocate", "--length", "30MiB", other / "copy")
    box.s3().delete_object(Bucket=bucket, Key="disk")
    assert digest((other / "copy").read_bytes()) == digest(bytes(data).ljust(30 << 20, b"\0"))
    run("cp", "--sparse=always", other / "copy", there / "sparse")
    assert (there / "sparse").stat().st_blocks <= (other / "copy").stat().st_blocks


def test_random_writes_and_truncation(box: Box, bucket: str) -> None:
    path, model = box.mount / bucket / "k", bytearray()
    with path.open("w+b") as file:
        for number in range(60):
            offset = (number * 7_919_111) % 9_000_000
            piece = os.urandom(1 + (number * 104_729) % 70_000)
            model.extend(bytes(max(0, offset - len(model))))
            model[offset : offset + len(piece)] = piece
            file.seek(offset)
            file.write(piece)
            if number % 20 == 19:
                length = len(model) - 500_000
                del model[length:]
                file.flush()
                file.truncate(length)
                os.fsync(file.fileno())
        file.flush()
        file.seek(0)
        assert digest(file.read()) == digest(bytes(model))
    assert digest(box.s3().get_object(Bucket=bucket, Key="k")["Body"].read()) == digest(bytes(model))


def test_the_mount_shows_its_space(box: Box, bucket: str) -> None:
    space = os.statvfs(box.mount / bucket)
    assert 0 < space.f_bavail <= space.f_blocks
    assert str(box.mount) in run("df", box.mount)


def test_an_ordinary_kernel_client_gets_errors_not_crashes(box: Box, bucket: str) -> None:
    there = box.mount / bucket
    with pytest.raises(FileNotFoundError):
        (there / "none").read_bytes()
    with pytest.raises(OSError, match="too long"):
        (there / ("x" * 256)).write_bytes(b"")
    (there / "d").mkdir()
    (there / "d" / "f").write_bytes(b"1")
    with pytest.raises(OSError, match="not empty"):
        (there / "d").rmdir()
    with pytest.raises(NotADirectoryError):
        (there / "d" / "f" / "g").read_bytes()
    with pytest.raises(OSError):
        (there / "d").rename(box.mount / bucket / "d" / "inside")
    assert (there / "d" / "f").read_bytes() == b"1"
