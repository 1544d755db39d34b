"""A real daemon under test: a process of its own, on sparse files or given devices, all of it in one directory."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
import pytest
from botocore.config import Config

from appliance.limits import GIB

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BIN: Final = Path(sys.executable).parent
HOUSE: Final = Path(__file__).parents[2]
START_TIMEOUT: Final = 120.0  # seconds; of whoever hangs: a busy machine is slow
STOP_TIMEOUT: Final = 120.0
_turns: Final = itertools.count(os.getpid())


def digest(data: bytes) -> str:
    """What two copies of the same bytes have in common."""
    return hashlib.sha256(data).hexdigest()


def clean_environment() -> dict[str, str]:
    """The environment without what would configure a daemon or a client."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TIERCE_", "AWS_", "RCLONE_"))}
    return kept | {"PATH": f"{BIN}:{kept.get('PATH', '')}"}


def free_port() -> int:
    """A port that nobody listens on now, of those that Linux gives to no connection (ip(7), ip_local_port_range): none
    takes it before its daemon does, or while that starts again."""
    while True:
        port = 10_000 + 7 * next(_turns) % 22_000
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def is_mounted(point: Path) -> bool:
    """Whether something is mounted there; never asks the mount itself."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
        return any(line.split()[4] == str(point) for line in lines)


def make_certificate(certificate: Path, key: Path) -> None:
    """A certificate for this machine that only a client who was told trusts."""
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    made: list[str | Path] = ["openssl", "req", "-x509", *kind, *subject, "-keyout", key, "-out", certificate]
    subprocess.run(made, check=True, capture_output=True)


def s3_client(facts: dict[str, Any], certificate: Path | None = None) -> S3Client:
    """A boto3 client of the daemon whose box.json says `facts`; it neither retries nor waits for ever."""
    config = Config(
        signature_version="s3v4",  # boto3 presigns by version 2 unless told
        retries={"total_max_attempts": 1},
        connect_timeout=60,
        read_timeout=120,
        s3={"addressing_style": "path"},
        max_pool_connections=20,
    )
    return boto3.client(
        "s3",
        endpoint_url=facts["endpoint"],
        aws_access_key_id=facts["access_key"],
        aws_secret_access_key=facts["secret_key"],
        region_name="us-east-1",
        config=config,
        verify=str(certificate) if certificate else None,
    )


class Box:
    """One state directory and, between `start` and `stop` or `kill`, its daemon."""

    def __init__(self, state: Path, devices: Sequence[str] = (), *, mount: bool = True, tls: bool = False) -> None:
        self.state = state
        self.devices = list(devices)
        self.mounted = mount
        self.mount = state / "mnt"
        self.certificate = state / "certificate.pem" if tls else None
        self.admin = f"127.0.0.1:{free_port()}"
        self.process: subprocess.Popen[bytes] | None = None
        self.facts: dict[str, Any] = {}
        self._clients: list[S3Client] = []
        self.settings: dict[str, str] = {}  # further TIERCE_ variables

    # ------------------------------------------------------------------ life

    def make_pool(self, *, copies: int = 1) -> None:
        """One SSD and two HDDs, as sparse files unless devices were given."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.devices:
            for name, size in (("ssd0", 2 * GIB), ("hdd0", 4 * GIB), ("hdd1", 4 * GIB)):
                with (self.state / name).open("xb") as file:
                    file.truncate(size)
                self.devices.append(str(self.state / name))
        ssd, *hdds = self.devices
        arguments = ["--ssd", ssd, *(word for hdd in hdds for word in ("--hdd", hdd))]
        if self.certificate:
            make_certificate(self.certificate, self.state / "key.pem")
        self.tierce("pool", "create", "--copies", str(copies), *arguments)

    def environment(self) -> dict[str, str]:
        """What configures this daemon."""
        tls = {"TIERCE_S3_TLS_CERT": str(self.certificate), "TIERCE_S3_TLS_KEY": str(self.state / "key.pem")}
        return clean_environment() | {
            **(tls if self.certificate else {}),
            "TIERCE_S3_ADDR": "127.0.0.1:0",
            "TIERCE_STATE_DIR": str(self.state),
            "TIERCE_ADMIN_ADDR": self.admin,
            "TIERCE_MOUNT": str(self.mount),
            "TIERCE_MOUNT_ENABLED": "yes" if self.mounted else "no",
            "TIERCE_POOL_DEVICES": ",".join(self.devices),
            "TIERCE_LOG_LEVEL": "info",
            **self.settings,
        }

    def start(self) -> None:
        """Returns once the daemon is ready; fails with its log if it ends before."""
        self.launch()
        assert self.process is not None
        deadline = time.monotonic() + START_TIMEOUT
        box = self.state / "box.json"
        while not box.exists():
            if self.process.poll() is not None:
                pytest.fail(f"the daemon ended with {self.process.returncode}:\n{self.log()}")
            if time.monotonic() > deadline:
                pytest.fail(f"the daemon is not ready after {START_TIMEOUT} s:\n{self.log()}")
            time.sleep(0.02)
        self.facts = json.loads(box.read_text())

    def launch(self) -> None:
        """Starts the process and returns at once."""
        assert self.process is None
        (self.state / "box.json").unlink(missing_ok=True)
        with (self.state / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [BIN / "tierce", "serve", "--box", self.state / "box.json"],
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self) -> None:
        """SIGTERM, and a clean end."""
        code = self.end(signal.SIGTERM)
        assert code == 0, f"the daemon ended with {code}:\n{self.log()}"

    def kill(self) -> None:
        """SIGKILL: nothing is flushed, the mount is left dead."""
        self.end(signal.SIGKILL)

    def end(self, number: signal.Signals) -> int:
        """Sends a signal and waits for the end; the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Waits for an end that was asked for; the exit code."""
        assert self.process is not None
        self._forget_clients()
        try:
            return self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"the daemon did not end within {STOP_TIMEOUT} s:\n{self.log()}")
        finally:
            self.process = None

    def clean(self) -> None:
        """Whatever happened: no process, no mount."""
        self._forget_clients()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        if is_mounted(self.mount):
            subprocess.run(["fusermount3", "-u", "-z", self.mount], check=False)

    def log(self) -> str:
        """The end of what the daemon has said."""
        path = self.state / "log"
        return path.read_text(errors="replace")[-6000:] if path.exists() else ""

    # ------------------------------------------------------------------ use

    @property
    def endpoint(self) -> str:
        """http://127.0.0.1:port, or https."""
        return str(self.facts["endpoint"])

    def s3(self) -> S3Client:
        """A new boto3 client that neither retries nor waits for ever."""
        client = s3_client(self.facts, self.certificate)
        self._clients.append(client)
        return client

    def tierce(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command of the CLI on this box."""
        done = subprocess.run(
            [BIN / "tierce", *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if check and done.returncode:
            pytest.fail(f"tierce {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}\n{self.log()}")
        return done

    def audit(self) -> None:
        """Fails unless catalogue, free map and devices agree."""
        result = json.loads(self.tierce("audit", "--json", check=False).stdout)
        assert result["problems"] == []

    def _forget_clients(self) -> None:
        while self._clients:
            self._clients.pop().close()


@contextlib.contextmanager
def running(
    state: Path, devices: Sequence[str] = (), *, mount: bool = True, copies: int = 1, tls: bool = False, **settings: str
) -> Iterator[Box]:
    """A made and started box.  At the end it is audited, stopped, and must leave nothing mounted.

    `settings` are further TIERCE_ variables.
    """
    box = Box(state, devices, mount=mount, tls=tls)
    box.settings |= settings
    try:
        box.make_pool(copies=copies)
        box.start()
        yield box
        if box.process is not None:
            box.audit()
            box.stop()
        assert not is_mounted(box.mount)
    finally:
        box.clean()
