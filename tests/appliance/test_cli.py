"""The command line: what it prints, asks and returns.  The daemon is played by a small answering socket."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from appliance.cli import main
from appliance.limits import GIB
from appliance.terminal import bytes_text
from tests.rows import rows


def run(*arguments: str, state: Path | None = None, environment: dict[str, str] | None = None) -> Result:
    """One command, as a shell would run it."""
    where = ["--state-dir", str(state)] if state else []
    return CliRunner().invoke(main, [*where, *arguments], env=environment)


class Answers(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Plays the daemon: canned JSON by (method, route); remembers what was asked."""

    daemon_threads = True

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), Handler)
        self.canned: dict[tuple[str, str], tuple[int, object]] = {}
        self.asked: list[tuple[str, str, Any]] = []


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    server: Answers

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append((self.command, self.path, json.loads(body) if body else None))
        status, value = self.server.canned.get((self.command, self.path), (404, {"error": "X", "message": "no route"}))
        text = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_POST = do_DELETE = answer


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Answers]:
    """A daemon on tmp_path/control.sock."""
    with Answers(tmp_path / "control.sock") as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


BUCKET = {"name": "photos", "objects": 2, "bytes": 3 * GIB, "copies": 1, "created_ns": 0, "owner": "default"}
KEY = {"access_key": "TCX", "name": "laptop", "read_only": False, "buckets": [], "created_ns": 0, "owner": "default"}
USER = {"user_id": "a1", "user": "anna", "display_name": "Anna A.", "email": "a@example.org", "created_ns": 1}
DEVICE = {"id": 1, "path": "/dev/a", "tier": "blaze", "state": "online", "size": GIB, "free": 5, "journal": True}

FOLDING = {"files": 1, "patched_bytes": 2048, "folded_bytes": GIB, "resting": "too full"}
STATUS = {"pool": "demo", "size": GIB, "available": 5, "bytes": 1, "folding": FOLDING, "devices": [DEVICE]}

LISTINGS = [
    ("pool status", "/status", STATUS, "1 file waiting, 2.0 KiB in the journal, 1.0 GiB folded; resting: too full"),
    ("device list", "/devices", [DEVICE], "/dev/a"),
    ("bucket list", "/buckets", [BUCKET], "photos"),
    ("key list", "/keys", [KEY], "TCX"),
    ("user list", "/users", [USER], "Anna A."),
]


@pytest.mark.parametrize(("command", "route", "value", "shown"), LISTINGS, ids=lambda value: str(value)[:12])
def test_listings_are_for_people_and_programs(
    daemon: Answers, tmp_path: Path, command: str, route: str, value: object, shown: str
) -> None:
    daemon.canned["GET", route] = (200, value)
    people = run(*command.split(), state=tmp_path)
    assert people.exit_code == 0, people.output
    assert shown in people.stdout
    programs = run(*command.split(), "--json", state=tmp_path)
    assert json.loads(programs.stdout) == value


def test_an_empty_listing_says_so(daemon: Answers, tmp_path: Path) -> None:
    daemon.canned["GET", "/buckets"] = (200, [])
    assert run("bucket", "list", state=tmp_path).stdout == "no buckets\n"
    assert json.loads(run("bucket", "list", "--json", state=tmp_path).stdout) == []


def test_buckets_are_made_and_deleted(daemon: Answers, tmp_path: Path) -> None:
    daemon.canned["POST", "/buckets"] = (200, BUCKET)
    daemon.canned["DELETE", "/buckets/photos"] = (200, {"name": "photos"})
    assert run("bucket", "create", "photos", "--copies", "1", state=tmp_path).exit_code == 0
    assert run("bucket", "delete", "photos", state=tmp_path).exit_code == 0
    assert daemon.asked == [
        ("POST", "/buckets", {"name": "photos", "copies": 1, "user": ""}),
        ("DELETE", "/buckets/photos", None),
    ]


def test_a_quota_is_set_shown_and_taken_away(daemon: Answers, tmp_path: Path) -> None:
    limited = BUCKET | {"unfinished": GIB, "quota_size": 10 * GIB, "quota_objects": None}
    daemon.canned["POST", "/buckets/photos/quota"] = (200, limited)
    daemon.canned["GET", "/buckets"] = (200, [limited])
    said = run("bucket", "quota", "photos", "--size", "10GiB", state=tmp_path)
    assert said.stdout.splitlines() == ["bytes    4.0 GiB of 10.0 GiB", "objects  2 of no limit"]
    run("bucket", "quota", "photos", "--objects", "5", state=tmp_path)
    run("bucket", "quota", "photos", "--none", state=tmp_path)
    assert run("bucket", "quota", "photos", state=tmp_path).stdout == said.stdout
    assert daemon.asked == [
        ("POST", "/buckets/photos/quota", {"size": 10 * GIB, "objects": None}),
        ("POST", "/buckets/photos/quota", {"size": None, "objects": 5}),
        ("POST", "/buckets/photos/quota", {"size": None, "objects": None}),
        ("GET", "/buckets", None),
    ]
    assert "10.0 GiB" in run("bucket", "list", state=tmp_path).stdout
    for words, code in (
        (("nosuch",), 1),
        (("photos", "--size", "many"), 1),
        (("photos", "--objects", "-1"), 2),
        (("photos", "--none", "--size", "1"), 2),
    ):
        assert run("bucket", "quota", *words, state=tmp_path).exit_code == code, words


def test_a_name_cannot_reach_another_route(daemon: Answers, tmp_path: Path) -> None:
    run("bucket", "delete", "a/../../keys/b?x", state=tmp_path)
    assert daemon.asked == [("DELETE", "/buckets/a%2F..%2F..%2Fkeys%2Fb%3Fx", None)]


def test_a_refusal_is_the_daemons_own_word(daemon: Answers, tmp_path: Path) -> None:
    daemon.canned["DELETE", "/buckets/photos"] = (409, {"error": "BUCKET_NOT_EMPTY", "message": "bucket is not empty"})
    result = run("bucket", "delete", "photos", state=tmp_path)
    assert (result.exit_code, result.stderr) == (1, "tierce: bucket is not empty\n")


def test_a_user_is_made_with_a_key_and_deleted(daemon: Answers, tmp_path: Path) -> None:
    made = {**KEY, **USER, "secret_key": "hush"}
    daemon.canned["POST", "/users"] = (200, made)
    daemon.canned["POST", "/keys"] = (200, made)
    daemon.canned["DELETE", "/users/anna"] = (200, USER)
    people = run("user", "create", "anna", "--display", "Anna A.", "--email", "a@example.org", state=tmp_path)
    for shown in ("a1", "Anna A.", "a@example.org", "TCX", "hush"):
        assert shown in people.stdout
    assert json.loads(run("user", "create", "anna", "--no-key", "--json", state=tmp_path).stdout) == made
    assert json.loads(run("key", "create", "--user", "anna", "--json", state=tmp_path).stdout) == made
    assert run("user", "delete", "anna", state=tmp_path).stdout == "anna deleted\n"
    assert daemon.asked == [
        ("POST", "/users", {"name": "anna", "display": "Anna A.", "email": "a@example.org", "key": True}),
        ("POST", "/users", {"name": "anna", "display": "", "email": "", "key": False}),
        ("POST", "/keys", {"user": "anna", "name": "", "read_only": False, "buckets": []}),
        ("DELETE", "/users/anna", None),
    ]


def test_a_new_secret_is_shown(daemon: Answers, tmp_path: Path) -> None:
    daemon.canned["POST", "/keys"] = (200, {**KEY, "secret_key": "hush"})
    result = run("key", "create", "--name", "laptop", "--read-only", "--bucket", "photos", state=tmp_path)
    assert "hush" in result.stdout
    assert daemon.asked[0][2] == {"user": "", "name": "laptop", "read_only": True, "buckets": ["photos"]}


def test_keys_are_rotated(daemon: Answers, tmp_path: Path) -> None:
    daemon.canned["POST", "/keys/data"] = 200, {"id": 12}
    assert run("key", "rotate-encryption", state=tmp_path).stdout == "data key 12 encrypts from now on\n"
    rotated = {"master_key": "0a0b0c0d", "access_keys": 3, "data_keys": 2, "lost": ["data key 1"]}
    daemon.canned["POST", "/keys/master"] = 200, rotated
    shown = run("key", "rotate-master", state=tmp_path)
    assert shown.exit_code == 0
    assert "0a0b0c0d: 3 access keys and 2 data keys" in shown.output
    assert "data key 1 is sealed by a master key that is not here" in shown.output
    assert json.loads(run("key", "rotate-master", "--json", state=tmp_path).stdout) == rotated


@pytest.mark.parametrize(
    ("result", "code", "shown"),
    [
        ({"problems": [], "pages": 7}, 0, "0 problems (7 pages)"),
        ({"problems": ["page 5 is lost"]}, 1, "page 5 is lost"),
        ({"problems": [], "degraded": ["device 2 is gone"]}, 1, "device 2 is gone\n1 problem"),
    ],
)
def test_an_audit_that_finds_something_fails(
    daemon: Answers, tmp_path: Path, result: dict[str, object], code: int, shown: str
) -> None:
    lines = [json.dumps({"stage": "pages", "done": 1, "total": 2}), json.dumps({"result": result})]
    daemon.canned["POST", "/audit"] = (200, "\n".join(lines) + "\n")
    outcome = run("audit", state=tmp_path)
    assert outcome.exit_code == code
    assert shown in outcome.stdout
    assert json.loads(run("audit", "--json", state=tmp_path).stdout) == result


def test_the_mount_is_the_daemons(daemon: Answers, tmp_path: Path) -> None:
    daemon.canned["POST", "/mount"] = daemon.canned["POST", "/umount"] = (200, {"mount": "/m"})
    daemon.canned["GET", "/status"] = (200, {"mount": ""})
    assert run("mount", state=tmp_path).stdout == "/m\n"
    assert run("umount", state=tmp_path).stdout == "/m\n"


def test_a_place_that_is_no_mount_is_said_to_be_none(daemon: Answers, tmp_path: Path) -> None:
    result = run("umount", str(tmp_path), state=tmp_path)
    assert result.exit_code == 1
    assert f"{tmp_path} is no mount of Tierce" in result.stderr
    assert run("mount", "photos", state=tmp_path).exit_code == 2, "a bucket, and no place for it"


ONLINE = ["pool status", "device list", "mount", "umount", "bucket list", "key list", "audit", "key revoke X"]


@rows("command", ONLINE)
def test_without_a_daemon_it_is_said_how_to_start_one(tmp_path: Path, command: str) -> None:
    result = run(*command.split(), state=tmp_path)
    assert result.exit_code == 1
    assert "start it with `tierce serve` or `systemctl start tierce`" in result.stderr
    assert "Traceback" not in result.output


def test_version() -> None:
    assert run("version").stdout.startswith("tierce ")
    assert set(json.loads(run("version", "--json").stdout)) == {"version", "python", "mount_compiled"}


@rows(
    "command", ["nonsense", "bucket create", "pool create", "device add", "bucket create x --copies 9", "audit --fast"]
)
def test_misuse_is_code_2(tmp_path: Path, command: str) -> None:
    assert run(*command.split(), state=tmp_path).exit_code == 2


def test_a_broken_configuration_is_code_2_and_leaves_help_alone(tmp_path: Path) -> None:
    file = tmp_path / "tierce.toml"
    file.write_text("[s3]\nregon = 1\n")
    result = run("--config", str(file), "bucket", "list")
    assert result.exit_code == 2
    assert "did you mean s3.region?" in result.stderr
    assert run("--config", str(file), "version").exit_code == 0


def test_every_command_explains_itself() -> None:
    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        yield path
        for name, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, (*path, name))

    for path in walk(main, ()):
        result = run(*path, "--help")
        assert result.exit_code == 0
        assert len(result.stdout.splitlines()) > 3, path


def sparse(path: Path) -> str:
    """A file-backed device."""
    with path.open("xb") as file:
        file.truncate(GIB)
    return str(path)


def test_a_pool_is_made_and_its_label_read(tmp_path: Path) -> None:
    ssd = sparse(tmp_path / "ssd")
    made = run("pool", "create", "--name", "demo", "--ssd", ssd, state=tmp_path)
    assert made.exit_code == 0, made.output
    assert f'devices = ["{ssd}"]' in made.stdout
    assert json.loads(run("device", "label", ssd, "--json").stdout)["pool"] == "demo"
    again = run("pool", "create", "--ssd", ssd, state=tmp_path)
    assert again.exit_code == 1
    assert f"--erase {ssd}" in again.stderr
    assert run("pool", "create", "--ssd", ssd, "--erase", ssd, state=tmp_path).exit_code == 0


def test_a_configured_pool_needs_no_advice(tmp_path: Path) -> None:
    ssd = sparse(tmp_path / "ssd")
    made = run("pool", "create", "--ssd", ssd, state=tmp_path, environment={"TIERCE_POOL_DEVICES": ssd})
    assert made.stdout == "pool tierce made of 1 device\n"


def test_a_device_named_twice_is_misuse(tmp_path: Path) -> None:
    ssd = sparse(tmp_path / "ssd")
    (tmp_path / "link").symlink_to(ssd)
    assert run("pool", "create", "--ssd", ssd, "--hdd", str(tmp_path / "link"), state=tmp_path).exit_code == 2


def test_a_device_that_is_not_empty_is_not_added(daemon: Answers, tmp_path: Path) -> None:
    device = sparse(tmp_path / "a")
    assert run("pool", "create", "--ssd", device, state=tmp_path).exit_code == 0
    daemon.canned["POST", "/devices"] = (200, {})
    assert run("device", "add", "--hdd", device, state=tmp_path).exit_code == 1
    assert daemon.asked == []
    assert run("device", "add", "--hdd", device, "--erase", device, state=tmp_path).exit_code == 0
    assert daemon.asked == [("POST", "/devices", {"path": device, "tier": "bulk", "erase": True})]


@rows(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (200 * GIB, "200 GiB"), (1 << 60, "1024 PiB")],
)
def test_bytes_are_readable(count: int, text: str) -> None:
    assert bytes_text(count) == text
