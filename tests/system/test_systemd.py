"""The unit under a real systemd: ready when it says so, mounted for everybody, back after a crash and after a hang,
clean after a stop.

systemd runs as process 1 of namespaces of its own (`stage_systemd.sh`), so this works beside whatever runs the machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.mountpoints import READ_AHEAD_KIB
from fusefs import advising
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
        self.until(self._started, 120)

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
        done = subprocess.run([*enter, *words], input=given, capture_output=True, check=False, timeout=120)
        if check and done.returncode:
            pytest.fail(f"{words}: {done.stdout.decode()}{done.stderr.decode()}\n{self.said()}")
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
            assert time.monotonic() < deadline, self.log.read_text() + self.said()
            time.sleep(0.1)

    def said(self) -> str:
        """By the services."""
        return self.inside("cat", "/var/lib/service.log", check=False).stdout.decode()[-4000:]

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
    deadline = time.monotonic() + 60
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
    machine.until(machine.back(1), 120)
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
    machine.until(machine.back(1), 120)
    assert machine.shows("MainPID") != pid
    machine.as_user("tee", f"{POINT}/bucket/new", given=b"after a hang")
    assert client.get_object(Bucket="bucket", Key="new")["Body"].read() == b"after a hang"

    let_others_in(machine)
    machine.inside("systemctl", "restart", "tierce")
    assert machine.as_user("cat", f"{POINT}/bucket/new") == b"after a hang"
    random_reads_are_fetched(machine, client)
    machine.inside("systemctl", "stop", "tierce")
    assert (machine.shows("ActiveState"), machine.shows("Result")) == ("inactive", "success")
    assert machine.shows("NFileDescriptorStore") == "0"
    assert not machine.mounted()
    assert machine.inside("test", "-e", advising.SOCKET, check=False).returncode == 1
    machine.until(lambda: not advisers(machine), 60)
    client.close()


def let_others_in(machine: Machine) -> None:
    """From the next start."""
    drop_in = b"[Service]\nEnvironment=TIERCE_MOUNT_ALLOW_OTHER=true\n"
    machine.inside("tee", "/run/units/tierce.service.d/others.conf", given=drop_in)
    machine.inside("systemctl", "daemon-reload")


def advisers(machine: Machine) -> list[bytes]:
    """Processes of tierce-advise@.service."""
    groups = "/sys/fs/cgroup/system.slice/*/tierce-advise@*/cgroup.procs"
    return machine.inside("sh", "-c", f"cat {groups}", check=False).stdout.split()


def random_reads_are_fetched(machine: Machine, client: Any) -> None:
    """For any user that reads, by a process that has the one right for it; and the kernel reads ahead far enough."""
    client.put_object(Bucket="bucket", Key="large", Body=os.urandom(16 << 20))
    machine.inside("chmod", "0644", f"{POINT}/bucket/large")
    read = f"""
import os, random
file = os.open("{POINT}/bucket/large", os.O_RDONLY)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
for _ in range(2000):
    os.pread(file, 4096, random.randrange(4096) * 4096)
os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
"""
    program = ["env", "LD_LIBRARY_PATH=/opt/python/lib", "/opt/tierce/bin/python", "-I", "-S", "-c", read]
    become = ["setpriv", f"--reuid={USER + 1}", f"--regid={USER + 1}", "--clear-groups"]

    def fetched() -> bool:
        machine.inside(*become, *program)
        counted = urllib.request.urlopen(f"http://127.0.0.1:{machine.admin}/metrics").read().decode()
        found = re.search(r'^tierce_mount_bytes_total\{operation="prefetch"\} (\S+)', counted, re.MULTILINE)
        return found is not None and float(found[1]) >= 8 << 20

    machine.until(fetched, 120)
    (instance,) = machine.inside(
        "sh", "-c", "cat /sys/fs/cgroup/system.slice/*/tierce-advise@*/cgroup.procs"
    ).stdout.split()
    status = machine.inside("cat", f"/proc/{instance.decode()}/status").stdout.decode()
    assert f"Uid:\t{USER}\t{USER}" in status
    assert f"CapEff:\t{1 << 2:016x}" in status  # CAP_DAC_READ_SEARCH
    device = machine.inside("mountpoint", "--fs-devno", POINT).stdout.decode().strip()
    ahead = machine.inside("cat", f"/sys/class/bdi/{device}/read_ahead_kb").stdout
    assert int(ahead) == READ_AHEAD_KIB


def tierce(machine: Machine, *words: str) -> bytes:
    """The command line, as the service's user."""
    variables = ["PYTHONPATH=/opt/house", "LD_LIBRARY_PATH=/opt/python/lib", "TIERCE_STATE_DIR=/var/lib/tierce"]
    return machine.as_user("env", *variables, "/opt/tierce/bin/tierce", *words)
