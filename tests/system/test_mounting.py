"""The mount in further places: one bucket or all, by `tierce mount`, by mount(8) and fstab; coming back after a kill;
going without loss."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import mounting, mountpoints
from appliance.control import Control
from appliance.errors import Code, StoreError
from tests.system.box import HOUSE, Box, clean_environment, is_mounted, running
from tests.system.conftest import left_out

pytestmark = [pytest.mark.system, pytest.mark.slow]

STAGE = """
set -eu
mount --make-rprivate /
stash=$1; shift
mount -t tmpfs -o mode=755 stash "$stash"
mkdir "$stash/own" "$stash/sbin"
mount --bind /usr/sbin "$stash/own"
for path in "$stash/own"/*; do ln -s "$path" "$stash/sbin/${path##*/}"; done
for name in mount umount; do
    {
        echo "#!/bin/sh"
        echo "export PYTHONPATH=$HOUSE TIERCE_STATE_DIR=$STATE"
        echo "code='import sys; from appliance.mounting import ${name}_helper as work; sys.exit(work())'"
        echo "exec $PYTHON -c \\"\\$code\\" \\"\\$@\\""
    } >"$stash/sbin/$name.fuse.tierce"
    chmod 755 "$stash/sbin/$name.fuse.tierce"
done
mount --bind "$stash/sbin" /usr/sbin
exec bash -c "$1"
"""


@pytest.fixture
def places(tmp_path: Path) -> Iterator[Path]:
    """A directory for mount points, which are gone at the end."""
    if os.geteuid() != 0:
        left_out("TIERCE_ALLOW_NO_LOOP", "needs root, to mount")
    directory = tmp_path / "places"
    for name in ("one", "all"):
        (directory / name).mkdir(parents=True)
    yield directory
    for place in directory.iterdir():
        while is_mounted(place):
            mountpoints.detach(place)


def answered(path: Path) -> int:
    """The errno of looking at it, at once; 0 for none."""
    started = time.monotonic()
    try:
        os.statvfs(path)
    except OSError as error:
        return error.errno or -1
    finally:
        assert time.monotonic() - started < 20, "nobody hangs"
    return 0


def test_one_bucket_and_all_in_further_places(box: Box, bucket: str, places: Path) -> None:
    (box.mount / bucket / "file").write_bytes(b"one")
    box.tierce("mount", bucket, str(places / "one"), "-o", "ro,noexec,_netdev,x-systemd.automount")
    box.tierce("mount", "tierce", str(places / "all"))
    box.tierce("mount", f"tierce#{bucket}", str(places / "one"))  # it is already: nothing is stacked
    assert [each.point for each in mountpoints.mounts()].count(str(places / "one")) == 1
    assert (places / "one" / "file").read_bytes() == b"one"
    (places / "all" / bucket / "file").write_bytes(b"two")
    assert (places / "one" / "file").read_bytes() == b"two"
    box.s3().put_object(Bucket=bucket, Key="file", Body=b"three")
    assert (places / "one" / "file").read_bytes() == b"three", "what S3 writes is seen in every place"
    with pytest.raises(OSError) as caught:
        (places / "one" / "new").touch()
    assert caught.value.errno == errno.EROFS
    listed = box.tierce("mount", "--list").stdout
    assert f"{places / 'one'}\t{bucket}\tyes" in listed
    assert "\nopen\t" in listed, "a small file is in the kernel's cache when it is opened: nobody reads"
    refused_whole = box.tierce("umount", check=False)
    assert refused_whole.returncode == 1
    assert str(places / "one") in refused_whole.stderr
    for place in ("one", "all"):
        box.tierce("umount", str(places / place))
        assert not is_mounted(places / place)


def test_what_cannot_be_mounted_says_why(box: Box, bucket: str, places: Path) -> None:
    for words, said in (
        ((bucket, str(places / "one"), "-o", "nodevv"), "did you mean nodev?"),
        ((bucket, str(places / "one"), "-o", "uid=7"), "set mount.uid"),
        ((bucket, str(places / "one"), "-o", "umask=8"), "umask=8"),
        (("phtoos", str(places / "one")), "no bucket phtoos"),
        ((bucket, str(places / "none")), "No such file or directory"),
        (("tierce", str(box.mount), "-o", "ro"), "mount.read_only"),
    ):
        done = box.tierce("mount", *words, check=False)
        assert done.returncode == 1, words
        assert said in done.stderr, (words, done.stderr)
        assert not is_mounted(places / "one")


def test_a_busy_place_is_not_taken_away(box: Box, bucket: str, places: Path) -> None:
    box.tierce("mount", bucket, str(places / "one"))
    with (places / "one" / "open").open("wb") as file:
        file.write(b"written")
        done = box.tierce("umount", str(places / "one"), check=False)
        assert (done.returncode, "busy" in done.stderr) == (1, True)
        assert is_mounted(places / "one")
        with (box.mount / bucket / "open").open("rb"):
            assert box.tierce("umount", check=False).returncode == 1
        box.tierce("umount", "--lazy", str(places / "one"))
        assert not is_mounted(places / "one")
        file.write(b" on")
    assert box.s3().get_object(Bucket=bucket, Key="open")["Body"].read() == b"written on"


def test_umount_says_so_when_it_can_ask_nobody(
    box: Box, bucket: str, places: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box.tierce("mount", bucket, str(places / "one"))
    (places / "one" / "file").write_bytes(b"written")
    assert not mounting.unmount(Control(places / "no.sock"), places / "one")
    assert "cannot be asked whether it is durable" in capsys.readouterr().err
    assert not is_mounted(places / "one")
    assert box.s3().get_object(Bucket=bucket, Key="file")["Body"].read() == b"written"
    with pytest.raises(StoreError) as caught:
        mounting.unmount(Control(places / "no.sock"), places / "one")
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_killed_daemon_comes_back_in_every_place(fuse: None, tmp_path: Path, places: Path) -> None:
    with running(tmp_path / "box", TIERCE_MOUNT_ALLOW_OTHER="yes") as box:
        box.s3().create_bucket(Bucket="photos")
        box.s3().create_bucket(Bucket="gone")
        (places / "two").mkdir()
        box.tierce("mount", "photos", str(places / "one"), "-o", "ro")
        box.tierce("mount", str(places / "all"))
        box.tierce("mount", "gone", str(places / "two"))
        file = os.open(places / "all" / "photos" / "file", os.O_WRONLY | os.O_CREAT)
        os.write(file, b"synced")
        os.fsync(file)
        box.kill()
        for point in (box.mount, places / "one", places / "all"):
            assert answered(point) == errno.ENOTCONN
        box.start()
        for work in (os.fsync, os.close):  # of the mount that died
            with pytest.raises(OSError) as caught:
                work(file)
            assert caught.value.errno == errno.ENOTCONN
        assert answered(box.mount) == 0
        assert (places / "one" / "file").read_bytes() == b"synced"
        with pytest.raises(OSError) as caught:
            (places / "one" / "new").touch()
        assert caught.value.errno == errno.EROFS, "read-only as before"
        (places / "all" / "photos" / "new").write_bytes(b"new")
        box.stop()  # it has further places: they and it wait for the next daemon, and nobody sees what lies below
        for place in (box.mount, places / "one", places / "all"):
            assert answered(place) == errno.ENOTCONN
        box.start()
        assert (places / "one" / "new").read_bytes() == b"new"
        box.s3().delete_bucket(Bucket="gone")
        box.stop()
        box.start()
        assert "could not be mounted again" in box.log()
        for name in ("one", "all"):
            box.tierce("umount", str(places / name))


def test_a_place_of_a_mount_that_only_shows_does_not_stay_so(fuse: None, tmp_path: Path, places: Path) -> None:
    with running(tmp_path / "box", TIERCE_MOUNT_READ_ONLY="yes") as box:
        box.s3().create_bucket(Bucket="photos")
        box.tierce("mount", "photos", str(places / "one"))
        with pytest.raises(OSError) as caught:
            (places / "one" / "new").touch()
        assert caught.value.errno == errno.EROFS
        box.stop()
        del box.settings["TIERCE_MOUNT_READ_ONLY"]
        box.start()
        for point in (box.mount / "photos", places / "one"):
            assert not os.statvfs(point).f_flag & os.ST_RDONLY
            (point / f"new{point.name}").touch()
        box.tierce("umount", str(places / "one"))


def test_a_place_comes_back_by_names_alone(places: Path, tmp_path: Path) -> None:
    """Who may write in a shown directory's parent may not have root show, or cover, another one after a restart."""
    top, secret = tmp_path / "top", tmp_path / "secret"
    for path in (top, secret):
        path.mkdir()
    (secret / "key").touch()
    subprocess.run(["mount", "-t", "tmpfs", "top", str(top)], check=True)
    try:
        (top / "mine").mkdir()
        mountpoints.bind(top, "mine", places / "one", mountpoints.MS_RDONLY)
        mountpoints.bind(top, "", places / "all", 0)
        found = [mountpoints.at(places / name) for name in ("one", "all")]
        shown = [each for each in found if each is not None]
        assert [(each.root, each.flags & mountpoints.MS_RDONLY) for each in shown] == [("/mine", 1), ("/", 0)]
        assert not mountpoints.revive(top, shown)
        assert [mountpoints.at(places / name) for name in ("one", "all")] == found
        (top / "mine").rename(top / "was")
        (top / "mine").symlink_to(secret)
        assert [place for place, _ in mountpoints.revive(top, shown)] == [str(places / "one")]
        assert not list((places / "one").iterdir())
        (places / "link").symlink_to(secret)
        with pytest.raises(OSError) as caught:
            mountpoints.bind(top, "was", places / "link", 0)
        assert caught.value.errno == errno.ENOTDIR
    finally:
        for path in (places / "one", places / "all", top):
            while mountpoints.at(path) is not None:
                mountpoints.detach(path)


def test_umount_loses_nothing(fuse: None, tmp_path: Path, places: Path) -> None:
    """What was closed is durable when umount(8)'s helper returns: the daemon is killed right then."""
    with running(tmp_path / "box") as box:
        box.s3().create_bucket(Bucket="photos")
        box.tierce("mount", "photos", str(places / "one"))
        for number in range(200):
            (places / "one" / f"{number:03d}").write_bytes(b"%d" % number * 700)
        box.tierce("umount", str(places / "one"))
        box.kill()
        box.start()
        for number in range(200):
            assert (box.mount / "photos" / f"{number:03d}").read_bytes() == b"%d" % number * 700
        (box.mount / "photos" / "last").write_bytes(b"last")
        box.tierce("umount")
        box.kill()
        box.start()
        assert (box.mount / "photos" / "last").read_bytes() == b"last"


def test_sigterm_during_heavy_writing(fuse: None, tmp_path: Path) -> None:
    """What was closed before the daemon stopped is there, whole; what fails fails with an error; nobody hangs."""
    closed: dict[str, bytes] = {}
    failures: list[int] = []

    with running(tmp_path / "box") as box:
        box.s3().create_bucket(Bucket="photos")
        stop = threading.Event()

        def write(number: int) -> None:
            turn = 0
            while not stop.is_set():
                name, body = f"{number}-{turn}", os.urandom(1000) * (1 + 97 * (turn % 11))
                try:
                    (box.mount / "photos" / name).write_bytes(body)
                except OSError as error:
                    failures.append(error.errno or -1)
                    return
                closed[name] = body
                turn += 1

        writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
        for writer in writers:
            writer.start()
        while len(closed) < 100 and not failures:
            time.sleep(0.01)
        assert box.process is not None
        box.process.send_signal(signal.SIGTERM)
        assert box.wait() == 0
        stop.set()
        for writer in writers:
            writer.join(60)
            assert not writer.is_alive()
        assert set(failures) <= {errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT, errno.EIO}
        assert len(closed) >= 100
        box.start()
        there = {path.name for path in (box.mount / "photos").iterdir()}
        lost = [name for name in closed if name not in there]
        assert lost == []
        for name, body in closed.items():
            assert (box.mount / "photos" / name).read_bytes() == body


def test_mount_and_fstab(box: Box, bucket: str, places: Path, tmp_path: Path) -> None:
    """mount(8), mount -a and umount(8) with the helpers where they look for them, in a mount namespace of their own."""
    stash = tmp_path / "stash"
    stash.mkdir()
    (box.mount / bucket / "file").write_bytes(b"by fstab")
    fstab = tmp_path / "fstab"
    fstab.write_text(
        f"tierce {places / 'all'} fuse.tierce defaults,_netdev 0 0\n"
        f"tierce#{bucket} {places / 'one'} fuse.tierce ro,nofail,x-systemd.requires=tierce.service 0 0\n"
    )
    script = f"""
        set -eu
        mount -T {fstab} -a
        mount -T {fstab} -a
        cat {places}/all/{bucket}/file {places}/one/file
        grep -c ' {places}/one ' /proc/self/mountinfo
        touch {places}/one/new 2>&1 | grep -o 'Read-only file system' || true
        umount {places}/one
        grep -c ' {places}/one ' /proc/self/mountinfo || true
        mount -t fuse.tierce {bucket} {places}/one -o noexec
        grep ' {places}/one ' /proc/self/mountinfo | grep -o noexec
        exec 9>{places}/one/open
        umount {places}/one 2>&1 || echo "umount $?"
        exec 9>&-
        umount {places}/one
        mount -t fuse.tierce {bucket} {places}/one -o nodevv 2>&1 || echo "mount $?"
        mount -t fuse.tierce nosuch {places}/one 2>&1 || echo "mount $?"
        umount -f {places}/all  # not what the kernel makes of it, which would end the mount in every place
        cat {box.mount}/{bucket}/file
        ! grep ' {places}/' /proc/self/mountinfo
    """
    words = {"HOUSE": str(HOUSE), "STATE": str(box.state), "PYTHON": sys.executable}
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", STAGE, "stage", str(stash), script],
        env=clean_environment() | words,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.replace("by fstabby fstab", "") for line in done.stdout.splitlines()]
    said = "\n".join(lines)
    for expected in (
        "1",
        "Read-only file system",
        "0",
        "noexec",
        "umount 32",
        "mean nodev?",
        "no bucket nosuch",
        "mount 32",
    ):
        assert expected in said, (expected, done.stdout, done.stderr)
    assert "by fstabby fstab" in done.stdout
