"""scripts/run as somebody who is nobody: no rights but those of the group that may open /dev/fuse; fusermount3 mounts.

The daemon is started as user `nobody` in a mount namespace of its own, where /dev/fuse is a node with mode 0660 of a
group that this process is given, as on a machine with a group `fuse`; and where an interpreter or a checkout that lies
below a directory closed to others (root's home) is shown at its own place.  Nothing of the machine itself is changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.box import HOUSE, clean_environment, free_port, s3_client
from tests.system.conftest import left_out

pytestmark = [pytest.mark.system, pytest.mark.slow]

FUSE_GROUP = 4242
STAGE = """
set -eu
mount --make-rprivate /
stash=$1; shift
mount -t tmpfs -o mode=711,dev stash "$stash"
mknod "$stash/fuse" c 10 229
chgrp "$FUSE_GROUP" "$stash/fuse"
chmod 660 "$stash/fuse"
mount --bind "$stash/fuse" /dev/fuse
number=0
for path in $SHOWN; do
    number=$((number + 1))
    mkdir "$stash/$number"
    mount --bind "$path" "$stash/$number"
done
for path in $CLOSED; do
    mount -t tmpfs -o mode=755 shown "$path"
done
number=0
for path in $SHOWN; do
    number=$((number + 1))
    mkdir -p "$path"
    mount --bind "$stash/$number" "$path"
done
exec "$@"
"""


def closed_parents(path: Path) -> list[Path]:
    """The outermost directory above it that others may not enter, if any."""
    return [parent for parent in reversed(path.parents) if not parent.stat().st_mode & stat.S_IXOTH][:1]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that belongs to nobody, where everybody can reach it."""
    directory = Path(tempfile.mkdtemp(prefix="tierce-nobody-", dir="/var/tmp"))
    os.chmod(directory, 0o755)
    yield directory
    shutil.rmtree(directory)


def test_a_box_of_an_ordinary_user(fuse: None, place: Path) -> None:
    if os.geteuid() != 0:
        left_out("TIERCE_ALLOW_NO_LOOP", "needs root, to become an ordinary user")
    user = pwd.getpwnam("nobody")
    become = [
        *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", f"--groups={FUSE_GROUP}"),
        *("--inh-caps=-all", "--reset-env"),
    ]
    state, stash = place / "var", place / "stash"
    stash.mkdir()
    state.mkdir(mode=0o700)
    venv = Path(sys.prefix)
    installed_before(state, venv)
    for path in (state, *state.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)
    shown = sorted({Path(sys.base_prefix).resolve(), venv.resolve(), HOUSE.resolve()})
    shown = [path for path in shown if not any(other in path.parents for other in shown)]
    closed = sorted({parent for path in shown for parent in closed_parents(path)})
    shown = [path for path in shown if closed_parents(path)]
    address = f"127.0.0.1:{free_port()}"
    variables = {
        "TIERCE_STATE_DIR": str(state),
        "TIERCE_S3_ADDR": address,
        "TIERCE_ADMIN_ADDR": f"127.0.0.1:{free_port()}",
        "TIERCE_MOUNT": str(state / "mnt"),
        "TIERCE_TEST_PYTHON": str(venv / "bin" / "python"),
        "PYTHONPATH": str(HOUSE),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": clean_environment()["PATH"],
    }
    command = [*become, "env", *(f"{name}={value}" for name, value in variables.items()), str(HOUSE / "scripts/run")]
    words = {"FUSE_GROUP": str(FUSE_GROUP), "SHOWN": " ".join(map(str, shown)), "CLOSED": " ".join(map(str, closed))}
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "bash", "-c", STAGE, "stage", str(stash), *command],
            env=clean_environment() | words,
            cwd="/",
            stdout=log,
            stderr=log,
        )
    inside = ["nsenter", f"--target={process.pid}", "--mount", *become]

    def said() -> str:
        return (place / "log").read_text()

    def on_the_mount(*arguments: str, given: bytes = b"") -> bytes:
        return subprocess.run([*inside, *arguments], input=given, capture_output=True, check=True).stdout

    try:
        deadline = time.monotonic() + 120
        while not (state / "box.json").exists():
            assert process.poll() is None, said()
            assert time.monotonic() < deadline, said()
            time.sleep(0.05)
        facts = json.loads((state / "box.json").read_text())
        status = Path(f"/proc/{facts['pid']}/status").read_text()
        assert f"Uid:\t{user.pw_uid}\t{user.pw_uid}" in status
        assert "CapEff:\t0000000000000000" in status
        for name in ("box.json", "master.key", "control.sock"):
            assert (state / name).stat().st_uid == user.pw_uid
            assert not (state / name).stat().st_mode & 0o077
        client = s3_client(facts)
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="d/by-s3", Body=b"s3" * 100_000)
        mount = Path(facts["mount"])
        assert on_the_mount("cat", str(mount / "bucket/d/by-s3")) == b"s3" * 100_000
        on_the_mount("dd", "status=none", f"of={mount / 'bucket/d/by-mount'}", given=b"mount")
        assert client.get_object(Bucket="bucket", Key="d/by-mount")["Body"].read() == b"mount"
        on_the_mount("mv", str(mount / "bucket/d"), str(mount / "bucket/e"))
        assert [item["Key"] for item in client.list_objects_v2(Bucket="bucket")["Contents"]] == [
            "e/by-mount",
            "e/by-s3",
        ]
        mounted = on_the_mount("cat", "/proc/self/mountinfo").decode()
        assert f"{mount} " in mounted
        assert f"user_id={user.pw_uid}" in next(line for line in mounted.splitlines() if f" {mount} " in line)
        client.close()
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert code == 0, said()
    assert "Traceback" not in said()


def installed_before(state: Path, venv: Path) -> None:
    """The environment that an earlier start of this user has made in his state directory (the checkout is not his to
    write): the same packages, without minutes of installing."""
    own = state / "venv"
    own.mkdir()
    for name in ("bin", "lib", "include", "lib64"):
        if (venv / name).exists():
            (own / name).symlink_to(venv / name)
    shutil.copy(venv / "pyvenv.cfg", own)
    version = subprocess.run([venv / "bin/python", "--version"], capture_output=True, check=True).stdout
    decisive_files = (
        "pyproject.toml",
        "constraints.txt",
        "setup.py",
        *sorted(str(path.relative_to(HOUSE)) for path in (HOUSE / "fusefs").glob("*.[ch]")),
    )
    files = b"".join((HOUSE / name).read_bytes() for name in decisive_files)
    decisive = version + f"{HOUSE}\n".encode() + files
    (own / ".tierce-installed").write_text(f"{hashlib.sha256(decisive).hexdigest()}  -\n")
