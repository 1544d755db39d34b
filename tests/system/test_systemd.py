"""The unit under a real systemd: ready when it says so, mounted for everybody, back after a crash and after a hang,
clean after a stop.

systemd runs as process 1 of namespaces of its own (`stage_systemd.sh`), so this works beside whatever runs the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.system.box import HOUSE, clean_environment, free_port, s3_client
from tests.system.conftest import left_out

pytestmark = [pytest.mark.system, pytest.mark.slow]

SYSTEMD = Path("/lib/systemd/systemd")
STAGE = Path(__file__).with_name("stage_systemd.sh")
USER = 4243
POINT = "/srv/tierce"
PLACE = "/srv/place"  # where it is bound to, too


def cgroups() -> Path | None:
    """This process's own group in the unified hierarchy, if there is one."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            own = next(row for row in Path("/proc/self/cgroup").read_text().splitlines() if row.startswith("0::"))
            return Path(fields[4]) / own.removeprefix("0::/")
    return None


class Machine:
    """systemd and what it runs."""

    def __init__(self, stash: Path, group: Path) -> None:
        self.port = free_port()
        self.admin = free_port()
        variables = {
            "STASH": str(stash),
            "HOUSE": str(HOUSE),
            "VENV": sys.prefix,
            "PREFIX": str(Path(sys.base_prefix).resolve()),
            "PORT": str(self.port),
            "ADMIN": str(self.admin),
            "GROUP": str(group),
        }
        spaces = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--cgroup", "--uts", "--ipc"]
        self.log = stash.with_suffix(".log")
        self.init = 0
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", 'echo $$ >"$GROUP/cgroup.procs"; exec "$@"', "in", "unshare", *spaces, "bash", STAGE],
                env=clean_environment() | variables,
                cwd="/",
                stdout=log,
                stderr=log,
            )

    def wait_for_start(self) -> None:
        """Until systemd answers."""
        self.until(self._started, 60)

    def _started(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if not children or Path(f"/proc/{children[0]}/comm").read_text().strip() != "systemd":
            return False
        self.init = int(children[0])
        return self.inside("test", "-S", "/run/systemd/private", check=False).returncode == 0

    def inside(self, *words: str, check: bool = True, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """A command on that machine, as root."""
        enter = ["nsenter", f"--target={self.init}", "--mount", "--pid", "--cgroup"]
        done = subprocess.run([*enter, *words], input=given, capture_output=True, check=False, timeout=60)
        if check and done.returncode:
            said = self.inside("cat", "/var/lib/service.log", check=False).stdout.decode()
            pytest.fail(f"{words}: {done.stdout.decode()}{done.stderr.decode()}\n{said[-4000:]}")
        return done

    def as_user(self, *words: str, given: bytes = b"") -> bytes:
        """A command of the service's user, who alone may enter the mount."""
        become = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        return self.inside(*become, *words, given=given).stdout

    def shows(self, name: str) -> str:
        """A property of the unit."""
        return self.inside("systemctl", "show", "--value", f"--property={name}", "tierce").stdout.decode().strip()

    def mounted(self) -> bool:
        """For everybody on that machine."""
        return f" {POINT} " in self.inside("cat", "/proc/1/mountinfo").stdout.decode()

    def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Polls."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def back(self, restarts: int) -> Callable[[], bool]:
        """Whether the service runs again after so many restarts."""
        return lambda: self.shows("NRestarts") == str(restarts) and self.shows("ActiveState") == "active"

    def end(self) -> None:
        """Its first process takes all others along."""
        with suppress(ProcessLookupError):
            if self.init:
                os.kill(self.init, 9)
        self.process.kill()
        self.process.wait()


@pytest.fixture
def machine(fuse: None) -> Iterator[Machine]:
    if os.geteuid() != 0:
        left_out("TIERCE_ALLOW_NO_LOOP", "needs root, to make namespaces")
    group = cgroups()
    if group is None or not SYSTEMD.exists():
        left_out("TIERCE_ALLOW_NO_SYSTEMD", "systemd or the unified cgroup hierarchy is missing")
    assert group is not None
    own = group / f"tierce-test-{os.getpid()}"
    own.mkdir()
    with tempfile.TemporaryDirectory(prefix="tierce-", dir="/var/tmp") as directory:
        stash = Path(directory) / "stash"
        stash.mkdir()
        started = Machine(stash, own)
        try:
            started.wait_for_start()
            yield started
        finally:
            started.end()
            remove(own)


def remove(group: Path) -> None:
    """The group and what systemd made below it, as soon as their processes are gone."""
    deadline = time.monotonic() + 20
    while group.exists():
        assert time.monotonic() < deadline, "processes remain"
        for path in (*sorted(group.rglob("*"), reverse=True), group):
            if path.is_dir():
                with suppress(OSError):  # busy for another moment
                    path.rmdir()


def test_the_unit_under_systemd(machine: Machine) -> None:
    machine.inside("systemctl", "start", "tierce")
    assert machine.shows("ActiveState") == "active"  # Type=notify: start returns when the daemon is ready
    assert machine.shows("StatusText") == f"serving http://127.0.0.1:{machine.port}"
    assert machine.shows("NFileDescriptorStore") == "2"
    assert machine.mounted()
    made = json.loads(tierce(machine, "key", "create", "--name", "test", "--json"))
    facts: dict[str, Any] = made | {"endpoint": f"http://127.0.0.1:{machine.port}"}
    client = s3_client(facts)
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="k", Body=b"kept" * 1000)
    assert machine.as_user("cat", f"{POINT}/bucket/k") == b"kept" * 1000
    status = machine.inside("cat", f"/proc/{machine.shows('MainPID')}/status").stdout.decode()
    assert f"Uid:\t{USER}\t{USER}" in status
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status

    machine.inside("mkdir", PLACE)
    machine.inside("mount", "--bind", "-o", "ro,nosuid,nodev", POINT, PLACE)
    machine.inside("systemctl", "kill", "--signal=KILL", "tierce")
    machine.until(machine.back(1), 30)
    for place in (POINT, PLACE):
        assert machine.as_user("cat", f"{place}/bucket/k") == b"kept" * 1000
    said = machine.inside("sh", "-c", f"grep ' {PLACE} ' /proc/1/mountinfo").stdout.decode()
    assert said.count("\n") == 1
    assert " ro,nosuid,nodev," in said
    machine.inside("systemctl", "restart", "tierce")
    assert machine.as_user("cat", f"{PLACE}/bucket/k") == b"kept" * 1000
    machine.inside("umount", PLACE)
    machine.inside("systemctl", "reset-failed", "tierce")

    pid = machine.shows("MainPID")
    machine.inside("kill", "-STOP", pid)  # a hang: the watchdog is fed no more
    machine.until(machine.back(1), 40)
    assert machine.shows("MainPID") != pid
    machine.as_user("tee", f"{POINT}/bucket/new", given=b"after a hang")
    assert client.get_object(Bucket="bucket", Key="new")["Body"].read() == b"after a hang"

    machine.inside("systemctl", "restart", "tierce")
    assert machine.as_user("cat", f"{POINT}/bucket/new") == b"after a hang"
    machine.inside("systemctl", "stop", "tierce")
    assert (machine.shows("ActiveState"), machine.shows("Result")) == ("inactive", "success")
    assert machine.shows("NFileDescriptorStore") == "0"
    assert not machine.mounted()
    client.close()


def tierce(machine: Machine, *words: str) -> bytes:
    """The command line, as the service's user."""
    variables = ["PYTHONPATH=/opt/house", "LD_LIBRARY_PATH=/opt/python/lib", "TIERCE_STATE_DIR=/var/lib/tierce"]
    return machine.as_user("env", *variables, "/opt/tierce/bin/tierce", *words)
