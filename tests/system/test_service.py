"""The daemon as a service: one per pool, well or not, drained by SIGTERM, administered by its socket; scripts/run."""

from __future__ import annotations

import http.client
import json
import os
import signal
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.limits import GIB, MIB
from tests.system.box import HOUSE, Box, clean_environment, digest, free_port, is_mounted, running

pytestmark = [pytest.mark.system, pytest.mark.slow]


def ask(address: str) -> tuple[int, str]:
    """Status and text of a GET."""
    try:
        with urllib.request.urlopen(f"http://{address}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def wait_until(condition: Callable[[], bool]) -> None:
    """Polls what another process does."""
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_operators_see_health_and_metrics(box: Box, bucket: str) -> None:
    assert ask(f"{box.admin}/health") == (200, "ok\n")
    assert ask(f"{box.admin}/ready") == (200, "ok\n")
    box.s3().put_object(Bucket=bucket, Key="k", Body=b"x" * 3000)
    status, text = ask(f"{box.admin}/metrics")
    assert status == 200
    samples = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(samples['tierce_requests_total{operation="PutObject",status="200"}']) >= 1
    assert float(samples["tierce_objects_total"]) >= 1
    assert float(samples["tierce_storage_bytes"]) >= 3000
    assert float(samples["tierce_engine_batches_total"]) >= 1
    assert sum(name.startswith("tierce_device_free_bytes") for name in samples) == 3
    assert box.facts["secret_key"] not in text


def test_the_s3_address_serves_no_administration(box: Box) -> None:
    status, text = ask(f"{box.endpoint.removeprefix('http://')}/metrics")
    assert status == 404
    assert "NoSuchBucket" in text  # a path of S3's name space and nothing else


def test_the_box_is_private(box: Box) -> None:
    for name in ("box.json", "control.sock", "master.key"):
        assert (box.state / name).stat().st_mode & 0o077 == 0, name
    assert set(box.facts) == {"endpoint", "access_key", "secret_key", "mount", "pid"}
    log = (box.state / "log").read_text()
    assert log.count(box.facts["secret_key"]) == 1, "shown once, at the first start"


def test_the_command_line_administers(box: Box) -> None:
    assert "buckets-by-hand made" in box.tierce("bucket", "create", "buckets-by-hand").stdout
    assert (box.mount / "buckets-by-hand").is_dir()
    assert "buckets-by-hand" in [row["name"] for row in json.loads(box.tierce("bucket", "list", "--json").stdout)]
    refused = box.tierce("bucket", "create", "No", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    box.tierce("bucket", "delete", "buckets-by-hand")
    assert not (box.mount / "buckets-by-hand").exists()
    status = json.loads(box.tierce("pool", "status", "--json").stdout)
    assert (status["pid"], len(status["devices"])) == (box.facts["pid"], 3)
    assert [device["tier"] for device in status["devices"]] == ["blaze", "bulk", "bulk"]


def test_a_revoked_key_opens_nothing(box: Box, bucket: str) -> None:
    made = json.loads(box.tierce("key", "create", "--name", "guest", "--bucket", bucket, "--json").stdout)
    own = dict(box.facts)
    try:
        box.facts |= {"access_key": made["access_key"], "secret_key": made["secret_key"]}
        guest = box.s3()
        guest.put_object(Bucket=bucket, Key="k", Body=b"x")
        with pytest.raises(guest.exceptions.ClientError, match="AccessDenied"):
            guest.create_bucket(Bucket="guests-own")
        box.tierce("key", "revoke", made["access_key"])
        with pytest.raises(guest.exceptions.ClientError, match="InvalidAccessKeyId"):
            guest.get_object(Bucket=bucket, Key="k")
    finally:
        box.facts = own


def test_the_mount_comes_and_goes(box: Box, bucket: str) -> None:
    box.tierce("umount")
    assert not is_mounted(box.mount)
    box.s3().put_object(Bucket=bucket, Key="k", Body=b"while unmounted")
    box.tierce("mount")
    assert (box.mount / bucket / "k").read_bytes() == b"while unmounted"


def second(box: Box, state: Path) -> str:
    """What a second daemon on the same devices says before it ends."""
    other = Box(state, box.devices)
    state.mkdir(exist_ok=True)
    other.launch()
    assert other.process is not None
    try:
        assert other.process.wait(60) == 1
    finally:
        other.process = None
    return other.log()


def test_a_second_daemon_on_the_pool_is_refused(box: Box, bucket: str, tmp_path: Path) -> None:
    said = second(box, tmp_path / "other")
    assert "in use" in said or "held" in said
    assert "Traceback" not in said
    assert "another tierce runs" in second(box, box.state)
    box.s3().put_object(Bucket=bucket, Key="k", Body=b"the first one is unharmed")


def test_sigterm_drains_and_unmounts(fuse: None, tmp_path: Path) -> None:
    """An upload that has begun may end; what the mount has closed is durable; nothing stays mounted."""
    with running(tmp_path / "box") as box:
        client, body = box.s3(), os.urandom(24 * MIB)
        client.create_bucket(Bucket="bucket")
        (box.mount / "bucket" / "closed").write_bytes(b"closed, not synced")
        url = urllib.parse.urlsplit(
            client.generate_presigned_url("put_object", Params={"Bucket": "bucket", "Key": "k"}, ExpiresIn=60)
        )
        connection = http.client.HTTPConnection(url.netloc, timeout=60)
        connection.putrequest("PUT", f"{url.path}?{url.query}")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[: 10 * MIB])
        assert box.process is not None
        box.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping signal=SIGTERM" in box.log())
        connection.send(body[10 * MIB :])
        assert connection.getresponse().status == 200
        connection.close()
        assert box.wait() == 0
        assert not is_mounted(box.mount)
        assert not (box.state / "box.json").exists()
        box.start()
        assert (box.mount / "bucket" / "closed").read_bytes() == b"closed, not synced"
        assert digest((box.mount / "bucket" / "k").read_bytes()) == digest(body)


def test_the_catalogue_is_made_again_from_the_devices(fuse: None, tmp_path: Path) -> None:
    with running(tmp_path / "box") as box:
        client = box.s3()
        client.create_bucket(Bucket="bucket")
        bodies = {f"d{number % 3}/k{number}": os.urandom(number * 4000) for number in range(60)}
        for key, body in bodies.items():
            client.put_object(Bucket="bucket", Key=key, Body=body)
        (box.mount / "bucket" / "file").write_bytes(b"by the mount")
        assert box.tierce("rebuild-catalogue", check=False).returncode == 1, "not under a running daemon"
        box.kill()
        lost = box.facts["access_key"]
        for path in box.state.iterdir():  # all of the host's files, the master key among them
            if str(path) not in box.devices and path != box.mount:
                path.unlink()
        box.tierce("rebuild-catalogue")
        box.start()
        assert box.facts["access_key"] != lost
        assert lost in [key["access_key"] for key in json.loads(box.tierce("key", "list", "--json").stdout)]
        client = box.s3()
        for key, body in bodies.items():
            assert client.get_object(Bucket="bucket", Key=key)["Body"].read() == body
        assert (box.mount / "bucket" / "file").read_bytes() == b"by the mount"


def test_a_device_joins_the_running_pool(tmp_path: Path) -> None:
    with running(tmp_path / "box", mount=False) as box:
        new = tmp_path / "hdd2"
        with new.open("xb") as file:
            file.truncate(GIB)
        before = json.loads(box.tierce("pool", "status", "--json").stdout)["size"]
        box.tierce("device", "add", "--hdd", str(new))
        status = json.loads(box.tierce("pool", "status", "--json").stdout)
        assert [device["state"] for device in status["devices"]] == ["online"] * 4
        assert status["size"] > before
        again = box.tierce("device", "add", "--hdd", str(new), "--erase", str(new), check=False)
        assert again.returncode == 1, "the daemon holds it"
        box.stop()
        box.devices.append(str(new))
        box.start()
        status = json.loads(box.tierce("pool", "status", "--json").stdout)
        assert [device["state"] for device in status["devices"]] == ["online"] * 4


def test_tls_is_1_3_only(tmp_path: Path) -> None:
    with running(tmp_path / "box", mount=False, tls=True) as box:
        assert box.endpoint.startswith("https://")
        body, client = os.urandom(3 * MIB), box.s3()
        client.create_bucket(Bucket="bucket")
        client.put_object(Bucket="bucket", Key="k", Body=body)
        assert client.get_object(Bucket="bucket", Key="k")["Body"].read() == body
        old = ssl.create_default_context(cafile=str(box.certificate))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(urllib.error.URLError, match=r"(?i)protocol|alert|version"):
            urllib.request.urlopen(f"{box.endpoint}/", context=old, timeout=20)


def test_scripts_run_makes_a_box_twice(fuse: None, tmp_path: Path) -> None:
    state = tmp_path / "var"
    environment = clean_environment() | {
        "TIERCE_STATE_DIR": str(state),
        "TIERCE_S3_ADDR": f"127.0.0.1:{free_port()}",
        "TIERCE_MOUNT": str(tmp_path / "m"),
        "TIERCE_ADMIN_ADDR": f"127.0.0.1:{free_port()}",
        "TIERCE_TEST_VENV": os.environ.get("VIRTUAL_ENV", str(HOUSE / ".venv")),
    }
    seen = []
    for expected in ([], [b"kept"]):
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen([HOUSE / "scripts" / "run"], env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while not (state / "box.json").exists():
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.05)
            facts = json.loads((state / "box.json").read_text())
            assert (facts["pid"], facts["mount"]) == (process.pid, str(tmp_path / "m"))
            assert facts["endpoint"] == f"http://{environment['TIERCE_S3_ADDR']}"
            assert [path.read_bytes() for path in (tmp_path / "m").rglob("*") if path.is_file()] == expected
            seen.append((facts["access_key"], facts["secret_key"]))
            if not expected:
                (tmp_path / "m" / "bucket").mkdir()
                (tmp_path / "m" / "bucket" / "file").write_bytes(b"kept")
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, (tmp_path / "log").read_text()
        assert not is_mounted(tmp_path / "m")
    assert seen[0] == seen[1]
